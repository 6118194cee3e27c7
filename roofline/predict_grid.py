"""The predictions of a grid by the formulas of a single one (operators, times, summary), called with arrays.

Each is called once per operator instead of once per point. Points whose model is cut differently (tensor
parallelism, convention) are evaluated group by group; points of a chunk at a time, so that memory does not
grow with the grid.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, is_dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from roofline.ceilings import Ceilings, Fidelity, ceilings
from roofline.contexts import inside, straightness
from roofline.engines import Timed, kernels_of, launches, refuse_own_host, request_s, takes_turns
from roofline.grid import Grid, taken
from roofline.many import ManyCeilings, many
from roofline.times import BOUNDS, products_s, times
from roofline.totals import held_bytes, power_of, summary, utilisation_scale
from workloads.dtypes import Precision, codes
from workloads.phases import Named
from workloads.schedule import Pass, Schedule, plain
from workloads.techniques.compose import in_order

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from roofline.engines import Engine
    from roofline.grid import Floats, Indices
    from workloads.model import Model

    Table = dict[str, NDArray[Any]]


CHUNK = 16_384  # points evaluated at once: arrays of 128 kB stay in a second-level cache
SUMS = ("flops", "products_s", "bytes", "activation_bytes", "time_s")  # what totals are made of
SHORT = ("compute", "memory", "comm", "launch")  # in the order of BOUNDS
LIMITS = (*(f"{limit}_s" for limit in SHORT), "time_s")
WORK = ("flops", "matrix_flops", "vector_flops", "special_ops", "bytes", "weight_bytes", "activation_bytes")
ROWS = (*WORK, "kv_bytes", "comm_bytes", *LIMITS)  # numbers of one row per operator


@dataclass(frozen=True)
class _Points:
    """Points that one call evaluates: they agree in everything of the setting but the formats."""

    grid: Grid
    limits: Ceilings
    scale: Ceilings  # that utilisation refers to
    schedule: Schedule  # whose setting has arrays of dtype codes where formats differ
    engine: Engine | None = None

    @classmethod
    def of(
        cls, model: Model, grid: Grid, limits: Sequence[Ceilings], engine: Engine | None = None
    ) -> _Points:
        precision = _precision([s.precision for s in grid.settings], grid.setting)
        setting = replace(grid.settings[grid.setting[0]], precision=precision)
        stated = list(map(utilisation_scale, grid.devices, limits))
        priced, scale = (_limits(of, grid.device, precision) for of in (limits, stated))
        sizes = grid.batch, grid.prompt, grid.output, grid.context
        schedule = plain(model, grid.phase, *sizes, setting, images=grid.images, steps=grid.steps)
        for technique in in_order(grid.techniques):
            schedule = technique.apply(schedule)
        return cls(grid, priced, scale, schedule, engine)


def predict_grid(
    model: Model, grid: Grid, fidelity: Fidelity | str = Fidelity.DATASHEET, engine: Engine | None = None
) -> Table:
    """The totals of every point, by the names of `Prediction.totals`; NaN stands for its None.

    `engine` adds its time to each. Raises InputError where a single prediction of one of the points would.
    """
    grid.check(model)
    limits = [ceilings(device, fidelity, kernels_of(engine, fidelity)) for device in grid.devices]
    if engine is not None:
        for each, device in zip(limits, grid.devices, strict=True):
            refuse_own_host(engine, each, device)
    columns: Table = {}
    for chunk in _chunks(len(grid)):
        for index in _groups(grid, chunk, limits):
            points = _Points.of(model, taken(grid, index), limits, engine)
            for name, values in _totals(points).items():
                column = columns.setdefault(name, np.empty(len(grid), dtype=np.asarray(values).dtype))
                column[index] = values
    return columns


def grid_rows(
    model: Model,
    grid: Grid,
    fidelity: Fidelity | str = Fidelity.DATASHEET,
    numbers: Sequence[str] = ROWS,
) -> Iterator[Table]:
    """A row per operator and point, a table per operator and chunk: `point` is the index in the grid."""
    grid.check(model)
    limits = [ceilings(device, fidelity) for device in grid.devices]
    for chunk in _chunks(len(grid)):
        for index in _groups(grid, chunk, limits):
            points = _Points.of(model, taken(grid, index), limits)
            rows = ((each, row) for each in points.schedule.passes for row in _rows(points, each, numbers))
            for each, (named, count, values) in rows:
                n = len(index)
                text = {"name": named.name, "kind": named.operator.kind, "phase": each.phase}
                columns: Table = {"point": index, **{k: np.full(n, v) for k, v in text.items()}}
                found = zip(("count", *numbers), (count, *values), strict=True)
                yield columns | {k: np.broadcast_to(np.asarray(v, dtype=float), n) for k, v in found}


def grid_limits(
    model: Model, grid: Grid, fidelity: Fidelity | str = Fidelity.DATASHEET
) -> tuple[list[dict[str, str]], list[dict[str, float]]]:
    """Of every point what binds for the largest share of each phase's time (`Prediction.bound`), and the
    seconds of operators whose times are not calibrated at a fidelity that is, by name.
    """
    seconds: dict[str, NDArray[np.float64]] = {}
    bare: dict[str, NDArray[np.float64]] = {}
    for row in grid_rows(model, grid, fidelity, (*LIMITS, "uncalibrated")):
        binds = np.argmax([row[f"{limit}_s"] for limit in SHORT], axis=0)
        held = seconds.setdefault(str(row["phase"][0]), np.zeros((len(grid), len(SHORT))))
        took = row["count"] * row["time_s"]
        held[row["point"], binds] += took
        if row["uncalibrated"].any():
            bare.setdefault(str(row["name"][0]), np.zeros(len(grid)))[row["point"]] += took
    named = {phase: np.array(BOUNDS)[held.argmax(axis=1)].tolist() for phase, held in seconds.items()}
    points = range(len(grid))
    bounds = [{phase: names[i] for phase, names in named.items()} for i in points]
    return bounds, [{name: float(took[i]) for name, took in bare.items()} for i in points]


def _chunks(size: int) -> Iterator[Indices]:
    for start in range(0, size, CHUNK):
        yield np.arange(start, min(start + CHUNK, size))


def _groups(grid: Grid, chunk: Indices, limits: Sequence[Ceilings]) -> Iterator[Indices]:
    """Points that one call can evaluate.

    What is calibrated has no arrays over devices and formats, and has classes of its own for one row.
    Techniques ask which format is given, and so need one per call, too. A decode step that sees no position
    but its own is computed as a prompt of one.
    """
    shapes = [replace(s, precision=Precision()) for s in grid.settings]
    shape = {s: i for i, s in enumerate(dict.fromkeys(shapes))}
    keys = [np.array([shape[s] for s in shapes])[grid.setting[chunk]]]
    if grid.phase == "decode":
        keys.append(grid.context[chunk] == 1)
    if limits[0].fidelity.calibrates:
        keys += [grid.device[chunk], grid.batch[chunk] == 1, grid.prompt[chunk] == 1]
    if limits[0].fidelity.calibrates or grid.techniques:
        keys.append(grid.setting[chunk])
    group = np.zeros(len(chunk), dtype=int)
    for key in keys:  # numbered one after the other, so that the numbers stay small
        _, group = np.unique(group * (int(key.max()) + 1) + key, return_inverse=True)
    for number in range(int(group.max()) + 1):
        yield chunk[group == number]


def _limits(of: Sequence[Ceilings], device: Indices, precision: Precision) -> Ceilings:
    """Plain ceilings where all points have one device and agree in what they multiply in."""
    plain = (device == device[0]).all() and all(isinstance(d, str | None) for d in vars(precision).values())
    return of[device[0]] if plain else many(of, device)


def _precision(known: Sequence[Precision], index: Indices) -> Precision:
    """The formats of points: a name where all agree, else an array of codes."""

    def column(name: str) -> Any:
        names = [str(getattr(p, name)) for p in known]
        used = {names[i] for i in np.unique(index)}
        return used.pop() if len(used) == 1 else codes(names)[index]

    parts = {name: column(name) for name in ("weights", "activations", "kv", "wide")}
    if any(p.experts is not None for p in known):
        parts["experts"] = column("expert_weights")
    if any(p.experts_in is not None for p in known):
        parts["experts_in"] = column("expert_activations")
    return Precision(**parts)


def _totals(points: _Points) -> Table:
    grid, schedule = points.grid, points.schedule
    n = len(grid)
    times = ("prefill_s", "decode_s", "denoise_s")
    sums = {name: np.zeros(n) for name in ("flops", "products_s", "bytes", *times)}
    peak, steps = np.zeros(n), np.zeros(n)
    for each in schedule.passes:
        kernels: Any = 0.0  # of one step
        kinds = set[str]()
        for named, count, (flops, products, moved, activations, time) in _rows(points, each, SUMS):
            if points.engine is not None:  # nobody else asks what is launched, and work over arrays is costly
                one = named.operator
                eager = points.engine.launches_each(each)
                kernels += named.count * launches(one.kind, each.phase, one.work(), eager=eager)
                kinds.add(one.kind)
            for name, value in (("flops", flops), ("products_s", products), ("bytes", moved)):
                sums[name] += count * value
            sums[f"{each.phase}_s"] += count * time
            np.maximum(peak, np.where(each.times > 0, activations, 0.0), out=peak)
        if points.engine is not None:
            sums[f"{each.phase}_s"] += _waited_s(points, each, sums[f"{each.phase}_s"], kernels, kinds)
        if each.phase == "decode":
            steps += each.times
    sums["first_s"] = sums["prefill_s"] + sums["denoise_s"]  # of a model that has either
    sums["time_s"] = sums["first_s"] + sums["decode_s"]
    weights, cache, activations = held_bytes(schedule, peak)
    out = {"prefill": grid.prompt, "decode": 1.0}.get(grid.phase, grid.output)
    watts = [d.datasheet.tdp_w.value if d.datasheet.tdp_w else np.nan for d in grid.devices]
    capacity = np.array([d.capacity_bytes for d in grid.devices])
    found = summary(
        grid.phase,
        grid.batch * out,
        steps,
        sums,
        (np.broadcast_to(weights, n), np.broadcast_to(cache, n), activations),
        points.scale.dram_byte_per_s,
        capacity[grid.device],
        np.array(watts)[grid.device] * schedule.main.setting.devices,
        power_of(points.limits),
    )
    return {k: np.full(n, np.nan) if v is None else np.asarray(v) for k, v in found.items()}


def _waited_s(points: _Points, each: Pass, device_s: Floats, kernels: Any, kinds: Iterable[str]) -> Floats:
    """Seconds that the engine adds to a pass, as `roofline.engines.with_engine` does."""
    engine = points.engine
    assert engine is not None
    turns = takes_turns(kinds, each.phase, eager=engine.launches_each(each))
    one_s = device_s / np.maximum(1, each.times)
    timed = Timed(each.phase, each.times, True, turns, engine.replays(each), True, one_s, kernels)
    known = engine.fit.overheads
    request = request_s(points.grid.prompt, known) if each.phase != "decode" else 0.0
    return np.asarray(sum(timed.parts(known).values()) + request, dtype=float)


def _rows(points: _Points, each: Pass, names: Sequence[str]) -> Iterator[tuple[Named, Any, Any]]:
    """Each operator of a pass: how often it runs, and its numbers (a mean over growing contexts)."""
    first = each.operators(each.first)
    last = first if each.last is each.first else each.operators(_last(each))
    for place, (named, other) in enumerate(zip(first, last, strict=True)):
        values: Any
        if other is named or _same(named.operator, other.operator):
            values = _numbers(named, points, names)
        else:
            values = _summed(points, each, place, names) / np.maximum(each.times, 1)
        yield named, named.count * each.times, values


def _last(each: Pass) -> Any:
    """The context of the last step; points without a step have one, too, and count it zero times."""
    return np.maximum(each.last, each.first)


def _same(one: Any, other: Any) -> bool:
    """Whether two operators, or two parts of theirs, agree in every size."""
    pairs = zip(vars(one).values(), vars(other).values(), strict=True)
    return all(_same(a, b) if is_dataclass(a) else np.array_equal(a, b) for a, b in pairs)


def _numbers(named: Named, points: _Points, names: Sequence[str]) -> list[Any]:
    work = named.operator.work()
    found = times(named.operator, points.limits, work=work)
    return [
        products_s(work, points.scale)
        if name == "products_s"
        else getattr(found if name in (*LIMITS, "uncalibrated") else work, name)
        for name in names
    ]


def _summed(points: _Points, each: Pass, place: int, names: Sequence[str]) -> Floats:
    """Sums over the contexts of each point: `roofline.contexts.sum_over`, all points in step.

    Intervals whose numbers lie on a line at all places tried are summed as such; the others are halved, until
    none is left.
    """
    first, last = each.first, _last(each)
    sums = np.zeros((len(names), len(first)))
    tolerance = straightness(points.limits)
    point, low, high = np.arange(len(first)), first, last
    while len(point):
        middle = (low + high) // 2
        within = [np.clip(i, low, high) for i in (low + 1, high - 1, *inside(low, middle, high, tolerance))]
        probes = np.stack([low, high, *within])
        index = np.tile(point, len(probes))
        values = _at(points, each, place, names, index, probes.ravel()).reshape(len(names), *probes.shape)
        start, end = values[:, 0], values[:, 1]
        share = (probes - low) / np.maximum(high - low, 1)
        line = start[:, None] + (end - start)[:, None] * share
        off = np.abs(values - line) > tolerance * np.maximum(np.abs(values), np.abs(line))
        straight = ~off[:, 2:].any(axis=(0, 1)) | (high - low <= 1)
        count = high - low + 1
        for row, total in zip(sums, (start + end) / 2 * count, strict=True):
            np.add.at(row, point[straight], total[straight])
        point, low, middle, high = (a[~straight] for a in (point, low, middle, high))
        point = np.concatenate([point, point])
        low, high = np.concatenate([low, middle + 1]), np.concatenate([middle, high])
    return sums


def _at(
    points: _Points, each: Pass, place: int, names: Sequence[str], index: Indices, context: Floats
) -> Floats:
    """Numbers of one operator at other contexts of some points."""
    grid = points.grid
    limits, scale = (
        many(some.of, grid.device[index]) if isinstance(some, ManyCeilings) else some
        for some in (points.limits, points.scale)
    )
    precision = taken(each.setting.precision, index)
    here = replace(taken(each, index), setting=replace(each.setting, precision=precision))
    named, some = here.operators(context)[place], replace(points, limits=limits, scale=scale)
    return np.stack([np.broadcast_to(v, len(index)) for v in _numbers(named, some, names)])
