"""Processes told apart for sure: an id alone may be given to a later process."""

import contextlib
import os
import signal
import time
from pathlib import Path

import psutil


def started(process: int) -> str | None:
    """When the process with that id started, as an opaque text; None if it is gone or a zombie."""
    try:
        with open(f"/proc/{process}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
        return None if fields[0] in "ZX" else fields[19]  # ticks since boot: exact, unlike a clock time
    except FileNotFoundError:
        if os.path.exists("/proc/self/stat"):
            return None
    except (ProcessLookupError, PermissionError):
        return None
    try:
        found = psutil.Process(process)
        return None if found.status() == psutil.STATUS_ZOMBIE else str(int(found.create_time()))
    except psutil.Error:
        return None


def alive(process: int | None, since: str | None) -> bool:
    """Whether the very process that started at ``since`` still runs."""
    return process is not None and since is not None and started(process) == since


def identity(part: str = "") -> str:
    """A text that names this process for good, and a part of it: "<id>:<start>:<part>"."""
    return f"{os.getpid()}:{started(os.getpid())}:{part}"


def identity_alive(text: str | None) -> bool:
    """Whether the process that ``identity`` named still runs."""
    if not text or text.count(":") < 2:
        return False
    process, since, _ = text.split(":", 2)
    return alive(int(process), since)


def end_group(process: int, since: str | None, patience: float = 0.7) -> bool:
    """End a process that leads its own group, and the group: politely, then by force.

    Returns within ``patience`` + 1 seconds; True if the process is gone.
    """
    if not alive(process, since):
        return True
    _signal_group(process, signal.SIGTERM)
    if not _wait_gone(process, since, patience):
        _signal_group(process, signal.SIGKILL)
        return _wait_gone(process, since, 1.0)
    _signal_group(process, signal.SIGKILL)  # children that did not listen
    return True


def memory_kills() -> int | None:
    """How many processes the system has killed for want of memory; None where it does not say.

    Counted in this process's own control group where it can be seen (version 2, then 1), else on the machine.
    """
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None
    groups = {kinds: place for _, kinds, place in (line.split(":", 2) for line in lines)}
    files = (
        Path(f"/sys/fs/cgroup{groups.get('', '/')}", "memory.events"),
        Path("/sys/fs/cgroup/memory.events"),
        Path(f"/sys/fs/cgroup/memory{groups.get('memory', '/')}", "memory.oom_control"),
        Path("/proc/vmstat"),
    )
    return next((count for file in files if (count := _counted(file, "oom_kill")) is not None), None)


def _counted(file: Path, name: str) -> int | None:
    try:
        words = (line.split() for line in file.read_text().splitlines())
    except OSError:
        return None
    return next((int(line[1]) for line in words if len(line) == 2 and line[0] == name), None)


def _signal_group(process: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process, number)


def _wait_gone(process: int, since: str | None, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not alive(process, since):
            return True
        time.sleep(0.02)
    return not alive(process, since)
