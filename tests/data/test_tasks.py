"""Loading and checking tasks."""

import json
from dataclasses import replace

import pytest

from playground.data import tasks
from playground.errors import TaskError
from playground.evaluation.scoring import score
from playground.settings import Settings

HEAD = """title = "Desk"
instruction = "Answer Comet or Fjord."
answer = "label"
metric = "accuracy"
labels = ["Comet", "Fjord"]
"""


def write(folder, head=HEAD, **splits):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "task.toml").write_text(head, encoding="utf-8")
    for split in tasks.SPLITS:
        items = splits.get(split, [{"id": f"{split}-1", "input": "Where?", "target": "Comet"}])
        text = "".join(json.dumps(item) + "\n" if isinstance(item, dict) else item + "\n" for item in items)
        (folder / f"{split}.jsonl").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def settings(tmp_path):
    return Settings(home=tmp_path / "home")


def test_bundled_and_own_tasks_are_listed_with_counts(tmp_path, settings):
    write(tmp_path / "assets" / "desk")
    write(settings.tasks / "mine", dev=[{"id": f"d{n}", "input": "x", "target": "Fjord"} for n in range(3)])
    listed = tasks.tasks(settings, tmp_path / "assets")
    assert list(listed) == ["desk", "mine"]
    assert (listed["desk"].bundled, listed["mine"].bundled) == (True, False)
    assert (listed["mine"].train, listed["mine"].dev, listed["mine"].test) == (1, 3, 1)
    assert listed["mine"].labels == ("Comet", "Fjord")


def test_listing_reads_no_items(tmp_path, settings):
    write(tmp_path / "assets" / "desk", train=["not json"])
    assert tasks.tasks(settings, tmp_path / "assets")["desk"].train == 1
    with pytest.raises(TaskError, match=r"^Line 1: train.jsonl: this is not JSON"):
        tasks.task("desk", settings, tmp_path / "assets")


def test_a_broken_own_task_does_not_hide_the_others(tmp_path, settings):
    write(settings.tasks / "good")
    write(settings.tasks / "bad", head="title = ")
    assert list(tasks.tasks(settings, tmp_path)) == ["good"]
    with pytest.raises(TaskError, match="not valid TOML"):
        tasks.task("bad", settings, tmp_path)


def test_an_own_task_cannot_stand_for_a_bundled_one(tmp_path, settings):
    write(tmp_path / "assets" / "desk")
    write(settings.tasks / "desk", head=HEAD.replace("Desk", "Other"))
    assert tasks.tasks(settings, tmp_path / "assets")["desk"].title == "Desk"
    assert tasks.task("desk", settings, tmp_path / "assets").title == "Desk"


def test_a_task_is_read_once_until_its_files_change(tmp_path, settings):
    folder = write(tmp_path / "desk")
    first = tasks.task("desk", settings, tmp_path)
    assert tasks.task("desk", settings, tmp_path) is first
    write(folder, train=[{"id": "t", "input": "A new message, longer", "target": "Fjord"}])
    second = tasks.task("desk", settings, tmp_path)
    assert second.train[0].input == "A new message, longer"
    assert second.data_hash != first.data_hash


def test_the_hash_covers_what_is_seen_and_what_decides_the_score(tmp_path):
    found = tasks.read(write(tmp_path / "desk"))
    item = found.test[0]
    changes = [
        {"instruction": "Other."},
        {"labels": ("Comet", "Heron")},
        {"refusal": "No."},
        {"documents": (tasks.Document("a", "text"),)},
        {"test": (replace(item, accept=("comet!",)),)},
        {"test": (replace(item, input="Where is it?"),)},
    ]
    hashes = [tasks.data_hash(replace(found, **change)) for change in changes]
    assert len({found.data_hash, *hashes}) == len(changes) + 1
    assert tasks.data_hash(replace(found, title="Another title")) == found.data_hash


def test_documents_and_evidence(tmp_path):
    head = 'title="H"\ninstruction="Answer."\nanswer="free"\nmetric="token_f1"\nrefusal="It does not say."\n'
    piece = {"document": "fares", "start": 2, "end": 7}
    item = {"id": "q", "input": "How much?", "target": "5 €", "accept": ["five"], "evidence": [piece]}
    folder = write(tmp_path / "book", head, test=[item])
    (folder / "documents").mkdir()
    (folder / "documents" / "fares.md").write_text("# Fares: 5 €", encoding="utf-8")
    found = tasks.read(folder)
    assert found.documents == (tasks.Document("fares", "# Fares: 5 €"),)
    assert found.test[0].evidence == (tasks.Evidence("fares", 2, 7),)
    assert found.test[0].accept == ("five",)
    write(folder, head, test=[item | {"evidence": [piece | {"end": 99}]}])
    with pytest.raises(
        TaskError, match="Line 1, column “evidence”: book, test: fares has no characters 2 to 99"
    ):
        tasks.read(folder)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (
            {"id": "2", "input": "x", "target": "Heron"},
            "Line 2, column “target”: desk, test: “Heron” is not one",
        ),
        (
            {"id": "2", "input": " ", "target": "Comet"},
            "Line 2, column “input”: test.jsonl: a text is missing",
        ),
        ({"id": "2", "input": "x"}, "Line 2, column “target”: test.jsonl: a text is missing"),
        (
            {"id": "1", "input": "x", "target": "Comet"},
            "Line 2, column “id”: desk, test: the id “1” is already",
        ),
        (
            {"id": "2", "input": "x", "target": "Comet", "note": 1},
            "Line 2, column “note”: test.jsonl: this key",
        ),
        ({"id": "2", "input": "x", "target": "Comet", "accept": "y"}, "Line 2, column “accept”"),
        ({"id": "2", "input": "x", "target": "Comet", "group": 3}, "Line 2, column “group”"),
        ({"id": "2", "input": "x", "target": "Comet", "evidence": [{"document": "a"}]}, "column “evidence”"),
        ("[1]", "Line 2: test.jsonl: a line must be a JSON object"),
        ("{'id': 1}", "Line 2: test.jsonl: this is not JSON"),
    ],
)
def test_a_wrong_item_is_named_by_line_and_column(tmp_path, item, message):
    first = {"id": "1", "input": "x", "target": "Comet"}
    with pytest.raises(TaskError, match=message):
        tasks.read(write(tmp_path / "desk", test=[first, item]))


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (HEAD.replace('"accuracy"', '"token_f1"'), "metric “token_f1” does not fit answer “label”"),
        (HEAD.replace('"label"', '"image"'), "answer must be one of label, free"),
        (HEAD.replace('title = "Desk"', ""), "needs a text “title”"),
        (HEAD.replace('"Fjord"', '"comet."'), "differ only in case or punctuation"),
        (HEAD.replace(', "Fjord"', ""), "at least two labels"),
        (HEAD + "colour = 1\n", "unknown keys: colour"),
    ],
)
def test_a_wrong_head_is_explained(tmp_path, head, message):
    with pytest.raises(TaskError, match=message):
        tasks.read(write(tmp_path / "desk", head))


def test_missing_and_foreign_files(tmp_path, settings):
    folder = write(tmp_path / "desk")
    (folder / "test.jsonl").write_bytes(b'{"id": "1"}\n{"input": "caf\xe9"}\n')
    with pytest.raises(TaskError, match=r"Line 2: test.jsonl is not UTF-8"):
        tasks.read(folder)
    (folder / "test.jsonl").unlink()
    with pytest.raises(TaskError, match=r"desk/test.jsonl cannot be read"):
        tasks.read(folder)
    for id in ("none", "../desk", "", "Desk"):
        with pytest.raises(TaskError, match="There is no task"):
            tasks.task(id, settings, tmp_path / "empty")


def test_examples_stand_as_turns_before_the_input(tmp_path):
    found = tasks.read(write(tmp_path / "desk"))
    roles = [turn["role"] for turn in found.messages("Where?", found.train)]
    assert roles == ["system", "user", "assistant", "user"]
    assert found.messages("<b>x</b>")[-1] == {"role": "user", "content": "<b>x</b>"}


@pytest.mark.parametrize("id", ["support-desk", "handbook"])
def test_bundled_tasks_are_whole_and_their_own_answers_are_right(id, settings):
    found = tasks.task(id, settings)
    listed = tasks.tasks(settings)[id]
    assert [len(getattr(found, split)) for split in tasks.SPLITS] == [listed.train, listed.dev, listed.test]
    assert len(found.data_hash) == 64
    for item in found.test:
        for form in (item.target, *item.accept):
            result = score(found, item, form)
            assert (result.correct, result.score, result.valid) == (True, 1.0, True), (item.id, form)
