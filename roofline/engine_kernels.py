"""Which kernels an engine runs where a fused count has none: elementwise ones by themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from workloads.dtypes import Size
from workloads.operators import Activation, CausalConv, Changed, Norm, Residual, Rope
from workloads.phases import Named
from workloads.schedule import Schedule
from workloads.step import Step
from workloads.techniques.fused_projections import JOINS, FusedProjections, joined
from workloads.work import Role, Work

# Products that a release does not yet join: of the delta rule, joined in SGLang since pull request 21019
# (20 March 2026).
SEPARATE = {"sglang 0.5.9": ("in_proj_z", "in_proj_a")}


@dataclass(frozen=True)
class EngineKernels(FusedProjections):
    """The same, and elementwise kernels by themselves, as engines run both.

    A fused count is a floor: that norms, rotations and gates cost nothing beside a matrix product. Libraries
    have kernels of their own for them, which stream a prompt through memory. In decode steps that are
    replayed as `graphs` they are short, and what they take is part of an engine's time per node. `release`:
    the engine's, where it joins fewer products than others (SEPARATE).
    """

    graphs: bool = True
    release: str = ""

    def told(self) -> str:
        """The name alone: how an engine replays steps is said with the engine."""
        return self.name

    def apply(self, schedule: Schedule) -> Schedule:
        """Products as one, and norms, rotations and gates with traffic of their own."""
        joins = {name: how for name, how in JOINS.items() if name not in SEPARATE.get(self.release, ())}
        found = schedule.with_change(partial(joined, joins=joins))
        found = found.with_change(apart, "prefill" if self.graphs else None, held=False)
        return found.with_change(kept, "decode", held=False)


def apart(rows: Sequence[Named], step: Step) -> list[Named]:
    """The operators of a step with elementwise ones as kernels of their own.

    What surrounds routed experts stays with them: their kernels were measured with it. Norms add residuals.
    """
    widths = {row.operator.width for row in rows if isinstance(row.operator, Residual)}

    def alone(row: Named) -> Named:
        one = row.operator
        if isinstance(one, Norm):
            return replace(row, operator=replace(one, fused=False, adds=one.width in widths))
        if isinstance(one, Activation | Rope | CausalConv) and not row.name.endswith(".experts_act_mul"):
            return replace(row, operator=replace(one, fused=False))
        return row

    return [alone(row) for row in rows]


def kept(rows: Sequence[Named], step: Step) -> list[Named]:
    """The operators of a decode step, of which recurrent ones write their state once for each new position.

    Any of several positions may be the last one that is kept when drafts are verified: SGLang
    (`intermediate_ssm`) and vLLM keep the state after each.
    """

    def written(row: Named) -> Named:
        states = hasattr(row.operator, "state_bytes") and step.q_len > 1
        return replace(row, operator=Changed(row.operator, Written(step.q_len))) if states else row

    return [written(row) for row in rows]


@dataclass(frozen=True)
class Written:
    """The edit of work whose states are written so many times."""

    times: Size

    def __call__(self, work: Work) -> Work:
        """The work with as many states written."""
        traffic = (
            replace(t, bytes=t.bytes * self.times) if t.role is Role.KV_WRITE else t for t in work.traffic
        )
        return replace(work, traffic=tuple(traffic))
