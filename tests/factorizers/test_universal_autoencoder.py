"""The training of a universal sparse autoencoder: its formulas, and how it ends."""

import numpy as np
import pytest
import tensorflow as tf

from xplique_dirpairs import LearningWarning, UniversalFactorizer
from xplique_dirpairs.datasets.planted_models import planted_models
from xplique_dirpairs.factorizers.universal_autoencoder import UniversalAutoencoder


def fit(data, **options):
    options = {"steps": 4, "random_state": 0} | options
    return UniversalFactorizer(8, **options).fit(data.activations)


@pytest.fixture(scope="module")
def data():
    return planted_models(200)


# ------------------------------------------------------------ formulas


def small_model(rng, **options):
    settings = {"update": "all", "ball": True, "loss": "l1", "auxiliary": 0.3}
    settings |= {"learning_rate": 1e-2, "steps": 10}
    atoms = [rng.normal(size=(5, width)) for width in (3, 4)]
    model = UniversalAutoencoder(atoms, 2, **settings | options)
    for (weights, shift), width in zip(model.encoders, (3, 4), strict=True):
        weights.assign(rng.normal(size=(5, width)))
        shift.assign(rng.normal(size=5))
    model.compile()
    return model


@pytest.mark.parametrize("loss", ["l1", "l2"])
@pytest.mark.parametrize("ball", [True, False])
def test_losses_follow_their_formulas(rng, loss, ball):
    model = small_model(rng, loss=loss, ball=ball)
    joined = rng.normal(size=(6, 7)).astype(np.float32)
    parts = joined[:, :3], joined[:, 3:]
    error = np.abs if loss == "l1" else np.square
    for encoded in (0, 1):
        weights, shift = (one.numpy() for one in model.encoders[encoded])
        own, cross, auxiliary = [], [], []
        for p in range(6):
            z = [
                max(0.0, float(w @ parts[encoded][p] + s))
                for w, s in zip(weights, shift, strict=True)
            ]
            ranks = np.argsort(-np.array(z), kind="stable")
            u = np.array([z[i] if i in ranks[:2] else 0.0 for i in range(5)])
            r = np.array([z[i] if i in ranks[2:4] else 0.0 for i in range(5)])
            for m, x in enumerate(parts):
                atoms = model.dictionaries[m].numpy()
                if not ball:
                    atoms = atoms / np.linalg.norm(atoms, axis=1, keepdims=True)
                (own if m == encoded else cross).append(error(x[p] - u @ atoms).mean())
                auxiliary.append(error(x[p] - u @ atoms - r @ atoms).mean())
        losses = model.terms(tf.constant(joined), encoded)
        expected = [np.mean(own), np.mean(cross), 2 * np.mean(auxiliary)]
        for name, value in zip(("own", "cross", "auxiliary"), expected, strict=True):
            np.testing.assert_allclose(losses[name], value, rtol=1e-5)
        whole = expected[0] + expected[1] + 0.3 * expected[2]
        np.testing.assert_allclose(losses["objective"], whole, rtol=1e-5)


@pytest.mark.parametrize("update", ["all", "selected"])
def test_a_step_changes_the_encoded_network_and_the_dictionaries_of_the_update(rng, update):
    model = small_model(rng, update=update)
    before = [np.array(one) for one in model.get_weights()[:6]]
    joined = tf.constant(rng.normal(size=(6, 7)).astype(np.float32))
    model.train_step((joined, tf.constant(1)))
    names = [one.name for one in model.weights[:6]]
    changed = {
        name: np.abs(now - then).max() > 0
        for name, now, then in zip(names, model.get_weights(), before, strict=False)
    }
    assert not changed["encoder_0"] and not changed["shift_0"]
    assert changed["encoder_1"] and changed["shift_1"] and changed["atoms_1"]
    assert changed["atoms_0"] == (update == "all")
    lengths = [np.linalg.norm(one, axis=1).max() for one in model.dictionaries[1:]]
    assert max(lengths) <= 1 + 1e-6


def test_schedules_end_with_the_steps_that_a_variable_gets(rng):
    model = small_model(rng, update="selected", steps=20)
    joined = tf.constant(rng.normal(size=(6, 7)).astype(np.float32))
    for turn in [0, 1] * 10:
        model.train_step((joined, tf.constant(turn)))
    for one in (*model.encoder_optimizers, *model.dictionary_optimizers):
        np.testing.assert_allclose(one.learning_rate, 1e-2 * 0.02, rtol=1e-4)


# ------------------------------------------------------------ what comes back


def test_maps_of_different_grids_are_read_in_their_own_units(rng):
    maps = {"fine": rng.normal(size=(30, 8, 8, 5)), "coarse": rng.normal(size=(30, 4, 4, 3))}
    universal = UniversalFactorizer(6, steps=4, random_state=0, verbose=0).fit(maps)
    assert universal.grid_ == (4, 4) and universal.names_ == ("fine", "coarse")
    assert universal["fine"].bank_.shape == (6, 5) and universal["coarse"].bank_.shape == (6, 3)
    assert universal.history_.occupancy.shape == (2, 6) and universal.history_.r2.shape == (2,)
    assert universal.cross_r2({name: one[:7] for name, one in maps.items()}).shape == (2, 2)
    assert universal.concepts.tolist() == [[i, i] for i in range(6)]


def test_the_same_seed_gives_the_same_concepts_with_and_without_a_bar(data, capfd):
    one = fit(data)["a"].bank_
    assert capfd.readouterr().out == ""
    other = fit(data, verbose=1)["a"].bank_
    assert "universal concepts" in capfd.readouterr().out
    np.testing.assert_array_equal(one, other)


def test_a_training_that_becomes_nan_keeps_the_last_state(data):
    with pytest.warns(LearningWarning, match="NaN"):
        universal = fit(data, steps=20, learning_rate=1e30)
    assert np.isfinite(universal["a"].bank_).all()
    assert any("NaN" in problem for problem in universal["a"].history_.problems())


def test_ctrl_c_keeps_what_was_learned(data, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(UniversalAutoencoder, "fit", interrupted)
    with pytest.warns(LearningWarning, match="interrupted"):
        universal = fit(data)
    assert universal.history_.interrupted and universal["b"].is_fitted


# ------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"number_of_concepts": 0}, "number_of_concepts"),
        ({"k": 33}, "k must be at most"),
        ({"update": "both"}, "update must be"),
        ({"atoms": "sphere"}, "atoms must be"),
        ({"loss": "l3"}, "loss must be"),
        ({"auxiliary": -1}, "auxiliary must be"),
        ({"steps": 0}, "steps must be"),
        ({"learning_rate": 0}, "learning_rate must be"),
        ({"random_state": -1}, "random_state must be"),
    ],
)
def test_invalid_parameters_are_refused(data, options, message):
    universal = UniversalFactorizer(**{"number_of_concepts": 32} | options)
    with pytest.raises(ValueError, match=message):
        universal.fit(data.activations)
    assert not universal.is_fitted
