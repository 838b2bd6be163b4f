"""Every technique that PEFT carries, on a tiny random Llama: learns, counts, saves, switches, resumes, answers."""

import warnings
from dataclasses import replace

import pytest
import tiny
import torch
from architectures import model_of
from peft import PeftModel
from safetensors.torch import load_file
from tiny import context, language_model, logits, task
from tiny_settings import TUNERS
from transformers import AutoModelForCausalLM

from playground.errors import InvalidParams
from playground.methods.registry import methods
from playground.training import checkpoints
from playground.training.batches import can_pack, encode, pack
from playground.training.text import row_loss

SHARED = [2, 6, 7, 1, 3, 14, 15, 16, 17]  # long enough for its keys and values to be computed once
PROMPTS = [[*SHARED, *rest, 1, 4] for rest in ([12, 19], [13, 21, 19, 20], [20], [8, 22])]


def parameters(id, **changes):
    values = {"epochs": 4, "batch_size": 7} | TUNERS[id] | changes
    return methods()[id].Params.parse(values)


class Finished:
    """A finished run of one method."""

    def __init__(self, id, folder):
        self.id, self.method, self.params = id, methods()[id], parameters(id)
        self.tried = tiny.adapt(self.method, self.params, folder)
        self.folder = folder / "adapter"

    def restored(self):
        return self.method.restore(self.params, context(self.folder.parent)).model

    def plain(self):
        """The adapter as plain PEFT loads it."""
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*missing adapter keys.*")
            return PeftModel.from_pretrained(language_model().model, self.folder).eval()


@pytest.fixture(scope="module", autouse=True)
def float32():
    """Products in one type on every machine: the processor would choose, and limits are set for float32."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLAYGROUND_DTYPE", "float32")
        yield


@pytest.fixture(scope="module", params=TUNERS)
def finished(request, tmp_path_factory):
    return Finished(request.param, tmp_path_factory.mktemp(request.param))


def trainable(network):
    return sum(one.numel() for one in network.parameters() if one.requires_grad)


def total(network):
    return sum(one.numel() for one in network.parameters())


def test_the_loss_falls(finished):
    told = [event.data for event in finished.tried.events if event.kind == "metric"]
    dev = [one["value"] for one in told if one["name"] == "dev_loss" and one.get("step") is not None]
    assert dev[-1] < 0.9 * dev[0]


def test_it_trains_without_padding(finished):
    notes = [event.data["text"] for event in finished.tried.events if event.kind == "log"]
    assert any("packed without padding" in note for note in notes)


def test_counts_without_weights_are_those_of_the_real_model(finished):
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(language_model().model.config)
        wrapped = finished.method.wrap(finished.params, empty)
    assert trainable(wrapped) == finished.tried.adapted.trainable_parameters > 0
    assert total(wrapped) == finished.tried.adapted.total_parameters


def test_restored_and_merged_give_the_same_logits(finished):
    after = logits(finished.tried.adapted.model.model)
    assert not torch.allclose(after, logits(language_model().model), atol=0.1)
    torch.testing.assert_close(logits(finished.restored().model), after, rtol=1e-4, atol=1e-4)


def test_plain_peft_gives_the_same_logits(finished):
    after = logits(finished.tried.adapted.model.model)
    plain = logits(finished.plain())[:, -after.shape[1] :]  # PEFT counts virtual tokens, too
    torch.testing.assert_close(plain, after, rtol=1e-4, atol=1e-4)


def test_what_can_be_merged_is_a_plain_model(finished):
    merged = finished.tried.adapted.model.model
    assert (type(merged) is type(language_model().model)) == (finished.id not in NOT_MERGED)


NOT_MERGED = {"prefix_tuning", "prompt_tuning", "p_tuning", "beft", "adaption_prompt"}


def test_switched_off_it_is_the_base_model(finished):
    network = finished.restored().model
    on = logits(network)
    for _ in range(2):
        finished.method.switch(network, False)
        torch.testing.assert_close(logits(network), logits(language_model().model))
    for _ in range(2):
        finished.method.switch(network, True)
        torch.testing.assert_close(logits(network), on, rtol=0, atol=0)


def test_trained_it_still_sees_each_packed_example_alone(finished):
    model = finished.restored()
    assert can_pack(model.model, encode(model, task(), task().train), torch.float32)


def test_a_resumed_run_gives_the_same_adapter(finished, tmp_path, monkeypatch):
    plan = finished.method.plan
    monkeypatch.setattr(
        type(finished.method), "plan", lambda self, *a: replace(plan(*a), checkpoint_seconds=0.0)
    )
    run = finished.method.adapt(finished.params, context(tmp_path))
    for event in run:
        if event.kind == "progress" and event.data["done"] == 7:
            break
    run.close()
    again = tiny.adapt(finished.method, finished.params, tmp_path, resume=True)
    assert any("Going on from step 7" in str(event.data) for event in again.events)
    resumed, whole = (
        load_file(folder / "adapter_model.safetensors") for folder in (tmp_path / "adapter", finished.folder)
    )
    # the last digits of a product or a decomposition may depend on where in memory its numbers lie
    torch.testing.assert_close(resumed, whole, rtol=1e-3, atol=1e-4)


def test_batches_answer_as_plain_peft_does_one_by_one(finished):
    ours, plain = finished.restored(), finished.plain()
    together = dict(ours.generate(PROMPTS, 6))
    for at, ids in enumerate(PROMPTS):
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            out = plain.generate(
                input_ids=torch.tensor([ids]),
                attention_mask=torch.ones(1, len(ids), dtype=torch.long),
                max_new_tokens=6,
                do_sample=False,
            )
        assert together[at].text == ours.tokenizer.decode(out[0, len(ids) :], skip_special_tokens=True)


@pytest.mark.parametrize("id", TUNERS)
def test_in_a_network_of_16_bits_all_that_is_trained_is_float32(id):
    model = model_of("llama", dtype=torch.bfloat16)
    network = methods()[id].wrap(parameters(id), model.model)
    trained = checkpoints.trainable(network)
    assert {value.dtype for value in trained.values()} == {torch.float32}
    (row,) = pack(encode(model, task(), task().train[:2]), 0, 512, torch.device("cpu"), torch.bfloat16)
    row_loss(network.train(), row).backward()
    assert any(value.grad is not None and value.grad.any() for value in trained.values())


@pytest.mark.parametrize("id", ["ln_tuning", "adaption_prompt"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_small_steps_in_a_network_of_16_bits_are_kept_and_answer_as_plain_peft_does(id, family, tmp_path):
    def base():
        return model_of(family, dtype=torch.bfloat16)

    params = parameters(id, learning_rate=1e-3)
    tried = tiny.adapt(methods()[id], params, tmp_path, model=base())
    kept = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert all((value != value.bfloat16()).float().mean() > 0.5 for value in kept.values())
    after = logits(tried.adapted.model.model)
    restored = methods()[id].restore(params, context(tmp_path, model=base())).model.model
    plain = PeftModel.from_pretrained(base().model, tmp_path / "adapter").eval()
    assert torch.equal(logits(restored), after) and torch.equal(logits(plain), after)
    methods()[id].switch(restored, False)
    assert torch.equal(logits(restored), logits(base().model))
    if methods()[id].mergeable:
        assert {value.dtype for value in tried.adapted.model.model.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("id", "changes", "field", "match"),
    [
        ("oft", {"block_size": 12}, "block_size", "Block size 12 does not divide .* 1, 2, 4, 8, 16"),
        ("c3a", {"block_size": 64}, "block_size", "does not divide"),
        ("vblora", {"vector_length": 64}, "vector_length", "does not divide"),
        ("road", {"group_size": 64}, "group_size", "does not divide"),
        ("gralora", {"parts": 3}, "parts", "does not divide"),
        ("shira", {"rank": 512}, None, "SHiRA does not fit this model with these settings"),
        ("trainable_tokens", {"tokens": "1, 32"}, "tokens", "numbers from 0 to 31, with commas: 32"),
        ("trainable_tokens", {"tokens": "one"}, "tokens", "for instance 1, 2"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_start(id, changes, field, match):
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(language_model().model.config)
    with pytest.raises(InvalidParams, match=match) as refused:
        methods()[id].wrap(parameters(id, **changes), empty)
    assert refused.value.field == field


@pytest.mark.parametrize("id", ["ia3", "ln_tuning", "beft", "adaption_prompt"])
def test_a_model_with_other_layers_is_refused_in_words(id):
    from transformers import MambaConfig, MambaForCausalLM

    sizes = {"vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 1, "state_size": 4}
    network = MambaForCausalLM(MambaConfig(**sizes))
    if id == "ln_tuning":
        assert trainable(methods()[id].wrap(parameters(id), network)) == 2 * 16
        return
    with pytest.raises(InvalidParams, match=methods()[id].title):
        methods()[id].wrap(parameters(id), network)


def test_every_default_fits_the_starter_model():
    """SmolLM2-135M's sizes, without its weights; fewer layers."""
    config = language_model().model.config.__class__(
        vocab_size=64,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=2,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    for id in TUNERS:
        with torch.device("meta"):
            empty = AutoModelForCausalLM.from_config(config)
            base = total(empty)
            wrapped = methods()[id].wrap(methods()[id].Params(), empty)
        assert 0 < trainable(wrapped) <= total(wrapped) <= 2 * base, id


def test_no_tuner_is_left_out_here():
    from playground.methods.peft_tuner import PeftTuner

    tuners = {id for id, method in methods().items() if isinstance(method, PeftTuner)}
    assert tuners - set(TUNERS) <= {"lora", "qlora"}  # these have tests of their own


def test_layers_that_peft_cannot_adapt_are_named_in_words():
    from transformers import GPT2Config, GPT2LMHeadModel

    network = GPT2LMHeadModel(GPT2Config(vocab_size=32, n_embd=32, n_layer=1, n_head=4))
    with pytest.raises(InvalidParams, match="OFT cannot adapt layers of this model’s kind.*Conv1D"):
        methods()["oft"].wrap(parameters("oft"), network)


@pytest.mark.parametrize("layers", ["attention", "mlp", "all-linear"])
def test_a_tuner_that_finds_nothing_to_train_is_refused_before_the_start(layers):
    with pytest.raises(InvalidParams, match="OSF cannot adapt layers of this model’s kind"):
        methods()["osf"].wrap(parameters("osf", layers=layers), model_of("gpt2").model)


def test_delora_computes_its_formula():
    method = methods()["delora"]
    assert "(λ / rank) · B · Ξ · A · diag(‖W0’s columns‖)" in method.__doc__
    wrapped = method.wrap(parameters("delora", rank=4, strength=3.0), language_model().model)
    layer = next(layer for layer in wrapped.modules() if hasattr(layer, "delora_A"))
    a, b, weight = layer.delora_A["default"], layer.delora_B["default"], layer.get_base_layer().weight
    with torch.no_grad():
        b.normal_()
        unit = (1 / (a.norm(dim=1) * b.norm(dim=0))).diag()  # Ξ
        wanted = 3.0 / 4 * b @ unit @ a @ weight.norm(dim=0).diag()
        torch.testing.assert_close(layer.get_delta_weight("default"), wanted)
