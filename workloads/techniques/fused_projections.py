"""Fused projections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from workloads.operators import Gemm
from workloads.phases import Named
from workloads.schedule import Schedule
from workloads.step import Step
from workloads.techniques.base import Technique


@dataclass(frozen=True)
class FusedProjections(Technique):
    """Projections that read the same input become one product: queries with keys and values, gate with up."""

    name = "fused-projections"
    aliases = ("qkv-fusion", "fused-qkv", "gate-up-fusion")
    category = "graph and operator"
    paper = "Megatron-LM arXiv:1909.08053 and every serving engine since"
    removes = "reads of the same activations, and launches"
    needs = "weights stored side by side"
    quality = "exact"
    served = "vLLM, SGLang, TensorRT-LLM"
    slot = "how projections are launched"

    def apply(self, schedule: Schedule) -> Schedule:
        """Neighbouring products of one input in one kernel."""
        return schedule.with_change(joined)


FOLLOWS = {"k": "q", "v": "k", "up": "gate"}  # a product, and the previous one with the same input


def joined(rows: Sequence[Named], step: Step) -> list[Named]:
    """The operators of a step with neighbouring products of one input as one."""
    found: list[Named] = []
    for row in rows:
        before = found[-1] if found else None
        stem, _, last = row.name.removesuffix("_proj").rpartition(".")
        leads = f"{FOLLOWS.get(last)}_proj"
        if (
            before is not None
            and before.name.startswith(f"{stem}.")
            and before.name.endswith(leads)
            and _alike(before, row)
        ):
            wider = replace(before.operator, n=before.operator.n + row.operator.n)  # type: ignore[attr-defined, type-var]
            found[-1] = replace(
                before, name=f"{before.name.removesuffix('_proj')}_{last}_proj", operator=wider
            )
        else:
            found.append(row)
    return found


def _alike(one: Named, other: Named) -> bool:
    """Whether two products differ only in columns, and have equal counts."""
    if not isinstance(one.operator, Gemm) or not isinstance(other.operator, Gemm):
        return False
    sizes = zip(vars(one.operator).items(), vars(other.operator).values(), strict=True)
    same = all(name == "n" or _equal(a, b) for (name, a), b in sizes)
    return same and (one.count, one.repeated) == (other.count, other.repeated)


def _equal(one: Any, other: Any) -> bool:
    """Whether two sizes, or arrays of them, agree everywhere."""
    same = one == other
    return bool(same.all() if hasattr(same, "all") else same)
