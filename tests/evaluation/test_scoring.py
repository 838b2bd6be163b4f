"""Scoring rules at their edges."""

import pytest

from playground.data.tasks import Item, Task
from playground.evaluation.scoring import is_refusal, normalise, read_label, score, token_f1

LABELS = ("Badger", "Comet", "Very late", "Late")
REFUSAL = "The handbook does not say."


def label_task(**more):
    return Task("t", "T", "", "", "Route it.", "label", "accuracy", (), (), (), labels=LABELS, **more)


def free_task(metric="token_f1", **more):
    return Task("t", "T", "", "", "Answer.", "free", metric, (), (), (), **more)


@pytest.mark.parametrize(
    ("answer", "prediction", "valid"),
    [
        ("Comet", "Comet", True),
        (" comet.\n", "Comet", True),
        ('"**Comet**"', "Comet", True),
        ("The desk is Comet.", "Comet", False),
        ("Comet, because it is advice", "Comet", False),
        ("Comet or Badger", None, False),
        ("Comets", None, False),
        ("very late", "Very late", True),
        ("It is very late!", "Very late", False),
        ("", None, False),
        ("…", None, False),
    ],
)
def test_reading_a_label(answer, prediction, valid):
    assert read_label(answer, LABELS) == (prediction, valid)


def test_labels_of_punctuation_inside_and_other_scripts():
    assert read_label("c++", ("C++", "C#")) == ("C++", True)
    assert read_label("I think C#", ("C++", "C#")) == ("C#", False)
    assert read_label("ответ: Да", ("Да", "Нет")) == ("Да", False)


def test_label_score_separates_right_from_well_formed():
    item = Item("1", "Which rug?", "Comet")
    clean, wordy, wrong = (score(label_task(), item, text) for text in ("comet", "I say Comet", "Badger"))
    assert (clean.correct, clean.valid, clean.exact, clean.score) == (True, True, True, 1.0)
    assert (wordy.correct, wordy.valid, wordy.exact, wordy.score) == (True, False, False, 1.0)
    assert (wrong.correct, wrong.valid, wrong.score, wrong.prediction) == (False, True, 0.0, "Badger")


def test_normalise_as_squad():
    assert normalise("The  Cat’s, a dog!") == "cats dog"
    assert normalise("A") == "a"
    assert normalise("£") == "£"


def test_token_f1():
    assert token_f1("on Monday at nine", "Monday") == pytest.approx(0.4)
    assert token_f1("the Monday", "monday") == 1.0
    assert token_f1("no no no", "no") == pytest.approx(0.5)
    assert token_f1("", "Monday") == 0.0


def test_free_score_takes_the_best_accepted_form():
    item = Item("1", "When?", "nine o'clock in the morning", accept=("9 am", "nine"))
    result = score(free_task(), item, "At nine")
    assert result.score == result.token_f1 == pytest.approx(2 / 3)
    assert not result.correct
    assert score(free_task(), item, "9 AM.").correct
    assert score(free_task("exact_match"), item, "At nine").score == 0.0


def test_free_format():
    item = Item("1", "When?", "nine")
    for answer, valid in [
        ("nine", True),
        ("", False),
        ("?", False),
        ("nine\nten", False),
        ("so " * 31, False),
    ]:
        assert score(free_task(), item, answer).valid is valid, answer


def test_only_a_refusal_is_right_where_there_is_no_answer():
    task, item = free_task(refusal=REFUSAL), Item("1", "Who owns the moon?", REFUSAL)
    for answer in ("the handbook does not say", "The handbook doesn't mention it.", "I don't know."):
        result = score(task, item, answer)
        assert (result.correct, result.score) == (True, 1.0), answer
    for answer in ("The handbook does", "Nobody does not say", "The handbook does not say, but 5 pounds", ""):
        result = score(task, item, answer)
        assert (result.correct, result.score) == (False, 0.0), answer


def test_a_refusal_is_worth_nothing_where_there_is_an_answer():
    task = free_task(refusal=REFUSAL)
    item = Item("1", "What does the handbook not say?", "The handbook does not list the price")
    assert score(task, item, REFUSAL).score == 0.0
    assert score(task, item, "It is not stated in the handbook.").score == 0.0
    assert score(task, item, "price").score > 0.0


@pytest.mark.parametrize(
    "answer",
    [
        "This is not stated in the handbook.",
        "The handbook does not give a price.",
        "Not specified",
        "Sorry, I cannot answer that.",
        "There is no information about this in the documents.",
        "No information is given.",
        "The information provided does not specify the age.",
    ],
)
def test_recognised_refusals(answer):
    assert is_refusal(answer, REFUSAL)


@pytest.mark.parametrize(
    "answer",
    [
        "No dogs are allowed",
        "No, not in July.",
        "They do not know each other",
        "You cannot bring a dog. Ask the office.",
        "I don't know. Perhaps 5 pounds.",
        "The ticket does not include lunch",
        "",
    ],
)
def test_no_refusals(answer):
    assert not is_refusal(answer, REFUSAL)


def test_without_a_refusal_sentence_nothing_is_treated_as_one():
    item = Item("1", "What did he say?", "I do not know")
    assert score(free_task(), item, "I do not know").correct
