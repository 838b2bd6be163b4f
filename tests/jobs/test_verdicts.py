"""Which runs are held against which, and what is said of them."""

from playground.events import Event
from playground.jobs.verdicts import verdicts
from playground.results.runs import Filing

TITLES = {"lora": "LoRA", "zero_shot": "Zero-shot"}


def run(store, method, scores, task="desk", limit=None, **origin):
    """A finished run with an answer for each score."""
    filing = Filing(f"{method}-{task}-{limit}-{origin}", method, {}, "m", task, limit=limit)
    filed = store.submit(filing)
    store.transition(filed.id, "running", expect={"queued"})
    answers = [
        Event.sample("test", f"i{n}", "?", "!", "!", correct=bool(score), score=float(score))
        for n, score in enumerate(scores)
    ]
    quality = Event.metric("quality", sum(scores) / len(scores))
    store.append(filed.id, [Event.provenance(**origin), *answers, quality])
    store.finish(filed.id, "done")
    return store.get(filed.id)


def told(store, *runs):
    return [(run.id, words) for run, words in verdicts(store, runs, TITLES.get)]


def test_a_run_is_held_against_zero_shot_on_the_same_items(store):
    zero, lora = run(store, "zero_shot", [0] * 30), run(store, "lora", [1] * 30)
    [(id, words)] = told(store, zero, lora)
    assert id == lora.id
    assert words.startswith("LoRA is better") and "p = " in words


def test_a_small_gap_is_no_difference(store):
    zero, lora = run(store, "zero_shot", [0, 0, 0, 1]), run(store, "lora", [0, 0, 1, 1])
    [(_, words)] = told(store, zero, lora)
    assert words.startswith("No detectable difference on 4 items")


def test_without_zero_shot_on_the_same_task_and_items_nothing_is_said(store):
    lora = run(store, "lora", [1])
    assert told(store, lora) == []
    assert told(store, lora, run(store, "zero_shot", [0], task="other")) == []
    assert told(store, lora, run(store, "zero_shot", [0], limit=5)) == []


def test_zero_shot_on_other_data_or_another_revision_of_the_model_is_no_reference(store):
    lora = run(store, "lora", [1], data_hash="d", model_revision="r")
    zero = run(store, "zero_shot", [0], data_hash="d", model_revision="r")
    later = [
        run(store, "zero_shot", [0], data_hash="changed", model_revision="r"),
        run(store, "zero_shot", [0], data_hash="d", model_revision="other"),
    ]
    assert told(store, lora, *later) == []
    assert [id for id, _ in told(store, lora, zero, *later)] == [lora.id]
