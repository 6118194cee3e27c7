"""How far off are TTFT and TPOT of inference engines, with overheads fitted to other rows?

Prints median errors of kernels alone, of what is assumed of an engine that nobody measured, and of fits to
other formats and splits of the same model on the same engine; with --write also makes
hwspecs/serving/overheads.json from all rows and puts the table into docs/end_to_end.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import msgspec
import pandas as pd

from hwspecs.serving import FILE, Fits
from roofline.endtoend import MEASURED, composed
from roofline.serving_fit import across_settings, as_unmeasured, fit_all, kernels_alone
from roofline.tablefiles import read_table
from specfiles.writing import atomic, write_text

PAGE = Path(__file__).resolve().parents[1] / "docs" / "end_to_end.md"
BEGIN, END = "<!-- printed by benchmarks.end_to_end -->\n", "<!-- end -->\n"
SCORED = {
    "kernels alone": kernels_alone,
    "nobody measured": as_unmeasured,
    "other settings": across_settings,
}


def main(paths: list[Path], write: bool) -> None:
    """Fit, print, write."""
    parts = []
    for path in paths:
        rows, left_out = composed(read_table(path), "calibrated")
        print(f"{path.name}: {len(rows)} rows, left out: {left_out or 'none'}")
        parts.append(rows)
    rows = pd.concat(parts, ignore_index=True)
    table = scores(rows)
    print(f"\nmedian |error| of TTFT, TPOT\n\n{table}")
    if write:
        fits = fit_all(rows, ", ".join(path.name for path in paths))
        text = msgspec.json.format(msgspec.json.encode(Fits(schema=1, fits=fits)), indent=1)
        with atomic(FILE) as draft:
            draft.write_bytes(text + b"\n")
        write_text(PAGE, between(PAGE.read_text(), table))


def scores(rows: pd.DataFrame) -> str:
    """A Markdown table: a line per model, device and engine, drafted tokens apart; a column per fit.

    The last line is of all rows together.
    """
    key = ["model", "gpu", "engine", "drafted"]
    predicted = {name: scored(rows) for name, scored in SCORED.items()}
    found = {
        name: {group: _errors(part) for group, part in each.groupby(key)} for name, each in predicted.items()
    }
    lines = [
        f"| model, device, engine | rows | {' | '.join(found)} |",
        "| --- " * (2 + len(found)) + "|",
    ]
    for group, part in rows.groupby(key):
        model, gpu, engine, drafted = group
        name = f"{model}, {gpu}, {engine}" + (f", {drafted} tokens drafted" if drafted else "")
        errors = " | ".join(each.get(group, "no other setting") for each in found.values())
        lines.append(f"| {name} | {len(part)} | {errors} |")
    lines.append(f"| all rows | {len(rows)} | {' | '.join(map(_errors, predicted.values()))} |")
    return "\n".join(lines) + "\n"


def _errors(rows: pd.DataFrame) -> str:
    medians = ((rows[f"predicted_{name}_s"] / rows[f"{name}_s"] - 1).abs().median() for name in MEASURED)
    return ", ".join(f"{median:.1%}" for median in medians)


def between(page: str, table: str, begin: str = BEGIN) -> str:
    """The page with the table between its markers."""
    before, _, rest = page.partition(begin)
    _, _, after = rest.partition(END)
    return f"{before}{begin}\n{table}\n{END}{after}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tables", nargs="+", type=Path, metavar="TABLE")
    parser.add_argument(
        "--write", action="store_true", help="Make the shipped overheads and the page's table."
    )
    asked = parser.parse_args()
    main(asked.tables, asked.write)
