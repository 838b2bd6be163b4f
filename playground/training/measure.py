"""What a piece of work cost: seconds, peak memory, bytes on disk. Not measurable means None."""

import ctypes
import gc
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

TRIALS = 2  # timed steps for each thread count, after one that is not
HOPELESS = 2  # a count whose first step takes so many times as long as the other's cannot win
LONG = 0.5  # seconds: a step that takes longer scatters little, and is timed once
_CLEAR_REFS = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")


class Stopwatch:
    """Seconds of wall time between entering and leaving a ``with`` block; running inside it."""

    def __enter__(self) -> "Stopwatch":
        self._start = time.perf_counter()
        self._stop: float | None = None
        return self

    def __exit__(self, *_) -> None:
        self._stop = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Wall time in seconds, so far or of the finished block."""
        return (self._stop or time.perf_counter()) - self._start


class PeakMemory:
    """Highest memory in use inside a ``with`` block, in bytes, or None where it cannot be measured.

    On CUDA the allocator's own counters, on Linux the process's resident set: writing 5 to
    /proc/self/clear_refs sets VmHWM back to the present size (proc(5)). What earlier work has freed and the
    allocator kept is given back first: the block is not charged for it. Blocks must not be nested.

    Args:
        device: "cpu", "cuda", "cuda:1" …
    """

    def __init__(self, device: str = "cpu"):
        self.device = str(device)
        self.bytes: int | None = None
        self._valid = False

    def __enter__(self) -> "PeakMemory":
        self._valid = _reset_cuda(self.device) if self.device.startswith("cuda") else _reset_resident()
        return self

    def __exit__(self, *_) -> None:
        self.bytes = self.read()

    def read(self) -> int | None:
        """The peak since the block was entered, in bytes."""
        if not self._valid:
            return None
        if self.device.startswith("cuda"):
            import torch

            return torch.cuda.max_memory_allocated(self.device)
        return _status_bytes("VmHWM")


def _reset_cuda(device: str) -> bool:
    import torch

    torch.cuda.reset_peak_memory_stats(device)
    return True


def _reset_resident() -> bool:
    gc.collect()
    with suppress(OSError, AttributeError):  # a C library other than glibc
        ctypes.CDLL(None).malloc_trim(0)
    try:
        _CLEAR_REFS.write_text("5")
    except OSError:  # another system, or a container that forbids it: not measured
        return False
    return _status_bytes("VmHWM") is not None


def _status_bytes(name: str) -> int | None:
    try:
        for line in _STATUS.read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    except OSError:
        return None
    return None


def resident_bytes() -> int | None:
    """Memory that this process has resident now, in bytes; None where the system does not say."""
    return _status_bytes("VmRSS")


def memory_in_use(device: str = "cpu") -> int | None:
    """Memory in use now, in bytes: the allocator's on CUDA, else what is resident; None where unknown."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.memory_allocated(device)
    return resident_bytes()


def directory_bytes(path: Path) -> int:
    """Bytes of all files below ``path`` (or of the file ``path``). Links are not followed."""
    path = Path(path)
    if path.is_file():
        return path.stat().st_size
    return sum((Path(folder) / name).lstat().st_size for folder, _, names in os.walk(path) for name in names)


def calibrate_threads(step: Callable[[], None], most: int | None = None) -> tuple[int, dict[int, float]]:
    """Choose one thread or all by timing steps with each, and set PyTorch to the faster.

    Two threads on a busy machine can be many times slower than one, so it is measured, not assumed.

    Args:
        step: one typical piece of work without lasting effect.
        most: the larger count to try; None = as many as this process may use.

    Returns:
        The count now set, and the seconds of each count that was tried.
    """
    import torch

    most = most or len(os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count()))
    if most <= 1:
        torch.set_num_threads(1)
        return 1, {}
    seconds = {}
    for threads in (most, 1):
        torch.set_num_threads(threads)
        first = _timed(step)  # kernels and packed weights are made anew for each count: half as long again
        if seconds and first > HOPELESS * seconds[most]:
            seconds[threads] = first
            continue
        seconds[threads] = min(_timed(step) for _ in range(trials(first)))
    best = min(seconds, key=seconds.__getitem__)
    torch.set_num_threads(best)
    return best, seconds


def set_threads(count: int, piece: Callable[[], None], what: str) -> str:
    """Set PyTorch to ``count`` threads, or choose by ``calibrate_threads`` where it is 0; gives that in words.

    Args:
        what: the ``piece`` of work, in words.
    """
    import torch

    if count:
        torch.set_num_threads(count)
        return f"{count} CPU threads, as set."
    threads, seconds = calibrate_threads(piece)
    tried = ", ".join(f"{value:.2f} s with {each}" for each, value in sorted(seconds.items()))
    return f"{threads} CPU thread{'s' * (threads > 1)}" + (f": {what} took {tried}." if tried else ".")


def trials(seconds: float) -> int:
    """How often ``calibrate_threads`` times a step that takes so long, after a first one that does not count."""
    return 1 if seconds > LONG else TRIALS


def _timed(step: Callable[[], None]) -> float:
    with Stopwatch() as watch:
        step()
    return watch.seconds
