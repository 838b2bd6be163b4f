"""What a training will take and see, before it starts: for the page, the command line and the run itself."""

from typing import TYPE_CHECKING

from playground.data.tasks import Task
from playground.errors import InvalidInput
from playground.methods.base import Method, Params
from playground.methods.parametric import Parametric
from playground.models import sources
from playground.models.catalogue import Model
from playground.results.runs import RunStore
from playground.results.speed import training_rate, training_speed
from playground.settings import Settings

if TYPE_CHECKING:
    from playground.training.data_view import DataView, Finding
    from playground.training.estimate import Estimate

RUNS = 500  # newest finished ones that are asked how fast they were


def forecast(
    technique: Method, params: Params, task: Task, model: Model, settings: Settings, store: RunStore
) -> "Estimate":
    """Exact counts, estimated memory and time.

    The time follows the speed of an earlier run of the technique, else that of another technique's run.

    Raises:
        InvalidInput: the technique trains nothing, or does not fit the model or the task.
        ModelUnavailable: the model is not on this machine.
    """
    from playground.models import device

    if not isinstance(technique, Parametric):
        raise InvalidInput(f"{technique.title} trains nothing: there is nothing to estimate.", "method")
    runs, place = store.list(status="done", limit=RUNS), device.choose(settings).name
    earlier = training_speed(runs, technique.id, model.id, params.model_dump(mode="json"), place)
    return technique.estimate(
        params,
        task,
        model,
        settings,
        tokens_per_second=earlier and earlier.tokens_per_second,
        their_flops=earlier and earlier.flops_per_token,
        flops_per_second=training_rate(runs, model.id, place, technique.quantization(params)),
    )


def fits(technique: Method, params: Params, model: Model, settings: Settings) -> None:
    """Refuse a training that the model has no place for, without loading its weights; nothing else is refused.

    A model that is not on this machine is not asked: its first run fetches it, and says the same then.

    Raises:
        InvalidParams: the technique or these parameters do not fit the model.
        ModelUnavailable: its files cannot be read as a language model.
    """
    if isinstance(technique, Parametric) and sources.at_hand(model, settings):
        technique.fits(params, model, settings)


def worries(technique: Method, task: Task) -> list["Finding"]:
    """What is wrong with the data that a training would see: copies, contradictions, leaks; the worst first."""
    if not isinstance(technique, Parametric):
        return []
    from playground.training.data_view import overlaps

    return sorted((one for one in overlaps(task) if one.tone != "info"), key=lambda one: one.tone != "bad")


def look(params: Params, task: Task, model: Model, settings: Settings) -> "DataView":
    """The task's training data as a training with these parameters would use it.

    Raises:
        ModelUnavailable: the model is not on this machine.
    """
    from playground.training.data_view import data_view
    from playground.training.weightless import weightless

    return data_view(weightless(model, settings), task, params.max_length)
