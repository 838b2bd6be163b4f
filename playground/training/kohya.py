"""LoRA files in the form of kohya-ss/sd-scripts, which AUTOMATIC1111, ComfyUI, Forge and InvokeAI read.

A layer is three tensors: ``lora_unet_<module>.lora_down.weight``, ``….lora_up.weight`` and ``….alpha``; its scale
is alpha / rank. Dots in a module's name become underscores. Stable Diffusion's U-Net is named as in diffusers,
SDXL's as in Stability's own code ("sgm": input_blocks, middle_block, output_blocks); its text encoders are
``lora_te1`` and ``lora_te2``, the one of Stable Diffusion ``lora_te``.

Files that say alpha = rank whatever was trained, as diffusers' own conversion writes them, change the scale.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from playground.errors import AdapterError, InvalidInput
from playground.training.diffusion_files import DOWN, LORA_FILE, UP, read_lora_file
from playground.training.saving import atomic_file

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_OUTSIDE = {
    "conv_in": "input_blocks.0.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
_BLOCK = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)")
_MIDDLE = re.compile(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)")


def to_kohya(
    tensors: Mapping[str, Tensor], alphas: Mapping[str, float], sdxl_layers: int | None = None
) -> dict[str, Tensor]:
    """A LoRA under kohya's names.

    Args:
        tensors: by "unet.<module>.lora_A.weight" and so on, see ``diffusion_files.lora_of``.
        alphas: by "unet.<module>".
        sdxl_layers: of an SDXL pipeline its U-Net's ``layers_per_block`` (2), None for Stable Diffusion.

    Raises:
        InvalidInput: it is of a model that kohya's names do not know (a transformer).
    """
    made = {}
    for module, alpha in alphas.items():
        name = kohya_name(module, sdxl_layers)
        made[f"{name}.lora_down.weight"] = tensors[module + DOWN].detach().cpu().contiguous()
        made[f"{name}.lora_up.weight"] = tensors[module + UP].detach().cpu().contiguous()
        made[f"{name}.alpha"] = torch.tensor(float(alpha))
    return made


def from_kohya(
    tensors: Mapping[str, Tensor], modules: Iterable[str], sdxl_layers: int | None = None
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """The opposite of ``to_kohya``; a layer without alpha has alpha = rank, as kohya takes it.

    Args:
        modules: the names of the model's modules, see ``diffusion_files.module_names``: underscores alone do
            not tell where the dots were.

    Raises:
        AdapterError: a tensor belongs to no module of this model, or a layer is not whole.
    """
    places = {}
    for module in modules:
        if module.partition(".")[0] in _PREFIXES:
            places |= dict.fromkeys(_spellings(module, sdxl_layers), module)
    names = {name.partition(".")[0] for name in tensors}
    foreign = sorted(name for name in names if name not in places)
    if foreign:
        raise AdapterError(f"The LoRA does not fit this model, which has no {foreign[0]}.")
    found, alphas = {}, {}
    for name in sorted(names):
        down, up = (tensors.get(f"{name}.lora_{end}.weight") for end in ("down", "up"))
        if down is None or up is None or len(down) != up.shape[1]:
            raise AdapterError(f"The LoRA is incomplete or of another kind: {name}.")
        module = places[name]
        found[module + DOWN], found[module + UP] = down, up
        alphas[module] = float(tensors.get(f"{name}.alpha", torch.tensor(float(len(down)))))
    return found, alphas


def export(adapter: Path, path: Path, sdxl_layers: int | None = None) -> None:
    """Write the LoRA in an adapter's folder as one file in kohya's form.

    Args:
        adapter: folder with what ``diffusion_files.write_lora`` wrote.
        path: the file to write, "….safetensors".
        sdxl_layers: see ``to_kohya``.

    Raises:
        AdapterError: there is no whole LoRA in the folder.
        InvalidInput: kohya's names do not know this kind of model.
        RunFailed: the disk is full.
    """
    tensors, alphas = read_lora_file(Path(adapter) / LORA_FILE)
    made = to_kohya(tensors, alphas, sdxl_layers)
    ranks = {len(value) for name, value in tensors.items() if name.endswith(DOWN)}
    told = {"format": "pt", "ss_network_module": "networks.lora"}
    told["ss_network_dim"] = str(ranks.pop()) if len(ranks) == 1 else "Dynamic"
    told["ss_network_alpha"] = f"{min(alphas.values()):g}" if len(set(alphas.values())) == 1 else "Dynamic"
    with atomic_file(path) as partial:
        save_file(made, partial, metadata=told)


_PREFIXES = {"unet": "lora_unet", "text_encoder": "lora_te", "text_encoder_2": "lora_te2"}


def kohya_name(module: str, sdxl_layers: int | None = None) -> str:
    """kohya's name of "unet.<module>" or "text_encoder.<module>".

    Raises:
        InvalidInput: it is of another component.
    """
    component, _, name = module.partition(".")
    if component not in _PREFIXES:
        raise InvalidInput(
            "kohya's form is for Stable Diffusion and SDXL. For models with a transformer take the file as it is, "
            "diffusers and ComfyUI read it."
        )
    prefix = _PREFIXES[component]
    if sdxl_layers is not None:
        prefix = "lora_te1" if component == "text_encoder" else prefix
        name = _sgm(name, sdxl_layers) if component == "unet" else name
    return f"{prefix}_{name.replace('.', '_')}"


def _spellings(module: str, sdxl_layers: int | None) -> set[str]:
    """How files name a module: as it should be, and as others write it."""
    return {
        kohya_name(module, sdxl_layers),
        kohya_name(module),
        kohya_name(module).replace("lora_te_", "lora_te1_"),
    }


def _sgm(name: str, layers: int) -> str:
    """A module of SDXL's U-Net as Stability's code calls it; ``layers`` is the U-Net's layers_per_block."""
    if match := _BLOCK.fullmatch(name):
        side, block, kind, at, rest = match[1], int(match[2]), match[3], int(match[4]), match[5]
        if kind == "downsamplers":
            return f"input_blocks.{(block + 1) * (layers + 1)}.0.op"
        if kind == "upsamplers":
            return f"output_blocks.{block * (layers + 1) + layers}.2.{rest}"
        number = block * (layers + 1) + at + (side == "down")
        return f"{'input' if side == 'down' else 'output'}_blocks.{number}.{_inner(kind, rest)}"
    if match := _MIDDLE.fullmatch(name):
        number = 1 if match[1] == "attentions" else 2 * int(match[2])
        return f"middle_block.{number}.{_inner(match[1], match[3]).partition('.')[2]}"
    return _OUTSIDE.get(name, name)


def _inner(kind: str, rest: str) -> str:
    return f"1.{rest}" if kind == "attentions" else f"0.{_RESNET.get(rest, rest)}"
