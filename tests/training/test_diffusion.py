"""The loop of all image methods, on tiny random pipelines of the real classes."""

import dataclasses
import errno
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import tiny_image
import torch
from peft import LoraConfig

from playground.errors import AdapterError, InvalidInput, OutOfMemory, TrainingDiverged
from playground.events import Event
from playground.models import image
from playground.models.families import Moments
from playground.training import checkpoints, diffusion
from playground.training.diffusion import Concept, DiffusionPlan, PriorFromNetwork, adapters_off, train

PLAN = DiffusionPlan(
    steps=6, batch_size=2, learning_rate=1e-3, threads=None, checkpoint_seconds=1e9, mixed=False
)
SUBJECT = ["a zwx robot", "a zwx robot on a red background", "a zwx robot and a mug"]


def full(maker=tiny_image.sd):
    model = image.of(maker())
    model.denoiser.requires_grad_(True)
    return model


def lora(maker=tiny_image.sd, text=False, dropout=0.0):
    model = image.of(maker())
    torch.manual_seed(5)
    targets = list(model.family.lora_targets)
    model.denoiser.add_adapter(LoraConfig(r=2, lora_alpha=4, lora_dropout=dropout, target_modules=targets))
    if text:
        for encoder in model.text_encoders.values():
            encoder.add_adapter(
                LoraConfig(r=2, lora_alpha=4, target_modules=list(model.family.text_lora_targets))
            )
    return model


def subject(count=3):
    return Concept(tiny_image.pictures(count), SUBJECT[:count])


def robots(count=4):
    return Concept(tiny_image.pictures(count, seed=9), ["a robot"] * count)


def weights(model):
    networks = diffusion._networks(model)
    return {name: value.detach().clone() for name, value in checkpoints.trainable(networks).items()}


def values(events, name):
    return [
        (e.data["step"], e.data["value"]) for e in events if e.kind == "metric" and e.data["name"] == name
    ]


def stop_after(generator, step):
    for event in generator:
        if event.kind == "progress" and event.data["phase"] == "adapt" and event.data["done"] == step:
            generator.close()
            return


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("maker", "rate", "mixed"),
    [
        (tiny_image.sd, 3e-3, False),
        (tiny_image.sd, 3e-3, True),
        (tiny_image.sdxl, 3e-3, False),
        (tiny_image.sd3, 1e-2, False),
        (lambda: tiny_image.flux(guidance=False), 1e-2, False),
    ],
)
def test_loss_falls_on_one_picture_seen_again_and_again(maker, rate, mixed, tmp_path, drain):
    model = full(maker)
    plan = dataclasses.replace(PLAN, steps=24, batch_size=4, learning_rate=rate, mixed=mixed, warmup=0.1)
    events, result = drain(train(model, subject(1), plan, tmp_path))
    losses = [loss for _, loss in values(events, "train_loss")]
    assert sum(losses[-6:]) < 0.93 * sum(losses[:6])
    assert result.steps == 24 and result.prior_loss is None and result.kept == ()
    assert result.trainable_parameters == sum(p.numel() for p in model.denoiser.parameters())
    assert result.total_parameters > result.trainable_parameters
    assert all(rate > 0 for _, rate in values(events, "steps_per_second"))


@pytest.mark.parametrize("case", ["full", "prior", "lora", "network", "text"])
def test_a_resumed_training_equals_an_undisturbed_one(case, tmp_path, drain):
    def start():
        if case in ("full", "prior"):
            return full(), {"prior": robots()} if case == "prior" else {}
        prior = {"prior": PriorFromNetwork(["a robot", "a robot and a mug", "a cat"])}
        return lora(text=case == "text", dropout=0.3), {} if case == "lora" else prior

    plan = dataclasses.replace(
        PLAN, checkpoint_seconds=0.0, caption_dropout=0.2, snr_gamma=5.0, schedule="cosine"
    )
    model, more = start()
    before = weights(model)
    drain(train(model, subject(), plan, tmp_path / "whole", **more))
    undisturbed = weights(model)
    assert not same(before, undisturbed)
    model, _ = start()
    stop_after(train(model, subject(), plan, tmp_path / "cut", **more), 3)
    model, _ = start()
    events, result = drain(train(model, subject(), plan, tmp_path / "cut", resume=True, **more))
    assert any("Going on from step" in e.data["text"] for e in events if e.kind == "log")
    assert same(weights(model), undisturbed)
    assert result.steps == plan.steps


@pytest.mark.slow  # a process of its own loads everything anew
def test_a_killed_process_goes_on_from_its_last_checkpoint(tmp_path):
    script = textwrap.dedent(
        f"""
        import sys; sys.path[:0] = [{str(Path(__file__).parent)!r}, {str(Path(__file__).parents[1])!r}]
        import dataclasses, torch; torch.set_num_threads(1)
        from test_diffusion import *
        plan = dataclasses.replace(PLAN, steps=100_000, checkpoint_seconds=0.0)
        for event in train(lora(), subject(), plan, Path({str(tmp_path)!r})):
            pass
        """
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen([sys.executable, "-c", script], env=environment)
    try:
        end = time.monotonic() + 120
        while len(checkpoints.checkpoints(tmp_path)) < 2 and time.monotonic() < end:
            time.sleep(0.05)
            assert process.poll() is None
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    model = lora()
    plan = dataclasses.replace(PLAN, steps=100_000, checkpoint_seconds=0.0)
    generator = train(model, subject(), plan, tmp_path, resume=True)
    told = next(event.data["text"] for event in generator if event.kind == "log")
    generator.close()
    assert told.startswith("Going on from step")


def test_one_batch_holds_subject_and_class_with_weights_of_their_own(tmp_path, drain, monkeypatch):
    seen = []
    model = full()
    real = model.family.predict

    def spy(denoiser, noisy, times, conditioning, pipeline):
        seen.append((len(noisy), conditioning["prompt_embeds"]))
        return real(denoiser, noisy, times, conditioning, pipeline)

    monkeypatch.setattr(type(model.family), "predict", staticmethod(spy))
    losses = {}
    for weight in (0.0, 1.0, 3.0):
        plan = dataclasses.replace(PLAN, steps=1, learning_rate=0.0, prior_weight=weight)
        events, result = drain(train(model, subject(), plan, tmp_path, prior=robots()))
        losses[weight] = result.train_loss, result.instance_loss, result.prior_loss
    assert [count for count, _ in seen] == [4, 4, 4]
    plain = model.family.encode_prompts(model.pipeline, ["a robot"])["prompt_embeds"]
    assert torch.allclose(seen[0][1][2:], plain.expand(2, -1, -1), atol=1e-5)
    for weight, (loss, instance, prior) in losses.items():
        assert loss == pytest.approx(instance + weight * prior)
        assert (instance, prior) == pytest.approx(losses[0.0][1:])


@pytest.mark.parametrize("class_batch", [0, 1, 3])
def test_the_gradient_is_that_of_the_paper_s_loss(class_batch, tmp_path, drain):
    """Subject and class apart, each by the book, against the one batch; with min-SNR weights."""
    plan = dataclasses.replace(
        PLAN, steps=1, learning_rate=0.0, prior_weight=0.5, snr_gamma=5.0, class_batch=class_batch
    )
    model = full()
    run = diffusion._Training(model, subject(), plan, tmp_path, robots(), None, None, None)
    drain(run.events(False))
    run._backward(0)
    ours = {name: p.grad.clone() for name, p in model.denoiser.named_parameters()}
    model.denoiser.zero_grad()
    generator = torch.Generator().manual_seed(0)
    prompts = run._batch(0, 0).prompts
    chosen = [
        one.moments[one.choose(0, count, len(one.prompts))]
        for one, count in zip(run.samples, (2, class_batch or 2), strict=True)
    ]
    latents = model.family.latents(model.pipeline, Moments.cat(chosen), generator)
    noise = torch.randn(latents.shape, generator=generator)
    times = torch.cat([run.objective.times(count, generator) for count in (2, class_batch or 2)])
    assert len(latents) == len(times)
    scheduler = model.pipeline.scheduler
    alphas = scheduler.alphas_cumprod[times]
    snr = alphas / (1 - alphas)
    for part, factor in ((slice(0, 2), 1.0), (slice(2, None), 0.5)):
        a, n = alphas[part, None, None, None], noise[part]
        noisy = a.sqrt() * latents[part] + (1 - a).sqrt() * n
        target = a.sqrt() * n - (1 - a).sqrt() * latents[part]
        text = model.family.encode_prompts(model.pipeline, prompts[part])["prompt_embeds"].detach()
        out = model.denoiser(noisy, times[part], text).sample
        error = (out - target).square().mean(dim=(1, 2, 3))
        (factor * (snr[part].clamp(max=5) / (snr[part] + 1) * error).mean()).backward()
    for name, parameter in model.denoiser.named_parameters():
        assert torch.allclose(ours[name], parameter.grad, atol=1e-5, rtol=1e-3), name


def test_the_network_s_own_prior_may_have_fewer_pictures_a_step(tmp_path, drain):
    plan = dataclasses.replace(PLAN, batch_size=3, class_batch=1)
    run = diffusion._Training(
        lora(), subject(), plan, tmp_path, PriorFromNetwork(["a robot"]), None, None, None
    )
    _, result = drain(run.events(False))
    asked = run._asked_before(0)
    assert len(run._batch(0, 0).noisy) == 3
    assert len(asked.noisy) == 1 and asked.prompts == ["a robot"]
    assert result.prior_loss is not None


def test_the_network_as_it_was_is_asked_each_question_once(tmp_path, drain, monkeypatch):
    asked = []
    model = lora()
    monkeypatch.setattr(diffusion, "RECALLED", 4)  # two turns of two
    real = diffusion._Training._base
    monkeypatch.setattr(diffusion._Training, "_base", lambda run, *of: asked.append(of) or real(run, *of))
    prior = PriorFromNetwork(["a robot", "a red robot"])
    run = diffusion._Training(model, subject(), PLAN, tmp_path, prior, None, None, None)
    drain(run.events(False))
    assert len(asked) == 2
    first, again = run._asked_before(0), run._asked_before(2)
    assert all(
        torch.equal(getattr(first, name), getattr(again, name)) for name in ("noisy", "times", "target")
    )
    other = run._asked_before(1)
    assert not torch.equal(first.noisy, other.noisy)
    with adapters_off(model.denoiser), torch.no_grad():
        told = run.base_texts(other.prompts)
        assert torch.allclose(run._predict(other.noisy, other.times, told), other.target, atol=1e-6)


def test_every_picture_of_the_class_is_used_with_its_own_text():
    samples = diffusion._Samples(None, [""] * 7, order=3)
    chosen = [number for step in range(7) for number in samples.choose(step * 3, 3, 7)]
    for start in (0, 7, 14):
        assert sorted(chosen[start : start + 7]) == list(range(7))
    assert chosen[:7] != chosen[7:14]


def test_the_prior_of_the_network_is_what_it_answered_before(tmp_path, drain, monkeypatch):
    model = lora()
    for name, value in model.denoiser.named_parameters():
        if "lora_B" in name:
            value.data.normal_(0, 0.5)
    plan = dataclasses.replace(PLAN, steps=1, learning_rate=0.0)
    prior = PriorFromNetwork(["a robot"])
    events, result = drain(train(model, subject(), plan, tmp_path, prior=prior))
    assert result.prior_loss > 1e-4  # the adapter changes answers
    with adapters_off(model.denoiser):  # without it they are the same
        events, result = drain(train(lora(), subject(), plan, tmp_path, prior=prior))
    assert result.prior_loss == pytest.approx(0, abs=1e-10)


def test_the_prior_holds_the_network_back(tmp_path, drain):
    def answers(model):
        told = model.family.encode_prompts(model.pipeline, ["a robot"] * 4)
        noisy = torch.randn(4, 8, 8, 8, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            return model.family.predict(model.denoiser, noisy, torch.full((4,), 700), told, model.pipeline)

    base = answers(lora())
    plan = dataclasses.replace(PLAN, steps=24, learning_rate=2e-2, prior_weight=4.0)
    moved = []
    for prior in (None, PriorFromNetwork(["a robot"])):
        model = lora()
        drain(train(model, subject(1), plan, tmp_path, prior=prior))
        moved.append((answers(model) - base).square().mean().item())
    free, held = moved
    assert held < 0.7 * free


def test_the_prior_of_the_network_needs_an_adapter(tmp_path, drain):
    with pytest.raises(InvalidInput, match="Use pictures of the class"):
        drain(train(full(), subject(), PLAN, tmp_path, prior=PriorFromNetwork(["a robot"])))


def test_adapters_are_on_again_after_the_block():
    model = lora()
    before = weights(model)
    with adapters_off(model.denoiser):
        pass
    assert same(before, weights(model))


def test_texts_are_encoded_once_unless_their_encoder_trains(tmp_path, drain, monkeypatch):
    calls = []
    for text in (False, True):
        model = lora(text=text)
        real = model.pipeline.encode_prompt
        monkeypatch.setattr(
            model.pipeline,
            "encode_prompt",
            lambda texts, *a, real=real, **k: calls.append(texts) or real(texts, *a, **k),
        )
        before = weights(model)
        drain(train(model, subject(), PLAN, tmp_path))
        if not text:
            assert sorted(text for texts in calls for text in texts) == sorted(SUBJECT)
            calls.clear()
        else:
            assert len(calls) == PLAN.steps
            after = weights(model)
            moved = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
            assert moved == {"denoiser", "text_encoder"}


def test_pictures_go_through_the_vae_once(tmp_path, drain, monkeypatch):
    model = full()
    seen = []
    real = model.pipeline.vae.encode
    monkeypatch.setattr(
        model.pipeline.vae, "encode", lambda x, *a, **k: seen.append(len(x)) or real(x, *a, **k)
    )
    drain(train(model, subject(), PLAN, tmp_path, prior=robots()))
    assert sum(seen) == 7


def test_looks_come_at_the_start_in_between_on_request_and_at_the_end(tmp_path, drain):
    asked = iter([set(), set(), {"sample", "save"}, set(), set(), set()])
    training = []
    model = full()

    def looks(step):
        training.append(model.denoiser.training)
        yield Event.log(f"look {step}")

    plan = dataclasses.replace(PLAN, sample_every=4, keep_looks=True)
    events, result = drain(train(model, subject(), plan, tmp_path, looks=looks, requests=lambda: next(asked)))
    told = [
        e.data["text"] for e in events if e.kind == "log" and e.data["text"].startswith(("look", "Saved"))
    ]
    assert told == [
        "look 0",
        "Saved at step 3: a stopped run goes on from here.",
        "look 3",
        "look 4",
        "look 6",
    ]
    assert training == [False] * 4 and not model.denoiser.training
    assert result.kept == (3, 4, 6)
    assert [path.name for path in checkpoints.checkpoints(tmp_path)] == ["step-0000003", "step-0000006"]


def test_weights_of_a_look_can_be_put_back(tmp_path, drain):
    kept = {}
    model = lora()

    def looks(step):
        kept[step] = weights(model)
        return ()

    plan = dataclasses.replace(PLAN, sample_every=2, keep_looks=True)
    drain(train(model, subject(), plan, tmp_path, looks=looks))
    assert same(weights(model), kept[6]) and not same(kept[2], kept[6])
    diffusion.restore(model, tmp_path, 2)
    assert same(weights(model), kept[2])
    with pytest.raises(AdapterError, match="step 3"):
        diffusion.restore(model, tmp_path, 3)
    with pytest.raises(AdapterError, match="another model"):
        diffusion.restore(full(), tmp_path, 2)


def test_a_full_disk_costs_the_weights_of_the_best_look_and_not_the_training(tmp_path, drain, monkeypatch):
    def full_disk(*given):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(diffusion, "save_file", full_disk)
    plan = dataclasses.replace(PLAN, sample_every=2)
    events, result = drain(train(lora(), subject(), plan, tmp_path, looks=lambda step: (), best=max))
    told = [e.data["text"] for e in events if e.kind == "log" and e.data["level"] == "warning"]
    assert told == [
        f"The weights of step {step}, the best so far, are not kept: the disk is full." for step in (2, 4)
    ]
    assert result.steps == 6 and result.kept == ()


def test_a_training_that_diverges_says_where_and_keeps_no_broken_checkpoint(tmp_path, drain):
    model = full()
    plan = dataclasses.replace(PLAN, steps=20, learning_rate=1e30, clip_norm=None, checkpoint_seconds=0.0)
    with pytest.raises(TrainingDiverged, match=r"at step \d+ of 20.*(checkpoint).*learning rate"):
        drain(train(model, subject(), plan, tmp_path))
    for path in checkpoints.checkpoints(tmp_path):
        model = full()
        networks = diffusion._networks(model)
        state = diffusion.json.loads((path / "state.json").read_text())
        optimizer = torch.optim.AdamW(model.denoiser.parameters())
        checkpoints.load(path, state["fingerprint"], networks, optimizer)
        assert all(value.isfinite().all() for value in weights(model).values())


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_out_of_memory_says_what_to_lower(tmp_path, drain, monkeypatch, error):
    def fails(*more, **named):
        raise error

    model = full()
    monkeypatch.setattr(model.denoiser, "forward", fails)
    with pytest.raises(OutOfMemory, match="batch size 2.*Lower the batch size"):
        drain(train(model, subject(), PLAN, tmp_path))


def test_a_checkpoint_of_other_pictures_is_not_used(tmp_path, drain):
    drain(train(lora(), subject(), dataclasses.replace(PLAN, steps=2), tmp_path))
    events, result = drain(
        train(lora(), subject(2), dataclasses.replace(PLAN, steps=2), tmp_path, resume=True)
    )
    texts = [e.data["text"] for e in events if e.kind == "log"]
    assert any("other settings or data" in text for text in texts)
    assert any("starts at step 0" in text for text in texts)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"instance": Concept(tiny_image.pictures(1, size=30), ["x"])}, "multiples of 4"),
        ({"prior": Concept(tiny_image.pictures(1, size=64), ["x"])}, "another size"),
    ],
)
def test_pictures_that_do_not_fit_are_refused(tmp_path, drain, change, message):
    given = {"instance": subject(), "prior": None} | change
    with pytest.raises(InvalidInput, match=message):
        drain(train(full(), given["instance"], PLAN, tmp_path, prior=given["prior"]))
    assert not list(tmp_path.iterdir())


def test_pictures_need_as_many_texts():
    with pytest.raises(InvalidInput, match="3 pictures with 1 texts"):
        Concept(tiny_image.pictures(3), ["x"])
    with pytest.raises(InvalidInput):
        PriorFromNetwork([])


def test_gradient_checkpointing_changes_no_number(tmp_path, drain):
    ended = []
    for saving in (False, True):
        model = full()
        drain(
            train(
                model, subject(), dataclasses.replace(PLAN, steps=2, gradient_checkpointing=saving), tmp_path
            )
        )
        ended.append(weights(model))
        assert not model.denoiser.is_gradient_checkpointing
    assert all(torch.allclose(ended[0][name], ended[1][name], atol=1e-5) for name in ended[0])


@pytest.mark.parametrize("maker", [tiny_image.sd, tiny_image.sdxl, tiny_image.sd3, tiny_image.flux])
def test_frozen_weights_may_be_bfloat16(maker, tmp_path, drain):
    pipeline = maker().to(torch.bfloat16)
    pipeline.vae.float()
    model = lora(lambda: pipeline)
    prior = PriorFromNetwork(["a robot"])
    events, result = drain(
        train(model, subject(), dataclasses.replace(PLAN, mixed=None), tmp_path, prior=prior)
    )
    assert {value.dtype for value in weights(model).values()} == {torch.float32}
    assert model.denoiser.dtype == torch.bfloat16
    assert model.generate(["a zwx robot"], [1], steps=1).isfinite().all()


def test_rates_follow_the_schedule():
    plan = dataclasses.replace(PLAN, steps=10, warmup=0.2, schedule="linear", learning_rate=1.0)
    rates = [plan.rate(step) for step in range(10)]
    assert rates[0] < rates[1] < rates[2] == 1.0
    assert rates[2:] == sorted(rates[2:], reverse=True) and rates[-1] == pytest.approx(0.125)
