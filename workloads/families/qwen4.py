"""Qwen4-Exp: Qwen3.5's mixers and experts around gated residual streams, embeddings of n-grams.

Attention is to what an index picks (transformers, models/qwen4_exp).
"""

from __future__ import annotations

from dataclasses import replace
from math import isqrt

from workloads.blocks import (
    Block,
    GatedAttentionBlock,
    GatedStreams,
    Indexer,
    LastStreams,
    NgramBlock,
    PickedAttentionBlock,
    StreamCopies,
)
from workloads.config import Config
from workloads.families.common import decoder_of
from workloads.families.hybrid import qwen_experts, qwen_mixers
from workloads.layer import Layer
from workloads.model import Model

PICKED, FULL = "indexed_attention", "full_attention"  # one and the same
MOST = 64  # of sizes of n-grams and of hashes for each


def _qwen4(config: Config) -> Model:
    """The last streams' row is not normalised again."""
    hidden, count = config.size("hidden_size"), config.layers("num_hidden_layers")
    listed = config.fields.get("layer_types")
    if isinstance(listed, list):
        kinds = [FULL if kind == PICKED else kind for kind in listed]
        config = Config({**config.fields, "layer_types": kinds}, config.origin)
    streams = GatedStreams(config.size("hc_count", default=4), config.size("hc_lowrank", default=320))
    ngrams, wide = _ngrams(config, hidden, count, streams.count), qwen_experts(config)
    layers = []
    for i, mixer in enumerate(qwen_mixers(config, hidden)):
        attends = _picked(config, mixer) if isinstance(mixer, GatedAttentionBlock) else mixer
        before = (ngrams[i],) if i in ngrams else ()
        layers.append(Layer((*before, attends, wide), input_norms=False, streams=streams))
    model = decoder_of(config, hidden, layers, positions=32768)
    stack = model.stack
    inputs = (*stack.inputs, StreamCopies(streams.count))
    outputs = (LastStreams(streams), *stack.outputs[1:])
    return replace(model, stack=replace(stack, inputs=inputs, outputs=outputs))


def _picked(config: Config, attends: GatedAttentionBlock) -> Block:
    if config.optional_size("indexer_n_heads") is None:
        return attends
    index = Indexer(
        config.size("indexer_n_heads"),
        config.size("indexer_head_dim"),
        config.size("indexer_budget"),
        pool=config.size("indexer_compress_ratio"),
    )
    config.divides("indexer_budget", index.chosen, "indexer_compress_ratio", index.pool)
    return PickedAttentionBlock(**vars(attends), index=index)


def _ngrams(config: Config, hidden: int, layers: int, streams: int) -> dict[int, NgramBlock]:
    """Those of some layers, by the layer's index from 0; fields number layers from 1."""
    listed = config.fields.get("ple_layer_ids") or []
    if not isinstance(listed, list) or not all(type(i) is int and 1 <= i <= layers for i in listed):
        raise config.wrong("ple_layer_ids", f"layers from 1 to {layers}")
    longest = config.size("ngram_size", default=3, most=MOST)
    heads = (longest - 1) * config.size("heads_per_ngram", default=8, most=MOST)
    width = config.size("ple_embed_dim", default=hidden)
    if not listed:
        return {}
    config.divides("ple_embed_dim", width, "(ngram_size - 1) x heads_per_ngram =", max(heads, 1))
    whole = config.size("make_ngram_vocab_size_divisible_by", default=128)
    base, places = config.size("ngram_vocab_size_base", default=20_000_000), sorted(set(listed))
    sizes = _primes(base, len(places) * heads)
    kernel = config.size("ple_conv_kernel_size", default=4)
    return {
        place - 1: NgramBlock(
            streams,
            hidden,
            whole * -(-sum(sizes[i * heads : (i + 1) * heads]) // whole),
            heads,
            width,
            kernel,
            longest,
        )
        for i, place in enumerate(places)
    }


def _primes(start: int, count: int) -> list[int]:
    """The first prime numbers from `start`: each hash has a table of another prime length."""
    found: list[int] = []
    low, length = max(start, 2), 1 << 16
    while len(found) < count:
        prime = bytearray(b"\1") * length
        for divisor in range(2, isqrt(low + length) + 1):
            first = max(divisor * divisor, -(-low // divisor) * divisor) - low
            prime[first::divisor] = bytes(len(range(first, length, divisor)))
        found += [low + i for i, is_prime in enumerate(prime) if is_prime]
        low += length
    return found[:count]


FAMILY = {"qwen4_exp_text": _qwen4}
