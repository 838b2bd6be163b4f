"""Every way to teach the starter image model a subject, with and without prior preservation, over several seeds.

``python tests/benchmarks/bench_subjects.py [--subjects mascot,backpack,outline] [--seeds 0,1,2] [--home DIR]`` queues the rows
of the page's race (``playground.jobs.races``) one after the other in a store of its own, in DIR; models are those of
the usual home. What that store has finished is not run again, so it can be stopped and started at any time. After
every run ``results/subjects.json`` is written from all that the store holds. Likeness is measured on held-out
pictures that no choice has seen, and drift from the base model's pictures of the class.
"""

import argparse
import dataclasses
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from record import ROOT, record, spread

sys.path.insert(0, str(ROOT))

from bench_methods import finish, link_models, newest

from playground.cli.progress import fetch
from playground.data import subjects
from playground.data.subjects import Subject
from playground.errors import PlaygroundError
from playground.jobs import races
from playground.jobs.queue import Queue
from playground.methods.registry import methods
from playground.results.runs import Filing, Run, RunStore
from playground.settings import Settings
from playground.ui.components.run_card import variant

BASE = "image_base"
PACKAGES = ("torch", "diffusers", "transformers", "peft")
KEPT = (
    "subject_fidelity", "prompt_fidelity", "class_drift", "diversity", "memorisation", "trainable_parameters",
    "kept_step", "adapt_seconds", "adapt_peak_bytes", "stored_bytes", "seconds_per_image",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Plan:
    """The race on one subject, run again with each seed."""

    queue: Queue
    subject: Subject
    model: str

    @property
    def store(self) -> RunStore:
        return self.queue.store

    def filings(self, seed: int) -> list[Filing]:
        """The race's runs in its order, the base model first. Raises: as ``races.prepare``."""
        return races.prepare(self.queue, self.subject.kind, self.subject.id, self.model, seed)


def summary(plan: Plan) -> dict[str, object]:
    """All that the store has finished of one subject, by row and seed."""
    seeds = sorted({run.seed for run in plan.store.list(task=plan.subject.id, status="done")})
    by_seed = {
        seed: [_numbers(newest(plan.store, filing)) for filing in plan.filings(seed)] for seed in seeds
    }
    base = {seed: told[0] for seed, told in by_seed.items()}
    rows = []
    for place, filing in enumerate(plan.filings(0)):
        runs = [told[place] for told in by_seed.values() if told[place]]
        if runs:
            rows.append(_row(filing, runs, base))
    return {"subject": plan.subject.id, "title": plan.subject.title, "kind": plan.subject.kind, "rows": rows}


def _row(filing: Filing, runs: list[dict], base: dict[int, dict | None]) -> dict[str, object]:
    pairs = [(run, base[run["seed"]]) for run in runs]
    gained = [run["subject_fidelity"] - other["subject_fidelity"] for run, other in pairs if other]
    return {
        "method": filing.method,
        "title": variant(methods()[filing.method].title, filing.params),
        "params": filing.params,
        "spread": {name: spread([run[name] for run in runs]) for name in KEPT},
        "above_base": spread(gained) if gained else None,
        "runs": runs,
    }


def _numbers(run: Run | None) -> dict[str, object] | None:
    if run is None or run.status != "done":
        return None
    told = {name: run.metrics.get(name) for name in KEPT}
    facts = {name: run.provenance.get(name) for name in ("judge", "device_name", "other_load_cores")}
    return {"run": run.id, "seed": run.seed, **told, **facts}


def measure(plans: Sequence[Plan], seeds: Sequence[int]) -> list[Run]:
    """Run what is missing, recording after every run. Returns the runs that failed."""
    wanted = [(plan, filing) for seed in seeds for plan in plans for filing in plan.filings(seed)]
    failed = []
    for at, (plan, filing) in enumerate(wanted):
        run = finish(plan.queue, filing, f"[{at + 1}/{len(wanted)}] {plan.subject.id}")
        if run.status == "done":
            print(
                f"{plan.subject.id}, {variant(run.method, run.params)}, seed {run.seed}: {_told(run)}",
                flush=True,
            )
            record("subjects", [], PACKAGES, model=plan.model, subjects=[summary(one) for one in plans])
        else:
            failed.append(run)
            print(f"{run.method}, seed {run.seed}: {run.status}: {run.error}", file=sys.stderr)
    return failed


def _told(run: Run) -> str:
    names = {"subject_fidelity": "likeness", "class_drift": "drift", "adapt_seconds": "seconds"}
    return ", ".join(f"{label} {run.metrics[name]:.3g}" for name, label in names.items())


def plans(queue: Queue, ids: Sequence[str], model: str) -> Iterator[Plan]:
    """A plan for each subject. Raises InvalidInput: there is no such subject."""
    for id in ids:
        yield Plan(queue, subjects.subject(id, queue.settings), model)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print, record. Returns 1 where a run failed, 2 where the input is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--subjects", default="mascot,backpack,outline", help="ids with commas between")
    parser.add_argument("--seeds", default="0,1,2", help="whole numbers with commas between")
    parser.add_argument(
        "--home", type=Path, help="where the runs are kept; default: bench-subjects in the usual home"
    )
    parser.add_argument("--model", default="starter-stickers")
    given = parser.parse_args(arguments)
    usual = Settings.from_environment()
    settings = link_models(usual, given.home or usual.home / "bench-subjects")
    store = RunStore(settings.database)
    queue = Queue(settings, store)
    try:
        fetch(given.model, settings)
        queue.start()
        found = list(plans(queue, given.subjects.split(","), given.model))
        return 1 if measure(found, [int(seed) for seed in given.seeds.split(",")]) else 0
    except PlaygroundError as error:
        print(error, file=sys.stderr)
        return 2
    finally:
        queue.close()
        store.close()


if __name__ == "__main__":
    sys.exit(main())
