"""Which steps stand for what was asked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from profiler.forward import Point
from profiler.points import points
from roofline.asked import Asked, scenarios
from roofline.predict import predict
from roofline.scenario import Scenario
from workloads.catalogue import Loaded, load_model


@pytest.fixture
def ask(tiny: Callable[..., Loaded]) -> Callable[..., Scenario]:
    return lambda phase, **sizes: Scenario(tiny().model, phase, **sizes)


def test_a_generation_is_its_prefill_and_its_first_and_last_decode_step(ask: Callable[..., Scenario]) -> None:
    assert points([ask("generate", batch=2, prompt=16, output=4)]) == (
        Point("prefill", 2, 16, 16),
        Point("decode", 2, 1, 17),
        Point("decode", 2, 1, 19),  # the fourth token comes from the third decode step
    )


def test_steps_behind_an_encoder_say_how_much_it_has_read(tiny: Callable[..., Loaded]) -> None:
    asked = Scenario(tiny("t5").model, "generate", batch=2, prompt=16, output=4)
    assert points([asked]) == (
        Point("prefill", 2, 16, 16, 16),
        Point("decode", 2, 1, 17, 16),
        Point("decode", 2, 1, 19, 16),
    )


@pytest.mark.parametrize(
    ("output", "contexts"), [(1, []), (2, [17]), (3, [17, 18]), (100, [17, 115])], ids=str
)
def test_short_generations_have_fewer_steps(
    output: int, contexts: list[int], ask: Callable[..., Scenario]
) -> None:
    first, *decodes = points([ask("generate", prompt=16, output=output)])
    assert first == Point("prefill", 1, 16, 16)
    assert decodes == [Point("decode", 1, 1, context) for context in contexts]


def test_one_phase_is_one_step(ask: Callable[..., Scenario]) -> None:
    assert points([ask("prefill", batch=3, prompt=16)]) == (Point("prefill", 3, 16, 16),)
    assert points([ask("decode", batch=3, context=40)]) == (Point("decode", 3, 1, 40),)
    assert points([ask("decode", prompt=16)]) == (Point("decode", 1, 1, 17),)


def test_steps_that_scenarios_share_are_measured_once(ask: Callable[..., Scenario]) -> None:
    shared = points([ask("generate", prompt=16, output=n) for n in (4, 8)])
    assert [p.kv_len for p in shared] == [16, 17, 19, 23]


def test_a_grid_of_a_workload_file_gives_the_steps_of_all_its_points(
    small_llama: Path, tmp_path: Path
) -> None:
    file = tmp_path / "grid.yaml"
    file.write_text(
        f"schema: 1\nname: grid\nmodel: {small_llama}\nphase: decode\nbatch: [1, 2]\ncontext: [10, 20]\n"
    )
    _, found = scenarios(str(file), Asked())
    assert [(p.batch, p.kv_len) for p in points(found)] == [(1, 10), (1, 20), (2, 10), (2, 20)]


def test_the_two_decode_steps_give_every_step_of_a_generation() -> None:
    """At the data sheet's ceilings the mean over all steps is the mean of the first and the last."""
    from hwspecs import load_device

    model, device = load_model("llama-3.1-8b").model, load_device("h100_sxm")
    whole = predict(Scenario(model, prompt=2000, output=500), device).totals()["tpot_s"]
    ends = [predict(Scenario(model, "decode", context=context), device).time_s() for context in (2001, 2499)]
    assert sum(ends) / 2 == pytest.approx(whole, rel=1e-3)
