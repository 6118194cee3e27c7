"""Run a campaign: most valuable measurements first, resumable, with tables readable at any time."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from profiler.campaign.folder import DEVICE, HEAD, OPERATORS, Head
from profiler.campaign.shapes import Limits, rows
from profiler.campaign.table import Table
from profiler.ceilings.journal import begun, journal_of
from profiler.ceilings.measure import measure_ceilings
from profiler.ceilings.plan import Findings, OutOfTimeError, Plan
from profiler.collectives import collective_rows, measure_collectives
from profiler.environment import command_line, device_name, environment
from profiler.forward import Point
from profiler.kernels import KERNEL_ERRORS, PEAKS, PRODUCTS
from profiler.kernels.paged import FAULTS
from profiler.power import PowerMonitor, throttling
from profiler.record import profile
from profiler.record_rows import is_interrupt
from profiler.repeats import EFFORT
from profiler.request import Request
from reports.wording import counted
from roofline.run import open_run, refuse_existing
from specfiles.errors import InputError, reason
from specfiles.reading import read_json
from specfiles.strict import plain_data, validated
from specfiles.writing import sole_writer, write_text
from workloads.catalogue import load_model

CPU_MODELS = (("SmolLM2-135M", 512, 64), ("GPT-2", 512, 64), ("Qwen3-0.6B", 256, 32))
GPU_MODELS = (("Llama-3.2-1B", 2048, 256), ("Llama-3.1-8B", 2048, 256), ("Qwen3-4B", 4096, 256))
# Shares of the budget spent at the end of: operators, ceilings, more operators; then models and operators.
BEFORE_CEILINGS, AFTER_CEILINGS, BEFORE_MODELS = 0.2, 0.4, 0.6
COLLECTIVES = 0.05  # after the ceilings, with several devices
MOST_MESSAGE = {"cpu": 1 << 24, "cuda": 1 << 28}  # bytes


@dataclass
class Campaign:
    """What to measure, and the budget."""

    device: str
    dtypes: tuple[str, ...]
    out: Path
    budget_s: float
    models: tuple[tuple[str, int, int], ...] | None = None  # name, prompt, output; None: the usual ones
    progress: Callable[[str], None] = lambda _: None
    begin: float = field(default_factory=time.monotonic)

    def left_s(self, share: float = 1.0) -> float:
        """Seconds until this share of the budget is spent."""
        return self.begin + share * self.budget_s - time.monotonic()


def run_campaign(campaign: Campaign) -> Head:
    """Measure until the budget is spent or nothing is left; rows already in the folder are not repeated.

    Raises InputError where the folder holds the campaign of another device or other formats.
    """
    before = Findings()
    with sole_writer(campaign.out):
        head = _open(campaign)
        with begun(campaign.out / OPERATORS, before) as journal:
            return _measured(campaign, head, Table(campaign, head, journal, set(before.failed)))


def _measured(campaign: Campaign, head: Head, table: Table) -> Head:
    import torch

    notes: list[str] = []
    wanted = list(table.wanted(rows(campaign.dtypes, _limits(campaign.device))))
    queue = iter(wanted)
    with torch.inference_mode(), PowerMonitor(campaign.device) as power:
        try:
            table.measure(queue, BEFORE_CEILINGS)
            notes += _ceilings(campaign)
            notes += _collectives(campaign, table)
            table.measure(queue, BEFORE_MODELS)
            notes += _models(campaign)
            table.measure(queue, 1.0)
        finally:  # also after an interrupt or an error
            table.save()
            unpaged = (f"paged attention not by {name}: {why}" for name, why in FAULTS.items())
            found = (*head.notes, *notes, *table.notes, *unpaged, *throttling(power.samples()), *power.notes)
            head = head.replace(
                seconds=head.seconds + time.monotonic() - campaign.begin,
                operators=len(table.done),
                notes=list(dict.fromkeys(found)),  # what several processes say of the machine, once
            )
            _write(campaign.out, head)
            campaign.progress(_told(campaign, head, len(list(table.wanted(wanted)))))
    return head


def _told(campaign: Campaign, head: Head, operators: int) -> str:
    """What is in the folder, and what another call would add."""
    models = sum(not _is_over(campaign, name) for name, *_ in _asked_models(campaign))
    left = [counted(operators, "operator")] if operators else []
    left += [] if _has_ceilings(campaign) else ["ceilings"]
    left += [counted(models, "model")] if models else []
    goes_on = f"; the same command goes on with {', '.join(left)}" if left else ""
    return f"{counted(head.operators, 'operator')} of {head.device} in {campaign.out}{goes_on}"


def _open(campaign: Campaign) -> Head:
    path = campaign.out / HEAD
    if not path.exists():
        ceilings = campaign.out / DEVICE  # which may exist already, or its journal
        refuse_existing(campaign.out, (ceilings.name, journal_of(ceilings).name))
        head = Head(
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            command=command_line(),
            device=device_name(campaign.device),
            dtypes=list(campaign.dtypes),
            environment=environment(campaign.device),
        )
        _write(campaign.out, head)
        return head
    head = validated(Head, read_json(path), str(path))
    found = (head.device, tuple(head.dtypes))
    if found != (device_name(campaign.device), campaign.dtypes):
        raise InputError(
            f"{campaign.out} holds the campaign of {head.device} in {', '.join(head.dtypes)}; "
            "name another folder for this one."
        )
    return head


def _write(folder: Path, head: Head) -> None:
    write_text(folder / HEAD, json.dumps(plain_data(head), indent=1) + "\n")


def _limits(device: str) -> Limits:
    if device == "cpu":
        return Limits(flops=1e10, bytes=5e8)
    import torch

    return Limits(flops=5e13, bytes=0.1 * torch.cuda.get_device_properties(device).total_memory)


def _ceilings(campaign: Campaign) -> list[str]:
    """Write the device file unless it is complete; returns the error, if any."""
    if _has_ceilings(campaign):
        return []
    budget_s, most_s = campaign.left_s(AFTER_CEILINGS), campaign.left_s()
    peaks = tuple(dtype for dtype in campaign.dtypes if dtype in PEAKS or dtype not in PRODUCTS)
    plan = Plan(campaign.device, peaks, budget_s=budget_s, most_s=most_s, progress=campaign.progress)
    try:
        measure_ceilings(plan, campaign.out / DEVICE)
    except OutOfTimeError:  # the next call goes on with them
        return []
    except KERNEL_ERRORS as error:  # operators can still be measured
        return [f"ceilings: {reason(error)}"]
    return []


def _has_ceilings(campaign: Campaign) -> bool:
    path = campaign.out / DEVICE
    return path.exists() and not journal_of(path).exists()


def _collectives(campaign: Campaign, table: Table) -> list[str]:
    """Between all GPUs of the machine, or two processes of a CPU; none with a single GPU. Returns notes."""
    kind, count = "cpu", 2
    if campaign.device != "cpu":
        import torch

        kind, count = "cuda", torch.cuda.device_count()
    budget = COLLECTIVES * campaign.budget_s
    if count < 2 or campaign.left_s() <= budget:
        return []
    wanted = list(table.wanted(collective_rows(_models_dtype(campaign), count, MOST_MESSAGE[kind])))
    if wanted:
        campaign.progress(f"collectives of {count}")
    measured, notes = measure_collectives(wanted, kind, count, budget)
    table.add(measured)
    return notes


def _models(campaign: Campaign) -> list[str]:
    """Profile whole models within the budget; returns the errors of those left out."""
    wanted = [asked for asked in _asked_models(campaign) if not _is_over(campaign, asked[0])]
    notes = []
    for number, (name, prompt, output) in enumerate(wanted):
        left_s = campaign.left_s()
        if left_s <= 0:
            break
        campaign.progress(f"model {name}")
        points = (Point("prefill", 1, prompt, prompt), Point("decode", 1, 1, prompt + output))
        folder = _run_of(campaign, name)
        if folder.exists():  # the part of a run whose process was stopped
            shutil.rmtree(folder)
        request = Request(
            load_model(name),
            campaign.device,
            _models_dtype(campaign),
            points,
            folder,
            device_name(campaign.device),
            effort=replace(EFFORT, budget_s=left_s / (len(wanted) - number)),
            alone=False,
            progress=campaign.progress,
        )
        try:
            profile(request)
        except KERNEL_ERRORS as error:  # does not fit or cannot be built
            notes.append(f"{name}: {reason(error)}")
    return notes


def _asked_models(campaign: Campaign) -> tuple[tuple[str, int, int], ...]:
    usual = CPU_MODELS if campaign.device == "cpu" else GPU_MODELS
    return usual if campaign.models is None else campaign.models


def _run_of(campaign: Campaign, model: str) -> Path:
    return campaign.out / "models" / model


def _is_over(campaign: Campaign, model: str) -> bool:
    """Whether a model was measured, or failed for a reason that it would have again."""
    folder = _run_of(campaign, model)
    if not (folder / "run.json").exists():
        return False
    head = open_run(folder).head
    return head.status != "running" and not any(map(is_interrupt, head.notes))


def _models_dtype(campaign: Campaign) -> str:
    return next((dtype for dtype in campaign.dtypes if dtype not in PRODUCTS), "bf16")
