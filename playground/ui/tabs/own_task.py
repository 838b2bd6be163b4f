"""A visitor's own task: file, preview, columns, instruction, save."""

import gradio as gr

from playground.data import tasks
from playground.errors import InvalidInput
from playground.ui import uploads
from playground.ui.components.markup import heading, notice, safe
from playground.ui.messages import sentence
from playground.ui.session import Session

NONE = ""
EXAMPLE = """input,answer
The parcel never came.,delivery
My card was charged twice.,payment
The zip broke on day one.,returns
…"""
KINDS = {"Guess from the answers": None, "One of a few labels": "label", "Free text": "free"}
NO_FILE = (
    '<p class="pg-muted">The first rows appear here. A CSV file may look like this; any column names will do:</p>'
    f'<pre class="pg-prompt">{safe(EXAMPLE)}</pre>'
)


def build(session: Session, known: gr.Textbox) -> None:
    """Draw the panel. ``known`` is set to the tasks' ids when one was saved, and the other tabs follow it."""
    gr.HTML(
        heading(
            "Your own task",
            "A CSV, TSV or JSONL file with one example a row: an input and the right answer. At least ten rows.",
        )
    )
    with gr.Row(elem_classes="pg-split"):
        with gr.Column(scale=2, min_width=280):
            file = gr.File(
                label="File", type="filepath", height=140, elem_id="task-file",
                file_types=[".csv", ".tsv", ".jsonl", ".json", ".txt"],
            )  # fmt: skip
            with gr.Row(elem_classes="pg-form"):
                source = gr.Dropdown([], label="Input column", min_width=140)
                target = gr.Dropdown([], label="Answer column", min_width=140)
                split = gr.Dropdown(
                    [], label="Split column", info="Optional: train, dev, test.", min_width=140
                )
                group = gr.Dropdown([], label="Group column", info="Optional: scored apart.", min_width=140)
            sample = gr.Checkbox(
                False,
                label=f"Of a longer file, draw {session.settings.max_rows:,} rows at random",
                elem_id="task-sample",
            )
            title = gr.Textbox(label="Title", max_lines=1, elem_id="task-title")
            instruction = gr.Textbox(
                label="Instruction", info="What the model is told. Blank = made from the labels.", lines=2
            )
            kind = gr.Radio(list(KINDS), value="Guess from the answers", label="Answers are")
            with gr.Row(elem_classes="pg-buttons"):
                save = gr.Button("Save the task", variant="primary", size="md", elem_id="save-task")
        with gr.Column(scale=3, min_width=280):
            problem = gr.HTML(elem_id="task-problem")
            table = gr.HTML(NO_FILE, elem_id="task-preview")

    def look(path, drawn):
        from playground.data import upload

        if not path:
            return gr.skip(), NO_FILE, *[gr.skip()] * 4
        try:
            seen = upload.preview(path, session.settings, sample=drawn)
        except Exception as error:
            return notice(sentence(error), "bad"), NO_FILE, *[gr.skip()] * 4
        every, optional = list(seen.columns), [("None", NONE), *((name, name) for name in seen.columns)]
        return (
            "",
            preview(seen),
            gr.update(choices=every, value=seen.mapping.input),
            gr.update(choices=every, value=seen.mapping.target),
            gr.update(choices=optional, value=seen.mapping.split or NONE),
            gr.update(choices=optional, value=seen.mapping.group or NONE),
        )

    def keep(path, source_name, target_name, split_name, group_name, drawn, name, told, answer):
        from playground.data import upload

        try:
            if not path:
                raise InvalidInput("Choose a file first.")
            mapping = upload.ColumnMapping(source_name, target_name, split_name or None, group_name or None)
            made = upload.build_task(
                path,
                mapping,
                session.settings,
                title=name or "",
                instruction=told or "",
                answer=KINDS[answer],
                sample=drawn,
            )
            odd = upload.warnings(made)
            upload.save(made, session.settings)
            uploads.forget([path])
        except Exception as error:
            return notice(sentence(error), "bad"), gr.skip(), gr.skip()
        counts = f"{len(made.train)} train, {len(made.dev)} dev and {len(made.test)} test items"
        told = notice(f"“{made.title}” is saved with {counts}. It can be chosen on every tab now.", "good")
        told += "".join(notice(words, "warn") for words in odd)
        return told, ",".join(tasks.tasks(session.settings)), None

    private = {"api_visibility": "private", "concurrency_limit": None, "show_progress": "minimal"}
    gr.on(
        [file.change, sample.change],
        look,
        [file, sample],
        [problem, table, source, target, split, group],
        **private,
    )
    file.clear(lambda: "", None, problem, queue=False, **private)
    save.click(
        keep,
        [file, source, target, split, group, sample, title, instruction, kind],
        [problem, known, file],
        **private,
    )


def preview(seen) -> str:
    """The first rows of a file (``data.upload.Preview``) as a table."""
    heads = "".join(f"<th>{safe(name)}</th>" for name in seen.columns)
    rows = "".join(f"<tr>{''.join(f'<td>{safe(cell[:160])}</td>' for cell in row)}</tr>" for row in seen.rows)
    answer = f"labels: {', '.join(seen.labels[:12])}" if seen.answer == "label" else "free text"
    return (
        f'<p class="pg-muted">{seen.total:,} rows · {safe(seen.format)} · answers look like {safe(answer)}</p>'
        f'<div class="pg-preview"><table class="pg-table"><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>'
    )
