"""Waves of thread blocks in a kernel's grid, and the idle part of its last wave."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from profiler.traces.tables import DeviceFacts, Trace

# Warps, blocks and shared memory [bytes] that one processor holds at once, by compute capability: CUDA C++
# Programming Guide, "Technical Specifications per Compute Capability".
HOLDS = {
    "7.0": (64, 32, 96 << 10),
    "7.5": (32, 16, 64 << 10),
    "8.0": (64, 32, 164 << 10),
    "8.6": (48, 16, 100 << 10),
    "8.7": (48, 16, 164 << 10),
    "8.9": (48, 24, 100 << 10),
    "9.0": (64, 32, 228 << 10),
    "10.0": (64, 32, 228 << 10),
    "10.3": (64, 32, 228 << 10),
    "12.0": (48, 24, 100 << 10),
    "12.1": (48, 24, 100 << 10),
}
REGISTERS, REGISTERS_AT_ONCE = 65536, 256  # of a processor; given to a warp in units of so many
RESERVED_BYTES = 1024  # of shared memory for each block, from 8.0 on (same guide, "Shared Memory")
WARP = 32
# Whose numbers look like capabilities.
OTHER_MAKERS = re.compile("AMD|Instinct|Radeon|gfx|Intel", re.IGNORECASE)


def waves(trace: Trace) -> Any:
    """Blocks of each activity over its device's resident blocks; NaN where unknown."""
    found = np.full(trace["activities"].num_rows, np.nan)
    kernel = trace.of_kind("activities", "kernel")
    column = {name: trace.column("activities", name) for name in _COLUMNS}
    for facts in trace.devices:
        known = facts.capability in HOLDS and facts.processors and facts.name
        if known and not OTHER_MAKERS.search(facts.name):
            here = kernel & (column["source"] == facts.source) & (column["device"] == facts.device)
            found[here] = _waves(facts, {name: values[here].astype(float) for name, values in column.items()})
    return found


_SIZES = ("grid_x", "grid_y", "grid_z", "block_x", "block_y", "block_z")
_COLUMNS = ("source", "device", *_SIZES, "registers", "shared_bytes")


def _waves(facts: DeviceFacts, of: dict[str, Any]) -> Any:
    warps, blocks, shared_bytes = HOLDS[facts.capability]
    known = np.logical_and.reduce([of[name] > 0 for name in (*_SIZES, "registers")]) & (
        of["shared_bytes"] >= 0
    )
    of = {name: np.maximum(values, 1) for name, values in of.items()}
    own_warps = np.ceil(of["block_x"] * of["block_y"] * of["block_z"] / WARP)
    own_registers = np.ceil(of["registers"] * WARP / REGISTERS_AT_ONCE) * REGISTERS_AT_ONCE * own_warps
    own_bytes = of["shared_bytes"] + (RESERVED_BYTES if float(facts.capability) >= 8 else 0)
    held = np.minimum.reduce(
        [
            np.full(len(known), float(blocks)),
            warps // own_warps,
            REGISTERS // own_registers,
            shared_bytes // own_bytes,
        ]
    )
    grid = of["grid_x"] * of["grid_y"] * of["grid_z"]
    return np.where(known & (held > 0), grid / (np.maximum(held, 1) * (facts.processors or 1)), np.nan)


def last_wave_s(spent_s: Any, found: Any) -> Any:
    """Seconds that each kernel of more than one wave would save if its last wave were full.

    All waves are assumed equally long; grids of less than one wave are in `small_grids_s`.
    """
    share = np.nan_to_num(found)
    return np.where(share > 1, spent_s * (1 - share / np.maximum(np.ceil(share), 1)), 0.0)
