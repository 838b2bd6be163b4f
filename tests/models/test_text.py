"""Prompts are exact, and every shortcut of ``generate`` gives what plain generation gives."""

import pytest
import torch

from playground.errors import InvalidInput, ModelUnavailable, OutOfMemory
from playground.models import text as language
from playground.models.catalogue import model as find
from playground.settings import Settings

KINDS = ["llama", "gpt2", "qwen3", "gemma3"]
ENDINGS = ["a", "bcd", "something longer, with more words", "é", "x y z", "12345", "the last one of them"]


def chat(input, system="Answer as shortly as you can."):
    return [{"role": "system", "content": system}, {"role": "user", "content": input}]


def plain(lm, ids, new):
    """transformers' own greedy generation of one prompt."""
    row = torch.tensor([ids])
    out = lm.model.generate(
        row,
        attention_mask=torch.ones_like(row),
        max_new_tokens=new,
        do_sample=False,
        eos_token_id=1,
        pad_token_id=1,
    )
    return out[0, len(ids) :].tolist()


def generated(lm, prompts, new, **options):
    answers = dict(lm.generate(prompts, new, **options))
    assert sorted(answers) == list(range(len(prompts)))
    return [answers[i] for i in range(len(prompts))]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [{}, {"share_prefix": False}, {"batch_size": 1}, {"batch_size": 3}])
def test_every_way_answers_as_plain_generation_does(tiny, kind, options):
    lm = tiny(kind)
    prompts = [lm.encode(chat(ending)) for ending in ENDINGS]
    answers = generated(lm, prompts, 12, **options)
    for ids, answer in zip(prompts, answers, strict=True):
        expected = plain(lm, ids, 12)
        assert answer.tokens == len(expected)
        assert answer.prompt_tokens == len(ids)
        assert answer.text == lm.tokenizer.decode(expected, skip_special_tokens=True).strip()
    assert len({answer.text for answer in answers}) > 1


def spy(lm, monkeypatch):
    """The shapes of the token tensors that go through the model."""
    shapes, forward = [], lm.model.forward

    def watched(input_ids, **more):
        shapes.append(tuple(input_ids.shape))
        return forward(input_ids=input_ids, **more)

    monkeypatch.setattr(lm.model, "forward", watched)
    return shapes


def test_the_common_prefix_is_read_once(tiny, monkeypatch):
    lm = tiny()
    prompts = [lm.encode(chat(ending)) for ending in ENDINGS]
    shapes = spy(lm, monkeypatch)
    generated(lm, prompts, 1)
    prefix = len(
        "_system\nAnswer as shortly as you can._\n_user\n"
    )  # every byte a token, "_" one of the two marks
    assert shapes[0] == (1, prefix)
    assert shapes[1][0] == len(prompts)
    assert shapes[1][1] == max(map(len, prompts)) - prefix


def test_equal_prompts_keep_one_token_of_their_own(tiny):
    lm = tiny()
    ids = lm.encode(chat("the same"))
    answers = generated(lm, [ids, ids, ids], 6)
    assert {answer.text for answer in answers} == {
        lm.tokenizer.decode(plain(lm, ids, 6), skip_special_tokens=True).strip()
    }


def test_a_finished_row_leaves_the_batch(tiny, monkeypatch):
    lm = tiny()
    prompts = [lm.encode(chat(ending)) for ending in ENDINGS]
    first = plain(lm, prompts[2], 1)[0]
    lm.__dict__["_end_ids"] = frozenset({first})
    shapes = spy(lm, monkeypatch)
    answers = generated(lm, prompts, 6)
    assert answers[2].tokens == 1
    leavers = sum(answer.tokens == 1 for answer in answers)
    assert shapes[2] == (len(prompts) - leavers, 1)
    assert len(shapes) == 1 + max(answer.tokens for answer in answers)


def test_the_answer_stops_where_the_context_ends(tiny):
    lm = tiny()
    lm.__dict__["_end_ids"] = frozenset()
    room = 5
    ids = lm.tokenizer("x" * (lm.context_length - room))["input_ids"]
    (answer,) = generated(lm, [ids], 50)
    assert answer.tokens == room


def test_a_prompt_beyond_the_context_is_refused_with_its_length(tiny):
    lm = tiny()
    ids = lm.tokenizer("x" * 300)["input_ids"]
    with pytest.raises(InvalidInput, match=r"300 tokens.*256"):
        list(lm.generate([[5], ids], 4))
    with pytest.raises(InvalidInput, match="300 tokens"):
        list(lm.stream(ids, 4))


@pytest.mark.parametrize(("prompts", "new"), [([[]], 4), ([[5]], 0)])
def test_nothing_to_read_or_to_write_is_refused(tiny, prompts, new):
    with pytest.raises(InvalidInput):
        list(tiny().generate(prompts, new))


def test_no_prompts_give_no_answers(tiny):
    assert list(tiny().generate([], 4)) == []


@pytest.mark.parametrize("kind", KINDS)
def test_the_stream_is_the_answer(tiny, kind):
    lm = tiny(kind)
    ids = lm.encode(chat("tell me"))
    (answer,) = generated(lm, [ids], 30)
    pieces = list(lm.stream(ids, 30))
    assert "".join(pieces).strip() == answer.text
    assert all(pieces)


def test_stop_ends_the_stream_and_the_generation(tiny):
    lm = tiny()
    lm.__dict__["_end_ids"] = frozenset()
    ids = lm.encode(chat("tell me"))
    asked = []
    assert len("".join(lm.stream(ids, 30, stop=lambda: asked.append(1) or len(asked) > 3))) <= 3
    assert list(lm.generate([ids], 30, stop=lambda: True)) == []


def test_training_mode_and_gradients_survive(tiny):
    lm = tiny()
    lm.model.train()
    generated(lm, [lm.encode(chat("x"))], 2)
    assert lm.model.training
    assert torch.is_grad_enabled()


def test_the_prompt_is_the_template_and_begins_the_training_text(tiny):
    lm = tiny()
    messages = chat("Where is my order?")
    assert lm.text(messages) == (
        "<|im_start|>system\nAnswer as shortly as you can.<|im_end|>\n"
        "<|im_start|>user\nWhere is my order?<|im_end|>\n<|im_start|>assistant\n"
    )
    whole = lm.encode([*messages, {"role": "assistant", "content": "Comet"}], add_generation_prompt=False)
    prompt = lm.encode(messages)
    assert whole[: len(prompt)] == prompt


TODAY = "{%- set today = strftime_now('%d %B %Y') -%}Today is {{ today }}{{ strftime_now('/%Y-%m-%d') }}. "
LLAMA3 = (
    "{%- if not date_string is defined %}{%- set date_string = strftime_now('%d %b %Y') %}{%- endif %}"
    "Today is {{ date_string }}. "
)


@pytest.mark.parametrize(
    ("template", "date"), [(TODAY, "26 July 2024/2024-07-26"), (LLAMA3, "26 Jul 2024")], ids=["now", "string"]
)
def test_a_template_that_asks_for_the_date_is_always_told_the_same(tiny, template, date):
    lm = tiny()
    lm.tokenizer.chat_template = template + lm.tokenizer.chat_template
    assert lm.text(chat("Hello")).startswith(f"Today is {date}. <|im_start|>system")
    lm.tokenizer.chat_template = {"default": lm.tokenizer.chat_template, "tool_use": "other"}
    assert lm.text(chat("Hello")).startswith(f"Today is {date}. <|im_start|>system")


@pytest.mark.parametrize(
    "beginning", ["", "\n\n", "  ", "  {% if true %}\n a\n{% endif %}", "\n {{- ' b ' }}"]
)
def test_other_prompts_are_the_templates_own(tiny, beginning):
    lm = tiny()
    lm.tokenizer.chat_template = beginning + lm.tokenizer.chat_template
    own = lm.tokenizer.apply_chat_template(chat("Hello"), tokenize=False, add_generation_prompt=True)
    assert lm.text(chat("Hello")) == own


def test_a_template_that_refuses_the_system_role_gets_its_text_in_the_first_turn(tiny):
    refusing = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    ignoring = (
        "{% for m in messages if m['role'] != 'system' %}{{ m['role'] + ': ' + m['content'] }}{% endfor %}"
    )
    both = [refusing + ignoring, ignoring]
    for template in both:
        lm = tiny(template=template)
        assert lm.text(chat("Hello", system="Be kind.")) == "user: Be kind.\n\nHello"


def test_a_model_without_template_gets_plain_turns_and_stops_at_the_next(tiny, monkeypatch):
    lm = tiny("gpt2", template=None)
    messages = [
        *chat("A", system="Sort."),
        {"role": "assistant", "content": "B"},
        {"role": "user", "content": "C"},
    ]
    assert lm.text(messages) == "Sort.\nInput: A\nOutput: B\nInput: C\nOutput:"
    assert lm._decode(lm.tokenizer(" D\nInput: E\nOutput: F")["input_ids"]) == "D"


def test_out_of_memory_halves_the_batch_and_then_says_what_to_lower(tiny, monkeypatch):
    lm = tiny()
    prompts = [lm.encode(chat(ending)) for ending in ENDINGS]
    expected = [answer.text for answer in generated(lm, prompts, 4)]
    forward = lm._forward

    def small(ids, *more, limit=2):
        if ids.shape[0] > limit:
            raise torch.OutOfMemoryError("out of memory")
        return forward(ids, *more)

    monkeypatch.setattr(lm, "_forward", small)
    assert [answer.text for answer in generated(lm, prompts, 4)] == expected
    monkeypatch.setattr(lm, "_forward", lambda *more: small(*more, limit=0))
    with pytest.raises(OutOfMemory, match="smaller model"):
        list(lm.generate(prompts, 4))


def test_load_reads_a_folder_and_knows_what_it_read(tiny_folder, tmp_path):
    settings = Settings(home=tmp_path, device="cpu", threads=1, offline=True)
    lm = language.load(find(str(tiny_folder), settings), settings)
    assert lm.context_length == 256
    assert lm.dtype == torch.float32
    assert len(lm.revision) == 64
    (answer,) = generated(lm, [lm.encode(chat("hello"))], 3)
    assert 1 <= answer.tokens <= 3


def test_pickled_weights_are_not_loaded(tiny_folder, tmp_path):
    (tiny_folder / "model.safetensors").unlink()
    torch.save({}, tiny_folder / "pytorch_model.bin")
    settings = Settings(home=tmp_path, device="cpu", threads=1, offline=True)
    entry = find(str(tiny_folder), settings)
    with pytest.raises(ModelUnavailable):
        language.load(entry, settings)
    with pytest.raises(ModelUnavailable, match="language model"):
        language.load(entry, settings, folder=tiny_folder)


@pytest.mark.starter
def test_the_starter_knows_the_capital_of_france(starter_home):
    settings = Settings(home=starter_home, device="cpu")
    lm = language.load(find("smollm2-135m"), settings)
    prompts = [
        lm.encode([{"role": "user", "content": question}])
        for question in ("What is the capital of France?", "Say hello.", "Name a colour, please.")
    ]
    answers = generated(lm, prompts, 10)
    assert "Paris" in answers[0].text
    for ids, answer in zip(prompts, answers, strict=True):
        row = torch.tensor([ids])
        out = lm.model.generate(row, attention_mask=torch.ones_like(row), max_new_tokens=10, do_sample=False)
        assert answer.text == lm.tokenizer.decode(out[0, len(ids) :], skip_special_tokens=True).strip()
    assert lm.tokenizer.tokenize("a 12") == ["a", "Ġ", "1", "2"]  # digits stand alone, as in training
