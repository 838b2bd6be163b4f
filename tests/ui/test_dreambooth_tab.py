"""The tabs of image methods: when they are there, what they show, the race, photos of one's own, drawing."""

import dataclasses
import re
from types import SimpleNamespace

import gradio as gr
import pytest
import torch
from PIL import Image

from playground.data import subjects
from playground.data.subjects import Photo
from playground.errors import InvalidInput, ModelUnavailable, QueueError
from playground.events import Event
from playground.jobs import local, races, requests
from playground.methods import registry
from playground.methods.base import Method, Params, parameter
from playground.models import catalogue
from playground.results.runs import Filing
from playground.settings import Settings
from playground.ui import build, form, looks
from playground.ui import session as sessions
from playground.ui.components import run_card, table, technique_map
from playground.ui.panels import draw, photos, take
from playground.ui.tabs import compare, dreambooth, start
from playground.ui.tabs.finetune import Look

CATALOGUE = catalogue._catalogue
NASTY = '<img src=x onerror="alert(1)">{{value}}${1+1}`'


class Learned(Params):
    steps: int = parameter(100, "Steps", "Of the optimiser.", minimum=1)
    prior_preservation: bool = parameter(True, "Prior preservation", "Keep the class.")


def stub(method_id, title, family="parametric", params=Learned):
    """A method on images that is never run here."""

    class Stub(Method):
        modality = "image"
        changes_weights, summary, training_cost, storage_cost = "Yes", "Learns.", "High", "High"
        use_case, best_for = "A subject", "Few photos"

        def check(self, params, task):
            if method_id == "style_lora" and task.kind != "style":
                raise InvalidInput("A style is needed.", "subject")

        def adapt(self, params, context):
            raise NotImplementedError

    Stub.id, Stub.title, Stub.family, Stub.Params = method_id, title, family, params
    return Stub()


@pytest.fixture
def image_methods(monkeypatch):
    """Stand-ins of the image methods, wherever the registry is asked."""
    found = {id: each for id, each in registry.methods().items() if each.modality == "text"}
    found["image_base"] = stub("image_base", "Base model", "non-parametric", Params)
    for method_id, title in (
        ("dreambooth", "DreamBooth"),
        ("dreambooth_lora", "DreamBooth-LoRA"),
        ("style_lora", "Style LoRA"),
    ):
        found[method_id] = stub(method_id, title)
    entry = catalogue.Model(
        "drawer", "Drawer", "o/drawer", "main", "", None, "image", None, ("path:/nowhere",)
    )
    every = {**catalogue.models("text"), "drawer": entry}
    for module in (registry, build, sessions, start, table, technique_map):
        monkeypatch.setattr(module, "methods", lambda: found)
    monkeypatch.setattr(catalogue, "_catalogue", lambda: every)
    return found


@pytest.fixture
def session(tmp_path, image_methods, monkeypatch):
    opened = build.open_session(Settings(home=tmp_path, offline=True))

    def prepare(method_id, params, task_id, model_id, seed=0, limit=None, group=None):
        values = image_methods[method_id].Params.parse(params).model_dump()
        key = f"{method_id}{values}{task_id}{model_id}{seed}"
        return Filing(key, method_id, values, model_id, task_id, seed, limit, group)

    monkeypatch.setattr(opened.queue, "prepare", prepare)
    yield opened
    opened.store.close()


def picture(colour, edge=96):
    """A picture that is like no other one of another colour: stripes as wide as the colour says."""
    made = Image.new("RGB", (edge, edge), "white")
    made.paste(colour, (0, 0, edge // 2, edge // 3))
    made.paste(colour, (edge // 2, edge // 2, edge, edge))
    return made


@pytest.fixture
def mug(session):
    return subjects.save_subject(
        session.settings, title="My mug", kind="subject", token="zwx", class_word="mug",
        train=[Photo(picture("red"), "1.png"), Photo(picture("blue"), "2.png")],
        held_out=[Photo(picture("green"), "3.png")],
    )  # fmt: skip


def image_run(
    session,
    subject,
    method="dreambooth",
    status="done",
    group=None,
    fidelity=0.8,
    looked=(0, 20),
    seed=0,
    judge="starter CLIP",
    **params,
):
    """A run with looks at some steps, told through the real store."""
    key = f"{method}-{params}-{len(session.store.list())}"
    run = session.store.submit(Filing(key, method, params, "drawer", subject, seed, group=group))
    session.store.transition(run.id, "running", expect={"queued"})
    folder = local.run_folder(session.settings, run.id)
    events = [Event.provenance(judge=judge)]
    for step in looked:
        for kind in ("context", "class"):
            file = f"samples/{step}/{kind}-0.png"
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            picture("red").save(folder / file)
            nearest = {"picture": "train-01", "similarity": 0.7}
            events.append(
                Event.sample(
                    "during", f"{kind}-0", NASTY, "", step=step, file=file, kind=kind, seed=1, nearest=nearest
                )
            )
        events.append(Event.metric("subject_fidelity", 0.6 + step / 100, step))
    events.append(Event.metric("train_loss", 0.5, 1))
    if status == "done":
        results = {"subject_fidelity": fidelity, "prompt_fidelity": 0.3, "class_drift": 0.05}
        events += [Event.metric(name, value) for name, value in results.items()]
    session.store.append(run.id, events)
    if status != "running":
        session.store.finish(run.id, status)
    return session.store.get(run.id)


# The page


def labels(session):
    """The tabs of image methods that the page gets."""
    with gr.Blocks():
        group, beats = gr.Textbox(), {id: gr.Textbox() for id in sessions.IMAGE_TABS}
        with gr.Tabs():
            return [tab.label for tab in build._image_tabs(session, beats, group)]


def test_a_tab_appears_when_its_method_is_there(session, image_methods):
    assert labels(session) == ["DreamBooth", "Style LoRA"]
    del image_methods["style_lora"], image_methods["dreambooth"]
    assert labels(session) == ["DreamBooth"]
    del image_methods["dreambooth_lora"]
    assert labels(session) == []


def test_image_methods_are_in_no_text_list(session, image_methods):
    with gr.Blocks():
        offered = [id for field in start._methods() for _, id in field.choices]
    assert offered
    assert all(image_methods[id].modality == "text" for id in offered)
    assert "Drawer" not in {title for title, _ in session.model_choices()}
    assert session.model_choices("image") == [("Drawer", "drawer")]
    assert re.search(r'</i>DreamBooth-LoRA <span class="pg-pill">images', technique_map.cards())


# The subject


def test_a_subject_shows_its_words_and_all_its_pictures(session, mug):
    shown = dreambooth.portrait(mug)
    assert shown.count("<img ") == 3
    assert "zwx mug" in shown
    assert "2 to learn from, 1 held out" in shown
    assert "Bring your own" in dreambooth.portrait(None)


def test_a_model_of_the_catalogue_shows_licence_and_memory_for_each_method(image_methods, monkeypatch):
    techniques = [image_methods["dreambooth"], image_methods["dreambooth_lora"]]
    known = catalogue.models("image")["drawer"]
    needed = {"dreambooth": 17_000_000_000, "style_lora": 1}
    entry = dataclasses.replace(known, licence="OpenRAIL", adapting=needed, parameters=860)
    monkeypatch.setattr(catalogue, "_catalogue", lambda: {"drawer": entry})
    told = dreambooth.about_model("drawer", techniques)
    assert "OpenRAIL" in told and "860" in told and "DreamBooth 17 GB" in told
    assert "LoRA" not in told  # not estimated, so no number
    assert dreambooth.about_model("owner/name", techniques) == dreambooth.about_model(None, techniques) == ""


def test_a_subject_in_use_cannot_be_deleted(session, mug):
    image_run(session, mug.id, status="running")
    with pytest.raises(QueueError, match="Stop that run first"):
        dreambooth.delete(session, mug.id)
    assert mug.id in session.subjects("subject")


def test_a_deleted_subject_leaves_its_runs_readable(session, mug):
    run = image_run(session, mug.id)
    dreambooth.delete(session, mug.id)
    assert dreambooth.choices(session, "subject") == [
        pair for pair in dreambooth.choices(session, "subject") if pair[1] != mug.id
    ]
    assert "a deleted subject" in run_card.card(session, run)
    assert "<use" not in looks.strip_of(session, run, session.store.events(run.id), "x")
    assert draw.suggestion(session, run.id) == NASTY  # what the run itself drew


# Training


def test_a_run_is_filed_on_the_subject(session, mug):
    run = dreambooth.submit(session, "dreambooth", {"steps": 7}, mug.id, " drawer ", 3)
    assert (run.method, run.task, run.model, run.seed, run.params["steps"]) == (
        "dreambooth",
        mug.id,
        "drawer",
        3,
        7,
    )


def test_the_form_begins_with_the_preset_for_the_models_size(session, monkeypatch):
    monkeypatch.setattr(catalogue, "_catalogue", CATALOGUE)
    assert dreambooth.fitting(session, "dreambooth", "starter-stickers") == "15m-cpu"
    assert dreambooth.fitting(session, "dreambooth", "owner/unknown") == ""
    assert dreambooth.fitting(session, "dreambooth", None) == ""
    values = {"steps": 7, "prior_preservation": False}
    with gr.Blocks():
        drawn = form.build(stub("dreambooth", "DreamBooth"), values=values)
    assert {name: field.value for name, field in drawn.fields.items()} == values


def test_what_is_not_chosen_is_asked_for(session, mug):
    with pytest.raises(InvalidInput, match="what it should learn"):
        dreambooth.submit(session, "dreambooth", {}, None, "drawer", 0)
    with pytest.raises(ModelUnavailable, match="Choose an image model"):
        dreambooth.submit(session, "dreambooth", {}, mug.id, " ", 0)


def test_a_race_files_every_way_in_one_group(session, mug):
    filings = dreambooth.prepare_race(session, "subject", mug.id, "drawer")
    runs = session.queue.file(filings)
    assert [(run.method, run.params.get("prior_preservation")) for run in runs] == [
        ("image_base", None), ("dreambooth", True), ("dreambooth", False),
        ("dreambooth_lora", True), ("dreambooth_lora", False),
    ]  # fmt: skip
    assert len({run.group for run in runs}) == 1
    assert len({run.key for run in runs}) == 5


def test_a_race_leaves_out_methods_that_are_not_there(session, image_methods):
    del image_methods["dreambooth"]
    assert [one.method for one in races.racers("subject")] == ["image_base", *["dreambooth_lora"] * 2]
    assert [one.method for one in races.racers("style")] == ["image_base", "style_lora"]


def test_the_strip_follows_the_shown_run_and_is_sent_when_it_changed(session, mug):
    assert dreambooth.stamp(Look.at(session, "dreambooth")) == "none"
    run = image_run(session, mug.id, status="running")
    look = Look.at(session, "dreambooth")
    before = dreambooth.stamp(look)
    shown = dreambooth.samples_of(session, look, "dreambooth")
    assert shown.count("<img ") == 4
    assert NASTY not in shown
    session.store.append(run.id, [Event.progress("train", 3, 10, unit="step")])
    assert dreambooth.stamp(Look.at(session, "dreambooth")) == before
    again = Event.sample("during", "context-0", "p", "", step=40, file="x.png", kind="context", seed=1)
    session.store.append(run.id, [again])
    assert dreambooth.stamp(Look.at(session, "dreambooth")) != before


def test_the_step_to_keep_is_advised_while_it_trains_and_then_told(session, mug):
    run = image_run(session, mug.id, status="running")
    step, words = dreambooth.advised(Look.at(session, "dreambooth"))
    assert step == 20
    assert "Step 20 has" in words
    assert "starter CLIP" in words
    session.store.append(run.id, [Event.metric("kept_step", 10)])
    step, words = dreambooth.advised(Look.at(session, "dreambooth"))
    assert step == 10
    assert "Step 20" not in words


def test_before_the_first_training_look_nothing_is_advised(session, mug):
    run = image_run(session, mug.id, status="running", looked=(0,))
    assert looks.kept_step(run, session.store.events(run.id)) is None


def test_a_request_reaches_the_running_run_alone(session, mug):
    with pytest.raises(QueueError, match="No DreamBooth run is running"):
        dreambooth.running(session, "dreambooth")
    run = image_run(session, mug.id, status="running")
    requests.ask(session.settings, dreambooth.running(session, "dreambooth").id, "sample")
    assert requests.asked(local.run_folder(session.settings, run.id)) == {"sample"}


def test_finished_runs_are_told_apart(session, mug):
    run = image_run(session, mug.id, prior_preservation=False)
    shown, words = dreambooth.finished(session, "dreambooth", None)
    assert shown["choices"] == [(f"#{run.id} · My mug · without prior · fidelity 0.80", run.id)]
    assert words == ""
    assert "None yet" in dreambooth.finished(session, "dreambooth_lora", None)[1]


# Photos


@pytest.fixture
def upload(tmp_path):
    def write(*colours, edge=96):
        paths = []
        for number, colour in enumerate(colours, 1):
            paths.append(str(tmp_path / f"photo-{number}.png"))
            picture(colour, edge).save(paths[-1])
        return paths

    return write


def test_each_file_that_is_no_picture_is_named(session, upload, tmp_path):
    (tmp_path / "notes.png").write_text("hello")
    found = photos.read([*upload("red"), str(tmp_path / "notes.png")], session.settings)
    assert [photo.name for photo in found.photos] == ["photo-1.png"]
    shown = photos.findings(found, photos.check(found.photos, [], 64, "subject"))
    assert "“notes.png” is a text file" in shown
    assert shown.index("notes.png") < shown.index("No picture is held out")
    assert "<img " in photos.shown_photos(found.photos)


def test_captions_stay_when_a_photo_is_added(session, upload):
    first = photos.read(upload("red", "blue"), session.settings).photos
    rows = photos.table_of(first, [], "subject")
    assert [row[2] for row in rows] == [False, False]
    rows[0][1:] = ["a red mug", "true"]
    more = photos.read(upload("red", "blue", "green", "black"), session.settings).photos
    assert [row[1:] for row in photos.table_of(more, rows, "subject")] == [
        ["a red mug", True], ["", False], ["", False], ["", True],
    ]  # fmt: skip


def test_captions_and_what_is_held_out_go_with_the_photos(session, upload):
    found = photos.read(upload("red", "blue"), session.settings).photos
    train, held = photos.split(found, [["1", " a mug ", False], ["2", None, True]])
    assert [(photo.name, photo.caption) for photo in train] == [("photo-1.png", "a mug")]
    assert [(photo.name, photo.caption) for photo in held] == [("photo-2.png", "")]


@pytest.mark.parametrize(("count", "kind", "held"), [(3, "subject", 0), (5, "subject", 1), (8, "subject", 2), (20, "style", 4)])  # fmt: skip
def test_some_photos_are_held_out_unless_one_says_otherwise(count, kind, held):
    assert photos.held_out_count(count, kind) == held


def test_how_the_tokenizer_splits_a_word_is_shown(session, mug, monkeypatch):
    pieces = SimpleNamespace(
        tokenize=lambda word: [*word[:-1], f"{word[-1]}</w>"], unk_token_id=None,
        __call__=None,
    )  # fmt: skip
    monkeypatch.setattr(photos, "tokenizer", lambda *_: pieces)
    monkeypatch.setattr(photos.rare_tokens, "_unknown", lambda *_: False)
    shown = photos.explain_word(session, "qbz", "drawer")
    assert re.findall(r'pg-token">([^<]+)<', shown) == ["q", "b", "z"]
    assert "stands for something else already" in photos.explain_word(session, "zwx", "drawer")
    assert photos.explain_word(session, " ", "drawer") == ""


def test_without_the_model_it_says_why_words_cannot_be_split(session):
    assert "once the model is on this machine" in photos.explain_word(session, "qbz", "drawer")
    assert photos.edge_of(session, "drawer") == photos.UNKNOWN_EDGE


def test_the_edge_of_a_models_pictures_is_read_from_its_files(session, tmp_path, monkeypatch):
    for part, text in (("unet", '{"sample_size": 16}'), ("vae", '{"block_out_channels": [8, 8, 8]}')):
        (tmp_path / part).mkdir()
        (tmp_path / part / "config.json").write_text(text)
    monkeypatch.setattr(photos, "folder_of", lambda *_: tmp_path)
    assert photos.edge_of(session, "drawer") == 64


# Drawing, taking away


def test_both_sides_are_drawn_with_the_same_words_and_seeds(session, mug):
    run = image_run(session, mug.id)
    asked = []

    def pictures(run_id, prompts, seeds, *, adapted, **options):
        asked.append((run_id, prompts, seeds, adapted, options))
        return torch.full((len(seeds), 3, 8, 8), 1.0 if adapted else -1.0)

    session.arbiter.pictures = pictures
    *_, shown = draw.draw(session, run.id, " a zwx mug ", 5, 2, "30", " 4.5 ")
    options = {"steps": 30, "guidance": 4.5}
    assert asked == [(run.id, ["a zwx mug"] * 2, [5, 6], side, options) for side in (False, True)]
    assert shown.count("<img ") == 4
    assert re.findall(r'download="([^"]+)"', shown)[-1] == f"run-{run.id}-adapted-seed-6.png"
    asked.clear()
    list(draw.draw(session, run.id, "a mug", 0, 1))
    assert asked[0][-1] == {}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((None, "a", 0, 1), "Train one first"),
        ((1, " ", 0, 1), "prompt is empty"),
        ((1, "a", -1, 1), "Seed must be"),
        ((1, "a", 0.5, 1), "Seed must be"),
        ((1, "a", 0, 1, "many"), "Steps must be a number"),
        ((1, "a", 0, 1, "0"), "Steps must be a whole number between 1"),
        ((1, "a", 0, 1, "", "nan"), "Guidance must be between"),
    ],
)
def test_wrong_values_are_refused_before_anything_is_drawn(session, mug, values, message):
    image_run(session, mug.id)
    with pytest.raises(InvalidInput, match=message):
        next(draw.draw(session, *values))


def test_only_files_in_the_runs_folder_are_handed_out(session, mug):
    run = image_run(session, mug.id, status="running")
    folder = local.run_folder(session.settings, run.id)
    (folder / "adapter").mkdir()
    (folder / "adapter/weights.safetensors").write_bytes(b"x")
    (folder / "adapter/link").symlink_to(session.settings.database)
    outside = Event.artifact("database", "../../playground.sqlite3", 1)
    session.store.append(run.id, [Event.artifact("adapter", "adapter", 1), outside])
    assert [path.name for path in take.made(session, run.id)] == ["weights.safetensors"]
    assert take.made(session, None) == []


# Compare


def text_run(session):
    run = session.store.submit(Filing("t", "zero_shot", {}, "smollm2-135m", "support-desk"))
    session.store.transition(run.id, "running", expect={"queued"})
    session.store.append(run.id, [Event.metric("quality", 0.5)])
    session.store.finish(run.id, "done")
    return session.store.get(run.id)


def test_text_and_images_are_compared_apart(session, mug):
    assert compare.modalities(session) == ["text"]
    drawn = image_run(session, mug.id, group="g")
    assert compare.modalities(session) == ["image"]
    written = text_run(session)
    assert compare.modalities(session) == ["text", "image"]
    assert [run.id for run in compare.select(session, "", "", "every", None, "image")] == [drawn.id]
    assert [run.id for run in compare.select(session, "", "", "every", None, "text")] == [written.id]
    assert compare.group_modality(session, "g") == "image"


def compared(session, runs):
    rows = compare.comparison.rows(runs, session.described)
    return compare._by_setting(session, rows, {run.id: run for run in runs}, {}, None)


def test_image_rows_have_their_own_columns_under_their_subject(session, mug):
    runs = [
        image_run(session, mug.id, "image_base", fidelity=0.6),
        image_run(session, mug.id, fidelity=0.9, prior_preservation=True),
        image_run(session, mug.id, fidelity=0.7, prior_preservation=False),
    ]
    shown = compared(session, runs)
    assert "<h3>My mug <small>Drawer · judged by starter CLIP</small></h3>" in shown
    assert re.findall(r"#\d+ · (with(?:out)? prior)", shown) == ["with prior", "without prior"]
    assert re.findall(r'class="pg-good">([^<]+)<', shown) == ["+0.300", "+0.100"]
    assert '<td data-label="Drift">0.050</td>' in shown
    assert '<td data-label="Peak memory"></td>' in shown
    assert "Against zero-shot" not in shown
    gained = compare.gains(session, runs)
    assert gained.count("<li ") == 2
    assert "Fidelity 0.600 → 0.900 (+0.300)" in gained


def test_an_image_run_is_held_against_the_base_model_with_the_same_seed(session, mug):
    runs = [
        image_run(session, mug.id, "image_base", fidelity=0.6, seed=1),
        image_run(session, mug.id, "image_base", fidelity=0.5, seed=2),
        image_run(session, mug.id, fidelity=0.9, seed=1),
        image_run(session, mug.id, fidelity=0.7, seed=3),
    ]
    assert re.findall(r'class="pg-good">([^<]+)<', compared(session, runs)) == ["+0.300"]
    gained = compare.gains(session, runs)
    assert gained.count("<li ") == 1 and "Fidelity 0.600 → 0.900" in gained


def test_what_another_judge_measured_is_no_base_and_in_another_ranking(session, mug):
    runs = [
        image_run(session, mug.id, "image_base", fidelity=0.6),
        image_run(session, mug.id, fidelity=0.9),
        image_run(session, mug.id, fidelity=0.95, judge="DINOv2 + CLIP"),
    ]
    shown = compared(session, runs)
    assert re.findall(r'class="pg-good">([^<]+)<', shown) == ["+0.300"]
    assert shown.count("<section") == 2 and "judged by DINOv2 + CLIP" in shown
    assert [row for row in re.findall(r'<tr class="([^"]+)"', shown) if "pg-best" in row] == [
        "pg-done pg-best"
    ]
    together = table.drawn(
        compare.comparison.rows(runs, session.described), {one.id: one for one in runs}, {}
    )
    assert re.findall(r'class="pg-good">([^<]+)<', together) == ["+0.300"]
    gained = compare.gains(session, runs)
    assert gained.count("<li ") == 1
    assert (
        f"There is no run of the base model on the same pictures, model, seed and judge for #{runs[2].id}."
        in gained
    )


def test_a_failed_image_run_says_why_in_its_row(session, mug):
    run = image_run(session, mug.id, status="running")
    session.store.finish(run.id, "failed", f"Out of memory {NASTY}")
    shown = compared(session, [session.store.get(run.id)])
    assert "Out of memory" in shown
    assert "<img" not in shown


def test_an_opened_image_run_shows_its_strip(session, mug):
    run = image_run(session, mug.id)
    shown = compare.answers(session, run.id)
    assert f"Pictures of run #{run.id}" in shown
    assert shown.count("<img ") == 4


def test_fidelity_is_set_against_costs_of_images(session, mug):
    runs = [image_run(session, mug.id, "image_base", fidelity=0.6), image_run(session, mug.id)]
    rows = compare.comparison.rows(runs, session.described)
    shown = compare.scatter(session, compare._newest_setting(rows), "Drift of the class")
    assert shown.count('r="6"') == 2
    assert "%" not in shown


def test_the_guide_is_of_the_methods_that_are_compared(session):
    assert "DreamBooth" in table.guide([], "image")
    assert "Zero-shot" not in table.guide([], "image")
    assert "DreamBooth" not in table.guide([], "text")


def test_filters_that_do_not_fit_any_more_fall_back():
    update, value = compare._choices([("All", ""), ("Mug", "mug")], "support-desk")
    assert value == ""
    assert update["value"] == ""
