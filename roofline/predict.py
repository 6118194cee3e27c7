"""Predict a model in a phase on a device: a row per operator, and totals."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

from roofline.ceilings import Ceilings, Fidelity, ceilings
from roofline.contexts import straightness, sum_over
from roofline.energy import told
from roofline.notes import notes, without_kernels
from roofline.scenario import Scenario
from roofline.times import Times, products_s, times
from roofline.totals import held_bytes, power_of, summary, utilisation_scale
from specfiles.errors import InputError
from specfiles.frozen import dataclass
from workloads.dtypes import compute_dtype
from workloads.phases import Named, Step, operators
from workloads.schedule import Pass, Schedule

if TYPE_CHECKING:
    import pandas as pd

    from hwspecs import Device
    from roofline.engines import Engine, Served
    from workloads.operators import Operator
    from workloads.work import Work

MEMORY = ("weights_bytes", "kv_cache_bytes", "activation_peak_bytes", "memory_bytes", "fits")


@dataclass(frozen=True)
class Row:
    """One operator: the mean work and time of one execution, and the number of executions in the phase."""

    name: str
    kind: str
    phase: str
    count: float  # fractional where a technique makes the number of passes an expectation
    work: Work
    times: Times

    @property
    def total_s(self) -> Any:
        """Time of all executions [s]."""
        return self.count * self.times.time_s


@dataclass(frozen=True)
class Prediction:
    """A prediction: rows in order of execution, and what they were computed from."""

    scenario: Scenario
    device: Device
    ceilings: Ceilings
    schedule: Schedule
    rows: list[Row]
    served: Served | None = None  # the inference engine, whose overheads are among `rows`

    def __repr__(self) -> str:
        """One line; the fields would fill pages of a notebook."""
        asked, time = self.scenario, self.time_s()
        said = f"{asked.model.name} on {self.device.name}, {asked.phase}, batch {asked.batch}"
        return f"<Prediction: {said}, {self.ceilings.fidelity}: {time:.4g} s in {len(self.rows)} operators>"

    def table(self) -> pd.DataFrame:
        """A row per operator, in order of execution: the columns of the JSON (docs/formats.md)."""
        import pandas as pd

        from roofline.tables import OPERATOR_COLUMNS, record

        return pd.DataFrame([record(row) for row in self.rows], columns=list(OPERATOR_COLUMNS))

    def total(self, quantity: str, phase: str | None = None) -> float:
        """Sum over rows of count x a quantity of the work ("flops", "bytes", ..), of one phase or all."""
        return float(sum(r.count * getattr(r.work, quantity) for r in self.rows if phase in (None, r.phase)))

    def time_s(self, phase: str | None = None) -> float:
        """Time [s] of one phase or of all; operators do not overlap."""
        return float(sum(r.total_s for r in self.rows if phase in (None, r.phase)))

    def totals(self) -> dict[str, Any]:
        """Totals of the phase, in SI units; None where one does not apply or the device file lacks a value.

        mfu: matrix FLOP / (time x dense peak of the formats multiplied in). mbu: bytes / (time x bandwidth).
        Both refer to the data sheet where it states the ceiling, else to the measured one. energy_j: time x
        TDP, an upper limit; where kernel models give the times, by utilisation (`roofline.energy`).
        activation_peak_bytes: inputs and outputs of the largest operator plus the residual stream. The time
        to first token of a diffusion model is its whole time, as all tokens come with the last step.
        """
        scenario = self.scenario
        sums = {name: self.total(name) for name in ("flops", "bytes")}
        sums |= {"time_s": self.time_s(), "decode_s": self.time_s("decode")}
        sums["first_s"] = self.time_s("prefill") or sums["time_s"]
        scale, tdp = utilisation_scale(self.device, self.ceilings), self.device.datasheet.tdp_w
        sums["products_s"] = sum(row.count * products_s(row.work, scale) for row in self.rows)
        return summary(
            scenario.phase,
            scenario.batch * scenario.tokens_each,
            scenario.decode_steps,
            sums,
            held_bytes(self.schedule, max(r.work.activation_bytes for r in self.rows)),
            scale.dram_byte_per_s,
            self.device.capacity_bytes,
            tdp.value * scenario.setting.devices if tdp else None,
            power_of(self.ceilings),
        )

    @property
    def phases(self) -> tuple[str, ...]:
        """Its phases, in order."""
        return tuple(dict.fromkeys(row.phase for row in self.rows))

    @property
    def notes(self) -> tuple[str, ...]:
        """What the numbers take for granted and no option says, a sentence each."""
        said, bare = notes(self.schedule, self.ceilings, self.multiplied), dict[str, float]()
        for row in self.rows:
            if row.times.uncalibrated:
                bare[row.name] = bare.get(row.name, 0.0) + row.total_s
        return *said, *without_kernels(bare, self.time_s())

    @property
    def multiplied(self) -> set[str]:
        """The formats that its products multiply in."""
        return {compute_dtype(str(row.work.dtype)) for row in self.rows if row.work.matrix_flops}

    @property
    def energy_by(self) -> str:
        """How `energy_j` was computed, in words."""
        return told(power_of(self.ceilings))

    def memory(self) -> dict[str, Any]:
        """The totals that concern memory: what one device must hold [B], and whether it fits."""
        totals = self.totals()
        return {name: totals[name] for name in MEMORY}

    def bound(self, phase: str) -> str:
        """The limit that binds for the largest share of a phase's time."""
        share = self.bounds(phase)
        return max(share, key=share.__getitem__)

    def bounds(self, phase: str) -> dict[str, float]:
        """The share of a phase's time for which each limit binds."""
        seconds: dict[str, float] = {}
        for row in self.rows:
            if row.phase == phase:
                seconds[row.times.bound] = seconds.get(row.times.bound, 0.0) + row.total_s
        whole = sum(seconds.values())
        return {limit: taken / whole if whole else 0.0 for limit, taken in seconds.items()}


def predict(
    scenario: Scenario,
    device: Device,
    fidelity: Fidelity | str = Fidelity.DATASHEET,
    backend: str = "",
    limits: Ceilings | None = None,
    engine: Engine | None = None,
) -> Prediction:
    """Predict a scenario on a device.

    `backend`: the library whose kernels the kernel models describe. `limits`: the device's ceilings, where
    the caller has them already. `engine` adds rows for its overheads (`roofline.engines`); without one,
    operators follow each other without a gap.

    Raises InputError where the device file lacks a ceiling that the scenario needs, or the node has fewer
    devices than the scenario uses.
    """
    check_node(scenario, device)
    limits = limits or ceilings(device, fidelity, backend)
    schedule = scenario.schedule(device)
    passes = [(each, pass_rows(each, limits)) for each in schedule.passes]
    if scenario.setting.convention.launches and engine is None:  # engines state their own launch overheads
        from roofline.launches import told, with_waits

        passes = [(each, with_waits(each, rows, limits)) for each, rows in passes]
        schedule = told(schedule, passes)
    rows = [row for _, own in passes for row in own]
    found = Prediction(scenario, device, limits, schedule, rows)
    if engine is None:
        return found
    from roofline.engines import with_engine

    return with_engine(found, engine)


def check_node(scenario: Scenario, device: Device) -> None:
    """Raise InputError where tensor or expert parallelism would span nodes.

    Its collectives after every block would wait for the network between them.
    """
    setting, node = scenario.setting, device.node
    for option, asked in (("--tp", setting.tensor_parallel), ("--ep", setting.expert_parallel)):
        if node and asked > node.count:
            raise InputError(
                f"{node.name} has {node.count} devices, {option} {asked} was asked for; "
                f"choose a {option} of at most {node.count}; --pp takes more nodes."
            )


def step_rows(scenario: Scenario, step: Step, limits: Ceilings, phase: str) -> list[Row]:
    """One row per operator of one step."""
    return [
        _row(named, limits, phase, named.count) for named in operators(scenario.model, step, scenario.setting)
    ]


def _row(named: Named, limits: Ceilings, phase: str, count: float) -> Row:
    work, found = _priced(named.operator, limits)
    return Row(named.name, named.operator.kind, phase, count, work, found)


def _priced(operator: Operator, limits: Ceilings) -> tuple[Work, Times]:
    """The work of an operator and its times, from `limits.known` if that is kept and has them."""
    known = limits.known
    found = None if known is None else known.get(operator)
    if found is None:
        work = operator.work()
        found = work, times(operator, limits, work=work)
        if known is not None:
            known[operator] = found
    return found


def pass_rows(each: Pass, limits: Ceilings) -> list[Row]:
    """One row per operator of all steps of a pass: means over the growing context.

    The list of operators may itself change with the context (latent attention absorbs its projections only in
    long contexts); an operator that is in several lists has one row.
    """
    limits = launched(limits, each.launch)
    named_at = cache(each.operators)
    return _joined(row for part in _alike(each, named_at) for row in _mean_rows(part, limits, named_at))


def _alike(each: Pass, named_at: Callable[[int], list[Named]]) -> Iterator[Pass]:
    """The pass, divided by bisection into parts whose first, middle and last step have the same operators."""
    middle = (each.first + each.last) // 2
    first, *others = ([row.name for row in named_at(at)] for at in (each.first, middle, each.last))
    if all(other == first for other in others):
        yield each
        return
    share = (middle - each.first + 1) / (each.last - each.first + 1)
    yield from _alike(replace(each, last=middle, times=each.times * share), named_at)
    yield from _alike(replace(each, first=middle + 1, times=each.times * (1 - share)), named_at)


def _mean_rows(each: Pass, limits: Ceilings, named_at: Callable[[int], list[Named]]) -> list[Row]:
    steps = each.last - each.first + 1

    @cache
    def row_at(index: int, context: int) -> Row:
        one = named_at(context)[index]
        return _row(one, limits, each.phase, one.count * each.times)

    def mean(index: int) -> Row:
        first, last = (named_at(context)[index].operator for context in (each.first, each.last))
        if first is last or first == last:  # does not depend on the context, as most operators
            return row_at(index, each.first)
        tolerance = straightness(limits)
        sums = sum_over(lambda context: _numbers(row_at(index, context)), each.first, each.last, tolerance)
        return _with_numbers(row_at(index, each.first), [value / steps for value in sums])

    return [mean(index) for index in range(len(named_at(each.first)))]


def _joined(rows: Iterable[Row]) -> list[Row]:
    """Rows with the same name and tensors merged into one: the mean of all their executions."""
    found: dict[tuple[str, ...], Row] = {}
    for row in rows:
        key = (row.name, *(traffic.tensor for traffic in row.work.traffic))
        before = found.get(key)
        if before is None:
            found[key] = row
            continue
        count = before.count + row.count
        pairs = zip(_numbers(before), _numbers(row), strict=True)
        mean = [(a * before.count + b * row.count) / count for a, b in pairs]
        found[key] = _with_numbers(replace(before, count=count), mean)
    return list(found.values())


def launched(limits: Ceilings, how: str) -> Ceilings:
    """The ceilings with the launch latency of "each" kernel, of a kernel in a CUDA "graph", or none.

    Operator constants were fitted to separate launches; in a graph only their launch term is reduced.
    """
    if how == "each":
        return limits
    most = limits.graph_launch_s or 0.0 if how == "graph" else 0.0
    constants = limits.constants and {
        key: each.replace(launch_s=min(each.launch_s, most)) for key, each in limits.constants.items()
    }
    return replace(limits, launch_s=most, constants=constants, known=None)


def in_mode(limits: Ceilings, mode: str) -> Ceilings:
    """The ceilings for a run in a mode (`roofline profile --mode`)."""
    return launched(limits, "graph" if mode == "graph" else "each")


def _numbers(row: Row) -> list[float]:
    """All numbers of a row that may depend on the context."""
    work, limits = row.work, row.times
    return [
        work.matrix_flops,
        work.vector_flops,
        work.special_ops,
        work.outputs,
        limits.compute_s,
        limits.memory_s,
        limits.comm_s,
        limits.launch_s,
        limits.time_s,
        *(traffic.bytes for traffic in work.traffic),
    ]


def _with_numbers(row: Row, numbers: list[float]) -> Row:
    """A row with other numbers, in the order of `_numbers`."""
    matrix, vector, special, outputs = numbers[:4]
    compute, memory, comm, launch, time = numbers[4:9]
    sizes = zip(row.work.traffic, numbers[9:], strict=True)
    work = replace(
        row.work,
        matrix_flops=matrix,
        vector_flops=vector,
        special_ops=special,
        outputs=outputs,
        traffic=tuple(replace(traffic, bytes=size) for traffic, size in sizes),
    )
    limits = Times(compute, memory, comm, launch, time)
    said = replace(limits, corrected=row.times.corrected, uncalibrated=row.times.uncalibrated)
    return replace(row, work=work, times=said)
