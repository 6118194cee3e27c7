"""The content of a report on a measured run or on predictions. Times and work come from `roofline`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from hwspecs import Device
from reports import headline, provenance
from reports.advice import advice
from reports.elsewhere import floors, floors_of_steps
from reports.measured_points import measured_points
from reports.naming import common, devices_of, full_name, names_apart, prefixes, workload_name
from reports.points import best_fidelity
from reports.predicted_points import predicted_points
from reports.records import Content, Totals
from reports.wording import moment
from roofline.ceilings import EXPLAINED, Fidelity, ceilings, reference_fidelity
from roofline.predict import Prediction
from roofline.run import Run
from roofline.scenario import sized
from specfiles.errors import InputError

MOST_ADVISED = 4  # predictions with advice: trying every technique takes a second each
REFERENCE = {Fidelity.DATASHEET: "data-sheet ceilings", Fidelity.MEASURED: "measured ceilings"}


def of_run(
    run: Run,
    device: Device,
    others: Sequence[Device] = (),
    fidelity: Fidelity | str | None = None,
    *,
    advise: bool = False,
) -> Content:
    """A report on a measured run beside the prediction for the device that it was measured on.

    `others` are devices on which to bound the same workload; `advise` tries every technique on each phase,
    which takes a second. Raises InputError where the device file
    lacks what the fidelity needs.
    """
    from reports import gains as measured_gains
    from reports.comparisons import comparison
    from roofline.gains import gains
    from roofline.validate import scenario_of, validate

    chosen = Fidelity(fidelity) if fidelity else best_fidelity(device)
    scenario = scenario_of(run)
    points = measured_points(run, device, scenario, validate(run, device, chosen))
    content = Content(
        title=f"{run.head.model} on {device.name}",
        facts=run_facts(run),
        points=tuple(points.values()),
        fidelity=str(chosen),
        reference=f"{REFERENCE[reference_fidelity(device)]} of {device.name}",
        gains=measured_gains.records(gains(run, device, chosen)),
        comparisons=tuple(comparison(run, device, scenario, f, points) for f in EXPLAINED),
        provenance=(provenance.of_run(run, device, ceilings(device, chosen), scenario.setting),),
        measured=True,
    )
    keys = [key for key, point in points.items() if point in content.headline]
    whole = [key for key in keys if key[2] in (1, key[3])]  # chunks are not scenarios
    if advise:
        found = (advice(points[key].title, sized(scenario, key), device, chosen) for key in whole)
        content = replace(content, advice=tuple(found))
    return replace(
        content,
        cards=headline.cards(content),
        sentences=headline.sentences(content),
        elsewhere=floors_of_steps(scenario, keys, [device, *others]) if keys else (),
        elsewhere_for="; ".join(point.title for point in content.headline),
        elsewhere_on=scenario.setting.devices,
    )


def of_predictions(
    predictions: Sequence[Prediction], others: Sequence[Device] = (), *, advise: bool = False
) -> Content:
    """A report on predictions without a run.

    `others` are devices on which to bound the first's workload; `advise` tries every technique.
    """
    if not predictions:
        raise InputError(
            "a report needs at least one run or prediction; `roofline predict` makes predictions."
        )
    first, several = predictions[0], len(predictions) > 1
    names = names_apart(predictions) if several else [full_name(first)]
    totals = tuple(_totals(*each) for each in zip(names, predictions, strict=True))
    content = Content(
        title=f"{len(predictions)} predictions" + (f" of {same}" if (same := common(predictions)) else "")
        if several
        else f"{first.scenario.model.name} on {first.device.name}",
        facts=_prediction_facts(predictions),
        points=tuple(
            point
            for p, prefix in zip(predictions, prefixes(predictions), strict=True)
            for point in predicted_points(p, prefix)
        ),
        fidelity=_each(str(p.ceilings.fidelity) for p in predictions),
        reference="ceilings of the prediction",
        totals=totals,
        advice=tuple(
            advice(
                t.title,
                p.scenario,
                p.device,
                p.ceilings.fidelity,
                p.served.engine if p.served else None,
                p.ceilings.kernels.backend if p.ceilings.kernels else "",
            )
            for t, p in zip(totals, predictions[: MOST_ADVISED * advise], strict=False)
        ),
        provenance=tuple(
            provenance.of_device(p.device, p.ceilings, p.scenario.setting, _notes(predictions, p.device))
            for p in {p.device.name: p for p in predictions}.values()
        ),
    )
    return replace(
        content,
        cards=() if several else headline.predicted_cards(totals[0], content.points[0].unit),
        sentences=headline.sentences(content),
        elsewhere=floors(first.scenario, [first.device, *others]),
        elsewhere_for=workload_name(first.scenario),
        elsewhere_on=first.scenario.setting.devices,
    )


def _notes(predictions: Sequence[Prediction], device: Device) -> list[str]:
    """Those of all predictions for a device, each once."""
    own = (note for p in predictions if p.device.name == device.name for note in p.notes)
    return list(dict.fromkeys(own))


def run_facts(run: Run) -> tuple[tuple[str, str], ...]:
    """What is known of a run: an imported one states no weights, no mode and not when it was measured."""
    head = run.head
    facts = (
        ("Model", head.model),
        ("Device", head.device),
        ("Format", head.dtype),
        ("Weights", head.weights),
        ("Mode", head.mode),
        ("Imported" if head.imported else "Measured", moment(head.created)),
        ("State", head.status),
    )
    return tuple((name, value) for name, value in facts if value)


def _prediction_facts(predictions: Sequence[Prediction]) -> tuple[tuple[str, str], ...]:
    settings = [p.scenario.setting for p in predictions]
    used = _each(technique.told() for p in predictions for technique in p.scenario.techniques)
    return (
        ("Model", _each(p.scenario.model.name for p in predictions)),
        ("Device", _each(devices_of(p) for p in predictions)),
        ("Weights", _each(p.scenario.weights_told for p in predictions)),
        ("Activations", _each(s.precision.multiplied for s in settings)),
        ("KV cache", _each(str(s.precision.kv) for s in settings)),
        *_split("Devices per layer", [max(s.tensor_parallel, s.expert_parallel) for s in settings]),
        *_split("Stages of layers", [s.pipeline_parallel for s in settings]),
        *([("Techniques", used)] if used else []),
        ("Fidelity", _each(_fidelity(p) for p in predictions)),
        ("Measured", "nothing: every number is predicted"),
    )


def _split(name: str, counts: Sequence[int]) -> list[tuple[str, str]]:
    """The number of devices that share the model, if several."""
    return [(name, _each(map(str, counts)))] if max(counts) > 1 else []


def _fidelity(prediction: Prediction) -> str:
    kernels = prediction.ceilings.kernels
    carried = f" (constants of {kernels.transferred_from})" if kernels and kernels.transferred_from else ""
    return f"{prediction.ceilings.fidelity}{carried}"


def _each(words: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(words))


def _totals(title: str, prediction: Prediction) -> Totals:
    totals = prediction.totals()
    names = ("ttft_s", "tpot_s", "tokens_per_s", "mfu", "mbu", "memory_bytes", "fits", "energy_j")
    return Totals(
        title=title,
        device=prediction.device.name,
        fidelity=str(prediction.ceilings.fidelity),
        **{name: totals[name] for name in names},
    )
