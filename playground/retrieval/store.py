"""An index of documents: Chroma for vectors, BM25 for words, and our own copy of both.

A folder holds one index:

- ``manifest.json``: names the current chunk and vector files; replaced last, in one rename.
- ``chunks-N.jsonl``, ``vectors-N.npy``: the truth. Chroma can be rebuilt from them at any time.
- ``chroma/``: Chroma's own files. Damaged ones can crash the process that opens them, so unless
  they are byte for byte those of the last clean close (``clean.json``), another process tries first.
- ``lock``: an OS lock. Two processes on one Chroma path corrupt it.

Chroma gets our vectors only (``embedding_function=None``: its default one downloads a model), with
cosine set at creation, in batches of its largest size.
"""

import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import threading
import uuid
import weakref
import zlib
from collections.abc import Generator, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args
from urllib.parse import urlsplit

import numpy as np
from filelock import FileLock, Timeout

from playground.data.chunks import Chunk, chunks
from playground.data.tasks import Document
from playground.errors import InvalidInput, QueueError, StoreError
from playground.events import Event
from playground.retrieval import expansion
from playground.retrieval.fusion import maximal_marginal_relevance, reciprocal_rank_fusion, score_fusion
from playground.retrieval.lexical import Lexicon

if TYPE_CHECKING:
    from playground.models.embedding import Embedder

Mode = Literal["dense", "lexical", "hybrid", "rrf"]
MODES = get_args(Mode)

FORMAT = 1
_CANDIDATES = 50  # of each ranking that fusion and diversity look at
_ENCODE_BATCH = 64
_PROBE_SECONDS = 120

log = logging.getLogger(__name__)

_shared: "weakref.WeakValueDictionary[str, Index]" = weakref.WeakValueDictionary()
_shared_guard = threading.Lock()


@dataclass(frozen=True)
class IndexParams:
    """How documents are cut: most tokens of a chunk, tokens that neighbours share."""

    max_tokens: int = 200
    overlap_tokens: int = 30


@dataclass(frozen=True)
class Passage:
    """A chunk that was found: ``text`` is characters [start, end) of the document.

    ``score`` orders the result: cosine (dense), BM25 (lexical), or both fused (hybrid, rrf).
    ``dense_score`` is the cosine similarity, None in lexical mode; ``lexical_score`` is the BM25
    score, None in dense mode.
    ``rank`` counts from 1.
    """

    document: str
    start: int
    end: int
    text: str
    heading: str
    score: float
    rank: int
    dense_score: float | None = None
    lexical_score: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values, for events and exports."""
        return asdict(self)


@dataclass(frozen=True)
class IndexedDocument:
    """A document in the index: its id, length, chunks, and the SHA-256 of its text."""

    id: str
    characters: int
    chunks: int
    sha256: str


@dataclass(frozen=True)
class Changes:
    """What an update did: document ids by fate, and how many chunks had to be embedded."""

    added: tuple[str, ...]
    changed: tuple[str, ...]
    removed: tuple[str, ...]
    unchanged: tuple[str, ...]
    embedded: int


@dataclass(frozen=True)
class _Row:
    """One chunk with its id in Chroma. Ids are never used twice: adding an existing one does nothing."""

    id: int
    chunk: Chunk


class Index:
    """An open index. One process owns the folder until ``close``; use it as a context manager.

    ``events`` tells what happened while opening (a rebuild, for instance). Safe to use from threads.
    """

    def __init__(self, folder: Path, embedder: "Embedder", url: str | None = None):
        """Take the folder's lock; ``build`` and ``open`` are the ways to get an index."""
        self.folder = Path(folder)
        self.embedder = embedder
        self.url = url
        self.params = IndexParams()
        self.events: list[Event] = []
        self._rows: list[_Row] = []
        self._vectors = np.zeros((0, 0), dtype=np.float32)
        self._documents: dict[str, IndexedDocument] = {}
        self._collection_name = f"playground-{uuid.uuid4().hex}"
        self._generation = 0
        self._next_id = 0
        self._position: dict[str, int] = {}
        self._lexicon: Lexicon | None = None
        self._chroma: _Chroma | None = None
        self._guard = threading.RLock()
        self._changing = threading.Lock()
        self._lock = _acquire(self.folder)

    # Making and opening

    @classmethod
    def build(
        cls,
        folder: Path,
        documents: Iterable[Document],
        embedder: "Embedder",
        params: IndexParams | None = None,
        *,
        url: str | None = None,
    ) -> Generator[Event, None, "Index"]:
        """Index the documents in ``folder``; an index that lies there is replaced.

        Yields progress per batch of chunks. Returns the open index.

        Args:
            url: a Chroma server ("http://host:8000"); without it Chroma's files lie in the folder.

        Raises:
            InvalidInput: there is no text to index, or two documents have one id.
            QueueError: another process uses the folder.
            StoreError: the Chroma server does not answer.
        """
        index = cls(folder, embedder, url)
        try:
            index._clear()
            index.params = params or IndexParams()
            yield from index._change(list(documents), remove=())
        except BaseException:
            index.close()
            raise
        return index

    @classmethod
    def open(cls, folder: Path, embedder: "Embedder") -> "Index":
        """Open an index that was built before; damaged Chroma files are rebuilt from our own copy.

        Raises:
            InvalidInput: there is no whole index, or it was made with another embedding model.
            QueueError: another process uses the folder.
            StoreError: our own copy is damaged, or the Chroma server does not answer.
        """
        if not (Path(folder) / "manifest.json").is_file():
            raise InvalidInput(f"There is no whole index in {folder}. Build it first.")
        index = cls(folder, embedder)
        try:
            index._load()
            index._open_chroma()
        except BaseException:
            index.close()
            raise
        return index

    @classmethod
    def shared(cls, folder: Path, embedder: "Embedder") -> "Index":
        """The index that this process has open already, or else as ``open``: for readers side by side.

        It closes when the last of them lets go of it.
        """
        key = str(Path(folder).resolve())
        with _shared_guard:
            index = _shared.get(key)
            if index is None or index._chroma is None:
                index = _shared[key] = cls.open(folder, embedder)
            return index

    def update(
        self, documents: Iterable[Document] = (), remove: Iterable[str] = ()
    ) -> Generator[Event, None, Changes]:
        """Add or replace ``documents`` and drop the ids in ``remove``; the rest stays.

        Only chunks whose text the index does not know yet are embedded. Yields progress per batch.

        Raises:
            InvalidInput: nothing would be left, two documents have one id, or an id to remove is unknown.
        """
        return (yield from self._change(list(documents), remove=tuple(remove)))

    def close(self) -> None:
        """Close Chroma, note its files as clean, give the folder free. Twice does no harm."""
        with self._guard:
            try:
                if self._chroma is not None:
                    self._chroma.close()
            finally:
                self._chroma = None
                self._lock.release()

    def delete(self) -> None:
        """Close the index and remove it, its folder included (Chroma itself would leave it)."""
        with self._guard:
            if self._chroma is not None:
                self._chroma.drop()
                self._chroma = None
            shutil.rmtree(self.folder)
            self._lock.release()

    def __enter__(self) -> "Index":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # Asking

    @property
    def count(self) -> int:
        """Chunks in the index."""
        return len(self._rows)

    def documents(self) -> list[IndexedDocument]:
        """The documents in the index, by id."""
        return sorted(self._documents.values(), key=lambda document: document.id)

    def chunks(self, document: str | None = None) -> list[Chunk]:
        """All chunks, or those of one document, in order."""
        return [row.chunk for row in self._rows if document in (None, row.chunk.document)]

    def bytes(self) -> int:
        """Bytes of the folder on disk (files' sizes); a Chroma server's are not in it."""
        return sum(path.stat().st_size for path in _files(self.folder))

    def search(
        self, query: str, k: int = 3, mode: Mode = "hybrid", diversity: float = 0.0, feedback: bool = False
    ) -> list[Passage]:
        """The best passages for one question, best first; fewer than ``k`` where there are fewer."""
        return self.search_many([query], k, mode, diversity, feedback)[0]

    def search_many(
        self,
        queries: Sequence[str],
        k: int = 3,
        mode: Mode = "hybrid",
        diversity: float = 0.0,
        feedback: bool = False,
    ) -> list[list[Passage]]:
        """The same for many questions, embedded and searched in one batch.

        Args:
            k: passages per question.
            mode: "dense" (vectors), "lexical" (BM25; no embedding), "hybrid" (both, fused by score),
                "rrf" (both, fused by rank).
            diversity: 0..1; above 0 passages that repeat each other give way (MMR).
            feedback: search a second time, expanded by what the first search found (``expansion``).

        Raises:
            InvalidInput: ``k`` below 1, an unknown mode, or a closed index.
        """
        if k < 1:
            raise InvalidInput("The number of passages must be at least 1.", "k")
        if mode not in MODES:
            raise InvalidInput(f"There is no search mode “{mode}”. Modes: {', '.join(MODES)}.", "mode")
        if not queries:
            return []
        with self._guard:
            if self._chroma is None:
                raise InvalidInput("The index is closed. Open it again.")
            vectors = None if mode == "lexical" else self.embedder.encode(list(queries))
            pool = k if mode == "dense" and not diversity else max(k, _CANDIDATES)
            more: list[list[str]] = [[] for _ in queries]
            if feedback:
                vectors, more = self._expanded(queries, vectors, mode)
            found = self._rankings(queries, vectors, pool, mode, more)
            return [
                self._passages(
                    self._diverse(ranking, k, diversity) if diversity else ranking[:k],
                    None if vectors is None else vectors[row],
                    None if mode == "dense" else lexical,
                )
                for row, (ranking, lexical) in enumerate(found)
            ]

    def expansions(self, queries: Sequence[str], mode: Mode = "hybrid") -> list[list[str]]:
        """The words that a search with feedback adds to each question."""
        with self._guard:
            vectors = None if mode == "lexical" else self.embedder.encode(list(queries))
            return self._expanded(queries, vectors, mode)[1]

    def _expanded(
        self, queries: Sequence[str], vectors: np.ndarray | None, mode: Mode
    ) -> tuple[np.ndarray | None, list[list[str]]]:
        """The questions' vectors and further words, as the passages say that a first search finds first."""
        none: list[list[str]] = [[] for _ in queries]
        moved, more = [], []
        for row, (ranking, _) in enumerate(self._rankings(queries, vectors, _CANDIDATES, mode, none)):
            first = ranking[: expansion.PASSAGES]
            texts = [(self._rows[at].chunk.full_text, score) for at, score in first]
            more.append(expansion.marking_words(queries[row], texts, self._words().rarity))
            if vectors is not None:
                moved.append(expansion.moved(vectors[row], self._vectors[[at for at, _ in first]]))
        return (None if vectors is None else np.stack(moved)), more

    def _near(self, vectors: np.ndarray, k: int) -> list[dict[int, float]]:
        """For each vector the nearest rows by Chroma, best first, with their cosine."""
        found = self._chroma.query(vectors, min(k, self.count))
        return [{self._position[id]: cosine for id, cosine in row} for row in found]

    def _rankings(
        self,
        queries: Sequence[str],
        vectors: np.ndarray | None,
        pool: int,
        mode: Mode,
        more: Sequence[Sequence[str]],
    ) -> list[tuple[list[tuple[int, float]], dict[int, float]]]:
        """For each question the rows with their scores, best first, and the BM25 scores among them."""
        near = [{}] * len(queries) if vectors is None else self._near(vectors, pool)
        return [
            self._ranking(query, None if vectors is None else vectors[row], near[row], pool, mode, more[row])
            for row, query in enumerate(queries)
        ]

    def _ranking(
        self,
        query: str,
        vector: np.ndarray | None,
        dense: dict[int, float],
        pool: int,
        mode: Mode,
        more: Sequence[str],
    ) -> tuple[list[tuple[int, float]], dict[int, float]]:
        if mode == "dense":
            return list(dense.items()), {}
        lexical = dict(self._words().search(query, pool, more, expansion.WEIGHT))
        if mode == "lexical":
            return list(lexical.items()), lexical
        if mode == "rrf":
            return reciprocal_rank_fusion([list(lexical), list(dense)]), lexical
        cosines = {row: float(self._vectors[row] @ vector) for row in lexical}
        return score_fusion(cosines | dense, lexical), lexical

    def _passages(
        self, ranking: list[tuple[int, float]], vector: np.ndarray | None, lexical: dict[int, float] | None
    ) -> list[Passage]:
        return [
            self._passage(row, score, rank, vector, None if lexical is None else lexical.get(row, 0.0))
            for rank, (row, score) in enumerate(ranking, start=1)
        ]

    def _words(self) -> Lexicon:
        if self._lexicon is None:
            self._lexicon = Lexicon([row.chunk.full_text for row in self._rows])
        return self._lexicon

    def _diverse(self, ranking: list[tuple[int, float]], k: int, diversity: float) -> list[tuple[int, float]]:
        vectors = self._vectors[np.array([row for row, _ in ranking], dtype=int)]
        kept = maximal_marginal_relevance([score for _, score in ranking], vectors, k, diversity)
        return [ranking[position] for position in kept]

    def _passage(
        self, row: int, score: float, rank: int, vector: np.ndarray | None, lexical_score: float | None
    ) -> Passage:
        chunk = self._rows[row].chunk
        return Passage(
            document=chunk.document,
            start=chunk.start,
            end=chunk.end,
            text=chunk.text,
            heading=chunk.heading,
            score=score,
            rank=rank,
            dense_score=None if vector is None else float(self._vectors[row] @ vector),
            lexical_score=lexical_score,
        )

    # Changing

    def _change(self, documents: list[Document], remove: tuple[str, ...]) -> Generator[Event, None, Changes]:
        if not self._changing.acquire(blocking=False):
            raise QueueError("The index is being updated already. Wait until that is done.")
        try:
            self._refuse(documents, remove)
            hashes = {document.id: _sha256(document.text) for document in documents}
            old = {id: self._documents[id].sha256 for id in hashes if id in self._documents}
            fresh = [document for document in documents if old.get(document.id) != hashes[document.id]]
            new = {document.id: self._cut(document) for document in fresh}
            known = {
                row.chunk.full_text: vector for row, vector in zip(self._rows, self._vectors, strict=True)
            }
            texts = dict.fromkeys(chunk.full_text for cut in new.values() for chunk in cut)
            strange = [text for text in texts if text not in known]
            known |= yield from self._encode(strange)
            entries = [
                IndexedDocument(document.id, len(document.text), len(new[document.id]), hashes[document.id])
                for document in fresh
            ]
            self._apply(entries, [chunk for cut in new.values() for chunk in cut], set(remove), known)
        finally:
            self._changing.release()
        yield Event.log(f"The index holds {self.count:,} chunks of {len(self._documents):,} documents.")
        return Changes(
            added=tuple(document.id for document in fresh if document.id not in old),
            changed=tuple(document.id for document in fresh if document.id in old),
            removed=remove,
            unchanged=tuple(id for id in hashes if old.get(id) == hashes[id]),
            embedded=len(strange),
        )

    def _apply(
        self,
        entries: list[IndexedDocument],
        new: list[Chunk],
        remove: set[str],
        vectors: dict[str, np.ndarray],
    ) -> None:
        """Put new chunks in the place of their documents' old ones; ``vectors`` are by full text."""
        gone = remove | {entry.id for entry in entries}
        kept = [row for row in self._rows if row.chunk.document not in gone]
        if not kept and not new:
            raise InvalidInput("There is no text to index. Add a document with text in it.")
        with self._guard:
            dropped = [str(row.id) for row in self._rows if row.chunk.document in gone]
            self._rows = kept + [_Row(self._next_id + number, chunk) for number, chunk in enumerate(new)]
            self._next_id += len(new)
            self._vectors = np.stack([vectors[row.chunk.full_text] for row in self._rows])
            self._documents = {id: entry for id, entry in self._documents.items() if id not in gone}
            self._documents |= {entry.id: entry for entry in entries}
            self._lexicon = None
            self._renumber()
            try:
                self._store(dropped, len(new))
            except BaseException:
                self.close()  # what Chroma holds now is unknown: the next open finds out
                raise

    def _refuse(self, documents: list[Document], remove: tuple[str, ...]) -> None:
        ids = [document.id for document in documents]
        twice = next((id for id in ids if ids.count(id) > 1), None) if len(set(ids)) < len(ids) else None
        if twice is not None:
            raise InvalidInput(f"Two documents are called “{twice}”. Rename one of them.")
        unknown = next((id for id in remove if id not in self._documents), None)
        if unknown is not None:
            raise InvalidInput(f"There is no document “{unknown}” in the index.")
        if not documents and not self._rows:
            raise InvalidInput("There is no text to index. Add a document with text in it.")

    def _cut(self, document: Document) -> list[Chunk]:
        marks = self.embedder.count_tokens("")  # the model's start and end marks, once a chunk

        def count(text: str) -> int:
            return self.embedder.count_tokens(text) - marks

        most = min(self.params.max_tokens, self.embedder.max_tokens - marks)
        return chunks(document, count, most, self.params.overlap_tokens)

    def _encode(self, texts: list[str]) -> Generator[Event, None, dict[str, np.ndarray]]:
        """Embed in batches of like length (less padding), telling progress."""
        order = sorted(texts, key=len)
        encoded: dict[str, np.ndarray] = {}
        for start in range(0, len(order), _ENCODE_BATCH):
            yield Event.progress("index", start, len(order), unit="chunk")
            batch = order[start : start + _ENCODE_BATCH]
            encoded.update(zip(batch, self.embedder.encode(batch), strict=True))
        yield Event.progress("index", len(order), len(order), unit="chunk")
        return encoded

    def _store(self, dropped: list[str], added: int) -> None:
        """Our own files first, then Chroma; the manifest last makes it true."""
        self._save()
        if self._chroma is None:
            self._chroma = _Chroma.create(self.folder, self.url, self._collection_name)
        self._chroma.remove(dropped)
        if added:
            first = len(self._rows) - added
            self._chroma.add(self._rows[first:], self._vectors[first:])
        self._publish()

    # On disk

    def _clear(self) -> None:
        """Remove an older index from the folder, the manifest first, so that a half one never looks whole."""
        _drop_from_server(self.folder)
        (self.folder / "manifest.json").unlink(missing_ok=True)
        for path in [
            *self.folder.glob("chunks-*"),
            *self.folder.glob("vectors-*"),
            self.folder / "clean.json",
        ]:
            path.unlink(missing_ok=True)
        shutil.rmtree(self.folder / "chroma", ignore_errors=True)

    def _save(self) -> None:
        self._generation += 1
        with (
            _beside(self.folder / f"chunks-{self._generation}.jsonl") as path,
            path.open("w", encoding="utf-8") as file,
        ):
            for row in self._rows:
                file.write(json.dumps({"id": row.id, **asdict(row.chunk)}, ensure_ascii=False) + "\n")
        with _beside(self.folder / f"vectors-{self._generation}.npy") as path, path.open("wb") as file:
            np.save(file, self._vectors)

    def _publish(self) -> None:
        manifest = {
            "format": FORMAT,
            "embedder": self.embedder.name,
            "dimension": int(self._vectors.shape[1]),
            "params": asdict(self.params),
            "generation": self._generation,
            "next_id": self._next_id,
            "collection": self._collection_name,
            "url": self.url,
            "checksums": {name: _crc(self.folder / name) for name in self._own_files()},
            "documents": [asdict(document) for document in self.documents()],
        }
        with _beside(self.folder / "manifest.json") as path:
            path.write_text(json.dumps(manifest, ensure_ascii=False, indent=1), encoding="utf-8")
        for path in [*self.folder.glob("chunks-*"), *self.folder.glob("vectors-*")]:
            if path.name not in self._own_files():
                path.unlink()

    def _own_files(self) -> tuple[str, str]:
        return f"chunks-{self._generation}.jsonl", f"vectors-{self._generation}.npy"

    def _load(self) -> None:
        try:
            manifest = json.loads((self.folder / "manifest.json").read_text(encoding="utf-8"))
            if manifest["format"] != FORMAT:
                raise InvalidInput(f"The index in {self.folder} has an unknown format. Build it again.")
            if manifest["embedder"] != self.embedder.name:
                raise InvalidInput(
                    f"The index was made with the embedding model “{manifest['embedder']}”, not with "
                    f"“{self.embedder.name}”. Build it again."
                )
            self.params = IndexParams(**manifest["params"])
            self.url = manifest["url"]
            self._collection_name = manifest["collection"]
            self._generation, self._next_id = manifest["generation"], manifest["next_id"]
            self._documents = {entry["id"]: IndexedDocument(**entry) for entry in manifest["documents"]}
            chunk_file, vector_file = self._own_files()
            for name, crc in manifest["checksums"].items():
                if _crc(self.folder / name) != crc:
                    raise ValueError(f"{name} has changed")
            with (self.folder / chunk_file).open(encoding="utf-8") as lines:
                entries = [json.loads(line) for line in lines]
            self._rows = [_Row(entry.pop("id"), Chunk(**entry)) for entry in entries]
            self._vectors = np.load(self.folder / vector_file)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StoreError(f"The index in {self.folder} is damaged ({error}). Build it again.") from error
        self._renumber()

    def _renumber(self) -> None:
        self._position = {str(row.id): position for position, row in enumerate(self._rows)}

    def _open_chroma(self) -> None:
        reason = _trouble(self.folder, self.url, self._collection_name, self._rows)
        if reason is None:
            self._chroma = _Chroma.open(self.folder, self.url, self._collection_name)
            if self._chroma.ids() == set(self._position):
                return
            reason = "it does not hold the same chunks as our own copy"
            self._chroma.drop()
        self._tell(f"The Chroma index was rebuilt from the saved chunks and vectors: {reason}.")
        shutil.rmtree(self.folder / "chroma", ignore_errors=True)
        self._chroma = _Chroma.create(self.folder, self.url, self._collection_name)
        self._chroma.add(self._rows, self._vectors)

    def _tell(self, text: str) -> None:
        log.warning(text)
        self.events.append(Event.log(text, "warning"))


class _Chroma:
    """One Chroma collection, in a folder or on a server."""

    def __init__(self, folder: Path, url: str | None, name: str):
        self._folder, self._url, self._name = folder, url, name
        (folder / "clean.json").unlink(missing_ok=True)
        self._client = _client(folder / "chroma", url)
        self.collection: Any = None
        # A process that ends without close() still leaves clean files behind, unless it is killed.
        self._finalizer = weakref.finalize(self, _finish, self._client, folder, url)

    @classmethod
    def create(cls, folder: Path, url: str | None, name: str) -> "_Chroma":
        """Make the collection new; one of that name is dropped."""
        chroma = cls(folder, url, name)
        if name in {collection.name for collection in chroma._client.list_collections()}:
            chroma._client.delete_collection(name)
        chroma.collection = chroma._client.create_collection(
            name, embedding_function=None, configuration={"hnsw": {"space": "cosine"}}
        )
        return chroma

    @classmethod
    def open(cls, folder: Path, url: str | None, name: str) -> "_Chroma":
        """Open an existing collection."""
        chroma = cls(folder, url, name)
        chroma.collection = chroma._client.get_collection(name, embedding_function=None)
        return chroma

    def ids(self) -> set[str]:
        """Ids of all rows."""
        return set(self.collection.get(include=[])["ids"])

    def add(self, rows: Sequence[_Row], vectors: np.ndarray) -> None:
        """Add rows with their vectors, in batches of the largest size that Chroma takes."""
        most = self._client.get_max_batch_size()
        for first in range(0, len(rows), most):
            batch = rows[first : first + most]
            self.collection.add(
                ids=[str(row.id) for row in batch],
                embeddings=vectors[first : first + most],
                metadatas=[
                    {"document": row.chunk.document, "start": row.chunk.start, "end": row.chunk.end}
                    for row in batch
                ],
            )

    def remove(self, ids: Sequence[str]) -> None:
        """Delete rows."""
        most = self._client.get_max_batch_size()
        for first in range(0, len(ids), most):
            self.collection.delete(ids=list(ids[first : first + most]))

    def query(self, vectors: np.ndarray, k: int) -> list[list[tuple[str, float]]]:
        """For each vector the nearest ids with their cosine similarity, best first."""
        found = self.collection.query(query_embeddings=vectors, n_results=k, include=["distances"])
        return [
            [(id, 1.0 - float(distance)) for id, distance in zip(ids, distances, strict=True)]
            for ids, distances in zip(found["ids"], found["distances"], strict=True)
        ]

    def close(self) -> None:
        """Close the client; local files are noted as clean."""
        self._finalizer()

    def drop(self) -> None:
        """Delete the collection and close."""
        self._client.delete_collection(self._name)
        self.close()


def _client(path: Path, url: str | None) -> Any:
    import chromadb

    settings = chromadb.Settings(anonymized_telemetry=False)
    if url is None:
        return chromadb.PersistentClient(str(path), settings=settings)
    parts = urlsplit(url if "//" in url else f"//{url}")
    secure = parts.scheme == "https"
    try:
        return chromadb.HttpClient(
            parts.hostname or "localhost", parts.port or (443 if secure else 8000), secure, settings=settings
        )
    except ValueError as error:
        raise StoreError(f"The Chroma server at {url} does not answer: {error}") from error


def _finish(client: Any, folder: Path, url: str | None) -> None:
    client.close()
    if url is None and (folder / "chroma").is_dir():
        with _beside(folder / "clean.json") as path:
            path.write_text(json.dumps(_fingerprint(folder / "chroma")))


def _fingerprint(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): _crc(path) for path in _files(folder)}


def _trouble(folder: Path, url: str | None, name: str, rows: Sequence[_Row]) -> str | None:
    """Why Chroma's files cannot be trusted, or None. Files that are not as they were closed are tried
    in another process first, because damaged ones can end the process that opens them.
    """
    if url is not None:
        client = _client(folder, url)
        missing = name not in {collection.name for collection in client.list_collections()}
        client.close()
        return "the server no longer has it" if missing else None
    if not (folder / "chroma" / "chroma.sqlite3").is_file():
        return "its files are missing"
    try:
        clean = json.loads((folder / "clean.json").read_text())
    except (OSError, ValueError):
        clean = None
    if clean == _fingerprint(folder / "chroma"):
        return None
    return None if _probe(folder / "chroma", name, len(rows)) else "its files are damaged"


_PROBE = """
import sys, chromadb
path, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
client = chromadb.PersistentClient(path, settings=chromadb.Settings(anonymized_telemetry=False))
collection = client.get_collection(name, embedding_function=None)
rows = collection.get(include=["embeddings"])
assert len(rows["ids"]) == collection.count() == count
assert len(collection.query(query_embeddings=rows["embeddings"][:1], n_results=count)["ids"][0]) == count
client.close()
"""


def _probe(path: Path, name: str, count: int) -> bool:
    command = [sys.executable, "-c", _PROBE, str(path), name, str(count)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PROBE_SECONDS)
    except subprocess.TimeoutExpired:
        return False
    if done.returncode:
        log.warning(
            "Trying the Chroma files at %s ended with %s: %s", path, done.returncode, done.stderr[-500:]
        )
    return done.returncode == 0


@dataclass(frozen=True)
class Contents:
    """What an index on disk holds, as its manifest says."""

    documents: tuple[IndexedDocument, ...]
    params: IndexParams
    bytes: int


def contents(folder: Path) -> Contents:
    """What the index in ``folder`` holds, without opening it.

    Raises:
        StoreError: its manifest cannot be read.
    """
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        documents = tuple(IndexedDocument(**entry) for entry in manifest["documents"])
        size = sum(path.stat().st_size for path in _files(folder))
        return Contents(documents, IndexParams(**manifest["params"]), size)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"The index in {folder} is damaged ({error}). Build it again.") from error


def remove(folder: Path) -> bool:
    """Remove the index in ``folder``, and its collection on a Chroma server where it has one.

    Returns: False, and nothing is done, where somebody has it open.

    Raises:
        StoreError: its Chroma server does not answer.
    """
    try:
        lock = _acquire(folder)
    except QueueError:
        return False
    try:
        _drop_from_server(folder)
        shutil.rmtree(folder)
    finally:
        lock.release()
    return True


def _drop_from_server(folder: Path) -> None:
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        url, name = manifest["url"], manifest["collection"]
    except (OSError, ValueError, KeyError):  # not whole: nothing says where else it lies
        return
    if url is None:
        return
    client = _client(folder, url)
    try:
        if name in {collection.name for collection in client.list_collections()}:
            client.delete_collection(name)
    finally:
        client.close()


def _acquire(folder: Path) -> FileLock:
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "lock", thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise QueueError(
            f"The index in {folder} is in use by another process or window. Close it there, or wait until it is done."
        ) from None
    return lock


class _beside:
    """Write a file beside its place and rename it when it is whole."""

    def __init__(self, path: Path):
        self._path, self._partial = path, path.with_name(path.name + ".partial")

    def __enter__(self) -> Path:
        return self._partial

    def __exit__(self, kind: type | None, *rest: object) -> None:
        if kind is None:
            os.replace(self._partial, self._path)
        else:
            self._partial.unlink(missing_ok=True)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _crc(path: Path) -> int:
    crc = 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            crc = zlib.crc32(block, crc)
    return crc


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
