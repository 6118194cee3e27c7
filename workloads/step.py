"""What is asked of a model: the sizes of one forward pass, and how the model is run."""

from __future__ import annotations

from dataclasses import replace

from specfiles.frozen import dataclass
from workloads.arrays import anywhere
from workloads.convention import CONVENTIONS, Convention
from workloads.dtypes import DtypeLike, Precision, Size


@dataclass(frozen=True)
class Step:
    """One forward pass: `batch` sequences, `q_len` new positions each, `kv_len` visible ones.

    Of an encoder-decoder, `memory` of the visible ones are the encoder's. Of a model that sees, each
    sequence begins with `images`.
    """

    batch: Size
    q_len: Size
    kv_len: Size
    scored: Size = 1  # positions of each sequence that are projected to the vocabulary: the last ones
    memory: Size = 0
    images: Size = 0

    @property
    def tokens(self) -> Size:
        """New positions of all sequences."""
        return self.batch * self.q_len

    @property
    def past(self) -> Size:
        """Positions of a sequence before the new ones."""
        return self.kv_len - self.q_len

    @property
    def sizes(self) -> tuple[Size, Size, Size]:
        """What the work of a recurrence depends on: sequences, new positions of each, and those before."""
        return self.batch, self.q_len, self.past

    @property
    def begins(self) -> bool:
        """Whether nothing precedes the new positions (of any sequence of a grid)."""
        return not anywhere(self.past != 0)


def prefill(batch: Size, prompt: Size) -> Step:
    """The pass that reads a prompt and yields the first token."""
    return Step(batch, prompt, prompt)


def decode(batch: Size, context: Size) -> Step:
    """The pass that yields one more token; `context` includes the token it reads."""
    return Step(batch, 1, context)


@dataclass(frozen=True)
class Setting:
    """How a model is run: formats, what is counted, and over how many devices its tensors are split."""

    precision: Precision = Precision()
    convention: Convention = CONVENTIONS["fused"]
    tensor_parallel: int = 1
    expert_parallel: int = 1  # devices that whole experts are spread over
    pipeline_parallel: int = 1  # stages of layers, one after the other
    expert_skew: float = 0.0  # how popular some experts are (workloads.operators.experts.popularity)

    @property
    def replicas(self) -> int:
        """Copies of the attention, each with its share of the batch, where experts span more devices."""
        return max(1, self.expert_parallel // self.tensor_parallel)

    def own(self, step: Step) -> Step:
        """What of a step one device runs: where attention has copies, their share of the batch."""
        return replace(step, batch=step.batch // self.replicas) if self.replicas > 1 else step

    @property
    def index_keys(self) -> DtypeLike:
        """The format of keys that an indexer scores: engines', where model code keeps that of other keys."""
        return self.precision.index_keys if self.convention.absorbs_latents else self.precision.kv

    @property
    def expert_width_parallel(self) -> int:
        """Devices that share the width of each expert."""
        return max(1, self.tensor_parallel // self.expert_parallel)

    @property
    def devices(self) -> int:
        """Devices in all."""
        return max(self.tensor_parallel, self.expert_parallel) * self.pipeline_parallel


PLAIN = Setting()  # bf16, the floor's convention, one device
