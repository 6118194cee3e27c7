"""Architectures other than decoders: encoders, encoder-decoders, diffusion and vision-language models."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, ClassVar

from specfiles.frozen import dataclass
from workloads.arrays import anywhere, minimum
from workloads.blocks import CrossAttentionBlock
from workloads.dtypes import Size
from workloads.model import Model, Stack
from workloads.step import Setting, Step


@dataclass(frozen=True)
class Encoder(Model):
    """All positions see all others, once: there is nothing to decode."""

    phases: ClassVar[tuple[str, ...]] = ("prefill",)
    manner: ClassVar[str] = "is an encoder, which reads its input in one pass and generates nothing"


@dataclass(frozen=True)
class EncoderDecoder(Model):
    """An encoder reads the prompt, a decoder attends to what it made of it (arXiv:1706.03762).

    Prefill is the encoder, the projection of its result to keys and values of the decoder's cross
    attention, and the decoder's first position. A context is the prompt with the decoder's positions but
    the first, so that after it the contexts of decode steps go on as those of a decoder do.
    """

    has_memory: ClassVar[bool] = True
    manner: ClassVar[str] = "is an encoder-decoder"

    encoder: Stack

    @property
    def stacks(self) -> tuple[Stack, ...]:
        """Encoder and decoder."""
        return self.encoder, self.stack

    def passes(self, step: Step) -> Iterator[tuple[Stack, Step]]:
        """Both stacks where the step begins a sequence, otherwise the decoder."""
        if step.begins:
            yield self.encoder, replace(step, scored=step.kv_len)  # all of it is normalised at the end
            yield self.stack, Step(step.batch, 1, 1, memory=step.kv_len)
            return
        yield self.stack, Step(step.batch, step.q_len, step.kv_len - step.memory + 1, memory=step.memory)

    def cache_bytes(self, batch: Size, tokens: Size, setting: Setting, memory: Size = 1) -> Any:
        """Keys and values of the prompt in cross attention, of the decoder's own positions in the rest."""
        own = tokens - memory + 1
        return batch * sum(
            count * block.cache_bytes(memory if isinstance(block, CrossAttentionBlock) else own, setting)
            for layer, count in self.stack.distinct.items()
            for block in layer.blocks
        )


@dataclass(frozen=True)
class SpeechToText(EncoderDecoder):
    """An encoder-decoder whose prompts are windows of audio, all of one length (arXiv:2212.04356)."""

    manner: ClassVar[str] = "is an encoder-decoder of audio"

    frames: int  # after the encoder's convolutions

    @property
    def audio_window(self) -> int:  # type: ignore[override]
        """Positions of a window."""
        return self.frames


@dataclass(frozen=True)
class Diffusion(Model):
    """A language model that fills in masked positions, all at once and several times over.

    Each denoising step is a pass over prompt and answer, in which every position sees every other: there is
    no cache (arXiv:2502.09992, arXiv:2310.16834).
    """

    phases: ClassVar[tuple[str, ...]] = ("denoise", "generate")
    manner: ClassVar[str] = "is a diffusion model, which denoises prompt and answer together"


@dataclass(frozen=True)
class VisionLanguage(Model):
    """A decoder behind a vision tower that turns the patches of an image into prompt tokens."""

    manner: ClassVar[str] = "is a decoder behind a vision tower"

    vision: Stack
    patches: int  # of one image
    merged: int  # neighbouring patches that become one prompt position
    others: int = 0  # positions of the tower beside the patches of an image: a class token

    @property
    def image_tokens(self) -> int:  # type: ignore[override]
        """Prompt positions that one image becomes."""
        return self.patches // self.merged

    @property
    def stacks(self) -> tuple[Stack, ...]:
        """Tower and decoder."""
        return self.vision, self.stack

    def passes(self, step: Step) -> Iterator[tuple[Stack, Step]]:
        """The tower where the step has images, then the decoder.

        Images whose positions are all cached, as of a shared prefix, are not looked at again (vLLM,
        Scheduler._try_schedule_encoder_inputs).
        """
        if step.images:
            new = step.images - minimum(step.images, step.past // self.image_tokens)
            if anywhere(new > 0):
                positions = self.patches + self.others
                yield self.vision, Step(step.batch * new, positions, positions)
        yield self.stack, replace(step, images=0)
