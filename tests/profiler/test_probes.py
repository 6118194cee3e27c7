"""Probes of ceilings: what they count is what they do, and one that fails costs the file one line."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from hwspecs import load_device
from profiler import power, probes
from profiler.ceilings import device, inside, measure, plan
from profiler.ceilings.measure import measure_ceilings
from profiler.ceilings.plan import Findings, Plan
from profiler.device_file import as_yaml
from profiler.repeats import KNOWN_FROM, NARROW, SPENT, uncertainty
from profiler.yardsticks import formats_that_fit
from reports.units import percent
from specfiles.errors import InputError
from tests.profiler.nvml import LOST, Driver, install

torch = pytest.importorskip("torch")


@pytest.fixture
def hopper(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU with tf32 units and a neighbour on NVLink, as far as the list of probes asks."""
    monkeypatch.setattr(probes, "has_tf32", lambda device: device != "cpu")
    monkeypatch.setattr(probes, "nvlink_peer", lambda _: "cuda:1")


@pytest.mark.usefixtures("hopper")
def test_a_gpu_is_asked_for_everything_that_its_file_has_a_place_for() -> None:
    keys = [key for key, _ in probes.probes("cuda:0", ("bf16", "fp32", "fp8"), 50_000_000)]
    assert len(keys) == len(set(keys))
    assert {key[0] for key in keys} == {
        "launch", "graph_launch", "bandwidth", "matmul", "steady", "special", "fma", "pcie", "nvlink",
    }  # fmt: skip
    assert {key[1] for key in keys if key[0] == "matmul"} == {"bf16", "fp32", "fp8", "tf32"}
    assert {key[1] for key in keys if key[0] == "steady"} == {"bf16", "fp32", "fp8"}
    assert {key[1] for key in keys if key[0] == "bandwidth"} == set(probes.ARRAYS)


@pytest.mark.parametrize("pattern", probes.ARRAYS)
def test_a_pattern_touches_its_footprint_and_no_more(pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    rand = torch.rand

    def counted(count: int, **options: Any) -> Any:
        made.append(count)
        return rand(count, **options)

    monkeypatch.setattr(torch, "rand", counted)
    assert probes._stream("cpu", pattern, 120_000) > 0
    assert 4 * sum(made) == 120_000


def fake(seconds: dict[str, float]) -> Callable[..., Any]:
    """Probes of a GPU that take so many seconds; None fails."""

    def all_of(device: str, dtypes: Any, cache_bytes: int) -> Any:
        for key, _ in probes.probes(device, dtypes, cache_bytes):
            yield key, lambda key=key: taken(key)

    def taken(key: Any) -> float:
        if key[0] not in seconds:
            raise RuntimeError(f"no {key[0]} here\nand more")
        return seconds[key[0]]

    return all_of


@pytest.fixture
def gpu_plan(monkeypatch: pytest.MonkeyPatch, paper_device: Callable[..., Any]) -> Plan:
    """Ceilings of a GPU whose probes are stand-ins: everything but the measuring is real."""
    monkeypatch.setattr(inside, "all_steps", lambda *_: [])
    monkeypatch.setattr(plan, "last_level_cache_bytes", lambda _: 1 << 20)
    monkeypatch.setattr(device, "environment", lambda _: {"processor": "none"})
    monkeypatch.setattr(inside, "memory_bytes", lambda _: 80e9)
    monkeypatch.setattr(measure, "answers", lambda _: True)
    return Plan("cuda:0", ("bf16", "fp32", "fp8", "nvfp4"), passes=2, sheet=paper_device())


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> Findings:
    """What the measurement that follows finds."""
    made = Findings()
    monkeypatch.setattr(measure, "Findings", lambda: made)
    return made


SECONDS = {
    "launch": 4e-6, "graph_launch": 1e-6, "bandwidth": 1e-3, "matmul": 1.0, "steady": 2.0, "special": 1e-3,
    "fma": 1e-3, "pcie": 1e-2, "nvlink": 1e-3,
}  # fmt: skip


@pytest.mark.usefixtures("hopper")
def test_every_probe_lands_in_its_place(gpu_plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "probes", fake(SECONDS))
    measured = measure_ceilings(gpu_plan).measured
    largest = 2 * 16384**3
    assert measured.tensor_flop_per_s["bf16"].value == pytest.approx(largest, rel=1e-4)
    assert measured.tensor_flop_per_s["fp8"].value == pytest.approx(largest, rel=1e-4)
    assert measured.tensor_flop_per_s["fp4"].value == pytest.approx(largest, rel=1e-4)  # by nvfp4
    assert measured.steady_flop_per_s["fp4"].value == pytest.approx(2 * 8192**3 / 2.0, rel=1e-4)
    assert "fp32" not in measured.tensor_flop_per_s  # without TF32 they run on the vector units
    assert measured.tensor_flop_per_s["tf32"].value == pytest.approx(largest, rel=1e-4)
    assert measured.links["nvlink"].value == pytest.approx(2**28 / 1e-3, rel=1e-4)
    assert measured.links["nvlink"].note is not None
    assert measured.links["nvlink"].note.startswith("a copy to cuda:1;")
    far = max(p.footprint_bytes for p in measured.bandwidth_curve)
    assert far >= 32 << 20  # of which the L2 of 1 MiB holds at most 3 %
    assert measured.dram_byte_per_s is not None
    assert measured.dram_byte_per_s.value == pytest.approx(far / 1e-3, rel=1e-4)
    assert measured.vector_flop_per_s["fp32"].value == pytest.approx(max(largest, 2 * 2**32 / 1e-3), rel=1e-4)
    assert measured.steady_flop_per_s["bf16"].value == pytest.approx(2 * 8192**3 / 2.0, rel=1e-4)
    assert measured.special_op_per_s is not None
    assert measured.special_op_per_s.value == pytest.approx(2**32 / 1e-3, rel=1e-4)
    assert measured.links["pcie"].value == pytest.approx(2**28 / 1e-2, rel=1e-4)
    assert measured.l2_byte_per_s is not None
    assert measured.l2_byte_per_s.value == pytest.approx(2**19 / 1e-3, rel=1e-4)  # the half of the cache
    assert measured.graph_launch_s is not None
    assert measured.graph_launch_s.value < SECONDS["launch"]


def noisy(draw: random.Random, spread: float) -> Callable[..., Any]:
    """Probes whose times are their constants but for noise."""

    def all_of(*asked: Any) -> Any:
        return [
            (key, lambda key=key: SECONDS[key[0]] * draw.uniform(1 - spread, 1 + spread))
            for key, _ in fake(SECONDS)(*asked)
        ]

    return all_of


def test_passes_end_when_every_ceiling_is_known(
    gpu_plan: Plan, found: Findings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "probes", noisy(random.Random(1), 0.05))
    gpu_plan.passes, gpu_plan.precision = 200, 0.02
    device = measure_ceilings(gpu_plan)
    assert KNOWN_FROM < found.done < 200
    assert max(map(uncertainty, found.times.values())) < 0.02
    before = max(uncertainty(times[:-1]) for times in found.times.values())
    assert before >= 0.02  # the pass before did not know them all
    assert f"medians of {found.done} passes, ended by: {NARROW}" in device.sources["measured"]
    (launch,) = (times for key, times in found.times.items() if key[0] == "launch")
    assert device.measured.launch_s is not None
    assert f"median known to {percent(uncertainty(launch))} at 95 %" in (device.measured.launch_s.note or "")


def test_operators_inside_models_do_not_keep_passes_going(gpu_plan: Plan, found: Findings) -> None:
    gpu_plan.passes, gpu_plan.precision, found.done = 50, 0.01, KNOWN_FROM
    found.times["launch",] = [1.0] * KNOWN_FROM
    found.times["class", "bf16", "a model", "an operator"] = [1.0, 2.0] * KNOWN_FROM
    assert found.enough(gpu_plan, 1.0) == NARROW
    found.times["matmul", "bf16", 4096] = [1.0, 2.0] * (KNOWN_FROM // 2)
    assert found.enough(gpu_plan, 1.0) == ""


def test_a_budget_ends_passes_after_the_first_and_few_passes_know_no_interval(
    gpu_plan: Plan, found: Findings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "probes", fake(SECONDS))
    gpu_plan.budget_s = 0.0
    device = measure_ceilings(gpu_plan)
    assert found.done == 1
    assert f"medians of 1 passes, ended by: {SPENT}" in device.sources["measured"]
    assert "median known" not in (device.measured.links["pcie"].note or "")


def test_what_a_gpu_cannot_do_is_left_out_and_said(
    gpu_plan: Plan, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    """No compiler for chains, no memory to lock: the other ceilings stand."""
    told: list[str] = []
    gpu_plan.progress = told.append
    monkeypatch.setattr(measure, "probes", fake({k: SECONDS[k] for k in ("launch", "bandwidth", "matmul")}))
    device = measure_ceilings(gpu_plan)
    (tmp_path / "gpu.yaml").write_text(as_yaml(device))
    measured = load_device(tmp_path / "gpu.yaml").measured
    assert measured.special_op_per_s is measured.graph_launch_s is None
    assert measured.links == measured.steady_flop_per_s == {}
    assert measured.dram_byte_per_s is not None
    said = [line for line in told if "fma cannot be measured: no fma here" in line]
    assert len(said) == 1  # not one per pass


def test_a_small_gpu_has_no_operators_of_formats_that_its_memory_does_not_hold(
    gpu_plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All yardsticks lie in memory at once; the ceilings stand all the same."""
    monkeypatch.setattr(measure, "probes", fake({k: SECONDS[k] for k in ("launch", "bandwidth", "matmul")}))
    monkeypatch.setattr(inside, "memory_bytes", lambda _: 24e9)
    device = measure_ceilings(gpu_plan)
    assert "no operators in fp32: memory does not hold their models" in device.sources["measured"]
    assert "no operators in bf16" not in device.sources["measured"]
    assert formats_that_fit("cuda:0", ("bf16", "fp32"), 80e9) == ["bf16", "fp32"]
    assert formats_that_fit("cuda:0", ("fp32",), 24e9) == []
    assert formats_that_fit("cpu", ("fp32", "bf16"), float("inf")) == ["fp32", "bf16"]


def test_a_ceiling_that_is_needed_ends_the_measurement(
    gpu_plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "probes", fake({"launch": 1e-6}))
    with pytest.raises(InputError, match="without any matmul or bandwidth: no matmul here"):
        measure_ceilings(gpu_plan)


def test_tf32_is_asked_for_one_product_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was set before holds again, also where the product fails."""
    seen: list[str] = []

    def product(*_: Any) -> float:
        seen.append(torch.get_float32_matmul_precision())
        raise RuntimeError("no memory")

    monkeypatch.setattr(probes, "_matmul", product)
    before = torch.get_float32_matmul_precision()
    with pytest.raises(RuntimeError, match="no memory"):
        probes._matmul_tf32("cuda:0", 64)
    assert seen == ["high"]
    assert torch.get_float32_matmul_precision() == before != "high"


@pytest.mark.parametrize(("links", "up"), [((1, 1, 0, 1), 3), ((), 0), ((0, 0), 0)])
def test_nvlinks_are_those_that_are_up(
    links: tuple[int, ...], up: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NVML refuses a number beyond the device's links."""
    driver = install(Driver(), monkeypatch)
    genuine = driver.function

    def function(name: str) -> Any:
        def state(_: Any, link: int, value: Any) -> int:
            if link >= len(links):
                return 2  # NVML_ERROR_INVALID_ARGUMENT
            value._obj.value = links[link]
            return 0

        return state if name == "nvmlDeviceGetNvLinkState" else genuine(name)

    monkeypatch.setattr("pynvml._nvmlGetFunctionPointer", function)
    assert power.nvlinks("cuda:0") == up
    driver.codes["nvmlDeviceGetHandleByUUID"] = LOST
    assert power.nvlinks("cuda:0") == 0


@pytest.mark.gpu
def test_tf32_products_are_rounded_and_faster(cuda: str) -> None:
    """tf32 keeps 10 bits of the mantissa; on the matrix units it is several times as fast as fp32."""
    if not probes.has_tf32(cuda):
        pytest.skip("the device has no tf32 units")
    size = 4096
    assert probes._matmul_tf32(cuda, size) < 0.7 * probes._matmul(cuda, "fp32", size)


@pytest.mark.gpu
def test_chains_compute_what_they_say(cuda: str) -> None:
    x = torch.rand(1000, device=cuda)
    expected = x.double()
    for _ in range(probes.CHAIN):
        expected = expected * 0.999 + 0.001
    torch.testing.assert_close(
        probes.chain("x * T(0.999) + T(0.001)")(x).double(), expected, rtol=1e-4, atol=1e-4
    )
    omega = 0.5671432904  # exp(-x) = x
    assert (probes.chain("exp(-x)")(x) - omega).abs().max() < 1e-5


@pytest.mark.gpu
def test_probes_of_a_gpu_are_of_a_gpu(cuda: str) -> None:
    """Each runs, and none is faster than the fastest chip there is (B300) by an order of magnitude."""
    cache = torch.cuda.get_device_properties(cuda).L2_cache_size
    most = {"bandwidth": 2e14, "matmul": 5e16, "steady": 5e16, "special": 1e14, "fma": 1e15, "pcie": 1e12}
    most["nvlink"] = 1e13
    for key, probe in probes.probes(cuda, ("bf16", "fp32"), cache):
        work = {
            "bandwidth": key[-1],
            "matmul": 2 * key[-1] ** 3 if key[0] == "matmul" else 0,
            "steady": 2 * 8192**3,
            "special": probes.special_ops(cuda),
            "fma": probes.fma_flops(),
            "pcie": probes.PINNED_BYTES,
            "nvlink": probes.PINNED_BYTES,
        }.get(key[0], 1)
        assert 0 < work / probe() < most.get(key[0], 1e7), key


def test_exponentials_of_a_cpu_are_as_fast_as_the_faster_function(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter((3e-6, 1e-6))

    def once(call: Callable[[int], Any], _: str) -> float:
        call(0)
        return next(times)

    monkeypatch.setattr(probes, "_once", once)
    assert probes._exponentials("cpu") == 1e-6
    assert list(times) == []


def test_fp8_is_refused_where_there_are_no_units_for_it(roofline: Callable[..., Any], tmp_path: Any) -> None:
    done = roofline("ceilings", "--device", "cpu", "--dtype", "fp8", "-o", tmp_path / "x.yaml")
    assert done.code == 2
    assert "cpu has no fp8 units that PyTorch uses; leave fp8 out" in done.err
