"""Noise, targets and weights against the textbook, and against diffusers' own schedulers."""

import pytest
import tiny_image
import torch
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler

from playground.errors import ModelUnavailable
from playground.models import image
from playground.training.objectives import DDPM, FlowMatching, objective_of


def scheduler(kind="epsilon", **more):
    return DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type=kind, **more
    )


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def latents():
    return torch.randn(3, 4, 8, 8, generator=generator(1)), torch.randn(3, 4, 8, 8, generator=generator(2))


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_noise_and_targets_are_those_of_diffusers(latents, kind):
    plain, noise = latents
    times = torch.tensor([0, 500, 999])
    theirs, ours = scheduler(kind), DDPM(scheduler(kind))
    assert torch.allclose(ours.noisy(plain, noise, times), theirs.add_noise(plain, noise, times), atol=1e-6)
    target = noise if kind == "epsilon" else theirs.get_velocity(plain, noise, times)
    assert torch.allclose(ours.target(plain, noise, times), target, atol=1e-6)


def test_min_snr_weights_follow_each_sample_s_own_time():
    snr = scheduler().alphas_cumprod / (1 - scheduler().alphas_cumprod)
    times = torch.tensor([10, 300, 900])
    assert snr[10] > 5 > snr[900]
    noise = DDPM(scheduler(), snr_gamma=5.0).weights(times)
    assert noise.tolist() == pytest.approx((snr[times].clamp(max=5) / snr[times]).tolist())
    velocity = DDPM(scheduler("v_prediction"), snr_gamma=5.0).weights(times)
    assert velocity.tolist() == pytest.approx((snr[times].clamp(max=5) / (snr[times] + 1)).tolist())
    assert DDPM(scheduler()).weights(times).tolist() == [1, 1, 1]


def test_weights_are_finite_where_nothing_but_noise_is_left():
    last = torch.tensor([999])
    for kind in ("epsilon", "v_prediction"):
        zero = DPMSolverMultistepScheduler(prediction_type=kind, rescale_betas_zero_snr=True)
        assert DDPM(zero, snr_gamma=5.0).weights(last).isfinite().all()


def test_times_are_spread_over_the_schedule():
    times = torch.stack([DDPM(scheduler()).times(4, generator(seed)) for seed in range(400)])
    assert times.min() >= 0 and times.max() <= 999
    ordered = times.sort(dim=1).values
    assert ((ordered[:, 1:] - ordered[:, :-1] - 250).abs() <= 1).all()
    assert (times.float().mean(0) - 499.5).abs().max() < 50  # each place has the whole range


def test_an_unknown_prediction_is_refused():
    with pytest.raises(ModelUnavailable, match="sample"):
        DDPM(scheduler("sample"))


def test_the_flow_is_a_straight_line(latents):
    plain, noise = latents
    flow = FlowMatching()
    times = torch.tensor([0.0, 0.25, 1.0])
    noisy = flow.noisy(plain, noise, times)
    assert torch.equal(noisy[0], plain[0]) and torch.equal(noisy[2], noise[2])
    back = noisy - times[:, None, None, None] * flow.target(plain, noise, times)
    assert torch.allclose(back, plain, atol=1e-6)


def test_a_shift_moves_times_towards_noise():
    plain = torch.cat([FlowMatching(1.0).times(8, generator(seed)) for seed in range(200)])
    shifted = torch.cat([FlowMatching(3.0).times(8, generator(seed)) for seed in range(200)])
    assert (plain.median() - 0.5).abs() < 0.02
    assert torch.allclose(shifted, 3 * plain / (1 + 2 * plain), atol=1e-5)
    assert shifted.min() > 0 and shifted.max() < 1
    logit = (plain / (1 - plain)).log()
    assert abs(logit.mean()) < 0.05 and abs(logit.std() - 1) < 0.05


def test_each_family_gets_its_own():
    assert objective_of(image.of(tiny_image.sd()), 8, 8, 5.0).kind == "v_prediction"
    assert objective_of(image.of(tiny_image.sdxl()), 8, 8).kind == "epsilon"
    assert objective_of(image.of(tiny_image.sd3()), 8, 8).shift == 3.0
    assert 1 < objective_of(image.of(tiny_image.flux()), 8, 8).shift < 3
