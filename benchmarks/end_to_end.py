"""How far off are TTFT and TPOT of inference engines, with overheads fitted to other rows?

Prints the errors of kernels alone, of fits to other formats and splits of the same model on the same engine,
and of what is assumed of an engine that nobody measured; with --write also makes
hwspecs/serving/overheads.json from all rows.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import msgspec
import pandas as pd

from hwspecs.serving import FILE, Fits
from roofline.endtoend import composed
from roofline.serving_fit import across_models, across_settings, fit_all, kernels_alone
from roofline.tablefiles import read_table
from specfiles.writing import atomic


def main(paths: list[Path], write: bool) -> None:
    """Fit, print, write."""
    parts = []
    for path in paths:
        rows, left_out = composed(read_table(path), "calibrated")
        print(f"{path.name}: {len(rows)} rows, left out: {left_out or 'none'}")
        parts.append(rows)
    rows = pd.concat(parts, ignore_index=True)
    for what, scored in (
        ("kernels alone", kernels_alone),
        ("fitted to other settings", across_settings),
        ("an engine that nobody measured", across_models),
    ):
        print(f"{what}, median |error|:")
        held_out = scored(rows)
        for (model, engine, tokens), group in held_out.groupby(["model", "engine", "tokens"]):
            errors = (
                f"{name} {(group[f'predicted_{name}_s'] / group[f'{name}_s'] - 1).abs().median():.1%}"
                for name in ("ttft", "tpot")
            )
            drafts = f", {tokens:.3g} tokens a step" if tokens > 1 else ""
            print(f"  {model} {engine}{drafts}: {len(group)} rows, {', '.join(errors)}")
    if write:
        fits = fit_all(rows, ", ".join(path.name for path in paths))
        text = msgspec.json.format(msgspec.json.encode(Fits(schema=1, fits=fits)), indent=1)
        with atomic(FILE) as draft:
            draft.write_bytes(text + b"\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tables", nargs="+", type=Path, metavar="TABLE")
    parser.add_argument("--write", action="store_true", help="Make the shipped overheads.")
    asked = parser.parse_args()
    main(asked.tables, asked.write)
