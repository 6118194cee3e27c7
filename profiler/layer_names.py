"""The operators of each layer, by the names that a family's parts give them.

Layers of a model may differ in shape. Then one module, such as `self_attn.q_proj`, is another operator in
some of them, which the descriptor numbers (`layers.attention.q_proj.2`), or none, where its part is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from profiler.parts.base import FRAMEWORK
from profiler.subject import convention_of
from roofline.together import joined, parts
from workloads.convention import CONVENTIONS
from workloads.phases import Setting, names_in_layers

if TYPE_CHECKING:
    from workloads.model import Model


class LayerNames:
    """The names of one layer's operators among all of the model's."""

    def __init__(self, known: Iterable[str], here: Mapping[str, str]) -> None:
        """Of a layer that has `here`, in a stack whose layers have `known`."""
        self._known, self._here = frozenset(known), here
        self._found: dict[str, str | None] = dict(here)

    def of(self, name: str) -> str | None:
        """A range, by its name in the family's parts; None where the layer has no such operator."""
        if name not in self._found:
            self._found[name] = self._of(name)
        return self._found[name]

    def _of(self, name: str) -> str | None:
        if name.startswith(FRAMEWORK):
            return name
        apart = parts(name, self._known)
        if not self._known.intersection(apart):  # what no descriptor has, as an all-reduce on one device
            return name
        found = [self._here.get(one, "" if one in self._known else one) for one in apart]
        left = list(filter(None, found))
        return joined(left) if left else None


def layer_names(model: Model) -> list[list[LayerNames]]:
    """By stack and layer, in the order of `Family.stacks`."""
    setting = Setting(convention=CONVENTIONS[convention_of(model)])
    made = []
    for stack in model.stacks if model.has_memory else (model.stack,):
        found = names_in_layers(stack, setting)
        known = {name for names in found.values() for name in names}
        of_layer = {layer: LayerNames(known, names) for layer, names in found.items()}
        made.append([of_layer[layer] for layer in stack.layers])
    return made
