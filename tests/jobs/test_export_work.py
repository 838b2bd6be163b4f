"""What finished runs are taken away as: it loads elsewhere, and answers as the run did."""

import json
import pickle
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import finished
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from playground.data import tasks
from playground.errors import AdapterError, InvalidInput, OutOfMemory, QueueError, RunFailed
from playground.events import result_of
from playground.jobs import export_work, local
from playground.jobs.export_work import Order
from playground.methods.base import Context
from playground.methods.parametric import Parametric
from playground.methods.registry import method, methods
from playground.models import catalogue, text

ROOT = Path(__file__).parents[2]
IDS = [
    id
    for id, technique in methods().items()
    if isinstance(technique, Parametric) and not type(technique).__module__.endswith(".newer_peft")
]
OWN = {"bitfit", "bottleneck"}  # no other library knows them
BESIDE = {"bottleneck", "prefix_tuning", "prompt_tuning", "p_tuning"}  # cannot be merged


def build(steps):
    """Run a generator to its end: (result, its events)."""
    events = []
    return result_of(steps, events.append), events


def made(home, run, form, target, **more):
    return build(export_work.build(Order(run.id, form, **more), home.settings, home.store, target))[0]


def prompt():
    return torch.tensor([[1, 90, 12, 44, 45, 2, 1, 70, 71, 72, 73, 74]])


def logits(network, ids=None):
    with torch.no_grad():
        return network(input_ids=prompt() if ids is None else ids).logits


def greedy(network):
    with torch.no_grad():
        return network.generate(prompt(), do_sample=False, max_new_tokens=12, min_new_tokens=12)[0].tolist()


def restored(home, run):
    """The run's own model, as the page would try it."""
    technique = method(run.method)
    params = technique.Params.parse(run.params)
    packed = technique.quantization(params)
    options = {"quantization": packed} if packed else {}
    context = Context(
        tasks.task(run.task, home.settings),
        text.load(catalogue.model(run.model), home.settings, **options),
        local.run_folder(home.settings, run.id),
        run.seed,
        embedder=None,
    )
    return technique.restore(params, context).model.model


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    opened = finished.home(tmp_path_factory.mktemp("finished"))
    opened.run("zero_shot")
    yield opened
    opened.store.close()


@pytest.fixture(scope="module")
def runs(home):
    """One finished run of every method that trains, made when asked for."""
    known = {}

    def run(id):
        if id not in known:
            known[id] = home.run(id, epochs=3, batch_size=8)
        return known[id]

    return run


@pytest.fixture(scope="module")
def run(runs):
    return runs("lora")


@pytest.mark.parametrize("id", IDS)
def test_a_downloaded_adapter_answers_as_the_run_did_with_the_code_of_its_card(
    home, runs, tmp_path, monkeypatch, capsys, id
):
    run = runs(id)
    target = made(home, run, "adapter", tmp_path / "got.zip")
    with zipfile.ZipFile(target) as archive:
        assert archive.testzip() is None
        archive.extractall(tmp_path)
    (folder,) = [path for path in tmp_path.iterdir() if path.is_dir()]
    assert folder.name == f"run-{run.id}-{'-'.join(id.split('_'))}-adapter"
    card = (folder / "README.md").read_text()
    code = re.search(r"```python\n(.*?)```", card, re.DOTALL)[1]
    code = code.replace(f"'path/to/{home.model.name}'", repr(str(home.model)))
    assert ("playground" in code) == (id in OWN)
    monkeypatch.chdir(tmp_path)
    known = {}
    exec(compile(code, f"card of {id}", "exec"), known)
    assert capsys.readouterr().out.strip()  # it printed an answer
    own = restored(home, run)
    said, expected = logits(known["model"]), logits(own)
    said = said[:, -expected.shape[1] :]  # plain peft tells the logits of virtual tokens, too
    torch.testing.assert_close(said, expected, rtol=1e-4, atol=1e-4)
    base = AutoModelForCausalLM.from_pretrained(home.model)
    assert not torch.allclose(expected, logits(base), atol=1e-3)  # it had learnt something


@pytest.mark.parametrize("quantization", ["nf4", "nf4-single"])
def test_an_adapter_with_dora_answers_as_the_run_did_with_the_code_of_its_card(
    home, tmp_path, monkeypatch, quantization
):
    run = home.run("qlora", epochs=3, batch_size=8, dora=True, quantization=quantization)
    folder = made(home, run, "adapter", tmp_path / "got")
    code = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)[1]
    monkeypatch.chdir(tmp_path)
    known = {}
    exec(code.replace(f"'path/to/{home.model.name}'", repr(str(home.model))), known)
    expected = logits(restored(home, run))
    torch.testing.assert_close(logits(known["model"]), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("id", IDS)
def test_a_merged_model_is_a_plain_one_that_answers_as_the_run_did(home, runs, tmp_path, id):
    run = runs(id)
    target = tmp_path / "plain"
    own = restored(home, run)
    expected, said = logits(own), greedy(own)
    try:
        made(home, run, "merged", target)
    except AdapterError as error:
        assert "cannot be merged" in str(error)
        assert id in BESIDE
        assert list(tmp_path.iterdir()) == []
        return
    assert id not in BESIDE
    loaded, info = AutoModelForCausalLM.from_pretrained(target, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert type(loaded).__name__ == "LlamaForCausalLM"
    torch.testing.assert_close(logits(loaded), expected, rtol=1e-4, atol=1e-4)
    assert greedy(loaded) == said
    tokenizer = AutoTokenizer.from_pretrained(target)
    assert tokenizer.chat_template == finished.CHATML
    assert tokenizer("word 12")["input_ids"] == finished.bpe_tokenizer()("word 12")["input_ids"]
    assert (target / "generation_config.json").is_file()


def test_the_merged_models_card_has_code_that_works(home, run, tmp_path):
    target = made(home, run, "merged", tmp_path / "plain")
    code = re.search(r"```python\n(.*?)```", (target / "README.md").read_text(), re.DOTALL)[1]
    said = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        env={"PATH": "", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )
    assert said.returncode == 0 and said.stdout.strip(), said.stderr


@pytest.mark.parametrize(("precision", "near"), [("float32", 1e-4), ("float16", 5e-2), ("q8_0", 0.5)])
def test_a_gguf_file_read_back_answers_as_the_run_did(home, run, tmp_path, precision, near):
    target = made(home, run, "gguf", tmp_path / "got.gguf", precision=precision)
    loaded = AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file=target.name, dtype="float32", quantization_config=GgufConfig(dequantize=True)
    )
    expected = logits(restored(home, run))
    torch.testing.assert_close(logits(loaded), expected, rtol=0, atol=near)
    assert [path.name for path in tmp_path.iterdir()] == ["got.gguf"]


@pytest.mark.parametrize("form", ["adapter", "merged"])
def test_nothing_of_this_machine_is_in_what_is_downloaded(home, run, tmp_path, form):
    folder = made(home, run, form, tmp_path / "out")
    for path in folder.iterdir():
        assert path.is_file() and not path.is_symlink()
        content = path.read_bytes()
        for secret in (str(home.settings.home), str(home.model.parent), str(Path.home())):
            if secret != "/":
                assert secret.encode() not in content, path.name
    assert not {"checkpoints", "log.txt"} & {path.name for path in folder.iterdir()}


def test_the_adapter_names_its_base_and_seed_and_can_still_be_checked(home, run, tmp_path):
    from playground.training import adapter_files

    folder = made(home, run, "adapter", tmp_path / "out")
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == home.model.name
    about = adapter_files.verify(folder, {"method": "lora"})
    assert (about["seed"], about["model"]) == (0, home.model.name)


def test_names_in_the_zip_stay_inside_its_folder(home, run, tmp_path):
    with zipfile.ZipFile(made(home, run, "adapter", tmp_path / "x.zip")) as archive:
        for info in archive.infolist():
            assert info.filename.startswith(f"run-{run.id}-lora-adapter/")
            assert ".." not in info.filename and not info.is_dir()
            assert info.external_attr >> 16 == 0o644
            stored = info.filename.endswith(".safetensors")
            assert info.compress_type == (zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED)


def test_progress_is_told(home, run, tmp_path):
    order = Order(run.id, "merged")
    _, events = build(export_work.build(order, home.settings, home.store, tmp_path / "x.zip"))
    phases = list(dict.fromkeys(event.data["phase"] for event in events))
    assert phases == ["load", "merge", "write", "pack"]
    assert all(event.data["done"] <= event.data["total"] for event in events)


def test_a_damaged_adapter_is_not_passed_on(home, tmp_path):
    run = home.run("lora", epochs=1, rank=2)
    weights = local.run_folder(home.settings, run.id) / "adapter" / "adapter_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-2] ^= 0x40
    weights.write_bytes(content)
    for form in export_work.FORMS:
        with pytest.raises(AdapterError, match="damaged"):
            made(home, run, form, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_pickles_beside_the_adapter_are_not_passed_on(home, runs, tmp_path):
    run = home.run("lora", epochs=1, rank=3)
    adapter = local.run_folder(home.settings, run.id) / "adapter"
    for name in ("adapter_model.bin", "optimizer.pt", "training_args.bin"):
        (adapter / name).write_bytes(pickle.dumps(Path))
    names = {path.name for path in made(home, run, "adapter", tmp_path / "out").iterdir()}
    assert names == {"README.md", "adapter_config.json", "adapter_model.safetensors", "playground.json"}


def test_what_cannot_be_exported_is_refused_before_any_work(home, run, tmp_path):
    zero = home.store.list(method="zero_shot")[0]
    with pytest.raises(InvalidInput, match="trains nothing"):
        made(home, zero, "adapter", tmp_path / "out")
    with pytest.raises(InvalidInput, match="no form"):
        made(home, run, "onnx", tmp_path / "out")
    with pytest.raises(InvalidInput, match="float16, q8_0, float32"):
        made(home, run, "gguf", tmp_path / "out", precision="q2")
    assert list(tmp_path.iterdir()) == []


def test_only_a_finished_run_is_exported(home, tmp_path):
    from playground.results.runs import Filing

    waiting = home.store.submit(Filing("waits", "lora", {}, str(home.model), "words"))
    with pytest.raises(QueueError, match="is queued"):
        made(home, waiting, "adapter", tmp_path / "out")
    home.store.transition(waiting.id, "cancelled", expect={"queued"})
    with pytest.raises(QueueError, match="is cancelled"):
        made(home, waiting, "merged", tmp_path / "out")


def test_a_folder_that_holds_something_else_is_left_alone(home, run, tmp_path):
    (tmp_path / "diary.txt").write_text("mine")
    with pytest.raises(InvalidInput, match="holds something else"):
        made(home, run, "adapter", tmp_path)
    assert (tmp_path / "diary.txt").read_text() == "mine"
    again = made(home, run, "adapter", tmp_path / "out")
    assert made(home, run, "adapter", again) == again  # its own is replaced


@pytest.mark.parametrize(
    ("form", "place", "words"),
    [
        ("adapter", "file/x", "file is a file"),
        ("adapter", "file/x/y.zip", "file is a file"),
        ("gguf", "file/x.gguf", "file is a file"),
        ("adapter", "folder.zip", "folder.zip is a folder"),
        ("gguf", "folder.zip", "folder.zip is a folder"),
        ("gguf", "/", "/ is a folder"),
    ],
)
def test_a_place_where_nothing_can_be_put_is_refused_before_any_work(home, run, tmp_path, form, place, words):
    (tmp_path / "file").write_text("my own")
    (tmp_path / "folder.zip").mkdir()
    steps = export_work.build(Order(run.id, form), home.settings, home.store, tmp_path / place)
    with pytest.raises(InvalidInput, match=words):
        next(steps)
    assert (tmp_path / "file").read_text() == "my own"


def test_a_full_disk_leaves_nothing(home, run, tmp_path, monkeypatch):
    from playground.training import export

    def full(network, tokenizer, folder, name):
        (folder / "model.safetensors").write_bytes(b"half")
        with open("/dev/full", "w") as file:
            file.write("x" * 100_000)

    monkeypatch.setattr(export, "write", full)
    for target in ("out", "out.zip"):
        with pytest.raises(RunFailed, match="disk is full"):
            made(home, run, "merged", tmp_path / target)
        assert list(tmp_path.iterdir()) == []


def test_too_little_room_is_said_before_the_work(home, run, tmp_path, monkeypatch):
    monkeypatch.setattr(export_work.shutil, "disk_usage", lambda _: type("", (), {"free": 1_000_000}))
    with pytest.raises(RunFailed, match="too little room: this needs about"):
        made(home, run, "merged", tmp_path / "out")


@pytest.fixture(scope="module")
def published_short(tmp_path_factory):
    """A home whose base model is published in bfloat16; its runs train in float32."""
    tokenizer = finished.bpe_tokenizer()
    network = finished.llama(tokenizer, hidden_size=64, intermediate_size=128).bfloat16()
    opened = finished.home(tmp_path_factory.mktemp("short"), network, tokenizer)
    yield opened, sum(value.numel() for value in network.parameters())
    opened.store.close()


@pytest.mark.parametrize(("id", "numbers"), [("lora", 4), ("full", 8)])
def test_memory_is_asked_for_in_the_number_type_of_the_run(
    published_short, tmp_path, monkeypatch, id, numbers
):
    home, size = published_short
    run = home.run(id, epochs=1)
    assert run.provenance["dtype"] == "float32"
    memory = type("", (), {"available": 1.3 * numbers * size - 1})
    monkeypatch.setattr("psutil.virtual_memory", lambda: memory)
    with pytest.raises(OutOfMemory, match="to be merged"):
        made(home, run, "merged", tmp_path / "out")
    memory.available += 1
    made(home, run, "merged", tmp_path / "out")


@pytest.mark.parametrize(
    ("form", "more", "numbers"),
    [("merged", {}, 8), ("gguf", {}, 2), ("gguf", {"precision": "float32"}, 4)],
)
def test_the_disk_is_asked_for_what_is_written(published_short, tmp_path, monkeypatch, form, more, numbers):
    home, size = published_short
    run = home.run("lora", epochs=2)
    disk = type("", (), {"free": numbers * size + export_work._SPARE - 1})
    monkeypatch.setattr(export_work.shutil, "disk_usage", lambda _: disk)
    with pytest.raises(RunFailed, match="too little room"):
        made(home, run, form, tmp_path / "out", **more)
    disk.free += 1
    target = made(home, run, form, tmp_path / "out", **more)
    files = target.iterdir() if target.is_dir() else [target]
    written = sum(path.stat().st_size for path in files if path.suffix != ".json")
    copies = 2 if form == "merged" else 1  # beside the folder there may be its zip file
    assert written == pytest.approx(numbers * size / copies, rel=0.2)


def test_an_architecture_that_gguf_export_does_not_know_is_named(tmp_path):
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = finished.bpe_tokenizer()
    network = GPT2LMHeadModel(
        GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=4, n_positions=512)
    )
    home = finished.home(tmp_path / "gpt2", network, tokenizer)
    run = home.run("lora", epochs=1)
    with pytest.raises(AdapterError, match="Llama, Qwen2, Qwen3; this one is a GPT2LMHeadModel"):
        made(home, run, "gguf", tmp_path / "x.gguf")
    made(home, run, "merged", tmp_path / "merged")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(loaded), logits(restored(home, run)), rtol=1e-4, atol=1e-4)
    home.store.close()


def test_the_card_says_what_was_measured(home, run):
    card = export_work.card_of(run.id, home.settings, home.store)
    assert card.startswith("---\n")
    assert "before: zero-shot, run 1" in card
    assert "n = 4" in card
    assert "Words \\| &lt;b&gt;bold&lt;/b&gt;" in card
    assert str(home.settings.home) not in card and str(home.model) not in card
