"""One run's test answers beside the base model's: what was gained, what was lost, filtered and paged."""

import gradio as gr

from playground.data import tasks
from playground.errors import InvalidInput, RunNotFound
from playground.results import comparison
from playground.results import items as answers
from playground.results.runs import ACTIVE, Run
from playground.ui.components import items as drawn
from playground.ui.components.echo import changed
from playground.ui.components.markup import empty, heading, notice
from playground.ui.messages import sentence, shown
from playground.ui.session import Session

ALL = ""
PAGE = 10


def build(session: Session, run: gr.Number, pulse: gr.Textbox) -> None:
    """Draw the panel for the run whose id is in ``run``; it follows that run while it answers."""
    gr.HTML(heading("What changed", "The same test items, asked of the base model and of this one.", 3))
    told = gr.HTML(elem_id="items-summary")
    ask = gr.Button("Ask the base model the same items", size="md", visible=False, elem_id="items-before")
    with gr.Row(elem_classes="pg-filters"):
        kind = gr.Dropdown([("All", ALL)], value=ALL, label="Kind", min_width=160, elem_id="items-kind")
        group = gr.Dropdown([("All", ALL)], value=ALL, label="Part", min_width=160, visible=False)
        label = gr.Dropdown([("All", ALL)], value=ALL, label="Label", min_width=160, visible=False)
    page = gr.Number(0, visible="hidden")
    drawn_of = gr.State(None)  # which run and which baseline are drawn, as they were then
    listed = gr.HTML(elem_id="items-page")
    with gr.Row(elem_classes="pg-buttons"):
        back = gr.Button("Back", size="sm", elem_id="items-back")
        on = gr.Button("Next", size="sm", elem_id="items-next")
    picture = gr.HTML(elem_id="items-confusion")
    outputs = [told, ask, kind, group, label, page, listed, back, on, picture]

    def view(run_id, chosen_kind, chosen_group, chosen_label, at):
        return show(session, run_id, chosen_kind, chosen_group, chosen_label, int(at or 0))

    def turn(by):
        def turned(run_id, chosen_kind, chosen_group, chosen_label, at):
            return view(run_id, chosen_kind, chosen_group, chosen_label, int(at or 0) + by)

        return turned

    def follow(run_id, drawn_last, *chosen):
        now = state_of(session, run_id)
        settled = now == drawn_last and now is not None and not now[-1]
        return (now, *([gr.skip()] * len(outputs) if settled else view(run_id, *chosen)))

    def first(run_id, chosen_kind, chosen_group, chosen_label):
        return view(run_id, chosen_kind, chosen_group, chosen_label, 0)

    def anew(run_id):
        return view(run_id, ALL, ALL, ALL, 0)

    def before(run_id):
        try:
            filed = file_baseline(session, run_id)
        except Exception as error:
            return notice(sentence(error), "bad")
        return notice(f"Run #{filed.id} is in the queue.", "good")

    filters = [kind, group, label]
    quick = {"api_visibility": "private", "show_progress": "hidden", "queue": False}
    changed(run)(shown(anew), run, outputs, **quick)
    changed(pulse)(shown(follow), [run, drawn_of, *filters, page], [drawn_of, *outputs], **quick)
    gr.on([one.input for one in filters], shown(first), [run, *filters], outputs, **quick)
    back.click(shown(turn(-1)), [run, *filters, page], outputs, **quick)
    on.click(shown(turn(1)), [run, *filters, page], outputs, **quick)
    ask.click(before, run, told, **quick)


def paired(session: Session, run: Run) -> tuple[list[answers.Item], Run | None]:
    """A run's items, and the zero-shot run that they are held against (None = there is none)."""
    base = comparison.baseline(run, session.runs(task=run.task, method=comparison.REFERENCE))
    before = answers.tests(session.store.events(base.id, kinds={"sample"})) if base else ()
    return answers.pair(answers.tests(session.store.events(run.id, kinds={"sample"})), before), base


def state_of(session: Session, run_id: float | None) -> tuple | None:
    """What the panel of a run hangs on: the run, its baseline, and whether answers may still come."""
    run = _run(session, run_id)
    if run is None:
        return None
    known = session.runs(task=run.task, method=comparison.REFERENCE)
    base = comparison.baseline(run, known)
    return run.id, run.status, base.id if base else None, run.status in ACTIVE


def _run(session: Session, run_id: float | None) -> Run | None:
    """The run that is open, if there is one and nobody has deleted it."""
    if run_id is None:
        return None
    try:
        return session.store.get(int(run_id))
    except RunNotFound:
        return None


def file_baseline(session: Session, run_id: float | None) -> Run:
    """File the zero-shot run on the same task, model and items.

    Raises:
        InvalidInput: no run is open.
        PlaygroundError: it cannot be filed; see ``Queue.submit``.
    """
    if run_id is None:
        raise InvalidInput("Open a run first.")
    run = session.store.get(int(run_id))
    return session.queue.submit(comparison.REFERENCE, {}, run.task, run.model, seed=run.seed, limit=run.limit)


def show(session: Session, run_id: float | None, kind: str, group: str, label: str, at: int) -> tuple:
    """What the panel's parts show, in the order of ``outputs``."""
    run = _run(session, run_id)
    if run is None:
        return _nothing(empty("No run open", "Finished runs can be looked at item by item."))
    found, base = paired(session, run)
    if not found:
        wait = (
            "They appear as the run gives them." if run.status in ACTIVE else "The run ended before its test."
        )
        return _nothing(empty("No answers", wait))
    kinds, groups, labels = _choices(session, run, found, base is not None)
    kind, group, label = (
        value if value in known else ALL
        for value, known in ((kind, kinds.values()), (group, groups), (label, labels))
    )
    left = answers.select(found, kind or None, group or None, label or None)
    last = max(0, (len(left) - 1) // PAGE)
    at = min(max(at, 0), last)
    part = left[at * PAGE : (at + 1) * PAGE]
    names = (
        f"{session.title(base.method)}, #{base.id}" if base else "",
        f"{session.title(run.method)}, #{run.id}",
    )
    place = (
        f'<p class="pg-muted">{at * PAGE + 1} to {at * PAGE + len(part)} of {len(left)}</p>' if left else ""
    )
    missing = base is None and run.method != comparison.REFERENCE
    words = (
        notice("There is no zero-shot run on the same items yet, so there is no before.") if missing else ""
    )
    return (
        words + drawn.summary(answers.counts(found), base is not None),
        gr.update(visible=missing),
        gr.update(choices=[("All", ALL), *kinds.items()], value=kind),
        gr.update(choices=[("All", ALL), *groups], value=group, visible=bool(groups)),
        gr.update(choices=[("All", ALL), *labels], value=label, visible=bool(labels)),
        at,
        place + drawn.page(part, *names),
        gr.update(interactive=at > 0),
        gr.update(interactive=at < last),
        _confusion(found, names) if labels else "",
    )


def _nothing(words: str) -> tuple:
    hidden = gr.update(choices=[("All", ALL)], value=ALL, visible=False)
    still = gr.update(interactive=False)
    return words, gr.update(visible=False), gr.update(choices=[("All", ALL)], value=ALL), hidden, hidden, 0, "", still, still, ""  # fmt: skip


def _choices(session: Session, run: Run, found: list[answers.Item], compared: bool) -> tuple:
    """Kinds as {words: id}, groups, and labels where the task has them."""
    names = answers.CHANGES if compared else answers.NOW
    numbers = answers.counts(found)
    kinds = {f"{words} ({numbers[id]})": id for id, words in names.items()}
    known = tasks.tasks(session.settings).get(run.task)
    labels = answers.labels(found) if known is not None and known.answer == "label" else []
    return kinds, answers.groups(found), labels


def _confusion(found: list[answers.Item], names: tuple[str, str]) -> str:
    pictures = []
    for name, before in zip(names, (True, False), strict=True):
        counted = answers.confusion(found, before)
        if counted is not None:
            pictures.append(drawn.confusion(counted, name))
    if not pictures:
        return ""
    return f'<details class="pg-confusions"><summary>Which label was taken for which</summary>{"".join(pictures)}</details>'
