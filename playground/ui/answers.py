"""Asking a loaded model from the page: checks of what was typed, and answers that stream side by side."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from playground.errors import InvalidInput
from playground.settings import Settings


def checked(text: str | None, settings: Settings, what: str = "question") -> str:
    """The text that a visitor typed.

    Raises:
        InvalidInput: it is empty or too long.
    """
    text = (text or "").strip()
    if not text:
        raise InvalidInput(f"The {what} is empty. Write something first.", field=what)
    if len(text) > settings.max_prompt_characters:
        raise InvalidInput(
            f"The {what} has {len(text):,} characters; at most {settings.max_prompt_characters:,} can be used.",
            field=what,
        )
    return text


def side_by_side(
    model: Any, prompts: Sequence[list[int]], most: int, before: Callable[[int], None] | None = None
) -> Iterator[list[str]]:
    """Stream the answers to several prompts in turn, a piece of each at a time.

    Args:
        model: a ``LanguageModel``.
        prompts: token ids.
        most: the most tokens of an answer.
        before: called with a prompt's number before its next piece, e.g. to switch an adapter.

    Yields: the texts so far, one a prompt.

    Raises:
        InvalidInput: a prompt leaves no room for an answer; none is begun then.
    """
    model.check(prompts, most)
    streams = dict(enumerate(model.stream(ids, most) for ids in prompts))
    texts = [""] * len(prompts)
    while streams:
        for number, stream in list(streams.items()):
            if before:
                before(number)
            piece = next(stream, None)
            if piece is None:
                del streams[number]
            else:
                texts[number] += piece
        yield list(texts)
