import json
import unicodedata

import pytest

from xplique_dirpairs.commands.class_names import ClassNames, imagenet_names, read_class_names

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
def test_class_names_are_read_from_text_and_json(tmp_path, text):
    (tmp_path / "names").write_text(text, encoding="utf-8")
    assert read_class_names(tmp_path / "names", 3).shown == ["cat", "dog", "Öl"]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"cat\ndog", "holds 2 names, but the model has 3 outputs"),
        (b"[1, 2, 3]", "must be a list of names"),
        (b'["cat", ', "is not valid JSON"),
        (b'{"1": "cat", "2": "dog", "3": "cow"}', "starting at 0"),
        ("cat".encode("utf-16"), "is UTF-16, or no text: save it as UTF-8"),
        ("cat\ndog\ncow".encode("utf-16-le"), "is UTF-16"),
        ("Öl".encode("cp1252"), "is not UTF-8 text .* save it as UTF-8"),
    ],
)
def test_invalid_files_of_class_names_are_refused(tmp_path, content, complaint):
    (tmp_path / "names").write_bytes(content)
    with pytest.raises(ValueError, match=complaint):
        read_class_names(tmp_path / "names", 3)


@pytest.mark.parametrize(
    "name", ["golf_ball", "Golf ball", "golf-ball", "n02", "n02_golf_ball", "N02 golf ball", "1"]
)
def test_a_class_is_found_by_any_of_its_names(imagenet, name):
    assert imagenet.find(name) == 1


def test_a_name_that_two_classes_share_is_printed_with_the_number_and_not_accepted(imagenet):
    assert imagenet.shown == ["tench", "golf_ball", "crane (2)", "crane (3)"]
    assert imagenet.find("n03") == 2
    with pytest.raises(ValueError, match="classes 2, 3: give the number"):
        imagenet.find("crane")


def test_an_error_about_an_unknown_class_names_similar_ones(imagenet):
    assert imagenet.chosen(["3", "tench", "0"]) == [0, 3]
    with pytest.raises(ValueError, match=r"'golfball' \(similar: golf_ball\)"):
        imagenet.chosen(["golfball"])
    with pytest.raises(
        ValueError, match=r"'4' \(numbers go from 0 to 3\); 'x' \(no similar name\)"
    ):
        imagenet.chosen(["4", "x", "0"])


def test_outputs_without_names_have_numbers():
    unknown = ClassNames(((),) * 3)
    assert unknown.shown == ["class 0", "class 1", "class 2"]
    assert unknown.chosen(["2"]) == [2]
    with pytest.raises(ValueError, match="give --class-names FILE, or numbers"):
        unknown.chosen(["cat"])


def test_class_folders_are_matched_to_classes(imagenet):
    classes = imagenet.of_folders(["n04_crane", "tench", "golfbal"])
    assert classes == {"n04_crane": 3, "tench": 0, "golfbal": None}
    with pytest.raises(
        ValueError, match=r"1 of 3 class folders .*'golfbal' \(similar: golf_ball\)"
    ):
        imagenet.check_all_found(classes)


def test_two_folders_of_one_class_are_refused(imagenet):
    with pytest.raises(ValueError, match="'tench' and 'n01' are the same class, tench"):
        imagenet.of_folders(["tench", "n01"])


@pytest.mark.parametrize("stored", ["NFC", "NFD"])
@pytest.mark.parametrize("asked", ["NFC", "NFD"])
@pytest.mark.parametrize("name", ["café", "Ångström", "ガラス", "한국", "ﬁg"])
def test_both_unicode_forms_of_a_name_are_the_same_name(tmp_path, stored, asked, name):
    other = unicodedata.normalize(asked, name)
    (tmp_path / "names").write_text(
        unicodedata.normalize(stored, name) + "\r\ndog\r\n", encoding="utf-8-sig", newline=""
    )
    names = read_class_names(tmp_path / "names", 2)
    assert (names.find(other), names.chosen([other.upper()])) == (0, [0])
    assert names.of_folders([other, "dog"]) == {other: 0, "dog": 1}


def test_the_classes_of_imagenet_are_in_the_order_of_their_wordnet_ids():
    names = imagenet_names()
    ids = [entry[0] for entry in names.entries]
    assert len(set(ids)) == 1000 and ids == sorted(ids)
    # The ends, and outputs whose names occur twice, as keras.applications numbers them.
    found = {k: names.shown[k] for k in (0, 134, 281, 517, 638, 639, 999)}
    assert found == {
        0: "tench", 134: "crane (134)", 281: "tabby", 517: "crane (517)",
        638: "maillot (638)", 639: "maillot (639)", 999: "toilet tissue",
    }  # fmt: skip
