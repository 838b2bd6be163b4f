"""The networks of the starter model, built from a preset; nothing here is trained."""

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, UNet2DConditionModel
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from playground.starter import world
from playground.starter.compose import SIZE
from playground.starter.presets import Preset

TOKENS = 32  # a caption's length, padded


def tokenizer(names: list[str]) -> CLIPTokenizer:
    """A CLIP tokenizer in which every word of the world is one token; other words fall into pieces."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(
        vocab_size=20_000, min_frequency=1, end_of_word_suffix="</w>", show_progress=False
    )
    bpe.train_from_iterator([" ".join(world.words(names))], trainer)
    merges = [tuple(merge) for merge in json.loads(bpe.to_str())["model"]["merges"]]
    base = [*sorted(alphabet), *(f"{letter}</w>" for letter in sorted(alphabet))]
    entries = dict.fromkeys([*base, *("".join(merge) for merge in merges)])
    entries |= dict.fromkeys(["<|startoftext|>", "<|endoftext|>"])
    vocabulary = {token: number for number, token in enumerate(entries)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=TOKENS)


def ids(tokens: CLIPTokenizer, captions: list[str]) -> Tensor:
    """Captions as the pipeline sees them: int64, (captions, TOKENS), padded and cut."""
    return tokens(
        captions, padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt"
    ).input_ids


def clip(preset: Preset, tokens: CLIPTokenizer) -> CLIPModel:
    """Both towers; the text tower becomes the pipeline's text encoder."""
    text = {
        "vocab_size": len(tokens),
        "hidden_size": preset.text_width,
        "intermediate_size": preset.text_width * 4,
        "num_hidden_layers": preset.text_layers,
        "num_attention_heads": preset.text_width // 32,
        "max_position_embeddings": TOKENS,
        "bos_token_id": tokens.bos_token_id,
        "eos_token_id": tokens.eos_token_id,
        "pad_token_id": tokens.pad_token_id,
        "projection_dim": preset.text_width,
    }
    vision = {
        "hidden_size": preset.vision_width,
        "intermediate_size": preset.vision_width * 4,
        "num_hidden_layers": preset.vision_layers,
        "num_attention_heads": preset.vision_width // 32,
        "image_size": SIZE,
        "patch_size": 8,
        "projection_dim": preset.text_width,
    }
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=preset.text_width))


def vae(preset: Preset) -> AutoencoderKL:
    """An autoencoder with factor 4: 16×16 latents."""
    depth = len(preset.vae_channels)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * depth,
        up_block_types=("UpDecoderBlock2D",) * depth,
        block_out_channels=preset.vae_channels,
        layers_per_block=1,
        latent_channels=preset.latent_channels,
        norm_num_groups=8,
        sample_size=SIZE,
    )


def unet(preset: Preset) -> UNet2DConditionModel:
    """A U-Net on 16×16 latents; attention below the first level."""
    channels = preset.unet_channels
    lower = len(channels) - 1
    return UNet2DConditionModel(
        sample_size=SIZE // 4,
        in_channels=preset.latent_channels,
        out_channels=preset.latent_channels,
        down_block_types=("DownBlock2D",) + ("CrossAttnDownBlock2D",) * lower,
        up_block_types=("CrossAttnUpBlock2D",) * lower + ("UpBlock2D",),
        block_out_channels=channels,
        layers_per_block=preset.unet_layers,
        cross_attention_dim=preset.text_width,
        attention_head_dim=tuple(width // 32 for width in channels),
        norm_num_groups=16,
    )


def scheduler() -> DPMSolverMultistepScheduler:
    """v-prediction with zero terminal SNR: plain backgrounds need it to come out in the colour asked for."""
    return DPMSolverMultistepScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        steps_offset=1,
    )


class Classifier(nn.Module):
    """Names and styles of pictures; trained apart from the model that it judges."""

    def __init__(self, names: list[str], styles: list[str], width: int = 32):
        super().__init__()
        self.names, self.styles, self.width = list(names), list(styles), width
        widths = (3, width, 2 * width, 4 * width, 6 * width)
        blocks = []
        for before, after in zip(widths, widths[1:], strict=False):
            blocks += [
                nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(),
                nn.Conv2d(after, after, 3, padding=1, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(),
            ]
        self.trunk = nn.Sequential(*blocks)
        features = widths[-1] * 4
        self.name_head = nn.Linear(features, len(names))
        self.style_head = nn.Linear(features, len(styles))

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures (n, 3, 64, 64), -1…1, to logits (n, names) and (n, styles)."""
        features = nn.functional.adaptive_avg_pool2d(self.trunk(pictures), 2).flatten(1)
        return self.name_head(features), self.style_head(features)

    def save(self, folder: Path) -> None:
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        state = {key: value.half() if value.is_floating_point() else value
                 for key, value in self.state_dict().items()}  # fmt: skip
        save_file(state, folder / "model.safetensors")
        config = {"names": self.names, "styles": self.styles, "width": self.width}
        (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "Classifier":
        from safetensors.torch import load_file

        network = cls(**json.loads((folder / "config.json").read_text(encoding="utf-8")))
        state = {key: value.float() if value.is_floating_point() else value
                 for key, value in load_file(folder / "model.safetensors").items()}  # fmt: skip
        network.load_state_dict(state)
        return network.eval()


def parameters(network: nn.Module) -> int:
    """Count of a network's parameters."""
    return sum(parameter.numel() for parameter in network.parameters())


def frozen(network: nn.Module) -> nn.Module:
    """The network in evaluation mode, without gradients."""
    network.eval()
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    return network


def device() -> torch.device:
    """The GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
