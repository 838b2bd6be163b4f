"""Earlier speeds and the errors of estimates."""

from dataclasses import replace

import pytest

from playground.results import comparison
from playground.results.runs import Run
from playground.results.speed import Speed, estimate_errors, training_rate, training_speed

RUN = Run(1, "k", "lora", {"rank": 8, "epochs": 5}, "tiny", "t", 0, None, None, "done")


def run(id, speed, **changes):
    metrics = {"train_tokens_per_second": speed} if speed else {}
    values = {"provenance": {"device": "cpu"}, "metrics": metrics, "id": id}
    return replace(RUN, **(values | changes))


def test_the_most_similar_run_counts_then_the_newest():
    runs = [run(1, 10.0), run(2, 20.0), run(3, 30.0, params={"rank": 64, "epochs": 5})]
    assert training_speed(runs, "lora", "tiny", {"rank": 8, "epochs": 5}, "cpu") == Speed(20.0)
    assert training_speed(runs, "lora", "tiny", {"rank": 64, "epochs": 1}, "cpu") == Speed(30.0)


@pytest.mark.parametrize(
    "other",
    [
        run(1, None),
        run(1, 5.0, status="failed"),
        run(1, 5.0, method="full"),
        run(1, 5.0, model="other"),
        run(1, 5.0, provenance={"device": "cuda:0"}),
        run(1, 5.0, provenance={}),
    ],
)
def test_runs_of_another_kind_do_not(other):
    assert training_speed([other], "lora", "tiny", {}, "cpu") is None


def test_gpus_are_one_kind():
    found = training_speed(
        [run(1, 5.0, provenance={"device": "cuda", "flops_per_token": 7.0})], "lora", "tiny", {}, "cuda:0"
    )
    assert found == Speed(5.0, 7.0)


def test_the_rate_of_the_newest_run_of_any_method():
    def counted(id, speed, flops, **changes):
        return run(
            id, speed, provenance={"device": "cpu", "flops_per_token": flops, **changes}, method=f"m{id}"
        )

    runs = [
        counted(1, 10.0, 7.0),
        counted(3, 20.0, 5.0),
        run(4, 99.0),
        counted(5, 50.0, 5.0, quantization="nf4"),
    ]
    assert training_rate(runs, "tiny", "cpu", None) == 100.0
    assert training_rate(runs, "tiny", "cpu", "nf4") == 250.0
    assert training_rate(runs, "other", "cpu", None) is None
    assert training_rate(runs, "tiny", "cuda", None) is None


def test_errors_are_shares_of_the_measured():
    metrics = {
        "estimated_peak_bytes": 110.0,
        "adapt_peak_bytes": 100.0,
        "estimated_adapt_seconds": 5.0,
        "adapt_seconds": 10.0,
    }
    assert estimate_errors(metrics) == {
        "estimated_peak_bytes": pytest.approx(0.1),
        "estimated_adapt_seconds": pytest.approx(-0.5),
    }
    (row,) = comparison.rows([run(1, 5.0, metrics=metrics)])
    assert row["estimated_peak_bytes"] == 110
    assert row["estimated_peak_bytes_error"] == pytest.approx(0.1)
    assert comparison.text(row["estimated_adapt_seconds_error"], "error") == "-50 %"
    assert "estimated" not in comparison.to_markdown([row]).lower()


@pytest.mark.parametrize(
    "metrics",
    [
        {},
        {"estimated_peak_bytes": 5.0},
        {"adapt_peak_bytes": 5.0},
        {"estimated_peak_bytes": 5.0, "adapt_peak_bytes": 0.0},
    ],
)
def test_without_both_there_is_no_error(metrics):
    assert estimate_errors(metrics) == {}
