"""Turn a GGUF file into a folder of safetensors, once. Run as a process of its own.

``python -m playground.models.convert FILE.gguf FOLDER``: the page's process neither imports torch for
it nor keeps its memory (about 1.5 GB for a model of 135 million parameters).
"""

import sys
from pathlib import Path

import gguf
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, PreTrainedTokenizerFast

# What llama.cpp calls these tokenizers splits every digit apart, before GPT-2's own rule.
_SINGLE_DIGITS = {"smollm", "starcoder", "refact"}


def convert(file: Path, folder: Path) -> None:
    """Write ``folder`` with float32 weights, tokenizer, chat template and generation settings.

    Raises:
        ValueError, OSError: transformers cannot read the file, or the disk is full.
    """
    tokenizer = _tokenizer(file)
    model = AutoModelForCausalLM.from_pretrained(
        file.parent,
        gguf_file=file.name,
        dtype="float32",
        quantization_config=GgufConfig(dequantize=True),
    )
    model.save_pretrained(folder)
    tokenizer.model_max_length = model.config.max_position_embeddings
    tokenizer.save_pretrained(folder)


def _tokenizer(file: Path) -> PreTrainedTokenizerFast:
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    rule = gguf.GGUFReader(file).fields.get("tokenizer.ggml.pre")
    if rule is not None and rule.contents() in _SINGLE_DIGITS:
        backend = tokenizer.backend_tokenizer
        # transformers reads the vocabulary and the merges from GGUF, but not this rule.
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), backend.pre_tokenizer]
        )
    return tokenizer


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
