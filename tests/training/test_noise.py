"""NEFTune's noise: its size, only while training, and gone afterwards."""

import pytest
import torch
from tiny import language_model

from playground.training.noise import embedding_noise

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
