"""Reference steps: the same work with the ceilings and beside a run, and nobody else's."""

from __future__ import annotations

from pathlib import Path

import pytest

from hwspecs import load_device
from profiler import yardsticks
from profiler.references import DECODES, MODEL, PREFILLS, reference_points, reference_steps
from profiler.steps import Timed
from roofline.calibrate import HELD_OUT_EVERY
from workloads.catalogue import MODELS, load_model

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")


@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
def test_the_reference_is_no_published_model_and_takes_no_part_in_the_fit(device: str) -> None:
    names = sorted(entry.model.name for entry in yardsticks.yardsticks(device))
    assert MODEL in names[HELD_OUT_EVERY - 1 :: HELD_OUT_EVERY]
    made = next(entry for entry in yardsticks.yardsticks(device) if entry.model.name == MODEL)
    shapes = {
        (c.get("hidden_size"), str(c.get("intermediate_size")))  # widths by layer are a list
        for c in (load_model(path.stem).config for path in sorted(MODELS.paths()))
    }
    assert len(shapes) > 50
    assert (made.config["hidden_size"], str(made.config["intermediate_size"])) not in shapes


@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
def test_reference_steps_are_among_the_steps_of_every_yardstick(device: str) -> None:
    """So they cost the ceilings nothing: they are measured anyway."""
    prefill, decode = reference_points(device)
    steps = yardsticks.steps_of(device)
    assert (prefill.batch, prefill.q_len, prefill.kv_len) in steps.prefill
    assert (decode.batch, decode.q_len, decode.kv_len) in steps.decode
    assert prefill.q_len == prefill.kv_len > 1 == decode.q_len


def test_the_file_holds_the_work_that_a_run_repeats(measured_file: Path) -> None:
    filed = {entry.phase: entry for entry in load_device(measured_file).measured.references}
    with torch.inference_mode():
        for made in reference_steps("cpu", "fp32"):
            entry = filed[made.point.phase]
            assert made.identity == {name: getattr(entry, name) for name in made.identity}
            assert entry.q25_s <= entry.median_s <= entry.q75_s
            assert entry.layers_s is not None
            timed = made.time()
            assert len(timed.ranged) == len(timed.in_layers) == entry.repeats  # of one pass
            assert all(layers_s > 0 for layers_s in (entry.layers_s, *timed.in_layers))
            if made.point.phase == "prefill":  # all layers are watched: they are a part of the step
                assert entry.layers_s < entry.median_s
                assert sum(timed.in_layers) < sum(timed.ranged)
    assert {entry.repeats for entry in filed.values()} == {PREFILLS, DECODES}


def test_layers_are_summed_by_repeat_without_one_that_was_cut_short() -> None:
    timed = Timed()
    timed.ranges |= {"layers.mlp": [1.0, 2.0], "lm_head": [9.0, 9.0], "layers.attention": [3.0, 5.0]}
    assert timed.in_layers == [4.0, 7.0]
    timed.ranges["layers.mlp"].append(1.0)  # a stop came before the other range's time
    assert timed.in_layers == [4.0, 7.0]
