"""Techniques that train, each with its bundled preset and several seeds, on all test items of ``support-desk``.

``python tests/benchmarks/bench_methods.py [--methods a,b] [--seeds 0,1,2] [--limit N] [--home DIR]`` queues the runs
one after the other in a store of its own, in DIR; models are those of the usual home. What that store has finished
is not run again, so it can be stopped and started at any time. After every run ``results/methods.json`` is written
from all that the store holds. Each technique is compared with zero-shot item by item.
"""

import argparse
import dataclasses
import statistics as plain
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from record import ROOT, record, spread

sys.path.insert(0, str(ROOT))

from playground.cli.progress import ProgressLine, fetch, share
from playground.errors import PlaygroundError
from playground.jobs.queue import Queue
from playground.methods import presets, registry
from playground.results import items
from playground.results.comparison import REFERENCE
from playground.results.runs import FINISHED, Filing, Run, RunStore
from playground.settings import Settings

METHODS = (
    "full", "lora", "qlora", "oft", "ia3", "bottleneck", "bitfit", "ln_tuning", "prefix_tuning", "prompt_tuning",
)  # fmt: skip
PRESET = "135m-cpu"
PACKAGES = ("torch", "transformers", "peft", "bitsandbytes")
KEPT = (
    "quality", "quality_low", "quality_high", "n", "valid_rate", "trainable_parameters", "trainable_share",
    "adapt_seconds", "adapt_peak_bytes", "stored_bytes", "retention_divergence", "retention_accuracy_change",
    "query_seconds_p50", "dev_loss",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is run: the same task, model and cap for every technique and seed."""

    queue: Queue
    task: str
    model: str
    limit: int | None

    @property
    def store(self) -> RunStore:
        return self.queue.store

    def filing(self, method: str, seed: int = 0) -> Filing:
        """One run: zero-shot, or a technique with its preset. Raises: as ``Queue.prepare`` and ``presets.preset``."""
        values = {} if method == REFERENCE else presets.preset(method, PRESET).values
        return self.queue.prepare(method, values, self.task, self.model, seed, self.limit)

    def run(self, filing: Filing) -> Run | None:
        """See ``newest``."""
        return newest(self.store, filing)


def newest(store: RunStore, filing: Filing) -> Run | None:
    """The newest run of that filing; a finished one counts more."""
    found = [run for run in store.list(task=filing.task, method=filing.method) if run.key == filing.key]
    return max(found, key=lambda run: (run.status == "done", run.id), default=None)


def finish(queue: Queue, filing: Filing, place: str) -> Run:
    """The run of that filing at its end: found in the store, gone on with, or run now."""
    run = newest(queue.store, filing)
    if run is None:
        run = queue.file([filing])[0]
    elif run.status in {"failed", "cancelled", "interrupted"}:
        run = queue.resume(run.id)
    line = ProgressLine(sys.stderr)
    while run.status not in FINISHED:
        told = run.progress or {}
        how_far = share(told["phase"], told["done"], told.get("total"), told.get("unit")) if told else "waits"
        line.show(f"{place} {run.method}, seed {run.seed}: {how_far}")
        time.sleep(0.2)
        run = queue.store.get(run.id)
    line.end()
    return run


def summary(plan: Plan) -> dict[str, object]:
    """All that the store has finished with these presets, the newest run a technique and seed."""
    base = plan.run(plan.filing(REFERENCE))
    before = items.tests(plan.store.events(base.id, kinds={"sample"}))
    methods = []
    for id, method in registry.methods().items():
        if method.family == "parametric" and _has_preset(id) and (runs := _finished(plan, id)):
            methods.append(_method(plan, runs, method.title, before))
    return {
        "task": plan.task,
        "model": plan.model,
        "limit": plan.limit,
        "preset": PRESET,
        "zero_shot": _numbers(base),
        "methods": methods,
    }


def _has_preset(method: str) -> bool:
    return any(preset.name == PRESET for preset in presets.presets(method))


def _finished(plan: Plan, method: str) -> list[Run]:
    """Runs with the preset as it is now, the newest a seed."""
    keys: dict[int, str] = {}
    found: dict[int, Run] = {}
    for run in sorted(plan.store.list(task=plan.task, method=method, status="done"), key=lambda run: run.id):
        if run.seed not in keys:
            keys[run.seed] = plan.filing(method, run.seed).key
        if run.key == keys[run.seed]:
            found[run.seed] = run
    return [found[seed] for seed in sorted(found)]


def _method(plan: Plan, runs: Sequence[Run], title: str, before: Sequence[dict]) -> dict[str, object]:
    from playground.evaluation.statistics import compare

    told = [_numbers(run) for run in runs]
    answers = [items.tests(plan.store.events(run.id, kinds={"sample"})) for run in runs]
    return {
        "method": runs[0].method,
        "title": title,
        "params": runs[0].params,
        "spread": {name: spread([each[name] for each in told]) for name in KEPT},
        "against_zero_shot": dataclasses.asdict(compare(_mean_scores(answers), before, title, "Zero-shot")),
        "runs": told,
    }


def _numbers(run: Run) -> dict[str, object]:
    told = {name: run.metrics.get(name) for name in KEPT}
    other = run.provenance.get("other_load_cores")
    return {"run": run.id, "seed": run.seed, **told, "other_load_cores": other, "device": _device(run)}


def _device(run: Run) -> str | None:
    return run.provenance.get("device_name")


def _mean_scores(answers: Sequence[Sequence[dict]]) -> list[dict[str, object]]:
    """Each item's score, mean over the seeds: items are what was sampled, not items times seeds."""
    scores: dict[str, list[float]] = {}
    for samples in answers:
        for sample in samples:
            scores.setdefault(sample["item"], []).append(float(sample["score"]))
    return [{"item": id, "score": plain.fmean(each)} for id, each in scores.items()]


def measure(plan: Plan, methods: Sequence[str], seeds: Sequence[int]) -> list[Run]:
    """Run what is missing, zero-shot first, recording after every run. Returns the runs that failed."""
    wanted = [plan.filing(REFERENCE)]
    wanted += [
        plan.filing(method, seed) for seed in seeds for method in methods
    ]  # all refused before any runs
    failed = []
    for at, filing in enumerate(wanted):
        run = finish(plan.queue, filing, f"[{at + 1}/{len(wanted)}]")
        if run.status == "done":
            quality = run.metrics["quality"]
            print(f"{run.method}, seed {run.seed}: {quality:.3f} of {run.metrics['n']:.0f} items", flush=True)
            record("methods", [], PACKAGES, **summary(plan))
        else:
            failed.append(run)
            print(f"{run.method}, seed {run.seed}: {run.status}: {run.error}", file=sys.stderr)
            if filing.method == REFERENCE:
                break
    return failed


def link_models(usual: Settings, home: Path) -> Settings:
    """Settings with a home of its own and the usual home's models."""
    home = home.expanduser().resolve()
    home.mkdir(parents=True, exist_ok=True)
    usual.models.mkdir(parents=True, exist_ok=True)
    if not (home / "models").exists():
        (home / "models").symlink_to(usual.models.resolve())
    return dataclasses.replace(usual, home=home)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print, record. Returns 1 where a run failed, 2 where the input is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", default=",".join(METHODS), help="ids with commas between")
    parser.add_argument("--seeds", default="0,1,2", help="whole numbers with commas between")
    parser.add_argument("--limit", type=int, help="answer at most N test items")
    parser.add_argument(
        "--home", type=Path, help="where the runs are kept; default: bench-methods in the usual home"
    )
    parser.add_argument("--task", default="support-desk")
    parser.add_argument("--model", default="smollm2-135m")
    given = parser.parse_args(arguments)
    usual = Settings.from_environment()
    settings = link_models(usual, given.home or usual.home / "bench-methods")
    store = RunStore(settings.database)
    queue = Queue(settings, store)
    try:
        fetch(given.model, settings)
        queue.start()
        plan = Plan(queue, given.task, given.model, given.limit)
        return (
            1
            if measure(plan, given.methods.split(","), [int(seed) for seed in given.seeds.split(",")])
            else 0
        )
    except PlaygroundError as error:
        print(error, file=sys.stderr)
        return 2
    finally:
        queue.close()
        store.close()


if __name__ == "__main__":
    sys.exit(main())
