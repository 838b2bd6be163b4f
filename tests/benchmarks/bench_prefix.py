"""Few-shot evaluation with the shared prompt prefix, without it, and with transformers' plain generate.

``python tests/benchmarks/bench_prefix.py [--items 200] [--no-record]`` answers the test messages of the
support desk with eight fixed examples, three times in one process, and checks that all answers are the same.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from playground.data.tasks import task
from playground.models import catalogue
from playground.models import text as language
from playground.settings import Settings

MAX_NEW_TOKENS = 8
SHOTS = 8


def main() -> None:
    """Measure, print, and record unless told not to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=200)
    parser.add_argument("--no-record", action="store_true")
    arguments = parser.parse_args()
    settings = Settings.from_environment()
    desk = task("support-desk", settings)
    lm = language.load(catalogue.model("smollm2-135m", settings), settings)
    prompts = [
        lm.encode(desk.messages(item.input, desk.train[:SHOTS])) for item in desk.test[: arguments.items]
    ]
    list(lm.generate(prompts[:2], 2))  # warm-up

    shared, shared_seconds = timed(lambda: ours(lm, prompts, share_prefix=True))
    batched, batched_seconds = timed(lambda: ours(lm, prompts, share_prefix=False))
    plain, plain_seconds = timed(lambda: transformers_generate(lm, prompts))
    assert shared == batched, differences(shared, batched)
    assert shared == plain, differences(shared, plain)

    n = len(prompts)
    length = statistics.mean(map(len, prompts))
    print(f"{n} prompts of {length:.0f} tokens on average, answers identical all three ways")
    rows = []
    for against, seconds in (
        ("the same batches without the shared prefix", batched_seconds),
        ("transformers' generate, one by one", plain_seconds),
    ):
        ratio = seconds / shared_seconds
        print(
            f"shared prefix {n / shared_seconds:.2f} items/s, {against} {n / seconds:.2f}: {ratio:.1f} times"
        )
        rows.append(
            {
                "what": f"{SHOTS}-shot answers, SmolLM2-135M",
                "ours": round(n / shared_seconds, 2),
                "theirs": round(n / seconds, 2),
                "unit": "items/s",
                "against": against,
                "ratio": round(ratio, 2),
                "note": f"{n} prompts of {length:.0f} tokens, answers identical, {lm.dtype}".replace(
                    "torch.", ""
                ),
            }
        )
    if not arguments.no_record:
        from record import record

        print(record("prefix", rows))


def ours(lm: language.LanguageModel, prompts: list[list[int]], share_prefix: bool) -> list[str]:
    """The answers in the prompts' order."""
    answers = dict(lm.generate(prompts, MAX_NEW_TOKENS, share_prefix=share_prefix))
    return [answers[i].text for i in range(len(prompts))]


def transformers_generate(lm: language.LanguageModel, prompts: list[list[int]]) -> list[str]:
    """What a user would write: greedy ``generate`` on each prompt."""
    answers = []
    for ids in prompts:
        row = torch.tensor([ids], device=lm.device)
        out = lm.model.generate(
            row, attention_mask=torch.ones_like(row), max_new_tokens=MAX_NEW_TOKENS, do_sample=False
        )
        answers.append(lm.tokenizer.decode(out[0, len(ids) :], skip_special_tokens=True).strip())
    return answers


def timed(work) -> tuple[list[str], float]:
    """The result and the seconds that it took."""
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start


def differences(ours: list[str], theirs: list[str]) -> list[tuple[str, str]]:
    """The answers that are not the same."""
    return [(a, b) for a, b in zip(ours, theirs, strict=True) if a != b]


if __name__ == "__main__":
    main()
