"""Which method for my case? A few answers give an order of what to try."""

from playground.ui.components.markup import safe

NEED = ("It lacks facts", "It gets the form or the labels wrong", "It should take on a style or a skill")
CHANGE = ("Every day", "Now and then", "Hardly ever")
EXAMPLES = ("None", "A handful", "A hundred or more")
MACHINE = ("A laptop, no GPU", "A GPU")

ZERO = ("zero-shot", "Zero-shot first: it costs nothing and is the number that everything else has to beat.")
FEW = (
    "few-shot",
    "Few-shot: put a handful of solved examples in the prompt. No training, at once changeable.",
)
NEAREST = ("few-shot", "Few-shot with the nearest examples: pick the most similar ones for each question.")
RAG = ("rag", "RAG: keep the facts in documents and look them up. Change a document, and the answer changes.")
LORA = (
    "lora",
    "LoRA: train a small adapter on your examples. Short prompts afterwards, a few megabytes stored.",
)


def advise(need: str, change: str, examples: str, machine: str) -> list[tuple[str, str]]:
    """What to try, in order, as (family of the dot, sentence)."""
    order = [ZERO]
    if need == NEED[0]:
        order.append(RAG)
        if examples == EXAMPLES[2] and change == CHANGE[2]:
            order.append(LORA)
    elif examples == EXAMPLES[0]:
        order.append(("few-shot", "Write five to ten examples by hand: every other method needs some."))
    elif examples == EXAMPLES[1]:
        order.append(FEW)
    else:
        order += [NEAREST, LORA] if change != CHANGE[2] and need != NEED[2] else [LORA, NEAREST]
    if LORA in order and machine == MACHINE[0]:
        order.append(
            ("note", "On a laptop LoRA takes minutes with the small starter model; larger models want a GPU.")
        )
    if change == CHANGE[0] and LORA in order:
        order.append(("note", "With daily changes you would train again and again: prefer the prompt side."))
    return order


def show(need: str, change: str, examples: str, machine: str) -> str:
    """The advice as a numbered list."""
    steps = advise(need, change, examples, machine)
    items = "".join(
        f'<li data-family="{"parametric" if kind == "lora" else "note" if kind == "note" else "non-parametric"}">'
        f"{safe(text)}</li>"
        for kind, text in steps
    )
    return f'<ol class="pg-advice">{items}</ol>'
