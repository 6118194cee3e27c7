"""What predictions count already and can be asked to leave out: `--without`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwspecs import load_device
from roofline.asked import Asked, scenarios
from roofline.bounds import Bounds
from roofline.ceilings import ceilings
from roofline.grid import Grid
from roofline.launches import PLAIN, assumed
from roofline.ledger import ledger
from roofline.predict import Prediction, predict
from roofline.scenario import Scenario
from roofline.target import Goal, Option
from roofline.times import ALONE, times
from roofline.whatif import whatif
from specfiles.errors import InputError
from tests.workloads.techniques.asking import MODEL
from workloads.catalogue import load_model
from workloads.config import Config
from workloads.convention import CONVENTIONS, convention
from workloads.dtypes import Precision
from workloads.families import build
from workloads.operators import Attention, Gemm, GroupedGemm
from workloads.step import Setting
from workloads.techniques.counted import lacking
from workloads.techniques.registry import known, parse

A100, H100 = load_device("a100_sxm"), load_device("h100_sxm")
FUSED = CONVENTIONS["fused"]
DECODE = Scenario(MODEL, "decode", batch=1, context=60_000)
# us of attention over a cache: sequences, context, FlashAttention 2.0.9, Flash-Decoding; A100, 16-bit, 16
# query heads of 128 elements over 2 KV heads. PyTorch, "Flash-Decoding for long-context inference" (2023),
# component-level micro-benchmarks.
FLASH_DECODING = [
    (256, 256, 390.5, 63.4),
    (128, 512, 366.3, 67.7),
    (64, 1024, 364.8, 77.7),
    (32, 2048, 352.0, 58.5),
    (16, 4096, 401.7, 57.0),
    (8, 8192, 529.2, 56.4),
    (4, 16384, 582.7, 58.2),
    (2, 32768, 1156.1, 60.3),
    (1, 65536, 2300.6, 64.4),
    (1, 131072, 4592.2, 106.6),
]


def predicted(scenario: Scenario, *without: str, words: tuple[str, ...] = ()) -> Prediction:
    counted = lacking(scenario.setting.convention, without)
    setting = replace(scenario.setting, convention=counted)
    return predict(replace(scenario, setting=setting, techniques=tuple(map(parse, words))), H100)


@pytest.mark.parametrize(("batch", "context", "whole_us", "split_us"), FLASH_DECODING)
def test_attention_is_no_slower_than_measured_with_splits_and_without(
    batch: int, context: int, whole_us: float, split_us: float
) -> None:
    core = Attention(batch, 1, context, 16, 2, 128, "fp16", "fp16")
    for fidelity in ("datasheet", "measured"):
        limits = ceilings(A100, fidelity)
        whole, split = times(replace(core, splits=False), limits).time_s, times(core, limits).time_s
        assert whole * 1e6 <= whole_us
        assert split * 1e6 <= split_us * (1.05 if fidelity == "measured" else 1)
        if batch * 2 * 8 <= 108:  # no more blocks of threads than processors, each walking alone
            assert whole * 1e6 == pytest.approx(whole_us, rel=0.4)


def test_a_block_alone_streams_as_fast_as_was_measured(shared: Callable[[str], Path]) -> None:
    """FlashAttention 2 on A100 does not split where no heads share a KV head (aiconfigurator's table)."""
    table = pd.read_parquet(shared("data/aic_attn_decode.parquet"))
    whole = table["kernel"].eq("vllm_flash_attn") & table["n_heads"].eq(table["n_kv_heads"])
    few = (table["batch"] * table["n_heads"]).le(108) & table["kv_len"].ge(16384)
    rows = table[whole & few & table["gpu"].eq("a100_sxm") & table["kv_dtype"].eq("bfloat16")]
    assert len(rows) > 20
    limits = ceilings(A100, "measured")
    for row in rows.itertuples():
        sizes = map(int, (row.batch, 1, row.kv_len, row.n_heads, row.n_heads, row.head_dim))
        core = Attention(*sizes, splits=False)
        reached = times(core, limits).time_s * 1e6 / row.latency_us
        assert 0.9 < reached <= 1


def test_long_contexts_gain_what_was_published() -> None:
    """CodeLlama-34B at batch 1, 512 to 64k tokens, on 4 devices as its attention was timed: up to 8 times."""
    shape = {
        **{"model_type": "llama", "hidden_size": 8192, "intermediate_size": 22016, "num_hidden_layers": 48},
        **{"num_attention_heads": 64, "num_key_value_heads": 8, "vocab_size": 32000},
        "max_position_embeddings": 65536,
    }
    model = build(Config(shape, "CodeLlama-34B"), "CodeLlama-34B")
    gains = []
    for context in (512, 4096, 16384, 65536):
        fused = Setting(Precision.of("fp16"), tensor_parallel=4)
        alone = replace(fused, convention=lacking(FUSED, ["flash-decoding"]))
        steps = [Scenario(model, "decode", 1, context=context, setting=s) for s in (alone, fused)]
        slow, fast = (predict(step, A100).time_s() for step in steps)
        gains.append(slow / fast)
    assert gains == sorted(gains)
    assert gains[0] < 1.1
    assert gains[-1] == pytest.approx(8, rel=0.1)


@given(st.integers(1, 300), st.sampled_from([1, 2, 8, 32]))
def test_only_idle_processors_cost_time(batch: int, kv_heads: int) -> None:
    core = Attention(batch, 1, 4096, 32, kv_heads, 128)
    limits = ceilings(H100)
    ratio = times(replace(core, splits=False), limits).time_s / times(core, limits).time_s
    assert ratio == pytest.approx(max(1, 132 / (ALONE * batch * kv_heads)))


def test_a_prompt_has_tiles_for_every_processor() -> None:
    prompt = Scenario(MODEL, "prefill", prompt=4000)
    assert predicted(prompt, "flash-decoding").time_s() == predicted(prompt).time_s()


def test_latent_attention_has_one_head_to_share() -> None:
    """128 heads over one latent are two tiles of 64 rows: 2 of 132 processors."""
    deepseek = Scenario(load_model("DeepSeek-V3").model, "decode", batch=1, context=30_000)
    core = {
        name: next(r for r in predicted(deepseek, *without).rows if r.name.endswith("core"))
        for name, without in (("split", ()), ("whole", ("flash-decoding",)))
    }
    assert core["whole"].work.spread == 2
    assert core["whole"].times.time_s / core["split"].times.time_s == pytest.approx(132 / (2 * ALONE))


@given(st.integers(1, 400), st.sampled_from(["bf16", "int4"]))
def test_padded_rows_take_the_time_of_real_ones(rows: int, weights: str) -> None:
    product = Gemm(rows, 4096, 4096, weights=weights)
    limits = ceilings(A100)
    padded, whole = replace(product, padded=64), replace(product, m=-(-rows // 64) * 64)
    assert times(padded, limits).compute_s == pytest.approx(times(whole, limits).compute_s)
    assert times(padded, limits).memory_s == times(product, limits).memory_s
    assert padded.work().matrix_flops == product.work().matrix_flops


def test_experts_pad_the_rows_of_each() -> None:
    """16 rows over 8 experts are 2 of 64 in each."""
    experts = GroupedGemm(16, 4096, 4096, 8, 8, padded=64)
    assert experts.work().filled == 2 / 64


def test_padding_costs_where_narrow_weights_left_memory_waiting() -> None:
    """A padded product has 64 x 2 FLOP for each weight: below an A100's 153 FLOP/B in 16 bits, above it in 4.

    FlashDecoding++ (arXiv:2311.01282, section 4) pads to 8 instead.
    """
    limits = ceilings(A100)
    for weights, slower in (("bf16", 1.0), ("int4", 64 * 4 / (312e12 / 2.039e12))):
        one, eight, padded = (
            times(Gemm(1, 8192, 8192, weights=weights, padded=rows), limits).time_s for rows in (1, 8, 64)
        )
        assert eight == one
        assert padded / one == pytest.approx(slower, rel=0.01)


def test_flat_products_gain_what_was_published_between_overlap_and_none() -> None:
    """FlashDecoding++ (MLSys 2024, abstract): up to 1.52 times as fast, padding costs above 50 %.

    Multiplying zeros costs nothing where reading hides it, and all of it where nothing overlaps. Of eight
    rows in tiles of 64 on its RTX 3090 the gain lies between; 7 of 8 multiplications are of zeros.
    """
    limits = ceilings(load_device("rtx3090"))
    padded, flat = (times(Gemm(8, 8192, 8192, "fp16", "fp16", padded=rows), limits) for rows in (64, 8))
    assert padded.time_s / flat.time_s <= 1.52 <= (padded.compute_s + padded.memory_s) / flat.time_s
    assert 1 - flat.compute_s / padded.compute_s == pytest.approx(7 / 8)


def test_every_operator_is_laid_out_those_of_techniques_too() -> None:
    found = predicted(DECODE, "flash-decoding", "flat-gemm", words=("medusa:heads=2",))
    kinds = Attention | Gemm | GroupedGemm
    rows = [row for p in found.schedule.passes for row in p.operators(p.first)]
    for row in rows:
        if isinstance(row.operator, kinds):
            how = getattr(row.operator, "splits", None), getattr(row.operator, "padded", None)
            assert how in ((False, None), (None, 64)), row.name


@pytest.mark.parametrize("batch", [1, 64])
@pytest.mark.parametrize("kernels", ["fused", "eager"])
def test_a_step_takes_as_long_as_the_slower_of_host_and_device(batch: int, kernels: str) -> None:
    setting = Setting(convention=CONVENTIONS[kernels])
    asked = replace(DECODE, batch=batch, setting=setting)
    plain, waiting = predicted(asked), predicted(asked, "cuda-graphs")
    of_each = PLAIN if kernels == "eager" else {"residual": 0}  # which the next norm adds
    launched = sum(row.count * of_each.get(row.kind, 1) for row in plain.rows)
    assert waiting.time_s() == pytest.approx(max(plain.time_s(), launched * assumed().each_s))
    assert assumed().low_s <= assumed().each_s <= assumed().high_s
    assert assumed().told() in waiting.schedule.notes
    for words in ("cuda-graphs", "persistent-kernel"):
        assert predicted(asked, "cuda-graphs", words=(words,)).time_s() == pytest.approx(plain.time_s())
    assert len(ledger(waiting)) == len(ledger(plain))


def test_steps_launched_by_a_script_are_as_slow_as_measured() -> None:
    """Llama-2-7B at batch 1 on A100: 25.5 tokens/s kernel by kernel, 107.0 compiled, in graphs.

    PyTorch, "Accelerating Generative AI with PyTorch II: GPT, Fast" (2023). Hosts differ, within half.
    """
    model = load_model("Llama-2-7B").model
    asked = Scenario(model, "decode", 1, context=300, setting=Setting(convention=CONVENTIONS["eager"]))
    slow = replace(asked, setting=Setting(convention=lacking(CONVENTIONS["eager"], ["cuda-graphs"])))
    without, with_graphs = (1 / predict(each, A100).time_s() for each in (slow, asked))
    assert 25.5 / 1.5 <= without <= 1.5 * 25.5
    assert with_graphs >= 107.0
    assert with_graphs / without > 107.0 / 25.5


@pytest.mark.parametrize("family", ["llama", "starcoder2"])
def test_a_step_waits_for_the_kernels_that_torch_dispatches(family: str) -> None:
    """A further layer of transformers' code, one token, on the meta device: all but views.

    StarCoder2 has LayerNorm, which is one kernel of torch, and an activation without a gate.
    """
    torch = pytest.importorskip("torch")
    auto = pytest.importorskip("transformers.models.auto")
    from torch.utils._python_dispatch import TorchDispatchMode

    nothing = {"expand", "reshape", "slice", "transpose", "unsqueeze", "view", "dropout"}
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 4}
    tokens = {"vocab_size": 100, "bos_token_id": 0, "eos_token_id": 0}

    class Counter(TorchDispatchMode):  # type: ignore[misc]
        launched = 0

        def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            found = op(*args, **(kwargs or {}))
            self.launched += op.overloadpacket.__name__ not in nothing
            return found

    def launched(layers: int) -> int:
        config = auto.AutoConfig.for_model(family, num_hidden_layers=layers, **sizes, **tokens)
        with torch.device("meta"), torch.inference_mode():
            model = auto.AutoModelForCausalLM.from_config(config).to(torch.bfloat16).eval()
            cache = model(torch.ones(1, 8, dtype=torch.long)).past_key_values
            token = torch.ones(1, 1, dtype=torch.long)
            with Counter() as counter:
                model(token, past_key_values=cache)
        return counter.launched

    def waited_s(layers: int) -> float:
        """Of each step that decodes, whose kernels take no time to speak of."""
        fields = {"model_type": family, "num_hidden_layers": layers, **sizes, **tokens}
        setting = Setting(convention=lacking(CONVENTIONS["eager"], ["cuda-graphs"]))
        asked = Scenario(build(Config(fields, family), family), "generate", 1, 8, output=5, setting=setting)
        return predict(asked, A100).time_s("decode") / 4

    assert (waited_s(3) - waited_s(2)) / assumed().each_s == pytest.approx(launched(3) - launched(2))


@pytest.mark.parametrize("known", [{"launch_s": 5e-6}, {"constants": {("none", "bf16"): None}}])
def test_latencies_that_were_measured_with_operators_are_not_waited_for_again(known: dict[str, Any]) -> None:
    asked = replace(DECODE, setting=Setting(convention=lacking(FUSED, ["cuda-graphs"])))
    limits = ceilings(A100)
    without, measured = (predict(asked, A100, limits=each) for each in (limits, replace(limits, **known)))
    assert {row.name for row in without.rows} - {row.name for row in measured.rows} == {"launches"}


def test_memory_without_blocks_is_that_of_all_positions() -> None:
    """vLLM, arXiv:2309.06180: before it, memory was reserved for the longest sequence there may be."""
    asked = Scenario(MODEL, batch=4, prompt=1000, output=24)
    cached = predicted(asked, "paged-attention").memory()["kv_cache_bytes"]
    assert cached == 4 * MODEL.max_position * 2 * 2 * 32 * 8 * 128
    with_blocks = predicted(asked, "paged-attention", words=("paged-attention",)).memory()
    assert with_blocks == predicted(asked, words=("paged-attention",)).memory()


def test_a_model_without_a_longest_sequence_says_nothing_of_what_is_reserved() -> None:
    """T5's relative positions have no end."""
    with pytest.raises(InputError, match="T5-small has no longest sequence"):
        predicted(Scenario(load_model("T5-small").model, prompt=100, output=10), "paged-attention")


@pytest.mark.parametrize("name", [n for n, t in known().items() if t.counted(FUSED)])
def test_what_is_left_out_and_applied_again_is_as_it_was(name: str) -> None:
    asked = replace(DECODE, batch=2)
    again = f"{name}:block=1" if name == "paged-attention" else f"{name}:rows=1" if "flat" in name else name
    before, after = predicted(asked), predicted(asked, name, words=(again,))
    assert after.time_s() == pytest.approx(before.time_s(), rel=1e-9)
    assert after.memory()["memory_bytes"] == pytest.approx(before.memory()["memory_bytes"], rel=1e-3)
    assert predicted(asked, name).time_s() >= before.time_s()


def test_a_convention_is_found_by_the_name_that_it_gets() -> None:
    lacks = lacking(FUSED, ["split-kv", "FLAT_GEMM", "flash-decoding"])
    assert lacks.name == "fused without flash-decoding, flat-gemm"
    assert convention(lacks.name) == lacks
    _, (asked,) = scenarios("Llama-3.1-8B", Asked(without=("flash-decoding", "flat-gemm")))
    assert asked.setting.convention == lacks


@pytest.mark.parametrize(
    ("counted", "name", "sentence"),
    [
        ("fused", "awq", "weight-only-quantisation is not counted in .* fused, .* flash-decoding"),
        ("eager", "fusion", "fused-elementwise is not counted in a prediction of convention eager"),
        ("fused", "flash-decodin", "did you mean flash-decoding"),
    ],
)
def test_what_is_not_counted_cannot_be_left_out(counted: str, name: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        lacking(CONVENTIONS[counted], [name])


def test_a_device_whose_processors_nobody_knows_is_told() -> None:
    asked = replace(DECODE, setting=Setting(convention=lacking(FUSED, ["flash-decoding"])))
    with pytest.raises(InputError, match="TPU-v4 is no GPU whose file states its processors"):
        predict(asked, load_device("tpu_v4"))
    asked = replace(DECODE, setting=Setting(convention=lacking(FUSED, ["cuda-graphs"])))
    with pytest.raises(InputError, match=r"TPU-v4 is no GPU .* to launch kernels was measured"):
        predict(asked, load_device("tpu_v4"))


def test_whatif_tells_what_the_baseline_has_and_ranks_what_it_lacks() -> None:
    found = whatif(DECODE, H100)
    worth = {o.techniques[0].name: o for o in found.counted}
    assert set(worth) >= {"flash-decoding", "flash-attention", "fused-elementwise", "paged-attention"}
    assert worth["flash-decoding"].after is found.baseline
    assert "without idle processors" in worth["flash-decoding"].why()
    assert "100 % less launch latency; launch-bound before" in worth["cuda-graphs"].why()
    assert (
        "changes nothing" in found.refused["flat-gemm"] or "counts it already" in found.refused["flat-gemm"]
    )
    lacks = whatif(replace(DECODE, setting=Setting(convention=lacking(FUSED, ["flash-decoding"]))), H100)
    gained = next(o for o in lacks.outcomes if [t.name for t in o.techniques] == ["flash-decoding"])
    assert gained.speedup == pytest.approx(worth["flash-decoding"].speedup)


def test_floors_of_many_devices_and_grids_agree_with_one_prediction() -> None:
    asked = replace(DECODE, setting=Setting(convention=lacking(FUSED, ["flash-decoding", "flat-gemm"])))
    bounds = Bounds(asked, [A100, H100, load_device("tpu_v4")], Goal.parse("tpot=1us"))
    alone = [predict(asked, device).totals()["tpot_s"] for device in (A100, H100)]
    assert bounds.missed(Option(1))[:2] == pytest.approx([1e6 * tpot for tpot in alone])
    assert not Grid.fits([asked, replace(asked, batch=2)])
