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
    explanation: str


CONVENTIONS = {
    c.name: c
    for c in (
        Convention(
            "fused", True, True, True, "the least traffic that the mathematics allows: a floor on time"
        ),
        Convention("eager", True, True, False, "one kernel per operator, fused attention: what PyTorch runs"),
        Convention(
            "flop-counter", False, True, False, "full-square attention, as torch's FlopCounterMode counts"
        ),
        Convention(
            "llm-viewer",
            False,
            False,
            False,
            "full-square attention, scores written to memory (arXiv:2402.16363)",
        ),
    )
}


def convention(name: str) -> Convention:
    """A convention by name; an InputError lists them."""
    if name not in CONVENTIONS:
        raise choose(name, list(CONVENTIONS), "convention")
    return CONVENTIONS[name]
