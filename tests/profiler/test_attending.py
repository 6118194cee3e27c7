"""What computes attention is chosen, checked and heard."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from profiler.attending import CHOICES, attended, attending, check_attention
from profiler.subject import Subject
from profiler.traced import traced
from roofline.run import open_run
from specfiles.errors import InputError
from workloads.catalogue import Loaded

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")


def attend(q_len: int = 8, device: str = "cpu", dtype: Any = None) -> Any:
    query = torch.randn(1, 2, q_len, 64, device=device, dtype=dtype)
    return torch.nn.functional.scaled_dot_product_attention(query, query, query, is_causal=True)


@pytest.mark.parametrize("name", ["flash", "math"])
def test_the_backend_that_was_asked_for_runs_and_is_heard(name: str) -> None:
    with attending(name):
        assert attended(traced("cpu", attend)) == {name}


def test_both_backends_of_a_processor_agree() -> None:
    found = {}
    for name in ("flash", "math"):
        torch.manual_seed(0)
        with attending(name):
            found[name] = attend()
    torch.testing.assert_close(found["flash"], found["math"], rtol=1e-4, atol=1e-5)


def test_a_backend_that_does_not_take_the_tensors_is_one_sentence() -> None:
    with (
        pytest.raises(InputError, match="PyTorch's efficient attention does not take"),
        attending("efficient"),
    ):
        attend()


def test_other_errors_keep_their_own_words() -> None:
    with pytest.raises(RuntimeError, match="something else"), attending("math"):
        raise RuntimeError("something else")


def test_what_cannot_attend_is_refused_with_a_reason(
    tiny: Callable[..., Loaded], monkeypatch: pytest.MonkeyPatch
) -> None:
    llama, sinks = tiny("llama").model, tiny("gpt_oss").model
    for name in ("auto", "flash", "math", "eager"):
        check_attention(name, llama, "cpu")
    for name in set(CHOICES) - {"auto", "flash", "math", "eager"}:
        with pytest.raises(InputError, match=f"attention by {name} runs on CUDA"):
            check_attention(name, llama, "cpu")
    with pytest.raises(InputError, match="did you mean flash"):
        check_attention("fast", llama, "cpu")
    with pytest.raises(InputError, match="caps its scores or has sinks"):
        check_attention("flash", sinks, "cpu")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="needs the module flash_attn, which is not installed"):
        check_attention("flash-attention-2", llama, "cuda:0")


@pytest.mark.parametrize(
    ("asked", "ran", "convention", "said"),
    [
        ("math", "math", "unfused", "attention was computed by: math"),
        ("eager", "", "unfused", "attention ran as separate kernels, its scores in memory: as asked"),
    ],
)
def test_a_run_says_what_attended(
    asked: str,
    ran: str,
    convention: str,
    said: str,
    small_llama: Path,
    measured_file: Path,
    roofline: Callable[..., Any],
    tmp_path: Path,
) -> None:
    """And the operators are the model's, whatever attends."""
    sizes = ("--phase", "decode", "--context", 20, "--repeats", 1, "--no-alone", "--device", "cpu")
    done = roofline("profile", small_llama, *sizes, "--attention", asked, "-o", tmp_path / "run")
    assert done.code == 0, done.err
    head = open_run(tmp_path / "run").head
    assert (head.attention, head.convention) == (ran, convention)
    assert said in head.notes
    assert "layers.attention.core" in set(open_run(tmp_path / "run").table("operators")["name"])


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["flash", "efficient", "math", "cudnn"])
def test_on_a_gpu_each_backend_runs_and_is_heard(
    name: str, cuda: str, subject: Callable[..., Subject]
) -> None:
    with attending(name):
        assert attended(traced(cuda, lambda: attend(64, cuda, torch.bfloat16))) == {name}
