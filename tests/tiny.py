"""A tiny random Llama with a tiny tokenizer, and a task that it can learn in seconds: no downloads."""

from dataclasses import dataclass, field

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from playground.data.tasks import Item, Task
from playground.events import result_of
from playground.methods.base import Context
from playground.models.catalogue import Model
from playground.models.text import LanguageModel

LABELS = ("north", "south", "east", "west")
WORDS = ("one", "two", "three", "four", "five", "six", "seven", "red", "green", "blue", "grey")
SPECIAL = ("<pad>", "<end>", "<system>", "<user>", "<assistant>", "<unk>", "say", "where")
TEMPLATE = (
    "{% for m in messages %}{{ '<' + m['role'] + '> ' + m['content'] + ' <end> ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant> ' }}{% endif %}"
)


def tokenizer():
    words = {word: at for at, word in enumerate((*SPECIAL, *LABELS, *WORDS))}
    core = Tokenizer(WordLevel(words, unk_token="<unk>"))
    core.pre_tokenizer = WhitespaceSplit()
    made = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="<end>", unk_token="<unk>", model_max_length=128
    )
    made.chat_template = TEMPLATE
    return made


def language_model(seed=0, revision="abc", **changes):
    torch.manual_seed(seed)
    sizes = {
        "vocab_size": 32,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "eos_token_id": 1,
        "pad_token_id": 0,
        "initializer_range": 0.2,
    }
    network = LlamaForCausalLM(LlamaConfig(**(sizes | changes))).eval()
    entry = Model("tiny", "Tiny", "tiny/tiny", "main", "Apache-2.0", 1, "text", 1)
    cpu = torch.device("cpu")
    return LanguageModel(network, tokenizer(), entry, cpu, torch.float32, 0.0, revision)


def task():
    colours = dict(zip(("red", "green", "blue", "grey"), LABELS, strict=True))
    items = [
        Item(f"{colour}-{word}", f"{word} {colour}", label)
        for colour, label in colours.items()
        for word in WORDS[:7]
    ]
    return Task(
        id="colours",
        title="Colours",
        summary="",
        description="",
        instruction="say where",
        answer="label",
        metric="accuracy",
        train=tuple(item for at, item in enumerate(items) if at % 4),
        dev=tuple(items[::4]),
        test=(),
        labels=LABELS,
    )


@dataclass
class Tried:
    """What a method handed back, and what it told."""

    adapted: object
    context: Context
    events: list = field(default_factory=list)


def context(folder, **changes):
    values = {"task": task(), "model": language_model(), "folder": folder, "seed": 0, "embedder": None}
    return Context(**(values | changes))


def adapt(method, params, folder, **changes):
    """Run a method's ``adapt`` to its end."""
    tried = Tried(None, context(folder, **changes))
    tried.adapted = result_of(method.adapt(params, tried.context), tried.events.append)
    return tried


def logits(model):
    ids = torch.tensor([[2, 6, 7, 1, 3, 12, 19, 1, 4]])
    with torch.no_grad():
        return model(input_ids=ids).logits
