"""What is asked of a prediction: a model in a phase, at sizes, under a setting."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from specfiles.errors import InputError
from specfiles.frozen import dataclass
from workloads.dtypes import told, weights_told
from workloads.phases import Setting
from workloads.schedule import Schedule, plain
from workloads.sharing import check_sharing

if TYPE_CHECKING:
    from hwspecs import Device
    from workloads.model import Model
    from workloads.techniques.base import Target, Technique

PHASES = ("prefill", "decode", "generate", "denoise")
MOST = 100_000_000  # of sequences or tokens


@dataclass(frozen=True)
class Scenario:
    """What is asked: a model in a phase, at sizes, under a setting.

    `prompt` tokens are read at once; decode attends to `context` tokens, the one it reads included
    (by default the first after the prompt); generate yields `output` tokens, one from the prefill. A
    diffusion model denoises prompt and output together, `steps` times in generate (by default one per token).
    Each prompt of a model that sees begins with `images`, whose tokens are among its `prompt`.
    """

    model: Model
    phase: str = "generate"
    batch: int = 1
    prompt: int = 1024
    context: int | None = None
    output: int = 128
    setting: Setting = Setting()
    techniques: tuple[Technique, ...] = ()
    steps: int | None = None
    images: int = 0

    def __post_init__(self) -> None:
        if self.phase not in PHASES:
            raise InputError(f"no phase named {self.phase!r}; known: {', '.join(PHASES)}.")
        if self.phase not in self.model.phases:
            raise InputError(
                f"{self.model.name} {self.model.manner}; it has no phase {self.phase!r}, only "
                f"{' or '.join(self.model.phases)}."
            )
        self._check_extras()
        for name in ("batch", "prompt", "output"):
            _check_size(name, getattr(self, name))
        if self.context is not None:
            _check_size("context", self.context)
        asked, window = self.longest, self.model.audio_window
        if window and self.prompt != window:
            raise InputError(
                f"{self.model.name} reads windows of audio, which are {window} positions; --prompt is "
                f"{self.prompt}, leave it out."
            )
        if self.model.has_memory:  # each stack counts its own positions
            asked = max(0 if window else self.prompt, asked - self.prompt + 1)
        if asked > self.model.max_position:
            raise InputError(
                f"{self.model.name} has positions for {self.model.max_position} tokens, "
                f"{asked} were asked for; shorten --prompt, --context or --output."
            )
        check_sharing(self.model, self.setting, self.batch)

    def _check_extras(self) -> None:
        """Raise InputError for options that do not apply to this model."""
        if self.steps is not None:
            _check_size("steps", self.steps)
            if not self.denoises:
                raise InputError(f"{self.model.name} {self.model.manner}; --steps is for diffusion models.")
        if self.model.has_memory and self.phase == "decode" and self.decode_context <= self.prompt:
            raise InputError(
                f"context is {self.decode_context}; that of an encoder-decoder includes the {self.prompt} "
                "tokens that its encoder reads (--prompt)."
            )
        if self.images:
            _check_size("images", self.images)
            taken = self.images * self.model.image_tokens
            if not taken:
                raise InputError(f"{self.model.name} has no vision tower here; leave --images out.")
            if taken > self.prompt:
                raise InputError(
                    f"{self.images} images take {taken} of the prompt's tokens, which are {self.prompt}; "
                    "give a longer --prompt."
                )

    def other_formats(self) -> list[dict[str, Any]]:
        """What of the model a checkpoint has in other formats than the setting's (docs/formats.md)."""
        if not self.model.mixed:
            return []
        from workloads.checkpoint import other_formats

        return other_formats(self.model, self.setting.precision)

    @property
    def formats_told(self) -> str:
        """All formats in words."""
        return told(self.setting.precision, self.other_formats())

    @property
    def weights_told(self) -> str:
        """The formats of weights in words."""
        return weights_told(self.setting.precision, self.other_formats())

    @property
    def denoise_steps(self) -> int:
        """How often generate denoises."""
        return self.steps if self.steps is not None else self.output

    @property
    def denoises(self) -> bool:
        """Whether the model fills in all positions at once, step by step."""
        return "denoise" in self.model.phases

    @property
    def decode_context(self) -> int:
        """Tokens that a decode step attends to."""
        return self.context if self.context is not None else self.prompt + 1

    @property
    def longest(self) -> int:
        """The most tokens that one sequence has in this scenario."""
        if self.phase == "decode":
            return self.decode_context
        if self.denoises:
            return self.prompt + self.output
        return self.prompt + (self.output - 1 if self.phase == "generate" else 0)

    def schedule(self, device: Device | None = None) -> Schedule:
        """The passes that it needs, with its techniques where a device is given to judge them by."""
        asked = self.plain()
        if device is None or not self.techniques:
            return asked
        from workloads.techniques.compose import compose

        return compose(self.techniques, asked, target(device))

    @property
    def decode_steps(self) -> int:
        """Steps that yield a token after the first."""
        if self.denoises:
            return 0
        return {"decode": 1, "generate": self.output - 1}.get(self.phase, 0)

    @property
    def tokens_each(self) -> int:
        """Tokens of each sequence that the phase reads or yields."""
        return {"prefill": self.prompt, "decode": 1}.get(self.phase, self.output)

    def plain(self) -> Schedule:
        """The passes that it needs without techniques."""
        sizes = self.batch, self.prompt, self.output, self.decode_context
        extras = {"images": self.images, "steps": self.denoise_steps}
        return plain(self.model, self.phase, *sizes, self.setting, **extras)


def sized(scenario: Scenario, point: tuple[str, int, int, int, int]) -> Scenario:
    """The scenario of one step of a run (run_tables.POINT); of a chunk, that of a prompt as long as it."""
    phase, batch, q_len, kv_len, encoder_len = point
    if phase not in PHASES:
        phase = "decode" if q_len == 1 else "prefill"
    prompt = encoder_len or q_len
    return replace(scenario, phase=phase, batch=batch, prompt=prompt, context=kv_len, output=1)


def target(device: Device) -> Target:
    """What techniques may ask of a device."""
    from roofline.ceilings import HOST_LINKS
    from workloads.techniques.base import Target

    sheet = device.datasheet
    peaks = {**sheet.tensor_flop_per_s, **sheet.vector_flop_per_s, **device.measured.vector_flop_per_s}
    host = next((sheet.links[name] for name in HOST_LINKS if name in sheet.links), None)
    launch, replayed = device.measured.launch_s, device.measured.graph_launch_s
    return Target(
        name=device.name,
        dtypes=frozenset(map(str, peaks)),
        structured_sparsity=sheet.structured_sparsity.value if sheet.structured_sparsity else None,
        host_byte_per_s=host.byte_per_s.value if host else None,
        disk="disk" in sheet.links,
        host_memory="host_memory" in sheet.links,
        memory_bytes=device.capacity_bytes,
        launch_s=launch.value if launch else None,
        graph_launch_s=replayed.value if replayed else None,
        is_host=device.kind == "cpu",
    )


def _check_size(name: str, value: int) -> None:
    if not 0 < value <= MOST:
        shown = value if abs(value) < 10**12 else "far too large"
        raise InputError(f"{name} is {shown}; expected a positive whole number of at most {MOST}.")
