"""Predict operators listed in a table: the columns of the measured tables, vectorised by kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from roofline.ceilings import Ceilings, Fidelity
from roofline.formats import DTYPES
from roofline.physics import models
from roofline.physics.columns import of_table
from roofline.physics.expert_load import expert_load, exponents
from roofline.physics.libraries import as_run, engine_of, kernel_of
from roofline.times import Times, times
from specfiles.errors import InputError, choose
from workloads.operators import (
    Activation,
    AllReduce,
    Attention,
    Collective,
    Copy,
    Gemm,
    GroupedGemm,
    Norm,
    Operator,
    Residual,
    Rope,
    RoutedExperts,
    Sampling,
)
from workloads.operators.collective import PATTERNS

if TYPE_CHECKING:
    from roofline.physics.base import Columns

CALIBRATED_COLUMNS = ("lower_us", "upper_us", "provenance")  # appended where kernel models predict
OUTPUT_COLUMNS = ("flops", "bytes_moved", "compute_s", "memory_s", "predicted_us", "bound", "fidelity")
Column = Callable[[str], Any]
Formats = tuple[str, str, str]  # of inputs, weights and outputs
Builder = Callable[[Column, Formats, str], Operator]  # from sizes, formats and that of the cache
LARGEST = 1e15  # of a size: products of five and more stay finite


class _RowError(InputError):
    """Sizes of a row that contradict each other; `at` counts the rows of its group."""

    def __init__(self, at: int, sentence: str) -> None:
        super().__init__(sentence)
        self.at = at


def _first(wrong: Any) -> int | None:
    """The first of the rows that are wrong."""
    return int(np.argmax(wrong)) if np.any(wrong) else None


def _gemm(size: Column, dtypes: Formats, _: str) -> Operator:
    inputs, weights, outputs = dtypes
    return Gemm(size("m"), size("n"), size("k"), inputs, weights, outputs)


def _attention(causal: bool, one_query: bool) -> Builder:
    def make(size: Column, dtypes: Formats, kv_dtype: str) -> Operator:
        window = size("window?")
        kv_len = size("kv_len")
        q_len: Any = 1 if one_query else size("q_len")
        if (at := _first(q_len > kv_len)) is not None:
            raise _RowError(
                at, f"q_len {q_len[at]:g} is above kv_len {kv_len[at]:g}; kv_len includes the new positions."
            )
        heads, kv_heads = size("n_heads"), size("n_kv_heads")
        if (at := _first(heads % kv_heads > 0)) is not None:
            raise _RowError(
                at,
                f"n_heads {heads[at]:g} is not divisible by n_kv_heads {kv_heads[at]:g}; "
                "expected n_kv_heads to divide it.",
            )
        return Attention(
            batch=size("batch"),
            q_len=q_len,
            kv_len=kv_len,
            heads=heads,
            kv_heads=kv_heads,
            head_dim=size("head_dim"),
            dtype=dtypes[0],
            kv_dtype=kv_dtype or dtypes[0],
            causal=causal,
            window=None if window is None else np.where(window > 0, window, kv_len),
        )

    return make


def _mla(absorbed: bool) -> Builder:
    """Latent attention with the sizes of DeepSeek-V2 and V3, which the measured tables have."""

    def make(size: Column, dtypes: Formats, kv_dtype: str) -> Operator:
        heads = size("n_heads")
        return Attention(
            batch=size("batch"),
            q_len=1 if absorbed else size("q_len"),
            kv_len=size("kv_len"),
            heads=heads,
            kv_heads=1 if absorbed else heads,
            head_dim=576 if absorbed else 192,
            dtype=dtypes[0],
            kv_dtype=kv_dtype or dtypes[0],
            value_dim=512 if absorbed else 128,
            values_in_keys=absorbed,
            cached=absorbed,
        )

    return make


def _activation(size: Column, dtypes: Formats, _: str) -> Operator:
    """The width stands in `inter`, or in `hidden` where a table knows the kernel's row alone."""
    inner, row = size("inter?0"), size("hidden?0")
    width: Any = np.where(inner > 0, inner, row)
    return Activation(size("num_tokens"), width if width.all() else size("inter"), dtypes[2])


def _moe(size: Column, dtypes: Formats, _: str) -> Operator:
    """The experts of rank 0; without moe_tp and moe_ep the layer is whole, without `gated` it has a gate."""
    tokens, experts, top_k = size("num_tokens"), size("num_experts"), size("topk")
    split, ranks = (np.maximum(size(name), 1) for name in ("moe_tp?1", "moe_ep?1"))
    if (at := _first((top_k > experts) | (experts % ranks > 0))) is not None:
        raise _RowError(
            at,
            f"{experts[at]:g} experts cannot give {top_k[at]:g} to a token on {ranks[at]:g} ranks; topk must "
            "not be above num_experts, and moe_ep must divide it.",
        )
    load = expert_load(tokens, experts, top_k, ranks, size("distribution"))
    inputs, weights, outputs = dtypes
    matrices = 2 + (size("gated?1") > 0)
    shape = (size("hidden"), size("inter") / split, matrices)
    return RoutedExperts(load.tokens, load.chosen, load.touched, *shape, inputs, weights, outputs)


def _grouped(size: Column, dtypes: Formats, _: str) -> Operator:
    """Rows spread evenly over the experts: as many of these are met as there are rows for."""
    inputs, weights, outputs = dtypes
    m, experts = size("m"), size("num_experts")
    met: Any = np.minimum(m, experts)
    return GroupedGemm(m, size("n"), size("k"), experts, met, inputs, weights, outputs)


def _collective(pattern: str) -> Builder:
    return lambda size, d, _: Collective(pattern, size("bytes"), size("n_gpus"))


BUILDERS: Mapping[str, Builder] = {
    "gemm": _gemm,
    "attention_prefill": _attention(causal=True, one_query=False),
    "attention_decode": _attention(causal=True, one_query=True),
    "attention_encoder": _attention(causal=False, one_query=False),
    "mla_prefill": _mla(absorbed=False),
    "mla_decode": _mla(absorbed=True),
    "rmsnorm": lambda size, d, _: Norm(size("num_tokens"), size("hidden"), d[2], d[2]),
    "rope": lambda size, d, _: Rope(
        size("num_tokens"), size("n_heads") + size("n_kv_heads"), size("head_dim"), d[2]
    ),
    "act_mul": _activation,
    "elementwise_add": lambda size, d, _: Residual(size("num_tokens"), size("hidden"), d[2]),
    "grouped_gemm": _grouped,
    "moe": _moe,
    "sampling": lambda size, d, _: Sampling(size("num_tokens"), size("n"), d[2], softmax=True),
    "copy": lambda size, d, _: Copy(size("bytes")),
    **{pattern: _collective(pattern) for pattern in PATTERNS},
    "allreduce": lambda size, d, _: AllReduce(size("bytes") / 2, 1, size("n_gpus"), "bf16"),
}


def predict_table(table: pd.DataFrame, limits: Ceilings) -> pd.DataFrame:
    """The table with OUTPUT_COLUMNS appended, rows in the same order, other columns untouched.

    Raises InputError for an unknown op or dtype and for a missing or non-positive size, naming the
    column and the first row.
    """
    if "op" not in table:
        raise InputError(
            f"the table has no column 'op'; expected the columns op, dtype and sizes, found: "
            f"{', '.join(map(str, table.columns)) or 'none'}."
        )
    numbers = (*OUTPUT_COLUMNS[:5], *CALIBRATED_COLUMNS[:2])
    result: dict[str, Any] = {name: np.full(len(table), np.nan) for name in numbers}
    result["bound"] = np.full(len(table), "", dtype=object)
    result["fidelity"] = np.full(len(table), str(limits.fidelity), dtype=object)
    if limits.fidelity is Fidelity.CORRECTED:  # said of rows that are
        result["fidelity"][:] = str(Fidelity.CALIBRATED)
    result["provenance"] = np.full(len(table), "ceilings", dtype=object)
    for rows, operator, limit in timed(table, limits):
        work = operator.work()
        values = (work.flops, work.bytes, limit.compute_s, limit.memory_s, limit.time_s * 1e6)
        for name, value in zip(OUTPUT_COLUMNS, (*values, limit.bound), strict=False):
            result[name][rows] = value
        if limit.kernel is not None:  # an interval begins no lower than what the bound allows
            floor = np.where(limit.time_s > limit.kernel.time_s, limit.time_s, _held_by(table, rows, limit))
            result["lower_us"][rows] = np.maximum(limit.kernel.lower_s, floor) * 1e6
            result["upper_us"][rows] = np.maximum(limit.kernel.upper_s, floor) * 1e6
            result["provenance"][rows] = limit.kernel.provenance
            if limit.kernel.corrected is not None:
                result["fidelity"][rows[limit.kernel.corrected]] = str(Fidelity.CORRECTED)
    columns = OUTPUT_COLUMNS if limits.kernels is None else (*OUTPUT_COLUMNS, *CALIBRATED_COLUMNS)
    return table.assign(**{name: result[name] for name in columns})


def timed(table: pd.DataFrame, limits: Ceilings) -> Iterator[tuple[Any, Operator, Times]]:
    """The rows of each kind, format and kernel: where they stand, their operator, and its times."""
    every = of_table(table)
    for (kind, inputs, cache), rows in _groups(every, limits):
        columns = {name: column[rows] for name, column in every.items()}
        operator = row_operators(table, rows, columns, kind, inputs, cache)
        if limits.kernels is None:
            with _asked_by(table, rows):
                found = times(operator, limits)
            yield rows, operator, found
            continue
        run = as_run(inputs, engine_of(columns), limits.kernels.gpu, kind)
        if run != inputs:
            operator = row_operators(table, rows, columns, kind, run, cache)
        with _asked_by(table, rows):
            kernel = limits.kernels.table(kind, inputs, cache, columns)
            found = times(operator, limits, kernel)
        if kernel is not None and replayed(kind, kernel_of(columns)):
            explained = np.maximum(kernel.time_s, found.compute_s)
            if kernel.corrected is not None:  # what is learned goes below no bound
                explained[kernel.corrected] = found.time_s[kernel.corrected]
            found = replace(found, time_s=explained)
        yield rows, operator, found


@contextmanager
def _asked_by(table: pd.DataFrame, rows: Any) -> Iterator[None]:
    """What a device lacks, such as a peak, said with the row that asks for it."""
    try:
        yield
    except InputError as error:
        raise InputError(f"row {_label(table, rows)}: {error}") from None


def _held_by(table: pd.DataFrame, rows: Any, limit: Times) -> Any:
    """What no measurement of these rows, which agree in their kind and kernel, should be faster than."""
    first = table.iloc[rows[0]]
    kernel = first.get("kernel", "")
    if replayed(str(first["op"]), "" if pd.isna(kernel) else str(kernel)):
        return limit.compute_s
    return np.maximum(limit.compute_s, limit.memory_s)


def replayed(kind: str, kernel: str) -> bool:
    """Whether the bytes of a row are no bound on its time, as an L2 may keep them from run to run.

    A row that names its kernel is one of a benchmark that replays it; others may be operators of a model.
    """
    return bool(kernel) and models()[kind].replayed


def _groups(columns: Columns, limits: Ceilings) -> list[tuple[tuple[str, str, str], Any]]:
    """Rows that are evaluated at once: of one kind, formats and, where these choose constants, kernel."""
    named = ("op", "dtype", "kv_dtype", *(("backend", "kernel") if limits.kernels else ()))
    count = len(columns["op"])
    keys = [columns.get(name, np.full(count, "", dtype=object)) for name in named]
    if "causal" in columns:  # without a mask, prefill is an encoder's attention
        unmasked = (columns["causal"] == 0) & (keys[0] == "attention_prefill")
        keys[0] = np.where(unmasked, "attention_encoder", keys[0])
    # Matrix-vector products and single queries run other kernels, with constants of their own.
    ones = pd.Series(np.any([columns.get(name, np.zeros(count)) == 1 for name in ("m", "q_len")], axis=0))
    groups = ones.groupby([*keys, ones], sort=True).indices if count else {}
    return [((str(key[0]), str(key[1]), str(key[2])), rows) for key, rows in groups.items()]


def one_operator(row: Mapping[str, Any]) -> Operator:
    """The operator of a single row, its sizes plain numbers."""
    table = pd.DataFrame([row])
    columns, cache = of_table(table), row.get("kv_dtype") or ""
    return row_operators(table, np.array([0]), columns, row["op"], row["dtype"], cache)


def row_operators(
    table: pd.DataFrame, rows: Any, columns: Columns, op: str, dtype: str, kv_dtype: str
) -> Operator:
    """The rows of one kind and dtype as a single operator whose sizes are arrays.

    `columns` are those of the rows (`of_table`).
    """
    if op not in BUILDERS:
        raise choose(op, list(BUILDERS), f"operator kind (row {_label(table, rows)})")
    for given in filter(None, (dtype, kv_dtype)):
        if given not in DTYPES:
            raise choose(given, list(DTYPES), f"dtype (op {op}, row {_label(table, rows)})")

    def size(column: str) -> Any:
        if column == "distribution":
            return exponents(columns[column]) if column in columns else np.zeros(len(rows))
        column, optional, absent = column.partition("?")  # NAME?, or NAME?VALUE for one that may be empty
        if column not in table:
            if optional:
                return np.full(len(rows), float(absent)) if absent else None
            raise InputError(f"op {op} needs the column {column!r}; the table has none.")
        values = columns[column]
        if np.isnan(values).any() and (text := _no_number(table[column].iloc[rows], op)):
            raise InputError(text)
        values = np.nan_to_num(values, nan=float(absent or 0)) if optional else values
        right = (values >= 0 if optional else values > 0) & (values <= LARGEST)
        number = "number"
        if column != "bytes":  # of formats with scales they need not be whole
            right, number = right & (values == np.floor(values)), "whole number"
        if not right.all():
            at = np.asarray(rows)[~right][0]
            raise InputError(
                f"row {_counted(table.index[at])}: {column} of op {op} is {_shown(table[column].iloc[at])}; "
                f"expected a positive {number} of at most {LARGEST:g}."
            )
        return values

    default = DTYPES[dtype or "bfloat16"]
    try:
        return BUILDERS[op](size, default, DTYPES[kv_dtype][0] if kv_dtype else "")
    except _RowError as error:
        raise InputError(f"row {_label(table, rows[error.at :])}: {error}") from None


def _no_number(column: pd.Series, op: str) -> str:
    """What is said of the first value that is no number; empty where all are, or are missing."""
    wrong = column[pd.to_numeric(column, errors="coerce").isna() & column.notna()]
    if wrong.empty:
        return ""
    at = f"row {_counted(wrong.index[0])}: {column.name} of op {op} is {wrong.iloc[0]!r}"
    return f"{at}; expected a number without a unit or separators."


def _label(table: pd.DataFrame, rows: Any) -> str:
    return str(_counted(table.index[rows[0]]))


def _counted(label: Any) -> Any:
    """A row as a reader counts it: the first below the header is 1."""
    return label + 1 if isinstance(label, Integral) else label


def _shown(value: Any) -> Any:
    return "empty" if pd.isna(value) else value
