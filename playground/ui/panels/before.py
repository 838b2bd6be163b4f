"""Before the start: what will run and whether it fits, and the training data as the model will see it."""

from collections.abc import Sequence
from typing import Any

import gradio as gr
from gradio.components.base import Component

from playground.data import tasks
from playground.errors import InvalidInput
from playground.jobs.forecast import forecast, look
from playground.methods.registry import method
from playground.models import catalogue
from playground.ui.components import data_view, estimate
from playground.ui.components.markup import empty, notice
from playground.ui.messages import sentence
from playground.ui.session import Session

ONE_AT_A_TIME = "forecast"  # the concurrency id of all forecasts: each takes a second or two of a core

# those that change what the training data look like
DATA_FIELDS = ("task", "model", "max_length", "prompt_loss_weight")


def build(session: Session, method_id: str, inputs: dict[str, Component]) -> None:
    """Draw the panel below a form.

    The estimate follows the form while its fold is open; of quick changes the last one counts.

    Args:
        inputs: the form's fields by parameter name, and "task", "model" and whatever else it has.
    """
    busy = {"api_visibility": "private", "show_progress": "minimal", "concurrency_id": ONE_AT_A_TIME}
    busy |= {"concurrency_limit": 1, "trigger_mode": "always_last"}

    with gr.Accordion(
        "What it will take: memory, time, data", open=False, elem_id=f"{method_id}-before"
    ) as fold:
        card = gr.HTML(
            empty("Estimating", "Counted on the model's own layers, without loading its weights."),
            elem_id=f"{method_id}-card",
        )
        with gr.Accordion("The training data", open=False, elem_id=f"{method_id}-data") as data_fold:
            overview = gr.HTML(elem_id=f"{method_id}-overview")
            with gr.Row(elem_classes="pg-buttons"):
                previous = gr.Button("← Previous", size="sm", elem_id=f"{method_id}-previous")
                number = gr.Number(1, label="Training example", step=1, min_width=120)
                following = gr.Button("Next →", size="sm", elem_id=f"{method_id}-next")
            shown = gr.HTML(elem_id=f"{method_id}-tokens")

    def guess(**values):
        return card_of(session, method_id, values)

    def look_at(**values):
        place = values.pop("number")
        return overview_of(session, method_id, values), *example_of(session, method_id, values, place)

    def step(by: int):
        def move(**values):
            place = (values.pop("number") or 1) + by
            return example_of(session, method_id, values, place)

        return move

    views = [overview, shown, number]
    seen = {**inputs, "number": number}
    changed = _changes(list(inputs.values()), fold)
    gr.on([fold.expand, changed.change], guess, inputs_kwargs=inputs, outputs=card, **busy)
    changed = _changes([inputs[name] for name in DATA_FIELDS if name in inputs], data_fold)
    gr.on([data_fold.expand, changed.change], look_at, inputs_kwargs=seen, outputs=views, **busy)
    previous.click(step(-1), inputs_kwargs=seen, outputs=[shown, number], **busy)
    following.click(step(1), inputs_kwargs=seen, outputs=[shown, number], **busy)
    number.submit(step(0), inputs_kwargs=seen, outputs=[shown, number], **busy)


def _changes(fields: Sequence[Component], fold: gr.Accordion) -> gr.Textbox:
    """Another text at each change of a field while the fold is open, told by the browser: no request without need."""
    told = gr.Textbox("", visible="hidden")
    gr.on(
        [field.change for field in fields], None, told, told, api_visibility="private",
        js=f"now => window.playground.isOpen('{fold.elem_id}') ? String(performance.now()) : now",
    )  # fmt: skip
    return told


def card_of(session: Session, method_id: str, values: dict[str, Any]) -> str:
    """The estimate for a form's values; what is wrong with them where something is."""
    try:
        technique = method(method_id)
        params, task, entry = _chosen(session, technique, values)
        told = forecast(technique, params, task, entry, session.settings, session.store)
    except Exception as error:
        return notice(sentence(error), "bad")
    return estimate.card(told, entry.title, task.title)


def overview_of(session: Session, method_id: str, values: dict[str, Any]) -> str:
    """Lengths and findings of the chosen task's training data."""
    try:
        params, task, entry = _chosen(session, method(method_id), values)
        return data_view.overview(look(params, task, entry, session.settings))
    except Exception as error:
        return notice(sentence(error), "bad")


def example_of(session: Session, method_id: str, values: dict[str, Any], place: Any) -> tuple[str, int]:
    """The training example at a place, from 1, and the place that it has: the nearest one that there is."""
    from playground.training.data_view import show
    from playground.training.weightless import weightless

    try:
        params, task, entry = _chosen(session, method(method_id), values)
        if not task.train:
            raise InvalidInput(f"The task “{task.title}” has no training examples.", "task")
        place = min(max(1, int(place or 1)), len(task.train))
        model = weightless(entry, session.settings)
        one = show(model, task, task.train[place - 1], params.max_length, params.prompt_loss_weight)
        return data_view.tokens(one), place
    except Exception as error:
        return notice(sentence(error), "bad"), 1


def _chosen(session: Session, technique: Any, values: dict[str, Any]) -> tuple[Any, Any, Any]:
    own = {spec.name: values[spec.name] for spec in technique.Params.fields() if spec.name in values}
    return (
        technique.Params.parse(own),
        tasks.task(values["task"], session.settings),
        catalogue.model((values["model"] or "").strip(), session.settings),
    )
