"""The code for CUDA on a device that is none (fakecuda.py): it runs to its end, and where it waits it may."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from profiler.campaign.measure import measured_row  # noqa: E402
from profiler.capturing import capturing  # noqa: E402
from profiler.ceilings.journal import begun  # noqa: E402
from profiler.ceilings.plan import Findings  # noqa: E402
from profiler.forward import Point, fixed_step, greedy, step  # noqa: E402
from profiler.graphs import GraphedStep  # noqa: E402
from profiler.kernel_times import KernelTime  # noqa: E402
from profiler.kernels import TOLERANCE, Place, kernel  # noqa: E402
from profiler.ranges import TWO_STACKS_IN_ONE_GRAPH  # noqa: E402
from profiler.recorders import CudaClock  # noqa: E402
from profiler.repeats import Effort  # noqa: E402
from profiler.steps import (  # noqa: E402
    SETTLING,
    SHORT_S,
    Timed,
    Turns,
    operators_at,
    overhead,
    steady_laps,
    time_ranges,
)
from profiler.subject import Subject  # noqa: E402
from profiler.timing import BRIEFLY, measure_replayed  # noqa: E402
from profiler.traced import traced, traced_whole  # noqa: E402
from profiler.treatments.measure import measured  # noqa: E402
from profiler.ways import Eager, _Traced  # noqa: E402
from roofline.formats import DTYPES  # noqa: E402
from roofline.run import open_run  # noqa: E402
from specfiles.errors import InputError  # noqa: E402
from tests.profiler import fakecuda as fake  # noqa: E402
from workloads.operators import Attention, Gemm, GroupedGemm  # noqa: E402
from workloads.techniques.registry import parse  # noqa: E402

DEVICE = "cuda:0"
PREFILL, DECODE = Point("prefill", 2, 12, 12), Point("decode", 2, 1, 21)
BEHIND_AN_ENCODER = {"prefill": Point("prefill", 2, 12, 12, 12), "decode": Point("decode", 2, 1, 16, 12)}
GROUPED = ("mxfp8", "mxfp4", "nvfp4")  # a scale for each group of a row
MakeSubject = Callable[..., Subject]


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The device while a test runs."""
    machine = fake.install(monkeypatch, tmp_path_factory.mktemp("guard"))
    with fake.everything(), torch.inference_mode():
        yield machine


def llama(subject: MakeSubject, **changes: Any) -> Subject:
    sizes = {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 128}
    return subject("llama", DEVICE, "bf16", **sizes, **changes)


def test_operands_of_two_devices_are_found_out(device: Any) -> None:
    here, there = torch.ones(3, device=DEVICE), torch.ones(3)
    with pytest.raises(RuntimeError, match="all tensors to be on the same device"):
        here + there
    assert (here + there.to(DEVICE)).tolist() == [2, 2, 2]


def test_a_replayed_graph_is_timed_behind_work_of_the_device(device: Any) -> None:
    """Cold: a fill of the asked size goes ahead of each timed replay; else the graph itself."""
    x, filled, replays = torch.ones(4, device=DEVICE), [], []
    run, replay = device.run, fake.Graph.replay

    def heard(func: Any, args: Any, kwargs: Any) -> Any:
        if func.overloadpacket.__name__ == "fill_":
            filled.append(args[0].numel())
        return run(func, args, kwargs)

    def counted(graph: Any) -> None:
        replays.append(graph)
        replay(graph)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device, "run", heard)
        patch.setattr(fake.Graph, "replay", counted)
        cold = measure_replayed(lambda _: x + 1, DEVICE, BRIEFLY, cold_bytes=5000)
        assert (filled, len(replays)) == ([5000] * 3, 1 + 3)
        measure_replayed(lambda _: x + 1, DEVICE, BRIEFLY)
        assert len(replays) == 4 + 1 + 2 * 3
    assert cold.median_s == pytest.approx(fake.PER_OPERATION_S / 4, rel=1e-3)  # of one call, not of its graph


def test_marks_do_not_ask_for_the_stream(device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.cuda.current_stream takes several times as long as recording the event itself."""
    watch = CudaClock()
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: pytest.fail("asked for the stream"))
    begin, end = watch.marks("x")
    for call in (*begin, *end):
        call()
    assert watch.totals_s().keys() == {"x"}


@pytest.mark.parametrize(("name", "layers"), [("llama", 8), ("gemma3_text", 6)])
def test_as_many_ranges_are_heard_as_a_step_can_bear(
    name: str, layers: int, device: Any, subject: MakeSubject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An event that takes long makes all ranges cost far more than is promised, and few ranges less."""
    record = fake.Event.record

    def costly(event: Any, stream: Any = None) -> None:
        device.now_s += 0.2 * fake.PER_OPERATION_S
        record(event, stream)

    monkeypatch.setattr(fake.Event, "record", costly)
    model = subject(name, DEVICE, "bf16", num_hidden_layers=layers)
    every = time_ranges(model, step(model, DECODE, 21), 4, plain_too=True, turns=Turns(1))
    assert overhead(DECODE, every).fraction > 0.06
    way, timed = Eager(model, DECODE), Timed()
    for _ in range(3):
        way.visit(timed)  # each hears every range
    assert overhead(DECODE, timed).fraction <= 0.03
    assert way.turns is not None
    assert way.turns.parts > 1
    assert timed.ranges.keys() == every.ranges.keys()
    for operator, times in timed.ranges.items():
        assert len(times) == len(timed.ranged) // way.turns.parts
        assert median(times) == pytest.approx(median(every.ranges[operator]), rel=1e-6)


def test_a_short_prefill_has_a_repeat_for_every_turn(
    device: Any, subject: MakeSubject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One round may be all there is, and what settles a plain step forgets nothing of the one before."""
    monkeypatch.setattr(fake, "PER_OPERATION_S", 1e-6)
    way, timed = Eager(llama(subject), PREFILL), Timed()
    monkeypatch.setattr(way, "turns", Turns(16, 4))
    way.visit(timed)
    assert len(timed.plain) == len(timed.ranged) == 4
    expected = {named.name for named in operators_at(way.subject.loaded, "bf16", PREFILL)}
    assert {name: len(times) for name, times in timed.ranges.items() if name in expected} == dict.fromkeys(
        expected, 1
    )


def test_ranges_that_cost_nothing_are_all_heard(device: Any, subject: MakeSubject) -> None:
    way = Eager(llama(subject, num_hidden_layers=8), DECODE)
    way.visit(Timed())
    assert way.turns == Turns(4)  # a visit's repeats hear every layer


def test_a_short_step_is_timed_behind_its_like(device: Any) -> None:
    """What a host does once after it was disturbed is no part of it."""
    x, done, forgotten = torch.ones(4, device=DEVICE), [], []

    def work() -> None:
        for _ in range(3 if not done else 1):
            x + 1
        done.append(0)

    lap = steady_laps(DEVICE)
    assert lap(work, lambda: forgotten.append(0)).work_s == pytest.approx(fake.PER_OPERATION_S, rel=1e-3)
    assert (len(done), len(forgotten)) == (1 + SETTLING, SETTLING)
    long = range(round(SHORT_S / fake.PER_OPERATION_S) + 1)
    lap(lambda: (done.append(0), [x + 1 for _ in long]), lambda: pytest.fail("a long step is run once"))
    assert len(done) == 1 + SETTLING + 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.distributed, "is_initialized", lambda: True)
        steady_laps(DEVICE)(work, lambda: pytest.fail("processes would run unequally many steps"))


def raising(error: Exception) -> Callable[..., Any]:
    def fails(*_: Any) -> Any:
        raise error

    return fails


def test_a_trace_is_warmed_up_and_begins_when_the_device_is_idle(device: Any) -> None:
    """The profiler may lose the first kernels of a session, and records those that are still running."""
    x, waits = torch.ones(4, device=DEVICE), []

    def run() -> None:
        waits.append(device.waits)
        x.mul(2.0)

    names = {event.name for event in traced(DEVICE, run, before=x.exp)}
    assert {"kernel of aten::mul", "aten::exp"} & names == {"kernel of aten::mul"}
    traced(DEVICE, run)
    assert waits == [1, 1, 2]  # before a step is recorded the device is waited for
    with pytest.raises(ValueError, match="a bug"):
        traced(DEVICE, raising(ValueError("a bug")))
    assert "aten::mul" in {event.name for event in traced(DEVICE, run)}  # the session was ended


@pytest.mark.parametrize(("missing", "traces"), [((2, 0), 2), ((2, 1, 1), 3)])
def test_a_step_is_traced_again_where_its_launches_have_no_kernels(
    missing: tuple[int, ...], traces: int, device: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, runs, lost = torch.ones(4, device=DEVICE), [], iter(missing)
    monkeypatch.setattr("profiler.traced.without_records", lambda _: next(lost))
    events = traced_whole(DEVICE, lambda: runs.append(x.mul(2.0)))
    assert "kernel of aten::mul" in {event.name for event in events}
    assert len(runs) == 2 * traces  # each after one that warms the profiler up


def test_traced_steps_of_which_kernels_were_lost_are_left_out(device: Any, subject: MakeSubject) -> None:
    """Of a step that launches the same kernels each time: three whole repeats, two that lack some."""

    class Steps(_Traced):
        def once(self) -> Any: ...

        def kernels(self, events: Any) -> list[KernelTime]:
            return [KernelTime("layers.mlp.up_proj", "gemm", 1e-3)] * events

    made, timed = Steps(llama(subject), DECODE), Timed()
    for events in (2, 3, 1, 3, 3):
        made.add(events, timed)
    assert timed.ranges == {"layers.mlp.up_proj": pytest.approx([3e-3] * 3)}


@pytest.mark.parametrize(("later", "missing"), [((5, 7), 0), ((5, 6, 5), 2)])
def test_a_replay_is_traced_again_where_it_has_fewer_kernels_than_one_before(
    later: tuple[int, ...], missing: int, device: Any, subject: MakeSubject, monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:  # fmt: skip
    """Its launch has a record as long as one of its kernels has."""

    class Replays(_Traced):
        def once(self) -> Any: ...

        def kernels(self, events: Any) -> list[KernelTime]:
            return [KernelTime("layers.mlp.up_proj", "gemm", 1e-3)] * events

        def hear(self, events: Any) -> None: ...

    counts = iter(later)
    monkeypatch.setattr("profiler.ways.traced_whole", lambda *_: next(counts))
    made = Replays(llama(subject), DECODE)
    made.add(7, Timed())
    (row,) = made.trace(tmp_path / "trace.json.gz")
    assert row["count"] == later[-1]
    assert made.unrecorded == missing
    assert next(counts, None) is None


def test_a_call_that_cannot_be_captured_spoils_nothing_after_it(
    device: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch alone would refuse random numbers from then on, give no cached memory back, and stay on the
    stream of the capture.
    """
    x = torch.ones(4, device=DEVICE)
    torch.cuda.set_stream(usual := torch.cuda.Stream())

    def looking(_: int) -> Any:
        return x * 0 if device.capturing is None else x * float(x[0])

    with pytest.raises(RuntimeError, match="not permitted when stream is capturing"):  # the cause
        measure_replayed(looking, DEVICE, BRIEFLY)
    assert not device.pools
    assert torch.cuda.current_stream() is usual
    for error in (AttributeError, TypeError):  # functions of PyTorch's own, gone or with other arguments
        monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", raising(error()))
        with pytest.raises(RuntimeError, match="not permitted when stream is capturing"):
            measure_replayed(looking, DEVICE, BRIEFLY)
    assert torch.randn(4, device=DEVICE).shape == (4,)
    assert measure_replayed(lambda _: x + 1, DEVICE, BRIEFLY).median_s > 0


def test_a_broken_capture_raises_its_own_error_not_one_that_is_being_handled(device: Any) -> None:
    x = torch.ones(4, device=DEVICE)

    def broken() -> None:
        try:
            raise KeyError("another")
        except KeyError:
            with capturing(torch.cuda.CUDAGraph(), DEVICE):
                float(x[0])

    with pytest.raises(RuntimeError, match="not permitted when stream is capturing"):
        broken()


@pytest.mark.parametrize("phase", ["prefill", "decode"])
@pytest.mark.parametrize("name", ["llama", *TWO_STACKS_IN_ONE_GRAPH])
def test_a_captured_step_gives_its_tokens_when_it_is_replayed(
    name: str, phase: str, device: Any, subject: MakeSubject
) -> None:
    if name == "llama":
        model, point = llama(subject), {"prefill": PREFILL, "decode": DECODE}[phase]
    else:
        model, point = subject(name, DEVICE, "bf16"), BEHIND_AN_ENCODER[phase]
    torch.manual_seed(1)
    run = fixed_step(model, point)
    expected = run(greedy).tolist()
    captured = GraphedStep(model, run)
    assert captured.output.tolist() != expected  # nothing is computed while it is captured
    assert captured().tolist() == expected


@pytest.mark.parametrize("point", [PREFILL, DECODE], ids=["prefill", "decode"])
def test_a_capture_holds_the_operations_that_the_step_launches(
    point: Point, device: Any, subject: MakeSubject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Transformers 5.17 masks what is captured, and PyTorch then attends by another kernel."""
    from transformers import masking_utils

    newer = masking_utils._ignore_causal_mask_sdpa

    def older(padding_mask: Any, *sizes: Any, **more: Any) -> bool:
        return not masking_utils.is_tracing(padding_mask) and newer(padding_mask, *sizes, **more)

    monkeypatch.setattr(masking_utils, "_ignore_causal_mask_sdpa", older)
    model = llama(subject)
    run, ran = fixed_step(model, point), device.run
    launched: list[str] = []
    captured: list[str] = []

    def heard(func: Any, args: Any, kwargs: Any) -> Any:
        (launched if device.capturing is None else captured).append(func.overloadpacket.__name__)
        return ran(func, args, kwargs)

    monkeypatch.setattr(device, "run", heard)
    run(greedy)
    once = list(launched)
    GraphedStep(model, run)
    assert captured == once


def test_a_step_that_looks_at_its_results_is_refused_with_the_reason(
    device: Any, subject: MakeSubject
) -> None:
    """The end of a broken capture says only that it broke."""
    model = llama(subject)
    run = fixed_step(model, DECODE)

    def looking(sampler: Callable[[Any], Any]) -> Any:
        token = run(sampler)
        return token if device.capturing is None else token[int(token[0]) * 0]

    with pytest.raises(InputError, match=r"not permitted when stream is capturing .*use --mode eager"):
        GraphedStep(model, looking)


@pytest.mark.parametrize(
    ("words", "point", "most"),
    [
        ("cuda-graphs", PREFILL, 1e-6),
        ("cuda-graphs", DECODE, 1e-6),
        ("fp8", DECODE, 0.3),
        ("weight-only:format=int4_g32", PREFILL, 0.5),
        ("weight-only:format=int8", DECODE, 0.1),
        ("weight-offloading", DECODE, 1e-6),
        ("kv-offloading", DECODE, 1e-6),
    ],
)
def test_a_technique_is_measured(
    words: str, point: Point, most: float, device: Any, subject: MakeSubject
) -> None:
    """Products of other formats are compared with plain ones in the layouts that their kernels take."""
    row = measured(parse(words), llama(subject), point, Effort(2))
    assert row is not None
    assert row["deviation"] <= most
    assert row["base_s"] > 0
    assert row["treated_s"] > 0


@pytest.mark.parametrize("m", [1, 17])
def test_products_in_fp8_have_the_layout_that_the_library_takes(m: int, device: Any) -> None:
    made = kernel(Gemm(m, 96, 64, "fp8", "fp8", "bf16"), Place(DEVICE, "fp8", 1 << 16))
    assert made.error() <= TOLERANCE["fp8"]


@pytest.mark.skipif(not hasattr(torch.nn.functional, "scaled_mm"), reason="this PyTorch is older than 2.10")
@pytest.mark.parametrize(
    ("dtype", "m", "n", "k"),
    [
        *(("fp8_block", m, 128, k) for m, k in ((1, 128), (6, 384))),
        *((dtype, *size) for dtype in GROUPED for size in ((1, 32, 32), (130, 64, 160))),
    ],
)
def test_products_with_many_scales_have_the_layout_that_the_library_takes(
    dtype: str, m: int, n: int, k: int, device: Any
) -> None:
    """Rows, blocks of k and tiles of scales that are padded, and such that are not."""
    made = kernel(Gemm(m, n, k, *DTYPES[dtype]), Place(DEVICE, dtype, 1 << 16))
    assert made.error() <= 4e-3  # the result's bf16: scales and elements are exact
    assert made.run(1).shape == (m, n)


def test_experts_are_one_grouped_kernel(device: Any) -> None:
    made = kernel(GroupedGemm(50, 64, 32, 8, 8), Place(DEVICE, "bf16", 1 << 16))
    assert made.name == "torch._grouped_mm"
    assert made.error() <= TOLERANCE["bf16"]


@pytest.mark.parametrize(
    "operator",
    [Attention(2, 9, 30, 4, 2, 16, window=7), Attention(2, 1, 30, 4, 2, 16), Attention(1, 30, 30, 4, 4, 16)],
    ids=["window", "decode", "prefill"],
)
def test_attention_makes_its_masks_on_the_device(operator: Attention, device: Any) -> None:
    assert kernel(operator, Place(DEVICE, "bf16", 1 << 16)).error() <= TOLERANCE["bf16"]


@pytest.mark.parametrize("tag", [None, "warm", "by call"])
def test_a_row_of_a_campaign_says_how_it_was_measured(tag: str | None, device: Any) -> None:
    row = {"op": "gemm", "dtype": "bf16", "m": 4, "n": 64, "k": 32, **({"tag": tag} if tag else {})}
    found = measured_row(row, DEVICE, 1 << 16)
    assert found["tag"] == {None: "cold, graph replay", "warm": "warm, graph replay"}.get(
        tag, "cold, by call"
    )
    assert found["latency_us"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_a_model_is_profiled_to_a_run_that_opens(
    mode: str, device: Any, roofline: Callable[..., Any], tmp_path: Path
) -> None:
    fields = {
        "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "intermediate_size": 128, "vocab_size": 101, "max_position_embeddings": 128,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(fields))
    sizes = ("--phase", "decode", "--context", 20, "--repeats", 1, "--no-alone", "--device", "cuda")
    with pytest.MonkeyPatch.context() as patch:  # the reference model is of a real GPU's size
        patch.setattr("profiler.references.reference_steps", lambda *_: [])
        done = roofline("profile", tmp_path, *sizes, "--mode", mode, "-o", tmp_path / "run")
    assert done.code == 0, done.err
    run = open_run(tmp_path / "run")
    assert (run.head.status, run.head.dtype, run.head.mode) == ("complete", "bf16", mode)
    assert run.head.environment["compute_capability"] == "9.0"
    (share,) = run.head.attributed
    assert min(share.in_operators_s, share.in_framework_s) > 0
    assert share.in_operators_s + share.in_framework_s == pytest.approx(share.of_s)
    kernels, operators = run.table("kernels"), run.table("operators").set_index("name")
    assert set(kernels["operator"]) == set(operators.index)
    products = kernels[kernels["name"] == "kernel of aten::linear"].set_index("operator")["count"]
    assert products.to_dict() == operators.loc[operators["kind"] == "gemm", "count"].to_dict()
    if mode == "eager":  # on the device's clock, which nothing but its operations moves
        steps = run.table("steps").set_index("instrumented")["median_s"]
        assert steps[True] == pytest.approx(steps[False])
        assert 0.8 < (operators["count"] * operators["median_s"]).sum() / steps[True] <= 1 + 1e-9


def test_a_kernel_that_a_library_fails_loses_its_row_and_no_campaign(
    device: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With whatever error: a call that another version of PyTorch does not take is none of RuntimeError."""
    from profiler.campaign import run as campaign

    def other_version(*_: Any, **__: Any) -> Any:
        raise TypeError("got an unexpected keyword argument 'use_fast_accum'")

    monkeypatch.setattr(campaign, "device_name", lambda _: "somewhere")
    monkeypatch.setattr(torch, "_scaled_mm", other_version)
    asked = campaign.Campaign(DEVICE, ("bf16", "fp8"), tmp_path, 86400.0, ())
    sizes, head = {"op": "gemm", "m": 4, "n": 64, "k": 32}, campaign._open(asked)
    with begun(tmp_path / "operators.parquet", Findings()) as journal:
        table = campaign.Table(asked, head, journal, set())
        table.measure(iter([{**sizes, "dtype": "fp8"}, {**sizes, "dtype": "bf16"}]), 1.0)
    (row,) = table.done
    assert row["dtype"] == "bf16"
    (note,) = table.notes
    assert "TypeError: got an unexpected keyword argument" in note


def test_paged_attention_goes_by_what_computes_here(device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """FlashInfer compiles its kernels, which a machine without CUDA's compiler cannot: it is tried once."""
    pages, tried = import_module("profiler.kernels.paged"), []

    def without_compiler(cache: Any) -> Any:
        tried.append(cache)
        raise RuntimeError("Could not find nvcc")

    monkeypatch.setattr(Place, "has_package", lambda _, name: name == "flashinfer")
    monkeypatch.setitem(pages.BACKENDS, "flashinfer", without_compiler)
    monkeypatch.setattr(pages, "FAULTS", {})
    pages._fault.cache_clear()
    operator = Attention(2, 1, 40, 4, 2, 16, dtype="bf16", kv_dtype="bf16")
    for _ in range(2):
        made = pages.paged(operator, Place(DEVICE, "bf16"), 16)
        assert (made.backend, made.error() <= TOLERANCE["bf16"]) == ("torch", True)
    pages._fault.cache_clear()
    assert len(tried) == 1
    assert pages.FAULTS == {"flashinfer": "Could not find nvcc"}
