"""Models of two stacks: what a decoder keeps of its encoder, and a run of them from profile to report."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from profiler.attending import masked_as_launched
from profiler.forward import Point, fixed_step, step
from profiler.origins import operators_of
from profiler.parts.base import FACTORS, HEADS, INPUTS
from profiler.steps import operators_at
from profiler.subject import Subject
from profiler.treatments.products import projections
from roofline.run import open_run
from roofline.together import parts
from tests.profiler.conftest import FIELDS, Finished

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

Roofline = Callable[..., Finished]
COMPILED = ("t5", "bart", "whisper")
NAMES = ("t5", "switch_transformers", "bart", "whisper")


@pytest.mark.parametrize("name", NAMES)
def test_a_decode_step_is_the_last_position_of_the_whole(
    name: str, subject: Callable[..., Subject], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twelve are read, four written: the fifth, again and again, has the logits that no cache gives."""
    model = subject(name)
    drawn, read = [], []
    prompt_of = model.prompt

    def tokens(batch: int, length: int) -> torch.Tensor:
        drawn.append(torch.randint(5, 100, (batch, length)))
        return drawn[-1]

    def prompt(batch: int, length: int) -> torch.Tensor:
        read.append(prompt_of(batch, length))
        return read[-1]

    monkeypatch.setattr(model, "tokens", tokens)
    monkeypatch.setattr(model, "prompt", prompt)
    with torch.inference_mode():
        for point, written in ((Point("prefill", 2, 12, 12, 12), 0), (Point("decode", 2, 1, 16, 12), 4)):
            drawn.clear()
            run = step(model, point, point.kv_len)
            last, *before = [part for part in drawn if part is not read[-1]]
            assert [part.shape for part in before] == [(2, written)] * bool(written)
            inputs = {model.network.main_input_name: read[-1], "use_cache": False}
            whole = model.network(decoder_input_ids=torch.cat([*before, last], 1), **inputs)
            for _ in range(2):
                assert torch.allclose(run(lambda logits: logits.clone()), whole.logits[:, -1:], atol=1e-5)


@pytest.mark.parametrize("point", [Point("prefill", 2, 12, 12, 12), Point("decode", 2, 1, 16, 12)])
@pytest.mark.parametrize("name", COMPILED)
def test_a_step_with_fixed_caches_is_one_graph_of_all_operators(
    name: str, point: Point, subject: Callable[..., Subject]
) -> None:
    """As torch.compile captures it; what it generates of the graph has the operators of the nodes."""
    model, captured = subject(name), []

    def capture(graph: Any, _: Any) -> Any:
        captured.append(graph.graph)
        return graph.forward

    torch._dynamo.reset()
    with torch.inference_mode(), masked_as_launched():
        torch.manual_seed(1)
        expected = step(model, point, point.kv_len)(torch.clone)
        torch.manual_seed(1)
        run = torch.compile(fixed_step(model, point), backend=capture, dynamic=False)
        for _ in range(3):
            assert torch.allclose(run(torch.clone), expected, atol=1e-5)
    (graph,) = captured
    described = {named.name for named in operators_at(model.loaded, "fp32", point)}
    found = {part for name in operators_of(graph.nodes, model).values() for part in parts(name, described)}
    assert found - {INPUTS, HEADS, FACTORS} == described


@pytest.fixture(scope="module", params=NAMES)
def run_of_two_stacks(request: pytest.FixtureRequest, profiled: Callable[[str, int], Path]) -> Path:
    return profiled(request.param, 4)


def test_tables_say_how_much_of_a_context_is_the_encoders(run_of_two_stacks: Path) -> None:
    run = open_run(run_of_two_stacks)
    points = run.table("steps")[["q_len", "kv_len", "encoder_len"]].drop_duplicates()
    assert points.to_numpy().tolist() == [[12, 12, 12], [1, 13, 12], [1, 15, 12]]
    assert {found.encoder_len for found in (*run.head.overheads, *run.head.attributed)} == {12}


def test_every_operator_of_both_stacks_is_predicted_and_measured(run_of_two_stacks: Path) -> None:
    from hwspecs import load_device
    from roofline.validate import validate

    found = validate(open_run(run_of_two_stacks), load_device("l4"), "datasheet")
    assert found.unmatched.empty
    inside = found.matched[found.matched["name"].str.contains("layers.")]
    measured = (inside["measured_s"] * inside["count"]).groupby(inside["kv_len"]).sum()
    assert found.layers.set_index("kv_len")["measured_s"].to_dict() == pytest.approx(measured.to_dict())
    assert {name.partition(".")[0] for name in found.matched.query("phase == 'prefill'")["name"]} == {
        "encoder",
        "decoder",
    }


@pytest.mark.parametrize("run_of_two_stacks", ["t5"], indirect=True)
def test_it_is_shown_validated_reported_and_compared(
    run_of_two_stacks: Path, roofline: Roofline, tmp_path: Path
) -> None:
    out = run_of_two_stacks
    shown = roofline("show", out)
    assert (shown.code, "encoder's" in shown.out) == (0, True)
    assert "decoder.layers.cross_attention.core" in shown.out
    checked = roofline("validate", out, "--hw", "l4")
    assert (checked.code, "encoder's" in checked.out) == (0, True)
    reported = roofline("report", out, "--hw", "l4", "-o", tmp_path / "report.html")
    assert reported.code == 0, reported.err
    assert "13 (12 of the encoder)" in (tmp_path / "report.html").read_text()
    compared = roofline("diff", out, out)
    assert compared.code == 0, compared.err


def test_runs_from_before_the_column_had_no_encoder(run_of_two_stacks: Path) -> None:
    run = open_run(run_of_two_stacks)
    file = run.path / "outliers.parquet"
    old = pd.DataFrame({"phase": ["decode"], "batch": [1], "q_len": [1], "kv_len": [9]})
    columns = ("instrumented", "repeat", "step_s", "time_s")
    old.assign(**dict.fromkeys(columns, 0)).to_parquet(file)
    assert run.table("outliers")["encoder_len"].tolist() == [0]
    file.unlink()


def test_why_attention_is_not_fused_is_told(run_of_two_stacks: Path) -> None:
    head = open_run(run_of_two_stacks).head
    (told,) = [note for note in head.notes if note.startswith("attention ")]
    if head.model_config_fields["model_type"] == "switch_transformers":
        assert told.endswith("its scores in memory: the model attends by code of its own in transformers")
    else:
        assert told == "attention was computed by: flash"


@pytest.mark.parametrize(("name", "dtype"), [*((name, "fp32") for name in NAMES), ("bart", "bf16")])
def test_techniques_are_measured_and_predicted_on_both_stacks(
    name: str, dtype: str, roofline: Roofline, tmp_path: Path
) -> None:
    from hwspecs import load_device
    from roofline.gains import gains

    (tmp_path / "config.json").write_text(json.dumps({"model_type": name, **FIELDS[name]}))
    sizes = ("--phase", "generate", "--prompt", 12, "--output", 2, "--dtype", dtype, "--repeats", 2)
    words = ("--with", "int8-weight-only", "--with", "flash-attention", "--no-alone")
    done = roofline("profile", tmp_path, *sizes, *words, "-o", tmp_path / "run")
    assert done.code == 0, done.err
    run = open_run(tmp_path / "run")
    found = gains(run, load_device("l4"), "datasheet")
    own = any("attends by code of its own" in note for note in run.head.notes)
    assert own == (name == "switch_transformers")
    techniques = ["weight-only-quantisation"] + ["flash-attention"] * (not own)
    assert found["technique"].str.partition(":")[0].tolist() == techniques * 2
    points = found[["phase", "kv_len", "encoder_len"]].drop_duplicates().to_numpy().tolist()
    assert points == [["prefill", 12, 12], ["decode", 13, 12]]
    assert (found[["predicted_base_s", "predicted_s"]] > 0).all(axis=None)
    assert (found.loc[found["technique"].str.startswith("weight"), "deviation"] > 0).all()  # which rounds


@pytest.mark.parametrize("name", NAMES)
def test_products_are_exchanged_in_both_stacks(name: str, subject: Callable[..., Subject]) -> None:
    model = subject(name)
    within = {id(linear) for *_, linear in projections(model)}
    scopes = {
        path.removeprefix("model.").partition(".")[0]: id(module) in within
        for path, module in model.network.named_modules()
        if isinstance(module, torch.nn.Linear)
    }
    assert (scopes.pop("encoder"), scopes.pop("decoder")) == (True, True)
    assert not any(scopes.values())  # the vocabulary's


@pytest.mark.parametrize(
    ("name", "flag", "said"),
    [
        ("switch_transformers", ("--mode", "compile"), "leave --mode compile out"),
        ("t5", ("--mode", "graph"), "--mode graph replays a CUDA graph, and the model would run on cpu"),
        ("t5", ("--with", "prefix-caching"), "the model has an encoder, and with one run: weight-only"),
    ],
)
def test_other_ways_to_run_it_are_refused(
    name: str, flag: tuple[str, str], said: str, roofline: Roofline, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": name, **FIELDS[name]}))
    done = roofline("profile", tmp_path, *flag, "--prompt", 12, "-o", tmp_path / "run")
    assert (done.code, done.out) == (2, "")
    assert said in done.err
