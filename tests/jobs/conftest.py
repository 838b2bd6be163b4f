"""A tiny random model and a small task, for whole runs in real workers."""

import json

import pytest


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """A folder with a random Llama of two layers whose tokens are bytes."""
    import torch
    from tokenizers import Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    pieces = ["<|im_start|>", "<|im_end|>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    backend = Tokenizer(BPE({piece: id for id, piece in enumerate(pieces)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|im_end|>"
    )
    tokenizer.chat_template = (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=8192,
        vocab_size=len(pieces),
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    folder = tmp_path_factory.mktemp("model")
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def words(settings):
    """A visitor's task of short messages, in the settings' home."""
    folder = settings.tasks / "words"
    folder.mkdir(parents=True)
    (folder / "task.toml").write_text(
        'id = "words"\ntitle = "Words"\nsummary = "s"\ndescription = "d"\nmodality = "text"\nanswer = "label"\n'
        'metric = "accuracy"\ninput_name = "Word"\ntarget_name = "Kind"\ninstruction = "a or b?"\n'
        'labels = ["a", "b"]\nlicence = "Apache-2.0"\n'
    )
    for split, count in (("train", 40), ("dev", 6), ("test", 8)):
        items = [{"id": f"{split}{i}", "input": f"{split} {i}", "target": "ab"[i % 2]} for i in range(count)]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    return "words"
