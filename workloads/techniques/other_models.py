"""Another model answers: a student, a deeper and thinner one, one with experts."""

from __future__ import annotations

from dataclasses import dataclass, replace

from workloads.blocks import AttentionBlock, Block, MlpBlock, MoeBlock
from workloads.catalogue import load_model
from workloads.layer import Layer
from workloads.model import Model
from workloads.schedule import Schedule
from workloads.techniques.base import Target, Technique, parameter
from workloads.techniques.changes import blocks, with_blocks, with_fewer_layers


@dataclass(frozen=True)
class Distillation(Technique):
    """A smaller student, trained on the model's output, replaces it."""

    name = "distillation"
    aliases = ("student", "distilbert", "minillm", "smaller-model")
    category = "knowledge distillation"
    paper = "DistilBERT arXiv:1910.01108; MiniLLM arXiv:2306.08543"
    removes = "the model: the student does all the work"
    adds = "nothing in inference"
    needs = "a trained student"
    quality = "retrained"
    slot = "which model answers"
    on_arrays = True

    student: str = parameter(
        "half", "the model that answers; half: the same with half its layers (DistilBERT)"
    )

    def apply(self, schedule: Schedule) -> Schedule:
        """The student reads the same prompt and writes as many tokens."""
        if self.student == "half":
            return with_fewer_layers(schedule, 0.5)
        student = load_model(self.student).model
        return schedule.with_model(lambda _: student)


@dataclass(frozen=True)
class DeepAndThin(Technique):
    """More layers of less width, with about as many parameters in them."""

    name = "deep-and-thin"
    aliases = ("depth-over-width", "tiny-model", "depth-width")
    category = "efficient structure"
    paper = "MobileLLM arXiv:2402.14905, section 2.2.2"
    removes = "width: tables of tokens, activations, keys and values of each layer"
    adds = "layers, one after the other: kernels, and keys and values of each"
    needs = "a model trained in this shape"
    quality = "retrained"
    slot = "the width of layers"
    on_arrays = True
    also_decides = ("how many layers there are",)

    depth: float = parameter(2.5, "layers over those of the model (MobileLLM: 30 for 12)", low=0.1, high=10)

    def refuse(self, schedule: Schedule, target: Target) -> str | None:
        """Every layer must be attention and a feed-forward block, whose width is known here."""
        model = schedule.main.model
        kinds = {type(block) for layer in model.layers for block in layer.blocks}
        if len(model.stacks) > 1 or not kinds <= {AttentionBlock, MlpBlock}:
            return "the model has layers or stacks besides attention and dense feed-forward blocks"
        return None

    def apply(self, schedule: Schedule) -> Schedule:
        """A layer's matrices are hidden x width: both shrink by the root of the depth."""
        kept = self.depth**-0.5

        def block(old: Block) -> Block:
            if isinstance(old, MlpBlock):
                return replace(old, width=max(1, round(old.width * kept)))
            assert isinstance(old, AttentionBlock)
            return _with_heads(old, kept)

        def layer(old: Layer) -> Layer:
            return replace(old, blocks=tuple(map(block, old.blocks)))

        def model(old: Model) -> Model:
            count = max(1, round(len(old.layers) * self.depth))
            layers = tuple(layer(old.layers[i * len(old.layers) // count]) for i in range(count))
            hidden = max(1, round(old.stack.hidden * kept))
            return replace(old, stack=replace(old.stack, hidden=hidden, layers=layers))

        return schedule.with_model(model)


def _with_heads(old: AttentionBlock, kept: float) -> AttentionBlock:
    """Whole groups of heads that share a KV head; where there is one, fewer heads of it."""
    groups = max(1, round(old.kv_heads * kept))
    each = old.heads // old.kv_heads
    if old.kv_heads == 1:
        each = max(1, round(each * kept))
    return replace(old, heads=each * groups, kv_heads=groups)


@dataclass(frozen=True)
class MixtureOfExperts(Technique):
    """Each feed-forward block becomes several experts, of which a router picks a few for each token."""

    name = "mixture-of-experts"
    aliases = ("moe", "upcycling", "grin", "mixtral-moe")
    variants = {
        "switch-transformer": {"top_k": 1},
        "deepseek-moe": {"experts": 64, "top_k": 6},  # arXiv:2401.06066, section 5.1.2: routed ones
    }
    category = "efficient structure"
    paper = "Switch arXiv:2101.03961; Mixtral arXiv:2401.04088; DeepSeekMoE arXiv:2401.06066; GRIN 2409.12136"
    removes = "feed-forward work per token, at equal parameters"
    adds = "a router; the weights of every expert in memory; at a batch, reads of many experts"
    needs = "a model trained with experts"
    quality = "retrained"
    slot = "the kind of feed-forward block"
    on_arrays = True

    experts: int = parameter(8, "experts (Mixtral: 8)", low=1, high=4096)
    top_k: int = parameter(2, "experts of a token (Mixtral: 2; Switch: 1)", low=1, high=4096)
    equal: str = parameter("active", "what stays equal to the dense model", among=("active", "total"))

    def refuse(self, schedule: Schedule, target: Target) -> str | None:
        """There must be dense feed-forward blocks, and as many experts as are picked."""
        if not blocks(schedule, MlpBlock):
            return "the model has no dense feed-forward block"
        if self.top_k > self.experts:
            return f"{self.top_k} experts cannot be picked of {self.experts}"
        return None

    def apply(self, schedule: Schedule) -> Schedule:
        """Experts of width / top_k keep the active parameters, experts of width / experts the total."""
        parts = self.top_k if self.equal == "active" else self.experts

        def split(b: MlpBlock) -> MoeBlock:
            width = max(1, round(b.width / parts))
            return MoeBlock(self.experts, self.top_k, width, b.activation, b.gated, b.bias)

        return with_blocks(schedule, MlpBlock, split)
