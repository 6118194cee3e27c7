"""Quantisation-aware training."""

from __future__ import annotations

from dataclasses import dataclass

from workloads.techniques.base import parameter
from workloads.techniques.weight_activation import WeightActivation


@dataclass(frozen=True)
class QuantisationAware(WeightActivation):
    """Weight and activation quantisation with training that recovers part of the lost quality."""

    name = "quantisation-aware-training"
    aliases = ("qat", "llm-qat")
    variants = {}
    paper = "LLM-QAT arXiv:2305.17888"
    removes = "what weight-activation quantisation removes"
    adds = "what weight-activation quantisation adds; nothing more in inference"
    needs = "training with quantised weights and activations; matrix units for the format"
    quality = "retrained"

    format: str = parameter("int8", "in which products multiply", among=("int8", "fp8", "nvfp4", "bf16"))
