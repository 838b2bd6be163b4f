"""Few-shot: examples in a table, the exact prompt, answers side by side, accuracy against k."""

import random

import gradio as gr

from playground.data import tasks
from playground.data.tasks import Item, Task
from playground.errors import InvalidInput
from playground.methods.registry import method
from playground.results import comparison
from playground.results.runs import ACTIVE
from playground.ui import form
from playground.ui.answers import checked, side_by_side
from playground.ui.components import charts, run_card
from playground.ui.components.echo import changed
from playground.ui.components.markup import empty, facts, heading, notice, safe
from playground.ui.messages import placed
from playground.ui.session import INFERENCE, Session
from playground.ui.tabs.start import first_question, items_field, limit_of, task_and_model

TONES = {"first": "three", "random": "one", "nearest": "two"}


def build(session: Session, pulse: gr.Textbox, known: gr.Textbox) -> None:
    """Draw the tab. ``known`` changes when there are other tasks than before."""
    technique = method("few_shot")
    gr.HTML(heading("Few-shot", technique.summary))
    with gr.Row(elem_classes="pg-split"):
        with gr.Column(scale=3, min_width=300, elem_classes="pg-panel"):
            with gr.Row(elem_classes="pg-form"):
                task, model = task_and_model(session)
            fields = form.build(technique)
            with gr.Row(elem_classes="pg-buttons"):
                load = gr.Button("Load these examples", size="md", elem_id="load-examples")
                clear = gr.Button("Empty the table", size="md")
            examples = gr.Dataframe(
                value=first_rows(session, fields),
                headers=["Input", "Answer"], datatype="str", type="array", interactive=True, wrap=True,
                column_count=2, max_height=420, label="Examples in the prompt",
                column_widths=["72%", "28%"], buttons=[], elem_id="examples",
            )  # fmt: skip
        with gr.Column(scale=2, min_width=300, elem_classes="pg-panel"):
            gr.HTML(heading("Ask", "The same question without and with the examples.", 3))
            question = gr.Textbox(
                first_question(session, session.default_task()),
                label="Question",
                lines=4,
                max_lines=12,
                elem_id="few-shot-question",
            )
            with gr.Row(elem_classes="pg-buttons"):
                ask = gr.Button("Ask both", variant="primary", size="md", elem_id="few-shot-ask")
                preview = gr.Button("Show the exact prompt", size="md", elem_id="show-prompt")
                other = gr.Button("Another question", size="md")
            status = gr.HTML()
            plain = gr.Textbox(label="Zero-shot", lines=3, interactive=False, elem_id="zero-answer")
            shot = gr.Textbox(label="Few-shot", lines=3, interactive=False, elem_id="few-answer")
            prompt = gr.HTML(elem_id="prompt-view")
    with gr.Row(elem_classes="pg-split"):
        with gr.Column(min_width=300, elem_classes="pg-panel"):
            gr.HTML(
                heading(
                    "Measure this setting",
                    "Answers the task's test items with k examples from its train split, as set above.",
                    3,
                )
            )
            limit = items_field()
            problem = gr.HTML()
            with gr.Row(elem_classes="pg-buttons"):
                measure = gr.Button("Measure", variant="primary", size="md", elem_id="few-shot-measure")
            live = gr.HTML()
        with gr.Column(min_width=300, elem_classes="pg-panel"):
            gr.HTML(heading("Quality against k", "From the runs on this task and model.", 3))
            plot = gr.HTML()

    choosing = {"task": task, **fields.fields}

    def fill(**values):
        return table(session, fields, values), ""

    def draw(task_id):
        chosen = tasks.task(task_id, session.settings)
        return random.choice(chosen.dev or chosen.train).input, gr.skip()

    def look(task_id, model_id, rows, text):
        chosen = tasks.task(task_id, session.settings)
        text = checked(text, session.settings)
        model_id = session.model_id(model_id)
        with session.arbiter.model(model_id) as loaded:
            both = prompts(chosen, rows, text)
            sizes = [len(loaded.encode(messages)) for messages in both]
            exact = loaded.text(both[1])
            room = loaded.context_length
        return prompt_view(exact, sizes, room)

    def answer(task_id, model_id, rows, text):
        from playground.evaluation.text import max_new_tokens

        chosen = tasks.task(task_id, session.settings)
        text = checked(text, session.settings)
        model_id, both = session.model_id(model_id), prompts(chosen, rows, text)
        yield notice(f"Loading {session.model_title(model_id)} …"), "", ""
        with session.arbiter.model(model_id) as loaded:
            ids = [loaded.encode(messages) for messages in both]
            told = facts(
                (
                    ("Zero-shot prompt", f"{len(ids[0]):,} tokens"),
                    ("Few-shot prompt", f"{len(ids[1]):,} tokens"),
                )
            )
            yield told, "", ""
            for texts in side_by_side(loaded, ids, max_new_tokens(chosen, loaded)):
                yield gr.skip(), texts[0], texts[1]

    def submit(**values):
        try:
            params = fields.params(values)
            run = session.queue.submit(
                "few_shot",
                params,
                values["task"],
                (values["model"] or "").strip(),
                limit=limit_of(values["limit"]),
                reference="first",
            )
        except Exception as error:
            return fields.refused(error), gr.skip()
        return notice(f"Run #{run.id} is in the queue.", "good"), live_runs(session)

    def refresh(task_id, model_id):
        return live_runs(session), accuracy(session, task_id, model_id)

    quick = {"api_visibility": "private", "show_progress": "hidden"}
    told, verdict = fields.guard(load, choosing, status, session.settings)
    told.then(
        placed(fill, 2, at=1), inputs_kwargs=choosing, outputs=[examples, status], validator=verdict,
        concurrency_id=INFERENCE, concurrency_limit=1, **quick,
    )  # fmt: skip
    clear.click(list, None, examples, queue=False, **quick)
    gr.on(
        [changed(task), other.click],
        placed(draw, 2, at=1),
        task,
        [question, status],
        queue=False,
        **quick,
    )
    changed(task)(
        placed(fill, 2, at=1),
        inputs_kwargs=choosing,
        outputs=[examples, status],
        concurrency_limit=None,
        **quick,
    )
    typed = [task, model, examples, question]
    preview.click(
        placed(look, 1), typed, prompt, api_visibility="private", show_progress="minimal",
        concurrency_id=INFERENCE, concurrency_limit=1,
    )  # fmt: skip
    ask.click(
        placed(answer, 3), typed, [status, plain, shot], api_visibility="private", show_progress="hidden",
        concurrency_id=INFERENCE, concurrency_limit=1,
    )  # fmt: skip
    measuring = {**choosing, "model": model, "limit": limit}
    measure.click(submit, inputs_kwargs=measuring, outputs=[problem, live], queue=False, **quick)
    gr.on(
        [pulse.change, changed(task), model.change],
        refresh,
        [task, model],
        [live, plot],
        queue=False,
        **quick,
    )
    changed(known)(lambda: gr.update(choices=session.task_choices()), None, task, queue=False, **quick)


def table(session: Session, fields: form.Form, values: dict) -> list[list[str]]:
    """The examples that the settings choose, as rows of the table.

    Raises:
        InvalidParams: k is larger than the pool, …
        InvalidInput: "nearest" has no fixed examples.
    """
    from playground.methods.few_shot import select

    chosen = tasks.task(values["task"], session.settings)
    params = fields.method.Params.parse({name: values[name] for name in fields.fields})
    fields.method.check(params, chosen)
    if params.selector == "nearest":
        gr.Info(
            "“nearest” picks other examples for each question; the table shows random ones. Measure shows its effect."
        )
        params = params.model_copy(update={"selector": "random", "order": "as selected"})
    return [[item.input, item.target] for item in select(chosen, params, seed=0)]


def first_rows(session: Session, fields: form.Form) -> list[list[str]]:
    """The table as a visitor finds it: what the default settings choose for the first task."""
    if session.default_task() is None:
        return []
    defaults = {spec.name: spec.default for spec in fields.method.Params.fields()}
    return table(session, fields, {"task": session.default_task(), **defaults})


def prompts(task: Task, rows: list[list[str]] | None, text: str) -> list[list[dict[str, str]]]:
    """The chat without and with the examples of the table; half-filled rows are refused.

    Raises:
        InvalidInput: a row has an input or an answer only.
    """
    examples = []
    for number, row in enumerate(rows or [], 1):
        source, target = ((str(cell) if cell is not None else "").strip() for cell in row[:2])
        if bool(source) != bool(target):
            raise InvalidInput(
                f"Row {number} of the examples has only one half. Fill in both cells, or delete it."
            )
        if source:
            examples.append(Item(f"row-{number}", source, target))
    return [task.messages(text), task.messages(text, examples)]


def prompt_view(exact: str, sizes: list[int], room: int) -> str:
    """The exact prompt with its tokens."""
    counts = facts(
        (
            ("Prompt with examples", f"{sizes[1]:,} tokens"),
            ("Without", f"{sizes[0]:,} tokens"),
            ("The model reads", f"{room:,} tokens"),
        )
    )
    warning = (
        notice("The prompt is longer than the model can read. Use fewer examples.", "bad")
        if sizes[1] >= room
        else ""
    )
    return f'{warning}{counts}<pre class="pg-prompt" tabindex="0">{safe(exact)}</pre>'


def live_runs(session: Session) -> str:
    """The few-shot runs that wait or run, and the newest finished one."""
    runs = session.runs(method="few_shot", limit=20)
    active = [run for run in runs if run.status in ACTIVE]
    lanes = "".join(run_card.lane(session, run) for run in (active or runs[:1]))
    return f'<div class="pg-lanes">{lanes}</div>'


def accuracy(session: Session, task: str, model: str) -> str:
    """Quality against k, one curve a selector; k = 0 is zero-shot.

    Only runs in the setting of the newest few-shot run with the most test items count.
    """
    runs = [run for run in session.runs(task=task) if run.model == model and run.status == "done"]
    runs = [
        run
        for run in runs
        if run.method in ("zero_shot", "few_shot") and run.metrics.get("quality") is not None
    ]
    few = [run for run in runs if run.method == "few_shot"]
    if not few:
        return empty("No points yet", "Measure a few values of k, and the curve appears here.")
    most = max(few, key=lambda run: run.metrics.get("n") or 0)
    same = [run for run in runs if comparison.setting(run) == comparison.setting(most)]
    zero = next(([(0, run.metrics["quality"])] for run in same if run.method == "zero_shot"), [])
    curves = []
    for selector, tone in TONES.items():
        newest = {
            run.params["k"]: run.metrics["quality"]
            for run in reversed(same)
            if run.params.get("selector") == selector
        }
        if newest:
            curves.append(charts.Line(selector, sorted({**dict(zero), **newest}.items()), tone))
    items = f"the same {most.limit} test items, drawn once for all" if most.limit else "all test items"
    return (
        charts.lines(curves, "Examples (k)", "Quality", per_cent=True)
        + f'<p class="pg-muted">On {safe(items)}.</p>'
    )
