"""Lines of progress, and warnings that point at the user's code."""

import sys

import pytest

from xplique_dirpairs.core import progress as module
from xplique_dirpairs.core.progress import ProgressLine, duration, progress, warn_caller


@pytest.fixture
def clock(monkeypatch):
    """``clock(seconds)`` lets time pass."""
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])

    def passes(seconds):
        now[0] += seconds

    return passes


def test_progress_yields_parts_in_order_with_or_without_a_line(capsys):
    assert list(progress("abc", 3, "letters", verbose=0)) == ["a", "b", "c"]
    assert capsys.readouterr().out == ""
    assert list(progress(iter("abc"), 3, "letters", verbose=1, each="letter")) == ["a", "b", "c"]
    printed = capsys.readouterr().out
    assert printed == "letters: letter 3 of 3, 0 s\n"


def test_progress_prints_nothing_without_parts(capsys):
    assert list(progress([], 0, "letters", verbose=1)) == []
    assert capsys.readouterr().out == ""


def test_a_terminal_shows_one_line_that_says_how_far_and_how_long(clock, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    line = ProgressLine(4, "classes", "class")
    clock(30)
    line.update(1)
    clock(0.1)  # too soon to be shown
    line.update(2)
    clock(29.9)
    line.update(3, "the last but one")
    clock(5)
    line.update(4)
    line.close()
    shown = capsys.readouterr().out
    assert shown.count("\n") == 1 and shown.endswith("\n")
    assert [text.rstrip() for text in shown.split("\r")[1:]] == [
        "classes: class 1 of 4, 30 s, 1 min 30 s left",
        "classes: class 3 of 4, 1 min 0 s, 20 s left, the last but one",
        "classes: class 4 of 4, 1 min 5 s",
    ]


def test_a_file_gets_the_last_line_and_one_every_half_a_minute(clock, capsys):
    line = ProgressLine(4, "classes", "class")
    for seconds, done in ((10, 1), (25, 2), (1, 3)):
        clock(seconds)
        line.update(done)
    line.close()  # the computation has ended before all parts were finished
    assert capsys.readouterr().out.splitlines() == [
        "classes: class 2 of 4, 35 s, 35 s left",
        "classes: class 3 of 4, 36 s, 12 s left",
    ]


def test_a_line_that_was_never_updated_is_not_shown(capsys):
    ProgressLine(3, "classes").close()
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("seconds, text", [(0.4, "0 s"), (59.6, "1 min 0 s"), (125, "2 min 5 s")])
def test_durations_are_whole_seconds(seconds, text):
    assert duration(seconds) == text


def test_a_warning_points_at_the_line_that_called_the_package():
    with pytest.warns(UserWarning, match="careful") as warned:
        warn_caller("careful", UserWarning)
    assert warned[0].filename == __file__
