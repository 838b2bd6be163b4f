"""The strip of samples over steps: rows, columns, the marked step, the alarm; and which step is marked."""

import re

import pytest
from PIL import Image

from playground.events import Event
from playground.ui.components import learning, strip

NASTY = '<img src=x onerror="alert(1)">{{value}}${1+1}`'


def sample(step, item="context-0", similarity=0.7, kind="context", prompt="a zwx robot", **more):
    nearest = {"picture": "train-01", "similarity": similarity, **more}
    return Event.sample(
        "during" if step else "before", item, prompt, "", step=step, file=f"samples/{step}-{item}.png",
        kind=kind, seed=3, nearest=nearest,
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "samples").mkdir()
    for step in (0, 20, 40):
        for item in ("context-0", "context-1", "class-0"):
            Image.new("RGB", (8, 8), (step, 0, 0)).save(tmp_path / f"samples/{step}-{item}.png")
    Image.new("RGB", (8, 8), "white").save(tmp_path / "photo.png")
    return tmp_path


def show(events, folder, **more):
    return strip.show(events, folder, {"train-01": folder / "photo.png"}, **more)


def test_a_row_a_prompt_and_a_column_a_look(folder):
    events = [sample(step, item) for step in (0, 20, 40) for item in ("context-0", "context-1")]
    events += [sample(step, "class-0", kind="class", prompt="a robot") for step in (0, 20)]
    shown = show(events, folder)
    assert shown.count('role="rowheader"') == 3
    assert re.findall(r'class="pg-look">([^<]+)<', shown)[:3] == ["Before", "Step 20", "Step 40"]
    assert shown.count("<img ") == 8
    assert shown.index("In new contexts") < shown.index("The class alone")
    assert "seed 3" in shown


def test_events_of_other_kinds_make_no_strip(folder):
    text = Event.sample("before", "i1", "question", "answer")
    assert show([text, Event.metric("train_loss", 1.0, 1)], folder) == ""


def test_a_look_taken_again_counts_as_it_went_last(folder):
    first, again = sample(20, similarity=0.5), sample(20, similarity=0.8)
    assert [cell["nearest"]["similarity"] for cell in strip.rows([first, again])[0].cells.values()] == [0.8]


def test_the_kept_step_is_marked(folder):
    shown = show([sample(0), sample(20), sample(40)], folder, kept=20)
    assert re.search(r'pg-look pg-kept">Step 20<small>recommended', shown)
    assert shown.count("pg-cell pg-kept") == 1


def test_the_nearest_photo_stands_beside_each_sample_once_in_the_page(folder):
    shown = show([sample(0), sample(20), sample(40)], folder, judge="starter CLIP")
    assert shown.count("<image ") == 1
    assert shown.count("<use ") == 3
    assert "0.70" in shown
    assert "measured by starter CLIP" in shown


@pytest.mark.parametrize(
    ("similarity", "told", "alarmed"), [(0.96, {}, 1), (0.94, {}, 0), (0.9, {"alarm": True}, 1), (0.99, {"alarm": False}, 0)]
)  # fmt: skip
def test_a_sample_too_like_a_photo_rings(folder, similarity, told, alarmed):
    shown = show([sample(0), sample(40, similarity=similarity, **told)], folder)
    assert shown.count("pg-cell pg-alarm") == alarmed
    assert ("1 of 1 samples of the newest look" in shown) == bool(alarmed)


def test_the_class_alone_rings_no_alarm(folder):
    assert "pg-alarm" not in show([sample(40, "class-0", 0.99, kind="class")], folder)


def test_of_many_looks_some_are_shown_and_it_says_so(folder):
    events = [sample(step) for step in range(0, 2000, 20)]
    shown = show(events, folder, kept=1020)
    steps = re.findall(r'role="columnheader" class="pg-look', shown)
    assert strip.MOST_LOOKS <= len(steps) <= strip.MOST_LOOKS + 1
    assert "Step 1,020" in shown
    assert "Before" in shown
    assert "Step 1,980" in shown
    assert "of 100 looks are shown" in shown


def test_prompts_are_text_and_files_stay_inside(folder):
    event = sample(0, prompt=NASTY)
    event.data["file"] = "../../../etc/passwd"
    shown = show([event], folder)
    assert "<img" not in shown
    assert "{{" not in shown
    assert "No picture yet" in shown


def test_a_sample_without_a_nearest_photo_is_shown_alone(folder):
    event = sample(20)
    event.data["nearest"] = None
    shown = show([event], folder)
    assert "<img " in shown
    assert "pg-near" not in shown


# Curves


def told(**curves):
    """The events of these curves in the order in which a run tells them."""
    events = [Event.metric(name, value, step) for name, points in curves.items() for step, value in points]
    return sorted(events, key=lambda event: event.data["step"])


def test_every_curve_has_its_chart_and_the_kept_step_its_line():
    events = told(
        train_loss=[(1, 0.5), (40, 0.2)], prior_loss=[(1, 0.3)], subject_fidelity=[(0, 0.6), (40, 0.9)],
        prompt_fidelity=[(0, 0.3), (40, 0.28)], class_drift=[(0, 0.0), (40, 0.1)],
        diversity=[(0, 0.3), (40, 0.2)], memorisation=[(0, 0.7), (40, 0.9)],
    )  # fmt: skip
    shown = learning.live(events, 20, "measured by starter CLIP.")
    assert shown.count("<svg") == 6
    assert shown.count("pg-mark") == 6
    assert "Recommended: step 20" in shown
    assert "measured by starter CLIP." in shown
    assert learning.machine(events) == ""
    assert learning.machine(told(steps_per_second=[(1, 1.5)])).count("<svg") == 1


def test_a_curve_without_points_is_not_drawn():
    assert learning.live([]) == ""
    shown = learning.live(told(train_loss=[(1, 0.5)]))
    assert shown.count("<svg") == 1
    assert "Recommended" not in shown
