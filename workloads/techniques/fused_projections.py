"""Fused projections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    on_arrays = True

    def apply(self, schedule: Schedule) -> Schedule:
        """Neighbouring products of one input in one kernel."""
        return schedule.with_change(joined)


# A product: the one with the same input that it joins, and their name together. Also those of the shared
# expert, of the delta rule, and from the input to the latents of queries and of keys and values.
JOINS = {
    "k_proj": ("q_proj", "q_k_proj"),
    "v_proj": ("q_k_proj", "q_k_v_proj"),
    "up_proj": ("gate_proj", "gate_up_proj"),
    "shared_up_proj": ("shared_gate_proj", "shared_gate_up_proj"),
    "kv_a_proj": ("q_a_proj", "q_kv_a_proj"),
    "in_proj_z": ("in_proj_qkv", "in_proj_qkvz"),
    "in_proj_a": ("in_proj_b", "in_proj_ba"),
}


def joined(rows: Sequence[Named], step: Step, joins: Mapping[str, tuple[str, str]] = JOINS) -> list[Named]:
    """The operators of a step with products of one input as one, where the first of them stands."""
    found: list[Named] = []
    places: dict[str, int] = {}
    for row in rows:
        stem, _, last = row.name.rpartition(".")
        leads, name = joins.get(last, ("", ""))
        place = places.get(f"{stem}.{leads}")
        if place is not None and _alike(found[place], row):
            before = found[place]
            wider = replace(before.operator, n=before.operator.n + row.operator.n)  # type: ignore[attr-defined, type-var]
            found[place] = replace(before, name=f"{stem}.{name}", operator=wider)
        else:
            place, name = len(found), last
            found.append(row)
        places[f"{stem}.{name}"] = place
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
