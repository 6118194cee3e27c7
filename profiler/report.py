"""Gather the inputs of a report: runs, predictions, their device files, and devices to compare with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hwspecs import Device, load_device
from reports import headline
from reports.content import of_predictions, of_run, run_facts
from reports.elsewhere import other_devices
from reports.html import render
from reports.measured_points import timed_steps
from reports.recording import of_recording
from reports.records import Content
from roofline.asked import Asked, scenarios_of
from roofline.engines import find_engine
from roofline.predict import Prediction, predict
from roofline.run import Run, open_run
from specfiles.errors import InputError
from specfiles.reading import read_json
from workloads.catalogue import Loaded, load_model
from workloads.config import Config
from workloads.families import build

UNKNOWN = (
    "No file describes this device, so that measured times stand alone. With --hw predictions, ceilings, "
    "errors and advice stand beside them; `roofline ceilings -o this-machine.yaml` writes its file there."
)


def report(subjects: Sequence[Path], hardware: str | None, others: Sequence[str] | None = None) -> str:
    """The HTML of runs and predictions, beside `others` or the usual devices.

    Raises InputError for other files, and for a device or model that is not found.
    """
    return render(*_contents(subjects, hardware, others))


def drawn(subject: Path, hardware: str | None, ending: str) -> bytes:
    """The picture of a run or prediction, in the format of a file's ending. Raises InputError as `report`."""
    from reports.figures import picture

    (content,) = _contents([subject], hardware, [], advise=False)
    return picture(content, ending)


def _contents(
    subjects: Sequence[Path], hardware: str | None, others: Sequence[str] | None, *, advise: bool = True
) -> list[Content]:
    """One of each run, and one of all predictions, which it compares."""
    compared = other_devices() if others is None else [load_device(name) for name in others]
    files = [s for s in subjects if s.is_file() and s.suffix == ".json" and s.name != "run.json"]
    runs = (open_run(subject) for subject in subjects if subject not in files)
    contents = [_of_run(run, hardware, compared, advise) for run in runs]
    if files:
        predictions = [one for path in files for one in predictions_of(path, hardware)]
        contents.append(of_predictions(predictions, compared, advise=advise))
    return contents


def _of_run(run: Run, hardware: str | None, compared: Sequence[Device], advise: bool) -> Content:
    """A run beside its prediction; an imported run also as a recording."""
    from profiler.traces.recording import recorded_content
    from profiler.traces.showing import device_of

    known = device_of(hardware, None, run)
    if run.head.imported is None:
        return _measured_alone(run) if known is None else of_run(run, known, compared, advise=advise)
    recorded = recorded_content(run, known)
    if not run.head.model or known is None:
        return recorded
    if run.table("operators").empty:
        said = "No kernel matched an operator of the model: nothing is compared with a prediction."
        return replace(recorded, sentences=(*recorded.sentences, said))
    content = of_run(run, known, compared, advise=advise)
    return replace(content, recording=recorded.recording, sentences=(*content.sentences, *recorded.sentences))


def _measured_alone(run: Run) -> Content:
    """The measured values of a run on a device that no file describes, as a recording."""
    from profiler.traces.measured import show_measured

    steps = Content("", (), timed_steps(run), "", "", measured=True)
    shown = {by: show_measured(run, by, None) for by in ("operator", "kernel", "phase", "kind")}
    groups = {by: each["rows"] for by, each in shown.items()}
    recorded = of_recording(
        f"{run.head.model} on {run.head.device}", run_facts(run), shown["operator"], groups, remarks=[UNKNOWN]
    )
    return replace(
        recorded,
        cards=(*headline.cards(steps), *recorded.cards),
        sentences=(*headline.sentences(steps), *recorded.sentences),
    )


def page(predictions: Sequence[Prediction]) -> str:
    """The report of predictions in memory, which may include traced modules, unlike those of files."""
    return render(of_predictions(predictions, other_devices(), advise=True))


def predictions_of(path: Path, hardware: str | None = None) -> list[Prediction]:
    """Predictions recomputed from their JSON, which holds all options.

    Raises InputError for other files, a model or device that is not found, and a traced module.
    """
    data = read_json(path)
    points = data.get("points", [data])
    if not isinstance(points, list) or not all(isinstance(p, dict) and "dtypes" in p for p in points):
        raise InputError(
            f"{path}: holds no prediction; a report shows runs, and JSON of `roofline predict --format json`."
        )
    try:
        return [
            _again(point, load_device(hardware or point.get("node") or point["hardware"])) for point in points
        ]
    except (KeyError, TypeError) as error:
        why = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise InputError(
            f"{path}: is not a prediction of `roofline predict --format json` ({why})."
        ) from None


def _model(point: dict[str, Any]) -> Loaded:
    """The shipped model of that name, or the one of the config in the prediction."""
    if "config" not in point:
        return load_model(point["model"])
    fields, name = dict(point["config"]), str(point["model"])
    return Loaded(build(Config(fields, name), name), fields)


def _again(point: dict[str, Any], device: Device) -> Prediction:
    if point.get("family") == "traced":
        raise InputError(
            f"{point['model']} is a traced module, and a report imports no code; draw it with "
            f"`roofline predict --from-module {point['model']} --format html`."
        )
    loaded, dtypes = _model(point), point["dtypes"]
    if "others" in dtypes:
        from workloads.checkpoint import asked_words

        dtypes = asked_words(loaded, dtypes)
    asked = Asked(
        **{name: point[name] for name in ("phase", "batch", "prompt", "convention")},
        context=point["context"] if point["phase"] == "decode" else None,
        output=point["output"] or 1,
        steps=point.get("steps"),
        images=point.get("images"),
        **{name: dtypes.get(name) for name in ("weights", "activations", "kv")},
        expert_weights=dtypes.get("experts"),
        expert_activations=dtypes.get("expert_activations"),
        tp=point["tensor_parallel"],
        ep=point.get("expert_parallel"),
        pp=point.get("pipeline_parallel"),
        expert_skew=point.get("expert_skew"),
        techniques=tuple(point.get("techniques", ())),
    )
    (scenario,) = scenarios_of(loaded, asked)
    engine = find_engine(point["engine"]["name"]) if "engine" in point else None
    return predict(scenario, device, point["fidelity"], point.get("backend", ""), engine=engine)
