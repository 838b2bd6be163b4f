"""A real Chromium and a real page, as a visitor meets them."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from playground.errors import QueueError
from playground.jobs.queue import Queue
from playground.results.runs import ACTIVE, RunStore
from playground.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
SCREENSHOTS = Path(__file__).with_name("screenshots")
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ENDED = ".pg-pill:is(.pg-done, .pg-failed, .pg-cancelled, .pg-interrupted)"  # a run's status
LEAVING = (
    "AbortError: signal is aborted",
    "Connection errored out",
)  # Gradio's words for a page that is left
FAILED = pytest.StashKey[bool]()
PATIENCE = 180.0  # seconds that whatever a test waits for may take on a busy machine
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-dev-shm-usage"]
MISSING = (
    "The browser tests need a Chromium. Install one with “apt-get install chromium” or “python -m playwright install"
    " chromium”, or set PLAYGROUND_CHROMIUM to the path of one that is there. Tried: {tried}."
)


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of a Chromium: the one named, the system's, Playwright's, else one that is fetched now."""
    tried: list[str] = []
    for find in (_named, _system, _playwright, _fetch_playwright, _fetch_debian):
        path = find(tried)
        if path:
            return path
    pytest.fail(MISSING.format(tried="; ".join(tried)))


def _named(tried: list[str]) -> str | None:
    path = os.environ.get("PLAYGROUND_CHROMIUM")
    if path and not Path(path).is_file():
        pytest.fail(f"PLAYGROUND_CHROMIUM is {path!r}, and there is no such file.")
    return path


def _system(tried: list[str]) -> str | None:
    tried.append("no " + ", ".join(NAMES) + " on the PATH")
    return next((path for path in map(shutil.which, NAMES) if path), None)


def _playwright(tried: list[str]) -> str | None:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = playwright.chromium.executable_path
    tried.append(f"no Playwright browser at {path}")
    return path if Path(path).is_file() else None


def _fetch_playwright(tried: list[str]) -> str | None:
    return (
        _playwright(tried)
        if _ran([sys.executable, "-m", "playwright", "install", "chromium"], tried)
        else None
    )


def _fetch_debian(tried: list[str]) -> str | None:
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        tried.append("not root, or no apt-get")
        return None
    _ran(["apt-get", "update"], tried)
    return (
        _system(tried)
        if _ran(["apt-get", "install", "-y", "--no-install-recommends", "chromium"], tried)
        else None
    )


def _ran(command: list[str], tried: list[str]) -> bool:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    except (OSError, subprocess.TimeoutExpired) as error:
        tried.append(f"“{' '.join(command)}”: {error}")
        return False
    if done.returncode:
        tried.append(f"“{' '.join(command)}” ended with {done.returncode}")
    return done.returncode == 0


class Site:
    """The running page: its address, its home and what it logged."""

    def __init__(self, url: str, home: Path, log: Path):
        self.url = url
        self.home = home
        self._log = log

    @property
    def log(self) -> str:
        """What the server printed so far."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def clear(self) -> None:
        """Stop what runs or waits and remove all runs: no test waits for another one's, or counts them."""
        settings = Settings(home=self.home)
        store = RunStore(settings.database)
        queue = Queue(settings, store)
        try:
            for run in store.list():
                if run.status in ACTIVE:
                    with suppress(QueueError):  # it has just ended
                        queue.cancel(run.id)
                queue.delete(run.id)
        finally:
            store.close()


@pytest.fixture(scope="session")
def site(tmp_path_factory, starter_home, serve):
    """The page with a home of its own, the starter models at hand."""
    home = tmp_path_factory.mktemp("home")
    (home / "models").symlink_to(starter_home / "models")
    with serve(home) as opened:
        yield opened


@pytest.fixture(scope="session")
def serve():
    """Serves the page with a given home: ``with serve(home) as site``."""
    return _served


@contextmanager
def _served(home: Path):
    """``python app.py`` on a free port with this home."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "PLAYGROUND_HOME": str(home),
        "PLAYGROUND_HOST": "127.0.0.1",
        "PLAYGROUND_PORT": str(port),
        "PLAYGROUND_OFFLINE": "1",
        "PYTHONPATH": str(ROOT),
    }
    log = home / "server.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "app.py"], cwd=ROOT, env=environment, stdout=output, stderr=output
        )
    opened = Site(f"http://127.0.0.1:{port}", home, log)
    try:
        _wait(opened, process)
        yield opened
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(site: Site, process: subprocess.Popen, seconds: float = PATIENCE) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if process.poll() is not None:
            pytest.fail(f"The page did not start:\n{site.log[-3000:]}")
        try:
            with urllib.request.urlopen(site.url, timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    pytest.fail(f"The page did not answer within {seconds:.0f} s:\n{site.log[-3000:]}")


@pytest.fixture(scope="session")
def browser(chromium):
    """The browser, opened once."""
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=PATIENCE * 1000)
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        yield opened
        opened.close()


class Visitor:
    """One visitor's page, with what went wrong on it."""

    def __init__(self, page, site: Site):
        self.page = page
        self.site = site
        self.errors: list[str] = []
        self.foreign: list[str] = []
        page.on(
            "console", lambda message: self.errors.append(message.text) if message.type == "error" else None
        )
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", self._note)

    def _note(self, request) -> None:
        if not request.url.startswith((self.site.url, "data:", "blob:")):
            self.foreign.append(request.url)

    def arrive(self, query: str = "?__theme=light") -> None:
        """Open the page and wait until it is ready."""
        self.page.goto(self.site.url + "/" + query)
        self.page.get_by_role("tab", name="Start", exact=True).wait_for()

    def reload(self) -> None:
        """Load the page again. That the page which is left cut its own connections is no error."""
        before = len(self.errors)
        self.page.reload()
        self.errors[before:] = [
            said for said in self.errors[before:] if not any(words in said for words in LEAVING)
        ]

    def tab(self, name: str) -> None:
        """Open a tab, from the row or from the menu of those that have no room in it."""
        row = self.page.locator("#tabs > .tab-wrapper")
        tab = row.locator("[role=tablist]").get_by_role("tab", name=name, exact=True).first
        menu = row.locator(".overflow-menu > button")
        tab.or_(menu).locator("visible=true").first.wait_for()  # the row is laid out late
        if not tab.is_visible():
            menu.click()
            tab = row.locator(".overflow-dropdown button").filter(has_text=name).first
        tab.click()

    def done(self, place: str) -> None:
        """Wait until a run in ``place`` is done; another end fails at once, with what stands there."""
        ended = self.page.locator(place).locator(ENDED).first
        ended.wait_for()
        assert "pg-done" in ended.get_attribute("class"), self.page.locator(place).inner_text()

    def picture(self, name: str) -> None:
        """Keep a screenshot."""
        SCREENSHOTS.mkdir(exist_ok=True)
        self.page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)


@pytest.fixture
def visit(browser, site, request):
    """Make visitors: ``visit(width)``."""
    contexts = []

    def make(width: int = 1280) -> Visitor:
        contexts.append(browser.new_context(viewport={"width": width, "height": 900}))
        contexts[-1].set_default_timeout(PATIENCE * 1000)
        return Visitor(contexts[-1].new_page(), site)

    yield make
    if request.node.stash.get(FAILED, False):
        for number, context in enumerate(contexts):
            _tell(context.pages[0], f"{request.node.name}-{number}", site)
    for context in contexts:
        context.close()
    site.clear()


def _tell(page, name: str, site: Site) -> None:
    """What a visitor saw when a test failed: the words on the page, a picture of it, what the server said."""
    SCREENSHOTS.mkdir(exist_ok=True)
    with suppress(Exception):  # the page itself may be what failed
        page.screenshot(path=SCREENSHOTS / f"failed-{name}.png", full_page=True)
        print(f"---- the page of {name}\n{page.locator('body').inner_text()[:6000]}")
    print(f"---- the server\n{site.log[-3000:]}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Remember for the fixtures that the test itself failed."""
    report = yield
    if report.when == "call" and report.failed:
        item.stash[FAILED] = True
    return report
