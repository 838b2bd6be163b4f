"""A worker without a model: Python imports this at its start when the folder is on PYTHONPATH.

What is heavy (torch, the model, the evaluation) is replaced; the worker, the pipeline, the store and
the queue are the real ones.
"""

import sys
import types


def module(name, **members):
    made = types.ModuleType(name)
    made.__dict__.update(members)
    sys.modules[name] = made


class FakeModel:
    device = types.SimpleNamespace(type="cpu", __str__=lambda self: "cpu")
    dtype = "torch.float32"
    load_seconds = 0.25
    revision = "fake-revision"
    quantization = None
    weight_bytes = 12345

    def __init__(self, entry):
        self.entry = entry


class Stopwatch:
    def __enter__(self):
        import time

        self._start = time.perf_counter()
        return self

    def __exit__(self, *_):
        self._stop = self.seconds

    @property
    def seconds(self):
        import time

        return time.perf_counter() - self._start


class PeakMemory:
    bytes = 1_000_000

    def __init__(self, device="cpu"):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def read(self):
        return self.bytes


def locate(entry, settings, progress=None):
    progress("download", 50, 100)
    progress("download", 100, 100)
    return settings.models / entry.id


def evaluate(adapted, task, items, *, seed=0):
    from playground.events import Event

    for item in items:
        yield Event.sample("test", item.id, item.input, "<b>yes</b>", item.target, correct=True, score=1.0)
    yield Event.progress("evaluate", len(items), len(items), unit="item")
    yield Event.metric("quality", 0.5)
    yield Event.metric("n", len(items))


def reference(model, settings):
    from playground.events import Event

    yield Event.progress("reference", 1, 1, unit="probe")
    return "reference"


def measure(model, before):
    from playground.events import Event

    yield Event.metric("retention_divergence", 0.25 if before == "reference" else None)


def _install():
    module("torch", get_num_threads=lambda: 1)
    module("playground.models.sources", locate=locate)
    module("playground.models.text", load=lambda entry, settings, **_: FakeModel(entry))
    module("playground.evaluation.text", evaluate=evaluate)
    module("playground.evaluation.retention", reference=reference, measure=measure)
    module("playground.training.measure", Stopwatch=Stopwatch, PeakMemory=PeakMemory)
    import fake_methods

    fake_methods.install()


_install()
