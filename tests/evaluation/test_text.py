"""The evaluation from end to end, on a tiny random Llama and on one that follows a script."""

import json
import time
from collections import defaultdict

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from playground.data.tasks import Item, Task
from playground.errors import RunFailed
from playground.evaluation import text as evaluation
from playground.methods.base import Adapted, Prompt
from playground.models.catalogue import Model
from playground.models.text import LanguageModel
from playground.results.metrics import BY_NAME

TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tokenizer():
    """One token a byte."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    special = ["<|system|>", "<|user|>", "<|assistant|>"]
    made = PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="<|end|>", pad_token="<|end|>", additional_special_tokens=special
    )
    made.chat_template = TEMPLATE
    return made


def language_model(context=2048):
    torch.manual_seed(0)
    words = tokenizer()
    config = LlamaConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=len(words),
        max_position_embeddings=context,
        eos_token_id=words.eos_token_id,
    )
    network = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        network.lm_head.weight.mul_(20)  # far from ties, so that batches cannot flip an argmax
    entry = Model("tiny", "Tiny", "x/tiny", "", "", 0, "text", 0)
    return LanguageModel(network, words, entry, torch.device("cpu"), torch.float32, 0.0, "none")


class Scripted(LanguageModel):
    """Answers with what a table says for the last user's text; its passes through the model are real."""

    def answer_with(self, answers):
        self.answers = answers
        self.shared = []
        return self

    def generate(self, prompts, max_new_tokens, *, share_prefix=True, **more):
        self.shared.append((len(prompts), share_prefix))
        found = super().generate(prompts, max_new_tokens, share_prefix=share_prefix, **more)
        for index, answer in found:
            asked = self.tokenizer.decode(prompts[index]).rsplit("<|user|>", 1)[1].split("<|end|>")[0]
            yield (
                index,
                type(answer)(self.answers[asked], answer.tokens, answer.prompt_tokens, answer.seconds),
            )


def scripted(answers):
    plain = language_model()
    return Scripted(**{name: getattr(plain, name) for name in PLAIN_FIELDS}).answer_with(answers)


PLAIN_FIELDS = ("model", "tokenizer", "entry", "device", "dtype", "load_seconds", "revision")


def task(n=12, **more):
    items = tuple(Item(f"i{i}", f"question {i}", "Comet" if i % 2 else "Fjord") for i in range(n))
    base = {
        "answer": "label",
        "metric": "accuracy",
        "labels": ("Comet", "Fjord"),
        "test": items,
        "train": items,
    }
    values = {"dev": (), **base, **more}
    return Task(id="t", title="T", summary="", description="", instruction="Route the message.", **values)


def plain(model, task, **more):
    return Adapted(model, lambda inputs: [Prompt(task.messages(text), **more) for text in inputs], 0)


def run(adapted, task, items=None, **more):
    found = defaultdict(list)
    for event in evaluation.evaluate(adapted, task, task.test if items is None else items, **more):
        json.dumps(event.data)
        found[event.kind].append(event.data)
    metrics = {data["name"]: data["value"] for data in found["metric"]}
    return metrics, found


def test_every_item_is_answered_and_every_number_has_a_name():
    metrics, found = run(plain(language_model(), task()), task())
    assert sorted(sample["item"] for sample in found["sample"]) == sorted(f"i{i}" for i in range(12))
    assert {sample["stage"] for sample in found["sample"]} == {"test"}
    assert metrics["n"] == 12
    assert {name.split("/")[0] for name in metrics} <= set(BY_NAME)
    assert metrics["evaluate_seconds"] > 0
    assert 0 < metrics["query_seconds_p50"] <= metrics["query_seconds_p95"] < 10
    assert metrics["tokens_per_second"] > 1
    assert found["progress"][0] == {"phase": "evaluate", "done": 0, "total": 12, "unit": "item"}
    last = [data for data in found["progress"] if data["phase"] == "evaluate"][-1]
    assert (last["done"], last["total"]) == (12, 12)


def test_answers_are_the_same_with_and_without_the_shared_prefix():
    model, some = language_model(), task(20)
    prompts = [model.encode(some.messages(item.input, some.train[:6])) for item in some.test]
    answers = [
        {index: answer.text for index, answer in model.generate(prompts, 12, share_prefix=share)}
        for share in (True, False)
    ]
    assert answers[0] == answers[1]
    assert len(set(answers[0].values())) > 1


def test_label_metrics_count_right_and_well_formed_apart():
    answers = {f"question {i}": ["Fjord", "comet.", "I say Fjord", "no idea"][i % 4] for i in range(12)}
    metrics, found = run(plain(scripted(answers), task()), task())
    assert metrics["quality"] == pytest.approx(9 / 12)
    assert metrics["exact_match"] == pytest.approx(6 / 12)
    assert metrics["valid_rate"] == pytest.approx(6 / 12)
    assert metrics["quality_low"] < 0.75 < metrics["quality_high"]
    assert "token_f1" not in metrics
    sample = next(data for data in found["sample"] if data["item"] == "i2")
    assert (sample["answer"], sample["prediction"], sample["target"]) == ("I say Fjord", "Fjord", "Fjord")
    assert (sample["correct"], sample["valid"], sample["score"], sample["group"]) == (True, False, 1.0, None)


def test_groups_are_scored_apart():
    refusal = "It does not say."
    items = (
        Item("a", "q a", "blue boat", group="covered"),
        Item("b", "q b", "ten", group="documents"),
        Item("c", "q c", refusal, group="unanswerable"),
        Item("d", "q d", refusal, group="unanswerable"),
    )
    free = task(
        answer="free",
        metric="token_f1",
        labels=(),
        test=items,
        refusal=refusal,
        groups=("covered", "documents", "unanswerable"),
    )
    answers = {"q a": "boat", "q b": refusal, "q c": refusal, "q d": "ten"}
    metrics, _ = run(plain(scripted(answers), free), free)
    assert metrics["quality/covered"] == pytest.approx(2 / 3)
    assert (metrics["quality/documents"], metrics["quality/unanswerable"]) == (0.0, 0.5)
    assert (metrics["n/covered"], metrics["n/unanswerable"]) == (1, 2)
    assert metrics["quality"] == metrics["token_f1"] == pytest.approx((2 / 3 + 1) / 4)
    assert metrics["exact_match"] == 0.25
    assert 0 <= metrics["quality_low"] < metrics["quality"] < metrics["quality_high"] <= 1


def test_the_probe_asks_alone_and_is_bounded(monkeypatch):
    some = task(40)
    model = scripted({item.input: "Comet" for item in some.test})
    run(plain(model, some), some)
    assert model.shared == [(40, True), *[(1, False)] * evaluation.PROBE_ITEMS]
    monkeypatch.setattr(evaluation, "PROBE_SECONDS", 0.0)
    model.shared.clear()
    metrics, _ = run(plain(model, some), some)
    assert model.shared == [(40, True), (1, False)]
    assert metrics["query_seconds_p50"] == metrics["query_seconds_p95"] > 0


def test_building_the_prompts_is_told(monkeypatch):
    monkeypatch.setattr(evaluation, "PROMPT_BATCH", 5)
    monkeypatch.setattr(evaluation, "PROGRESS_SECONDS", 0.0)
    some, model = task(12), language_model()
    asked = []

    def prompts(inputs):
        asked.append(list(inputs))
        return [Prompt(some.messages(text)) for text in inputs]

    _, found = run(Adapted(model, prompts, 0), some)
    told = [data["done"] for data in found["progress"] if data["phase"] == "prompts"]
    assert told == [5, 10, 12]
    assert [len(inputs) for inputs in asked[:3]] == [5, 5, 2]
    assert sum(asked[:3], []) == [item.input for item in some.test]


def test_a_consumer_that_dawdles_is_not_measured():
    clock = evaluation.Clock()
    for _ in clock.timed(iter(range(5))):
        time.sleep(0.05)
    assert clock.seconds < 0.05


def test_a_prompt_beyond_the_context_is_an_unanswered_item():
    some = task(3, test=(Item("long", "x" * 500, "Comet"), Item("short", "y", "Comet")))
    metrics, found = run(plain(language_model(context=128), some), some)
    sample = next(data for data in found["sample"] if data["item"] == "long")
    assert (sample["answer"], sample["valid"], sample["score"]) == ("", False, 0.0)
    assert "Item long: the prompt is longer" in found["log"][0]["text"]
    assert (metrics["n"], metrics["prompt_tokens"]) == (2, pytest.approx(24, abs=10))
    with pytest.raises(RunFailed, match="No prompt fits the model's context of 128 tokens"):
        run(plain(language_model(context=128), some), some, [some.test[0]])
    with pytest.raises(RunFailed, match="no item"):
        run(plain(language_model(), some), some, [])


def test_samples_carry_passages_examples_and_steps():
    some = task(2)
    passages = [{"document": "a", "start": 0, "end": 3, "text": "abc", "score": 0.5}]
    adapted = plain(language_model(), some, passages=passages, examples=["i0"])
    _, found = run(adapted, some)
    assert found["sample"][0]["passages"] == passages
    assert found["sample"][0]["examples"] == ["i0"]
    events = list(evaluation.answer_some(adapted, some, some.test, "during", step=7))
    assert [(event.data["stage"], event.data["step"]) for event in events] == [("during", 7)] * 2
    before = list(evaluation.answer_some(adapted, some, some.test[:1], "before"))
    assert "step" not in before[0].data


def test_answers_get_room_for_the_longest_label_or_target():
    model = language_model()
    assert evaluation.max_new_tokens(task(), model) == len("Comet") + 4
    free = task(answer="free", metric="token_f1", labels=())
    assert evaluation.max_new_tokens(free, model) == evaluation.FREE_TOKENS
    long = task(answer="free", metric="token_f1", labels=(), train=(Item("1", "q", "x" * 60),))
    assert evaluation.max_new_tokens(long, model) == 68
    longer = task(answer="free", metric="token_f1", labels=(), train=(Item("1", "q", "x" * 900),))
    assert evaluation.max_new_tokens(longer, model) == evaluation.MOST_TOKENS
