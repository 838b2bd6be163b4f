"""The report: one section a task and model, what was measured, how it was made; nothing that was not."""

import pytest

from playground.results import comparison
from playground.results.report import report
from playground.results.runs import Run

METHODS = {"lora": {"title": "LoRA"}, "zero_shot": {"title": "Zero-shot"}}
NASTY = "<img src=x>|pipe"


def run(id, method="lora", quality=0.5, status="done", task="desk", **more):
    values = {"params": {}, "model": "m", "seed": 0, "limit": None, "group": None, "key": str(id)}
    metrics = {"quality": quality, "n": 40.0} if status == "done" else {}
    return Run(id=id, method=method, task=task, status=status, metrics=metrics, **(values | more))


def written(*runs, verdicts=None):
    return report(comparison.rows(runs, METHODS), verdicts)


def test_each_task_and_model_has_a_section_best_first():
    text = written(run(1, "zero_shot", 0.2), run(2, quality=0.7), run(3, task="other"))
    assert text.index("## desk · m") < text.index("| LoRA | 70.0 %") < text.index("| Zero-shot | 20.0 %")
    assert text.index("Zero-shot | 20.0 %") < text.index("## other · m")


def test_runs_on_fewer_items_or_other_data_have_a_section_of_their_own():
    origin = {"data_hash": "d", "test_items": 200}
    text = written(
        run(1, quality=0.7, provenance=origin),
        run(2, quality=0.9, provenance=origin, limit=20),
        run(3, quality=0.8, provenance=origin | {"data_hash": "changed"}),
    )
    heads = [line for line in text.splitlines() if line.startswith("## desk")]
    assert heads == [
        "## desk · m · all 200 test items · other data than the newest runs",
        "## desk · m · 20 test items",
        "## desk · m · all 200 test items",
    ]
    assert text.index("| LoRA | 70.0 %") < text.index(heads[1]) < text.index("| LoRA | 90.0 %")


def test_verdicts_settings_and_origin_are_told():
    origin = {"cpu": "Ten cores", "libraries": {"torch": "2.13.0"}}
    params = {"rank": 8, "modules": ""}
    text = written(run(2, params=params, limit=40, provenance=origin), verdicts={2: "LoRA is better."})
    assert "- **LoRA (run 2)**: LoRA is better." in text
    assert "- **LoRA (run 2)**: rank 8, seed 0, 40 test items" in text
    assert "- **Processor**: Ten cores" in text
    assert "torch 2.13.0" in text


@pytest.mark.parametrize(
    ("metrics", "said", "unsaid"),
    [
        (["accuracy"], ["Wilson interval", "McNemar"], ["bootstrap interval", "sign-flip"]),
        (["token_f1"], ["percentile bootstrap interval", "sign-flip test"], ["Wilson interval"]),
        (["exact_match", "token_f1"], ["Wilson interval", "percentile bootstrap interval"], []),
    ],
)
def test_intervals_and_tests_are_told_by_the_metric(metrics, said, unsaid):
    runs = [run(id, provenance={"metric": name}) for id, name in enumerate(metrics, 1)]
    text = written(*runs)
    assert all(words in text for words in said)
    assert not any(words in text for words in unsaid)


def test_of_pictures_no_interval_is_told():
    drawn = run(1, "dreambooth", quality=None, task="mug")
    drawn.metrics.clear()
    drawn.metrics["subject_fidelity"] = 0.7
    text = written(drawn)
    assert "Peak memory is the run's own" in text
    assert "Wilson" not in text and "McNemar" not in text and "greedily" not in text


def test_what_was_not_measured_has_no_column_and_unfinished_runs_no_row():
    text = written(run(1), run(2, "zero_shot", status="running"))
    assert "Zero-shot" not in text
    assert "Forgetting" not in text and "Adapt" not in text
    assert "No run is done yet" in written(run(1, status="failed"))


def test_what_people_typed_is_shown_as_text():
    text = written(run(1, task=NASTY, params={"target": NASTY}))
    assert "<img" not in text
    assert "&lt;img src=x&gt;\\|pipe" in text
