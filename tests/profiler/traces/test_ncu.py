"""Nsight Compute: real pages against what stands in them, and pages made here of every shape."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiler.traces import ncu, ncurep
from profiler.traces.attribution import attribute
from profiler.traces.counters import base_name, kernels_of, timed
from profiler.traces.ncumetrics import TENSOR_ACTIVE, derived, reading, unit_scale
from profiler.traces.reading import read_traces
from profiler.traces.tables import Origin, Trace, make_table, merge
from profiler.traces.totals import device_totals
from specfiles.errors import InputError

LEAD = ["ID", "Process ID", "Process Name", "Host Name", "Kernel Name", "Context", "Stream", "Block Size"]
LEAD += ["Grid Size", "Device", "CC", "Section Name"]
LONG = [*LEAD, "Metric Name", "Metric Unit", "Metric Value"]
RULE = ["Rule Name", "Rule Type", "Rule Description", "Estimated Speedup Type", "Estimated Speedup"]
ADD, MUL, FMA = (f"smsp__sass_thread_inst_executed_op_f{op}_pred_on.sum" for op in ("add", "mul", "fma"))
BF16 = "sm__ops_path_tensor_src_bf16_dst_fp32"


def lead(number: object, name: str = "gemm", device: int = 0) -> list[str]:
    return [
        str(number),
        "42",
        "python",
        "127.0.0.1",
        name,
        "1",
        "7",
        "(32, 1, 1)",
        "(8, 1, 1)",
        str(device),
        "9.0",
        "S",
    ]


@pytest.fixture
def page(tmp_path: Path) -> Callable[..., Path]:
    """A CSV file of these rows, everything quoted as ncu does."""

    def write(*rows: list[str], before: str = "", encoding: str = "utf-8") -> Path:
        text = io.StringIO()
        csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows(rows)
        path = tmp_path / "page.csv"
        path.write_text(before + text.getvalue(), encoding=encoding)
        return path

    return write


def counters(trace: Trace) -> list[dict[str, Any]]:
    """A dictionary of metrics per kernel, in order of launch."""
    found: dict[int, dict[str, Any]] = {}
    for row in trace["counters"].to_pylist():
        found.setdefault(row["order"], {"name": row["name"]})[row["metric"]] = row["value"]
    return [found[order] for order in sorted(found)]


def lost(trace: Trace, what: str) -> int:
    return sum(loss.count for loss in trace.losses if loss.what == what)


# --- real pages -------------------------------------------------------------------------------------


def test_a_log_before_a_page(shared: Callable[[str], Path]) -> None:
    (kernel,) = counters(ncu.read(shared("traces/ncu_longcsv_roofline_repo/gemm_naive.csv")))
    assert kernel["time_s"] == pytest.approx(9_589_248e-9, rel=1e-12)
    assert kernel["dram_bytes"] == 54_207_744 + 26_601_216
    assert kernel["name"].startswith("unnamed>::gemm_naive_kernel")
    assert "flops" not in kernel  # nothing of them was measured


def test_units_of_every_cell(shared: Callable[[str], Path]) -> None:
    (kernel,) = counters(ncu.read(shared("traces/ncu_rtx5090_deepseek-ocr_csv/kernel_0001/ncu.details.csv")))
    assert kernel["time_s"] == pytest.approx(6.75e-6)
    assert (kernel["dram_read_bytes"], kernel["dram_write_bytes"]) == (pytest.approx(2.33e6), 0)
    assert kernel["tensor_flops"] == 0  # one path counted, the other n/a
    assert "flops" not in kernel


def test_a_roofline_section_counts_flop(shared: Callable[[str], Path]) -> None:
    folder = shared("traces/ncu_rtx5090_deepseek-ocr_csv/kernel_0001")
    rates = {1: 1.97, 2: 79.06}  # FLOP of an FADD and of an FFMA, and how many a cycle executes
    metrics = {}
    for name in ("ncu.section_SpeedOfLight_RooflineChart.csv", "ncu.section_SpeedOfLight.csv"):
        with ncu.opened(folder / name) as lines:
            for row in csv.DictReader(lines):
                if found := reading(row["Metric Name"], row["Metric Value"], row["Metric Unit"]):
                    metrics[found[0]] = found[1]
    assert derived(metrics)["fp32_flops"] == pytest.approx(
        sum(w * r for w, r in rates.items()) * 13_485, rel=1e-3
    )


@pytest.mark.parametrize(
    "number", ["0001", "0003", "0005", "0007", "0009", "0011", "0013", "0015", "0017", "0019"]
)
def test_bandwidth_times_duration_is_bytes(shared: Callable[[str], Path], number: str) -> None:
    """ncu states bytes and, rounded to three digits, the bandwidth: they must agree."""
    path = shared(f"traces/ncu_rtx5090_deepseek-ocr_csv/kernel_{number}/ncu.details.csv")
    (kernel,) = counters(ncu.read(path))
    with ncu.opened(path) as lines:
        rates = [
            r
            for r in csv.DictReader(lines)
            if r["Metric Name"] == "Memory Throughput" and "byte" in r["Metric Unit"]
        ]
    stated = float(rates[0]["Metric Value"].replace(",", "")) * (unit_scale(rates[0]["Metric Unit"]) or 0)
    assert kernel["dram_bytes"] / kernel["time_s"] == pytest.approx(stated, rel=0.02)


# --- pages made here --------------------------------------------------------------------------------


def raw(*values: str) -> list[list[str]]:
    metrics = [
        "gpu__time_duration.sum",
        "dram__bytes_read.sum",
        "dram__bytes_write.sum",
        ADD,
        MUL,
        FMA,
        f"{BF16}.sum",
    ]
    units = ["us", "Mbyte", "Kbyte", "inst", "inst", "inst", ""]
    head = LEAD[:-1]
    return [[*head, *metrics], [*[""] * len(head), *units], *([*lead(i)[:-1], *values] for i in range(2))]


def test_a_raw_page_has_a_row_of_units(page: Callable[..., Path]) -> None:
    trace = ncu.read(page(*raw("1,000.5", "2", "500", "10", "20", "1,000", "4,096")))
    first, second = counters(trace)
    assert first == second
    assert first["time_s"] == pytest.approx(1000.5e-6)
    assert first["dram_bytes"] == 2.5e6
    assert first["fp32_flops"] == 10 + 20 + 2 * 1000
    assert first["flops"] == 2030 + 4096
    assert not trace.losses


@pytest.mark.parametrize(("share", "flops"), [("0", 2030), ("12.5", None)])
def test_tensor_units_that_were_never_active_have_no_flop(
    share: str, flops: float | None, page: Callable[..., Path]
) -> None:
    """ncu's full set has no count of their operations on a GA102."""
    values = {ADD: "10", MUL: "20", FMA: "1000", TENSOR_ACTIVE[0]: share}
    rows = [[*lead(0), name, "inst" if "inst" in name else "%", value] for name, value in values.items()]
    (kernel,) = counters(ncu.read(page(LONG, *rows)))
    assert kernel["fp32_flops"] == 2030
    assert kernel.get("flops") == flops


def test_a_page_per_metric_with_rules_prints_and_another_process(page: Callable[..., Path]) -> None:
    rows = [
        [*LONG, *RULE],
        [*lead(0), "gpu__time_duration.sum", "ns", "100", ""],
        ["==PROF== Profiling 'gemm' - 1: 0%....50%....100% - 8 passes"],
        [*lead(0), "", "", "", "Rule", "OPT", 'try "harder"', "global", "3"],
        ["loss 0.25"],
        [*LONG, *RULE],
        [*lead(0, "other"), "gpu__time_duration.sum", "ns", "300", ""],
    ]
    rows[6][1] = "43"
    trace = ncu.read(page(*rows, before="epoch 1\n\n"))
    assert [(k["name"], round(k["time_s"] * 1e9)) for k in counters(trace)] == [("gemm", 100), ("other", 300)]
    assert trace["counters"]["process"].to_pylist() == [42, 43]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_marks_before_the_text(page: Callable[..., Path], encoding: str) -> None:
    path = page(LONG, [*lead(0), "gpu__time_duration.sum", "us", "2"], encoding=encoding)
    assert counters(ncu.read(path))[0]["time_s"] == pytest.approx(2e-6)
    assert ncu.is_page(path)


def test_nvtx_adds_a_column(page: Callable[..., Path]) -> None:
    header = LONG.copy()
    header.insert(7, "thread Domain:Push/Pop_Range:PL_Type:PL_Value:CLR_Type:Color:Msg_Type:Msg")
    row = [*lead(0), "dram__bytes.sum", "Gbyte", "1.5"]
    row.insert(7, "roofline:layers.mlp")
    assert counters(ncu.read(page(header, row)))[0]["dram_bytes"] == 1.5e9


@pytest.mark.parametrize(("value", "said"), [("n/a", 0), ("", 0), ("many", 1), ("-3", 1), ("1e999", 1)])
def test_what_is_no_number_is_no_zero(page: Callable[..., Path], value: str, said: int) -> None:
    trace = ncu.read(
        page(LONG, [*lead(0), "dram__bytes.sum", "byte", value], [*lead(0), f"{BF16}.sum", "", "8"])
    )
    assert counters(trace) == [{"name": "gemm", "tensor_bf16_flops": 8, "tensor_flops": 8}]
    assert lost(trace, "dropped") == said


@pytest.mark.parametrize("value", ["1,5", "1.234,5", "1 234,5", "1\u202f234,5", "1.234.567"])
def test_decimal_commas_are_refused(page: Callable[..., Path], value: str) -> None:
    """Beside such a number 1.234 may be 1234: a guess could be wrong by a thousand."""
    with pytest.raises(InputError, match=r"page\.csv: has numbers with decimal commas .*LC_ALL=C"):
        ncu.read(page(LONG, [*lead(0), "dram__bytes.sum", "byte", value]))


def test_an_id_of_any_length_is_dropped_and_counted(page: Callable[..., Path]) -> None:
    rows = [[*lead(number), "dram__bytes.sum", "byte", "1,234,567.5"] for number in (0, "9" * 5000, "x")]
    trace = ncu.read(page(LONG, *rows))
    assert [kernel["dram_bytes"] for kernel in counters(trace)] == [1_234_567.5]
    assert lost(trace, "dropped") == 2


def test_kernels_of_several_contexts_are_each_one(page: Callable[..., Path]) -> None:
    header, units, first, second = raw("1", "2", "3", "4", "5", "6", "7")
    second[header.index("Context")] = "2"
    assert len(counters(ncu.read(page(header, units, first, second)))) == 2


def test_several_reports_of_one_gpu_are_of_one_device(page: Callable[..., Path], tmp_path: Path) -> None:
    one = page(*raw("1", "2", "3", "4", "5", "6", "7")).rename(tmp_path / "one.csv")
    other = page(*raw("2", "2", "3", "4", "5", "6", "7")).rename(tmp_path / "other.csv")
    (device,) = device_totals(read_traces([one, other]))
    assert device.kernels == 4
    assert device.gpu_busy_s == pytest.approx(6e-6)


def test_an_unknown_unit_is_no_number(page: Callable[..., Path]) -> None:
    trace = ncu.read(page(LONG, [*lead(0), "dram__bytes.sum", "furlong", "3"]))
    assert not counters(trace)
    assert lost(trace, "dropped") == 1


def test_a_page_cut_short_keeps_its_whole_rows(page: Callable[..., Path]) -> None:
    path = page(LONG, *([*lead(i), "dram__bytes.sum", "byte", f"{i},000"] for i in range(1, 6)))
    text = path.read_text()
    path.write_text(text[:-4])  # within the last value: what is left would read as a smaller number
    trace = ncu.read(path)
    assert [kernel["dram_bytes"] for kernel in counters(trace)] == [1000, 2000, 3000, 4000]
    assert lost(trace, "dropped") == 1


def test_rates_become_sums() -> None:
    metrics = {
        "gpu__time_duration.sum": 2e-6,
        "sm__cycles_elapsed.max": 3000.0,
        "dram__bytes.sum.per_second": 1e12,
    }
    metrics |= {f"{name}.per_cycle_elapsed": 10.0 for name in (ADD, MUL, FMA)}
    metrics |= {f"{BF16}.sum.per_cycle_elapsed": 4096.0, "lts__t_sectors.sum": 100.0}
    found = derived(metrics)
    assert found["fp32_flops"] == (10 + 10 + 20) * 3000
    assert found["tensor_flops"] == 4096 * 3000
    assert found["dram_bytes"] == pytest.approx(2e6)
    assert found["l2_bytes"] == 3200
    assert found["sm_clock_hz"] == pytest.approx(1.5e9)


def test_parts_of_a_tensor_metric_are_not_counted_again() -> None:
    whole = {f"{BF16}.sum": 8.0, f"{BF16}_sparsity_off.sum": 6.0, f"{BF16}_sparsity_on.sum": 2.0}
    other = {"sm__ops_path_tensor_src_fp8.sum": 4.0, "sm__ops_path_tensor_op_hgmma_src_fp8.sum": 4.0}
    assert derived({**whole, **other})["tensor_flops"] == 12
    del whole[f"{BF16}.sum"]
    assert derived(whole)["tensor_flops"] == 8
    assert "tensor_flops" not in derived({f"{BF16}.sum.peak_sustained": 8192.0})


def test_tensor_metrics_by_instruction_stand_beside_those_by_format() -> None:
    """Names of `ncu --query-metrics --chips gh100`: a set may count bf16 by instruction and fp8 whole."""
    path = "sm__ops_path_tensor"
    by_instruction = {
        f"{path}_op_{op}_src_bf16_dst_fp32_sparsity_{way}.sum": count
        for (op, way), count in {("hgmma", "off"): 8.0, ("hgmma", "on"): 0.0, ("hmma", "off"): 2.0}.items()
    }
    whole = {f"{path}_src_fp8_sparsity_off.sum": 4.0, f"{path}_src_fp64.sum": 0.0}
    found = derived({**by_instruction, **whole})
    assert found["tensor_bf16_flops"] == 10
    assert found["tensor_flops"] == 14
    assert derived({**by_instruction, **whole, f"{BF16}.sum": 10.0}) == found


def test_a_tensor_metric_of_one_instruction_is_no_part_of_another_s() -> None:
    metrics = {f"sm__ops_path_tensor_op_{op}_src_fp16.sum": 1.0 for op in ("hmma", "hgmma")}
    metrics["sm__ops_path_tensor_op_hmma_src_fp16_dst_fp16.sum"] = 1.0
    assert derived(metrics)["tensor_fp16_flops"] == 2


def test_blackwell_counts_formats_that_share_a_path_and_fp4_apart() -> None:
    """Names of `ncu --query-metrics --chips gb100`: utcqmma multiplies fp8, fp6 and fp4, utcomma only fp4."""
    path = "sm__ops_path_tensor"
    metrics = {
        f"{path}_op_utcqmma_src_fp4_fp6_fp8_dst_fp32.sum": 8.0,
        f"{path}_op_utcomma_src_fp4_dst_fp32.sum": 4.0,
        f"{path}_src_fp4_fp6.sum": 2.0,
    }
    found = derived(metrics)
    assert found["tensor_fp4_fp6_fp8_flops"] == 8
    assert found["tensor_fp4_flops"] == 4
    assert found["tensor_flops"] == 14
    whole = {f"{path}_src_fp4_fp6_fp8_dst_fp32.sum": 8.0, f"{path}_src_fp4_dst_fp32.sum": 4.0}
    assert derived({**metrics, **whole}) == found


@pytest.mark.parametrize(
    "active",
    [
        "sm__inst_executed_pipe_tensor_subpipe_hmma.sum",
        "sm__inst_executed_pipe_tc.sum",
        "sm__pipe_tc_cycles_active.avg.pct_of_peak_sustained_elapsed",
        TENSOR_ACTIVE[0],
    ],
)
def test_active_tensor_units_whose_instructions_were_not_counted_have_no_whole(active: str) -> None:
    counted = {"sm__ops_path_tensor_op_hmma_src_bf16_dst_fp32.sum": 0.0}
    assert derived({**counted, active: 0.0})["tensor_flops"] == 0
    assert "tensor_flops" not in derived({**counted, active: 3.0})
    counted["sm__ops_path_tensor_op_hgmma_src_bf16_dst_fp32.sum"] = 6.0
    assert derived({**counted, active: 3.0})["tensor_flops"] == 6
    assert reading(active, "1", "inst" if "inst" in active else "%")


def test_single_precision_works_on_pairs_where_a_gpu_can() -> None:
    name = "smsp__sass_thread_inst_executed_op_f{}_pred_on.sum"
    counts = {name.format(op): 10.0 for op in ("add", "mul", "fma")}
    packed = {name.format(f"{op}2"): 1.0 for op in ("add", "mul", "fma")}
    assert derived(counts)["fp32_flops"] == 10 * (1 + 1 + 2)
    assert derived({**counts, **packed})["fp32_flops"] == 10 * (1 + 1 + 2) + 2 + 2 + 4
    assert all(reading(metric, "1", "inst") for metric in packed)


def test_half_precision_works_on_pairs() -> None:
    counts = {f"smsp__sass_thread_inst_executed_op_h{op}_pred_on.sum": 10.0 for op in ("add", "mul", "fma")}
    assert derived(counts)["fp16_flops"] == 10 * (2 + 2 + 4)


@pytest.mark.parametrize(
    ("unit", "scale"),
    [
        ("Tbyte/second", 1e12),
        ("msecond", 1e-3),
        ("Ghz", 1e9),
        ("cycle/usecond", 1e6),
        ("Kinst", 1e3),
        ("%", 0.01),
    ],
)
def test_units(unit: str, scale: float) -> None:
    assert unit_scale(unit) == pytest.approx(scale)


@pytest.mark.parametrize(
    "text", ["", "hello\nworld\n", '{"traceEvents": []}', "ID,Name\n1,x\n", "\x00" * 100]
)
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "other.csv"
    path.write_text(text)
    assert not ncu.is_page(path)
    with pytest.raises(InputError, match="no CSV of Nsight Compute"):
        ncu.read(path)


@given(st.binary(max_size=200), st.integers(0, 2000), st.integers(0, 40))
def test_any_bytes_end_in_a_sentence_or_in_numbers(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes, at: int, gone: int
) -> None:
    text = io.StringIO()
    csv.writer(text, quoting=csv.QUOTE_ALL).writerows(raw("1", "2", "3", "4", "5", "6", "7"))
    sound = text.getvalue().encode()
    path = tmp_path_factory.getbasetemp() / "noise.csv"
    path.write_bytes(sound[:at] + noise + sound[at + gone :])
    try:
        found = counters(ncu.read(path))
    except InputError:
        return
    assert all(value >= 0 for kernel in found for name, value in kernel.items() if name != "name")


# --- with a timeline --------------------------------------------------------------------------------


def kernels(*names: str) -> Trace:
    """A timeline of kernels, a microsecond each."""
    starts = [1000 * i for i in range(len(names))]
    table = {"source": [0] * len(names), "device": [0] * len(names), "name": list(names)}
    table |= {"kind": ["kernel"] * len(names), "start_ns": starts, "end_ns": [s + 1000 for s in starts]}
    return Trace((Origin(file="t", format="nsys"),), {"activities": make_table("activities", table)})


def test_counters_find_their_kernels_by_name_and_order(page: Callable[..., Path]) -> None:
    timeline = kernels(
        "void a::gemm<(int)4>(T1)", "other()", "void a::gemm<(int)8>(T1)", "void a::gemm<(int)4>(T1)"
    )
    rows = [
        [*lead(i, name), metric, unit, value]
        for i, (name, flop) in enumerate(
            [("void a::gemm<4>(T1)", "11"), ("gemm<8>(T1)", "12"), ("void a::gemm<4>(T1)", "13")]
        )
        for metric, unit, value in [
            *((m, "inst", "0") for m in (ADD, MUL, FMA)),
            (f"{BF16}.sum", "", flop),
            ("dram__bytes.sum", "Kbyte", flop),
        ]
    ]
    trace = attribute(merge([timeline, ncu.read(page(LONG, *rows))]))
    assert trace["activities"].num_rows == 4
    found = trace["attribution"].select(["how", "dtype", "matrix_flops", "work_bytes"]).to_pylist()
    assert [(r["how"], r["dtype"], r["matrix_flops"], r["work_bytes"]) for r in found] == [
        ("counters", "bf16", 11, 11000),
        (None, None, 0, 0),
        ("counters", "bf16", 12, 12000),
        ("counters", "bf16", 13, 13000),
    ]
    assert trace["activities"]["end_ns"].to_pylist() == [
        1000,
        2000,
        3000,
        4000,
    ]  # ncu's times are not the program's


def test_counters_alone_are_kernels_one_behind_the_other(page: Callable[..., Path]) -> None:
    trace = attribute(timed(ncu.read(page(*raw("2", "2", "500", "10", "20", "30", "4096")))))
    assert trace["activities"]["start_ns"].to_pylist() == [0, 2000]
    assert trace["attribution"]["vector_flops"].to_pylist() == [90, 90]
    assert any("no timeline" in loss.sentence for loss in trace.losses)


@pytest.mark.parametrize(
    ("name", "base"),
    [
        ("enable_if<!T7, void>::type kernel<int, P<const float>>(T13)", "kernel"),
        ("unnamed>::gemm_naive_kernel(const float *, int)", "gemm_naive_kernel"),
        ("(anonymous namespace)::softmax_warp<float, 8>(float*)", "softmax_warp"),
        ("sm90_xmma_gemm_bf16bf16", "sm90_xmma_gemm_bf16bf16"),
        ("", ""),
    ],
)
def test_a_kernel_is_known_by_its_own_name(name: str, base: str) -> None:
    assert base_name(name) == base


# --- .ncu-rep ---------------------------------------------------------------------------------------


def test_a_binary_report_needs_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ncurep, "find_spec", lambda _: None)
    with pytest.raises(InputError, match="needs the package ncu-report"):
        ncurep.read(tmp_path / "x.ncu-rep")


def test_rubbish_is_refused_by_the_package(tmp_path: Path) -> None:
    pytest.importorskip("ncu_report", reason="ncu-report is not installed")
    path = tmp_path / "x.ncu-rep"
    path.write_bytes(ncurep.MAGIC + b"\x01\x02\x03\x04" * 1000)
    with pytest.raises(InputError, match=r"ncu-report (cannot read it|finds no profiled kernel)"):
        ncurep.read(path)


class Metric:
    """What ncu-report gives for a metric."""

    def __init__(self, value: float, unit: str) -> None:
        self.value, self.of = value, unit

    def as_double(self) -> float:
        return self.value

    def as_uint64(self) -> int:
        return int(self.value)

    def unit(self) -> str:
        return self.of

    def has_value(self) -> bool:
        return True


class Report:
    """A report of one range with one kernel, as ncu-report presents it."""

    metrics = {
        "gpu__time_duration.sum": Metric(2500.0, "ns"),
        "dram__bytes.sum": Metric(3.0e6, "byte"),
        "launch__device_id": Metric(1, ""),
        "irrelevant": Metric(1.0, "parsec"),
    }
    num_ranges = num_actions = lambda self: 1
    range_by_idx = action_by_idx = lambda self, _: self
    name = lambda self: "gemm<1>"  # noqa: E731
    metric_names = lambda self: tuple(self.metrics)  # noqa: E731
    metric_by_name = lambda self, name: self.metrics.get(name)  # noqa: E731


def test_a_report_gives_the_same_counters() -> None:
    trace = ncurep._trace(Path("x.ncu-rep"), ncurep.listed(Report()))
    assert counters(trace) == [{"name": "gemm<1>", "time_s": 2.5e-6, "dram_bytes": 3e6}]
    assert trace["counters"]["device"].to_pylist() == [1, 1]


def test_pages_of_one_report_are_one(shared: Callable[[str], Path], page: Callable[..., Path]) -> None:
    """Seven pages of one kernel are one kernel, with what each says; another process is another one."""
    pages = sorted(shared("traces/ncu_rtx5090_deepseek-ocr_csv/kernel_0001").glob("*.csv"))
    assert len(pages) == 7
    trace = read_traces(pages)
    assert trace["activities"].num_rows == 1
    (kernel,) = kernels_of(trace)
    for one in pages:
        assert set(ncu.read(one)["counters"]["metric"].to_pylist()) <= kernel["metrics"].keys()
    other = page(LONG, [*lead(0, kernel["name"]), "gpu__time_duration.sum", "us", "9"])
    assert read_traces([*pages, other])["activities"].num_rows == 2
    sentences = [loss.sentence for loss in read_traces(pages).losses]
    assert len(sentences) == len(set(sentences))


def test_pages_that_differ_are_two_reports(page: Callable[..., Path], tmp_path: Path) -> None:
    row = [*lead(0), "gpu__time_duration.sum", "us"]
    one = page(LONG, [*row, "9"]).rename(tmp_path / "one.csv")
    again = page(LONG, [*row, "9.01"]).rename(tmp_path / "again.csv")
    slower = page(LONG, [*row, "12"])
    assert read_traces([one, again])["activities"].num_rows == 1
    assert read_traces([one, slower])["activities"].num_rows == 2
