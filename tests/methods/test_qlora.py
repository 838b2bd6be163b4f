"""QLoRA on a tiny random Llama in 4 and 8 bits: no downloads."""

import dataclasses

import pytest
import tiny
import torch
from safetensors.torch import load_file
from tiny import context, logits

from playground.errors import AdapterError, InvalidParams
from playground.methods.lora import LoRA
from playground.methods.qlora import QLoRA, QLoRAParams
from playground.models import quantise
from playground.models.text import load
from playground.settings import Settings
from playground.training import checkpoints, quantised_lora
from playground.training.batches import can_pack, encode
from playground.training.mixed import half_products
from playground.training.text import _dtype

RANK = 4
PER_LAYER = RANK * ((64 + 64) * 2 + (64 + 32) * 2 + (64 + 128) * 3)
OUTPUTS = 64 * 2 + 32 * 2 + 128 * 2 + 64

OPTIONS = {
    "nf4": {},
    "nf4-single": {"quantization": "nf4-single"},
    "int8": {"quantization": "int8"},
    "dora": {"dora": True},
    "dropout": {"dropout": 0.1},
    "pissa": {"init": "pissa"},
    "olora": {"init": "olora"},
    "orthogonal": {"init": "orthogonal"},
    "eva": {"init": "eva"},
    "loftq": {"init": "loftq"},
    "top": {"top_layers": 1, "layers": "mlp"},
}


def options(name):
    values = {"rank": RANK, "alpha": 8, "learning_rate": 1e-2, "epochs": 3, "batch_size": 7}
    return QLoRAParams.parse(values | OPTIONS[name])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny model on disk whose widths can be packed."""
    path = tmp_path_factory.mktemp("model")
    model = tiny.language_model(hidden_size=64, intermediate_size=128)
    model.model.save_pretrained(path)
    model.tokenizer.save_pretrained(path)
    return path


def base(folder, params):
    settings = Settings(home=folder, device="cpu", dtype="float32", threads=1)
    entry = tiny.language_model().entry
    loaded = load(entry, settings, folder=folder, quantization=QLoRA().quantization(params))
    return dataclasses.replace(loaded, revision="abc")


@pytest.fixture(scope="module")
def finished(folder, tmp_path_factory):
    """Finished runs by option, each made once."""
    made = {}

    def of(name):
        if name not in made:
            params = options(name)
            made[name] = tiny.adapt(
                QLoRA(), params, tmp_path_factory.mktemp(name), model=base(folder, params)
            )
        return made[name]

    return of


@pytest.fixture(params=OPTIONS)
def option(request):
    return request.param


def restored(finished, folder, option):
    given = context(finished(option).context.folder, model=base(folder, options(option)))
    return QLoRA().restore(options(option), given).model.model


def test_counts_see_through_the_packing(finished, folder, option):
    trained = {"dora": 2 * (PER_LAYER + OUTPUTS), "top": RANK * (64 + 128) * 3}.get(option, 2 * PER_LAYER)
    numbers = sum(one.numel() for one in base(folder, options(option)).model.parameters())
    plain = tiny.language_model(hidden_size=64, intermediate_size=128).model
    wanted = sum(one.numel() for one in plain.parameters())
    assert wanted > numbers or option == "int8"
    adapted = finished(option).adapted
    assert adapted.trainable_parameters == trained
    assert adapted.total_parameters == wanted + trained


def test_answers_come_from_plain_layers_that_compute_what_the_packed_ones_do(finished, folder, option):
    tried = finished(option)
    fast = tried.adapted.model.model
    assert not quantise.any_quantised(fast)
    packed = restored(finished, folder, option)
    assert quantise.any_quantised(packed)
    torch.testing.assert_close(logits(fast), logits(packed), rtol=1e-3, atol=1e-3)
    assert not torch.allclose(logits(fast), logits(base(folder, options(option)).model), atol=1e-2)
    told = [event.data["text"] for event in tried.events if event.kind == "log"]
    assert any("unpacked once" in text for text in told)


def test_fast_and_packed_answer_the_same(finished, folder):
    tried = finished("nf4")
    slow = dataclasses.replace(tried.context.model, model=restored(finished, folder, "nf4"))
    prompts = [slow.encode(tried.context.task.messages(item.input)) for item in tried.context.task.dev]
    answers = [
        [answer.text for _, answer in sorted(model.generate(prompts, 4), key=lambda pair: pair[0])]
        for model in (tried.adapted.model, slow)
    ]
    assert answers[0] == answers[1] and len(set(answers[0])) > 1


def test_without_room_the_base_stays_packed(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(quantised_lora, "SPARE", 1e12)
    params = options("nf4").model_copy(update={"epochs": 1})
    tried = tiny.adapt(QLoRA(), params, tmp_path, model=base(folder, params))
    assert quantise.any_quantised(tried.adapted.model.model)
    told = [event.data["text"] for event in tried.events if event.kind == "log"]
    assert any("packed base and the adapter beside it" in text for text in told)


def test_switched_off_it_is_the_packed_base(finished, folder, option):
    network = restored(finished, folder, option)
    QLoRA().switch(network, False)
    assert torch.equal(logits(network), logits(base(folder, options(option)).model))
    with pytest.raises(AdapterError, match="no adapter"):
        QLoRA().switch(finished(option).adapted.model.model, False)


def test_plain_peft_loads_the_adapter_on_a_base_packed_by_transformers(finished, folder, option):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    kind = options(option).quantization
    config = (
        BitsAndBytesConfig(load_in_8bit=True)
        if kind == "int8"
        else BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=kind == "nf4",
            bnb_4bit_compute_dtype=torch.float32,
        )
    )
    packed = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, quantization_config=config)
    for (
        layer
    ) in packed.modules():  # bitsandbytes' bfloat16 products on some processors: DoRA is wrong with them
        if quantise.quantised(layer):
            layer.support_avx512bf16_for_cpu = False
    plain = PeftModel.from_pretrained(packed, finished(option).context.folder / "adapter")
    found, wanted = logits(plain.eval()), logits(finished(option).adapted.model.model)
    most = 0.05 if kind == "int8" else 1e-3  # with 8 bits bitsandbytes rounds the activations, too
    assert (found - wanted).norm() < most * wanted.norm()


def test_resuming_gives_the_same_adapter(finished, folder, option, tmp_path, monkeypatch):
    plan = QLoRA.plan
    monkeypatch.setattr(
        QLoRA, "plan", lambda *arguments: dataclasses.replace(plan(*arguments), checkpoint_seconds=0.0)
    )
    params = options(option)
    generator = QLoRA().adapt(params, context(tmp_path, model=base(folder, params)))
    while len(checkpoints.checkpoints(tmp_path)) < 2:
        next(generator)
    generator.close()
    tiny.adapt(QLoRA(), params, tmp_path, model=base(folder, params), resume=True)
    found, wanted = (
        load_file(path / "adapter/adapter_model.safetensors")
        for path in (tmp_path, finished(option).context.folder)
    )
    assert all(torch.equal(found[name], value) for name, value in wanted.items())


@pytest.mark.parametrize("kind", quantise.KINDS)
def test_fused_layers_give_pefts_loss_and_gradients(folder, kind):
    params = QLoRAParams(rank=RANK, quantization=kind, init="gaussian")
    network = QLoRA().wrap(params, base(folder, params).model)
    with torch.no_grad():
        for name, value in network.named_parameters():
            if "lora_B" in name:
                value.normal_(std=0.3, generator=torch.Generator().manual_seed(1))
    gradients = []
    for fused in (False, True):
        QLoRA().faster(network, fused)
        network.zero_grad()
        network(input_ids=torch.tensor([[2, 6, 7, 1, 3]])).logits.logsumexp(-1).sum().backward()
        gradients.append({name: one.grad for name, one in checkpoints.trainable(network).items()})
    assert sum("forward" in layer.__dict__ for layer in network.modules()) >= 14
    for name, wanted in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], wanted, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("kind", quantise.KINDS)
def test_products_in_bfloat16_are_near_and_undone(folder, kind):
    params = QLoRAParams(rank=RANK, quantization=kind, init="orthogonal")
    network = QLoRA().wrap(params, base(folder, params).model)
    ids = torch.tensor([[2, 6, 7, 1, 3]])
    QLoRA().faster(network, True)
    exact = network(input_ids=ids).logits
    with half_products(network) as layers:
        near = network(input_ids=ids).logits
    assert layers == 14
    assert not torch.equal(near, exact)
    torch.testing.assert_close(near, exact, rtol=0.1, atol=0.1)
    assert torch.equal(network(input_ids=ids).logits, exact)


@pytest.mark.parametrize("kind", quantise.KINDS)
def test_packed_weights_take_packed_rows_and_tell_their_type(folder, kind):
    params = QLoRAParams(quantization=kind)
    model = base(folder, params)
    network = QLoRA().wrap(params, model.model)
    assert _dtype(network) == torch.float32
    assert can_pack(network, encode(model, tiny.task(), tiny.task().train), torch.float32)


def test_loftq_brings_the_start_nearer_to_the_original(folder):
    wanted = logits(
        load(
            tiny.language_model().entry,
            Settings(home=folder, device="cpu", dtype="float32", threads=1),
            folder=folder,
        ).model
    )
    distance = {}
    for init in ("default", "loftq"):
        params = QLoRAParams(rank=16, init=init)
        distance[init] = (logits(QLoRA().wrap(params, base(folder, params).model)) - wanted).norm()
    assert distance["loftq"] < 0.8 * distance["default"]


def test_with_dora_loftq_starts_from_the_same_numbers(folder):
    plain, dora = (
        QLoRA().wrap(params, base(folder, params).model)
        for params in (QLoRAParams(rank=RANK, init="loftq", dora=dora) for dora in (False, True))
    )
    torch.testing.assert_close(logits(dora.eval()), logits(plain.eval()), rtol=1e-4, atol=1e-4)


def test_loftq_refuses_a_base_that_lost_nothing():
    with pytest.raises(InvalidParams, match="not quantised"):
        QLoRA().wrap(QLoRAParams(init="loftq"), tiny.language_model().model)


def test_loftq_refuses_a_base_without_its_original_weights(folder):
    params = QLoRAParams(init="loftq")
    model = base(folder, params).model
    model.config._name_or_path = model.name_or_path = "/nowhere"
    with pytest.raises(InvalidParams, match="not on this machine"):
        QLoRA().wrap(params, model)


def test_lora_wants_the_base_as_it_is():
    assert LoRA().quantization(LoRA.Params()) is None
    assert [QLoRA().quantization(QLoRAParams(quantization=kind)) for kind in quantise.KINDS] == list(
        quantise.KINDS
    )
