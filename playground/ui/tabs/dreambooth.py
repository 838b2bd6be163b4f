"""The tab of methods that teach an image model a subject or a style: pictures, settings, training live, trying."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from playground.data import subjects
from playground.data.subjects import Picture, Subject
from playground.errors import InvalidInput, ModelUnavailable, QueueError
from playground.jobs import races, requests
from playground.methods.base import Method
from playground.methods.registry import method
from playground.models import catalogue
from playground.results.comparison import text
from playground.results.runs import ACTIVE, Filing, Run
from playground.ui import form, looks
from playground.ui.components import learning, pictures, run_card
from playground.ui.components.echo import changed, echo
from playground.ui.components.keeping import draw_chosen, keep, keep_choice, kept
from playground.ui.components.markup import empty, facts, heading, notice, safe
from playground.ui.messages import sentence, shown
from playground.ui.panels import draw, photos, take
from playground.ui.session import RENDERING, Session
from playground.ui.tabs.finetune import (
    NONE,
    QUICK,
    Look,
    about,
    arrived,
    fitting,
    follow_preset,
    open_fields,
    preset_fields,
    resumable,
    stoppable,
    values_of,
)

EDGES = "window.playground.edges(element);"
WORDS = {
    "subject": ("The subject", "A few photos of one thing, and the rare word that it will be called by."),
    "style": ("The style", "Pictures that share a look, and the rare word that it will be called by."),
}
AFTERWARDS = "When a training is done you can draw with it beside the base model, and download it."


def build(
    session: Session,
    techniques: Sequence[Method],
    kind: str,
    tab: gr.Tab,
    pulse: gr.Textbox,
    group: gr.Textbox,
) -> None:
    """Draw the tab.

    The forms are made when the tab is opened first, and when another method is chosen.

    Args:
        techniques: its methods, one or more; with more the visitor chooses.
        kind: "subject" or "style", what they learn.
        pulse: changes while the tab is in sight and the store changed.
        group: set to the race that is started here.
    """
    name = tab.id
    opened = gr.Textbox(NONE, visible="hidden")
    drawn = gr.Textbox(NONE, visible="hidden")  # whose form and panels there are
    if len(techniques) > 1:
        which = gr.Radio(
            [(each.title, each.id) for each in techniques],
            value=techniques[0].id,
            label="Method",
            elem_id=f"{name}-method",
        )
    else:
        which = gr.Textbox(techniques[0].id, visible="hidden")
    words = gr.HTML(about(techniques[0]))
    if len(techniques) > 1:
        changed(which)(lambda id: about(method(id)), which, words, queue=False, **QUICK)
    with gr.Column(elem_classes="pg-panel"):
        gr.HTML(heading(*WORDS[kind], 3))
        chosen = Chosen.draw(session, kind, name)
        with gr.Accordion("Use your own pictures", open=False, elem_id=f"{name}-own"):
            own_area = gr.Column()
    with gr.Row(elem_classes="pg-split"):
        with gr.Column(scale=3, min_width=300, elem_classes="pg-panel"):
            gr.HTML(heading("Settings", "", 3))
            model = model_field(session, name, techniques)
            model_of_form, model_of_photos = echo(model), echo(model)
            form_area = gr.Column(scale=0)
            race_area = gr.Column(scale=0, elem_classes="pg-race-here")
        with gr.Column(scale=4, min_width=300, elem_classes="pg-panel"):
            live = Live.draw(name)
    with gr.Column(elem_classes="pg-panel"):
        gr.HTML(heading("What it draws, look after look", "", 3))
        samples = gr.HTML(js_on_load=EDGES, elem_id=f"{name}-strip")
    with gr.Column(elem_classes="pg-panel pg-finished"):
        gr.HTML(heading("A finished run", "Draw with it, take it with you.", 3))
        none_yet = gr.HTML(elem_id=f"{name}-none-yet")
        run = gr.Dropdown([], label="Run", elem_id=f"{name}-run", elem_classes="pg-of-a-run")
        panels_area = gr.Column(elem_classes="pg-of-a-run")

    with own_area:

        @gr.render(inputs=opened, triggers=[changed(opened)], **RENDERING)
        def own(now):
            if now:
                with gr.Column() as area:
                    photos.build(session, kind, name, model_of_photos, chosen.field)
                open_fields(area)

    with form_area:

        @gr.render(inputs=[drawn, model], triggers=[drawn.change], **RENDERING)
        def controls(method_id, model_id=model.value):
            if method_id:
                first = fitting(session, method_id, model_id, "image")
                with gr.Column() as area:
                    _controls(session, method(method_id), chosen.field, model_of_form, live, first)
                open_fields(area)

    with race_area:
        _race(session, kind, name, chosen.field, model, group)

    with panels_area:

        @gr.render(inputs=opened, triggers=[changed(opened)], **RENDERING)
        def panels(now):
            if now:
                with gr.Column() as area:
                    _panels(session, arrived(run), name)
                open_fields(area)

    chosen.follow(session, kind, tab)
    tab.select(None, model, model, js=kept(f"{name}-model"), api_visibility="private")
    model.change(None, model, None, js=keep_choice(f"{name}-model"), api_visibility="private")
    draw_chosen(f"{name}-method", which, tab, drawn)
    tab.select(None, None, opened, js="() => 'yes'", api_visibility="private")
    live.follow(session, which, run, none_yet, samples, name, [pulse.change, changed(which)])


def model_field(session: Session, name: str, techniques: Sequence[Method]) -> gr.Dropdown:
    """Which image model is adapted, and what is known of it."""
    known = session.model_choices("image")
    field = gr.Dropdown(
        known,
        value=known[0][1] if known else None,
        label="Model",
        info="Or type a diffusers model's name on the Hugging Face Hub: owner/name.",
        allow_custom_value=True,
        elem_id=f"{name}-model",
    )
    told = gr.HTML(about_model(field.value, techniques), elem_id=f"{name}-about-model")
    field.change(lambda id: about_model(id, techniques), field, told, queue=False, **QUICK)
    return field


def about_model(model_id: str | None, techniques: Sequence[Method]) -> str:
    """Licence, size and estimated memory of a model of the catalogue; "" of one that it does not have."""
    entry = catalogue.models("image").get(model_id or "")
    if entry is None:
        return ""
    needed = (
        f"{one.title} {text(entry.adapting.get(one.id), 'B')}"
        for one in techniques
        if one.id in entry.adapting
    )
    return facts(
        (
            ("Licence", entry.licence),
            ("Parameters", text(entry.parameters, "count")),
            ("Memory, estimated", " · ".join(needed)),
            ("Note", entry.note),
        )
    )


# What it is adapted to


@dataclass
class Chosen:
    """The chosen subject: its list, its pictures, and deleting a visitor's own."""

    field: gr.Dropdown
    view: gr.HTML
    drop: gr.Button
    confirm: gr.Row
    sure: gr.Button
    keep: gr.Button
    told: gr.HTML

    @classmethod
    def draw(cls, session: Session, kind: str, name: str) -> "Chosen":
        """Draw it; ``name`` begins the ids."""
        known = choices(session, kind)
        with gr.Row(elem_classes="pg-form pg-with-button"):
            field = gr.Dropdown(
                known,
                value=known[0][1] if known else None,
                label=kind.capitalize(),
                elem_id=f"{name}-subject",
                min_width=200,
                interactive=True,
            )
            drop = gr.Button("Delete", size="md", visible=False, elem_id=f"{name}-delete", scale=0)
        with gr.Row(visible=False, elem_classes="pg-buttons pg-confirm") as confirm:
            gr.HTML('<p class="pg-muted">Its pictures are removed from this server. Its runs stay.</p>')
            sure = gr.Button("Delete it", variant="stop", size="md", elem_id=f"{name}-delete-yes")
            keep = gr.Button("Keep it", size="md")
        told = gr.HTML()
        view = gr.HTML(elem_id=f"{name}-pictures")
        return cls(field, view, drop, confirm, sure, keep, told)

    def follow(self, session: Session, kind: str, tab: gr.Tab) -> None:
        """Show the pictures of what is chosen, and read the list anew when the tab is opened."""

        def refresh(id):
            known = choices(session, kind)
            ids = [one for _, one in known]
            id = id if id in ids else (ids[0] if ids else None)
            return gr.update(choices=known, value=id), *self._look(session, id)

        def remove(id):
            delete(session, id)
            return notice("It is deleted.", "good"), gr.update(visible=False), *refresh(None)

        views = [self.view, self.drop]
        subject = self.field.elem_id
        tab.select(shown(refresh), self.field, [self.field, *views], js=kept(subject), queue=False, **QUICK)
        self.field.change(None, self.field, None, js=keep_choice(subject), api_visibility="private")
        self.field.change(
            lambda id: (*self._look(session, id), gr.update(visible=False)),
            self.field, [*views, self.confirm], queue=False, **QUICK,
        )  # fmt: skip
        self.drop.click(lambda: gr.update(visible=True), None, self.confirm, queue=False, **QUICK)
        self.keep.click(lambda: gr.update(visible=False), None, self.confirm, queue=False, **QUICK)
        self.sure.click(
            shown(remove), self.field, [self.told, self.confirm, self.field, *views],
            concurrency_limit=None, **QUICK,
        )  # fmt: skip

    def _look(self, session: Session, id: str | None) -> tuple[str, dict[str, Any]]:
        try:
            found = subjects.subject(id, session.settings) if id else None
        except Exception as error:
            return notice(sentence(error), "bad"), gr.update(visible=False)
        return portrait(found), gr.update(visible=found is not None and not found.bundled)


def choices(session: Session, kind: str) -> list[tuple[str, str]]:
    """The subjects of a kind as (title, id)."""
    return [
        (one.title if one.bundled else f"{one.title} (your own)", id)
        for id, one in session.subjects(kind).items()
    ]


def delete(session: Session, id: str | None) -> None:
    """Remove a visitor's own subject.

    Raises:
        QueueError: a run that needs it waits or runs.
        InvalidInput: there is no own subject with that id.
    """
    if not id:
        raise InvalidInput("Choose what to delete first.", "subject")
    if session.runs(task=id, status=ACTIVE):
        raise QueueError("A run on it is waiting or running. Stop that run first.")
    subjects.delete_subject(id, session.settings)


def portrait(subject: Subject | None) -> str:
    """A subject's words and all its pictures, those that it learns from and those kept back."""
    if subject is None:
        return empty("Nothing to learn from yet", "Bring your own pictures below.")
    about_it = facts(
        (
            ("Called", subject.phrase),
            ("Without the rare word", subject.class_word),
            ("Pictures", f"{len(subject.train)} to learn from, {len(subject.held_out)} held out"),
            ("Licence", subject.licence),
        )
    )
    words = f'<p class="pg-about">{safe(subject.description or subject.summary)}</p>'
    learnt = pictures.gallery("Learns from", (_figure(subject, one) for one in subject.train))
    held = pictures.gallery(
        "Held out, to measure against", (_figure(subject, one) for one in subject.held_out)
    )
    return f'<div class="pg-portrait">{words}{about_it}<div class="pg-galleries">{learnt}{held}</div></div>'


def _figure(subject: Subject, picture: Picture) -> str:
    return pictures.figure(
        pictures.source(picture.path.parent, picture.path.name), alt=subject.instance_prompt(picture)
    )


# The form


def _controls(
    session: Session,
    technique: Method,
    subject: gr.Dropdown,
    model: gr.Textbox,
    live: "Live",
    first: str = NONE,
) -> None:
    """Preset (``first`` to begin with), parameters, start."""
    name = technique.id
    preset, found = preset_fields(name, first)
    fields = form.build(technique, values=values_of(name, first))
    seed = gr.Number(0, label="Seed", info="The same seed gives the same run.", step=1)
    inputs = {**fields.fields, "subject": subject, "model": model, "seed": seed}
    problem = gr.HTML()
    with gr.Row(elem_classes="pg-buttons"):
        begin = gr.Button("Start training", variant="primary", size="lg", elem_id=f"{name}-start")

    def start(**values):
        try:
            run = submit(
                session, name, fields.params(values), values["subject"], values["model"], values["seed"]
            )
        except Exception as error:
            return fields.refused(error), gr.skip()
        return notice(f"Run #{run.id} is in the queue.", "good"), lane(session, Look.at(session, name))

    begin.click(start, inputs_kwargs=inputs, outputs=[problem, live.card], queue=False, **QUICK)
    fitted = follow_preset(session, fields, preset, found, model, "image")
    keep(name, [*fields.fields.values(), seed, preset, fitted])


def submit(
    session: Session,
    method_id: str,
    params: dict[str, Any],
    subject: str | None,
    model: str | None,
    seed: float,
) -> Run:
    """File one run on a subject.

    Raises:
        InvalidInput, ModelUnavailable, QueueError: as ``Queue.submit``; a subject or model is not chosen.
    """
    return session.queue.submit(method_id, params, *_on(subject, model), seed=seed)


def _on(subject: str | None, model: str | None) -> tuple[str, str]:
    if not subject:
        raise InvalidInput("Choose what it should learn first.", "subject")
    if not (model or "").strip():
        raise ModelUnavailable("Choose an image model first.")
    return subject, model.strip()


def _race(
    session: Session,
    kind: str,
    name: str,
    subject: gr.Dropdown,
    model: gr.Dropdown,
    group: gr.Textbox,
) -> None:
    """One button that files the base model and every way to learn the subject, side by side."""
    entries = races.racers(kind)
    if len(entries) < 2:
        return
    words = " · ".join(run_card.variant(session.title(one.method), one.params) for one in entries)
    gr.HTML(
        f'<h4 class="pg-small-head">Or all of them, compared</h4><p class="pg-muted">{safe(words)}, each with the '
        "preset for the model’s size where one was tried, and the same seed.</p>"
    )
    with gr.Row(elem_classes="pg-buttons"):
        begin = gr.Button(f"Race on this {kind}", size="md", elem_id=f"{name}-race")
    problem = gr.HTML()

    def start(subject_id, model_id):
        try:
            runs = session.queue.file(prepare_race(session, kind, subject_id, model_id))
        except Exception as error:
            return notice(sentence(error), "bad"), gr.skip()
        return (
            notice(f"{len(runs)} runs are in the queue; Compare fills as they go.", "good"),
            runs[0].group,
        )

    begin.click(start, [subject, model], [problem, group], concurrency_limit=None, **QUICK)


def prepare_race(
    session: Session, kind: str, subject: str | None, model: str | None, seed: int = 0
) -> list[Filing]:
    """Check the runs of a race without filing them.

    Raises:
        InvalidInput, ModelUnavailable: as ``races.prepare``; a subject or model is not chosen.
    """
    return races.prepare(session.queue, kind, *_on(subject, model), seed=seed)


def _panels(session: Session, run: gr.Number, name: str) -> None:
    """What can be done with the finished run in ``run``."""
    with gr.Tabs(elem_classes="pg-inner-tabs"):
        with gr.Tab("Draw"):
            draw.build(session, run, name)
        with gr.Tab("Download"):
            take.build(session, run, name)


# The training, live


@dataclass
class Live:
    """What follows the newest run of a method."""

    card: gr.HTML
    stop: gr.Button
    sample: gr.Button
    save: gr.Button
    resume: gr.Button
    curves: gr.HTML
    machine: gr.HTML

    @classmethod
    def draw(cls, name: str) -> "Live":
        """Draw it; ``name`` begins the ids."""
        gr.HTML(heading("Training", "The newest run, live.", 3))
        card = gr.HTML(elem_id=f"{name}-live")
        hidden = {"size": "md", "visible": False}
        with gr.Row(elem_classes="pg-buttons"):
            stop = gr.Button("Stop", elem_id=f"{name}-stop", **hidden)
            sample = gr.Button("Sample now", elem_id=f"{name}-sample", **hidden)
            save = gr.Button("Save now", elem_id=f"{name}-save", **hidden)
            resume = gr.Button("Resume", elem_id=f"{name}-resume", **hidden)
        curves = gr.HTML(elem_id=f"{name}-curves")
        with gr.Accordion("Learning rate, speed, memory", open=False):
            machine = gr.HTML(elem_id=f"{name}-machine")
        return cls(card, stop, sample, save, resume, curves, machine)

    def follow(
        self,
        session: Session,
        which: Any,
        run: gr.Dropdown,
        none_yet: gr.HTML,
        samples: gr.HTML,
        name: str,
        triggers: Sequence[Any],
    ) -> None:
        """Keep it up to date, and let its buttons work. ``which`` holds the method's id."""
        drawn = gr.Textbox("", visible="hidden")  # which samples the strip shows: it is sent when they change

        def halt(method_id):
            session.queue.cancel(stoppable(session, method_id).id)
            return lane(session, Look.at(session, method_id))

        def go_on(method_id):
            over = resumable(session, method_id)
            if over is None:
                raise QueueError("There is no stopped or interrupted run to go on with.")
            session.queue.resume(over.id)
            return lane(session, Look.at(session, method_id))

        def request(what, words):
            def act(method_id):
                now = running(session, method_id)
                requests.ask(session.settings, now.id, what)
                gr.Info(words.format(now.id))

            return act

        def refresh(method_id, run_id, seen):
            look = Look.at(session, method_id)
            status = look.run.status if look.run else None
            over = resumable(session, method_id)
            now = stamp(look)
            return (
                lane(session, look),
                gr.update(visible=status in ACTIVE),
                gr.update(visible=status == "running"),
                gr.update(visible=status == "running"),
                gr.update(visible=over is not None, value=f"Resume #{over.id}" if over else "Resume"),
                learning.live(look.told, *advised(look)),
                learning.machine(look.told),
                gr.skip() if now == seen else samples_of(session, look, name),
                now,
                *finished(session, method_id, run_id),
            )

        outputs = [
            self.card, self.stop, self.sample, self.save, self.resume, self.curves, self.machine,
            samples, drawn, run, none_yet,
        ]  # fmt: skip
        gr.on(list(triggers), shown(refresh), [which, run, drawn], outputs, queue=False, **QUICK)
        acting = {"concurrency_limit": None, **QUICK}
        self.stop.click(shown(halt), which, self.card, **acting)
        self.resume.click(shown(go_on), which, self.card, **acting)
        self.sample.click(
            shown(request("sample", "Run #{} draws its samples before the next step.")), which, None, **acting
        )
        self.save.click(
            shown(request("save", "Run #{} writes a checkpoint before the next step.")), which, None, **acting
        )


def lane(session: Session, look: Look) -> str:
    """The run's card, and which run the curves and pictures are of where that is another one."""
    if look.run is None:
        return empty("No training yet", "Press “Start training”: curves and pictures appear here as it goes.")
    return look.lane(session)


def running(session: Session, method_id: str) -> Run:
    """The run of a method that runs now.

    Raises:
        QueueError: there is none.
    """
    found = session.runs(method=method_id, status="running", limit=1)
    if not found:
        raise QueueError(f"No {session.title(method_id)} run is running now.")
    return found[0]


def advised(look: Look) -> tuple[int | None, str]:
    """The step to keep of the shown run, and why it, and what measured that; in words."""
    if look.curves is None:
        return None, ""
    found, by = looks.advice(look.curves, look.events), looks.judge(look.curves)
    step = looks.kept_step(look.curves, look.events)
    parts = [found.reason] if found and found.step == step else []
    parts += [f"Fidelity, drift and diversity are measured by {by}."] if by else []
    return step, " ".join(parts)


def stamp(look: Look) -> str:
    """Changes when the strip has to be drawn anew."""
    last = next((event.id for event in reversed(look.events) if event.kind == "sample"), 0)
    return f"{look.curves.id}|{last}|{looks.kept_step(look.curves, look.events)}" if look.curves else "none"


def samples_of(session: Session, look: Look, name: str) -> str:
    """The samples of the shown run over its steps."""
    drawn = looks.strip_of(session, look.curves, look.events, name) if look.curves else ""
    return drawn or empty(
        "No samples yet", "The first ones are drawn before the first step, by the base model."
    )


def finished(session: Session, method_id: str, chosen: int | None) -> tuple[dict[str, Any], str]:
    """The choices of finished runs, newest first, and what stands in their place without any."""
    options = [(run_words(session, run), run.id) for run in session.runs(method=method_id, status="done")]
    ids = [id for _, id in options]
    words = "" if ids else f'<div class="pg-none-yet">{empty("None yet", AFTERWARDS)}</div>'
    return gr.update(choices=options, value=chosen if chosen in ids else (ids[0] if ids else None)), words


def run_words(session: Session, run: Run) -> str:
    """A finished run in a list: "#12 · Mascot · fidelity 0.84"."""
    fidelity = run.metrics.get("subject_fidelity")
    parts = [
        f"#{run.id}",
        session.task_title(run.task),
        run_card.variant("", run.params),
        "" if fidelity is None else f"fidelity {fidelity:.2f}",
    ]
    return " · ".join(part for part in parts if part)
