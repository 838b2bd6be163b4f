"""How a run came about: versions, machine, model, data. Facts only; what is unknown is left out."""

import os
import platform
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

import playground
from playground.data.subjects import Subject
from playground.data.tasks import Task
from playground.results.runs import Run

if TYPE_CHECKING:
    from playground.models.image import ImageModel
    from playground.models.text import LanguageModel

LIBRARIES = (
    "torch",
    "transformers",
    "peft",
    "bitsandbytes",
    "tokenizers",
    "safetensors",
    "sentence-transformers",
    "chromadb",
    "bm25s",
    "numpy",
    "diffusers",
    "pillow",
)


def before(run: Run, chosen: Task | Subject) -> dict[str, Any]:
    """What is known before the model is loaded."""
    return {
        "playground": playground.__version__,
        "commit": commit(),
        "method": run.method,
        "params": run.params,
        "seed": run.seed,
        "limit": run.limit,
        "resumed": run.resume,
        "task": chosen.id,
        "data_hash": chosen.data_hash,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "libraries": libraries(),
    } | ({"metric": chosen.metric, "test_items": len(chosen.test)} if isinstance(chosen, Task) else {})


def of_model(model: "LanguageModel | ImageModel") -> dict[str, Any]:
    """What is known once the model is loaded."""
    import torch

    device = model.device
    return {
        "model": model.entry.id,
        "model_repo": model.entry.repo,
        "model_revision": model.revision,
        "model_sha256": model.entry.sha256 or None,
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name(),
        "dtype": str(model.dtype).removeprefix("torch."),
        "quantization": getattr(model, "quantization", None),
        "threads": torch.get_num_threads(),
    }


class OtherLoad:
    """How many cores other programs kept busy since this was made: timings that shared the machine carry it."""

    def __init__(self) -> None:
        self._start = self._read()

    def facts(self) -> dict[str, Any]:
        """``other_load_cores``: the mean over the time since then."""
        wall, busy, own = (now - then for now, then in zip(self._read(), self._start, strict=True))
        return {"other_load_cores": round(max(0.0, busy - own) / wall, 2) if wall > 0 else None}

    def _read(self) -> tuple[float, float, float]:
        """Wall, busy and own seconds; the busy ones are those of all cores of the machine."""
        system = psutil.cpu_times()
        idle = system.idle + getattr(system, "iowait", 0.0) + getattr(system, "steal", 0.0)
        guest = getattr(system, "guest", 0.0) + getattr(system, "guest_nice", 0.0)  # counted in user already
        return time.perf_counter(), sum(system) - idle - guest, time.process_time()


def libraries() -> dict[str, str]:
    """Versions of the installed libraries that decide a result."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """The checkout's commit, "+" behind it when files were changed; None outside a checkout."""
    root = Path(playground.__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        head = _git(root, "rev-parse", "HEAD")
        return head + ("+" if _git(root, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=5).stdout.strip()


def cpu_name() -> str:
    """The processor's name as the system tells it."""
    if sys.platform == "linux":
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
