"""How fast are many predictions at once, and one by itself?

A grid in which everything varies - batch, lengths, formats and devices - is evaluated in one call: all
operators of a prefill and of a decode step of an 80-layer model, totals of both. Beside it stands a floor:
NumPy multiplying two arrays once per operator, in the same process, with the same number of points. No array
program over this grid is faster than a few of those.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np

from hwspecs import load_device
from roofline.grid import Grid
from roofline.predict import predict
from roofline.predict_grid import predict_grid
from roofline.scenario import Scenario
from roofline.tables import as_json
from workloads.catalogue import load_model
from workloads.dtypes import Precision
from workloads.model import Model
from workloads.phases import Setting, decode, operators, prefill

DEVICES = ("h100_sxm", "a100_sxm", "b200_sxm", "l40s", "mi300x", "h200_sxm", "a40", "l4")
FORMATS = [(weights, kv) for weights in ("bf16", "int8", "int4") for kv in ("bf16", "fp8")]


def grid(phase: str, count: int) -> Grid:
    """`count` different points of a phase; the same in every run."""
    random = np.random.default_rng(0)

    def sizes(most: int) -> Any:
        return random.integers(1, most, count).astype(float)

    return Grid(
        phase,
        sizes(257),
        sizes(8193),
        sizes(32_769),
        sizes(513) + 1,
        tuple(Setting(Precision.of(weights, None, kv)) for weights, kv in FORMATS),
        random.integers(0, len(FORMATS), count),
        tuple(map(load_device, DEVICES)),
        random.integers(0, len(DEVICES), count),
    )


def floor(points: int, multiplications: int) -> None:
    """As many multiplications of whole arrays as there are operators."""
    a, b = np.ones(points), np.ones(points)
    for _ in range(multiplications):
        a * b


def seconds(call: Callable[[], Any], repeats: int) -> tuple[float, float]:
    """Median wall and CPU time of a call, after one that is not counted."""
    call()
    found = []
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        call()
        found.append((time.perf_counter() - wall, time.process_time() - cpu))
    return median(wall for wall, _ in found), median(cpu for _, cpu in found)


def check(model: Model, asked: Grid) -> float:
    """Largest relative deviation of times and memory from the same points predicted one by one."""
    totals, worst = predict_grid(model, asked), 0.0
    for i in range(0, len(asked), max(1, len(asked) // 5)):
        batch, prompt, context, output = (
            int(size[i]) for size in (asked.batch, asked.prompt, asked.context, asked.output)
        )
        scenario = Scenario(
            model,
            asked.phase,
            batch,
            prompt,
            context if asked.phase == "decode" else None,
            output,
            asked.settings[asked.setting[i]],
        )
        alone = predict(scenario, asked.devices[asked.device[i]]).totals()
        for name in ("time_s", "flops", "bytes", "memory_bytes"):
            worst = max(worst, abs(totals[name][i] / alone[name] - 1))
    return worst


def main() -> None:
    """Measure and print, as a table or as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-n", "--scenarios", type=int, default=10_000)
    parser.add_argument("-r", "--repeats", type=int, default=9, help="the median counts")
    parser.add_argument("--model", default="Llama-3.1-70B")
    parser.add_argument("--hw", default="h100_sxm", help="of the single predictions")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()

    model, device = load_model(options.model).model, load_device(options.hw)
    grids = {phase: grid(phase, options.scenarios) for phase in ("prefill", "decode", "generate")}
    count = sum(len(operators(model, step)) for step in (prefill(1, 16), decode(1, 16)))
    both = seconds(
        lambda: [predict_grid(model, grids[phase]) for phase in ("prefill", "decode")], options.repeats
    )
    whole = seconds(lambda: predict_grid(model, grids["generate"]), options.repeats)
    least = seconds(lambda: floor(options.scenarios, count), options.repeats)
    alone = {
        phase: seconds(
            lambda phase=phase: as_json(predict(Scenario(model, phase, 8, 2048, output=256), device)),  # type: ignore[misc]
            10 * options.repeats,
        )
        for phase in grids
    }
    result = {
        "model": model.name,
        "devices": len(DEVICES),
        "formats": len(FORMATS),
        "scenarios": options.scenarios,
        "operators_per_scenario": count,
        "grid_s": both[0],
        "grid_cpu_s": both[1],
        "grid_us_per_scenario": both[0] / options.scenarios * 1e6,
        "generate_grid_s": whole[0],
        "floor_s": least[0],
        "ratio_to_floor": both[1] / least[1],
        "single_s": alone["decode"][0],
        "single": {phase: {"wall_s": wall, "cpu_s": cpu} for phase, (wall, cpu) in alone.items()},
        "largest_deviation": max(check(model, asked) for asked in grids.values()),
    }
    if options.json:
        print(json.dumps(result, indent=1))
        return
    print(
        f"{model.name}, {options.scenarios:,} scenarios at once on {len(DEVICES)} devices in {len(FORMATS)} "
        "pairs of formats"
    )
    print(f"  prefill and decode, all            {both[0]:.4f} s, of which CPU {both[1]:.4f} s")
    print(f"  one of them                        {result['grid_us_per_scenario']:.2f} us")
    print(f"  floor: {count} array products in NumPy  {least[0]:.4f} s, {both[1] / least[1]:.0f} times less")
    print(f"  generations of 2 to 513 tokens     {whole[0]:.4f} s")
    for phase, (wall, cpu) in alone.items():
        print(
            f"  one {phase:8} by itself, warm      {wall * 1e3:.2f} ms (CPU {cpu * 1e3:.2f}), totals and rows"
        )
    print(f"  arrays against one by one          largest deviation {result['largest_deviation']:.1e}")


if __name__ == "__main__":
    main()
