"""The map of techniques: where each one acts between the question and the answer."""

from collections.abc import Sequence

from playground.methods.base import Method
from playground.methods.registry import methods
from playground.ui.components.markup import safe
from playground.ui.session import OWN_TABS

FAMILIES = {
    "non-parametric": ("Non-parametric", "The weights stay as they are. What changes is the prompt."),
    "parametric": ("Parametric", "Training changes weights, or adds some. The prompt stays short."),
}


def picture() -> str:
    """The way from question to answer, with the places where the techniques act."""
    return """
<div class="pg-flow" role="img" aria-label="The prompt holds the instruction, examples and passages. It goes into the
model, whose weights stay frozen beside small trained matrices, and an answer comes out.">
  <div class="pg-flow-prompt">
    <h4>Prompt</h4>
    <div class="pg-slot">Instruction <small>every method</small></div>
    <div class="pg-slot" data-family="non-parametric">+ solved examples <small>few-shot</small></div>
    <div class="pg-slot" data-family="non-parametric">+ found passages <small>RAG</small></div>
    <div class="pg-slot">Question</div>
  </div>
  <div class="pg-arrow" aria-hidden="true"></div>
  <div class="pg-flow-model">
    <h4>Model</h4>
    <div class="pg-weights"><span class="pg-frozen"><span>W<sub>0</sub></span><small>frozen</small></span>
      <span class="pg-plus">+</span>
      <span class="pg-low-rank" data-family="parametric"><i>A</i><i>B</i><small>LoRA trains these</small></span></div>
    <div class="pg-slot" data-family="parametric">W₀ itself <small>full fine-tuning, BitFit: its biases</small></div>
    <div class="pg-slot" data-family="parametric">small layers in between <small>adapters</small></div>
  </div>
  <div class="pg-arrow" aria-hidden="true"></div>
  <div class="pg-flow-answer"><h4>Answer</h4><div class="pg-slot">scored on the same<br>held-out items</div></div>
</div>"""


def cards() -> str:
    """All methods in two columns, each with what it changes and costs; those of the shared tab in a list."""
    columns = []
    for family, (title, text) in FAMILIES.items():
        members = [method for method in methods().values() if method.family == family]
        shown = [
            method for method in members if family != "parametric" or method.id in OWN_TABS or _draws(method)
        ]
        own = "".join(_card(method) for method in shown)
        others = _listed([method for method in members if method not in shown])
        columns.append(
            f'<section data-family="{family}"><header><h3>{title}</h3><p>{text}</p></header>{own}{others}</section>'
        )
    return f'<div class="pg-families">{"".join(columns)}</div>'


def _listed(others: Sequence[Method]) -> str:
    if not others:
        return ""
    lines = "".join(
        f"<li><b>{safe(method.title)}</b> <small>{safe(method.changes_weights)}</small>"
        f"<span>{safe(method.summary)}</span></li>"
        for method in others
    )
    return f'<details class="pg-more"><summary>{len(others)} more, on “More PEFT”</summary><ul>{lines}</ul></details>'


def _card(method: Method) -> str:
    facts = (
        ("Changes weights?", method.changes_weights),
        ("Training cost", method.training_cost),
        ("Storage cost", method.storage_cost),
        ("Best for", method.best_for),
    )
    kind = ' <span class="pg-pill">images</span>' if _draws(method) else ""
    pairs = "".join(f"<div><dt>{name}</dt><dd>{safe(value)}</dd></div>" for name, value in facts)
    return (
        f'<article class="pg-method"><h4><i class="pg-dot"></i>{safe(method.title)}{kind}</h4>'
        f"<p>{safe(method.summary)}</p><dl>{pairs}</dl></article>"
    )


def _draws(method: Method) -> bool:
    return method.modality == "image"
