"""One engine serving requests step by step: who is in which step is decided as inference engines do.

Between two events (an arrival that could be admitted, an answer that ends, a full cache) every step decodes
the same sequences; such a run of steps is computed at once.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from roofline.serving import USUAL_BUDGET

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from roofline.serve.memory import Room
    from roofline.serve.requests import Requests
    from roofline.serve.step_times import StepTimes

Batching = Literal["static", "continuous", "mixed", "chunked"]
BATCHINGS: dict[str, Batching] = {name: name for name in get_args(Batching)}
LONGEST_RUN = 4096  # steps computed at once


@dataclass(frozen=True)
class Policy:
    """How steps are filled.

    static: a batch is read together and decoded until its last answer ends; nobody joins (FasterTransformer).
    continuous: whoever waits is read before anybody decodes on (Orca, OSDI 2022; vLLM without chunks).
    mixed: every step decodes all and reads the whole prompts that fit the rest of its budget, at least one
    (TensorRT-LLM without chunked prefill, its default).
    chunked: every step decodes all and fills the rest of its budget with chunks of prompts (Sarathi-Serve,
    OSDI 2024).
    """

    batching: Batching = "continuous"
    max_batch: int = 256  # sequences at once
    budget: int = USUAL_BUDGET  # new tokens of a step that reads prompts
    step_s: float = 0.0  # of the engine itself per step: scheduling, sampling, copying tokens
    request_s: float = 0.0  # before a request is seen: HTTP, admission; others are served meanwhile
    token_s: float = 0.0  # and per token of its prompt: tokenising
    poll_steps: int = (
        1  # decode steps between two looks at who has arrived (SGLang's scheduler-recv-interval)
    )
    ahead: bool = False  # the scheduler decides on a step while the one before is on the device
    reserves: bool = False  # room for a whole answer is kept from the start, so that nobody is evicted

    def before_s(self, prompt: Any) -> Any:
        """Seconds from when a request is sent until the engine sees it."""
        return self.request_s + self.token_s * prompt


@dataclass
class Log:
    """When each request arrived and got its first and its last token, and what the engine did meanwhile."""

    arrival_s: NDArray[np.float64]
    first_s: NDArray[np.float64]
    last_s: NDArray[np.float64]
    gaps_s: list[NDArray[np.float64]] = field(default_factory=list)  # between tokens of running requests
    weights: list[NDArray[np.float64]] = field(default_factory=list)  # how many requests waited each gap
    busy_s: float = 0.0
    decoding: float = 0.0  # integral of sequences over time
    peak_bytes: float = 0.0
    preempted: int = 0


class Engine:
    """A simulation of one engine."""

    def __init__(self, times: StepTimes, room: Room, policy: Policy) -> None:
        self.times, self.room, self.policy = times, room, policy

    def serve(self, requests: Requests, first_s: NDArray[np.float64] | None = None) -> Log:
        """Serve all requests; every one fits the room alone (`Room.check`).

        `first_s` says that prompts were read elsewhere, and when each yielded its first token: they arrive
        with their cache.
        """
        return _Run(self, requests, first_s).log


class _Run:
    """The state of one simulation. Sequences that decode stand in parallel arrays."""

    def __init__(self, engine: Engine, requests: Requests, first_s: NDArray[np.float64] | None) -> None:
        self.engine, self.requests, self.policy = engine, requests, engine.policy
        count = len(requests)
        # Users of a closed loop send when they can; others at the times that are known.
        self.sent = requests.users or count
        self.arrival_s = requests.arrival_s.copy()
        if self.policy.batching != "static":  # who comes first is read alone, before others have come
            self.arrival_s[1 : requests.users] = np.nextafter(0.0, 1.0)
        self.log = Log(self.arrival_s, np.full(count, np.nan), np.full(count, np.nan))
        self.now = 0.0
        self.begun = 0.0  # when the last step began
        self.arrived = 0
        self.waiting: deque[int] = deque()
        self.done = np.zeros(count, np.int64)  # tokens of each request whose keys and values are held
        self.left = requests.output.copy()  # tokens that each is still to get
        self.read = first_s is not None
        self.token_s = np.zeros(count) if first_s is None else first_s  # when each got its last token so far
        self.running = np.empty(0, np.int64)  # requests that decode, the oldest first
        self.unseen = 0  # decode steps since the engine looked at who has arrived
        self.unsent: list[int] = []  # whose first tokens the last step yielded, if it only read prompts
        self.slots = 0  # of a static batch: those whose answers have ended still take part
        # Engines that cannot take a place back keep room for a whole answer from the start.
        self.reserves = self.policy.reserves or self.read or self.policy.batching == "static"
        while self.arrived < count or self.waiting or len(self.running):
            self._step()

    def _step(self) -> None:
        self._arrive()
        if not self.waiting and not len(self.running):
            self.begun = self.now = max(self.now, float(self.arrival_s[self.arrived]))
            self.unsent = []
            self._arrive()
        if self.read:
            self._join()
            self._decode()
        elif self.policy.batching in ("mixed", "chunked"):
            self._fill()
        elif chosen := self._admitted():
            self._read(chosen)
        else:
            self._decode()

    def _arrive(self) -> None:
        looked = self.begun if self.policy.ahead else self.now
        while self.arrived < len(self.arrival_s) and self.arrival_s[self.arrived] <= looked:
            self.waiting.append(self.arrived)
            self.arrived += 1

    def _goal(self, request: int) -> int:
        """Tokens that reading a request takes: its prompt, and what it had got when it was preempted."""
        return int(self.requests.prompt[request] + self.requests.output[request] - self.left[request])

    def _held_before(self, request: int) -> int:
        """Tokens whose keys and values are there when a request is read on, also of a cached prefix."""
        return int(self.done[request]) or self.engine.times.cached(int(self.requests.prompt[request]))

    def _held(self, requests: NDArray[np.int64], more: int = 0) -> float:
        """Bytes of cache of some requests, after `more` tokens each."""
        return float(self.engine.room.held[self.done[requests] + more].sum())

    def _claimed(self) -> float:
        """Bytes that the running and the half-read are sure to need."""
        whole = self.requests.prompt[self.running] + self.requests.output[self.running]
        if self.reserves:
            return float(self.engine.room.held[whole].sum())
        return self._held(self.running, 1) + self._half_read()

    def _half_done(self) -> list[int]:
        """Whose prompts are being read in chunks: the first in line, one in each part of the batch."""
        first = islice(self.waiting, self.engine.times.parts)
        return [request for request in first if self.done[request]]

    def _half_read(self) -> float:
        """Bytes of cache of the prompts that are being read in chunks."""
        return sum(float(self.engine.room.held[self.done[request]]) for request in self._half_done())

    def _needed(self, request: int) -> float:
        """Bytes that must be free for a request to be read."""
        whole = self.requests.prompt[request] + self.requests.output[request]
        return float(self.engine.room.held[whole if self.reserves else self._goal(request) + 1])

    def _admitted(self) -> list[int]:
        """Requests to read now: first come, first served."""
        chosen: list[int] = []
        static = self.policy.batching == "static"
        if (static or self.unseen) and len(self.running):
            return chosen
        used, tokens = self._claimed(), 0
        while self.waiting and len(self.running) + len(chosen) < self.policy.max_batch:
            head = self.waiting[0]
            used += self._needed(head)
            tokens += self._goal(head) - self._held_before(head)
            over = tokens > self.policy.budget and len(chosen) >= self.engine.times.parts
            over = over and not (static or self.read)
            if used > self.engine.room.bytes or over:
                break
            chosen.append(self.waiting.popleft())
        return chosen

    def _join(self) -> None:
        """Requests that come with their cache and their first token decode at once."""
        chosen = self._admitted()
        self.done[chosen] = [self._goal(request) for request in chosen]
        self.running = np.append(self.running, np.array(chosen, np.int64))

    def _read(self, chosen: list[int]) -> None:
        """One step that reads whole prompts; each of them yields a token.

        A scheduler that runs ahead launches it before it sends the tokens of the last one.
        """
        if self.policy.ahead:
            self.log.first_s[self.unsent] += self.engine.times.launching_s
            self.token_s[self.unsent] += self.engine.times.launching_s
        self.unseen = 0
        begun = [(self._goal(request), self._held_before(request)) for request in chosen]
        chunks = [(goal - before, before) for goal, before in begun]
        self._pass(self.engine.times.mixed_s(0, 0.0, chunks, len(chosen)))
        self.done[chosen] = [goal for goal, _ in begun]
        first = np.isnan(self.log.first_s[chosen]) & (self.left[chosen] > 1)
        self.unsent = [request for request, new in zip(chosen, first, strict=True) if new]
        self._begin(chosen)

    def _fill(self) -> None:
        """One step that decodes all and reads what its budget leaves of the prompts, or whole ones."""
        chunks, complete = self._chunks()
        if not chunks:
            self._decode()
            return
        self.unseen, size = 0, len(self.running)
        context = float(self.done[self.running].mean()) + 1 if size else 0.0
        self._pass(self.engine.times.mixed_s(size, context, chunks, len(complete)))
        if size:
            self._tokens(np.array([self.now]), 1)
        self._begin(complete)

    def _chunks(self) -> tuple[list[tuple[int, int]], list[int]]:
        """Chunks of the prompts in line (new positions, positions before), and who is complete with them."""
        free, whole = self.policy.budget - len(self.running), self.policy.batching == "mixed"
        parts, place = self.engine.times.parts, 0  # of the batch; where a prompt waits
        most = -(-free // parts)
        used = self._claimed()
        chunks: list[tuple[int, int]] = []
        complete: list[int] = []
        if self.unseen and len(self.running):
            return chunks, complete
        room = self.policy.max_batch - len(self.running)
        while place < len(self.waiting) and place + len(complete) < room:
            request = self.waiting[place]
            goal, before = self._goal(request), self._held_before(request)
            used += self._needed(request)
            if self.done[request] and not self.reserves:
                used -= float(self.engine.room.held[before])  # which `_claimed` holds already
            full = (goal - before > free and len(chunks) >= parts) if whole else free <= 0
            if used > self.engine.room.bytes or full:
                break
            new = goal - before if whole else min(free, most, goal - before)
            chunks.append((new, before))
            self.done[request] = before + new
            free -= new
            if before + new == goal:
                complete.append(request)
                del self.waiting[place]
            else:
                place += 1
        return chunks, complete

    def _begin(self, chosen: list[int]) -> None:
        """Prompts that were read yield a token now; who needs more decodes on."""
        read = np.array(chosen, np.int64)
        first = np.isnan(self.log.first_s[read])
        self.log.first_s[read[first]] = self.now
        if not first.all():  # some were preempted, and have waited for this token since their last
            self.log.gaps_s.append(self.now - self.token_s[read[~first]])
            self.log.weights.append(np.ones(int((~first).sum())))
        self.left[read] -= 1
        self.token_s[read] = self.now
        self.running = np.append(self.running, read)
        self.slots = len(chosen)
        self._note_peak()
        self._leave()

    def _decode(self) -> None:
        """Steps that decode all running sequences, until something else is to be done."""
        self.unsent = []
        if not len(self.running):
            return
        steps = int(min(self.left[self.running].min(), LONGEST_RUN))
        while steps and self._held(self.running, steps) + self._half_read() > self.engine.room.bytes:
            steps //= 2
        if not steps:
            self._preempt()
            return
        contexts = float(self.done[self.running].mean()) + 1 + np.arange(steps, dtype=np.float64)
        size = self.slots if self.policy.batching == "static" else len(self.running)
        prompt = float(self.requests.prompt[self.running].mean())
        each = self.engine.times.decode_s(size, contexts, prompt) + self.policy.step_s
        ends = self.now + np.cumsum(each)
        open_to = self.policy.batching != "static" and len(self.running) < self.policy.max_batch
        if open_to and (self.waiting or self.arrived < len(self.requests)):
            first = 1 if self.waiting and self.unseen else self._until_arrival(ends)
            steps = min(steps, first + -(self.unseen + first) % self.policy.poll_steps)
            ends = ends[:steps]
        self.unseen = (self.unseen + steps) % self.policy.poll_steps
        self._busy(float(ends[-1]) - self.now)
        self.begun = float(ends[-2]) if steps > 1 else self.begun
        self._tokens(ends, steps)

    def _until_arrival(self, ends: NDArray[np.float64]) -> int:
        """Of steps that end at these moments, those until the next request has come."""
        if self.arrived == len(self.requests):
            return len(ends)
        comes_s = self.arrival_s[self.arrived]
        launched = self.policy.ahead and comes_s > self.now  # the step after the one that it comes in
        return int(np.searchsorted(ends, comes_s)) + 1 + launched

    def _tokens(self, ends: NDArray[np.float64], steps: int) -> None:
        """`steps` tokens for each running sequence, at these moments."""
        self.log.gaps_s += [ends[0] - self.token_s[self.running], np.diff(ends)]
        self.log.weights += [np.ones(len(self.running)), np.full(steps - 1, float(len(self.running)))]
        self.token_s[self.running] = self.now
        self.done[self.running] += steps
        self.left[self.running] -= steps
        self._note_peak()
        self._leave()

    def _leave(self) -> None:
        """Whose answer has ended gives its place up; a user in a loop sends the next request."""
        ended = self.running[self.left[self.running] == 0]
        self.log.last_s[ended] = self.now
        for request in range(self.sent, min(len(self.requests), self.sent + len(ended))):
            seen_s = self.now + self.policy.before_s(self.requests.prompt[request])
            self.arrival_s[request] = max(seen_s, self.arrival_s[request - 1])
            self.sent += 1
        self.running = self.running[self.left[self.running] > 0]

    def _pass(self, device_s: float) -> None:
        self._busy(device_s + self.policy.step_s)

    def _busy(self, seconds: float) -> None:
        self.begun = self.now
        self.now += seconds
        self.log.busy_s += seconds
        self.log.decoding += seconds * len(self.running)

    def _note_peak(self) -> None:
        self.log.peak_bytes = max(self.log.peak_bytes, self._held(self.running) + self._half_read())

    def _preempt(self) -> None:
        """The cache is full: who is being read, else the youngest, gives its place up (vLLM's recompute)."""
        if half_done := self._half_done():
            self.done[half_done[-1]] = 0
        else:
            youngest = int(self.running[-1])
            self.running = self.running[:-1]
            self.done[youngest] = 0
            self.waiting.appendleft(youngest)
        self.log.preempted += 1
