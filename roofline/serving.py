"""From kernels to what a client waits for: TTFT and TPOT of an inference engine under load."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from roofline.ceilings import ceilings
from roofline.engines import as_engines_run, on_device, step_s
from roofline.predict import check_node, pass_rows
from roofline.scenario import Scenario

if TYPE_CHECKING:
    from hwspecs import Device
    from hwspecs.serving import Overheads
    from roofline.ceilings import Ceilings, Fidelity
    from workloads.model import Model
    from workloads.phases import Setting


@dataclass(frozen=True)
class Load:
    """`concurrency` requests of `prompt` and `output` tokens are always in flight, on one engine.

    static: they start together and are read as one batch (a batch by hand). Otherwise a prompt is read
    alone when it arrives, while the others' decoding waits (continuous batching, prompts first).
    """

    model: Model
    setting: Setting
    prompt: int
    output: int
    concurrency: int
    static: bool = False
    graphs: bool = True  # decode steps are replayed CUDA graphs; prompts are launched kernel by kernel
    backend: str = ""


@dataclass(frozen=True)
class Steps:
    """Time on the device, and launched kernels, of one prefill and of one decode step; arrays or numbers."""

    prefill_s: Any
    prefill_kernels: Any
    decode_s: Any
    decode_kernels: Any


def steps(load: Load, device: Device, fidelity: Fidelity | str) -> Steps:
    """The two steps: the sum of their operators, decode at the middle of the answer."""
    limits = ceilings(device, fidelity, load.backend)
    at_once = load.concurrency if load.static else 1
    prefill = Scenario(load.model, "prefill", at_once, load.prompt, setting=load.setting)
    middle = load.prompt + max(1, load.output // 2)
    decode = Scenario(load.model, "decode", load.concurrency, load.prompt, middle, setting=load.setting)
    return Steps(*_step(prefill, device, limits), *_step(decode, device, limits))


def _step(scenario: Scenario, device: Device, limits: Ceilings) -> tuple[float, float]:
    """Seconds on the device and kernels of a scenario of one step."""
    scenario = as_engines_run(scenario)
    check_node(scenario, device)
    return on_device([row for each in scenario.schedule(device).passes for row in pass_rows(each, limits)])


def waits(
    steps: Steps, concurrency: Any, output: Any, static: Any, graphs: Any, overheads: Overheads
) -> tuple[Any, Any]:
    """(TTFT, TPOT) in seconds; sizes may be arrays over rows.

    What a step takes beside its kernels: `roofline.engines`. Between two tokens of a request the other
    concurrency - 1 requests have their prompts read once per `output` tokens. A prompt waits for half of the
    time between two looks of the engine at who has arrived, and for half of the prompts that arrive with it.
    """
    import numpy as np

    stretch = np.where(static, 1.0, overheads.prompt_stretch)
    prefill = step_s(steps.prefill_s * stretch, steps.prefill_kernels, False, overheads)
    decode = step_s(steps.decode_s, steps.decode_kernels, graphs, overheads)
    others = np.where(static, 0, concurrency - 1)
    tpot = decode + others * prefill / output
    polled = np.where(static, 0.0, overheads.poll_steps * tpot / 2)
    return overheads.request_s + polled + (1 + overheads.together * others / 2) * prefill, tpot
