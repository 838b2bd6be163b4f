"""The retrieval test bench: what it asks, what it measures, what it refuses."""

from types import SimpleNamespace

import pytest

from playground.data.tasks import Evidence, Item, Task
from playground.errors import InvalidInput
from playground.ui.panels import bench

ITEMS = [
    Item("d1", "Do dogs travel free?", "yes", evidence=(Evidence("rules", 10, 30),)),
    Item("d2", "What does a ticket cost?", "six pounds", evidence=(Evidence("rules", 40, 60),)),
]
TASK = Task(
    "house", "House", "", "", "Answer.", "free", "token_f1",
    train=(ITEMS[0],), dev=(ITEMS[1], Item("d3", "Who?", "nobody")), test=(Item("t", "?", "!"),),
)  # fmt: skip


class Index:
    """Finds the first question's passage at once, the second one's in the third place, by whatever search."""

    def __init__(self, *documents):
        self.known = documents
        self.asked = []

    def documents(self):
        return [SimpleNamespace(id=id) for id in self.known]

    def search_many(self, queries, k, mode, diversity, feedback):
        self.asked.append((mode, k, diversity, feedback))
        other = SimpleNamespace(document="boats", start=0, end=90)
        found = [
            SimpleNamespace(document="rules", start=start, end=end) for start, end in ((0, 35), (36, 70))
        ]
        return [[found[0], other, other], [other, other, found[1]]]


def test_only_train_and_dev_questions_with_marked_answers_are_asked():
    assert [item.id for item in bench.questions(TASK)] == ["d1", "d2"]


def test_recall_grows_with_k_and_is_told_for_every_k():
    index = Index("rules")
    trial = bench.measure(index, ITEMS, "dense", 0.3)
    assert index.asked == [("dense", bench.MOST_K, 0.3, False)]
    assert [one.recall for one in trial.scores] == [0.5, 0.5, *[1.0] * (bench.MOST_K - 2)]
    assert trial.scores[-1].mrr == pytest.approx((1 + 1 / 3) / 2)
    assert trial.seconds >= 0


def test_feedback_is_a_search_with_expansion():
    index = Index("rules")
    bench.measure(index, ITEMS, f"hybrid{bench.FEEDBACK}")
    assert index.asked == [("hybrid", bench.MOST_K, 0.0, True)]


def test_the_figures_and_a_curve_a_search_are_shown():
    shown = bench.show([bench.measure(Index("rules"), ITEMS, mode) for mode in bench.MODES])
    assert shown.count("<polyline") == len(bench.MODES)
    assert "2 questions" in shown
    assert shown.count("0.667") == len(bench.MODES)  # MRR


@pytest.mark.parametrize(
    ("index", "items", "words"),
    [
        (None, ITEMS, "Build the index first"),
        (Index("rules"), [], "has its answer marked"),
        (Index("my-notes"), ITEMS, "none of the documents of “House”"),
    ],
)
def test_what_would_measure_nothing_is_refused(index, items, words):
    with pytest.raises(InvalidInput, match=words):
        bench.check(index, TASK, items)
