import json

import pytest

from xplique_dirpairs.commands.class_names import (
    ClassNames,
    check_all_found,
    outputs_of_folders,
    read_class_names,
)

IMAGENET = [["n01", "tench"], ["n02", "golf_ball"], ["n03", "crane"], ["n04", "crane"]]


@pytest.fixture
def imagenet(tmp_path):
    (tmp_path / "names.json").write_text(json.dumps(IMAGENET))
    return read_class_names(tmp_path / "names.json", 4)


@pytest.mark.parametrize(
    "text",
    [
        "cat\ndog\r\nÖl\n\n",
        "\ufeffcat\ndog\nÖl",
        '["cat", "dog", "Öl"]',
        '[["n1", "cat"], ["n2", "dog"], ["n3", "Öl"]]',
        '{"1": "dog", "0": ["n1", "cat"], "2": "Öl"}',
    ],
)
def test_names_from_text_and_json(tmp_path, text):
    (tmp_path / "names").write_text(text, encoding="utf-8")
    assert read_class_names(tmp_path / "names", 3).shown == ["cat", "dog", "Öl"]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"cat\ndog", "holds 2 names, but the model has 3 outputs"),
        (b"[1, 2, 3]", "must be a list of names"),
        (b'["cat", ', "is no JSON"),
        (b'{"1": "cat", "2": "dog", "3": "cow"}', "from 0 on"),
        (b"\xff\xfe\x00", "is not UTF-8"),
    ],
)
def test_other_files_are_one_error(tmp_path, content, complaint):
    (tmp_path / "names").write_bytes(content)
    with pytest.raises(ValueError, match=complaint):
        read_class_names(tmp_path / "names", 3)


@pytest.mark.parametrize(
    "name", ["golf_ball", "Golf ball", "golf-ball", "n02", "n02_golf_ball", "N02 golf ball", "1"]
)
def test_a_class_is_found_by_any_of_its_names(imagenet, name):
    assert imagenet.find(name) == 1


def test_a_name_that_two_classes_have(imagenet):
    assert imagenet.shown == ["tench", "golf_ball", "crane (2)", "crane (3)"]
    assert imagenet.find("n03") == 2
    with pytest.raises(ValueError, match="classes 2, 3: give the number"):
        imagenet.find("crane")


def test_unknown_classes_are_said_with_what_is_near(imagenet):
    assert imagenet.chosen(["3", "tench", "0"]) == [0, 3]
    with pytest.raises(ValueError, match=r"'golfball' \(near it: golf_ball\)"):
        imagenet.chosen(["golfball"])
    with pytest.raises(
        ValueError, match=r"'4' \(numbers go from 0 to 3\); 'x' \(nothing near it\)"
    ):
        imagenet.chosen(["4", "x", "0"])


def test_outputs_without_names_have_numbers():
    unknown = ClassNames.unknown(3)
    assert unknown.shown == ["class 0", "class 1", "class 2"]
    assert unknown.chosen(["2"]) == [2]
    with pytest.raises(ValueError, match="give --class-names FILE, or numbers"):
        unknown.chosen(["cat"])


def test_folders_are_found_among_the_outputs(imagenet):
    found = outputs_of_folders(["n04_crane", "tench", "golfbal"], imagenet)
    assert found == {"n04_crane": 3, "tench": 0, "golfbal": None}
    with pytest.raises(
        ValueError, match=r"1 of 3 class folders .*'golfbal' \(near it: golf_ball\)"
    ):
        check_all_found(found, imagenet)


def test_two_folders_of_one_class(imagenet):
    with pytest.raises(ValueError, match="'tench' and 'n01' are both of class tench"):
        outputs_of_folders(["tench", "n01"], imagenet)
