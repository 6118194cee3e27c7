"""How fast are many predictions at once, and one by itself?

A grid of batch sizes and lengths is evaluated in one call: the sizes of every operator are arrays. Beside
it stands a floor: NumPy multiplying two arrays once per operator, in the same process, with the same
number of points. No array program over this grid is faster than a few of those.
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
from roofline.ceilings import Ceilings, ceilings
from roofline.predict import predict
from roofline.scenario import Scenario
from roofline.tables import as_json
from roofline.times import times
from workloads.catalogue import load_model
from workloads.model import Model
from workloads.phases import decode, operators, prefill


def grid(count: int) -> tuple[Any, Any, Any]:
    """Batch sizes, prompt lengths and contexts of `count` different scenarios."""
    random = np.random.default_rng(0)
    return (
        random.integers(1, 257, count),
        random.integers(16, 8193, count),
        random.integers(16, 32_769, count),
    )


def evaluate(model: Model, limits: Ceilings, batch: Any, prompt: Any, context: Any) -> tuple[Any, Any]:
    """TTFT and TPOT of every scenario: the sum over operators of count x time."""
    return tuple(  # type: ignore[return-value]
        sum(named.count * times(named.operator, limits).time_s for named in operators(model, step))
        for step in (prefill(batch, prompt), decode(batch, context))
    )


def floor(batch: Any, multiplications: int) -> None:
    """As many multiplications of whole arrays as there are operators."""
    a, b = batch.astype(float), batch.astype(float)
    for _ in range(multiplications):
        a * b


def seconds(call: Callable[[], Any], repeats: int) -> float:
    """Median wall time of a call, after one that is not counted."""
    call()
    found = []
    for _ in range(repeats):
        begin = time.perf_counter()
        call()
        found.append(time.perf_counter() - begin)
    return median(found)


def check(model: Model, limits: Ceilings, device: Any, sizes: tuple[Any, Any, Any]) -> float:
    """Largest relative deviation of the arrays from the same scenarios predicted one by one."""
    ttft, tpot = evaluate(model, limits, *sizes)
    worst = 0.0
    for i in range(0, len(ttft), max(1, len(ttft) // 5)):
        batch, prompt, context = (int(size[i]) for size in sizes)
        one = predict(Scenario(model, "prefill", batch, prompt), device).time_s()
        other = predict(Scenario(model, "decode", batch, context=context), device).time_s()
        worst = max(worst, abs(ttft[i] / one - 1), abs(tpot[i] / other - 1))
    return worst


def main() -> None:
    """Measure and print, as a table or as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-n", "--scenarios", type=int, default=10_000)
    parser.add_argument("-r", "--repeats", type=int, default=9, help="the median counts")
    parser.add_argument("--model", default="Llama-3.1-70B")
    parser.add_argument("--hw", default="h100_sxm")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()

    model, device = load_model(options.model).model, load_device(options.hw)
    limits, sizes = ceilings(device), grid(options.scenarios)
    count = sum(len(operators(model, step)) for step in (prefill(1, 16), decode(1, 16)))
    whole = seconds(lambda: evaluate(model, limits, *sizes), options.repeats)
    least = seconds(lambda: floor(sizes[0], count), options.repeats)
    scenario = Scenario(model, "generate", batch=8, prompt=2048, output=256)
    single = seconds(lambda: as_json(predict(scenario, device)), options.repeats)
    result = {
        "model": model.name,
        "hardware": device.name,
        "scenarios": options.scenarios,
        "operators_per_scenario": count,
        "grid_s": whole,
        "grid_us_per_scenario": whole / options.scenarios * 1e6,
        "floor_s": least,
        "ratio_to_floor": whole / least,
        "single_s": single,
        "largest_deviation": check(model, limits, device, sizes),
    }
    if options.json:
        print(json.dumps(result, indent=1))
        return
    print(f"{model.name} on {device.name}, prefill and decode, {options.scenarios:,} scenarios at once")
    print(f"  all of them                        {whole:.4f} s")
    print(f"  one of them                        {result['grid_us_per_scenario']:.3f} us")
    print(f"  floor: {count} array products in NumPy  {least:.4f} s, {whole / least:.0f} times less")
    print(f"  one prediction by itself, warm     {single * 1e3:.2f} ms, its totals and rows included")
    print(f"  arrays against one by one          largest deviation {result['largest_deviation']:.1e}")


if __name__ == "__main__":
    main()
