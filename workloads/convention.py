"""Counting conventions: named sets of the choices in which published counts differ."""

from __future__ import annotations

from specfiles.errors import choose
from specfiles.frozen import dataclass


@dataclass(frozen=True)
class Convention:
    """How work is counted where tools differ."""

    name: str
    causal_exact: bool  # masked query-key pairs are not computed; otherwise the full square is
    scores_on_chip: bool  # attention is one kernel; otherwise scores go to memory and back twice
    elementwise_fused: bool  # norms, RoPE, activations, residuals live in their neighbours' kernels
    # Latent attention decodes on the latents themselves, and sparse attention computes what it picked;
    # otherwise keys and values are expanded and masked, as model code in PyTorch does.
    absorbs_latents: bool
    explanation: str
    splits_keys: bool = True  # all processors share the keys of a few queries; otherwise one block per tile
    padded_rows: int = 1  # rows of products are padded to a multiple of these
    launches: bool = False  # the host launches kernels one by one, and the device waits for it
    reserves_cache: bool = False  # for all positions that the model has, whatever a sequence needs

    @property
    def by_tiles(self) -> bool:
        """Whether operators are told how kernels lay them out."""
        return not self.splits_keys or self.padded_rows > 1

    @property
    def lacks(self) -> bool:
        """Whether it lacks something that all named ones count."""
        return self.by_tiles or self.launches or self.reserves_cache


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

# How a convention is named that lacks what it would count: `fused without flash-decoding, flat-gemm`.
WITHOUT, AND = " without ", ", "


def convention(name: str) -> Convention:
    """A convention by name, perhaps `NAME without TECHNIQUE, TECHNIQUE`; an InputError lists them."""
    named, _, without = name.partition(WITHOUT)
    if named not in CONVENTIONS:
        raise choose(named, list(CONVENTIONS), "convention")
    found = CONVENTIONS[named]
    if not without:
        return found
    from workloads.techniques.counted import lacking

    return lacking(found, without.split(AND))
