"""What this machine has: device, versions, models, disk, network. In about three seconds, whatever hangs."""

import os
import platform
import shutil
import subprocess
import sys
import threading
import urllib.request
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import playground
from playground.errors import PlaygroundError
from playground.jobs.provenance import LIBRARIES, cpu_name
from playground.models import catalogue
from playground.results import comparison
from playground.settings import Settings

NETWORK_SECONDS = 3.0
PACKAGES = ("gradio", *LIBRARIES, "accelerate", "diffusers", "gguf", "huggingface_hub")


def examine(settings: Settings) -> dict[str, Any]:
    """Plain facts by heading; a fact that could not be had is None."""
    answers = _Asked({"hub": lambda: _hub(settings), "package_index": _package_index})
    return {
        "playground": playground.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "device": _device(settings),
        "memory_bytes": _memory(),
        "libraries": {name: _version(name) for name in PACKAGES},
        "models": _models(settings),
        "home": str(settings.home),
        "disk_free_bytes": _disk_free(settings.home),
        "offline": settings.offline,
        "network": answers.collect(NETWORK_SECONDS),
    }


def text(found: dict[str, Any]) -> str:
    """The facts as lines for people."""
    device = found["device"]
    lines = [
        ("Playground", f"{found['playground']}, Python {found['python']}, {found['system']}"),
        ("Device", device.get("description") or device.get("error", "")),
        ("Memory", comparison.text(found["memory_bytes"], "B")),
        (
            "Libraries",
            ", ".join(f"{name} {number or 'missing'}" for name, number in found["libraries"].items()),
        ),
        ("Models here", ", ".join(id for id, at_hand in found["models"].items() if at_hand) or "none yet"),
        ("Home", f"{found['home']}, {comparison.text(found['disk_free_bytes'], 'B')} free"),
        ("Hub", _reachable(found["network"]["hub"], found["offline"])),
        ("Package index", _reachable(found["network"]["package_index"], False)),
    ]
    return "\n".join(f"{name + ':':<15}{value}" for name, value in lines)


def _reachable(answer: bool | None, off: bool) -> str:
    return "switched off" if off else "reachable" if answer else "not reachable"


class _Asked:
    """Questions asked in threads: a name look-up can hang for longer than any timeout."""

    def __init__(self, questions: dict[str, Any]):
        self._answers: dict[str, Any] = dict.fromkeys(questions)
        self._threads = [
            threading.Thread(target=self._ask, args=(name, question), daemon=True)
            for name, question in questions.items()
        ]
        self._start()

    def _start(self) -> None:
        for thread in self._threads:
            thread.start()

    def _ask(self, name: str, question: Any) -> None:
        self._answers[name] = question()

    def collect(self, seconds: float) -> dict[str, Any]:
        for thread in self._threads:
            thread.join(seconds / len(self._threads))
        return {name: bool(answer) for name, answer in self._answers.items()}


def _hub(settings: Settings) -> bool:
    from playground.models.sources import hub_reachable

    return hub_reachable(settings)


def _package_index() -> bool:
    try:
        request = urllib.request.Request(f"{_index_url().rstrip('/')}/pip/", method="HEAD")
        with urllib.request.urlopen(request, timeout=2):
            return True
    except (OSError, ValueError):
        return False


def _index_url() -> str:
    """The index that pip asks: its environment, its configuration, else PyPI."""
    if url := os.environ.get("PIP_INDEX_URL"):
        return url
    command = [sys.executable, "-m", "pip", "config", "get", "global.index-url"]
    said = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    return said.stdout.strip() or "https://pypi.org/simple"


def _device(settings: Settings) -> dict[str, Any]:
    from playground.models import device

    try:
        chosen = device.choose(settings)
    except PlaygroundError as error:
        return {"error": str(error), "cpu": cpu_name()}
    return {
        "name": chosen.name,
        "dtype": str(chosen.dtype).removeprefix("torch."),
        "threads": chosen.threads,
        "description": chosen.description,
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
    }


def _models(settings: Settings) -> dict[str, bool]:
    from playground.models.sources import at_hand

    return {id: at_hand(entry, settings) for id, entry in catalogue.models().items()}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _memory() -> int:
    import psutil

    return psutil.virtual_memory().total


def _disk_free(home: Path) -> int:
    while not home.exists():
        home = home.parent
    return shutil.disk_usage(home).free
