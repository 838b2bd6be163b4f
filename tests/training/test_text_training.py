import dataclasses
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest
import torch
from architectures import CONFIGS
from peft import LoraConfig, get_peft_model
from transformers import MistralConfig, MistralForCausalLM

from playground.errors import InvalidInput, OutOfMemory, TrainingDiverged
from playground.events import Event
from playground.training import checkpoints, measure, text
from playground.training.batches import Example
from playground.training.text import Plan, evaluate_loss, fit, objective, train

PLAN = Plan(
    mixed=False, epochs=6, batch_size=4, learning_rate=3e-3, threads=None, checkpoint_seconds=1e9, evals=3
)


def values(events, name):
    return [
        (e.data["step"], e.data["value"]) for e in events if e.kind == "metric" and e.data["name"] == name
    ]


def with_lora(model, dropout=0.0):
    torch.manual_seed(7)
    config = LoraConfig(
        r=4, lora_alpha=8, lora_dropout=dropout, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    return get_peft_model(model, config)


def stop_after(generator, step):
    for event in generator:
        if event.kind == "progress" and event.data["done"] == step:
            generator.close()
            return


def test_loss_falls_on_a_task_that_can_be_learnt(make_model, make_examples, tmp_path, drain):
    # the answer is the prompt's last token, of eight: seen in training, in other prompts
    pool = [
        Example((1, 2, 3, 4, 5, noise, token, token, 6), 2)
        for token in range(8, 16)
        for noise in range(20, 27)
    ]
    dev, examples = pool[::7], [e for at, e in enumerate(pool) if at % 7]
    plan = dataclasses.replace(PLAN, epochs=10, batch_size=8, learning_rate=2e-2)
    model = with_lora(make_model())
    events, result = drain(train(model, examples, dev, plan, tmp_path))
    curve = values(events, "dev_loss")
    assert curve[0][0] == 0 and curve[-1] == (result.steps, result.dev_loss)
    assert result.dev_loss < 0.3 * curve[0][1]
    assert result.steps == plan.steps(len(examples)) == 60
    assert result.trainable_parameters == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert result.dev_loss == pytest.approx(evaluate_loss(model, dev), rel=1e-5)
    progress = [e.data for e in events if e.kind == "progress"]
    assert progress[-1]["done"] == progress[-1]["total"] == 60 and progress[-1]["left_seconds"] == 0
    assert all(rate > 0 for _, rate in values(events, "train_tokens_per_second"))


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("packed", [True, False])
def test_prompts_are_learnt_by_weight_and_the_told_loss_stays_the_answers(
    make_model, make_examples, tmp_path, drain, monkeypatch, packed, batch_size
):
    if not packed:
        monkeypatch.setattr("playground.training.text.can_pack", lambda *_: False)
    examples = make_examples(16)
    whole = [dataclasses.replace(example, answer=len(example.ids) - 6) for example in examples]
    plan = dataclasses.replace(PLAN, learning_rate=1e-2, batch_size=batch_size)
    first, prompt_loss = [], []
    for weight in (0.0, 1.0):
        plan = dataclasses.replace(plan, prompt_loss_weight=weight)
        model = with_lora(make_model())
        events, _ = drain(train(model, examples, [], plan, tmp_path / str(weight)))
        first.append(values(events, "train_loss")[0][1])
        prompt_loss.append(evaluate_loss(model, whole))
    assert first[0] == pytest.approx(first[1], rel=1e-5)
    assert prompt_loss[1] < 0.8 * prompt_loss[0]


def test_the_dev_loss_is_true_where_dev_examples_alone_are_longer_than_a_window(
    make_examples, tmp_path, drain
):
    torch.manual_seed(0)
    config = CONFIGS["mistral"].to_dict() | {"vocab_size": 64, "sliding_window": 16}
    model = with_lora(MistralForCausalLM(MistralConfig(**config)))
    long = [Example((*example.ids[:-2] * 3, *example.ids[-2:]), 2) for example in make_examples(4)]
    events, _ = drain(train(model, make_examples(8), long, dataclasses.replace(PLAN, epochs=1), tmp_path))
    told = values(events, "dev_loss")[-1][1]
    assert told == pytest.approx(evaluate_loss(model, long, packed=False), rel=1e-5)
    assert told != pytest.approx(evaluate_loss(model, long, packed=True), rel=1e-3)


def test_accumulated_batches_are_one_large_batch(make_model, make_examples, tmp_path, drain):
    examples = make_examples(16)
    results = []
    for batch, accumulation in ((8, 1), (2, 4)):
        plan = dataclasses.replace(PLAN, batch_size=batch, gradient_accumulation=accumulation)
        model = with_lora(make_model())
        events, _ = drain(train(model, examples, [], plan, tmp_path / str(batch)))
        results.append([loss for _, loss in values(events, "train_loss")])
    assert results[0] == pytest.approx(results[1], rel=1e-4)


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_resumed_training_equals_an_undisturbed_one(make_model, make_examples, tmp_path, drain, dropout):
    plan = dataclasses.replace(PLAN, checkpoint_seconds=0.0, prompt_loss_weight=0.5)
    examples, dev = make_examples(16), make_examples(4, seed=1)
    whole = with_lora(make_model(), dropout)
    events, result = drain(train(whole, examples, dev, plan, tmp_path / "whole"))
    stop_after(train(with_lora(make_model(), dropout), examples, dev, plan, tmp_path / "cut"), 7)
    resumed = with_lora(make_model(), dropout)
    more, again = drain(train(resumed, examples, dev, plan, tmp_path / "cut", resume=True))
    assert values(more, "train_loss")[0][0] == 8  # not from the start
    wanted = dict(values(events, "train_loss")) | {"dev": result.dev_loss}
    for step, loss in values(more, "train_loss"):
        assert loss == pytest.approx(wanted[step], rel=1e-6)
    assert again.dev_loss == pytest.approx(wanted["dev"], rel=1e-6)
    assert again.tokens == result.tokens
    for (name, one), other in zip(whole.named_parameters(), resumed.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7, msg=name)


@pytest.mark.parametrize("chance", ["noise", "dropout"])
def test_chance_below_the_first_trained_block_is_the_same_after_a_resume(
    make_model, make_examples, tmp_path, drain, chance
):
    plan = dataclasses.replace(PLAN, checkpoint_seconds=0.0, noise=5.0 if chance == "noise" else 0.0)
    examples, dev = make_examples(12), make_examples(4, seed=1)

    def top_block():
        model = make_model(attention_dropout=0.1 if chance == "dropout" else 0.0)
        model.requires_grad_(False)
        model.model.layers[1].requires_grad_(True)
        return model

    whole, resumed = top_block(), top_block()
    drain(train(whole, examples, dev, plan, tmp_path / "whole"))
    stop_after(train(top_block(), examples, dev, plan, tmp_path / "cut"), 7)
    events, _ = drain(train(resumed, examples, dev, plan, tmp_path / "cut", resume=True))
    assert values(events, "train_loss")[0][0] == 8
    for (name, one), other in zip(whole.named_parameters(), resumed.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7, msg=name)


def test_a_resumed_training_keeps_its_precision_though_another_is_faster_now(
    make_model, make_examples, tmp_path, drain, monkeypatch
):
    plan = dataclasses.replace(PLAN, checkpoint_seconds=0.0, mixed=None)
    examples = make_examples(16)
    monkeypatch.setattr("playground.training.mixed.pays", lambda _: True)
    events, _ = drain(train(with_lora(make_model()), examples, [], plan, tmp_path / "whole"))
    stop_after(train(with_lora(make_model()), examples, [], plan, tmp_path / "cut"), 7)
    monkeypatch.setattr("playground.training.mixed.pays", lambda _: False)
    more, _ = drain(train(with_lora(make_model()), examples, [], plan, tmp_path / "cut", resume=True))
    plain, _ = drain(train(with_lora(make_model()), examples, [], plan, tmp_path / "plain"))
    wanted, other = dict(values(events, "train_loss")), dict(values(plain, "train_loss"))
    resumed = dict(values(more, "train_loss"))
    assert resumed == pytest.approx({step: wanted[step] for step in resumed}, rel=1e-6)
    assert resumed != pytest.approx({step: other[step] for step in resumed}, rel=1e-6)


def test_a_damaged_checkpoint_gives_way_to_the_one_before(make_model, make_examples, tmp_path, drain):
    plan = dataclasses.replace(PLAN, checkpoint_seconds=0.0)
    examples = make_examples(16)
    stop_after(train(with_lora(make_model()), examples, [], plan, tmp_path), 7)
    newest = checkpoints.checkpoints(tmp_path)[-1]
    damaged = (newest / "tensors.safetensors").read_bytes()[:-100]
    (newest / "tensors.safetensors").write_bytes(damaged)
    events, _ = drain(train(with_lora(make_model()), examples, [], plan, tmp_path, resume=True))
    assert values(events, "train_loss")[0][0] == 7
    warning = next(e.data["text"] for e in events if e.kind == "log" and e.data["level"] == "warning")
    assert newest.name in warning


def test_a_checkpoint_of_other_data_is_not_used(make_model, make_examples, tmp_path, drain):
    plan = dataclasses.replace(PLAN, checkpoint_seconds=0.0)
    stop_after(train(with_lora(make_model()), make_examples(16), [], plan, tmp_path), 5)
    events, _ = drain(
        train(with_lora(make_model()), make_examples(16, seed=3), [], plan, tmp_path, resume=True)
    )
    assert values(events, "train_loss")[0][0] == 1


def test_only_two_checkpoints_are_kept(make_model, make_examples, tmp_path, drain):
    drain(
        train(
            with_lora(make_model()),
            make_examples(),
            [],
            dataclasses.replace(PLAN, checkpoint_seconds=0),
            tmp_path,
        )
    )
    assert [path.name for path in checkpoints.checkpoints(tmp_path)] == ["step-0000011", "step-0000012"]


def test_of_large_checkpoints_one_is_kept_and_the_last_step_has_none(
    make_model, make_examples, tmp_path, monkeypatch
):
    monkeypatch.setattr(checkpoints, "LARGE", 1000)
    plan = dataclasses.replace(PLAN, checkpoint_seconds=0)
    seen = []
    for event in train(with_lora(make_model()), make_examples(), [], plan, tmp_path):
        if event.kind == "progress":
            seen.append([path.name for path in checkpoints.checkpoints(tmp_path)])
    assert seen[-2:] == [["step-0000011"], ["step-0000011"]] and max(map(len, seen)) == 1


def test_slow_writing_makes_checkpoints_rarer(make_model, make_examples, tmp_path, monkeypatch):
    write, steps = checkpoints.save, []

    def slow(folder, state, *rest):
        steps.append(state.step)
        time.sleep(0.05)
        return write(folder, state, *rest)

    monkeypatch.setattr(checkpoints, "save", slow)
    plan = dataclasses.replace(PLAN, checkpoint_seconds=1e-6)
    list(train(with_lora(make_model()), make_examples(), [], plan, tmp_path))
    assert steps == [1, 12]  # the next one would be due a second after the first


def test_nan_says_the_step_and_the_last_good_checkpoint(make_model, make_examples, tmp_path):
    plan = dataclasses.replace(PLAN, checkpoint_seconds=0.0)
    model = with_lora(make_model())
    with pytest.raises(TrainingDiverged, match=r"step 6 of 12.*step-0000005"):
        for event in train(model, make_examples(), [], plan, tmp_path):
            if event.kind == "progress" and event.data["done"] == 5:
                with torch.no_grad():
                    next(p for p in model.parameters() if p.requires_grad).fill_(float("nan"))
    assert checkpoints.checkpoints(tmp_path)[-1].name == "step-0000005"


def test_out_of_memory_says_what_to_lower(make_model, make_examples, tmp_path):
    def full(step):
        raise torch.OutOfMemoryError("no room")
        yield

    with pytest.raises(OutOfMemory, match="batch size 4"):
        list(train(with_lora(make_model()), make_examples(), [], PLAN, tmp_path, samples=full))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 16 GiB"
        ),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory"
        ),
        MemoryError(),
    ],
)
def test_every_way_of_running_out_of_memory_is_told_alike(
    make_model, make_examples, tmp_path, monkeypatch, error
):
    model = with_lora(make_model())
    passes = []

    def forward(model, row, lower=None):
        passes.append(row)
        if len(passes) == 3:
            raise error
        return objective(model, row)

    monkeypatch.setattr("playground.training.text.objective", forward)
    with pytest.raises(
        OutOfMemory, match="Out of memory while training with batch size 4 .* Lower the batch size"
    ):
        list(train(model, make_examples(), [], PLAN, tmp_path))


def test_other_errors_are_not_called_out_of_memory(make_model, make_examples, tmp_path):
    def broken(step):
        raise RuntimeError("something else")
        yield

    with pytest.raises(RuntimeError, match="something else"):
        list(train(with_lora(make_model()), make_examples(), [], PLAN, tmp_path, samples=broken))


def test_threads_are_chosen_by_a_few_examples_and_without_effect(
    make_model, make_examples, tmp_path, drain, monkeypatch
):
    examples, tried = make_examples(12), []
    real = text.objective

    def choose(piece):
        monkeypatch.setattr(text, "objective", lambda _, row, *more: tried.append(row) or real(_, row, *more))
        piece()
        monkeypatch.setattr(text, "objective", real)
        return 1, {1: 0.5}

    monkeypatch.setattr(measure, "calibrate_threads", choose)
    plan = dataclasses.replace(PLAN, noise=5.0, epochs=2)
    as_set, _ = drain(train(with_lora(make_model()), examples, [], plan, tmp_path / "set"))
    assert not tried
    plan = dataclasses.replace(plan, threads=0)
    chosen, _ = drain(train(with_lora(make_model()), examples, [], plan, tmp_path / "chosen"))
    assert sum(row.answers for row in tried) == text.PROBE * examples[0].answer
    assert values(chosen, "train_loss") == values(as_set, "train_loss")
    assert any(e.kind == "log" and "0.50 s with 1" in e.data["text"] for e in chosen)


def test_samples_are_asked_for_before_and_during(make_model, make_examples, tmp_path, drain):
    asked = []

    def samples(step):
        asked.append(step)
        yield Event.sample("during", "1", "in", "out", step=step)

    events, _ = drain(train(with_lora(make_model()), make_examples(), [], PLAN, tmp_path, samples=samples))
    assert asked == [0, 4, 8]
    assert [e.data["step"] for e in events if e.kind == "sample"] == asked


def test_patience_stops_early_and_keeps_the_best_weights(make_model, make_examples, tmp_path, drain):
    # learnt by heart on shuffled answers: the dev loss rises
    examples = [Example((*e.ids[:-2], 8 + at, 6), 2) for at, e in enumerate(make_examples(16))]
    dev = make_examples(8, seed=1)
    plan = dataclasses.replace(PLAN, epochs=30, learning_rate=3e-2, evals=15, patience=2)
    model = with_lora(make_model())
    events, result = drain(train(model, examples, dev, plan, tmp_path))
    curve = values(events, "dev_loss")
    assert result.stopped_early and result.steps < plan.steps(16) and result.kept_step < result.steps
    assert result.dev_loss == min(loss for step, loss in curve if step > 0)
    assert evaluate_loss(model, dev) == pytest.approx(result.dev_loss, rel=1e-5)


def test_padded_layout_gives_the_same_losses(make_model, make_examples, tmp_path, drain, monkeypatch):
    plan = dataclasses.replace(PLAN, batch_size=16)  # one batch an epoch: no order to differ in
    examples = make_examples(16)
    packed, _ = drain(train(with_lora(make_model()), examples, examples[:4], plan, tmp_path / "a"))
    monkeypatch.setattr("playground.training.text.can_pack", lambda *_: False)
    padded, result = drain(train(with_lora(make_model()), examples, examples[:4], plan, tmp_path / "b"))
    assert not result.packed
    for name in ("train_loss", "dev_loss"):
        assert [v for _, v in values(packed, name)] == pytest.approx(
            [v for _, v in values(padded, name)], rel=1e-4
        )


def test_every_example_is_seen_once_an_epoch(make_model, make_examples, tmp_path, drain):
    examples = make_examples(10)
    _, result = drain(
        train(with_lora(make_model()), examples, [], dataclasses.replace(PLAN, epochs=1), tmp_path)
    )
    prefixes = 3 * 5  # three steps of 4, 4 and 2 examples
    assert result.steps == 3
    assert result.tokens == sum(len(example.ids) - 1 - 5 for example in examples) + prefixes


def test_too_long_examples_are_left_out_and_said(make_examples):
    examples = make_examples(8)
    limit = max(len(example.ids) for example in examples) - 1
    kept, events = fit(examples, limit, "training")
    assert kept == [example for example in examples if len(example.ids) <= limit]
    assert f"{8 - len(kept)} of 8" in events[0].data["text"]
    with pytest.raises(InvalidInput, match="Raise the maximum length"):
        fit(examples, 3, "training")


def test_learning_rate_rises_and_falls():
    plan = Plan(learning_rate=1.0, warmup=0.1)
    rates = [plan.rate(step, 100) for step in range(100)]
    assert 0 < rates[0] < rates[5] < max(rates) == rates[10] == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True) and rates[-1] < 0.01
    assert dataclasses.replace(plan, schedule="constant").rate(99, 100) == 1.0
    assert dataclasses.replace(plan, schedule="linear", warmup=0).rate(50, 100) == 0.5


KILLED = """
    import sys, torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM
    from playground.training.batches import Example
    from playground.training.text import Plan, train
    import playground.training.checkpoints as checkpoints

    save_file = checkpoints.save_file
    def slow(tensors, path):
        if "0000003" in str(path):  # the first half of the file, then killed
            save_file(tensors, path)
            with open(path, "r+b") as file:
                file.truncate(1000)
            print("saving", flush=True)
            import time
            time.sleep(60)
        save_file(tensors, path)
    checkpoints.save_file = slow
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                                         num_attention_heads=4, num_key_value_heads=2))
    model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    examples = [Example((1, 2, 3, 8 + at, 8 + at, 6), 2) for at in range(16)]
    plan = Plan(epochs=3, threads=None, checkpoint_seconds=0)
    resume = sys.argv[2] == "resume"
    for event in train(model, examples, [], plan, sys.argv[1], resume=resume):
        if event.kind == "metric" and event.data["name"] == "train_loss":
            print("step", event.data["step"], flush=True)
            if resume:
                break
"""


def test_killed_in_the_middle_of_a_save_leaves_the_checkpoint_before(tmp_path):
    script = tmp_path / "killed.py"
    script.write_text(textwrap.dedent(KILLED))
    folder = tmp_path / "run"
    command = [sys.executable, str(script), str(folder)]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")])
    }
    process = subprocess.Popen([*command, "new"], stdout=subprocess.PIPE, text=True, env=environment)
    deadline = time.monotonic() + 120
    while process.stdout.readline().strip() != "saving":
        assert process.poll() is None and time.monotonic() < deadline
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert [path.name for path in checkpoints.checkpoints(folder)] == ["step-0000001", "step-0000002"]
    assert list((folder / checkpoints.FOLDER).glob(".*"))  # the half-written one
    again = subprocess.run([*command, "resume"], capture_output=True, text=True, env=environment, timeout=120)
    assert again.stdout.split("\n")[0] == "step 3", again.stderr
    assert not list((folder / checkpoints.FOLDER).glob(".*"))


def test_memory_is_told_with_every_report(make_model, make_examples, tmp_path, drain):
    events, _ = drain(train(with_lora(make_model()), make_examples(), [], PLAN, tmp_path))
    losses, memory = values(events, "train_loss"), values(events, "train_memory_bytes")
    assert [step for step, _ in memory] == [step for step, _ in losses]
    assert all(10_000_000 < bytes < 100_000_000_000 for _, bytes in memory)


def saved_numbers_are_finite(folder):
    from safetensors.torch import load_file

    files = list((folder / checkpoints.FOLDER).rglob("*.safetensors"))
    return all(torch.isfinite(value).all() for file in files for value in load_file(file).values())


@pytest.mark.parametrize("full", [False, True], ids=["lora", "full"])
@pytest.mark.parametrize("rate", [1e3, 1e38])
def test_a_learning_rate_far_too_high_leaves_no_broken_checkpoint(
    make_model, make_examples, tmp_path, drain, full, rate
):
    model = make_model() if full else with_lora(make_model())
    plan = dataclasses.replace(
        PLAN, learning_rate=rate, epochs=40, clip_norm=None, warmup=0, checkpoint_seconds=0
    )
    try:
        _, result = drain(train(model, make_examples(), make_examples(4, seed=1), plan, tmp_path))
    except TrainingDiverged as error:
        assert "at step" in str(error) and "Lower the learning rate" in str(error)
    else:
        assert rate < 1e30 and result.dev_loss > 1  # it did not learn, yet every number can be stored
    assert saved_numbers_are_finite(tmp_path)


def test_a_gradient_that_is_not_finite_is_noticed_before_the_weights_are_saved(
    make_model, make_examples, tmp_path
):
    model = with_lora(make_model())
    seen = []

    def spoil(gradient):
        seen.append(1)
        return gradient * float("nan") if len(seen) == 3 else gradient

    next(p for p in model.parameters() if p.requires_grad).register_hook(spoil)
    plan = dataclasses.replace(PLAN, checkpoint_seconds=0)
    with pytest.raises(TrainingDiverged, match=r"update became NaN.*step 3 of 12.*step-0000002"):
        list(train(model, make_examples(), [], plan, tmp_path))
    assert checkpoints.checkpoints(tmp_path)[-1].name == "step-0000002"
    assert saved_numbers_are_finite(tmp_path)


def test_it_is_noticed_between_two_reports_too(make_model, make_examples, tmp_path):
    model = with_lora(make_model())
    plan = dataclasses.replace(PLAN, epochs=200)  # 400 steps: a report every fourth
    seen = []

    def spoil(gradient):
        seen.append(1)
        return gradient * float("inf") if len(seen) == 9 else gradient

    next(p for p in model.parameters() if p.requires_grad).register_hook(spoil)
    events = []
    with pytest.raises(TrainingDiverged, match="step 10 of 400"):
        events.extend(train(model, make_examples(), [], plan, tmp_path))
    assert checkpoints.checkpoints(tmp_path) == []


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    ("at", "match"),
    [
        (0, "before the first step: this model cannot be computed in float32"),
        (1, "dev loss became NaN or infinite at step 4 of 12"),
    ],
)
def test_a_dev_loss_that_is_not_finite_ends_the_training(
    make_model, make_examples, tmp_path, monkeypatch, value, at, match
):
    told = iter([1.0] * at + [value])
    monkeypatch.setattr("playground.training.text.evaluate_loss", lambda *_, **__: next(told))
    plan = dataclasses.replace(PLAN, patience=1)
    with pytest.raises(TrainingDiverged, match=match):
        list(train(with_lora(make_model()), make_examples(), make_examples(4), plan, tmp_path))
    assert not (tmp_path / checkpoints.FOLDER / checkpoints.BEST).exists()


def logged(events):
    return [event.data["text"] for event in events if event.kind == "log"]


@pytest.mark.parametrize(
    ("losses", "words", "kept"),
    [
        ([9, 3, 2, 4, 5], "Stopped early at step 8 of 12; the weights of step 4 are kept", 4),
        ([9, 5, 4, 2, 3, 1, 6], "Trained to the end; the weights of step 10 are kept", 10),
        ([9, 6, 5, 4, 3, 2, 1], None, 12),
    ],
)
def test_what_patience_did_stands_in_the_log(
    make_model, make_examples, tmp_path, drain, monkeypatch, losses, words, kept
):
    told = iter([float(loss) for loss in losses])
    monkeypatch.setattr("playground.training.text.evaluate_loss", lambda *_, **__: next(told))
    plan = dataclasses.replace(PLAN, patience=2, evals=6)
    model = with_lora(make_model())
    events, result = drain(train(model, make_examples(), make_examples(4), plan, tmp_path))
    assert result.kept_step == kept
    said = [line for line in logged(events) if "are kept" in line]
    assert said == [] if words is None else said[0].startswith(words)
