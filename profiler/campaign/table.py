"""A campaign's table of operators: rows that were measured, and rows that are left out."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from profiler.campaign.folder import OPERATORS, Head
from profiler.campaign.measure import measured_row, way
from profiler.ceilings.plan import Key
from profiler.environment import COLD_FACTOR, answers, last_level_cache_bytes
from profiler.interrupts import raise_swallowed
from profiler.kernels import KERNEL_ERRORS
from profiler.repeats import MICROS
from specfiles.errors import InputError, reason
from specfiles.writing import atomic

if TYPE_CHECKING:
    from profiler.campaign.run import Campaign
    from profiler.campaign.shapes import Row
    from profiler.ceilings.journal import Journal

SAVE_EVERY_S = 10.0
MOST_FAILED, MOST_OF_KIND = 30, 5  # one after the other; of a kind and format of which none was measured
KEY = (
    "op", "dtype", "kv_dtype", "m", "n", "k", "batch", "q_len", "kv_len", "n_heads", "n_kv_heads",
    "head_dim", "window", "causal", "num_tokens", "hidden", "inter", "topk", "num_experts", "moe_tp",
    "moe_ep", "distribution", "gated", "bytes", "n_gpus", "page", "tag",
)  # fmt: skip
TEXT = ("op", "dtype", "kv_dtype", "distribution", "tag")  # of the key; the others are whole numbers
COLUMNS = (
    "source", "gpu", *KEY[:3], "backend", "version", "kernel", *KEY[3:],
    *MICROS, "max_error",
)  # fmt: skip


class Table:
    """The operators measured so far, in memory and in `operators.parquet`, and those that are left out."""

    def __init__(self, campaign: Campaign, head: Head, journal: Journal, lost: set[Key]) -> None:
        import pandas as pd

        self.campaign, self.journal = campaign, journal
        self.lost = lost  # in which earlier processes ended, or lost the device
        self.failed: Counter[Key] = Counter()  # in this process, of kinds of which none was measured
        self.notes: list[str] = []
        self.path = campaign.out / OPERATORS
        self.done: list[Row] = []
        if self.path.exists():
            try:
                stored = pd.read_parquet(self.path)
                self.done = stored.astype(object).where(stored.notna(), None).to_dict("records")
            except Exception as error:  # pyarrow raises a dozen kinds for a broken file
                raise InputError(f"{self.path}: cannot be read ({error}); remove it to go on.") from None
        self.same = {
            "source": f"roofline campaign, {head.created[:10]}",
            "gpu": head.device,
            "version": str(head.environment.get("torch")),
        }

    def wanted(self, found: Iterable[Row]) -> Iterator[Row]:
        """The rows that were not measured by an earlier process, and did not end one, each once."""
        seen = {_key(row) for row in self.done} | self.lost
        for row in found:
            key = self._key(row)
            if key not in seen:
                seen.add(key)
                yield row

    def measure(self, queue: Any, share: float) -> None:
        """Measure rows of the queue until a share of the budget is spent.

        Raises InputError where the device is lost, after which the same command goes on without the row.
        """
        if not answers(self.campaign.device):
            raise InputError(f"{self.campaign.device} answers no more; the same command goes on.")
        cold = COLD_FACTOR * last_level_cache_bytes(self.campaign.device)
        saved, in_succession = time.monotonic(), 0
        while self.campaign.left_s(share) > 0 and (row := next(queue, None)) is not None:
            raise_swallowed()
            if self.failed[row["op"], row["dtype"]] == MOST_OF_KIND:
                continue
            error = self._measure(row, cold)
            in_succession = 0 if error is None else in_succession + 1
            if error is not None:
                self._leave_out(row, error)
                if in_succession == MOST_FAILED:
                    raise InputError(
                        f"{MOST_FAILED} operators in a row failed, the last with: {reason(error)}"
                    )
            if time.monotonic() - saved > SAVE_EVERY_S:
                self.campaign.progress(f"{len(self.done)} operators")
                self.save()
                saved = time.monotonic()

    def _measure(self, row: Row, cold: float) -> Exception | None:
        """One row, between two lines of the journal; why its kernel failed, if it did.

        Raises InputError where the journal cannot be written.
        """
        key, failed = self._key(row), None
        self.journal.begin(key)
        try:
            self.done.append({**self.same, **measured_row(row, self.campaign.device, cold)})
        except KERNEL_ERRORS as error:
            failed = error
        except BaseException:
            self.journal.begin(key, -1)
            raise
        if failed is None:
            self.journal.add(key, [])
        else:
            self.journal.begin(key, -1)
        return failed

    def _leave_out(self, row: Row, error: Exception) -> None:
        """Note a row's error. If the device is lost, others skip it. A kind that only fails is given up."""
        words, kind = " ".join(map(str, row.values())), (row["op"], row["dtype"])
        self.notes.append(f"{words}: {reason(error)}")
        if not answers(self.campaign.device):
            self.journal.add(self._key(row), [], lost=reason(error))
            raise InputError(
                f"{words} failed, and the device answers no more; the same command goes on without it: "
                f"{reason(error)}"
            )
        if not any((done["op"], done["dtype"]) == kind for done in self.done):
            self.failed[kind] += 1
            if self.failed[kind] == MOST_OF_KIND:
                self.notes.append(
                    f"{MOST_OF_KIND} of {' '.join(kind)} failed and none did not: no more of it"
                )

    def _key(self, row: Row) -> Key:
        """The row's key once it is measured."""
        return _key({**row, "tag": way(self.campaign.device, row.get("tag"))})

    def add(self, measured: Iterable[Row]) -> None:
        """Add rows measured elsewhere."""
        self.done += [{**self.same, **row} for row in measured]

    def save(self) -> None:
        """Write the table atomically."""
        import pandas as pd

        table = pd.DataFrame(self.done, columns=list(COLUMNS))
        sizes = [name for name in KEY if name not in TEXT]  # null where a kind has none
        whole = [*sizes, "repeats", "outliers", "warm_ups"]
        table = table.astype({**dict.fromkeys(whole, "Int64"), **dict.fromkeys((*TEXT, "ended"), "string")})
        with atomic(self.path) as draft:
            table.to_parquet(draft, index=False)


def _key(row: Row) -> tuple[Any, ...]:
    return tuple(row.get(name) for name in KEY)
