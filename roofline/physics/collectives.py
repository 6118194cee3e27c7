"""Collectives between the GPUs of one node: latency, then bytes over links, by algorithm and size.

Two families of kernels. The library's (NCCL) sends flagged words for short messages, at little latency and a
part of the bandwidth, and pipelines chunks around the ring, or reduces inside the switch, for long ones.
The inference engines' own all-reduce reads the peers' memory directly: each GPU everything at once (one
shot), or a slice that it then shares (two shots), up to the size of the buffers they registered.

Over PCIe the engines leave sums to the library: vLLM and SGLang those between more than two GPUs
(`CustomAllreduce.should_custom_ar`), TensorRT-LLM all (`ifFallbackToNCCL`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from roofline.physics.base import Constant, column
from roofline.physics.libraries import of_engine, says
from roofline.physics.model import KernelModel
from specfiles.errors import InputError
from workloads.operators.collective import sent_share

if TYPE_CHECKING:
    from roofline.physics.base import Columns, Dtypes, Floats, Gpu

LIBRARY = ("nccl", "NCCL")  # its backend and kernel in tables
STEEP = 8.0  # of the change between kernels around a size: versions of a library differ in it
SWITCH_GPUS = 8.0  # from how many GPUs on NCCL reduces in the switch (NVLS), where there is one
HOST_GPUS = 8.0  # of one host, among which nothing is quicker than the ring for short messages
SWITCH_CAPABILITY = 90  # NVLink SHARP came with Hopper's switches
# What NCCL counts on over PCIe: 12 GB/s of 16 lanes of the third generation (PCI_BW in its topo.h).
PCIE_SHARE = 12 / 15.75
PCIE_PEERS = 1.0  # that an engine's own kernel reads over PCIe

CONSTANTS = (
    Constant(
        "launch_s", "s", 1e-6, 3e-5, 5e-6, "kernel launch and synchronisation with the peers", "1/clock"
    ),
    Constant("step_s", "s", 1e-8, 5e-6, 8e-7, "one step of the ring", "hop"),
    Constant("spread", "", 0.01, 2.0, 0.3, "extra latency of messages on more channels, relative"),
    Constant("spread_bytes", "B", 2e3, 2e5, 2e4, "message size that uses half of the channels"),
    Constant("flagged_share", "", 0.02, 1.0, 0.25, "link share of words with inline flags (NCCL LL)"),
    Constant("pipeline_s", "s", 1e-7, 5e-5, 5e-6, "start of the chunk pipeline", "hop"),
    Constant("link_share", "", 0.3, 1.0, 0.85, "link share of long messages"),
    Constant("local_share", "", 0.05, 3.0, 0.4, "memory bandwidth share of local copies"),
    Constant("fill", "", 0.01, 2.0, 0.3, "pipeline fill, relative to the message's link time"),
    Constant("filled_bytes", "B", 1e6, 2e8, 3e7, "bytes sent beyond which chunks stop growing"),
)
IN_SWITCH = Constant("switch_share", "", 0.2, 1.0, 0.6, "link share of in-switch reductions (NVLS)")
DIRECT = (
    Constant(
        "peer_s", "s", 1e-6, 3e-5, 4e-6, "launch and barriers of a kernel that reads peers' memory", "1/clock"
    ),
    Constant("peer_step_s", "s", 1e-8, 3e-6, 1e-7, "barrier time per further peer", "1/clock"),
    Constant("one_shot_share", "", 0.1, 1.0, 0.6, "link share of one-shot all-reduce"),
    Constant("second_s", "s", 1e-7, 2e-5, 2e-6, "the second shot: one more barrier", "1/clock"),
    Constant("two_shot_share", "", 0.1, 1.0, 0.7, "link share of two-shot all-reduce"),
    Constant("direct_bytes", "B", 2.5e5, 1e8, 8.4e6, "largest message of the engine's own kernels"),
)


class CollectiveModel(KernelModel):
    """See the module; the constants say what each term is."""

    kinds: ClassVar[tuple[str, ...]] = ("allreduce", "allgather", "reduce_scatter", "alltoall", "sendrecv")
    family: ClassVar[tuple[str, ...]] = ("bytes",)
    why: ClassVar[Mapping[str, str]] = {
        "ideal": "the bytes of a ring at the data sheet's link bandwidth",
        "latency": "kernel launch and synchronisation between GPUs",
        "algorithm": "attained share of link bandwidth, pipeline fill, local copies",
    }

    def constants(self, gpu: Gpu, dtype: Dtypes) -> tuple[Constant, ...]:
        """Reductions in the switch only where there is one and it knows the format."""
        switch = (IN_SWITCH,) if _switch_reduces(gpu, dtype) else ()
        return (*CONSTANTS, *switch, *DIRECT)

    def left_to(self, kernel: str, gpu: Gpu) -> tuple[tuple[str, str], frozenset[str]] | None:
        """Over PCIe engines leave sums to NCCL, of whose short messages their own rows say nothing."""
        left = gpu.link == "pcie" and kernel != LIBRARY[1]
        return (LIBRARY, frozenset(c.name for c in CONSTANTS)) if left else None

    def parts(self, rows: Columns, gpu: Gpu, dtype: Dtypes, c: Mapping[str, float]) -> dict[str, Floats]:
        """The wire at the data sheet's bandwidth, latency, then what the algorithm adds."""
        if gpu.link_byte_per_s is None:
            raise InputError(f"{gpu.name} has no link to other GPUs in its file; add `links`.")
        message = _Message(rows, gpu, gpu.link_byte_per_s)
        latency, time = message.library(c)
        if "switch_share" in c and _switch_reduces(gpu, dtype):
            latency, time = message.in_switch(c, latency, time)
        latency, time = message.direct(c, latency, time)
        alone = message.peers == 0  # one GPU has nothing to send
        ideal = message.sent / gpu.link_byte_per_s
        latency = np.where(alone, 0.0, latency)
        time = np.where(alone, 0.0, np.maximum(time, 0.0))
        return {"ideal": ideal, "latency": latency, "algorithm": np.maximum(time - ideal, 0.0)}


class _Message:
    """What each row sends. Every algorithm answers (latency, time beyond it) in seconds."""

    def __init__(self, rows: Columns, gpu: Gpu, link: float) -> None:
        self.bytes, self.gpus = column(rows, "bytes"), column(rows, "n_gpus", 2.0)
        self.op = np.asarray(rows["op"]) if "op" in rows else np.full(len(self.bytes), "allreduce")
        self.link, self.dram, self.peers = link, gpu.dram_byte_per_s, self.gpus - 1
        share = np.zeros(len(self.bytes))
        for op in set(self.op.tolist()):
            share = np.where(self.op == op, sent_share(op, self.gpus), share)
        self.sent = self.bytes * share
        self.reduces = self.op == "allreduce"
        # Inference engines sum with kernels of their own: a row that names none is one of theirs.
        named = np.asarray(rows["kernel"]) if "kernel" in rows else np.full(len(self.bytes), "")
        self.own_kernel = self.reduces & (named != LIBRARY[1])
        self.pcie = gpu.link == "pcie"
        if self.pcie:
            self.own_kernel &= (self.peers <= PCIE_PEERS) & ~of_engine(rows, "trtllm") & ~says(rows, "TRTLLM")

    @property
    def steps(self) -> Any:
        """Of the ring: around once, twice where the sum is shared again; all at once for all-to-all.

        Sums over more GPUs than a host has go up and down a tree of hosts (NCCL 2.4, double binary trees).
        """
        chain = np.minimum(self.peers, HOST_GPUS - 1) + np.log2(np.maximum(self.gpus / HOST_GPUS, 1.0))
        around = np.where(self.reduces, 2 * chain, self.peers)
        return np.where((self.op == "alltoall") | (self.op == "sendrecv"), 1.0, around)

    def library(self, c: Mapping[str, float]) -> tuple[Any, Any]:
        """NCCL: flagged words or a pipeline of chunks, whichever is faster."""
        wire = self.sent / self.link
        filling = np.minimum(self.sent, c["filled_bytes"]) / self.link * c["fill"]
        local = self.bytes / (c["local_share"] * self.dram)
        flagged = wire / c["flagged_share"]
        share = min(c["link_share"], PCIE_SHARE) if self.pcie else c["link_share"]
        chunks = c["pipeline_s"] + wire / share + filling + local
        spread = c["spread"] * self.bytes / (self.bytes + c["spread_bytes"])
        latency = (c["launch_s"] + c["step_s"] * self.steps) * (1 + spread)
        return latency, np.minimum(flagged, chunks)

    def in_switch(self, c: Mapping[str, float], latency: Any, time: Any) -> tuple[Any, Any]:
        """Each GPU sends its message once and the switch adds: half of the ring's bytes."""
        wire = self.bytes * (1 + 1 / self.gpus) / self.link / c["switch_share"] + c["pipeline_s"]
        possible = self.reduces & (self.gpus >= SWITCH_GPUS)
        return latency, np.where(possible, np.minimum(time, wire), time)

    def direct(self, c: Mapping[str, float], latency: Any, time: Any) -> tuple[Any, Any]:
        """The engine's own all-reduce up to the size of its buffers."""
        wire = self.bytes / self.link
        one = self.peers * wire / c["one_shot_share"]
        two = c["second_s"] + 2 * self.peers / self.gpus * wire / c["two_shot_share"]
        first = c["peer_s"] + c["peer_step_s"] * self.peers
        large = 1 / (1 + (np.maximum(self.bytes, 1.0) / c["direct_bytes"]) ** -STEEP)
        share = np.where(self.own_kernel, 1 - large, 0.0)
        return share * first + (1 - share) * latency, share * np.minimum(one, two) + (1 - share) * time


def _switch_reduces(gpu: Gpu, dtype: Dtypes) -> bool:
    return (
        gpu.link == "nvlink"
        and gpu.capability >= SWITCH_CAPABILITY
        and dtype.inputs in ("bf16", "fp16", "fp32")
    )
