"""An imported run: a run folder whose tables are those of a trace."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from profiler.allocator import return_freed_memory
from profiler.repeats import quartiles
from profiler.traces.tables import SCHEMAS, Trace
from roofline.run import Run, create_run
from roofline.run_head import Head, Imported
from specfiles.errors import InputError
from specfiles.writing import atomic

if TYPE_CHECKING:
    import pandas as pd

    from workloads.step import Setting

POINT = ["phase", "batch", "q_len", "kv_len"]
GROUP_ROWS = 1 << 17  # encoded in memory at once


def save(trace: Trace, path: Path, *, command: str, device: str = "", **head: Any) -> Run:
    """Write a trace as a new run folder, completing `run.json` last.

    Environment variables and command lines of the trace, which may be secret, are not copied.
    """
    names = dict.fromkeys(d.name for d in trace.devices if d.name and _used(trace, d.source, d.device))
    fields = {"model": "", "model_config_fields": {}, "dtype": "", **head}
    run = create_run(
        path,
        Head(
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            command=command,
            weights="",
            phase=" ".join(word for word in trace.words("attribution", "phase")),
            convention="eager",
            mode="",
            device=device or ", ".join(names),
            environment={},
            seed=0,
            imported=Imported(
                origins=list(trace.origins), devices=list(trace.devices), losses=list(trace.losses)
            ),
            **fields,
        ),
    )
    return_freed_memory()  # taken by the attribution
    for name in SCHEMAS:
        if trace[name].num_rows:
            with atomic(path / f"{name}.parquet") as draft:
                pq.write_table(trace[name], draft, compression="zstd", row_group_size=GROUP_ROWS)
    if trace["passes"].num_rows:
        for name, table in executions(trace).items():
            run.write_table(name, table)
    return run.write_head(status="complete")


def recorded(setting: Setting) -> dict[str, Any]:
    """The setting of a model as fields of a run's head."""
    precision = setting.precision
    return {
        "dtype": str(precision.weights),
        "activations": str(precision.activations),
        "kv": str(precision.kv),
        "experts": str(precision.experts or ""),
        "expert_activations": str(precision.experts_in or ""),
        "tensor_parallel": setting.tensor_parallel,
        "absorbs_latents": setting.convention.absorbs_latents,
    }


def executions(trace: Trace) -> dict[str, pd.DataFrame]:
    """The tables `operators` and `steps` that a measured run has, from kernels that match a model.

    An operator's time is that of its kernels; a step's lasts from its first activity to its last.
    """
    import pandas as pd

    passes = trace["passes"].to_pandas().astype({"phase": str})
    rows = trace["attribution"].select(["operator", "kind", "step", "instance", "how"]).to_pandas()
    start, end = trace.column("activities", "start_ns"), trace.column("activities", "end_ns")
    rows = rows.assign(start=start, end=end, time_s=(end - start) / 1e9).merge(passes, on="step")
    known = rows[rows["how"] == "model"].astype({"operator": str, "kind": str})
    each = known.groupby(["step", *POINT, "operator", "kind", "instance"], observed=True)["time_s"].sum()
    operators = [
        {
            **dict(zip([*POINT, "name", "kind"], key, strict=True)),
            **_quartiles(group),
            "where": "model",
            "count": round(len(group) / group.index.get_level_values("step").nunique()),
        }
        for key, group in each.groupby([*POINT, "operator", "kind"], sort=False)
    ]
    spans = rows.groupby(["step", *POINT], observed=True).agg(start=("start", "min"), end=("end", "max"))
    lasting = (spans["end"] - spans["start"]) / 1e9
    steps = [
        {**dict(zip(POINT, key, strict=True)), **_quartiles(group), "instrumented": False}
        for key, group in lasting.groupby(POINT, sort=False)
    ]
    return {"operators": pd.DataFrame(operators), "steps": pd.DataFrame(steps)}


def _quartiles(times: pd.Series) -> dict[str, Any]:
    q25_s, median_s, q75_s = quartiles(times.tolist())
    return {"repeats": len(times), "q25_s": q25_s, "median_s": median_s, "q75_s": q75_s}


def load(run: Run) -> Trace:
    """The trace of an imported run.

    Raises InputError where a table is broken, the import did not end or the run was not imported.
    """
    if run.head.imported is None:
        raise InputError(f"{run.path}: was measured here, not imported; it has no trace tables.")
    if run.head.status != "complete":
        raise InputError(f"{run.path}: its import did not end; remove it and import the traces again.")
    imported = run.head.imported
    tables = {name: _read(run.path / f"{name}.parquet", schema) for name, schema in SCHEMAS.items()}
    return Trace(tuple(imported.origins), tables, tuple(imported.devices), tuple(imported.losses))


def _read(file: Path, schema: pa.Schema) -> pa.Table:
    if not file.exists():
        return schema.empty_table()
    try:
        return pq.read_table(file).select(schema.names).cast(schema)
    except Exception as error:  # pyarrow raises several kinds for a broken file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{file}: cannot be read ({reason}); import the traces again.") from None


def _used(trace: Trace, source: int, device: int) -> bool:
    mine = (trace.column("activities", "source") == source) & (trace.column("activities", "device") == device)
    return bool(mine.any())
