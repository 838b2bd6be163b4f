"""Zero-shot: the model as it is, with the instruction alone."""

from collections.abc import Generator, Sequence

from playground.events import Event
from playground.methods.base import Adapted, Context, Method, Params, Prompt


class ZeroShot(Method):
    """The instruction and the question, nothing else: the "before" of every other method."""

    id = "zero_shot"
    title = "Zero-shot"
    family = "non-parametric"
    changes_weights = "No"
    summary = "Ask the model as it is, with the instruction alone: what every other method is held against."
    training_cost = "None"
    storage_cost = "None"
    use_case = "General tasks that the model already knows"
    best_for = "A first try, and the baseline of every comparison"
    paper = "Brown et al. 2020, arXiv:2005.14165"

    def adapt(self, params: Params, context: Context) -> Generator[Event, None, Adapted]:
        """Change nothing."""
        yield Event.progress("adapt", 1, 1)
        task = context.task

        def prompts(inputs: Sequence[str]) -> list[Prompt]:
            return [Prompt(task.messages(text)) for text in inputs]

        return Adapted(context.model, prompts, stored_bytes=0)
