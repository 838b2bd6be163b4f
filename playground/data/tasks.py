"""Tasks: what a model is adapted to. Splits, the instruction, the metric, documents.

A task is a folder: ``task.toml`` (title, instruction, answer, metric, labels …), ``train.jsonl``,
``dev.jsonl`` and ``test.jsonl`` (one item a line) and, where there are any, ``documents/*.md``.
Bundled tasks lie in ``assets/tasks``, visitors' own in the settings' tasks folder.
"""

import hashlib
import json
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from playground.errors import TaskError
from playground.settings import ASSETS, Settings

BUNDLED = ASSETS / "tasks"
SPLITS = ("train", "dev", "test")
METRICS = {"label": ("accuracy",), "free": ("exact_match", "token_f1")}
# "covers" names the train item that teaches the same fact: a note for whoever checks the task.
ITEM_KEYS = frozenset({"id", "input", "target", "accept", "group", "evidence", "covers"})
TASK_ID = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


@dataclass(frozen=True)
class Evidence:
    """Where an answer stands: document id and character span [start, end)."""

    document: str
    start: int
    end: int


@dataclass(frozen=True)
class Item:
    """One question or message with its answer.

    ``accept`` lists other right forms of ``target``. ``group`` marks a part that is scored apart.
    """

    id: str
    input: str
    target: str
    accept: tuple[str, ...] = ()
    group: str | None = None
    evidence: tuple[Evidence, ...] = ()


@dataclass(frozen=True)
class Document:
    """A text that belongs to a task. ``id`` is the file's name without its ending."""

    id: str
    text: str


@dataclass(frozen=True)
class Task:
    """One task: methods tune on ``train`` and ``dev`` only, and are all scored on ``test``.

    ``answer`` is "label" (one of ``labels``) or "free"; ``metric`` is "accuracy", "exact_match" or
    "token_f1". ``data_hash`` is the SHA-256 of everything that the model can see.
    """

    id: str
    title: str
    summary: str
    description: str
    instruction: str
    answer: Literal["label", "free"]
    metric: str
    train: tuple[Item, ...]
    dev: tuple[Item, ...]
    test: tuple[Item, ...]
    labels: tuple[str, ...] = ()
    label_notes: dict[str, str] = field(default_factory=dict)
    documents: tuple[Document, ...] = ()
    refusal: str | None = None
    groups: tuple[str, ...] = ()
    input_name: str = "Input"
    target_name: str = "Target"
    licence: str = ""
    modality: str = "text"
    bundled: bool = True
    data_hash: str = ""

    def messages(self, input: str, examples: Sequence[Item] = ()) -> list[dict[str, str]]:
        """The chat messages for one input: the instruction, the examples as turns, the input.

        Every method starts from this one template, so that they are compared on the same footing.
        """
        turns = [{"role": "system", "content": self.instruction}]
        for example in examples:
            turns.append({"role": "user", "content": example.input})
            turns.append({"role": "assistant", "content": example.target})
        turns.append({"role": "user", "content": input})
        return turns


@dataclass(frozen=True)
class TaskSummary:
    """What a list of tasks shows. ``train``, ``dev``, ``test`` and ``documents`` are counts."""

    id: str
    title: str
    summary: str
    description: str
    answer: str
    metric: str
    train: int
    dev: int
    test: int
    documents: int
    labels: tuple[str, ...]
    input_name: str
    target_name: str
    bundled: bool


def tasks(settings: Settings, bundled: Path = BUNDLED) -> dict[str, TaskSummary]:
    """All tasks by id, bundled ones first; reads only the head of each, and that once.

    A visitor's task that is broken is left out here: ``task`` says what is wrong with it.
    """
    found: dict[str, TaskSummary] = {}
    for root in (bundled, settings.tasks):
        for path in sorted(root.glob("*/task.toml")) if root.is_dir() else ():
            folder = path.parent
            if not TASK_ID.fullmatch(folder.name) or folder.name in found:
                continue
            try:
                found[folder.name] = _summary(folder, root == bundled, _stamp(folder))
            except TaskError:
                if root == bundled:
                    raise
    return found


def task(id: str, settings: Settings, bundled: Path = BUNDLED) -> Task:
    """The task with that id, read and validated; kept until its files change.

    Raises:
        TaskError: there is none, or a file of it is wrong (with line and column).
    """
    if TASK_ID.fullmatch(id):
        for root in (bundled, settings.tasks):
            folder = root / id
            if (folder / "task.toml").is_file():
                return _task(folder, root == bundled, _stamp(folder))
    raise TaskError(f"There is no task “{id}”. Tasks: {', '.join(tasks(settings, bundled)) or 'none'}.")


def read(folder: Path, bundled: bool = True) -> Task:
    """Read and validate the task in ``folder``; its id is the folder's name.

    Raises:
        TaskError: a file is missing or wrong; names the file, the line and the column.
    """
    head = _head(folder)
    splits = {split: _items(folder / f"{split}.jsonl") for split in SPLITS}
    documents = tuple(Document(path.stem, _text(path)) for path in _document_paths(folder))
    found = Task(
        id=folder.name,
        **{key: value for key, value in head.items() if key != "id"},
        **splits,
        documents=documents,
        bundled=bundled,
    )
    validate(found)
    return replace(found, data_hash=data_hash(found))


def data_hash(task: Task) -> str:
    """SHA-256 (hex) of all that the model can see and all that decides its score."""
    seen: dict[str, Any] = {
        "instruction": task.instruction,
        "answer": task.answer,
        "metric": task.metric,
        "labels": task.labels,
        "refusal": task.refusal,
        "documents": [(document.id, document.text) for document in task.documents],
    }
    for split in SPLITS:
        seen[split] = [item_record(item) for item in getattr(task, split)]
    text = json.dumps(seen, ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def item_record(item: Item) -> dict[str, Any]:
    """The item as one line of a split's file."""
    record: dict[str, Any] = {"id": item.id, "input": item.input, "target": item.target}
    if item.accept:
        record["accept"] = list(item.accept)
    if item.group is not None:
        record["group"] = item.group
    if item.evidence:
        record["evidence"] = [
            {"document": piece.document, "start": piece.start, "end": piece.end} for piece in item.evidence
        ]
    return record


def normal_label(text: str) -> str:
    """A label without case, white space, quotes and punctuation around it."""
    return " ".join(text.casefold().split()).strip(" \t.,:;!?\"'`*()[]{}<>«»“”‘’„")


def validate(task: Task) -> None:
    """Check what holds between the parts of a task.

    Raises:
        TaskError: names what is wrong; the line where it is known.
    """
    if task.metric not in METRICS[task.answer]:
        raise TaskError(
            f"{task.id}: metric “{task.metric}” does not fit answer “{task.answer}”. "
            f"It must be one of {', '.join(METRICS[task.answer])}."
        )
    if task.answer == "label":
        _validate_labels(task)
    seen: dict[str, str] = {}
    lengths = {document.id: len(document.text) for document in task.documents}
    for split in SPLITS:
        items = getattr(task, split)
        if not items:
            raise TaskError(f"{task.id}: {split} has no items.")
        for line, item in enumerate(items, 1):
            where = f"{task.id}, {split}"
            if item.id in seen:
                raise TaskError(
                    f"{where}: the id “{item.id}” is already used in {seen[item.id]}.", line, "id"
                )
            seen[item.id] = split
            if split == "test" and task.groups and item.group not in (None, *task.groups):
                raise TaskError(
                    f"{where}: the group “{item.group}” is not in the task's groups.", line, "group"
                )
            if task.answer == "label" and item.target not in task.labels:
                raise TaskError(f"{where}: “{item.target}” is not one of the labels.", line, "target")
            for piece in item.evidence:
                if not 0 <= piece.start < piece.end <= lengths.get(piece.document, -1):
                    raise TaskError(
                        f"{where}: {piece.document} has no characters {piece.start} to {piece.end}.",
                        line,
                        "evidence",
                    )


def _validate_labels(task: Task) -> None:
    if len(task.labels) < 2:
        raise TaskError(f"{task.id}: a label task needs at least two labels.")
    normal: dict[str, str] = {}
    for label in task.labels:
        key = normal_label(label)
        if not key:
            raise TaskError(f"{task.id}: the label “{label}” has no letter or digit.")
        if key in normal:
            raise TaskError(
                f"{task.id}: the labels “{normal[key]}” and “{label}” differ only in case or punctuation."
            )
        normal[key] = label


def _stamp(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Names, times and sizes of a task's files: changes when the task does."""
    paths = [folder / "task.toml", *(folder / f"{split}.jsonl" for split in SPLITS), *_document_paths(folder)]
    stats = [(path.name, path.stat()) for path in paths if path.exists()]
    return tuple((name, stat.st_mtime_ns, stat.st_size) for name, stat in stats)


@lru_cache(maxsize=32)
def _task(folder: Path, bundled: bool, stamp: tuple) -> Task:
    return read(folder, bundled)


@lru_cache(maxsize=256)
def _summary(folder: Path, bundled: bool, stamp: tuple) -> TaskSummary:
    head = _head(folder)
    return TaskSummary(
        id=folder.name,
        title=head["title"],
        summary=head["summary"],
        description=head["description"],
        answer=head["answer"],
        metric=head["metric"],
        **{split: _count(folder / f"{split}.jsonl") for split in SPLITS},
        documents=len(_document_paths(folder)),
        labels=head["labels"],
        input_name=head["input_name"],
        target_name=head["target_name"],
        bundled=bundled,
    )


def _count(path: Path) -> int:
    with _open(path) as lines:
        return sum(1 for line in lines if line.strip())


def _document_paths(folder: Path) -> list[Path]:
    return sorted((folder / "documents").glob("*.md"))


def _open(path: Path):
    try:
        return path.open("rb")
    except OSError as error:
        raise TaskError(f"{path.parent.name}/{path.name} cannot be read: {error.strerror}.") from None


def _text(path: Path) -> str:
    with _open(path) as file:
        data = file.read()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise TaskError(f"{path.name} is not UTF-8 text.", line) from None


TEXT_KEYS = ("title", "instruction", "answer", "metric")
DEFAULTS: dict[str, Any] = {
    "summary": "",
    "description": "",
    "labels": (),
    "label_notes": {},
    "refusal": None,
    "groups": (),
    "input_name": "Input",
    "target_name": "Target",
    "licence": "",
    "modality": "text",
}


def _head(folder: Path) -> dict[str, Any]:
    """The checked contents of ``task.toml``, with defaults filled in."""
    name = f"{folder.name}/task.toml"
    try:
        values = tomllib.loads(_text(folder / "task.toml"))
    except tomllib.TOMLDecodeError as error:
        raise TaskError(f"{name} is not valid TOML: {error}.") from None
    for key in TEXT_KEYS:
        if not isinstance(values.get(key), str) or not values[key].strip():
            raise TaskError(f"{name} needs a text “{key}”.")
    if values["answer"] not in METRICS:
        raise TaskError(f"{name}: answer must be one of {', '.join(METRICS)}.")
    unknown = set(values) - set(DEFAULTS) - set(TEXT_KEYS) - {"id"}
    if unknown:
        raise TaskError(f"{name} has unknown keys: {', '.join(sorted(unknown))}.")
    for key in ("labels", "groups"):
        texts = values.get(key, [])
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise TaskError(f"{name}: {key} must be a list of texts.")
        values[key] = tuple(texts)
    return DEFAULTS | values


def _items(path: Path) -> tuple[Item, ...]:
    text = _text(path).rstrip()
    lines = text.split("\n") if text else []
    return tuple(_item(line, number, path.name) for number, line in enumerate(lines, 1))


def _item(line: str, number: int, name: str) -> Item:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise TaskError(f"{name}: this is not JSON ({error}).", number) from None
    if not isinstance(record, dict):
        raise TaskError(f"{name}: a line must be a JSON object.", number)
    for key in ("id", "input", "target"):
        if not isinstance(record.get(key), str) or not record[key].strip():
            raise TaskError(f"{name}: a text is missing.", number, key)
    for key in record:
        if key not in ITEM_KEYS:
            raise TaskError(f"{name}: this key is unknown.", number, key)
    accept = record.get("accept") or []
    if not isinstance(accept, list) or not all(isinstance(text, str) for text in accept):
        raise TaskError(f"{name}: it must be a list of texts.", number, "accept")
    if not isinstance(record.get("group"), str | None):
        raise TaskError(f"{name}: it must be a text.", number, "group")
    return Item(
        id=record["id"],
        input=record["input"],
        target=record["target"],
        accept=tuple(accept),
        group=record.get("group"),
        evidence=_evidence(record.get("evidence") or [], number, name),
    )


def _evidence(pieces: Any, number: int, name: str) -> tuple[Evidence, ...]:
    try:
        if isinstance(pieces, dict):
            pieces = [pieces]
        return tuple(
            Evidence(str(piece["document"]), int(piece["start"]), int(piece["end"])) for piece in pieces
        )
    except (TypeError, KeyError, ValueError):
        raise TaskError(f"{name}: each piece needs document, start and end.", number, "evidence") from None
