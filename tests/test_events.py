"""Running to its end what tells events on the way."""

import pytest

from playground.events import Event, result_of


def work(fails=False):
    yield Event.progress("load", 1, 2)
    if fails:
        raise OSError("no room")
    yield Event.log("there")
    return 7


def test_the_result_and_each_event_in_its_order():
    told = []
    assert result_of(work(), told.append) == 7
    assert [event.kind for event in told] == ["progress", "log"]


def test_nobody_has_to_listen():
    assert result_of(work()) == 7


def test_what_was_told_before_a_failure_is_not_lost():
    told = []
    with pytest.raises(OSError, match="no room"):
        result_of(work(fails=True), told.append)
    assert [event.kind for event in told] == ["progress"]
