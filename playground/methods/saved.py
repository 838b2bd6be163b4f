"""A downloaded adapter back on its base model, for the methods that no other library knows."""

from pathlib import Path
from typing import TYPE_CHECKING

from playground.errors import AdapterError, InvalidInput
from playground.methods.parametric import Parametric
from playground.methods.registry import method

if TYPE_CHECKING:
    from torch import nn


def attach(network: "nn.Module", folder: str | Path) -> "nn.Module":
    """Put a downloaded adapter of any method on its base model, as the run that trained it did::

        network = AutoModelForCausalLM.from_pretrained("owner/base-model")
        network = attach(network, "run-12-bitfit-adapter")

    Raises:
        AdapterError: the folder is incomplete, damaged, or not one that the playground wrote; or it does
            not fit the network.
    """
    from playground.training import adapter_files

    folder = Path(folder)
    about = adapter_files.verify(folder, {})
    try:
        technique = method(about["method"])
        params = technique.Params.parse(about["params"])
    except (KeyError, TypeError, InvalidInput) as error:
        raise AdapterError(
            f"The adapter's description is not one that this version knows: {error}"
        ) from error
    if not isinstance(technique, Parametric):
        raise AdapterError(f"{technique.title} has no adapter.")
    wrapped = technique.frame(params, network, int(about.get("seed") or 0))
    technique.read(wrapped, folder)
    return wrapped.eval()
