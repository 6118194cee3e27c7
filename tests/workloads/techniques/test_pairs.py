"""What one technique removes the other cannot save again: all pairs, on models of several kinds."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import pytest

from hwspecs import load_device
from roofline.ceilings import ceilings
from roofline.predict import Prediction, predict
from roofline.scenario import Scenario
from specfiles.errors import InputError
from tests.workloads.techniques.asking import predicted
from workloads.catalogue import load_model
from workloads.techniques.registry import known, parse

ROUNDED = 1 + 1e-9
ROUNDING = 0.02  # of the whole: layers, tokens and experts are whole numbers
# Of these, less than as many times as much is moved for several positions of one pass: experts that some
# positions chose already, and states. Two techniques that bring more positions into a pass, or leave fewer
# experts, then save more than both alone, because the second positions are cheaper than the first were.
SHARED = ("experts", "mixer", "ssm", "mamba")
# What these trade and do not save: latents are expanded where a pass has many positions, and read as
# activations then; more layers that are thinner leave less where one layer's weights serve all.
TRADED = {"multi-head-latent-attention": "kv_bytes", "deep-and-thin": "weights_bytes"}


Moved = dict[str, dict[str, float]]  # by quantity, by row


def moved(prediction: Prediction) -> Moved:
    """FLOP, bytes of weights and of keys and values that no positions of a pass share, memory, and seconds:
    those of units, memory and links one after the other, of which the slowest is the time.
    """
    found: Moved = {quantity: {} for quantity in ("matrix_flops", "weight_bytes", "kv_bytes", "limits_s")}
    totals = prediction.totals()
    assert 0 < totals["weights_bytes"] <= totals["memory_bytes"]
    assert totals["kv_cache_bytes"] >= 0
    for row in prediction.rows:
        assert min(row.count, row.times.time_s, *(traffic.bytes for traffic in row.work.traffic)) >= 0, (
            row.name
        )
        shared = any(part in row.name for part in SHARED)
        limits = [row.times.compute_s, row.times.memory_s, row.times.comm_s]
        # a mean over steps lies above the slowest of the means, where another was slowest in some steps
        assert max(limits) <= row.times.time_s * ROUNDED <= sum(limits) * ROUNDED**2, row.name
        for quantity, rows in found.items():
            if quantity == "matrix_flops" or not shared:
                name = f"{row.phase} {row.name}"
                each = sum(limits) if quantity == "limits_s" else getattr(row.work, quantity)
                rows[name] = rows.get(name, 0.0) + row.count * each
    return found | {name: {"": totals[name]} for name in ("weights_bytes", "kv_cache_bytes")}


def saved(before: dict[str, float], after: dict[str, float]) -> float:
    """What is left out in all."""
    return sum(before.values()) - sum(after.values())


def added(before: dict[str, float], after: dict[str, float]) -> float:
    """What rows have that they had not, or not so much of: heads that draft, positions to verify."""
    return sum(max(0.0, size - before.get(name, 0.0)) for name, size in after.items())


@pytest.mark.parametrize(
    ("model", "device", "batch", "prompt"),
    [  # devices from few to many FLOP per byte
        ("SmolLM2-135M", "l40s", 4, 250),
        ("OLMoE-1B-7B", "mi300x", 2, 700),
        ("T5-small", "rtx4090", 8, 200),
    ],
)
def test_two_save_no_more_than_the_sum_of_both(model: str, device: str, batch: int, prompt: int) -> None:
    """Of every quantity that both save, no more is saved by the two than by one and by the other.

    Of the seconds of all limits also where one of them adds some: time that two save beyond the sum of both
    was hidden behind another limit, and is no second saving of one thing.
    """
    hardware = load_device(device)
    limits = replace(ceilings(hardware), known={})
    asked = Scenario(load_model(model).model, batch=batch, prompt=prompt, output=16)
    parsed = {name: parse(name) for name in known()}

    def left(*words: str) -> Prediction | None:
        """The prediction with them; None where they cannot be applied."""
        try:
            chosen = tuple(parsed[name] for name in words)
            return predict(replace(asked, techniques=chosen), hardware, limits=limits)
        except InputError:
            return None

    whole = moved(predict(asked, hardware, limits=limits))
    alone = {name: moved(found) for name in known() if (found := left(name))}
    assert len(alone) > 25
    tried = 0
    for one, other in combinations(alone, 2):
        both = moved(found) if (found := left(one, other)) else {}
        for quantity, rest in both.items():
            before = whole[quantity]
            after = [alone[name][quantity] for name in (one, other)]
            each = [saved(before, rows) for rows in after]
            if (min(each) < 0 and quantity != "limits_s") or quantity in (TRADED.get(one), TRADED.get(other)):
                continue
            tried += 1
            most = sum(each) + sum(added(before, rows) for rows in after)  # which the other may shrink
            rounding = ROUNDING * sum(before.values())
            assert saved(before, rest) <= most + rounding, (one, other, quantity)
    assert tried > 1000


@pytest.mark.parametrize(
    ("second", "saving"),
    [("eagle", "apar"), ("next-k-tokens", "expert-pruning"), ("medusa", "expert-pruning")],
)
def test_experts_that_are_touched_already_cost_the_next_positions_nothing(second: str, saving: str) -> None:
    """Why two can save more of the experts' bytes than both alone: the share of experts touched saturates.

    16 tokens of 8 of 64 experts each touch 88 % of them, so four times as many read an eighth more.
    """
    device = load_device("h100_sxm")

    def experts(model: str, *words: str) -> float:
        asked = Scenario(load_model(model).model, batch=4, prompt=250, output=16)
        found = predicted(*words, scenario=asked, device=device)
        return float(sum(row.count * row.work.weight_bytes for row in found.rows if "experts" in row.name))

    whole = experts("OLMoE-1B-7B")
    one, other, both = (
        whole - experts("OLMoE-1B-7B", *words) for words in ((second,), (saving,), (second, saving))
    )
    assert both > one + other


def test_a_pair_is_faster_than_the_sum_only_where_a_limit_was_in_the_way() -> None:
    """A shorter prompt leaves a prefill that reads weights: narrow ones save there what FLOP hid before."""
    device = load_device("rtx4090")
    asked = Scenario(load_model("SmolLM2-135M").model, batch=4, prompt=250, output=16)
    words: tuple[tuple[str, ...], ...] = ((), ("gist-tokens",), ("awq",), ("gist-tokens", "awq"))
    found = [predicted(*each, scenario=asked, device=device) for each in words]
    whole, one, other, left = (each.time_s() for each in found)
    assert whole - left > (whole - one) + (whole - other)
    plain, short, narrow, both = (each.time_s("prefill") for each in found)
    assert plain / narrow < 1.1 < short / both
