"""The visitors' indexes: kept on disk, opened again, removed when they are old or too many."""

import os
import time

import numpy as np
import pytest

from playground.data.tasks import Document
from playground.errors import InvalidInput, QueueError
from playground.events import result_of
from playground.retrieval.store import Index
from playground.settings import Settings
from playground.ui import indexes as module
from playground.ui.indexes import Indexes

ONE, TWO, THREE = "1" * 32, "2" * 32, "3" * 32


class Embedder:
    """Letters counted: float32 (n, 26), L2-normalised."""

    name = "letters"
    max_tokens = 256

    def count_tokens(self, text):
        return len(text.split())

    def encode(self, texts):
        counts = np.array([[text.lower().count(chr(97 + n)) + 0.01 for n in range(26)] for text in texts])
        return (counts / np.linalg.norm(counts, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def settings(tmp_path):
    return Settings(home=tmp_path, offline=True)


def build(held, visitor, text="The ferry leaves at seven."):
    index = result_of(Index.build(held.folder(visitor), [Document("ferry", text)], Embedder()))
    held.keep(visitor, index)
    return index


def test_an_index_is_found_again_by_another_process_of_the_page(settings):
    before = Indexes(settings)
    build(before, ONE)
    before.close(ONE)
    after = Indexes(settings)
    seen = after.contents(ONE)
    assert [(document.id, document.chunks) for document in seen.documents] == [("ferry", 1)]
    assert seen.bytes > 0
    assert after.get(ONE, Embedder()).search("ferry", 1)[0].text == "The ferry leaves at seven."
    assert after.contents(TWO) is None
    assert after.get(TWO, Embedder()) is None
    after.close(ONE)


@pytest.mark.parametrize("name", ["", None, "../../etc", "1" * 31, "G" * 32, "1" * 32 + "\n"])
def test_only_an_id_that_a_browser_makes_names_a_folder(settings, name):
    with pytest.raises(InvalidInput, match="visitor"):
        Indexes(settings).folder(name)


def test_the_one_unused_for_longest_is_closed_and_not_lost(settings, monkeypatch):
    monkeypatch.setattr(module, "MOST_OPEN", 1)
    held = Indexes(settings)
    first = build(held, ONE)
    build(held, TWO)
    with pytest.raises(InvalidInput, match="closed"):
        first.search("ferry")
    assert held.get(ONE, Embedder()).search("ferry")
    held.close(ONE)


def test_old_indexes_and_the_oldest_of_too_many_are_removed(settings, monkeypatch):
    monkeypatch.setattr(module, "MOST_KEPT", 1)
    held = Indexes(settings)
    for visitor, days in ((ONE, 40), (TWO, 2), (THREE, 1)):
        build(held, visitor)
        held.close(visitor)
        used = time.time() - days * 86_400
        os.utime(held.folder(visitor), (used, used))
    assert set(held.sweep()) == {held.folder(ONE), held.folder(TWO)}
    assert held.contents(THREE) is not None
    assert held.contents(TWO) is None


def test_a_visitor_deletes_the_own_index_only(settings):
    held = Indexes(settings)
    build(held, ONE)
    build(held, TWO)
    assert held.delete(ONE)
    assert held.contents(ONE) is None
    assert not held.folder(ONE).exists()
    assert held.get(TWO, Embedder()).search("ferry")
    assert not held.delete(ONE)
    held.close(TWO)


def test_an_index_in_use_elsewhere_is_not_deleted(settings):
    other, held = Indexes(settings), Indexes(settings)
    build(other, ONE)
    with pytest.raises(QueueError, match="in use"):
        held.delete(ONE)
    assert other.get(ONE, Embedder()).search("ferry")
    other.close(ONE)


def test_an_index_that_is_open_elsewhere_is_not_removed(settings, monkeypatch):
    monkeypatch.setattr(module, "MOST_KEPT", 0)
    other, held = Indexes(settings), Indexes(settings)
    build(other, ONE)
    assert held.sweep() == []
    assert other.get(ONE, Embedder()).search("ferry")
    other.close(ONE)
