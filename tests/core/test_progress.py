"""Progress bars, and warnings that point at the user's code."""

import pytest

from xplique_dirpairs.core.progress import progress, warn_caller


def test_progress_yields_parts_in_order_with_or_without_a_bar(capsys):
    assert list(progress("abc", 3, "letters", verbose=0)) == ["a", "b", "c"]
    assert capsys.readouterr().out == ""
    assert list(progress(iter("abc"), 3, "letters", verbose=1, each="letter")) == ["a", "b", "c"]
    printed = capsys.readouterr().out
    assert printed.startswith("letters\n") and "3/3" in printed


def test_progress_prints_nothing_without_parts(capsys):
    assert list(progress([], 0, "letters", verbose=1)) == []
    assert capsys.readouterr().out == ""


def test_a_warning_points_at_the_line_that_called_the_package():
    with pytest.warns(UserWarning, match="careful") as warned:
        warn_caller("careful", UserWarning)
    assert warned[0].filename == __file__
