"""One name for operators that one kernel does together, and the operators of such a name.

The first stands whole, others without what they share with it: `layers.attention.q_proj + k_proj + v_proj`.
"""

from __future__ import annotations

from collections.abc import Container, Sequence

JOIN = " + "


def joined(names: Sequence[str]) -> str:
    """The name of operators together.

    >>> joined(["layers.mlp_residual", "layers.attention_norm", "embedding"])
    'layers.mlp_residual + attention_norm + embedding'
    """
    first, *others = names
    return JOIN.join([first, *(name.removeprefix(_shared(first)) for name in others)])


def parts(name: str, known: Container[str]) -> list[str]:
    """The operators of a name, in the words of those that are `known`.

    >>> parts("layers.mlp_residual + attention_norm + embedding", ["layers.attention_norm", "embedding"])
    ['layers.mlp_residual', 'layers.attention_norm', 'embedding']
    """
    first, *others = name.split(JOIN)
    whole = {other: _shared(first) + other for other in others}
    return [first, *(whole[other] if whole[other] in known else other for other in others)]


def _shared(first: str) -> str:
    return first[: first.rfind(".") + 1]
