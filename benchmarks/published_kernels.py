"""How far off are kernel models from times that others published, of GPUs or kernels that no table has?

No constant was fitted to any of them. published_kernels.csv has a row per time and the page that it is from;
`copies` are those of the weights between two runs: one that an L2 may keep, or infinitely many. Left out are
what the page's measurement does not hold: quantising, and the kernels around attention. Prints a table for
products, experts, attention and sums; with --write they go into docs/physics.md and docs/attention.md. Last
comes the median of these kernels by what a device has in common with those that constants were fitted to.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from benchmarks.end_to_end import between
from hwspecs import load_device
from hwspecs.calibrations import shipped_calibrations
from roofline.physics.base import Gpu, total
from roofline.physics.kernels import Kernels
from specfiles.writing import write_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from roofline.physics.base import Floats

HERE = Path(__file__).resolve()
ROWS, DOCS = HERE.with_suffix(".csv"), HERE.parents[1] / "docs"
NAMES = ("backend", "kernel", "version", "distribution")
SIZES = (
    *("copies", "m", "n", "k", "num_experts", "inter", "hidden", "topk", "num_tokens"),
    *("batch", "q_len", "kv_len", "n_heads", "n_kv_heads", "head_dim", "causal", "bytes", "n_gpus"),
)
HEADS = {
    "gemm": "GPU, format, kernel",
    "moe": "GPU, format, experts x width",
    "attention": "GPU, kernel",
    "allreduce": "GPUs, library",
}
APART = {"quantise kernel", "append", "schedule"}  # kernels beside the published one
STARTS = {"attention", "mla"}  # whose published times are without the launch, too


def main(write: bool) -> None:
    """Predict, print, write."""
    rows = published()
    found = {str(shown): ratios(part) for shown, part in rows.groupby("shown")}
    kinds = rows["op"].str.partition("_")[0].replace("mla", "attention")
    for kind, part in rows.groupby(kinds.to_numpy(), sort=False):
        table = scores(part, HEADS[kind], found)
        print(table)
        if write:
            page = DOCS / ("attention.md" if kind == "attention" else "physics.md")
            begin = f"<!-- {kind}: printed by benchmarks.published_kernels -->\n"
            write_text(page, between(page.read_text(), table, begin))
    errors = pd.Series({shown: np.abs(ratio - 1).mean() for shown, ratio in found.items()})
    kinship = rows.groupby("shown")["device"].first().map(kin)
    for name, some in errors.groupby(kinship):
        print(f"{name}: {len(some)} kernels, median of errors {some.median():.0%}, worst {some.max():.0%}")


def kin(name: str) -> str:
    """What a device has in common with those that constants were fitted to (A100, H100, B200)."""
    device, fitted = load_device(name), [load_device(path.stem) for path in shipped_calibrations().values()]
    if device.name in {one.name for one in fitted}:
        return "a fitted device, kernels that no table has"
    gpu = Gpu.of(device)
    if not gpu.stacked:
        return "memory in no stacks (GDDR)"
    dies = {one.capability for one in map(Gpu.of, fitted)}
    return "the die of a fitted device" if gpu.capability in dies else "another die"


def published() -> pd.DataFrame:
    """The published times; sizes that a kind of operator lacks are nan."""
    return pd.read_csv(ROWS, keep_default_na=False, na_values=dict.fromkeys(SIZES, ""))


def ratios(rows: pd.DataFrame) -> Floats:
    """Predicted / measured time of rows of one device, operator and format."""
    one = rows.iloc[0]
    asked = {name: rows[name].to_numpy(dtype=object) for name in NAMES}
    asked |= {name: rows[name].to_numpy(dtype=float) for name in SIZES if rows[name].notna().all()}
    found = Kernels(load_device(one["device"])).table(one["op"], one["dtype"], one["kv_dtype"], asked)
    if found is None:
        raise ValueError(f"{one['shown']}: no kernel model predicts it")
    apart = APART | ({"launch"} if one["op"].partition("_")[0] in STARTS else set())
    alone = total({name: seconds for name, seconds in found.parts.items() if name not in apart})
    return np.asarray(alone * 1e6 / rows["latency_us"].to_numpy())


def scores(rows: pd.DataFrame, head: str, found: Mapping[str, Floats]) -> str:
    """A Markdown table: a line per kernel and GPU, under `head`, of the ratios `found`."""
    lines = [
        f"| {head} | rows | mean error | geometric mean of predicted / measured | source |",
        "| --- | --- | --- | --- | --- |",
    ]
    for shown, part in rows.groupby("shown", sort=False):
        ratio, sources = found[str(shown)], ", ".join(part["source"].str.partition(" ")[0].unique())
        bias = round(np.expm1(np.log(ratio).mean()), 2) + 0.0  # no minus before a zero
        lines.append(f"| {shown} | {len(part)} | {np.abs(ratio - 1).mean():.0%} | {bias:+.0%} | {sources} |")
    return "\n".join(lines).replace("%", " %") + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="Put the tables into the documentation.")
    main(parser.parse_args().write)
