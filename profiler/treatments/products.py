"""Replace the products of the layers' projections."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from profiler.kernels import TOLERANCE
from profiler.ranges import family
from profiler.subject import Subject
from profiler.treatments.base import Around, apart, swapped
from specfiles.errors import InputError

CHECKED_ROWS = 32  # of random inputs


def exchanged(subject: Subject, make: Callable[[Any], Any]) -> Around:
    """A context in which each projection of the layers is replaced by `make(linear)`."""
    places = [(module, child, _in_place(linear, make)) for module, child, linear in projections(subject)]
    return partial(swapped, places)


def _in_place(linear: Any, make: Callable[[Any], Any]) -> Any:
    """The replacement of a Linear with its hooks, which sum over processes that share a model."""
    made = make(linear)
    made._forward_hooks = linear._forward_hooks
    return made


def projections(subject: Subject) -> list[tuple[Any, str, Any]]:
    """The projections of the layers: parent module, name, and module.

    Raises InputError where the model has no Linear modules.
    """
    import torch

    found = [
        (module, child, linear)
        for stack in family(subject.loaded.model).stacks
        for layer in subject.network.get_submodule(stack.layers)
        for module in layer.modules()
        for child, linear in module.named_children()
        if isinstance(linear, torch.nn.Linear)
    ]
    if not found:
        raise InputError(f"the layers of {subject.loaded.model.name} have no torch.nn.Linear to exchange.")
    return found


def product(multiply: Callable[[Any], Any], bias: Any) -> Any:
    """A module that multiplies rows [any, inputs] and adds a bias, for any leading dimensions."""
    import torch

    class Product(torch.nn.Module):  # type: ignore[misc]  # torch has no types here
        weight = None  # whose format T5 would give the rows

        def forward(self, rows: Any) -> Any:
            found = multiply(rows.flatten(0, -2)).unflatten(0, rows.shape[:-1])
            return found if bias is None else found + bias

    return Product()


def checked(multiply: Callable[[Any], Any], weight: Any, kind: str) -> Callable[[Any], Any]:
    """The product, after a comparison with the plain one of the stored `weight` [outputs, inputs].

    Raises InputError where results differ by more than rounding in the format `kind`.
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
