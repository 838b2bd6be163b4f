"""Techniques that train, each with its bundled preset and several seeds, on all test items of ``support-desk``.

``python tests/benchmarks/bench_methods.py [--methods a,b] [--seeds 0,1,2] [--limit N] [--home DIR]`` queues the runs
one after the other in a store of its own, in DIR; models are those of the usual home. What that store has finished
is not run again, so it can be stopped and started at any time, nor is what ``results/methods.json`` holds already with
the same model, data and preset, so it can go on elsewhere. After every run that file is written from both. Each
technique is compared with zero-shot item by item.
"""

import argparse
import dataclasses
import statistics as plain
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from record import ROOT, record, recorded, spread

sys.path.insert(0, str(ROOT))

from playground.cli.progress import ProgressLine, fetch, share
from playground.errors import PlaygroundError
from playground.jobs.queue import Queue
from playground.methods import presets, registry
from playground.methods.base import Method
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
    def recorded(self) -> dict[str, dict]:
        """What results/methods.json holds by now, by the run's key: another store may have added to it."""
        return earlier(self.task, self.model, self.limit)

    @property
    def store(self) -> RunStore:
        return self.queue.store

    def filing(self, method: str, seed: int = 0) -> Filing:
        """One run: zero-shot, or a technique with its preset. Raises: as ``Queue.prepare`` and ``presets.preset``."""
        values = {} if method == REFERENCE else presets.preset(method, PRESET).values
        return self.queue.prepare(method, values, self.task, self.model, seed, self.limit)

    def numbers(self, filing: Filing) -> dict[str, object] | None:
        """What the run of that filing gave, here or as it was recorded; None where it is not done."""
        run = newest(self.store, filing)
        if run is None or run.status != "done":
            return self.recorded.get(filing.key)
        return _numbers(run, items.tests(self.store.events(run.id, kinds={"sample"})))


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


def earlier(task: str, model: str, limit: int | None) -> dict[str, dict]:
    """The runs that results/methods.json holds of this task, model and cap, by their keys."""
    body = recorded("methods")
    if body is None or (body["task"], body["model"], body["limit"]) != (task, model, limit):
        return {}
    runs = [body["zero_shot"], *(run for one in body["methods"] for run in one["runs"])]
    return {run["key"]: run for run in runs}


def summary(plan: Plan) -> dict[str, object]:
    """All that is done with these presets, here or elsewhere, the newest run a technique and seed."""
    base = plan.numbers(plan.filing(REFERENCE))
    methods = []
    for id, method in registry.methods().items():
        if method.family == "parametric" and _has_preset(id) and (runs := _finished(plan, id)):
            methods.append(_method(plan, runs, method, base))
    return {
        "task": plan.task,
        "model": plan.model,
        "limit": plan.limit,
        "preset": PRESET,
        "zero_shot": base,
        "methods": methods,
    }


def _has_preset(method: str) -> bool:
    return any(preset.name == PRESET for preset in presets.presets(method))


def _finished(plan: Plan, method: str) -> list[dict[str, object]]:
    """Runs with the preset as it is now, one a seed."""
    seeds = {run.seed for run in plan.store.list(task=plan.task, method=method, status="done")}
    seeds |= {run["seed"] for run in plan.recorded.values() if run["method"] == method}
    found = [plan.numbers(plan.filing(method, seed)) for seed in sorted(seeds)]
    return [numbers for numbers in found if numbers is not None]


def _method(plan: Plan, runs: Sequence[dict], method: Method, base: dict) -> dict[str, object]:
    from playground.evaluation.statistics import compare

    scores, before = _mean_scores([run["scores"] for run in runs]), _mean_scores([base["scores"]])
    return {
        "method": method.id,
        "title": method.title,
        "params": plan.filing(method.id).params,
        "spread": {name: spread([each[name] for each in runs]) for name in KEPT},
        "against_zero_shot": dataclasses.asdict(compare(scores, before, method.title, "Zero-shot")),
        "runs": runs,
    }


def _numbers(run: Run, answers: Sequence[dict]) -> dict[str, object]:
    """What is kept of a run; ``scores`` are its items' in the order of their ids, with blanks between."""
    ordered = sorted(answers, key=lambda answer: answer["item"])
    return {
        "method": run.method,
        "seed": run.seed,
        "key": run.key,
        **{name: run.metrics.get(name) for name in KEPT},
        "other_load_cores": run.provenance.get("other_load_cores"),
        "device": run.provenance.get("device_name"),
        "commit": run.provenance.get("commit"),
        "scores": " ".join(f"{answer['score']:.4g}" for answer in ordered),
    }


def _mean_scores(scores: Sequence[str]) -> list[dict[str, object]]:
    """Each item's score, mean over the seeds: items are what was sampled, not items times seeds."""
    by_item = zip(*([float(one) for one in each.split()] for each in scores), strict=True)
    return [{"item": str(at), "score": plain.fmean(each)} for at, each in enumerate(by_item)]


def measure(plan: Plan, methods: Sequence[str], seeds: Sequence[int]) -> list[Run]:
    """Run what is missing, zero-shot first, recording after every run. Returns the runs that failed."""
    wanted = [plan.filing(REFERENCE)]
    wanted += [
        plan.filing(method, seed) for seed in seeds for method in methods
    ]  # all refused before any runs
    failed = []
    for at, filing in enumerate(wanted):
        if plan.numbers(filing) is not None:
            record("methods", [], PACKAGES, **summary(plan))
            continue
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
