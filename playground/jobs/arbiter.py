"""The page's own inference: one at a time, in the order asked, out of the way of jobs.

One base model and one run's adapted model stay loaded; a job that needs their memory makes them go.
"""

import gc
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psutil

from playground.data import tasks
from playground.errors import AdapterError, QueueError
from playground.jobs.local import run_folder
from playground.methods import registry
from playground.methods.base import Adapted, Context, Method
from playground.methods.diffusion import AdaptedImage, ImageContext
from playground.models import catalogue
from playground.results.runs import Run, RunStore
from playground.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor

    from playground.models.embedding import Embedder
    from playground.models.image import ImageModel
    from playground.models.text import LanguageModel

Progress = Callable[[str, int, int | None], None]

PATIENCE = 30.0  # seconds that a job waits for an answer that is being written
SPARE_BYTES = 2 * 10**9  # with less memory free than this, loaded models go before a job starts
JOB_FACTOR = 4  # full training holds weights, gradients and two moments


class Turnstile:
    """A lock that serves in the order of arrival. It may be released by another thread."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._line: deque[threading.Event] = deque()

    def acquire(self, timeout: float | None = None) -> bool:
        """Wait for one's turn; False if it did not come within ``timeout`` seconds."""
        turn = threading.Event()
        with self._guard:
            self._line.append(turn)
            self._line[0].set()
        if turn.wait(timeout):
            return True
        with self._guard:
            if turn.is_set():
                return True
            self._line.remove(turn)
            return False

    def release(self) -> None:
        """Let the next one in."""
        with self._guard:
            self._line.popleft()
            if self._line:
                self._line[0].set()

    @property
    def waiting(self) -> int:
        """How many wait, without the one that is served."""
        with self._guard:
            return max(0, len(self._line) - 1)


class Arbiter:
    """Hands out loaded models for the page's own answers.

    Do not ask for a second one inside a ``with`` block: it would wait for the first.
    """

    def __init__(self, settings: Settings, store: RunStore):
        self.settings = settings
        self.store = store
        self._turns = Turnstile()
        self._model: LanguageModel | ImageModel | None = None
        self._adapted: tuple[tuple, Adapted | AdaptedImage] | None = None
        self._embedder: Embedder | None = None

    @property
    def waiting(self) -> int:
        """How many inferences wait for the one that goes on."""
        return self._turns.waiting

    @contextmanager
    def model(self, model_id: str, progress: Progress | None = None) -> "Iterator[LanguageModel]":
        """The base model, for as long as the block lasts.

        Args:
            progress: told when the model has to be fetched: what, bytes so far, bytes in all.

        Raises:
            ModelUnavailable: it cannot be had here.
            OutOfMemory: it does not fit.
            QueueError: a job is using the GPU's memory.
        """
        with self._turn():
            yield self._base(model_id, progress)

    @contextmanager
    def adapted(self, run_id: int, progress: Progress | None = None) -> Iterator[Adapted | AdaptedImage]:
        """A finished run's adapted model, restored from its folder, for as long as the block lasts.

        Raises:
            RunNotFound: there is no such run.
            QueueError: the run is not done, or a job is using the GPU's memory.
            AdapterError: its folder does not hold a whole result.
            ModelUnavailable, OutOfMemory: as ``model``.
        """
        run = self.store.get(run_id)
        if run.status != "done":
            raise QueueError(f"Run {run_id} is {run.status}; only a finished run can be tried.")
        with self._turn():
            yield self._restored(run, progress)

    def pictures(
        self,
        run_id: int,
        prompts: Sequence[str],
        seeds: Sequence[int],
        *,
        adapted: bool = True,
        steps: int | None = None,
        guidance: float | None = None,
        progress: Progress | None = None,
    ) -> "Tensor":
        """Pictures by a finished run's image model, one a prompt and seed; see ``ImageModel.generate``.

        Args:
            adapted: False = by the base model, with what was learnt switched off.
            steps, guidance: None = the model's own.

        Raises: as ``adapted``.
        """
        technique = registry.method(self.store.get(run_id).method)
        with self.adapted(run_id, progress) as found:
            technique.switch(found.model, adapted)
            try:
                return found.model.generate(prompts, seeds, steps=steps, guidance=guidance)
            finally:
                technique.switch(found.model, True)

    @contextmanager
    def embedder(self) -> "Iterator[Embedder]":
        """The embedding model, for as long as the block lasts.

        Raises:
            ModelUnavailable: it cannot be had here.
        """
        with self._turn():
            yield self._embedding()

    def release(self, force: bool = False) -> bool:
        """Let go of the loaded models if a job needs their memory (always on a GPU).

        Waits at most ``PATIENCE`` seconds for an answer that is being written.

        Returns: whether nothing stands in the job's way any more.
        """
        if self._model is None and self._adapted is None:
            return True
        if not (force or self._in_the_way()):
            return True
        if not self._turns.acquire(PATIENCE):
            return False
        try:
            self._drop()
            self._embedder = None
        finally:
            self._turns.release()
        return True

    @contextmanager
    def _turn(self) -> Iterator[None]:
        self._turns.acquire()
        try:
            yield
        finally:
            self._turns.release()

    def _base(self, model_id: str, progress: Progress | None) -> "LanguageModel | ImageModel":
        entry = catalogue.model(model_id, self.settings)
        if self._model is None or self._model.entry != entry:
            if self._model is not None:
                self._drop()
            self._model = self._load(entry, progress)
        return self._model

    def _load(
        self, entry: catalogue.Model, progress: Progress | None, quantization: str | None = None
    ) -> "LanguageModel | ImageModel":
        from playground.models.sources import locate

        self._refuse_beside_a_job(entry)
        folder = locate(entry, self.settings, progress)
        if entry.modality == "image":
            from playground.models.image import load

            return load(entry, self.settings, folder=folder)
        from playground.models.text import load

        return load(entry, self.settings, folder=folder, quantization=quantization)

    def _refuse_beside_a_job(self, entry: catalogue.Model) -> None:
        """On a GPU a job has the memory first."""
        import torch

        if not torch.cuda.is_available() or self.settings.device in {"cpu", "mps"}:
            return
        running = self.store.list(status="running")
        free, _ = torch.cuda.mem_get_info()
        if running and free < 1.5 * (entry.memory or 0) + 10**9:
            raise QueueError(
                f"Run {running[0].id} is using the GPU's memory. Try again when it has ended, or stop it."
            )

    def _restored(self, run: Run, progress: Progress | None) -> Adapted | AdaptedImage:
        key = (run.id, run.finished)
        if self._adapted is None or self._adapted[0] != key:
            self._adapted = None
            gc.collect()
            self._adapted = (key, self._restore(run, progress))
        return self._adapted[1]

    def _restore(self, run: Run, progress: Progress | None) -> Adapted | AdaptedImage:
        technique = registry.method(run.method)
        params = technique.Params.parse(run.params)
        folder = run_folder(self.settings, run.id)
        if not folder.is_dir():
            raise AdapterError(f"The folder of run {run.id} is gone; run it again.")
        if technique.family == "parametric":  # it changes the weights: on a copy of its own
            if self._short_of_memory():
                self._drop()
            entry = catalogue.model(run.model, self.settings)
            model = self._load(entry, progress, technique.quantization(params))
        else:
            model = self._base(run.model, progress)
        return technique.restore(params, self._context(technique, run, model))

    def _context(self, technique: Method, run: Run, model: Any) -> Context | ImageContext:
        folder = run_folder(self.settings, run.id)
        if technique.modality == "image":
            return ImageContext(None, model, folder, run.seed)
        task = tasks.task(run.task, self.settings)
        return Context(task=task, model=model, folder=folder, seed=run.seed, embedder=self._embedding)

    def _embedding(self) -> "Embedder":
        from playground.models.embedding import load_embedder

        if self._embedder is None:
            self._embedder = load_embedder(self.settings)
        return self._embedder

    def _drop(self) -> None:
        on_gpu = self._on_gpu()
        self._model = None
        self._adapted = None
        gc.collect()
        if on_gpu:
            import torch

            torch.cuda.empty_cache()

    def _loaded(self) -> list[Any]:
        held = [self._model, self._adapted[1].model if self._adapted else None]
        return [model for model in held if model is not None]

    def _on_gpu(self) -> bool:
        return any(model.device.type == "cuda" for model in self._loaded())

    def _in_the_way(self) -> bool:
        return any(model.device.type != "cpu" for model in self._loaded()) or self._short_of_memory()

    def _short_of_memory(self) -> bool:
        needed = max((JOB_FACTOR * (model.entry.memory or 0) for model in self._loaded()), default=0)
        return psutil.virtual_memory().available < max(SPARE_BYTES, needed)
