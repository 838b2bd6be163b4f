"""A merged model as one GGUF file, as llama.cpp, Ollama and LM Studio read it.

Names, order of the Q and K rows and keys are those of llama.cpp's own converter
(https://github.com/ggml-org/llama.cpp, convert_hf_to_gguf.py); the file format is written by its
``gguf`` package. Weights are written one by one: no second copy of the model is held.
"""

import json
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Type
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from playground.errors import AdapterError, InvalidInput
from playground.events import Event

Precision = Literal["float32", "float16", "q8_0"]

_TYPES = {"float32": Type.F32, "float16": Type.F16, "q8_0": Type.Q8_0}
_FILE_TYPES = {
    "float32": gguf.LlamaFileType.ALL_F32,
    "float16": gguf.LlamaFileType.MOSTLY_F16,
    "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
}
_BLOCK = 32  # numbers that share a scale in Q8_0
_MOST_FLOAT16 = 65504.0


@dataclass(frozen=True)
class Architecture:
    """How llama.cpp names a kind of network, and whether it wants the rows of Q and K interleaved."""

    key: gguf.MODEL_ARCH
    interleaved: bool = False
    head_size: bool = False  # written out, as it need not be hidden size / heads


ARCHITECTURES = {
    "LlamaForCausalLM": Architecture(gguf.MODEL_ARCH.LLAMA, interleaved=True),
    "Qwen2ForCausalLM": Architecture(gguf.MODEL_ARCH.QWEN2),
    "Qwen3ForCausalLM": Architecture(gguf.MODEL_ARCH.QWEN3, head_size=True),
}

_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_BYTES_ONLY = ("ByteLevel", False)
# how a byte-level BPE splits text before its merges, and what llama.cpp calls that rule
_RULES = {
    (("Digits", True), ("ByteLevel", True)): "smollm",
    (("ByteLevel", True),): "gpt-2",
    (("Split", _WORDS + r"\p{N}" + _REST), _BYTES_ONLY): "qwen2",
    (("Split", _WORDS + r"\p{N}{1,3}" + _REST), _BYTES_ONLY): "llama-bpe",
}


@dataclass(frozen=True)
class Origin:
    """What the file says of where it comes from. ``repo`` is the base model's name on the Hub, or None."""

    name: str
    description: str = ""
    licence: str | None = None
    base: str = ""
    repo: str | None = None


def check(network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, precision: str) -> None:
    """Refuse what this writer cannot write, before any work.

    Raises:
        InvalidInput: the precision is none of ``Precision``.
        AdapterError: the network's or the tokenizer's kind is not known; names those that are.
    """
    if precision not in _TYPES:
        raise InvalidInput(
            f"GGUF can be written as {', '.join(_TYPES)}, not as “{precision}”.", field="precision"
        )
    _architecture(network)
    _rope(network.config)
    _rule(tokenizer)


def write(
    network: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    file: Path,
    precision: Precision,
    origin: Origin,
) -> Generator[Event, None, None]:
    """Write ``file``, telling how many tensors of all are written.

    Matrices are written in the precision, vectors (norms, biases) in float32. In Q8_0 a matrix whose
    rows are no multiple of 32 numbers is written in float16.

    Raises:
        as ``check``; AdapterError: a weight is too large for float16; OSError: the disk is full.
    """
    check(network, tokenizer, precision)
    architecture = _architecture(network)
    writer = gguf.GGUFWriter(file, gguf.MODEL_ARCH_NAMES[architecture.key])
    try:
        _describe(writer, origin, precision)
        _shape(writer, network, architecture)
        _vocabulary(writer, tokenizer, network.get_input_embeddings().weight.shape[0])
        tensors = list(_tensors(network, architecture))
        for name, tensor in tensors:
            kind = _type(tensor, precision)
            writer.add_tensor_info(
                name, tensor.shape, np.dtype(np.float32), _bytes(tensor, kind), raw_dtype=kind
            )
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for done, (name, tensor) in enumerate(tensors):
            yield Event.progress("write", done, len(tensors), unit="tensor")
            writer.write_tensor_data(_numbers(name, tensor, _type(tensor, precision)))
        yield Event.progress("write", len(tensors), len(tensors), unit="tensor")
    finally:
        writer.close()


# ---- the network


def _architecture(network: PreTrainedModel) -> Architecture:
    kind = type(network).__name__
    known = ARCHITECTURES.get(kind)
    if known is None:
        names = ", ".join(name.removesuffix("ForCausalLM") for name in ARCHITECTURES)
        raise AdapterError(
            f"GGUF export knows networks of the kinds {names}; this one is a {kind.removesuffix('ForCausalLM')}. "
            "Merge it instead, and convert it with llama.cpp's convert_hf_to_gguf.py."
        )
    config = network.config
    odd = []
    if config.hidden_act != "silu":
        odd.append(f"its activation is {config.hidden_act}")
    if "sliding_attention" in (getattr(config, "layer_types", None) or ()):
        odd.append("some layers look back a limited way only")
    if odd:
        raise AdapterError(f"GGUF export cannot write this network: {' and '.join(odd)}.")
    return known


def _rope(config: Any) -> torch.Tensor | None:
    """By how much each rotary frequency is divided, shape (head size / 2,); None where none is.

    Raises:
        AdapterError: the rotary embedding is of a kind that llama.cpp is not told by frequencies alone.
    """
    parameters = config.rope_parameters
    kind = parameters.get("rope_type", "default")
    if kind not in {"default", "llama3"} or parameters.get("partial_rotary_factor", 1.0) != 1.0:
        raise AdapterError(f"GGUF export cannot write rotary embeddings of the kind “{kind}”.")
    if kind == "default":
        return None
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaled, _ = ROPE_INIT_FUNCTIONS[kind](config, torch.device("cpu"))
    size = _head_size(config)
    plain = 1.0 / parameters["rope_theta"] ** (torch.arange(0, size, 2, dtype=torch.float32) / size)
    return plain / scaled


def _head_size(config: Any) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def _shape(writer: gguf.GGUFWriter, network: PreTrainedModel, architecture: Architecture) -> None:
    config = network.config
    size = _head_size(config)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(network.get_input_embeddings().weight.shape[0])
    if architecture.interleaved:
        writer.add_rope_dimension_count(size)
    if architecture.head_size or size * config.num_attention_heads != config.hidden_size:
        writer.add_key_length(size)
        writer.add_value_length(size)


def _tensors(network: PreTrainedModel, architecture: Architecture) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors under llama.cpp's names, in its order of rows."""
    config = network.config
    names = gguf.get_tensor_name_map(architecture.key, config.num_hidden_layers)
    factors = _rope(config)
    if factors is not None:
        yield "rope_freqs.weight", factors
    for name, tensor in network.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        found = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if found is None:
            raise AdapterError(f"GGUF export does not know the tensor {name}.")
        if architecture.interleaved and ".attn_q." in found:
            tensor = _interleave(tensor, config.num_attention_heads)
        if architecture.interleaved and ".attn_k." in found:
            tensor = _interleave(tensor, config.num_key_value_heads)
        yield found, tensor


def _interleave(tensor: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows of each head from halves side by side (transformers) to pairs (llama.cpp)."""
    halves = tensor.reshape(heads, 2, tensor.shape[0] // heads // 2, *tensor.shape[1:])
    return halves.transpose(1, 2).reshape(tensor.shape)


def _type(tensor: torch.Tensor, precision: str) -> Type:
    if tensor.dim() < 2:
        return Type.F32
    kind = _TYPES[precision]
    return Type.F16 if kind == Type.Q8_0 and tensor.shape[-1] % _BLOCK else kind


def _bytes(tensor: torch.Tensor, kind: Type) -> int:
    numbers, size = gguf.GGML_QUANT_SIZES[kind]
    return tensor.numel() // numbers * size


def _numbers(name: str, tensor: torch.Tensor, kind: Type) -> np.ndarray:
    values = tensor.detach().to("cpu", torch.float32).contiguous().numpy()
    if kind == Type.F16 and np.abs(values).max() > _MOST_FLOAT16:
        raise AdapterError(
            f"The tensor {name} holds numbers that are too large for float16. Choose float32 or Q8_0."
        )
    return gguf.quantize(values, kind)


# ---- what the file says of itself


def _describe(writer: gguf.GGUFWriter, origin: Origin, precision: str) -> None:
    writer.add_type("model")
    writer.add_name(origin.name)
    if origin.description:
        writer.add_description(origin.description)
    if origin.licence:
        writer.add_license(origin.licence)
    if origin.base:
        writer.add_base_model_count(1)
        writer.add_base_model_name(0, origin.base)
        if origin.repo:
            writer.add_base_model_organization(0, origin.repo.partition("/")[0])
            writer.add_base_model_repo_url(0, f"https://huggingface.co/{origin.repo}")
    writer.add_file_type(_FILE_TYPES[precision])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)


def _vocabulary(writer: gguf.GGUFWriter, tokenizer: PreTrainedTokenizerBase, size: int) -> None:
    rule = _rule(tokenizer)
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    words = {id: word for word, id in tokenizer.get_vocab().items()}
    added = tokenizer.added_tokens_decoder
    tokens, kinds = [], []
    for id in range(max(size, max(words) + 1)):
        tokens.append(words.get(id, f"[PAD{id}]"))
        if id not in words:
            kinds.append(gguf.TokenType.UNUSED)
        elif id in added:
            kinds.append(gguf.TokenType.CONTROL if added[id].special else gguf.TokenType.USER_DEFINED)
        else:
            kinds.append(gguf.TokenType.NORMAL)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(rule)
    writer.add_token_list(tokens[:size])
    writer.add_token_types([int(kind) for kind in kinds[:size]])
    writer.add_token_merges([pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]])
    writer.add_add_space_prefix(False)
    _special(writer, tokenizer)
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)


def _special(writer: gguf.GGUFWriter, tokenizer: PreTrainedTokenizerBase) -> None:
    ids = tokenizer("a")["input_ids"]
    writer.add_add_bos_token(tokenizer.bos_token_id is not None and ids[0] == tokenizer.bos_token_id)
    writer.add_add_eos_token(tokenizer.eos_token_id is not None and ids[-1] == tokenizer.eos_token_id)
    for id, add in (
        (tokenizer.bos_token_id, writer.add_bos_token_id),
        (tokenizer.eos_token_id, writer.add_eos_token_id),
        (tokenizer.pad_token_id, writer.add_pad_token_id),
        (tokenizer.unk_token_id, writer.add_unk_token_id),
    ):
        if id is not None:
            add(id)


def _rule(tokenizer: PreTrainedTokenizerBase) -> str:
    """llama.cpp's name for the way in which the tokenizer splits text.

    Raises:
        AdapterError: it is no byte-level BPE, or splits in a way that has no known name.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    core = json.loads(backend.to_str()) if backend is not None else {}
    model = core.get("model", {})
    if model.get("type") != "BPE" or not model.get("merges"):
        raise AdapterError(
            "GGUF export knows tokenizers that are byte-level BPE, as those of SmolLM2, Llama 3 and Qwen; "
            f"this one is a {model.get('type') or type(tokenizer).__name__}."
        )
    rule = _RULES.get(_steps(core.get("pre_tokenizer") or {}))
    if rule is None or bool(model.get("ignore_merges")) != (rule == "llama-bpe"):
        raise AdapterError(
            "GGUF export does not know by which rule this tokenizer splits text, so llama.cpp could read "
            f"it wrongly. Known are the rules of {', '.join(_RULES.values())}."
        )
    return rule


def _steps(step: dict[str, Any]) -> tuple[tuple[str, Any], ...]:
    """A pre-tokenizer's steps as (kind, what decides); an unknown one makes the rule unknown."""
    kind = step.get("type", "")
    if kind == "Sequence":
        return tuple(part for inner in step["pretokenizers"] for part in _steps(inner))
    if kind == "Digits":
        return ((kind, step["individual_digits"]),)
    if kind == "ByteLevel" and not step["add_prefix_space"]:
        return ((kind, step["use_regex"]),)
    if kind == "Split" and step["behavior"] == "Isolated" and not step["invert"]:
        return ((kind, step["pattern"].get("Regex", "")),)
    return ((kind, None),)
