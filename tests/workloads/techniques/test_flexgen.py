"""FlexGen's policies: limits known on paper, and its published throughputs as bounds."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hwspecs import Device, load_device
from roofline.predict import predict
from roofline.scenario import Scenario
from specfiles.errors import InputError
from tests.workloads.techniques.asking import BASE, MODEL, numbers, predicted, with_links
from workloads.catalogue import load_model
from workloads.dtypes import Precision
from workloads.step import Setting
from workloads.techniques.registry import parse

ON_DEVICE = "flexgen:weights=100,weights_host=0,cache=100,cache_host=0,activations=100,activations_host=0"


def test_what_stays_on_the_device_costs_nothing() -> None:
    assert numbers(predicted(ON_DEVICE)) == numbers(BASE)


def test_without_activations_it_is_the_offloading_of_weights_and_cache() -> None:
    """Prefill but for the order of transfers: the same bytes pass the same links."""
    policy = predicted(
        "flexgen:weights=20,weights_host=80,cache=50,cache_host=50,activations=100,activations_host=0"
    )
    parts = predicted("weight-offloading:share=0.8", "kv-offloading:share=0.5")
    assert numbers(policy) == pytest.approx(numbers(parts))
    assert policy.total("host_bytes") == pytest.approx(parts.total("host_bytes"))


def test_activations_pass_the_link_between_layers() -> None:
    """One way in is counted per layer and position; the way out goes beside it."""
    kept = ON_DEVICE.replace("activations=100,activations_host=0", "activations=25,activations_host=75")
    found = predicted(kept)
    assert found.total("host_bytes", "prefill") == pytest.approx(0.75 * 32 * 4 * 3000 * MODEL.hidden * 2)
    assert found.total("host_bytes", "decode") == pytest.approx(0.75 * 32 * 4 * 99 * MODEL.hidden * 2)


def test_batches_of_a_block_share_transfers_and_read_weights_again() -> None:
    one, four = (predicted(f"flexgen:batches={n}") for n in (1, 4))
    assert one.total("host_bytes") == four.total("host_bytes")
    layers = 2 * (8_030_261_248 - 2 * MODEL.vocabulary * MODEL.hidden - (2 * 32 + 1) * MODEL.hidden)
    assert four.total("weight_bytes", "decode") - one.total("weight_bytes", "decode") == pytest.approx(
        3 * 99 * layers
    )
    held = [p.memory()["activation_peak_bytes"] for p in (one, four)]
    assert held[1] == pytest.approx(held[0] / 4)


def test_attention_on_the_host_leaves_the_cache_there() -> None:
    """In decode queries, results and new keys and values pass the link; the long cache does not."""
    words = "flexgen:weights=100,weights_host=0,activations=100,activations_host=0,attention=host"
    found = predicted(words)
    per_token = 2 * 2 * 32 * 8 * 128
    queries = 2 * 2 * 32 * 32 * 128
    assert found.total("host_bytes", "decode") == pytest.approx(4 * 99 * (per_token + queries), rel=0.01)
    assert found.total("kv_bytes", "decode") < 0.01 * BASE.total("kv_bytes", "decode")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            "flexgen:weights=60,weights_host=60",
            "weights on the device and on the host are more than 100 per cent",
        ),
        ("flexgen:cache_host=50", "has no disk in its file; add `links.disk`"),
        ("flexgen:batches=3", "a batch of 4 cannot be computed in 3 equal parts"),
    ],
)
def test_policies_that_cannot_be_are_refused(words: str, said: str) -> None:
    with pytest.raises(InputError, match=f"flexgen is not applicable: .*{said}"):
        predicted(words)


@pytest.mark.parametrize("other", ["weight-offloading", "kv-offloading", "expert-offloading"])
def test_a_policy_decides_what_the_single_methods_decide(other: str) -> None:
    with pytest.raises(InputError, match="cannot be combined: each decides where"):
        predicted("flexgen", other)


# The policies of the project's own benchmark (benchmark/flexgen/bench_suite.py) behind the README's table:
# per cent of weights, cache and activations on device and host; batches of a block; attention on the host.
POLICIES = {
    "J02083": ON_DEVICE,
    "J02084": (
        "flexgen:weights=20,weights_host=80,cache=0,cache_host=100,activations=0,activations_host=100,"
        "batches=3,attention=host"
    ),
    "J02085": (
        "flexgen:weights=0,weights_host=50,cache=0,cache_host=0,activations=0,activations_host=100,"
        "batches=8,attention=host"
    ),
    "J02086": ON_DEVICE,
    "J02087": (
        "flexgen:weights=0,weights_host=100,cache=0,cache_host=100,activations=0,activations_host=100,batches=8"
    ),
    "J02088": (
        "flexgen:weights=0,weights_host=100,cache=0,cache_host=100,activations=0,activations_host=100,batches=3"
    ),
}
# Four local NVMe disks of 375 GB at 453.3 reads of 4 KiB per second and GB (Google Compute Engine, block
# storage performance, 2019).
DISK_BYTE_PER_S = 4 * 375 * 453.3 * 4096


@pytest.fixture(scope="module")
def t4() -> Device:
    return with_links(load_device("t4"), disk=DISK_BYTE_PER_S)


@pytest.mark.parametrize("row_id", POLICIES)
def test_flexgen_does_not_beat_its_own_policy(
    published: Callable[[str], list[dict[str, str]]], t4: Device, row_id: str
) -> None:
    row = next(row for row in published("J_offload") if row["id"] == row_id)
    formats = Precision.of("int4", "fp16", "int4") if row["dtype"] == "int4" else Precision.of("fp16")
    asked = Scenario(
        load_model(row["model"]).model,
        batch=int(row["batch"]),
        prompt=int(row["isl"]),
        output=int(row["osl"]),
        setting=Setting(formats),
        techniques=(parse(POLICIES[row_id]),),
    )
    bound = predict(asked, t4).totals()["tokens_per_s"]
    # What comes from disk comes near the bound; four bits are unpacked by plain PyTorch on this card.
    near = 0.7 if row_id == "J02085" else 0.1
    assert near * bound <= float(row["value"]) <= bound
