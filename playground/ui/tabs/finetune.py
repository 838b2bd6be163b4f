"""The tab of a method that trains: form and presets, the training live, the finished runs; for any of them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components.base import Component

from playground.data import tasks
from playground.errors import ModelUnavailable, QueueError
from playground.events import Event
from playground.jobs import forecast, sweep
from playground.methods import presets
from playground.methods.base import Method
from playground.methods.registry import method
from playground.models import catalogue
from playground.results.comparison import text as shown_value
from playground.results.runs import ACTIVE, FINISHED, Run
from playground.ui import form
from playground.ui.components import data_view, estimate, run_card, sweep_view
from playground.ui.components import live as training
from playground.ui.components.echo import changed, echo
from playground.ui.components.keeping import draw_chosen, keep, once_drawn
from playground.ui.components.markup import empty, facts, heading, notice, safe
from playground.ui.messages import placed, shown
from playground.ui.panels import before, chat, explainer, export, items
from playground.ui.session import RENDERING, Session
from playground.ui.tabs.start import items_field, limit_of, task_and_model

LOW_RANK = ("lora", "qlora")  # methods whose result is a pair of matrices a layer
RECENT = 30  # runs of a method that are looked at for the one to show
SWEEP_ITEMS = "20"  # test items of each run of a sweep, unless one says otherwise
NONE = ""
AFTERWARDS = (
    "When a training is done you can ask it beside the base model, go through its answers, and download it."
)
QUICK = {"api_visibility": "private", "show_progress": "hidden"}


def build(session: Session, technique: Method, tab: gr.Tab, pulse: gr.Textbox, known: gr.Textbox) -> None:
    """Draw the tab of one method."""
    gr.HTML(about(technique))
    which = gr.Textbox(technique.id, visible="hidden")
    _body(session, technique.title, technique.id, which, tab, pulse, known)


def build_more(
    session: Session, techniques: Sequence[Method], tab: gr.Tab, pulse: gr.Textbox, known: gr.Textbox
) -> None:
    """Draw the tab that several methods share."""
    which = gr.Dropdown(
        [(technique.title, technique.id) for technique in techniques],
        value=techniques[0].id,
        label="Method",
        info=f"{len(techniques)} methods, each with its own form, runs and curves.",
        elem_id="more-method",
    )
    words = gr.HTML(about(techniques[0]))
    changed(which)(lambda id: about(method(id)), which, words, queue=False, **QUICK)
    _body(session, "the method", "more", which, tab, pulse, known)


def _body(
    session: Session,
    title: str,
    name: str,
    which: gr.Textbox | gr.Dropdown,
    tab: gr.Tab,
    pulse: gr.Textbox,
    known: gr.Textbox,
) -> None:
    """Form, training live, finished runs of the method whose id is in ``which``; ``name`` begins the ids.

    The form, and the panels about a finished run, are made when the tab is opened first, and when another
    method is chosen: with all of them in the page from the start, it would open later.
    """
    drawn = gr.Textbox(NONE, visible="hidden")  # whose form and panels there are
    beat, listed = echo(pulse), echo(known)
    with gr.Row(elem_classes="pg-split"):
        with gr.Column(scale=3, min_width=300, elem_classes="pg-panel"):
            form_area = gr.Column()
        with gr.Column(scale=4, min_width=300, elem_classes="pg-panel"):
            live = Live.draw(title, name)
    with gr.Column(elem_classes="pg-panel pg-finished"):
        gr.HTML(heading("A finished run", "Talk to it, read its answers, take it with you.", 3))
        none_yet = gr.HTML(elem_id=f"{name}-none-yet")
        chosen = gr.Dropdown([], label="Run", elem_id=f"{name}-run", elem_classes="pg-of-a-run")
        panels_area = gr.Column(elem_classes="pg-of-a-run")
    if name == "lora":
        explainer_area = gr.Column()
    with form_area:

        @gr.render(inputs=drawn, triggers=[changed(drawn)], **RENDERING)
        def controls(method_id):
            if method_id:
                with gr.Column() as area:
                    _controls(session, method(method_id), live, listed)
                open_fields(area)

    with panels_area:

        @gr.render(inputs=drawn, triggers=[changed(drawn)], **RENDERING)
        def panels(method_id):
            if method_id:
                with gr.Column() as area:
                    _panels(session, method_id, arrived(chosen), beat)
                open_fields(area)

    if name == "lora":
        with explainer_area:

            @gr.render(inputs=drawn, triggers=[changed(drawn)], **RENDERING)
            def explained(method_id):
                if method_id:
                    with gr.Column(elem_classes="pg-panel") as area:
                        explainer.build()
                    open_fields(area)

    draw_chosen(f"{name}-method", which, tab, drawn)
    live.follow(session, which, chosen, none_yet, [pulse.change, changed(which)])


def arrived(chosen: gr.Dropdown) -> gr.Number:
    """The chosen run for panels that are drawn late: it changes once after they are there, and then with it.

    In the browser alone: an answer of the server could be older than the choice that it overwrites.
    """
    run = gr.Number(None, visible="hidden")
    once_drawn([chosen], [run], "id => [id]")
    chosen.change(None, chosen, run, js="id => id", api_visibility="private")
    return run


def open_fields(area: gr.blocks.BlockContext) -> None:
    """Let every field in ``area`` be edited that does not say otherwise: in what is drawn late, Gradio does not
    find out by itself which fields are inputs."""
    for block in area.children:
        if isinstance(block, gr.blocks.BlockContext):
            open_fields(block)
        elif getattr(block, "interactive", True) is None:
            block.interactive = True


def about(technique: Method) -> str:
    """Title, what it does, the guide's words, the paper."""
    words = facts(
        (
            ("Changes weights?", technique.changes_weights),
            ("Training cost", technique.training_cost),
            ("Storage cost", technique.storage_cost),
            ("Use case", technique.use_case),
            ("Best for", technique.best_for),
        )
    )
    return (
        f'<section class="pg-about-method">{heading(technique.title, technique.summary)}{words}'
        f"{_paper(technique.paper)}</section>"
    )


def _paper(paper: str) -> str:
    if not paper:
        return ""
    number = re.search(r"arXiv:(\d{4}\.\d{4,5})", paper)
    words = safe(paper)
    if number:
        address = f"https://arxiv.org/abs/{number[1]}"
        words = f'<a href="{address}" target="_blank" rel="noopener noreferrer">{words}</a>'
    return f'<p class="pg-muted">{words}</p>'


# The form


def _controls(session: Session, technique: Method, live: "Live", known: gr.Textbox) -> None:
    """Task, model, preset, parameters, what it will take, start; and the sweep."""
    name = technique.id
    with gr.Row(elem_classes="pg-form"):
        task, model = task_and_model(session)
    first = fitting(session, name, model.value)
    preset, found = preset_fields(name, first)
    fields = form.build(technique, values=values_of(name, first))
    with gr.Row(elem_classes="pg-form"):
        limit = items_field()
        seed = gr.Number(0, label="Seed", info="The same seed gives the same run.", step=1)
    inputs = {**fields.fields, "task": task, "model": model, "limit": limit, "seed": seed}
    before.build(session, name, inputs)
    problem = gr.HTML()
    with gr.Row(elem_classes="pg-buttons"):
        begin = gr.Button("Start training", variant="primary", size="lg", elem_id=f"{name}-start")
    _sweep_fold(session, fields, inputs, live)

    def start(**values):
        yield notice(f"Checking that {technique.title} with these settings fits the model …"), gr.skip()
        try:
            run = session.queue.submit(
                name, fields.params(values), values["task"], (values["model"] or "").strip(),
                seed=values["seed"], limit=limit_of(values["limit"]), reference="last",
            )  # fmt: skip
        except Exception as error:
            yield fields.refused(error), gr.skip()
            return
        yield filed(session, run), Look.at(session, name).lane(session)

    begin.click(start, inputs_kwargs=inputs, outputs=[problem, live.card], concurrency_limit=None, **QUICK)
    fitted = follow_preset(session, fields, preset, found, model)
    keep(name, [*inputs.values(), preset, fitted])
    known.change(lambda: gr.update(choices=session.task_choices()), None, task, queue=False, **QUICK)


def filed(session: Session, run: Run) -> str:
    """That a training is in the queue, and what is wrong with its data, so that one can stop it in time."""
    worries = forecast.worries(method(run.method), tasks.task(run.task, session.settings))
    return notice(f"Run #{run.id} is in the queue.", "good") + (
        data_view.findings(worries) if worries else ""
    )


def fitting(session: Session, method_id: str, model_id: str | None, modality: str = "text") -> str:
    """The preset for a model's size; ``NONE`` where nobody counted its parameters, or there is none."""
    try:
        entry = catalogue.model(model_id or "", session.settings, modality)
    except ModelUnavailable:
        return NONE
    found = presets.fitting(method_id, entry.parameters, session.settings.device_kind)
    return found.name if found else NONE


def preset_fields(name: str, start: str = NONE) -> tuple[gr.Dropdown, gr.HTML]:
    """The choice of a preset, ``start`` to begin with, and how its values were found."""
    own = [(entry.title, entry.name) for entry in presets.presets(name)]
    preset = gr.Dropdown(
        [("The method's defaults", NONE), *own],
        value=start,
        label="Preset",
        info="Fills the fields below. “Untried” ones are guesses that nobody has run here yet.",
        elem_id=f"{name}-preset",
        filterable=False,
    )
    return preset, gr.HTML(why(name, start))


def follow_preset(
    session: Session,
    fields: form.Form,
    preset: gr.Dropdown,
    found: gr.HTML,
    model: Component,
    modality: str = "text",
) -> gr.Textbox:
    """Let a form hold what its preset says, and the preset fit the model, until a visitor edits a field.

    Args:
        model: holds the model's id; nothing outside the form's own drawing may listen to its changes.

    Returns: holds the model that the preset was last fitted to: what is filled again after a reload stays as it was.
    """
    name = fields.method.id
    fitted = gr.Textbox("", visible="hidden")

    def fill(chosen):
        return fields.filled(values_of(name, chosen))

    def refit(**values):
        now, fits = values["preset"], fitting(session, name, values["model"], modality)
        edited = not fields.holds(values, values_of(name, now))
        if now == fits or edited or values["fitted"] == values["model"]:
            return [values["model"], *[gr.skip()] * (1 + len(fields.fields))]
        return [values["model"], fits, *fill(fits)]

    outputs = list(fields.fields.values())
    preset.change(lambda chosen: why(name, chosen), preset, found, queue=False, **QUICK)
    preset.input(fill, preset, outputs, queue=False, **QUICK)
    model.change(
        refit, inputs_kwargs={**fields.fields, "preset": preset, "model": model, "fitted": fitted},
        outputs=[fitted, preset, *outputs], queue=False, **QUICK,
    )  # fmt: skip
    return fitted


def values_of(method_id: str, preset: str) -> dict[str, Any]:
    """The values of a preset; none for the defaults."""
    return presets.preset(method_id, preset).values if preset else {}


def why(method_id: str, preset: str) -> str:
    """How the values of a preset were found."""
    if not preset:
        return ""
    entry = presets.preset(method_id, preset)
    pill = "" if entry.tried else '<span class="pg-pill pg-untried">untried</span> '
    return f'<p class="pg-muted">{pill}{safe(entry.found)}</p>'


def _sweep_fold(session: Session, fields: form.Form, inputs: dict[str, Any], live: "Live") -> None:
    """Queue a small grid over one or two parameters; the other fields stay as they are above."""
    name = fields.method.id
    choices = [(spec.label, spec.name) for spec in fields.method.Params.fields()]
    with gr.Accordion("Sweep: try several values", open=False, elem_id=f"{name}-sweep"):
        with gr.Row(elem_classes="pg-form"):
            first = gr.Dropdown(choices, value="learning_rate", label="Parameter", min_width=150)
            one = gr.Textbox(
                _around(fields.method), label="Values", info="With commas between; of texts with semicolons.",
                max_lines=1, min_width=150, elem_id=f"{name}-sweep-values",
            )  # fmt: skip
        with gr.Row(elem_classes="pg-form"):
            second = gr.Dropdown(
                [("None", NONE), *choices], value=NONE, label="Second parameter", min_width=150
            )
            two = gr.Textbox("", label="Its values", max_lines=1, min_width=150)
        items = gr.Textbox(
            SWEEP_ITEMS, max_lines=1, label="Test items of each run",
            info="The best is chosen by dev loss, so few are enough here.",
        )  # fmt: skip
        problem = gr.HTML()
        with gr.Row(elem_classes="pg-buttons"):
            begin = gr.Button("Start the sweep", size="md", elem_id=f"{name}-sweep-start")
            use = gr.Button("Use the best values", size="md", elem_id=f"{name}-sweep-use")
    given = inputs | {"axis": first, "values": one, "axis_two": second, "values_two": two, "items": items}

    def start(**values):
        try:
            texts = {values["axis"]: values["values"]}
            if values["axis_two"]:
                if values["axis_two"] == values["axis"]:
                    raise QueueError("Choose two different parameters.")
                texts[values["axis_two"]] = values["values_two"]
            runs = session.queue.file(
                sweep.prepare(
                    session.queue, name, fields.params(values), sweep.axes(name, texts), values["task"],
                    (values["model"] or "").strip(), values["seed"], limit_of(values["items"]),
                )
            )  # fmt: skip
        except Exception as error:
            return fields.refused(error), gr.skip()
        return notice(f"{len(runs)} runs are in the queue.", "good"), sweep_html(session, name)

    def best():
        found = sweep.newest(session.store, name)
        if found is None or found.best is None:
            raise QueueError("No sweep of this method has a finished run yet.")
        return "", *fields.filled(found.best.params)

    begin.click(start, inputs_kwargs=given, outputs=[problem, live.sweep], queue=False, **QUICK)
    filled = [problem, *fields.fields.values()]
    use.click(placed(best, len(filled)), None, filled, queue=False, **QUICK)


def _around(technique: Method) -> str:
    """Half, once and twice the default learning rate."""
    rate = technique.Params.model_fields["learning_rate"].default
    return ", ".join(f"{rate * factor:g}" for factor in (0.5, 1, 2))


# The training, live


@dataclass
class Live:
    """What follows the newest run of a method."""

    card: gr.HTML
    stop: gr.Button
    resume: gr.Button
    curves: gr.HTML
    samples: gr.HTML
    sweep: gr.HTML
    halt_sweep: gr.Button

    @classmethod
    def draw(cls, title: str, name: str) -> "Live":
        """Draw it; ``name`` begins the ids."""
        gr.HTML(heading("Training", f"The newest run of {title}, live.", 3))
        card = gr.HTML(elem_id=f"{name}-live")
        with gr.Row(elem_classes="pg-buttons"):
            stop = gr.Button("Stop", size="md", elem_id=f"{name}-stop")
            resume = gr.Button("Resume", size="md", elem_id=f"{name}-resume", visible=False)
        curves = gr.HTML(elem_id=f"{name}-curves")
        samples = gr.HTML(elem_id=f"{name}-samples")
        found = gr.HTML(elem_id=f"{name}-sweep-view")
        halt = gr.Button("Stop the sweep", size="md", elem_id=f"{name}-sweep-stop", visible=False)
        return cls(card, stop, resume, curves, samples, found, halt)

    def follow(
        self, session: Session, which: Any, chosen: gr.Dropdown, none_yet: gr.HTML, triggers: Sequence[Any]
    ) -> None:
        """Keep it up to date, and let its buttons work. ``which`` holds the method's id."""

        def halt(method_id):
            run = stoppable(session, method_id)
            session.queue.cancel(run.id)
            return Look.at(session, method_id).lane(session)

        def resume(method_id):
            run = resumable(session, method_id)
            if run is None:
                raise QueueError("There is no stopped or interrupted run to go on with.")
            session.queue.resume(run.id)
            return Look.at(session, method_id).lane(session)

        def halt_sweep(method_id):
            found = sweep.newest(session.store, method_id)
            if found is None:
                raise QueueError("There is no sweep to stop.")
            sweep.stop(session.queue, found.group)
            return sweep_html(session, method_id)

        def refresh(method_id, run_id):
            look = Look.at(session, method_id)
            found = sweep.newest(session.store, method_id)
            over = resumable(session, method_id)
            return (
                look.lane(session),
                gr.update(visible=look.run is not None and look.run.status in ACTIVE),
                gr.update(visible=over is not None, value=f"Resume #{over.id}" if over else "Resume"),
                training.live(look.told),
                samples_of(look.events),
                sweep_view.show(found) if found else "",
                gr.update(visible=found is not None and found.active),
                *finished(session, method_id, run_id),
            )

        outputs = [
            self.card,
            self.stop,
            self.resume,
            self.curves,
            self.samples,
            self.sweep,
            self.halt_sweep,
            chosen,
            none_yet,
        ]
        gr.on(list(triggers), shown(refresh), [which, chosen], outputs, queue=False, **QUICK)
        self.stop.click(shown(halt), which, self.card, concurrency_limit=None, **QUICK)
        self.resume.click(shown(resume), which, self.card, concurrency_limit=None, **QUICK)
        self.halt_sweep.click(shown(halt_sweep), which, self.sweep, concurrency_limit=None, **QUICK)


@dataclass(frozen=True)
class Look:
    """The run to look at, and the run whose curves are shown with its metric and sample events, read once."""

    run: Run | None
    curves: Run | None
    events: Sequence[Event]

    @classmethod
    def at(cls, session: Session, method_id: str) -> "Look":
        """The run that runs, else the next that waits, else the newest; curves of the newest that has some."""
        recent = session.runs(method=method_id, limit=RECENT)
        active = [run for run in recent if run.status in ACTIVE]
        running = [run for run in active if run.status == "running"]
        run = next(iter(running or active[::-1] or recent), None)
        for past in [run, *(other for other in recent if other is not run)] if run else []:
            events = session.store.events(past.id, kinds={"metric", "sample"})
            if past.status == "running" or any(_on_curve(event) for event in events):
                return cls(run, past, events)
        return cls(run, None, [])

    @property
    def told(self) -> list[Event]:
        """The events of the shown run, with the last word on how far it is; time is left to one that runs."""
        if self.curves is None or not self.curves.progress:
            return list(self.events)
        now = dict(self.curves.progress)
        if self.curves.status != "running":
            now.pop("left_seconds", None)
        return [*self.events, Event("progress", now)]

    def lane(self, session: Session) -> str:
        """The run's card, its estimate beside what was measured, and which run the curves below are of if another."""
        if self.run is None:
            return empty(
                "No training yet", "Press “Start training”: curves and answers appear here as it goes."
            )
        other = ""
        if self.curves is not None and self.curves.id != self.run.id:
            other = (
                f'<p class="pg-muted">Run #{self.run.id} has no curves; below are those of the newest run that has:</p>'
                + run_card.card(session, self.curves, actions=False)
            )
        foretold = estimate.beside(self.run.metrics)
        if foretold:
            foretold = f'<h4 class="pg-small-head">Estimated and measured</h4>{foretold}'
        return run_card.card(session, self.run, actions=False) + foretold + other


def _on_curve(event: Event) -> bool:
    return (
        event.kind == "metric"
        and event.data["name"] in ("train_loss", "dev_loss")
        and event.data.get("step") is not None
    )


def stoppable(session: Session, method_id: str) -> Run:
    """The run of a method that runs, else the next that waits.

    Raises:
        QueueError: there is none.
    """
    active = session.runs(method=method_id, status=ACTIVE)
    running = [run for run in active if run.status == "running"]
    found = next(iter(running or active[::-1]), None)
    if found is None:
        raise QueueError(
            f"No {session.title(method_id)} run is waiting or running; there is nothing to stop."
        )
    return found


def resumable(session: Session, method_id: str) -> Run | None:
    """The newest run of a method if it was stopped, interrupted or failed: it can go on."""
    newest = next(iter(session.runs(method=method_id, limit=1)), None)
    return newest if newest is not None and newest.status in FINISHED - {"done"} else None


def sweep_html(session: Session, method_id: str) -> str:
    """The newest sweep of a method; empty where there is none."""
    found = sweep.newest(session.store, method_id)
    return sweep_view.show(found) if found else ""


def samples_of(events: Sequence[Event]) -> str:
    """Answers to the same dev items before, during and after training."""
    items: dict[str, dict] = {}
    for event in events:
        data = event.data
        if event.kind != "sample" or data["stage"] == "test":
            continue
        item = items.setdefault(
            data["item"], {"input": data["input"], "target": data.get("target"), "told": {}}
        )
        item["told"][data["stage"]] = data["answer"]
    cards = []
    for item in items.values():
        answers = facts(
            (stage.capitalize(), item["told"].get(stage)) for stage in ("before", "during", "after")
        )
        cards.append(
            f'<article class="pg-sample"><p>{safe(item["input"])}</p>{answers}'
            f"<small>Expected: {safe(item['target'])}</small></article>"
        )
    return f'<h4 class="pg-small-head">Before, during, after</h4>{"".join(cards)}' if cards else ""


# Finished runs


def _panels(session: Session, method_id: str, run: gr.Number, pulse: gr.Textbox) -> None:
    """What can be done with the finished run in ``run``."""
    with gr.Tabs(elem_classes="pg-inner-tabs"):
        with gr.Tab("Chat"):
            chat.build(session, run, method_id)
        with gr.Tab("Item by item"):
            items.build(session, run, pulse)
        with gr.Tab("Export"):
            export.build(session, run, pulse)
        if method_id in LOW_RANK:
            with gr.Tab("Spectrum"):
                explainer.spectra(session, run, method_id)


def finished(session: Session, method_id: str, chosen: int | None) -> tuple[dict[str, Any], str]:
    """The choices of finished runs, newest first; the chosen one stays while it is there.

    Returns: an update of the list, and what stands in its place, and in that of the panels, without any run.
    """
    options = [(run_words(session, run), run.id) for run in session.runs(method=method_id, status="done")]
    ids = [id for _, id in options]
    words = "" if ids else f'<div class="pg-none-yet">{empty("None yet", AFTERWARDS)}</div>'
    return gr.update(choices=options, value=chosen if chosen in ids else (ids[0] if ids else None)), words


def run_words(session: Session, run: Run) -> str:
    """A finished run in a list: "#12 · Support desk · 87.5 %"."""
    quality = shown_value(run.metrics.get("quality"), "")
    return " · ".join(part for part in (f"#{run.id}", session.task_title(run.task), quality) if part)
