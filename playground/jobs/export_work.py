"""Making what a finished run can be taken away as: adapter, merged model, GGUF file, card, push.

``python -m playground.jobs.export_work`` does one order in a process of its own (see
``playground.jobs.exports``): it reads the order as JSON from standard input, where a token is seen by
nobody else, and writes events as JSON lines to standard output.
"""

import dataclasses
import json
import os
import shutil
import sys
import threading
import time
import traceback
import zipfile
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from playground.data import tasks
from playground.errors import (
    AdapterError,
    InvalidInput,
    OutOfMemory,
    PlaygroundError,
    QueueError,
    RunFailed,
    TaskError,
)
from playground.events import Event, result_of
from playground.jobs import hub, loading, local
from playground.jobs.worker import explain
from playground.methods import registry
from playground.methods.base import Context
from playground.methods.parametric import ADAPTER, Parametric
from playground.models import catalogue
from playground.results import card, comparison
from playground.results.card import Form
from playground.results.runs import Run, RunStore
from playground.settings import Settings

if TYPE_CHECKING:
    from torch import nn

    from playground.models.text import LanguageModel

FORMS: tuple[Form, ...] = ("adapter", "merged", "gguf")
PRECISIONS = ("float16", "q8_0", "float32")  # of GGUF
CARD = "README.md"
FOLDER = "exports"  # below the run's folder

_DESCRIPTIONS = ("adapter_config.json", "playground.json")
_NUMBER_BYTES = {"float16": 2, "q8_0": 34 / 32, "float32": 4}
_SPARE = 100_000_000  # bytes that a disk keeps free
_CHUNK = 1 << 20

Steps = Generator[Event, None, Path]


@dataclass(frozen=True)
class Order:
    """What is wanted of which run. ``precision`` counts for GGUF only."""

    run: int
    form: Form
    precision: str = "float16"


def check(order: Order, settings: Settings, store: RunStore) -> tuple[Run, Parametric]:
    """The run and its method, if this can be made of it.

    Raises:
        RunNotFound: there is no such run.
        QueueError: it is not done.
        InvalidInput: its method trains nothing, or there is no such form or precision.
        AdapterError: its folder is gone.
    """
    run = store.get(order.run)
    if order.form not in FORMS:
        raise InvalidInput(f"There is no form “{order.form}”: {', '.join(FORMS)}.", field="format")
    if order.form == "gguf" and order.precision not in PRECISIONS:
        raise InvalidInput(
            f"GGUF can be written as {', '.join(PRECISIONS)}, not as “{order.precision}”.", field="precision"
        )
    technique = registry.method(run.method)
    if technique.modality == "image":
        place = local.run_folder(settings, run.id) / ADAPTER
        raise InvalidInput(
            f"What {technique.title} learnt lies ready for diffusers in {place}; copy it from there."
        )
    if not isinstance(technique, Parametric):
        raise InvalidInput(f"{technique.title} trains nothing, so there is nothing to take away.")
    if run.status != "done":
        raise QueueError(f"Run {run.id} is {run.status}; only a finished run can be taken away.")
    if not (local.run_folder(settings, run.id) / ADAPTER).is_dir():
        raise AdapterError(f"The adapter of run {run.id} is gone from its folder; run it again.")
    return run, technique


def name(run: Run, order: Order) -> str:
    """A name for files of this: letters, digits and - only, e.g. "run-12-lora-merged"."""
    kind = order.precision.replace("_", "") if order.form == "gguf" else order.form
    return "-".join(
        ("run", str(run.id), *"".join(c if c.isalnum() else " " for c in run.method).split(), kind)
    )


def file_name(run: Run, order: Order) -> str:
    """The name of the file that is downloaded."""
    return f"{name(run, order)}.{'gguf' if order.form == 'gguf' else 'zip'}"


def build(order: Order, settings: Settings, store: RunStore, target: Path) -> Steps:
    """Make ``target``: of adapter and merged model a folder, or a zip file where it ends in .zip; of GGUF a file.

    It appears whole or not at all. Returns its path.

    Raises:
        as ``check``; InvalidInput: nothing can be put there; AdapterError: it is damaged, or cannot be had in this
        form; RunFailed: the disk is full; OutOfMemory: the model does not fit.
    """
    run, technique = check(order, settings, store)
    target = Path(target)
    _refuse_impossible_place(target, is_file=order.form == "gguf" or target.suffix == ".zip")
    if order.form == "gguf":
        return (yield from _gguf(run, technique, order, settings, store, target))
    if target.suffix != ".zip":
        return (yield from _folder(run, technique, order, settings, store, target))
    work = target.with_name(f".{name(run, order)}.partial")
    try:
        folder = yield from _folder(run, technique, order, settings, store, work / name(run, order))
        yield from pack(folder, target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return target


def push(
    order: Order, settings: Settings, store: RunStore, to: hub.Push, work: Path
) -> Generator[Event, None, str]:
    """Make it in the folder ``work``, which is removed afterwards, and push it. Returns its address on the Hub.

    Raises: as ``build`` and ``hub.push``.
    """
    run, technique = check(order, settings, store)
    try:
        if order.form == "gguf":
            folder = work / name(run, order)
            yield from _gguf(run, technique, order, settings, store, folder / file_name(run, order))
            subject = subject_of(run, technique, order, settings)
            (folder / CARD).write_text(_card(run, subject, order, store), encoding="utf-8")
        else:
            folder = yield from _folder(run, technique, order, settings, store, work / name(run, order))
        return (yield from hub.push(folder, to))
    finally:
        shutil.rmtree(work, ignore_errors=True)


def card_of(run_id: int, settings: Settings, store: RunStore, form: Form = "adapter") -> str:
    """The model card of a finished run.

    Raises: as ``check``.
    """
    order = Order(run_id, form)
    run, technique = check(order, settings, store)
    return _card(run, subject_of(run, technique, order, settings), order, store)


def pack(folder: Path, target: Path) -> Generator[Event, None, None]:
    """Zip a folder, a piece at a time; names in it start with the folder's own. Links are left out.

    Raises:
        RunFailed: the disk is full; nothing is left behind.
    """
    from playground.training.saving import atomic_file

    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    total, done = sum(path.stat().st_size for path in files), 0
    with atomic_file(target) as partial, zipfile.ZipFile(partial, "w") as archive:
        for path in files:
            info = zipfile.ZipInfo.from_file(
                path, path.relative_to(folder.parent).as_posix(), strict_timestamps=False
            )
            info.external_attr = 0o644 << 16
            weights = path.suffix == ".safetensors"  # hardly any smaller when compressed, and slow
            info.compress_type = zipfile.ZIP_STORED if weights else zipfile.ZIP_DEFLATED
            with path.open("rb") as source, archive.open(info, "w") as out:
                while piece := source.read(_CHUNK):
                    out.write(piece)
                    done += len(piece)
                    yield Event.progress("pack", done, total, unit="byte")


# ---- the forms


def _folder(
    run: Run, technique: Parametric, order: Order, settings: Settings, store: RunStore, target: Path
) -> Steps:
    from playground.training.saving import atomic_folder

    _refuse_strangers_folder(target)
    with atomic_folder(target) as partial:
        if order.form == "adapter":
            yield from _adapter(run, technique, settings, partial)
        else:
            yield from _merged(run, technique, order, settings, partial)
        subject = subject_of(run, technique, order, settings, target.name, partial)
        (partial / CARD).write_text(_card(run, subject, order, store), encoding="utf-8")
    return target


def _refuse_impossible_place(target: Path, is_file: bool) -> None:
    """Say before minutes of work that a plain file stands where a folder is needed, or the other way round."""
    above = next((path for path in target.absolute().parents if path.exists()), target)
    if not above.is_dir():
        raise InvalidInput(f"{above} is a file, so nothing can be put into it. Name another place.", "out")
    if is_file and target.is_dir():
        raise InvalidInput(f"{target} is a folder. Name a file that is not there yet.", "out")


def _refuse_strangers_folder(target: Path) -> None:
    """A folder is replaced as a whole: not one that holds something else."""
    if target.is_file() or (target.is_dir() and any(target.iterdir()) and not (target / CARD).is_file()):
        raise InvalidInput(f"{target} is there already and holds something else. Name a new folder.", "out")


def _adapter(run: Run, technique: Parametric, settings: Settings, folder: Path) -> Iterator[Event]:
    """The files as the training saved them, checked, and without names of this machine's folders.

    A pickle that someone put beside them stays behind: another library might open it.
    """
    from playground.models.sources import NEEDED_FILES
    from playground.training import adapter_files

    source = local.run_folder(settings, run.id) / ADAPTER
    entry = catalogue.model(run.model, settings)
    yield Event.progress("check", 0, 1)
    adapter_files.verify(source, {"method": run.method, "model": entry.id})
    files = [
        path
        for path in sorted(source.iterdir())
        if path.is_file() and not path.is_symlink() and any(map(path.match, NEEDED_FILES))
    ]
    for done, path in enumerate(files):
        yield Event.progress("write", done, len(files), unit="file")
        if path.name in _DESCRIPTIONS:
            about = json.loads(path.read_text(encoding="utf-8"))
            (folder / path.name).write_text(json.dumps(_public(about, run, entry), indent=2) + "\n")
        else:
            shutil.copyfile(path, folder / path.name)


def _public(about: dict[str, Any], run: Run, entry: catalogue.Model) -> dict[str, Any]:
    about = card.plain(about)
    if "base_model_name_or_path" in about:
        about["base_model_name_or_path"] = _repo(entry) or entry.title
        about["revision"] = loading.base(_repo(entry), entry.title, run, None).revision
    else:
        about["seed"] = run.seed  # what the trained part began with follows from it
    return about


def _merged(
    run: Run, technique: Parametric, order: Order, settings: Settings, folder: Path
) -> Iterator[Event]:
    from playground.training import export

    entry = catalogue.model(run.model, settings)
    model = yield from _plain_model(run, technique, order, settings, folder.parent)
    size = sum(value.numel() * value.element_size() for value in model.model.parameters())
    yield from _meanwhile(
        lambda: export.write(model.model, model.tokenizer, folder, _repo(entry) or entry.title),
        lambda: Event.progress("write", min(size, _bytes(folder)), size, unit="byte"),
    )


def _gguf(
    run: Run, technique: Parametric, order: Order, settings: Settings, store: RunStore, target: Path
) -> Steps:
    from playground.training import gguf_file
    from playground.training.saving import atomic_file

    target.parent.mkdir(parents=True, exist_ok=True)
    model = yield from _plain_model(run, technique, order, settings, target.parent)
    subject = subject_of(run, technique, order, settings)
    origin = gguf_file.Origin(
        name=f"{subject.model} {subject.method} run {run.id}",
        description=f"{subject.model} adapted with {subject.method} to {subject.task}",
        licence=card.licence_id(subject.licence),
        base=subject.model,
        repo=subject.repo,
    )
    with atomic_file(target) as partial:
        yield from gguf_file.write(model.model, model.tokenizer, partial, order.precision, origin)
    return target


def _plain_model(
    run: Run, technique: Parametric, order: Order, settings: Settings, beside: Path
) -> "Generator[Event, None, LanguageModel]":
    """The run's model with its trained part folded in, on the CPU, in the number type that it was trained in."""
    from playground.models import sources, text
    from playground.training import export

    entry = catalogue.model(run.model, settings)
    yield Event.progress("load", 0, 1, note=entry.title)
    folder = sources.locate(entry, settings)
    on_cpu = dataclasses.replace(settings, device="cpu", dtype=run.provenance.get("dtype") or "float32")
    _refuse_without_room(entry, technique, order, on_cpu, beside)
    params = technique.Params.parse(run.params)
    packed = technique.quantization(params)
    model = text.load(entry, on_cpu, folder=folder, quantization=packed)
    context = Context(
        tasks.task(run.task, settings), model, local.run_folder(settings, run.id), run.seed, embedder=None
    )
    adapted = technique.restore(params, context)
    yield Event.progress("merge", 0, 1)
    merged = technique.merge(adapted.model.model)
    if packed and merged is adapted.model.model:
        raise OutOfMemory(
            f"There is too little memory to unpack {entry.title} and merge it. Wait for the running job to end, "
            "or download the adapter."
        )
    adapted.model.model = export.plain(merged, technique.title)
    yield Event.progress("merge", 1, 1)
    return adapted.model


def _refuse_without_room(
    entry: catalogue.Model, technique: Parametric, order: Order, settings: Settings, beside: Path
) -> None:
    """Say before minutes of work that memory or disk are too small for it."""
    import psutil

    from playground.training.weightless import weightless

    network = weightless(entry, settings).model
    needed = 1.3 * technique.merging_bytes(network)
    memory = psutil.virtual_memory().available
    if memory < needed:
        raise OutOfMemory(
            f"{entry.title} needs about {needed / 1e9:.1f} GB of memory to be merged, {memory / 1e9:.1f} GB "
            "are free. Wait for the running job to end, or download the adapter."
        )
    size = _written_bytes(network, order)
    free = shutil.disk_usage(next(path for path in (beside, *beside.parents) if path.exists())).free
    if free < size + _SPARE:
        raise RunFailed(
            f"The disk has too little room: this needs about {size / 1e9:.1f} GB, {free / 1e9:.1f} GB are "
            "free. Delete runs that are no longer needed, and try again."
        )


def _written_bytes(network: "nn.Module", order: Order) -> float:
    """What an order writes: a folder and its zip file in the network's number type, or one GGUF file."""
    weights = list(network.parameters())
    if order.form == "gguf":
        return _NUMBER_BYTES[order.precision] * sum(value.numel() for value in weights)
    return 2 * sum(value.nbytes for value in weights)


# ---- the card


def subject_of(
    run: Run,
    technique: Parametric,
    order: Order,
    settings: Settings,
    named: str | None = None,
    folder: Path | None = None,
) -> card.Subject:
    """What the card says beside the run.

    Args:
        named: the folder's name as the code that loads it says; default ``name``.
        folder: what is exported; its files' SHA-256 stand in the card.
    """
    from playground.models import sources

    entry = catalogue.model(run.model, settings)
    repo = _repo(entry)
    try:
        task = tasks.task(run.task, settings)
    except TaskError:
        task = None
    at_hand = sources.locate(entry, settings) if sources.at_hand(entry, settings) else None
    base = loading.base(repo, entry.title, run, at_hand)
    kept = folder if folder is not None else local.run_folder(settings, run.id) / ADAPTER
    library = loading.library(order.form, kept)
    instruction = task.instruction if task else ""
    code = loading.code(
        order.form,
        library,
        base,
        dtype=run.provenance.get("dtype") or "float32",
        instruction=instruction,
        name=file_name(run, order) if order.form == "gguf" else (named or name(run, order)),
        packed=technique.quantization(technique.Params.parse(run.params)),
    )
    return card.Subject(
        method=technique.title,
        summary=technique.summary,
        paper=technique.paper,
        model=entry.title,
        repo=repo,
        licence=entry.licence,
        note=entry.note,
        task=task.title if task else run.task,
        task_summary=task.summary if task else "",
        instruction=instruction,
        items={"train": len(task.train), "dev": len(task.dev), "test": len(task.test)} if task else {},
        library=library,
        load=code,
        digests=_digests(folder) if folder is not None else {},
    )


def _card(run: Run, subject: card.Subject, order: Order, store: RunStore) -> str:
    before = comparison.baseline(run, store.list(task=run.task, status="done"))
    return card.card(run, subject, order.form, before)


def _repo(entry: catalogue.Model) -> str | None:
    """The base model's name on the Hub; None for a folder of this machine."""
    return entry.repo if any(source.startswith("hub:") for source in entry.sources) else None


def _digests(folder: Path) -> dict[str, str]:
    import hashlib

    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            found[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())


def _meanwhile(work: Callable[[], None], told: Callable[[], Event]) -> Iterator[Event]:
    """Do work that tells nothing itself, in a thread, and tell how far it is: five times a second, and at its end."""
    failed: list[BaseException] = []

    def body() -> None:
        try:
            work()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=body, name="export", daemon=True)
    thread.start()
    alive = True
    while alive:
        thread.join(0.2)
        alive = thread.is_alive()
        yield told()
    if failed:
        raise failed[0]


# ---- the process of its own


def main() -> int:
    """Do the order on standard input. The last line on standard output says how it ended."""
    with _own_output() as tell:
        wanted = json.loads(sys.stdin.read())
        _end_with_parent()
        settings = Settings.from_environment()
        store = RunStore(settings.database)
        token = (wanted.get("push") or {}).get("token") or ""
        try:
            tell({"kind": "done", "result": _do(wanted, settings, store, tell)})
            return 0
        except BaseException as error:
            if not isinstance(error, PlaygroundError) and not token:
                traceback.print_exc()
            reason = explain(error)
            tell({"kind": "failed", "reason": reason.replace(token, "…") if token else reason})
            return 1
        finally:
            store.close()


def _do(wanted: dict[str, Any], settings: Settings, store: RunStore, tell: Callable[[dict], None]) -> str:
    order = Order(**wanted["order"])
    if wanted.get("push"):
        steps: Generator[Event, None, Any] = push(
            order, settings, store, hub.Push(**wanted["push"]), Path(wanted["target"])
        )
    else:
        steps = build(order, settings, store, Path(wanted["target"]))
    told = 0.0

    def note(event: Event) -> None:
        nonlocal told
        data = event.data
        if time.monotonic() - told > 0.1 or data["done"] in (0, data["total"]):
            told = time.monotonic()
            tell({"kind": "progress", **data})

    return str(result_of(steps, note))


@contextmanager
def _own_output() -> Iterator[Callable[[dict], None]]:
    """Standard output for our lines alone: what libraries print goes to standard error."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def tell(line: dict) -> None:
        out.write(json.dumps(line) + "\n")
        out.flush()

    with out:
        yield tell


def _end_with_parent() -> None:
    """No export outlives the page that asked for it (named in the environment; none = by hand)."""
    parent = int(os.environ.get(local.PARENT, "0"))

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    if parent:
        threading.Thread(target=watch, name="parent", daemon=True).start()


if __name__ == "__main__":
    os.nice(10)  # a job that is being measured goes first
    sys.exit(main())
