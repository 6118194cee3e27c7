"""What an inference engine adds to its kernels: launch gaps, the host's work per step and per request.

The formulas stand here once: `roofline.serving` applies them to loads, `with_engine` to predictions and
`roofline.serve` to simulated steps. Constants, their ranges and sources: hwspecs/serving/overheads.json,
docs/end_to_end.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hwspecs import Device
from hwspecs.serving import EAGER, Fit, Overheads, fits, overheads_for
from roofline.ceilings import Ceilings, Fidelity
from roofline.predict import Prediction, Row, pass_rows
from roofline.scenario import Scenario
from roofline.times import Times
from specfiles.errors import InputError, choose
from workloads.arrays import maximum
from workloads.dtypes import bytes_per_element
from workloads.schedule import Pass, Schedule
from workloads.work import Work

NONE, OTHER = "none", "other"
KIND = "engine"
# Kernels that eager code launches for a prompt's scan in chunks. Gated delta: q and k to length 1, gates,
# their sums, K K', triangular solve, W and U, states, outputs (sglang, layers/attention/fla/chunk.py). SSD:
# sums, states of chunks, their passing, C B', outputs (mamba_ssm, ops/triton/ssd_combined.py).
CHAINS = {"gated_delta": 9, "ssd": 5, "causal_conv1d": 1}
# Kinds of a prompt in whose eager code host and device take turns, so that neither hides the other. Chosen on
# rows, whose steps with long prompts take longer than kernels or launches; the cause is not known. SGLang
# waits for the device once a step and not in each layer (prepare_chunk_indices of fla/index.py, cached): see
# docs/end_to_end.md.
TURNS = ("gated_delta",)
PRODUCTS = ("gemm", "grouped_gemm")
PASSES = ("rmsnorm", "rope", "act_mul", "residual")
# Engines whose prompts are Python that calls every kernel. vLLM compiles prompts and replays them in pieces,
# TensorRT-LLM has kernels of its own that fuse them.
EAGER_PROMPTS = ("sglang", EAGER)
# Engines that keep room for the whole answer of whoever they admit, and evict nobody (TensorRT-LLM's default
# capacity_scheduler_policy, GUARANTEED_NO_EVICT).
RESERVING = ("trtllm",)
WHY = {
    "engine.launch_gaps": "the device waits for kernels to be launched, or between those of a graph",
    "engine.step": "scheduling, sampling, copying tokens: once per step, hidden by nothing",
    "engine.request": "HTTP, tokenising, admission: once per request",
}


@dataclass(frozen=True)
class Engine:
    """An engine by the name that it is asked for, and its constants.

    graphs: whether decode steps are replayed CUDA graphs; prompts are launched operator by operator.
    eager: whether what is launched is every kernel by itself, and not the fused ones of compiled code.
    """

    name: str
    fit: Fit
    graphs: bool
    eager: bool = False

    def replays(self, each: Pass) -> bool:
        """Whether a pass is a replayed CUDA graph: by a technique, or as the engine does decode steps."""
        captured = self.graphs and each.phase != "prefill" and not each.setting.convention.launches
        return each.launch == "graph" or captured

    def launches_each(self, each: Pass) -> bool:
        """Whether a pass launches every kernel by itself."""
        return self.eager and not self.replays(each)

    @property
    def source(self) -> str:
        """Where the constants come from."""
        if not self.fit.backend:
            return f"assumed, as it was not measured; ranges over engines that were ({self.fit.source})"
        return f"fitted to {', '.join(self.fit.models)} ({self.fit.source})"

    def graphs_in(self, schedule: Schedule) -> bool:
        """Whether it replays decode steps as CUDA graphs, with the schedule's techniques and convention."""
        return self.replays(replace(schedule.passes[-1], phase="decode"))

    def told(self, schedule: Schedule) -> str:
        """Its name, how it launches decode steps, and where its constants come from."""
        replays = "decode steps are replayed CUDA graphs" if self.graphs_in(schedule) else "no CUDA graphs"
        return f"{self.name}: {replays}; {self.source}"


def find_engine(name: str) -> Engine | None:
    """An engine by name, None for `none`; `other` is one that was not measured, `eager` a script without one.

    Raises InputError, with the names, for others.
    """
    named = {OTHER: "", "trtllm": "", **{fit.backend: fit.backend for fit in fits() if fit.backend}}
    if name == NONE:
        return None
    if name not in named:
        raise choose(name, [NONE, *sorted(named)], "engine")
    backend = named[name]
    return Engine(name, overheads_for(backend), graphs=name != EAGER, eager=backend in EAGER_PROMPTS)


def gaps_s(device_s: Any, operators: Any, graphs: Any, overheads: Overheads, *, turns: Any = False) -> Any:
    """Seconds of a step in which the device waits for launches; sizes may be arrays.

    Launched one by one, `operators` take the host `launch_s` each, which the device's own time hides as far
    as it goes, or not at all where the two take `turns`; in a replayed graph each takes `graph_s` that
    nothing hides.
    """
    each = maximum(0.0, operators * overheads.launch_s - device_s * (1 - turns))
    if isinstance(graphs, bool):
        return operators * overheads.graph_s if graphs else each
    import numpy as np

    return np.where(graphs, operators * overheads.graph_s, each)


def on_device(rows: Sequence[Row], *, eager: bool = False) -> tuple[float, float]:
    """Seconds that operators take on the device, and how many kernels are launched for them."""
    kernels = (row.count * launches(row.kind, row.phase, row.work, eager=eager) for row in rows)
    return sum(row.total_s for row in rows), sum(kernels)


def launches(kind: str, phase: str, work: Work, *, eager: bool = False) -> Any:
    """Kernels that are launched for an operator: a number, or an array where formats differ.

    Compiled code and captured graphs run elementwise kernels with their neighbours', and a product counts as
    one with the kernel that quantises what it reads: they were measured together. Eager code launches all of
    them; only a residual is added by the norm that follows.
    """
    if phase == "prefill" and kind in CHAINS:
        return CHAINS[kind]
    if not eager:
        return int(not work.fused and kind not in PASSES)
    quantises = 1 * (bytes_per_element(work.dtype) < 2) if kind in PRODUCTS else 0
    return int(kind != "residual") + quantises


def takes_turns(kinds: Iterable[str], phase: str, *, eager: bool) -> bool:
    """Whether host and device take turns in a step of a phase with operators of these kinds."""
    return eager and phase == "prefill" and any(kind in TURNS for kind in kinds)


def step_s(device_s: Any, operators: Any, graphs: Any, overheads: Overheads, *, turns: Any = False) -> Any:
    """A step of so much time on the device: with its gaps and the host's own work."""
    return device_s + gaps_s(device_s, operators, graphs, overheads, turns=turns) + overheads.step_s


@dataclass(frozen=True)
class Added:
    """A row of an engine: its time per step, the range of it, and what it is."""

    row: Row
    low_s: float
    high_s: float

    def record(self) -> dict[str, Any]:
        """In plain values; times of one execution, as an operator's."""
        row = self.row
        return {
            "name": row.name,
            "phase": row.phase,
            "count": row.count,
            "time_s": row.times.time_s,
            "lower_s": self.low_s,
            "upper_s": self.high_s,
            "why": WHY[row.name],
        }


@dataclass(frozen=True)
class Served:
    """The engine around a prediction, and the rows that it added."""

    engine: Engine
    schedule: Schedule
    added: tuple[Added, ...]

    def record(self) -> dict[str, Any]:
        """In plain values."""
        return {
            "name": self.engine.name,
            "graphs": self.engine.graphs_in(self.schedule),
            "source": self.engine.source,
            "told": self.engine.told(self.schedule),
            "rows": [one.record() for one in self.added],
        }


def refuse_own_host(engine: Engine, limits: Ceilings, device: Device) -> None:
    """Raises InputError where times hold their own host's launches, and for what is no GPU."""
    if limits.processors is None:
        raise InputError(
            f"{device.name} is no GPU, and what engines take beside kernels was measured on GPUs: leave "
            "--engine out."
        )
    if limits.constants:
        raise InputError(
            f"times of {device.name} were measured with its own host's launches, and engine {engine.name} "
            "would add another's: leave --engine out."
        )


def kernels_of(engine: Engine | None, fidelity: Fidelity | str) -> str:
    """The library whose kernels an engine runs, where they were measured and count; else "", any."""
    if engine is None or not Fidelity(fidelity).calibrates:
        return ""
    from hwspecs.calibrations import measured_backends

    return engine.name if engine.name in measured_backends() else ""


def as_engines_run(scenario: Scenario, *, graphs: bool = True, release: str = "") -> Scenario:
    """The scenario with products of one input as one, and the elementwise kernels that engines launch."""
    from roofline.engine_kernels import EngineKernels

    kernels = EngineKernels(graphs, release)
    others = (technique for technique in scenario.techniques if technique.slot != kernels.slot)
    return replace(scenario, techniques=(*others, kernels))


def run_by(scenario: Scenario, engine: Engine) -> Scenario:
    """The same as an engine runs it: without CUDA graphs if it has none, so that techniques can add them."""
    from workloads.techniques.counted import lacking

    setting = scenario.setting
    if not (engine.graphs or setting.convention.launches):
        setting = replace(setting, convention=lacking(setting.convention, ["cuda-graphs"]))
    return as_engines_run(replace(scenario, setting=setting), graphs=not setting.convention.launches)


def with_engine(prediction: Prediction, engine: Engine) -> Prediction:
    """The prediction with the engine's rows after each phase's operators.

    Raises InputError where the times hold another host's launches already.
    """
    refuse_own_host(engine, prediction.ceilings, prediction.device)
    steps = [Timed.of(each, prediction, engine) for each in prediction.schedule.passes]
    phases = dict.fromkeys(step.phase for step in steps)
    prompt = prediction.scenario.prompt
    added = {
        phase: tuple(_added(phase, [s for s in steps if s.phase == phase], engine, prompt))
        for phase in phases
    }
    rows = [
        row
        for phase in phases
        for row in (*(r for r in prediction.rows if r.phase == phase), *(a.row for a in added[phase]))
    ]
    told = tuple(one for phase in phases for one in added[phase])
    return replace(prediction, rows=rows, served=Served(engine, prediction.schedule, told))


@dataclass(frozen=True)
class Timed:
    """One pass, or that of many points: its steps, the time on the device and the launches of one of them."""

    phase: str
    steps: Any
    main: bool  # of the model that was asked for, and not of a draft
    turns: bool  # of host and device
    graphs: bool
    launched: bool
    device_s: Any
    operators: Any

    @classmethod
    def of(cls, each: Pass, prediction: Prediction, engine: Engine) -> Timed:
        """That of a pass of a prediction."""
        rows = pass_rows(each, prediction.ceilings)
        steps = each.times
        eager = engine.launches_each(each)
        seconds, operators = on_device(rows, eager=eager)
        launched = each.launch != "none"
        turns = takes_turns((row.kind for row in rows), each.phase, eager=eager)
        device_s, operators = seconds / steps, operators / steps
        graphs = engine.replays(each)
        return cls(each.phase, steps, not each.scope, turns, graphs, launched, device_s, operators)

    def parts(self, overheads: Overheads) -> dict[str, Any]:
        """Seconds of all its steps by the name of the row they belong to; numbers, or arrays over points."""
        gaps: Any = 0.0
        if self.launched:
            gaps = gaps_s(self.device_s, self.operators, self.graphs, overheads, turns=self.turns)
        return {
            "engine.launch_gaps": self.steps * gaps,
            "engine.step": self.steps * overheads.step_s * self.main,
        }


def request_s(prompt: Any, overheads: Overheads) -> Any:
    """Seconds before the engine sees a request of so many tokens."""
    return overheads.request_s + prompt * overheads.token_s


def _added(phase: str, steps: list[Timed], engine: Engine, prompt: int) -> Iterator[Added]:
    """The engine's rows of a phase: each a mean over its steps; a request comes before its first token."""
    fit = engine.fit
    count = sum(step.steps for step in steps)

    def total(name: str, overheads: Overheads) -> float:
        return float(sum(step.parts(overheads)[name] for step in steps) / count)

    for name in ("engine.launch_gaps", "engine.step"):
        value, *ends = (total(name, o) for o in (fit.overheads, fit.low, fit.high))
        yield Added(waiting(name, KIND, phase, count, value), min(value, *ends), max(value, *ends))
    if phase != "decode":
        value, low, high = (request_s(prompt, o) for o in (fit.overheads, fit.low, fit.high))
        yield Added(waiting("engine.request", KIND, phase, 1, value), low, high)


def waiting(name: str, kind: str, phase: str, count: float, seconds: float) -> Row:
    """A row of time in which the device does no work."""
    return Row(name, kind, phase, count, Work("fp32", ()), Times(0.0, 0.0, 0.0, seconds, seconds))
