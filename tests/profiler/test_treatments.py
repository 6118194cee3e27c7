"""Techniques run on a tiny model: results are those that they should be, and the model is as before."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain, count, repeat
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from specfiles.errors import InputError
from tests.profiler.conftest import LLAMA
from workloads.catalogue import load_model
from workloads.techniques.decoding import expected_tokens
from workloads.techniques.registry import known, parse

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from profiler.forward import Point, step  # noqa: E402
from profiler.repeats import ALL, CALM, KNOWN_FROM, NARROW, SPENT, WARM_UP_S, Effort, uncertainty  # noqa: E402
from profiler.subject import Subject  # noqa: E402
from profiler.treatments import measure, speculation, weight_only  # noqa: E402
from profiler.treatments.base import Pair, apart, logits  # noqa: E402
from profiler.treatments.drafting import TOKENS, Decoder, acceptance  # noqa: E402
from profiler.treatments.eight_bit import narrow  # noqa: E402
from profiler.treatments.measure import TREATMENTS, deviation, measured, per_token, treatment  # noqa: E402
from profiler.treatments.products import checked  # noqa: E402
from profiler.treatments.sparsity import _sparse, halved  # noqa: E402
from profiler.treatments.speculation import _beside, _Drafter  # noqa: E402
from profiler.treatments.weight_only import _grouped, _packed  # noqa: E402

pytestmark = pytest.mark.usefixtures("inference")
MakeSubject = Callable[..., Subject]
PREFILL, DECODE = Point("prefill", 2, 40, 40), Point("decode", 1, 1, 61)
EXACT = {
    "flash-attention": "flash-attention",
    "window-attention": "window-attention:window=16",
    "prefix-caching": "prefix-caching:hit=0.7",
    "self-speculative-decoding": "self-speculative:layers=0.7,k=3",
    "speculative-decoding": "speculative:k=3,draft=one-layer.json",
    "weight-offloading": "weight-offloading:share=0.7",
    "kv-offloading": "kv-offloading",
}
COMPILED, CAPTURED = "fused-elementwise", "cuda-graphs"  # need a compiler, a GPU


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the config of a draft model: one layer, and the vocabulary of the tiny models."""
    folder = tmp_path_factory.mktemp("models")
    fields = {**LLAMA, "model_type": "llama", "num_hidden_layers": 1, "max_position_embeddings": 256}
    (folder / "one-layer.json").write_text(json.dumps(fields))
    return folder


@pytest.fixture(autouse=True)
def beside_models(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(models)


def pair(words: str, subject: Subject, point: Point) -> Pair:
    technique = parse(words)
    return TREATMENTS[technique.name].pair(technique, subject, point)


@pytest.mark.parametrize("words", EXACT.values())
def test_what_should_change_nothing_changes_nothing(words: str, subject: MakeSubject) -> None:
    how = TREATMENTS[parse(words).name]
    for point in (PREFILL, DECODE):
        if point.phase in how.phases:
            assert deviation(pair(words, subject(max_position_embeddings=256), point)) < 1e-5


def test_every_treatment_is_of_a_technique_and_exact_ones_are_checked() -> None:
    for name, how in TREATMENTS.items():
        assert known()[name].name == name
        assert how.exact == (name in EXACT or name in (COMPILED, CAPTURED))
        assert how.exact == (known()[name].quality == "exact" or name == "window-attention")


@pytest.mark.parametrize(
    "words", [*EXACT.values(), "weight-only:format=int8", "layer-pruning:ratio=0.5", "gqa:kv_heads=1"]
)
def test_the_model_is_as_before(words: str, subject: MakeSubject) -> None:
    ours = subject(max_position_embeddings=256)
    run = partial(step(ours, DECODE, DECODE.kv_len), logits)
    before = run()
    measured(parse(words), ours, DECODE, Effort(2))
    assert torch.equal(run(), before)


def test_a_window_that_sees_too_much_is_found_out(subject: MakeSubject) -> None:
    """The comparison can fail: against the step that sees everything, the results differ."""
    found = pair("window-attention:window=16", subject(), DECODE)
    assert deviation(Pair(found.plain, found.treated, found.technique)) > 1e-3


def test_wrong_results_are_not_timed(subject: MakeSubject, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = subject()
    wrong = Pair(lambda: torch.ones(3), lambda: torch.tensor([1.0, 1.0, 1.1]), parse("flash-attention"))
    monkeypatch.setattr(TREATMENTS["flash-attention"], "pair", lambda *_: wrong, raising=False)
    monkeypatch.setattr(measure, "_in_turn", None)
    with pytest.raises(
        InputError, match=r"was not timed: its results differ by 0\.1 of the largest, 0\.0001 is"
    ):
        measured(parse("flash-attention"), ours, PREFILL, Effort(3))


def test_int8_weights_give_nearly_the_same(subject: MakeSubject) -> None:
    for dtype in ("fp32", "bf16"):
        difference = deviation(pair("weight-only:format=int8", subject(dtype=dtype), PREFILL))
        assert 1e-4 < difference < 0.2


@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_a_compiled_step_gives_the_same(subject: MakeSubject) -> None:
    row = measured(parse("torch-compile"), subject(num_hidden_layers=1), DECODE, Effort(2))
    assert row is not None
    assert row["deviation"] < 1e-5
    assert row["remark"].startswith("compiled in ")
    assert row["convention"] == "eager"


def test_without_a_compiler_nothing_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(InputError, match=r"cannot be measured here: torch.compile needs a C\+\+ comp"):
        treatment(parse("torch-compile"), "cpu", "fp32", ["decode"])


@pytest.mark.gpu
@pytest.mark.parametrize("words", ["cuda-graphs", "torch-compile"])
@pytest.mark.parametrize("point", [PREFILL, DECODE])
def test_a_gpu_replays_and_compiles_the_same(
    words: str, point: Point, subject: MakeSubject, cuda: str
) -> None:
    row = measured(parse(words), subject(device=cuda, dtype="bf16", num_hidden_layers=8), point, Effort(9))
    assert row is not None
    if words == "cuda-graphs":
        assert row["deviation"] < 1e-3  # the same kernels
        assert row["gain"] > 1  # of kernels this small the launches are nearly all


def test_of_every_four_weights_the_larger_two_stay() -> None:
    weight = torch.randn(16, 64)
    found = halved(weight)
    kept = found != 0
    assert (kept.view(-1, 4).sum(1) == 2).all()
    assert torch.equal(found[kept], weight[kept])
    smallest_kept = found.abs().view(-1, 4).sort(1, descending=True).values[:, 1]
    assert (weight.abs().masked_fill(kept, 0).view(-1, 4).amax(1) <= smallest_kept).all()
    assert torch.equal(halved(torch.tensor([[1.0, -4.0, 3.0, 2.0]])), torch.tensor([[0.0, -4.0, 3.0, 0.0]]))


def test_fp8_products_are_those_of_rounded_numbers() -> None:
    """e4m3 keeps three bits behind the first: a product of sums of random signs is off by a few per cent."""
    linear = torch.nn.Linear(128, 64).to(torch.bfloat16)
    rows = torch.randn(2, 3, 128, dtype=torch.bfloat16)
    exact = linear(rows).float()
    found = narrow(linear, rows.abs().max())(rows).float()
    assert found.shape == (2, 3, 64)
    assert 1e-3 < apart(exact, found) < 0.08
    cut = narrow(linear, rows.abs().max() / 4)(rows).float()
    assert apart(exact, cut) > 2 * apart(exact, found)  # inputs beyond the largest that was seen
    with pytest.raises(InputError, match=r"multiples of 16; one is .64, 100."):
        narrow(torch.nn.Linear(100, 64), rows.abs().max())


def test_fp8_is_scaled_by_what_each_projection_reads(subject: MakeSubject) -> None:
    ours = subject(dtype="bf16", num_attention_heads=4, hidden_size=64)
    for point in (PREFILL, DECODE):
        assert 1e-3 < deviation(pair("fp8", ours, point)) < 0.3


def test_eight_bits_run_on_a_cpu(subject: MakeSubject) -> None:
    """fp8 by the operator that a GPU runs, INT8 by FBGEMM under its own name: rows and weights are narrow."""
    row = measured(
        parse("fp8"), subject(dtype="bf16", num_attention_heads=4, hidden_size=64), DECODE, Effort(3)
    )
    assert row is not None
    assert 0 < row["deviation"] < 0.3
    assert "widens them" in row["remark"]
    rounded = measured(parse("w8a8"), subject(num_attention_heads=4, hidden_size=64), DECODE, Effort(3))
    assert rounded is not None
    assert 0 < rounded["deviation"] < 0.1
    assert treatment(parse("w8a8"), "cpu", "fp32", ["decode"]).name == "weight-activation-quantisation"


def test_kept_weights_are_packed_with_two_bits_each() -> None:
    """What CUTLASS packs of them (torch's own conversion, which runs on a CPU): values and 2-bit places."""
    conversions = pytest.importorskip("torch.sparse._semi_structured_conversions")
    kept = halved(torch.randn(64, 128).to(torch.bfloat16))
    packed, places = conversions.sparse_semi_structured_from_dense_cutlass(kept)
    assert packed.numel() == kept.numel() / 2
    assert 8 * places.element_size() * places.numel() == 2 * packed.numel()
    assert torch.equal(conversions.sparse_semi_structured_to_dense_cutlass(packed, places), kept)
    with pytest.raises(InputError, match=r"in multiples of 32 and 64; one is .48, 100."):
        _sparse("bf16", torch.nn.Linear(100, 48))


@pytest.mark.parametrize("format", ["int8", "int4_g32"])
def test_narrow_products_in_bf16_are_checked(format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that reads its weights otherwise than they are stored is found out before it is timed."""
    linear = torch.nn.Linear(128, 64, bias=False).to(torch.bfloat16)
    _packed(linear, format)
    for name in ("_int8", "_int4_cpu"):
        right = getattr(weight_only, name)
        monkeypatch.setattr(weight_only, name, lambda *given, right=right: right(*given).flip(1))
    with pytest.raises(InputError, match="from the plain one with the same numbers, "):
        _packed(linear, format)


def test_a_product_that_is_not_what_it_stores_is_refused() -> None:
    weight = torch.randn(32, 64)
    with pytest.raises(InputError, match=r"a product of .32, 64. differs by .* of the largest result"):
        checked(lambda rows: rows @ weight.t() * 1.1, weight, "fp32")
    assert checked(lambda rows: rows @ weight.t(), weight, "fp32") is not None


def test_models_without_projections_to_exchange_say_so(subject: MakeSubject) -> None:
    with pytest.raises(InputError, match=r"the layers of tiny-gpt2 have no torch.nn.Linear to exchange"):
        pair("weight-only:format=int8", subject("gpt2"), DECODE)


@pytest.mark.gpu
@pytest.mark.parametrize("words", EXACT.values())
def test_a_gpu_changes_nothing_either(words: str, subject: MakeSubject, cuda: str) -> None:
    """Or `measured` refuses to time it."""
    ours = subject(device=cuda, dtype="bf16", max_position_embeddings=256)
    points = [point for point in (PREFILL, DECODE) if point.phase in TREATMENTS[parse(words).name].phases]
    for point in points:
        assert measured(parse(words), ours, point, Effort(3)) is not None


@pytest.mark.gpu
@pytest.mark.parametrize("words", ["2:4", "fp8", "weight-only:format=int4_g64", "weight-only:format=int8"])
@pytest.mark.parametrize("point", [PREFILL, DECODE])
def test_a_gpu_multiplies_in_narrow_formats(
    words: str, point: Point, subject: MakeSubject, cuda: str
) -> None:
    """Products are compared with plain ones before; with half the weights left out logits are others."""
    technique = parse(words)
    if reason := TREATMENTS[technique.name].refuse(technique, cuda, "bf16"):
        pytest.skip(reason)
    sizes = {"hidden_size": 256, "num_attention_heads": 8, "intermediate_size": 512}
    row = measured(technique, subject(device=cuda, dtype="bf16", **sizes), point, Effort(3))
    assert row is not None
    assert 1e-3 < row["deviation"] < 2
    assert min(row["base_s"], row["treated_s"]) > 0


def test_int4_weights_in_groups_are_multiplied_as_they_are_stored() -> None:
    linear = torch.nn.Linear(128, 64, bias=True).to(torch.bfloat16)
    rows = torch.randn(3, 5, 128, dtype=torch.bfloat16)
    _, scales = _grouped(linear.weight.float(), 32, torch.bfloat16)
    assert scales.shape == (4, 64, 2)
    step_size = scales[..., 0].float().max()
    found = _packed(linear, "int4_g32")(rows)
    assert found.shape == (3, 5, 64)
    most = rows.float().abs().sum(-1, keepdim=True) * (step_size / 2 + 0.01)  # half a step per weight
    assert ((found.float() - linear(rows).float()).abs() <= most).all()
    identity = torch.eye(128, dtype=torch.bfloat16)
    stored = (_packed(linear, "int4_g32")(identity) - linear.bias).float().T
    assert (stored - linear.weight.float()).abs().max() <= step_size / 2 + 0.01
    with pytest.raises(InputError, match="64 x 128 has no whole groups of 96"):
        _grouped(linear.weight.float(), 96, torch.bfloat16)


def test_drafts_by_all_layers_are_all_kept(subject: MakeSubject) -> None:
    found = pair("self-speculative:layers=1,k=3", subject(max_position_embeddings=256), DECODE)
    assert found.technique.accept == pytest.approx(1)  # type: ignore[attr-defined]
    assert found.tokens == TOKENS
    assert found.plain().shape == found.treated().shape == (1, TOKENS + 1)


def test_drafts_change_no_token_whoever_drafts(subject: MakeSubject) -> None:
    """Speculative decoding is greedy decoding: with a model's drafts, right ones, wrong ones, and some."""
    ours = subject(max_position_embeddings=256)
    decoder = Decoder(ours, ours.tokens(1, 40), k=3)
    plain = decoder.plain()

    def right(tokens: list[Any], k: int) -> Any:
        behind = torch.cat([plain, plain[:, :1].expand(1, k)], 1)  # beyond the end anything
        return behind[:, len(tokens) : len(tokens) + k]

    def wrong(tokens: list[Any], k: int) -> Any:
        return (right(tokens, k) + 1) % 101

    def first(tokens: list[Any], k: int) -> Any:
        return torch.cat([right(tokens, 1), wrong(tokens, k)[:, 1:]], 1)

    rounds = {}
    for draft in (right, wrong, first):
        found, rounds[draft] = decoder.drafted(draft)
        assert torch.equal(found, plain)
    assert rounds == {right: TOKENS // 4, wrong: TOKENS, first: TOKENS // 2}
    assert decoder.shortfall(plain) < 1e-6
    assert decoder.shortfall((plain + 1) % 101) > 0.1  # other tokens are found out


def test_a_model_that_drafts_for_itself_is_always_right(
    subject: MakeSubject, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its cache holds the right tokens after every round, also where all drafts were kept."""
    ours = subject(max_position_embeddings=256)
    decoder, own = _beside(ours, ours, 1, 40, 3)
    found, rounds = decoder.drafted(own)
    assert rounds == TOKENS // 4
    assert torch.equal(found, decoder.plain())


def test_a_draft_that_is_kept_in_part_forgets_the_rest(subject: MakeSubject) -> None:
    """What it drafts next is what it would say behind the tokens that stayed."""
    ours = subject(max_position_embeddings=256)
    context, first = ours.tokens(1, 20), torch.tensor([[5]])
    small, fresh = (_Drafter(ours, context, 4) for _ in range(2))
    drafts = small([first], 4)
    behind = [first, drafts[:, :1], (drafts[:, 1:2] + 1) % 101]
    assert torch.equal(small(behind, 4), fresh(behind, 4))


@pytest.mark.parametrize("batch", [1, 3])
def test_a_round_is_timed_and_its_yield_assumed_where_weights_are_random(
    subject: MakeSubject, batch: int
) -> None:
    at = Point("decode", batch, 1, 41)
    words = "speculative:k=3,accept=0.5,draft=one-layer.json"
    found = pair(words, subject(max_position_embeddings=256), at)
    said, kept = found.treated()
    assert said.shape == (batch, 4)
    assert len(kept) == batch
    assert found.treated_tokens == pytest.approx(1 + 0.5 + 0.25 + 0.125)
    assert "assumed (accept=0.5)" in found.remark
    assert found.technique == parse("speculative:k=3,accept=0.5,draft=draft-one-layer.json")
    base, treated = per_token(found, [2.0, 3.0], [3.75, 1.875])
    assert base == [2.0, 3.0]
    assert treated == pytest.approx([2.0, 1.0])


def test_the_yield_is_measured_where_weights_are_trained(
    subject: MakeSubject, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = subject(max_position_embeddings=256)
    monkeypatch.setattr(ours, "weights", "a file")
    monkeypatch.setattr(speculation, "load_subject", lambda *_, **__: ours)
    found = pair("speculative:k=3,accept=0.1,draft=one-layer.json", ours, DECODE)
    assert found.technique.accept == pytest.approx(1)  # type: ignore[attr-defined]
    assert found.treated_tokens == pytest.approx(4)
    assert "is measured" in found.remark


def test_a_draft_needs_the_same_vocabulary(subject: MakeSubject) -> None:
    with pytest.raises(
        InputError, match="49152 tokens in its vocabulary, tiny-llama 101; a draft model needs"
    ):
        pair("speculative:draft=SmolLM2-135M", subject(), DECODE)
    with pytest.raises(InputError, match="that can be measured is smaller than tiny-llama and has its vocab"):
        pair("speculative", subject(), DECODE)


@given(st.floats(0.01, 0.99), st.integers(1, 12))
def test_the_acceptance_is_the_one_that_yields_as_many_tokens(accept: float, k: int) -> None:
    assert acceptance(expected_tokens(accept, k), k) == pytest.approx(accept, abs=1e-6)


def test_a_round_that_yields_nothing_more_keeps_no_draft() -> None:
    assert acceptance(1.0, 4) == 0.0


def test_copies_for_shared_heads_are_told(subject: MakeSubject) -> None:
    assert "copied for each head" in pair("sdpa", subject(), DECODE).remark
    assert pair("sdpa", subject(num_key_value_heads=6), DECODE).remark == ""


def test_the_fused_kernel_is_compared_with_separate_ones_however_the_model_attends(
    subject: MakeSubject,
) -> None:
    ours = subject()
    for attention in ("sdpa", "eager"):
        ours.network.set_attn_implementation(attention)
        found = pair("sdpa", ours, DECODE)
        with found.around_plain():
            assert ours.attention == "eager"
        with found.around_treated():
            assert ours.attention == "sdpa"
        assert ours.attention == attention
    row = measured(parse("layer-pruning"), ours, DECODE, Effort(1))
    assert row is not None
    assert row["convention"] == "unfused"
    with pytest.raises(
        InputError, match="tiny-gpt_oss caps its scores or has sinks, which no fused attention"
    ):
        pair("sdpa", subject("gpt_oss"), DECODE)


def test_half_the_layers_are_run(subject: MakeSubject) -> None:
    ours = subject(num_hidden_layers=4)
    found, ran = pair("layer-pruning:ratio=0.5", ours, PREFILL), []
    hooks = [
        layer.register_forward_hook(lambda *_, i=i: ran.append(i))
        for i, layer in enumerate(ours.network.model.layers)
    ]
    with found.around_treated():
        found.treated()
    assert ran == [0, 2]
    ran.clear()
    found.plain()
    assert ran == [0, 1, 2, 3]
    for hook in hooks:
        hook.remove()


class Turned:
    """A step without and with a technique on a clock that passes by what they say they took."""

    def __init__(self, plain: Iterator[float], treated: Iterator[float]) -> None:
        self.order: list[str] = []
        self.passed = 0.0
        self.pair = Pair(self._ran("plain", plain), self._ran("treated", treated), parse("flash-attention"))

    def _ran(self, name: str, times: Iterator[float]) -> Callable[[], float]:
        def run() -> float:
            self.order.append(name)
            return next(times)

        return run

    def _seconds(self, run: Callable[[], float]) -> float:
        took = run()
        self.passed += took
        return took

    def measured(self, effort: Effort) -> measure._Turns:
        return measure._in_turn(self.pair, self._seconds, effort, lambda: self.passed)


def test_times_are_of_runs_in_turn() -> None:
    """A machine that slows down evenly: neighbours differ by the technique alone, whatever came first."""
    slower = (1 + i / 1e6 for i in count())
    ran = Turned((3.0 * next(slower) for _ in count()), (1.5 * next(slower) for _ in count()))
    found = ran.measured(Effort(4))
    assert (len(found.base), found.warm_ups, found.ended) == (4, 1, ALL)  # a step of seconds is warm at once
    assert ran.order[2:] == ["treated", "plain", "plain", "treated"] * 2
    assert [a / b for a, b in zip(found.base, found.treated, strict=True)] == pytest.approx(
        [2.0] * 4, rel=1e-4
    )


def test_a_gain_is_known_although_the_machine_is_not_steady() -> None:
    """Both take half as long again in every other turn: their times say little, their ratio all."""
    busy = [1.0, 1.0, 1.5, 1.5] * 100
    found = Turned((2e-3 * b for b in busy[::2]), (1e-3 * b for b in busy[::2])).measured(
        Effort(50, precision=0.01)
    )
    assert uncertainty(found.base) > 0.1
    assert (len(found.base), found.ended) == (KNOWN_FROM, NARROW)


def test_both_steps_are_warm_before_the_first_turn() -> None:
    """One becomes faster for longer than the other: of neither is a call counted that did."""
    ran = Turned(repeat(2e-3), chain((8e-3, 4e-3, 2e-3), repeat(1e-3)))
    found = ran.measured(Effort(5))
    assert (set(found.base), set(found.treated)) == ({2e-3}, {1e-3})
    assert found.warm_ups == 4 + CALM


def test_a_long_warm_up_and_a_budget_end_what_never_settles() -> None:
    draw = random.Random(5)
    ran = Turned((0.4 * 0.9**i for i in count()), (draw.uniform(0.1, 2.0) for _ in count()))
    found = ran.measured(Effort(1000, budget_s=10.0, precision=1e-6))
    assert found.ended == SPENT
    assert sum(found.base) + sum(found.treated) >= 10.0
    assert sum(found.base[:-1]) + sum(found.treated[:-1]) < 10.0
    assert found.warm_ups == 3  # 0.4, 0.36 and 0.324 s are together longer than it may last
    assert 0.4 + 0.36 < WARM_UP_S < 0.4 + 0.36 + 0.324


@pytest.mark.parametrize(
    ("words", "dtype", "said"),
    [
        ("medusa", "fp32", "medusa is not measured by `profile --with`, which knows: weight-only"),
        ("awq", "fp32", "no kernel for rows in fp32 and weights in int4_g128 .it has int8"),
        ("2:4", "bf16", "PyTorch has no 2:4 kernels for a CPU; it needs CUDA"),
        ("cuda-graphs", "bf16", "a CPU has no CUDA graphs"),
        ("fp8", "fp32", "its results are in 16 bits; take --dtype bf16"),
        ("nvfp4", "bf16", "public kernels multiply in fp8, not in nvfp4; take format=fp8"),
        ("smoothquant", "bf16", "FBGEMM quantises rows of fp32; take --dtype fp32"),
        ("awq", "fp16", "weights in int4_g128 .take --dtype bf16 or fp32"),
        ("nf4", "bf16", "no kernel for rows in bf16 and weights in nf4"),
        ("self-speculative", "fp32", "it is measured in decode, and no such step was asked for"),
    ],
)
def test_what_cannot_be_measured_says_why(words: str, dtype: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        treatment(parse(words), "cpu", dtype, ["prefill"])


def test_a_run_holds_gains_and_validate_and_report_show_them(
    small_llama: Path, measured_file: Path, roofline: Callable[..., Any], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    sizes = ("--device", "cpu", "--prompt", 64, "--output", 2, "--repeats", 3, "--no-alone")
    small = tmp_path / "small.json"
    fields = json.loads((small_llama / "config.json").read_text())
    small.write_text(json.dumps({**fields, "num_hidden_layers": 1}))
    speculative = f"speculative:k=2,draft={small}"
    words = ("--with", "prefix-caching", "--with", "layer-pruning:ratio=0.5", "--with", speculative)
    done = roofline("profile", small_llama, *sizes, *words, "--hw", measured_file, "-o", run)
    assert done.code == 0, done.err
    table = pd.read_parquet(run / "techniques.parquet")
    assert table[["phase", "technique"]].to_numpy().tolist() == [
        ["prefill", "prefix-caching:hit=0.5"],
        ["prefill", "layer-pruning:ratio=0.5"],
        ["decode", "layer-pruning:ratio=0.5"],
        ["decode", "speculative-decoding:k=2,accept=0.75,draft=draft-small.json"],
    ]
    small.unlink()  # the run keeps what it needs
    assert (table[["base_s", "treated_s", "gain"]] > 0).all(axis=None)
    assert (table["gain_low"] <= table["gain"]).all()
    assert (table["gain"] <= table["gain_high"]).all()
    assert table["repeats"].tolist() == [3] * 4
    assert table["ended"].tolist() == [ALL] * 4
    assert (table["warm_ups"] >= 1).all()
    notes = json.loads((run / "run.json").read_text())["notes"]
    assert sum("times as fast" in note and "3 repeats in turn" in note for note in notes) == 4
    shown = roofline("validate", run, "--hw", measured_file)
    assert "techniques: the same step without and with each" in shown.out
    entry = json.loads(roofline("validate", run, "--hw", measured_file, "--format", "json").out)
    assert entry["fidelities"][-1]["techniques"][-1]["remark"].startswith("the cost of a round is measured")
    for row in entry["fidelities"][-1]["techniques"]:
        assert row["predicted_gain"] == pytest.approx(row["predicted_base_s"] / row["predicted_s"])
        assert row["error"] == pytest.approx(row["predicted_gain"] / row["gain"] - 1)
    page = tmp_path / "report.html"
    assert roofline("report", run, "-o", page).code == 0
    assert 'layer-pruning<br><small class="quiet">ratio=0.5</small>' in page.read_text()


def test_wrong_techniques_stop_before_anything_is_written(
    small_llama: Path, roofline: Callable[..., Any], tmp_path: Path
) -> None:
    sizes = ("--device", "cpu", "--prompt", 64, "--output", 2)
    done = roofline("profile", small_llama, *sizes, "--with", "speculative", "-o", tmp_path / "run")
    assert done.code == 2
    assert "no shipped model that can be measured is smaller than small-llama" in done.err
    assert "draft=FILE" in done.err
    done = roofline("profile", small_llama, *sizes, "--with", "2:4", "-o", tmp_path / "run")
    assert done.code == 2
    assert "sparsity-2:4 cannot be measured here: PyTorch has no 2:4 kernels for a CPU" in done.err
    assert not (tmp_path / "run").exists()


def test_only_models_that_can_be_built_draft() -> None:
    """MobileLLM has the vocabulary of Llama 2 and no code in transformers: it drafts in predictions only."""
    assert speculation.drafter("auto", load_model("Llama-2-70B").model).model.name == "Llama-2-7B"
    with pytest.raises(InputError, match="no shipped model that can be measured is smaller than Llama-2-7B"):
        speculation.drafter("auto", load_model("Llama-2-7B").model)
