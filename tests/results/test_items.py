import json

import pytest

from playground.errors import InvalidInput
from playground.events import Event
from playground.results import comparison, items
from playground.results.runs import Run


def sample(item, correct, prediction="red", target="red", group=None, stage="test", **more):
    return Event.sample(
        stage, item, f"input {item}", f"It is {prediction}.", target,
        correct=correct, valid=True, prediction=prediction, group=group, **more,
    )  # fmt: skip


BEFORE = [
    sample("a", True),
    sample("b", True),
    sample("c", False, None),
    sample("d", False, "blue"),
]
AFTER = [
    sample("a", True, group="x"),
    sample("b", False, "blue", group="y"),
    sample("c", True, group="y"),
    sample("d", False, "green", target="blue"),
    sample("e", True),
]


def paired():
    return items.pair(items.tests(AFTER), items.tests(BEFORE))


def ids(found):
    return [item.id for item in found]


def test_items_are_paired_by_their_id_and_classed():
    assert [(item.id, item.change) for item in paired()] == [
        ("a", "both-right"),
        ("b", "was-right-is-wrong"),
        ("c", "was-wrong-is-right"),
        ("d", "both-wrong"),
        ("e", None),  # the base model was not asked
    ]
    assert paired()[1].before.text == "It is red."
    assert paired()[1].after.text == "It is blue."


@pytest.mark.parametrize(
    ("chosen", "left"),
    [
        ({}, "abcde"),
        ({"filter": "was-right-is-wrong"}, "b"),
        ({"filter": "was-wrong-is-right"}, "c"),
        ({"filter": "is-right"}, "ace"),
        ({"filter": "is-wrong"}, "bd"),
        ({"group": "y"}, "bc"),
        ({"group": "y", "filter": "is-right"}, "c"),
        ({"label": "blue"}, "d"),
        ({"label": "none"}, ""),
    ],
)
def test_they_are_filtered_by_kind_part_and_label(chosen, left):
    assert ids(items.select(paired(), **chosen)) == list(left)


def test_an_unknown_filter_is_refused():
    with pytest.raises(InvalidInput, match="There is no filter “flipped”. Filters: was-right-is-wrong"):
        items.select(paired(), "flipped")


def test_the_counts_are_those_of_the_filters():
    found = items.counts(paired())
    assert found == {name: len(items.select(paired(), name)) for name in items.FILTERS}
    assert sum(found[name] for name in items.CHANGES) == 4


def test_of_an_item_answered_twice_the_later_answer_counts():
    again = items.tests([sample("a", False), *AFTER, sample("a", False), sample("a", True, stage="after")])
    assert [one["correct"] for one in again if one["item"] == "a"] == [False]
    assert len(again) == 5


def test_the_confusion_counts_every_answer_once():
    now = items.confusion(paired())
    assert now.rows == ("blue", "red")
    assert now.columns == ("blue", "green", "red")
    assert now.counts == {("red", "red"): 3, ("red", "blue"): 1, ("blue", "green"): 1}
    before = items.confusion(paired(), before=True)
    assert before.columns[-1] is None
    assert before.counts[("red", None)] == 1
    assert items.confusion([]) is None


def test_too_many_labels_are_no_picture():
    many = [sample(str(n), False, f"p{n}", target=f"t{n}") for n in range(items.MOST_LABELS)]
    assert items.confusion(items.pair(items.tests(many))) is None


def test_json_says_what_changed():
    told = json.loads(items.to_json(paired()))
    assert [one["change"] for one in told][:2] == ["both-right", "was-right-is-wrong"]
    assert told[0]["before"]["prediction"] == "red"
    assert told[4]["before"] is None


def run(id, method="zero_shot", status="done", **more):
    values = {"key": "k", "params": {}, "model": "m", "task": "t", "seed": 0, "limit": None, "group": None}
    values["metrics"] = {"quality": 0.5}
    return Run(id=id, method=method, status=status, **(values | more))


def test_the_before_is_the_newest_zero_shot_run_on_the_same_items():
    runs = [
        run(1),
        run(2, seed=5),
        run(3, status="failed"),
        run(4, limit=10),
        run(5, model="other"),
        run(6, provenance={"data_hash": "changed"}),
        run(7, method="few_shot"),
        run(8, metrics={}),
    ]
    assert comparison.baseline(run(9, "lora"), runs).id == 2
    assert comparison.baseline(run(9, "lora", limit=10), runs).id == 4
    assert comparison.baseline(run(9, "lora", limit=11), runs) is None
