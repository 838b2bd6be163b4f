"""LoRA training against TRL's SFTTrainer: same model, token ids, batch, epochs, adapter, rate and seed.

``python tests/benchmarks/bench_trl.py [--examples 120] [--epochs 1] [--repeats 3] [--bf16] [--no-record]``

Each trainer runs in a fresh process, in turns. TRL is tuned for the CPU: float32, no gradient
checkpointing, loss on the completion only, padding to the longest of each batch, no evaluation or
saving while training. Both adapters' dev loss is taken by the same code. With --bf16 both compute
in bfloat16 autocast, which pays where the processor has it.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the checkout is not an installed package

TASK, MODEL = "support-desk", "smollm2-135m"
RANK, RATE, BATCH, SEED = 8, 1e-3, 4, 0


def prepare(count: int):
    """Model, training examples and dev examples."""
    from playground.data.tasks import task
    from playground.models import catalogue, sources, text
    from playground.settings import Settings
    from playground.training.batches import encode

    settings = Settings.from_environment()
    chosen, entry = task(TASK, settings), catalogue.model(MODEL, settings)
    model = text.load(entry, settings, folder=sources.locate(entry, settings))
    return model, encode(model, chosen, chosen.train[:count]), encode(model, chosen, chosen.dev)


def ours(model, examples, options, folder: str) -> tuple[Callable[[], None], object]:
    """What trains, and the network that it trains."""
    from playground.methods.lora import LoRA, LoRAParams
    from playground.training.fused_lora import fuse
    from playground.training.text import Plan, train

    network = LoRA().wrap(LoRAParams(rank=RANK, alpha=16, dropout=0.0), model.model, SEED)
    fuse(network)
    plan = Plan(
        epochs=options.epochs,
        batch_size=BATCH,
        learning_rate=RATE,
        seed=SEED,
        evals=0,
        threads=options.threads,
        autocast=options.bf16,
    )
    return lambda: list(train(network, examples, [], plan, Path(folder))), network


def theirs(model, examples, options, folder: str) -> tuple[Callable[[], None], object]:
    """The same with TRL."""
    from datasets import Dataset
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    rows = [
        {
            "input_ids": list(example.ids),
            "completion_mask": [0] * (len(example.ids) - example.answer) + [1] * example.answer,
        }
        for example in examples
    ]
    config = SFTConfig(
        output_dir=folder,
        num_train_epochs=options.epochs,
        per_device_train_batch_size=BATCH,
        learning_rate=RATE,
        lr_scheduler_type="cosine",
        warmup_steps=0.1,
        weight_decay=0.0,
        max_grad_norm=1.0,
        optim="adamw_torch_fused",
        bf16=options.bf16,
        gradient_checkpointing=False,
        completion_only_loss=True,
        pad_to_multiple_of=None,
        train_sampling_strategy="group_by_length" if options.grouped else "random",
        dataloader_pin_memory=False,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        seed=SEED,
    )
    adapter = LoraConfig(
        r=RANK, lora_alpha=16, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    trainer = SFTTrainer(
        model=model.model,
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=model.tokenizer,
        peft_config=adapter,
    )
    return trainer.train, trainer.model


def child(options) -> None:
    """One training in this process; prints what it measured as JSON."""
    import torch

    from playground.training.measure import PeakMemory, Stopwatch
    from playground.training.text import evaluate_loss

    model, examples, dev = prepare(options.examples)
    torch.set_num_threads(options.threads)
    before = evaluate_loss(model.model, dev)
    with tempfile.TemporaryDirectory() as folder, PeakMemory() as memory:
        work, network = {"ours": ours, "trl": theirs}[options.child](model, examples, options, folder)
        spent = time.process_time()
        with Stopwatch() as watch:
            work()
        spent = time.process_time() - spent
    seen = len(examples) * options.epochs
    found = {
        "seconds": watch.seconds,
        "cpu_seconds": spent,
        "examples_per_second": seen / watch.seconds,
        "examples_per_cpu_second": seen / spent,
        "peak_bytes": memory.bytes,
        "dev_loss_before": before,
        "dev_loss": evaluate_loss(network, dev),
        "trainable": sum(p.numel() for p in network.parameters() if p.requires_grad),
    }
    print("RESULT " + json.dumps(found), flush=True)


def measure(which: str, options) -> dict:
    """Run one trainer in a fresh process."""
    command = [sys.executable, __file__, "--child", which, "--examples", str(options.examples)]
    command += ["--epochs", str(options.epochs), "--threads", str(options.threads)]
    command += ["--bf16"] * options.bf16 + ["--grouped"] * options.grouped
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if not lines:
        raise SystemExit(f"{which} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    found = json.loads(lines[-1].removeprefix("RESULT "))
    print(f"{which:5}", json.dumps(found), flush=True)
    return found


def main() -> None:
    """Compare, print, record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=120)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--bf16", action="store_true", help="both in bfloat16 autocast")
    parser.add_argument("--grouped", action="store_true", help="TRL groups examples by length")
    parser.add_argument("--no-record", action="store_true")
    parser.add_argument("--child", choices=["ours", "trl"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return child(options)
    found = {"ours": [], "trl": []}
    for _ in range(options.repeats):
        for which, results in found.items():
            results.append(measure(which, options))
    median = {
        which: {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        for which, runs in found.items()
    }
    ratio = median["ours"]["examples_per_second"] / median["trl"]["examples_per_second"]
    mine, trl = median["ours"], median["trl"]
    by_cpu = mine["examples_per_cpu_second"] / trl["examples_per_cpu_second"]
    print(f"{by_cpu:.2f} times TRL's examples per CPU second")
    print(
        f"{ratio:.2f} times TRL's examples per second; dev loss {mine['dev_loss']:.4f} against {trl['dev_loss']:.4f}"
    )
    if not options.no_record:
        write(options, mine, trl, ratio, by_cpu)
    return None


def write(options, mine: dict, trl: dict, ratio: float, by_cpu: float) -> None:
    """Record the figures for the README's table."""
    from record import record

    kind = "bfloat16 autocast" if options.bf16 else "float32"
    note = (
        f"{kind}, {options.examples} examples × {options.epochs} epochs, batch {BATCH}, {options.threads} threads, "
        f"median of {options.repeats}, by CPU time {by_cpu:.2f}×; dev loss {mine['dev_loss']:.3f} against {trl['dev_loss']:.3f}, "
        f"peak memory {mine['peak_bytes'] / 1e9:.2f} against {trl['peak_bytes'] / 1e9:.2f} GB"
    )
    row = {
        "what": "LoRA training",
        "ours": round(mine["examples_per_second"], 2),
        "theirs": round(trl["examples_per_second"], 2),
        "unit": "examples/s",
        "against": "TRL SFTTrainer" + (", grouped by length" if options.grouped else ""),
        "ratio": round(ratio, 2),
        "note": note,
    }
    name = "trl" + ("_bf16" if options.bf16 else "") + ("_grouped" if options.grouped else "")
    packages = ("torch", "transformers", "peft", "trl")
    print(record(name, [row | {"measured": {"ours": mine, "trl": trl}}], packages))


if __name__ == "__main__":
    main()
