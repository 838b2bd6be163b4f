"""LoRA and full fine-tuning against TRL's SFTTrainer: same model, token ids, batch, epochs, rate and seed.

``python tests/benchmarks/bench_trl.py [--method lora full] [--examples 120] [--epochs 1] [--repeats 3] [--bf16] [--no-record]``

Each trainer runs in a fresh process, in turns. TRL is tuned for the CPU: float32, no gradient
checkpointing, loss on the completion only, padding to the longest of each batch, no evaluation or
saving while training. Ours multiplies in bfloat16 where that pays (playground.training.mixed), never
with --float32. The dev loss of both is taken by the same code. With --bf16 both compute in bfloat16
autocast, which pays where the processor has it.
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
RANK, BATCH, SEED = 8, 4, 0
RATES = {"lora": 1e-3, "full": 1e-4}
TITLES = {"lora": "LoRA training", "full": "Full fine-tuning"}


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
    from playground.methods.full import Full, FullParams
    from playground.methods.lora import LoRA, LoRAParams
    from playground.training.text import Plan, train

    technique, params = {
        "lora": (LoRA(), LoRAParams(rank=RANK, alpha=16, dropout=0.0)),
        "full": (Full(), FullParams()),
    }[options.method[0]]
    network = technique.wrap(params, model.model, SEED)
    technique.faster(network, True)
    plan = Plan(
        epochs=options.epochs,
        batch_size=BATCH,
        learning_rate=RATES[options.method[0]],
        seed=SEED,
        evals=0,
        threads=options.threads,
        autocast=options.bf16,
        mixed=False if options.float32 else None,
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
        learning_rate=RATES[options.method[0]],
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
        peft_config=adapter if options.method == ["lora"] else None,
    )
    return trainer.train, trainer.model


def child(options) -> None:
    """One training in this process; prints what it measured as JSON."""
    import torch

    from playground.jobs.worker import keep_few_kernels
    from playground.training import mixed
    from playground.training.measure import PeakMemory, Stopwatch
    from playground.training.text import evaluate_loss

    if options.child == "ours":
        keep_few_kernels()  # as a worker does
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
        "half_products": not (options.bf16 or options.float32) and mixed.pays(torch.device("cpu")),
        "trainable": sum(p.numel() for p in network.parameters() if p.requires_grad),
    }
    print("RESULT " + json.dumps(found), flush=True)


def measure(which: str, method: str, options) -> dict:
    """Run one trainer in a fresh process."""
    command = [sys.executable, __file__, "--child", which, "--method", method]
    command += ["--examples", str(options.examples)]
    command += ["--epochs", str(options.epochs), "--threads", str(options.threads)]
    command += ["--bf16"] * options.bf16 + ["--float32"] * options.float32 + ["--grouped"] * options.grouped
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if not lines:
        raise SystemExit(f"{which} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    found = json.loads(lines[-1].removeprefix("RESULT "))
    print(f"{method} {which:5}", json.dumps(found), flush=True)
    return found


def main() -> None:
    """Compare, print, record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--method", nargs="+", choices=list(RATES), default=list(RATES))
    parser.add_argument("--examples", type=int, default=120)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--bf16", action="store_true", help="both in bfloat16 autocast")
    parser.add_argument("--float32", action="store_true", help="ours never multiplies in bfloat16")
    parser.add_argument("--grouped", action="store_true", help="TRL groups examples by length")
    parser.add_argument("--no-record", action="store_true")
    parser.add_argument("--child", choices=["ours", "trl"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return child(options)
    rows = [compare(method, options) for method in options.method]
    if not options.no_record:
        from record import record

        name = "trl" + ("_bf16" if options.bf16 else "") + ("_grouped" if options.grouped else "")
        print(record(name, rows, ("torch", "transformers", "peft", "trl")))
    return None


def compare(method: str, options) -> dict:
    """Both trainers in turns; the row for the README's table."""
    found = {"ours": [], "trl": []}
    for _ in range(options.repeats):
        for which, results in found.items():
            results.append(measure(which, method, options))
    mine, trl = (
        {key: statistics.median(run[key] for run in runs) for key in runs[0]} for runs in found.values()
    )
    ratios = {
        key: mine[key] / trl[key] for key in ("examples_per_second", "examples_per_cpu_second", "peak_bytes")
    }
    told = f"dev loss {mine['dev_loss']:.3f} against {trl['dev_loss']:.3f}"
    print(
        f"{method}: {ratios['examples_per_second']:.2f} times TRL's examples per second, "
        f"{ratios['examples_per_cpu_second']:.2f} per CPU second, {ratios['peak_bytes']:.2f} of its peak memory; {told}"
    )
    kind = "bfloat16 autocast" if options.bf16 else "float32"
    if mine["half_products"]:
        kind += ", here with products in bfloat16"
    note = (
        f"{kind}, {options.examples} examples × {options.epochs} epochs, batch {BATCH}, {options.threads} threads, "
        f"median of {options.repeats}, by CPU time {ratios['examples_per_cpu_second']:.2f}×; {told}, "
        f"peak memory {mine['peak_bytes'] / 1e9:.2f} against {trl['peak_bytes'] / 1e9:.2f} GB"
    )
    return {
        "what": TITLES[method],
        "ours": round(mine["examples_per_second"], 2),
        "theirs": round(trl["examples_per_second"], 2),
        "unit": "examples/s",
        "against": "TRL SFTTrainer" + (", grouped by length" if options.grouped else ""),
        "ratio": round(ratios["examples_per_second"], 2),
        "note": note,
        "measured": {"ours": mine, "trl": trl},
    }


if __name__ == "__main__":
    main()
