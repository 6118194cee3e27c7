"""Operators of a model, and rows of a table, as the columns that kernel models read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from roofline.formats import DTYPES
from roofline.physics.base import Dtypes
from roofline.physics.expert_load import INDEPENDENT
from workloads.dtypes import FORMATS, bytes_per_element, compute_dtype
from workloads.operators import (
    Activation,
    AllGather,
    AllReduce,
    AllToAll,
    Attention,
    CausalConv,
    GatedDelta,
    Gemm,
    GroupedGemm,
    Norm,
    Operator,
    Residual,
    Rope,
)

if TYPE_CHECKING:
    import pandas as pd

    from roofline.physics.base import Columns

SIZES = (
    *("m", "n", "k", "batch", "q_len", "kv_len", "n_heads", "n_kv_heads", "head_dim", "window", "causal"),
    *("num_tokens", "hidden", "inter", "topk", "num_experts", "moe_tp", "moe_ep", "gated"),
    *("bytes", "n_gpus"),
)
NAMES = ("op", "dtype", "kv_dtype", "distribution", "backend", "kernel", "version")
NEVER_AGAIN = np.inf  # copies of weights that are used in turn: in a model all other layers run in between
_COPIES = {"cold": NEVER_AGAIN, "warm": 1.0}
TILE_ROWS = 128  # that one instruction multiplies on Hopper and Blackwell
# Names of one format: the first is the one that calibrations use.
_SAME = (("bfloat16", "bf16"), ("float16", "fp16", "half"), ("float32", "fp32"))
CANONICAL = {name: names[0] for names in _SAME for name in names}


def of_table(table: pd.DataFrame) -> Columns:
    """The columns of a table that kernel models read: sizes as floats (NaN where empty), names as strings."""
    import pandas as pd

    found: dict[str, Any] = {}
    for name in SIZES:
        if name in table:
            values = table[name]
            if not pd.api.types.is_numeric_dtype(values):
                values = pd.to_numeric(values, errors="coerce")
            found[name] = values.to_numpy(dtype=np.float64, na_value=np.nan)
    for name in NAMES:
        if name in table:
            found[name] = words(table[name])
    if "tag" in table:  # of a campaign (docs/measured.md)
        found["copies"] = words(table["tag"], lambda tag: _COPIES.get(tag.partition(",")[0], np.nan), float)
    return found


def words(column: pd.Series, said: Callable[[str], Any] = str, dtype: type = object) -> Any:
    """What each name of a column says, as an array: each different one is read once, an empty one as ""."""
    import pandas as pd

    code, names = pd.factorize(column)
    return np.array([said(str(name)) for name in (*names, "")], dtype=dtype)[code]  # -1: empty


def dtypes_of(dtype: str, kv_dtype: str = "") -> Dtypes:
    """The formats behind the names of a table's row."""
    dtype = CANONICAL.get(dtype or "bfloat16", dtype or "bfloat16")
    inputs, weights, outputs = DTYPES[dtype]
    kept = DTYPES[kv_dtype][0] if kv_dtype in DTYPES else kv_dtype or inputs  # caches know more formats
    return Dtypes(dtype, inputs, weights, outputs, kept)


def cache_format(op: str, dtype: str, kv_dtype: str) -> str:
    """The table's name of the format of keys and values: where a row names none, that of its inputs.

    Empty where nothing is cached, as in an encoder.
    """
    cached = op in ("attention_prefill", "attention_decode", "mla_prefill", "mla_decode")
    return CANONICAL.get(kv_dtype, kv_dtype) or (dtype if cached else "")


def of_operator(operator: Operator) -> tuple[str, str, str, dict[str, Any]] | None:
    """An operator of a model as (op, dtype, kv_dtype, sizes); None where tables lack its kind or format."""
    make = _OPERATORS.get(type(operator))
    found = make(operator) if make else None
    return found if found and found[1] in DTYPES else None


def _gemm(op: Gemm) -> tuple[str, str, str, dict[str, Any]]:
    sizes = {"m": op.m, "n": op.n, "k": op.k, "copies": NEVER_AGAIN}
    return "gemm", _product(str(op.inputs), str(op.weights)), "", sizes


def _product(inputs: str, weights: str) -> str:
    """The table's name of a product: W8A8 and the like by what is multiplied, else weight-only."""
    if FORMATS[inputs][0] >= 16 > FORMATS[weights][0]:
        return "int4_wo" if FORMATS[weights][0] < 6 else "int8_wo"
    if compute_dtype(inputs) == "fp4":
        return "nvfp4"
    return {"int8": "sq"}.get(inputs, _name(inputs))


def weight_only(operator: Operator) -> str | None:
    """The weight-only format of weights narrower than inputs of 8 bits, as in W4A8; None for all others.

    No kernel of these was measured. The one that widens the weights reads as few bytes, the one that
    multiplies the inputs has as fast units: theirs is no slower than the faster of both.
    """
    if not isinstance(operator, Gemm | GroupedGemm):
        return None
    inputs, weights = FORMATS[str(operator.inputs)][0], str(operator.weights)
    if not FORMATS[weights][0] < inputs < 16:
        return None
    if weights == "mxfp4" and isinstance(operator, GroupedGemm):  # measured
        return None
    return _product("bf16", weights)


def _name(dtype: str) -> str:
    return CANONICAL.get(dtype, dtype)


def _experts(op: GroupedGemm) -> tuple[str, str, str, dict[str, Any]] | None:
    """One product of a layer of routed experts: its part of the layer, which kernels are measured by."""
    layer = op.layer
    if layer is None:
        return None
    matrices = 3 if layer.gated else 2
    first = op.read_rows is not None
    sizes = {
        "num_tokens": layer.tokens,
        "hidden": layer.hidden,
        "inter": layer.width,
        "topk": layer.top_k,
        "num_experts": layer.experts,
        "moe_tp": layer.width_parallel,
        "moe_ep": layer.expert_parallel,
        "gated": float(layer.gated),
        "dispatched": float(layer.dispatched),
        "exponent": INDEPENDENT - layer.skew,
        "share": (matrices - 1 if first else 1) / matrices,
        "copies": NEVER_AGAIN,
    }
    return "moe", _expert_format(str(op.inputs), str(op.weights)), "", sizes


def _expert_format(inputs: str, weights: str) -> str:
    """The table's name of the experts' formats."""
    if weights == "mxfp4":
        return "w4a16_mxfp4" if FORMATS[inputs][0] >= 16 else "w4a8_mxfp4_mxfp8"
    return weights if weights == "fp8_block" else _product(inputs, weights)


def _few_queries(op: Attention) -> bool:
    """Whether a decode kernel takes all new positions of a sequence, as rows of one tile with its heads.

    Drafted positions are verified so, and each key is read once: SGLang calls FlashInfer's decode kernel of
    trtllm-gen with `q_len_per_req`, FlashAttention packs positions and heads of a group into one tile.
    """
    queries = np.asarray(op.q_len)
    packed = op.causal & (queries < op.kv_len) & (queries * op.heads <= TILE_ROWS * op.kv_heads)
    return bool(np.all((queries == 1) | packed))


def _attention(op: Attention) -> tuple[str, str, str, dict[str, Any]] | None:
    few = _few_queries(op)
    kind = "attention_decode" if few else "attention_prefill" if op.causal else "attention_encoder"
    if op.value_dim is not None and op.value_dim != op.head_dim:
        return _latent_attention(op)
    if op.scattered or op.chunk is not None or op.values_in_keys:
        return None  # no kernel of these was measured
    sizes = {
        "batch": op.batch,
        "q_len": 1 if few else op.q_len,
        "kv_len": op.kv_len,
        "n_heads": op.heads * op.q_len if few else op.heads,
        "n_kv_heads": op.kv_heads,
        "head_dim": op.head_dim,
        "window": 0 if op.window is None else op.window,
        "causal": float(op.causal),
        **({} if op.splits else {"splits": 1.0}),
    }
    return kind, _name(str(op.dtype)), _name(str(op.kv_dtype)), sizes


def _latent_attention(op: Attention) -> tuple[str, str, str, dict[str, Any]] | None:
    """MLA of DeepSeek's sizes, absorbed for one query and expanded for prompts; others were not measured."""
    kinds: dict[tuple[Any, ...], str] = {(576, 512, True): "mla_decode", (192, 128, False): "mla_prefill"}
    kind = kinds.get((op.head_dim, op.value_dim, op.values_in_keys))
    one_query = bool(np.all(np.asarray(op.q_len) == 1))
    if kind is None or op.scattered or one_query != (kind == "mla_decode"):
        return None
    sizes = {"batch": op.batch, "q_len": op.q_len, "kv_len": op.kv_len, "n_heads": op.heads}
    return kind, _name(str(op.dtype)), _name(str(op.kv_dtype)), sizes


def _rows(kind: str, *names: tuple[str, str]) -> Callable[[Any], tuple[str, str, str, dict[str, Any]]]:
    def make(op: Any) -> tuple[str, str, str, dict[str, Any]]:
        sizes = {column: getattr(op, field) for column, field in names}
        return kind, _name(str(op.dtype)), "", sizes

    return make


def _allreduce(op: AllReduce) -> tuple[str, str, str, dict[str, Any]]:
    message = op.work().comm_bytes
    devices = np.asarray(op.devices, dtype=np.float64)
    size = message / np.where(devices > 1, 2 * (devices - 1) / devices, 1.0)
    dtype = "bf16" if op.dtype == "fp32" else str(op.dtype)  # sums in which nobody measured
    return "allreduce", _name(dtype), "", {"bytes": size, "n_gpus": op.devices}


def _allgather(op: AllGather) -> tuple[str, str, str, dict[str, Any]]:
    size = op.tokens * op.width * bytes_per_element(op.dtype)
    return "allgather", _name(str(op.dtype)), "", {"bytes": size, "n_gpus": op.devices}


def _alltoall(op: AllToAll) -> tuple[str, str, str, dict[str, Any]]:
    """The message of a benchmark's rank is what it keeps, too."""
    size = op.work().comm_bytes * op.devices / (op.devices - 1)
    dtype = "int8" if FORMATS[str(op.dtype)][0] < 16 else _name(str(op.dtype))
    return "alltoall", dtype, "", {"bytes": size, "n_gpus": op.devices}


def _delta(op: GatedDelta) -> tuple[str, str, str, dict[str, Any]] | None:
    if op.channelwise:  # other kernels: Kimi delta attention
        return None
    sizes = {"batch": op.batch, "q_len": op.q_len, "n_heads": op.value_heads, "n_kv_heads": op.key_heads}
    return "gated_delta", _name(str(op.dtype)), "", {**sizes, "head_dim": op.key_dim, "inter": op.value_dim}


def _convolution(op: CausalConv) -> tuple[str, str, str, dict[str, Any]]:
    sizes = {"num_tokens": op.batch * op.q_len, "q_len": op.q_len, "hidden": op.channels}
    return "causal_conv1d", _name(str(op.dtype)), "", sizes


_OPERATORS: Mapping[type[Operator], Callable[[Any], tuple[str, str, str, dict[str, Any]] | None]] = {
    Gemm: _gemm,
    GroupedGemm: _experts,
    Attention: _attention,
    AllReduce: _allreduce,
    AllToAll: _alltoall,
    AllGather: _allgather,
    Norm: _rows("rmsnorm", ("num_tokens", "tokens"), ("hidden", "width"), ("adds", "adds")),
    Rope: _rows("rope", ("num_tokens", "tokens"), ("n_heads", "heads"), ("head_dim", "rotary_dim")),
    Activation: _rows("act_mul", ("num_tokens", "tokens"), ("inter", "width")),
    Residual: _rows("elementwise_add", ("num_tokens", "tokens"), ("hidden", "width")),
    GatedDelta: _delta,
    CausalConv: _convolution,
}
