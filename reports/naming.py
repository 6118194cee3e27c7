"""Names of predictions on one page: of several, what differs between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from roofline.predict import Prediction
from roofline.scenario import Scenario

IN_SIZES = frozenset(("batch", "prompt", "context"))  # what the sizes of a step say


def full_name(prediction: Prediction) -> str:
    """A prediction by model, device, phase, batch and lengths."""
    return f"{prediction.scenario.model.name} on {prediction.device.name}, {_sizes(prediction.scenario)}"


def workload_name(asked: Scenario) -> str:
    """A workload by model, phase, batch and lengths, for any device."""
    return f"{asked.model.name}, {_sizes(asked)}"


def _sizes(asked: Scenario) -> str:
    return f"{asked.phase}, batch {asked.batch}, {', '.join(_lengths(asked).values())}"


def names_apart(predictions: Sequence[Prediction]) -> list[str]:
    """What differs between several predictions, in their order; numbers where nothing does."""
    return [", ".join(parts.values()) for parts in _apart(predictions)]


def prefixes(predictions: Sequence[Prediction]) -> list[str]:
    """What differs and is not among the sizes of a prediction's steps; empty for one prediction."""
    if len(predictions) == 1:
        return [""]
    said = (
        ", ".join(part for name, part in parts.items() if name not in IN_SIZES)
        for parts in _apart(predictions)
    )
    return [f"{name[:1].upper()}{name[1:]}. " if name else "" for name in said]


def common(predictions: Sequence[Prediction]) -> str:
    """`MODEL on DEVICE`, as far as they are the same."""
    models, devices = ({p.scenario.model.name for p in predictions}, {devices_of(p) for p in predictions})
    return " on ".join(names.pop() for names in (models, devices) if len(names) == 1)


def devices_of(prediction: Prediction) -> str:
    """`8 x NAME (NODE)`: the devices that share the work, and their node."""
    device, count = prediction.device, prediction.scenario.setting.devices
    node = f" ({device.node.name})" if device.node else ""
    return (f"{count} x " if count > 1 else "") + device.name + node


def _apart(predictions: Sequence[Prediction]) -> list[Mapping[str, str]]:
    parts = [_parts(prediction) for prediction in predictions]
    names = dict.fromkeys(name for each in parts for name in each)
    differing = [name for name in names if len({each.get(name) for each in parts}) > 1]
    if not differing:
        return [{"number": f"prediction {number}"} for number in range(1, len(predictions) + 1)]
    return [{name: each[name] for name in differing if name in each} for each in parts]


def _parts(prediction: Prediction) -> dict[str, str]:
    asked, setting = prediction.scenario, prediction.scenario.setting
    kernels = prediction.ceilings.kernels
    backend = kernels.backend if kernels is not None else ""
    formats, used = setting.precision, [technique.told() for technique in asked.techniques]
    return {
        "model": asked.model.name,
        "device": devices_of(prediction),
        "weights": f"weights {asked.model.weights_format(formats)}",
        **({"experts": f"experts {formats.experts}"} if formats.experts else {}),
        "activations": f"activations {formats.multiplied}",
        "KV": f"KV {formats.kv}",
        "techniques": f"with {', '.join(used)}" if used else "no technique",
        "convention": f"convention {setting.convention.name}",
        **({"backend": f"kernels of {backend}"} if backend else {}),
        "engine": f"engine {prediction.served.engine.name}" if prediction.served else "no engine",
        "fidelity": f"fidelity {prediction.ceilings.fidelity}",
        "phase": asked.phase,
        "steps": f"{asked.steps or 'default'} steps",
        "images": f"{asked.images} images",
        "batch": f"batch {asked.batch}",
        **_lengths(asked),
    }


def _lengths(asked: Scenario) -> dict[str, str]:
    if asked.phase == "prefill":
        return {"prompt": f"{asked.prompt:,} tokens"}
    if asked.phase == "decode":
        return {"context": f"context {asked.decode_context:,}"}
    return {"prompt": f"prompt {asked.prompt:,}", "output": f"output {asked.output:,}"}
