"""How far off are simulated engines from throughputs and latencies that vendors published?

No constant was fitted to any of them. published_serving.csv has a row per run and the page that it is from,
with its commit or release where it is a repository's: tables of TensorRT-LLM's perf-overview.md at those
(a client sends all requests at once, or, with a rate, by a Poisson process), of NVIDIA NIM (docs.nvidia.com,
LLM benchmarking: a closed loop of users) and of AMD (developer resources, performance results of vLLM on
MI300X). Prints the median error of each model, device and release, and the largest in brackets; with --write
the table goes into docs/serving.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.closed_loop import engine_of
from benchmarks.end_to_end import between
from hwspecs.serving import overheads_for
from roofline.engines import RESERVING
from roofline.serve.cluster import Cluster
from roofline.serve.engine import Policy
from roofline.serve.outcome import Limits, outcome
from roofline.serve.requests import drawn
from roofline.serving import USUAL_BUDGET
from roofline.tablefiles import read_table
from specfiles.writing import write_text
from workloads.catalogue import load_model
from workloads.dtypes import Precision
from workloads.phases import Setting
from workloads.traffic import Traffic

HERE = Path(__file__).resolve()
ROWS, PAGE = HERE.with_suffix(".csv"), HERE.parents[1] / "docs" / "serving.md"
BEGIN = "<!-- printed by benchmarks.published_serving -->\n"
GROUP = ["model", "gpu", "formats", "tp", "engine", "release"]
QUANTITIES = ("tokens/s", "TTFT", "TPOT")
AT_ONCE = 1e5  # requests per second, at which 3000 arrive within 30 ms
# Sequences that run at once: TensorRT-LLM's default max_batch_size; --max-num-seqs of AMD's runs.
MOST = {"trtllm": 2048, "vllm": 3200}
# Releases whose scheduler waits for a step before it decides on the next one: the C++ runtime of TensorRT-LLM
# has no overlap scheduler, its PyTorch backend (the default from 1.0 on) has.
IN_TURN = ("0.14", "0.17", "NIM 1.8.0")
# Quantised checkpoints of NVIDIA and AMD hold keys and values in fp8. The experts of gpt-oss in 4 bits are
# multiplied in 8 bits on Blackwell (CUTLASS) and in 16 on Hopper (Triton), with keys and values in 16 there.
FORMATS = {
    "fp16": Precision.of("fp16"),
    "bf16": Precision.of("bf16"),
    "fp8": Precision.of("fp8", "fp8", "fp8"),
    "fp4": Precision.of("nvfp4", "nvfp4", "fp8"),
    "mxfp4": Precision.of("bf16", experts="mxfp4"),
    "mxfp4-fp8": Precision(kv="fp8", experts="mxfp4", experts_in="fp8"),
}


def main(write: bool) -> None:
    """Simulate, print, write."""
    rows = read_table(ROWS)
    found = pd.DataFrame([simulated(row) for row in rows.to_dict("records")])
    table = scores(pd.concat([rows[GROUP], found], axis=1))
    print(table)
    if write:
        write_text(PAGE, between(PAGE.read_text(), table, BEGIN))


def simulated(row: dict[str, Any]) -> dict[str, float]:
    """Relative errors of output tokens per second, mean TTFT and TPOT; nan where none was published."""
    engine, known = str(row["engine"]), overheads_for(str(row["engine"])).overheads
    setting = Setting(FORMATS[row["formats"]], tensor_parallel=int(row["tp"]))
    times, room = engine_of(load_model(row["model"]).model, setting, (), engine, "", row["gpu"])
    traffic = Traffic(requests=int(row["requests"]))
    asked = drawn(traffic, int(row["prompt"]), int(row["output"]), len(room.held) - 1)
    if row["users"] > 0:
        asked = asked.from_users(int(row["users"]))
    else:
        asked = asked.at_rate(row["rate_per_s"] if row["rate_per_s"] > 0 else AT_ONCE)
    policy = Policy(
        "mixed" if engine == "trtllm" else "chunked",  # what either does unless asked otherwise
        max_batch=MOST[engine],
        budget=USUAL_BUDGET,
        request_s=known.request_s,
        token_s=known.token_s,
        ahead=row["release"] not in IN_TURN,
        reserves=engine in RESERVING,
    )
    told = outcome(asked, Cluster(times, room, policy), Limits())
    predicted = told["tokens_per_s"], told["ttft_mean_s"] * 1e3, told["tpot_mean_s"] * 1e3
    measured = (row[name] for name in ("tokens_per_s", "ttft_ms", "itl_ms"))
    return {name: a / b - 1 for name, a, b in zip(QUANTITIES, predicted, measured, strict=True)}


def scores(rows: pd.DataFrame) -> str:
    """A Markdown table: a line per model, device, formats and release; the median error, and the largest."""
    lines = [
        f"| model, devices, formats | release | rows | {' | '.join(QUANTITIES)} |",
        "| --- " * (3 + len(QUANTITIES)) + "|",
    ]
    for (model, gpu, formats, tp, engine, release), part in rows.groupby(GROUP, sort=False):
        errors = " | ".join(_error(part[name]) for name in QUANTITIES)
        lines.append(f"| {model}, {tp} x {gpu}, {formats} | {engine} {release} | {len(part)} | {errors} |")
    return "\n".join(lines) + "\n"


def _error(errors: pd.Series) -> str:
    errors = errors.dropna()
    if errors.empty:
        return "–"
    return f"{errors.median():+.0%} ({errors[errors.abs().idxmax()]:+.0%})"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="Put the table into docs/serving.md.")
    main(parser.parse_args().write)
