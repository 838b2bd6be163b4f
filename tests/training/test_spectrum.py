"""The spectrum of a LoRA update against NumPy's SVD of the whole product."""

import json
import math

import numpy as np
import pytest
import tiny
import torch

from playground.errors import AdapterError
from playground.methods.lora import LoRA
from playground.training import adapter_files
from playground.training.spectrum import LayerSpectrum, singular_values, spectra


def whole(b, a, scale):
    return np.linalg.svd(scale * b.double().numpy() @ a.double().numpy(), compute_uv=False)


@pytest.mark.parametrize(("d", "n", "rank"), [(40, 30, 4), (30, 40, 8), (64, 64, 1), (6, 50, 8), (50, 6, 8)])
def test_the_values_are_those_of_the_whole_product(d, n, rank):
    torch.manual_seed(d * n)
    b, a = torch.randn(d, rank), torch.randn(rank, n)
    found = singular_values(b, a, -1.5).numpy()
    expected = whole(b, a, -1.5)
    size = min(d, n, rank)
    np.testing.assert_allclose(found[:size], expected[:size], rtol=1e-10)
    assert np.all(expected[size:] < 1e-9)


def test_an_untrained_update_is_zero():
    found = singular_values(torch.zeros(8, 2), torch.randn(2, 9), 2.0)
    assert found.tolist() == [0.0, 0.0]
    layer = LayerSpectrum("model.layers.3.self_attn.q_proj", 8, 9, (0.0, 0.0))
    assert (layer.norm, layer.shares, layer.effective_rank) == (0.0, (0.0, 0.0), 0.0)


def test_shares_and_effective_rank():
    even = LayerSpectrum("model.layers.12.mlp.up_proj", 8, 9, (2.0, 2.0, 2.0, 2.0))
    assert even.shares == (0.25, 0.25, 0.25, 0.25)
    assert even.effective_rank == pytest.approx(4.0)
    assert even.norm == pytest.approx(4.0)
    assert (even.block, even.kind) == (12, "up_proj")
    one = LayerSpectrum("lm_head", 8, 9, (3.0, 0.0))
    assert one.effective_rank == pytest.approx(1.0)
    assert one.block is None
    uneven = LayerSpectrum("x", 8, 9, (3.0, 1.0))
    assert uneven.effective_rank == pytest.approx(math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25))))


@pytest.fixture
def adapter(tmp_path):
    """A tiny model's LoRA with random matrices, written as a run writes it; and the matrices."""
    method = LoRA()
    params = method.Params(rank=4, alpha=6.0)
    network = method.wrap(params, tiny.language_model().model)
    torch.manual_seed(5)
    for name, value in network.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(value)
    folder = tmp_path / "adapter"
    adapter_files.save(folder, lambda where: method.write(network, where), {"method": "lora"})
    return folder, dict(network.named_parameters())


def test_a_saved_adapter_gives_every_layer_in_order(adapter):
    folder, parameters = adapter
    found = spectra(folder)
    assert len(found) == 14  # 2 blocks × 7 linear layers
    assert [layer.block for layer in found] == [0] * 7 + [1] * 7
    for layer in found:
        start = f"base_model.model.{layer.name}."
        b = parameters[start + "lora_B.default.weight"].detach()
        a = parameters[start + "lora_A.default.weight"].detach()
        assert (layer.rows, layer.columns) == (b.shape[0], a.shape[1])
        np.testing.assert_allclose(layer.values, whole(b, a, 6.0 / 4)[:4], rtol=1e-6)
        assert sum(layer.shares) == pytest.approx(1.0)
        assert 1.0 <= layer.effective_rank <= 4.0


def change(folder, **values):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_rank_stabilised_lora_and_special_alphas_scale_otherwise(adapter):
    folder, _ = adapter
    before = {layer.name: layer.values[0] for layer in spectra(folder)}
    change(folder, use_rslora=True, alpha_pattern={"q_proj": 12.0})
    after = {layer.name: layer.values[0] for layer in spectra(folder)}
    for name, value in before.items():
        factor = math.sqrt(4) * (2 if name.endswith("q_proj") else 1)
        assert after[name] == pytest.approx(value * factor)


def test_an_update_that_is_not_b_times_a_is_refused(adapter):
    folder, _ = adapter
    change(folder, init_lora_weights="pissa")
    with pytest.raises(AdapterError, match="pissa"):
        spectra(folder)
    change(folder, init_lora_weights=True, use_dora=True)
    with pytest.raises(AdapterError, match="DoRA"):
        spectra(folder)


def test_what_is_missing_damaged_or_no_lora_is_said(adapter, tmp_path):
    folder, _ = adapter
    with pytest.raises(AdapterError, match="did not finish"):
        spectra(tmp_path / "nothing")
    other = tmp_path / "other"

    def write(where):
        from safetensors.torch import save_file

        save_file({"bias": torch.ones(3)}, where / "adapter_model.safetensors")
        (where / "adapter_config.json").write_text("{}")

    adapter_files.save(other, write, {"method": "bitfit"})
    with pytest.raises(AdapterError, match="no LoRA matrices"):
        spectra(other)
    (folder / "adapter_model.safetensors").write_bytes(b"x")
    with pytest.raises(AdapterError, match="damaged"):
        spectra(folder)
