"""RAG: what is put into the prompt, what is told, and what can be restored."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
from fresh import loaded

from playground.data.tasks import Document, Evidence, Item, Task
from playground.errors import AdapterError, InvalidParams
from playground.events import result_of
from playground.methods.base import Context
from playground.methods.rag import RAG, RAGParams

TEXT = "# Fares\n\nA single ticket costs six pounds.\n\n# Dogs\n\nDogs travel free on every boat."
DOG = Evidence("rules", TEXT.index("Dogs travel"), len(TEXT))
FREE = Task(
    "house",
    "House",
    "",
    "",
    "Answer briefly.",
    "free",
    "token_f1",
    train=(Item("t1", "Who mends the boats?", "Wren"),),
    dev=(
        Item("d1", "Do dogs travel free?", "yes", evidence=(DOG,)),
        Item("d2", "Who mends the boats?", "The rules do not say."),
    ),
    test=(),
    documents=(Document("rules", TEXT), Document("boats", "The Dabchick is the oldest boat.")),
    refusal="The rules do not say.",
    input_name="Question",
)
LABELS = Task(
    "desk",
    "Desk",
    "",
    "",
    "Route it.",
    "label",
    "accuracy",
    train=(
        Item("t1", "my parcel is late", "Quartz"),
        Item("t2", "the parcel came broken", "Tundra"),
        Item("t3", "please send an invoice", "Fjord"),
    ),
    dev=(Item("d1", "late parcel", "Quartz"),),
    test=(),
    labels=("Quartz", "Tundra", "Fjord"),
)


class WordEmbedder:
    """A deterministic embedder without a model."""

    name = "words-128"
    max_tokens = 256

    def count_tokens(self, text):
        return len(text.split())

    def encode(self, texts):
        vectors = np.full((len(texts), 128), 1e-3, dtype=np.float32)
        for row, text in enumerate(texts):
            for word in text.lower().replace("?", " ").replace(".", " ").split():
                vectors[row, int(hashlib.md5(word.encode()).hexdigest(), 16) % 128] += 1
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


MODEL = object()


def context(folder, task):
    return Context(task, MODEL, folder, 0, WordEmbedder)


def adapt(folder, task, **params):
    events = []
    work = RAG().adapt(RAGParams(**params), context(folder, task))
    return result_of(work, events.append), events


def test_the_best_passage_stands_last_before_the_question(tmp_path):
    adapted, _ = adapt(tmp_path, FREE, k=2)
    [prompt] = adapted.prompts(["Do dogs travel free?"])
    last = prompt.messages[-1]
    assert last["role"] == "user"
    assert prompt.messages[0] == {"role": "system", "content": FREE.instruction}
    passages = [passage["text"] for passage in prompt.passages]
    assert passages[0] == "Dogs travel free on every boat."
    assert prompt.passages[0]["document"] == "rules"
    assert last["content"].index(passages[1]) < last["content"].index(passages[0])
    assert last["content"].index(passages[0]) < last["content"].index("Do dogs travel free?")


WORKED = replace(
    FREE,
    train=(
        Item("t1", "Who mends the boats?", "Wren"),  # no passage says so
        Item("t2", "What does a single ticket cost?", "six pounds"),
        Item("t3", "On every boat, do dogs travel free?", "yes", evidence=(DOG,)),
        Item("t4", "Which is the oldest boat?", "no", evidence=(DOG,)),  # another passage is found first
    ),
)


def test_worked_examples_stand_between_instruction_and_question(tmp_path):
    adapted, _ = adapt(tmp_path, WORKED, k=1)
    one, two = (prompt.messages for prompt in adapted.prompts(["Do dogs travel free?", "Which boat is old?"]))
    assert one[0] == {"role": "system", "content": FREE.instruction}
    assert one[:-1] == two[:-1]  # the same for every question, so that the prefix is read once
    assert {message["content"] for message in one if message["role"] == "assistant"} == {"six pounds", "yes"}
    for asked, answered in zip(one[1:-1:2], one[2:-1:2], strict=True):
        passage = {
            "six pounds": "A single ticket costs six pounds.",
            "yes": "Dogs travel free on every boat.",
        }
        assert passage[answered["content"]] in asked["content"]
        assert asked["role"] == "user"
    del adapted
    restored = RAG().restore(RAGParams(k=1), context(tmp_path, WORKED))
    assert restored.prompts(["Do dogs travel free?"])[0].messages == one


def test_how_many_worked_examples_is_a_parameter(tmp_path):
    for count in (0, 1):
        adapted, _ = adapt(tmp_path / str(count), WORKED, k=1, worked=count)
        [prompt] = adapted.prompts(["Do dogs travel free?"])
        assert len(prompt.messages) == 2 + 2 * count


def test_with_feedback_what_marks_the_first_passages_is_searched_for_too(tmp_path, monkeypatch):
    from playground.retrieval.store import Index

    asked, many = [], Index.search_many
    monkeypatch.setattr(
        Index, "search_many", lambda *all, **named: asked.append(all[-1]) or many(*all, **named)
    )
    adapted, _ = adapt(tmp_path, FREE, k=1, expansion="feedback", worked=0)
    assert (
        adapted.prompts(["Do dogs travel free?"])[0].passages[0]["text"] == "Dogs travel free on every boat."
    )
    assert asked == [True, True]  # for the recall on the dev split, and for the prompt


def test_one_batch_keeps_the_order(tmp_path):
    adapted, _ = adapt(tmp_path, FREE, k=1)
    dogs, boats = adapted.prompts(["Do dogs travel free?", "Which boat is the oldest?"])
    assert dogs.passages[0]["document"] == "rules"
    assert boats.passages[0]["document"] == "boats"
    assert adapted.prompts([]) == []


def test_it_tells_chunks_recall_and_bytes(tmp_path):
    adapted, events = adapt(tmp_path, FREE, k=1)
    metrics = {event.data["name"]: event.data["value"] for event in events if event.kind == "metric"}
    assert metrics == {"chunks": 3, "recall_at_k": 1.0}
    on_disk = sum(f.stat().st_size for f in (tmp_path / "index").rglob("*") if f.is_file())
    assert adapted.stored_bytes == on_disk > 1000
    [artifact] = [event.data for event in events if event.kind == "artifact"]
    assert (artifact["path"], artifact["bytes"]) == ("index", on_disk)
    assert adapted.model is MODEL
    assert adapted.trainable_parameters is None


def test_without_documents_examples_are_retrieved_as_turns(tmp_path):
    adapted, events = adapt(tmp_path, LABELS, examples=2)
    [prompt] = adapted.prompts(["my parcel is late again"])
    assert [(m["role"], m["content"]) for m in prompt.messages] == [
        ("system", "Route it."),
        ("user", "the parcel came broken"),
        ("assistant", "Tundra"),
        ("user", "my parcel is late"),
        ("assistant", "Quartz"),
        ("user", "my parcel is late again"),
    ]
    assert prompt.passages[0]["text"] == "my parcel is late → Quartz"
    assert prompt.examples == ["t2", "t1"]
    assert "recall_at_k" not in {event.data.get("name") for event in events}


def test_a_long_example_counts_once(tmp_path):
    long = Item("long", " ".join(f"parcel sentence {n} is late." for n in range(200)), "Quartz")
    task = Task(
        "d",
        "D",
        "",
        "",
        "Route it.",
        "label",
        "accuracy",
        (long, *LABELS.train),
        (),
        (),
        labels=LABELS.labels,
    )
    adapted, _ = adapt(tmp_path, task, examples=2)
    [prompt] = adapted.prompts(["late parcel sentence"])
    assert prompt.examples[-1] == "long"
    assert len(set(prompt.examples)) == 2


def test_restore_gives_the_same_prompts(tmp_path):
    adapted, _ = adapt(tmp_path, FREE)
    before = adapted.prompts(["Do dogs travel free?"])
    del adapted
    restored = RAG().restore(RAGParams(), context(tmp_path, FREE))
    beside = RAG().restore(RAGParams(), context(tmp_path, FREE))
    assert restored.prompts(["Do dogs travel free?"]) == before == beside.prompts(["Do dogs travel free?"])


def test_restore_without_an_index(tmp_path):
    with pytest.raises(AdapterError, match="no whole index"):
        RAG().restore(RAGParams(), context(tmp_path, FREE))


def test_restore_of_a_damaged_index(tmp_path):
    adapt(tmp_path, FREE)
    [vectors] = (tmp_path / "index").glob("vectors-*")
    vectors.write_bytes(vectors.read_bytes()[:-10])
    with pytest.raises(AdapterError, match="damaged"):
        RAG().restore(RAGParams(), context(tmp_path, FREE))


@pytest.mark.parametrize(
    ("task", "params", "field"),
    [
        (LABELS, {"examples": 4}, "examples"),
        (FREE, {"chunk_tokens": 20, "overlap_tokens": 15}, "overlap_tokens"),
        (Task("e", "E", "", "", "", "free", "token_f1", (), (), ()), {}, None),
    ],
)
def test_what_does_not_fit_is_refused_before_the_start(task, params, field):
    with pytest.raises(InvalidParams) as error:
        RAG().check(RAGParams(**params), task)
    assert error.value.field == field


@pytest.mark.parametrize(
    "values", [{"k": 0}, {"k": 21}, {"examples": 0}, {"mode": "magic"}, {"chunk_tokens": 1000}, {"x": 1}]
)
def test_parameters_out_of_range(values):
    with pytest.raises(InvalidParams):
        RAGParams.parse(values)


def test_importing_the_method_loads_nothing_heavy():
    assert loaded("import playground.methods.rag", ("torch", "chromadb", "numpy")) == []


@pytest.mark.starter
def test_the_real_embedder_finds_the_handbooks_evidence(tmp_path):
    from playground.data.tasks import task
    from playground.models.embedding import load_embedder
    from playground.settings import Settings

    settings = Settings.from_environment()
    real = Context(task("handbook", settings), MODEL, tmp_path, 0, lambda: load_embedder(settings))
    metrics = {e.data["name"]: e.data["value"] for e in RAG().adapt(RAGParams(), real) if e.kind == "metric"}
    assert metrics["recall_at_k"] > 0.7
    assert metrics["chunks"] > 100
