"""Measure a machine's ceilings and the constants of its operator classes, as a device file.

Every figure is the median over passes: a pass measures everything once, so that a slow minute of
the machine touches one repeat of each figure and not all repeats of one.
"""

from __future__ import annotations

import gc
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from hwspecs import Calibration, Constants, Device, load_device
from hwspecs.schema import BandwidthPoint, Cache, Datasheet, Dram, Measured
from hwspecs.values import Sourced
from profiler.allocator import keep_freed_memory
from profiler.environment import device_name, environment, last_level_cache_bytes
from profiler.kernels import Place
from profiler.steps import operators_at, time_ranges
from profiler.subject import Point, Subject, load_subject, step
from profiler.timing import Sample, measure, measure_replayed, sample
from profiler.yardsticks import CPU_STEPS, GPU_STEPS, TERMS, yardsticks
from roofline.calibrate import Measurement, fit
from roofline.times import operator_class
from specfiles.errors import InputError
from specfiles.strict import plain_data

MEASURED = "measured"  # the key of the file's `sources` for what was measured here
SYSTEM = "system"
PREFILLS, DECODES = 1, 4  # repeats of a yardstick's step in one pass
COLD_FACTOR = 3  # buffers this many times the last-level cache are cold
Probe = Callable[[], float]  # seconds of one call


@dataclass
class Plan:
    """What is measured on which device, and how often."""

    device: str
    dtypes: tuple[str, ...]
    passes: int = 5
    name: str | None = None
    progress: Callable[[str], None] = lambda _: None
    budget_s: float = float("inf")  # no pass begins later, but the first
    done: int = 0  # passes so far
    sheet: Device | None = None  # whose data sheet goes along; else the shipped device of this name
    times: dict[tuple[Any, ...], list[float]] = field(default_factory=lambda: defaultdict(list))

    @property
    def cache_bytes(self) -> int:
        """The last-level cache."""
        return last_level_cache_bytes(self.device)

    def sampled(self, key: tuple[Any, ...]) -> Sample:
        """Quartiles over the passes of one figure."""
        return sample(self.times[key])


def measure_ceilings(plan: Plan) -> Device:
    """The device file of this machine: what the system says, what was measured, what was fitted."""
    import torch

    keep_freed_memory()
    with torch.inference_mode():
        runs = [run for dtype in plan.dtypes for run in _yardstick_steps(plan.device, dtype)]
        for subject, _, run in runs:
            time_ranges(subject, run, 0, warm_up=1)
        gc.collect()
        begin = time.monotonic()
        for number in range(plan.passes):
            if number and time.monotonic() - begin > plan.budget_s:
                break
            plan.done = number + 1
            plan.progress(f"pass {number + 1} of {plan.passes}")
            for key, probe in _probes(plan):
                plan.times[key].append(probe())
            for subject, point, run in runs:
                _measure_step(plan, subject, point, run)
    return _device(plan)


def _probes(plan: Plan) -> Iterator[tuple[tuple[Any, ...], Probe]]:
    """Every plain ceiling that one pass measures, under its key."""
    yield ("launch",), partial(_launch, plan.device)
    if plan.device != "cpu":
        yield ("graph_launch",), partial(_graph_launch, plan.device)
    yield ("special",), partial(_special, plan.device)
    for pattern in ("copy", "triad"):
        for size in footprints(plan.cache_bytes):
            yield ("bandwidth", pattern, size), partial(_stream, plan.device, pattern, size)
    for dtype in plan.dtypes:
        for size in _squares(plan.device):
            yield ("matmul", dtype, size), partial(_matmul, plan.device, dtype, size)


def _yardstick_steps(device: str, dtype: str) -> list[tuple[Subject, Point, Callable[[Any], Any]]]:
    """Every step of every yardstick, its KV cache filled, ready to be repeated."""
    steps = CPU_STEPS if device == "cpu" else GPU_STEPS
    subjects = [load_subject(loaded, device, dtype, seed=0) for loaded in yardsticks(device)]
    points = [Point(phase, *sizes) for phase in ("prefill", "decode") for sizes in getattr(steps, phase)]
    return [(s, point, step(s, point, point.kv_len)) for s in subjects for point in points]


def _measure_step(plan: Plan, subject: Subject, point: Point, run: Callable[[Any], Any]) -> None:
    """Run a step and note the time of each operator in it, under its class, model and shape."""
    repeats = PREFILLS if point.phase == "prefill" else DECODES
    timed = time_ranges(subject, run, repeats, warm_up=0)
    for named in operators_at(subject.loaded, subject.dtype, point):
        key = ("class", subject.dtype, subject.loaded.model.name, named)
        plan.times[key] += [total / named.count for total in timed.ranges[named.name]]


def _once(call: Callable[[int], Any], device: str) -> float:
    return measure(call, device, repeats=3, budget_s=0.0).median_s


def footprints(cache_bytes: int) -> list[int]:
    """Bytes touched, by factors of two from a first-level cache to well beyond the last level."""
    sizes, size = [], 16_384
    while size < 8 * cache_bytes:
        sizes.append(size)
        size *= 2
    return sizes


def _stream(device: str, pattern: str, footprint: int) -> float:
    import torch

    arrays = {"copy": 2, "triad": 3}[pattern]
    a, *rest = (torch.ones(footprint // (4 * arrays), device=device) for _ in range(arrays))
    if pattern == "copy":
        return _once(lambda _: a.copy_(rest[0]), device)
    b, c = rest
    return _once(lambda _: torch.add(b, c, alpha=3.0, out=a), device)


def _launch(device: str) -> float:
    import torch

    x = torch.ones(1, device=device)
    return _once(lambda _: x.add_(1.0), device)


def _graph_launch(device: str) -> float:
    import torch

    x = torch.ones(1, device=device)
    return measure_replayed(lambda _: x.add_(1.0), device, repeats=3, budget_s=0.0).median_s


SPECIAL_ELEMENTS = {"cpu": 4096, "cuda": 1 << 24}  # first-level cache; enough threads to fill a GPU


def _special(device: str) -> float:
    import torch

    x = torch.rand(SPECIAL_ELEMENTS[_kind(device)], device=device)
    out = torch.empty_like(x)
    return _once(lambda _: torch.exp(x, out=out), device)


def _kind(device: str) -> str:
    return device.partition(":")[0]


def _squares(device: str) -> tuple[int, ...]:
    return (256, 512, 1024, 1536) if device == "cpu" else (1024, 2048, 4096, 8192, 16384)


def _matmul(device: str, dtype: str, size: int) -> float:
    place = Place(device, dtype)
    a, b = place.random(size, size), place.random(size, size)
    return _once(lambda _: a @ b, device)


def _device(plan: Plan) -> Device:
    facts = environment(plan.device)
    told = ", ".join(f"{key} {value}" for key, value in facts.items())
    name = plan.name or (plan.sheet.name if plan.sheet else device_name(plan.device))
    known = plan.sheet or (_known(name) if plan.device != "cpu" else None)
    return Device(
        schema_version=1,
        name=name,
        aliases=plan.sheet.aliases if plan.sheet else [],
        vendor=known.vendor if known else _vendor(name),
        kind=known.kind if known else "gpu" if plan.device != "cpu" else "cpu",
        architecture=known.architecture if known else str(facts["processor"]),
        sources={
            **(known.sources if known else {}),
            SYSTEM: "what the operating system reports",
            MEASURED: f"roofline ceilings, medians of {plan.done} passes; {told}",
        },
        conflicts=known.conflicts if known else [],
        datasheet=known.datasheet if known else _system_sheet(plan),
        measured=_measured(plan),
        calibration=_calibration(plan, told),
        node=plan.sheet.node if plan.sheet else None,
    )


def _known(name: str) -> Device | None:
    """The shipped device of this name: its data sheet goes along with what is measured."""
    try:
        return load_device(name)
    except InputError:
        return None


def _vendor(name: str) -> str:
    return next((v for v in ("AMD", "Intel", "NVIDIA", "Apple") if v.lower() in name.lower()), "unknown")


def _system_sheet(plan: Plan) -> Datasheet:
    """What the system says of a machine without a data sheet: cores and memory size, no peaks."""
    import torch

    if plan.device == "cpu":
        import psutil

        processors, memory = torch.get_num_threads(), psutil.virtual_memory().total
    else:
        properties = torch.cuda.get_device_properties(plan.device)
        processors, memory = properties.multi_processor_count, properties.total_memory

    def told(value: float) -> Sourced:
        return Sourced(value=float(value), source=SYSTEM)

    return Datasheet(
        processors=told(processors),
        dram=Dram(type="system memory", capacity_bytes=told(memory)),
        last_level_cache=Cache(capacity_bytes=told(plan.cache_bytes)),
    )


def _measured(plan: Plan) -> Measured:
    def value(number: float, key: tuple[Any, ...], note: str) -> Sourced:
        spread = plan.sampled(key).spread
        return Sourced(value=_digits(number), source=MEASURED, note=f"{note}; spread {spread:.1%}")

    curve = _curve(plan)
    beyond = [p for p in curve if p.footprint_bytes >= 2 * plan.cache_bytes]
    best = max(beyond, key=lambda p: p.byte_per_s)
    peaks: dict[Any, Sourced] = {}
    for dtype in plan.dtypes:
        size = min(_squares(plan.device), key=lambda s: plan.sampled(("matmul", dtype, s)).median_s / s**3)
        key = ("matmul", dtype, size)
        rate = 2 * size**3 / plan.sampled(key).median_s
        peaks[dtype] = value(rate, key, f"matrix product of {size} x {size}, best of sizes")
    special = SPECIAL_ELEMENTS[_kind(plan.device)] / plan.sampled(("special",)).median_s
    on_vector_units = plan.device == "cpu"  # a CPU's matrix products run on its vector units
    return Measured(
        tensor_flop_per_s={} if on_vector_units else peaks,
        vector_flop_per_s=peaks if on_vector_units else {},
        special_op_per_s=value(special, ("special",), "exp of fp32"),
        dram_byte_per_s=value(
            best.byte_per_s,
            ("bandwidth", best.pattern, int(best.footprint_bytes)),
            f"{best.pattern} of {best.footprint_bytes:.3g} bytes",
        ),
        launch_s=value(plan.sampled(("launch",)).median_s, ("launch",), "one element added in place"),
        graph_launch_s=None
        if on_vector_units
        else value(
            plan.sampled(("graph_launch",)).median_s, ("graph_launch",), "the same in a replayed graph"
        ),
        bandwidth_curve=curve,
    )


def _curve(plan: Plan) -> list[BandwidthPoint]:
    """Bandwidth by footprint; a store counts once, the line that it may first read does not."""
    return [
        BandwidthPoint(
            pattern=key[1],
            footprint_bytes=float(key[2]),
            byte_per_s=_digits(key[2] / plan.sampled(key).median_s),
            spread=_digits(plan.sampled(key).spread),
        )
        for key in plan.times
        if key[0] == "bandwidth"
    ]


def _calibration(plan: Plan, told: str) -> Calibration:
    """Constants per class, fitted on the yardsticks but the one that scores them."""
    rows: dict[tuple[str, str], list[Measurement]] = defaultdict(list)
    for key in plan.times:
        if key[0] == "class":
            _, dtype, family, named = key
            measured = _measurement(family, named.operator, plan.sampled(key))
            rows[operator_class(named.operator), dtype].append(measured)
    operators: dict[str, list[Constants]] = defaultdict(list)
    for (name, dtype), found in rows.items():
        operators[name].append(_rounded(fit(found, dtype, TERMS[name])))
    return Calibration(
        source=f"operators inside the yardstick models of roofline ceilings, one model held out; {told}",
        operators=dict(operators),
    )


def _measurement(family: str, operator: Any, timed: Sample) -> Measurement:
    work = operator.work()
    return Measurement(
        family,
        float(work.flops),
        float(work.special_ops),
        float(work.bytes),
        float(work.outputs),
        timed.median_s,
    )


def _rounded(constants: Constants) -> Constants:
    """Five digits: more would claim what a repeat of the measurement refutes."""
    floats = {k: _digits(v) for k, v in plain_data(constants).items() if isinstance(v, float)}
    return constants.replace(**floats)


def _digits(value: float) -> float:
    return float(f"{value:.5g}")


def as_yaml(device: Device) -> str:
    """A device file that the loader reads back."""
    import yaml

    data = {key: value for key, value in plain_data(device).items() if value not in ([], {})}
    return str(yaml.dump(data, Dumper=_dumper(), sort_keys=False, width=110, allow_unicode=True))


def _dumper() -> Any:
    import yaml

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True  # the loader accepts none

    def number(dumper: Any, value: float) -> Any:
        mantissa, _, exponent = repr(value).partition("e")
        text = mantissa if "." in mantissa else f"{mantissa}.0"
        return dumper.represent_scalar(
            "tag:yaml.org,2002:float", text + (f"e{int(exponent):+d}" if exponent else "")
        )

    Dumper.add_representer(float, number)
    return Dumper
