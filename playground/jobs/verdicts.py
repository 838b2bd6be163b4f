"""How finished runs compare with zero-shot on the same items, in a sentence each; for the page and the command line."""

from collections.abc import Callable, Sequence
from functools import lru_cache

from playground.errors import InvalidInput
from playground.results import comparison, items
from playground.results.runs import Run, RunStore


def verdicts(store: RunStore, runs: Sequence[Run], title: Callable[[str], str]) -> list[tuple[Run, str]]:
    """Every finished run that has a zero-shot run in the same setting beside it, with the verdict.

    Args:
        title: a method's title by its id.
    """
    done = [run for run in runs if run.status == "done"]
    references = comparison.baselines(done, done)
    found = []
    for run in done:
        if reference := references.get(run.id):
            titles = title(run.method), title(reference.method)
            found.append((run, _verdict(store, run.id, reference.id, *titles)))
    return found


@lru_cache(maxsize=256)
def _verdict(store: RunStore, run_id: int, reference_id: int, name: str, reference: str) -> str:
    from playground.evaluation import statistics

    try:
        both = [items.tests(store.events(id, kinds={"sample"})) for id in (run_id, reference_id)]
        found = statistics.compare(*both, name, reference)
    except InvalidInput as error:
        return str(error)
    words = found.verdict[0].upper() + found.verdict[1:]
    return f"{words}. {found.test}: p = {found.p_value:.2g}."
