"""What a method is adapted to: a task of text, or a subject of pictures."""

from playground.data import subjects, tasks
from playground.data.subjects import Subject
from playground.data.tasks import Task
from playground.methods.base import Method
from playground.settings import Settings


def material(technique: Method, id: str, settings: Settings) -> Task | Subject:
    """The task of that id for a text method, the subject of that id for an image method.

    Raises:
        TaskError: there is none, or it is broken; the message names those there are.
    """
    find = subjects.subject if technique.modality == "image" else tasks.task
    return find(id, settings)
