"""LongCat-Flash (arXiv:2509.01322): two attentions and two MLPs a layer, experts on a shortcut past these."""

from __future__ import annotations

from workloads.blocks import Block, MlaBlock, MlpBlock, ShortcutMoeBlock
from workloads.config import Config
from workloads.families.common import activation, decoder_of
from workloads.layer import Layer
from workloads.model import Model


def _longcat(config: Config) -> Model:
    """Factors of latents are not counted: they can be multiplied into the weights of norms before them."""
    hidden = config.size("hidden_size")
    pairs = config.fields.get("num_layers")
    count = config.layers("num_layers") if pairs is not None else config.layers("num_hidden_layers") // 2
    act = activation(config, "hidden_act", default="silu")
    mlp = MlpBlock(config.size("ffn_hidden_size", "intermediate_size", default=12288), act)
    choices = config.size("n_routed_experts", "num_local_experts", default=512)
    idle = config.count("zero_expert_num", 256)
    top_k = config.size("moe_topk", "num_experts_per_tok", default=12)
    config.within("moe_topk", top_k, "n_routed_experts + zero_expert_num =", choices + idle)
    if (kind := config.text("zero_expert_type", default="identity")) != "identity":
        raise config.wrong("zero_expert_type", f"identity: experts of type {kind} are not known")
    experts = ShortcutMoeBlock(
        choices,
        top_k,
        config.size("expert_ffn_hidden_size", "moe_intermediate_size", default=2048),
        act,
        router_bias=config.flag("router_bias", False),
        idle=idle,
    )
    attention = MlaBlock(
        heads=config.size("num_attention_heads"),
        q_latent=config.size("q_lora_rank", default=1536),
        kv_latent=config.size("kv_lora_rank", default=512),
        nope_dim=config.size("qk_nope_head_dim", default=128),
        rope_dim=config.size("qk_rope_head_dim", default=64),
        value_dim=config.size("v_head_dim", default=128),
        bias=config.flag("attention_bias", False),
    )
    blocks: tuple[Block, ...] = (attention, mlp, experts, attention, mlp)
    return decoder_of(config, hidden, [Layer(blocks)] * count, positions=131_072)


FAMILY = {"longcat_flash": _longcat}
