"""The stages of the recipe: autoencoder, CLIP, classifier, U-Net; then the pipeline's folder."""

import hashlib
import json
import random
import re
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPModel, CLIPTokenizer

from playground.starter import colour_path, compose, evaluate, networks, warm, world
from playground.starter.icons import Icons
from playground.starter.networks import Classifier
from playground.starter.optimise import (
    Draw,
    fast,
    first_process,
    is_final,
    optimise,
    processes,
    progress,
    rank,
)
from playground.starter.presets import Preset

SHARD = "9MB"
STAGES = ("vae", "clip", "classifier", "unet", "decoder")


def vae_pictures(preset: Preset, icons: Icons, draw: Draw) -> Tensor:
    """A batch for the autoencoder: three fifths are pictures of the world, the rest wider."""
    wide = -(-preset.vae_batch * 2 // 5)
    known = compose.scenes(icons, preset.vae_batch - wide, draw.python)
    return torch.cat([compose.anything(icons, wide, draw.python), compose.pictures(icons, known)])


def distance(decoded: Tensor, pictures: Tensor) -> Tensor:
    """How far decoded pictures are from their originals: in values, at edges, and in colour at large.

    Without the last term a short training leaves greens and purples grey.
    """
    error = decoded - pictures
    edges = sum(error.diff(dim=axis).abs().mean() for axis in (-1, -2))
    colour = F.avg_pool2d(error, 8).abs().mean()
    return error.abs().mean() + error.square().mean() + edges + 4 * colour


@torch.no_grad()
def standardise(vae: AutoencoderKL, pictures: Tensor) -> None:
    """Give each latent channel mean 0 and deviation 1 on these pictures, without changing what is decoded.

    The change is folded into the convolutions on both sides of the latents, so that one scaling factor, 1,
    suits all channels.
    """
    latents = torch.cat([vae.encode(part.to(vae.device)).latent_dist.mean for part in pictures.split(32)])
    mean, deviation = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    into, out_of = vae.quant_conv, vae.post_quant_conv
    channels = len(mean)
    out_of.bias += (out_of.weight[:, :, 0, 0] * mean).sum(1)
    out_of.weight *= deviation[None, :, None, None]
    into.weight[:channels] /= deviation[:, None, None, None]
    into.bias[:channels] = (into.bias[:channels] - mean) / deviation
    into.bias[channels:] -= 2 * deviation.log()
    vae.register_to_config(scaling_factor=1.0)


def train_vae(preset: Preset, icons: Icons, folder: Path, **options) -> AutoencoderKL:
    """The autoencoder, its latents standardised on the world's own pictures."""
    vae = networks.vae(preset)
    colour_path.lay(vae)
    vae = vae.to(networks.device())

    def loss_of(draw: Draw) -> Tensor:
        pictures = vae_pictures(preset, icons, draw).to(vae.device)
        posterior = vae.encode(pictures).latent_dist
        divergence = posterior.kl().float().mean() / posterior.mean[0].numel()
        return distance(vae.decode(posterior.sample()).sample.float(), pictures) + 2e-4 * divergence

    vae = optimise(
        "vae", vae, loss_of, steps=preset.vae_steps, rate=preset.vae_rate, folder=folder, average=0.98, **options
    )  # fmt: skip
    networks.frozen(vae)
    if is_final("vae", folder):  # standardised before it was shipped
        vae.register_to_config(scaling_factor=1.0)
        return vae
    sample = compose.pictures(icons, compose.scenes(icons, 256, random.Random(1), loose=preset.loose))
    standardise(vae, sample)
    return vae


def train_decoder(preset: Preset, icons: Icons, vae: AutoencoderKL, folder: Path, **options) -> AutoencoderKL:
    """The decoder further, under the encoder as it is: sharper pictures from the same latents.

    It needs no U-Net, and the U-Net does not need it, so it can run while the U-Net trains.
    """
    for part in (vae.decoder, vae.post_quant_conv):
        part.requires_grad_(True)

    def loss_of(draw: Draw) -> Tensor:
        pictures = vae_pictures(preset, icons, draw).to(vae.device)
        with torch.no_grad():
            latents = vae.encode(pictures).latent_dist.sample()
        return distance(vae.decode(latents).sample.float(), pictures)

    return networks.frozen(
        optimise("decoder", vae, loss_of, steps=preset.decoder_steps, rate=preset.vae_rate, folder=folder,
                 average=0.98, **options)
    )  # fmt: skip


def agreement(captions: list[str], scenes: list[world.Scene]) -> Tensor:
    """Which captions fit which pictures: bool, (captions, scenes).

    A caption that leaves out style or colour fits several pictures of a batch.
    """
    looks = [(frozenset(p.noun for p in scene.objects), scene.style, scene.background) for scene in scenes]
    rows = []
    for number, text in enumerate(captions):
        said = set(re.findall(r"\w+", text))
        styles, colours = said & set(world.STYLES), said & set(world.BACKGROUNDS)
        nouns = looks[number][0]
        plain = not (scenes[number].relation or scenes[number].place)
        rows.append(
            [
                i == number or (plain and own == nouns and styles <= {style} and colours <= {colour})
                for i, (own, style, colour) in enumerate(looks)
            ]
        )
    return torch.tensor(rows)


def train_clip(
    preset: Preset, icons: Icons, tokens: CLIPTokenizer, without: frozenset, folder: Path, **options
) -> CLIPModel:
    """Both towers, contrastively; every caption that fits a picture of the batch counts as right."""
    clip = networks.clip(preset, tokens).to(networks.device())

    def loss_of(draw: Draw) -> Tensor:
        few = draw.python.sample(icons.nouns, max(2, min(len(icons.nouns), preset.clip_batch // 4)))
        allowed = [(n, s) for n in few for s in world.STYLES if (n, s) not in without]
        scenes = []
        for _ in range(preset.clip_batch):
            noun, style = draw.python.choice(allowed)
            colour = draw.python.choice(list(world.BACKGROUNDS))
            other = draw.python.choice(allowed)[0]
            if draw.python.random() < preset.pairs and other != noun and (other, style) not in without:
                scenes.append(world.pair(noun, other, style, colour, draw.python))
            else:
                scenes.append(world.single(noun, style, colour, draw.python, preset.places))
        captions = [world.caption(scene, draw.python) for scene in scenes]
        fits = agreement(captions, scenes).to(clip.device)
        texts = networks.ids(tokens, [world.distracted(text, draw.python) for text in captions])
        result = clip(
            input_ids=texts.to(clip.device), pixel_values=compose.pictures(icons, scenes).to(clip.device)
        )
        logits = result.logits_per_text.float()
        loss = 0.0
        for scores, right in ((logits, fits), (logits.T, fits.T)):
            loss = loss - (scores.log_softmax(1) * right).sum(1).div(right.sum(1)).mean() / 2
        return loss

    return networks.frozen(
        optimise("clip", clip, loss_of, steps=preset.clip_steps, rate=preset.clip_rate, folder=folder,
                 average=0.99, **options)
    )  # fmt: skip


def worn(pictures: Tensor, draw: Draw) -> Tensor:
    """Pictures made worse, as generated ones are: blurred, noisy, off in colour."""
    if draw.python.random() < 0.5:
        edge = draw.python.choice((28, 36, 48))
        small = F.interpolate(pictures, (edge, edge), mode="bilinear", antialias=True)
        pictures = F.interpolate(small, pictures.shape[-2:], mode="bilinear")
    shape = (len(pictures), 3, 1, 1)
    gain = 1 + 0.15 * torch.randn(shape, generator=draw.torch)
    shift = 0.08 * torch.randn(shape, generator=draw.torch)
    noise = draw.python.uniform(0, 0.1) * torch.randn(pictures.shape, generator=draw.torch)
    return (pictures * gain + shift + noise).clamp(-1, 1)


def train_classifier(preset: Preset, icons: Icons, folder: Path, **options) -> Classifier:
    """Names and styles of real icons, all pairs of them. It never sees a generated picture."""
    classifier = Classifier(icons.nouns, list(world.STYLES)).to(networks.device())

    def loss_of(draw: Draw) -> Tensor:
        count = preset.classifier_batch
        every = [(n, s) for n in icons.nouns for s in world.STYLES]
        scenes = []
        for noun, style in draw.python.choices(every, k=count):
            size = draw.python.uniform(0.7, 1.0)
            x, y = (draw.python.uniform(-0.08, 0.08) for _ in range(2))
            colour = draw.python.choice(list(world.BACKGROUNDS))
            scenes.append(world.Scene(colour, (world.Placed(noun, style, size, x, y),)))
        pictures = worn(compose.pictures(icons, scenes), draw).to(next(classifier.parameters()).device)
        names, styles = classifier(pictures)
        right_names = torch.tensor([icons.nouns.index(s.objects[0].noun) for s in scenes])
        right_styles = torch.tensor([world.STYLES.index(s.style) for s in scenes])
        return F.cross_entropy(names.float(), right_names.to(names.device)) + F.cross_entropy(
            styles.float(), right_styles.to(styles.device)
        )

    return networks.frozen(
        optimise("classifier", classifier, loss_of, steps=preset.classifier_steps,
                 rate=preset.classifier_rate, folder=folder, **options)
    )  # fmt: skip


def encode_pool(
    preset: Preset, icons: Icons, vae: AutoencoderKL, without: frozenset, folder: Path, log: Callable = print
) -> tuple[list[world.Scene], Tensor]:
    """The U-Net's scenes and their scaled latents, float16 (scenes, channels, 16, 16), encoded once and kept."""
    rng = random.Random(3)
    scenes = compose.scenes(
        icons, preset.pool, rng, pairs=preset.pairs, places=preset.places, loose=preset.loose, without=without
    )
    made_of = (
        preset.pool,
        preset.pairs,
        preset.places,
        preset.loose,
        sorted(without),
        icons.nouns,
        preset.vae_steps,
    )
    path = folder / f"pool-{hashlib.sha256(repr(made_of).encode()).hexdigest()[:12]}.pt"
    with first_process():
        if not path.is_file():
            parts = []
            for start in range(0, len(scenes), 64):
                pictures = compose.pictures(icons, scenes[start : start + 64]).to(vae.device)
                with torch.no_grad(), fast(vae.device):
                    mean = vae.encode(pictures).latent_dist.mean
                parts.append((mean.float() * vae.config.scaling_factor).half().cpu())
                if start % 1600 == 0:
                    log(f"encoding scene {start} of {len(scenes)}")
            beside = path.with_suffix(".part")
            torch.save(torch.cat(parts), beside)
            beside.replace(path)
    return scenes, torch.load(path, weights_only=True)


def noisy_times(count: int, generator: torch.Generator, end: int = 1000) -> Tensor:
    """Timesteps of a batch, int64 below ``end``, each as likely as it is late, spread evenly over the batch."""
    share = (torch.randperm(count, generator=generator) + torch.rand(count, generator=generator)) / count
    return (share.sqrt() * end).long().clamp(max=end - 1)


def train_unet(
    preset: Preset,
    scenes: list[world.Scene],
    latents: Tensor,
    tokens: CLIPTokenizer,
    text_encoder: nn.Module,
    folder: Path,
    **options,
) -> UNet2DConditionModel:
    """The U-Net on cached latents, v-prediction; captions drawn anew at every use.

    The noisier a timestep, the likelier it is drawn: there a picture's shape and style come from its caption alone
    and are learnt last, while at low noise the network soon cannot get better. Captions say style and colour
    nearly always: what a caption leaves open the network can only average, which drowns what it can learn.

    Of a step on a CPU core 95 % are the U-Net itself, mostly convolutions near the core's peak. Channels last make
    it 3 to 6 % faster, batches of 32 another 6 % a picture, for half the steps; caching texts, a rarer average and
    other attention would win nothing; a compiler had not finished its work after four minutes.
    """
    device = networks.device()
    unet = networks.unet(preset).to(device, memory_format=torch.channels_last)
    text_encoder = text_encoder.to(device)
    schedule = DDPMScheduler.from_config(networks.scheduler().config)

    def loss_of(draw: Draw) -> Tensor:
        chosen = torch.randint(len(scenes), (preset.unet_batch,), generator=draw.torch)
        captions = [
            world.distracted(world.caption(scenes[i], draw.python, preset.unsaid), draw.python)
            if draw.python.random() > preset.empty
            else ""
            for i in chosen.tolist()
        ]
        clean = latents[chosen].float()
        noise = torch.randn(clean.shape, generator=draw.torch)
        times = noisy_times(len(clean), draw.torch, schedule.config.num_train_timesteps)
        noisy = schedule.add_noise(clean, noise, times)
        target = schedule.get_velocity(clean, noise, times)
        with torch.no_grad():
            words = text_encoder(networks.ids(tokens, captions).to(device)).last_hidden_state
        noisy = noisy.to(device, memory_format=torch.channels_last)
        predicted = unet(noisy, times.to(device), words).sample
        return F.mse_loss(predicted.float(), target.to(device))

    return networks.frozen(
        optimise("unet", unet, loss_of, steps=preset.unet_steps, rate=preset.unet_rate, folder=folder,
                 average=0.995, muon=True, **options)
    )  # fmt: skip


def export(
    out: Path, vae: AutoencoderKL, clip: CLIPModel, unet: UNet2DConditionModel, tokens: CLIPTokenizer
) -> None:
    """Write the pipeline and, in ``clip/``, both CLIP towers, as float16 in small shards; the networks become float16.

    Their configurations say float32, so that a plain ``from_pretrained`` computes in it.
    """
    unet = unet.to(memory_format=torch.contiguous_format)
    pipeline = StableDiffusionPipeline(
        vae=vae.half(),
        text_encoder=clip.half().text_model,
        tokenizer=tokens,
        unet=unet.half(),
        scheduler=networks.scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(out, max_shard_size=SHARD)
    clip.save_pretrained(out / "clip", max_shard_size=SHARD)
    tokens.save_pretrained(out / "clip")
    for config in (out / "text_encoder/config.json", out / "clip/config.json"):
        text = config.read_text(encoding="utf-8")
        config.write_text(text.replace('"dtype": "float16"', '"dtype": "float32"'), encoding="utf-8")


def kept_tokenizer(names: list[str], folder: Path) -> CLIPTokenizer:
    """The tokenizer of this training: made once, and kept with its checkpoints.

    Made anew, words that tie could get each other's numbers: the library counts in no fixed order.
    """
    place = folder / "tokenizer"
    with first_process():
        if not place.is_dir():
            networks.tokenizer(names).save_pretrained(place.with_suffix(".part"))
            place.with_suffix(".part").replace(place)
    return CLIPTokenizer.from_pretrained(place, local_files_only=True)


def train(
    preset: Preset,
    icons: Icons,
    out: Path,
    *,
    begin: Path | None = None,
    until: str = "end",
    note: str = "",
    log: Callable[[str], None] = print,
    threads: int = 0,
    save_seconds: float = 60.0,
) -> None:
    """All stages, each going on from its checkpoint in ``out/checkpoint``, then the export to ``out``.

    Args:
        begin: folder of a finished model to train the U-Net on from; the other networks stay as they are.
        until: one of STAGES, to run that one alone (after the autoencoder where it needs it), or "end".
        note: a sentence for the model card.
    """
    folder = out / "checkpoint"
    drawn = icons.first(preset.drawn or len(icons.nouns))
    without = world.held_out(icons.nouns, preset.held_out)
    if begin is not None:
        with first_process():
            warm.lay(begin, preset, drawn.nouns, without, folder)
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    options = {"log": log, "threads": threads, "save_seconds": save_seconds}
    tokens = kept_tokenizer(icons.nouns, folder)
    if until == "classifier":
        train_classifier(preset, drawn, folder, **options)
        return
    if until == "clip":
        train_clip(preset, icons, tokens, without, folder, **options)
        return
    vae = train_vae(preset, icons, folder, **options)
    if until == "decoder":
        train_decoder(preset, icons, vae, folder, **options)
    if until in ("vae", "decoder"):
        return
    clip = train_clip(preset, icons, tokens, without, folder, **options)
    scenes, latents = encode_pool(preset, drawn, vae, without, folder, log)
    unet = train_unet(preset, scenes, latents, tokens, clip.text_model, folder, **options)
    if until == "unet":
        return
    vae = train_decoder(preset, icons, vae, folder, **options)
    classifier = train_classifier(preset, drawn, folder, **options)
    if rank() == 0:
        classifier.cpu().save(out / "classifier")
        recipe = {
            "preset": preset.name,
            "machine": evaluate.machine(),
            "processes": processes(),
            "note": note,
            "origin": warm.origin(folder),
            "stages": {stage: progress(stage, folder) for stage in STAGES},
            "parameters": {
                name: networks.parameters(network)
                for name, network in (("unet", unet), ("vae", vae), ("clip", clip))
            },
            "pairs": preset.pairs,
            "names": drawn.nouns,
            "held out": sorted(pair for pair in without if pair[0] in drawn.nouns),
            "classifier": evaluate.check_classifier(classifier, drawn),
        }
        (out / "recipe.json").write_text(json.dumps(recipe, indent=1) + "\n", encoding="utf-8")
        export(out, vae.cpu(), clip.cpu(), unet.cpu(), tokens)
