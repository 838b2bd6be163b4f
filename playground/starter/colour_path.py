"""A start for the autoencoder in which colour already passes through.

Group normalisation throws away how bright or how green a picture is as a whole; an autoencoder with random weights
takes long to find a way round that, and until then greens and purples come out grey. Here three channels carry
the mean colour of each latent's patch from end to end, as nearly linear as the architecture allows; everything
else starts at random, and all of it is trained. The classes and their configuration stay as they are.
"""

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

_LARGE = 12.0  # constants beside a colour channel in its group of the last norm; they drown its statistics
_STRAIGHT = 4.0  # where SiLU is nearly a straight line


@torch.no_grad()
def lay(vae: AutoencoderKL) -> None:
    """Change the weights of a fresh autoencoder in place; latents 0, 1, 2 become red, green and blue.

    Raises:
        ValueError: fewer than two channels share a group of the last norm, or the latents are fewer than three.
    """
    encoder, decoder = vae.encoder, vae.decoder
    sizes = [norm.num_channels // norm.num_groups for norm in (encoder.conv_norm_out, decoder.conv_norm_out)]
    if min(sizes) < 2 or vae.config.latent_channels < 3:
        raise ValueError("a colour path needs groups of at least two channels and three latents")
    first, last, out = [0, 1, 2], [0, sizes[0], 2 * sizes[0]], [0, sizes[1], 2 * sizes[1]]

    _only(encoder.conv_in, first, [0, 1, 2], _centre())
    blocks = list(encoder.down_blocks)
    here = first
    for number, block in enumerate(blocks):
        for resnet in block.resnets:
            _residual(resnet, here)
        if block.downsamplers:
            there = last if number == len(blocks) - 2 else here
            quarter = torch.zeros(3, 3)
            quarter[:2, :2] = 0.25
            _only(block.downsamplers[0].conv, there, here, quarter)
            here = there
    _middle(encoder.mid_block, here)
    _level(encoder.mid_block.resnets[-1].conv2, encoder.conv_norm_out, here)

    _only(decoder.conv_in, out, [0, 1, 2], _centre())
    _middle(decoder.mid_block, out)
    for block in decoder.up_blocks:
        for resnet in block.resnets:
            _residual(resnet, out)
        if block.upsamplers:
            _only(block.upsamplers[0].conv, out, out, _centre())
    _level(decoder.up_blocks[-1].resnets[-1].conv2, decoder.conv_norm_out, out)

    for conv in (vae.quant_conv, vae.post_quant_conv):
        _only(conv, [0, 1, 2], [0, 1, 2], torch.ones(1, 1))
    latents = vae.config.latent_channels
    vae.quant_conv.weight[latents : latents + 3] = 0
    vae.quant_conv.bias[latents : latents + 3] = -6.0  # log variance
    decoder.conv_out.weight.zero_()

    colours = torch.rand(64, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1
    pictures = colours[:, :, None, None].expand(-1, -1, 16, 16)
    features = _features(encoder, encoder.conv_out, pictures)
    _read(encoder.conv_out, here, features, colours)
    within = torch.zeros(64, latents, 4, 4)
    within[:, :3] = colours[:, :, None, None]
    _read(decoder.conv_out, out, _features(decoder, decoder.conv_out, vae.post_quant_conv(within)), colours)


def _centre() -> Tensor:
    kernel = torch.zeros(3, 3)
    kernel[1, 1] = 1
    return kernel


def _only(conv: nn.Conv2d, rows: list[int], columns: list[int], kernel: Tensor) -> None:
    """Make each of ``rows`` the kernel over its one column, and nothing else."""
    conv.weight[rows] = 0
    conv.bias[rows] = 0
    for row, column in zip(rows, columns, strict=True):
        conv.weight[row, column] = kernel


def _residual(resnet: nn.Module, channels: list[int]) -> None:
    """Let the channels pass a residual block unchanged."""
    resnet.conv2.weight[channels] = 0
    resnet.conv2.bias[channels] = 0
    if resnet.conv_shortcut is not None:
        _only(resnet.conv_shortcut, channels, channels, torch.ones(1, 1))


def _middle(block: nn.Module, channels: list[int]) -> None:
    for resnet in block.resnets:
        _residual(resnet, channels)
    for attention in block.attentions:
        attention.to_out[0].weight[channels] = 0
        attention.to_out[0].bias[channels] = 0


def _level(conv: nn.Conv2d, norm: nn.GroupNorm, channels: list[int]) -> None:
    """Constants beside each channel of its group, and a working point where SiLU is nearly straight."""
    size = norm.num_channels // norm.num_groups
    for channel in channels:
        for place in range(channel + 1, channel + size):
            conv.bias[place] = _LARGE if (place - channel) % 2 else -_LARGE
        norm.weight[channel] = _LARGE
        norm.bias[channel] = _STRAIGHT


def _features(part: nn.Module, last: nn.Conv2d, given: Tensor) -> Tensor:
    """Mean features that reach the part's last convolution: (pictures, channels)."""
    caught = []
    hook = last.register_forward_hook(lambda module, inputs, output: caught.append(inputs[0]))
    part(given)
    hook.remove()
    return caught[0].mean((2, 3))


def _read(conv: nn.Conv2d, channels: list[int], features: Tensor, colours: Tensor) -> None:
    """Set the convolution's first three outputs to the colours, by a straight line through each channel."""
    for row, channel in enumerate(channels):
        line = torch.stack([features[:, channel], torch.ones(len(features))], 1)
        slope, offset = torch.linalg.lstsq(line, colours[:, row : row + 1]).solution[:, 0]
        conv.weight[row] = 0
        conv.weight[row, channel, 1, 1] = slope
        conv.bias[row] = offset
