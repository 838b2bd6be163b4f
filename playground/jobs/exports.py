"""Exports at work beside the page: each in a process of its own, one at a time, to be watched and stopped."""

import dataclasses
import itertools
import json
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from playground.errors import QueueError
from playground.jobs import export_work, hub, local, processes
from playground.jobs.export_work import Order
from playground.results.runs import Run, RunStore
from playground.settings import Settings

Status = Literal["working", "done", "failed", "cancelled"]

KILLED = (
    "The system ended the export, probably for want of memory. Wait for the running job to end, or download "
    "the adapter alone."
)
STOPPED = "Stopped by hand."


@dataclass(frozen=True)
class Export:
    """One export. ``progress`` is the last progress event's data. A finished one has a ``file``, or an
    ``address`` on the Hub. Nothing in it holds a token.
    """

    number: int
    order: Order
    status: Status = "working"
    progress: dict[str, Any] | None = None
    file: Path | None = None
    address: str | None = None
    repo: str | None = None
    error: str | None = None


class Exports:
    """Makes what finished runs can be taken away as, and keeps it in the run's folder until the run goes."""

    def __init__(self, settings: Settings, store: RunStore):
        self.settings = settings
        self.store = store
        self._newest: dict[int, Export] = {}  # by run
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._work: tuple[Export, subprocess.Popen, str | None] | None = None

    def start(self, order: Order, to: hub.Push | None = None) -> Export:
        """Begin an export, or a push; a merged model that was made before is there at once.

        Raises:
            as ``export_work.check``; QueueError: another one is at work.
        """
        run, _ = export_work.check(order, self.settings, self.store)
        target = self._folder(run) / export_work.file_name(run, order)
        with self._lock:
            made = Export(next(self._numbers), order, repo=to.repo if to else None)
            ready = to is None and order.form != "adapter" and target.is_file()
            if ready and (self._work is None or self._work[0].order.run != run.id):
                return self._keep(dataclasses.replace(made, status="done", file=target))
            if self._work is not None:
                other = self._work[0].order
                raise QueueError(
                    f"Another export is being made ({other.form} of run {other.run}). Wait for it, or stop it."
                )
            target.parent.mkdir(parents=True, exist_ok=True)
            process = self._launch()
            self._work = (made, process, processes.started(process.pid))
            self._keep(made)
        place = target if to is None else target.with_name(".push.partial")
        wanted = {"order": dataclasses.asdict(order), "target": str(place)}
        if to is not None:
            wanted["push"] = dataclasses.asdict(to)
        threading.Thread(
            target=self._follow, args=(made, process, json.dumps(wanted)), name="export", daemon=True
        ).start()
        return made

    def newest(self, run_id: int) -> Export | None:
        """The newest export of a run since the page was started."""
        return self._newest.get(run_id)

    def ready(self, run_id: int) -> list[Path]:
        """The files that were made of a run."""
        folder = local.run_folder(self.settings, run_id) / export_work.FOLDER
        return sorted(path for path in folder.glob("run-*") if path.suffix in (".zip", ".gguf"))

    def stop(self, run_id: int) -> Export:
        """End the export of a run that is at work; nothing of it is left.

        Raises:
            QueueError: none is.
        """
        with self._lock:
            if self._work is None or self._work[0].order.run != run_id:
                raise QueueError(f"No export of run {run_id} is being made; there is nothing to stop.")
            made, process, since = self._work
            self._keep(dataclasses.replace(self._newest[run_id], status="cancelled", error=STOPPED))
        processes.end_group(process.pid, since)
        process.wait()
        return self._newest[made.order.run]

    def stamp(self) -> str:
        """Changes whenever anything here did."""
        return ",".join(
            f"{made.number}{made.status}{(made.progress or {}).get('phase')}{(made.progress or {}).get('done')}"
            for made in list(self._newest.values())
        )

    def close(self) -> None:
        """End what is at work."""
        with self._lock:
            work = self._work
        if work is not None:
            processes.end_group(work[1].pid, work[2])

    def _folder(self, run: Run) -> Path:
        return local.run_folder(self.settings, run.id) / export_work.FOLDER

    def _keep(self, made: Export) -> Export:
        self._newest[made.order.run] = made
        return made

    def _launch(self) -> subprocess.Popen:
        settings = dataclasses.replace(self.settings, threads=1)  # a job that is being measured goes first
        return subprocess.Popen(
            [sys.executable, "-m", "playground.jobs.export_work"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env=local.environment(settings),
            start_new_session=True,
        )

    def _follow(self, made: Export, process: subprocess.Popen, wanted: str) -> None:
        last: dict[str, Any] = {}
        try:
            process.stdin.write(wanted)
            process.stdin.close()
            for line in process.stdout:
                last = json.loads(line)
                if last["kind"] == "progress":
                    self._change(made, progress=last)
        except (BrokenPipeError, ValueError):  # it was stopped in the middle of a line
            last = {}
        process.wait()
        self._tidy(made)
        with self._lock:
            self._work = None
        if last.get("kind") == "done":
            result = last["result"]
            self._change(
                made,
                status="done",
                file=None if made.repo else Path(result),
                address=result if made.repo else None,
            )
        else:
            self._change(made, status="failed", error=last.get("reason") or KILLED)

    def _change(self, made: Export, **values: Any) -> None:
        with self._lock:
            now = self._newest.get(made.order.run)
            if now is not None and now.number == made.number and now.status == "working":
                self._keep(dataclasses.replace(now, **values))

    def _tidy(self, made: Export) -> None:
        """Remove what a killed process left half-made."""
        from playground.training.saving import clear_leftovers

        clear_leftovers(local.run_folder(self.settings, made.order.run) / export_work.FOLDER)
