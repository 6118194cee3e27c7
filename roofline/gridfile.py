"""Rows of a grid as a Parquet file, written while they are computed: memory holds a chunk, not the grid."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from roofline.ceilings import Fidelity
from roofline.grid import Grid
from roofline.predict_grid import grid_rows
from specfiles.writing import atomic

if TYPE_CHECKING:
    from roofline.predict_grid import Table
    from workloads.model import Model

ROW_GROUP = 262_144  # rows gathered before they are written
SIZES = ("batch", "prompt", "context", "output")


def write_rows(model: Model, grid: Grid, path: Path, fidelity: Fidelity | str = Fidelity.DATASHEET) -> int:
    """Write a row per operator and point; returns how many.

    Columns: `point` (its index in the grid), model, hardware, node, the point's sizes, setting and
    techniques, then those of `roofline.predict_grid.grid_rows`. Rows stand operator by operator, not point by
    point.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    pending: list[Any] = []
    written = waiting = 0
    with atomic(path) as draft:
        writer: Any = None
        try:
            for rows in grid_rows(model, grid, fidelity):
                table = pa.table(_columns(model, grid, rows))
                pending, waiting = [*pending, table], waiting + len(table)
                if writer is None:
                    writer = pq.ParquetWriter(draft, table.schema)
                if waiting >= ROW_GROUP:
                    writer.write_table(pa.concat_tables(pending))
                    written, pending, waiting = written + waiting, [], 0
            if pending:
                writer.write_table(pa.concat_tables(pending))
                written += waiting
        finally:
            if writer is not None:
                writer.close()
    return written


def _columns(model: Model, grid: Grid, rows: Table) -> dict[str, Any]:
    """Numbers as arrays, words as dictionaries: a name of forty operators costs four bytes a row."""
    import pyarrow as pa

    point, n = rows["point"], len(rows["point"])
    device, setting = grid.device[point], grid.setting[point]

    def words(values: list[str | None], index: Any) -> Any:
        absent = np.array([value is None for value in values])[index]
        known = pa.array([value or "" for value in values], pa.string())
        return pa.DictionaryArray.from_arrays(pa.array(index, pa.int32(), mask=absent), known)

    first = np.zeros(n, dtype=np.int32)
    columns: dict[str, Any] = {
        "point": point,
        "model": words([model.name], first),
        "hardware": words([d.name for d in grid.devices], device),
        "node": words([d.node.name if d.node else None for d in grid.devices], device),
        **{name: getattr(grid, name)[point].astype(np.int64) for name in SIZES},
        **{name: words(list(map(get, grid.settings)), setting) for name, get in _WORDS.items()},
        "tensor_parallel": np.array([s.tensor_parallel for s in grid.settings])[setting],
        "techniques": words([" ".join(one.called() for one in grid.techniques)], first),
    }
    columns |= {name: words([str(rows[name][0])], first) for name in ("name", "kind", "phase")}
    return columns | {name: values for name, values in rows.items() if name not in columns}


_WORDS: dict[str, Any] = {
    "weights": lambda s: str(s.precision.weights),
    "activations": lambda s: str(s.precision.activations),
    "kv": lambda s: str(s.precision.kv),
    "experts": lambda s: str(s.precision.expert_weights),
    "expert_activations": lambda s: str(s.precision.expert_activations),
    "convention": lambda s: s.convention.name,
}
