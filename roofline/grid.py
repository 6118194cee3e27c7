"""Thousands of scenarios of one model, of any family, at once: sizes, formats and devices are arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from roofline.predict import check_node
from roofline.scenario import Scenario
from specfiles.errors import InputError
from workloads.phases import Setting
from workloads.techniques.base import Technique

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from numpy.typing import NDArray

    from hwspecs import Device
    from roofline.engines import Engine
    from workloads.model import Model

    Floats = NDArray[Any]
    Indices = NDArray[np.intp]

D = TypeVar("D", bound="DataclassInstance")


@dataclass(frozen=True)
class Grid:
    """Points of one phase. Sizes are arrays; each point has one of `settings` and one of `devices`."""

    phase: str
    batch: Floats
    prompt: Floats
    context: Floats  # that a decode step sees
    output: Floats
    settings: tuple[Setting, ...]
    setting: Indices
    devices: tuple[Device, ...]
    device: Indices
    images: int = 0  # that each prompt begins with, the same number at all points
    steps: Floats | float = 1.0  # of a diffusion model
    techniques: tuple[Technique, ...] = ()  # that apply to arrays

    @classmethod
    def of(
        cls, scenarios: Sequence[Scenario], devices: Sequence[Device], engine: Engine | None = None
    ) -> Grid:
        """The grid of scenarios of one phase, each on the device of its place (or all on the only one).

        Raises InputError where scenarios cannot be a grid (`fits`).
        """
        if not cls.fits(scenarios, engine):
            raise InputError(
                "a grid holds scenarios of one model and phase, with the same images and no techniques that "
                "do otherwise by size, as drafts and offloading do; predict them one by one."
            )
        settings = {setting: i for i, setting in enumerate(dict.fromkeys(s.setting for s in scenarios))}
        unique = {id(d): d for d in devices}
        places = {key: i for i, key in enumerate(unique)}
        each = devices if len(devices) > 1 else list(devices) * len(scenarios)
        sizes = ("batch", "prompt", "decode_context", "output", "denoise_steps")
        batch, prompt, context, output, steps = np.array(
            [[getattr(s, name) for s in scenarios] for name in sizes], dtype=float
        )
        return cls(
            scenarios[0].phase,
            batch,
            prompt,
            context,
            output,
            tuple(settings),
            np.array([settings[s.setting] for s in scenarios]),
            tuple(unique.values()),
            np.array([places[id(d)] for d in each]),
            scenarios[0].images,
            steps,
            scenarios[0].techniques,
        )

    @staticmethod
    def fits(scenarios: Sequence[Scenario], engine: Engine | None = None) -> bool:
        """Whether they can be one grid: of one model and phase, with the same images and nothing left out.

        But for CUDA graphs, whose absence an `engine` counts.
        """
        alike = {(id(s.model), s.phase, s.images, s.techniques) for s in scenarios}
        known = all(one.on_arrays for s in scenarios for one in s.techniques)
        conventions = {s.setting.convention for s in scenarios}
        if engine is not None:
            conventions = {replace(each, launches=False) for each in conventions}
        return len(alike) == 1 and known and not any(each.lacks for each in conventions)

    def __len__(self) -> int:
        return len(self.batch)

    def check(self, model: Model) -> None:
        """Raise the InputError of any single scenario; the extremes of each setting stand for all."""
        longest = {"prefill": self.prompt, "decode": self.context}.get(self.phase, self.prompt + self.output)
        past = self.context - self.prompt  # what a decoder with an encoder's memory has written
        for code in np.unique(self.setting):
            here = np.flatnonzero(self.setting == code)
            sizes = (self.batch, self.prompt, self.context, self.output, longest, past)
            extremes = {int(here[pick(s[here])]) for s in sizes for pick in (np.argmin, np.argmax)}
            for i in extremes:
                batch, prompt, output = (int(s[i]) for s in (self.batch, self.prompt, self.output))
                context = int(self.context[i]) if self.phase == "decode" else None
                scenario = Scenario(
                    model,
                    self.phase,
                    batch,
                    prompt,
                    context,
                    output,
                    self.settings[code],
                    self.techniques,
                    images=self.images,
                )
                for device in np.unique(self.device[here]):
                    check_node(scenario, self.devices[device])
                    scenario.schedule(self.devices[device])  # a technique may be refused there


def taken(one: D, index: Indices) -> D:
    """The same with its arrays cut to some points."""
    values = {field.name: getattr(one, field.name) for field in fields(one)}
    return replace(one, **{name: v[index] for name, v in values.items() if isinstance(v, np.ndarray)})
