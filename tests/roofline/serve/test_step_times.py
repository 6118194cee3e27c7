"""A step of a mixture is what the same model predicts, operator by operator, for its parts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwspecs import load_device
from roofline.ceilings import ceilings
from roofline.predict import predict
from roofline.scenario import Scenario
from roofline.serve.step_times import StepTimes
from roofline.times import times
from specfiles.errors import InputError
from workloads.catalogue import load_model
from workloads.phases import Setting, Step, operators
from workloads.techniques.registry import parse

DEVICE = load_device("h100_sxm")
LIMITS = ceilings(DEVICE, "datasheet")
MODELS = ["Llama-3.1-8B", "Mixtral-8x7B", "DeepSeek-V3", "Qwen3-Next-80B-A3B", "gpt-oss-20b", "Mamba-2.8B"]


def step_times(name: str, *techniques: str) -> tuple[Scenario, StepTimes]:
    scenario = Scenario(load_model(name).model, "generate", 4, 1000, output=100)
    scenario = replace(scenario, techniques=tuple(map(parse, techniques)))
    return scenario, StepTimes(scenario.schedule(DEVICE), LIMITS)


LLAMA = step_times("Llama-3.1-8B")[1]


@pytest.mark.parametrize("name", MODELS)
def test_steps_of_one_kind_are_those_of_predict(name: str) -> None:
    scenario, steps = step_times(name)
    for prompt in (1, 513, 1900):
        alone = predict(replace(scenario, phase="prefill", batch=1, prompt=prompt), DEVICE)
        assert steps.mixed_s(0, 0.0, [(prompt, 0)], 1) == pytest.approx(alone.time_s(), rel=0.01)
    for batch, context in ((1, 900), (13, 1500), (100, 777)):
        alone = predict(replace(scenario, phase="decode", batch=batch, context=context), DEVICE)
        found = steps.decode_s(batch, np.array([float(context)]))
        assert found[0] == pytest.approx(alone.time_s(), rel=0.01)
        assert steps.mixed_s(batch, context, [], 0) == pytest.approx(found[0])


@pytest.mark.parametrize("past", [0, 1000, 7168])
def test_a_chunk_sees_what_was_read_before_it(past: int) -> None:
    rows = operators(load_model("Llama-3.1-8B").model, Step(1, 1024, past + 1024), Setting())
    alone = sum(row.count * times(row.operator, LIMITS).time_s for row in rows)
    assert LLAMA.mixed_s(0, 0.0, [(1024, past)], 1) == pytest.approx(alone, rel=0.01)


def test_a_technique_changes_steps_as_it_changes_predictions() -> None:
    scenario, steps = step_times("Llama-3.1-8B", "awq", "kv-cache-quantisation")
    alone = predict(replace(scenario, phase="decode", batch=8, context=2000), DEVICE)
    assert steps.decode_s(8, np.array([2000.0]))[0] == pytest.approx(alone.time_s(), rel=0.01)


def test_attention_on_parts_of_the_batch_waits_for_the_largest_part() -> None:
    """Four prompts or 32 sequences are one and eight on each device; one prompt is waited for by all,
    and is a quarter of the experts' work of four."""
    setting = Setting(expert_parallel=4)
    scenario = Scenario(load_model("Mixtral-8x7B").model, "generate", 4, 1000, output=100, setting=setting)
    steps = StepTimes(scenario.schedule(DEVICE), LIMITS)
    each = predict(replace(scenario, phase="prefill", prompt=513), DEVICE)
    alone = each.time_s()
    assert steps.mixed_s(0, 0.0, [(513, 0)] * 4, 4) == pytest.approx(alone, rel=0.01)
    few = predict(replace(scenario, phase="prefill", prompt=129), DEVICE)  # of 513, the share of each device
    pooled = ("moe.permute", "moe.experts_", "moe.combine")
    spared = sum(
        row.total_s - less.total_s
        for row, less in zip(each.rows, few.rows, strict=True)
        if any(name in row.name for name in pooled)
    )
    assert spared > 0.2 * alone
    assert steps.mixed_s(0, 0.0, [(513, 0)], 1) == pytest.approx(alone - spared, rel=0.01)
    assert steps.mixed_s(0, 0.0, [(400, 0), (100, 0), (13, 0), (400, 0)], 4) < alone
    assert steps.mixed_s(0, 0.0, [(513, 0)] * 5, 5) > 1.1 * alone
    many = predict(replace(scenario, phase="prefill", batch=32, prompt=129), DEVICE).time_s()
    assert steps.mixed_s(0, 0.0, [(129, 0)] * 32, 32) == pytest.approx(
        many, rel=0.01
    )  # weights are read once
    decode = predict(replace(scenario, phase="decode", batch=32, context=1500), DEVICE).time_s()
    for sequences in (29, 32):
        assert steps.decode_s(sequences, np.array([1500.0]))[0] == pytest.approx(decode, rel=0.01)
        assert steps.mixed_s(sequences, 1500.0, [], 0) == pytest.approx(decode, rel=0.01)


def test_images_are_seen_once_however_a_prompt_is_read() -> None:
    """By the chunk with their first position; those of several prompts go through the tower together."""
    scenario = Scenario(load_model("Qwen3.5-27B").model, "generate", 1, 2000, output=9, images=3)
    steps, blind = (
        StepTimes(each.schedule(DEVICE), LIMITS) for each in (scenario, replace(scenario, images=0))
    )
    several = replace(scenario, phase="prefill", batch=4)
    tower = predict(several, DEVICE).time_s() - predict(replace(several, images=0), DEVICE).time_s()
    for size in (100, 512, 999, 2000):
        chunks = [[(min(size, 2000 - past), past)] * 4 for past in range(0, 2000, size)]
        with_images, without = (sum(of.mixed_s(0, 0.0, each, 0) for each in chunks) for of in (steps, blind))
        together = (
            size > 2 * scenario.model.image_tokens
        )  # else the tower's weights are read again for each image
        assert with_images - without == pytest.approx(tower, rel=0.01 if together else 0.1)
    assert steps.decode_s(8, np.array([2000.0])) == blind.decode_s(8, np.array([2000.0]))


def test_products_that_are_joined_read_their_weights_once_for_all_sequences() -> None:
    joined, alone = (step_times("Llama-3.1-8B", *how)[1] for how in (["fused-projections"], []))
    asked = (64, 1000.0, [(64, 0), (64, 0)], 2)
    assert joined.mixed_s(*asked) == pytest.approx(alone.mixed_s(*asked), rel=0.01)


@pytest.mark.parametrize("technique", ["speculative-decoding", "medusa", "mixture-of-depths"])
def test_techniques_with_other_passes_are_refused(technique: str) -> None:
    with pytest.raises(InputError, match="one pass per token"):
        step_times("Llama-3.1-8B", technique)


@given(
    decoding=st.integers(0, 300),
    context=st.integers(1, 8000),
    chunks=st.lists(st.tuples(st.integers(1, 3000), st.integers(0, 9000)), max_size=3),
)
def test_together_is_quicker_than_one_after_the_other(
    decoding: int, context: int, chunks: list[tuple[int, int]]
) -> None:
    """Weights are read once for all, and nobody is quicker for the company."""
    together = LLAMA.mixed_s(decoding, context, chunks, len(chunks))
    alone = [LLAMA.mixed_s(0, 0.0, [chunk], 1) for chunk in chunks]
    if decoding:
        alone.append(LLAMA.mixed_s(decoding, context, [], 0))
    assert together <= sum(alone) * 1.0001
    assert together >= max(alone, default=0.0) * 0.9999
