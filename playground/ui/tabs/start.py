"""Start: race the methods, see the map, get advice."""

import gradio as gr

from playground.errors import InvalidInput
from playground.methods.registry import RACE, methods
from playground.results.comparison import text
from playground.results.runs import ACTIVE
from playground.ui.components import advice, reference, run_card, technique_map
from playground.ui.components.echo import changed
from playground.ui.components.markup import bar, empty, heading, notice, safe
from playground.ui.messages import sentence, shown
from playground.ui.session import OWN_TABS, Session
from playground.ui.tabs import own_task

ALL_ITEMS = "All"
MOST_DIGITS = 100  # of the test items' number; Python refuses to read one of thousands
WHAT_TO_DO = (
    "Check this machine's network, its package index (pip's settings) and its disk, then try again. Runs try it "
    "again by themselves; the other tabs can be used meanwhile."
)
CLICKS = """
element.addEventListener('click', event => {
  if (event.target.closest('[data-action=again]')) trigger('click', {});
});"""


def build(session: Session, pulse: gr.Textbox, group: gr.Textbox, known: gr.Textbox, tabs: gr.Tabs) -> None:
    """Draw the tab. ``group`` is the race that this visitor looks at; ``known`` the tasks' ids."""
    gr.HTML(
        '<section class="pg-hero"><h1>Every way to adapt a model.<br>One honest table.</h1>'
        "<p>Take one model and one task. Prompt it, give it examples, let it look things up, train it. Each try answers"
        " the same held-out questions and is measured the same way, while you watch.</p></section>"
    )
    # Filled when a visitor comes: what is true while the page is built would be shown to all who come later.
    starter = gr.HTML(js_on_load=CLICKS, elem_id="starter")
    with gr.Row(elem_classes="pg-split"):
        with gr.Column(scale=2, min_width=300, elem_classes="pg-panel"):
            gr.HTML(heading("Race the methods", "Same model, same task, same test items."))
            task = gr.Dropdown(session.task_choices(), value=session.default_task(), label="Task")
            about = gr.HTML(describe(session, session.default_task()))
            model = gr.Dropdown(
                session.model_choices(),
                value=session.model_choices()[0][1],
                label="Model",
                info="Or type a model's name on the Hugging Face Hub: owner/name.",
                allow_custom_value=True,
            )
            chosen, more = _methods()
            limit = items_field()
            problem = gr.HTML()
            begin = gr.Button("Start the race", variant="primary", size="lg", elem_id="race")
        with gr.Column(scale=3, min_width=300, elem_classes="pg-panel"):
            gr.HTML(heading("Live", "Each method loads the model, adapts it, and answers the test items."))
            live = gr.HTML(elem_id="live-race")
            with gr.Row(elem_classes="pg-buttons"):
                compare = gr.Button("Open the comparison", size="md", elem_id="to-compare")
                stop = gr.Button("Stop the race", size="md", elem_id="stop-race", visible=False)
    with gr.Column(elem_classes="pg-panel"):
        gr.HTML(heading("Where each technique acts") + technique_map.picture() + technique_map.cards())
    with gr.Column(elem_classes="pg-panel"):
        gr.HTML(heading("Which method for my case?"))
        with gr.Row(elem_classes="pg-form"):
            answers = [
                gr.Radio(advice.NEED, value=advice.NEED[1], label="What is wrong with the plain model?"),
                gr.Radio(advice.CHANGE, value=advice.CHANGE[1], label="How often does the knowledge change?"),
                gr.Radio(
                    advice.EXAMPLES, value=advice.EXAMPLES[2], label="How many solved examples are there?"
                ),
                gr.Radio(advice.MACHINE, value=advice.MACHINE[0], label="What does it run on?"),
            ]
        told = gr.HTML(advice.show(*(answer.value for answer in answers)))
    with gr.Column(elem_classes="pg-panel"):
        own_task.build(session, known)
    for answer in answers:
        answer.change(
            advice.show, answers, told, api_visibility="private", show_progress="hidden", queue=False
        )

    def start(task_id, model_id, method_ids, more_ids, items):
        try:
            runs = session.queue.race(
                task_id, (model_id or "").strip(), [*method_ids, *more_ids], limit=limit_of(items)
            )
        except Exception as error:
            return notice(sentence(error), "bad"), gr.skip(), gr.skip(), gr.skip()
        return "", runs[0].group, race(session, runs[0].group), gr.update(visible=True)

    def halt(shown_group):
        active = session.runs(group=shown_group, status=ACTIVE) if shown_group else []
        if not session.queue.cancel_all(active):
            gr.Info("No run of this race is waiting or running.")
        return race(session, shown_group), gr.update(visible=False)

    def follow(shown_group):
        going = bool(shown_group and session.runs(group=shown_group, status=ACTIVE))
        return race(session, shown_group), gr.update(visible=going), starter_status(session)

    def again():
        session.starter.start()
        return starter_status(session)

    starter.click(again, None, starter, api_visibility="private", show_progress="hidden", queue=False)
    begin.click(
        start, [task, model, chosen, more, limit], [problem, group, live, stop],
        api_visibility="private", concurrency_limit=None, show_progress="minimal",
    )  # fmt: skip
    stop.click(
        shown(halt),
        group,
        [live, stop],
        api_visibility="private",
        concurrency_limit=None,
        show_progress="hidden",
    )
    task.change(
        lambda id: describe(session, id), task, about,
        api_visibility="private", show_progress="hidden", queue=False,
    )  # fmt: skip
    gr.on(
        [pulse.change, changed(group)],
        follow,
        group,
        [live, stop, starter],
        api_visibility="private",
        show_progress="hidden",
        queue=False,
    )
    compare.click(
        lambda: gr.Tabs(selected="compare"), None, tabs,
        api_visibility="private", show_progress="hidden", queue=False,
    )  # fmt: skip
    changed(known)(
        lambda: gr.update(choices=session.task_choices()), None, task,
        api_visibility="private", show_progress="hidden", queue=False,
    )  # fmt: skip


def _methods() -> tuple[gr.CheckboxGroup, gr.Dropdown]:
    """The methods that can race: those with a tab of their own as boxes, the many others in a list."""
    known = [method for method in methods().values() if method.modality == "text"]
    own = [method for method in known if method.family == "non-parametric" or method.id in OWN_TABS]
    others = [method for method in known if method not in own]
    chosen = gr.CheckboxGroup(
        [(method.title, method.id) for method in own],
        value=[method.id for method in own if method.id in RACE],
        label="Methods",
        elem_id="race-methods",
    )
    more = gr.Dropdown(
        [(method.title, method.id) for method in others],
        value=[],
        multiselect=True,
        label="More methods",
        visible=bool(others),
        elem_id="race-more",
    )
    return chosen, more


def task_and_model(session: Session) -> tuple[gr.Dropdown, gr.Dropdown]:
    """The fields for what is adapted to, and what is adapted."""
    common = {"min_width": 200, "interactive": True}
    task = gr.Dropdown(session.task_choices(), value=session.default_task(), label="Task", **common)
    models = session.model_choices()
    model = gr.Dropdown(models, value=models[0][1], label="Model", allow_custom_value=True, **common)
    return task, model


def first_question(session: Session, task_id: str | None) -> str:
    """A question to begin with, from a task's dev split; empty without a task."""
    from playground.data import tasks

    return tasks.task(task_id, session.settings).dev[0].input if task_id else ""


def items_field() -> gr.Textbox:
    """The field for how many test items a run answers. No list: typing 5 there and Enter would choose 50."""
    return gr.Textbox(
        ALL_ITEMS,
        max_lines=1,
        label="Test items",
        info="“All”, or how many. Fewer are faster and less certain, and the table says so.",
    )


def limit_of(items: str | None) -> int | None:
    """The number of test items from its field; "All" or blank = None.

    Raises:
        InvalidInput: it is not a whole number of at least 1.
    """
    words = str(items or ALL_ITEMS).strip()
    if words.lower() == ALL_ITEMS.lower():
        return None
    if not words.isdecimal() or len(words) > MOST_DIGITS or int(words) < 1:
        said = words if len(words) <= MOST_DIGITS else f"{words[:MOST_DIGITS]}…"
        raise InvalidInput(
            f"Test items must be a whole number of at least 1, or “All”, not “{said}”.", "limit"
        )
    return int(words)


def describe(session: Session, task_id: str | None) -> str:
    """What a task is about, in two lines."""
    from playground.data import tasks

    task = tasks.tasks(session.settings).get(task_id or "")
    if task is None:
        return ""
    parts = [f"{task.train} train", f"{task.dev} dev", f"{task.test} test"]
    if task.documents:
        parts.append(f"{task.documents} documents")
    return f'<p class="pg-about">{safe(task.summary)} <span>{safe(" · ".join(parts))}</span></p>'


def race(session: Session, group: str | None) -> str:
    """The lanes of a race, in the order in which its runs were filed."""
    runs = sorted(session.runs(group=group), key=lambda run: run.id) if group else []
    if not runs:
        return (
            empty(
                "No race yet",
                "Choose a task and press “Start the race”. It goes on when you close this page.",
            )
            + reference.race()
        )
    first = runs[0]
    items = run_card.items(session, first)
    head = f"{session.task_title(first.task)} · {session.model_title(first.model)} · {items}"
    lanes = "".join(run_card.lane(session, run) for run in runs)
    return f'<p class="pg-muted pg-race-head">{safe(head)}</p><div class="pg-lanes">{lanes}</div>'


def starter_status(session: Session) -> str:
    """How far the starter model's fetching is; empty when it is there."""
    state = session.starter.state
    if state.error:
        return (
            f'<div class="pg-notice pg-bad pg-fetch" role="status"><div>{safe(state.error)}</div>'
            f"<div>{safe(WHAT_TO_DO)}</div>"
            '<div class="pg-actions"><button type="button" data-action="again">Try again</button></div></div>'
        )
    if state.ready or not state.phase:
        return ""
    share = state.done / state.total if state.total else None
    amount = f"{text(state.done, 'B')} of {text(state.total, 'B')}" if state.total else ""
    return (
        '<div class="pg-notice pg-info pg-fetch" role="status"><div><b>Getting the starter model ready</b> '
        f"<span>{safe(state.phase)} {safe(amount)}</span></div>{bar(share, label='Starter model')}</div>"
    )
