"""The classes that tables and pictures show: their names, and which are left out."""

import csv
import json
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from command_line import HOSTILE, call, place, quick  # noqa: F401
from conftest import make_images
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from xplique_dirpairs.commands import cli
from xplique_dirpairs.commands.class_names import ClassNames
from xplique_dirpairs.commands.console import Console
from xplique_dirpairs.commands.subject import shown_classes

# Keras [3.15] reads variables in a way that numpy deprecates when it saves a model.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

#: WordNet ids of five classes of ImageNet, their outputs and names.
WORDNET = {
    "n02102040": (217, "English springer"),
    "n03394916": (566, "French horn"),
    "n03417042": (569, "garbage truck"),
    "n03445777": (574, "golf ball"),
    "n03888257": (701, "parachute"),
}
NAMES = ClassNames((("cat",), ("dog",), ("cow",)))


# ------------------------------------------------------------------ which classes


def shown(class_ids, console, **arguments):
    options = {"min_images": 3, "classes": None} | arguments
    return shown_classes(
        SimpleNamespace(class_names=NAMES), np.array(class_ids), SimpleNamespace(**options), console
    )


def test_classes_with_fewer_images_are_left_out_and_listed_in_one_line():
    console = Console(quiet=True)
    assert shown([0] + [1] * 3 + [2] * 4, console) == [2, 1]  # the most images first
    assert console.notes == [
        "1 classes with fewer than 3 images (--min-images) are left out of tables, pictures and "
        "importances: cat (1)"
    ]


def test_nothing_is_noted_if_every_class_has_enough_images():
    console = Console(quiet=True)
    assert shown([0] * 3 + [1] * 3, console) == [0, 1] and not console.notes


def test_all_classes_are_shown_if_none_has_enough_images():
    console = Console(quiet=True)
    assert shown([0, 1, 2, 2], console) == [2, 0, 1]
    assert console.notes == ["none of the 3 classes has 3 images (--min-images): all are shown"]


def test_classes_that_were_chosen_are_shown_whatever_their_number_of_images():
    console = Console(quiet=True)
    assert shown([0] + [1] * 3, console, classes=["cat", "dog"]) == [1, 0] and not console.notes


def test_every_command_with_a_table_of_classes_leaves_small_ones_out(
    call, place, tmp_path, monkeypatch
):
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **options: path.touch())
    folder = tmp_path / "uneven"
    for name, count in zip(HOSTILE, (3, 3, 1), strict=True):
        (folder / name).mkdir(parents=True)
        for n in range(count):
            (folder / name / f"{n}.png").symlink_to(place / "photos" / name / f"{n}.png")
    given = ["--min-images", 2, "--json"]
    pairs = ["--pairs", place / "given.npz"]

    def run(command, *options):
        ran = call(command, *given, *options, images=folder)
        assert ran.status == 0, ran.err
        assert f"1 classes with fewer than 2 images (--min-images) {rest}" in ran.err
        return json.loads(ran.out)

    rest = f"are left out of tables, pictures and importances: {HOSTILE[2]} (1)"
    left_out = str(sorted(HOSTILE).index(HOSTILE[2]))
    assert sorted(run("fit", "--concepts", 2)["importances"]) == sorted({*"012"} - {left_out})
    groups = run("correct", *pairs, "--suppress", 0)["groups"]
    assert list(groups) == [*sorted(HOSTILE[:2]), "other classes"]
    run("report", *pairs, "--no-counterfactuals")
    pages = data_of(tmp_path / "report")
    assert sorted(str(one["id"]) for one in pages["classes"]) == sorted({*"012"} - {left_out})
    assert len(pages["images"]) == 7  # their images are still there
    assert any(rest in note for note in pages["notes"])


# ------------------------------------------------------------------ their names


def data_of(folder):
    """Return the data that the pages of a report read."""
    text = (folder / "report_files" / "data.js").read_text(encoding="ascii")
    return json.loads(text[text.index(",") + 1 : text.rindex(")")])


@pytest.fixture
def texts(monkeypatch):
    """Texts of the figures that were saved, by the name of the file; no file is written."""
    found = {}

    def savefig(figure, path, **options):
        found[str(path).rpartition("/")[2]] = [
            text.get_text() for text in figure.findobj(Text) if text.get_text()
        ]
        open(path, "wb").close()

    monkeypatch.setattr(Figure, "savefig", savefig)
    return found


@pytest.fixture
def imagenet(tmp_path, monkeypatch):
    """``imagenet(command, …)`` runs a command on a model of 1,000 outputs and five folders."""
    monkeypatch.chdir(tmp_path)
    keras.utils.set_random_seed(0)
    inputs = keras.Input((32, 32, 3))
    x = keras.layers.Rescaling(1 / 127.5, offset=-1)(inputs)
    x = keras.layers.Conv2D(24, 3, 4, activation="relu", name="features")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    keras.Model(inputs, keras.layers.Dense(1000)(x)).save(tmp_path / "m.keras")
    for k, wordnet_id in enumerate(WORDNET):
        (tmp_path / "photos" / wordnet_id).mkdir(parents=True)
        for n, image in enumerate(make_images(6, (32, 32, 3), seed=k)):
            pixels = Image.fromarray((255 * image).astype(np.uint8))
            pixels.save(tmp_path / "photos" / wordnet_id / f"{n}.png")

    def run(command, *options):
        given = ["--model", "m.keras", "--images", "photos", "--layer", "features"]
        assert cli.main([command, *given, *options]) == 0
        return tmp_path

    return run


def test_folders_named_by_wordnet_ids_give_classes_by_name_in_every_table_and_picture(
    imagenet, texts, capsys
):
    names = [name for _, name in WORDNET.values()]
    in_pictures = [name.replace("_", " ") for name in names]
    outputs = [k for k, _ in WORDNET.values()]
    folder = imagenet("fit")
    with open(folder / "concepts" / "importances.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["class"], float(row["output"]), float(row["images"])) for row in rows] == [
        (name, k, 6) for name, k in zip(names, outputs, strict=True)
    ]
    assert set(in_pictures) <= set(texts["importances.png"])
    for name, k in zip(in_pictures, outputs, strict=True):
        assert name in texts[f"class_{k:04d}.png"]
    assert sorted(texts) == sorted(["importances.png", *(f"class_{k:04d}.png" for k in outputs)])
    page = (folder / "concepts" / "importances.md").read_text(encoding="utf-8")
    printed = capsys.readouterr().out
    for text in (page, printed):
        assert all(name in text or name.replace("_", r"\_") in text for name in names)
        assert "class 217" not in text
    assert printed.splitlines()[-1].endswith("open concepts/importances.md")

    imagenet("report", "--pairs", "concepts/pairs.npz", "--no-counterfactuals")
    pages = data_of(folder / "report")
    assert [(one["id"], pages["names"][str(one["id"])]) for one in pages["classes"]] == list(
        zip(outputs, names, strict=True)
    )

    texts.clear()
    imagenet("correct", "--pairs", "concepts/pairs.npz", "--suppress", "0")
    table = (folder / "corrected" / "correction.csv").read_text(encoding="utf-8").splitlines()
    assert [row.split(",")[0] for row in table[1:6]] == names


def test_the_picture_of_a_comparison_names_the_class_of_its_image(imagenet, texts):
    imagenet("compare", "--extractors", "PCA", "--concepts", "3")
    [title] = [text for text in texts["maps.png"] if "contribution" in text]
    assert title.endswith("to the logit of English springer")
