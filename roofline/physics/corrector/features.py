"""What a corrector sees of a row: the terms that made its time, and sizes as kernels feel them.

Logarithms to base 2 of sizes, waves and shares, and fills between 0 and 1. Nothing names a shape,
and nothing depends on the other rows of a table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from roofline.physics import models
from roofline.physics.attention import NO_WINDOW
from roofline.physics.base import ceil_div, column, total
from roofline.physics.expert_load import exponents, unpacked

if TYPE_CHECKING:
    from roofline.physics.base import Columns, Floats, Gpu

LEAST_SHARE = 2.0**-10  # of the time; a smaller term explains no error
TILE = 128.0  # rows or columns, of the tile that waves and fills are counted in


def features(op: str, rows: Columns, gpu: Gpu, parts: Mapping[str, Floats]) -> dict[str, Any]:
    """One array of float32 per feature: the time, each term's share, then the sizes of the kind."""
    time = total(parts)
    found: dict[str, Any] = {"time": np.log2(time)}
    for name, seconds in parts.items():
        found[f"share of {name}"] = np.log2(np.maximum(seconds / time, LEAST_SHARE))
    found |= _SIZES[op](rows, gpu)
    return {name: np.asarray(values, dtype=np.float32) for name, values in found.items()}


def prepared(op: str, rows: Columns) -> Columns:
    """Rows with what both the kernel model and the features need, where it is costly."""
    return rows if "load" in rows else models()[op].prepared(rows)


def _logs(**sizes: Any) -> dict[str, Any]:
    """Of sizes, zero counting as the smallest that is felt."""
    return {name.replace("_", " "): np.log2(np.maximum(size, 1e-3)) for name, size in sizes.items()}


def _waves(tiles: Any, gpu: Gpu) -> dict[str, Any]:
    """How many, and how full the last one is."""
    waves = tiles / gpu.processors
    return {"waves": np.log2(np.maximum(waves, 1e-3)), "fill of waves": waves / np.ceil(waves)}


def _fill(size: Any, tile: float) -> Any:
    """Of the tiles that cover a size."""
    return size / (tile * ceil_div(size, tile))


def _gemm(rows: Columns, gpu: Gpu) -> dict[str, Any]:
    m, n, k = (column(rows, name) for name in ("m", "n", "k"))
    intensity = m * n * k / (m * k + n * k + m * n)
    return {
        **_logs(m=m, n=n, k=k, intensity=intensity),
        **_waves(ceil_div(m, TILE) * ceil_div(n, TILE), gpu),
        "fill of rows": _fill(m, TILE),
        "fill of columns": _fill(n, TILE),
        "fill of wide columns": _fill(n, 2 * TILE),
        "fill of depth": _fill(k, 4 * TILE),
    }


def _attention(rows: Columns, gpu: Gpu) -> dict[str, Any]:
    batch, kv_len, heads = (column(rows, name) for name in ("batch", "kv_len", "n_heads"))
    q_len, kv_heads = column(rows, "q_len", 1.0), column(rows, "n_kv_heads", 1.0)
    window = column(rows, "window")
    seen = np.minimum(kv_len, np.where(window > 0, window, NO_WINDOW))
    tiles = batch * heads * ceil_div(q_len, TILE)
    return {
        **_logs(batch=batch, queries=q_len, keys=kv_len, seen=seen, heads=heads, kv_heads=kv_heads),
        **_logs(group=heads / np.maximum(kv_heads, 1), head_elements=column(rows, "head_dim")),
        **_logs(cached=batch * kv_heads * seen, pairs=batch * heads * q_len * seen),
        **_waves(tiles, gpu),
        "fill of queries": _fill(q_len, TILE),
        "fill of keys": _fill(seen, TILE),
    }


def _experts(rows: Columns, gpu: Gpu) -> dict[str, Any]:
    load = unpacked(prepared("moe", rows)["load"])
    names = ("num_tokens", "hidden", "topk", "num_experts", "inter")
    tokens, hidden, top_k, experts, width = (column(rows, name) for name in names)
    ranks, split = column(rows, "moe_ep", 1.0), column(rows, "moe_tp", 1.0)
    touched = np.maximum(load.touched, 1.0)
    tiles = load.tiles[-2] * ceil_div(width / split, TILE)
    return {
        **_logs(tokens=tokens, hidden=hidden, width=width / split, top_k=top_k, experts=experts),
        **_logs(rank_experts=experts / ranks, ranks=ranks, chosen=load.chosen, touched=load.touched),
        **_logs(rows_of_expert=load.chosen / touched, choices=tokens * top_k),
        **_waves(tiles, gpu),
        "fill of tiles": load.chosen / np.maximum(TILE * load.tiles[-2], 1.0),
        "gated": column(rows, "gated", 1.0),
        "skew": _skew(rows),
    }


def _skew(rows: Columns) -> Any:
    if "exponent" in rows:
        return column(rows, "exponent")
    count = len(rows["num_tokens"])
    return exponents(np.asarray(rows["distribution"])) if "distribution" in rows else np.zeros(count)


def _message(rows: Columns, gpu: Gpu) -> dict[str, Any]:
    return _logs(message=column(rows, "bytes"), devices=column(rows, "n_gpus", 2.0))


def _pass(rows: Columns, gpu: Gpu) -> dict[str, Any]:
    names = ("num_tokens", "hidden", "inter", "n_heads", "head_dim")
    sizes = {name: column(rows, name) for name in names}
    width = np.maximum(sizes["hidden"], sizes["inter"]) + sizes["n_heads"] * sizes["head_dim"]
    return _logs(tokens=sizes["num_tokens"], width=width, elements=sizes["num_tokens"] * width)


_SIZES: Mapping[str, Callable[[Any, Any], dict[str, Any]]] = {
    "gemm": _gemm,
    "moe": _experts,
    **dict.fromkeys(("attention_prefill", "attention_encoder", "attention_decode"), _attention),
    **dict.fromkeys(("mla_prefill", "mla_decode"), _attention),
    **dict.fromkeys(("allreduce", "allgather", "reduce_scatter", "alltoall", "sendrecv"), _message),
    **dict.fromkeys(("rmsnorm", "rope", "act_mul", "elementwise_add"), _pass),
}
