"""The command line on image methods: what it chooses, and what it refuses in plain words."""

from contextlib import closing

import pytest

from playground import cli
from playground.errors import InvalidInput
from playground.jobs import export_work, local, races, sweep
from playground.jobs.queue import Queue
from playground.methods import presets
from playground.models import catalogue
from playground.results.runs import Filing, RunStore
from playground.settings import Settings


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("PLAYGROUND_HOME", str(tmp_path))
    monkeypatch.setenv("PLAYGROUND_OFFLINE", "1")
    return Settings.from_environment()


@pytest.fixture
def finished(home):
    """A finished run of DreamBooth-LoRA."""
    store = RunStore(home.database)
    filing = Filing(
        key="k", method="dreambooth_lora", params={}, model="starter-stickers", task="mascot", seed=0, limit=None,
        group=None,
    )  # fmt: skip
    run = store.submit(filing)
    store.transition(run.id, "running", expect={"queued"})
    store.finish(run.id, "done", None)
    yield run, store
    store.close()


def test_a_subject_is_raced_by_image_methods_on_the_image_model(home, monkeypatch):
    from playground.cli import runs

    seen = []

    def work(options, settings, prepare, *more):
        with closing(RunStore(settings.database)) as store:
            seen[:] = prepare(Queue(settings, store))
        return 0

    monkeypatch.setattr(runs, "work", work)
    assert cli.main(["race", "--task", "mascot", "--seed", "3"]) == 0
    assert {(one.model, one.seed) for one in seen} == {("starter-stickers", 3)}
    assert [(one.method, one.params.get("prior_preservation")) for one in seen] == [
        ("image_base", None), ("dreambooth", True), ("dreambooth", False),
        ("dreambooth_lora", True), ("dreambooth_lora", False),
    ]  # fmt: skip
    assert cli.main(["race", "--task", "outline"]) == 0
    assert [one.method for one in seen] == ["image_base", "style_lora"]
    assert cli.main(["race", "--task", "support-desk"]) == 0
    assert {one.model for one in seen} == {"smollm2-135m"}
    assert [one.method for one in seen] == ["zero_shot", "few_shot", "rag", "lora"]


def test_a_race_takes_the_preset_for_the_models_size(home):
    with closing(RunStore(home.database)) as store:
        filings = races.prepare(Queue(home, store), "subject", "mascot", "starter-stickers")
    full = next(one for one in filings if one.method == "dreambooth")
    values = presets.preset("dreambooth", "15m-cpu").values
    assert values and {name: full.params[name] for name in values} == values
    assert races.params_of(races.Racer("dreambooth"), catalogue.model("o/unknown"), home) == {}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "dreambooth", "--task", "support-desk"], "support-desk"),
        (["run", "lora", "--task", "mascot"], "mascot"),
        (["run", "style_lora", "--task", "mascot"], "choose DreamBooth"),
        (["run", "dreambooth", "--task", "mascot", "--steps", "0"], "Steps cannot be 0"),
        (["run", "dreambooth", "--task", "mascot", "--model", "smollm2-135m"], "works on image"),
        (["estimate", "--method", "dreambooth", "--task", "mascot"], "no estimate"),
        (["sweep", "--method", "dreambooth", "--task", "mascot", "--set", "steps=10,20"], "dev loss"),
    ],
)
def test_what_does_not_fit_is_refused_with_exit_code_2(home, capsys, arguments, words):
    assert cli.main(arguments) == 2
    told = capsys.readouterr().err
    assert words in told and "Traceback" not in told


def test_an_export_says_where_the_result_lies(home, finished):
    run, store = finished
    with pytest.raises(InvalidInput, match=str(local.run_folder(home, run.id))):
        export_work.check(export_work.Order(run.id, "adapter"), home, store)


def test_a_sweep_of_an_image_method_is_refused(home, finished):
    _, store = finished
    with pytest.raises(InvalidInput, match="dev loss"):
        sweep.prepare(Queue(home, store), "dreambooth", {}, {"steps": [1, 2]}, "mascot", "starter-stickers")
