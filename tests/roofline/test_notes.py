"""Notes on what predictions take for granted."""

from __future__ import annotations

import pytest

from hwspecs import load_device
from reports.content import of_predictions
from roofline.ceilings import ceilings
from roofline.grid import Grid
from roofline.predict import predict
from roofline.predict_grid import grid_limits, predict_grid
from roofline.scenario import Scenario
from roofline.tables import of_points
from workloads.catalogue import load_model

H100 = load_device("h100")


def test_operators_without_kernels_are_named_with_their_share_of_the_time() -> None:
    """Nobody measured Mamba 2's scan: at every fidelity that measures anything it takes the same time."""
    asked = Scenario(load_model("Mamba-2-2.7B").model, "generate", 8, 1024, output=4)
    found = predict(asked, H100, "calibrated")
    (note,) = (note for note in found.notes if "no kernels" in note)
    bare = [row for row in found.rows if row.times.uncalibrated]
    scans = [row.total_s for row in bare if row.name == "layers.mamba.ssd"]
    assert f"layers.mamba.ssd ({100 * sum(scans) / found.time_s():.0f} % of the time)" in note
    assert "embedding" not in note  # far below a hundredth
    measured = {(row.phase, row.name): row.times.time_s for row in predict(asked, H100, "measured").rows}
    assert all(row.times.time_s == pytest.approx(measured[row.phase, row.name], rel=1e-3) for row in bare)


@pytest.mark.parametrize(
    ("model", "fidelity"), [("Llama-3.1-8B", "calibrated"), ("Mamba-2-2.7B", "measured")], ids=str
)
def test_nothing_is_said_where_all_were_measured_or_nothing_was_promised(model: str, fidelity: str) -> None:
    """Dense decoders have kernel models throughout, and the other fidelities are rooflines."""
    found = predict(Scenario(load_model(model).model, "generate", 8, 1024, output=4), H100, fidelity)
    assert not any("no kernels" in note for note in found.notes)


def test_a_grid_and_a_page_say_what_single_predictions_say() -> None:
    """The shares are those of each point."""
    model = load_model("Mamba-2-2.7B").model
    asked = [Scenario(model, "generate", batch, 512, output=4) for batch in (1, 64)]
    grid, limits = Grid.of(asked, [H100] * 2), ceilings(H100, "calibrated")
    totals, seen = predict_grid(model, grid, "calibrated"), grid_limits(model, grid, "calibrated")
    alone = [predict(one, H100, "calibrated") for one in asked]
    said = [point["notes"] for point in of_points(asked, H100, limits, totals, *seen)]
    assert said == [list(one.notes) for one in alone]
    assert said[0] != said[1]
    (page,) = of_predictions(alone).provenance
    assert {note for notes in said for note in notes} <= set(page.device_notes)
