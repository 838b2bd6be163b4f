"""The public API of the page: the same actions as its buttons, typed and documented."""

from dataclasses import asdict
from typing import Any

import gradio as gr

from playground.data import tasks
from playground.methods.registry import methods
from playground.models import catalogue
from playground.results import comparison
from playground.ui.messages import shown
from playground.ui.session import Session


def build(session: Session) -> None:
    """Register the endpoints."""

    def race(
        task: str, model: str, methods: list[str], limit: int | None = None, seed: int = 0
    ) -> dict[str, Any]:
        """Race methods on one task and model. Returns the race's group and the numbers of its runs."""
        runs = session.queue.race(task, model, methods, seed=seed, limit=limit)
        return {"group": runs[0].group, "runs": [run.id for run in runs]}

    def submit_run(
        method: str,
        task: str,
        model: str,
        params: dict[str, Any],
        limit: int | None = None,
        seed: int = 0,
    ) -> dict[str, Any]:
        """File one run of a method with its parameters. Returns the run."""
        return asdict(session.queue.submit(method, params or {}, task, model, seed=seed, limit=limit))

    def get_run(run: int) -> dict[str, Any]:
        """One run: status, progress, metrics, provenance."""
        return asdict(session.store.get(run))

    def run_events(run: int, after: int = 0, limit: int = 1000) -> list[dict[str, Any]]:
        """A run's events with an id above ``after``, oldest first."""
        return [asdict(event) for event in session.store.events(run, after=after, limit=limit)]

    def comparison_rows(task: str = "", model: str = "", group: str = "") -> list[dict[str, Any]]:
        """The rows of the comparison; empty filters leave all. A number that was not measured is null."""
        where = {name: value for name, value in (("task", task), ("group", group)) if value}
        runs = [run for run in session.runs(**where) if not model or run.model == model]
        return comparison.rows(comparison.newest(runs), session.described)

    def stop_run(run: int) -> dict[str, Any]:
        """Stop a running run, or take a waiting one out of the queue. Returns the run."""
        return asdict(session.queue.cancel(run))

    def resume_run(run: int) -> dict[str, Any]:
        """File a stopped, failed or interrupted run again, from its last checkpoint. Returns the run."""
        return asdict(session.queue.resume(run))

    def delete_run(run: int) -> dict[str, Any]:
        """Remove an ended run with all its files. Returns its number."""
        session.queue.delete(run)
        return {"deleted": run}

    def list_tasks() -> list[dict[str, Any]]:
        """All tasks with their sizes, labels and metric."""
        return [asdict(task) for task in tasks.tasks(session.settings).values()]

    def list_models() -> list[dict[str, Any]]:
        """The catalogue of text models."""
        return [asdict(model) for model in catalogue.models("text").values()]

    def list_methods() -> list[dict[str, Any]]:
        """All methods with their parameters: label, help, range, default."""
        return [
            {"id": id, "title": method.title, "family": method.family, "summary": method.summary}
            | {"params": [asdict(field) for field in method.Params.fields()]}
            for id, method in methods().items()
        ]

    for action in (
        race, submit_run, get_run, run_events, comparison_rows, stop_run, resume_run, delete_run,
        list_tasks, list_models, list_methods,
    ):  # fmt: skip
        gr.api(shown(action), api_name=action.__name__, concurrency_limit=None)
