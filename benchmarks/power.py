"""How much of its TDP does a device draw? Fitted to measured power, scored on a split over devices held out.

    python -m benchmarks.power TABLE [--write]

TABLE has the columns of Splitwise's performance table: power as a share of the TDP, times of prompt, token.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from hwspecs import load_device
from hwspecs.serving import POWER_FILE, Power
from roofline.energy import drawn, fit_power
from roofline.predict import predict
from roofline.scenario import Scenario
from roofline.tablefiles import read_table
from specfiles.writing import write_text
from workloads.catalogue import load_model
from workloads.phases import Setting

SETTING = ["model", "hardware", "tensor_parallel", "prompt_size", "batch_size", "token_size"]


def utilised(table: pd.DataFrame) -> pd.DataFrame:
    """Per setting: MBU and MFU over the measured times, and the share of the TDP that was drawn."""
    table = table[table["average_power"] > 0]
    times = ["prompt_time", "token_time", "average_power"]
    lines = []
    for row in table.groupby(SETTING, as_index=False)[times].mean().to_dict("records"):
        model, device = load_model(str(row["model"])).model, load_device(str(row["hardware"]))
        if row["prompt_size"] + row["token_size"] > model.max_position:
            continue
        setting = Setting(tensor_parallel=int(row["tensor_parallel"]))
        sizes = (int(row[name]) for name in ("batch_size", "prompt_size"))
        scenario = Scenario(model, "generate", *sizes, output=int(row["token_size"]), setting=setting)
        totals = predict(scenario, device).totals()
        seconds = (row["prompt_time"] + row["token_time"] * (row["token_size"] - 1)) * 1e-3
        slower = totals["time_s"] / seconds
        used = {name: totals[name] * slower for name in ("mbu", "mfu")}
        lines.append({"tp": setting.tensor_parallel, **used, "share": row["average_power"]})
    return pd.DataFrame(lines)


def held_out(rows: pd.DataFrame) -> pd.Series:
    """Predicted / measured - 1 of each row by the fit to other numbers of devices."""
    found = []
    for _, scored in rows.groupby("tp"):
        known = rows.drop(scored.index)
        power = Power(**fit_power(known["mbu"], known["mfu"], known["share"]), source="other splits")
        found.append(drawn(power, scored["mbu"], scored["mfu"]) / scored["share"] - 1)
    return pd.concat(found)


def main() -> None:
    """Fit, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", type=Path)
    parser.add_argument("--write", action="store_true", help="make the shipped shares")
    options = parser.parse_args()
    rows = utilised(read_table(options.table))
    error = held_out(rows)
    median, bias = np.median(error.abs()), error.mean()
    print(f"{len(rows)} settings, other splits: median |error| {median:.1%}, bias {bias:+.1%}")
    print(f"  TDP x time, for comparison: {np.median(1 / rows['share'] - 1):.1%}")
    for tp, group in error.groupby(rows["tp"]):
        print(f"  {tp} devices: median |error| {group.abs().median():.1%}")
    found = fit_power(rows["mbu"], rows["mfu"], rows["share"])
    print(found)
    if options.write:
        import msgspec

        power = Power(**found, source="Splitwise (Mutinifni/splitwise-sim@8f99e7d, MIT), Llama-2-70B on A100")
        write_text(POWER_FILE, msgspec.json.encode(power).decode() + "\n")


if __name__ == "__main__":
    main()
