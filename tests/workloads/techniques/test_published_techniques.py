"""Techniques against published figures: formulas exactly, ideal curves closely, measurements as bounds.

Groups of the table of published numbers, and where each is tested:

- A: LLM-Viewer's layer and its 480 what-ifs, exactly (tests/roofline/test_llm_viewer.py).
- B, C, D: measured latencies, throughputs and memory as bounds (tests/roofline/test_published.py); here the
  sparse BERT of C and the drafted generation of D.
- E: Marlin's curve within 3 %, its kernels and AWQ, GPTQ and sparse kernels as bounds (here).
- G: bandwidths and rates of kernels as bounds (tests/roofline/test_published.py).
- J: offloading (here).
- K: measured ceilings below the data sheet (tests/roofline/test_published.py).
- M: expected tokens exactly; EAGLE and drafts between the gain and the accepted length (here).
- O: rooflines worked out in a book, exactly (tests/roofline/test_published.py).
- T: DistilBERT's parameters (here).

- N: a token of PaLM (tests/roofline/test_published.py).

Not tested, because no prediction can be held against them: N02176 (a share of the peak, which is below any),
S (errors of other tools, on tables that are not public), DeepEP of G (a network of no device's file), O02191
and O02192 (their book counts other memory than it states), T02642 (a range of gains without its batches),
M02173 (a range without its models), M02161 to M02166, T02640 (numbers nobody read again), rows of Marlin on
the 3090 (over a slow fp16 product), L40 and MI100 of K (no device files).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from hwspecs import Device, load_device
from roofline.ceilings import ceilings
from roofline.predict import Prediction, Scenario, predict
from roofline.times import times
from tests.workloads.techniques.asking import predicted, with_links
from workloads.catalogue import load_model
from workloads.config import Config
from workloads.dtypes import Precision
from workloads.families import build
from workloads.model import Model
from workloads.operators import Gemm
from workloads.phases import Setting, parameters
from workloads.techniques.decoding import expected_tokens
from workloads.techniques.registry import parse


@pytest.fixture(scope="module")
def published(shared: Callable[[str], Path]) -> pd.DataFrame:
    table = pd.read_csv(shared("facts/published.csv"))
    table["value"] = pd.to_numeric(table["value"], errors="coerce")  # some are ranges
    return table[~table["confidence"].isin(["MEMORY", "SUSPECT"])]


def decode(model: str, gpu: str, *words: str, context: int = 128, batch: int = 1) -> Prediction:
    asked = Scenario(load_model(model).model, "decode", batch, context=context)
    return predicted(*words, scenario=asked, device=load_device(gpu))


def test_leviathan_expected_tokens(published: pd.DataFrame) -> None:
    rows = published[published["group"].eq("M_spec") & published["check"].eq("EXACT")]
    assert len(rows) == 6
    for row in rows.itertuples():
        alpha, gamma = re.fullmatch(r"alpha=([\d.]+) gamma=(\d+) c=0", str(row.model)).groups()  # type: ignore[union-attr]
        assert expected_tokens(float(alpha), int(gamma)) == pytest.approx(row.value, abs=0.005)


def test_leviathan_total_operations(published: pd.DataFrame) -> None:
    """The notes of the same rows: k + 1 positions are computed for each yield, (k + 1) / E (theorem 3.11)."""
    rows = published[published["group"].eq("M_spec") & published["check"].eq("EXACT")]
    asked = Scenario(load_model("Llama-2-7B").model, "decode", context=100)
    device = load_device("tpu_v4")

    def work(*words: str) -> float:
        found = predicted(*words, scenario=asked, device=device)
        return sum(r.count * r.work.matrix_flops for r in found.rows if r.name == "layers.mlp.up_proj")

    for row in rows.itertuples():
        alpha, gamma = re.fullmatch(r"alpha=([\d.]+) gamma=(\d+) c=0", str(row.model)).groups()  # type: ignore[union-attr]
        more = work(f"speculative:k={gamma},accept={alpha},draft=MobileLLM-125M") / work()
        stated = float(str(row.note).removeprefix("total operations x"))
        assert more == pytest.approx(stated, abs=0.006), row.id


def test_marlins_ideal_curve(published: pd.DataFrame) -> None:
    """One product of 72k x 18k on an A10, fp16 against weights of 4 bits in groups of 128."""
    rows = published[published["group"].eq("E_marlin") & published["metric"].eq("ideal_speedup")]
    rows = rows[rows["dtype"].eq("int4 g128 vs fp16") & rows["model"].str.contains("N=72k")]
    assert len(rows) >= 5
    limits = ceilings(load_device("a10"))
    for row in rows.itertuples():
        plain = Gemm(int(row.batch), 73_728, 18_432, "fp16", "fp16", "fp16")
        narrow = replace(plain, weights="int4_g128")
        ratio = times(plain, limits).time_s / times(narrow, limits).time_s
        assert ratio == pytest.approx(row.value, rel=0.03), row.batch


def test_awq_on_real_gpus_is_slower_than_its_roofline(published: pd.DataFrame) -> None:
    rows = published[published["group"].eq("E_awq") & published["metric"].eq("decode_latency_per_token")]
    checked = 0
    for row in rows.itertuples():
        try:
            words = ("awq",) if "int4" in str(row.dtype) else ()
            bound = decode(str(row.model), str(row.gpu), *words).totals()["time_s"]
        except ValueError:  # a model or device that is not shipped
            continue
        assert bound <= row.value / 1e3
        assert bound >= 0.5 * row.value / 1e3  # the kernels are good: a bound far below them would be wrong
        checked += 1
    assert checked >= 4


A100 = {"A100 (variant not stated)": "a100_sxm"}  # gains do not depend on the variant


def test_awq_gains_no_less_than_was_measured(published: pd.DataFrame) -> None:
    """4 bits in the layers, 16 in the vocabulary projection: 3.2 to 3.7 times as fast at best."""
    rows = published[published["group"].eq("E_awq") & published["metric"].eq("speedup")]
    assert len(rows) == 8
    for row in rows.itertuples():
        model, gpu = str(row.model), A100.get(str(row.gpu), str(row.gpu))
        gain = decode(model, gpu).time_s() / decode(model, gpu, "awq").time_s()
        assert row.value <= gain <= 3.75, row.id
        if "Jetson" in gpu:  # whose memory is slow enough to hide everything else
            assert row.value >= 0.9 * gain


def test_gptq_in_three_bits_gains_no_more_than_its_bytes(published: pd.DataFrame) -> None:
    """175B in fp16 on five devices against int3 on one: 3.25 times, of at most 16 / 3."""
    row = published[published["id"].eq("E02177")].iloc[0]
    gain = (
        decode("OPT-175b", "a100_sxm").time_s() / decode("OPT-175b", "a100_sxm", "gptq:format=int3").time_s()
    )
    assert row["value"] <= gain <= 16 / 3


LINEAR = {"Llama-7B": "Llama-2-7B", "Llama-13B": "Llama-2-13B"}  # of the same shapes
# Hidden units, heads, layers and feed-forward width of the others: LLaMA, arXiv:2302.13971, table 2.
LLAMA = {"Llama-33B": (6656, 52, 60, 17920), "Llama-65B": (8192, 64, 80, 22016)}


def linear(name: str) -> Model:
    """A model of which Marlin's README multiplies the layers' matrices."""
    if name not in LLAMA:
        return load_model(LINEAR.get(name, name)).model
    hidden, heads, layers, width = LLAMA[name]
    fields = {
        **{"model_type": "llama", "hidden_size": hidden, "intermediate_size": width, "vocab_size": 32000},
        **{"num_hidden_layers": layers, "num_attention_heads": heads, "max_position_embeddings": 2048},
    }
    return build(Config(fields, name), name)


def test_linear_layers_of_marlin_gain_no_more_than_predicted(published: pd.DataFrame) -> None:
    """At a batch of 16, 15 rows; the 3090's, up to 4.26, divide by a slow fp16 product.

    Read from a chart to 0.04, and Marlin's groups have no zero points.
    """
    zero_points = (4 + 20 / 128) / (4 + 16 / 128)
    rows = published[published["metric"].eq("linear_layer_speedup")]
    rows = rows[~rows["gpu"].str.contains("3090")]
    assert len(rows) == 15
    for row in rows.itertuples():
        found = []
        for words in ((), ("awq:format=int4_g128",)):
            asked = Scenario(linear(str(row.model)), "decode", 16, context=128)
            device = load_device(str(row.gpu))
            step = predicted(*words, scenario=asked, device=device)
            found.append(sum(r.total_s for r in step.rows if r.kind == "gemm" and r.name != "lm_head"))
        assert row.value - 0.04 <= zero_points * found[0] / found[1] <= 16 / (4 + 16 / 128), row.id


def test_sparse_products_in_four_bits(published: pd.DataFrame) -> None:
    """Sparse Marlin's README says about 5.3; half the values, 2 bits each of them, and scales give 5.1."""
    row = published[published["id"].eq("E01882")].iloc[0]
    found = [decode("Llama-2-7B", "rtx3090", *w) for w in ((), ("awq:format=int4_g128", "sparsity-2:4"))]
    plain, both = (sum(r.work.weight_bytes for r in p.rows if r.name.endswith("up_proj")) for p in found)
    assert plain / both == pytest.approx(row["value"], rel=0.05)


def test_sparse_bert_gains_no_more_than_predicted(published: pd.DataFrame) -> None:
    """FasterTransformer's encoder on an A100, fp16 and int8: at most twice as fast."""
    rows = published[published["metric"].eq("sparse_speedup")]
    assert len(rows) == 18
    model = load_model("BERT-base-uncased").model
    for row in rows.itertuples():
        precision = (
            Precision("int8", "int8", "fp16", "fp16") if "int8" in str(row.dtype) else Precision.of("fp16")
        )
        asked = Scenario(model, "prefill", int(row.batch), int(row.isl), setting=Setting(precision))
        device = load_device("a100_sxm")
        sparse = predicted("2:4", scenario=asked, device=device)
        assert max(1.0, row.value) <= predict(asked, device).time_s() / sparse.time_s() <= 2.0, row.id


def test_half_of_bert_is_distilbert_and_its_pooler(published: pd.DataFrame) -> None:
    """0.606 of the parameters; it has neither BERT's pooler nor its table of two token types."""
    row = published[published["id"].eq("T02641")].iloc[0]
    names = ("BERT-base-uncased", "DistilBERT-base-uncased")
    bert, student = (parameters(load_model(name).model) for name in names)
    assert student / bert == pytest.approx(row["value"], abs=1e-3)
    asked = Scenario(load_model("BERT-base-uncased").model, "prefill", prompt=128)
    half = predicted("distilbert", scenario=asked, device=load_device("h100_sxm"))
    assert half.memory()["weights_bytes"] == 2 * (student + 768 * 768 + 768 + 2 * 768)


def placed(row: pd.Series) -> tuple[str, ...]:
    """Where the weights were, by what the row says; where it says nothing, no more away than must be."""
    device, model = load_device(row["gpu"]), load_model(row["model"]).model
    weights = predict(Scenario(model, setting=stored(row)), device).memory()["weights_bytes"]
    pinned = re.search(r"(\d+)B pinned", row["dtype"])
    said = f"{row['tp']} {row['dtype']} {row['note']}"
    if pinned:  # billions of parameters that stay on the device
        away = 1 - 2e9 * int(pinned[1]) / weights
    elif re.search("zero3|weights offload|ZeRO", said):
        away = 1.0
    else:
        away = max(0.0, 1 - device.capacity_bytes / weights)
    words = [f"weight-offloading:share={away},devices={int(row['n_gpus'])}"] if away else []
    return (*words, *(["kv-offloading"] if "KV offload=Yes" in said else []))


def stored(row: pd.Series) -> Setting:
    """The format of weights; products are in fp16."""
    return Setting(Precision.of("int4" if "int4" in row["dtype"] else "fp16", "fp16"))


def offloaded(row: pd.Series, device: Device | None = None, *words: str) -> float:
    """Predicted tokens per second of one device."""
    sizes = {"batch": int(row["batch"]), "prompt": int(row["isl"]), "output": int(row["osl"])}
    techniques = tuple(map(parse, words or placed(row)))
    asked = Scenario(
        load_model(row["model"]).model, "generate", setting=stored(row), techniques=techniques, **sizes
    )
    return float(predict(asked, device or load_device(row["gpu"])).totals()["tokens_per_s"])


def test_offloaded_generations_are_bounded_by_their_links(published: pd.DataFrame) -> None:
    """All 41 rows of FlexGen and ZeRO-Inference; weights from the host's memory come near the bound."""
    rows = published[published["group"].eq("J_offload")]
    assert len(rows) == 41
    near = 0
    for _, row in rows.iterrows():
        bound = offloaded(row)
        assert row["value"] <= bound, row["id"]
        near += row["value"] >= 0.5 * bound
    assert near >= 18


def test_devices_that_fetch_together_gain_no_more_than_predicted(published: pd.DataFrame) -> None:
    """ZeRO-Inference on 1, 2 and 4 devices: each fetches its part, and the host's links add up."""
    rows = published[published["dtype"].eq("fp16 CPU offload")]
    for _, group in rows.groupby("model"):
        one, *more = (row for _, row in group.sort_values("n_gpus").iterrows())
        assert len(more) == 2
        for row in more:
            gain = offloaded(row) / offloaded(one)
            assert row["value"] / one["value"] <= gain <= int(row["n_gpus"]) * (1 + 1e-9)
            assert gain > 0.95 * int(row["n_gpus"])  # NVLink brings the rest nearly for nothing


def test_weights_from_a_disk_come_as_fast_as_it_reads(published: pd.DataFrame) -> None:
    """OPT-175B from an NVMe disk that reads 5.6 GB/s, keys and values on the host: 0.47 tokens/s."""
    row = published[published["id"].eq("J02113")].iloc[0]
    assert "NVMe 5.6 GB/s read" in row["check_param"]
    device = with_links(load_device("rtx_a6000"), disk=5.6e9)
    bound = offloaded(row, device, "weight-offloading:disk=1", "kv-offloading")
    assert 0.8 * bound <= row["value"] <= bound


@pytest.mark.parametrize(
    ("dtype", "words"),
    [
        ("bf16", ()),
        ("int8wo", ("weight-only-quantisation:format=int8",)),
        ("int4wo-64", ("weight-only-quantisation:format=int4_g64",)),
        ("int4wo-64-sparse-marlin 2:4", ("weight-only-quantisation:format=int4_g64", "sparsity-2:4")),
    ],
)
def test_torchao_does_not_beat_the_roofline(
    published: pd.DataFrame, dtype: str, words: tuple[str, ...]
) -> None:
    row = published[published["group"].eq("E_sparse_quant") & published["dtype"].eq(dtype)].iloc[0]
    found = decode(row["model"], row["gpu"], *words).totals()["tokens_per_s"]
    assert found >= row["value"]
    assert found <= row["value"] / 0.3


# Vicuna 7B and 13B have the shapes of Llama 2.
EAGLE_MODELS = {
    "Llama-2-7B": "Llama-2-7B",
    "Llama-2-13B": "Llama-2-13B",
    "Llama-2-70B": "Llama-2-70B",
    "Vicuna-7B": "Llama-2-7B",
    "Vicuna-13B": "Llama-2-13B",
    "Vicuna-33B": "Llama-33B",
}


def test_eagle_gains_what_was_measured_and_no_more_than_it_accepts(published: pd.DataFrame) -> None:
    rows = published[published["metric"].eq("eagle_speedup") & published["model"].isin(EAGLE_MODELS)]
    assert len(rows) == 6
    for row in rows.itertuples():
        assert row.value <= gained(EAGLE_MODELS[str(row.model)], "eagle:accepted=4") <= 4, row.id


def gained(model: str, *words: str) -> float:
    """Time of a token of one sequence on an A100 over that with techniques."""
    asked = Scenario(linear(model), "decode", context=512)
    plain, found = (
        predicted(*each, scenario=asked, device=load_device("a100_sxm")).time_s() for each in ((), words)
    )
    return float(plain / found)


def test_lookahead_gains_no_less_than_was_measured_beside_eagle(published: pd.DataFrame) -> None:
    """1.64, 1.51 and 1.45 by the notes; windows by size as its authors choose them (arXiv:2402.02057)."""
    sizes = {"Llama-2-7B": (15, 5), "Llama-2-13B": (10, 5), "Llama-2-70B": (5, 5)}
    for model, (window, n) in sizes.items():
        note = published[published["group"].eq("M_spec") & published["model"].eq(model)].iloc[0]["note"]
        measured = float(re.match(r"Lookahead ([\d.]+)", note)[1])  # type: ignore[index]
        words = f"lookahead:window={window},n={n},guesses={window},accepted=1.8"
        assert measured <= gained(model, words) <= 1.8, model


def test_medusa_gains_no_less_than_was_measured_beside_eagle(published: pd.DataFrame) -> None:
    """1.97, 1.92 and 1.94 for the Vicunas by the notes, with 2.5 tokens of a pass and its tree of 64."""
    rows = published[published["group"].eq("M_spec") & published["note"].str.startswith("Medusa 1")]
    assert len(rows) == 3
    for row in rows.itertuples():
        measured = float(re.match(r"Medusa ([\d.]+)", str(row.note))[1])  # type: ignore[index]
        assert measured <= gained(EAGLE_MODELS[str(row.model)], "medusa:accepted=2.5") <= 2.5, row.id


def test_a_small_draft_of_llama_70b_gains_what_gpt_fast_measured(published: pd.DataFrame) -> None:
    """70B in int4 with an int4 7B draft ran 1.92 times as fast."""
    row = published[published["id"].eq("D01755")].iloc[0]
    plain = decode("Llama-2-70B", "a100_sxm", "awq:format=int4_g32")
    drafted = decode(
        "Llama-2-70B", "a100_sxm", "awq:format=int4_g32", "speculative:draft=Llama-2-7B,k=5,accept=0.8"
    )
    assert row["value"] / 25.25 == pytest.approx(1.92, abs=0.01)
    assert drafted.totals()["tokens_per_s"] >= row["value"]
    assert plain.totals()["tokens_per_s"] >= 25.25


def test_a_draft_of_half_a_billion_gains_what_was_measured(published: pd.DataFrame) -> None:
    """Llama 3 70B over four H100 with a draft of 0.5 billion parameters: 1.5 times as fast, one request."""
    row = published[published["id"].eq("M02174")].iloc[0]
    model = load_model("Llama-3.1-70B").model
    asked = Scenario(model, "decode", context=1024, setting=Setting(tensor_parallel=4))
    device = load_device(str(row["gpu"]))
    drafted = replace(asked, techniques=(parse("speculative:draft=Llama-3.2-1B,k=4,accept=0.75"),))
    gain = predict(asked, device).time_s() / predict(drafted, device).time_s()
    assert row["value"] <= gain <= expected_tokens(0.75, 4)
