"""Tests of global settings of Keras and TensorFlow: the package works, or an error names them."""

import os
import subprocess
import sys

import numpy as np
import pytest

from xplique_dirpairs.core.settings import check_settings

#: Fits concepts of a small network in few steps, and uses them.
USE = """
import dataclasses, keras, numpy as np
from keras import layers
from xplique_dirpairs import ConceptLayer, DirectionPairsTf, correct, counterfactuals, split_model
from xplique_dirpairs.learning.presets import get_recipe
def few_steps(recipe):
    stages = [dataclasses.replace(s, epochs=2, steps_per_epoch=5) for s in recipe.stages]
    return dataclasses.replace(recipe, stages=tuple(stages), otherwise=None)
inputs = keras.Input((16, 16, 3))
x = layers.GlobalAveragePooling2D()(layers.Conv2D(6, 3, 2, activation="relu", name="cut")(inputs))
model = keras.Model(inputs, layers.Dense(3, activation="softmax")(x))
images = np.random.default_rng(0).random((12, 16, 16, 3)).astype("float32")
craft = DirectionPairsTf(
    split_model(model, "cut"), number_of_concepts=3, patch_size=8, verbose=0,
    recipe=few_steps(get_recipe("default")),
)
craft.fit(images)
assert np.isfinite(craft.estimate_importance()).all() and craft.transform(images).dtype == "float32"
assert len(counterfactuals(craft, images[:2], images)) == 2
assert np.isfinite(np.asarray(correct(ConceptLayer.of(craft), 0)(images), "float32")).all()
"""


def run(script, **environment):
    """Return (exit status, last line of stderr) of a script in a process of its own."""
    variables = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1", **environment}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stderr.strip().rpartition("\n")[2]


@pytest.mark.parametrize(
    ("variable", "value"),
    [("TF_USE_LEGACY_KERAS", "1"), ("TF_USE_LEGACY_KERAS", "True"), ("KERAS_BACKEND", "jax")],
)
def test_a_variable_of_the_environment_that_rules_the_package_out_is_named(
    monkeypatch, variable, value
):
    monkeypatch.setenv(variable, value)
    monkeypatch.delitem(sys.modules, "keras")
    with pytest.raises(RuntimeError, match=f"{variable}.*before"):
        check_settings()


def test_a_backend_in_the_settings_of_keras_is_named(monkeypatch, tmp_path):
    (tmp_path / "keras.json").write_text('{"backend": "torch"}')
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    monkeypatch.delitem(sys.modules, "keras")
    with pytest.raises(RuntimeError, match=r"'torch'.*KERAS_BACKEND=tensorflow"):
        check_settings()


@pytest.mark.parametrize("value", ["", "0", "False"])
def test_legacy_keras_that_is_off_is_no_error(monkeypatch, value):
    monkeypatch.setenv("TF_USE_LEGACY_KERAS", value)
    assert check_settings() is None  # it raises where the setting is on


def test_the_first_public_name_says_it_before_keras_is_imported():
    status, said = run("from xplique_dirpairs import split_model", KERAS_BACKEND="jax")
    assert status == 1 and "KERAS_BACKEND=tensorflow" in said


def test_the_command_line_says_it_in_one_line():
    script = "import sys; from xplique_dirpairs.commands.cli import main; sys.exit(main({}))"
    arguments = ["layers", "--model", "m.keras"]
    status, said = run(script.format(arguments), TF_USE_LEGACY_KERAS="1")
    assert status == 1 and said.startswith("xplique-dirpairs: error: the environment variable TF_")


@pytest.mark.slow
@pytest.mark.parametrize(
    "setting",
    [
        *(
            f"import keras; keras.config.set_dtype_policy('{policy}')"
            for policy in ("float16", "bfloat16", "mixed_float16", "mixed_bfloat16", "float64")
        ),
        "import tensorflow as tf; tf.debugging.enable_check_numerics()",
        "import keras, tensorflow as tf; keras.utils.set_random_seed(0); "
        "tf.config.experimental.enable_op_determinism()",
        "import tensorflow as tf; "
        "tf.experimental.numpy.experimental_enable_numpy_behavior(prefer_float32=True)",
        "import tensorflow as tf; tf.config.optimizer.set_jit(True)",
    ],
)
def test_the_package_works_under_a_setting(setting):
    status, said = run(setting + "\n" + USE)
    assert status == 0, said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("import keras; keras.config.set_floatx('float16')", "floatx"),
        ("import keras; keras.config.set_floatx('float64')", "floatx"),
        ("import tensorflow as tf; tf.compat.v1.disable_eager_execution()", "eager"),
        (
            "import tensorflow as tf; tf.experimental.numpy.experimental_enable_numpy_behavior()",
            "prefer_float32=True",
        ),
        (
            "import keras; keras.config.set_image_data_format('channels_first')",
            "set_image_data_format",
        ),
    ],
)
def test_a_setting_that_the_package_cannot_work_under_is_named(setting, named):
    status, said = run(setting + "\n" + USE)
    assert status == 1 and said.startswith(("RuntimeError", "ValueError")) and named in said


def test_numpy_that_raises_where_numbers_round_to_0_is_named():
    with np.errstate(all="raise"), pytest.raises(RuntimeError, match=r"numpy\.seterr\(under="):
        check_settings()
