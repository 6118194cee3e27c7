"""MiniMax-M3: attention to picked blocks and experts behind the first layers, which are full and dense.

By the code of transformers, models/minimax_m3_vl.
"""

from __future__ import annotations

from workloads.blocks import RMS_NORM, AttentionBlock, Block, BlockSparseAttentionBlock, MlpBlock
from workloads.config import Config
from workloads.families import experts
from workloads.families.common import decoder_of, head_dim_of, kv_heads_of, rotated
from workloads.layer import Layer
from workloads.model import Model

FULL, SPARSE = "full_attention", "minimax_m3_sparse"


def _minimax_m3(config: Config) -> Model:
    """Authors state the index in `sparse_attention_config`, transformers in fields of its own.

    The activation is a SiLU with a factor and limits, whatever it is called.
    """
    hidden, count = config.size("hidden_size"), config.layers("num_hidden_layers")
    heads = config.size("num_attention_heads")
    kv_heads, width = kv_heads_of(config, heads, 4), head_dim_of(config, hidden, heads, 128)
    if config.flag("attention_output_gate", False):
        raise config.wrong("attention_output_gate", "false: this family with a gate is not known")
    rotary = config.size("rotary_dim", default=rotated(config, width, 0.5))
    config.within("rotary_dim", rotary, "head_dim", width)
    full = AttentionBlock(heads, kv_heads, width, rotary, qk_norm=RMS_NORM)
    index = config.nested("sparse_attention_config")
    sparse = BlockSparseAttentionBlock(
        heads,
        kv_heads,
        width,
        rotary,
        qk_norm=RMS_NORM,
        index_heads=config.size("index_n_heads", default=index.size("sparse_num_index_heads", default=4)),
        index_dim=config.size("index_head_dim", default=index.size("sparse_index_dim", default=128)),
        size=config.size("index_block_size", default=index.size("sparse_block_size", default=128)),
        blocks=config.size("index_topk_blocks", default=index.size("sparse_topk_blocks", default=16)),
    )
    kinds = config.per_layer("layer_types", count, (FULL, SPARSE))
    picks_any = index.flag("use_sparse_attention", True)
    marked = (index.flags("sparse_attention_freq", count) if picks_any else None) or [False] * count
    picks = marked if kinds is None else [kind == SPARSE for kind in kinds]
    keys_alone = index.flags("sparse_disable_index_value", count) or picks
    if any(pick and not alone for pick, alone in zip(picks, keys_alone, strict=True)):
        raise index.wrong("sparse_disable_index_value", "1 in each layer that picks blocks")
    pairs = zip(picks, _wide(config, count), strict=True)
    layers = [Layer((sparse if pick else full, wide)) for pick, wide in pairs]
    return decoder_of(config, hidden, layers, positions=524_288)


def _wide(config: Config, layers: int) -> list[Block]:
    act = "silu"
    routed = Config({**config.fields, "hidden_act": act}, config.origin)
    shared = config.count("n_shared_experts", 1) * config.size("shared_intermediate_size", default=3072)
    sparse = experts.routed(
        routed,
        "num_local_experts",
        width=config.size("intermediate_size", default=3072),
        default=128,
        top_k=4,
        shared=MlpBlock(shared, act, fused_gate_up=True) if shared else None,
    )
    dense = MlpBlock(config.size("dense_intermediate_size", default=12288), act, fused_gate_up=True)
    marked = config.flags("moe_layer_freq", layers) or [True] * layers
    is_sparse = experts.sparse_layers(config, layers) or marked
    return [sparse if here else dense for here in is_sparse]


FAMILY = dict.fromkeys(("minimax_m3", "minimax_m3_text", "minimax_m3_vl_text"), _minimax_m3)
