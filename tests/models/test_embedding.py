"""The embedder gives unit vectors that know what belongs together."""

import numpy as np
import pytest

from playground.models.embedding import load_embedder
from playground.settings import Settings

pytestmark = pytest.mark.starter


@pytest.fixture(scope="module")
def embedder(starter_home):
    return load_embedder(Settings(home=starter_home, device="cpu", offline=True))


def test_vectors_are_normalised_float32(embedder):
    vectors = embedder.encode(["A cat sleeps.", "", "<b>Invoices</b>", "word " * 1000])
    assert vectors.shape == (4, 384)
    assert vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert embedder.encode([]).shape == (0, 384)


def test_near_texts_are_near(embedder):
    question, near, far = embedder.encode(
        ["My parcel has not arrived.", "Where is the package I ordered?", "Glaze the bowl before firing."]
    )
    assert question @ near > question @ far + 0.2


def test_a_text_does_not_depend_on_its_batch(embedder):
    alone = embedder.encode(["A short one."])[0]
    among = embedder.encode(
        ["A much longer sentence that stands before it, with many words.", "A short one."]
    )[1]
    assert np.allclose(alone, among, atol=1e-5)


def test_tokens_are_counted_beyond_the_limit(embedder):
    assert embedder.max_tokens == 256
    assert embedder.count_tokens("hello") == 3  # with the start and the end mark
    assert embedder.count_tokens("hello " * 1000) == 1002
