"""The index: exact passages, cheap updates, one owner, and no damage that it does not survive."""

import gc
import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import chromadb
import numpy as np
import pytest

from playground.data.tasks import Document, Task
from playground.errors import InvalidInput, QueueError, StoreError
from playground.events import result_of
from playground.methods.base import Context
from playground.methods.rag import RAG, RAGParams
from playground.retrieval.store import Index, IndexParams
from playground.retrieval.store import remove as remove_index

PARAMS = IndexParams(max_tokens=30, overlap_tokens=0)
DOCUMENTS = [
    Document(
        "fares", "# Fares\n\nA single ticket costs six pounds.\n\n## Dogs\n\nDogs travel free on every boat."
    ),
    Document(
        "boats", "The Dabchick is the oldest boat. It carries forty people.\r\n\r\nThe Coot is electric."
    ),
    Document(
        "codes", "Quote form VF-204 for refunds.\n\nQuote form VF-304 for lost things. <b>Never</b> VF-104."
    ),
]


class WordEmbedder:
    """A deterministic embedder without a model: hashed words, float32 (n, 128), L2-normalised."""

    name = "words-128"
    max_tokens = 256

    def __init__(self):
        self.seen = []

    def count_tokens(self, text):
        return len(text.split())

    def encode(self, texts):
        self.seen += list(texts)
        vectors = np.full((len(texts), 128), 1e-3, dtype=np.float32)
        for row, text in enumerate(texts):
            for word in text.lower().replace("?", " ").replace(".", " ").split():
                vectors[row, int(hashlib.md5(word.encode()).hexdigest(), 16) % 128] += 1
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def build(folder, documents=DOCUMENTS, embedder=None, **more):
    return result_of(Index.build(folder, documents, embedder or WordEmbedder(), PARAMS, **more))


@pytest.fixture
def index(tmp_path):
    with build(tmp_path / "index") as built:
        yield built


def child(code, *arguments):
    """Run code in another process, which can import this file."""
    start = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); from test_store import *\n"
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")]),
    }
    return subprocess.Popen(
        [sys.executable, "-c", start + code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )


@pytest.mark.parametrize("mode", ["dense", "lexical", "hybrid", "rrf"])
def test_passages_are_exact_ranked_and_scored(index, mode):
    texts = {document.id: document.text for document in DOCUMENTS}
    found = index.search("Do dogs travel free?", 3, mode)
    assert found[0].text == "Dogs travel free on every boat."
    assert found[0].heading == "Fares › Dogs"
    assert [passage.rank for passage in found] == list(range(1, len(found) + 1))
    assert [p.score for p in found] == sorted((p.score for p in found), reverse=True)
    for passage in found:
        assert passage.text == texts[passage.document][passage.start : passage.end]
        json.dumps(passage.as_dict())


def test_dense_score_is_the_cosine(index):
    [passage] = index.search("Dogs travel free", 1, "dense")
    vectors = WordEmbedder().encode(["Dogs travel free", f"{passage.heading}\n{passage.text}"])
    assert passage.dense_score == pytest.approx(float(vectors[0] @ vectors[1]), abs=1e-4)
    assert passage.lexical_score is None


def test_hybrid_finds_a_code_that_vectors_blur(tmp_path):
    class Blur(WordEmbedder):
        """Sees that there is a form code, not which."""

        def encode(self, texts):
            return super().encode([re.sub(r"VF-\d+", "code", text) for text in texts])

    documents = [Document(f"d{n}", f"Quote form VF-{n}04 for the case.") for n in range(9)]
    with build(tmp_path / "i", documents, Blur()) as index:
        dense = index.search("What is VF-204 for?", 9, "dense")
        assert len({round(passage.score, 5) for passage in dense}) == 1  # all alike: chance decides
        assert index.search("What is VF-204 for?", 1, "lexical")[0].document == "d2"
        assert index.search("What is VF-204 for?", 1, "hybrid")[0].document == "d2"


def test_many_questions_give_the_same_as_one(index):
    questions = ["single ticket", "the electric Coot", "VF-304"]
    together = index.search_many(questions, 2)
    assert [[p.text for p in row] for row in together] == [
        [p.text for p in index.search(q, 2)] for q in questions
    ]
    assert index.search_many([], 2) == []


def test_diversity_leaves_out_repetition(tmp_path):
    documents = [Document(f"same{n}", "Dogs travel free on boats.") for n in range(3)]
    documents.append(Document("other", "Dogs must wear a lead."))
    with build(tmp_path / "i", documents) as index:
        assert "other" not in [p.document for p in index.search("Dogs travel free", 2, "dense")]
        assert "other" in [p.document for p in index.search("Dogs travel free", 2, "dense", diversity=0.7)]


def test_more_passages_asked_than_there_are(index):
    assert len(index.search("boat", 100)) == index.count
    assert index.search("zzzz", 5, "lexical") == []


@pytest.mark.parametrize(
    ("k", "mode", "message"), [(0, "dense", "at least 1"), (1, "magic", "no search mode")]
)
def test_wrong_questions(index, k, mode, message):
    with pytest.raises(InvalidInput, match=message):
        index.search("x", k, mode)


def test_progress_counts_chunks(tmp_path):
    documents = [Document(f"d{n}", f"Text number {n} of many.") for n in range(150)]
    events = []
    result_of(Index.build(tmp_path / "i", documents, WordEmbedder(), PARAMS), events.append).close()
    points = [event.data for event in events if event.kind == "progress"]
    assert [point["done"] for point in points] == [0, 64, 128, 150]
    assert {point["total"] for point in points} == {150}


def test_reopen_gives_the_same_answers_without_embedding(tmp_path):
    with build(tmp_path / "i") as index:
        before = index.search("oldest boat", 3)
    embedder = WordEmbedder()
    with Index.open(tmp_path / "i", embedder) as index:
        assert embedder.seen == []
        assert index.events == []
        assert index.search("oldest boat", 3) == before
        assert index.bytes() == sum(f.stat().st_size for f in (tmp_path / "i").rglob("*") if f.is_file())


def test_readers_of_one_process_share_an_index(tmp_path):
    build(tmp_path / "i").close()
    first = Index.shared(tmp_path / "i", WordEmbedder())
    assert Index.shared(tmp_path / "i", WordEmbedder()) is first
    first.close()
    second = Index.shared(tmp_path / "i", WordEmbedder())
    assert second.search("dogs travel free", 1)[0].document == "fares"
    del first, second
    Index.open(tmp_path / "i", WordEmbedder()).close()


def test_update_embeds_only_what_changed(tmp_path):
    embedder = WordEmbedder()
    with build(tmp_path / "i", embedder=embedder) as index:
        embedder.seen.clear()
        changed = Document("boats", DOCUMENTS[1].text.replace("electric", "a steamer"))
        changes = result_of(
            index.update([DOCUMENTS[0], changed, Document("new", "Swans nest here.")], ["codes"])
        )
        assert changes.added == ("new",)
        assert changes.changed == ("boats",)
        assert changes.removed == ("codes",)
        assert changes.unchanged == ("fares",)
        assert changes.embedded == len(embedder.seen)
        assert not any("ticket" in text for text in embedder.seen)
        assert index.search("VF-204", 5, "lexical") == []
        assert index.search("swans nest", 1, "dense")[0].document == "new"
        assert {d.id: d.chunks for d in index.documents()} == {
            id: len(index.chunks(id)) for id in ("boats", "fares", "new")
        }
        after = index.search("steamer", 3)
    with Index.open(tmp_path / "i", WordEmbedder()) as index:
        assert index.events == []
        assert index.search("steamer", 3) == after


def test_a_moved_paragraph_is_not_embedded_again(tmp_path):
    embedder = WordEmbedder()
    with build(
        tmp_path / "i", [Document("d", "# A\n\nFirst text.\n\n# B\n\nSecond text.")], embedder
    ) as index:
        embedder.seen.clear()
        moved = "# New\n\nThird text.\n\n# A\n\nFirst text.\n\n# B\n\nSecond text."
        result_of(index.update([Document("d", moved)]))
        assert embedder.seen == ["New\nThird text."]
        assert index.search("Second text", 1, "dense")[0].start == moved.index("Second")


def test_refused_changes_leave_the_index_as_it_was(index):
    for documents, remove, message in [
        ([Document("a", "x"), Document("a", "y")], [], "Two documents are called “a”"),
        ([], ["nobody"], "no document “nobody”"),
        ([], [d.id for d in DOCUMENTS], "no text to index"),
        ([Document("boats", " ")], ["fares", "codes"], "no text to index"),
    ]:
        with pytest.raises(InvalidInput, match=message):
            result_of(index.update(documents, remove))
    assert len(index.documents()) == 3
    assert index.search("dogs", 1)[0].document == "fares"


def test_two_updates_at_once(index):
    first = index.update([Document("a", "First.")])
    next(first)
    with pytest.raises(QueueError, match="being updated already"):
        result_of(index.update([Document("b", "Second.")]))
    result_of(first)
    result_of(index.update([Document("b", "Second.")]))
    assert {"a", "b"} <= {document.id for document in index.documents()}


def test_nothing_to_index_leaves_the_folder_free(tmp_path):
    for documents in ([], [Document("blank", "  ")]):
        with pytest.raises(InvalidInput, match="no text to index"):
            build(tmp_path / "i", documents)
    build(tmp_path / "i").close()


def test_an_abandoned_build_is_no_index(tmp_path):
    generator = Index.build(tmp_path / "i", DOCUMENTS, WordEmbedder(), PARAMS)
    next(generator)
    generator.close()
    with pytest.raises(InvalidInput, match="no whole index"):
        Index.open(tmp_path / "i", WordEmbedder())
    build(tmp_path / "i").close()


def test_building_again_replaces(tmp_path):
    build(tmp_path / "i").close()
    with build(tmp_path / "i", [Document("only", "Only this.")]) as index:
        assert [document.id for document in index.documents()] == ["only"]
        assert index.search("dogs travel", 5, "dense")[0].document == "only"


def test_delete_leaves_no_folder(tmp_path):
    index = build(tmp_path / "i")
    index.delete()
    assert not (tmp_path / "i").exists()
    with pytest.raises(InvalidInput, match="closed"):
        index.search("dogs")
    build(tmp_path / "i").close()


def test_another_embedding_model_is_refused(tmp_path):
    build(tmp_path / "i").close()
    other = WordEmbedder()
    other.name = "other"
    with pytest.raises(InvalidInput, match="made with the embedding model “words-128”"):
        Index.open(tmp_path / "i", other)


def test_second_process_gets_a_clear_error(tmp_path, index):
    process = child(
        "try: Index.open(Path(sys.argv[1]), WordEmbedder())\nexcept QueueError as error: print(error)",
        index.folder,
    )
    assert "is in use by another process" in process.communicate(timeout=60)[0]
    with pytest.raises(QueueError, match="in use"):
        build(index.folder)


def test_kill_of_the_owner_frees_and_keeps_the_index(tmp_path):
    process = child(
        "index = build(Path(sys.argv[1])); print('built', flush=True); time.sleep(60)", tmp_path / "i"
    )
    assert process.stdout.readline() == "built\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    with Index.open(tmp_path / "i", WordEmbedder()) as index:
        assert index.search("dogs travel free", 1, "dense")[0].document == "fares"


@pytest.mark.parametrize("delay", [0.0, 0.05])
def test_kill_in_the_middle_of_an_update(tmp_path, delay):
    code = """
index = build(Path(sys.argv[1]))
print("built", flush=True)
for number in range(1000):
    result_of(index.update([Document(f"n{number % 5}", f"Text {number}. " * 50)]))
"""
    process = child(code, tmp_path / "i")
    assert process.stdout.readline() == "built\n"
    time.sleep(delay)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    with Index.open(tmp_path / "i", WordEmbedder()) as index:
        assert {"fares", "boats", "codes"} <= {document.id for document in index.documents()}
        assert len(index.search("text", 1000, "dense")) == index.count
        result_of(index.update([Document("after", "All is well.")]))


def test_an_ended_process_without_close_leaves_clean_files(tmp_path):
    process = child("index = build(Path(sys.argv[1]))", tmp_path / "i")
    assert process.wait(60) == 0
    assert (tmp_path / "i" / "clean.json").is_file()


def damage(folder):
    for path in (folder / "chroma").rglob("*"):
        if path.is_file():
            path.write_bytes(b"damaged" * 1000 + path.read_bytes()[7000:])


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (damage, "damaged"),
        (lambda folder: os.truncate(folder / "chroma" / "chroma.sqlite3", 20_000), "damaged"),
        (lambda folder: (folder / "chroma" / "chroma.sqlite3").unlink(), "missing"),
    ],
)
def test_damaged_chroma_files_are_rebuilt(tmp_path, harm, reason):
    with build(tmp_path / "i") as index:
        before = index.search("dogs travel", 3, "dense")
    harm(tmp_path / "i")
    embedder = WordEmbedder()
    with Index.open(tmp_path / "i", embedder) as index:
        [event] = index.events
        assert event.data["level"] == "warning"
        assert "rebuilt" in event.data["text"]
        assert reason in event.data["text"]
        assert embedder.seen == []
        assert [p.text for p in index.search("dogs travel", 3, "dense")] == [p.text for p in before]
    with Index.open(tmp_path / "i", embedder) as index:
        assert index.events == []


def test_rows_missing_from_chroma_are_noticed(tmp_path):
    with build(tmp_path / "i") as index:
        index._chroma.remove(["0"])
    with Index.open(tmp_path / "i", WordEmbedder()) as index:
        assert "same chunks" in index.events[0].data["text"]
        assert len(index.search("dogs", 100, "dense")) == index.count


@pytest.mark.parametrize("pattern", ["chunks-*", "vectors-*", "manifest.json"])
def test_our_own_damaged_copy_is_told(tmp_path, pattern):
    build(tmp_path / "i").close()
    [path] = (tmp_path / "i").glob(pattern)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(StoreError, match="damaged.*Build it again"):
        Index.open(tmp_path / "i", WordEmbedder())
    build(tmp_path / "i").close()


def test_threads_may_ask_while_another_updates(index):
    errors = []

    def ask():
        try:
            for _ in range(30):
                assert index.search("dogs travel free", 2)[0].document == "fares"
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(10):
        result_of(index.update([Document("moving", f"Text {number}.")]))
    for thread in threads:
        thread.join()
    assert errors == []


@pytest.fixture
def server(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(Path(sys.executable).parent / "chroma"), "run", "--path", str(tmp_path / "served")]
    process = subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--port", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    for _ in range(200):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.1)
    yield f"http://127.0.0.1:{port}"
    process.kill()
    process.wait()


def test_the_same_calls_on_a_server(tmp_path, server):
    with build(tmp_path / "i", url=server) as index:
        before = index.search("dogs travel free", 3)
        assert not (tmp_path / "i" / "chroma").exists()
    with Index.open(tmp_path / "i", WordEmbedder()) as index:
        assert index.events == []
        assert index.search("dogs travel free", 3) == before
        index._chroma._client.delete_collection(index._collection_name)
    with Index.open(tmp_path / "i", WordEmbedder()) as index:
        assert "no longer has it" in index.events[0].data["text"]
        assert index.search("dogs travel free", 3) == before
        client, name = index._chroma._client, index._collection_name
        assert name in {collection.name for collection in client.list_collections()}
        index.delete()
    assert not (tmp_path / "i").exists()


def on(server):
    client = chromadb.HttpClient(port=int(server.rsplit(":", 1)[1]))
    return {collection.name for collection in client.list_collections()}


def test_removing_or_rebuilding_leaves_nothing_on_the_server(tmp_path, server):
    with build(tmp_path / "i", url=server) as index:
        first = index._collection_name
        assert not remove_index(tmp_path / "i")  # it is open
        assert on(server) == {first}
    with build(tmp_path / "i", url=server) as index:
        assert on(server) == {index._collection_name} != {first}
    assert remove_index(tmp_path / "i")
    assert on(server) == set()
    assert not (tmp_path / "i").exists()


def test_rag_on_a_server_takes_its_collection_along(tmp_path, server):
    run = Context(
        Task("t", "T", "", "", "Answer.", "free", "token_f1", (), (), (), documents=tuple(DOCUMENTS)),
        object(), tmp_path, 0, WordEmbedder, chroma_url=server,
    )  # fmt: skip
    adapted = result_of(RAG().adapt(RAGParams(k=1), run))
    [prompt] = adapted.prompts(["Do dogs travel free?"])
    assert len(prompt.passages) == 1
    assert len(on(server)) == 1
    assert not (tmp_path / "index" / "chroma").exists()
    del adapted
    gc.collect()
    RAG().discard(tmp_path)
    assert on(server) == set()


def test_a_server_that_is_not_there(tmp_path):
    with pytest.raises(StoreError, match="does not answer"):
        build(tmp_path / "i", url="http://127.0.0.1:9")
