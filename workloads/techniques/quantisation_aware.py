"""Quantisation-aware training."""

from __future__ import annotations

from dataclasses import dataclass

from workloads.schedule import Schedule
from workloads.techniques.base import FORMAT, Target, Technique, parameter
from workloads.techniques.weight_activation import WeightActivation


@dataclass(frozen=True)
class QuantisationAware(Technique):
    """Weight and activation quantisation with training that takes part of the loss back."""

    name = "quantisation-aware-training"
    aliases = ("qat", "llm-qat")
    level = "model"
    category = "quantisation"
    paper = "LLM-QAT arXiv:2305.17888"
    removes = "what weight-activation quantisation removes"
    adds = "what weight-activation quantisation adds; nothing more in inference"
    needs = "training with quantised weights and activations; matrix units for the format"
    quality = "retrained"
    slot = "the format of weights"
    order = FORMAT

    format: str = parameter("int8", "in which products multiply", among=("int8", "fp8", "nvfp4", "bf16"))

    def refuse(self, schedule: Schedule, target: Target) -> str | None:
        """As without the training."""
        return self._plain.refuse(schedule, target)

    def apply(self, schedule: Schedule) -> Schedule:
        """Inference does not know how the weights were found."""
        return self._plain.apply(schedule)

    @property
    def _plain(self) -> WeightActivation:
        return WeightActivation(self.format)
