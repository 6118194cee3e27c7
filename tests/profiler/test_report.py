"""A report says of a prediction what the prediction said, whatever was asked."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from pkgutil import resolve_name
from typing import Any
from xml.etree import ElementTree

import pytest

from hwspecs import load_device
from profiler.report import drawn, page, predictions_of, report
from reports.figures import picture
from reports.records import Content
from roofline.asked import Asked, scenarios
from roofline.predict import Prediction, predict
from roofline.tables import as_json
from specfiles.errors import InputError

ASKED: list[tuple[str, str, str, dict[str, Any]]] = [
    (
        "Llama-3.1-8B",
        "h100",
        "datasheet",
        {"techniques": ("awq", "speculative:k=4"), "batch": 4, "output": 9},
    ),
    ("DeepSeek-V3", "dgx-h100", "datasheet", {"tp": 8, "ep": 8, "batch": 8, "weights": "fp8", "output": 3}),
    ("Llama-3.2-1B", "dgx-h200", "calibrated", {"tp": 8, "phase": "decode"}),
    ("Mixtral-8x7B", "b200", "measured", {"expert_weights": "nvfp4", "expert_skew": 1.0, "phase": "decode"}),
    (
        "Qwen3-30B-A3B",
        "b200",
        "datasheet",
        {"expert_weights": "nvfp4", "expert_activations": "nvfp4", "phase": "prefill"},
    ),
    ("Gemma-2-9B", "a100", "datasheet", {"convention": "unfused", "phase": "prefill", "pp": 2, "batch": 2}),
    ("LLaDA-8B", "h100", "datasheet", {"phase": "denoise", "steps": 5, "output": 32}),
    ("LLaDA-8B", "h100", "datasheet", {"steps": 5, "output": 32}),
    ("BERT-large", "a100", "datasheet", {"batch": 8, "prompt": 128}),
    ("T5-small", "a100", "datasheet", {"batch": 8, "prompt": 128, "output": 8}),
    ("Mamba-2.8B", "l40s", "datasheet", {"batch": 2, "output": 4}),
]


EVERY = pytest.mark.parametrize(
    ("model", "device", "fidelity", "flags"), ASKED, ids=[f"{a[0]}-{i}" for i, a in enumerate(ASKED)]
)


def predicted(model: str, device: str, fidelity: str, flags: dict[str, Any]) -> list[Prediction]:
    return [predict(one, load_device(device), fidelity) for one in scenarios(model, Asked(**flags))[1]]


@EVERY
def test_a_prediction_is_made_again_from_its_json(
    model: str, device: str, fidelity: str, flags: dict[str, Any], tmp_path: Path
) -> None:
    """Every operator and total, and what was asked: nothing is dropped on the way."""
    (first,) = predicted(model, device, fidelity, flags)
    path = tmp_path / "p.json"
    path.write_text(json.dumps(as_json(first)))
    (again,) = predictions_of(path)
    assert as_json(again) == as_json(first)


@EVERY
def test_a_page_says_what_was_asked(model: str, device: str, fidelity: str, flags: dict[str, Any]) -> None:
    found = predicted(model, device, fidelity, flags)
    html = page(found)
    for technique in found[0].scenario.techniques:
        assert technique.told() in html
    assert "What would help" in html
    assert "L40S-48GB" in html, "one of the devices to compare with"
    if "expert_weights" in flags:
        assert "bf16, experts nvfp4" in html
    if device == "dgx-h200":
        assert "8 x H200-SXM-141GB (DGX-H200)" in html
        assert "constants of H100-SXM5-80GB" in html


SVG = "{http://www.w3.org/2000/svg}"


@EVERY
def test_a_picture_names_what_takes_the_time(
    model: str, device: str, fidelity: str, flags: dict[str, Any], tmp_path: Path
) -> None:
    """The longest operator of the phase that is drawn."""
    (one,) = predicted(model, device, fidelity, flags)
    path = tmp_path / "p.json"
    path.write_text(json.dumps(as_json(one)))
    svg = drawn(path, None, ".svg")
    words = {"".join(text.itertext()).strip() for text in ElementTree.fromstring(svg).iter(f"{SVG}text")}
    first = one.phases[0]
    rows = [row for row in one.rows if row.phase == first]
    longest = max(rows, key=lambda row: row.count * row.times.time_s)
    assert longest.name.removeprefix("layers.") in words
    assert f"{one.scenario.model.name} on {one.device.name}" in words


def test_the_same_prediction_is_the_same_picture(tmp_path: Path) -> None:
    (one,) = predicted("Llama-3.1-8B", "h100", "datasheet", {"phase": "prefill"})
    path = tmp_path / "p.json"
    path.write_text(json.dumps(as_json(one)))
    assert drawn(path, None, ".svg") == drawn(path, None, ".svg")
    assert drawn(path, None, ".png").startswith(b"\x89PNG")


def test_predictions_of_several_files_are_compared(tmp_path: Path) -> None:
    paths = [tmp_path / f"{weights}.json" for weights in ("bf16", "fp8")]
    for path in paths:
        (one,) = predicted("Llama-3.1-8B", "h100", "datasheet", {"phase": "decode", "weights": path.stem})
        path.write_text(json.dumps(as_json(one)))
    page = report(paths, None, [])
    assert "2 predictions of" in page
    assert '<th scope="row">weights fp8' in page


def test_a_picture_is_of_one_thing_that_has_a_device(tmp_path: Path, roofline: Callable[..., Any]) -> None:
    (one,) = predicted("Llama-3.1-8B", "h100", "datasheet", {"phase": "prefill"})
    path = tmp_path / "p.json"
    path.write_text(json.dumps(as_json(one)))
    out = tmp_path / "p.svg"
    assert roofline("report", path, path, "-o", out).code == 2
    assert not out.exists()
    with pytest.raises(InputError, match="name it with --hw"):
        picture(Content(title="trace", facts=(), points=(), fidelity="", reference=""), ".svg")


@pytest.mark.parametrize(
    ("words", "reader"),
    [
        (("report", "-o", "x.html", "p.json"), "profiler.report.report"),
        (("report", "-o", "x.svg", "p.json"), "profiler.report.drawn"),
        (
            ("predict", "Llama-3.2-1B", "--hw", "h100", "--engine", "vllm", "-o", "x.txt"),
            "roofline.tables.as_json",
        ),
    ],
)
def test_an_interrupt_that_a_library_swallows_leaves_nothing_written(
    words: tuple[str, ...],
    reader: str,
    roofline: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def swallowing(*args: Any, **named: Any) -> Any:
        with suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        return before(*args, **named)

    before = resolve_name(reader)
    monkeypatch.chdir(tmp_path)
    (one,) = predicted("Llama-3.1-8B", "h100", "datasheet", {"phase": "prefill"})
    Path("p.json").write_text(json.dumps(as_json(one)))
    monkeypatch.setattr(reader, swallowing)
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        ended = roofline(*words)
    finally:
        signal.signal(signal.SIGINT, handler)
    assert (ended.code, ended.out) == (130, "")
    assert not [*Path().glob("x.*")]
