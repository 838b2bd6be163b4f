"""Lean gradients: the same steps as with float32 ones, in less memory."""

import copy

import pytest
import torch
from torch import nn

from playground.training import gradients
from playground.training.mixed import half_products

X = torch.randn(5, 80, generator=torch.Generator().manual_seed(1))


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(80, 96), nn.Tanh(), nn.Linear(96, 70), nn.LayerNorm(70), nn.Linear(70, 3))


def after_steps(model, clip_norm, backwards=1, steps=3):
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1e-2, fused=True)
    with half_products(model) as layers:
        assert layers == 2  # the last one is thin
        for _ in range(steps):
            for _ in range(backwards):
                model(X).square().sum().backward()
            gradients.step(optimizer, parameters, clip_norm)
            gradients.clear(parameters)
    return torch.cat([parameter.detach().flatten() for parameter in parameters])


@pytest.mark.parametrize("chunk", [1, gradients.CHUNK])
@pytest.mark.parametrize("backwards", [1, 2])
@pytest.mark.parametrize("clip_norm", [None, 0.5])
def test_steps_are_those_of_plain_gradients(monkeypatch, clip_norm, backwards, chunk):
    monkeypatch.setattr(gradients, "CHUNK", chunk)
    plain = network()
    lean = copy.deepcopy(plain)
    gradients.keep_lean(lean.parameters(), True)
    norms = []
    taken = gradients._norm
    monkeypatch.setattr(gradients, "_norm", lambda *held: norms.append(taken(*held)) or norms[-1])
    found = after_steps(lean, clip_norm, backwards)
    replayed = iter(norms)  # that of few rows is a little off, see the next test
    monkeypatch.setattr(gradients, "_norm", lambda *_held: next(replayed))
    expected = after_steps(plain, clip_norm, backwards)
    assert len(norms) == (0 if clip_norm is None else 3)
    if clip_norm is None:
        assert torch.equal(found, expected)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_the_norm_of_lean_gradients_is_that_of_float32_ones():
    weights = [nn.Parameter(torch.zeros(300, 200)) for _ in range(4)]
    gradients.keep_lean(weights, True)
    generator = torch.Generator().manual_seed(0)
    for weight in weights:
        setattr(weight, gradients.LEAN, torch.randn(weight.shape, generator=generator).bfloat16())
    bias = nn.Parameter(torch.zeros(300))
    bias.grad = torch.randn(300, generator=generator)
    held = [bias.grad.clone(), *(getattr(weight, gradients.LEAN).float() for weight in weights)]
    norm = torch.linalg.vector_norm(torch.cat([value.flatten() for value in held]))
    gradients.step(torch.optim.SGD([bias, *weights], lr=1.0), [bias, *weights], 1.0)
    for value, gradient in zip((bias, *weights), held, strict=True):
        torch.testing.assert_close(value.detach(), -gradient / norm, rtol=1e-4, atol=0)


def test_clipping_is_that_of_pytorch():
    model, other = network(), network()
    for each in (model, other):
        each(X).square().sum().backward()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    gradients.step(optimizer, list(model.parameters()), 0.1)
    nn.utils.clip_grad_norm_(other.parameters(), 0.1)
    torch.optim.SGD(other.parameters(), lr=1.0).step()
    for found, expected in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(found, expected)
        assert found.grad is not None  # a hook after the step may still want it


def test_a_gradient_that_is_not_finite_reaches_the_weights_and_so_is_seen():
    model = network()
    gradients.keep_lean(model.parameters(), True)
    with half_products(model):
        (model(X) * float("inf")).sum().backward()
    gradients.step(torch.optim.AdamW(model.parameters(), fused=True), list(model.parameters()), 1.0)
    assert not torch.isfinite(model[0].weight).all()


def test_lean_gradients_take_half_the_bytes_and_are_forgotten():
    model = network()
    gradients.keep_lean(model.parameters(), True)
    with half_products(model):
        model(X).sum().backward()
    wide = [model[0].weight, model[2].weight]
    assert all(weight.grad is None for weight in wide)
    assert gradients.kept_bytes(wide) == 2 * sum(weight.numel() for weight in wide)
    assert gradients.kept_bytes([model[4].weight]) == 4 * model[4].weight.numel()
    gradients.clear(model.parameters())
    assert gradients.kept_bytes(model.parameters()) == 0
    gradients.keep_lean(model.parameters(), False)
    assert not any(map(gradients.is_lean, model.parameters()))
