"""Measured TTFT and TPOT of inference engines against their prediction, per model, device and setting."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from hwspecs import load_device
from hwspecs.serving import EAGER, Overheads, overheads_for
from roofline.ceilings import Fidelity
from roofline.recipes import SAMPLE, with_recipes
from roofline.rollback import IN_TURN
from roofline.serving import AHEAD, PROMPTS_ALONE, Load, Steps, Users, steps, waits
from specfiles.errors import InputError
from workloads.catalogue import architecture_of
from workloads.checkpoint import published
from workloads.dtypes import Precision, compute_dtype
from workloads.phases import Setting
from workloads.techniques.draft_layer import Eagle, MultiTokenPrediction
from workloads.techniques.registry import parse

if TYPE_CHECKING:
    from collections.abc import Callable

    from hwspecs import Device
    from workloads.catalogue import Loaded
    from workloads.model import Model
    from workloads.techniques.base import Technique

# The columns of published tables under the names that are used here.
NAMES = {
    "model_path": "model",
    "system": "gpu",
    "hardware": "gpu",
    "precision": "dtype",
    "isl": "prompt",
    "prompt_size": "prompt",
    "osl": "output",
    "token_size": "output",
    "tp_size": "tp",
    "tensor_parallel": "tp",
    "pp_size": "pp",
    "moe_ep_size": "ep",
    "attention_dp_size": "dp",
    "silicon_ttft_ms": "ttft_ms",
    "prompt_time": "ttft_ms",
    "silicon_tpot_ms": "tpot_ms",
    "token_time": "tpot_ms",
}
BACKENDS = dict.fromkeys(("trt", "tensorrt-llm", "tensorrt_llm"), "trtllm")  # other names of engines
SIZES = ("prompt", "output", "concurrency")
SPLITS = ("tp", "pp", "ep", "dp", "moe_tp_size")
NUMBERS = (*SIZES, *SPLITS, "poll_steps", "drafted", "accept", "ttft_ms", "tpot_ms")
# What is taken where a column or a value is absent: of the split, of what a run was asked for.
SPLIT = {**dict.fromkeys(SPLITS, 1), "backend": "", "dtype": "fp16"}
ASKED = {"poll_steps": 1, "mode": "agg", "kv_dtype": "", "experts_by": "", "moe_quant_mode": ""}
ASKED |= {"drafted": 0, "accept": 0, "release": ""}
# Expert skew (popularity falls as rank^-skew): real routers prefer some experts, so that a batch reaches
# fewer than under uniform routing. Chosen on gpt-oss-120b under vLLM, decoding 32 to 64 requests.
EXPERT_SKEW = 0.75
CELL = ["model", "gpu", "backend", "dtype", "tp", "dp", "drafted"]
MEASURED = ("ttft", "tpot")
WITHIN = 0.2  # coverage: the share of rows predicted within this of what was measured


@dataclass(frozen=True)
class EndToEnd:
    """`rows`: those predicted, with {ttft,tpot}_s, predicted_{..}_s and {..}_error; others by reason."""

    fidelity: Fidelity
    rows: pd.DataFrame
    left_out: dict[str, int]

    def summary(self) -> pd.DataFrame:
        """Per cell and quantity, the worst median first."""
        lines = [
            {**dict(zip(CELL, cell, strict=True)), **line}
            for cell, group in self.rows.groupby(CELL, sort=True)
            for line in _scores(group)
        ]
        return pd.DataFrame(lines).sort_values("median_ape", ascending=False, kind="stable")

    def totals(self) -> pd.DataFrame:
        """Of all rows together."""
        return pd.DataFrame(_scores(self.rows))


def is_end_to_end(table: pd.DataFrame) -> bool:
    """Whether a table has times to the first token and per token."""
    return {"ttft_ms", "tpot_ms"} <= {NAMES.get(name, name) for name in table}


def score_end_to_end(table: pd.DataFrame, fidelity: Fidelity | str, device: Device | None = None) -> EndToEnd:
    """Predict every row that can be, on `device` alone or each row's own; others are counted by reason.

    Raises InputError where no row is left.
    """
    fidelity = Fidelity(fidelity)
    rows, left_out = composed(table, fidelity, device)
    if rows.empty:
        said = "; ".join(f"{count} {why}" for why, count in left_out.items()) or "it is empty"
        raise InputError(f"no row of the table can be predicted: {said}.")
    ttft, tpot = np.empty(len(rows)), np.empty(len(rows))
    for name, at in rows.groupby("engine").indices.items():
        known = Overheads()  # the other fidelities are bounds: kernels alone
        if fidelity.calibrates:
            known = overheads_for(str(name)).overheads
        ttft[at], tpot[at] = applied(rows.iloc[at], known)
    rows = rows.assign(predicted_ttft_s=ttft, predicted_tpot_s=tpot)
    for name in MEASURED:
        rows[f"{name}_error"] = rows[f"predicted_{name}_s"] / rows[f"{name}_s"] - 1
    return EndToEnd(fidelity, rows, left_out)


def applied(rows: pd.DataFrame, overheads: Overheads) -> tuple[Any, Any]:
    """TTFT and TPOT of composed rows with given overheads."""
    column = {name: rows[name].to_numpy() for name in rows}
    found = Steps(**{field.name: column[field.name] for field in fields(Steps)})
    static = column["static"].astype(bool)
    sizes = {name: column[name] for name in ("concurrency", "prompt", "output", "poll_steps")}
    how = {
        "static": static,
        "graphs": ~static,
        "ahead": np.where(np.isin(column["release"], IN_TURN) & (column["tokens"] > 1), 0, AHEAD),
        "alone": np.isin(column["backend"], PROMPTS_ALONE),
    }
    return waits(found, Users(**sizes, **how), overheads)


def composed(
    table: pd.DataFrame, fidelity: Fidelity | str, device: Device | None = None
) -> tuple[pd.DataFrame, dict[str, int]]:
    """The rows whose steps can be predicted, with the times of the steps; and how many others, by reason."""
    timed = cache(lambda load, gpu: vars(steps(load, load_device(gpu), fidelity)))
    return each_load(table, lambda row, load: timed(load, str(row["gpu"])), device)


def each_load(
    table: pd.DataFrame, found: Callable[[dict[str, Any], Load], dict[str, Any]], device: Device | None = None
) -> tuple[pd.DataFrame, dict[str, int]]:
    """The rows with what is found of each load; and how many an InputError refused, by reason."""
    kept, left_out = [], dict[str, int]()
    for row in _named(table).to_dict("records"):
        try:
            load, own = _load(row)
            if device is not None and own.name != device.name:
                raise InputError(f"measured on another device than {device.name}.")
            kept.append({**_line(row, load, own), **found(row, load)})
        except InputError as error:
            left_out[str(error)] = left_out.get(str(error), 0) + 1
    return pd.DataFrame(kept), left_out


def _line(row: dict[str, Any], load: Load, device: Device) -> dict[str, Any]:
    return {
        "model": load.model.name,
        "gpu": device.name,
        "backend": load.backend,
        "dtype": row["dtype"],
        "tp": load.setting.tensor_parallel,
        "dp": load.setting.replicas,
        "concurrency": load.concurrency,
        "prompt": load.prompt,
        "output": load.output,
        "static": load.static,
        "poll_steps": float(row["poll_steps"]),
        "drafted": int(row["drafted"]),
        "release": row["release"],
        "engine": load.backend or (EAGER if load.static else ""),
        **{f"{name}_s": float(row[f"{name}_ms"]) * 1e-3 for name in MEASURED},
    }


def _named(table: pd.DataFrame) -> pd.DataFrame:
    """The table under the names used here; a table of batches says `batch_size` and no `concurrency`."""
    static = "concurrency" not in table
    named = table.rename(columns={k: v for k, v in NAMES.items() if k in table and v not in table})
    if static and "batch_size" in named:
        named = named.assign(concurrency=named["batch_size"])
    for name in ("model", "gpu", *SIZES):
        if name not in named:
            raise InputError(f"the table has no column {name!r}; expected model, gpu, {', '.join(SIZES)}.")
    named = _filled(named, SPLIT)
    words = {name: named[name].astype(str).str.lower() for name in ("backend", "dtype")}
    named = named.assign(**words).replace({"backend": BACKENDS})
    if SAMPLE in table:
        named = with_recipes(named)
    return _filled(named, ASKED).assign(static=static)


def _filled(named: pd.DataFrame, absent: dict[str, Any]) -> pd.DataFrame:
    """The table with what is absent at its default, and numbers as numbers."""
    filled = {name: named[name].fillna(value) if name in named else value for name, value in absent.items()}
    named = named.assign(**filled)
    return named.assign(**{n: pd.to_numeric(named[n], errors="coerce") for n in NUMBERS if n in named})


def _load(row: dict[str, Any]) -> tuple[Load, Device]:
    """What a row ran, and where; an InputError says why it cannot be predicted."""
    for name in MEASURED:
        if not float(row[f"{name}_ms"]) > 0:
            raise InputError(f"without a measured {name.upper()}.")
    if row["mode"] != "agg":
        raise InputError("prefill and decode on devices of their own (disaggregated).")
    if row["pp"] > 1:
        raise InputError("pipeline stages.")
    prompt, output, concurrency = (_whole(row, name) for name in SIZES)
    tp, ep = _split(row)
    device, loaded = load_device(str(row["gpu"])), architecture_of(str(row["model"]))
    precision = _precision(row, device, loaded)
    setting = Setting(precision, tensor_parallel=tp, expert_parallel=ep, expert_skew=EXPERT_SKEW)
    static, backend = bool(row["static"]), str(row["backend"])
    sizes = (prompt, output, concurrency, static)
    load = Load(loaded.model, setting, *sizes, backend=backend, techniques=_drafting(row, loaded.model))
    return replace(load, experts_by=str(row["experts_by"]), release=str(row["release"])), device


def _drafting(row: dict[str, Any], model: Model) -> tuple[Technique, ...]:
    """Drafts by the model's own layer for further tokens, or by one trained for it where it has none.

    The row says how many are drafted, and how often one is kept.
    """
    if row["drafted"] == 0:
        return ()
    steps = _whole(row, "drafted")
    own = parse(f"multi-token-prediction:steps={steps},accept={row['accept']}")
    assert isinstance(own, MultiTokenPrediction)
    return (own if model.stack.drafts else Eagle(steps, steps + 1, own.tokens),)


def _whole(row: dict[str, Any], name: str) -> int:
    value = float(row[name])
    if not (value >= 1 and value.is_integer()):
        raise InputError(f"without a whole {name}.")
    return int(value)


def _split(row: dict[str, Any]) -> tuple[int, int]:
    """Devices that share a layer, and those that experts are spread over.

    Where attention runs on `dp` parts of the batch, each on one device, some tables give that one as tp,
    others all of them.
    """
    tp, ep, dp, width = (_whole(row, name) for name in ("tp", "ep", "dp", "moe_tp_size"))
    if dp == 1:
        if width * ep > tp:
            raise InputError("the experts' devices (moe_tp x moe_ep) are not those of the layer (tp).")
        return tp, ep
    if width > 1 or ep != dp or tp not in (1, dp):
        raise InputError("attention on parts of the batch, other than with whole experts on as many devices.")
    return 1, ep


def _precision(row: dict[str, Any], device: Device, loaded: Loaded) -> Precision:
    """The formats behind a table's short name; what a device cannot multiply in is only stored.

    Where only a checkpoint's experts are narrow, as in gpt-oss, a table's narrow name is that: they multiply
    in 8 bits where the device has 4-bit units, else in 16 (TensorRT-LLM,
    examples/models/core/gpt_oss/README.md). In 4 bits only experts are narrow in any model that has some, as
    in NVIDIA's checkpoints: SGLang's qwen3_5.py has no 4-bit attention, and those of DeepSeek-R1 and
    Qwen3-235B exclude it. Shared experts are counted in 16 bits, too.
    """
    name, kv, units = str(row["dtype"]), str(row["kv_dtype"]), device.datasheet.tensor_flop_per_s
    stored = published(loaded)
    experts = str((stored and stored.experts) or "")
    layers = (layer for stack in loaded.model.stacks for layer in stack.distinct)
    sparse = any(block.spreads for layer in layers for block in layer.blocks)
    four = name in ("fp4", "nvfp4", "mxfp4")
    if (four or name == "fp8") and experts and compute_dtype(experts) == "fp4":
        inputs = (stored.experts_in or "fp8") if stored and "fp4" in units else None
        return Precision(kv=kv or "bf16", experts=experts, experts_in=inputs)
    if four or name == "int4":
        integers = experts if experts.startswith("int4") else "int4"
        weights, narrow = ("nvfp4", "fp4" in units) if four else (integers, False)
        inputs = weights if narrow else None
        if sparse:
            return Precision(kv=kv or "bf16", experts=weights, experts_in=inputs)
        return Precision.of(weights, inputs, kv or "bf16")
    if name != "fp8" or "fp8" not in units:
        return Precision.of(name, kv=kv or None)
    in_blocks = "fp8_block" in (row["moe_quant_mode"], stored and stored.weights)
    return Precision.of("fp8", "fp8", kv or "bf16", "fp8_block" if in_blocks else None)


def _scores(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """A line for TTFT and one for TPOT: mean and median |error|, geometric bias, share within 20 %."""
    lines = []
    for name in MEASURED:
        error = rows[f"{name}_error"]
        log = np.log(rows[f"predicted_{name}_s"] / rows[f"{name}_s"])
        line = {"quantity": name.upper(), "rows": len(rows), "median_ape": float(error.abs().median())}
        line |= {"mape": float(error.abs().mean()), "bias": float(np.expm1(log.mean()))}
        lines.append({**line, "within": float((error.abs() <= WITHIN).mean())})
    return lines
