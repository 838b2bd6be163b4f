"""Which device, number type and thread count to compute with: what this machine is fast at."""

import math
import os
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from playground.errors import InvalidInput
from playground.settings import Settings

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Device:
    """``name`` and ``dtype`` as torch spells them, CPU ``threads``, and a ``description`` for people."""

    name: str
    dtype: torch.dtype
    threads: int
    description: str


def choose(settings: Settings) -> Device:
    """The device, its number type and the CPU threads.

    CUDA computes in bfloat16 where the GPU has it, else float16; MPS in float16. A CPU computes in
    float32, so that answers are the same on every machine; where a timed product shows that bfloat16 is
    faster, the description says so, and ``PLAYGROUND_DTYPE=bfloat16`` takes it.

    Raises:
        InvalidInput: the settings name a device or a type that is not here.
    """
    name = _name(settings.device)
    threads = settings.threads or available_cores()
    dtype = _dtype(name, settings.dtype)
    return Device(name, dtype, threads, _describe(name, dtype, threads))


@cache
def available_cores() -> int:
    """Cores that this process may use: affinity and the container's quota, two threads of a core as one."""
    import psutil

    try:
        allowed = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS, Windows
        allowed = os.cpu_count() or 1
    physical = psutil.cpu_count(logical=False) or allowed
    return max(1, min(allowed, physical, _quota() or allowed))


@cache
def cpu_speed(dtype: str, seconds: float = 0.05) -> float:
    """GFLOPS of one thread on a product of the starter model's size (256×576 by 576×1536).

    The fastest of many counts, so that other programs on the machine change nothing.
    """
    kind = DTYPES[dtype]
    a, b = torch.randn(256, 576, dtype=kind), torch.randn(576, 1536, dtype=kind)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        a @ b
        best, start = math.inf, time.perf_counter()
        while time.perf_counter() - start < seconds or best == math.inf:
            begun = time.perf_counter()
            a @ b
            best = min(best, time.perf_counter() - begun)
    finally:
        torch.set_num_threads(before)
    return 2 * 256 * 576 * 1536 / best / 1e9


@cache
def half_pays() -> bool:
    """Whether this CPU multiplies bfloat16 faster than float32: AMX does, and AVX512-BF16 on an AMD.

    An Intel with AVX512-BF16 alone does as many products a cycle in either type, and rounding comes on top: there a
    U-Net of Stable Diffusion 1.5's size took 1.7 times as long. The instructions decide, not a timed product: that
    would choose now so, now so on a busy machine, and one seed would give two results.
    """
    # PyTorch has no public question for it
    if torch.cpu._is_amx_tile_supported():
        return True
    return torch.cpu._is_avx512_bf16_supported() and "AMD" in _cpu("vendor_id").upper()


def _name(wanted: str) -> str:
    if wanted == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    kind, _, index = wanted.partition(":")
    here = {
        "cpu": 1,
        "cuda": torch.cuda.device_count(),
        "mps": int(torch.backends.mps.is_available()),
    }
    if kind not in here or (index and not index.isdigit()):
        raise InvalidInput(f"There is no device “{wanted}”: auto, cpu, cuda, cuda:1, mps.", field="device")
    if int(index or 0) >= here[kind]:
        names = ", ".join(kind for kind, count in here.items() if count)
        raise InvalidInput(f"The device “{wanted}” is not here. Here: {names}.", field="device")
    return wanted


def _dtype(name: str, wanted: str) -> torch.dtype:
    if wanted != "auto":
        try:
            return DTYPES[wanted]
        except KeyError:
            raise InvalidInput(
                f"There is no number type “{wanted}”: auto, {', '.join(DTYPES)}.", field="dtype"
            ) from None
    if name.startswith("cuda"):
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return torch.float16 if name == "mps" else torch.float32


def _describe(name: str, dtype: torch.dtype, threads: int) -> str:
    kind = str(dtype).removeprefix("torch.")
    if name.startswith("cuda"):
        properties = torch.cuda.get_device_properties(name)
        return f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, {kind}"
    if name == "mps":
        return f"Apple GPU, {kind}"
    text = f"{_cpu('model name')}, {threads} thread{'s' if threads > 1 else ''}, {kind}"
    if dtype == torch.float32 and cpu_speed("bfloat16") > 1.3 * cpu_speed("float32"):
        times = cpu_speed("bfloat16") / cpu_speed("float32")
        text += f" (bfloat16 multiplies {times:.1f} times faster here; PLAYGROUND_DTYPE=bfloat16 takes it)"
    return text


def _cpu(key: str) -> str:
    """What /proc/cpuinfo says under ``key``; elsewhere what Python knows of the processor, which names its maker."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        import platform

        return platform.processor() or "CPU"
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(key)), "CPU")


def _quota() -> int | None:
    """Whole cores that the container may use (cgroup v2, then v1); None without a limit."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us").read_text().strip()
            period = Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    if quota in ("max", "-1"):
        return None
    return max(1, math.floor(int(quota) / int(period)))
