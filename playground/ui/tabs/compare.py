"""Compare: one table of all measured runs, live."""

import gradio as gr
from gradio.processing_utils import save_bytes_to_cache

from playground.jobs import verdicts
from playground.results import comparison, items, report
from playground.results.metrics import BY_NAME
from playground.results.runs import Run
from playground.ui import looks, uploads
from playground.ui.components import charts, run_card, table
from playground.ui.components.echo import changed
from playground.ui.components.markup import empty, heading, notice, safe
from playground.ui.messages import shown
from playground.ui.session import Session

ALL = ""
COSTS = {
    "Seconds per query": "query_seconds_p50",
    "Adapt seconds": "adapt_seconds",
    "Prompt tokens": "prompt_tokens",
    "Stored bytes": "stored_bytes",
    "Peak memory": "adapt_peak_bytes",
    "Forgetting": "retention_divergence",
}
IMAGE_COSTS = {
    "Adapt seconds": "adapt_seconds",
    "Drift of the class": "class_drift",
    "Stored bytes": "stored_bytes",
    "Peak memory": "adapt_peak_bytes",
    "Seconds per picture": "seconds_per_image",
}
MODALITIES = {"Text": "text", "Images": "image"}
ABOUT_COST = {
    "text": ("Quality against cost", "Up and to the left is better."),
    "image": ("Fidelity against cost", "Up and to the left is better: like the subject, at little cost."),
}
ABOUT_PAIRS = {
    "text": ("Is it really better?", "Each method against zero-shot, on the same items."),
    "image": ("What it gained, what it lost", "Each method against the base model, same prompts and seeds."),
}
GAINS = {"subject_fidelity": "Fidelity", "prompt_fidelity": "prompt fidelity"}
DOWNLOADS = {"report": "Download the report", "csv": "CSV", "json": "JSON", "md": "Markdown table"}
MOST_SAMPLES = 60
CLICKS = """
element.addEventListener('click', event => {
  const hit = event.target.closest('[data-action]');
  if (hit && element.contains(hit)) trigger('click', {action: hit.dataset.action, run: Number(hit.dataset.run)});
});"""

EDGES = "\nwindow.playground.edges(element);"
FOLDS = "\nwindow.playground.folds(element);"


def build(session: Session, pulse: gr.Textbox, group: gr.Textbox, chosen: gr.Number) -> None:
    """Draw the tab. ``chosen`` is the run whose answers are shown."""
    gr.HTML(heading("Compare", "Fills while runs go on. Blank means not measured."))
    with gr.Row(elem_classes="pg-filters"):
        kind = gr.Radio(
            list(MODALITIES),
            value="Text",
            label="Methods for",
            visible=False,
            min_width=200,
            elem_id="compare-kind",
        )
        task = gr.Dropdown([("All tasks", ALL)], value=ALL, label="Task", min_width=160)
        model = gr.Dropdown([("All models", ALL)], value=ALL, label="Model", min_width=160)
        which = gr.Dropdown(
            [("Newest of each", "newest"), ("This race", "race"), ("Every run", "every")],
            value="newest", label="Runs", min_width=160,
        )  # fmt: skip
    main = gr.HTML(js_on_load=CLICKS + EDGES, elem_id="comparison")
    with gr.Accordion("What the columns mean", open=False, elem_id="columns"):
        gr.HTML(table.legend())
    detail = gr.HTML(js_on_load=CLICKS + EDGES + FOLDS, elem_id="answers")
    with gr.Row(elem_classes="pg-split"):
        with gr.Column(min_width=300, elem_classes="pg-panel"):
            about_cost = gr.HTML(heading(*ABOUT_COST["text"], 3))
            cost = gr.Dropdown(list(COSTS), value="Seconds per query", label="Cost", min_width=160)
            plot = gr.HTML()
        with gr.Column(min_width=300, elem_classes="pg-panel"):
            about_pairs = gr.HTML(heading(*ABOUT_PAIRS["text"], 3))
            verdicts = gr.HTML()
    with gr.Column(elem_classes="pg-panel"):
        gr.HTML(
            heading(
                "The guide, and what was measured here", "Words from the guide; figures from your runs.", 3
            )
        )
        guide = gr.HTML(js_on_load=EDGES)
    with gr.Row(elem_classes="pg-buttons"):
        files = [gr.Button(label, size="sm", elem_id=f"get-{id}") for id, label in DOWNLOADS.items()]
        made = [gr.DownloadButton(visible="hidden", elem_id=f"file-{id}") for id in DOWNLOADS]

    filters = [kind, task, model, which, group, cost, chosen]
    outputs = [
        main, plot, verdicts, guide, detail, kind, task, model, cost, about_cost, about_pairs
    ]  # fmt: skip

    def refresh(kind_label, task_id, model_id, runs_kind, shown_group, cost_label, run_id):
        kinds = modalities(session)
        modality = MODALITIES[kind_label] if len(kinds) > 1 else kinds[0]
        every = [run for run in session.runs() if session.modality(run.method) == modality]
        tasks_now, task_id = _choices(task_choices(session, modality, every), task_id)
        tasks_now["label"] = "Task" if modality == "text" else "Subject"
        models = [(session.model_title(id), id) for id in sorted({run.model for run in every})]
        models_now, model_id = _choices([("All models", ALL), *models], model_id)
        costs = COSTS if modality == "text" else IMAGE_COSTS
        costs_now, cost_label = _choices([(label, label) for label in costs], cost_label)
        runs = select(session, task_id, model_id, runs_kind, shown_group, modality)
        rows = comparison.rows(runs, session.described)
        places = {run.id: session.store.position(run.id) for run in runs if run.status == "queued"}
        by_id = {run.id: run for run in runs}
        if rows:
            grouped = _by_setting(session, rows, by_id, places, run_id)
        else:
            grouped = empty(
                "Nothing to compare yet", "Start a race on the Start tab, or run one method on its own tab."
            )
        return (
            grouped,
            scatter(session, _newest_setting(rows), cost_label),
            difference(session, runs) if modality == "text" else gains(session, runs),
            table.guide(rows, modality),
            answers(session, run_id),
            gr.update(visible=len(kinds) > 1, value=_label(modality)),
            tasks_now,
            models_now,
            costs_now,
            heading(*ABOUT_COST[modality], 3),
            heading(*ABOUT_PAIRS[modality], 3),
        )

    quick = {"api_visibility": "private", "show_progress": "hidden", "queue": False}
    gr.on(
        [
            pulse.change, kind.change, task.change, model.change, which.change, changed(group),
            cost.change, changed(chosen),
        ],
        shown(refresh), filters, outputs, **quick,
    )  # fmt: skip

    def follow(shown_group):
        return _label(group_modality(session, shown_group)) if shown_group else gr.skip()

    changed(group)(follow, group, kind, **quick)

    def pick(event: gr.EventData):
        return event.run if event.action == "open" else None

    main.click(pick, None, chosen, js="() => window.playground.toAnswers()", **quick)
    detail.click(pick, None, chosen, **quick)

    def export(kind):
        def write(kind_label, task_id, model_id, runs_kind, shown_group):
            kinds = modalities(session)
            modality = MODALITIES[kind_label] if len(kinds) > 1 else kinds[0]
            runs = select(session, task_id, model_id, runs_kind, shown_group, modality)
            file = "report.md" if kind == "report" else f"comparison.{kind}"
            return save_bytes_to_cache(written(session, runs, kind).encode(), file, str(uploads.folder()))

        return write

    for button, file, id in zip(files, made, DOWNLOADS, strict=True):
        button.click(
            shown(export(id)), filters[:5], file, api_visibility="private", show_progress="hidden"
        ).success(None, js=f"() => window.playground.download('file-{id}')", api_visibility="private")


def written(session: Session, runs: list[Run], kind: str) -> str:
    """The comparison of these runs as a file's text; ``kind`` is of ``DOWNLOADS``."""
    rows = comparison.rows(runs, session.described)
    if kind != "report":
        return comparison.WRITERS[kind](rows)
    titled = [
        row | {"task": session.task_title(row["task"]), "model": session.model_title(row["model"])}
        for row in rows
    ]
    return report.report(
        titled, {run.id: words for run, words in verdicts.verdicts(session.store, runs, session.title)}
    )


def modalities(session: Session) -> list[str]:
    """ "text" and "image", as far as there are runs of them; "text" where there are none at all."""
    there = {session.modality(run.method) for run in session.runs()}
    return [one for one in MODALITIES.values() if one in there] or ["text"]


def group_modality(session: Session, group: str) -> str:
    """What the methods of a race work on."""
    first = next(iter(session.runs(group=group, limit=1)), None)
    return session.modality(first.method) if first else "text"


def task_choices(session: Session, modality: str, runs: list[Run]) -> list[tuple[str, str]]:
    """What one can filter by: the tasks, or the subjects that there are runs on."""
    if modality == "text":
        return [("All tasks", ALL), *session.task_choices()]
    return [
        ("All subjects", ALL),
        *((session.task_title(id), id) for id in sorted({run.task for run in runs})),
    ]


def _choices(options: list[tuple[str, str]], value: str) -> tuple[dict, str]:
    """An update of a list, and its value: the first option where the old one is gone."""
    known = [id for _, id in options]
    value = value if value in known else known[0]
    return gr.update(choices=options, value=value), value


def _label(modality: str) -> str:
    return next(label for label, id in MODALITIES.items() if id == modality)


def select(
    session: Session, task: str, model: str, kind: str, group: str | None, modality: str | None = None
) -> list[Run]:
    """The runs that the filters leave."""
    where = {"task": task or None, "group": group if kind == "race" and group else None}
    runs = session.runs(**{name: value for name, value in where.items() if value})
    runs = [run for run in runs if not model or run.model == model]
    runs = [run for run in runs if modality in (None, session.modality(run.method))]
    return comparison.newest(runs) if kind == "newest" else sorted(runs, key=lambda run: run.id)


def _by_setting(session, rows, by_id, places, chosen) -> str:
    """A table for each group of rows that can be held against each other."""
    parts = []
    for words, own in comparison.groups(rows):
        metric = next((row["metric"] for row in own if row["metric"]), "").replace("_", " ")
        below = " · ".join(part for part in (session.model_title(own[0]["model"]), metric, words) if part)
        draw = table.drawn if session.modality(own[0]["method"]) == "image" else table.table
        parts.append(
            f'<section class="pg-setting"><h3>{safe(session.task_title(own[0]["task"]))} <small>{safe(below)}</small></h3>'
            f"{draw(own, by_id, places, chosen)}</section>"
        )
    return "".join(parts)


def _newest_setting(rows: list[comparison.Row]) -> list[comparison.Row]:
    """The rows that the newest result can be held against: others do not belong on the same scale."""
    groups = comparison.groups(row for row in rows if comparison.result(row) is not None)
    return groups[0][1] if groups else []


def scatter(session: Session, rows: list[comparison.Row], cost_label: str) -> str:
    """Quality, or fidelity of pictures, against one cost, one dot a finished run."""
    pictures = bool(rows) and rows[0]["subject_fidelity"] is not None
    name = (IMAGE_COSTS if pictures else COSTS)[cost_label]
    measured = [row for row in rows if comparison.result(row) is not None and row[name] is not None]
    scale = 1e6 if BY_NAME[name].unit == "B" else 1
    points = [
        charts.Point(
            run_card.variant(row["title"], row["params"]),
            row[name] / scale,
            comparison.result(row),
            row["quality_low"],
            row["quality_high"],
            row["family"] or "",
        )
        for row in measured
    ]
    logarithmic = name != "class_drift"
    unit = "MB" if scale > 1 else BY_NAME[name].unit
    words = ", ".join(part for part in (unit, "logarithmic" if logarithmic else "") if part)
    label = f"{BY_NAME[name].label}{f' ({words})' if words else ''}"
    drawn = charts.scatter(
        points, label, "Fidelity" if pictures else "Quality", logarithmic=logarithmic, per_cent=not pictures
    )
    none = sum(1 for point in points if point.x <= 0) if logarithmic else 0
    missing = (
        f'<p class="pg-muted">{none} without this cost (0) cannot stand on this scale.</p>' if none else ""
    )
    about = [(session.task_title(own[0]["task"]), words) for words, own in comparison.groups(rows)]
    caption = "".join(f'<p class="pg-muted">{safe(" · ".join(filter(None, parts)))}</p>' for parts in about)
    return (
        caption + (drawn or empty("No dots yet", "A run appears here when it has been measured.")) + missing
    )


def gains(session: Session, runs: list[Run]) -> str:
    """Every finished image run against the base model's in the same setting and with the same seed, in figures."""
    done = [run for run in runs if run.status == "done" and run.metrics.get("subject_fidelity") is not None]
    bases = comparison.baselines(done, done)
    lines = []
    for run in done:
        base = bases.get(run.id)
        if base is None:
            continue
        parts = [
            f"{label} {base.metrics[name]:.3f} → {run.metrics[name]:.3f} ({run.metrics[name] - base.metrics[name]:+.3f})"
            for name, label in GAINS.items()
            if run.metrics.get(name) is not None and base.metrics.get(name) is not None
        ]
        if run.metrics.get("class_drift") is not None:
            parts.append(f"the class alone drifted by {run.metrics['class_drift']:.3f}")
        lines.append(
            f'<li data-family="{safe(session.family(run.method))}"><b><i class="pg-dot"></i>'
            f"{safe(run_card.variant(session.title(run.method), run.params))}</b> "
            f"<small>{safe(session.task_title(run.task))}</small><p>{safe('; '.join(parts))}.</p></li>"
        )
    if not lines:
        return empty(
            "No pair yet",
            "Two finished runs on the same pictures, model and seed, measured by the same judge, are needed, one of them "
            "the base model.",
        )
    left = [run.id for run in done if run.id not in bases and run.method != comparison.IMAGE_REFERENCE]
    return (
        f'<ul class="pg-verdicts">{"".join(lines)}</ul><p class="pg-muted">From few pictures of one seed each: take '
        f"small differences as none.</p>{_alone(left, 'run of the base model on the same pictures, model, seed and judge')}"
    )


def difference(session: Session, runs: list[Run]) -> str:
    """Every finished run against zero-shot on the same items, with a verdict."""
    told = verdicts.verdicts(session.store, runs, session.title)
    lines = [
        f'<li data-family="{safe(session.family(run.method))}"><b><i class="pg-dot"></i>'
        f"{safe(session.title(run.method))}</b> <small>{safe(_asked(session, run))}</small>"
        f"<p>{safe(verdict)}</p></li>"
        for run, verdict in told
    ]
    if not lines:
        return empty(
            "No pair yet",
            "Two finished runs on the same items, data and model are needed, one of them zero-shot.",
        )
    held = {run.id for run, _ in told}
    left = [
        run.id
        for run in runs
        if run.status == "done" and run.id not in held and run.method != comparison.REFERENCE
    ]
    return f'<ul class="pg-verdicts">{"".join(lines)}</ul>{_alone(left, "zero-shot run on the same items, data and model")}'


def _asked(session: Session, run: Run) -> str:
    return " · ".join(part for part in (session.task_title(run.task), comparison.cap(run)) if part)


def _alone(run_ids: list[int], base: str) -> str:
    """Says which runs have nothing to be held against."""
    if not run_ids:
        return ""
    return f'<p class="pg-muted">There is no {base} for {", ".join(f"#{id}" for id in run_ids)}.</p>'


def answers(session: Session, run_id: int | None) -> str:
    """The answers of one run, item by item, wrong ones first."""
    if not run_id:
        return ""
    try:
        run = session.store.get(run_id)
    except Exception:
        return notice(f"There is no run {run_id} any more.", "warn")
    if session.modality(run.method) == "image":
        return _drawn(session, run)
    samples = items.tests(session.store.events(run_id, kinds={"sample"}))
    right = sum(1 for sample in samples if sample.get("correct"))
    head = (
        f'<header class="pg-heading"><h3>Answers of run #{run.id}: {safe(session.title(run.method))}</h3>'
        f"<p>{right} of {len(samples)} right. Wrong ones first"
        f"{f', {MOST_SAMPLES} shown' if len(samples) > MOST_SAMPLES else ''}.</p>"
        '<button type="button" class="pg-close" data-action="close" data-run="0">Close</button></header>'
    )
    ordered = sorted(samples, key=lambda sample: bool(sample.get("correct")))[:MOST_SAMPLES]
    body = "".join(_answer(sample) for sample in ordered) or empty(
        "No answers yet", "They appear as the run gives them."
    )
    return (
        f'<section class="pg-panel pg-answers">{head}{run_card.settings_of(run)}<div>{body}</div></section>'
    )


def _drawn(session: Session, run: Run) -> str:
    """The samples of an image run over its steps."""
    drawn = looks.strip_of(session, run, session.store.events(run.id, kinds={"sample", "metric"}), "compared")
    name = run_card.variant(session.title(run.method), run.params)
    return (
        f'<section class="pg-panel pg-answers"><header class="pg-heading"><h3>Pictures of run #{run.id}: {safe(name)}'
        f"</h3><p>{safe(session.task_title(run.task))}</p>"
        '<button type="button" class="pg-close" data-action="close" data-run="0">Close</button></header>'
        f"{drawn or empty('No samples yet', 'They appear as the run draws them.')}</section>"
    )


def _answer(sample: dict) -> str:
    mark = "good" if sample.get("correct") else "bad"
    valid = "" if sample.get("valid", True) else '<span class="pg-pill">not in the form asked for</span>'
    group = f'<span class="pg-pill">{safe(sample["group"])}</span>' if sample.get("group") else ""
    passages = "".join(
        f"<li>{safe(p.get('document'))} <small>{p.get('score', 0):.3f}</small> {safe(str(p.get('text', ''))[:240])}</li>"
        for p in sample.get("passages") or []
    )
    sources = f"<details><summary>Passages</summary><ul>{passages}</ul></details>" if passages else ""
    return (
        f'<article class="pg-answer pg-{mark}"><p>{safe(sample.get("input"))}</p>'
        f"<dl><div><dt>Answer</dt><dd>{safe(sample.get('answer'))}</dd></div>"
        f"<div><dt>Expected</dt><dd>{safe(sample.get('target'))}</dd></div></dl>{valid}{group}{sources}</article>"
    )
