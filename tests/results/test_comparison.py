import csv
import io
import json

import pytest

from playground.results import comparison, metrics
from playground.results.runs import Run

METHODS = {
    "lora": {"title": "LoRA", "family": "parametric", "changes_weights": "Adds low-rank matrices"},
    "zero_shot": {"title": "Zero-shot", "family": "non-parametric", "changes_weights": "No"},
}


def run(id, method="lora", status="done", quality=None, **more):
    metrics = {} if quality is None else {"quality": quality}
    values = {
        "key": str(id),
        "params": {},
        "model": "m",
        "task": "t",
        "seed": 0,
        "limit": None,
        "group": None,
    }
    return Run(id=id, method=method, status=status, **(values | {"metrics": metrics} | more))


def rows(*runs):
    return comparison.rows(runs, METHODS)


def test_a_row_carries_every_column_and_blanks_stay_none():
    (row,) = rows(run(1))
    asked = """method family changes_weights quality metric n valid_rate difference trainable_parameters
        trainable_share adapt_seconds load_seconds adapt_peak_bytes stored_bytes prompt_tokens query_seconds_p50
        query_seconds_p95 tokens_per_second seed provenance limit"""
    assert set(asked.split()) <= set(row)
    assert (row["title"], row["family"], row["changes_weights"]) == (
        "LoRA", "parametric", "Adds low-rank matrices"
    )  # fmt: skip
    assert row["quality"] is row["n"] is row["adapt_seconds"] is row["difference"] is None


def test_the_difference_is_to_zero_shot_on_the_same_footing_whatever_the_seed():
    found = rows(
        run(1, "zero_shot", quality=0.1),
        run(2, "zero_shot", quality=0.2, seed=9),  # newer: this one counts
        run(3, quality=0.85),
        run(4, quality=0.85, task="other"),
        run(5, quality=0.85, model="other"),
        run(6, quality=0.85, limit=10),
        run(7, quality=0.85, provenance={"data_hash": "changed"}),
        run(8, "zero_shot", status="failed", quality=0.0),
    )
    assert found[2]["difference"] == pytest.approx(0.65)
    assert [row["difference"] for row in found[3:]] == [None] * 5
    assert found[0]["difference"] is None


def image(id, method="dreambooth", fidelity=0.8, judge="starter CLIP", models=(), data="d", **more):
    origin = {"data_hash": data, "model_revision": "r", "judge": judge, "judge_models": list(models)}
    return run(id, method, metrics={"subject_fidelity": fidelity}, provenance=origin, **more)


def test_pictures_are_held_against_the_same_data_seed_and_judge():
    base = image(1, "image_base", 0.5, models=["clip@1"])
    fitting = image(2, models=["clip@1"])
    others = [
        image(3, models=["clip@1"], data="changed"),
        image(4, models=["clip@1"], seed=1),
        image(5, models=["clip@2"]),
        image(6, judge="DINOv2 + CLIP", models=["clip@1"]),
        image(7, models=["clip@1"], status="running"),
    ]
    found = comparison.baselines([base, fitting, *others], [base, fitting, *others])
    assert {id: before.id for id, before in found.items()} == {2: 1, 7: 1}


def ids(*runs):
    return [[row["run"] for row in group] for _, group in comparison.groups(rows(*runs))]


def test_results_on_other_items_data_models_or_by_another_judge_are_ranked_apart():
    origin = {"data_hash": "d", "model_revision": "r"}
    text = [
        run(1, quality=0.5, provenance=origin),
        run(2, quality=0.6, provenance=origin),
        run(3, quality=0.9, provenance=origin, limit=20),
        run(4, quality=0.9, provenance=origin | {"data_hash": "changed"}),
        run(5, quality=0.9, provenance=origin | {"model_revision": "other"}),
        run(6, quality=0.9, provenance=origin | {"dtype": "bfloat16"}),
    ]
    assert ids(*text) == [[6], [5], [4], [3], [2, 1]]
    assert ids(image(1), image(2, judge="DINOv2 + CLIP"), image(3, seed=1)) == [[3, 1], [2]]


def test_runs_without_a_result_stand_with_the_newest_results_of_their_task_model_and_limit():
    origin = {"data_hash": "d", "model_revision": "r"}
    waiting = run(9, status="queued"), run(8, status="running", provenance={"data_hash": "d"})
    assert ids(*waiting) == [[9, 8]]
    old, new = run(1, quality=0.5), run(2, quality=0.5, provenance=origin)
    assert ids(old, new, *waiting) == [[9, 8, 2], [1]]
    assert ids(new, run(3, status="queued", limit=20)) == [[3], [2]]


def test_a_group_is_told_by_its_items_its_judge_and_whether_newer_runs_differ():
    origin = {"data_hash": "d", "test_items": 200}
    found = rows(
        run(1, quality=0.5, provenance=origin | {"data_hash": "changed"}),
        run(2, quality=0.5, provenance=origin),
        run(3, quality=0.5, provenance=origin, limit=20),
        image(4, task="mug", judge="DINOv2 + CLIP", data="changed"),
        image(5, task="mug"),
    )
    assert [words for words, _ in comparison.groups(found)] == [
        "judged by starter CLIP",
        "judged by DINOv2 + CLIP · other data and judge than the newest runs",
        "20 test items",
        "all 200 test items",
        "all 200 test items · other data than the newest runs",
    ]


def test_the_newest_finished_run_of_a_key_stands():
    runs = [
        run(1, key="a", quality=0.1),
        run(2, key="a", quality=0.2),
        run(3, key="a", status="failed"),
        run(4, key="b", status="failed"),
        run(5, key="b", status="cancelled"),
        run(6, key="a", status="running"),
        run(7, key="c", status="interrupted"),
        run(8, key="c", status="queued"),
    ]
    assert [one.id for one in comparison.newest(reversed(runs))] == [2, 5, 6, 8]


def test_parts_scored_apart_get_columns():
    found = rows(run(1, metrics={"quality": 0.5, "quality/covered": 0.75, "train_loss": 3.0}), run(2))
    assert found[0]["quality/covered"] == 0.75
    assert "quality/covered" in [column.name for column in comparison.columns(found)]
    assert "| 75.0 % |" in comparison.to_markdown(found)


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [
        (None, "", ""),
        (0.8545, "", "85.5 %"),
        (0.00018, "", "0.018 %"),
        (0.0, "", "0.0 %"),
        (0.125, "difference", "+12.5 pp"),
        (-0.125, "difference", "-12.5 pp"),
        (9_800_000, "B", "9.8 MB"),
        (538_000_000, "B", "538 MB"),
        (1_600_000_000, "B", "1.6 GB"),
        (0, "B", "0 B"),
        (999.6, "B", "1,000 B"),
        (999_600, "B", "1,000 kB"),
        (999_600_000, "B", "1,000 MB"),
        (999_400_000, "B", "999 MB"),
        (999_600_000_000, "B", "1,000 GB"),
        (0.00996, "", "1.0 %"),
        (0.0523, "s", "52 ms"),
        (4.26, "s", "4.3 s"),
        (91.4, "s", "91 s"),
        (178.0, "s", "2 min 58 s"),
        (0.9996, "s", "1.0 s"),
        (9.96, "s", "10 s"),
        (119.6, "s", "2 min 0 s"),
        (2_442_240, "count", "2,442,240"),
        (43.6, "tokens", "44 tokens"),
        (19.83, "tokens/s", "19.8 tokens/s"),
        (2.0351, "loss", "2.035"),
        ("x", "text", "x"),
    ],
)
def test_units_are_written_for_people(value, unit, expected):
    assert comparison.text(value, unit) == expected


def test_markdown_shows_html_and_pipes_as_text():
    methods = {"lora": {"title": "<b>a|b</b>\nnew line"}}
    table = comparison.to_markdown(comparison.rows([run(1, quality=0.5)], methods))
    assert "&lt;b&gt;a\\|b&lt;/b&gt; new line" in table
    assert "<b>" not in table
    assert len({line.replace("\\|", "").count("|") for line in table.splitlines()}) == 1
    assert "50.0 %" in table


def test_csv_is_raw_and_runs_no_formula():
    evil = run(
        1, quality=0.5, task="=HYPERLINK(1)", model=" +1", error="@x", params={"a": "=1"}, group="\t=1"
    )
    read = list(csv.DictReader(io.StringIO(comparison.to_csv(rows(evil)))))[0]
    assert (read["task"], read["model"], read["error"]) == ("'=HYPERLINK(1)", "' +1", "'@x")
    assert read["group"].startswith("'")
    assert read["quality"] == "0.5"
    assert read["adapt_seconds"] == ""
    assert json.loads(read["params"]) == {"a": "=1"}


def test_negative_numbers_stay_numbers_in_csv():
    found = rows(run(1, "zero_shot", quality=0.5), run(2, quality=0.25))
    assert list(csv.DictReader(io.StringIO(comparison.to_csv(found))))[1]["difference"] == "-0.25"


def test_counts_and_bytes_are_whole_numbers():
    found = rows(run(1, metrics={"n": 200.0, "stored_bytes": 9.8e6, "quality": 1.0}))
    assert '"n": 200,' in comparison.to_json(found)
    assert '"stored_bytes": 9800000,' in comparison.to_json(found)
    assert '"quality": 1.0,' in comparison.to_json(found)


def test_json_holds_everything():
    found = rows(run(1, quality=0.5, provenance={"device": "cpu"}))
    assert json.loads(comparison.to_json(found)) == found


def test_an_empty_table_is_a_table():
    assert comparison.to_markdown([]).count("\n") == 2
    assert comparison.to_csv([]).startswith("run,")
    assert comparison.to_json([]) == "[]"


def heads(*runs):
    return comparison.to_markdown(rows(*runs)).splitlines()[0].strip("| ").split(" | ")


def test_a_table_of_texts_has_no_columns_of_pictures_and_the_other_way_round():
    words = run(1, quality=0.5)
    pictures = run(
        2, "dreambooth", metrics={"subject_fidelity": 0.7, "class_drift": 0.0, "adapt_seconds": 9.0}
    )
    waiting = run(3, status="queued")
    seen = [column.label for column in comparison.COLUMNS if column.shown and column.modality != "image"]
    assert heads(words) == heads(waiting) == heads() == heads(words, waiting) == seen
    assert {"Quality", "Against zero-shot", "Forgetting", "Prompt tokens"}.isdisjoint(
        heads(pictures, waiting)
    )
    assert {"Subject fidelity", "Drift of the class", "Adapt", "Stored"} <= set(heads(pictures))
    assert {"Quality", "Subject fidelity"} <= set(heads(words, pictures))
    assert "| 0.700 |" in comparison.to_markdown(rows(pictures))


def test_what_is_told_by_step_and_measured_at_the_end_has_a_column_and_a_curve():
    names = {column.name for column in comparison.COLUMNS}
    assert metrics.LOOKS <= metrics.CURVES
    assert {"subject_fidelity", "memorisation", "seconds_per_image"} <= names
    assert names.isdisjoint({"instance_loss", "prior_loss", "steps_per_second", "train_loss"})
    assert set(metrics.BY_NAME) >= metrics.CURVES
    (row,) = rows(run(1, quality=0.5))
    assert all(row[name] is None for name in metrics.LOOKS)
