"""Sparse autoencoders as factorizers: recovery of a known dictionary, constraints, reading."""

import numpy as np
import pytest
import tensorflow as tf
from sklearn.exceptions import NotFittedError
from sparse_mixtures import sparse_mixtures

from xplique_dirpairs.core.linear_algebra import cosines, match
from xplique_dirpairs.factorizers.autoencoders import (
    ArchetypalFactorizer,
    RelaxedArchetypalFactorizer,
    TopKFactorizer,
)
from xplique_dirpairs.factorizers.sparse_autoencoder import NaNGuard, SparseAutoencoder
from xplique_dirpairs.learning.history import LearningWarning

KINDS = [TopKFactorizer, ArchetypalFactorizer, RelaxedArchetypalFactorizer]
ARCHETYPAL = KINDS[1:]
TWO_KINDS = [TopKFactorizer, RelaxedArchetypalFactorizer]
CHANNELS, CONCEPTS = 12, 6
#: Of the factorizers that `fitted` gives.
FITTED = {"number_of_concepts": CONCEPTS, "k": 2, "steps": 150, "random_state": 0}


def make(kind, *arguments, **settings):
    """Make a factorizer of one start: after few steps, several would differ and cause a warning."""
    if kind is TopKFactorizer:
        settings = {"n_init": 1} | settings
    return kind(*arguments, **settings)


def relu_features(positions, channels, seed=0):
    """Non-negative and heavy-tailed, most of them zero."""
    rng = np.random.default_rng(seed)
    mixed = rng.standard_t(3, (positions, 8)) @ rng.normal(size=(8, channels))
    return np.maximum(mixed - 1.0, 0.0).astype(np.float32)


def planted(weakest, each):
    """Exactly ``each`` of 8 atoms at a position, with coefficients from ``weakest`` to 2."""
    rng = np.random.default_rng(0)
    atoms = rng.normal(size=(8, 16))
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
    codes = np.zeros((4000, 8))
    for row in codes:
        row[rng.choice(8, each, replace=False)] = rng.uniform(weakest, 2, each)
    return (codes @ atoms).astype(np.float32), atoms


def recovered_atoms(factorizer, atoms):
    """Count the atoms that have a learned one of their own with a cosine above 0.95."""
    similarities = cosines(factorizer.encoding_directions, atoms)
    return (similarities[match(similarities), np.arange(len(atoms))] > 0.95).sum()


@pytest.fixture(scope="module")
def x():
    return sparse_mixtures(600, CHANNELS, CONCEPTS)[0]


@pytest.fixture(scope="module")
def fitted(x):
    """``fitted(kind)`` → a factorizer of few steps, one a module."""
    factorizers = {}

    def get(kind):
        if kind not in factorizers:
            factorizers[kind] = make(kind, **FITTED)
            factorizers[kind].fit(x)
        return factorizers[kind]

    return get


@pytest.fixture(scope="module")
def recovered():
    """A TopK autoencoder with everything at its default, and the atoms it should find."""
    x, atoms = sparse_mixtures(5000, 32, 12)
    factorizer = TopKFactorizer(12, random_state=0)
    factorizer.fit(x)
    return factorizer, atoms


# ------------------------------------------------------------------ learning


def test_the_true_dictionary_is_recovered(recovered):
    factorizer, atoms = recovered
    cosines = atoms @ factorizer.encoding_directions.T
    assert cosines.max(axis=1).mean() > 0.9
    assert len(set(cosines.argmax(axis=1))) >= 11
    assert factorizer.history_.final_r2 > 0.85
    assert factorizer.history_.dead == []


@pytest.mark.slow
@pytest.mark.parametrize("weakest, each", [(0.0, 2), (1.0, 1)], ids=["two down to zero", "one"])
def test_a_fixed_number_of_signed_atoms_at_a_position_is_recovered_without_a_warning(weakest, each):
    x, atoms = planted(weakest, each)
    factorizer = TopKFactorizer(8, k=each, random_state=0)
    factorizer.fit(x)
    assert recovered_atoms(factorizer, atoms) >= 7
    assert factorizer.history_.final_r2 > 0.99
    assert factorizer.history_.problems() == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::xplique_dirpairs.learning.history.LearningWarning")
def test_two_signed_atoms_with_coefficients_far_from_zero_are_recovered_or_cause_a_warning():
    x, atoms = planted(1.0, 2)
    recovered, warned = [], []
    for seed in range(3):
        factorizer = TopKFactorizer(8, k=2, random_state=seed)
        factorizer.fit(x)
        recovered.append(recovered_atoms(factorizer, atoms))
        warned.append(bool(factorizer.history_.problems()))
    assert np.median(recovered) >= 7
    assert all(warning for count, warning in zip(recovered, warned, strict=True) if count < 7)
    assert sum(warning for count, warning in zip(recovered, warned, strict=True) if count == 8) <= 1


def test_starts_that_find_different_atoms_cause_a_warning():
    rng = np.random.default_rng(0)
    without_structure = rng.normal(size=(500, 10))
    factorizer = TopKFactorizer(8, k=2, steps=100, n_init=3, random_state=0)
    with pytest.warns(LearningWarning, match="depend on the start"):
        factorizer.fit(without_structure)
    history = factorizer.history_
    assert len(history.start_r2) == len(history.agreeing) == 3
    assert max(history.start_r2) == pytest.approx(history.final_r2, abs=1e-4)
    assert max(history.agreeing) == history.agreeing[int(np.argmax(history.start_r2))] == 8
    assert sorted(history.agreeing)[1] == history.confirmed_atoms < 8


def test_a_single_start_says_nothing_about_others(fitted):
    history = fitted(TopKFactorizer).history_
    assert len(history.start_r2) == 1
    assert history.confirmed_atoms is None
    assert history.problems() == []


def test_each_filter_reads_its_own_atom(recovered):
    factorizer, _ = recovered
    cross = factorizer.decoding_directions @ factorizer.encoding_directions.T
    assert (np.abs(cross).argmax(axis=1) == np.arange(12)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_training_reduces_the_loss(fitted, kind):
    history = fitted(kind).history_
    first = 25 if kind is TopKFactorizer else 0  # the first epoch with the final k
    for name in ("objective", "reconstruction"):
        assert len(history.losses[name]) == 50
        assert history.losses[name][-1] < 0.95 * history.losses[name][first]
    assert history.r2[-1] > history.r2[first]
    assert history.final_r2 == pytest.approx(history.r2[-1], abs=0.05)
    assert 0 < history.final_l0 <= 2
    assert f"R² {history.final_r2:.3f}" in history.summary()


@pytest.mark.parametrize("kind", TWO_KINDS)
def test_features_of_a_relu_layer_are_explained(kind):
    x = relu_features(800, 20)
    factorizer = make(kind, 8, steps=400, random_state=0)
    factorizer.fit(x)
    assert factorizer.history_.final_r2 > 0.4
    assert len(factorizer.history_.dead) <= 1


def test_another_seed_gives_another_dictionary(fitted, x):
    known = fitted(TopKFactorizer).get_concept_bank()
    other, _ = make(TopKFactorizer, **FITTED | {"random_state": 1}).fit(x)
    assert np.abs(other - known).max() > 1e-3


def test_an_interrupted_training_leaves_a_usable_factorizer(x, monkeypatch):
    def interrupt(self, epoch, logs=None):
        if epoch == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(NaNGuard, "on_epoch_end", interrupt)
    factorizer = make(TopKFactorizer, CONCEPTS, steps=100, random_state=0)
    with pytest.warns(LearningWarning, match="interrupted"):
        factorizer.fit(x)
    assert factorizer.history_.interrupted
    assert len(factorizer.history_.l0) == 4
    assert_identity(factorizer, x)


def test_an_interruption_before_the_first_step_keeps_the_initial_state(x, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(SparseAutoencoder, "train_step", interrupt)
    factorizer = make(TopKFactorizer, CONCEPTS, random_state=0)
    with pytest.warns(LearningWarning, match="interrupted"):
        factorizer.fit(x)
    assert factorizer.history_.r2 == []
    assert_identity(factorizer, x)


def test_nan_ends_the_training_on_finite_values(x):
    factorizer = ArchetypalFactorizer(CONCEPTS, steps=100, learning_rate=1e38, random_state=0)
    with pytest.warns(LearningWarning, match="NaN in epoch 1"):
        factorizer.fit(x)
    assert not factorizer.history_.interrupted
    assert_identity(factorizer, x)


def test_many_dead_concepts_cause_a_warning():
    two_points = np.repeat([[0.0, 1.0], [1.0, 0.0]], 50, axis=0)
    factorizer = make(TopKFactorizer, 10, k=1, steps=50, random_state=0)
    with pytest.warns(LearningWarning, match="never fire"):
        factorizer.fit(two_points)
    assert len(factorizer.history_.dead) >= 5
    assert factorizer.history_.dead_share[-1] >= 0.5


# -------------------------------------------------------------- invariants


@pytest.mark.parametrize("kind", KINDS)
def test_the_constraints_hold_after_every_step(x, kind, monkeypatch):
    seen = []

    def look(self, epoch, logs=None):
        dictionary = self.model.dictionary
        if kind is TopKFactorizer:
            lengths = np.linalg.norm(dictionary.atoms().numpy(), axis=1)
            np.testing.assert_allclose(lengths, 1.0, atol=1e-5)
        else:
            mixture = dictionary.mixture.numpy()
            assert mixture.min() >= 0
            np.testing.assert_allclose(mixture.sum(axis=1), 1.0, atol=1e-5)
            radius = 0.05 if kind is RelaxedArchetypalFactorizer else 0.0
            lengths = np.linalg.norm(dictionary.relaxation.numpy(), axis=1)
            assert lengths.max() <= radius * (1 + 1e-5)
            seen.append(lengths.max())

    monkeypatch.setattr(NaNGuard, "on_epoch_end", look)
    only_relaxed = {"delta": 0.05} if kind is RelaxedArchetypalFactorizer else {}
    # 50 epochs of one step each, long enough for the bound to bind
    make(kind, CONCEPTS, steps=50, learning_rate=0.05, random_state=0, **only_relaxed).fit(x)
    if kind is RelaxedArchetypalFactorizer:
        assert seen[-1] > 0.04


@pytest.mark.parametrize("kind", ARCHETYPAL)
def test_atoms_are_mixtures_of_centroids_within_delta(fitted, kind, x):
    factorizer = fitted(kind)
    assert factorizer.mixture_.shape == (CONCEPTS, 100)
    in_the_hull = factorizer.mixture_ @ factorizer.centroids_
    archetypes = factorizer.bank_ + factorizer.constant_
    np.testing.assert_allclose(archetypes, in_the_hull + factorizer.relaxation_, atol=1e-5)
    np.testing.assert_allclose(factorizer.constant_, x.mean(axis=0), atol=1e-5)
    delta = getattr(factorizer, "delta", 0.0)
    distances = np.linalg.norm(archetypes - in_the_hull, axis=1)
    assert distances.max() <= delta * factorizer.scale_ + 1e-5
    # no atom beyond the centroids in any direction
    assert (in_the_hull <= factorizer.centroids_.max(axis=0) + 1e-5).all()


def test_relaxed_archetypal_with_delta_zero_is_archetypal_whatever_the_global_seeds(fitted, x):
    known = fitted(ArchetypalFactorizer).get_concept_bank()
    tf.random.set_seed(123)
    np.random.seed(123)  # noqa: NPY002
    relaxed, _ = RelaxedArchetypalFactorizer(**FITTED, delta=0).fit(x)
    np.testing.assert_array_equal(relaxed, known)


def test_centroids_are_seeded(fitted, x):
    seeded = fitted(ArchetypalFactorizer).centroids_
    other = ArchetypalFactorizer(CONCEPTS, steps=1, random_state=1)
    other.fit(x)
    assert np.abs(seeded - other.centroids_).max() > 1e-3


# ------------------------------------------------------- reading and writing


def assert_identity(factorizer, x):
    restored = factorizer.decode(factorizer.encode(x)) + factorizer.residual(x)
    assert np.abs(restored - x).max() <= 1e-5 * np.abs(x).max()


@pytest.mark.parametrize("kind", KINDS)
def test_decoded_coefficients_and_residual_are_the_features(fitted, kind, x):
    assert_identity(fitted(kind), x)


@pytest.mark.parametrize("kind", KINDS)
def test_a_position_has_at_most_k_concepts_none_negative(fitted, kind, x):
    u = fitted(kind).encode(x)
    assert u.min() >= 0
    assert (u > 0).sum(axis=1).max() == 2


@pytest.mark.parametrize("kind", KINDS)
def test_encode_and_decode_equal_a_reference_implementation(fitted, kind, x):
    factorizer = fitted(kind)
    u = factorizer.encode(x[:20])
    for position, coefficients in zip(x[:20].astype(float), u, strict=True):
        z = [f @ position - b for f, b in zip(factorizer.filters_, factorizer.biases_, strict=True)]
        best = sorted(range(CONCEPTS), key=lambda i: -z[i])[:2]
        slow = [max(z[i], 0.0) if i in best else 0.0 for i in range(CONCEPTS)]
        np.testing.assert_allclose(coefficients, slow, atol=1e-4)
        decoded = factorizer.constant_.astype(float)
        for coefficient, atom in zip(slow, factorizer.bank_, strict=True):
            decoded = decoded + coefficient * atom
        np.testing.assert_allclose(factorizer.decode(coefficients[None])[0], decoded, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_the_folded_weights_are_the_model_of_scaled_features(fitted, kind, x):
    """R² of raw features and loss of scaled ones are two ways to the same number."""
    factorizer = fitted(kind)
    lost = np.square(factorizer.residual(x)).sum() / np.square(x - x.mean(axis=0)).sum()
    assert factorizer.history_.final_r2 == pytest.approx(1 - lost, abs=1e-4)
    assert factorizer.scale_**2 == pytest.approx(np.square(x - x.mean(axis=0)).sum() / len(x))


@pytest.mark.parametrize("kind", KINDS)
def test_coefficients_of_a_position_do_not_depend_on_other_positions(fitted, kind, x, rng):
    order = rng.permutation(len(x))
    u = fitted(kind).encode(x)
    np.testing.assert_allclose(fitted(kind).encode(x[order]), u[order], atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_differentiable_path_gives_the_same_numbers(fitted, kind, x):
    factorizer = fitted(kind)
    u = factorizer.encode_differentiable(tf.constant(x))
    np.testing.assert_array_equal(u, factorizer.encode(x))
    decoded = factorizer.decode(u)
    assert tf.is_tensor(decoded)
    np.testing.assert_allclose(decoded, factorizer.decode(u.numpy()), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_flow_through_encoding_and_decoding(fitted, kind, x):
    factorizer = fitted(kind)
    positions = tf.constant(x[:5], tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(positions)
        decoded = factorizer.decode(factorizer.encode_differentiable(positions))
        sums = tf.reduce_sum(decoded**2)
    gradient = tape.gradient(sums, positions).numpy()
    u = factorizer.encode_differentiable(positions).numpy()
    along_atoms = 2 * decoded.numpy() @ factorizer.bank_.T.astype(float)
    np.testing.assert_allclose(gradient, ((u > 0) * along_atoms) @ factorizer.filters_, rtol=1e-5)


# ------------------------------------------------------------ odd requests


def test_float64_and_lists_are_accepted_and_global_seeds_do_not_matter(fitted, x):
    single, double = fitted(TopKFactorizer), make(TopKFactorizer, **FITTED)
    tf.random.set_seed(123)
    np.random.seed(123)  # noqa: NPY002
    bank, u = double.fit(x.astype(np.float64).tolist())
    np.testing.assert_array_equal(bank, single.get_concept_bank())
    np.testing.assert_array_equal(u, single.encode(x.astype(np.float64)))
    assert_identity(double, x.astype(np.float64))


def test_by_default_a_position_has_a_fifth_of_the_concepts_rounded_up(recovered, x):
    factorizer, _ = recovered
    assert (factorizer.number_of_concepts, factorizer.k, factorizer.k_) == (12, None, 3)
    for concepts, k in ((5, 1), (6, 2)):
        few_steps = make(TopKFactorizer, concepts, steps=1, random_state=0)
        few_steps.fit(x)
        assert few_steps.k_ == k


def test_the_progress_bar_shows_the_objective_of_the_last_epoch_and_the_default_no_bar(x, capsys):
    make(TopKFactorizer, CONCEPTS, steps=5, random_state=0).fit(x)
    assert capsys.readouterr().out == ""
    factorizer = make(TopKFactorizer, CONCEPTS, steps=5, random_state=0, verbose=1)
    factorizer.fit(x)
    text = capsys.readouterr().out
    assert text.startswith("Learning 6 concepts")
    last = factorizer.history_.losses["objective"][-1]
    assert f"objective: {last:.4f}" in text.splitlines()[-1]


@pytest.mark.parametrize(
    "kind, wrong, message",
    [
        (TopKFactorizer, {"k": 7}, "k must be at most number_of_concepts=6, not 7"),
        (TopKFactorizer, {"k": 0}, "k must be an integer of at least 1"),
        (TopKFactorizer, {"steps": 0}, "steps must be"),
        (TopKFactorizer, {"n_init": 0}, "n_init must be an integer of at least 1"),
        (TopKFactorizer, {"batch_size": 2.5}, "batch_size must be"),
        (TopKFactorizer, {"learning_rate": 0}, "learning_rate must be more than 0"),
        (RelaxedArchetypalFactorizer, {"delta": -0.1}, "delta must be at least 0"),
        (RelaxedArchetypalFactorizer, {"delta": np.nan}, "delta must be"),
        (ArchetypalFactorizer, {"n_centroids": 5}, "n_centroids must be an integer of at least 6"),
        (ArchetypalFactorizer, {"n_centroids": 601}, "n_centroids must be at most 600"),
    ],
)
def test_parameters_out_of_range_are_refused(x, kind, wrong, message):
    with pytest.raises(ValueError, match=message):
        kind(**{"number_of_concepts": CONCEPTS} | wrong).fit(x)


@pytest.mark.parametrize(
    "bad, message",
    [
        (np.zeros((4, 3, 2)), "flat"),
        (np.full((4, 3), np.nan), "NaN"),
        (np.full((40, 3), 7.3), "constant"),
    ],
)
def test_activations_that_cannot_be_used_are_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        TopKFactorizer(2).fit(bad)


@pytest.mark.parametrize("kind", KINDS)
def test_an_unfitted_factorizer_raises_not_fitted(kind):
    factorizer = kind()
    assert not factorizer.is_fitted
    assert not factorizer.requires_positive_activations
    for ask in (
        lambda: factorizer.encode(np.zeros((2, 3))),
        lambda: factorizer.encode_differentiable(tf.zeros((2, 3))),
        lambda: factorizer.decode(np.zeros((2, 20))),
        factorizer.get_concept_bank,
        lambda: factorizer.encoding_directions,
        lambda: factorizer.decoding_directions,
    ):
        with pytest.raises(NotFittedError, match=kind.__name__):
            ask()
