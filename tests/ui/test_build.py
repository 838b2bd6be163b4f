"""The page as a whole: it builds, it loads nothing from elsewhere, its actions are documented."""

import copy
import inspect
import re
import subprocess
import sys
from collections import Counter
from contextvars import copy_context
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import pytest
from fresh import loaded
from gradio.context import LocalContext

from playground.errors import InvalidInput
from playground.events import Event
from playground.methods.registry import methods
from playground.results.runs import Filing
from playground.settings import ASSETS, Settings
from playground.ui import build, messages, theme
from playground.ui.components import charts, markup, passages, run_card, table, technique_map
from playground.ui.starter import StarterState
from playground.ui.tabs import compare, runs, start

ROOT = Path(__file__).resolve().parents[2]
NASTY = '<img src=x onerror="alert(1)">{{value}}${1+1}`'


@pytest.fixture
def session(tmp_path):
    opened = build.open_session(Settings(home=tmp_path, offline=True))
    yield opened
    opened.store.close()


@pytest.fixture
def page(session):
    return build.page(session)


def file_run(session, method="zero_shot", quality=0.5, group="g1", task="support-desk", curve=(), limit=None):
    """A finished run with two test answers, through the real store."""
    filing = Filing(
        key=f"{method}-{group}-{quality}-{task}",
        method=method,
        params={},
        model="smollm2-135m",
        task=task,
        group=group,
        limit=limit,
    )
    run = session.store.submit(filing)
    session.store.transition(run.id, "running", expect={"queued"})
    answers = [
        Event.sample(
            "test",
            f"i{n}",
            NASTY,
            NASTY,
            "Quartz",
            correct=n == 0,
            score=float(n == 0),
            valid=True,
            group=None,
        )
        for n in range(2)
    ]
    losses = [Event.metric("train_loss", loss, step=step) for step, loss in enumerate(curve)]
    session.store.append(run.id, [*losses, *answers, Event.metric("quality", quality), Event.metric("n", 2)])
    session.store.finish(run.id, "done")
    return session.store.get(run.id)


def labels(page):
    return [block.label for block in page.blocks.values() if type(block).__name__ == "Tab"]


def test_the_page_has_its_tabs(page):
    trained = [id for id, method in methods().items() if build._trains_text(method)]
    own = [label for id, label in build.OWN_TABS.items() if id in trained]
    more = ["More PEFT"] if set(trained) - set(build.OWN_TABS) else []
    images = [label for label, _, members in build.IMAGE_TABS.values() if set(members) & set(methods())]
    assert labels(page) == ["Start", "Few-shot", "RAG", *own, *more, *images, "Compare", "Try", "Runs"]


def stand_in(id):
    kind = type(methods()["lora"])
    return type(id, (kind,), {"id": id, "title": id.upper()})()


def test_methods_without_a_tab_of_their_own_share_one(session, monkeypatch):
    found = methods() | {id: stand_in(id) for id in ("full", "ia3", "oft")}
    monkeypatch.setattr(build, "methods", lambda: found)
    page = build.page(session)
    shown = labels(page)
    assert (
        shown.index("RAG") < shown.index("Full fine-tuning") < shown.index("LoRA") < shown.index("More PEFT")
    )
    chooser = next(block for block in page.blocks.values() if block.elem_id == "more-method")
    assert {"ia3", "oft"} <= {id for _, id in chooser.choices}
    assert not {"full", "lora", "zero_shot"} & {id for _, id in chooser.choices}


def test_only_the_tab_in_sight_follows_the_store(page):
    """What changes in the store is handed on in the browser, to the beat of the tab in sight."""
    hand_on = next(fn for fn in page.fns.values() if "beats" in str(fn.js))
    pulse, shown, *beats = (field._id for field in hand_on.inputs)
    assert hand_on.fn is None
    assert [field._id for field in hand_on.outputs] == beats
    assert len(beats) == len(build.IDS)
    asking = {target for fn in page.fns.values() if fn.fn is not None for target, _ in fn.targets}
    assert pulse not in asking
    assert shown not in asking
    assert asking & set(beats)
    chosen = [fn.js for fn in page.fns.values() if [field._id for field in fn.outputs] == [shown]]
    assert len(chosen) == len(labels(page))


def listeners(page):
    """Listeners of the page itself, then those of each part that is drawn late."""

    def draw(drawing):
        config = copy.copy(page.default_config)
        LocalContext.blocks_config.set(config)
        drawing.apply("lora")
        return [fn for fn in config.fns.values() if fn.rendered_in is drawing]

    yield [fn for fn in page.fns.values() if fn.rendered_in is None]
    assert page.default_config.renderables
    for drawing in page.default_config.renderables:
        own = copy_context().run(draw, drawing)
        assert own
        yield own


def test_no_change_starts_two_handlers_of_the_server(page):
    """In the browser they would put each other off, and start each other, for ever: see components.echo."""

    def starting(fns):
        waiting = [fn for fn in fns if fn.fn is not None and fn.trigger_mode == "always_last"]
        return Counter(target for fn in waiting for target in fn.targets)

    for fns in listeners(page):
        assert {target: count for target, count in starting(fns).items() if count > 1} == {}
    twice = SimpleNamespace(fn=print, trigger_mode="always_last", targets=[(1, "change")])
    assert starting([twice, twice]) == {(1, "change"): 2}


def test_what_is_drawn_late_listens_to_nothing_that_others_listen_to(page):
    """In the browser its listeners would replace theirs."""
    taken = set()
    for fns in listeners(page):
        own = {(block, event) for fn in fns for block, event in fn.targets if block is not None}
        assert not own & taken
        taken |= own


def test_parts_that_are_drawn_late_are_drawn_one_at_a_time(page):
    late = [fn for fn in page.fns.values() if fn.renderable is not None]
    assert len(late) > 5
    assert {(fn.queue, fn.concurrency_id, fn.concurrency_limit) for fn in late} == {(True, "render", 1)}


def test_a_sweep_is_not_shown_as_the_newest_race(session):
    file_run(session, group="g1")
    file_run(session, "lora", group="sweep-1")
    assert session.newest_group() == "g1"


def test_its_configuration_is_complete(page):
    config = page.get_config_file()
    assert config["analytics_enabled"] is False
    assert config["components"]


def test_importing_the_door_leaves_torch_alone():
    assert loaded("import app", ("torch", "transformers", "chromadb", "diffusers")) == []


def test_importing_the_page_leaves_gradios_own_stubs_alone():
    code = (
        "import ast; real = ast.get_source_segment; seen = []\n"
        "ast.get_source_segment = lambda *a, **k: seen.append(1) or real(*a, **k)\n"
        "import inspect; before = inspect.getfile\n"
        "import app; print(len(seen), inspect.getfile is before)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["0", "True"], done.stderr


def test_nothing_of_the_look_comes_from_another_host():
    own = "\n".join((ASSETS / name).read_text(encoding="utf-8") for name in ("style.css", "page.js"))
    look = theme.theme()
    texts = own + theme.head() + look._get_theme_css() + " ".join(look._stylesheets)
    assert not re.findall(
        r"(?:https?:)?//[a-z0-9.-]+\.[a-z]{2,}", re.sub(r"http://www\.w3\.org\S*", "", texts)
    )
    assert "@import" not in texts


def test_launching_asks_no_other_host():
    options = build.launch_options(Settings())
    assert options["share"] is False
    assert options["run_history"] is False
    assert options["footer_links"] == []


def test_every_public_action_is_named_typed_and_documented(page):
    public = [fn for fn in page.fns.values() if fn.api_visibility == "public" and fn.api_name]
    assert {fn.api_name for fn in public} >= {"race", "submit_run", "stop_run", "comparison_rows"}
    for fn in public:
        assert inspect.getdoc(fn.fn), fn.api_name
        signature = inspect.signature(fn.fn)
        assert signature.return_annotation is not inspect.Signature.empty, fn.api_name
        for parameter in signature.parameters.values():
            assert parameter.annotation is not inspect.Parameter.empty, (fn.api_name, parameter.name)


def test_plumbing_is_private(page):
    named = {fn.api_name for fn in page.fns.values() if fn.api_visibility == "public"}
    assert named == {
        "race", "submit_run", "get_run", "run_events", "comparison_rows", "stop_run", "resume_run",
        "delete_run", "list_tasks", "list_models", "list_methods",
    }  # fmt: skip


def test_text_stays_text_and_is_no_template():
    shown = markup.safe(NASTY)
    assert "<" not in shown
    assert "{" not in shown
    assert "$" not in shown


@pytest.mark.parametrize("view", ["answers", "card", "details", "passages", "notice", "chart"])
def test_no_view_lets_html_through(session, view):
    run = file_run(session)
    found = {
        "answers": lambda: compare.answers(session, run.id),
        "card": lambda: run_card.card(session, run),
        "details": lambda: runs.details(session, run.id),
        "passages": lambda: passages.answer(NASTY, NASTY),
        "notice": lambda: markup.notice(NASTY),
        "chart": lambda: charts.lines([charts.Line(NASTY, [(0, 1), (1, 2)])], NASTY, NASTY),
    }[view]()
    assert "<img" not in found
    assert "{{" not in found


def test_the_race_shows_every_run_of_its_group(session):
    file_run(session, "zero_shot", 0.2)
    file_run(session, "few_shot", 0.6)
    file_run(session, "rag", 0.4, group="other")
    shown = start.race(session, "g1")
    assert shown.count('class="pg-lane ') == 2
    assert "60.0 %" in shown
    assert "40.0 %" not in shown


def test_runs_on_fewer_items_have_a_table_a_best_mark_and_a_chart_of_their_own(session):
    found = [
        file_run(session, "zero_shot", 0.1),
        file_run(session, "lora", 0.7),
        file_run(session, "zero_shot", 0.2, limit=20),
        file_run(session, "lora", 0.9, limit=20),
        file_run(session, "few_shot", 0.5, task="handbook"),
    ]
    rows = compare.comparison.rows(found, session.described)
    shown = compare._by_setting(session, rows, {run.id: run for run in found}, {}, None)
    few, every = shown.split("<section ")[2:]
    assert " · 20 test items</small>" in few and "test items" not in every
    assert [part.count("pg-best") for part in (few, every)] == [1, 1]
    chart = compare.scatter(session, compare._newest_setting(rows[:4]), "Seconds per query")
    assert "20 test items" in chart
    assert {row["run"] for row in compare._newest_setting(rows[:4])} == {found[2].id, found[3].id}


def test_runs_with_nothing_to_be_held_against_are_named(session):
    zero, lora = file_run(session, "zero_shot", 0.1), file_run(session, "lora", 0.7)
    few = file_run(session, "lora", 0.9, limit=20)
    shown = compare.difference(session, [zero, lora, few])
    assert shown.count("<li ") == 1
    assert f"There is no zero-shot run on the same items, data and model for #{few.id}." in shown


def test_an_unmeasured_figure_is_blank(session):
    run = file_run(session)
    rows = compare.comparison.rows([run], session.described)
    shown = compare._by_setting(session, rows, {run.id: run}, {}, None)
    assert '<td data-label="Peak memory"></td>' in shown


def test_a_starter_that_cannot_be_had_says_what_to_do(session):
    session.starter.state = StarterState(error=f"No network {NASTY}")
    shown = start.starter_status(session)
    assert "Try again" in shown
    assert "network" in shown
    assert "<img" not in shown


def test_a_refusal_stands_in_its_place_and_is_never_raised():
    def refuse():
        raise InvalidInput("The <b>question</b> is empty.")

    def stream():
        yield "first", 1, 2
        raise ValueError("internal detail")

    said, *rest = messages.placed(refuse, 3)()
    assert "The &lt;b&gt;question&lt;/b&gt; is empty." in said
    assert rest == [gr.skip(), gr.skip()]
    assert "is empty" in messages.placed(refuse, 1)()
    assert "is empty" in messages.placed(refuse, 2, at=1)()[1]
    first, last = messages.placed(stream, 3)()
    assert first == ("first", 1, 2)
    assert "Something went wrong in the playground itself." in last[0]
    assert "internal detail" not in last[0]


def test_both_percentiles_stand_in_one_cell():
    row = {"query_seconds_p50": 1.5, "query_seconds_p95": 2.5}
    assert compare.table._measured("query_seconds_p50", row, "s") == "1.5 s<small>p95 2.5 s</small>"


def test_the_pulse_changes_with_the_store_only(session):
    before = session.pulse()
    assert session.pulse() == before
    runs = [file_run(session), file_run(session, "lora")]
    filed = session.pulse()
    assert filed != before
    session.store.delete(runs[0].id)
    assert session.pulse() != filed


def test_the_map_shows_every_method():
    shown = technique_map.cards()
    for method in methods().values():
        assert method.title in shown


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("All", None), ("", None), (None, None), ("20", 20), (" 7 ", 7), ("9" * 30, int("9" * 30))],
)
def test_test_items_are_read(typed, meant):
    assert start.limit_of(typed) == meant


@pytest.mark.parametrize("typed", ["0", "-3", "many", "2.5", "9" * 4_400])
def test_wrong_test_items_are_refused(typed):
    from playground.errors import InvalidInput

    with pytest.raises(InvalidInput, match="whole number"):
        start.limit_of(typed)


@pytest.mark.parametrize(
    ("query", "run", "shown"),
    [
        ({}, None, "g1"),
        ({"run": "1"}, 1, "g1"),
        ({"run": "99999999999999999999"}, None, "g1"),
        ({"run": "²"}, None, "g1"),
        ({"run": "-1"}, None, "g1"),
        ({"run": "one"}, None, "g1"),
        ({"group": "older"}, None, "older"),
        ({"group": "<script>"}, None, "g1"),
        ({"group": "nonsense"}, None, "g1"),
    ],
)
def test_a_link_with_an_odd_value_opens_the_page_as_without_it(session, query, run, shown):
    file_run(session, group="older")
    file_run(session, group="g1")
    arrived = build._arrive(session, SimpleNamespace(query_params=query))
    assert (arrived[1], arrived[2]) == (shown, run)


@pytest.mark.parametrize(
    ("query", "tab"),
    [
        ({"tab": "lora"}, "lora"),
        ({"tab": "lora", "run": "1"}, "runs"),
        ({"tab": "<b>"}, None),
        ({"tab": "LORA"}, None),
        ({}, None),
    ],
)
def test_a_link_opens_its_tab(session, query, tab):
    selected = build._arrive(session, SimpleNamespace(query_params=query))[3]
    assert getattr(selected, "selected", None) == tab


def test_gradios_own_queue_looks_seldom_when_idle(page):
    build.attend(page)
    assert page._queue.sleep_when_free >= 0.01


def test_a_slow_machine_is_served_too(page):
    build.attend(page)
    assert gr.networking.url_ok("http://127.0.0.1:9/nobody-answers-here")
    assert "networking.url_ok(" in inspect.getsource(gr.Blocks.launch)


def test_a_stopped_run_is_no_alarm(session):
    filing = Filing(
        key="stopped", method="lora", params={}, model="smollm2-135m", task="support-desk", seed=0, limit=40
    )
    run = session.store.submit(filing)
    session.queue.cancel(run.id)
    card = run_card.card(session, session.store.get(run.id))
    assert '<p class="pg-reason pg-cancelled">Stopped by hand.</p>' in card
    assert "40 of 200 test items" in card
    assert "pg-bad" not in runs.details(session, run.id)


def test_the_page_tells_nobody_what_was_true_while_it_was_built(session):
    """A page built while the starter model is fetched is served long after that."""
    session.starter.state = StarterState("Fetching", 1, 2)
    page = build.page(session)
    assert not next(block for block in page.blocks.values() if block.elem_id == "starter").value


def test_questions_are_there_to_begin_with(page):
    found = {block.elem_id: block for block in page.blocks.values()}
    assert found["few-shot-question"].value
    assert found["rag-question"].value


def test_before_the_first_race_the_recorded_one_is_shown(session):
    shown = start.race(session, None)
    assert "No race yet" in shown
    assert "A race that was recorded" in shown
    for title in ("Zero-shot", "Few-shot", "RAG", "LoRA"):
        assert f"<b>{title}</b>" in shown
    run = file_run(session, group="g9")
    assert "race that was recorded" not in start.race(session, run.group)


@pytest.mark.parametrize(("low", "high"), [(0.03, 0.06), (0.41, 0.44), (1.0, 1000.0), (0.5, 0.5)])
def test_a_logarithmic_axis_has_marks_however_near_the_values_are(low, high):
    drawn = charts.scatter(
        [charts.Point("a", low, 0.5), charts.Point("b", high, 0.6)], "Cost", "Quality", True
    )
    assert drawn.count('text-anchor="middle"') >= 1 + 1  # one is the axis's name


def test_every_column_is_explained_on_the_page():
    told = table.legend()
    for head in (*table.SHORT.values(), *table.DRAWN.values(), "Against zero-shot", "Valid"):
        assert f"<dt>{head}</dt>" in told
    assert "<dd></dd>" not in told
