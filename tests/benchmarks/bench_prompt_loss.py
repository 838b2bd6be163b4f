"""A training step that learns prompts' tokens, too: their logits in bfloat16 against float32 logits and cross_entropy.

``python tests/benchmarks/bench_prompt_loss.py [--repeats 3] [--no-record]`` trains one epoch with the preset of full
fine-tuning, in one process, in turns this way and that. Without a CPU that multiplies bfloat16 faster than
float32 there is nothing to compare.
"""

import argparse
import statistics
import sys
import tempfile
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from playground.data.tasks import task
from playground.events import result_of
from playground.methods import presets, registry
from playground.models import catalogue, text
from playground.settings import Settings
from playground.training import mixed, token_losses
from playground.training.batches import encode
from playground.training.text import train

METHOD = "full"


def main() -> None:
    """Measure, print, and record unless told not to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--no-record", action="store_true")
    arguments = parser.parse_args()
    if not mixed.pays(torch.device("cpu")):
        sys.exit("This CPU does not multiply bfloat16 faster than float32: both ways are the same.")
    rows = [row(arguments.repeats)]
    if not arguments.no_record:
        from record import record

        print(record("prompt_loss", rows))


def row(repeats: int) -> dict:
    """The row for ``record``."""
    seconds = {way: statistics.median(found) for way, found in measured(repeats).items()}
    ours, theirs = seconds[True], seconds[False]
    title = registry.method(METHOD).title
    print(f"{title}: {ours:.3f} against {theirs:.3f} s a step: {theirs / ours:.2f} times")
    return {
        "what": f"{title}, a step that learns prompts' tokens, too",
        "ours": round(1 / ours, 3),
        "theirs": round(1 / theirs, 3),
        "unit": "steps/s",
        "against": "logits in float32 and cross_entropy",
        "ratio": round(theirs / ours, 2),
        "note": f"SmolLM2-135M, the preset's batch, {torch.get_num_threads()} threads, medians of {repeats} epochs in turns",
    }


def measured(repeats: int) -> dict[bool, list[float]]:
    """Seconds of a step in each short training, with the losses of ``training.token_losses`` and without."""
    settings = Settings.from_environment()
    model = text.load(catalogue.model("smollm2-135m", settings), settings)
    technique, chosen = registry.method(METHOD), task("support-desk", settings)
    params = technique.Params.parse(dict(presets.preset(METHOD, "135m-cpu").values) | {"epochs": 1})
    plan = replace(technique.plan(params, 0), evals=0, threads=None, checkpoint_seconds=1e9)
    examples = encode(model, chosen, chosen.train)
    network = technique.wrap(params, model.model, 0)
    technique.faster(network, True)
    found: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(repeats):
        for way in found:
            with tempfile.TemporaryDirectory() as folder, of_bfloat16(way):
                groups = technique.groups(params, network)
                steps = train(network, examples, [], plan, Path(folder), groups=groups)
                found[way].append(result_of(steps).seconds / plan.steps(len(examples)))
    return found


def of_bfloat16(on: bool):
    """Inside the block prompts' logits are in bfloat16 as they always are here, or never."""
    return nullcontext() if on else patch.object(token_losses, "of", lambda network: None)


if __name__ == "__main__":
    main()
