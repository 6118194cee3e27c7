"""Time is work divided by ceilings: what no operator on no device may break, and limits known on paper."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwspecs import Constants, Device, load_device
from hwspecs.loader import DEVICES
from roofline.ceilings import Ceilings, Fidelity, ceilings
from roofline.predict import predict
from roofline.scenario import Scenario
from roofline.times import ALONE, Times, times
from specfiles.errors import InputError
from tests.conftest import size_fields
from workloads.catalogue import load_model
from workloads.dtypes import FORMATS, Precision
from workloads.operators import Activation, AllReduce, Attention, Changed, Gemm, Norm, Operator, Residual
from workloads.operators.kinds import KINDS
from workloads.phases import Setting
from workloads.work import Role, Traffic, Work

close = partial(pytest.approx, rel=1e-9, abs=0)  # times are far below the default absolute tolerance

ROUNDING = 1 + 1e-12
PEAK, BANDWIDTH, VECTOR, SPECIAL, LINK = 100e12, 1e12, 10e12, 1e12, 100e9
PAPER = Ceilings(
    device="Paper",
    fidelity=Fidelity.DATASHEET,
    matrix_by_dtype={"bf16": PEAK, "fp16": PEAK, "fp8": 2 * PEAK, "int8": 2 * PEAK},
    vector_flop_per_s=VECTOR,
    special_op_per_s=SPECIAL,
    dram_byte_per_s=BANDWIDTH,
    link_byte_per_s=LINK,
)
REAL = ["a100_sxm", "h100_sxm", "t4", "mi300x", "rtx4090", "tpu_v5e"]
LIMITS = {"paper": PAPER} | {name: ceilings(load_device(name)) for name in REAL}
IDS: dict[str, Any] = {"ids": lambda kind: kind.__name__}


def dtypes_of(limits: Ceilings) -> tuple[str, ...]:
    """The formats that a device multiplies in."""
    return tuple(name for name, (_, peak) in FORMATS.items() if peak in limits.matrix_by_dtype)


@pytest.mark.parametrize("kind", KINDS, **IDS)
@given(data=st.data(), limits=st.sampled_from(list(LIMITS.values())))
def test_no_operator_beats_a_ceiling(
    kind: type[Operator], limits: Ceilings, data: st.DataObject, operators_of: Callable[..., Any]
) -> None:
    limits = replace(limits, link_byte_per_s=limits.link_byte_per_s or LINK)
    sizes = st.integers(1, 20_000)
    op = data.draw(operators_of(kind, sizes, dtypes_of(limits)))
    work, limit = op.work(), times(op, limits)
    assert work.bytes <= limits.dram_byte_per_s * limit.time_s * ROUNDING
    assert work.comm_bytes <= (limits.link_byte_per_s or 0) * limit.time_s * ROUNDING
    if work.fused:  # its arithmetic hides behind a neighbour's
        return
    if work.matrix_flops:
        assert work.matrix_flops <= limits.matrix_flop_per_s(work.dtype) * limit.time_s * ROUNDING
    if limits.vector_flop_per_s:
        assert work.vector_flops <= limits.vector_flop_per_s * limit.time_s * ROUNDING
    if limits.special_op_per_s:
        assert work.special_ops <= limits.special_op_per_s * limit.time_s * ROUNDING


@pytest.mark.parametrize("kind", KINDS, **IDS)
@given(data=st.data())
def test_the_bound_is_tight(
    kind: type[Operator], data: st.DataObject, operators_of: Callable[..., Any]
) -> None:
    """The time is one of the limits, and it is the one that is named."""
    limit = times(data.draw(operators_of(kind)), PAPER)
    by_name = {"compute": limit.compute_s, "memory": limit.memory_s, "communication": limit.comm_s}
    assert limit.time_s == max(by_name.values())
    if limit.bound == "fused":
        assert limit.time_s == 0
    else:
        assert by_name[limit.bound] == limit.time_s > 0


@pytest.mark.parametrize("kind", KINDS, **IDS)
@given(data=st.data())
def test_more_of_anything_never_takes_less_time(
    kind: type[Operator], data: st.DataObject, operators_of: Callable[..., Any]
) -> None:
    fixed = {"chunk": None} if kind is Attention else {}  # a longer context may begin a new chunk
    op = data.draw(operators_of(kind, **fixed))
    names = [name for name in size_fields(kind) if getattr(op, name) is not None]
    name = data.draw(st.sampled_from(names))
    changes = {name: getattr(op, name) + data.draw(st.integers(1, 1000))}
    if "kv_len" in names and name == "q_len":  # new tokens are visible, too
        changes["kv_len"] = op.kv_len + changes[name] - op.q_len
    if isinstance(op, Attention) and name == "kv_heads":
        changes["heads"] = op.heads // op.kv_heads * changes[name]
    more = times(replace(op, **changes), PAPER).time_s  # type: ignore[type-var]
    assert more >= times(op, PAPER).time_s * (1 - 1e-12)  # sums in another order round in another way


def test_attention_in_chunks_begins_anew_at_each() -> None:
    """The first position of a chunk sees itself, the last one the whole chunk: time falls in between."""
    full, restarted = (Attention(1, 1, context, 32, 8, 128, chunk=64) for context in (64, 65))
    assert (full.keys_read(), restarted.keys_read()) == (64, 1)
    assert times(restarted, PAPER).time_s < times(full, PAPER).time_s


@pytest.mark.parametrize("kind", KINDS, **IDS)
@given(data=st.data(), factor=st.sampled_from([2.0, 4.0, 1024.0]))
def test_each_limit_follows_its_own_ceiling(
    kind: type[Operator], data: st.DataObject, factor: float, operators_of: Callable[..., Any]
) -> None:
    """Twice the bandwidth halves the memory limit and leaves the others; likewise each unit."""
    op = data.draw(operators_of(kind))
    base = times(op, PAPER)
    wider = times(op, replace(PAPER, dram_byte_per_s=factor * BANDWIDTH))
    assert wider.memory_s * factor == base.memory_s
    assert (wider.compute_s, wider.comm_s) == (base.compute_s, base.comm_s)
    linked = times(op, replace(PAPER, link_byte_per_s=factor * LINK))
    assert linked.comm_s * factor == base.comm_s
    assert (linked.compute_s, linked.memory_s) == (base.compute_s, base.memory_s)
    faster = replace(
        PAPER,
        matrix_by_dtype={dtype: factor * peak for dtype, peak in PAPER.matrix_by_dtype.items()},
        vector_flop_per_s=factor * VECTOR,
        special_op_per_s=factor * SPECIAL,
    )
    assert times(op, faster).compute_s * factor == base.compute_s
    everything = replace(faster, dram_byte_per_s=factor * BANDWIDTH, link_byte_per_s=factor * LINK)
    assert times(op, everything).time_s * factor == base.time_s
    assert times(op, everything).bound == base.bound


@pytest.mark.parametrize("kind", KINDS, **IDS)
@given(data=st.data())
def test_without_a_limit_the_others_remain(
    kind: type[Operator], data: st.DataObject, operators_of: Callable[..., Any]
) -> None:
    """Infinite, or given by no document."""
    op = data.draw(operators_of(kind))
    base, infinite = times(op, PAPER), float("inf")
    free = replace(PAPER, dram_byte_per_s=infinite)
    assert times(op, free).time_s == max(base.compute_s, base.comm_s)
    free = replace(
        PAPER,
        matrix_by_dtype=dict.fromkeys(PAPER.matrix_by_dtype, infinite),
        vector_flop_per_s=infinite,
        special_op_per_s=infinite,
    )
    assert times(op, free).time_s == max(base.memory_s, base.comm_s)
    assert times(op, replace(free, dram_byte_per_s=infinite, link_byte_per_s=infinite)).time_s == 0
    unknown = replace(PAPER, vector_flop_per_s=None, special_op_per_s=None)
    assert times(op, unknown).time_s <= base.time_s


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind is not Norm], **IDS)
@given(data=st.data())
def test_times_of_arrays_are_arrays_of_times(
    kind: type[Operator], data: st.DataObject, fields_of: Callable[..., Any]
) -> None:
    first = data.draw(fields_of(kind))
    names = [name for name in size_fields(kind) if first[name] is not None]
    same = {name: value for name, value in first.items() if name not in names}
    more = data.draw(st.lists(fields_of(kind, **same), min_size=1, max_size=3))
    points = [first, *(point for point in more if None not in (point[name] for name in names))]
    arrays = {name: np.array([point[name] for point in points], dtype=np.float64) for name in names}
    whole, parts = times(kind(**{**first, **arrays}), PAPER), [times(kind(**p), PAPER) for p in points]
    for field in dataclasses.fields(Times):
        expected = np.array([getattr(part, field.name) for part in parts])
        found = np.broadcast_to(np.asarray(getattr(whole, field.name)), expected.shape)
        np.testing.assert_array_equal(found, expected, err_msg=field.name)
    assert np.broadcast_to(whole.bound, len(parts)).tolist() == [part.bound for part in parts]


def test_at_the_ridge_both_limits_are_equal() -> None:
    """Peak / bandwidth is 100 FLOP per byte; a square product of side n in bf16 has n / 3."""
    limit = times(Gemm(300, 300, 300), PAPER)
    assert limit.compute_s == close(2 * 300**3 / PEAK, rel=1e-15)
    assert limit.compute_s == close(limit.memory_s, rel=1e-15)
    assert times(Gemm(299, 299, 299), PAPER).bound == "memory"
    assert times(Gemm(301, 301, 301), PAPER).bound == "compute"


def test_a_matrix_times_a_vector_streams_the_matrix() -> None:
    limit = times(Gemm(1, 4096, 4096), PAPER)
    assert limit.time_s == (4096 * 4096 + 4096 + 4096) * 2 / BANDWIDTH
    assert limit.bound == "memory"


def test_each_unit_binds_where_it_must() -> None:
    norm = Norm(1000, 1000)
    assert times(norm, replace(PAPER, vector_flop_per_s=1e9)).time_s == 4 * 1000 * 1000 / 1e9
    silu = Activation(1000, 1000)
    assert times(silu, replace(PAPER, special_op_per_s=1e9)).time_s == 1000 * 1000 / 1e9
    core = Attention(1, 1000, 1000, 8, 8, 64)
    softmax = times(core, replace(PAPER, special_op_per_s=1e9))
    assert softmax.time_s == 8 * (1000 * 1001 // 2) / 1e9
    assert {times(op, replace(PAPER, vector_flop_per_s=1e9)).bound for op in (norm, silu)} == {"compute"}


def test_a_slow_link_binds_a_collective() -> None:
    limit = times(AllReduce(1000, 1000, 4), PAPER)
    assert limit.bound == "communication"
    assert limit.time_s == 2 * 3 / 4 * 1000 * 1000 * 2 / LINK


def test_a_launch_is_paid_once_and_not_by_fused_operators() -> None:
    launching = replace(PAPER, launch_s=5e-6)
    op = Gemm(1, 64, 64)
    assert times(op, launching).time_s == times(op, PAPER).time_s + 5e-6
    assert times(op, launching).bound == "launch"
    assert times(Residual(1, 64, fused=True), launching).time_s == 0


@pytest.mark.parametrize(("copies", "beyond"), [(2, 1.0), (0, 0.16)])
def test_a_changed_operator_keeps_what_its_kernel_takes_beyond_its_limits(copies: int, beyond: float) -> None:
    """At half the bandwidth a product takes its limit again: no more of that where a technique moves twice
    as much, and in proportion where it leaves the FLOP alone, 0.16 of the time of the bytes.
    """
    slow = Constants(dtype="bf16", launch_s=1e-5, byte_per_s=BANDWIDTH / 2, points=1, median_error=0.0)
    limits = replace(PAPER, constants={("gemm", "bf16"): slow})
    product = Gemm(16, 4096, 4096)
    once = times(product, PAPER).time_s
    assert times(product, limits).time_s == close(1e-5 + 2 * once)
    changed = Changed(product, lambda work: replace(work, traffic=work.traffic * copies))
    found = times(changed, limits)
    assert found.time_s == close(1e-5 + times(changed, PAPER).time_s + beyond * once, rel=0.01)


def test_narrow_formats_use_their_own_peak() -> None:
    wide, narrow = times(Gemm(9999, 9999, 9999), PAPER), times(Gemm(9999, 9999, 9999, "fp8", "fp8"), PAPER)
    assert narrow.compute_s * 2 == wide.compute_s
    weight_only = times(Gemm(9999, 9999, 9999, "bf16", "int4"), PAPER)
    assert weight_only.compute_s == wide.compute_s  # widened on the way to the tensor cores


MEASURED = [
    path.stem
    for path in DEVICES
    if load_device(path).measured.dram_byte_per_s and load_device(path).datasheet.dram.byte_per_s
]


@pytest.mark.parametrize("name", MEASURED)
@pytest.mark.parametrize("phase", ["prefill", "decode", "generate"])
def test_measured_ceilings_are_never_above_the_data_sheet(name: str, phase: str) -> None:
    """So a prediction from them is never faster: operator by operator, with the tools that it has."""
    device = load_device(name)
    sheet = ceilings(device)
    dtype = "bf16" if "bf16" in sheet.matrix_by_dtype else "fp16"
    model = load_model("Llama-3.2-1B").model
    scenario = Scenario(model, phase, 4, 200, output=20, setting=Setting(Precision.of(dtype)))
    stated, reached = predict(scenario, device), predict(scenario, device, "measured")
    assert [row.name for row in stated.rows] == [row.name for row in reached.rows]
    for one, other in zip(stated.rows, reached.rows, strict=True):
        assert one.times.time_s <= other.times.time_s * ROUNDING, one.name
        assert one.work == other.work
    assert stated.time_s() <= reached.time_s()
    assert stated.totals()["mbu"] >= reached.totals()["mbu"]


def test_there_are_devices_with_both() -> None:
    assert len(MEASURED) >= 10


def test_a_measured_value_lowers_what_was_measured_and_says_what_was_not(
    paper_device: Callable[..., Device],
) -> None:
    device = paper_device(
        measured={
            "tensor_flop_per_s": {"bf16": {"value": 80e12, "source": "sheet"}},
            "dram_byte_per_s": {"value": 0.9e12, "source": "sheet"},
        }
    )
    limits = ceilings(device, "measured")
    assert limits.dram_byte_per_s == 0.9e12
    assert limits.matrix_flop_per_s("bf16") == 80e12
    assert limits.matrix_flop_per_s("fp8") == 100e12
    assert any("data-sheet" in note and "fp8 peak" in note for note in limits.told())
    assert not any(reached in note for note in limits.told() for reached in ("bf16", "memory"))
    assert not any("fp8" in note for note in limits.told(("bf16",))), "of no product of the run"
    assert ceilings(device).told() == ()
    assert ceilings(device).matrix_flop_per_s("bf16") == 100e12


def test_a_missing_ceiling_is_an_error_that_says_what_to_do(paper_device: Callable[..., Device]) -> None:
    bare = paper_device(link=None)
    limits = ceilings(bare)
    with pytest.raises(InputError, match=r"no link to other devices.*--tp 1"):
        times(AllReduce(1, 1, 2), limits)
    with pytest.raises(
        InputError, match=r"no dense peak for int3 \(it has: .*bf16.*\); choose another dtype"
    ):
        times(Gemm(1, 1, 1, "int3"), limits)
    with pytest.raises(InputError, match="no measured memory bandwidth; use --fidelity datasheet"):
        ceilings(bare, "measured")
    measured = paper_device(measured={"dram_byte_per_s": {"value": 1e12, "source": "sheet"}})
    with pytest.raises(InputError, match="is not calibrated; use --fidelity measured"):
        ceilings(measured, "calibrated")
    with pytest.raises(InputError, match="no data-sheet memory bandwidth; use --fidelity measured"):
        ceilings(paper_device(bandwidth=None))


def calibrated(paper_device: Callable[..., Device], **constants: Any) -> Ceilings:
    """A device whose GEMMs have these constants, all other kinds none."""
    entry = {"dtype": "bf16", "points": 1, "median_error": 0.0, **constants}
    device = paper_device(
        measured={"dram_byte_per_s": {"value": BANDWIDTH, "source": "sheet"}},
        calibration={"source": "paper", "operators": {"gemm": [entry]}},
    )
    return ceilings(device, "calibrated")


def test_calibrated_constants_by_hand(paper_device: Callable[..., Device]) -> None:
    """time = launch + longer + (1 - overlap) * shorter + outputs * output_s (hwspecs.Constants)."""
    op = Gemm(100, 200, 300)
    flops, size, outputs = 2 * 100 * 200 * 300, (100 * 300 + 200 * 300 + 100 * 200) * 2, 100 * 200
    given_rates = {"launch_s": 1e-6, "flop_per_s": 10e12, "byte_per_s": 0.5e12, "output_s": 1e-12}
    compute, memory = flops / 10e12, size / 0.5e12 + outputs * 1e-12
    for overlap in (0.0, 0.25, 1.0):
        found = times(op, calibrated(paper_device, overlap=overlap, **given_rates))
        expected = 1e-6 + max(compute, memory) + (1 - overlap) * min(compute, memory)
        assert found.time_s == close(expected, rel=1e-14)
        assert found.compute_s == close(compute, rel=1e-14)
        assert found.memory_s == close(memory, rel=1e-14)


def test_a_footprint_inside_the_cache_has_its_own_bandwidth(paper_device: Callable[..., Device]) -> None:
    op = Gemm(100, 200, 300)
    size = op.work().bytes
    rates = {"byte_per_s": 0.1e12, "cached_byte_per_s": 0.5e12}
    inside = times(op, calibrated(paper_device, cache_bytes=float(size), **rates))
    outside = times(op, calibrated(paper_device, cache_bytes=float(size - 1), **rates))
    assert inside.memory_s == close(size / 0.5e12, rel=1e-14)
    assert outside.memory_s == close(size / 0.1e12, rel=1e-14)


def test_constants_belong_to_one_class_of_operators(paper_device: Callable[..., Device]) -> None:
    """A product with one row runs another kernel: the constants of `gemm` are not those of `gemv`."""
    limits = calibrated(paper_device, launch_s=1.0)
    assert times(Gemm(2, 64, 64), limits).time_s >= 1
    for other in (Gemm(1, 64, 64), Attention(1, 1, 64, 8, 8, 64), Norm(2, 64), Gemm(2, 64, 64, "fp16")):
        assert times(other, limits).time_s < 1e-3


def test_narrow_weights_of_one_row_have_constants_of_their_own(paper_device: Callable[..., Device]) -> None:
    """Where the kernel for them was measured; elsewhere they are wide ones with fewer bytes."""
    entry = {"dtype": "bf16", "points": 1, "median_error": 0.0, "byte_per_s": BANDWIDTH}
    wide, narrow = Gemm(1, 64, 64), Gemm(1, 64, 64, weights="int8")
    others = Gemm(2, 64, 64, weights="int8"), Gemm(1, 64, 64, weights="int4")
    for kinds, launch_s in ((("gemv", "gemv_int8"), 1e-3), (("gemv",), 1e-6)):
        launches = {"gemv": 1e-6, "gemv_int8": 1e-3}
        device = paper_device(
            measured={"dram_byte_per_s": {"value": BANDWIDTH, "source": "sheet"}},
            calibration={
                "source": "paper",
                "operators": {kind: [{**entry, "launch_s": launches[kind]}] for kind in kinds},
            },
        )
        limits = ceilings(device, "calibrated")
        assert times(narrow, limits).launch_s == launch_s
        for other in (wide, *others):
            assert times(other, limits).time_s < 1e-5


def test_attention_with_its_scores_in_memory_takes_as_long_as_other_products(
    paper_device: Callable[..., Device],
) -> None:
    """What was fitted to the one fused kernel says nothing of matrix products; of one query it still does."""
    limits = calibrated(paper_device, launch_s=1e-3, flop_per_s=1e12, byte_per_s=1e10, overlap=0.0)
    fused = Attention(1, 64, 64, 8, 8, 64)
    apart = replace(fused, fused=False, causal_exact=False)
    work = apart.work()
    assert times(apart, limits).time_s == close(1e-3 + work.flops / 1e12 + work.bytes / 1e10, rel=1e-12)
    for other in (fused, replace(apart, q_len=1)):
        assert times(other, limits).time_s < 1e-4


CURVE = [  # footprint in bytes, bandwidth: a fast cache, a slower one, and a dip that is noise
    (1e5, 6e12),
    (1e6, 4e12),
    (2e6, 1e12),
    (1e7, 2e12),
    (1e9, 0.8e12),
]


def with_caches(paper_device: Callable[..., Device], **changes: Any) -> Ceilings:
    """A machine without a data sheet, measured: 0.9 TB/s from memory, more from its caches."""
    points = [
        {"pattern": "read", "footprint_bytes": size, "byte_per_s": rate, "spread": 0.0}
        for size, rate in CURVE
    ]
    reached = {"dram_byte_per_s": {"value": 0.9e12, "source": "sheet"}, "bandwidth_curve": points}
    return ceilings(paper_device(measured=reached, **{"bandwidth": None, **changes}), "measured")


@pytest.mark.parametrize(
    ("footprint", "rate"),
    [(9e4, 6e12), (1e5, 6e12), (2e5, 4e12), (1.5e6, 2e12), (9e6, 2e12), (2e7, 0.9e12), (1e9, 0.9e12)],
)
def test_activations_come_from_the_nearest_cache_that_holds_them(
    paper_device: Callable[..., Device], footprint: float, rate: float
) -> None:
    """What is reached at a footprint is reached at every smaller one; beyond the caches it is memory."""
    limits = replace(with_caches(paper_device), vector_flop_per_s=None)
    op = Residual(footprint / 6, 1)  # three tensors of 2 bytes
    assert times(op, limits).memory_s == close(footprint / rate, rel=1e-12)


def test_weights_and_the_kv_cache_come_from_memory(paper_device: Callable[..., Device]) -> None:
    limits = with_caches(paper_device)
    gemm, core = Gemm(1, 64, 64), Attention(1, 1, 64, 8, 2, 64)
    assert gemm.work().bytes < 1e5
    assert times(gemm, limits).memory_s == close(64 * 64 * 2 / 0.9e12 + 2 * 64 * 2 / 6e12)
    cached, moved = core.work().kv_bytes, core.work().activation_bytes
    assert times(core, limits).memory_s == close(cached / 0.9e12 + moved / 6e12)


@given(tokens=st.integers(1, 10**7), more=st.integers(1, 10**6))
def test_leaving_a_cache_never_saves_time(
    paper_device: Callable[..., Device], tokens: int, more: int
) -> None:
    limits = with_caches(paper_device)
    smaller, larger = (times(Residual(n, 1), limits) for n in (tokens, tokens + more))
    assert smaller.time_s <= larger.time_s


def test_a_cache_does_not_beat_the_data_sheet(paper_device: Callable[..., Device]) -> None:
    """So that the fidelities stay ordered where there is a data sheet: its roofline is the floor."""
    limits = with_caches(paper_device, bandwidth=1e12)
    op = Residual(10_000, 1)
    assert times(op, limits).memory_s == close(60_000 / 6e12)
    assert times(op, limits).time_s == 60_000 / 1e12


class Few(Operator):
    """A gigabyte that only a few processors can read."""

    kind = "few"

    def __init__(self, processors: int) -> None:
        self.processors = processors

    def work(self) -> Work:
        return Work("bf16", (Traffic("cache", Role.KV_READ, 1e9),), spread=self.processors)


def test_a_processor_alone_streams_its_share_of_the_data_sheet_whatever_all_reach_together() -> None:
    stated = replace(PAPER, processors=100)
    reached = replace(stated, fidelity=Fidelity.MEASURED, dram_byte_per_s=0.8 * BANDWIDTH, floor=stated)
    for limits in (stated, reached):
        for processors in (1, 10):
            alone = 1e9 / (processors / 100 * ALONE * BANDWIDTH)
            assert times(Few(processors), limits).time_s == close(alone)
        assert times(Few(100), limits).time_s == close(1e9 / limits.dram_byte_per_s)
