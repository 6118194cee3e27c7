"""Published numbers: measurements that no floor may lie above, and rooflines worked out by others.

LLM-Viewer's tables are in test_llm_viewer.py; what is a technique's (sparsity, drafts, offloading) in
tests/workloads/techniques/test_published_techniques.py, with the list of groups. Of group G the rows of
DeepEP are not tested: they went over a network that belongs to no device's file.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import pytest

from hwspecs import Device, load_device
from roofline.ceilings import ceilings
from roofline.predict import predict
from roofline.scenario import Scenario
from workloads.catalogue import load_model
from workloads.config import Config
from workloads.dtypes import Precision, bytes_per_element
from workloads.families import build
from workloads.model import Model
from workloads.phases import Setting, parameters
from workloads.techniques.registry import parse

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
    """All 20 rows: GPT-J, Llama 2 and Falcon-180B."""
    found = []
    for row in usable(published("B_trtllm_ttft"), LATENCY):
        setting = Setting(precision_of(row), tensor_parallel=devices_in(row)[0])
        scenario = Scenario(
            load_model(row["model"]).model, "prefill", int(row["batch"]), int(row["isl"]), setting=setting
        )
        found.append((row, predict(scenario, device_of(row)).time_s()))
    assert too_high(found) == []
    assert len(found) == 20
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
    """All 33 rows, bf16 and int8 and int4 weights on 1 to 8 devices."""
    rows = list(usable(published("D_gptfast"), THROUGHPUT))
    found = [(row, decode_floor(row, "bf16")) for row in rows]
    assert too_high(found) == []
    assert len(found) == 33
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


def test_encoders_of_faster_transformer(published: Published) -> None:
    """All 63 rows of BERT-base: fp16 and int8 on T4, V100, A10 and A100."""
    found = []
    for row in usable(published("C_ft_bert"), LATENCY):
        narrow = Precision("int8", "int8", "fp16", "fp16")
        precision = narrow if "int8" in row["dtype"] else Precision.of("fp16")
        sizes = {"batch": int(row["batch"]), "prompt": int(row["isl"])}
        model = load_model("BERT-base-uncased").model
        scenario = Scenario(model, "prefill", setting=Setting(precision), **sizes)
        found.append((row, predict(scenario, device_of(row)).time_s()))
    assert too_high(found) == []
    assert len(found) == 63
    assert max(floor / seconds(row) for row, floor in found) > 0.45


def test_generations_that_ran_out_of_memory(published: Published) -> None:
    """9 rows: the device is full, or lacks at most 2.5 %, before any buffer is counted.

    FasterTransformer has the whole table of tokens on each device (multi_gpu_gpt/ParallelGptWeight.cc).
    """
    filled = []
    shapes = {r["model"]: gpt_of(r) for r in usable(published("C_ft_gpt"), LATENCY)}
    for row in usable(published("C_ft_gpt"), "OOM"):
        ways = re.search(r"TP-(\d+)|(\d+)-way TP", row["metric"])
        tensor = int(ways[1] or ways[2]) if ways else 1
        sizes = {"batch": int(row["batch"]), "prompt": int(row["isl"]), "output": int(row["osl"])}
        setting = Setting(Precision.of("fp16"), tensor_parallel=tensor)
        scenario = Scenario(shapes[row["model"]], "generate", setting=setting, **sizes)
        elsewhere = 2 * scenario.model.vocabulary * scenario.model.hidden * (1 - 1 / tensor)
        filled.append((predict(scenario, device_of(row)).memory()["memory_bytes"] + elsewhere) / 80e9)
    assert len(filled) == 9
    assert min(filled) > 0.975


def test_bandwidth_that_gpt_fast_reports(published: Published) -> None:
    """24 rows: its tokens per second times our bytes of weights are the bandwidth that it states.

    It splits layers and no vocabulary over devices, and quantises the projection to it, too. For Llama 2 it
    counted the embedding, too, in 16 bits; its groups of 32 have a scale and a zero point of 16 bits each.
    """
    speeds = {
        (r["model"], r["dtype"], r["tp"], r["gpu"]): float(r["value"])
        for r in published("D_gptfast")
        if r["check"].startswith("UB")
    }
    rows = list(usable(published("D_gptfast"), "CONSISTENCY"))
    for row in rows:
        model, tensor = load_model(row["model"]).model, devices_in(row)[0]
        setting = Setting(precision_of(row, "bf16"), tensor_parallel=tensor)
        step = predict(Scenario(model, "decode", context=100, setting=setting), device_of(row))
        (head,) = (r for r in step.rows if r.name == "lm_head")
        quantised = bytes_per_element(setting.precision.weights) / 2
        moved = step.total("weight_bytes") + head.work.weight_bytes * (tensor * quantised - 1)
        moved *= 5 / 4 if "g32" in row["dtype"] else 1
        moved += 2 * model.vocabulary * model.hidden if "Llama-2" in row["model"] else 0
        tokens_per_s = speeds[row["model"], row["dtype"], row["tp"], row["gpu"]]
        assert moved * tokens_per_s == close(float(row["value"]) * 1e9, rel=0.015), row["id"]
    assert len(rows) == 24


def test_decode_steps_of_a_book(published: Published) -> None:
    """12 rows: Llama-2-13B on 8 TPU v5e, 8,192 tokens, with all of the cache or a fifth of it."""
    rows = [r for r in published("O_roofline_exact") if r["model"].startswith("Llama-2-13B")]
    device = load_device("tpu_v5e")
    model = replace(load_model("Llama-2-13B").model, max_position=8192)
    for row in rows:
        asked = Scenario(model, "decode", int(row["batch"]), context=8192, setting=Setting(tensor_parallel=8))
        step = predict(asked, device)
        fewer = predict(replace(asked, techniques=(parse("gqa:kv_heads=8"),)), device)
        assert fewer.total("kv_bytes") == close(step.total("kv_bytes") / 5)
        cache = fewer.total("kv_bytes") if "KV/5" in row["model"] else step.total("kv_bytes")
        time = (step.total("weight_bytes") + cache) / step.ceilings.dram_byte_per_s
        assert time == close(float(row["value"]) * 1e-3, rel=0.01)
        assert step.time_s() >= time or "KV/5" in row["model"]
    assert len(rows) == 12


def test_caches_that_fit_beside_the_weights(published: Published) -> None:
    """Llama-3.1-70B on 16 TPU v5e in bf16: 43 caches of 8,192 tokens beside 140 GB.

    The book's rows for int8 and int4 count other room than 128 - 70 and 64 - 35 GB, and are left out.
    """
    (row,) = (r for r in published("O_roofline_exact") if r["id"] == "O02190")
    model = load_model("Llama-3.1-70B").model
    memory = predict(Scenario(model, "decode", context=8192), load_device("tpu_v5e")).memory()
    assert memory["weights_bytes"] == close(140e9, rel=0.01)
    room = 16 * 16e9  # the book counts a GiB as a GB
    assert (room - 140e9) // memory["kv_cache_bytes"] == float(row["value"])


def test_step_of_a_model_that_is_read_once(published: Published) -> None:
    """200 billion dense parameters over 32 TPU v4: 400 GB at 32 x 1.2 TB/s are 10 ms."""
    (row,) = (r for r in published("O_roofline_exact") if r["id"] == "O02193")
    device = load_device("tpu_v4")
    shape = {"model_type": "llama", "hidden_size": 16384, "intermediate_size": 53248, "vocab_size": 32000}
    more = {"num_hidden_layers": 60, "num_attention_heads": 128, "num_key_value_heads": 32}
    model = build(Config({**shape, **more, "max_position_embeddings": 100}, "200B"), "200B")
    assert parameters(model) == close(200e9, rel=0.02)
    step = predict(Scenario(model, "decode", context=1, setting=Setting(tensor_parallel=32)), device)
    read = 2 * 200e9 / (32 * step.ceilings.dram_byte_per_s)
    assert step.total("weight_bytes") / step.ceilings.dram_byte_per_s == close(read, rel=0.02)
    assert round(read * 1e3) == float(row["value"])


def test_a_token_of_palm(published: Published) -> None:
    """540 billion parameters in int8 over 64 TPU v4; its layers have the shapes of a Llama's."""
    (row,) = (r for r in published("N_misc") if r["id"] == "N02175")
    shape = {"model_type": "llama", "hidden_size": 18432, "intermediate_size": 73728, "vocab_size": 256_000}
    more = {"num_hidden_layers": 118, "num_attention_heads": 48, "head_dim": 256, "num_key_value_heads": 1}
    fields = {**shape, **more, "max_position_embeddings": 4096, "tie_word_embeddings": True}
    model = build(Config(fields, "PaLM"), "PaLM-540B")
    assert parameters(model) == close(540.35e9, rel=1e-3)  # PaLM, arXiv:2204.02311, table 1
    weights = parameters(model) / (64 * ceilings(load_device("tpu_v4")).dram_byte_per_s)
    assert 0.2 < weights / (float(row["value"]) * 1e-3) <= 1


def test_ridge_points_of_a_book(published: Published) -> None:
    """FLOP over bytes at which a device is as busy computing as reading; the book's B200 reads 8 TB/s."""
    rows = [r for r in published("O_roofline_exact") if r["metric"] == "ridge_point"]
    for row in rows:
        name, dtype = re.fullmatch(r"(\S+) (\w+)", row["gpu"]).groups()  # type: ignore[union-attr]
        limits = ceilings(load_device({"H100": "h100_sxm", "B200": "b200_sxm"}.get(name, name)))
        rate = 8e12 if name == "B200" else limits.dram_byte_per_s
        assert limits.matrix_flop_per_s(dtype) / rate == close(float(row["value"]), rel=0.02), row["id"]
    assert len(rows) == 6


def test_no_measured_ceiling_is_above_the_data_sheet(published: Published) -> None:
    """89 of 91 rows (no L40, no MI100), and rates of 6 attention kernels."""
    rows = [*usable(published("K_ceilings"), "UB: datasheet"), *usable(published("G_flashmla"), "UB")]
    known = [row for row in rows if row["gpu"] not in ("L40", "MI100")]
    names = {"bfloat16": "bf16", "float16": "fp16", "fp8 KV": "bf16", "": "fp8"}
    for row in known:
        limits = ceilings(load_device(row["gpu"]))
        if row["unit"] == "GB/s":
            assert float(row["value"]) * 1e9 <= limits.dram_byte_per_s, row["id"]
        else:
            unit = {"TFLOP/s": 1e12, "GFLOP/s": 1e9}[row["unit"]]
            peak = limits.matrix_flop_per_s(names.get(row["dtype"], row["dtype"]))
            assert float(row["value"]) * unit <= peak, row["id"]
    assert (len(known), len(rows)) == (95, 97)
