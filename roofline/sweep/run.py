"""Run a sweep into a folder: a file per task, so that what was computed is never computed again.

DIR/sweep.json            the sweep itself, and how far it is
DIR/parts/KEY.parquet     a task's points, written in one step
DIR/points.parquet        all points, when all tasks are done
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from roofline.sweep.compute import compute
from roofline.sweep.spec import Spec, Task
from specfiles.errors import InputError
from specfiles.reading import read_json
from specfiles.strict import plain_data
from specfiles.writing import atomic, write_text

if TYPE_CHECKING:
    import pandas as pd

Mapper = Callable[[list[tuple[Task, str]]], Iterable[int]]  # computes tasks into files; yields their rows


def run_sweep(spec: Spec, folder: Path, mapper: Mapper, progress: Callable[[str], None]) -> pd.DataFrame:
    """Compute what the folder does not have yet; returns all points, in the order of the spec.

    Raises InputError where the folder holds another sweep, and for names that do not exist before anything
    is computed.
    """
    tasks = list(spec.tasks())
    check_names(spec)
    _claim(spec, folder)
    left = [(task, str(_part(folder, task))) for task in tasks if not _part(folder, task).is_file()]
    if len(left) < len(tasks):
        progress(f"{len(tasks) - len(left)} of {len(tasks)} parts are there already")
    done = len(tasks) - len(left)
    for rows in mapper(left):
        done += 1
        progress(f"part {done} of {len(tasks)}: {rows} points")
    return _gather(spec, folder, tasks)


def compute_into(task: Task, path: str) -> int:
    """Compute a task and write its file in one step; how many points it has. Runs in any process."""
    table = compute(task)
    with atomic(Path(path)) as draft:
        table.to_parquet(draft, index=False)
    return len(table)


def one_by_one(tasks: list[tuple[Task, str]]) -> Iterator[int]:
    """In this process."""
    for task, path in tasks:
        yield compute_into(task, path)


def in_processes(workers: int) -> Mapper:
    """In so many processes of this machine."""

    def mapper(tasks: list[tuple[Task, str]]) -> Iterator[int]:
        with ProcessPoolExecutor(workers) as pool:
            yield from (
                future.result() for future in as_completed(pool.submit(compute_into, *t) for t in tasks)
            )

    return mapper


@contextmanager
def on_dask(address: str | None) -> Iterator[Mapper]:
    """On a dask cluster: the scheduler at an address, or one of this machine's processes.

    Workers write into the folder themselves, so they must see it under the same path.
    """
    try:
        from distributed import Client
        from distributed import as_completed as finished
    except ImportError:
        raise InputError(
            "--engine dask needs dask, which is not installed; "
            "pip install '.[distributed]' in llm-roofline's folder."
        ) from None
    try:
        client = Client(address, timeout=10) if address else Client(dashboard_address=None)
    except OSError as error:
        raise InputError(f"no dask scheduler answers at {address} ({error}).") from None
    with client:

        def mapper(tasks: list[tuple[Task, str]]) -> Iterator[int]:
            futures = [client.submit(compute_into, *task, pure=False) for task in tasks]
            yield from (future.result() for future in finished(futures))

        yield mapper


def _part(folder: Path, task: Task) -> Path:
    return folder.absolute() / "parts" / f"{task.key()}.parquet"


def check_names(spec: Spec) -> None:
    """Raise InputError for a model, device, format, convention, engine or technique that does not exist."""
    from hwspecs import load_device
    from roofline.asked import formats
    from roofline.engines import find_engine
    from workloads.catalogue import load_model
    from workloads.convention import convention
    from workloads.techniques.registry import parse

    convention(spec.convention)
    for engine in spec.engines:
        find_engine(engine)
    for name in spec.hardware:
        load_device(name)
    for loaded in map(load_model, spec.models):
        for dtypes in spec.dtypes:
            formats(loaded, dtypes)
    for words in spec.techniques:
        for word in words:
            parse(word)


def _claim(spec: Spec, folder: Path) -> None:
    """Write the spec into the folder, or raise InputError where it holds another."""
    path = folder / "sweep.json"
    if path.exists():
        if read_json(path).get("sweep") != json.loads(json.dumps(plain_data(spec))):
            raise InputError(f"{folder}: holds another sweep; name another folder, or remove this one.")
        return
    _write_head(spec, folder, "running", None)


def _write_head(spec: Spec, folder: Path, status: str, points: int | None) -> None:
    head: dict[str, Any] = {"schema": 1, "status": status, "points": points, "sweep": plain_data(spec)}
    write_text(folder / "sweep.json", json.dumps(head, indent=1) + "\n")


def _gather(spec: Spec, folder: Path, tasks: list[Task]) -> pd.DataFrame:
    import pandas as pd

    parts = [pd.read_parquet(_part(folder, task)) for task in tasks]
    table = pd.concat([part for part in parts if len(part)], ignore_index=True)
    with atomic(folder / "points.parquet") as draft:
        table.to_parquet(draft, index=False)
    _write_head(spec, folder, "complete", len(table))
    return table


def load_spec(path: Path) -> Spec:
    """The sweep of a file; InputError names the file and the key."""
    from specfiles.reading import read_yaml
    from specfiles.strict import validated

    return validated(Spec, read_yaml(path), str(path))
