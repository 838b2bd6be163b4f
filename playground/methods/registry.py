"""Which methods there are: the built-in ones and those that other packages bring.

A package adds methods with an entry point in its pyproject.toml::

    [project.entry-points."playground.methods"]
    mine = "my_package.mine:MyMethod"
"""

import logging
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points

from playground.errors import InvalidInput
from playground.methods.base import Method

GROUP = "playground.methods"

# In the order of the tabs and the table's rows.
BUILT_IN = (
    "playground.methods.zero_shot:ZeroShot",
    "playground.methods.few_shot:FewShot",
    "playground.methods.rag:RAG",
    "playground.methods.full:Full",
    "playground.methods.lora:LoRA",
    "playground.methods.qlora:QLoRA",
    "playground.methods.bitfit:BitFit",
    "playground.methods.bottleneck:Bottleneck",
    "playground.methods.ia3:IA3",
    "playground.methods.prefix_tuning:PrefixTuning",
    "playground.methods.prompt_tuning:PromptTuning",
    "playground.methods.adalora:AdaLoRA",
    "playground.methods.oft:OFT",
    "playground.methods.vera:VeRA",
    "playground.methods.ln_tuning:LNTuning",
    "playground.methods.p_tuning:PTuning",
    "playground.methods.newer_peft:HRA",
    "playground.methods.newer_peft:PSOFT",
    "playground.methods.newer_peft:RoAd",
    "playground.methods.newer_peft:LoHa",
    "playground.methods.newer_peft:LoKr",
    "playground.methods.newer_peft:GLoRA",
    "playground.methods.newer_peft:HiRA",
    "playground.methods.newer_peft:DeLoRA",
    "playground.methods.newer_peft:GraLoRA",
    "playground.methods.newer_peft:MiSS",
    "playground.methods.newer_peft:RandLoRA",
    "playground.methods.newer_peft:VBLoRA",
    "playground.methods.newer_peft:UniLoRA",
    "playground.methods.newer_peft:TinyLoRA",
    "playground.methods.newer_peft:PVeRA",
    "playground.methods.newer_peft:PEANuT",
    "playground.methods.newer_peft:DEFT",
    "playground.methods.newer_peft:FourierFT",
    "playground.methods.newer_peft:WaveFT",
    "playground.methods.newer_peft:C3A",
    "playground.methods.newer_peft:SHiRA",
    "playground.methods.newer_peft:SuperTuning",
    "playground.methods.newer_peft:OSF",
    "playground.methods.newer_peft:BEFT",
    "playground.methods.newer_peft:LlamaAdapter",
    "playground.methods.newer_peft:TrainableTokens",
    "playground.methods.image_base:ImageBase",
    "playground.methods.dreambooth:DreamBooth",
    "playground.methods.dreambooth_lora:DreamBoothLoRA",
    "playground.methods.style_lora:StyleLoRA",
)

# Those that race unless others are chosen: one of each kind, in about ten minutes on two cores.
RACE = ("zero_shot", "few_shot", "rag", "lora")

log = logging.getLogger(__name__)


@cache
def methods() -> dict[str, Method]:
    """All methods by id, built-in ones first. A foreign method that does not load is logged and left out."""
    found: dict[str, Method] = {}
    for reference in BUILT_IN:
        module, name = reference.split(":")
        register(found, getattr(import_module(module), name))
    for point in entry_points(group=GROUP):
        try:
            register(found, point.load())
        except Exception as error:  # a stranger's package must not keep the page from opening
            log.warning("The method %s was left out: %s", point.name, error)
    return found


def register(found: dict[str, Method], kind: type[Method]) -> None:
    """Add one method.

    Raises:
        InvalidInput: it is not a Method, or its id is taken.
    """
    if not (isinstance(kind, type) and issubclass(kind, Method)):
        raise InvalidInput(f"{kind!r} is not a Method.")
    if kind.id in found:
        raise InvalidInput(f"There are two methods called {kind.id!r}.")
    found[kind.id] = kind()


def method(id: str) -> Method:
    """The method with that id.

    Raises:
        InvalidInput: there is none; the message names those there are.
    """
    try:
        return methods()[id]
    except KeyError:
        raise InvalidInput(
            f"There is no method “{id}”. Methods: {', '.join(methods())}.", field="method"
        ) from None
