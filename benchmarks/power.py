"""How much of its TDP does a device draw, and how much energy does a token take?

Fitted to measured power, scored on a split over devices held out: power at the times that were measured, and
energy per token at those that are predicted, of kernels alone and with the engine of a batch by hand.

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
from roofline.engines import as_engines_run, find_engine
from roofline.predict import predict
from roofline.scenario import Scenario
from roofline.tablefiles import read_table
from specfiles.writing import write_text
from workloads.catalogue import load_model
from workloads.phases import Setting

ENGINES = {"none": "kernels alone", "eager": "with --engine eager"}
SETTING = ["model", "hardware", "tensor_parallel", "prompt_size", "batch_size", "token_size"]


def utilised(table: pd.DataFrame) -> pd.DataFrame:
    """Per setting: MBU and MFU over the measured times, and the share of the TDP that was drawn.

    The same over predicted times, per name of an engine, and how much longer these are than those measured.
    """
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
        line = {"tp": setting.tensor_parallel, **used, "share": row["average_power"]}
        for name in ENGINES:
            asked = as_engines_run(scenario)
            found = predict(asked, device, "calibrated", engine=find_engine(name)).totals()
            line |= {f"{name}_longer": found["time_s"] / seconds}
            line |= {f"{name}_{each}": found[each] for each in ("mbu", "mfu")}
        lines.append(line)
    return pd.DataFrame(lines)


def held_out(rows: pd.DataFrame) -> pd.DataFrame:
    """Predicted / measured - 1 of each row by the fit to other numbers of devices.

    power: at measured times. Named by engines: energy, and so energy per token, at predicted times.
    """
    found = []
    for _, scored in rows.groupby("tp"):
        known = rows.drop(scored.index)
        power = Power(**fit_power(known["mbu"], known["mfu"], known["share"]), source="other splits")
        errors = {"power": drawn(power, scored["mbu"], scored["mfu"]) / scored["share"] - 1}
        for name in ENGINES:
            share = drawn(power, scored[f"{name}_mbu"], scored[f"{name}_mfu"])
            errors[name] = scored[f"{name}_longer"] * share / scored["share"] - 1
        found.append(pd.DataFrame(errors))
    return pd.concat(found)


def _told(error: pd.Series) -> str:
    return f"median |error| {error.abs().median():.1%}"


def main() -> None:
    """Fit, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", type=Path)
    parser.add_argument("--write", action="store_true", help="make the shipped shares")
    options = parser.parse_args()
    rows = utilised(read_table(options.table))
    errors = held_out(rows)
    told = {
        "power": "power at measured times",
        **{name: f"J per token, {what}" for name, what in ENGINES.items()},
    }
    for name, what in told.items():
        error = errors[name]
        print(f"{what}, {len(rows)} settings of other splits: {_told(error)}, bias {error.mean():+.1%}")
        for tp, group in error.groupby(rows["tp"]):
            print(f"  {tp} devices: {_told(group)}")
    print(f"TDP x measured time, for comparison: {np.median(1 / rows['share'] - 1):.1%}")
    found = fit_power(rows["mbu"], rows["mfu"], rows["share"])
    print(found)
    if options.write:
        import msgspec

        power = Power(**found, source="Splitwise (Mutinifni/splitwise-sim@8f99e7d, MIT), Llama-2-70B on A100")
        write_text(POWER_FILE, msgspec.json.encode(power).decode() + "\n")


if __name__ == "__main__":
    main()
