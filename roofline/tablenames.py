"""Names of kinds, formats and columns in other projects' tables, translated to those used here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import pandas as pd

from roofline.formats import DTYPES
from roofline.optable import BUILDERS, predict_table
from roofline.physics.columns import NAMES, SIZES, words

if TYPE_CHECKING:
    from roofline.ceilings import Ceilings

COLUMNS = frozenset((*SIZES, *NAMES, "latency_us", "gpu"))
KINDS: Mapping[str, str] = {
    **dict.fromkeys(("matmul", "mm", "linear"), "gemm"),
    **dict.fromkeys(("rms_norm", "layernorm", "layer_norm"), "rmsnorm"),
    **dict.fromkeys(("silu_and_mul", "swiglu"), "act_mul"),
    **dict.fromkeys(("rotary", "rotary_embedding"), "rope"),
    "add": "elementwise_add",
    "all_reduce": "allreduce",
    "all_gather": "allgather",
    "reducescatter": "reduce_scatter",
    "all_to_all": "alltoall",
    "send_recv": "sendrecv",
}
# Of products: w8a8 without a word more multiplies integers, as SmoothQuant, which coined it, does.
FORMATS: Mapping[str, str] = {
    **dict.fromkeys(("e4m3", "e4m3fn", "e5m2", "fp8_e4m3", "fp8_e4m3fn", "fp8_e5m2", "w8a8_fp8"), "fp8"),
    **dict.fromkeys(("float8_e4m3fn", "float8_e5m2", "float8"), "fp8"),
    **dict.fromkeys(("w8a8", "w8a8_int8", "smoothquant"), "sq"),
    **dict.fromkeys(("w4a16", "awq", "gptq"), "int4_wo"),
    "w8a16": "int8_wo",
    "fp4": "nvfp4",
    **dict.fromkeys(("float", "single"), "float32"),
    **dict.fromkeys(("double", "float64"), "fp64"),
}


def tidied(table: pd.DataFrame) -> pd.DataFrame:
    """The table with columns, kinds and formats named as here; what is not known stays as it is.

    Case, spaces around names and `-` for `_` do not matter, nor does `torch.` before a format. A column that
    has its name already is not replaced by a renamed one.
    """
    columns = {str(name): _plain(str(name)) for name in table.columns}
    taken = {name for name, plain in columns.items() if name == plain}
    renamed = {n: p for n, p in columns.items() if n != p and p in COLUMNS and p not in taken}
    renamed = {n: p for n, p in renamed.items() if list(renamed.values()).count(p) == 1}
    table = table.rename(columns=renamed)
    mapped = {name: known for name, known in (("op", _kind), ("dtype", _format)) if name in table}
    mapped |= {"kv_dtype": _format} if "kv_dtype" in table else {}
    return table.assign(**{name: _each(table[name], known) for name, known in mapped.items()})


def predict_named(given: pd.DataFrame, limits: Ceilings) -> pd.DataFrame:
    """`predict_table` of a table with other projects' names, which the result keeps."""
    found = predict_table(tidied(given), limits)
    found.columns = [*given.columns, *found.columns[len(given.columns) :]]
    words = [name for name in given if _plain(str(name)) in ("op", "dtype", "kv_dtype")]
    return found.assign(**{name: given[name] for name in words})


def _each(column: pd.Series, known: Callable[[str], str]) -> pd.Series:
    """The names of a column, each different one looked up once."""
    return pd.Series(words(column, known), column.index)


def _kind(name: str) -> str:
    plain = _plain(name)
    found = KINDS.get(plain, plain)
    return found if found in BUILDERS else name


def _format(name: str) -> str:
    plain = _plain(name).removeprefix("torch.")
    found = FORMATS.get(plain, plain)
    return found if found in DTYPES else name


def _plain(name: str) -> str:
    return name.strip().lower().replace("-", "_").replace(" ", "_")
