"""Recurrences by packages of fused kernels: called as they ask to be, and right."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

import pytest

from profiler.kernels import TOLERANCE, Place, kernel
from workloads.operators import CausalConv, GatedDelta, Operator, SelectiveScan, Ssd

torch = pytest.importorskip("torch")

from tests.profiler import recurrent_packages as packages  # noqa: E402

PROMPT, PART, TOKEN, FIRST = (2, 37, 0), (2, 37, 9), (3, 1, 9), (3, 1, 0)  # sequences, positions, past ones


@dataclass(frozen=True)
class WithPackages(Place):
    """A place on the CPU that has them as a GPU would."""

    def has_package(self, name: str) -> bool:
        return importlib.util.find_spec(name) is not None


def convolution(at: tuple[int, int, int], taps: int = 4) -> Operator:
    return CausalConv(*at, 16, taps)


def scan(at: tuple[int, int, int]) -> Operator:
    return SelectiveScan(*at, 6, 5, state_dtype="fp32")


def dual(at: tuple[int, int, int]) -> Operator:
    return Ssd(*at, 6, 8, 2, 5, 8)


def delta(at: tuple[int, int, int], chunk: int = 64) -> Operator:
    return GatedDelta(*at, 6, 2, 8, 5, chunk, state_dtype="fp32")


FUSED = [
    *((convolution(at), "causal_conv1d_fn") for at in (PROMPT, PART, FIRST)),
    (convolution(TOKEN), "causal_conv1d_update"),
    (CausalConv(*TOKEN, 16, 3, bias=False, silu=False), "causal_conv1d_update"),
    (CausalConv(*PART, 16, 2, bias=False, silu=False), "causal_conv1d_fn"),
    *((scan(at), "mamba_ssm, selective_scan_fn") for at in (PROMPT, FIRST)),
    (scan(TOKEN), "mamba_ssm, selective_state_update"),
    *((dual(at), "mamba_ssm, mamba_chunk_scan_combined") for at in (PROMPT, PART, FIRST)),
    (dual(TOKEN), "mamba_ssm, selective_state_update"),
    *((delta(at), "fla, chunk_gated_delta_rule") for at in (PROMPT, PART, FIRST)),
    (delta(TOKEN), "fla, fused_recurrent_gated_delta_rule"),
]
PLAIN = [convolution(PROMPT, taps=5), CausalConv(*PROMPT, 6, 4), scan(PART), delta(PROMPT, chunk=8)]


@pytest.mark.parametrize("cold_bytes", [0, 1 << 16], ids=["warm", "cold"])
@pytest.mark.parametrize(("operator", "words"), FUSED)
def test_an_installed_package_computes_the_operator(
    operator: Operator, words: str, cold_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    packages.install(monkeypatch)
    made = kernel(operator, WithPackages("cpu", "bf16", cold_bytes))
    assert made.words == words
    assert made.error() <= TOLERANCE["bf16"]


@pytest.mark.parametrize(("operator", "words"), FUSED)
def test_a_package_leaves_the_state_that_plain_torch_leaves(
    operator: Operator, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second call of a token starts from what the first has left."""
    results = []
    for installed in (False, True):
        torch.manual_seed(1)
        with monkeypatch.context() as patch:
            if installed:
                packages.install(patch)
            made = kernel(operator, (WithPackages if installed else Place)("cpu", "bf16"))
        results.append([made.run(0).float().clone() for _ in range(2)])
    for plain, fused in zip(*results, strict=True):
        assert (plain - fused).abs().max() <= TOLERANCE["bf16"] * plain.abs().max()


@pytest.mark.parametrize("operator", PLAIN, ids=lambda op: op.kind)
def test_what_a_package_has_no_kernel_for_stays_with_torch(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    packages.install(monkeypatch)
    made = kernel(operator, WithPackages("cpu", "bf16"))
    assert made.backend == "torch"
    assert made.error() <= TOLERANCE["bf16"]


def test_packages_are_asked_on_a_gpu_in_16_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    packages.install(monkeypatch)
    for name in ("causal_conv1d", "mamba_ssm", "fla"):
        assert Place("cuda:0", "bf16").has_package(name)
        assert Place("cuda:0", "fp16").has_package(name)
        assert not Place("cuda:0", "fp32").has_package(name)
        assert not Place("cpu", "bf16").has_package(name)
    assert not Place("cuda:0", "bf16").has_package("a_package_that_is_missing")
