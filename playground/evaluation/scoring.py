"""Right or wrong: one answer against one item. No model is needed here."""

import re
import string
from collections import Counter
from dataclasses import dataclass

from playground.data.tasks import Item, Task, normal_label

MAX_WORDS = 30  # a free answer of more words is not in the asked form


@dataclass(frozen=True)
class Score:
    """How good one answer is.

    ``score`` (0..1) is what the task's metric averages, ``correct`` whether it equals an accepted
    form, ``valid`` whether it has the asked form, ``prediction`` what was read from the answer
    (None = nothing), ``exact`` whether the bare answer was right in the asked form, ``token_f1``
    its word overlap (free answers only).
    """

    correct: bool
    score: float
    valid: bool
    prediction: str | None
    exact: bool
    token_f1: float | None = None


def score(task: Task, item: Item, answer: str) -> Score:
    """Score one answer by the task's rules."""
    if task.answer == "label":
        return _score_label(task, item, answer)
    return _score_free(task, item, answer)


def read_label(answer: str, labels: tuple[str, ...]) -> tuple[str | None, bool]:
    """The label that an answer names, and whether the answer is nothing but that label.

    Case, white space, quotes and punctuation around it do not count. Longer answers are read when
    exactly one label occurs in them as a word.
    """
    wanted = normal_label(answer)
    for label in labels:
        if wanted == normal_label(label):
            return label, True
    found = [label for label in labels if _has_word(answer, label)]
    inside = [a for a in found if any(a != b and _has_word(b, a) for b in found)]  # "late" in "very late"
    found = [label for label in found if label not in inside]
    return (found[0], False) if len(found) == 1 else (None, False)


def normalise(text: str) -> str:
    """Lower case, without punctuation, articles and double spaces (SQuAD, Rajpurkar et al. 2016).

    A text of nothing else, such as the answer "A", stays as it is, in lower case.
    """
    lower = " ".join(text.lower().split())
    words = "".join(letter for letter in lower if letter not in _PUNCTUATION)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", words).split()) or lower


def token_f1(answer: str, target: str) -> float:
    """Harmonic mean of word precision and recall after ``normalise`` (0..1)."""
    given, wanted = normalise(answer).split(), normalise(target).split()
    if not given or not wanted:
        return float(given == wanted)
    same = sum((Counter(given) & Counter(wanted)).values())
    return 2 * same / (len(given) + len(wanted))


def is_refusal(answer: str, refusal: str | None) -> bool:
    """Whether the answer says that it cannot be told: the task's refusal or one plain sentence like it.

    A refusal that goes on ("…, but I think it is 5") is none.
    """
    said = normalise(answer)
    if refusal is not None and said == normalise(refusal):
        return True
    sentences = [part for part in re.split(r"[.!?\n]+(?:\s|$)", answer.strip()) if part.strip()]
    return len(sentences) == 1 and not re.search(r"\b(but|however)\b", said) and bool(_REFUSAL.match(said))


def longest_answer(task: Task) -> int:
    """How many words a free answer may have: ``MAX_WORDS``, or more where the train targets have more."""
    return max(MAX_WORDS, max((len(item.target.split()) for item in task.train), default=0))


_PUNCTUATION = frozenset(string.punctuation + "‘’“”«»„–—…")
_SOURCE = r"(handbook|document|documents|text|context|passage|passages|(provided |given )?information|excerpt|excerpts)"
_SAYS = r"(say|state|mention|specify|contain|provide|give|answer|tell|cover|include|know)"
_REFUSAL = re.compile(
    rf"(sorry )?(i|we) (do not|dont|cannot|cant|could not|couldnt) (know|answer|find|say|tell)\b"
    rf"|(sorry )?(i am|im) not sure$"
    rf"|{_SOURCE}( provided| given)? (do|does|did) ?(not|nt) {_SAYS}\b"
    rf"|{_SOURCE}( provided| given)? (doesnt|dont|didnt) {_SAYS}\b"
    rf"|((this|that|it|answer|this information) )?(is )?not "
    rf"(stated|mentioned|specified|given|answered|covered|included|found|provided) in ({_SOURCE})\b"
    rf"|there is no (information|mention|answer)\b"
    rf"|no (information|mention|answer) (is |was )?(given|provided|available|found|about|on|in)\b"
    rf"|(unknown|unanswerable|not (stated|mentioned|specified|known))$"
)


def _score_label(task: Task, item: Item, answer: str) -> Score:
    prediction, valid = read_label(answer, task.labels)
    correct = prediction == item.target
    return Score(correct, float(correct), valid, prediction, correct and valid)


def _score_free(task: Task, item: Item, answer: str) -> Score:
    text = answer.strip()
    valid = (
        re.search(r"\w", text) is not None and "\n" not in text and len(text.split()) <= longest_answer(task)
    )
    if task.refusal is not None:
        refused = is_refusal(text, task.refusal)
        unanswerable = normalise(item.target) == normalise(task.refusal)
        if refused or unanswerable:
            right = refused and unanswerable
            return Score(right, float(right), valid, text or None, right, float(right))
    forms = (item.target, *item.accept)
    exact = any(normalise(text) == normalise(form) for form in forms)
    overlap = max(token_f1(text, form) for form in forms)
    value = overlap if task.metric == "token_f1" else float(exact)
    return Score(exact, value, valid, text or None, exact, overlap)


def _has_word(text: str, word: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE) is not None
