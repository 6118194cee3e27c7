"""The page of a recording: everything that `show` says, and nothing that a name in it wants."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from profiler.traces.recording import MOST_POINTS, timelines
from profiler.traces.tables import Origin, Trace, make_table
from tests.reports.test_html import BREAKOUT, EVIL, Page

Write = Callable[..., Path]


@pytest.fixture
def run(made: Any, write: Write, roofline: Any, tmp_path: Path) -> Path:
    """A product whose work is known, a kernel and a range with evil names, a wait, memory."""
    product = {"Input Dims": [[1024, 1024], [1024, 1024]], "Input type": ["c10::BFloat16"] * 2}
    made.add("user_annotation", EVIL, 0, 1000)
    made.add("cpu_op", "aten::mm", 10, 10, **product)
    made.kernel("nvjet", 100, 200, launched=12)
    made.kernel(BREAKOUT, 500, 50, launched=40)
    for at, held in ((20, 1000), (60, 3000)):
        about = {"Total Allocated": held, "Total Reserved": 4000, "Device Id": 0, "Device Type": 1}
        made.add("cpu_instant_event", "[memory]", at, 0, **about)
    trace = write(made.text(deviceProperties=[{"id": 0, "name": EVIL}]), f"{EVIL.replace('/', '')}.json")
    assert roofline("import", trace, "-o", tmp_path / "run").code == 0
    return tmp_path / "run"


@pytest.mark.parametrize("hardware", [[], ["--hw", "h100_sxm"]])
def test_the_report_says_what_show_says(
    run: Path, hardware: list[str], roofline: Any, tmp_path: Path
) -> None:
    done = roofline("report", run, "-o", tmp_path / "r.html", *hardware)
    assert done.code == 0, done.err
    page = Page((tmp_path / "r.html").read_text(encoding="utf-8"))
    assert page.open == []
    assert not {"img", "iframe"} & {tag for tag, _ in page.tags}
    text = " ".join(" ".join(page.texts).replace("\u00a0", " ").split())
    for said in (
        "2 kernels 250.0 µs, busy 250.0 µs of 450.0 µs, idle 44.4 %",
        "idle (between kernels) 200 µs 44.4 % launched in time, next on the same stream",
        "Recorded 450 µs",
        "Largest loss 44.4 % idle (between kernels): at most 200 µs",
        "at most 3.00 kB allocated",
        "aten::mm gemm",
        BREAKOUT,
        EVIL,
    ):
        assert said in text
    assert ("No file describes the device" in text) == (not hardware)
    figures = {attrs["data-figure"] for _, attrs in page.tags if "data-figure" in attrs}
    assert figures == {"r0-timeline-0", "r0-recorded-time", *(["r0-recorded"] if hardware else [])}
    assert (re.search(r"at their ceilings .* save \S+ µs: aten::mm", text) is not None) == bool(hardware)


def test_a_long_timeline_keeps_its_highest_points() -> None:
    count = 10 * MOST_POINTS
    values = [float(at % 7) for at in range(count)]
    values[12_345] = 99.0
    samples = {"time_ns": range(count), "quantity": ["power_w"] * count, "value": values}
    table = make_table("samples", {**samples, "source": [0] * count, "device": [1] * count})
    (timeline,) = timelines(Trace((Origin(file="t", format="nsys"),), {"samples": table}))
    ((name, seconds, kept),) = timeline.curves
    assert (name, timeline.axis) == ("power, device 1", "power [W]")
    assert len(seconds) == len(kept) == MOST_POINTS
    assert max(kept) == 99
    assert kept[:3] == (6, 6, 6)
