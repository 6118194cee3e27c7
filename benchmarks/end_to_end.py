"""Fit the overheads of inference engines to tables of TTFT and TPOT and ship them.

    python benchmarks/end_to_end.py TABLE...

Writes hwspecs/serving/overheads.json, and prints the error that a fit to other formats and splits of the same
model on the same engine would have. `roofline validate TABLE` prints the error on models never fitted to.
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import pandas as pd

from hwspecs.serving import FILE, Fits
from profiler.tables import read_table
from roofline.endtoend import composed
from roofline.serving_fit import across_settings, fit_all


def main(paths: list[str]) -> None:
    """Fit, write, print."""
    parts = []
    for path in map(Path, paths):
        rows, left_out = composed(read_table(path), "calibrated")
        print(f"{path.name}: {len(rows)} rows, left out: {left_out or 'none'}")
        parts.append(rows)
    rows = pd.concat(parts, ignore_index=True)
    fits = fit_all(rows, ", ".join(Path(path).name for path in paths))
    text = msgspec.json.format(msgspec.json.encode(Fits(schema=1, fits=fits)), indent=1)
    FILE.write_bytes(text + b"\n")
    for (model, backend), group in across_settings(rows).groupby(["model", "backend"]):
        errors = (
            f"{name} {(group[f'predicted_{name}_s'] / group[f'{name}_s'] - 1).abs().median():.1%}"
            for name in ("ttft", "tpot")
        )
        print(f"{model} {backend or 'unnamed'}: {len(group)} rows, median |error| {', '.join(errors)}")


if __name__ == "__main__":
    main(sys.argv[1:])
