"""Checkpoints of a training: weights, optimiser, random state and position, whole or not there.

Tensors are stored as safetensors and the rest as JSON: nothing that could run code when it is read.
"""

import json
import shutil
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from playground.errors import AdapterError
from playground.events import Event
from playground.training.saving import atomic_folder

T = TypeVar("T")
FOLDER = "checkpoints"
BEST = "best"
TENSORS = "tensors.safetensors"
KEPT = 2  # the one before last stays, should the last be damaged later
WRITING_PAYS = 40  # one is followed by at least so many times its writing time without another
LARGE = 500_000_000  # bytes; of larger ones only the last is kept


@dataclass
class State:
    """Where a training stands.

    ``fingerprint`` names plan, data and shapes: a checkpoint of another training is not used.
    ``seconds`` and ``tokens`` count from the first start. ``best_loss`` is the lowest dev loss,
    ``waited`` the evaluations since then. ``history`` holds (step, dev loss). ``mixed`` is whether products
    are computed in bfloat16 (None = not decided yet).
    """

    fingerprint: str
    step: int = 0
    seconds: float = 0.0
    tokens: int = 0
    best_loss: float | None = None
    best_step: int = 0
    waited: int = 0
    stopped_early: bool = False
    train_loss: float | None = None
    dev_loss: float | None = None
    history: list[list[float]] | None = None
    mixed: bool | None = None


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that training changes, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def size(model: nn.Module) -> int:
    """About how many bytes a checkpoint takes: the trained weights and AdamW's two moments of each."""
    return 3 * sum(parameter.nbytes for parameter in trainable(model).values())


def save(
    folder: Path,
    state: State,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    more: Mapping[str, torch.Tensor] | None = None,
) -> Path:
    """Write one checkpoint, with ``more`` tensors of the technique's own.

    Those before the last but one are removed (large ones: before the last).

    Raises:
        RunFailed: the disk is full.
    """
    parent = Path(folder) / FOLDER
    path = parent / f"step-{state.step:07d}"
    with atomic_folder(path) as partial:
        tensors = {f"weights/{name}": value.detach() for name, value in trainable(model).items()}
        tensors |= _optimizer_tensors(optimizer) | _random_state()
        tensors |= {f"more/{name}": value.detach() for name, value in (more or {}).items()}
        save_file(
            {name: value.contiguous().cpu() for name, value in tensors.items()},
            partial / TENSORS,
        )
        (partial / "state.json").write_text(json.dumps(state.__dict__))
    for old in checkpoints(folder)[: -1 if size(model) > LARGE else -KEPT]:
        shutil.rmtree(old)
    return path


def save_best(folder: Path, model: nn.Module) -> None:
    """Keep the present weights as the best so far.

    Raises:
        RunFailed: the disk is full.
    """
    with atomic_folder(Path(folder) / FOLDER / BEST) as partial:
        weights = {name: value.detach().contiguous().cpu() for name, value in trainable(model).items()}
        save_file(weights, partial / "weights.safetensors")


def load_best(folder: Path, model: nn.Module) -> None:
    """Put the best weights back."""
    weights = load_file(Path(folder) / FOLDER / BEST / "weights.safetensors")
    with torch.no_grad():
        for name, parameter in trainable(model).items():
            parameter.copy_(weights[name])


def checkpoints(folder: Path) -> list[Path]:
    """All whole checkpoints in a run's folder, oldest first."""
    return sorted((Path(folder) / FOLDER).glob("step-*"))


def remove(folder: Path) -> None:
    """Delete all checkpoints of a run's folder."""
    shutil.rmtree(Path(folder) / FOLDER, ignore_errors=True)


def load(
    path: Path,
    fingerprint: str,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    take: Callable[[dict[str, torch.Tensor]], None] | None = None,
) -> State:
    """Put model, optimiser and random state back as they were; ``take`` gets what ``save`` had as ``more``.

    Raises:
        AdapterError: the checkpoint is damaged, or belongs to another training. Nothing was changed.
    """
    try:
        state = State(**json.loads((path / "state.json").read_text()))
        shapes = _shapes(path / TENSORS)
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        raise AdapterError(f"The checkpoint {path.name} cannot be read: {error}") from error
    if state.fingerprint != fingerprint:
        raise AdapterError(f"The checkpoint {path.name} belongs to a training with other settings or data.")
    parameters = trainable(model)
    if _part(shapes, "weights/") != {name: list(value.shape) for name, value in parameters.items()}:
        raise AdapterError(f"The checkpoint {path.name} belongs to another model.")

    def read(start: str) -> dict[str, torch.Tensor]:
        return {name: _tensor(path / TENSORS, start + name) for name in _part(shapes, start)}

    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(_tensor(path / TENSORS, f"weights/{name}"))
    _restore_optimizer(optimizer, read("optimizer/"))
    _restore_random(read("random/"))
    if take is not None:
        take(read("more/"))
    return state


def _shapes(file: Path) -> dict[str, list[int]]:
    with safe_open(file, framework="pt") as opened:
        return {name: list(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118


def _tensor(file: Path, name: str) -> torch.Tensor:
    """One tensor, copied, from a file that is opened for it alone: else all of the file would count as memory in use
    until the training ends, because the optimiser's numbers would be views of it."""
    with safe_open(file, framework="pt") as opened:
        return opened.get_tensor(name).clone()


def resume(
    folder: Path,
    state: State,
    steps: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    take: Callable[[dict[str, torch.Tensor]], None] | None = None,
) -> Generator[Event, None, State]:
    """Go on from the newest checkpoint that can be read, and say so; ``state`` where there is none."""
    for path in reversed(checkpoints(folder)):
        try:
            found = load(path, state.fingerprint, model, optimizer, take)
        except AdapterError as error:
            yield Event.log(f"{error} An earlier one is tried.", "warning")
            continue
        yield Event.log(f"Going on from step {found.step} of {steps}.")
        return found
    yield Event.log("There is no checkpoint to go on from: training starts at step 0.")
    return state


def _part(tensors: Mapping[str, T], start: str) -> dict[str, T]:
    return {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    state: dict[int, dict[str, Any]] = optimizer.state_dict()["state"]
    return {
        f"optimizer/{index}/{name}": value
        for index, values in state.items()
        for name, value in values.items()
    }


def _restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split("/")
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _random_state() -> dict[str, torch.Tensor]:
    state = {"random/cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state |= {f"random/cuda-{at}": value for at, value in enumerate(torch.cuda.get_rng_state_all())}
    return state


def _restore_random(state: dict[str, torch.Tensor]) -> None:
    torch.set_rng_state(state["cpu"])
    devices = [state[name] for name in sorted(state, key=lambda name: (len(name), name)) if name != "cpu"]
    if devices and torch.cuda.device_count() == len(devices):
        torch.cuda.set_rng_state_all(devices)
