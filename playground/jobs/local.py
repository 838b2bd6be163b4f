"""The local executor: one worker process a run, one run a device at a time.

The device is held by an OS file lock whose open file the worker inherits: it stays locked for exactly
as long as the worker lives, however it ends, and whichever process (page or CLI) started it.
"""

import fcntl
import os
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

from playground.results.runs import Run
from playground.settings import Settings

PARENT = "PLAYGROUND_PARENT"  # environment variable: id of the process that started the worker
LOG = "log.txt"  # the worker's output, in the run's folder
ROOT = Path(__file__).resolve().parent.parent.parent


def run_folder(settings: Settings, run_id: int) -> Path:
    """The run's own folder: checkpoints, adapter, index, log."""
    return settings.runs / str(run_id)


def lock_device(settings: Settings) -> int | None:
    """Take the device of this setting. Returns an open file to be passed on or closed; None if it is taken."""
    folder = settings.home / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    number = settings.device.partition(":")[2] or "0"
    descriptor = os.open(folder / f"device-{number}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def launch(run: Run, settings: Settings, device_lock: int) -> subprocess.Popen:
    """Start the worker of a run in its own process group; it inherits ``device_lock``.

    A run that does not go on from a checkpoint finds its folder empty: where the store was begun anew, one with the
    same number has left its files there.

    Raises:
        OSError: the log cannot be written, or no process can be started.
    """
    folder = run_folder(settings, run.id)
    if not run.resume:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / LOG, "ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "playground.jobs.worker", str(run.id)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment(settings),
            start_new_session=True,
            pass_fds=(device_lock,),
        )


def environment(settings: Settings) -> dict[str, str]:
    """The worker's environment: the same settings, the same code, quiet libraries."""
    found = dict(os.environ)
    for field in fields(settings):
        value = getattr(settings, field.name)
        found[f"PLAYGROUND_{field.name.upper()}"] = str(int(value) if isinstance(value, bool) else value)
    found[PARENT] = str(os.getpid())
    found["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    found["PYTHONUNBUFFERED"] = "1"
    found["TOKENIZERS_PARALLELISM"] = "false"  # a fork after its threads started would warn and stall
    found["HF_HUB_DISABLE_TELEMETRY"] = "1"
    found["ANONYMIZED_TELEMETRY"] = "False"  # chromadb
    if settings.offline:
        found["HF_HUB_OFFLINE"] = "1"
    return found


def last_words(settings: Settings, run_id: int, lines: int = 3) -> str:
    """The last lines of a run's log, to say why its worker ended."""
    try:
        with open(run_folder(settings, run_id) / LOG, "rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 4000))
            tail = file.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return ""
    return " / ".join([line.strip() for line in tail.splitlines() if line.strip()][-lines:])
