"""Requests to a run under way: asked by the page, taken once by the training."""

import threading
import time

import pytest

from playground.errors import InvalidInput, QueueError
from playground.jobs import local, requests


@pytest.fixture
def folder(settings):
    made = local.run_folder(settings, 7)
    made.mkdir(parents=True)
    return made


def test_what_was_asked_is_taken_once(settings, folder):
    assert requests.asked(folder) == set()
    requests.ask(settings, 7, "sample")
    requests.ask(settings, 7, "sample")
    requests.ask(settings, 7, "save")
    assert requests.asked(folder) == {"sample", "save"}
    assert requests.asked(folder) == set()
    requests.ask(settings, 7, "save")
    assert requests.asked(folder) == {"save"}


def test_words_that_mean_nothing_are_refused_and_passed_over(settings, folder):
    with pytest.raises(InvalidInput, match="sample, save"):
        requests.ask(settings, 7, "stop\nsave")
    (folder / requests.FILE).write_text("sav\nsample\n")
    assert requests.asked(folder) == {"sample"}


def test_a_run_that_has_not_begun_cannot_be_asked(settings):
    with pytest.raises(QueueError, match="not begun"):
        requests.ask(settings, 8, "sample")


def test_no_request_is_lost_between_two_hands(settings, folder):
    taken = []
    done = threading.Event()

    def train():
        while not done.is_set() or (folder / requests.FILE).stat().st_size:
            taken.extend(requests.asked(folder))

    (folder / requests.FILE).touch()
    loop = threading.Thread(target=train)
    loop.start()
    for _ in range(200):
        before = len(taken)
        requests.ask(settings, 7, "sample")
        while len(taken) == before:
            time.sleep(0)
    done.set()
    loop.join()
    assert len(taken) == 200
