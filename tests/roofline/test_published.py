"""Published numbers: LLM-Viewer's table to the digit, and measurements that no floor may lie above."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import pytest

from hwspecs import Device, load_device
from roofline.ceilings import ceilings
from roofline.predict import predict
from roofline.scenario import Scenario
from workloads.catalogue import load_model
from workloads.config import Config
from workloads.convention import convention
from workloads.dtypes import Precision
from workloads.families import build
from workloads.model import Model
from workloads.phases import Named, Setting, decode, operators, prefill

close = partial(pytest.approx, rel=1e-9, abs=0)  # times are far below the default absolute tolerance

Published = Callable[[str], list[dict[str, str]]]

# Prefill and decode time per token in ms: prompt and context 2048, causal attention, the head on the last
# token, data-sheet ceilings. Computed independently of this program from parameters and cache sizes.
with (Path(__file__).parents[2] / "benchmarks" / "floors.csv").open(encoding="utf-8", newline="") as _table:
    FLOORS = [
        (r["model"], r["device"], int(r["batch"]), float(r["prefill_ms"]), float(r["decode_ms"]))
        for r in csv.DictReader(_table)
    ]


@pytest.mark.parametrize(("name", "device", "batch", "prefill_ms", "decode_ms"), FLOORS)
def test_the_floor_of_a_prompt_and_of_a_token(
    name: str, device: str, batch: int, prefill_ms: float, decode_ms: float
) -> None:
    model, hardware = load_model(name).model, load_device(device)
    first = predict(Scenario(model, "prefill", batch, 2048), hardware).time_s()
    token = predict(Scenario(model, "decode", batch, context=2048), hardware).time_s()
    assert first * 1e3 == close(prefill_ms, rel=0.02)
    assert token * 1e3 == close(decode_ms, rel=0.02)


# LLM-Viewer (arXiv:2402.16363, table 1): Llama-2-7B on an RTX A6000, one layer, batch 1, sequence 2048.


@dataclass(frozen=True)
class View:
    """An operator as LLM-Viewer counts it, derived from ours by a stated difference of convention."""

    flops: float
    bytes: float


def _as_counted(row: Named) -> View:
    work = row.operator.work()
    return View(work.flops, work.bytes)


def _norm(row: Named) -> View:
    """7 FLOP per element, those of a LayerNorm with bias, where RMSNorm has 4; its weights are not read."""
    work = row.operator.work()
    return View(work.flops / 4 * 7, work.bytes - work.weight_bytes)


def _add(row: Named) -> View:
    """One read and one write; an addition of two tensors reads both."""
    work = row.operator.work()
    return View(work.flops, work.bytes / 3 * 2)


def _attention_parts(row: Named) -> dict[str, View]:
    """Our one row of attention as three: each product moves the scores once, the softmax twice.

    The softmax is 5 FLOP per score there; here it is one exponential per score, on its own unit.
    """
    work = row.operator.work()
    moved = {t.tensor: t.bytes for t in work.traffic}
    score_trip = moved["scores"] / 4
    return {
        "qk_matmul": View(work.matrix_flops / 2, moved["query"] + moved["key"] + score_trip),
        "softmax": View(5 * work.special_ops, 2 * score_trip),
        "sv_matmul": View(work.matrix_flops / 2, score_trip + moved["value"] + moved["output"]),
    }


NAMES: dict[str, tuple[str, Callable[[Named], View]]] = {
    "q_proj": ("layers.attention.q_proj", _as_counted),
    "k_proj": ("layers.attention.k_proj", _as_counted),
    "v_proj": ("layers.attention.v_proj", _as_counted),
    "out_proj": ("layers.attention.o_proj", _as_counted),
    "gate_proj": ("layers.mlp.gate_proj", _as_counted),
    "up_proj": ("layers.mlp.up_proj", _as_counted),
    "down_proj": ("layers.mlp.down_proj", _as_counted),
    "attn_norm": ("layers.attention_norm", _norm),
    "mlp_norm": ("layers.mlp_norm", _norm),
    "attn_add": ("layers.attention_residual", _add),
    "mlp_add": ("layers.mlp_residual", _add),
}
CORE = "layers.attention.core"
ATTENTION = ("qk_matmul", "softmax", "sv_matmul")
QUANTITIES = ("OPs", "memory_access", "arithmetic_intensity", "max_performance", "time")
DIGITS = 5e-4  # the table has six digits, and its peak is 154.838 where the data sheet says 154.8


@cache
def layer(phase: str) -> dict[str, Named]:
    """The operators of Llama-2-7B, counted by LLM-Viewer's convention."""
    step = prefill(1, 2048) if phase == "prefill" else decode(1, 2048)
    setting = Setting(Precision.of("fp16"), convention("llm-viewer"))
    return {row.name: row for row in operators(load_model("Llama-2-7B").model, step, setting)}


def viewed(phase: str, name: str) -> View:
    if name in ATTENTION:
        return _attention_parts(layer(phase)[CORE])[name]
    ours, view = NAMES[name]
    return view(layer(phase)[ours])


def roofline(view: View) -> dict[str, float]:
    """The five columns of the table from two."""
    limits = ceilings(load_device("rtx_a6000"))
    intensity = view.flops / view.bytes
    reached = min(intensity * limits.dram_byte_per_s, limits.matrix_flop_per_s("fp16"))
    values = (view.flops, view.bytes, intensity, reached, view.flops / reached)
    return dict(zip(QUANTITIES, values, strict=True))


def table_of(published: Published) -> dict[tuple[str, str], dict[str, float]]:
    found: dict[tuple[str, str], dict[str, float]] = {}
    for row in published("A_llmviewer_layer"):
        if row["check"] == "EXACT":
            assert (row["model"], row["gpu"]) == ("Llama-2-7B", "RTX-A6000")
            phase, name, quantity = row["metric"].split(":")
            found.setdefault((phase, name), {})[quantity] = float(row["value"])
    return found


@pytest.mark.parametrize("phase", ["prefill", "decode"])
@pytest.mark.parametrize("name", [*NAMES, *ATTENTION])
def test_a_row_of_llm_viewer(phase: str, name: str, published: Published) -> None:
    expected = table_of(published)[phase, name]
    assert roofline(viewed(phase, name)) == close(expected, rel=DIGITS)


def test_every_exact_row_is_covered(published: Published) -> None:
    covered = {(phase, name) for phase in ("prefill", "decode") for name in (*NAMES, *ATTENTION)}
    table = table_of(published)
    assert set(table) == covered
    assert sum(len(row) for row in table.values()) == 140
    assert {tuple(row) for row in table.values()} == {QUANTITIES}


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_our_attention_is_the_sum_of_three_rows(phase: str, published: Published) -> None:
    """Products in FLOP, all three in bytes; nothing else differs between one kernel and three."""
    table, work = table_of(published), layer(phase)[CORE].operator.work()
    rows = {name: table[phase, name] for name in ATTENTION}
    products = rows["qk_matmul"]["OPs"] + rows["sv_matmul"]["OPs"]
    assert work.matrix_flops == close(products, rel=DIGITS)
    assert work.bytes == close(sum(row["memory_access"] for row in rows.values()), rel=DIGITS)


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_what_llm_viewer_miscounts_is_not_reproduced(phase: str, published: Published) -> None:
    """Its rows for the activation and the head are marked as wrong: hidden for intermediate width, 1 FLOP."""
    wrong = {
        row["metric"]: float(row["value"])
        for row in published("A_llmviewer_layer")
        if row["check"].startswith("INFO") and row["metric"].startswith(phase)
    }
    assert len(wrong) == 10
    act = layer(phase)["layers.mlp.act_mul"].operator.work()
    head = layer(phase)["lm_head"].operator.work()
    assert act.outputs * 2 * 4096 == close(wrong[f"{phase}:mlp_act:OPs"] * 11008, rel=DIGITS)
    assert head.matrix_flops == close(2 * wrong[f"{phase}:lm_head:OPs"], rel=DIGITS)


# Measurements of other teams. The data-sheet roofline is a floor on time: none of them may beat it.

ANY_A100 = {"A100 (variant not stated)": "A100-SXM4-80GB"}  # the fastest of them: the lowest floor
CARD_OF_GCD = {"MI250X one GCD": "MI250X"}  # both dies: twice the bandwidth, still a bound


def device_of(row: dict[str, str]) -> Device:
    return load_device({**ANY_A100, **CARD_OF_GCD}.get(row["gpu"], row["gpu"]))


def precision_of(row: dict[str, str], wide: str = "fp16") -> Precision:
    """`int4 g128 (AWQ W4A16)`, `int8wo`, `fp16 12B pinned`: the first word says how weights are stored."""
    name = re.match(r"(?:fp|bf|int)\d+", row["dtype"])
    assert name, row["dtype"]
    if name[0] == "fp8":  # both operands, and the cache where it is not stated: the lower floor
        return Precision.of("fp8", "fp8", "fp8")
    return Precision.of(name[0], wide if name[0].startswith("int") else None)


def devices_in(row: dict[str, str]) -> tuple[int, int]:
    """Tensor and pipeline parallelism: `tp8pp3`, or a number."""
    both = re.fullmatch(r"tp(\d+)pp(\d+)", row["tp"])
    return (int(both[1]), int(both[2])) if both else (int(row["tp"]), 1)


@cache
def gpt(heads: int, head: int, layers: int) -> Model:
    """The GPT of FasterTransformer's guide: its shapes stand in the notes of the table."""
    fields = {"model_type": "gpt2", "n_embd": heads * head, "n_head": heads, "n_layer": layers}
    return build(Config({**fields, "vocab_size": 51200, "n_positions": 1024}, "note"), "GPT")


def gpt_of(row: dict[str, str]) -> Model:
    shape = re.search(r"heads=(\d+) head=(\d+) layers=(\d+) ffn=4h vocab=51200", row["note"])
    assert shape, row["note"]
    return gpt(*map(int, shape.groups()))


def usable(rows: list[dict[str, str]], check: str) -> Iterator[dict[str, str]]:
    """Rows of a check whose value somebody read in a source."""
    for row in rows:
        if row["check"].startswith(check) and row["confidence"] not in ("MEMORY", "SUSPECT"):
            yield row


LATENCY, THROUGHPUT = "LB: roofline latency", "UB: roofline throughput"


def too_high(rows: list[tuple[dict[str, str], float]]) -> list[str]:
    """Rows whose measured time lies below our floor, with the factor."""
    return [
        f"{r['id']} {r['model']} {r['gpu']} {floor / measured:.2f}"
        for r, floor in rows
        for measured in [seconds(r)]
        if floor > measured
    ]


def seconds(row: dict[str, str]) -> float:
    """The measured time: a latency, or for a throughput the time per token."""
    value = float(row["value"])
    return {"ms": value * 1e-3, "tok/s": 1 / value, "tok/s/GPU": 1 / value}[row["unit"]]


def test_time_to_first_token_of_tensorrt_llm(published: Published) -> None:
    """10 of 20 rows: GPT-J and Falcon are not in the catalogue."""
    found = []
    for row in usable(published("B_trtllm_ttft"), LATENCY):
        if not row["model"].startswith("Llama"):
            continue
        setting = Setting(precision_of(row), tensor_parallel=devices_in(row)[0])
        scenario = Scenario(
            load_model(row["model"]).model, "prefill", int(row["batch"]), int(row["isl"]), setting=setting
        )
        found.append((row, predict(scenario, device_of(row)).time_s()))
    assert too_high(found) == []
    assert len(found) == 10
    assert max(floor / seconds(row) for row, floor in found) > 0.5  # and it is no idle floor


def test_generations_of_faster_transformer(published: Published) -> None:
    """All 320 rows; a pipeline of p stages at best keeps all of them busy: a p-th of the time."""
    found = []
    for row in usable(published("C_ft_gpt"), LATENCY):
        tensor, pipeline = devices_in(row)
        setting = Setting(Precision.of("fp16"), tensor_parallel=tensor)
        sizes = {"batch": int(row["batch"]), "prompt": int(row["isl"]), "output": int(row["osl"])}
        scenario = Scenario(gpt_of(row), "generate", setting=setting, **sizes)
        found.append((row, predict(scenario, device_of(row)).time_s() / pipeline))
    assert too_high(found) == []
    assert len(found) == 320
    assert max(floor / seconds(row) for row, floor in found) > 0.5


SHAPES = {"GPT-6.7B": (32, 128, 32), "GPT-1.3B": (32, 64, 24), "GPT-350M": (16, 64, 24)}


def test_memory_of_faster_transformer(published: Published) -> None:
    """Weights and cache fit into what was reported, which includes buffers: 42 rows."""
    rows = list(usable(published("C_ft_gpt"), "LB: weights+KV"))
    for row in rows:
        sizes = {"batch": int(row["batch"]), "prompt": int(row["isl"]), "output": int(row["osl"])}
        scenario = Scenario(
            gpt(*SHAPES[row["model"]]), "generate", setting=Setting(Precision.of("fp16")), **sizes
        )
        memory = predict(scenario, device_of(row)).memory()
        assert memory["weights_bytes"] + memory["kv_cache_bytes"] <= float(row["value"]) * 1e9, row["id"]
    assert len(rows) == 42


def decode_floor(row: dict[str, str], wide: str) -> float:
    """Time of one token of one sequence, in the mean over the generation."""
    setting = Setting(precision_of(row, wide), tensor_parallel=devices_in(row)[0])
    sizes = {"prompt": int(row["isl"] or 5), "output": int(row["osl"] or 200)}
    scenario = Scenario(load_model(row["model"]).model, "generate", setting=setting, **sizes)
    return float(predict(scenario, device_of(row)).totals()["tpot_s"])


def test_tokens_per_second_of_gpt_fast(published: Published) -> None:
    """26 of 33 rows, bf16 and int8 and int4 weights on 1 to 8 devices; Mixtral is not in the catalogue."""
    rows = [r for r in usable(published("D_gptfast"), THROUGHPUT) if not r["model"].startswith("Mixtral")]
    found = [(row, decode_floor(row, "bf16")) for row in rows]
    assert too_high(found) == []
    assert len(found) == 26
    assert max(floor / seconds(row) for row, floor in found) > 0.65


def test_latency_per_token_of_awq(published: Published) -> None:
    """17 rows; AWQ keeps embedding and head in 16 bits, which only widens the gap."""
    rows = list(usable(published("E_awq"), LATENCY))
    found = [(row, decode_floor(row, "fp16")) for row in rows]
    assert too_high(found) == []
    assert len(found) == 17
    assert max(floor / seconds(row) for row, floor in found) > 0.8


def test_tokens_per_second_of_torchao(published: Published) -> None:
    """3 of 4 rows: one has sparse weights."""
    rows = [r for r in usable(published("E_sparse_quant"), THROUGHPUT) if "sparse" not in r["dtype"]]
    found = [(row, decode_floor(row, "bf16")) for row in rows]
    assert too_high(found) == []
    assert len(found) == 3


def test_offloaded_generations(published: Published) -> None:
    """34 of 41 rows (no BLOOM): weights that come over PCIe are no faster than weights that are there."""
    found = []
    for row in usable(published("J_offload"), THROUGHPUT):
        if row["model"].startswith("BLOOM"):
            continue
        sizes = {"batch": int(row["batch"]), "prompt": int(row["isl"]), "output": int(row["osl"])}
        model = load_model(row["model"]).model
        scenario = Scenario(model, "generate", setting=Setting(precision_of(row)), **sizes)
        found.append((row, 1 / predict(scenario, device_of(row)).totals()["tokens_per_s"]))
    assert too_high(found) == []
    assert len(found) == 34
