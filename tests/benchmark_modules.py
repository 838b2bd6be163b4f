"""The benchmarks' own files as modules: they lie beside each other and are no package."""

import importlib.util
from pathlib import Path

HERE = Path(__file__).parent / "benchmarks"


def load(name, monkeypatch):
    """``tests/benchmarks/<name>.py``, which finds its neighbours while the test runs."""
    monkeypatch.syspath_prepend(str(HERE))
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
