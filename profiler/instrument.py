"""Put named ranges around a model's operators without changing the model.

Inside `instrumented`, each operator's callable is wrapped on its instance (or, for the few that are
functions, where the model looks them up); leaving it puts everything back.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from profiler.ranges import Family, family

if TYPE_CHECKING:
    from profiler.recorders import Call, Recorder
    from profiler.subject import Subject

CORE, APPEND, ROPE, SAMPLING = (
    "layers.attention.core",
    "layers.attention.kv_append",
    "layers.attention.rope",
    "sampling",
)
Function = Callable[..., Any]
Wrap = Callable[[Function], Function]


@dataclass(frozen=True)
class Watched:
    """What `instrumented` watches: the sampler to call, and how many layers stand for all."""

    sampler: Function
    layer_names: frozenset[str]  # ranges that only the watched layers make
    layers: int
    of_layers: int

    def scale(self, name: str) -> float:
        """What a range's seconds are multiplied by to stand for all layers."""
        return self.of_layers / self.layers if name in self.layer_names else 1.0


@contextmanager
def instrumented(
    subject: Subject, recorder: Recorder, sampler: Function, *, first: int = 0, stride: int = 1
) -> Iterator[Watched]:
    """The operators announce themselves to the recorder inside this block.

    With a stride, only every `stride`-th layer from `first` is watched, which costs that much less;
    the functions that layers share (attention, RoPE, the cache's update) are watched in all.
    """
    with ExitStack() as stack:
        parts = family(subject.loaded.model)
        network = subject.network
        layers = list(_module(network, parts.layers))
        for path, name in parts.outside.items():
            stack.enter_context(_replaced(_module(network, path), "forward", _around(recorder, name)))
        watched = layers[first % stride :: stride] or layers
        for layer in watched:
            _instrument_layer(stack, layer, parts, recorder)
        _instrument_functions(stack, subject, recorder)
        names = frozenset([*parts.modules.values(), *(gap.name for gap in parts.gaps)])
        yield Watched(_around(recorder, SAMPLING)(sampler), names, len(watched), len(layers))


def _instrument_layer(stack: ExitStack, layer: Any, parts: Family, recorder: Recorder) -> None:
    """Wrap the layer's modules; a gap begins when one module returns and ends when the next is called."""
    before: dict[str, list[Call]] = defaultdict(list)
    after: dict[str, list[Call]] = defaultdict(list)
    for path, name in parts.modules.items():
        begin, end = recorder.marks(name)
        before[path] += begin
        after[path] += end
    for gap in parts.gaps:
        begin, end = recorder.marks(gap.name)
        after[gap.after] += begin  # behind the module's own end
        if gap.before:
            before[gap.before][:0] = end  # ahead of the next module's own beginning
        else:
            after[""] += end  # the layer's own return
    for path in {*before, *after}:
        wrap = _wrap(tuple(before[path]), tuple(after[path]))
        stack.enter_context(_replaced(_module(layer, path), "forward", wrap))


def _instrument_functions(stack: ExitStack, subject: Subject, recorder: Recorder) -> None:
    """Attention, RoPE and the cache's update are looked up by name; wrap them where they are found."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    from profiler.cache import PreallocatedLayer

    modeling = sys.modules[type(subject.network).__module__]
    if hasattr(modeling, "apply_rotary_pos_emb"):
        stack.enter_context(_replaced(modeling, "apply_rotary_pos_emb", _around(recorder, ROPE)))
    stack.enter_context(_replaced(PreallocatedLayer, "update", _around(recorder, APPEND)))
    sdpa = ALL_ATTENTION_FUNCTIONS["sdpa"]
    windows = [layer.attention.window for layer in subject.loaded.model.layers]
    wrapped = {w: _around(recorder, f"{CORE}.window{w}" if w else CORE)(sdpa) for w in set(windows)}

    def attend(module: Any, *args: Any, **kwargs: Any) -> Any:
        return wrapped[windows[module.layer_idx]](module, *args, **kwargs)

    ALL_ATTENTION_FUNCTIONS.register("sdpa", attend if len(wrapped) > 1 else wrapped[windows[0]])
    stack.callback(ALL_ATTENTION_FUNCTIONS.register, "sdpa", sdpa)


def _around(recorder: Recorder, name: str) -> Wrap:
    """A decorator that puts the callable into the range `name`."""
    return _wrap(*recorder.marks(name))


def _wrap(before: tuple[Call, ...], after: tuple[Call, ...]) -> Wrap:
    """A decorator that makes calls before and after the callable."""

    def wrap(function: Function) -> Function:
        def ranged(*args: Any, **kwargs: Any) -> Any:
            for call in before:
                call()
            try:
                return function(*args, **kwargs)
            finally:
                for call in after:
                    call()

        return ranged

    return wrap


@contextmanager
def _replaced(owner: Any, attribute: str, wrap: Wrap) -> Iterator[None]:
    """An attribute wrapped inside the block and put back after it."""
    own = vars(owner).get(attribute)
    setattr(owner, attribute, wrap(getattr(owner, attribute)))
    try:
        yield
    finally:
        if own is not None:
            setattr(owner, attribute, own)
        else:
            delattr(owner, attribute)


def _module(root: Any, path: str) -> Any:
    for part in filter(None, path.split(".")):
        root = root[int(part)] if part.isdigit() else getattr(root, part)
    return root
