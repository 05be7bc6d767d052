"""Class folders are matched to outputs; what is ambiguous is said, and the predictions decide."""

import unicodedata

import numpy as np
import pytest

from xplique_dirpairs.commands.class_folders import matchings, settled
from xplique_dirpairs.commands.console import Console
from xplique_dirpairs.commands.images import find_images


def decided(folders, number, output_of=None, path=None):
    """Match folders, with 6 images each that are predicted as ``output_of`` their folder.

    Returns the matching and the notes.
    """
    console = Console(quiet=True)
    folders = sorted(folders)
    choices = matchings(folders, number, path, console)
    images = np.array(np.repeat(np.array(folders, object), 6))
    output_of = output_of or (lambda name: 0)
    predicted = np.array([output_of(name) for name in images], int)
    return choices[settled(choices, images, predicted, console)], " ".join(console.notes)


def test_folders_that_are_the_numbers_of_the_outputs_are_these_outputs():
    matching, notes = decided(map(str, range(12)), 12, int)
    assert matching.classes == {str(k): k for k in range(12)}
    assert matching.names.shown[10] == "10"
    assert "by their numbers" in notes and "The predictions tell this" in notes


def test_numbers_that_the_model_has_learned_in_the_order_of_text_are_in_that_order():
    order = sorted(map(str, range(12)))
    matching, notes = decided(order, 12, order.index)
    assert matching.classes == {name: k for k, name in enumerate(order)}
    assert matching.names.shown[2] == "10"
    assert "sorted as text, as in Keras (folder '10' is output 2)" in notes


def test_an_order_that_the_predictions_do_not_tell_is_said():
    matching, notes = decided(map(str, range(12)), 12)
    assert matching.classes["10"] == 10
    assert "The predictions do not tell it: check it, or give --class-names FILE" in notes


@pytest.mark.parametrize("names", [["7", "3"], ["0", "1", "2"], ["003", "011"]])
def test_fewer_folders_than_outputs_that_are_numbers_are_outputs(names):
    matching, notes = decided(names, 12, int)
    assert matching.classes == {name: int(name) for name in names}
    assert f"{len(names)} class folders are numbers" in notes


@pytest.mark.parametrize("prefix", ["", "class_"])
def test_numbers_from_one_on_are_in_the_order_that_the_predictions_tell(prefix):
    names = [f"{prefix}{k}" for k in range(1, 13)]
    by_number = {name: k for k, name in enumerate(names)}
    by_text = {name: k for k, name in enumerate(sorted(names))}
    for truth in (by_number, by_text):
        matching, notes = decided(names, 12, truth.get)
        assert matching.classes == truth and "The predictions tell this" in notes
    matching, notes = decided(names, 12)
    assert matching.classes == by_text and "do not tell" in notes


def test_padded_numbers_and_plain_names_need_no_note():
    for names in ([f"{k:02d}" for k in range(12)], ["ant", "bee", "cat"]):
        outputs = {name: k for k, name in enumerate(sorted(names))}
        assert decided(names, len(names), outputs.get)[1] == ""


def test_upper_case_and_accents_leave_several_orders():
    matching, _ = decided(["Zebra", "ant"], 2, {"Zebra": 1, "ant": 0}.get)
    assert matching.classes == {"Zebra": 1, "ant": 0}
    names = [unicodedata.normalize("NFD", "é"), "f"]
    matching, _ = decided(names, 2, {names[0]: 1, "f": 0}.get)
    assert matching.classes == {names[0]: 1, "f": 0}


def test_folders_in_an_order_that_the_predictions_contradict_are_doubted():
    matching, notes = decided(["ant", "bee", "cat"], 3, {"ant": 2, "bee": 0, "cat": 1}.get)
    assert matching.classes == {"ant": 0, "bee": 1, "cat": 2}
    assert "only 0% of the images" in notes and "100% would be" in notes


def test_more_folders_than_outputs_are_said():
    for names in (["ant", "bee", "cat"], ["0", "1", "2"]):
        matching, notes = decided(names, 2)
        assert matching.classes is None and "3 class folders for 2 outputs" in notes


# ------------------------------------------------------------------ ImageNet


@pytest.mark.parametrize(
    "names",
    [
        ["n01440764", "n02102040"],
        ["n01440764_tench", "n02102040-English_springer"],
        ["N01440764 a photo", "n02102040"],
        ["tench", "English springer"],
    ],
)
def test_folders_of_imagenet_are_recognised_by_id_or_name(names):
    matching, notes = decided(names, 1000)
    assert sorted(matching.classes.values()) == [0, 217]
    assert matching.names.shown[217] == "English springer"
    assert "ImageNet" in notes


def test_an_id_that_imagenet_lacks_has_no_class():
    matching, _ = decided(["n01440764", "n99999999"], 1000)
    assert matching.classes == {"n01440764": 0, "n99999999": None}
    with pytest.raises(ValueError, match=r"'n99999999' .*give --class-names FILE"):
        matching.names.check_all_found(matching.classes)


@pytest.mark.parametrize("names", [[], ["cats", "dogs"], ["crane", "tench"]])
def test_a_model_of_1000_outputs_has_the_names_of_imagenet_and_says_so(names):
    matching, notes = decided(names, 1000)
    assert matching.classes is None and matching.names.shown[0] == "tench"
    assert "no --class-names: they are given the names of ImageNet" in notes


def test_a_model_of_some_of_imagenets_classes_has_their_names():
    matching, _ = decided(["n02102040", "n01440764"], 2, ["n01440764", "n02102040"].index)
    assert matching.names.shown == ["tench", "English springer"]
    assert matching.names.chosen(["n02102040"]) == [1]


def test_two_folders_of_one_name_in_two_unicode_forms_are_refused(tmp_path):
    for form in ("NFC", "NFD"):
        folder = tmp_path / unicodedata.normalize(form, "café")
        folder.mkdir()
        (folder / "0.png").write_bytes(b"")
    if len(list(tmp_path.iterdir())) < 2:
        pytest.skip("this file system keeps one form")
    with pytest.raises(ValueError, match=r"in two Unicode forms .*\\u0301.*: merge them"):
        find_images(tmp_path)
