"""From kernels to what a client waits for: TTFT and TPOT of an inference engine under load."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from hwspecs import Device
from hwspecs.serving import Overheads
from roofline.ceilings import Fidelity, ceilings
from roofline.engines import EAGER_PROMPTS, as_engines_run, on_device, request_s, step_s, takes_turns
from roofline.physics.base import Gpu
from roofline.predict import Row, check_node, pass_rows
from roofline.rollback import IN_TURN, rollback_s
from roofline.scenario import Scenario
from roofline.serve.step_times import pooled
from workloads.model import Model
from workloads.phases import Setting
from workloads.schedule import Pass
from workloads.techniques.base import Technique

# Of the public recipes of InferenceX (github.com/SemiAnalysisAI/InferenceX), whose rows these are:
ROUNDS = 10  # requests of each user
USUAL_BUDGET = 8192  # new tokens of a step that reads prompts; vLLM's default on large GPUs
BUDGETS = {"sglang": 32768}
# Steps that are on the device or launched when a scheduler decides on the next one: it runs beside the device
# (SGLang's overlap schedule, vLLM's async scheduling: both the default).
AHEAD = 1
# Engines that read prompts in steps of their own, whose tokens leave when they end (event_loop_overlap of
# SGLang's scheduler); others read them in chunks beside those who decode.
PROMPTS_ALONE = ("sglang",)
BUSIEST = 0.9  # share of the time in which prompts are read, beyond which no queue is steady


@dataclass(frozen=True)
class Load:
    """`concurrency` requests of `prompt` and `output` tokens are always in flight, on one engine.

    static: they start together and are read as one batch, by a script. Otherwise prompts are read when
    the engine polls its request queue, and the others' decoding waits (continuous batching, prompts first).
    """

    model: Model
    setting: Setting
    prompt: int
    output: int
    concurrency: int
    static: bool = False
    graphs: bool = True  # decode steps are replayed CUDA graphs; prompts are launched kernel by kernel
    backend: str = ""
    techniques: tuple[Technique, ...] = ()
    experts_by: str = ""  # the library of the experts' kernels, where the engine was told
    release: str = ""  # the engine's, where it runs otherwise than later ones

    @property
    def named(self) -> dict[str, str]:
        """The kernels that the engine was told to use, by kind of operator."""
        return {"moe": self.experts_by} if self.experts_by else {}


@dataclass(frozen=True)
class Steps:
    """Time on the device, and launched kernels, of one prefill and of one decode step; arrays or numbers.

    tokens: of each sequence from a decode step, which drafts and verifies where there are more than one.
    full_s: of a step that reads `full` prompts at once, as many as arrive together and fit its budget.
    turns: whether host and device take turns in prefills.
    """

    prefill_s: Any
    prefill_kernels: Any
    decode_s: Any
    decode_kernels: Any
    full_s: Any
    full: Any = 1
    turns: Any = False
    tokens: Any = 1.0


@dataclass(frozen=True)
class Users:
    """A closed loop of users; sizes may be arrays over rows.

    concurrency: users, each of whom sends a request when the last one has ended. poll_steps: polling interval
    of the engine's request queue, in decode steps. static: batches of a script. graphs: decode steps are
    replayed. ahead: steps that are launched when the scheduler decides. alone: prompts are read in steps of
    their own.
    """

    concurrency: Any
    prompt: Any
    output: Any
    static: Any = False
    graphs: Any = True
    poll_steps: Any = 1.0
    ahead: Any = AHEAD
    alone: Any = False


def steps(load: Load, device: Device, fidelity: Fidelity | str) -> Steps:
    """The steps: the sum of their operators, decode at the middle of the answer."""
    limits = ceilings(device, fidelity, load.backend, load.named)
    parts = load.setting.replicas  # attention runs on so many parts of the batch, and waits for the largest

    def passes(phase: str, at_once: int, **sizes: int) -> list[Pass]:
        sizes = {"batch": -(-at_once // parts) * parts, "prompt": load.prompt, **sizes}
        asked = Scenario(load.model, phase, setting=load.setting, techniques=load.techniques, **sizes)
        asked = as_engines_run(asked, graphs=not load.static, release=load.release)
        check_node(asked, device)
        return list(asked.schedule(device).passes)

    def prefill(at_once: int) -> list[Row]:
        found = passes("generate", at_once, output=2)  # drafts of later tokens read the prompt, too
        return [row for each in found if each.phase == "prefill" for row in read(each, at_once)]

    def read(each: Pass, at_once: int) -> list[Row]:
        """As simulated (`StepTimes.mixed_s`): all wait for the largest part, experts have a share of all."""
        rows = pass_rows(each, limits)
        if at_once % parts == 0:
            return rows
        share = -(-at_once * each.q_len // parts)
        few = replace(each, batch=parts, q_len=share, first=share, last=share)
        less = {row.name: row for row in pass_rows(few, limits) if row.name in pooled(each)}
        return [less.get(row.name, row) for row in rows]

    decode = passes("decode", load.concurrency, context=load.prompt + max(1, load.output // 2))
    one = prefill(load.concurrency if load.static else 1)
    budget = BUDGETS.get(load.backend, USUAL_BUDGET)
    full = 1 if load.static else min(load.concurrency, parts * max(1, budget // load.prompt))
    whole = prefill(full) if full > 1 else one
    tokens = 1 / sum(each.times for each in decode if not each.scope)
    decode_rows = [row for each in decode for row in pass_rows(each, limits)]
    decode_s, kernels = on_device(decode_rows, eager=load.static)  # of a token
    eager = load.static or load.backend in EAGER_PROMPTS
    decode_s = tokens * decode_s
    if load.release in IN_TURN and Fidelity(fidelity).calibrates:
        gpu = Gpu.of(device)
        decode_s += sum(rollback_s(each, gpu) for each in decode if not each.scope)
    found = (*on_device(one, eager=eager), decode_s, tokens * kernels, on_device(whole)[0])
    return Steps(*found, full, takes_turns((row.kind for row in one), "prefill", eager=eager), tokens)


def waits(steps: Steps, users: Users, overheads: Overheads) -> tuple[Any, Any]:
    """(mean TTFT, TPOT) in seconds; what a step takes beside its kernels: `roofline.engines`.

    Users send ROUNDS requests each, the first ones together: one is read alone, as the engine begins with
    whoever has come, the others wait for that and for half of the full steps that read them. Later ones come
    while the others decode: after half of the polling interval on average, and the steps that are launched
    already, they queue behind other prompts (one server, M/D/1), and yield their token with the next step of
    the others. Requests that arrive within one polling interval are read in the same step. Where another step
    of prompts follows, as often as prompts are read, SGLang launches it before it sends the last one's tokens
    (`event_loop_overlap`; SGLANG_DISABLE_CONSECUTIVE_PREFILL_OVERLAP is off by default). Between two tokens
    of a request each other user has one prompt read per `output` tokens. A decode step yields `tokens` of
    each request.
    """
    import numpy as np

    others = np.where(users.static, 0, users.concurrency - 1)

    def reading_s(prompts: Any) -> Any:
        share = (prompts - 1) / np.maximum(1, steps.full - 1)
        device_s = steps.prefill_s + share * (steps.full_s - steps.prefill_s)
        return step_s(device_s, steps.prefill_kernels, False, overheads, turns=steps.turns)

    decode = step_s(steps.decode_s, steps.decode_kernels, users.graphs, overheads)
    at_once = np.clip(1 + others * users.poll_steps * steps.tokens / users.output, 1, steps.full)
    own = reading_s(at_once)
    reads = others * own / at_once / users.output
    tpot = decode / steps.tokens + reads
    busy = np.minimum(BUSIEST, reads / tpot)
    follows = np.asarray(users.alone) & (np.asarray(users.ahead) > 0)
    launched = np.where(follows, steps.prefill_kernels * overheads.launch_s, 0)
    rounds = np.maximum(1, np.ceil(others / steps.full))
    rest = launched * (1 - 1 / rounds) + reading_s(np.clip(others, 1, steps.full)) * (rounds + 1) / 2
    first = reading_s(1) + rest * others / (others + 1)
    later = (
        launched * busy
        + own * (1 + busy / (1 - busy) / 2)
        + np.where((others > 0) & ~np.asarray(users.alone), decode, 0)
    )
    read = np.where(others > 0, first / ROUNDS + later * (1 - 1 / ROUNDS), own)
    looked = np.where(others > 0, (users.poll_steps / 2 + users.ahead) * decode, 0)
    return request_s(users.prompt, overheads) + looked + read, tpot
