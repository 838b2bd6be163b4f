"""A visitor's own task: reading, mapping, splitting, saving, and every way a file can be wrong."""

import csv
import json
import time
from collections import Counter
from dataclasses import replace

import pytest

from playground.data import tasks, upload
from playground.data.tables import DELIMITERS
from playground.data.upload import ColumnMapping, build_task, preview, save
from playground.errors import StoreError, TaskError
from playground.settings import Settings

MAPPING = ColumnMapping("input", "label")


@pytest.fixture
def settings(tmp_path):
    return Settings(home=tmp_path / "home")


def rows(n=40, labels=("repair", "booking", "billing", "garden")):
    return [
        (f"message {i} about <b>{labels[i % len(labels)]}</b>", labels[i % len(labels)]) for i in range(n)
    ]


def write(path, data, header=("input", "label"), delimiter=","):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=delimiter).writerows([header, *data])
    return path


def put(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_found(tmp_path, settings, delimiter):
    data = [("Hello, world; it's | a\ttest", "x"), ('He said "no"\nand left', "y")] * 8
    found = preview(write(tmp_path / "a.csv", data, delimiter=delimiter), settings)
    assert found.columns == ("input", "label")
    assert found.rows[:2] == tuple(data[:2])
    assert (found.total, found.answer, found.labels) == (16, "label", ("x", "y"))
    assert DELIMITERS[delimiter] in found.format


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
def test_encodings(tmp_path, settings, encoding):
    text = "input,label\n" + "Où est la clé ? 钥匙,x\nnaïve,y\n" * 6
    mark = b"\xff\xfe" if encoding == "utf-16-le" else b""
    found = preview(put(tmp_path / "a.csv", mark + text.encode(encoding)), settings)
    assert found.columns == ("input", "label")
    assert found.rows[0] == ("Où est la clé ? 钥匙", "x")


def test_tsv_and_line_ends(tmp_path, settings):
    found = preview(put(tmp_path / "a.tsv", "question\tanswer\r\na, b, c\t1\r\nd\t2\r\n"), settings)
    assert found.rows == (("a, b, c", "1"), ("d", "2"))
    assert found.format.startswith("TSV")


def test_jsonl_with_numbers_and_missing_keys(tmp_path, settings):
    lines = [{"question": f"How many? {i}", "answer": i, "note": None} for i in range(12)]
    lines[3] = {"question": "How many? 3", "answer": 3, "extra": [1]}
    path = put(tmp_path / "a.jsonl", "\n".join(map(json.dumps, lines)) + "\n\n")
    found = preview(path, settings)
    assert found.columns == ("question", "answer", "note", "extra")
    assert found.mapping == ColumnMapping("question", "answer")
    task = build_task(path, found.mapping, settings, title="Numbers")
    assert {item.target for item in (*task.train, *task.dev, *task.test)} == {str(i) for i in range(12)}
    assert (task.answer, task.metric) == ("free", "token_f1")


@pytest.mark.parametrize(
    ("header", "mapping"),
    [
        (("id", "text", "category", "split"), ColumnMapping("text", "category", "split")),
        (("Message", "Desk", "group", "id"), ColumnMapping("Message", "Desk", None, "group")),
        (("answer", "b", "c", "question"), ColumnMapping("question", "answer")),
        (("a", "b", "c", "d"), ColumnMapping("b", "d")),
    ],
)
def test_columns_are_guessed(tmp_path, settings, header, mapping):
    data = [(f"{i}", "a rather long text, the longest of all", "x", "train") for i in range(10)]
    assert preview(write(tmp_path / "a.csv", data, header), settings).mapping == mapping


def test_labels_are_split_in_equal_shares_and_repeatably(tmp_path, settings):
    path = write(tmp_path / "a.csv", rows(200))
    task = build_task(path, MAPPING, settings, title="My desk!")
    assert (len(task.train), len(task.dev), len(task.test)) == (120, 30, 50)
    for split, least in [(task.train, 28), (task.dev, 6), (task.test, 11)]:
        assert min(Counter(item.target for item in split).values()) >= least
    assert (task.id, task.answer, task.metric) == ("my-desk", "label", "accuracy")
    assert task.labels == ("billing", "booking", "garden", "repair")
    assert all(label in task.instruction for label in task.labels)
    assert build_task(path, MAPPING, settings, title="My desk!").data_hash == task.data_hash
    assert build_task(path, MAPPING, settings, title="My desk!", seed=1).test != task.test


def test_a_rare_label_stays_in_training(tmp_path, settings):
    data = [*rows(40), ("the only one", "rare")]
    for seed in range(5):
        task = build_task(write(tmp_path / "a.csv", data), MAPPING, settings, title="T", seed=seed)
        assert "rare" in {item.target for item in task.train}


def test_equal_inputs_never_leak_through_our_own_split(tmp_path, settings):
    data = [(f"message {i // 3}", "x" if i // 3 % 2 else "y") for i in range(90)]
    task = build_task(write(tmp_path / "a.csv", data), MAPPING, settings, title="T")
    inputs = [{item.input for item in split} for split in (task.train, task.dev, task.test)]
    assert not (inputs[0] & inputs[2] or inputs[1] & inputs[2] or inputs[0] & inputs[1])
    assert "more than once in the same split" in " ".join(upload.warnings(task))


def test_a_split_column_is_followed(tmp_path, settings):
    data = [(f"m{i}", "xy"[i % 2], ["train", "Validation", "TEST"][i % 3]) for i in range(30)]
    path = write(tmp_path / "a.csv", data, ("input", "label", "split"))
    task = build_task(path, preview(path, settings).mapping, settings, title="T")
    assert [item.input for item in task.test] == [f"m{i}" for i in range(2, 30, 3)]
    assert len(task.train) == len(task.dev) == 10


def test_a_test_file_of_its_own(tmp_path, settings):
    first, second = write(tmp_path / "a.csv", rows(20)), write(tmp_path / "b.csv", rows(4))
    task = build_task(first, MAPPING, settings, title="T", test_path=second)
    assert [item.id for item in task.test] == ["test-line-2", "test-line-3", "test-line-4", "test-line-5"]
    assert len(task.train) + len(task.dev) == 20
    assert any(
        "4 test inputs are also in" in text or "also in train" in text for text in upload.warnings(task)
    )


def test_warnings_name_contradictions_and_unseen_labels(tmp_path, settings):
    data = [("same", "x", "train"), ("Same ", "y", "train"), ("b", "x", "train"), ("c", "z", "test")]
    data += [(f"d{i}", "y", "train") for i in range(9)]
    path = write(tmp_path / "a.csv", data, ("input", "label", "split"))
    mapping = ColumnMapping("input", "label", "split")
    found = " ".join(upload.warnings(build_task(path, mapping, settings, title="T", answer="label")))
    assert "1 input has different targets (line-2, line-3)" in found
    assert "No training example has the label z" in found
    clean = build_task(write(tmp_path / "b.csv", rows()), MAPPING, settings, title="T")
    assert upload.warnings(clean) == []


def test_groups_are_kept(tmp_path, settings):
    data = [(text, label, "north" if i % 2 else "") for i, (text, label) in enumerate(rows())]
    path = write(tmp_path / "a.csv", data, ("input", "label", "group"))
    task = build_task(path, ColumnMapping("input", "label", None, "group"), settings, title="T")
    assert task.groups == ("north",)
    assert {item.group for item in task.test} == {"north", None}


def test_a_saved_task_is_the_same_task(tmp_path, settings):
    odd = 'Say "yes"\\no\x7f, <script>alert(1)</script>\nor 🙂 \u2028 end'
    data = [(f"{odd} {i}", label) for i, (_, label) in enumerate(rows())]
    task = build_task(
        write(tmp_path / "a.csv", data), MAPPING, settings, title="Ärger & <b>", instruction=odd, summary=odd
    )
    folder = save(task, settings)
    assert folder == settings.tasks / "arger-b"
    assert tasks.task("arger-b", settings, tmp_path) == task
    assert tasks.tasks(settings, tmp_path)["arger-b"].title == "Ärger & <b>"
    assert [path.name for path in settings.tasks.iterdir()] == ["arger-b"]


def test_saving_overwrites_nothing_unasked(tmp_path, settings):
    task = build_task(write(tmp_path / "a.csv", rows()), MAPPING, settings, title="Desk")
    save(task, settings)
    with pytest.raises(TaskError, match="already have a task “desk”. Choose another title.$"):
        save(task, settings)
    other = replace(task, instruction="Another.")
    save(other, settings, replace_own=True)
    assert tasks.task("desk", settings, tmp_path).instruction == "Another."
    with pytest.raises(TaskError, match="“support-desk” is a bundled task"):
        save(replace(task, id="support-desk"), settings, replace_own=True)


def test_a_subjects_name_is_taken(tmp_path, settings):
    (settings.home / "subjects" / "my-lamp").mkdir(parents=True)
    path = write(tmp_path / "a.csv", rows())
    for title, words in [("Mascot", "“mascot” is a bundled subject"), ("My lamp", "a subject “my-lamp”")]:
        with pytest.raises(TaskError, match=words):
            save(build_task(path, MAPPING, settings, title=title), settings, replace_own=True)
    assert tasks.tasks(settings, tmp_path) == {}


def test_a_full_disk_leaves_nothing_half_written(tmp_path, settings, monkeypatch):
    task = build_task(write(tmp_path / "a.csv", rows()), MAPPING, settings, title="Desk")

    def full(*args, **more):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_text", full)
    with pytest.raises(StoreError, match="No space left on device"):
        save(task, settings)
    assert list(settings.tasks.iterdir()) == []


def test_deleting_takes_own_tasks_only(tmp_path, settings):
    save(build_task(write(tmp_path / "a.csv", rows()), MAPPING, settings, title="Desk"), settings)
    upload.delete("desk", settings)
    assert tasks.tasks(settings, tmp_path) == {}
    for id in ("desk", "support-desk", "..", ""):
        with pytest.raises(TaskError, match="no task"):
            upload.delete(id, settings)


@pytest.mark.parametrize("kind", ["label", "free"])
@pytest.mark.parametrize("format", ["csv", "tsv", "jsonl"])
def test_templates_make_tasks(tmp_path, settings, kind, format):
    path = put(tmp_path / f"a.{format}", upload.template(kind, format))
    found = preview(path, settings)
    assert found.answer == kind
    assert build_task(path, found.mapping, settings, title="T").answer == kind


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "", "a.csv is empty"),
        ("a.csv", " \n\n", "a.csv is empty"),
        ("a.csv", "input,label\n", "a header and no rows"),
        ("a.csv", "text\nfirst\nsecond\n", "Line 1: The file has one column only"),
        ("a.csv", "input,,label\na,b,c\n", "Line 1: column 2 has no name"),
        ("a.csv", "input,input\na,b\n", "Line 1, column “input”: two columns have this name"),
        ("a.csv", "input,label\na,b\nc\n", "Line 3, column “label”: this cell is missing"),
        ("a.csv", "input,label\na,b\nc,d,e\n", "Line 3: 3 cells, but the header has 2"),
        ("a.csv", 'input,label\na,b\n"c,d\ne,f\n', "Line 3: this row cannot be read"),
        ("a.csv", "input,label\na,b\n" + "c" * 140_000 + ",d\n", "Line 3: a cell has more than 131,072 char"),
        ("a.tsv", 'input\tlabel\n"a\tb\n' + "c\td\n" * 40_000, "Line 2: a cell has more than 131,072 char"),
        ("a.csv", b"input,label\na,b\ncaf\xe9,d\n", "Line 3: the byte 0xE9 is not UTF-8"),
        ("a.csv", b"\xff\xfeinput,label\n".replace(b"l", b"\x00\xdc"), "not UTF-16"),
        ("a.csv", b"GIF\x00\x01\x02\xff", "is not text"),
        ("a.csv", b"PK\x03\x04rest", "spreadsheet or zip"),
        ("a.csv", b"%PDF-1.7 rest", "is a PDF"),
        ("a.jsonl", '{"input": 1, "label": 2}\n{"input": 1', "Line 2: this is not JSON"),
        ("a.jsonl", '{"input": 1, "label": 2}\n[1]\n', "Line 2: this is not a JSON object"),
        ("a.jsonl", '{"input": 1}\n', "one column only"),
        ("a.jsonl", "[" * 100_000, "Line 1: this is not JSON"),
    ],
)
def test_a_file_that_cannot_be_used_is_explained(tmp_path, settings, name, content, message):
    with pytest.raises(TaskError, match=message):
        preview(put(tmp_path / name, content), settings)


def test_a_long_row_of_short_cells_is_read(tmp_path, settings):
    found = preview(write(tmp_path / "a.tsv", [("x" * 100_000, "y" * 100_000)], delimiter="\t"), settings)
    assert [len(cell) for cell in found.rows[0]] == [100_000, 100_000]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (",x", "Line 5, column “input”: this cell is empty"),
        ("a,  ", "Line 5, column “label”: this cell is empty"),
        ("a,Repair", "Line 5, column “label”: “Repair” differs from “repair” .line-2. only in case"),
        ("a,!?", "Line 5, column “label”: the label “![?]” has no letter"),
        ("a" * 20_001 + ",x", "Line 5, column “input”: this text has 20,001 characters"),
    ],
)
def test_a_wrong_row_is_named(tmp_path, settings, line, message):
    path = write(tmp_path / "a.csv", rows())
    lines = path.read_text().splitlines()
    lines.insert(4, line)
    path.write_text("\n".join(lines))
    with pytest.raises(TaskError, match=message):
        build_task(path, MAPPING, settings, title="T")


def test_a_line_number_counts_lines_not_rows(tmp_path, settings):
    data = [("two\nlines", "x"), ("one", "y")] * 8
    path = write(tmp_path / "a.csv", [*data, ("", "x")])
    with pytest.raises(TaskError, match="Line 26, column “input”"):
        build_task(path, MAPPING, settings, title="T")


def test_wrong_choices_are_explained(tmp_path, settings):
    path = write(tmp_path / "a.csv", rows())
    for mapping, message in [
        (ColumnMapping("nothing", "label"), "no column “nothing”. Columns: input, label"),
        (ColumnMapping("label", "label"), "cannot be both"),
        (
            ColumnMapping("input", "label", "label"),
            "Line 2, column “label”: “repair” is not train, dev or test",
        ),
    ]:
        with pytest.raises(TaskError, match=message):
            build_task(path, mapping, settings, title="T")
    with pytest.raises(TaskError, match="Give the task a title"):
        build_task(path, MAPPING, settings, title="  ")
    with pytest.raises(TaskError, match="The instruction has 30,000 characters"):
        build_task(path, MAPPING, settings, title="T", instruction="x" * 30_000)
    with pytest.raises(TaskError, match="has 9 rows; at least 10"):
        build_task(write(path, rows(9)), MAPPING, settings, title="T")
    with pytest.raises(TaskError, match="nothing to learn"):
        build_task(write(path, rows(20, ["one"])), MAPPING, settings, title="T", answer="label")
    nested = put(tmp_path / "a.jsonl", '{"input": ["a"], "label": "x"}\n')
    with pytest.raises(TaskError, match="Line 1, column “input”: this is a list or an object"):
        build_task(nested, MAPPING, settings, title="T")
    half = put(tmp_path / "b.jsonl", '{"input": "\\ud800", "label": "x"}\n')
    with pytest.raises(TaskError, match="Line 1, column “input”: this text holds half"):
        build_task(half, MAPPING, settings, title="T")
    with pytest.raises(TaskError, match="missing.csv cannot be read"):
        preview(tmp_path / "missing.csv", settings)


def test_a_hundred_thousand_rows_are_answered_at_once(tmp_path, settings):
    path = write(tmp_path / "a.csv", rows(100_000))
    start = time.process_time()  # the machine may be busy with other tests
    with pytest.raises(TaskError, match="The file has 100,000 rows; at most 20,000 can be used"):
        preview(path, settings)
    assert time.process_time() - start < 2
    found = preview(path, settings, sample=True)
    assert found.total == 100_000
    task = build_task(path, found.mapping, settings, title="T", sample=True)
    assert len(task.train) + len(task.dev) + len(task.test) == 20_000
    assert (len(task.dev), len(task.test)) == (200, 500)
    lines = [int(item.id[5:]) for item in task.train]
    assert max(lines) > 95_000 and 45_000 < sum(lines) / len(lines) < 55_000
    assert build_task(path, found.mapping, settings, title="T", sample=True).data_hash == task.data_hash


def test_fifty_megabytes_are_refused_unread(tmp_path, settings):
    path = tmp_path / "a.csv"
    with path.open("wb") as file:
        file.truncate(50_000_000)
    with pytest.raises(TaskError, match="a.csv has 50 MB; at most 20 MB can be used"):
        preview(path, settings)


def test_slugs():
    assert upload.slug("Hallo, Welt – 2!") == "hallo-welt-2"
    assert upload.slug("../../etc/passwd") == "etc-passwd"
    assert upload.slug("任务").startswith("task-")
    assert all(tasks.TASK_ID.fullmatch(upload.slug(title)) for title in ("x" * 300, "-", "Ä", "🙂", "a_b"))
