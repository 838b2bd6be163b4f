"""The code that loads an exported result, as the model card prints it."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playground.models import chat_date
from playground.results.card import Form
from playground.results.runs import Run

# arguments of BitsAndBytesConfig for the ways to load a base model quantised, see playground.models.quantise
PACKING: dict[str, dict[str, Any]] = {
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
    "nf4-single": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": False},
    "int8": {"load_in_8bit": True},
}
# what models.quantise.settle does: repacked weights give DoRA other lengths, and answers that are rounded
_NOT_REPACKED = (
    "for layer in model.modules():  # on some CPUs bitsandbytes would repack the weights for bfloat16",
    '    if hasattr(layer, "support_avx512bf16_for_cpu"):',
    "        layer.support_avx512bf16_for_cpu = False",
)
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Base:
    """The base model as the code names it. ``revision`` is a commit of the Hub.

    ``chat`` = it has a template; ``dated`` = the template asks for the date.
    """

    name: str
    revision: str | None = None
    chat: bool = True
    dated: bool = True


def base(repo: str | None, title: str, run: Run, folder: Path | None) -> Base:
    """The base model of a run; ``folder`` holds its files, where they are at hand."""
    revision = run.provenance.get("model_revision")
    commit = revision if repo and isinstance(revision, str) and _COMMIT.fullmatch(revision) else None
    name = repo or f"path/to/{Path(title).name}"
    if folder is None:
        return Base(name, commit)
    template = _template(folder)
    return Base(name, commit, bool(template), chat_date.asked_for(template))


def library(form: Form, folder: Path) -> str:
    """The Hub's name of the library that loads it: "peft", "transformers" or "playground"."""
    if form != "adapter":
        return "transformers"
    if (folder / "config.json").is_file():
        return "transformers"
    config = folder / "adapter_config.json"
    if config.is_file() and "peft_type" in json.loads(config.read_text(encoding="utf-8")):
        return "peft"
    return "playground"


def code(
    form: Form,
    library: str,
    base: Base,
    *,
    dtype: str,
    instruction: str,
    name: str,
    packed: str | None = None,
) -> str:
    """Markdown with the exact code. ``name`` is the folder's, or of GGUF the file's.

    Args:
        packed: how the base model was quantised (a key of ``PACKING``), None = not at all.
    """
    if form == "gguf":
        return _gguf(name)
    quantization = dict(PACKING[packed]) if packed else None
    if quantization and "load_in_4bit" in quantization:
        quantization["bnb_4bit_compute_dtype"] = dtype
    lines = {"peft": _peft, "transformers": _transformers, "playground": _own}[library](
        base, dtype, name, quantization
    )
    where = "Run it in the folder above this one, with `pip install transformers torch{}`{}.".format(
        (" peft" if library == "peft" else "") + (" bitsandbytes" if packed and form == "adapter" else ""),
        " and this project's checkout on the `PYTHONPATH`" if library == "playground" else "",
    )
    if packed == "int8" and form == "adapter":
        where += " On a CPU bitsandbytes rounds what enters a layer to 8 bits, too, which changes answers a little."
    return f"{where}\n\n```python\n" + "\n".join([*lines, "", *_ask(base, instruction)]) + "\n```"


def _from(base: Base) -> str:
    return f"{base.name!r}" + (f", revision={base.revision!r}" if base.revision else "")


def _load_base(base: Base, dtype: str, quantization: dict[str, Any] | None) -> list[str]:
    if not quantization:
        return [f'model = AutoModelForCausalLM.from_pretrained({_from(base)}, dtype="{dtype}")']
    options = ", ".join(f"{key}={value!r}" for key, value in quantization.items())
    lines = [
        f"quantization = BitsAndBytesConfig({options})",
        f'model = AutoModelForCausalLM.from_pretrained({_from(base)}, dtype="{dtype}", quantization_config=quantization)',
    ]
    return [*lines, *_NOT_REPACKED] if "load_in_4bit" in quantization else lines


def _imports(quantization: dict[str, Any] | None) -> str:
    config = ", BitsAndBytesConfig" if quantization else ""
    return f"from transformers import AutoModelForCausalLM, AutoTokenizer{config}"


def _peft(base: Base, dtype: str, name: str, quantization: dict[str, Any] | None) -> list[str]:
    return [
        "from peft import PeftModel",
        _imports(quantization),
        "",
        f"tokenizer = AutoTokenizer.from_pretrained({_from(base)})",
        *_load_base(base, dtype, quantization),
        f"model = PeftModel.from_pretrained(model, {name!r}).eval()",
    ]


def _own(base: Base, dtype: str, name: str, quantization: dict[str, Any] | None) -> list[str]:
    return [
        _imports(quantization),
        "",
        "from playground.methods.saved import attach",
        "",
        f"tokenizer = AutoTokenizer.from_pretrained({_from(base)})",
        *_load_base(base, dtype, quantization),
        f"model = attach(model, {name!r})",
    ]


def _transformers(base: Base, dtype: str, name: str, quantization: dict[str, Any] | None) -> list[str]:
    return [
        _imports(None),
        "",
        f"tokenizer = AutoTokenizer.from_pretrained({name!r})",
        f'model = AutoModelForCausalLM.from_pretrained({name!r}, dtype="{dtype}").eval()',
    ]


def _ask(base: Base, instruction: str) -> list[str]:
    if not base.chat:
        return [
            f"prompt = {instruction!r} + '\\nInput: ' + 'your text' + '\\nOutput:'",
            'inputs = tokenizer(prompt, return_tensors="pt")',
            *_answer(),
        ]
    return [
        "messages = [",
        f'    {{"role": "system", "content": {instruction!r}}},',
        '    {"role": "user", "content": "your text"},',
        "]",
        *_apply(base.dated),
        '    add_generation_prompt=True, enable_thinking=False, return_tensors="pt", return_dict=True',
        ")",
        *_answer(),
    ]


def _apply(dated: bool) -> list[str]:
    if not dated:
        return ["inputs = tokenizer.apply_chat_template(", "    messages,"]
    return [
        "# the day of the run's prompts, not today",
        f"day = {chat_date.STRFTIME_NOW!r}",
        "inputs = tokenizer.apply_chat_template(",
        f"    messages, chat_template=day + tokenizer.get_chat_template(), date_string={chat_date.DATE_STRING!r},",
    ]


def _answer() -> list[str]:
    return [
        "tokens = model.generate(**inputs, do_sample=False, max_new_tokens=32)",
        'answer = tokenizer.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)',
        "print(answer)",
    ]


def _gguf(name: str) -> str:
    return (
        f"```bash\nllama-cli -m {name} --temp 0\n```\n\n"
        "or with `pip install transformers torch gguf`, which unpacks it to plain weights:\n\n"
        "```python\nfrom transformers import AutoModelForCausalLM\n\n"
        f'model = AutoModelForCausalLM.from_pretrained(".", gguf_file={name!r})\n```'
    )


def _template(folder: Path) -> str:
    """The chat template, several one after the other; "" = there is none."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    config = folder / "tokenizer_config.json"
    found = json.loads(config.read_text(encoding="utf-8")).get("chat_template") if config.is_file() else None
    return found if isinstance(found, str) else json.dumps(found) if found else ""
