"""A visitor's own task from a CSV, TSV or JSONL file.

``preview`` shows what is in the file and guesses which column is which, ``build_task`` makes the
task, ``warnings`` says what is odd about it, ``save`` keeps it. Text is never interpreted: HTML in a
cell stays the characters that it is.
"""

import codecs
import csv
import io
import json
import random
import re
import shutil
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from playground.data.tables import Row, Table, read_table, shown
from playground.data.tasks import (
    BUNDLED,
    SPLITS,
    Item,
    Task,
    data_hash,
    item_record,
    normal_label,
    read,
    validate,
)
from playground.errors import StoreError, TaskError
from playground.settings import Settings

PREVIEW_ROWS = 8
FEWEST_ROWS = 10
TEST_SHARE, MOST_TEST = 0.25, 500
DEV_SHARE, MOST_DEV = 0.15, 200
MOST_LABELS = 100
MOST_GROUPS = 20
LABEL_CHARACTERS = 40

INPUT_NAMES = (
    "input",
    "question",
    "message",
    "text",
    "prompt",
    "query",
    "ticket",
    "body",
    "request",
    "review",
    "sentence",
    "content",
    "email",
    "utterance",
    "instruction",
)
TARGET_NAMES = (
    "target",
    "answer",
    "label",
    "output",
    "response",
    "completion",
    "reply",
    "category",
    "class",
    "intent",
    "desk",
    "sentiment",
    "topic",
    "expected",
    "gold",
)
SPLIT_NAMES = (
    "split",
    "set",
    "subset",
    "partition",
    "fold",
)
GROUP_NAMES = ("group",)
SPLIT_VALUES = {
    "train": "train",
    "training": "train",
    "dev": "dev",
    "development": "dev",
    "val": "dev",
    "valid": "dev",
    "validation": "dev",
    "test": "test",
    "testing": "test",
}


@dataclass(frozen=True)
class ColumnMapping:
    """Which column is what. ``split`` and ``group`` may be None."""

    input: str
    target: str
    split: str | None = None
    group: str | None = None


@dataclass(frozen=True)
class Preview:
    """What a file holds: its columns, its first rows as text, and guesses that can be changed.

    ``total`` is the number of rows in the file, ``format`` says how it was read. ``labels`` are the
    distinct targets where ``answer`` is "label".
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    total: int
    format: str
    mapping: ColumnMapping
    answer: Literal["label", "free"]
    labels: tuple[str, ...]


def preview(path: Path | str, settings: Settings, sample: bool = False) -> Preview:
    """Look into a file: columns, first rows, and a guess at the mapping and the kind of answer.

    Raises:
        TaskError: the file cannot be used; names the line and the column.
    """
    table = read_table(Path(path), settings, sample)
    mapping = guess(table)
    targets = [shown(row.cells.get(mapping.target)).strip() for row in table.rows]
    answer = guess_answer([target for target in targets if target])
    return Preview(
        columns=table.columns,
        rows=tuple(
            tuple(shown(row.cells.get(column)) for column in table.columns)
            for row in table.rows[:PREVIEW_ROWS]
        ),
        total=table.total,
        format=table.format,
        mapping=mapping,
        answer=answer,
        labels=tuple(sorted({target for target in targets if target})) if answer == "label" else (),
    )


def build_task(
    path: Path | str,
    mapping: ColumnMapping,
    settings: Settings,
    *,
    title: str,
    instruction: str = "",
    summary: str = "",
    answer: Literal["label", "free"] | None = None,
    test_path: Path | str | None = None,
    seed: int = 0,
    sample: bool = False,
) -> Task:
    """Make a task from a file.

    The splits come from the split column, or the test items from a file of their own, or all from a
    seeded shuffle: 25 % test (at most 500), 15 % dev (at most 200), with labels in equal shares, and
    equal inputs always in the same split.

    Args:
        instruction: what the model is told; made from the labels where it is empty.
        answer: "label" or "free"; None guesses by the targets.
        sample: of a file with more than ``max_rows`` rows take that many, drawn with the seed.

    Raises:
        TaskError: names the line and the column that is wrong.
    """
    title = " ".join(title.split())
    if not title:
        raise TaskError("Give the task a title.")
    table = read_table(Path(path), settings, sample, seed)
    marked = _marked(table, mapping, settings)
    if test_path is not None:
        other = read_table(Path(test_path), settings, sample, seed)
        held_out = [(item, "test") for item, _ in _marked(other, mapping, settings, "test-")]
        marked = [(item, None if split == "test" else split) for item, split in marked] + held_out
    items = [item for item, _ in marked]
    kind = answer or guess_answer([item.target for item in items])
    if kind == "label":
        _check_labels(items, mapping.target)
    labels = tuple(sorted({item.target for item in items})) if kind == "label" else ()
    instruction = instruction.strip() or default_instruction(labels, mapping.target)
    if len(instruction) > settings.max_prompt_characters:
        raise TaskError(
            f"The instruction has {len(instruction):,} characters; at most "
            f"{settings.max_prompt_characters:,} can be used."
        )
    splits = _splits(marked, bool(labels), seed)
    groups = tuple(dict.fromkeys(item.group for item in splits["test"] if item.group is not None))
    if len(groups) > MOST_GROUPS:
        raise TaskError(
            f"This column has {len(groups)} different values; at most {MOST_GROUPS} groups can be scored apart.",
            column=mapping.group,
        )
    made = Task(
        id=slug(title),
        title=title,
        summary=summary.strip() or f"{len(items):,} rows of {Path(path).name}",
        description="",
        instruction=instruction,
        answer=kind,
        metric="accuracy" if kind == "label" else "token_f1",
        labels=labels,
        groups=groups,
        input_name=mapping.input,
        target_name=mapping.target,
        bundled=False,
        **splits,
    )
    validate(made)
    return replace(made, data_hash=data_hash(made))


def warnings(task: Task) -> list[str]:
    """What is odd about a task but does not keep it from being used, as sentences."""
    found: list[str] = []
    where: dict[str, dict[str, list[Item]]] = {}
    for split in SPLITS:
        for item in getattr(task, split):
            where.setdefault(_key(item.input), {}).setdefault(split, []).append(item)
    repeated = [group for groups in where.values() for group in groups.values() if len(group) > 1]
    if repeated:
        found.append(_several(repeated, "input occurs", "inputs occur", "more than once in the same split"))
    for split in ("train", "dev"):
        leaks = [
            groups[split] + groups["test"] for groups in where.values() if {split, "test"} <= set(groups)
        ]
        if leaks:
            end = f"also in {split}: the measured quality will look better than it is"
            found.append(_several(leaks, "test input is", "test inputs are", end))
    together = [sum(groups.values(), []) for groups in where.values()]
    contradictions = [items for items in together if len({item.target for item in items}) > 1]
    if contradictions:
        found.append(_several(contradictions, "input has", "inputs have", "different targets"))
    unseen = {item.target for item in task.test} - {item.target for item in task.train}
    if task.answer == "label" and unseen:
        found.append(f"No training example has the label {', '.join(sorted(unseen)[:5])}.")
    return found


def save(task: Task, settings: Settings, replace_own: bool = False, bundled: Path = BUNDLED) -> Path:
    """Keep a task in the settings' tasks folder, whole or not at all; returns its folder.

    Raises:
        TaskError: the name is a bundled task's or any subject's, or taken and ``replace_own`` is False.
        StoreError: the disk is full or not writable.
    """
    if (bundled / task.id).exists():
        raise TaskError(f"“{task.id}” is a bundled task. Choose another title.")
    _refuse_subjects_name(task.id, settings)
    folder = settings.tasks / task.id
    if folder.exists() and not replace_own:
        raise TaskError(f"You already have a task “{task.id}”. Choose another title.")
    try:
        settings.tasks.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            dir=settings.tasks, prefix=".", ignore_cleanup_errors=True
        ) as beside:
            _write(task, Path(beside) / task.id)
            read(Path(beside) / task.id, bundled=False)
            if folder.exists():
                folder.rename(Path(beside) / "old")
            (Path(beside) / task.id).rename(folder)
    except OSError as error:
        raise StoreError(f"The task could not be saved in {settings.tasks}: {error.strerror}.") from None
    return folder


def _refuse_subjects_name(id: str, settings: Settings) -> None:
    """A name stands for one thing: the command line tells texts from pictures by it."""
    from playground.data import subjects  # which needs this module's slug

    if (subjects.BUNDLED / id).exists():
        raise TaskError(f"“{id}” is a bundled subject. Choose another title.")
    if (subjects.folder_of(settings) / id).exists():
        raise TaskError(f"You already have a subject “{id}”. Choose another title.")


def delete(id: str, settings: Settings) -> None:
    """Remove a visitor's own task.

    Raises:
        TaskError: there is no own task with that id.
    """
    folder = settings.tasks / id
    if slug(id) != id or not (folder / "task.toml").is_file():
        raise TaskError(f"You have no task “{id}” that could be deleted.")
    shutil.rmtree(folder)


def template(kind: Literal["label", "free"], format: Literal["csv", "tsv", "jsonl"] = "csv") -> str:
    """A small example file to start from."""
    column, rows = _TEMPLATES[kind]
    if format == "jsonl":
        lines = (json.dumps({"input": text, column: target}, ensure_ascii=False) for text, target in rows)
        return "\n".join(lines) + "\n"
    file = io.StringIO()
    writer = csv.writer(file, delimiter="\t" if format == "tsv" else ",", lineterminator="\n")
    writer.writerows([("input", column), *rows])
    return file.getvalue()


def guess(table: Table) -> ColumnMapping:
    """Which column is what, by its name, else the longest texts as input and the last column as target."""

    def named(names: Sequence[str], taken: set[str | None]) -> str | None:
        by_name = {re.sub(r"\W+", "", column).lower(): column for column in reversed(table.columns)}
        return next((by_name[name] for name in names if name in by_name and by_name[name] not in taken), None)

    def length(column: str) -> int:
        return sum(len(shown(row.cells.get(column))) for row in table.rows[:200])

    split, group = named(SPLIT_NAMES, set()), named(GROUP_NAMES, set())
    others = [column for column in table.columns if column not in (split, group)]
    if len(others) < 2:
        others, split, group = list(table.columns), None, None
    source = named(INPUT_NAMES, {split, group})
    target = named(TARGET_NAMES, {split, group, source})
    if source is None:
        source = max((column for column in others if column != target), key=length)
    if target is None:
        target = [column for column in others if column != source][-1]
    return ColumnMapping(source, target, split, group)


def guess_answer(targets: Sequence[str]) -> Literal["label", "free"]:
    """ "label" where few, short targets come again and again, else "free"."""
    counts = Counter(normal_label(target) for target in targets)
    short = all(len(target) <= LABEL_CHARACTERS and "\n" not in target for target in targets)
    return "label" if short and 2 <= len(counts) <= min(50, len(targets) / 2) else "free"


def default_instruction(labels: Sequence[str], target_name: str) -> str:
    """What the model is told where the visitor wrote nothing."""
    if labels:
        return f"Answer with one of these and nothing else: {', '.join(labels)}."
    return f"Give the {target_name.lower()} as briefly as possible."


def slug(title: str) -> str:
    """A title as a folder's name: lower-case ASCII letters, digits and hyphens."""
    plain = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode().lower()
    name = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:48].strip("-")
    return name or f"task-{codecs.encode(title.encode('utf-8', 'replace'), 'hex').decode()[:12]}"


def _marked(
    table: Table, mapping: ColumnMapping, settings: Settings, prefix: str = ""
) -> list[tuple[Item, str | None]]:
    """The items of a table, each with its split where a column says so."""
    for column in (mapping.input, mapping.target, mapping.split, mapping.group):
        if column is not None and column not in table.columns:
            raise TaskError(f"There is no column “{column}”. Columns: {', '.join(table.columns)}.")
    if mapping.input == mapping.target:
        raise TaskError(f"“{mapping.input}” cannot be both the input and the target.")
    marked = []
    for row in table.rows:
        split = None
        if mapping.split is not None:
            word = _cell(row, mapping.split, settings).lower()
            if word not in SPLIT_VALUES:
                raise TaskError(f"“{word[:40]}” is not train, dev or test.", row.line, mapping.split)
            split = SPLIT_VALUES[word]
        group = shown(row.cells.get(mapping.group)).strip() if mapping.group else ""
        item = Item(
            id=f"{prefix}line-{row.line}",
            input=_cell(row, mapping.input, settings),
            target=_cell(row, mapping.target, settings),
            group=group or None,
        )
        marked.append((item, split))
    return marked


def _cell(row: Row, column: str, settings: Settings) -> str:
    value = row.cells.get(column)
    if isinstance(value, dict | list):
        raise TaskError("this is a list or an object; a text is needed.", row.line, column)
    text = shown(value).strip()
    if not text:
        raise TaskError("this cell is empty. Fill it in, or delete the row.", row.line, column)
    if len(text) > settings.max_prompt_characters:
        raise TaskError(
            f"this text has {len(text):,} characters; at most {settings.max_prompt_characters:,} can be used.",
            row.line,
            column,
        )
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise TaskError("this text holds half of a Unicode character.", row.line, column)
    return text


def _check_labels(items: Sequence[Item], column: str) -> None:
    first: dict[str, Item] = {}
    for item in items:
        line = int(item.id.rpartition("-")[2])
        known = first.setdefault(normal_label(item.target), item)
        if not normal_label(item.target):
            raise TaskError(f"the label “{item.target}” has no letter or digit.", line, column)
        if known.target != item.target:
            raise TaskError(
                f"“{item.target}” differs from “{known.target}” ({known.id}) only in case or punctuation. "
                "Write each label in one way.",
                line,
                column,
            )
    if len(first) == 1:
        raise TaskError(f"Every row has the target “{items[0].target}”: there is nothing to learn.")
    if len(first) > MOST_LABELS:
        raise TaskError(
            f"The column has {len(first)} different labels; at most {MOST_LABELS} can be used. "
            "Choose free answers instead.",
            column=column,
        )


def _splits(
    marked: Sequence[tuple[Item, str | None]], stratify: bool, seed: int
) -> dict[str, tuple[Item, ...]]:
    if all(split is None for _, split in marked):
        items = [item for item, _ in marked]
        if len(items) < FEWEST_ROWS:
            raise TaskError(f"The file has {len(items)} rows; at least {FEWEST_ROWS} are needed.")
        test, rest = _take(items, min(MOST_TEST, round(TEST_SHARE * len(items))), stratify, seed)
        dev, train = _take(rest, min(MOST_DEV, round(DEV_SHARE * len(items))), stratify, seed)
    else:
        test = [item for item, split in marked if split == "test"]
        dev = [item for item, split in marked if split == "dev"]
        train = [item for item, split in marked if split in (None, "train")]
        if not dev:
            dev, train = _take(train, min(MOST_DEV, max(1, round(0.2 * len(train)))), stratify, seed)
    found = {"train": tuple(train), "dev": tuple(dev), "test": tuple(test)}
    for split, items in found.items():
        if not items:
            raise TaskError(f"No row is left for {split}. Every split needs at least one.")
    return found


def _take(items: Sequence[Item], n: int, stratify: bool, seed: int) -> tuple[list[Item], list[Item]]:
    """About ``n`` of the items and the rest, shuffled, equal inputs together.

    Each label's inputs are spread evenly over 0..1 and the lowest are taken, so that every label
    gives its share; a label's only input is never taken.
    """
    generator = random.Random(seed)
    same: dict[str, list[Item]] = {}
    for item in items:
        same.setdefault(_key(item.input), []).append(item)
    strata: dict[str, list[list[Item]]] = {}
    for group in same.values():
        strata.setdefault(group[0].target if stratify else "", []).append(group)
    placed: list[tuple[float, list[Item]]] = []
    for groups in strata.values():
        generator.shuffle(groups)
        offset = generator.random() if len(groups) > 1 else 1.0
        placed += [((rank + offset) / len(groups), group) for rank, group in enumerate(groups)]
    placed.sort(key=lambda pair: pair[0])
    taken: list[Item] = []
    left: list[Item] = []
    for place, group in placed:
        (taken if len(taken) < n and place < 1.0 else left).extend(group)
    return taken, left


def _key(text: str) -> str:
    return " ".join(text.casefold().split())


def _several(groups: Sequence[Sequence[Item]], one: str, many: str, end: str) -> str:
    """A sentence with a count, and the ids of the first few."""
    places = "; ".join(", ".join(item.id for item in group[:3]) for group in groups[:3])
    dots = " …" if len(groups) > 3 else ""
    return f"{len(groups):,} {one if len(groups) == 1 else many} {end} ({places}{dots})."


def _write(task: Task, folder: Path) -> None:
    folder.mkdir()
    keys = [
        "title",
        "summary",
        "description",
        "instruction",
        "answer",
        "metric",
        "labels",
        "groups",
        "refusal",
        "input_name",
        "target_name",
        "licence",
        "modality",
    ]
    head = "".join(f"{key} = {_toml(value)}\n" for key in keys if (value := getattr(task, key)) is not None)
    notes = "".join(f"{_toml(label)} = {_toml(note)}\n" for label, note in task.label_notes.items())
    head += f"\n[label_notes]\n{notes}" if notes else ""
    (folder / "task.toml").write_text(head, encoding="utf-8", newline="\n")
    for split in SPLITS:
        lines = [json.dumps(item_record(item), ensure_ascii=False) + "\n" for item in getattr(task, split)]
        (folder / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8", newline="\n")
    for document in task.documents:
        (folder / "documents").mkdir(exist_ok=True)
        (folder / "documents" / f"{document.id}.md").write_text(document.text, encoding="utf-8", newline="\n")


def _toml(value: str | Sequence[str]) -> str:
    """A text or a list of texts in TOML: JSON's escapes are TOML's, but for DEL."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return f"[{', '.join(_toml(text) for text in value)}]"


_TEMPLATES: dict[str, tuple[str, tuple[tuple[str, str], ...]]] = {
    "label": (
        "label",
        (
            ("The tap in room 12 drips all night.", "repair"),
            ("Can we book the big hall for Saturday?", "booking"),
            ("I was charged twice for June.", "billing"),
            ("The lift stops between two floors, again.", "repair"),
            ("Is the small room free on the 4th, in the evening?", "booking"),
            ("Please send last year's invoices to my new address.", "billing"),
            ("One window on the stairs no longer shuts.", "repair"),
            ("We have to move our yoga class to Monday.", "booking"),
            ("Your reminder came after I had paid.", "billing"),
            ("There is no hot water on the second floor.", "repair"),
            ("How many chairs fit into the library?", "booking"),
            ("Do members get the rate of “staff” or of “guests”?", "billing"),
        ),
    ),
    "free": (
        "answer",
        (
            ("When does the library open on Saturday?", "10:00"),
            ("What does a day ticket cost?", "4 pounds"),
            ("Who looks after the garden?", "Ms Okafor"),
            ("How long can a book be kept?", "three weeks"),
            ("Where are lost things handed in?", "at the front desk"),
            ("Which room has a piano?", "the blue room"),
            ("How many people fit into the hall?", "180"),
            ("What is the fee for a late book?", "20 pence a day"),
            ("Who may borrow the projector?", "members"),
            ("When is the building closed?", "on public holidays"),
            ("What is served on Fridays?", "soup"),
            ("How far ahead can a room be booked?", "six weeks"),
        ),
    ),
}
