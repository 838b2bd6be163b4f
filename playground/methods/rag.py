"""Retrieval-augmented generation: find passages for the question, put them into the prompt."""

import json
import random
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from playground.data.tasks import Document, Item, Task
from playground.errors import AdapterError, InvalidInput, InvalidParams, StoreError
from playground.events import Event
from playground.methods.base import Adapted, Context, Message, Method, Params, Prompt, parameter

if TYPE_CHECKING:
    from playground.retrieval.store import Index, Mode, Passage

FOLDER = "index"
_SEARCHED_AT_ONCE = 32  # training questions, while worked examples are looked for
_EXAMPLE_TOKENS = 200  # a training example is cut only where the embedding model would cut it


class RAGParams(Params):
    """How much is retrieved, how it is searched, and how documents are cut."""

    k: int = parameter(
        1,
        "Passages (k)",
        "How many passages go into the prompt, the best one last. More find the answer more often, "
        "but cost prompt tokens and distract a small model: the starter answers best from one.",
        minimum=1,
        maximum=20,
        step=1,
    )
    examples: int = parameter(
        3,
        "Retrieved examples",
        "For a task without documents: how many of its most similar solved examples go into the prompt, "
        "the nearest one last.",
        minimum=1,
        maximum=32,
        step=1,
    )
    worked: int = parameter(
        4,
        "Worked examples",
        "For a task with documents: how many solved training questions, each with the passage that answers "
        "it, stand before the question. They show how short an answer is meant to be.",
        minimum=0,
        maximum=16,
        step=1,
    )
    mode: Literal["hybrid", "dense", "lexical"] = parameter(
        "hybrid",
        "Search",
        "dense: by meaning (vectors); lexical: by words (BM25), strong on names and numbers; "
        "hybrid: both, joined by score.",
    )
    expansion: Literal["none", "feedback"] = parameter(
        "none",
        "Query expansion",
        "none: search for the question alone; feedback: search a second time, also for what marks the passages "
        "found first. The test bench on the page shows whether it helps.",
    )
    chunk_tokens: int = parameter(
        60,
        "Chunk size",
        "Most tokens of a passage, as the embedding model counts them.",
        minimum=20,
        maximum=200,
        step=10,
    )
    overlap_tokens: int = parameter(
        15,
        "Overlap",
        "Tokens of the last sentences that stand again at the start of the next passage.",
        minimum=0,
        maximum=60,
        step=5,
        advanced=True,
    )
    diversity: float = parameter(
        0.0,
        "Diversity",
        "Above 0, passages that say the same give way to others (maximal marginal relevance).",
        minimum=0.0,
        maximum=1.0,
        step=0.1,
        advanced=True,
    )


class RAG(Method):
    """Passages from the task's documents, or its most similar solved examples, before the question."""

    id = "rag"
    title = "RAG"
    family = "non-parametric"
    changes_weights = "No"
    summary = "Find the passages that bear on the question and let the model answer from them."
    training_cost = "Low"
    storage_cost = "Medium"
    use_case = "Facts that change, or that the model has never seen"
    best_for = "Questions about documents, with sources"
    paper = "Lewis et al. 2020, arXiv:2005.11401"
    Params = RAGParams

    def check(self, params: RAGParams, task: Task) -> None:
        """Refuse what does not fit the task: nothing to search, k above the pool, too large an overlap.

        Raises:
            InvalidParams: says which parameter, and what would fit.
        """
        if not task.documents and not task.train:
            raise InvalidParams(f"“{task.title}” has neither documents nor training examples to search.")
        if not task.documents and params.examples > len(task.train):
            raise InvalidParams(
                f"{params.examples} examples cannot be retrieved: “{task.title}” has only {len(task.train)}.",
                "examples",
            )
        if params.overlap_tokens > params.chunk_tokens // 2:
            raise InvalidParams(
                f"The overlap can be at most half of the chunk size: {params.chunk_tokens // 2}.",
                "overlap_tokens",
            )

    def adapt(self, params: RAGParams, context: Context) -> Generator[Event, None, Adapted]:
        """Build the run's own Chroma index; says how many chunks, and recall on the dev split."""
        from playground.retrieval.store import Index, IndexParams

        self.check(params, context.task)
        index = yield from Index.build(
            context.folder / FOLDER,
            _documents(context.task),
            context.embedder(),
            IndexParams(params.chunk_tokens, params.overlap_tokens)
            if context.task.documents
            else IndexParams(_EXAMPLE_TOKENS, 0),
            url=context.chroma_url,
        )
        yield Event.artifact("index", FOLDER, index.bytes())
        yield Event.metric("chunks", index.count)
        yield from _recall(index, params, context.task)
        return _adapted(params, context, index)

    def discard(self, folder: Path) -> None:
        """Remove the run's collection from the Chroma server, where it has one.

        Raises:
            StoreError: the server does not answer.
        """
        manifest = folder / FOLDER / "manifest.json"
        if manifest.is_file() and json.loads(manifest.read_text(encoding="utf-8")).get("url"):
            from playground.retrieval.store import remove

            remove(folder / FOLDER)

    def restore(self, params: RAGParams, context: Context) -> Adapted:
        """Open the run's index.

        Raises:
            AdapterError: the folder does not hold a whole index of this run.
        """
        from playground.retrieval.store import Index

        try:
            index = Index.shared(context.folder / FOLDER, context.embedder())
        except (InvalidInput, StoreError) as error:
            raise AdapterError(str(error)) from None
        return _adapted(params, context, index)


def search(index: "Index", inputs: Sequence[str], k: int, params: RAGParams) -> list[list["Passage"]]:
    """The passages for each input, as the parameters say: expanded or not, by which search, how varied."""
    return index.search_many(inputs, k, params.mode, params.diversity, params.expansion == "feedback")


def question(passages: Sequence["Passage"], input: str, input_name: str) -> str:
    """The user's turn: the passages, best last, a reminder, the question.

    On the handbook's dev split the starter model answered better with the reminder than without.
    """
    shown = "\n\n".join(
        f"{passage.heading}: {passage.text}" if passage.heading else passage.text
        for passage in passages[::-1]
    )
    return f"Passages:\n{shown}\n\nAnswer from the passages, in a few words.\n{input_name}: {input}"


def worked_examples(
    task: Task, index: "Index", count: int, mode: "Mode" = "hybrid", seed: int = 0
) -> list[Message]:
    """Turns of a chat: training questions with the passage that answers them, and their short answers.

    Drawn by the seed among those for which the search finds that passage first, so that none of them shows
    an answer that its passage does not hold. Fewer than ``count`` where there are fewer.
    """
    pool = list(task.train)
    random.Random(seed).shuffle(pool)
    turns: list[Message] = []
    for start in range(0, len(pool), _SEARCHED_AT_ONCE):
        some = pool[start : start + _SEARCHED_AT_ONCE]
        for item, found in zip(some, index.search_many([item.input for item in some], 1, mode), strict=True):
            if len(turns) == 2 * count:
                return turns
            if found and _holds(found[0], item):
                turns.append({"role": "user", "content": question(found, item.input, task.input_name)})
                turns.append({"role": "assistant", "content": item.target})
    return turns


def with_worked(messages: Sequence[Message], worked: Sequence[Message]) -> list[Message]:
    """The worked examples between the instruction and the last turn."""
    return [*messages[:-1], *worked, messages[-1]]


def _holds(passage: "Passage", item: Item) -> bool:
    """Whether the passage has the item's evidence; where none is marked, its answer in the same words."""
    if not item.evidence:
        return item.target.lower() in passage.text.lower()
    return any(
        passage.document == piece.document and passage.start <= piece.start and piece.end <= passage.end
        for piece in item.evidence
    )


def _documents(task: Task) -> list[Document]:
    """What is indexed: the documents, or the train split's inputs where there are none."""
    return list(task.documents) or [Document(item.id, item.input) for item in task.train]


def _recall(index: "Index", params: RAGParams, task: Task) -> Iterator[Event]:
    from playground.evaluation.retrieval import score

    items = [item for item in task.dev if item.evidence]
    found = search(index, [item.input for item in items], params.k, params)
    scores = score(items, found, params.k)
    if scores is not None:
        yield Event.metric("recall_at_k", scores.recall)


def _adapted(params: RAGParams, context: Context, index: "Index") -> Adapted:
    task = context.task
    if task.documents:
        worked = (
            worked_examples(task, index, params.worked, params.mode, context.seed) if params.worked else []
        )
        prompts = _passage_prompts(params, task, index, worked)
    else:
        prompts = _example_prompts(params, task, index)
    return Adapted(context.model, prompts, index.bytes())


def _passage_prompts(
    params: RAGParams, task: Task, index: "Index", worked: Sequence[Message]
) -> Callable[[Sequence[str]], list[Prompt]]:
    def prompts(inputs: Sequence[str]) -> list[Prompt]:
        found = search(index, inputs, params.k, params)
        return [
            Prompt(
                with_worked(task.messages(question(passages, text, task.input_name)), worked),
                passages=[passage.as_dict() for passage in passages],
            )
            for text, passages in zip(inputs, found, strict=True)
        ]

    return prompts


def _example_prompts(
    params: RAGParams, task: Task, index: "Index"
) -> Callable[[Sequence[str]], list[Prompt]]:
    by_id = {item.id: item for item in task.train}
    # The chunks of a long example count once, so ask for enough of them.
    wanted = params.examples * max(document.chunks for document in index.documents())

    def prompts(inputs: Sequence[str]) -> list[Prompt]:
        found = search(index, inputs, wanted, params)
        return [
            _with_examples(task, by_id, text, passages, params.examples)
            for text, passages in zip(inputs, found, strict=True)
        ]

    return prompts


def _with_examples(
    task: Task, by_id: dict[str, Item], text: str, found: Sequence["Passage"], k: int
) -> Prompt:
    best: dict[str, Any] = {}
    for passage in found:
        best.setdefault(passage.document, passage)
    passages = list(best.values())[:k]
    items = [by_id[passage.document] for passage in passages]
    shown = [
        passage.as_dict() | {"text": f"{item.input} → {item.target}"}
        for passage, item in zip(passages, items, strict=True)
    ]
    messages: list[Message] = task.messages(text, items[::-1])
    return Prompt(messages, passages=shown, examples=[item.id for item in items[::-1]])
