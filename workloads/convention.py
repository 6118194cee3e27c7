"""What is counted: the choices on which published counts differ, named."""

from __future__ import annotations

from dataclasses import dataclass

from specfiles.errors import choose


@dataclass(frozen=True)
class Convention:
    """How work is counted where tools disagree."""

    name: str
    causal_exact: bool  # masked query-key pairs are not computed; otherwise the full square is
    scores_on_chip: bool  # attention is one kernel; otherwise scores go to memory and back twice
    elementwise_fused: bool  # norms, RoPE, activations, residuals live in their neighbours' kernels
    # Latent attention decodes on the latents themselves, and sparse attention computes what it picked;
    # otherwise keys and values are expanded and masked, as model code in PyTorch does.
    absorbs_latents: bool
    explanation: str


CONVENTIONS = {
    c.name: c
    for c in (
        Convention(
            "fused",
            causal_exact=True,
            scores_on_chip=True,
            elementwise_fused=True,
            absorbs_latents=True,
            explanation="the least traffic that the mathematics allows: a floor on time",
        ),
        Convention(
            "eager",
            causal_exact=True,
            scores_on_chip=True,
            elementwise_fused=False,
            absorbs_latents=False,
            explanation="one kernel per operator, fused attention: what PyTorch runs",
        ),
        Convention(
            "unfused",
            causal_exact=False,
            scores_on_chip=False,
            elementwise_fused=False,
            absorbs_latents=False,
            explanation="eager with attention as separate kernels: full square, scores written to memory",
        ),
        Convention(
            "flop-counter",
            causal_exact=False,
            scores_on_chip=True,
            elementwise_fused=False,
            absorbs_latents=False,
            explanation="full-square attention, as torch's FlopCounterMode counts",
        ),
        Convention(
            "llm-viewer",
            causal_exact=False,
            scores_on_chip=False,
            elementwise_fused=False,
            absorbs_latents=True,
            explanation="full-square attention, scores written to memory (arXiv:2402.16363)",
        ),
    )
}


def convention(name: str) -> Convention:
    """A convention by name; an InputError lists them."""
    if name not in CONVENTIONS:
        raise choose(name, list(CONVENTIONS), "convention")
    return CONVENTIONS[name]
