"""Names of concepts are given in order, by number, or in a JSON file."""

import json

import pytest

from xplique_dirpairs.core.concept_names import check_concept_names


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (None, ("0", "1", "2")),
        (["a", "b", "c"], ("a", "b", "c")),
        ({1: "wheel"}, ("0", "wheel", "2")),
        ({"0": "wheel", "2": "日本"}, ("wheel", "1", "日本")),
    ],
)
def test_concepts_without_a_name_keep_their_numbers(tmp_path, names, expected):
    assert check_concept_names(names, 3) == expected
    if names is not None:
        file = tmp_path / "names.json"
        file.write_text(json.dumps(names), encoding="utf-8")
        assert check_concept_names(file, 3) == check_concept_names(str(file), 3) == expected


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a", "b"], "concept_names must be 3 names, or names by the number .* not 2 names"),
        ({3: "wheel"}, "concept_names: concepts are numbered 0 to 2, not 3"),
        ({"one": "wheel"}, "concepts are numbered 0 to 2, not 'one'"),
        ({0: "  "}, "a name must not be empty"),
    ],
)
def test_names_of_other_concepts_are_refused(names, message):
    with pytest.raises(ValueError, match=message):
        check_concept_names(names, 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "must hold a JSON list of names"),
        ("3", "must hold a JSON list of names, .* not 3"),
        ('{"0": 7}', "one of the names is 7"),
        ('["a"]', r"names\.json must be 3 names"),
    ],
)
def test_an_unsuitable_file_is_named_in_the_message(tmp_path, text, message):
    file = tmp_path / "names.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=message) as raised:
        check_concept_names(file, 3)
    assert str(file) in str(raised.value)
