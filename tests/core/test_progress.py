"""Long work says how far it is, and nothing when asked for silence."""

from xplique_dirpairs.core.progress import progress


def test_parts_come_as_they_are_with_a_bar_or_in_silence(capsys):
    assert list(progress("abc", 3, "letters", verbose=0)) == ["a", "b", "c"]
    assert capsys.readouterr().out == ""
    assert list(progress(iter("abc"), 3, "letters", verbose=1, each="letter")) == ["a", "b", "c"]
    said = capsys.readouterr().out
    assert said.startswith("letters\n") and "3/3" in said


def test_no_parts_are_no_work(capsys):
    assert list(progress([], 0, "letters", verbose=1)) == []
    assert capsys.readouterr().out == ""
