"""How much memory a job may take on a device, and how fast the device computes: both measured, in short."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import psutil
import torch

from playground.training.mixed import HALF, product

Verdict = Literal["fits", "tight", "does not fit"]

TIGHT = 0.85  # above this share of the free memory, an estimate's error may decide
PROBE_SECONDS = 0.15  # of one probe at least; there are two for each count of threads
FRESH_SECONDS = 60  # a probe's result is used for so long: then the machine may be busier, or idle
CGROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Speed:
    """``flops`` a second in matrix products, and ``bytes`` a second read by a product with one vector."""

    flops: float
    bytes: float


def free_memory(device: str, cgroups: Path = CGROUPS) -> int | None:
    """Bytes that a new job may take on the device; None where the system does not say.

    On CUDA what the driver calls free; else the machine's available memory, or what the container's
    limit leaves where that is less.
    """
    if device.startswith("cuda"):
        return torch.cuda.mem_get_info(device)[0]
    left = _container_left(cgroups)
    available = psutil.virtual_memory().available
    return available if left is None else min(available, left)


def _container_left(root: Path) -> int | None:
    """What a control group's limit leaves (version 2, then 1), the file cache counted as free."""
    for limit, used, cached in (
        ("memory.max", "memory.current", "memory.stat"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
    ):
        try:
            most = (root / limit).read_text().strip()
            taken = int((root / used).read_text())
            stat = dict(line.split() for line in (root / cached).read_text().splitlines())
        except (OSError, ValueError):
            continue
        if most == "max" or int(most) >= 1 << 60:  # version 1 writes a huge number for none
            return None
        cache = int(stat.get("inactive_file", stat.get("total_inactive_file", 0)))
        return max(0, int(most) - taken + cache)
    return None


def verdict(needed: int, free: int | None) -> Verdict | None:
    """Whether a job that needs so many bytes fits; None where the free memory is not known."""
    if free is None:
        return None
    if needed > free:
        return "does not fit"
    return "tight" if needed > TIGHT * free else "fits"


def speed(
    device: str, dtype: torch.dtype, half: bool, threads: tuple[int, ...], rows: int, inner: int, outer: int
) -> Speed:
    """Time a product (rows, inner) × (inner, outer), as large as the model's, for a part of a second.

    What counts is what this process gets while others work, too: a training would get no more.

    Args:
        half: the product is computed in bfloat16, and rounded and widened around it (``training.mixed``).
        threads: CPU thread counts to try; the best one counts, as in a training.
    """
    return _speed(device, dtype, half, threads, rows, inner, outer, int(time.monotonic() // FRESH_SECONDS))


@lru_cache(maxsize=16)
def _speed(device, dtype, half, threads, rows, inner, outer, period: int) -> Speed:
    if device.startswith("cuda"):
        return _probe(device, dtype, half, rows, inner, outer)
    before = torch.get_num_threads()
    try:
        found = []
        for count in threads:
            torch.set_num_threads(count)
            found.append(_probe(device, dtype, half, rows, inner, outer))
    finally:
        torch.set_num_threads(before)
    return max(found, key=lambda one: one.flops)


def thread_counts(threads: int) -> tuple[int, ...]:
    """The counts that a training with this setting tries: 0 = one and all."""
    if threads:
        return (threads,)
    every = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return (1,) if every == 1 else (1, every)


def _probe(device: str, dtype: torch.dtype, half: bool, rows: int, inner: int, outer: int) -> Speed:
    left = torch.full((rows, inner), 0.5, device=device, dtype=dtype)
    # several, so that they come from memory as a model's layers do, not from the processor's cache
    wide = [
        torch.full((outer, inner), 0.5, device=device, dtype=dtype)
        for _ in range(_copies(inner, outer, dtype))
    ]
    several = [weight.to(HALF) for weight in wide] if half else wide
    wait = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    size = inner * outer
    return Speed(
        2 * rows * size / _seconds(lambda weight: product(left, weight), several, wait),
        size * dtype.itemsize / _seconds(lambda weight: product(left[:1], weight), wide, wait),
    )


def _copies(inner: int, outer: int, dtype: torch.dtype) -> int:
    return max(1, min(64, 64_000_000 // (inner * outer * dtype.itemsize)))


def _seconds(work: Callable[[torch.Tensor], object], weights: list, wait: Callable[[], None]) -> float:
    """Seconds of one product, the mean of all but the first lap: that one makes kernels and touches pages."""
    laps: list[float] = []
    start = end = time.perf_counter()
    while end - start < PROBE_SECONDS:
        begun = end
        for weight in weights:
            work(weight)
        wait()
        end = time.perf_counter()
        laps.append((end - begun) / len(weights))
    counted = laps[1:] or laps
    return sum(counted) / len(counted)
