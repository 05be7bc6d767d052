"""Tests of files that cannot be loaded as a model: one line says why, and what to do."""

import json
import zipfile

import h5py
import keras
import pytest
from conftest import conv_gap

from xplique_dirpairs.commands.network import load_model

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


class Own(keras.layers.Layer):
    """A layer that is not registered."""

    def call(self, x):
        return x


Own.__module__ = "a_module_of_the_user"  # which cannot be imported here


def small(*layers):
    return keras.Sequential([keras.Input((8, 8, 3)), *layers, keras.layers.Flatten()])


def of_keras_2(path):
    """Write a file as Keras 2 does, with an argument that Keras 3 does not know."""
    layer = keras.layers.DepthwiseConv2D(3)
    model = small(layer)
    model.save(path)
    if path.suffix == ".h5":
        with h5py.File(path, "a") as file:
            config = json.loads(file.attrs["model_config"])
            _add_groups(config)
            file.attrs["model_config"] = json.dumps(config)
            file.attrs["keras_version"] = "2.12.0"
        return
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(entries["config.json"])
    _add_groups(config)
    entries["config.json"] = json.dumps(config)
    entries["metadata.json"] = json.dumps({"keras_version": "2.12.0"})
    with zipfile.ZipFile(path, "w") as archive:
        for name, entry in entries.items():
            archive.writestr(name, entry)


def _add_groups(config):
    for layer in config["config"]["layers"]:
        if layer["class_name"] == "DepthwiseConv2D":
            layer["config"]["groups"] = 1


def a_saved_model(path):
    path.mkdir()
    (path / "saved_model.pb").write_bytes(b"")


def an_archive(**entries):
    def write(path):
        with zipfile.ZipFile(path, "w") as archive:
            for name, text in entries.items():
                archive.writestr(name.replace("_", "."), text)

    return write


def named_otherwise(path):
    other = path.with_suffix(".h5" if path.suffix == ".keras" else ".keras")
    small().save(other)
    other.rename(path)


def half_a_file(path):
    conv_gap().save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


CASES = {
    "Keras 2, .h5": ("m.h5", of_keras_2, r"Keras 2 saved it \(version 2.12.0\).*tf_keras"),
    "Keras 2, .keras": ("m.keras", of_keras_2, r"Keras 2 saved it.*keyword arguments.*groups"),
    "SavedModel": ("m", a_saved_model, "it is a SavedModel.*tf_keras"),
    "folder": ("m.keras", lambda path: path.mkdir(), "it is a folder: give the .keras or .h5"),
    "missing": ("m.keras", lambda path: None, "there is no such file"),
    "own layer, .keras": ("m.keras", lambda p: small(Own()).save(p), "its own, Own: .*--import"),
    "own layer, .h5": ("m.h5", lambda p: small(Own()).save(p), "its own, Own: .*--import"),
    "own layer inside": ("m.keras", lambda p: small(small(Own())).save(p), "its own, Own: "),
    "Lambda": ("m.keras", lambda p: small(keras.layers.Lambda(lambda x: x)).save(p), "a Lambda"),
    "text, .keras": ("m.keras", lambda p: p.write_text("x"), "empty, damaged or no file of"),
    "text, .h5": ("m.h5", lambda p: p.write_text("x"), "empty, damaged or no file of Keras"),
    "empty": ("m.keras", lambda p: p.write_bytes(b""), "empty, damaged or no file of Keras"),
    "half a .keras": ("m.keras", half_a_file, "empty, damaged or no file of Keras"),
    "half an .h5": ("m.h5", half_a_file, "empty, damaged or no file of Keras"),
    "another archive": ("m.keras", an_archive(a_txt="x"), "it holds no model, perhaps only"),
    "no JSON": ("m.keras", an_archive(config_json="{"), "empty, damaged or no file of Keras"),
    "weights": ("m.weights.h5", lambda p: small().save_weights(p), "perhaps only weights: save"),
    "HDF5 in a .keras": ("m.keras", named_otherwise, r"is an HDF5 file .* ends in \.h5"),
    "archive in an .h5": ("m.h5", named_otherwise, r"is a \.keras file .* ends in \.keras"),
    "Git LFS": (
        "m.keras",
        lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\n"),
        "lfs pull",
    ),
    "ONNX": ("m.onnx", lambda p: p.write_bytes(b"x"), "does not end in .keras, .h5"),
}


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
@pytest.mark.parametrize("name", CASES)
def test_the_cause_and_what_to_do_are_said_in_a_line(name, tmp_path):
    file, write, message = CASES[name]
    write(tmp_path / file)
    with pytest.raises(ValueError, match=message) as raised:
        load_model(tmp_path / file)
    said = str(raised.value).replace(str(tmp_path), "")
    assert "\n" not in said and "'config'" not in said and len(said) < 400


def test_a_newer_keras_is_named(tmp_path):
    of_keras_2(tmp_path / "m.keras")
    with zipfile.ZipFile(tmp_path / "m.keras") as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    entries["metadata.json"] = json.dumps({"keras_version": "99.1.0"})
    with zipfile.ZipFile(tmp_path / "m.keras", "w") as archive:
        for entry, content in entries.items():
            archive.writestr(entry, content)
    with pytest.raises(ValueError, match=r"Keras 99.1.0 saved it, this is Keras 3"):
        load_model(tmp_path / "m.keras")
