"""Pushing a finished folder to the Hugging Face Hub, with a token that is used once and kept nowhere."""

import os
import re
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playground.errors import HubError, InvalidInput
from playground.events import Event
from playground.settings import Settings

_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9])?"
_REPO = re.compile(rf"{_NAME}/{_NAME}")
_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]{8,4096}")  # what may stand in an HTTP header


@dataclass(frozen=True)
class Push:
    """Where to push: ``repo`` as owner/name. The token is not part of what this prints as."""

    repo: str
    token: str = field(repr=False)
    private: bool = True


def prepare(
    repo: str, typed: str | None, settings: Settings, *, private: bool = True, own: bool = False
) -> Push:
    """Check what a push needs; takes about two seconds at most.

    Args:
        typed: the token that a person typed for this one push.
        own: the caller is the machine's owner (the command line), so the environment's token may be used.
            A visitor of the page may use it where ``settings.allow_push`` is set.

    Raises:
        InvalidInput: the repository's name or the token cannot be one.
        HubError: there is no token, or the Hub does not answer.
    """
    from playground.models.sources import hub_reachable

    repo = repository(repo)
    token = _token(typed, own or settings.allow_push)
    if settings.offline:
        raise HubError("This playground is set never to ask the Hub (PLAYGROUND_OFFLINE), so it cannot push.")
    if not hub_reachable(settings):
        raise HubError("The Hugging Face Hub does not answer. Check the network, or download and push later.")
    return Push(repo, token, private)


def repository(name: str | None) -> str:
    """The name of a repository, checked as the Hub does.

    Raises:
        InvalidInput: it is not of the form owner/name.
    """
    name = (name or "").strip()
    odd = "--" in name or ".." in name or name.endswith((".git", ".ipynb"))
    if odd or not _REPO.fullmatch(name):
        raise InvalidInput(
            f"“{name[:100]}” is not a repository's name. Write owner/name, with letters, digits, and single - . _ "
            "inside each part, at most 96 characters.",
            field="repo",
        )
    return name


def push(folder: Path, to: Push) -> Generator[Event, None, str]:
    """Make the repository where it is missing, and upload the folder as one commit. Returns its address.

    Raises:
        HubError: the Hub refuses, cannot be reached, or the repository is public and ``to`` says private.
    """
    total = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    yield Event.progress("push", 0, total, unit="byte", note=to.repo)
    try:
        address = _upload(folder, to)
    except HubError:
        raise
    except Exception as error:  # whatever the client raises may quote a request, and with it the token
        raise HubError(_explain(error, to)) from None
    yield Event.progress("push", total, total, unit="byte", note=to.repo)
    return address


def _upload(folder: Path, to: Push) -> str:
    from huggingface_hub import HfApi
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    endpoint = os.environ.get("HF_ENDPOINT")
    api = HfApi(endpoint=endpoint, token=to.token, library_name="adaptation-playground")
    address = str(api.create_repo(to.repo, private=to.private, exist_ok=True))
    if to.private and not api.repo_info(to.repo).private:
        raise HubError(
            f"{to.repo} is there already and is public. Choose another name, or say that it may be public."
        )
    api.upload_folder(
        repo_id=to.repo, folder_path=folder, commit_message="Upload from the adaptation playground"
    )
    return address


def _token(typed: str | None, may_use_own: bool) -> str:
    token = (typed or "").strip()
    if not token and may_use_own:
        token = os.environ.get("HF_TOKEN", "").strip()
    if not token:
        where = "set HF_TOKEN" if may_use_own else "type one of yours"
        raise HubError(
            f"A push needs a Hub token that may write: {where} (huggingface.co, Settings, Access Tokens)."
        )
    if not _TOKEN.fullmatch(token):
        raise InvalidInput("That is not a Hub token: it holds spaces or signs that none has.", field="token")
    return token


def _explain(error: Exception, to: Push) -> str:
    """The reason in plain words; the token stands in none of them, whatever the client quoted."""
    status = _status(error)
    said = {
        401: "The Hub does not know this token. Check it, or make a new one that may write.",
        403: f"This token may not write to {to.repo}. Take one with write access, or another owner.",
        404: f"The Hub has no owner “{to.repo.partition('/')[0]}” for this token.",
        409: f"The Hub was changing {to.repo} at the same time. Try again.",
        413: "The Hub refuses files of this size.",
        429: "The Hub asks to wait: too many requests. Try again later.",
    }
    if status in said:
        return said[status]
    first = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
    words = f"The push to {to.repo} failed: {first}".replace(to.token, "…")
    return f"{words} (the Hub answered {status})" if status else words


def _status(error: BaseException | None) -> int | None:
    while error is not None:
        response: Any = getattr(error, "response", None)
        if response is not None and isinstance(getattr(response, "status_code", None), int):
            return response.status_code
        error = error.__cause__ or error.__context__
    return None
