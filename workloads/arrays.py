"""Arithmetic on sizes that are numbers or arrays over a grid; NumPy is imported only for arrays."""

from __future__ import annotations

from typing import Any

NUMBER = (int, float)


def anywhere(condition: Any) -> bool:
    """Whether a condition holds; of an array of conditions, whether one of them does."""
    return condition if isinstance(condition, bool) else bool(condition.any())


def maximum(a: Any, b: Any) -> Any:
    """The larger; elementwise for arrays."""
    if isinstance(a, NUMBER) and isinstance(b, NUMBER):
        return a if a >= b else b
    import numpy as np

    return np.maximum(a, b)


def minimum(a: Any, b: Any) -> Any:
    """The smaller; elementwise for arrays."""
    if isinstance(a, NUMBER) and isinstance(b, NUMBER):
        return a if a <= b else b
    import numpy as np

    return np.minimum(a, b)


def rounded(size: Any) -> Any:
    """The nearest whole number, of two the even one; elementwise for arrays."""
    if isinstance(size, NUMBER):
        return round(size)
    import numpy as np

    return np.rint(size)


def where(condition: Any, yes: Any, no: Any) -> Any:
    """`yes` where the condition holds, else `no`; elementwise for arrays of conditions."""
    if isinstance(condition, bool):
        return yes if condition else no
    import numpy as np

    return np.where(condition, yes, no)
