"""What a report says would help: techniques of `whatif`, within what they do to the output."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from hwspecs import Device, load_device
from reports.advice import _options
from reports.content import of_predictions, of_run
from reports.html import render
from reports.records import Advice
from roofline import api
from roofline.engines import find_engine
from roofline.predict import predict
from roofline.run import Run
from roofline.scenario import Scenario
from roofline.whatif import whatif
from workloads.catalogue import load_model
from workloads.techniques.base import QUALITIES
from workloads.techniques.registry import parse

SCENARIO = Scenario(load_model("Llama-3.1-8B").model, "decode", batch=1, context=4096)


@pytest.fixture(scope="module")
def advice() -> Advice:
    (found,) = of_predictions([predict(SCENARIO, load_device("h100_sxm"))], advise=True).advice
    return found


def test_exact_methods_come_first_and_each_label_from_the_largest_gain(advice: Advice) -> None:
    labels = [row.quality for row in advice.rows]
    assert labels == sorted(labels, key=QUALITIES.index)
    for quality in QUALITIES:
        gains = [row.speedup for row in advice.rows if row.quality == quality]
        assert gains == sorted(gains, reverse=True)


def test_what_is_said_of_a_method_is_its_prediction(advice: Advice) -> None:
    """Weights of four bits and a scale per 128 halve and halve again what a memory-bound step reads."""
    row = next(row for row in advice.rows if row.name == "weight-only-quantisation")
    alone = predict(replace(SCENARIO, techniques=(parse(row.name),)), load_device("h100_sxm"))
    assert row.time_s == pytest.approx(alone.time_s())
    assert row.memory_bytes == pytest.approx(alone.totals()["memory_bytes"])
    assert 2 < row.speedup < 4
    assert "bytes of weights" in row.why


def test_the_summary_names_what_engines_offer(advice: Advice) -> None:
    """Early exit gains as much as it leaves out layers, and no engine has it."""
    for quality in ("exact", "lossy"):
        best = advice.best(quality)
        assert best is not None
        assert all(parse(name).served for name in best.name.split(" + "))
        before = [row for row in advice.rows if row.quality == quality and row.speedup > best.speedup]
        assert all(row.caveat for row in before), "what gains more says why it is not named"
    unserved = replace(advice, rows=tuple(replace(row, caveat="in no engine") for row in advice.rows))
    assert unserved.best("exact") == unserved.rows[0]


def test_a_method_is_shown_or_refused_with_a_reason_or_gains_nothing(advice: Advice) -> None:
    found = whatif(SCENARIO, load_device("h100_sxm"))
    assert dict(advice.refused) == found.refused
    assert all(row.speedup > 1 for row in advice.rows)
    assert dict(advice.counted).keys() == {outcome.techniques[0].name for outcome in found.counted}
    assert "without it 1.4" in dict(advice.counted)["flash-decoding"]


def test_options_are_told_of_techniques_whatever_their_names() -> None:
    """The name sparsity-2:4 has a colon of its own and no options."""
    pair = [parse("sparsity-2:4"), parse("speculative-decoding:k=3")]
    told = _options([each.name for each in pair], [each.told() for each in pair])
    assert told.startswith("k=3, ")


def test_a_measured_run_is_advised_on_each_phase(make_run: Callable[..., Run], toy: Device) -> None:
    content = of_run(make_run(), toy, advise=True)
    assert [a.title for a in content.advice] == [p.title for p in content.headline]
    assert sum("what would help most" in sentence for sentence in content.sentences) == 2


def test_the_page_names_methods_only_where_they_were_tried(make_run: Callable[..., Run], toy: Device) -> None:
    page = render(of_run(make_run(), toy, advise=True))
    assert 'id="r0-advice"' in page
    assert 'href="#r0-advice"' in page
    assert "r0-advice" not in render(of_run(make_run(), toy))


def test_a_cause_changes_the_way_the_time_does() -> None:
    """Experts at equal active parameters move more activations, which is not why they would be faster."""
    found = whatif(SCENARIO, load_device("h100_sxm"))
    for outcome in found.outcomes:
        ratio = outcome.after.time_s() / outcome.before.time_s()
        cause = outcome.why().partition(": ")[2]
        if ratio < 0.99:
            assert "more " not in cause, outcome.why()
            assert " times the" not in cause, outcome.why()


def test_beside_a_prediction_with_an_engine_every_method_has_it_too() -> None:
    one = api.predict(SCENARIO, "h100_sxm", engine="vllm")
    (found,) = of_predictions([one], advise=True).advice
    result = whatif(SCENARIO, one.device, engine=find_engine("vllm"))
    assert result.baseline.time_s() == one.time_s()
    times = {o.techniques[0].name: o.after.time_s() for o in result.outcomes if len(o.techniques) == 1}
    row = next(row for row in found.rows if row.name == "eagle")
    assert row.time_s == times["eagle"]
    assert row.speedup == one.time_s() / row.time_s
