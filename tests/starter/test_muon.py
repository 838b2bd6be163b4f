import pytest
import torch

from playground.starter.muon import Muon, orthogonalised
from playground.starter.optimise import optimise, optimisers_of


@pytest.mark.parametrize("shape", [(8, 30), (30, 8), (6, 5, 3, 3), (40, 2, 3, 3)])
def test_singular_values_come_to_about_one_and_directions_stay(shape):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    left, _, right = torch.linalg.svd(weight.flatten(1), full_matrices=False)
    found = orthogonalised(weight)
    assert found.shape == weight.shape
    turned = left.T @ found.flatten(1) @ right.T
    values = turned.diag()
    assert (values > 0.4).all()
    assert (values < 1.6).all()
    assert torch.allclose(turned, torch.diag(values), atol=1e-3)


def test_a_weight_without_gradient_stays_finite():
    assert torch.equal(orthogonalised(torch.zeros(3, 4)), torch.zeros(3, 4))


def test_it_finds_a_linear_map():
    torch.manual_seed(0)
    network, target = torch.nn.Linear(6, 4, bias=False), torch.randn(4, 6)
    optimiser = Muon(network.parameters(), lr=0.1, weight_decay=0.0)
    for step in range(200):
        optimiser.param_groups[0]["lr"] = 0.1 * (1 - step / 200)
        loss = (network.weight - target).square().mean()
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    assert loss < 1e-2


def test_vectors_and_outer_convolutions_keep_adamw():
    network = torch.nn.ModuleDict(
        {name: torch.nn.Conv2d(2, 2, 3) for name in ("conv_in", "inner", "conv_out")}
    )
    adam, muon = optimisers_of(network, 0.1, muon=True)
    assert muon.param_groups[0]["params"] == [network["inner"].weight]
    assert len(adam.param_groups[0]["params"]) == 5
    assert len(optimisers_of(network, 0.1, muon=False)) == 1


def test_an_interrupted_run_ends_with_the_same_weights(tmp_path):
    def run(folder, steps):
        torch.manual_seed(0)
        network = torch.nn.Linear(3, 5)

        def loss_of(draw):
            if len(calls) == steps:
                raise KeyboardInterrupt
            calls.append(draw)
            return network(torch.randn(4, 3, generator=draw.torch)).square().mean()

        calls = []
        folder.mkdir(exist_ok=True)
        return optimise("x", network, loss_of, steps=9, rate=0.1, folder=folder, muon=True, save_seconds=0,
                        threads=1, log=lambda line: None)  # fmt: skip

    whole = run(tmp_path / "whole", None)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", 4)
    assert torch.equal(run(tmp_path / "parts", None).weight, whole.weight)
