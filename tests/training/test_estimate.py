"""What an estimate promises against what a training of a tiny model really does."""

import dataclasses
from contextlib import nullcontext

import pytest
import torch
from peft import IA3Config, LoraConfig, PrefixTuningConfig, get_peft_model
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
)

from playground.training import capacity, measure, text
from playground.training.batches import Example, pack, pad, shared_prefix
from playground.training.dry_step import dry_step
from playground.training.estimate import QUANTISED, SAMPLED, Workload, _Dry, estimate, part
from playground.training.mixed import half_products
from playground.training.text import Plan, row_loss, train
from playground.training.weightless import skeleton
from playground.training.whole import prepare

PLAN = Plan(epochs=3, batch_size=4, threads=None, mixed=False)


def lora(model):
    return get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))


def full(model):
    return model.requires_grad_(True)


@pytest.fixture
def folder(make_model, tmp_path):
    make_model().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def guess(folder):
    """An estimate for examples, by default of LoRA."""

    def make(examples, plan=PLAN, wrap=lora, dev=(), dtype=torch.float32, **how):
        return estimate(skeleton(folder, dtype), wrap, Workload(examples, dev, plan), **how)

    return make


def test_counts_equal_those_of_the_training(folder, guess, make_examples, tmp_path, drain):
    examples = make_examples(10)
    told = guess(examples)
    model = lora(LlamaForCausalLM.from_pretrained(folder))
    _, result = drain(train(model, examples, [], PLAN, tmp_path))
    assert (told.steps, told.tokens) == (result.steps, result.tokens)
    assert told.trainable_parameters == result.trainable_parameters
    assert told.total_parameters == result.total_parameters
    assert (told.examples, told.left_out, told.effective_batch, told.dry) == (10, 0, 4, True)


SMALL = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
PADDED = {
    "window": lambda: MistralConfig(**SMALL, intermediate_size=48, num_key_value_heads=2, sliding_window=8),
    "window of dev": lambda: MistralConfig(
        **SMALL, intermediate_size=48, num_key_value_heads=2, sliding_window=18
    ),
    "alibi": lambda: BloomConfig(vocab_size=64, hidden_size=32, n_layer=2, n_head=4),
}


@pytest.mark.parametrize("kind", PADDED)
def test_padded_examples_share_no_beginning(make_examples, tmp_path, drain, kind):
    model = AutoModelForCausalLM.from_config(PADDED[kind]())
    model.save_pretrained(tmp_path / "model")
    examples, dev = make_examples(10), [Example((*range(1, 20), 19, 6), 2)]
    told = estimate(skeleton(tmp_path / "model"), full, Workload(examples, dev, PLAN))
    _, result = drain(train(model, examples, dev, PLAN, tmp_path))
    assert not result.packed and told.tokens == result.tokens


@pytest.mark.parametrize("kind", ["window", "window of dev"])
def test_padded_rows_are_run_dry_and_hold_what_real_ones_hold(kind):
    examples = [Example(tuple(range(first, 60)), 3) for first in (0, 1)]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(PADDED[kind]())
    told = estimate(model, full, Workload(examples, (), PLAN))
    real = AutoModelForCausalLM.from_config(PADDED[kind]()).train()
    with Live([*real.parameters(), *real.buffers()]) as live:
        row_loss(real, pad(examples, torch.device("cpu"))).backward()
    assert told.dry
    assert told.memory.activations + told.memory.gradients == pytest.approx(live.peak, rel=0.08)


def test_padded_dev_examples_are_read_whole(guess, make_examples, monkeypatch):
    examples, dev = make_examples(10), make_examples(6, seed=1)
    looking = []
    for packs in (True, False):

        class Told(_Dry):
            packed = property(lambda self, packs=packs: packs, lambda self, found: None)

        monkeypatch.setattr("playground.training.estimate._Dry", Told)
        seconds = [guess(examples, tokens_per_second=10.0, dev=some).seconds for some in ((), dev)]
        looking.append(seconds[1] - seconds[0])
    lengths = [len(example.ids) - 1 for example in dev]
    own = sum(lengths) - len(dev) * shared_prefix(dev)
    assert looking[1] / looking[0] == pytest.approx(sum(lengths) / own)


def test_no_weights_are_loaded(folder):
    network = skeleton(folder)
    assert {parameter.device.type for parameter in network.parameters()} == {"meta"}
    assert network.generation_config.eos_token_id == network.config.eos_token_id


class Live(TorchDispatchMode):
    """Bytes of storages that a real step on the CPU holds at most, beside those that it is given."""

    def __init__(self, given):
        super().__init__()
        self.given = {tensor.untyped_storage().data_ptr() for tensor in given}
        self.tensors, self.peak = [], 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        import weakref

        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, torch.Tensor):
                self.tensors.append(weakref.ref(tensor.untyped_storage()))
        live = {}
        for reference in self.tensors:
            storage = reference()
            if storage is not None and storage.data_ptr() not in self.given:
                live[storage.data_ptr()] = storage.nbytes()
        self.peak = max(self.peak, sum(live.values()))
        return result


def on_both(examples):
    """One packed row of them with contents, and the same without."""
    return {
        device: pack(examples, 0, 1024, torch.device(device), torch.float32)[0] for device in ("cpu", "meta")
    }


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("prompt_weight", [0.0, 0.1])
@pytest.mark.parametrize("wrap", [lora, full])
def test_a_dry_step_holds_what_a_real_one_holds(make_model, folder, make_examples, wrap, prompt_weight, half):
    examples = make_examples(4)
    rows = [
        pack(
            examples, shared_prefix(examples), 1024, torch.device(device), torch.float32, None, prompt_weight
        )[0]
        for device in ("cpu", "meta")
    ]
    real = wrap(make_model()).train()
    with torch.device("meta"):
        dry = wrap(skeleton(folder))
    products = half_products if half else lambda *_: nullcontext()
    with products(real, prompt_weight > 0):
        copies = [getattr(layer, "rounded", None) for layer in real.modules()]
        given = [*real.parameters(), *real.buffers(), *(copy for copy in copies if copy is not None)]
        with Live(given) as live:
            row_loss(real, rows[0]).backward()
    with products(dry, prompt_weight > 0):
        found = dry_step(dry, rows[1])
    assert found.peak_bytes == pytest.approx(live.peak, rel=0.08)
    assert all(parameter.grad is None for parameter in dry.parameters())


@pytest.mark.parametrize("tokens", [64, 256])
@pytest.mark.parametrize("tied", [False, True])
def test_a_dry_step_under_autocast_holds_what_a_real_one_holds(tokens, tied):
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=64,
        intermediate_size=160,
        num_attention_heads=4,
        num_hidden_layers=3,
        tie_word_embeddings=tied,
    )
    examples = [Example(tuple(at % 64 for at in range(tokens)), 4)]
    rows = on_both(examples)
    real = full(LlamaForCausalLM(config)).train()
    with torch.device("meta"):
        dry = full(LlamaForCausalLM(config))
    with Live([*real.parameters(), *real.buffers()]) as live:
        with torch.autocast("cpu", torch.bfloat16):
            loss = row_loss(real, rows["cpu"])
        loss.backward()
    found = dry_step(dry, rows["meta"], autocast=True)
    assert found.peak_bytes == pytest.approx(live.peak, rel=0.05)
    without = dry_step(dry, rows["meta"])
    assert abs(without.peak_bytes - live.peak) > 2 * abs(found.peak_bytes - live.peak)


def test_a_dry_step_with_dropout_holds_what_a_real_one_holds():
    """Attention with dropout has no fused kernel on a CPU: its tokens × tokens matrices are held."""
    config = GPT2Config(vocab_size=64, n_embd=32, n_layer=3, n_head=4, n_positions=256)
    examples = [Example(tuple(at % 64 for at in range(200)), 4)]
    rows = on_both(examples)
    real = full(GPT2LMHeadModel(config)).train()
    with torch.device("meta"):
        dry = full(GPT2LMHeadModel(config))
    with Live([*real.parameters(), *real.buffers()]) as live:
        row_loss(real, rows["cpu"]).backward()
    assert dry_step(dry, rows["meta"], fused_dropout=False).peak_bytes == pytest.approx(live.peak, rel=0.05)
    assert dry_step(dry, rows["meta"]).peak_bytes < 0.5 * live.peak


def test_autocast_narrows_activations_and_holds_the_weights_copies(folder, make_examples):
    examples = make_examples(4)
    narrow, wide = (
        estimate(skeleton(folder, torch.bfloat16), prepare, Workload(examples, (), plan))
        for plan in (dataclasses.replace(PLAN, autocast=autocast) for autocast in (True, False))
    )
    assert narrow.memory.activations != wide.memory.activations
    assert dataclasses.replace(narrow.memory, activations=0) == dataclasses.replace(
        wide.memory, activations=0
    )


def test_flops_are_two_a_weight_and_token_forward_and_more_where_weights_are_learnt(folder, make_examples):
    examples = make_examples(4)
    prefix = shared_prefix(examples)
    (row,) = pack(examples, prefix, 1024, torch.device("meta"), torch.float32)
    with torch.device("meta"):
        all_weights, few = full(skeleton(folder)), lora(skeleton(folder))
    base, adapter = dry_step(all_weights, row), dry_step(few, row)
    linear = 2 * (32 * 32 * 2 + 32 * 16 * 2 + 32 * 48 * 3)
    own = [len(example.ids) - 1 - prefix for example in examples]
    attention = 2 * 4 * 32 * (prefix**2 + sum(tokens * (prefix + tokens) for tokens in own))
    head = 2 * row.answers * 32 * 64
    assert base.forward_flops == pytest.approx(2 * row.tokens * linear + attention + head, rel=0.05)
    assert base.flops > 2.8 * base.forward_flops
    assert adapter.flops < base.flops


def test_prompts_that_count_take_memory_for_their_logits(guess, make_examples):
    examples = make_examples(8)
    weighted = dataclasses.replace(PLAN, prompt_loss_weight=0.1)
    without, with_prompts = guess(examples), guess(examples, plan=weighted)
    assert with_prompts.memory.activations > without.memory.activations
    assert with_prompts.flops_per_token > without.flops_per_token


def test_activations_follow_what_is_trained(guess, make_examples):
    examples = make_examples(8)
    few = guess(examples, wrap=lambda m: get_peft_model(m, IA3Config(task_type="CAUSAL_LM")))
    some, every = guess(examples), guess(examples, wrap=full)
    assert few.trainable_parameters < some.trainable_parameters < every.trainable_parameters
    assert few.memory.activations < some.memory.activations
    assert every.memory.adapter == 0 and every.memory.gradients == 4 * every.total_parameters


def test_memory_is_the_sum_of_its_parts_and_follows_the_batch(guess, make_examples):
    small = guess(make_examples())
    large = guess(make_examples(), dataclasses.replace(PLAN, batch_size=8))
    parts = dataclasses.astuple(small.memory)
    assert small.memory.total == sum(parts) == small.record()["memory"]["total"]
    assert small.memory.optimizer == 2 * small.memory.gradients == 8 * small.trainable_parameters
    assert large.memory.activations > small.memory.activations
    assert large.memory.weights == small.memory.weights
    half = guess(make_examples(), dtype=torch.bfloat16)
    assert half.memory.weights < 0.6 * small.memory.weights


def test_accumulated_gradients_are_held_beside_the_activations(guess, make_examples):
    once = guess(make_examples(), dataclasses.replace(PLAN, batch_size=1), full)
    twice = guess(make_examples(), dataclasses.replace(PLAN, batch_size=1, gradient_accumulation=2), full)
    assert twice.memory.total > once.memory.total
    assert (twice.effective_batch, twice.batch_size) == (2, 1)


def test_rounded_copies_of_frozen_weights_count_as_weights(guess, make_examples):
    plain = guess(make_examples())
    mixed = guess(make_examples(), dataclasses.replace(PLAN, mixed=True))
    linear = 2 * (32 * 32 * 2 + 32 * 16 * 2 + 32 * 48 * 3)
    assert mixed.memory.weights - plain.memory.weights == 2 * linear


@pytest.mark.parametrize("kind", ["nf4", "nf4-single", "int8"])
def test_quantised_linear_layers_take_fewer_bytes(guess, make_examples, kind):
    plain, packed = guess(make_examples()), guess(make_examples(), quantization=kind)
    linear = 2 * (32 * 32 * 2 + 32 * 16 * 2 + 32 * 48 * 3)
    saved = linear * (4 - QUANTISED[kind])
    assert plain.memory.weights - packed.memory.weights == pytest.approx(saved, abs=1)
    assert packed.trainable_parameters == plain.trainable_parameters
    assert packed.memory.runtime > plain.memory.runtime  # bitsandbytes is loaded


def test_packed_weights_have_no_rounded_copies(guess, make_examples):
    plain, packed = (
        guess(make_examples(), dataclasses.replace(PLAN, mixed=mixed), quantization="nf4")
        for mixed in (False, True)
    )
    assert packed.memory.weights == plain.memory.weights


def test_time_comes_from_an_earlier_run_or_a_probe_and_says_which(guess, make_examples):
    probed = guess(make_examples())
    assert probed.speed == "probe" and probed.seconds > 0 and probed.tokens_per_second > 0
    told = guess(make_examples(), tokens_per_second=10.0)
    assert told.speed == "earlier run" and told.tokens_per_second == pytest.approx(10)
    assert told.seconds == pytest.approx(told.tokens / 10)


def test_what_is_moved_takes_time_beside_the_products(guess, make_examples, monkeypatch):
    one_thread = dataclasses.replace(PLAN, threads=1)

    def seconds(flops, bandwidth, **how):
        monkeypatch.setattr(capacity, "speed", lambda *_: capacity.Speed(flops, bandwidth))
        return guess(make_examples(), plan=one_thread, dev=make_examples(4), **how).seconds

    products, moves = seconds(1e6, 1e30), seconds(1e30, 1e6)
    assert moves > 0
    assert seconds(1e6, 1e6) == pytest.approx(products + moves)
    measured = {"flops_per_second": 1e6}  # a run's speed has them in it
    assert seconds(1e30, 1e6, **measured) - seconds(1e30, 1e30, **measured) < moves / 2


def test_another_methods_run_gives_the_speed_where_this_method_has_none(guess, make_examples):
    every = guess(make_examples(), wrap=full, flops_per_second=1e6)
    few = guess(make_examples(), flops_per_second=1e6)
    assert every.speed == few.speed == "another method's run"
    assert few.tokens_per_second < 1e6 / few.flops_per_token  # and the optimiser
    assert few.tokens_per_second > every.tokens_per_second  # all weights' gradients cost more
    assert guess(make_examples(), flops_per_second=1e6, tokens_per_second=10.0).speed == "earlier run"


def test_dev_losses_take_time_too(guess, make_examples):
    without = guess(make_examples(), tokens_per_second=10.0)
    with_dev = guess(make_examples(), tokens_per_second=10.0, dev=make_examples(6, seed=1))
    assert without.seconds < with_dev.seconds < 3 * without.seconds


def test_batches_that_choose_the_thread_count_take_time(guess, make_examples, monkeypatch):
    monkeypatch.setattr(capacity, "thread_counts", lambda threads: (threads,) if threads else (1, 2))
    set_before = guess(make_examples(8), dataclasses.replace(PLAN, threads=1), tokens_per_second=10.0)
    chosen = guess(make_examples(8), dataclasses.replace(PLAN, threads=0), tokens_per_second=10.0)
    step = set_before.seconds / set_before.steps
    piece = step * text.PROBE / PLAN.batch_size
    assert step > piece > measure.LONG
    assert chosen.seconds - set_before.seconds == pytest.approx(2 * (1 + 1) * piece)
    quick = {"tokens_per_second": 10_000.0}
    set_before = guess(make_examples(8), dataclasses.replace(PLAN, threads=1), **quick)
    chosen = guess(make_examples(8), dataclasses.replace(PLAN, threads=0), **quick)
    piece = set_before.seconds / set_before.steps * text.PROBE / PLAN.batch_size
    trials = 2 * (1 + measure.TRIALS) * piece
    assert chosen.seconds - set_before.seconds == pytest.approx(trials)


def test_too_long_examples_are_counted(guess, make_examples):
    examples = make_examples(8)
    limit = max(len(example.ids) for example in examples) - 1
    told = guess(examples, dataclasses.replace(PLAN, max_length=limit))
    assert told.left_out > 0 and told.examples + told.left_out == 8
    none = guess(examples, dataclasses.replace(PLAN, max_length=3))
    assert (none.steps, none.tokens, none.left_out, none.seconds) == (0, 0, 8, 0)


def test_a_part_of_many_examples_stands_for_all(folder, make_examples):
    work = Workload(make_examples(20), (), PLAN, stands_for=2000)
    told = estimate(skeleton(folder), lora, work)
    few = estimate(skeleton(folder), lora, Workload(make_examples(20), (), PLAN))
    assert told.steps == 3 * 500 and told.tokens == 100 * few.tokens
    assert told.memory.total == few.memory.total
    items = range(10 * SAMPLED)
    assert len(part(items)) == SAMPLED and part(items)[-1] > 9.9 * SAMPLED
    assert part(range(7)) == range(7)


def test_techniques_that_take_no_packed_rows_are_run_padded(guess, make_examples):
    def prefix(model):
        config = PrefixTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM")
        return get_peft_model(model, config)

    told = guess(make_examples(), wrap=prefix)
    assert told.dry and told.memory.activations > 0
    alone = dataclasses.replace(PLAN, batch_size=1)
    weighted = dataclasses.replace(alone, prompt_loss_weight=0.1)
    without, with_prompts = (guess(make_examples(), plan=plan, wrap=prefix) for plan in (alone, weighted))
    assert with_prompts.flops_per_token > without.flops_per_token


def test_another_architecture(make_examples, tmp_path):
    config = GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=128)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    told = estimate(skeleton(tmp_path), full, Workload(make_examples(), (), PLAN))
    assert told.dry and told.memory.activations > 0


def test_a_model_that_does_not_run_without_weights_gets_a_formula(guess, make_examples):
    def stubborn(model):
        model = full(model)
        model.model.layers[0].register_forward_hook(lambda module, inputs, output: output[0].sum().item())
        return model

    told, dry = guess(make_examples(), wrap=stubborn), guess(make_examples(), wrap=full)
    assert not told.dry
    assert 0 < told.memory.activations < 10 * dry.memory.activations + 10**6


@pytest.mark.parametrize(
    ("free", "verdict", "advice"), [(10**12, "fits", ""), (1, "does not fit", "Choose a smaller model")]
)
def test_the_verdict_says_what_to_lower(guess, make_examples, monkeypatch, free, verdict, advice):
    monkeypatch.setattr(capacity, "free_memory", lambda device: free)
    told = guess(make_examples(), dataclasses.replace(PLAN, batch_size=1))
    assert told.verdict == verdict
    assert bool(told.advice) == bool(advice)


def test_a_large_batch_is_told_to_be_lowered(guess, monkeypatch):
    monkeypatch.setattr(capacity, "free_memory", lambda device: 1)
    long = [Example(tuple(range(8, 60)) * 4, 2)] * 8
    assert guess(long, dataclasses.replace(PLAN, batch_size=8)).advice.startswith("Lower the batch size")
    assert "smaller model" not in guess(long, wrap=full).advice


def test_the_whole_of_the_optimiser_is_named_where_it_is_largest(guess, make_examples, monkeypatch):
    monkeypatch.setattr(capacity, "free_memory", lambda device: 1)
    told = guess(make_examples(4), dataclasses.replace(PLAN, batch_size=1), full)
    assert "Train fewer weights" in told.advice or told.memory.activations > 3 * told.memory.gradients
