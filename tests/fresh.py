"""What a Python of its own does: imports of this one say nothing about a first start."""

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[1]


def loaded(code: str, names: Iterable[str]) -> list[str]:
    """The modules among ``names`` that running ``code`` in a fresh process loads, sorted."""
    code = f"{code}\nimport sys; print(*sorted(set(sys.modules) & {set(names)!r}))"
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert said.returncode == 0, said.stderr
    return said.stdout.split()
