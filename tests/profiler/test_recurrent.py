"""Models that keep a state: what they remember between steps, and a run of them from profile to report."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from profiler.memory import memory_of
from profiler.noting import unfused_words
from profiler.ranges import FAMILIES
from profiler.subject import Subject
from roofline.run import open_run
from tests.profiler.conftest import FIELDS, Finished
from workloads.catalogue import Loaded

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

Roofline = Callable[..., Finished]
# In transformers a token of Bamba differs from the same at a prompt's end by 0.002, with its own cache, too.
APART = {"bamba": 5e-3}
RECURRENT = [name for name, parts in FAMILIES.items() if parts.is_recurrent]


@pytest.mark.parametrize("name", RECURRENT)
def test_a_token_after_a_prompt_finds_what_the_whole_prompt_leaves(
    name: str, subject: Callable[..., Subject]
) -> None:
    model = subject(name)
    memory = memory_of(model.network, model.layers, 9)
    torch.manual_seed(5)
    tokens = model.tokens(1 if name == "rwkv" else 2, 9)

    def logits(part: Any) -> Any:
        output = model.network(part, **memory.told())
        memory.keep(output)
        return output.logits[:, -1]

    with torch.inference_mode():
        whole = logits(tokens)
        memory.rewind(0)
        first = logits(tokens[:, :-1])
        assert torch.allclose(logits(tokens[:, -1:]), whole, atol=APART.get(name, 1e-5))
        memory.rewind(0)
        assert torch.equal(logits(tokens[:, :-1]), first)  # a prompt finds no state of another


@pytest.fixture(scope="module", params=["mamba", "jamba", "rwkv"])
def recurrent_run(request: pytest.FixtureRequest, profiled: Callable[[str, int], Path]) -> Path:
    """A profiled model of each kind: scans alone, a hybrid, and one with operators in one range."""
    return profiled(request.param, 2)


def test_every_operator_of_a_run_is_predicted_and_every_predicted_one_measured(recurrent_run: Path) -> None:
    from hwspecs import load_device
    from roofline.validate import validate

    found = validate(open_run(recurrent_run), load_device("l4"), "datasheet")
    assert found.unmatched.empty
    assert set(found.matched["phase"]) == {"prefill", "decode"}


def test_operators_without_a_fused_kernel_are_named(recurrent_run: Path) -> None:
    run = open_run(recurrent_run)
    packages = FAMILIES[run.head.model_config_fields["model_type"]].packages
    said = [note for note in run.head.notes if "operations in the step" in note]
    assert {note.split(" ran as ")[0] for note in said} == set(packages)


def test_it_can_be_reported(recurrent_run: Path, roofline: Roofline, tmp_path: Path) -> None:
    done = roofline("report", recurrent_run, "--hw", "l4", "-o", tmp_path / "report.html")
    assert done.code == 0, done.err
    assert "layers." in (tmp_path / "report.html").read_text()


FORMS = {
    "mamba": ("scan", "position by position", "position by position"),
    "mamba2": ("ssd", "chunk by chunk", "position by position"),
    "qwen3_next": ("rule", "chunk by chunk", "position by position"),
    "rwkv": ("wkv", "position by position", "position by position"),
}


@pytest.mark.parametrize("name", FORMS)
def test_every_operator_runs_alone_and_says_what_ran(
    name: str, roofline: Roofline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("profiler.alone.last_level_cache_bytes", lambda _: 1 << 18)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": name, **FIELDS[name]}))
    sizes = ("--phase", "generate", "--prompt", 12, "--output", 2, "--repeats", 1)
    done = roofline("profile", tmp_path, *sizes, "--device", "cpu", "-o", tmp_path / "run")
    assert done.code == 0, done.err
    assert "not measured alone" not in done.err
    alone = open_run(tmp_path / "run").table("operators").query("where == 'alone'")
    operator, *forms = FORMS[name]
    ran = alone[alone["name"].str.endswith(f".{operator}")].set_index("phase")["kernel"]
    assert [ran["prefill"], ran["decode"]] == [f"torch, {form}" for form in forms]


def test_a_kernel_of_an_installed_package_is_not_called_unfused() -> None:
    rows = [{"operator": "layers.mamba.scan", "name": "aten::mul", "count": 20}]
    words = [
        list(unfused_words("decode", rows, {"layers.mamba.scan": package}, {"layers.mamba.scan": 4}))
        for package in ("torch", "no_such_package", "")
    ]
    assert [len(said) for said in words] == [0, 1, 1]
    assert all("ran as 5 operations" in said[0] for said in words[1:])


def test_a_batch_that_transformers_mixes_up_is_refused(
    subject: Callable[..., Subject], roofline: Roofline, tmp_path: Path
) -> None:
    """One position of three sequences becomes nine: were it not so any more, it need not be refused."""
    model = subject("rwkv")
    memory = memory_of(model.network, model.layers, 2)
    with torch.inference_mode():
        memory.keep(model.network(model.tokens(3, 1), **memory.told()))
        assert model.network(model.tokens(3, 1), **memory.told()).logits.shape[:2] == (3, 3)
    (tmp_path / "config.json").write_text(json.dumps(dict(model.loaded.config)))
    sizes = ("--phase", "decode", "--context", 8, "--batch", 3)
    done = roofline("profile", tmp_path, *sizes, "-o", tmp_path / "run")
    assert (done.code, done.out) == (2, "")
    assert "transformers mixes those of a batch; take --batch 1" in done.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--mode", "compile"), "leave --mode compile out, its family is profiled without"),
        (("--with", "weight-only"), "leave --with out, its family is profiled without"),
        (("--attention", "math"), "has no attention; leave --attention out"),
    ],
)
def test_what_a_state_does_not_allow_is_refused_before_anything_is_made(
    words: tuple[str, ...], said: str, tiny: Callable[..., Loaded], roofline: Roofline, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(dict(tiny("mamba").config)))
    done = roofline("profile", tmp_path, *words, "-o", tmp_path / "run")
    assert (done.code, done.out) == (2, "")
    assert said in done.err
    assert not (tmp_path / "run").exists()


def test_a_library_without_a_class_for_it_has_an_empty_state_where_nothing_is_remembered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As transformers 5.17 has it: what such a layer holds stays empty, and other layers tell the length."""
    from importlib.util import module_from_spec

    from transformers import cache_utils

    from profiler import states

    monkeypatch.delattr(cache_utils, "DummyLayer", raising=False)
    assert states.__spec__ is not None
    assert states.__spec__.loader is not None
    older = module_from_spec(states.__spec__)
    states.__spec__.loader.exec_module(older)
    layer = older.NoLayer()
    layer.rewind(0)
    assert isinstance(layer, cache_utils.LinearAttentionLayer)
    assert not layer.is_conv_states_initialized[0]
