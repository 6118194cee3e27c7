"""Measure a machine's ceilings and the constants of its operator classes, as a device file.

Every figure is the median over passes: a pass measures everything once, so that a slow minute of
the machine touches one repeat of each figure and not all repeats of one.
"""

from __future__ import annotations

import gc
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from math import isfinite
from typing import Any, NamedTuple

from hwspecs import Calibration, Constants, Device, load_device
from hwspecs.schema import BandwidthPoint, Cache, Datasheet, Dram, Measured, Reference
from hwspecs.values import Sourced
from profiler.allocator import keep_freed_memory
from profiler.environment import device_name, environment, last_level_cache_bytes, memory_bytes
from profiler.kernels import FP8
from profiler.power import PowerMonitor, clocks, throttling
from profiler.probes import BEYOND, INT8, PINNED_BYTES, STEADY_S, Probe, fma_flops, probes, special_ops
from profiler.references import ReferenceStep, visit
from profiler.repeats import Effort, Sample, sample, uncertainty
from profiler.steps import operators_at, time_ranges
from profiler.subject import Point, Subject, load_subject, out_of_memory, step
from profiler.treatments.base import Around
from profiler.treatments.weight_only import has_fbgemm, narrowed
from profiler.yardsticks import TERMS, cache_fits, formats_that_fit, steps_of, yardsticks
from roofline.calibrate import Measurement, fit
from roofline.times import narrow_class, operator_class
from specfiles.errors import InputError, reason
from specfiles.strict import plain_data
from workloads.phases import Named
from workloads.techniques.changes import in_format, is_projection

MEASURED = "measured"  # the key of the file's `sources` for what was measured here
SYSTEM = "system"
COLD_FACTOR = 3  # buffers this many times the last-level cache are cold
NEEDED = ("launch", "bandwidth", "matmul")  # without which there is no device file
VECTOR = ("fp32",)  # formats in which a GPU's products run on its vector units (PyTorch's default: no TF32)


@dataclass
class Plan:
    """What is measured on which device, and how often."""

    device: str
    dtypes: tuple[str, ...]
    passes: int = 6  # at most; of fewer the interval of a median is not known
    name: str | None = None
    progress: Callable[[str], None] = lambda _: None
    budget_s: float = float("inf")  # no pass begins later, but the first
    precision: float = 0.0  # no pass begins when every ceiling's median is known to this fraction
    done: int = 0  # passes so far
    ended: str = ""  # why no more were made
    sheet: Device | None = None  # whose data sheet goes along; else the shipped device of this name
    times: dict[tuple[Any, ...], list[float]] = field(default_factory=lambda: defaultdict(list))
    failed: dict[tuple[Any, ...], str] = field(default_factory=dict)  # what could not be measured, and why
    left_out: list[str] = field(default_factory=list)  # what was not begun

    @property
    def cache_bytes(self) -> int:
        """The last-level cache."""
        return last_level_cache_bytes(self.device)

    def sampled(self, key: tuple[Any, ...]) -> Sample:
        """Quartiles over the passes of one figure."""
        return sample(self.times[key])

    def enough(self, spent_s: float) -> str:
        """Why no more passes are needed, empty while they are: the ceiling that is known least decides.

        Times of operators in the yardsticks do not: a fit takes many of them together.
        """
        effort = Effort(self.passes, self.budget_s, self.precision, fewest=1)
        ceilings = (times for key, times in self.times.items() if key[0] != "class")
        return effort.ended(max(ceilings, key=uncertainty, default=[]), spent_s, self.done)


def measure_ceilings(plan: Plan) -> Device:
    """The device file of this machine: what the system says, what was measured, what was fitted."""
    import torch

    keep_freed_memory()
    with torch.inference_mode(), PowerMonitor(plan.device) as power:
        runs = [run for dtype in _measured_formats(plan) for run in _yardstick_steps(plan.device, dtype)]
        for subject, _, run, around, _ in runs:
            with around():
                time_ranges(subject, run, 0, warm_up=1)
        gc.collect()
        begin = time.monotonic()
        while not plan.ended:
            plan.done += 1
            plan.progress(f"pass {plan.done} of {plan.passes}")
            for key, probe in probes(plan.device, plan.dtypes, plan.cache_bytes):
                _try(plan, key, probe)
            for each in runs:
                _measure_step(plan, each)
            plan.ended = plan.enough(time.monotonic() - begin)
    held = [*clocks(power.samples()), *throttling(power.samples())]
    return _device(plan, [*held, *power.notes, *plan.left_out])


def _try(plan: Plan, key: tuple[Any, ...], probe: Probe) -> None:
    """Measure one ceiling; a GPU's optional ones may fail (no compiler, no memory to lock) and are named."""
    if key in plan.failed:
        return
    try:
        plan.times[key].append(probe())
    except Exception as error:
        if key[0] in NEEDED and not out_of_memory(error):
            raise
        plan.times.pop(key, None)
        plan.failed[key] = reason(error)
        plan.progress(f"  {' '.join(map(str, key))} cannot be measured: {plan.failed[key]}")


class _Run(NamedTuple):
    """A step of a yardstick, ready to be repeated."""

    subject: Subject
    point: Point
    run: Callable[[Any], Any]
    around: Around = nullcontext
    narrow: bool = False  # `around` exchanges the layers' projections by those with INT8 weights


def _yardstick_steps(device: str, dtype: str) -> list[_Run]:
    """Every step of every yardstick, its KV cache filled; some of them with narrow projections, too."""
    steps = steps_of(device)
    subjects = [load_subject(loaded, device, dtype, seed=0) for loaded in yardsticks(device)]
    points = [Point(phase, *sizes) for phase in ("prefill", "decode") for sizes in getattr(steps, phase)]
    memory = memory_bytes(device)
    return [
        run
        for s in subjects
        for run in _runs(
            s, [p for p in points if cache_fits(s.loaded, dtype, (p.batch, p.q_len, p.kv_len), memory)]
        )
    ]


def _runs(subject: Subject, points: Sequence[Point]) -> Iterator[_Run]:
    """Steps as they are and, on a CPU whose kernels for narrow weights are known, some with those."""
    also = _narrow_points(subject)
    around = narrowed(subject, INT8) if also else nullcontext
    for point in points:
        run = step(subject, point, point.kv_len)
        yield _Run(subject, point, run)
        if point in also:
            yield _Run(subject, point, run, around, narrow=True)


def _narrow_points(subject: Subject) -> list[Point]:
    """One row in formats with a kernel for INT8 weights; many rows where that multiplies in INT8.

    The bf16 kernel widens weights: of many rows its products are counted as the bf16 ones that they are.
    """
    steps = steps_of(subject.device)
    row = Point("decode", *steps.decode[1])
    if subject.device != "cpu" or subject.dtype not in ("fp32", "bf16"):
        return []
    if subject.dtype == "bf16":
        return [row]
    many = [Point("prefill", *steps.prefill[which]) for which in (0, -1)]
    return [*many, row] if has_fbgemm() else []


def _measured_formats(plan: Plan) -> list[str]:
    """The formats whose yardsticks find place in memory together; of fp8 there are products alone."""
    wide = [dtype for dtype in plan.dtypes if dtype != FP8]
    found = formats_that_fit(plan.device, wide, memory_bytes(plan.device))
    plan.left_out += [
        f"no operators in {d}: memory does not hold their models" for d in wide if d not in found
    ]
    return found


def _measure_step(plan: Plan, each: _Run) -> None:
    """Run a step and note the time of each operator in it, under its class, model and shape."""
    subject, point, run, around, narrow = each
    with around():
        timed = visit(subject, point, run)
    rows = operators_at(subject.loaded, subject.dtype, point)
    plain = [(subject.dtype, row) for row in rows]
    for dtype, named in _narrow(rows, subject.dtype, point) if narrow else plain:
        key = ("class", dtype, subject.loaded.model.name, named)
        plan.times[key] += [total / named.count for total in timed.ranges[named.name]]
    if narrow:
        return
    made = ReferenceStep(subject, point, run)
    if made.is_reference:
        plan.times["reference", *made.identity.items()] += timed.ranged
        plan.times["reference layers", *made.identity.items()] += timed.in_layers


def _narrow(rows: Sequence[Named], dtype: str, point: Point) -> list[tuple[str, Named]]:
    """The projections of the layers by INT8 weights, each with the format that it is calibrated in.

    What is not exchanged is measured without them. FBGEMM's products multiply in INT8, and those of one row
    are also what weight-only quantisation runs: one time, two classes.
    """
    found = [row for row in rows if is_projection(row)]
    kinds = [dtype] if point.phase == "decode" else []
    kinds += [INT8] if dtype == "fp32" else []
    return [
        (inputs, replace(row, operator=in_format(row.operator, INT8, inputs)))  # type: ignore[type-var]
        for inputs in kinds
        for row in found
    ]


def _device(plan: Plan, state: list[str]) -> Device:
    """The file; `state` says at which clocks it was measured."""
    facts = environment(plan.device)
    told = ", ".join([*(f"{key} {value}" for key, value in facts.items()), *state])
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
            MEASURED: f"roofline ceilings, medians of {plan.done} passes, ended by: {plan.ended}; {told}",
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
        said = plan.sampled(key)
        aside = f", {len(said.outliers)} of them far outside" if said.outliers else ""
        known = uncertainty(plan.times[key])
        sure = f", median known to {known:.1%} at 95 %" if isfinite(known) else ""
        spread = f"spread {said.spread:.1%} over {said.repeats} passes{aside}{sure}"
        return Sourced(value=_digits(number), source=MEASURED, note=f"{note}; {spread}")

    curve = _curve(plan)
    far = BEYOND[plan.device.partition(":")[0]] * plan.cache_bytes
    beyond = [p for p in curve if p.footprint_bytes >= far]
    best = max(beyond, key=lambda p: p.byte_per_s)
    on_vector_units = plan.device == "cpu"  # a CPU's matrix products run on its vector units
    peaks = _peaks(plan, value)
    vector = {dtype: peak for dtype, peak in peaks.items() if on_vector_units or dtype in VECTOR}
    if ("fma",) in plan.times:
        rate = fma_flops() / plan.sampled(("fma",)).median_s
        if "fp32" not in vector or rate > vector["fp32"].value:
            vector["fp32"] = value(rate, ("fma",), "chained multiply-adds of fp32")

    def timed(name: str, note: str) -> Sourced | None:
        return value(plan.sampled((name,)).median_s, (name,), note) if (name,) in plan.times else None

    special = ("special",) in plan.times
    return Measured(
        tensor_flop_per_s={dtype: peak for dtype, peak in peaks.items() if dtype not in vector},
        vector_flop_per_s=vector,
        steady_flop_per_s={
            key[1]: value(
                2 * key[2] ** 3 / plan.sampled(key).median_s,
                key,
                f"after {STEADY_S:.0f} s of it",
            )
            for key in plan.times
            if key[0] == "steady"
        },
        special_op_per_s=value(
            special_ops(plan.device) / plan.sampled(("special",)).median_s, ("special",), "exp of fp32"
        )
        if special
        else None,
        dram_byte_per_s=value(
            best.byte_per_s,
            ("bandwidth", best.pattern, int(best.footprint_bytes)),
            f"{best.pattern} of {best.footprint_bytes:.3g} bytes",
        ),
        l2_byte_per_s=None if on_vector_units else _l2(plan, curve, value),
        launch_s=timed("launch", "one element added in place"),
        graph_launch_s=timed("graph_launch", "the same in a replayed graph"),
        links=_links(plan, value),
        bandwidth_curve=curve,
        references=[
            Reference(
                **dict(key[1:]),
                **_rounded_quartiles(plan.sampled(key)),
                layers_s=_digits(plan.sampled(("reference layers", *key[1:])).median_s),
            )
            for key in plan.times
            if key[0] == "reference"
        ],
    )


Value = Callable[[float, tuple[Any, ...], str], Sourced]


def _peaks(plan: Plan, value: Value) -> dict[Any, Sourced]:
    """The best product of each format, over the sizes."""
    peaks: dict[Any, Sourced] = {}
    for dtype in dict.fromkeys(key[1] for key in plan.times if key[0] == "matmul"):
        keys = [key for key in plan.times if key[:2] == ("matmul", dtype)]
        rates = {key: 2 * key[2] ** 3 / plan.sampled(key).median_s for key in keys}
        key = max(rates, key=lambda k: rates[k])
        how = ", fp32 rows quantised on the way" if dtype == INT8 else ""
        peaks[dtype] = value(rates[key], key, f"matrix product of {key[2]} x {key[2]}, best of sizes{how}")
    return peaks


def _l2(plan: Plan, curve: list[BandwidthPoint], value: Value) -> Sourced | None:
    """The best of footprints that the L2 holds, with as much again to spare."""
    inside = [p for p in curve if p.footprint_bytes <= plan.cache_bytes / 2]
    best = max(inside, key=lambda p: p.byte_per_s, default=None)
    if best is None:
        return None
    key = ("bandwidth", best.pattern, int(best.footprint_bytes))
    return value(best.byte_per_s, key, f"{best.pattern} of {best.footprint_bytes:.3g} bytes")


def _links(plan: Plan, value: Value) -> dict[Any, Sourced]:
    """To the host the slower direction, page-locked memory; to another GPU where there is one."""
    links = {}
    notes = {"pcie": "page-locked memory {}, the slower direction", "nvlink": "a copy to {}"}
    for link, note in notes.items():
        keys = [key for key in plan.times if key[0] == link]
        if keys:
            slower = max(keys, key=lambda key: plan.sampled(key).median_s)
            rate = PINNED_BYTES / plan.sampled(slower).median_s
            links[link] = value(rate, slower, note.format(slower[1]))
    return links


def _rounded_quartiles(timed: Sample) -> dict[str, Any]:
    rounded = {name: _digits(getattr(timed, name)) for name in ("median_s", "q25_s", "q75_s")}
    return {**rounded, "repeats": timed.repeats}


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
            name = narrow_class(named.operator) or operator_class(named.operator)
            rows[name, dtype].append(measured)
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
