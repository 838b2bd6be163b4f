"""Indexing 1,000 chunks: our store against Chroma used naively, with the same embedding model.

Naively: a collection with default settings, one embedding call and one ``add`` per chunk. Run by hand:
``python tests/benchmarks/bench_index.py [--chunks 1000] [--no-record]``.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import chromadb
from record import record

from playground.data.tasks import Document, task
from playground.events import result_of
from playground.models.embedding import load_embedder
from playground.retrieval.store import Index, IndexParams
from playground.settings import Settings


def documents(settings: Settings, wanted: int) -> list[Document]:
    """About ``wanted`` chunks of 100 tokens: the handbook, repeated with another name in each copy."""
    handbook = task("handbook", settings).documents
    copies = -(-wanted // 230)
    return [
        Document(f"{copy}-{document.id}", document.text.replace("Vennmere", f"Vennmere {copy}"))
        for copy in range(copies)
        for document in handbook
    ]


def ours(folder: Path, texts: list[Document], embedder) -> tuple[float, list[str]]:
    """Seconds from documents to a searchable index (cutting included), and the chunks' texts."""
    begun = time.perf_counter()
    index = result_of(Index.build(folder, texts, embedder, IndexParams(100, 20)))
    seconds = time.perf_counter() - begun
    chunks = [chunk.full_text for chunk in index.chunks()]
    index.close()
    return seconds, chunks


def naive(folder: Path, chunks: list[str], embedder) -> float:
    """Seconds for the same chunks, one embedding and one ``add`` each."""
    begun = time.perf_counter()
    client = chromadb.PersistentClient(str(folder), settings=chromadb.Settings(anonymized_telemetry=False))
    collection = client.create_collection("naive", embedding_function=None)
    for number, chunk in enumerate(chunks):
        collection.add(ids=[str(number)], embeddings=embedder.encode([chunk]), documents=[chunk])
    seconds = time.perf_counter() - begun
    client.close()
    return seconds


def main() -> None:
    """Measure side by side and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chunks", type=int, default=1000)
    parser.add_argument("--no-record", action="store_true")
    options = parser.parse_args()
    settings = Settings.from_environment()
    embedder = load_embedder(settings)
    embedder.encode(["warm up"])
    with tempfile.TemporaryDirectory() as folder:
        mine, chunks = ours(Path(folder) / "ours", documents(settings, options.chunks), embedder)
        theirs = naive(Path(folder) / "naive", chunks, embedder)
    print(f"{len(chunks)} chunks: ours {mine:.1f} s, naive {theirs:.1f} s, ratio {theirs / mine:.2f}")
    if not options.no_record:
        row = {
            "what": f"Indexing {len(chunks):,} chunks",
            "ours": mine,
            "theirs": theirs,
            "unit": "s",
            "against": "Chroma with default settings, one embedding and one add per chunk",
            "ratio": theirs / mine,
            "note": "The same embedding model; cutting the documents counts for ours only.",
        }
        print(record("index", [row], ("chromadb", "sentence-transformers", "torch")))


if __name__ == "__main__":
    main()
