"""DreamBooth and DreamBooth-LoRA against the recipe of diffusers' own example, on the same model and pictures.

``python tests/benchmarks/bench_dreambooth.py [--method dreambooth dreambooth_lora] [--seeds 0 1 2] [--no-record]``

The recipe is that of ``train_dreambooth.py`` and ``train_dreambooth_lora.py`` in diffusers' examples, written here
with its public interface: in each step the pictures go through the VAE and the captions through the text encoder,
subject and class stand in one batch, the loss is their sum; float32, no gradient checkpointing. Where the processor is
faster in bfloat16 ours takes it by itself; the recipe with its ``--mixed_precision bf16`` is measured there, too. What
that script leaves out is given to it: fused AdamW, a caption a picture, all pictures of the class. Both sides have the same
pictures, captions, steps, batches, learning rate, weight decay, clipping, threads and seed. For LoRA its prior is the
same pictures of the class; ours asks the network with its adapter off. Each training runs in a fresh process, in
turns. Ours is timed with its encoding, its checks and the writing of its result, theirs without. Fidelity and drift
of both are measured by the same code, on pictures that neither trained on.
"""

import argparse
import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the checkout is not an installed package

MODEL, BATCH, CLASS_PICTURES = "starter-stickers", 4, 24
KEPT = ("steps_per_second", "peak_bytes")
RATES = {"dreambooth": 5e-4, "dreambooth_lora": 2e-3}
HALF = "diffusers-bf16"
TITLES = {"dreambooth": "DreamBooth training", "dreambooth_lora": "DreamBooth-LoRA training"}


def prepare(options):
    """The model, the subject, and the test of what was learnt."""
    from playground.data import subjects
    from playground.evaluation.image import load_judge
    from playground.evaluation.looks import Looks, asks
    from playground.jobs.image_pipeline import halves
    from playground.models import catalogue, image, sources
    from playground.settings import Settings
    from playground.training.pictures import tensors

    settings = Settings.from_environment()
    entry = catalogue.model(options.model, settings)
    model = image.load(entry, settings, folder=sources.locate(entry, settings))
    subject = subjects.subject(options.subject, settings)
    _, test = halves(subject)
    exam = Looks(
        model,
        load_judge(settings, model),
        asks(test, options.seed, each=2),
        tensors([picture.path for picture in subject.train], model.size),
        [picture.id for picture in subject.train],
        tensors([picture.path for picture in test.held_out], model.size),
        Path(options.folder) / "test",
    )
    list(exam(0))
    return model, subject, exam


def context_of(model, subject, options):
    """What the playground hands to a method; nothing looks on."""
    from playground.methods.diffusion import ImageContext

    return ImageContext(subject, model, Path(options.folder), options.seed)


def ours(model, subject, options):
    """Train as a run of the playground does, class pictures at hand."""
    from playground.methods.registry import method

    technique = method(options.method[0])
    params = technique.Params(
        steps=options.steps, batch_size=BATCH, learning_rate=RATES[technique.id], keep="last", sample_every=20_000,
        warmup=0.0,
    )  # fmt: skip
    context = context_of(model, subject, options)
    return lambda: list(technique.adapt(params, context))


def theirs(model, subject, options, half=False):
    """The example's loop; ``half`` is its bfloat16, around the U-Net alone as accelerate has it."""
    import torch
    import torch.nn.functional as F
    from diffusers import DDPMScheduler
    from peft import LoraConfig

    from playground.methods.diffusion import training_pictures
    from playground.methods.dreambooth import CLASS_PICTURES as FOLDER
    from playground.methods.dreambooth import class_prompts
    from playground.training.pictures import tensors

    pipeline = model.pipeline
    unet, vae, text_encoder, tokenizer = (
        pipeline.unet,
        pipeline.vae,
        pipeline.text_encoder,
        pipeline.tokenizer,
    )
    if options.method[0] == "dreambooth_lora":
        unet.add_adapter(LoraConfig(r=16, lora_alpha=16, target_modules=["to_k", "to_q", "to_v", "to_out.0"]))
    else:
        unet.requires_grad_(True)
    instance = training_pictures(subject, model.size)
    instance_prompts = [subject.instance_prompt(picture) for picture in subject.train]
    folder = Path(options.folder) / FOLDER
    prior = tensors([folder / f"{at}.png" for at in range(CLASS_PICTURES)], model.size)
    prior_prompts = class_prompts(subject, CLASS_PICTURES)
    scheduler = DDPMScheduler.from_config(pipeline.scheduler.config)
    trained = [parameter for parameter in unet.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=RATES[options.method[0]], weight_decay=0.01, fused=True)
    torch.manual_seed(options.seed)

    def step():
        own = torch.randint(len(instance), (BATCH,)).tolist()
        other = torch.randint(len(prior), (BATCH,)).tolist()
        pixels = torch.cat([instance[own], prior[other]])
        captions = [instance_prompts[at] for at in own] + [prior_prompts[at] for at in other]
        latents = vae.encode(pixels).latent_dist.sample() * vae.config.scaling_factor
        noise = torch.randn_like(latents)
        times = torch.randint(0, scheduler.config.num_train_timesteps, (len(latents),))
        noisy = scheduler.add_noise(latents, noise, times)
        ids = tokenizer(
            captions,
            padding="max_length",
            max_length=tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        ).input_ids
        states = text_encoder(ids)[0]
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            predicted = unet(noisy, times, states).sample.float()
        target = scheduler.get_velocity(latents, noise, times)
        if scheduler.config.prediction_type == "epsilon":
            target = noise
        mine, class_ = predicted.chunk(2)
        target_mine, target_class = target.chunk(2)
        loss = F.mse_loss(mine, target_mine) + F.mse_loss(class_, target_class)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    def work():
        unet.train()
        for _ in range(options.steps):
            step()
        unet.eval()

    return work


SIDES = {"ours": ours, "diffusers": theirs, HALF: functools.partial(theirs, half=True)}


def child(options) -> None:
    """One training in this process; prints what it measured as JSON."""
    import time

    import torch

    from playground.methods.dreambooth import draw_class
    from playground.training.measure import PeakMemory, Stopwatch

    model, subject, exam = prepare(options)
    torch.set_num_threads(options.threads)
    list(draw_class(context_of(model, subject, options), CLASS_PICTURES))
    with PeakMemory(str(model.device)) as memory:
        work = SIDES[options.child](model, subject, options)
        spent = time.process_time()
        with Stopwatch() as watch:
            work()
        spent = time.process_time() - spent
    measured = {
        event.data["name"]: event.data["value"]
        for event in exam.final(options.steps)
        if event.kind == "metric"
    }
    found = {
        "seconds": watch.seconds,
        "cpu_seconds": spent,
        "steps_per_second": options.steps / watch.seconds,
        "steps_per_cpu_second": options.steps / spent,
        "peak_bytes": memory.bytes,
        "judge": exam.judge.name,
    } | {name: measured.get(name) for name in ("subject_fidelity", "prompt_fidelity", "class_drift")}
    print("RESULT " + json.dumps(found), flush=True)


def measure(which: str, method: str, seed: int, options, folder: str) -> dict:
    """Run one training in a fresh process."""
    command = [sys.executable, __file__, "--child", which, "--method", method, "--folder", folder]
    command += ["--steps", str(options.steps), "--threads", str(options.threads)]
    command += ["--model", options.model, "--subject", options.subject, "--seed", str(seed)]
    environment = os.environ | {"PLAYGROUND_THREADS": str(options.threads)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if not lines:
        raise SystemExit(f"{which} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    found = json.loads(lines[-1].removeprefix("RESULT "))
    print(f"{method} seed {seed} {which:14}", json.dumps(found), flush=True)
    return found


def compare(method: str, options) -> dict:
    """All sides in turns, seed by seed; the row for the README's table."""
    from playground.models.device import half_pays

    found = {which: [] for which in SIDES if which != HALF or half_pays()}
    for seed in options.seeds:
        for which, results in found.items():
            with tempfile.TemporaryDirectory() as folder:
                results.append(measure(which, method, seed, options, folder))
    mine, other = (
        {key: statistics.median(run[key] for run in found[which]) for key in KEPT}
        for which in ("ours", "diffusers")
    )
    ratio = _ratio(found, "diffusers")
    kind = (
        f"ours in bfloat16; {_ratio(found, HALF):.2f}× against theirs in it" if HALF in found else "float32"
    )
    print(f"{method}: {ratio:.2f} times the steps per second, {kind}", flush=True)
    told = "; ".join(
        f"{label} {_over_seeds(found['ours'], name)} against {_over_seeds(found['diffusers'], name)}"
        for name, label in (("subject_fidelity", "fidelity"), ("class_drift", "drift of the class"))
    )
    seeds = ", ".join(map(str, options.seeds))
    return {
        "what": TITLES[method],
        "ours": round(mine["steps_per_second"], 3),
        "theirs": round(other["steps_per_second"], 3),
        "unit": "steps/s",
        "against": "the recipe of diffusers' example",
        "ratio": round(ratio, 2),
        "note": f"{options.steps} steps of {BATCH} + {BATCH} pictures, seeds {seeds}, {kind}; {told}; peak memory "
        f"{mine['peak_bytes'] / 1e9:.2f} against {other['peak_bytes'] / 1e9:.2f} GB",
        "measured": found,
    }


def _ratio(found: dict, against: str) -> float:
    """Ours to theirs in steps a second, pair by pair; the median."""
    pairs = zip(found["ours"], found[against], strict=True)
    return statistics.median(one["steps_per_second"] / two["steps_per_second"] for one, two in pairs)


def _over_seeds(runs: list[dict], name: str) -> str:
    values = [run[name] for run in runs]
    span = f" ({min(values):.3f} – {max(values):.3f})" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.3f}{span}"


def main() -> None:
    """Compare, print, record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--method", nargs="+", choices=list(RATES), default=list(RATES))
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="one pair of trainings each")
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--subject", default="backpack")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--no-record", action="store_true")
    parser.add_argument("--child", choices=list(SIDES), help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--folder", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options)
        return
    rows = [compare(method, options) for method in options.method]
    if not options.no_record:
        from record import record, recorded

        earlier = {row["what"]: row for row in (recorded("dreambooth") or {"rows": []})["rows"]}
        kept = earlier | {row["what"]: row for row in rows}  # a method that was not asked for keeps its row
        print(record("dreambooth", list(kept.values()), ("torch", "diffusers", "peft")))


if __name__ == "__main__":
    main()
