"""Every byte of a prediction, tensor by tensor: what moves it, in which format, how often, and why."""

from __future__ import annotations

import dataclasses
import inspect
from typing import TYPE_CHECKING, Any

from workloads.work import HOSTS, Role

if TYPE_CHECKING:
    from collections.abc import Iterator

    from roofline.predict import Prediction, Row
    from workloads.operators import Operator

COLUMNS = (
    "phase", "operator", "kind", "tensor", "role", "elements", "bytes_per_element", "bytes", "count",
    "total_bytes", "assumption",
)  # fmt: skip
BEHIND = {
    Role.WEIGHT: "read once for the whole batch",
    Role.INPUT: "read from memory once",
    Role.OUTPUT: "written to memory once",
    Role.KV_READ: "each KV head's visible positions, once",
    Role.KV_WRITE: "new positions only; the cache stays",
    Role.SCORES: "to memory and back around the softmax",
    Role.WIRE: "over the link; no memory traffic",
    Role.HOST: "over the link to the host; no memory traffic",
    Role.DISK: "between the host and its disks",
    Role.HOST_MEMORY: "read by the host's processors from their own memory",
}
ELSEWHERE = (Role.WIRE, Role.HOST, *HOSTS)  # what passes links or stays in the host
FUSED = "fused: "  # its activations stay on the chip


def ledger(prediction: Prediction) -> list[dict[str, Any]]:
    """A record per tensor in the order of execution, by COLUMNS.

    `bytes` are those of one execution (a mean over the growing context in a generation), `count` the
    executions in the phase. `elements` is null where a tensor's size does not follow from a number format.
    """
    named = (one for each in prediction.schedule.passes for one in each.operators(each.first))
    return [
        {
            "phase": row.phase,
            "operator": row.name,
            "kind": row.kind,
            "tensor": traffic.tensor,
            "role": str(traffic.role),
            "elements": traffic.bytes / width if width else None,
            "bytes_per_element": width,
            "bytes": traffic.bytes,
            "count": row.count,
            "total_bytes": row.count * traffic.bytes,
            "assumption": (FUSED if row.work.fused else "") + BEHIND[traffic.role],
        }
        for row, one in zip(_moving(prediction), named, strict=True)
        for traffic, width in zip(row.work.traffic, _widths(one.operator), strict=True)
    ]


def totals(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Bytes by role, and `bytes`: the traffic of the device's own memory."""
    roles = {str(role): sum(r["total_bytes"] for r in rows if r["role"] == role) for role in Role}
    return {**roles, "bytes": sum(roles[role] for role in Role if role not in ELSEWHERE)}


def formulas(prediction: Prediction) -> dict[str, str]:
    """What each kind of operator counts: the docstring of its `work`."""
    named = (one for each in prediction.schedule.passes for one in each.operators(each.first))
    return {one.operator.kind: " ".join((inspect.getdoc(one.operator.work) or "").split()) for one in named}


def _moving(prediction: Prediction) -> list[Row]:
    """The rows that are operators; waiting for the host moves nothing."""
    return [row for row in prediction.rows if row.kind not in ("launch", "engine")]


def _widths(operator: Operator) -> Iterator[float | None]:
    """Bytes per element of each tensor that the operator moves.

    Asked of the operator itself: in formats of one byte its traffic is its elements, and in formats of two
    it doubles; indices, whose size is fixed, do not.
    """
    formats = [
        field.name
        for field in dataclasses.fields(operator)  # type: ignore[arg-type]
        if "DtypeLike" in str(field.type) and getattr(operator, field.name) is not None
    ]
    one, two = (
        {(t.tensor, t.role): t.bytes for t in _in(operator, formats, name).work().traffic}
        for name in ("fp8", "fp16")
    )
    for traffic in operator.work().traffic:
        key = (traffic.tensor, traffic.role)
        follows = one.get(key) and two.get(key) == 2 * one[key]
        yield traffic.bytes / one[key] if follows else None


def _in(operator: Operator, formats: list[str], name: str) -> Operator:
    changed: Operator = dataclasses.replace(operator, **dict.fromkeys(formats, name))  # type: ignore[type-var]
    return changed
