"""Put named ranges around a model's operators without changing the model.

Inside `instrumented`, each operator's callable is wrapped on its instance (or, for the few that are
functions, where the model looks them up); leaving it restores everything.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from profiler.module_paths import callable_at, has, module_at, parts_inside
from profiler.parts.base import INPUTS, Family, Gap
from profiler.ranges import EMBEDDING, family
from profiler.subject import core_names
from profiler.wrapping import Function, Wrap, replaced, with_calls
from roofline.together import JOIN

if TYPE_CHECKING:
    from profiler.layer_names import LayerNames
    from profiler.recorders import Call, Marks, Recorder
    from profiler.subject import Subject

CORE = "layers.attention.core"
ROPE = "layers.attention.rope"
ROTATIONS = ("apply_rotary_pos_emb", "apply_rotary_pos_emb_interleave", "apply_rotary_emb")


@dataclass(frozen=True)
class Watched:
    """The result of `instrumented`: the sampler to call, and the share of layers watched."""

    sampler: Function
    shares: Mapping[str, float]  # by range name: layers that have it / watched layers that have it

    def scale(self, name: str) -> float:
        """The factor from a range's seconds to those of all layers."""
        return self.shares.get(name, 1.0)


@contextmanager
def instrumented(
    subject: Subject, recorder: Recorder, sampler: Function, *, first: int = 0, stride: int = 1
) -> Iterator[Watched]:
    """Record the operators' ranges inside this block.

    With a stride, only every `stride`-th layer of each kind from `first` is watched, at that fraction of the
    overhead: at least one of each kind, so that every range is recorded.
    """
    with ExitStack() as stack:
        parts = family(subject.loaded.model)
        cores = Cores(subject, parts)
        if behind := _behind(parts, cores):
            recorder = _Filling(recorder, behind)
        network = subject.network
        gate: list[_Here] = []  # the watched layer that runs, or its module that rotates for itself
        opened: list[tuple[Call, ...]] = []  # how its attention begins, where that is the model's own code
        every, some = Counter[str](), Counter[str]()
        for one, names in zip(parts.stacks, cores.named, strict=True):
            layers = list(module_at(network, one.layers))
            having = [
                frozenset(_names(layer, one, cores.inside(one, at), names[at]))
                for at, layer in enumerate(layers)
            ]
            watched = _every(having, first, stride)
            for index in watched:
                _instrument_layer(stack, layers[index], one, recorder, gate, names[index])
                if one.attends_until:
                    (core,) = cores.inside(one, index)
                    _own_attention(stack, layers[index], one, recorder.marks(core), opened)
            _instrument_outside(stack, subject, one, recorder)
            every.update(name for names in having for name in names)
            some.update(name for index in watched for name in having[index])
        shares = {name: every[name] / times for name, times in some.items()}
        _instrument_functions(stack, subject, recorder, cores, gate, opened)
        yield Watched(_around(recorder, parts.sampling)(sampler), shares)


class Cores:
    """The range of attention by module."""

    def __init__(self, subject: Subject, parts: Family) -> None:
        self.named = subject.layer_names
        found = [] if parts.attending else core_names(subject.loaded.model)
        self._by_layer = [here.of(name) or name for here, name in zip(self.named[-1], found, strict=False)]
        self._by_module = {
            id(module_at(layer, path)): name
            for one in parts.stacks
            for path, name in one.attending.items()
            for layer in module_at(subject.network, one.layers)
        }

    @property
    def names(self) -> set[str]:
        """Of all layers."""
        return {*filter(None, self._by_layer), *self._by_module.values()}

    def variants(self, name: str) -> set[str]:
        """A range by its names in all layers."""
        return {here.of(name) or name for names in self.named for here in names}

    def inside(self, parts: Family, layer: int) -> Iterable[str]:
        """Of one layer of a stack."""
        return parts.attending.values() or (self._by_layer[layer],)

    def of(self, module: Any) -> str:
        """Of a module that attends."""
        return self._by_module.get(id(module)) or self._by_layer[module.layer_idx]


class _Filling:
    """A recorder that also puts the gap after certain ranges, up to the next range, into a range."""

    def __init__(self, recorder: Recorder, behind: Mapping[str, str]) -> None:
        self._recorder, self._behind = recorder, behind
        self._fill = {name: recorder.marks(name) for name in set(behind.values())}
        self._to_end: tuple[Call, ...] = ()

    def marks(self, name: str) -> Marks:
        """The recorder's marks, within the filling range."""
        begin, end = self._recorder.marks(name)
        filling = self._behind.get(name)
        return (self._close, *begin), (*end, partial(self._open, filling)) if filling else end

    def _open(self, name: str) -> None:
        begin, self._to_end = self._fill[name]
        for call in begin:
            call()

    def _close(self) -> None:
        end, self._to_end = self._to_end, ()
        for call in end:
            call()


def _every(having: Sequence[frozenset[str]], first: int, stride: int) -> list[int]:
    """Every `stride`-th of the layers that have the same ranges, from `first`; where they are fewer, one."""
    alike: dict[frozenset[str], list[int]] = defaultdict(list)
    for index, names in enumerate(having):
        alike[names].append(index)
    return sorted(
        index for indices in alike.values() for index in indices[first % min(stride, len(indices)) :: stride]
    )


@dataclass(frozen=True)
class _Here:
    """What runs in a watched layer: its names of operators, and the range of rotations."""

    names: LayerNames
    rotation: str


def _behind(parts: Family, cores: Cores) -> dict[str, str]:
    """What fills the gap after a range, by the names in layers, too."""
    found = {}
    for one, names in zip(parts.stacks, cores.named, strict=True):
        for name, filling in one.behind.items():
            found[name] = filling
            for at, here in enumerate(names):
                own = cores.inside(one, at) if name == CORE else (here.of(name),)
                if fills := here.of(filling):
                    found.update((ended, fills) for ended in own if ended)
    return found


def _names(layer: Any, parts: Family, cores: Iterable[str], here: LayerNames) -> set[str]:
    """The ranges that a layer has: dense layers have no experts."""
    inside = parts_inside(parts, layer)
    names = {name for path, name in inside.modules.items() if has(layer, path)}
    names |= {gap.name for gap in inside.gaps if has(layer, gap.after) and has(layer, gap.before)}
    mixers = {name.rpartition(".")[0] for name in names}
    functions = {
        ROPE,
        parts.append,
        parts.memory_append,
        *parts.functions.values(),
        *parts.rotations.values(),
    }
    names |= {name for name in functions if name.rpartition(".")[0] in mixers}
    names |= {filling for name, filling in parts.behind.items() if name in names | set(cores)}
    return {*filter(None, map(here.of, names)), *cores}


class _Once:
    """A range that begins where it does not run yet, and ends where it runs.

    What prepares inputs between the embeddings and the first layer is one, where no other range is.
    """

    def __init__(self, marks: Marks) -> None:
        self._begin, self._end = marks
        self.runs = False

    def begin(self) -> None:
        """From here on, if not yet."""
        if not self.runs:
            self.runs = True
            for call in self._begin:
                call()

    def end(self) -> None:
        """Up to here."""
        if self.runs:
            self.runs = False
            for call in self._end:
                call()


def _twice(inputs: _Once, early: Marks, late: Marks) -> Marks:
    """The marks of a module that runs while inputs are prepared, in a range of that, and later in another."""
    ends: list[tuple[Call, ...]] = []

    def begin() -> None:
        calls, end = early if inputs.runs else late
        ends.append(end)
        inputs.end()
        for call in calls:
            call()

    def end() -> None:
        for call in ends.pop():
            call()

    return (begin,), (end,)


def _embeds(name: str) -> bool:
    """Whether a range holds an embedding, or what follows one."""
    return name.partition(JOIN)[0].rpartition(".")[2] in EMBEDDING


def _instrument_outside(stack: ExitStack, subject: Subject, parts: Family, recorder: Recorder) -> None:
    """Wrap the modules around the layers; between the embedding and the first layer inputs are prepared."""
    network, inputs = subject.network, _Once(recorder.marks(INPUTS))
    embeddings = [path for path, name in parts.outside.items() if _embeds(name)]
    around = embeddings[0].rpartition(".")[0]  # BERT's prepares types before the first of its embeddings
    if around and not parts.layers.startswith(f"{around}."):
        _call_at(stack, network, around, before=(inputs.begin,))
    for path, name in parts.outside.items():
        if not has(network, path):
            continue
        before, after = recorder.marks(name)
        if path == parts.early[0]:
            before, after = _twice(inputs, recorder.marks(parts.early[1]), (before, after))
        if path in embeddings:
            before = (inputs.end, *before)
            after = after if name in parts.behind else (*after, inputs.begin)
        _call_at(stack, network, path, before, after)
    for path in filter(partial(has, network), parts.prepares):
        _call_at(stack, network, path, after=(inputs.begin,))
    first = f"{parts.layers}.0"
    _call_at(stack, network, first, before=(inputs.end,))
    behind, until = parts.widens
    if behind:
        copies = _Once(recorder.marks(parts.widened))
        root = network if has(network, behind) else subject.modeling
        again = copies.end, inputs.begin  # a module that runs for each kind of layer
        _call_at(stack, root, behind, before=again, after=(inputs.end, copies.begin))
        _call_at(stack, network, until, before=(copies.end, *(() if until == first else (inputs.begin,))))


def _instrument_layer(
    stack: ExitStack, layer: Any, parts: Family, recorder: Recorder, gate: list[_Here], here: LayerNames
) -> None:
    """Wrap the layer's modules; a gap begins when one module returns and ends when the next is called."""
    before: dict[str, list[Call]] = defaultdict(list)
    after: dict[str, list[Call]] = defaultdict(list)
    inside = parts_inside(parts, layer)
    for path, name in inside.modules.items():
        named = here.of(name)
        if named is None or not has(layer, path):
            continue
        begin, end = recorder.marks(named)
        before[path] += begin
        after[path] += end
    for gap in inside.gaps:
        named = here.of(gap.name)
        if named is None or not (has(layer, gap.after) and has(layer, gap.before)):
            continue
        _place(gap, recorder.marks(named), before, after)
    for path, name in {"": ROPE, **parts.rotations}.items():
        if has(layer, path):
            before[path].insert(0, partial(gate.append, _Here(here, here.of(name) or name)))
            after[path].append(gate.pop)
    for path in {*before, *after}:
        _call_at(stack, layer, path, tuple(before[path]), tuple(after[path]))


def _place(gap: Gap, marks: Marks, before: dict[str, list[Call]], after: dict[str, list[Call]]) -> None:
    """Add a gap's marks to the calls before and after the modules around it, by their paths."""
    begin, end = marks
    if gap.before.startswith(f"{gap.after}."):
        before[gap.after] += begin  # at the module's begin
        before[gap.before][:0] = end
        return
    after[gap.after] += begin  # after the module's own end
    if gap.inside:
        after[gap.before][:0] = end  # before what begins after that module
    elif gap.before:
        before[gap.before][:0] = end  # before the next module's own begin
    else:
        after[""] += end  # at the layer's return


def _call_at(
    stack: ExitStack, root: Any, path: str, before: tuple[Call, ...] = (), after: tuple[Call, ...] = ()
) -> None:
    """Let a module or method make calls until the stack is left."""
    stack.enter_context(replaced(*callable_at(root, path), with_calls(before, after)))


def _own_attention(
    stack: ExitStack, layer: Any, parts: Family, marks: Marks, opened: list[tuple[Call, ...]]
) -> None:
    """Attention in a layer's own code begins where the cache was updated, and ends where a module begins."""
    begin, end = marks
    _call_at(stack, layer, parts.attends_until, before=end)
    _call_at(stack, layer, "", before=(partial(opened.append, begin),), after=(opened.pop,))


def _instrument_functions(
    stack: ExitStack,
    subject: Subject,
    recorder: Recorder,
    cores: Cores,
    gate: list[_Here],
    opened: list[tuple[Call, ...]],
) -> None:
    """Wrap attention, RoPE, scans and cache updates, which models look up by name, where they are found."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    from profiler.cache import MemoryLayer, PreallocatedLayer

    modeling, parts = subject.modeling, family(subject.loaded.model)

    def ranged(name: str) -> Wrap:
        return _in_layers(recorder, name, cores.variants(name), gate)

    for name, range_name in parts.functions.items():
        stack.enter_context(replaced(_holder(modeling, name), name, ranged(range_name)))
    rotations = {found for name in (ROPE, *parts.rotations.values()) for found in cores.variants(name)}
    rotating = {name: recorder.marks(name) for name in filter(None, rotations)}
    for name in filter(partial(hasattr, modeling), ROTATIONS):
        stack.enter_context(replaced(modeling, name, _rotation(rotating, gate)))
    if parts.attends_until:
        begin, end = recorder.marks(parts.append)
        marks = begin, (*end, lambda: [call() for call in opened[-1]])
        stack.enter_context(replaced(PreallocatedLayer, "update", _gated(marks, gate)))
        return
    if parts.memory_append:  # first: MemoryLayer inherits `update`
        stack.enter_context(replaced(MemoryLayer, "update", ranged(parts.memory_append)))
    stack.enter_context(replaced(PreallocatedLayer, "update", ranged(parts.append)))
    if not cores.names:
        return
    attention = partial(_attention, recorder=recorder, cores=cores, gate=gate)
    if subject.attention == "eager":  # separate kernels, by a function of the model's own file
        stack.enter_context(replaced(modeling, "eager_attention_forward", attention))
        return
    name = subject.attention
    fused = ALL_ATTENTION_FUNCTIONS[name]
    ALL_ATTENTION_FUNCTIONS.register(name, attention(fused))
    stack.callback(ALL_ATTENTION_FUNCTIONS.register, name, fused)


def _holder(modeling: Any, function: str) -> Any:
    """The holder of a family's function: its own file, or the state or cache that is updated."""
    from profiler.cache import PreallocatedLayer
    from profiler.states import RecurrentLayer

    kept = (RecurrentLayer, PreallocatedLayer)
    return next((layer for layer in kept if hasattr(layer, function)), modeling)


def _attention(function: Function, recorder: Recorder, cores: Cores, gate: list[_Here]) -> Function:
    """Attention in the range of the layer that calls it."""
    wrapped = {name: _around(recorder, name, gate)(function) for name in cores.names}

    def attend(module: Any, *args: Any, **kwargs: Any) -> Any:
        return wrapped[cores.of(module)](module, *args, **kwargs)

    return attend if len(wrapped) > 1 else next(iter(wrapped.values()))


def _rotation(marks: Mapping[str, Marks], gate: list[_Here]) -> Wrap:
    """A decorator that puts a rotation into the range of the layer or module that makes it."""

    def wrap(function: Function) -> Function:
        ranged = {name: with_calls(*each)(function) for name, each in marks.items()}

        def rotate(*args: Any, **kwargs: Any) -> Any:
            return (ranged.get(gate[-1].rotation, function) if gate else function)(*args, **kwargs)

        return rotate

    return wrap


def _around(recorder: Recorder, name: str, gate: list[_Here] | None = None) -> Wrap:
    """A decorator that puts the callable into the range `name`, with a gate only while it is open."""
    marks = recorder.marks(name)
    return with_calls(*marks) if gate is None else _gated(marks, gate)


def _in_layers(recorder: Recorder, name: str, names: set[str], gate: list[_Here]) -> Wrap:
    """A decorator that puts the callable into a range by its name in the watched layer that runs."""
    if len(names) == 1:
        return _around(recorder, next(iter(names)), gate)

    def wrap(function: Function) -> Function:
        ranged = {each: _around(recorder, each)(function) for each in names}

        def call(*args: Any, **kwargs: Any) -> Any:
            here = (gate[-1].names.of(name) or name) if gate else ""
            return ranged.get(here, function)(*args, **kwargs)

        return call

    return wrap


def _gated(marks: Marks, gate: list[_Here]) -> Wrap:
    """A decorator that makes calls before and after the callable while the gate is open."""
    before, after = marks

    def wrap(function: Function) -> Function:
        ranged = with_calls(before, after)(function)
        if ranged is function:
            return function

        def gated(*args: Any, **kwargs: Any) -> Any:
            return (ranged if gate else function)(*args, **kwargs)

        return gated

    return wrap
