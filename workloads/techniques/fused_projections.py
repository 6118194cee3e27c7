"""Fused projections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from workloads.operators import Gemm, Operator
from workloads.schedule import Schedule
from workloads.techniques.base import KERNELS, Technique

if TYPE_CHECKING:
    from workloads.phases import Named
    from workloads.step import Step


@dataclass(frozen=True)
class FusedProjections(Technique):
    """Projections that read the same input become one product: queries with keys and values, gate with up."""

    name = "fused-projections"
    aliases = ("qkv-fusion", "fused-qkv", "gate-up-fusion")
    level = "system"
    category = "graph and operator"
    paper = "Megatron-LM arXiv:1909.08053 and every serving engine since"
    removes = "reads of the same activations, and launches"
    adds = "nothing"
    needs = "weights stored side by side"
    quality = "exact"
    slot = "how projections are launched"
    order = KERNELS

    def apply(self, schedule: Schedule) -> Schedule:
        """Neighbouring products of one input in one kernel."""
        return schedule.with_change(_joined)


GROUPS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))


def _joined(rows: Sequence[Named], step: Step) -> list[Named]:
    found: list[Named] = []
    for row in rows:
        stem, _, last = row.name.rpartition(".")
        group = next((g for g in GROUPS if last in g), None)
        before = found[-1] if found else None
        name = f"{stem}.{'_'.join(part.removesuffix('_proj') for part in group)}_proj" if group else ""
        if group and before is not None and before.name == name and _alike(before.operator, row.operator):
            wider = replace(before.operator, n=before.operator.n + row.operator.n)  # type: ignore[attr-defined, type-var]
            found[-1] = replace(before, operator=wider)
        else:
            found.append(replace(row, name=name) if group and isinstance(row.operator, Gemm) else row)
    return found


def _alike(one: Operator, other: Operator) -> bool:
    """Whether two products differ in their columns only."""
    if not isinstance(one, Gemm) or not isinstance(other, Gemm):
        return False
    return replace(one, n=0, m=0) == replace(other, n=0, m=0)
