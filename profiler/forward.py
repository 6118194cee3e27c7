"""A repeatable forward pass of the profiled model at a point, with its cache or state, and sampling."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from profiler.experts import use_experts
from profiler.subject import Subject, encodes, out_of_memory
from specfiles.errors import InputError, reason

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Point:
    """One step to measure: sizes as in workloads.phases.Step; `encoder_len` is its `memory`."""

    phase: str
    batch: int
    q_len: int
    kv_len: int
    encoder_len: int = 0


Step = Callable[[Callable[[Any], Any]], Any]


def step(subject: Subject, point: Point, capacity: int) -> Step:
    """A repeatable step at a point; called with a sampler, it runs the model and samples a token."""
    if encodes(subject.loaded.model):
        return _pass(subject, point)
    if subject.has_memory:
        return _of_two_stacks(subject, point)
    from profiler.memory import memory_of

    memory, scored = memory_of(subject.network, subject.cached_layers, capacity), subject.scored
    before = point.kv_len - point.q_len
    if before:
        memory.keep(
            subject.network(subject.tokens(point.batch, before), **memory.told(), logits_to_keep=scored)
        )
    tokens = subject.tokens(point.batch, point.q_len)

    def run(sampler: Callable[[Any], Any]) -> Any:
        use_experts(subject, point.phase)  # points take turns
        memory.rewind(before)
        return sampler(subject.network(tokens, **memory.told(), logits_to_keep=scored).logits)

    return run


def check_runs(subject: Subject, encoder_len: int) -> None:
    """InputError where transformers cannot run the model that it built, as where a field it needs is null."""
    least = Point("prefill", 1, 1, encoder_len or 1, encoder_len)
    try:
        step(subject, least, 1)(greedy)
    except InputError:
        raise
    except Exception as error:  # of a family's own code: any kind
        if out_of_memory(error):
            raise InputError(
                f"{subject.loaded.model.name} leaves too little memory of {subject.device} to run a step; "
                "take a smaller model, or a device with more free memory."
            ) from None
        raise InputError(
            f"transformers cannot run {subject.loaded.model.name} from its config ({reason(error)})."
        ) from None


def fixed_step(subject: Subject, point: Point) -> Step:
    """The same with a cache of constant length and address, for compiled code and graphs."""
    if encodes(subject.loaded.model):
        return _pass(subject, point)
    if subject.has_memory:
        return _of_two_stacks(subject, point, fixed=True)
    from profiler.cache import fix, preallocated, rewind

    use_experts(subject, point.phase)
    cache = preallocated(subject.cached_layers, point.kv_len)
    whole = subject.tokens(point.batch, point.kv_len)  # allocates all buffers before any capture
    scored = subject.scored
    subject.network(whole, past_key_values=cache, use_cache=True, logits_to_keep=scored)
    rewind(cache, point.kv_len - point.q_len)
    fix(cache)
    tokens = subject.tokens(point.batch, point.q_len)
    network = subject.network

    def run(sampler: Callable[[Any], Any]) -> Any:
        output = network(tokens, past_key_values=cache, use_cache=True, logits_to_keep=scored)
        return sampler(output.logits)

    return run


def _of_two_stacks(subject: Subject, point: Point, *, fixed: bool = False) -> Step:
    """A step of an encoder-decoder; context: the encoder's positions and the decoder's but the first."""
    from profiler.memory import TwoMemories

    before, network = point.kv_len - point.encoder_len, subject.network
    memory = TwoMemories(subject.cached_layers, before + 1, point.encoder_len)
    prompt, tokens = subject.prompt(point.batch, point.encoder_len), subject.tokens(point.batch, 1)
    encode = partial(network.get_encoder(), prompt)

    def decoded(tokens: torch.Tensor, **read: Any) -> Any:
        return network(decoder_input_ids=tokens, **read, **memory.told()).logits

    kept = encode() if before else None
    if before:
        decoded(subject.tokens(point.batch, before), encoder_outputs=kept)

    def run(sampler: Callable[[Any], Any]) -> Any:
        memory.rewind(before)
        return sampler(decoded(tokens, encoder_outputs=kept if before else encode()))

    if not fixed:
        return run
    run(greedy)  # allocates all buffers
    memory.rewind(before)
    memory.fix()
    read = {"encoder_outputs": kept} if before else {network.main_input_name: prompt}

    def run_fixed(sampler: Callable[[Any], Any]) -> Any:
        if not before:
            memory.forget()
        return sampler(decoded(tokens, **read))

    return run_fixed


def _pass(subject: Subject, point: Point) -> Step:
    """An encoder's only step, without cache or sampling."""
    tokens, network = subject.tokens(point.batch, point.q_len), subject.network

    def run(_: Callable[[Any], Any]) -> Any:
        return network(tokens).last_hidden_state

    return run


def greedy(logits: torch.Tensor) -> torch.Tensor:
    """The most likely token of each sequence; logits[batch, 1, vocabulary]."""
    return logits[:, -1].argmax(-1)
