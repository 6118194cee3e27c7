"""Decoders of several residual streams: DeepSeek-V4, HY-V4 and GLM-5.3-Flash."""

from __future__ import annotations

from dataclasses import replace

from profiler.parts.base import ATTENTION, HEADS, Family, Gap, Inside, named
from profiler.parts.dense import NORMS, OUTSIDE, RESIDUALS
from profiler.parts.experts import INDEXED, PICK, routing
from profiler.parts.hybrids import KIMI


def _collapsed(name: str) -> str:
    """The range of a module that makes one row of all streams."""
    short = name.rpartition(".")[2]
    return f"{name}_norm + {short}_proj + {short}_collapse"


_HYPER = "layers.attention_hyper", "layers.mlp_hyper"
COLLAPSED = {"attn_hc": _collapsed(_HYPER[0]), "ffn_hc": _collapsed(_HYPER[1])}
SPREAD = (Gap("self_attn", "ffn_hc", f"{_HYPER[0]}_spread"), Gap("mlp", "", f"{_HYPER[1]}_spread"))
STREAMS_OUTSIDE = {**OUTSIDE, "model.hc_head": _collapsed("hyper_head")}

# DeepSeek-V4. Few steps complete an entry, so one range holds all that is done for it.
_COMPRESSOR, _INDEXER = "self_attn.compressor", "self_attn.compressor.indexer"
_INDEX = f"{ATTENTION}.indexer"


def _completed(name: str) -> str:
    return f"{ATTENTION}.{name}_sum + {name}_norm + {name}_rope + {name}_append"


def _projected(module: str, name: str) -> dict[str, str]:
    return named(module, ATTENTION, **{f"{n}_proj": f"{name}_{n}_proj" for n in ("kv", "gate")})


_SHARED = "mlp.shared_experts"
_WINDOW = Inside(
    {
        **COLLAPSED,
        **NORMS,
        **named("self_attn", ATTENTION, "q_a_proj", "q_a_norm", "q_b_proj", "q_b_norm", "kv_proj", "kv_norm"),
        **named("self_attn", ATTENTION, "o_a_proj", "o_b_proj"),
        **routing("mlp", "gate"),
        **named(_SHARED, "layers.moe", **{f"{n}_proj": f"shared_{n}_proj" for n in ("gate", "up", "down")}),
    },
    (
        *SPREAD,
        Gap("self_attn.q_b_norm", "self_attn.kv_proj", f"{ATTENTION}.rope"),
        Gap(f"{_SHARED}.gate_proj", f"{_SHARED}.up_proj", "layers.moe.shared_act_mul"),  # its limit
        Gap(f"{_SHARED}.up_proj", f"{_SHARED}.down_proj", "layers.moe.shared_act_mul"),
        Gap(_SHARED, "mlp", "layers.moe.shared_sum", inside=True),
    ),
)
_ALL = Inside(
    {**_WINDOW.modules, **_projected(_COMPRESSOR, "entries")},
    (*_WINDOW.gaps, Gap(f"{_COMPRESSOR}.gate_proj", _COMPRESSOR, _completed("entries"), inside=True)),
)
_PICKED = Inside(
    {
        **_ALL.modules,
        **_projected(_INDEXER, "indexer_entries"),
        f"{_INDEXER}.q_b_proj": f"{_INDEX}_q_proj",
        f"{_INDEXER}.scorer.weights_proj": f"{_INDEX}_weights_proj",
    },
    (
        *_WINDOW.gaps,
        Gap(f"{_COMPRESSOR}.gate_proj", _INDEXER, _completed("entries")),
        Gap(f"{_INDEXER}.gate_proj", f"{_INDEXER}.q_b_proj", _completed("indexer_entries")),
        Gap(f"{_INDEXER}.q_b_proj", f"{_INDEXER}.scorer", f"{_INDEX}_rope"),
        Gap(f"{_INDEXER}.scorer", f"{_INDEXER}.scorer.weights_proj", f"{_INDEX}_scores", inside=True),
        Gap(f"{_INDEXER}.scorer.weights_proj", f"{_INDEXER}.scorer", f"{_INDEX}_scores", inside=True),
        Gap(f"{_INDEXER}.scorer", _COMPRESSOR, f"{_INDEX}_topk", inside=True),  # and the mask of the others
    ),
)
DEEPSEEK_V4 = Family(
    "model.layers",
    _WINDOW.modules,
    _WINDOW.gaps,
    STREAMS_OUTSIDE,
    kinds={_INDEXER: _PICKED, _COMPRESSOR: _ALL},
    behind={
        f"{ATTENTION}.kv_norm": f"{ATTENTION}.rope",
        f"{ATTENTION}.kv_append": HEADS,
        _completed("entries"): HEADS,  # appended to the window's
        f"{_INDEX}_topk": HEADS,
        f"{ATTENTION}.core": f"{ATTENTION}.unrotate",
    },
    packages={_completed("entries"): ""},
    rotations={"": ""},
    widens=("create_sliding_window_causal_mask", "model.rotary_emb"),
)

HY_V4 = replace(  # an indexer in some layers, and gates behind attention
    INDEXED,
    modules={**INDEXED.modules, **COLLAPSED, "self_attn.gate_proj": f"{ATTENTION}.output_gate"},
    gaps=(*SPREAD, *INDEXED.gaps[len(RESIDUALS) :]),
    outside=STREAMS_OUTSIDE,
    behind={**INDEXED.behind, f"{ATTENTION}.core": f"{ATTENTION}.gate_mul"},
    widens=("model.rotary_emb", "model.layers.0"),
)

# GLM-5.3-Flash: Kimi's delta layers, and latent attention to what an indexer picks of pools of positions.
_DELTA = KIMI.kinds["self_attn.forget_gate"]
_POOL = "self_attn.indexer.get_pooled_states"


def _with_streams(inside: Family | Inside, more: dict[str, str], spread: str) -> Inside:
    """A layer whose activations are called behind both products, whose results they limit."""
    modules = {path: name for path, name in inside.modules.items() if not path.endswith(".act_fn")}
    sums = replace(SPREAD[0], name=spread), SPREAD[1]
    return Inside({**modules, **COLLAPSED, **more}, (*sums, *inside.gaps[len(RESIDUALS) :]))


_LATENT = _with_streams(INDEXED, {_POOL: f"{_INDEX}_pool"}, SPREAD[0].name)
_LINEAR = _with_streams(_DELTA, {"attn_hc": _collapsed("layers.delta_hyper")}, "layers.delta_hyper_spread")
GLM5_NEXT = replace(
    INDEXED,
    modules=_LATENT.modules,
    gaps=_LATENT.gaps,
    outside={**STREAMS_OUTSIDE, "model.hc_head": "hyper_mean"},
    kinds={"self_attn.forget_gate": _LINEAR},
    functions={**INDEXED.functions, **KIMI.functions},
    behind={
        **KIMI.behind,
        f"{_INDEX}_k_norm": f"{_INDEX}_gate_proj",
        f"{_INDEX}_append": HEADS,  # what each query sees
        f"{_INDEX}_pool": PICK,
        PICK: HEADS,
    },
    packages=KIMI.packages,
    rotations={},
    widens=("create_recurrent_attention_mask", "model.layers.0"),
)
