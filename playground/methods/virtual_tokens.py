"""What the techniques share that leave the model as it is and train tokens to put before its input (PEFT)."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from playground.methods.base import Context, parameter
from playground.methods.parametric import TrainingParams
from playground.methods.peft_tuner import PeftTuner

if TYPE_CHECKING:
    import torch
    from torch import nn


class VirtualTokenParams(TrainingParams):
    """What techniques with virtual tokens let one choose."""

    virtual_tokens: int = parameter(
        20, "Virtual tokens", "How many trained tokens stand before every input.", minimum=1, maximum=1024
    )


class StartedTokenParams(VirtualTokenParams):
    """The same for those whose tokens can begin as those of a text."""

    start: Literal["examples", "instruction", "random"] = parameter(
        "instruction",
        "Start from",
        "What the virtual tokens are before training: the task's instruction, training examples as a chat, "
        "or random numbers. A text is repeated or cut to their number.",
    )


class VirtualTokenTuner(PeftTuner):
    """A tuner of PEFT that trains virtual tokens. There are no weights that it could be folded into."""

    Params = VirtualTokenParams

    def wrap(self, params: VirtualTokenParams, network: "nn.Module", seed: int = 0) -> "nn.Module":
        """See ``Parametric.wrap``."""
        import torch
        from peft.utils.other import _prepare_prompt_learning_config

        from playground.training.virtual_tokens import VirtualTokens

        torch.manual_seed(seed)
        with self.explained():
            config = _prepare_prompt_learning_config(self.config(params, network), network.config)
            return VirtualTokens(network, config)

    def switch(self, network: "nn.Module", on: bool) -> None:
        """See ``Parametric.switch``."""
        network.on = on

    def merge(self, network: "nn.Module") -> "nn.Module":
        """The network itself: virtual tokens cannot be folded into weights."""
        return network

    def read(self, network: "nn.Module", folder: Path) -> None:
        """See ``Parametric.read``. PEFT keeps what an encoder gives, not the encoder."""
        from peft import get_peft_model_state_dict

        from playground.methods.peft_tuner import WEIGHTS
        from playground.training.adapter_files import tensors
        from playground.training.virtual_tokens import FixedEncoder

        found = tensors(folder / WEIGHTS, get_peft_model_state_dict(network, save_embedding_layers=False))
        encoder = FixedEncoder(found["prompt_embeddings"]).to(network.device)
        network.prompt_encoder[network.active_adapter] = encoder


def text_ids(params: StartedTokenParams, context: Context) -> "torch.Tensor | None":
    """The token ids of the text that the virtual tokens start from, (virtual tokens,); None = random."""
    import torch

    if params.start == "random":
        return None
    model, task = context.model, context.task
    if params.start == "instruction":
        ids = model.tokenizer.encode(task.instruction, add_special_tokens=False)
    else:
        enough = task.train[: params.virtual_tokens // 8 + 1]
        chat = task.messages("", enough)[:-1]  # without the empty question
        ids = model.encode(chat, add_generation_prompt=False)
    repeats = -(-params.virtual_tokens // len(ids))
    return torch.tensor((ids * repeats)[: params.virtual_tokens], device=model.device)
