"""One resumable training loop, shared by all networks of the starter model."""

import contextlib
import copy
import math
import os
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from playground.errors import TrainingDiverged
from playground.starter.muon import Muon


@dataclass
class Draw:
    """The random draws of one step. They depend on stage, seed and step alone, so a resumed run repeats them."""

    python: random.Random
    torch: torch.Generator

    @classmethod
    def of(cls, stage: str, step: int, seed: int = 0) -> "Draw":
        python = random.Random(f"{stage} {seed} {step}")
        return cls(python, torch.Generator().manual_seed(python.getrandbits(62)))


def join() -> None:
    """Take part in a run of several processes, where ``torchrun`` started this one.

    Two processes with a thread each use two busy cores far better than one process with two threads:
    they wait for each other once a step, not once an operation.
    """
    if "WORLD_SIZE" in os.environ and not torch.distributed.is_initialized():
        # A long time-out: a paused process is waited for, not given up.
        torch.distributed.init_process_group("gloo", timeout=timedelta(hours=12))


def rank() -> int:
    """This process's number; 0 when it is alone."""
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0


def processes() -> int:
    """How many processes train together."""
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1


@contextlib.contextmanager
def first_process() -> Iterator[None]:
    """The first process runs the body before the others do: what it writes, they find."""
    if rank():
        torch.distributed.barrier()
    yield
    if processes() > 1 and rank() == 0:
        torch.distributed.barrier()


def average_gradients(parameters: list[nn.Parameter]) -> None:
    """Mean of the gradients over all processes, in one message."""
    if processes() == 1:
        return
    flat = torch.cat([parameter.grad.flatten() for parameter in parameters])
    torch.distributed.all_reduce(flat)
    flat /= processes()
    for parameter, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        parameter.grad.copy_(part.view_as(parameter))


@contextlib.contextmanager
def fast(device: torch.device) -> Iterator[None]:
    """bfloat16 where the hardware has it. On a CPU attention by plain matrix products, which is faster there."""
    if device.type == "cuda":
        with torch.autocast("cuda", torch.bfloat16):
            yield
        return
    native = bool(getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)())
    with torch.autocast("cpu", torch.bfloat16, enabled=native), sdpa_kernel(SDPBackend.MATH):
        yield


def rate_at(step: int, steps: int, peak: float, fall: float = 0.25) -> float:
    """Learning rate: a short rise, level, and down to zero over the last ``fall`` of the steps.

    Level for long, so that a run can be given more or fewer steps when it is resumed.
    """
    return peak * min(1.0, (step + 1) / min(100, steps), (steps - step) / max(1, steps * fall))


def share_cores(own: int) -> int:
    """Threads that leave room for other people's work: two threads waiting for each other on a busy
    machine are far slower than one."""
    cores = os.cpu_count() or 1
    others = max(0.0, os.getloadavg()[0] - own)
    threads = max(1, min(cores, round(cores - others)))
    if threads != torch.get_num_threads():
        torch.set_num_threads(threads)
    return threads


def optimisers_of(network: nn.Module, rate: float, muon: bool) -> list[torch.optim.Optimizer]:
    """AdamW for what is trained; with ``muon`` it keeps only vectors, the first convolution and the last."""
    inner, others = [], []
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            turned = muon and parameter.ndim > 1 and not name.startswith(("conv_in", "conv_out"))
            (inner if turned else others).append(parameter)
    adam = torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    return [adam, Muon(inner, rate)] if inner else [adam]


def optimise(
    stage: str,
    network: nn.Module,
    loss_of: Callable[[Draw], Tensor],
    *,
    steps: int,
    rate: float,
    folder: Path,
    average: float = 0.0,
    muon: bool = False,
    save_seconds: float = 60.0,
    threads: int = 0,
    log: Callable[[str], None] = print,
) -> nn.Module:
    """Train to ``steps``, from the stage's checkpoint in ``folder`` if there is one.

    Args:
        stage: name of the checkpoint file, and of the stage's random draws.
        network: changed in place; ``loss_of`` uses it.
        average: decay of the exponential moving average of the weights; 0 for none.
        muon: train the inner linear layers and convolutions with Muon instead of AdamW.
        threads: 0 chooses them by the machine's load, again and again; with several processes one each.

    Returns:
        The averaged network if there is one, else ``network``; in evaluation mode. A final checkpoint's network
        (see ``lay``) comes back as it is, whatever ``steps`` says.

    Raises:
        TrainingDiverged: the loss is not finite.
    """
    path = folder / f"{stage}.pt"
    threads = threads or int(processes() > 1)
    network.train()
    averaged = copy.deepcopy(network).requires_grad_(False) if average else None
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimisers = optimisers_of(network, rate, muon)
    start, seconds, warm = 0, 0.0, 0
    if path.is_file():
        saved = torch.load(path, weights_only=True)
        network.load_state_dict(saved["network"])
        if saved.get("final"):
            return network.eval()
        for each, state in zip(optimisers, saved["optimisers"] or [], strict=False):
            each.load_state_dict(state)
        if averaged is not None:
            averaged.load_state_dict(saved["averaged"])
        start, seconds, warm = saved["step"], saved["seconds"], saved.get("warm", 0)

    def save(step: int) -> None:
        if rank():
            return
        beside = path.with_suffix(".part")
        torch.save(
            {
                "network": network.state_dict(),
                "averaged": averaged.state_dict() if averaged is not None else None,
                "optimisers": [each.state_dict() for each in optimisers],
                "step": step,
                "seconds": seconds,
                "warm": warm,
            },
            beside,
        )
        beside.replace(path)

    if processes() > 1:
        for value in network.state_dict().values():
            whole = value.contiguous()  # the library sends no other layout
            torch.distributed.broadcast(whole, 0)
            value.copy_(whole)
    device = next(network.parameters()).device
    running = None
    last_save = last_log = time.monotonic()
    for step in range(start, steps):
        began = time.monotonic()
        if device.type == "cpu" and step % 10 == 0:
            torch.set_num_threads(threads) if threads else share_cores(torch.get_num_threads())
        for group in (group for each in optimisers for group in each.param_groups):
            group["lr"] = rate_at(step - warm, steps - warm, rate, 1.0 if warm else 0.25)
        with fast(device):
            loss = loss_of(Draw.of(stage, step, rank()))
        loss.backward()
        average_gradients(trained)
        nn.utils.clip_grad_norm_(trained, 1.0)
        for each in optimisers:
            each.step()
            each.zero_grad()
        if averaged is not None:
            decay = min(average, (1 + step) / (10 + step))
            with torch.no_grad():
                torch._foreach_lerp_(list(averaged.parameters()), list(network.parameters()), 1 - decay)
                for mean, value in zip(averaged.buffers(), network.buffers(), strict=True):
                    mean.copy_(value)
        now = time.monotonic()
        seconds += now - began
        if step % 20 == 0 or step in (start, steps - 1):
            value = loss.item()
            if not math.isfinite(value):
                raise TrainingDiverged(f"The loss of {stage} became {value} at step {step}.")
            running = value if running is None else 0.8 * running + 0.2 * value
        if now - last_log > 15 or step + 1 == steps:
            log(f"{stage} step {step + 1}/{steps} loss {running:.4f} {seconds:.0f} s, {torch.get_num_threads()} threads")  # fmt: skip
            last_log = now
        if now - last_save > save_seconds:
            save(step + 1)
            last_save = now
    if start < steps:
        save(steps)
    if processes() > 1:
        torch.distributed.barrier()
    return (averaged if averaged is not None else network).eval()


def progress(stage: str, folder: Path) -> dict:
    """Steps done by a stage's checkpoint and the seconds of wall time they took."""
    saved = torch.load(folder / f"{stage}.pt", weights_only=True, mmap=True)
    return {"steps": saved["step"], "seconds": round(saved["seconds"])}


def lay(
    stage: str, network: nn.Module, folder: Path, *, steps: int, seconds: float, final: bool = False
) -> None:
    """Write a checkpoint of a network trained elsewhere for ``steps``: it and its average alike, no optimiser.

    Args:
        final: the stage is not trained any further.
    """
    state = network.state_dict()
    saved = {"network": state, "averaged": state, "optimisers": None, "step": steps, "seconds": seconds}
    torch.save({**saved, "warm": steps, "final": final}, folder / f"{stage}.pt")


def is_final(stage: str, folder: Path) -> bool:
    """Whether a stage's checkpoint was laid to stay as it is."""
    path = folder / f"{stage}.pt"
    return path.is_file() and torch.load(path, weights_only=True, mmap=True).get("final", False)
