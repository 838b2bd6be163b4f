"""Finished runs in a home of their own, made in this process with tiny random models: no downloads."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from playground.jobs import local
from playground.jobs.pipeline import pipeline
from playground.methods.registry import method
from playground.results.runs import Filing, Run, RunStore
from playground.settings import Settings

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEXTS = [
    "train word number 12 of the task",
    "dev word, and the rest of it",
    "say a or b? assistant user system",
]
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SMOLLM = [
    pre_tokenizers.Digits(individual_digits=True),
    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
]
QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def bpe_tokenizer(steps=SMOLLM):
    """A byte-level BPE with a few merges, which splits as SmolLM2's does."""
    core = Tokenizer(BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(list(steps))
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(TEXTS * 3, trainer)
    made = PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        unk_token="<|endoftext|>",
        model_max_length=512,
    )
    made.chat_template = CHATML
    return made


def qwen_tokenizer():
    """The same, but it splits as Qwen's does."""
    split = pre_tokenizers.Split(Regex(QWEN), "isolated")
    return bpe_tokenizer([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def sizes(tokenizer, **changes):
    """A configuration's values for a network of two small layers with wide weights."""
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
        "initializer_range": 0.2,
        "tie_word_embeddings": True,
    } | changes


def llama(tokenizer, seed=0, **changes):
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(**sizes(tokenizer, **changes))).eval()


@dataclass
class Home:
    """A home with a tiny model's folder and a task of a few words."""

    settings: Settings
    store: RunStore
    model: Path
    task: str = "words"

    def run(self, method_id: str, **params) -> Run:
        """Do a run to its end, in this process."""
        technique = method(method_id)
        filing = Filing(
            key=f"{method_id}{sorted(params.items())}",
            method=method_id,
            params=technique.Params.parse(params).model_dump(),
            model=str(self.model),
            task=self.task,
            limit=4,
        )
        run = self.store.submit(filing)
        self.store.transition(run.id, "running", expect={"queued"})
        folder = local.run_folder(self.settings, run.id)
        folder.mkdir(parents=True)
        self.store.append(run.id, list(pipeline(run, self.settings, folder)))
        self.store.finish(run.id, "done")
        return self.store.get(run.id)


def home(folder: Path, network=None, tokenizer=None) -> Home:
    """Make one in an empty folder."""
    tokenizer = tokenizer or bpe_tokenizer()
    model = folder / "somewhere" / "tiny-llama"
    (network or llama(tokenizer, hidden_size=64, intermediate_size=128)).save_pretrained(model)
    tokenizer.save_pretrained(model)
    settings = Settings(home=folder / "home", offline=True, device="cpu", threads=1)
    _task(settings.tasks / "words")
    return Home(settings, RunStore(settings.database), model)


def _task(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "task.toml").write_text(
        'id = "words"\ntitle = "Words | <b>bold</b>"\nsummary = "s"\ndescription = "d"\nmodality = "text"\n'
        'answer = "label"\nmetric = "accuracy"\ninput_name = "Word"\ntarget_name = "Kind"\n'
        'instruction = "say a or b?"\nlabels = ["a", "b"]\nlicence = "Apache-2.0"\n'
    )
    for split, count in (("train", 16), ("dev", 4), ("test", 6)):
        items = [
            {"id": f"{split}{i}", "input": f"{split} word {i}", "target": "ab"[i % 2]} for i in range(count)
        ]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))


def with_settings(made: Home, **changes) -> Home:
    return dataclasses.replace(made, settings=dataclasses.replace(made.settings, **changes))
