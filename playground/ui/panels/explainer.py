"""What LoRA does, with numbers to play with; and what a trained LoRA update is made of."""

import gradio as gr

from playground.errors import InvalidInput
from playground.jobs.local import run_folder
from playground.methods.parametric import ADAPTER
from playground.ui.components import explain, spectrum
from playground.ui.components.echo import changed
from playground.ui.components.markup import heading, notice
from playground.ui.messages import sentence, shown
from playground.ui.session import Session

QUICK = {"api_visibility": "private", "show_progress": "hidden"}


def build() -> None:
    """Draw the explainer: the guide's small case, and the counter for matrices of any size."""
    gr.HTML(
        heading(
            "What LoRA does",
            "W = W₀ + λ · A · B: the large matrix stays as it is, two thin ones learn, and their product is added. "
            "Change any number: double-click it.",
            3,
        )
    )
    with gr.Row(elem_classes="pg-grids"):
        w0 = _grid(explain.W0, "W₀, 4 × 5, frozen", "lora-w0")
        a = _grid(explain.A, "A, 4 × 2, trained", "lora-a")
        b = _grid(explain.B, "B, 2 × 5, trained", "lora-b")
    scale = gr.Slider(
        -2, 2, value=0.5, step=0.1, label="λ", info="How much the update counts: alpha / rank.",
        buttons=[], elem_id="lora-scale",
    )  # fmt: skip
    picture = gr.HTML(explain.low_rank(explain.W0, explain.A, explain.B, 0.5), elem_id="lora-picture")
    gr.HTML(heading("How many numbers that saves", "For a d × n weight and rank k.", 3))
    with gr.Row(elem_classes="pg-form"):
        d = gr.Number(10_000, label="d (rows)", min_width=110, step=1, elem_id="lora-d")
        n = gr.Number(10_000, label="n (columns)", min_width=110, step=1, elem_id="lora-n")
        k = gr.Number(32, label="k (rank)", min_width=110, step=1, elem_id="lora-k")
    with gr.Row(elem_classes="pg-buttons"):
        for words, size in explain.SIZES.items():
            gr.Button(words, size="sm").click(lambda size=size: size, None, [d, n, k], queue=False, **QUICK)
    counted = gr.HTML(explain.count(10_000, 10_000, 32), elem_id="lora-count")

    gr.on(
        [w0.change, a.change, b.change, scale.change],
        _told(explain.low_rank), [w0, a, b, scale], picture, queue=False, **QUICK,
    )  # fmt: skip
    gr.on([d.change, n.change, k.change], _told(explain.count), [d, n, k], counted, queue=False, **QUICK)


def _grid(cells: explain.Matrix, label: str, name: str) -> gr.Dataframe:
    shape = (len(cells), len(cells[0]))
    return gr.Dataframe(
        [list(row) for row in cells],
        headers=[str(column + 1) for column in range(shape[1])],
        label=label,
        type="array",
        datatype="number",
        row_count=shape[0],
        column_count=shape[1],
        interactive=True,
        buttons=[],
        min_width=170 if shape[1] < 4 else 300,
        elem_id=name,
        elem_classes="pg-grid-edit",
    )


def _told(draw):
    """The drawing, or what is wrong with a number that is being typed."""

    def call(*values):
        try:
            return draw(*values)
        except InvalidInput as error:
            return notice(sentence(error), "warn")

    return call


def spectra(session: Session, run: gr.Number, name: str) -> None:
    """Draw the panel for the finished run in ``run``: the singular values of each layer's update."""
    gr.HTML(
        heading(
            "What the update is made of",
            "Singular values of ΔW = λ · B · A in each layer: how much of the update each rank holds.",
            3,
        )
    )
    with gr.Row(elem_classes="pg-buttons"):
        compute = gr.Button("Compute the spectrum", size="md", elem_id=f"{name}-spectrum-compute")
    picture = gr.HTML(elem_id=f"{name}-spectrum")

    def draw(run_id):
        from playground.training.spectrum import spectra as measure

        if run_id is None:
            raise InvalidInput("There is no finished run yet. Train one first.")
        return spectrum.picture(measure(run_folder(session.settings, int(run_id)) / ADAPTER))

    compute.click(
        shown(draw), run, picture, api_visibility="private", show_progress="minimal", concurrency_limit=1
    )
    changed(run)(lambda: "", None, picture, queue=False, **QUICK)
