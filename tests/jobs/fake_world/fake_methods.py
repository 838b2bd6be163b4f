"""Techniques that wait, fail or die on request, and a small task and model for them."""

import os
import resource
import signal
import subprocess
import sys
import time
from types import SimpleNamespace
from typing import Literal

from playground.data import tasks
from playground.data.tasks import Item, Task
from playground.errors import InvalidParams, ModelUnavailable, RunFailed, TaskError
from playground.events import Event
from playground.methods import registry
from playground.methods.base import Adapted, Method, Params, parameter
from playground.models import catalogue
from playground.models.catalogue import Model


class Patient(Method):
    """Waits ``steps`` times ``pause`` seconds, keeps a checkpoint, then ends in ``way``."""

    id = "patient"
    title = "Patient <i>method</i>"
    family = "parametric"
    changes_weights = "No"
    summary = "Waits."
    training_cost = storage_cost = "None"
    use_case = best_for = "Tests."

    class Params(Params):
        steps: int = parameter(1, "Steps", "How often it waits.", minimum=1, maximum=100_000)
        pause: float = parameter(0.01, "Pause", "Seconds of each.", minimum=0, maximum=60)
        way: Literal[
            "done", "fail", "crash", "memory", "torch_memory", "sigkill", "exit", "enospc", "deaf", "flood"
        ] = parameter("done", "Way", "How it ends.")
        loud: bool = parameter(False, "Loud", "Whether it says more.")

    def check(self, params, task):
        if params.steps == 77:
            raise InvalidParams("Steps cannot be 77 on this task.", "steps")

    def adapt(self, params, context):
        checkpoint = context.folder / "checkpoint"
        first = int(checkpoint.read_text()) if context.resume and checkpoint.exists() else 0
        yield Event.log(f"from step {first}")
        if params.way == "deaf":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(60)"])
            (context.folder / "child").write_text(str(child.pid))
        for step in range(first, params.steps):
            time.sleep(params.pause)
            beside = checkpoint.with_suffix(".new")
            beside.write_text(str(step + 1))
            beside.replace(checkpoint)
            yield Event.progress("adapt", step + 1, params.steps, unit="step")
            yield Event.metric("train_loss", 1 / (step + 1), step)
        yield from self._end(params.way)
        yield Event.metric("dev_loss", 1 / params.steps)
        return Adapted(context.model, lambda inputs: [], 42, 10, 1000)

    def _end(self, way):
        if way == "fail":
            raise RunFailed("It did not work, <script>alert(1)</script>.")
        if way == "crash":
            raise ValueError("a detail\nwith a second line")
        if way == "memory":
            raise MemoryError
        if way == "torch_memory":
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 9 bytes")
        if way == "enospc":
            raise OSError(28, "No space left on device")
        if way == "sigkill":
            os.kill(os.getpid(), signal.SIGKILL)
        if way == "flood":
            for _ in range(1000):
                yield Event.log("x" * 10_000)
                time.sleep(0.005)
        if way == "exit":
            print("the library gave up", file=sys.stderr)
            os._exit(3)


class ZeroShot(Patient):
    id = "zero_shot"
    title = "Zero-shot"
    family = "non-parametric"


TASK = Task(
    id="tiny",
    title="Tiny",
    summary="",
    description="",
    instruction="Answer.",
    answer="label",
    metric="accuracy",
    train=(),
    dev=(Item("d0", "a dev input", "yes"),),
    test=tuple(Item(f"t{i}", f"input {i}", "yes") for i in range(20)),
    labels=("yes", "no"),
    data_hash="hash-of-tiny",
)
MODEL = Model("fake", "Fake", "owner/fake", "main", "MIT", 1000, "text", 4000)


def find_task(id, settings=None, *_):
    if id != "tiny":
        raise TaskError(f"There is no task “{id}”.")
    return TASK


def find_model(id, settings=None):
    if id != "fake":
        raise ModelUnavailable(f"There is no model “{id}”. Models at hand: fake.")
    return MODEL


def install():
    """Put them in the place of the real ones, before anything has imported those by name."""
    if limit := os.environ.get("FAKE_FILE_LIMIT"):  # no file may grow further: a disk that is full
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
    registry.methods.cache_clear()
    registry.methods = lambda: {"zero_shot": ZeroShot(), "patient": Patient()}
    tasks.task = find_task
    tasks.tasks = lambda settings=None: {"tiny": SimpleNamespace(id="tiny")}
    catalogue.model = find_model
