"""A model that processes share, from the command to the validated run."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hwspecs import load_device
from hwspecs.values import Sourced
from profiler.forward import Point
from profiler.ranges import FAMILIES as RANGES
from profiler.ranks import share
from profiler.ranks.group import Ranks, joined
from profiler.ranks.share import check_share
from profiler.request import Request, check_request
from profiler.steps import operators_at
from profiler.subject import load_subject
from profiler.treatments.weight_only import has_fbgemm
from roofline.run import open_run
from roofline.run_tables import POINT
from roofline.validate import validate
from specfiles.errors import InputError
from workloads.catalogue import Loaded, load_model
from workloads.operators import Gemm
from workloads.operators.collective import PATTERNS
from workloads.techniques.registry import parse

SIZES = ("--device", "cpu", "--prompt", 12, "--output", 3, "--repeats", 2, "--no-alone")
ROWS = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "lm_head")  # cut by rows of the weight
COLUMNS = ("o_proj", "down_proj")
SUMS = ("layers.attention_allreduce", "layers.mlp_allreduce")
OUTSIDE = ("embedding_allreduce", "logits_allgather")
TINY = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 8, "num_key_value_heads": 4,
    "intermediate_size": 96, "vocab_size": 160, "max_position_embeddings": 64, "pad_token_id": 0,
}  # fmt: skip


@pytest.fixture
def model(tmp_path: Path, brief: None) -> Path:
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", **TINY}))
    return folder


def cut(name: str, whole: torch.Tensor, rank: int, count: int) -> torch.Tensor:
    """What a rank holds of a parameter."""
    kind = name.split(".")[-2]
    if kind == "embed_tokens":  # and zeros for what it has not
        return torch.nn.functional.pad(whole.chunk(count)[rank], (0, 0, 0, 1))
    if kind in ROWS:
        return whole.chunk(count)[rank]
    return whole.chunk(count, dim=1)[rank] if kind in COLUMNS and whole.ndim > 1 else whole


def shares_add_up(rank: int, loaded: Loaded, count: int) -> None:
    """Each rank's logits are those of the whole model, whose parameters they hold parts of."""
    whole = load_subject(loaded, "cpu", "fp64", seed=3)
    with joined(Ranks(rank, count, rank), "cpu") as _, torch.inference_mode():
        part = load_subject(loaded, "cpu", "fp64", seed=3, tensor_parallel=count)
        for name, held in part.network.named_parameters():
            held.copy_(cut(name, whole.network.get_parameter(name), rank, count))
        tokens = whole.tokens(2, 9)
        torch.distributed.broadcast(tokens, 0)
        theirs = whole.network(tokens).logits
        torch.testing.assert_close(part.network(tokens).logits, theirs, rtol=1e-9, atol=1e-9)
        point = Point("prefill", 2, 9, 9)
        parts = RANGES[loaded.model.family]
        modules = {name: path for path, name in parts.modules.items()}
        layer = part.network.model.layers[0]
        for named in operators_at(loaded, "fp64", point, count):
            if isinstance(named.operator, Gemm) and named.name in modules:
                weight = layer.get_submodule(modules[named.name]).weight
                assert tuple(weight.shape) == (named.operator.n, named.operator.k), named.name


@pytest.mark.parametrize("family", share.FAMILIES)
def test_shares_compute_what_the_whole_model_does(
    family: str, tiny: Callable[..., Loaded], processes: Callable[..., Any]
) -> None:
    loaded = tiny(family, **TINY, head_dim=8, attention_bias=True)
    found = processes(lambda rank: shares_add_up(rank, loaded, 2))
    assert found.wait() == [0, 0], found.said()


@pytest.mark.parametrize(
    ("name", "devices", "sentence"),
    [
        ("SmolLM2-135M", 2, r"9 attention heads, which 2 devices do not divide; choose another --tp"),
        ("GPT-2", 2, r"of family 'gpt2'; models that several processes share are of llama, .*leave --tp out"),
    ],
)
def test_what_cannot_be_shared_is_refused(name: str, devices: int, sentence: str) -> None:
    model = load_model(name).model
    with pytest.raises(InputError, match=sentence):
        check_share(model, devices, [1])
    check_share(model, 1, [1])


def linked(file: Path) -> Any:
    """The device of a file with a link between processes: 5 GB/s through shared memory."""
    device = load_device(file)
    rate = Sourced(value=5e9, source=next(iter(device.sources)))
    return device.replace(measured=device.measured.replace(links={"pcie": rate}))


@pytest.mark.slow
def test_a_shared_model_is_profiled_and_validated(
    model: Path, measured_file: Path, torchrun: Callable[..., Any], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    found = torchrun("profile", model, "--tp", 2, *SIZES, "-o", out)
    assert found.wait() == [0, 0], found.said()
    run = open_run(out)
    assert (run.head.status, run.head.tensor_parallel) == ("complete", 2)
    loaded = load_model(model)
    operators = run.table("operators")
    for point, group in operators.groupby(POINT):
        described = operators_at(loaded, "fp32", Point(*point), 2)  # type: ignore[misc]
        inside = group[group["where"] == "model"]
        assert set(inside["name"]) == {named.name for named in described}
        assert set(group["kind"]) & set(PATTERNS) == {"allreduce", "allgather"}
    matched = run.table("collectives")
    counts = dict(zip(matched["name"], matched["count"], strict=False))
    assert counts == {**dict.fromkeys(SUMS, len(loaded.model.layers)), **dict.fromkeys(OUTSIDE, 1)}
    assert (matched["uncertainty_s"] == 0).all()  # one machine, one clock
    nobody_leaves_before_the_last_has_come(out)
    checked = validate(run, linked(measured_file), "calibrated")
    assert checked.unmatched.empty
    assert (checked.matched["measured_s"] > 0).all()


def nobody_leaves_before_the_last_has_come(out: Path) -> None:
    """An all-reduce needs everyone's numbers."""
    both = [open_run(out / f"rank{rank}").table("arrivals") for rank in (0, 1)]
    place = [*POINT, "name", "repeat", "index"]
    met = both[0].merge(both[1], on=place, validate="1:1")
    assert len(met) == len(both[0]) == len(both[1]) > 0
    last = met[["begin_s_x", "begin_s_y"]].max(axis=1)
    assert (met[["end_s_x", "end_s_y"]].min(axis=1) >= last).all()


@pytest.mark.slow
def test_replicas_run_side_by_side(model: Path, torchrun: Callable[..., Any], tmp_path: Path) -> None:
    out = tmp_path / "run"
    found = torchrun("profile", model, *SIZES, "-o", out)
    assert found.wait() == [0, 0], found.said()
    run = open_run(out)
    assert (run.head.status, run.head.tensor_parallel) == ("complete", 1)
    assert run.table("collectives").empty
    steps = [open_run(out / f"rank{rank}").table("steps") for rank in (0, 1)]
    slowest = steps[0]["median_s"].combine(steps[1]["median_s"], max)
    assert sorted(run.table("steps")["median_s"]) == sorted(slowest)
    again = torchrun("profile", model, *SIZES, "-o", out)
    assert again.wait() == [2, 2]
    assert "a run is already there" in again.said()


DECODE = ("--device", "cpu", "--phase", "decode", "--context", 20, "--repeats", 2, "--no-alone")


@pytest.mark.slow
def test_a_shared_model_may_be_compiled(model: Path, torchrun: Callable[..., Any], tmp_path: Path) -> None:
    """In one graph with its sums, which bear the names that they have without compilation."""
    if not shutil.which(os.environ.get("CXX", "g++")):
        pytest.skip("no C++ compiler, which torch.compile needs")
    found = torchrun("profile", model, "--tp", 2, *DECODE, "--mode", "compile", "-o", tmp_path / "run")
    assert found.wait() == [0, 0], found.said()
    run = open_run(tmp_path / "run")
    assert (run.head.status, run.head.mode, run.head.tensor_parallel) == ("complete", "compile", 2)
    assert (run.head.compilations[0].graphs, run.head.compilations[0].breaks) == (1, [])
    operators = run.table("operators").set_index("name")
    for name in (*SUMS, *OUTSIDE):
        assert operators.loc[name, "median_s"] > 0
    kernels = run.table("kernels")
    sums = kernels[kernels["name"].str.startswith("_c10d_functional")]
    assert set(sums["operator"]) == {*SUMS, *OUTSIDE}


@pytest.mark.slow
def test_techniques_run_on_a_shared_model(model: Path, torchrun: Callable[..., Any], tmp_path: Path) -> None:
    """All processes repeat as often, and projections with narrow weights are still summed over them.

    Without the sums of one rank's terms results would differ as much as they are large.
    """
    words = ("window-attention:window=8", "layer-pruning:ratio=0.5", "window-attention:window=900")
    words += ("weight-only:format=int8",) if has_fbgemm() else ()
    asked = [word for name in words for word in ("--with", name)]
    found = torchrun("profile", model, "--tp", 2, *DECODE, *asked, "-o", tmp_path / "run")
    assert found.wait() == [0, 0], found.said()
    run = open_run(tmp_path / "run")
    rows = [open_run(tmp_path / "run" / f"rank{rank}").table("techniques") for rank in (0, 1)]
    assert len(rows[0]) == len(words) - 1  # the wide window is no window here, which costs its row alone
    assert any("a window of 900 holds all 20 tokens" in note for note in run.head.notes)
    assert rows[0]["repeats"].tolist() == rows[1]["repeats"].tolist()
    assert rows[0]["warm_ups"].tolist() == rows[1]["warm_ups"].tolist()
    rows[0] = rows[0].set_index(rows[0]["technique"].str.partition(":")[0])
    assert rows[0].loc["window-attention", "deviation"] < 1e-4
    if has_fbgemm():
        assert 0 < rows[0].loc["weight-only-quantisation", "deviation"] < 0.1


def test_a_technique_with_a_model_of_its_own_is_refused(model: Path) -> None:
    """Its draft is no share."""
    loaded = load_model(model)
    request = Request(loaded, "cpu", "fp32", (Point("decode", 1, 1, 20),), Path("x"), "here")
    request.techniques, request.tensor_parallel = (parse("gqa:kv_heads=2"),), 2
    with pytest.raises(InputError, match=r"processes share the model, on which run: .*; leave --tp out"):
        check_request(request)
    request.tensor_parallel = 1
    check_request(request)


def killed(victim: int, found: Any, out: Path) -> list[int]:
    """Kill one of two processes in the middle of its measurement; how both ended."""
    deadline = time.monotonic() + 600
    while not all((out / f"rank{rank}" / "operators.parquet").exists() for rank in (0, 1)):
        assert time.monotonic() < deadline, found.said()
        assert len(found.running()) == 2, found.said()
        time.sleep(0.02)
    found.send(victim, signal.SIGKILL)
    codes: list[int] = found.wait()
    return codes


ENDLESS = [word if word != 2 else 100_000 for word in SIZES]


@pytest.mark.slow
def test_the_parts_stand_where_the_first_process_is_killed(
    model: Path, torchrun: Callable[..., Any], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    found = torchrun("profile", model, "--tp", 2, *ENDLESS, "-o", out)
    assert killed(0, found, out) == [-signal.SIGKILL, 2], found.said()
    run, part = open_run(out), open_run(out / "rank1")
    assert run.head.status == "running"
    assert run.head.notes == ["2 ranks began; not merged yet: their parts are in rank0, rank1, ..."]
    assert part.head.status == "failed"
    assert not part.table("operators").empty


@pytest.mark.slow
def test_a_process_that_is_killed_is_named(model: Path, torchrun: Callable[..., Any], tmp_path: Path) -> None:
    out = tmp_path / "run"
    found = torchrun("profile", model, "--tp", 2, *ENDLESS, "-o", out)
    assert killed(1, found, out) == [2, -signal.SIGKILL], found.said()
    assert "another process of the run ended early; what was measured is there" in found.said()
    run = open_run(out)
    assert run.head.status == "failed"
    assert [part.status for part in run.head.parts] == ["failed", "running"]
    assert any(note.startswith("rank 1 is missing its end") for note in run.head.notes)
    assert not run.table("operators").empty


def test_processes_are_asked_for_before_anything_runs(
    roofline: Callable[..., Any], model: Path, tmp_path: Path
) -> None:
    done = roofline("profile", model, "--tp", 2, *SIZES, "-o", tmp_path / "run")
    assert done.code == 2
    assert "torchrun --nproc-per-node 2 -m profiler profile" in done.err
    assert not (tmp_path / "run").exists()


@pytest.mark.gpu
@pytest.mark.slow
def test_a_model_is_shared_by_gpus(model: Path, cuda: str, tmp_path: Path) -> None:
    """Processes of their own: CUDA does not survive a fork."""
    if torch.cuda.device_count() < 2:
        pytest.skip("there is one GPU")
    out = tmp_path / "run"
    words = [str(word) if word != "cpu" else "cuda" for word in SIZES]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "profiler"]
    command = [*torchrun, "profile", str(model), "--tp", "2", *words, "-o", str(out)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert ended.returncode == 0, ended.stderr
    run = open_run(out)
    assert [part.status for part in run.head.parts] == ["complete", "complete"]
    matched = run.table("collectives")
    assert set(matched["count"]) == {1, TINY["num_hidden_layers"]}
    assert ((matched["median_s"] > 0) & (matched["median_s"] < 0.01)).all()
    assert (matched["uncertainty_s"] < 1e-3).all()
