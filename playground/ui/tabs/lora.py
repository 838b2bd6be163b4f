"""LoRA: form, estimate, training live, answers before and after, the adapter on and off."""

import gradio as gr

from playground.data import tasks
from playground.errors import InvalidInput, QueueError
from playground.methods.registry import method
from playground.results.runs import ACTIVE, Run
from playground.ui import form
from playground.ui.answers import checked, side_by_side
from playground.ui.components import charts, explain, run_card
from playground.ui.components.markup import empty, facts, heading, notice, safe
from playground.ui.messages import sentence, shown
from playground.ui.panels import before as panel
from playground.ui.session import INFERENCE, Session
from playground.ui.tabs.start import items_field, limit_of, task_and_model


def build(session: Session, pulse: gr.Textbox, known: gr.Textbox) -> None:
    """Draw the tab."""
    technique = method("lora")
    gr.HTML(heading("LoRA", technique.summary))
    with gr.Row(elem_classes="pg-split"):
        with gr.Column(scale=3, min_width=300, elem_classes="pg-panel"):
            with gr.Row(elem_classes="pg-form"):
                task, model = task_and_model(session)
            fields = form.build(technique)
            with gr.Row(elem_classes="pg-form"):
                limit = items_field()
                seed = gr.Number(0, label="Seed", info="The same seed gives the same run.", step=1)
            problem = gr.HTML()
            with gr.Row(elem_classes="pg-buttons"):
                begin = gr.Button("Start training", variant="primary", size="lg", elem_id="lora-start")
                stop = gr.Button("Stop", size="lg", elem_id="lora-stop")
            before = gr.Column()
        with gr.Column(scale=4, min_width=300, elem_classes="pg-panel"):
            gr.HTML(heading("Training", "The newest LoRA run, live.", 3))
            live = gr.HTML(elem_id="lora-live")
            curves = gr.HTML(elem_id="lora-curves")
            samples = gr.HTML(elem_id="lora-samples")
    with gr.Row(elem_classes="pg-split"):
        with gr.Column(min_width=300, elem_classes="pg-panel"):
            gr.HTML(
                heading(
                    "The adapter on and off", "The same question to one model, with its adapter switched.", 3
                )
            )
            trained = gr.Dropdown([], label="Adapter", info="Of a finished run.", elem_id="adapter")
            question = gr.Textbox(label="Question", lines=3, max_lines=12)
            with gr.Row(elem_classes="pg-buttons"):
                ask = gr.Button("Ask both", variant="primary", size="md", elem_id="lora-ask")
            status = gr.HTML()
            with gr.Row():
                off = gr.Textbox(label="Adapter off", lines=3, interactive=False, min_width=200)
                on = gr.Textbox(label="Adapter on", lines=3, interactive=False, min_width=200)
        with gr.Column(min_width=300, elem_classes="pg-panel"):
            gr.HTML(heading("What LoRA does", "W = W₀ + λ · A · B", 3))
            with gr.Row(elem_classes="pg-form"):
                d = gr.Slider(64, 8192, value=576, step=64, label="d (rows)", min_width=160, buttons=[])
                n = gr.Slider(64, 8192, value=576, step=64, label="n (columns)", min_width=160, buttons=[])
                k = gr.Slider(1, 256, value=8, step=1, label="k (rank)", min_width=160, buttons=[])
            picture = gr.HTML(explain.low_rank(576, 576, 8))

    inputs = {**fields.fields, "task": task, "model": model, "limit": limit, "seed": seed}
    with before:
        panel.build(session, "lora", inputs)

    def start(**values):
        try:
            run = session.queue.submit(
                "lora", fields.params(values), values["task"], (values["model"] or "").strip(),
                seed=values["seed"], limit=limit_of(values["limit"]),
            )  # fmt: skip
        except Exception as error:
            return notice(sentence(error), "bad"), gr.skip()
        return notice(f"Run #{run.id} is in the queue.", "good"), lane(session)

    def halt():
        runs = session.runs(method="lora", status=ACTIVE)
        if not runs:
            raise QueueError("No LoRA run is waiting or running; there is nothing to stop.")
        session.queue.cancel(runs[-1].id)
        return notice(f"Run #{runs[-1].id} was stopped.", "warn"), lane(session)

    def refresh(chosen):
        finished = session.runs(method="lora", status="done")
        options = [
            (f"#{run.id} · {session.task_title(run.task)} · rank {run.params.get('rank')}", run.id)
            for run in finished
        ]
        ids = [id for _, id in options]
        return (
            lane(session),
            curves_of(session),
            samples_of(session),
            gr.update(choices=options, value=chosen if chosen in ids else (ids[0] if ids else None)),
        )

    def example(run_id):
        if run_id is None:
            return gr.skip()
        chosen = tasks.task(session.store.get(int(run_id)).task, session.settings)
        return chosen.dev[0].input if chosen.dev else ""

    def answer(run_id, words):
        from playground.evaluation.text import max_new_tokens

        if run_id is None:
            raise InvalidInput("There is no adapter yet. Train one first.")
        words = checked(words, session.settings)
        run = session.store.get(int(run_id))
        chosen = tasks.task(run.task, session.settings)
        yield notice(f"Loading {session.model_title(run.model)} and its adapter …"), "", ""
        with session.arbiter.adapted(run.id) as adapted:
            loaded = adapted.model
            ids = loaded.encode(adapted.prompts([words])[0].messages)
            yield facts([("Prompt", f"{len(ids):,} tokens, the same for both")]), "", ""
            try:
                most = max_new_tokens(chosen, loaded)
                for texts in side_by_side(
                    loaded, [ids, ids], most, lambda number: technique.switch(loaded.model, number == 1)
                ):
                    yield gr.skip(), texts[0], texts[1]
            finally:
                technique.switch(loaded.model, True)

    quick = {"api_visibility": "private", "show_progress": "hidden"}
    told, verdict = fields.guard(begin, inputs, problem, session.settings)
    told.then(
        start,
        inputs_kwargs=inputs,
        outputs=[problem, live],
        validator=verdict,
        concurrency_limit=None,
        **quick,
    )
    stop.click(shown(halt), None, [problem, live], concurrency_limit=None, **quick)
    ask.click(
        shown(answer), [trained, question], [status, off, on],
        concurrency_id=INFERENCE, concurrency_limit=1, **quick,
    )  # fmt: skip
    trained.change(shown(example), trained, question, queue=False, **quick)
    pulse.change(shown(refresh), trained, [live, curves, samples, trained], queue=False, **quick)
    gr.on([d.change, n.change, k.change], explain.low_rank, [d, n, k], picture, queue=False, **quick)
    known.change(lambda: gr.update(choices=session.task_choices()), None, task, queue=False, **quick)


def newest(session: Session) -> Run | None:
    """The LoRA run to look at: the one that runs, else the next that waits, else the newest."""
    active = session.runs(method="lora", status=ACTIVE)
    running = [run for run in active if run.status == "running"]
    return next(iter(running or active[::-1] or session.runs(method="lora", limit=1)), None)


def with_curves(session: Session) -> Run | None:
    """The LoRA run whose curves are shown: the newest one that trains or has trained; a waiting one has none."""
    run = newest(session)
    if run is None or _has_curves(session, run) or run.status == "running":
        return run
    return next((past for past in session.runs(method="lora", limit=20) if _has_curves(session, past)), None)


def _has_curves(session: Session, run: Run) -> bool:
    return any(
        event.data["name"] in ("train_loss", "dev_loss") and event.data.get("step") is not None
        for event in session.store.events(run.id, kinds={"metric"}, limit=50)
    )


def lane(session: Session) -> str:
    """The run's card, and which run the curves below it are of where that is another one."""
    run = newest(session)
    if run is None:
        return empty("No training yet", "Press “Start training”: curves and answers appear here as it goes.")
    below = with_curves(session)
    other = ""
    if below is not None and below.id != run.id:
        other = f'<p class="pg-muted">Run #{run.id} has no curves; below are those of the newest run that has:</p>'
        other += run_card.card(session, below, actions=False)
    return run_card.card(session, run, actions=False) + other


def curves_of(session: Session) -> str:
    """Train and dev loss over steps."""
    run = with_curves(session)
    if run is None:
        return ""
    points: dict[str, list[tuple[float, float]]] = {"train_loss": [], "dev_loss": []}
    for event in session.store.events(run.id, kinds={"metric"}):
        name, step, value = event.data["name"], event.data.get("step"), event.data["value"]
        if name in points and step is not None and value is not None:
            points[name].append((step, value))
    lines = [
        charts.Line("Train loss", points["train_loss"], "one"),
        charts.Line("Dev loss", points["dev_loss"], "two"),
    ]
    return charts.lines(lines, "Step", "Loss")


def samples_of(session: Session) -> str:
    """Answers to the same dev items before, during and after training."""
    run = with_curves(session)
    if run is None:
        return ""
    items: dict[str, dict] = {}
    for event in session.store.events(run.id, kinds={"sample"}):
        data = event.data
        if data["stage"] == "test":
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
