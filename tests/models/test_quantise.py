"""Quantised loading on a tiny random Llama with a tiny tokenizer: no downloads."""

import copy
import gc
from pathlib import Path

import pytest
import tiny
import torch
from bitsandbytes.nn import Linear4bit, Linear8bitLt
from tiny import logits
from torch import nn

from playground.errors import InvalidInput, ModelUnavailable
from playground.models import quantise
from playground.models.device import Device
from playground.models.text import load
from playground.settings import Settings

SIZES = {"hidden_size": 64, "intermediate_size": 128, "attention_bias": True}
LINEAR = {"nf4": Linear4bit, "nf4-single": Linear4bit, "int8": Linear8bitLt}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny model on disk."""
    path = tmp_path_factory.mktemp("model")
    model = tiny.language_model(**SIZES)
    model.model.save_pretrained(path)
    model.tokenizer.save_pretrained(path)
    return path


def loaded(folder, kind=None, device="cpu"):
    settings = Settings(home=folder, device=device, dtype="float32", threads=1)
    return load(tiny.language_model().entry, settings, folder=folder, quantization=kind)


@pytest.mark.parametrize("kind", quantise.KINDS)
def test_linear_layers_are_packed_and_the_rest_is_not(folder, kind):
    model = loaded(folder, kind)
    packed = [name for name, layer in model.model.named_modules() if quantise.quantised(layer)]
    assert len(packed) == 2 * 7 and "lm_head" not in packed
    assert all(type(model.model.get_submodule(name)) is LINEAR[kind] for name in packed)
    assert model.quantization == kind and model.dtype == torch.float32
    assert model.model.get_input_embeddings().weight.dtype == torch.float32
    assert loaded(folder).quantization is None


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="the system does not say what is mapped")
@pytest.mark.parametrize("kind", quantise.KINDS)
def test_the_file_does_not_stay_in_memory(folder, kind):
    def mapped():
        gc.collect()
        return str(folder) in Path("/proc/self/maps").read_text()

    assert not mapped()
    plain = loaded(folder)
    assert mapped()  # so it would be seen
    del plain
    packed = loaded(folder, kind)
    assert not mapped() and packed.model.get_input_embeddings().weight.isfinite().all()


@pytest.mark.parametrize(("kind", "most"), [("nf4", 0.12), ("nf4-single", 0.12), ("int8", 0.01)])
def test_dequantised_weights_are_near_the_originals(folder, kind, most):
    plain, packed = loaded(folder).model, loaded(folder, kind).model
    for name, layer in packed.named_modules():
        if quantise.quantised(layer):
            wanted = plain.get_submodule(name).weight
            error = (quantise.dequantise(layer) - wanted).norm() / wanted.norm()
            assert 0 < error < most, name
            half = quantise.dequantise(layer, torch.bfloat16)
            assert half.dtype == torch.bfloat16
            torch.testing.assert_close(half.float(), quantise.dequantise(layer), rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("kind", quantise.KINDS)
def test_plain_layers_give_the_same_logits(folder, kind):
    model = loaded(folder, kind)
    wanted = logits(model.model)
    plain = quantise.plain(model.model, torch.float32)
    assert not quantise.any_quantised(plain) and type(plain.model.layers[0].mlp.up_proj) is nn.Linear
    torch.testing.assert_close(logits(plain), wanted, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(wanted, logits(loaded(folder).model), atol=1e-3)


@pytest.mark.parametrize("kind", quantise.KINDS)
def test_training_and_answering_compute_the_same_however_often_they_alternate(folder, kind):
    network = loaded(folder, kind).model
    # as on processors on which bitsandbytes would repack the weights when it answers
    wanted = logits(network)
    assert torch.equal(logits(network.train()), wanted)
    embedding = network.get_input_embeddings().weight.requires_grad_(True)
    gradients = []
    for _ in range(2):
        network.train()(input_ids=torch.tensor([[3, 4, 5]])).logits.logsumexp(-1).sum().backward()
        gradients.append(copy.copy(embedding.grad))
        embedding.grad = None
        logits(network.eval())
    assert torch.equal(*gradients) and gradients[0].abs().sum() > 0


def test_bytes_in_memory_are_counted_exactly(folder):
    linear = 2 * (64 * 64 * 2 + 64 * 32 * 2 + 64 * 128 * 3)
    rows = 2 * (64 * 2 + 32 * 2 + 128 * 2 + 64)
    plain = loaded(folder).weight_bytes
    blocks = linear // 64
    tables = 14 * 16 * 4  # the sixteen values of NF4, once a layer
    assert loaded(folder, "int8").weight_bytes == plain - linear * 4 + linear + rows * 4
    assert loaded(folder, "nf4-single").weight_bytes == plain - linear * 4 + linear // 2 + blocks * 4 + tables
    nested = blocks + 14 * (256 * 4 + 4 + 4)  # scales in a byte, their scale, offset and table
    found = loaded(folder, "nf4").weight_bytes
    assert found == plain - linear * 4 + linear // 2 + nested + tables
    network = loaded(folder, "nf4").model
    assert sum(quantise.numbers(one) for one in network.parameters()) == sum(
        one.numel() for one in loaded(folder).model.parameters()
    )


def test_widths_that_bitsandbytes_reads_wrongly_are_refused(tmp_path):
    model = tiny.language_model(intermediate_size=96)
    model.model.save_pretrained(tmp_path)
    model.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelUnavailable, match="multiple of 64"):
        loaded(tmp_path, "nf4")
    assert loaded(tmp_path, "int8").quantization == "int8"


def test_what_cannot_be_is_refused(folder, monkeypatch):
    with pytest.raises(InvalidInput, match="nf4, nf4-single, int8"):
        loaded(folder, "int2")
    with pytest.raises(ModelUnavailable, match="CPU or a CUDA GPU"):
        quantise.loading("nf4", Device("mps", torch.float16, 1, ""))
    monkeypatch.setitem(__import__("sys").modules, "bitsandbytes", None)
    with pytest.raises(ModelUnavailable, match="pip install bitsandbytes"):
        loaded(folder, "nf4")
