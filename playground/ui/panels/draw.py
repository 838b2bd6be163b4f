"""Drawing with a finished run: the same prompt and the same noise, by the base model and by the adapted one."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import gradio as gr

from playground.errors import InvalidInput
from playground.ui.answers import checked
from playground.ui.components import pictures
from playground.ui.components.echo import changed
from playground.ui.components.markup import heading, notice, safe
from playground.ui.messages import placed, shown
from playground.ui.session import INFERENCE, Session

if TYPE_CHECKING:
    from PIL.Image import Image

SIDES = ("Base model", "Adapted model")
SHOWN_EDGE = 512  # pixels of a picture on the page; the download has all of them
MOST_AT_ONCE = 4


def build(session: Session, run: gr.Number, name: str) -> None:
    """Draw the panel for the finished run in ``run``. ``name`` begins the ids of its fields."""
    gr.HTML(
        heading(
            "Base and adapted, side by side",
            "The same prompt from the same noise, so that what differs is what was learnt.",
            3,
        )
    )
    prompt = gr.Textbox(label="Prompt", lines=1, max_lines=4, elem_id=f"{name}-prompt")
    with gr.Row(elem_classes="pg-form"):
        seed = gr.Number(0, label="Seed", info="Another one, another noise.", step=1, min_width=110)
        count = gr.Slider(
            1, MOST_AT_ONCE, value=2, step=1, label="Pictures", info="With seeds that follow.", buttons=[],
            min_width=150,
        )  # fmt: skip
        own = {"placeholder": "The model's own", "max_lines": 1, "min_width": 110}
        steps = gr.Textbox(label="Steps", info="More are finer and slower.", **own)
        guidance = gr.Textbox(label="Guidance", info="How closely to the prompt.", **own)
    with gr.Row(elem_classes="pg-buttons"):
        begin = gr.Button("Draw both", variant="primary", size="md", elem_id=f"{name}-draw")
    told = gr.HTML(elem_id=f"{name}-drawn")

    def act(run_id, words, first, many, most, strength):
        yield from draw(session, run_id, words, first, many, most, strength)

    def example(run_id, words):
        return gr.skip() if run_id is None or words else suggestion(session, int(run_id))

    gr.on(
        [begin.click, prompt.submit],
        placed(act, 1),
        [run, prompt, seed, count, steps, guidance],
        told,
        concurrency_id=INFERENCE,
        concurrency_limit=1,
        api_visibility="private",
        show_progress="hidden",
    )
    changed(run)(
        shown(example), [run, prompt], prompt, queue=False, api_visibility="private", show_progress="hidden"
    )
    changed(run)(lambda: "", None, told, queue=False, api_visibility="private", show_progress="hidden")


def suggestion(session: Session, run_id: int) -> str:
    """The first prompt that the run drew its subject with; empty where it drew none."""
    events = session.store.events(run_id, kinds={"sample"})
    return next((event.data["input"] for event in events if event.data.get("kind") == "context"), "")


def draw(
    session: Session,
    run_id: float | None,
    prompt: str,
    seed: float | None,
    count: float,
    steps: str | None = "",
    guidance: str | None = "",
) -> Iterator[str]:
    """Draw with the base model, then with the adapted one; yields what to show after each.

    Args:
        steps, guidance: as typed; blank = the model's own.

    Raises:
        InvalidInput: a value cannot be used; says which.
        QueueError, AdapterError, ModelUnavailable, OutOfMemory: as ``Arbiter.pictures``.
    """
    if run_id is None:
        raise InvalidInput("There is no finished run yet. Train one first.")
    words = checked(prompt, session.settings, "prompt")
    first = _whole(seed, "Seed", 0, 2**32 - 1 - MOST_AT_ONCE)
    seeds = [first + number for number in range(int(count))]
    options: dict[str, Any] = {}
    if (steps or "").strip():
        options["steps"] = _whole(_number(steps, "Steps"), "Steps", 1, 200)
    if (guidance or "").strip():
        options["guidance"] = _number(guidance, "Guidance")
        if not 0 <= options["guidance"] <= 50:
            raise InvalidInput(f"Guidance must be between 0 and 50, not {guidance}.", "guidance")
    run = session.store.get(int(run_id))
    from playground.training.pictures import image

    sides: list[list[Image]] = []
    for adapted in (False, True):
        yield notice(f"{SIDES[adapted]}: drawing …") + _both(run.id, seeds, sides)
        drawn = session.arbiter.pictures(run.id, [words] * len(seeds), seeds, adapted=adapted, **options)
        sides.append([image(one) for one in drawn])
    yield _both(run.id, seeds, sides)


def _number(text: str, label: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InvalidInput(f"{label} must be a number, not “{text[:40]}”.", label.lower()) from None


def _whole(value: float | None, label: str, low: int, high: int) -> int:
    if value is None or not math.isfinite(value) or value != int(value) or not low <= value <= high:
        raise InvalidInput(f"{label} must be a whole number between {low} and {high:,}.", label.lower())
    return int(value)


def _both(run_id: int, seeds: list[int], sides: list[list["Image"]]) -> str:
    """One section a side, its pictures in the order of the seeds."""
    parts = []
    for name, drawn in zip(SIDES, sides, strict=False):
        figures = "".join(_figure(run_id, name, seed, one) for seed, one in zip(seeds, drawn, strict=True))
        parts.append(f'<section class="pg-side"><h4>{safe(name)}</h4><div>{figures}</div></section>')
    return f'<div class="pg-sides">{"".join(parts)}</div>' if parts else ""


def _figure(run_id: int, side: str, seed: int, picture: "Image") -> str:
    file = f"run-{run_id}-{side.split()[0].lower()}-seed-{seed}.png"
    shown = pictures.button(pictures.encoded(picture, SHOWN_EDGE), f"{side}, seed {seed}")
    return (
        f'<figure class="pg-picture">{shown}<figcaption>seed {seed} · <a download="{safe(file)}" '
        f'href="{safe(pictures.encoded(picture, None))}">Download</a></figcaption></figure>'
    )
