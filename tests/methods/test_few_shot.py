"""Zero-shot and few-shot: which examples, in which order, and what is kept."""

from collections import Counter

import numpy as np
import pytest

from playground.data.tasks import Item, Task
from playground.errors import AdapterError, InvalidParams
from playground.events import result_of
from playground.methods.base import Context
from playground.methods.few_shot import FewShot, FewShotParams, arrange, draw, select
from playground.methods.zero_shot import ZeroShot


def label_task(per_label=6, labels=("A", "B", "C")):
    items = [Item(f"{label}{n}", f"text {label} {n}", label) for label in labels for n in range(per_label)]
    return Task("t", "Desk", "", "", "Route.", "label", "accuracy", tuple(items), (), (), labels=labels)


class Letters:
    """An embedder that knows only how often each letter occurs."""

    def __init__(self):
        self.calls = []

    def encode(self, texts):
        self.calls.append(list(texts))
        counts = np.array(
            [[text.lower().count(chr(97 + i)) for i in range(26)] for text in texts], np.float32
        )
        return counts / np.linalg.norm(counts, axis=1, keepdims=True)


def context(task, folder, embedder=None, seed=0):
    def load():
        assert embedder is not None, "no embedder is needed here"
        return embedder

    return Context(task, None, folder, seed, load)


def run(method, params, context):
    events = []
    return result_of(method.adapt(params, context), events.append), events


def test_zero_shot_is_the_instruction_and_the_question(tmp_path):
    task = label_task()
    adapted, _ = run(ZeroShot(), ZeroShot.Params(), context(task, tmp_path))
    [prompt] = adapted.prompts(["Where is <b>it</b>?"])
    assert prompt.messages == [
        {"role": "system", "content": "Route."},
        {"role": "user", "content": "Where is <b>it</b>?"},
    ]
    assert (adapted.stored_bytes, adapted.trainable_parameters) == (0, None)
    assert list(tmp_path.iterdir()) == []


def test_first_takes_the_first_in_order(tmp_path):
    params = FewShotParams(k=4, selector="first")
    adapted, _ = run(FewShot(), params, context(label_task(), tmp_path))
    one, two = adapted.prompts(["x", "y"])
    assert one.examples == ["A0", "A1", "A2", "A3"]
    assert one.messages[:-1] == two.messages[:-1]
    assert [turn["role"] for turn in one.messages] == ["system", *["user", "assistant"] * 4, "user"]
    assert one.messages[-2]["content"] == "A"


@pytest.mark.parametrize("k", [1, 3, 7, 18])
def test_random_is_balanced_seeded_and_without_repeats(k):
    task = label_task()
    chosen = draw(task, k, seed=3)
    counts = Counter(item.target for item in chosen)
    assert len({item.id for item in chosen}) == k
    assert k < 3 or max(counts.values()) - min(counts.values()) <= 1
    assert draw(task, k, seed=3) == chosen
    assert k == 18 or any(draw(task, k, seed=seed) != chosen for seed in range(4, 8))


def test_random_takes_what_is_there_of_a_scarce_label():
    task = label_task(2)
    uneven = Task(**{**task.__dict__, "train": task.train + tuple(Item(f"D{n}", "d", "D") for n in range(9))})
    counts = Counter(item.target for item in draw(uneven, 10, 0))
    assert counts == {"A": 2, "B": 2, "C": 2, "D": 4}


def test_random_on_free_answers_draws_from_all():
    items = tuple(Item(str(n), f"q {n}", f"answer {n}") for n in range(30))
    task = Task("t", "T", "", "", "Answer.", "free", "token_f1", items, (), ())
    assert len({item.id for seed in range(20) for item in draw(task, 3, seed)}) > 15


def test_nearest_picks_for_each_question(tmp_path):
    items = tuple(Item(word, word, "x") for word in ("cat", "act up", "dog", "god"))
    task = Task("t", "T", "", "", "I.", "label", "accuracy", items, (), (), labels=("x", "y"))
    embedder = Letters()
    params = FewShotParams(k=2, selector="nearest")
    adapted, _ = run(FewShot(), params, context(task, tmp_path, embedder))
    cats, dogs = adapted.prompts(["tac", "good"])
    assert cats.examples == ["cat", "act up"]
    assert set(dogs.examples) == {"dog", "god"}
    adapted.prompts(["tac"])
    assert embedder.calls.count([item.input for item in items]) == 1
    last, _ = run(
        FewShot(), params.model_copy(update={"order": "nearest last"}), context(task, tmp_path, embedder)
    )
    assert last.prompts(["tac"])[0].examples == ["act up", "cat"]


def test_alternating_labels():
    items = label_task(2).train
    assert [item.id for item in arrange(items, "labels alternating")] == ["A0", "B0", "C0", "A1", "B1", "C1"]
    params = FewShotParams(k=4, selector="first", order="labels alternating")
    assert [item.id for item in select(label_task(2), params, 0)] == ["A0", "B0", "A1", "B1"]


def test_no_examples_is_zero_shot(tmp_path):
    for selector in ("first", "random", "nearest"):
        adapted, _ = run(FewShot(), FewShotParams(k=0, selector=selector), context(label_task(), tmp_path))
        assert len(adapted.prompts(["x"])[0].messages) == 2
        assert FewShot().restore(FewShotParams(k=0, selector=selector), context(label_task(), tmp_path))


def test_refused_parameters():
    task = label_task(2)
    with pytest.raises(
        InvalidParams, match="k is 7, but “Desk” has only 6 training examples. Choose at most 6"
    ):
        FewShot().check(FewShotParams(k=7), task)
    with pytest.raises(InvalidParams, match="needs the selector “nearest”"):
        FewShot().check(FewShotParams(k=2, order="nearest last"), task)
    free = Task(**{**task.__dict__, "answer": "free", "metric": "token_f1"})
    with pytest.raises(InvalidParams, match="needs a task with labels"):
        FewShot().check(FewShotParams(k=2, order="labels alternating"), free)
    for values, message in [
        ({"k": 65}, "between 0 and 64"),
        ({"k": -1}, "between 0"),
        ({"selector": "x"}, "one of"),
    ]:
        with pytest.raises(InvalidParams, match=message):
            FewShotParams.parse(values)


@pytest.mark.parametrize("selector", ["first", "random", "nearest"])
def test_what_is_kept_is_counted_and_restores(tmp_path, selector):
    task, params = label_task(), FewShotParams(k=5, selector=selector)
    adapted, events = run(FewShot(), params, context(task, tmp_path, Letters()))
    assert adapted.stored_bytes == sum(path.stat().st_size for path in tmp_path.iterdir()) > 0
    assert [event.data["bytes"] for event in events if event.kind == "artifact"] == [adapted.stored_bytes]
    other_train = Task(**{**task.__dict__, "train": ()})
    restored = FewShot().restore(params, context(other_train, tmp_path, Letters(), seed=9))
    assert restored.prompts(["text B 1"]) == adapted.prompts(["text B 1"])
    assert restored.stored_bytes == adapted.stored_bytes


def test_a_damaged_folder_is_refused(tmp_path):
    task, params = label_task(), FewShotParams(k=5, selector="nearest")
    run(FewShot(), params, context(task, tmp_path, Letters()))
    with pytest.raises(AdapterError, match="not those of this run"):
        FewShot().restore(FewShotParams(k=5), context(task, tmp_path))
    (tmp_path / "examples.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(AdapterError, match="cannot be read"):
        FewShot().restore(params, context(task, tmp_path))
    (tmp_path / "examples.json").write_text('[{"id": "1"')
    with pytest.raises(AdapterError, match="cannot be read"):
        FewShot().restore(params, context(task, tmp_path))
    (tmp_path / "examples.json").unlink()
    with pytest.raises(AdapterError, match="cannot be read"):
        FewShot().restore(params, context(task, tmp_path))
