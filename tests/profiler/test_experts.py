"""Routed experts by each of transformers' implementations: the same results, and a note of which it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from profiler.experts import CHOICES, check_experts, experts_in, experts_words, set_experts
from profiler.forward import Point, greedy, step
from profiler.instrument import instrumented
from profiler.ranges import check_eager
from profiler.recorders import Trace
from profiler.subject import Subject
from specfiles.errors import InputError
from workloads.catalogue import Loaded

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

POINTS = [Point("prefill", 2, 12, 12), Point("decode", 2, 1, 13)]


def logits(model: Subject, point: Point) -> Any:
    torch.manual_seed(7)
    with torch.inference_mode():
        run = step(model, point, 16)
        with instrumented(model, Trace(), lambda made: made.clone()) as watched:
            return run(watched.sampler)


@pytest.mark.parametrize("family", ["mixtral", "gpt_oss", "gemma4_text"])
@pytest.mark.parametrize("point", POINTS, ids=lambda p: p.phase)
def test_each_implementation_gives_the_same_logits(
    family: str, point: Point, subject: Callable[..., Subject]
) -> None:
    sparse = {"enable_moe_block": True, "num_experts": 5, "top_k_experts": 2, "moe_intermediate_size": 24}
    model = subject(family, **(sparse if family == "gemma4_text" else {}))
    found = {}
    for name in CHOICES:
        set_experts(model, name)
        found[name] = logits(model, point)
        assert model.network.config._experts_implementation == experts_in(model, point.phase)
    for name, made in found.items():
        torch.testing.assert_close(made, found["eager"], rtol=1e-4, atol=1e-5, msg=name)


def test_steps_of_two_phases_in_turn_each_have_their_own(subject: Callable[..., Subject]) -> None:
    """On a device transformers' `generate` decodes with batched products, as prefills do not."""
    model = subject("mixtral")
    runs = {point.phase: step(model, point, 16) for point in POINTS}
    model.device = "cuda:0"
    on_device = {point.phase: experts_in(model, point.phase) for point in POINTS}
    assert on_device == {"prefill": "grouped_mm", "decode": "batched_mm"}
    assert "batched_mm first copies" in experts_words(model, ["prefill", "decode"])
    for phase in ("prefill", "decode", "prefill"):
        runs[phase](greedy)
        assert model.network.config._experts_implementation == on_device[phase]
    set_experts(model, "batched_mm")
    assert experts_words(model, ["prefill"]).startswith("experts ran as batched_mm; ")


def test_what_cannot_be_chosen_is_refused(subject: Callable[..., Subject]) -> None:
    with pytest.raises(InputError, match="grouped_mm"):
        check_experts("loop", subject("mixtral").loaded.model)
    with pytest.raises(InputError, match="has no routed experts; leave --experts out"):
        check_experts("eager", subject("llama").loaded.model)
    model = subject("switch_transformers")
    with pytest.raises(InputError, match="in one way only; leave --experts out"):
        set_experts(model, "grouped_mm")
    assert experts_words(model, ["prefill"]) == "experts ran as a loop of the model's own code"
    assert experts_words(subject("llama"), ["prefill"]) == ""


@pytest.mark.parametrize("family", ["dbrx", "longcat_flash"])
def test_a_loop_over_experts_is_not_compiled(family: str, tiny: Callable[..., Loaded]) -> None:
    check_eager(tiny(family).model, {"--mode eager": False, "--with": True})
    with pytest.raises(InputError, match=r"in a loop whose length the host reads.* leave --mode graph out"):
        check_eager(tiny(family).model, {"--mode graph": True})
