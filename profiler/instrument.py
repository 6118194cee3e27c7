"""Put named ranges around a model's operators without changing the model.

Inside `instrumented`, each operator's callable is wrapped on its instance (or, for the few that are
functions, where the model looks them up); leaving it restores everything.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from profiler.parts.base import INPUTS, Family, Inside
from profiler.ranges import EMBEDDING, family
from profiler.subject import core_names

if TYPE_CHECKING:
    from profiler.layer_names import LayerNames
    from profiler.recorders import Call, Marks, Recorder
    from profiler.subject import Subject

CORE = "layers.attention.core"
ROPE = "layers.attention.rope"
ROTATIONS = ("apply_rotary_pos_emb", "apply_rotary_pos_emb_interleave", "apply_rotary_emb")
Function = Callable[..., Any]
Wrap = Callable[[Function], Function]


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
            layers = list(_module(network, one.layers))
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
            _instrument_outside(stack, network, one, recorder)
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
            id(_module(layer, path)): name
            for one in parts.stacks
            for path, name in one.attending.items()
            for layer in _module(subject.network, one.layers)
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


class _Inputs:
    """What prepares inputs between the embeddings and the first layer, where no other range is."""

    def __init__(self, marks: Marks) -> None:
        self._begin, self._end = marks
        self._runs = False

    def begin(self) -> None:
        """From here on, if not yet."""
        if not self._runs:
            self._runs = True
            for call in self._begin:
                call()

    def end(self) -> None:
        """Up to here."""
        if self._runs:
            self._runs = False
            for call in self._end:
                call()


def _instrument_outside(stack: ExitStack, network: Any, parts: Family, recorder: Recorder) -> None:
    """Wrap the modules around the layers; between the embedding and the first layer inputs are prepared."""
    inputs = _Inputs(recorder.marks(INPUTS))
    embeddings = [path for path, name in parts.outside.items() if name.rpartition(".")[2] in EMBEDDING]
    around = embeddings[0].rpartition(".")[0]  # BERT's prepares types before the first of its embeddings
    if around and not parts.layers.startswith(f"{around}."):
        stack.enter_context(replaced(_module(network, around), "forward", _wrap((inputs.begin,), ())))
    for path, name in parts.outside.items():
        if not has(network, path):
            continue
        before, after = recorder.marks(name)
        if path in embeddings:
            before = (inputs.end, *before)
            after = after if name in parts.behind else (*after, inputs.begin)
        owner, attribute = callable_at(network, path)
        stack.enter_context(replaced(owner, attribute, _wrap(before, after)))
    for path in filter(partial(has, network), parts.prepares):
        owner, attribute = callable_at(network, path)
        stack.enter_context(replaced(owner, attribute, _wrap((), (inputs.begin,))))
    stack.enter_context(replaced(_module(network, parts.layers)[0], "forward", _wrap((inputs.end,), ())))


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
        begin, end = recorder.marks(named)
        if gap.before.startswith(f"{gap.after}."):
            before[gap.after] += begin  # at the module's begin
            before[gap.before][:0] = end
            continue
        after[gap.after] += begin  # after the module's own end
        if gap.inside:
            after[gap.before][:0] = end  # before what begins after that module
        elif gap.before:
            before[gap.before][:0] = end  # before the next module's own begin
        else:
            after[""] += end  # at the layer's return
    for path, name in {**parts.rotations, "": ROPE}.items():
        if has(layer, path):
            before[path].insert(0, partial(gate.append, _Here(here, here.of(name) or name)))
            after[path].append(gate.pop)
    for path in {*before, *after}:
        owner, attribute = callable_at(layer, path)
        wrap = _wrap(tuple(before[path]), tuple(after[path]))
        stack.enter_context(replaced(owner, attribute, wrap))


def _own_attention(
    stack: ExitStack, layer: Any, parts: Family, marks: Marks, opened: list[tuple[Call, ...]]
) -> None:
    """Attention in a layer's own code begins where the cache was updated, and ends where a module begins."""
    begin, end = marks
    stack.enter_context(replaced(_module(layer, parts.attends_until), "forward", _wrap(end, ())))
    around = _wrap((partial(opened.append, begin),), (opened.pop,))
    stack.enter_context(replaced(layer, "forward", around))


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
    rotating = {name: recorder.marks(name) for name in rotations}
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
    if subject.attention == "eager":
        _wrap_eager(stack, modeling, recorder, cores, gate)
        return
    name = subject.attention
    fused = ALL_ATTENTION_FUNCTIONS[name]
    ALL_ATTENTION_FUNCTIONS.register(name, _attention(fused, recorder, cores, gate))
    stack.callback(ALL_ATTENTION_FUNCTIONS.register, name, fused)


def _holder(modeling: Any, function: str) -> Any:
    """The holder of a family's function: its own file, or the state or cache that is updated."""
    from profiler.cache import PreallocatedLayer
    from profiler.states import RecurrentLayer

    kept = (RecurrentLayer, PreallocatedLayer)
    return next((layer for layer in kept if hasattr(layer, function)), modeling)


def _wrap_eager(stack: ExitStack, modeling: Any, recorder: Recorder, cores: Cores, gate: list[_Here]) -> None:
    """Wrap attention by separate kernels, a function of the model's own file."""
    wrap = partial(_attention, recorder=recorder, cores=cores, gate=gate)
    stack.enter_context(replaced(modeling, "eager_attention_forward", wrap))


def _attention(function: Function, recorder: Recorder, cores: Cores, gate: list[_Here]) -> Function:
    """Attention in the range of the layer that calls it."""
    wrapped = {name: _around(recorder, name, gate)(function) for name in cores.names}

    def attend(module: Any, *args: Any, **kwargs: Any) -> Any:
        return wrapped[cores.of(module)](module, *args, **kwargs)

    return attend if len(wrapped) > 1 else next(iter(wrapped.values()))


def _rotation(marks: Mapping[str, Marks], gate: list[_Here]) -> Wrap:
    """A decorator that puts a rotation into the range of the layer or module that makes it."""

    def wrap(function: Function) -> Function:
        ranged = {name: _wrap(*each)(function) for name, each in marks.items()}

        def rotate(*args: Any, **kwargs: Any) -> Any:
            return (ranged[gate[-1].rotation] if gate else function)(*args, **kwargs)

        return rotate

    return wrap


def _around(recorder: Recorder, name: str, gate: list[_Here] | None = None) -> Wrap:
    """A decorator that puts the callable into the range `name`, with a gate only while it is open."""
    marks = recorder.marks(name)
    return _wrap(*marks) if gate is None else _gated(marks, gate)


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
        ranged = _wrap(before, after)(function)
        if ranged is function:
            return function

        def gated(*args: Any, **kwargs: Any) -> Any:
            return (ranged if gate else function)(*args, **kwargs)

        return gated

    return wrap


def _wrap(before: tuple[Call, ...], after: tuple[Call, ...]) -> Wrap:
    """A decorator that makes calls before and after the callable."""

    def wrap(function: Function) -> Function:
        if not (before or after):  # a range whose turn it is not
            return function

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
def replaced(owner: Any, attribute: str, wrap: Wrap) -> Iterator[None]:
    """Wrap an attribute inside the block and restore it after."""
    own = vars(owner).get(attribute)
    setattr(owner, attribute, wrap(getattr(owner, attribute)))
    try:
        yield
    finally:
        if own is not None:
            setattr(owner, attribute, own)
        else:
            delattr(owner, attribute)


def layer_of(parts: Family, network: Any, index: int) -> Any:
    """One layer of a stack."""
    return _module(network, parts.layers)[index]


def parts_inside(parts: Family, layer: Any) -> Inside:
    """The parts of a layer, by its kind."""
    return parts.inside(partial(has, layer))


def has(layer: Any, path: str) -> bool:
    """Whether a layer or a model has a module; the attribute may exist and be None."""
    try:
        return _module(layer, path) is not None
    except (AttributeError, IndexError):
        return False


def callable_at(root: Any, path: str) -> tuple[Any, str]:
    """The owner and attribute called at a path: a module's forward, or a method."""
    found = _module(root, path)
    if hasattr(found, "forward"):
        return found, "forward"
    owner, _, method = path.rpartition(".")
    return _module(root, owner), method


def _module(root: Any, path: str) -> Any:
    for part in filter(None, path.split(".")):
        root = root[int(part)] if part.isdigit() else getattr(root, part)
    return root
