"""Ranges bear the descriptor's names, as often as it says, change no result and leave nothing behind."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from profiler.forward import Point, greedy, step
from profiler.instrument import instrumented
from profiler.parts.base import FACTORS, FRAMEWORK, HEADS, INPUTS
from profiler.ranges import EMBEDDING, FAMILIES, family
from profiler.recorders import HostClock, InTurn, Marks, Recorder, Trace
from profiler.steps import operators_at
from profiler.subject import Subject
from roofline.together import JOIN
from specfiles.errors import InputError
from workloads.catalogue import Loaded
from workloads.families.encoders import ROBERTAS
from workloads.model import Model
from workloads.operators import Rope
from workloads.work import Role

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

POINTS = [Point("prefill", 2, 12, 12), Point("decode", 2, 1, 13)]
CAPACITY = 16
ENCODERS = ("bert", *ROBERTAS, "distilbert")
# Which prepare types and positions before the first embedding, after streams were copied, for a second kind
# of layer, or after a gap and in a module of their own.
OTHER_INPUTS = {**dict.fromkeys((*ENCODERS, "deepseek_v4"), 1), "gemma4_text": -1, "zaya": 1}
NUMBER = re.compile(r"\.\d+$")  # of another operator of the same name


def points_of(name: str) -> list[Point]:
    """A family's steps: encoders decode nothing, decoders behind one read what it made of 12 tokens."""
    points = POINTS[: 1 if name in ENCODERS else None]
    return [replace(point, encoder_len=12) for point in points] if FAMILIES[name].encoder else points


EVERY_STEP = pytest.mark.parametrize(
    ("name", "point"),
    [(name, point) for name in FAMILIES for point in points_of(name)],
    ids=lambda value: value.phase if isinstance(value, Point) else value,
)


class Tally:
    """A recorder that writes down which ranges begin and end."""

    def __init__(self) -> None:
        self.log: list[tuple[str, str]] = []

    def marks(self, name: str) -> Marks:
        return (lambda: self.log.append(("begin", name)),), (lambda: self.log.append(("end", name)),)

    @property
    def begun(self) -> Counter[str]:
        return Counter(name for what, name in self.log if what == "begin")


def ranges_of(subject: Subject, point: Point, **options: int) -> Tally:
    """The ranges of one step."""
    tally = Tally()
    with torch.inference_mode():
        run = step(subject, point, CAPACITY)
        with instrumented(subject, tally, greedy, **options) as watched:
            run(watched.sampler)
    return tally


# Calls of a mixer's functions in one execution: a convolution or scan, and the update of its state, which the
# function for a single position does itself but for the delta rule.
CALLS = {
    "prefill": {"conv1d": 2, "scan": 2, "ssd": 2, "rule": 2},
    "decode": {"conv1d": 1, "scan": 1, "ssd": 1, "rule": 2},
}


QK_NORMS = ("q_norm", "k_norm")
ONE_NORM = ("llama4_text", "muse_glimmer_text", "muse_spark_text")  # in which both are one module


TWICE = {
    ("gptj", "rope"),  # queries and keys are rotated, or normalised, by a call each
    *((name, norm) for name in ONE_NORM for norm in QK_NORMS),
    ("diffllama", "core"),  # for each half of the values
    ("zaya", "qk_conv1d"),  # with the update of its state
    ("zaya", "embedding_scale"),  # behind the rotary table of each kind of layer
}
TWICE_IN_PREFILL = {("zaya", "v_before_proj")}  # of the position before the first, too


def pieces(model: Model, name: str, phase: str = "prefill") -> int:
    """In how many ranges one execution is: a gated activation is a function of one product, then, after
    another product has run, a multiplication. Most model code has the two apart, so it makes two ranges.
    """
    parts, name = family(model), NUMBER.sub("", name)
    own = (model.family, name.rpartition(".")[2])
    if own in TWICE or (own in TWICE_IN_PREFILL and phase == "prefill"):
        return 2
    together = next((value for value in parts.functions.values() if name in apart(Counter([value]))), "")
    if parts.behind.get(together) == together != "":  # what runs behind a function is its own
        return 2 * CALLS[phase][together.partition(JOIN)[0].rpartition(".")[2]]
    filled = (before for before, then in parts.behind.items() if name in apart(Counter([then])))
    behind = sum(pieces(model, before, phase) for before in filled)
    if parts.is_recurrent and together:
        return CALLS[phase].get(name.rpartition(".")[2], 1) + behind
    kinds = (
        apart(Counter(gap.name for gap in kind.gaps))[name]  # a module's name may stand under several paths
        // (1 if parts.encoder else max(1, len(parts.attending)))  # as may gaps of layers that attend twice
        + bool(apart(Counter(kind.modules.values()))[name])
        for stack in parts.stacks
        for kind in (stack, *stack.kinds.values())
    )
    return max(1, behind + max(kinds))


def follow_each_other(log: list[tuple[str, str]]) -> None:
    """Ranges do not nest: the clocks pair each beginning with the next ending."""
    assert [what for what, _ in log] == ["begin", "end"] * (len(log) // 2)
    assert all(begin[1] == end[1] for begin, end in zip(log[::2], log[1::2], strict=True))


@EVERY_STEP
def test_ranges_are_the_operators_of_the_descriptor(
    name: str, point: Point, subject: Callable[..., Subject]
) -> None:
    model = subject(name)
    described = operators_at(model.loaded, "fp32", point)
    expected = {
        named.name: named.count * pieces(model.loaded.model, named.name, point.phase) for named in described
    }
    often = {"altup_mean": "altup_out_norm", "layers.shortcut_residual": "layers.mlp_residual"}
    for one in often.keys() & expected:  # in a range with each of these
        expected[one] = expected[often[one]]
    if name.startswith(("gemma3n", "gemma4")):  # a layer's own keys are rotated by a second call
        heads = model.network.config.num_attention_heads
        expected |= {
            named.name: 2 * named.count
            for named in described
            if isinstance(named.operator, Rope) and named.operator.heads > heads
        }
    tally = ranges_of(model, point)
    follow_each_other(tally.log)
    begun = tally.begun
    assert apart(begun) == expected
    beside = {name: count for name, count in begun.items() if name.startswith(FRAMEWORK)}
    counts = {named.name: named.count for named in described}
    outside = {name for stack in family(model.loaded.model).stacks for name in stack.outside.values()}
    before = sum(
        name.partition(JOIN)[0].rpartition(".")[2] in EMBEDDING
        for name in outside
        if unnumbered(name) <= set(counts)
    )
    parts = family(model.loaded.model)
    between = Counter(gap.name for gap in parts.gaps for _ in range(model.layers))
    for done, filling in (pair for stack in parts.stacks for pair in stack.behind.items()):
        fills = sum(counts.get(before, 0) for before, then in parts.behind.items() if then == done)
        ended = sum(times for found, times in begun.items() if unnumbered(found) == unnumbered(done))
        between[filling] += ended - (fills if JOIN in done else 0)
    assert beside == {
        INPUTS: before + OTHER_INPUTS.get(name, 0),
        **{name: between[name] for name in (HEADS, FACTORS) if between[name]},
    }


def test_a_falcon_h1_with_a_norm_has_its_gate_there(subject: Callable[..., Subject]) -> None:
    for point in POINTS:
        model = subject("falcon_h1", mamba_rms_norm=True)
        described = operators_at(model.loaded, "fp32", point)
        begun = ranges_of(model, point).begun
        assert set(apart(begun)) == {named.name for named in described}
        assert begun["layers.mamba.gate_mul + norm"] == model.layers


def test_a_zamba2_with_adapters_in_attention_has_their_range(subject: Callable[..., Subject]) -> None:
    changes = {"use_shared_attention_adapter": True, "use_mem_rope": True, "num_mem_blocks": 2}
    for point in POINTS:
        model = subject("zamba2", **changes)
        described = operators_at(model.loaded, "fp32", point)
        found = apart(ranges_of(model, point).begun)
        assert set(found) == {named.name for named in described}
        assert found["layers.attention.v_adapter_up"] == found["layers.attention.rope"] == 2


@pytest.mark.parametrize(
    ("name", "changes", "has", "lacks"),
    [
        ("hyperclovax", {"use_post_norm": False}, (), "post_norm"),
        (
            "granitemoehybrid",
            {"num_local_experts": 0},
            ("layers.mlp.gate_up_proj", "layers.mamba.ssd"),
            ".moe.",
        ),
        ("lfm3", {"use_sandwich_norm": False}, ("layers.attention.gate_mul",), "post_norm"),
        ("lfm3", {"use_attention_gate": False}, (), "attention.gate_mul"),
    ],
)
def test_what_a_config_leaves_out_has_no_range(
    name: str, changes: dict[str, Any], has: tuple[str, ...], lacks: str, subject: Callable[..., Subject]
) -> None:
    model, point = subject(name, **changes), POINTS[1]
    described = operators_at(model.loaded, "fp32", point)
    expected = {n.name: n.count * pieces(model.loaded.model, n.name, point.phase) for n in described}
    assert apart(ranges_of(model, point).begun) == expected
    assert set(has) <= set(expected)
    assert not any(lacks in name for name in expected)


@pytest.mark.parametrize(
    ("family", "at", "changes"),
    [
        ("t5", 0, {"feed_forward_proj": "relu"}),  # the first T5: an MLP without a gate
        ("t5", 1, {"feed_forward_proj": "relu"}),
        ("falcon", 1, {"parallel_attn": False, "bias": True, "multi_query": False}),  # Falcon-RW
        ("falcon", 1, {"new_decoder_architecture": True, "num_kv_heads": 2}),  # Falcon-40B: two norms
    ],
)
def test_every_t5_and_falcon_has_the_ranges_of_its_layers(
    family: str, at: int, changes: dict[str, Any], subject: Callable[..., Subject]
) -> None:
    model, point = subject(family, **changes), points_of(family)[at]
    described = operators_at(model.loaded, "fp32", point)
    assert apart(ranges_of(model, point).begun) == {named.name: named.count for named in described}


def apart(begun: Counter[str]) -> Counter[str]:
    """Ranges by operator: one that holds several counts for each of them, the framework's for none."""
    found: Counter[str] = Counter()
    for name, count in begun.items():
        if name.startswith(FRAMEWORK):
            continue
        first, *others = name.split(JOIN)
        scope = "" if NUMBER.search(first) else first.rpartition(".")[0]
        whole = (f"{scope}.{other}" if scope else other for other in others)
        found.update(dict.fromkeys((first, *whole), count))
    return found


def unnumbered(name: str) -> set[str]:
    """The operators of a range, without the numbers of those of one name."""
    return {NUMBER.sub("", one) for one in (apart(Counter([name])) or [name])}


@pytest.mark.parametrize("changes", [{"attention_bias": True}, {"num_key_value_heads": 6}, {"head_dim": 20}])
def test_shapes_do_not_change_the_ranges(changes: dict[str, Any], subject: Callable[..., Subject]) -> None:
    plain, changed = (ranges_of(subject("llama", **c), POINTS[0]).begun for c in ({}, changes))
    assert plain == changed


def test_only_the_gated_activation_comes_in_two_pieces(tiny: Callable[..., Loaded]) -> None:
    for name in FAMILIES:
        model = tiny(name).model
        parts = family(model)
        kinds = (kind for stack in parts.stacks for kind in (stack, *stack.kinds.values()))
        split = {n for kind in kinds for n in kind.modules.values() if pieces(model, n) > 1}
        split = {n.removeprefix("encoder.").removeprefix("decoder.") for n in split}
        twice = (own for of, own in TWICE | TWICE_IN_PREFILL if of == name)
        called_twice = {f"layers.attention.{own}" for own in twice}
        gated = {f"layers.{block}act_mul" for block in ("mlp.", "moe.shared_", "per_layer.")}
        scaled_apart = {"layers.moe.router_norm"}  # Gemma 4: behind a norm without a scale
        assert split <= gated | called_twice | scaled_apart


def test_layers_with_a_window_have_a_range_of_their_own(subject: Callable[..., Subject]) -> None:
    begun = ranges_of(subject("gemma3_text"), POINTS[0]).begun
    assert (begun["layers.attention.core.window8"], begun["layers.attention.core"]) == (2, 1)


@pytest.mark.gpu
@pytest.mark.parametrize("point", POINTS, ids=lambda p: p.phase)
def test_ranges_are_the_operators_on_cuda_too(
    point: Point, cuda: str, subject: Callable[..., Subject]
) -> None:
    model = subject("llama", device=cuda, dtype="bf16")
    described = operators_at(model.loaded, "bf16", point)
    assert set(apart(ranges_of(model, point).begun)) == {named.name for named in described}


def logits_of(subject: Subject, point: Point, recorder: Recorder | None) -> Any:
    """The logits of one step from the same cached and new tokens each time."""
    torch.manual_seed(7)
    with torch.inference_mode():
        run = step(subject, point, CAPACITY)
        if recorder is None:
            return run(lambda logits: logits.clone())
        with instrumented(subject, recorder, lambda logits: logits.clone()) as watched:
            return run(watched.sampler)


@pytest.mark.parametrize("name", list(FAMILIES))
def test_results_are_the_same_to_the_last_bit(name: str, subject: Callable[..., Subject]) -> None:
    model = subject(name)
    for point in points_of(name):
        plain = logits_of(model, point, None)
        assert plain.abs().max() > 0
        for recorder in (HostClock(), Trace(), Tally()):
            assert torch.equal(plain, logits_of(model, point, recorder)), (point, recorder)


def hooks(subject: Subject) -> dict[str, Any]:
    """Everything that instrumentation may replace, by name."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    from profiler.cache import MemoryLayer, PreallocatedLayer

    modeling = sys.modules[type(subject.network).__module__]
    own = {name: module.__dict__.get("forward") for name, module in subject.network.named_modules()}
    return {
        **own,
        "update": PreallocatedLayer.update,
        "memory": MemoryLayer.update,
        "sdpa": ALL_ATTENTION_FUNCTIONS["sdpa"],
        "eager": getattr(modeling, "eager_attention_forward", None),
        "rope": getattr(modeling, "apply_rotary_pos_emb", None),
        "names": sorted(vars(modeling)),
    }


@pytest.mark.parametrize("name", list(FAMILIES))
def test_leaving_puts_everything_back(name: str, subject: Callable[..., Subject]) -> None:
    model = subject(name)
    before = hooks(model)
    with instrumented(model, Tally(), greedy):
        inside = hooks(model)
    replaced = {name for name in before if before[name] is not inside[name] and name != "names"}
    own = family(model.loaded.model).attends_until  # attention that is no function of its own
    attention = [model.attention] if model.attention and not own else []
    assert {"update", *attention} <= replaced
    assert len(replaced) > 10
    assert hooks(model) == before


def test_a_forward_that_was_already_replaced_is_put_back(subject: Callable[..., Subject]) -> None:
    """As libraries do that move weights between devices."""
    model = subject()
    original = model.network.lm_head.forward
    model.network.lm_head.forward = mine = lambda x: original(x)
    assert ranges_of(model, POINTS[0]).begun["lm_head"] == 1
    assert model.network.lm_head.forward is mine


FAILING = (
    "self_attn.q_proj",
    "self_attn",
    "input_layernorm",
    "post_attention_layernorm",
    "mlp.act_fn",
    "mlp",
)


@pytest.mark.parametrize("recorder", [HostClock, Trace, Tally])
@pytest.mark.parametrize("path", FAILING)
def test_an_error_inside_passes_through_and_everything_is_put_back(
    path: str, recorder: type[Any], subject: Callable[..., Subject]
) -> None:
    """Memory may run out in any operator; the sentence for it needs the error as it was raised."""
    model = subject()
    failing = model.network.get_submodule(f"model.layers.1.{path}")

    def fail(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("no more")

    failing.forward = fail
    before = hooks(model)
    with pytest.raises(torch.OutOfMemoryError, match="no more"):
        logits_of(model, POINTS[0], recorder())
    assert hooks(model) == before
    del failing.forward
    assert torch.equal(logits_of(model, POINTS[0], None), logits_of(model, POINTS[0], recorder()))


@pytest.mark.parametrize("layers", [3, 4, 6, 9])
def test_over_a_stride_of_repeats_every_layer_is_watched(
    layers: int, subject: Callable[..., Subject]
) -> None:
    model = subject("llama", num_hidden_layers=layers)
    seen: Counter[int] = Counter()
    for first in range(4):
        with instrumented(model, Tally(), greedy, first=first, stride=4):
            here = [i for i, layer in enumerate(model.network.model.layers) if "forward" in vars(layer.mlp)]
        assert here
        seen.update(here)
    assert set(seen) == set(range(layers))


@pytest.mark.parametrize("first", range(8))
@pytest.mark.parametrize(
    ("name", "layers"), [("llama", 8), ("gemma3_text", 8), ("gemma3_text", 7), ("gpt2", 9)]
)
def test_watched_layers_stand_for_all(
    name: str, layers: int, first: int, subject: Callable[..., Subject]
) -> None:
    """Scaled, their ranges are as many as those of all layers: one of each kind is among them."""
    model = subject(name, **{"n_layer" if name == "gpt2" else "num_hidden_layers": layers})
    every, some = ranges_of(model, POINTS[0]).begun, Tally()
    with torch.inference_mode():
        run = step(model, POINTS[0], CAPACITY)
        with instrumented(model, some, greedy, first=first, stride=4) as watched:
            run(watched.sampler)
    for range_name, count in some.begun.items():
        assert count * watched.scale(range_name) == pytest.approx(every[range_name])
    assert set(some.begun) == set(every)
    inside = sum(count for range_name, count in some.begun.items() if range_name.startswith("layers."))
    whole = sum(count for range_name, count in every.items() if range_name.startswith("layers."))
    assert inside <= whole * 3 / 7  # it costs that much less


def test_a_stride_beyond_the_layers_watches_one_of_each_kind(subject: Callable[..., Subject]) -> None:
    model = subject("gemma3_text", num_hidden_layers=7)
    for first in range(20):
        begun = ranges_of(model, POINTS[0], first=first, stride=16).begun
        assert {begun["layers.attention.core.window8"], begun["layers.attention.core"]} == {1}
        assert begun["layers.mlp.down_proj"] == 2


def test_ranges_in_turn_are_all_heard_and_leave_the_rest_unwrapped(subject: Callable[..., Subject]) -> None:
    model, tally = subject("llama"), Tally()
    every, hearing, wrapped = ranges_of(model, POINTS[0]).begun, InTurn(tally, 4), []
    for turn in range(4):
        hearing.turn = turn
        with torch.inference_mode():
            run = step(model, POINTS[0], CAPACITY)
            with instrumented(model, hearing, greedy) as watched:
                run(watched.sampler)
                wrapped.append("ranged" in model.network.lm_head.forward.__qualname__)
    assert tally.begun == every
    assert wrapped.count(True) == 1
    follow_each_other(tally.log)


@pytest.mark.parametrize(
    ("name", "why"),
    [("sedd", "of which transformers has no code"), ("longformer", "whose modules have no ranges")],
)
def test_a_family_without_parts_is_refused_with_the_reason(
    name: str, why: str, tiny: Callable[..., Loaded]
) -> None:
    with pytest.raises(InputError, match=rf"family '{name}', {why}: it is only predicted"):
        family(replace(tiny().model, family=name))


@pytest.mark.parametrize(
    ("family", "changes", "some"),
    [
        ("nemotron_h", {"moe_latent_size": 16}, {"moe.latent_in_proj": 1, "moe.latent_out_proj": 1}),
        (
            "glm_moe_dsa",  # the layer in the middle sees what the first one's indexer picked
            {"indexer_types": ["full", "shared", "full"]},
            {"attention.indexer_k_proj": 2, "attention.core.top6": 3},
        ),
        (
            "gemma4_text",
            {
                "enable_moe_block": True,
                "use_double_wide_mlp": False,
                "num_experts": 5,
                "top_k_experts": 2,
                "moe_intermediate_size": 24,
                "hidden_size_per_layer_input": 0,
            },
            {"moe.experts_norm": 6, "moe.router": 6, "moe.topk": 6},
        ),
    ],
)
@pytest.mark.parametrize("point", POINTS, ids=lambda p: p.phase)
def test_layers_of_other_kinds_have_the_ranges_of_their_operators(
    family: str, changes: dict[str, Any], some: dict[str, int], point: Point, subject: Callable[..., Subject]
) -> None:
    model = subject(family, **changes)
    found = apart(ranges_of(model, point).begun)
    assert set(found) == {named.name for named in operators_at(model.loaded, "fp32", point)}
    assert {name: found[f"layers.{name}"] for name in some} == some


def test_layers_of_other_shapes_have_ranges_of_their_own(subject: Callable[..., Subject]) -> None:
    """Gemma 4: the third and the sixth of six layers have wider heads, the last three borrow their keys."""
    begun = ranges_of(subject("gemma4_text"), POINTS[1]).begun
    projections = {f"{n}_proj{number}" for n in "qkv" for number in ("", ".2")}
    assert {name: begun[f"layers.attention.{name}"] for name in projections} == {
        **{"q_proj": 4, "k_proj": 2, "v_proj": 2},
        **{"q_proj.2": 2, "k_proj.2": 1, "v_proj.2": 1},
    }
    # Queries and keys by a call each; of borrowing layers, queries.
    assert [begun[f"layers.attention.rope{n}"] for n in ("", ".2", ".3", ".4")] == [4, 2, 2, 1]


def test_capped_scores_are_computed_apart_and_counted_so(subject: Callable[..., Subject]) -> None:
    """Fused attention cannot cap them; what is predicted is what was run: scores written to memory."""
    model = subject("gemma2")
    assert (model.attention, model.network.config._attn_implementation) == ("eager", "eager")
    for point in POINTS:
        cores = [n.operator.work() for n in operators_at(model.loaded, "fp32", point) if ".core" in n.name]
        pairs = point.batch * 6 * point.q_len * point.kv_len  # heads; masked pairs are computed too
        assert [work.special_ops for work in cores] == [2 * pairs] * len(cores)
        assert {t.role for work in cores for t in work.traffic} >= {Role.SCORES}


def test_other_models_keep_fused_attention(subject: Callable[..., Subject]) -> None:
    assert subject("llama").attention == "sdpa"
    assert subject("gemma3_text").attention == "sdpa"


@pytest.mark.parametrize("changes", [{"linear_silu": True}, {"q_lora_rank": 16}])
def test_earlier_versions_of_ling_are_refused(changes: dict[str, Any], tiny: Callable[..., Loaded]) -> None:
    """transformers would build its third version from their configs."""
    assert family(tiny("bailing_hybrid").model) is FAMILIES["bailing_hybrid"]
    with pytest.raises(
        InputError, match="of which transformers' code has no such layers: it is only predicted"
    ):
        family(tiny("bailing_hybrid", **changes).model)
