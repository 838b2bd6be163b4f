"""Each family against its real pipeline: the same arguments reach the denoiser, latents are decoded alike."""

import functools
import inspect

import pytest
import tiny_image
import torch

from playground.errors import ModelUnavailable
from playground.models.families import FAMILIES, family_of, named

PROMPTS = ["a robot on a red background", "x cat"]
MAKERS = {
    "stable-diffusion": tiny_image.sd,
    "sdxl": tiny_image.sdxl,
    "sd3": tiny_image.sd3,
    "flux": tiny_image.flux,
    "flux without guidance": lambda: tiny_image.flux(guidance=False),
}
CALL = {"guidance_scale": 1.0}  # no second pass without text


@pytest.fixture(params=MAKERS)
def pipeline(request):
    return MAKERS[request.param]()


def captured(denoiser, run, monkeypatch):
    """The arguments of the denoiser's first call while ``run`` runs, by parameter name."""
    calls, forward = [], denoiser.forward
    signature = inspect.signature(forward)

    def spy(*args, **kwargs):
        calls.append(signature.bind(*args, **kwargs).arguments)
        return forward(*args, **kwargs)

    with monkeypatch.context() as patch, torch.no_grad():  # kernels round otherwise with gradients
        patch.setattr(denoiser, "forward", spy)
        run()
    return calls[0]


def same(ours, theirs, batch):
    """Equal values; a pipeline may leave out the batch where all samples share one."""
    if isinstance(ours, dict):
        return set(ours) == set(theirs) and all(same(ours[key], theirs[key], batch) for key in ours)
    if isinstance(ours, torch.Tensor):
        theirs = torch.as_tensor(theirs)
        if ours.dim() and not theirs.dim():
            theirs = theirs.expand(batch)
        return ours.shape == theirs.shape and torch.allclose(ours.float(), theirs.float(), atol=1e-6)
    return ours == theirs


def text_length(pipeline):
    """FLUX.1 [schnell] takes at most 256 tokens of text, and its pipeline's default is 512."""
    schnell = family_of(pipeline).id == "flux" and not pipeline.transformer.config.guidance_embeds
    return {"max_sequence_length": 256} if schnell else {}


def given(arguments):
    return {name: value for name, value in arguments.items() if value is not None and value != {}}


def test_the_denoiser_is_called_as_the_pipeline_calls_it(pipeline, monkeypatch):
    family = family_of(pipeline)
    denoiser = family.denoiser(pipeline)
    extra = text_length(pipeline)
    theirs = captured(
        denoiser,
        lambda: pipeline(PROMPTS, height=32, width=32, num_inference_steps=3, **CALL, **extra),
        monkeypatch,
    )
    noisy, times = theirs.get("sample"), theirs["timestep"].float()
    if noisy is None:
        noisy = theirs["hidden_states"]
    times = times.expand(2)
    if family.id == "flux":
        noisy = tiny_unpacked(noisy)
    if family.id == "sd3":
        times = times / 1000
    ours = captured(
        denoiser,
        lambda: family.predict(denoiser, noisy, times, family.encode_prompts(pipeline, PROMPTS), pipeline),
        monkeypatch,
    )
    ours, theirs = given(ours), given(theirs)
    assert set(ours) == set(theirs)
    wrong = [name for name in ours if not same(ours[name], theirs[name], 2)]
    assert wrong == []


def tiny_unpacked(tokens):
    """Written apart from the family: place (row, column) of token 4·row + column, its 2×2 block."""
    n, _, channels = tokens.shape
    latents = torch.zeros(n, channels // 4, 8, 8)
    for place in range(16):
        row, column = divmod(place, 4)
        block = tokens[:, place].view(n, channels // 4, 2, 2)
        latents[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2] = block
    return latents


def test_a_prediction_has_the_shape_of_the_latents(pipeline):
    family = family_of(pipeline)
    moments = family.encode_pictures(pipeline, tiny_image.pictures(2))
    latents = family.latents(pipeline, moments, torch.Generator().manual_seed(0))
    time = torch.tensor([0.3, 0.7]) if family.objective == "flow" else torch.tensor([30, 700])
    conditioning = family.encode_prompts(pipeline, PROMPTS)
    with torch.no_grad():
        out = family.predict(family.denoiser(pipeline), latents, time, conditioning, pipeline)
        alone = family.predict(
            family.denoiser(pipeline),
            latents[1:],
            time[1:],
            {name: value[1:] for name, value in conditioning.items()},
            pipeline,
        )
    assert out.shape == latents.shape
    assert torch.allclose(out[1:], alone, atol=1e-5)


def test_latents_are_drawn_from_the_posterior_and_decoded_as_the_pipeline_does(pipeline):
    family, vae = family_of(pipeline), pipeline.vae
    pictures = tiny_image.pictures(5)
    moments = family.encode_pictures(pipeline, pictures, batch=2)
    posterior = vae.encode(pictures).latent_dist
    assert torch.allclose(moments.mean, posterior.mean, atol=1e-5)
    assert torch.allclose(moments.std, posterior.std, atol=1e-5)
    seeded = torch.Generator().manual_seed(3)
    latents = family.latents(pipeline, moments, seeded)
    noise = torch.randn(moments.mean.shape, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        plain = vae.decode(moments.mean + moments.std * noise).sample
    assert torch.allclose(family.decode(pipeline, latents), plain, atol=1e-4)


def test_drawn_latents_are_decoded_to_the_pipeline_s_own_picture(pipeline):
    family = family_of(pipeline)
    call = {"steps": 2, "guidance": 1.0, "size": 32}
    latents = family.draw(pipeline, ["a cat"], [torch.Generator().manual_seed(1)], **call)
    theirs = pipeline(
        "a cat",
        height=32,
        width=32,
        num_inference_steps=2,
        guidance_scale=1.0,
        generator=torch.Generator().manual_seed(1),
        output_type="pt",
        **text_length(pipeline),
    ).images
    ours = (family.decode(pipeline, latents) / 2 + 0.5).clamp(0, 1)
    assert latents.shape[1:] == (pipeline.vae.config.latent_channels, 8, 8)
    assert torch.allclose(ours, theirs, atol=1e-4)


def test_the_flow_is_shifted_as_the_pipeline_shifts_it(monkeypatch):
    pipeline = tiny_image.flux()
    seen = {}
    real = pipeline.scheduler.set_timesteps

    @functools.wraps(real)  # the pipeline looks at the parameters' names
    def spy(*args, **kwargs):
        seen.update(kwargs)
        return real(*args, **kwargs)

    monkeypatch.setattr(pipeline.scheduler, "set_timesteps", spy)
    pipeline("a cat", height=32, width=32, num_inference_steps=2)
    assert family_of(pipeline).shift(pipeline, 8, 8) == pytest.approx(torch.tensor(seen["mu"]).exp().item())
    assert family_of(tiny_image.sd3()).shift(tiny_image.sd3(), 8, 8) == 3.0


def test_sdxl_says_nothing_where_there_is_no_text():
    pipeline = tiny_image.sdxl()
    told = family_of(pipeline).encode_prompts(pipeline, ["", "a cat"])
    assert not told["prompt_embeds"][0].any() and not told["pooled"][0].any()
    assert told["prompt_embeds"][1].any() and told["pooled"][1].any()


def test_lora_targets_are_layers_of_the_denoiser(pipeline):
    family = family_of(pipeline)
    names = [name for name, _ in family.denoiser(pipeline).named_modules()]
    used = {target for target in family.lora_targets if any(name.endswith(f".{target}") for name in names)}
    assert used >= {"to_q", "to_k", "to_v", "to_out.0"}
    wide = {
        target for target in family.wide_lora_targets if any(name.endswith(f".{target}") for name in names)
    }
    assert wide >= {"ff.net.0.proj", "ff.net.2"}
    assert ("conv1" in wide) == (family.denoiser_name == "unet")
    for encoder in family.text_encoders(pipeline).values():
        names = [name for name, _ in encoder.named_modules()]
        assert all(any(name.endswith(f".{t}") for name in names) for t in family.text_lora_targets)


def test_an_unknown_pipeline_is_refused_with_what_there_is():
    with pytest.raises(ModelUnavailable, match="StableDiffusion3Pipeline"):
        family_of(object())
    assert [named(family.pipeline_class.__name__) for family in FAMILIES] == list(FAMILIES)
