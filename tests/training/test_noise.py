"""Noise while training: its size, where it enters, and gone afterwards."""

import pytest
import torch
from tiny import language_model

from playground.training.noise import embedding_noise, state_noise
from playground.training.structure import blocks

IDS = torch.arange(3, 27)[None]


def embedded(network):
    return network.get_input_embeddings()(IDS)


def test_noise_has_the_papers_size_and_is_uniform():
    network = language_model().model.train()
    exact = embedded(network)
    with embedding_noise(network, 5.0, 12.5):
        noise = torch.stack([embedded(network) - exact for _ in range(200)]).detach()
    size = 5.0 / (12.5 * 32) ** 0.5
    assert noise.abs().max() == pytest.approx(size, rel=1e-2)
    assert noise.std() == pytest.approx(size / 3**0.5, rel=1e-2)
    assert torch.equal(embedded(network), exact)


def test_there_is_none_when_not_training_or_not_asked_for():
    network = language_model().model.eval()
    exact = embedded(network)
    with embedding_noise(network, 5.0, 12.5):
        assert torch.equal(embedded(network), exact)
    network.train()
    with embedding_noise(network, 0.0, 12.5):
        assert torch.equal(embedded(network), exact)


def entering(network, at):
    """What the block of that number is given."""
    found = []
    block = blocks(network)[at].layer
    handle = block.input_layernorm.register_forward_pre_hook(
        lambda _, inputs: found.append(inputs[0].detach())
    )
    network(IDS)
    handle.remove()
    return found[0]


def test_noise_on_hidden_states_is_a_share_of_their_spread_and_enters_the_first_trained_block():
    network = language_model().model.train()
    network.requires_grad_(False)
    blocks(network)[1].layer.mlp.up_proj.weight.requires_grad_(True)
    below, exact = entering(network, 0), entering(network, 1)
    with state_noise(network, 0.2):
        assert torch.equal(entering(network, 0), below)
        noise = torch.stack([entering(network, 1) - exact for _ in range(200)])
        assert torch.equal(entering(network.eval(), 1), exact)
    share = noise.std((0, -1)) / exact.std(-1)
    torch.testing.assert_close(share, torch.full_like(share, 0.2), rtol=0.05, atol=0.0)
    assert torch.equal(entering(network.train(), 1), exact)


def test_all_blocks_trained_means_noise_on_the_embeddings():
    network = language_model().model.train()
    exact = entering(network, 0)
    with state_noise(network, 0.2):
        assert not torch.equal(entering(network, 0), exact)
    with state_noise(network, 0.0):
        assert torch.equal(entering(network, 0), exact)
