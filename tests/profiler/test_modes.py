"""Steps compiled and captured: what a run holds of them, and what cannot run here."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from profiler.compiled import _Call, _sites
from profiler.forward import Point, fixed_step, greedy
from profiler.origins import operators_of
from profiler.parts.base import INPUTS
from profiler.steps import operators_at
from profiler.subject import Subject
from roofline.run import Run, open_run
from roofline.together import parts

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

Roofline = Callable[..., Any]
POINT = Point("decode", 1, 1, 40)


@pytest.mark.parametrize("point", [Point("prefill", 2, 7, 7), POINT, Point("decode", 2, 1, 9)])
def test_a_cache_of_fixed_size_gives_what_the_whole_sequence_gives(
    point: Point, subject: Callable[..., Subject]
) -> None:
    """And every repeat of the step finds the same cache."""
    model, before = subject("llama"), point.kv_len - point.q_len
    with torch.inference_mode():
        torch.manual_seed(3)
        run = fixed_step(model, point)
        torch.manual_seed(3)
        cached, new = model.tokens(point.batch, point.kv_len), model.tokens(point.batch, point.q_len)
        expected = model.network(torch.cat([cached[:, :before], new], 1), logits_to_keep=1).logits
        for _ in range(2):
            torch.testing.assert_close(run(lambda logits: logits), expected, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def runs(
    small_llama: Path, roofline: Roofline, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Run]:
    """The same decode step eager and compiled."""
    if not (shutil.which("g++") or shutil.which("clang++")):
        pytest.skip("no C++ compiler to compile a model with")
    made: dict[str, Run] = {}

    def run(mode: str) -> Run:
        if mode not in made:
            folder = tmp_path_factory.mktemp(mode) / "run"
            asked = ("--phase", "decode", "--context", 39, "--device", "cpu", "--repeats", 2, "--no-alone")
            done = roofline("profile", small_llama, *asked, "--mode", mode, "-o", folder)
            assert done.code == 0, done.err
            made[mode] = open_run(folder)
        return made[mode]

    return run


def test_a_compiled_step_is_attributed_to_its_operators(runs: Callable[[str], Run]) -> None:
    """Each operator of the model once, alone or beside those that it shares kernels with."""
    run = runs("compile")
    assert (run.head.mode, run.head.convention) == ("compile", "fused")
    (share,) = run.head.attributed
    kernels = run.table("kernels")
    outside = set(kernels.loc[kernels["operator"] == "", "name"])
    assert not [name for name in outside if "::" in name or "cpp_fused" in name]  # which frames have not
    assert share.in_operators_s + share.in_framework_s == pytest.approx(share.of_s)
    assert share.in_operators_s > 0
    operators = runs("eager").table("operators")
    eager = set(operators.loc[operators["where"] == "model", "name"])
    found = [part for name in run.table("operators")["name"] for part in parts(name, eager)]
    assert sorted(found) == sorted(eager)


class Node(SimpleNamespace):
    """A node of a graph that a module's code has made."""

    __hash__ = object.__hash__

    def __init__(self, name: str, path: str) -> None:
        stack = {str(at): (f"root{part}", None) for at, part in enumerate(("", path))}
        meta = {"nn_module_stack": stack, "from_node": [SimpleNamespace(name=name)]}
        super().__init__(name=name, op="call_function", meta=meta, target=None)


def test_a_kernel_that_prepares_what_a_library_reads_has_its_operator() -> None:
    """As T5's mask of zeros for attention to the encoder, a part of no operator by itself."""
    zeros, attention = (Node(name, ".decoder.block.0.layer.1") for name in ("zeros", "attention"))
    calls = [_Call("filled", (attention, zeros), library=False), _Call("attend", (attention,), library=True)]
    found = [site.operators for site in _sites(calls, {"attention": "core"})]
    assert found == [("core",), ("core",)]


def test_rotary_tables_are_the_framework_s_where_a_kernel_makes_nothing_else(
    subject: Callable[..., Subject],
) -> None:
    """On a GPU kernels of their own make them; on a CPU they fuse into what reads them."""
    paths = {
        "embed": ".model.embed_tokens",
        "table": ".model.rotary_emb",
        "query": ".model.layers.0.self_attn.q_proj",
        "behind": ".model",
    }
    nodes = [Node(name, path) for name, path in paths.items()]
    named = operators_of(nodes, subject("llama"))
    assert named == {"embed": "embedding", "table": INPUTS, "query": "layers.attention.q_proj"}
    alone, fused = (
        _Call(name, tuple(nodes[at:2]), library=False) for name, at in (("alone", 1), ("fused", 0))
    )
    assert [site.operators for site in _sites([alone], named)] == [(INPUTS,)]
    assert [site.operators for site in _sites([fused], named)] == [("embedding",)]


def test_a_decoder_without_a_head_is_one_graph_with_the_head_it_is_given(
    subject: Callable[..., Subject],
) -> None:
    """In several, paths of modules begin inside the model, and no node has an operator."""
    model, graphs = subject("qwen3_vl_text"), []

    def keep(graph: Any, _: Any) -> Any:
        graphs.append(graph.graph)
        return graph.forward

    with torch.inference_mode():
        run = fixed_step(model, POINT)
        torch.compile(lambda: run(greedy), backend=keep)()
    (graph,) = graphs
    found = set(operators_of(graph.nodes, model).values())
    described = {named.name for named in operators_at(model.loaded, "fp32", POINT)}
    assert found - {INPUTS} == described


def test_what_follows_attention_has_its_operator(subject: Callable[..., Subject]) -> None:
    """The difference of DiffLlama's heads is no module, and none ends before it."""
    inside = ".model.layers.0.self_attn"
    paths = {"value": f"{inside}.v_proj", "heads": inside, "attend": inside, "subtract": inside}
    nodes = [Node(name, path) for name, path in paths.items()]
    nodes[2].meta["stack_trace"] = "File x.py, line 1, in sdpa_attention_forward"
    named = operators_of(nodes, subject("diffllama"))
    assert {name: each.rpartition(".")[2] for name, each in named.items()} == {
        "value": "v_proj",
        "attend": "core",
        "subtract": "difference",
    }


def test_products_and_attention_keep_their_own_rows_and_small_operators_share_theirs(
    runs: Callable[[str], Run],
) -> None:
    operators = runs("compile").table("operators").set_index("name")
    alone = {"q_proj", "k_proj", "v_proj", "core", "o_proj"}
    assert {f"layers.attention.{name}" for name in alone} <= set(operators.index)
    assert operators.loc["layers.mlp.down_proj", "count"] == 3
    together = [name for name in operators.index if "final_norm" in name]
    assert together == ["layers.attention_norm + mlp_residual + embedding + final_norm"]
    assert operators.loc[together[0], "count"] == 1  # its operators run 3, 3, 1 and 1 times


def test_compiling_is_stated_apart_and_was_done_once(runs: Callable[[str], Run]) -> None:
    run = runs("compile")
    (made,) = run.head.compilations
    assert (made.graphs, made.recompilations, made.breaks) == (1, 0, [])
    assert made.seconds > 0
    assert any("no recompilation" in note for note in run.head.notes)
    assert runs("eager").head.compilations == []


def test_a_compiled_run_is_validated_and_compared_with_an_eager_one(
    runs: Callable[[str], Run], measured_file: Path, roofline: Roofline
) -> None:
    compiled, eager = runs("compile"), runs("eager")
    done = roofline(
        "validate", compiled.path, "--hw", measured_file, "--fidelity", "measured", "--format", "json"
    )
    assert done.code == 0, done.err
    (found,) = json.loads(done.out)["fidelities"]
    assert {row["name"] for row in found["matched"]} == set(compiled.table("operators")["name"])
    assert found["unmatched"] == []
    done = roofline("diff", eager.path, compiled.path)
    assert done.code == 0, done.err
    assert "layers.mlp.gate_proj" in done.out


def test_modes_are_refused_in_one_sentence(
    small_llama: Path, roofline: Roofline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(mode: str) -> str:
        done = roofline("profile", small_llama, "--device", "cpu", "--mode", mode, "-o", tmp_path / "run")
        assert (done.code, done.out, (tmp_path / "run").exists()) == (2, "", False)
        return str(done.err)

    assert "use --device cuda, or --mode eager or compile" in refused("graph")
    assert "known: eager, compile, graph" in refused("fast")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert "install g++" in refused("compile")


@pytest.mark.gpu
@pytest.mark.parametrize("mode", ["compile", "graph"])
def test_on_a_gpu_a_mode_gives_the_eager_tokens_and_its_kernels_have_operators(
    mode: str, cuda: str, subject: Callable[..., Subject], tmp_path: Path
) -> None:
    from profiler.kernel_times import shares
    from profiler.steps import Timed
    from profiler.ways import WAYS

    model = subject("llama", cuda, "bf16")
    with torch.inference_mode():
        torch.manual_seed(1)
        logits = fixed_step(model, POINT)(lambda logits: logits[:, -1].float())
        torch.manual_seed(1)
        way, timed = WAYS[mode](model, POINT), Timed()
        chosen = logits.gather(1, way.once()[:, None])[:, 0]  # type: ignore[attr-defined]
        # Compiled kernels round bf16 less often: of two tokens that are nearly as likely either is right.
        assert (chosen >= logits.amax(1) - 0.02 * logits.abs().amax(1)).all()
        way.visit(timed)
        found = shares(way.trace(tmp_path / "trace.json.gz"), on_device=True)
    assert min(timed.plain) > 0
    assert found["in_operators_s"] + found["in_framework_s"] >= 0.95 * found["of_s"] > 0
    assert "layers.attention.core" in timed.ranges
