"""Other products in the place of the layers' projections."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from profiler.kernels import TOLERANCE
from profiler.subject import Subject
from profiler.treatments.base import Around, apart, layers, swapped
from specfiles.errors import InputError

CHECKED_ROWS = 32  # of made-up inputs that a product is compared by


def exchanged(subject: Subject, make: Callable[[Any], Any]) -> Around:
    """Enters a block in which `make(linear)` stands in the place of each projection of the layers."""
    places = [(module, child, _in_place(linear, make)) for module, child, linear in projections(subject)]
    return partial(swapped, places)


def _in_place(linear: Any, make: Callable[[Any], Any]) -> Any:
    """What is made of a Linear, followed by what followed that: a sum over processes that share a model."""
    made = make(linear)
    made._forward_hooks = linear._forward_hooks
    return made


def projections(subject: Subject) -> list[tuple[Any, str, Any]]:
    """The projections of the layers: the module around each, its name there, and itself.

    Raises InputError where the model multiplies by other modules.
    """
    import torch

    parent, name = layers(subject)
    found = [
        (module, child, linear)
        for layer in getattr(parent, name)
        for module in layer.modules()
        for child, linear in module.named_children()
        if isinstance(linear, torch.nn.Linear)
    ]
    if not found:
        raise InputError(f"the layers of {subject.loaded.model.name} have no torch.nn.Linear to exchange.")
    return found


def product(multiply: Callable[[Any], Any], bias: Any) -> Any:
    """A module that multiplies rows [any, inputs] and adds a bias, for inputs of any leading sizes."""
    import torch

    class Product(torch.nn.Module):  # type: ignore[misc]  # torch has no types here
        def forward(self, rows: Any) -> Any:
            found = multiply(rows.flatten(0, -2)).unflatten(0, rows.shape[:-1])
            return found if bias is None else found + bias

    return Product()


def checked(multiply: Callable[[Any], Any], weight: Any, kind: str) -> Callable[[Any], Any]:
    """The product, after it gave what the plain one with the numbers that it stores gives.

    `weight` [outputs, inputs] are those numbers, `kind` the format whose rounding is allowed. Raises
    InputError where results differ by more.
    """
    import torch

    made = torch.Generator(weight.device).manual_seed(0)
    rows = torch.randn(CHECKED_ROWS, weight.shape[1], generator=made, device=weight.device)
    rows = rows.to(weight.dtype)
    error = apart(rows.float() @ weight.float().t(), multiply(rows).float())
    if not error <= TOLERANCE[kind]:
        raise InputError(
            f"a product of {tuple(weight.shape)} differs by {error:.2g} of the largest result from the plain "
            f"one with the same numbers, {TOLERANCE[kind]:g} is allowed."
        )
    return multiply
