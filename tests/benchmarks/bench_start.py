"""From a cold start: seconds to import ``app``, and until the page answers. ``python tests/benchmarks/bench_start.py``.

The comparison is what a page of this kind does when it loads its libraries at the top of the file: import
gradio, torch, transformers, peft, sentence-transformers and chromadb first.
"""

import argparse
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from statistics import median

from record import ROOT, record

EAGER = "import gradio, torch, transformers, peft, sentence_transformers, chromadb"
PACKAGES = ("gradio", "torch", "transformers")


def import_seconds(statement: str) -> float:
    """Wall seconds of a fresh interpreter that runs the statement."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], cwd=ROOT, check=True, capture_output=True)
    return time.perf_counter() - start


def page_seconds() -> float:
    """Wall seconds from starting ``python app.py`` until the page is answered with status 200."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as home:
        environment = {
            **os.environ,
            "PLAYGROUND_HOME": home,
            "PLAYGROUND_HOST": "127.0.0.1",
            "PLAYGROUND_PORT": str(port),
            "PLAYGROUND_OFFLINE": "1",
        }
        start = time.perf_counter()
        server = subprocess.Popen(
            [sys.executable, "app.py"],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            while time.perf_counter() - start < 120:
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as answer:
                        answer.read()
                        return time.perf_counter() - start
                except (urllib.error.URLError, ConnectionError, TimeoutError):
                    time.sleep(0.02)
            raise SystemExit("The page did not answer within 120 seconds.")
        finally:
            server.kill()
            server.wait()


def torch_loaded() -> bool:
    """Whether importing ``app`` loads torch."""
    check = "import app, sys; sys.exit('torch' in sys.modules)"
    return subprocess.run([sys.executable, "-c", check], cwd=ROOT, check=False).returncode == 1


def main() -> None:
    """Print and record the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=5)
    times = parser.parse_args().times
    ours = median(import_seconds("import app") for _ in range(times))
    eager = median(import_seconds(EAGER) for _ in range(times))
    page = median(page_seconds() for _ in range(times))
    loaded = torch_loaded()
    print(f"import app {ours:.2f} s, eager imports {eager:.2f} s ({eager / ours:.1f}x), page {page:.2f} s")
    print(f"torch loaded by import app: {loaded}")
    note = "torch is loaded" if loaded else "torch is not loaded by then"
    rows = [
        {
            "what": "Import of `app`, seconds",
            "ours": round(ours, 2),
            "theirs": round(eager, 2),
            "unit": "s",
            "against": "its libraries imported at the top of the file",
            "ratio": round(eager / ours, 2),
            "note": note,
        },
        {
            "what": "Page answers after a cold start",
            "ours": round(page, 2),
            "theirs": None,
            "unit": "s",
            "against": "",
            "ratio": None,
            "note": "",
        },
    ]
    record("start", rows, PACKAGES)


if __name__ == "__main__":
    main()
