"""The sentence embedder: texts to unit vectors, for nearest examples and passages."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from playground.models import catalogue, sources
from playground.settings import Settings

BATCH = 32


class Embedder:
    """all-MiniLM-L6-v2, or another sentence-transformers model from a folder."""

    def __init__(self, folder: Path, name: str, device: str):
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # no warning in processes that fork later
        from sentence_transformers import SentenceTransformer

        self.name = name
        self.revision = sources.revision(folder)
        self._model = SentenceTransformer(
            str(folder), device=device, local_files_only=True, model_kwargs={"use_safetensors": True}
        )
        self.max_tokens: int = self._model.max_seq_length  # of one text; what is beyond is cut off

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors, float32, shape (len(texts), dimensions)."""
        if not texts:
            return np.zeros((0, self._model.get_embedding_dimension()), dtype=np.float32)
        return self._model.encode(
            list(texts), batch_size=BATCH, normalize_embeddings=True, show_progress_bar=False
        ).astype(np.float32, copy=False)

    def count_tokens(self, text: str) -> int:
        """Tokens of the text for this model, its start and end marks included; not cut off."""
        return len(self._model.tokenizer(text, truncation=False, verbose=False)["input_ids"])


def load_embedder(settings: Settings) -> Embedder:
    """The embedder that the playground uses, on the device of the settings.

    Raises:
        ModelUnavailable: it cannot be had here.
    """
    from playground.models.device import choose

    entry = catalogue.model("all-minilm-l6-v2", settings)
    return Embedder(sources.locate(entry, settings), entry.id, choose(settings).name)
