"""How long does `roofline ops` take for a million operators, beside reading and writing their table?

Sizes are drawn at random, so that few rows repeat: products of a library, and layers of routed experts. Each
table is predicted at the fidelities with kernel models; the yardstick is the same table read and written.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from hwspecs import load_device
from roofline.ceilings import ceilings
from roofline.optable import predict_table
from roofline.tablefiles import read_table, write_table

FIDELITIES = ("calibrated", "corrected")


def products(rows: int, random: np.random.Generator) -> pd.DataFrame:
    """bf16 products of vLLM's sizes: any number of tokens, matrices in multiples of 16."""
    columns = {name: random.integers(1, 1024, rows) * 16 for name in ("n", "k")}
    m = random.integers(1, 16384, rows)
    return pd.DataFrame({"op": "gemm", "dtype": "bfloat16", "backend": "vllm", "m": m, **columns})


def experts(rows: int, random: np.random.Generator) -> pd.DataFrame:
    """A layer of DeepSeek-V3's experts, any number of tokens, shared by 1 to 8 devices."""
    sizes = {"hidden": 7168, "inter": 2048, "topk": 8, "num_experts": 256, "moe_ep": 1}
    drawn = {
        "num_tokens": random.integers(1, 16384, rows),
        "moe_tp": random.choice([1, 2, 4, 8], rows),
        "distribution": random.choice(["balanced", "power_law_1.01", "power_law_1.2"], rows),
    }
    return pd.DataFrame({"op": "moe", "dtype": "fp8_block", "backend": "sglang", **sizes, **drawn})


def taken(work: Callable[[], None]) -> dict[str, float]:
    """Wall and CPU seconds of all threads."""
    wall, cpu = time.perf_counter(), os.times()
    work()
    after = os.times()
    return {"wall_s": time.perf_counter() - wall, "cpu_s": after.user + after.system - cpu.user - cpu.system}


def measured(table: pd.DataFrame, hardware: str, folder: Path, repeats: int) -> dict[str, dict[str, float]]:
    """Reading and writing alone, then with each fidelity in between, in turn: the repeat of median wall time.

    Constants are drawn before.
    """
    source, out = folder / "in.parquet", folder / "out.parquet"
    write_table(table, source)
    device = load_device(hardware)

    def between(predict: Callable[[pd.DataFrame], pd.DataFrame]) -> dict[str, float]:
        return taken(lambda: write_table(predict(read_table(source)), out))

    stages: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {"read and written": lambda rows: rows}
    for fidelity in FIDELITIES:
        limits = ceilings(device, fidelity)
        predict_table(table.head(100), limits)
        stages[fidelity] = partial(predict_table, limits=limits)
    found = [{name: between(predict) for name, predict in stages.items()} for _ in range(repeats)]
    return {
        name: sorted((each[name] for each in found), key=lambda took: took["wall_s"])[repeats // 2]
        for name in stages
    }


def main() -> None:
    """Measure and print, as a table or as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-n", "--rows", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=3, help="of each; the median counts")
    parser.add_argument("--hw", default="h100_sxm")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        found = {
            make.__name__: measured(make(options.rows, random), options.hw, Path(folder), options.repeats)
            for make in (products, experts)
        }
    if options.json:
        print(json.dumps({"rows": options.rows, "tables": found}))
        return
    for kind, times in found.items():
        floor = times["read and written"]["cpu_s"]
        print(f"{options.rows:,} {kind}:")
        for name, each in times.items():
            ratio = each["cpu_s"] / floor if floor else float("nan")
            print(f"  {name:16s} {each['wall_s']:6.2f} s wall {each['cpu_s']:6.2f} s CPU {ratio:6.1f} x")


if __name__ == "__main__":
    main()
