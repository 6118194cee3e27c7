"""HRM-Text: a stack of layers for each of two states, run in cycles (transformers, models/hrm_text).

Each run of a layer has a cache of its own. What a prompt's tokens see of later ones is not counted: that they
do is asked for token by token.
"""

from __future__ import annotations

from dataclasses import replace

from workloads.blocks import UNSCALED, CycleStart, OutputGateBlock
from workloads.config import Config
from workloads.families.common import decoder_of, gated_mlp, head_dim_of, rotated
from workloads.layer import Layer
from workloads.model import Model


def _hrm(config: Config) -> Model:
    hidden, heads = config.size("hidden_size"), config.size("num_attention_heads")
    deep = config.layers("num_layers_per_stack", "num_hidden_layers")  # which saved configs multiply
    cycles, inner = config.size("H_cycles", default=2, most=100), config.size("L_cycles", default=3, most=100)
    if config.flag("attention_bias", False):
        raise config.wrong("attention_bias", "false: gates of this family with a bias are not known")
    width = head_dim_of(config, hidden, heads, 128)
    attention = OutputGateBlock(heads, heads, width, rotated(config, width))
    layer = Layer((attention, gated_mlp(config, config.flag("mlp_bias", False))), UNSCALED)
    if deep * cycles * (inner + 1) > MOST:
        raise config.wrong("H_cycles", f"at most {MOST} runs of layers")
    layers: list[Layer] = []
    for run in range(cycles * (inner + 1)):
        again = run not in (0, inner)  # the first run of either stack has its weights
        start = replace(layer, blocks=(CycleStart(run == 0), *layer.blocks))
        layers += [replace(each, repeats=again) for each in (start, *[layer] * (deep - 1))]
    return decoder_of(config, hidden, layers)


MOST = 2_000
FAMILY = {"hrm_text": _hrm}
