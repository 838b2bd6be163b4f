"""How fast the page answers while a LoRA training has the cores: ``python tests/benchmarks/bench_page.py``.

Drives Chromium (PLAYGROUND_CHROMIUM, else the one on the PATH) through actions of a visitor, first with nothing
running, then beside a real training. A time is from the click to the first frame in which the answer stands on the
page, told by the browser's own clock. ``[--times 20] [--no-record]``.
"""

import argparse
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from playwright.sync_api import Page, sync_playwright
from record import ROOT, record

sys.path.insert(0, str(ROOT))

from playground.models.sources import fetch_starters
from playground.settings import Settings

# Runs in the page. `act` is done, then every change of the page and every frame asks `told`.
WATCH = """
([act, told]) => new Promise((done, failed) => {
  const set = (place, value) => {
    const field = document.querySelector(place);
    Object.getOwnPropertyDescriptor(Object.getPrototypeOf(field), 'value').set.call(field, value);
    field.dispatchEvent(new Event('input', {bubbles: true}));
    field.dispatchEvent(new Event('change', {bubbles: true}));
  };
  const click = (place) => document.querySelector(place).click();
  const tab = (name) => [...document.querySelectorAll('#tabs > .tab-wrapper [role=tablist] button')]
      .find((one) => one.textContent.trim() === name).click();
  const text = (place) => document.querySelector(place)?.innerText ?? '';
  const seen = (place) => !!document.querySelector(place)?.checkVisibility();
  const run = (code) => new Function('set', 'click', 'tab', 'text', 'seen', 'return ' + code)
      (set, click, tab, text, seen);
  const start = performance.now();
  run(act);
  const look = () => {
    if (run(told)) done(performance.now() - start);
    else if (performance.now() - start > 30000) failed(new Error('no answer to ' + act));
    else requestAnimationFrame(look);
  };
  requestAnimationFrame(look);
})
"""


def actions(number: int) -> dict[str, tuple[str, str, str, str]]:
    """What a visitor does, by name: in which tab, on what, the act, and when it is answered. Others each time."""
    rank, words = 8 + number, f"Where is parcel {number}?"
    share = f"{rank * 20_000:,}"
    return {
        "open a tab": ("Start", "#race", "tab('Compare')", "seen('#comparison')"),
        "change a number of the explainer": (
            "LoRA",
            "#lora-k input",
            f"set('#lora-k input', '{rank}')",
            f"text('#lora-count').includes('{share}')",
        ),
        "show the exact prompt": (
            "Few-shot",
            "#show-prompt",
            f"(set('#few-shot-question textarea', '{words}'), setTimeout(() => click('#show-prompt'), 0))",
            f"text('#prompt-view').includes('{words}')",
        ),
        "be told of a bad value": (
            "LoRA",
            "#lora-start",
            "(set('#lora-field-rank input', '0'), setTimeout(() => click('#lora-start'), 0))",
            "[...document.querySelectorAll('.pg-notice.pg-bad')].some((one) => one.checkVisibility())",
        ),
    }


@contextmanager
def server(home: Path):
    """``python app.py`` with this home, until it answers; gives its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "PLAYGROUND_HOME": str(home),
        "PLAYGROUND_HOST": "127.0.0.1",
        "PLAYGROUND_PORT": str(port),
        "PLAYGROUND_OFFLINE": "1",
    }
    with (home / "server.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "app.py"], cwd=ROOT, env=environment, stdout=log, stderr=log
        )
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(address, timeout=5).read()
                break
            except OSError:
                time.sleep(0.2)
        yield address
    finally:
        process.terminate()
        process.wait()


def times(page: Page, address: str, count: int) -> dict[str, list[float]]:
    """Milliseconds of each action, ``count`` times each after one that is not counted."""
    found: dict[str, list[float]] = {}
    for name in actions(0):
        page.goto(address)
        page.get_by_role("tab", name="Start", exact=True).wait_for()
        for number in range(count + 1):
            place, on, act, told = actions(number)[name]
            page.get_by_role("tab", name=place, exact=True).click()
            page.locator(on).wait_for()
            page.wait_for_timeout(1500)  # what a tab loads when it is opened has come
            took = page.evaluate(WATCH, [act, told])
            if number:
                found.setdefault(name, []).append(took)
            if name == "be told of a bad value":  # the next one shall not find this one's notice
                page.goto(address)
                page.get_by_role("tab", name="Start", exact=True).wait_for()
    return found


@contextmanager
def training(home: Path):
    """A LoRA training of the starter model in the same home, under way."""
    command = [
        sys.executable,
        "-m",
        "playground",
        "run",
        "lora",
        "--task",
        "support-desk",
        "--epochs",
        "50",
    ]
    environment = os.environ | {"PLAYGROUND_HOME": str(home), "PLAYGROUND_OFFLINE": "1"}
    with (home / "training.log").open("w+") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
        try:
            while "adapt" not in Path(log.name).read_text(encoding="utf-8"):
                if process.poll() is not None:
                    raise SystemExit(f"The training did not start: {Path(log.name).read_text()}")
                time.sleep(1)
            time.sleep(20)  # past its first measurements
            yield
        finally:
            process.terminate()
            process.wait()


def rows(idle: dict[str, list[float]], busy: dict[str, list[float]]) -> list[dict]:
    """For the record: medians while a job runs, and without one."""
    return [
        {
            "what": f"Page beside a running training: {name}, median",
            "ours": round(median(took)),
            "theirs": round(median(idle[name])),
            "unit": "ms",
            "against": "nothing running",
            "ratio": None,
            "note": f"slowest of {len(took)}: {max(took):.0f} ms",
        }
        for name, took in busy.items()
    ]


def main() -> None:
    """Print and, unless told not to, record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--no-record", action="store_true")
    arguments = parser.parse_args()
    chromium = os.environ.get("PLAYGROUND_CHROMIUM") or shutil.which("chromium")
    kept = Settings.from_environment()
    fetch_starters(kept)
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as playwright:
        home = Path(scratch)
        (home / "models").symlink_to(kept.models)
        opened = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = opened.new_page(viewport={"width": 1280, "height": 900})
        with server(home) as address:
            idle = times(page, address, arguments.times)
            with training(home):
                busy = times(page, address, arguments.times)
        opened.close()
    found = rows(idle, busy)
    for row in found:
        print(f"{row['what']}: {row['ours']} ms, alone {row['theirs']} ms; {row['note']}")
    if not arguments.no_record:
        record("page", found, ("gradio", "torch"))


if __name__ == "__main__":
    main()
