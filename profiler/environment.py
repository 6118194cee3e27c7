"""The environment of a measurement, in enough detail to judge and repeat it."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

from reports.wording import counted
from specfiles.errors import InputError, reason

COLD_FACTOR = 3  # buffers of this many last-level caches are cold
NVML_FACTS: dict[str, Callable[[Any, Any], Any]] = {  # virtual GPUs and instances of MIG lack some
    "driver": lambda nvml, _: nvml.nvmlSystemGetDriverVersion(),
    "power_limit_w": lambda nvml, handle: nvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1000,
}
CLOCKS = ("sm_clock_hz", "memory_clock_hz")  # as they are sampled
PACKAGES = ("transformers", "numpy", "triton", "nvtx", "nvidia-ml-py", "llm-roofline")


def pick_device(asked: str) -> str:
    """`auto` is CUDA where available, else the CPU; InputError where the device does not exist."""
    import torch

    available = torch.cuda.is_available()
    if asked == "auto":
        return pick_device("cuda") if available else "cpu"
    if asked == "cpu":
        return asked
    kind, _, number = asked.partition(":")
    if kind != "cuda" or not (asked == "cuda" or number.isdecimal()):
        raise InputError(f"no device named {asked!r}; known: auto, cpu, cuda, cuda:N.")
    if not available:
        raise InputError("cuda was asked for, and torch sees no CUDA device; use --device cpu or auto.")
    index = int(number or 0)
    if index >= torch.cuda.device_count():
        there = counted(torch.cuda.device_count(), "device")
        raise InputError(f"cuda:{index} was asked for, and torch sees {there}.")
    try:  # this torch may have no code for the GPU; another process may fill it, or hold it alone
        torch.cuda.set_device(index)  # events are recorded on the current device's stream
        torch.ones(1, device=f"cuda:{index}").add_(1).item()
    except (RuntimeError, torch.cuda.DeferredCudaCallError) as error:
        raise InputError(f"cuda:{index} cannot compute ({reason(error)}); use --device cpu.") from None
    # NVIDIA's containers set TORCH_ALLOW_TF32_CUBLAS_OVERRIDE, with which products of fp32 are of TF32; those
    # of convolutions are everywhere unless PyTorch is told otherwise.
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    return f"cuda:{index}"


def use_threads(threads: int) -> None:
    """Set the number of CPU threads before measuring."""
    import torch

    torch.set_num_threads(threads)


def environment(device: str) -> dict[str, Any]:
    """Versions, processor, threads, and on CUDA the device, its driver and clocks."""
    import torch

    facts: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),  # with its build, as +cu130, which a package's version may lack
        **{name: version for name in PACKAGES if (version := _version(name))},
    }
    if device.startswith("cuda"):
        facts.update(_cuda_facts(device))
    return facts


def processor_name() -> str:
    """The system's name of the processor."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def device_name(device: str) -> str:
    """A short name for the measured device."""
    if device.startswith("cuda"):
        import torch

        return str(torch.cuda.get_device_name(device)).removeprefix("NVIDIA ")
    return processor_name()


def command_line() -> str:
    """The command that is running, without the path of its interpreter."""
    return " ".join(["roofline", *sys.argv[1:]])


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cuda_facts(device: str) -> dict[str, Any]:
    import torch

    properties = torch.cuda.get_device_properties(device)
    facts: dict[str, Any] = {
        "gpu": properties.name,
        "gpu_memory_bytes": properties.total_memory,
        "multiprocessors": properties.multi_processor_count,
        "l2_bytes": properties.L2_cache_size,
        "compute_capability": f"{properties.major}.{properties.minor}",
        "cuda": torch.version.cuda,
    }
    try:
        import pynvml

        from profiler.power import READERS, nvml_handle, read

        handle = nvml_handle(device)
    except Exception as error:  # NVML is optional, as in containers
        facts["nvml"] = f"not available: {error}"
        return facts
    readers = NVML_FACTS | {name: READERS[name] for name in CLOCKS}
    told = {name: read(reader, pynvml, handle) for name, reader in readers.items()}
    facts.update({name: value for name, value in told.items() if value is not None})
    return facts


def last_level_cache_bytes(device: str) -> int:
    """Last-level cache size: a set of buffers must exceed it to be cold."""
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.get_device_properties(device).L2_cache_size)
    sizes = [_cache_bytes(index) for index in range(8)]
    return max([size for size in sizes if size], default=32_000_000)


def shares_steps() -> bool:
    """Whether several processes run each step together; builds of torch without them lack the question."""
    from torch import distributed

    return bool(distributed.is_available() and distributed.is_initialized())


def answers(device: str) -> bool:
    """Whether a device still computes: a faulting kernel destroys a GPU's context."""
    if device == "cpu":
        return True
    import torch

    try:
        torch.cuda.synchronize(device)
    except Exception:
        return False
    return True


def memory_bytes(device: str) -> float:
    """A GPU's memory; infinite on a CPU, where models are small."""
    if not device.startswith("cuda"):
        return float("inf")
    import torch

    return float(torch.cuda.get_device_properties(device).total_memory)


def _cache_bytes(index: int) -> int:
    try:
        with open(f"/sys/devices/system/cpu/cpu0/cache/index{index}/size", encoding="ascii") as file:
            text = file.read().strip()
    except OSError:
        return 0
    scale = {"K": 1024, "M": 1024**2, "G": 1024**3}.get(text[-1:], 1)
    digits = text.rstrip("KMG")
    return int(digits) * scale if digits.isdigit() else 0
