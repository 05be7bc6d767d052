"""Fixtures of the commands: a tiny network, nine tiny images, and fake learning."""

from typing import NamedTuple

import keras
import numpy as np
import pytest
from conftest import conv_gap, fake_learn_pairs, make_images, make_pairs
from PIL import Image

from xplique_dirpairs.commands import cli

#: Names of class folders that need escaping, have unusual characters or are very long.
HOSTILE = ["<script>alert(1)<", "$\\frac$ & Größe 日本", "y" * 200]


class Ran(NamedTuple):
    """Exit status and output of a command."""

    status: int
    out: str
    err: str


@pytest.fixture(scope="module", autouse=True)
def quick():
    """Replaces learning by `fake_learn_pairs`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("xplique_dirpairs.factorizers.direction_pairs.learn_pairs", fake_learn_pairs)
        patch.setenv("MPLBACKEND", "Agg")
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the files of the tests.

    ``m.keras`` is a model and ``given.npz`` holds pairs for it. ``photos`` has a folder of images
    for each name of `HOSTILE`, a broken file and an empty folder; ``flat`` has images only.
    """
    folder = tmp_path_factory.mktemp("commands")
    keras.utils.set_random_seed(0)
    conv_gap((32, 32, 3)).save(folder / "m.keras")
    (folder / "flat").mkdir()
    for k, name in enumerate(HOSTILE):
        (folder / "photos" / name).mkdir(parents=True)
        for n, image in enumerate(make_images(3, (40, 48 + 8 * k, 3), seed=k)):
            pixels = Image.fromarray((255 * image).astype(np.uint8))
            pixels.save(folder / "photos" / name / f"{n}.png")
            pixels.save(folder / "flat" / f"{k}{n}.png")
    (folder / "photos" / HOSTILE[0] / "broken.jpg").write_bytes(b"no picture")
    (folder / "photos" / "empty").mkdir()
    make_pairs(8, 3).save(folder / "given.npz")
    return folder


@pytest.fixture
def call(place, monkeypatch, capsys, tmp_path):
    """``call("fit", …)`` runs a command on the model and photos of `place` and returns a `Ran`."""
    monkeypatch.chdir(tmp_path)

    def called(command, *options, images="photos", prepared=True):
        given = [command, "--model", str(place / "m.keras")]
        if command != "layers":
            given += ["--images", str(place / images)]
        if prepared:
            given += ["--layer", "features", "--preprocessing", "unit"]
        status = cli.main([*given, *map(str, options)])
        return Ran(status, *capsys.readouterr())

    return called
