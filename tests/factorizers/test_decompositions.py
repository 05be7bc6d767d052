"""Tests of what is particular to each decomposition."""

import numpy as np
import pytest
import tensorflow as tf
from scipy.optimize import nnls
from sklearn.decomposition import MiniBatchDictionaryLearning, sparse_encode
from sklearn.exceptions import ConvergenceWarning
from sparse_mixtures import sparse_mixtures
from threadpoolctl import threadpool_limits

from xplique_dirpairs.core.linear_algebra import UNMATCHED, cosines, match
from xplique_dirpairs.factorizers.controls import (
    NoLearningFactorizer,
    RandomFactorizer,
    clustered_detectors,
)
from xplique_dirpairs.factorizers.decompositions import (
    FastICAFactorizer,
    KMeansFactorizer,
    PCAFactorizer,
)
from xplique_dirpairs.factorizers.nonnegative import (
    DictionaryLearningFactorizer,
    NMFFactorizer,
    SemiNMFFactorizer,
    differentiable_least_squares,
    nonnegative_least_squares,
)
from xplique_dirpairs.pairs import WELL_CONDITIONED


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    with threadpool_limits(1):
        yield


def matched_cosines(directions_found, true):
    """Cosines of directions_found and true directions (I, D), matched one to one."""
    similarity = cosines(true, directions_found)
    matching = match(similarity)
    columns = np.flatnonzero(matching != UNMATCHED)
    return similarity[matching[columns], columns]


def squared_error(factorizer, x):
    return float(np.square(factorizer.residual(x), dtype=np.float64).sum())


@pytest.fixture
def mixed(rng):
    """Rare positive sources (400, 4), directions (4, 10) of any sign, and what they add up to."""
    sources = rng.exponential(size=(400, 4)) * (rng.uniform(size=(400, 4)) < 0.4)
    directions = rng.normal(size=(4, 10))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return sources, directions, (sources @ directions + 3.0).astype(np.float32)


# ---------------------------------------------------------------- PCA


def test_principal_components_are_the_first_eigenvectors_of_the_covariance(mixed):
    x = mixed[2]
    pca = PCAFactorizer(3)
    pca.fit(x)
    _, vectors = np.linalg.eigh(np.cov(x.T, bias=True))
    np.testing.assert_allclose(
        np.abs(pca.get_concept_bank() @ vectors[:, :-4:-1]), np.eye(3), atol=1e-4
    )
    np.testing.assert_array_equal(pca.decoding_directions, pca.encoding_directions)


def test_no_affine_map_through_as_many_dimensions_loses_less_than_pca(mixed):
    x = mixed[2]
    pca = PCAFactorizer(3)
    pca.fit(x)
    singular = np.linalg.svd(x - x.mean(axis=0), compute_uv=False)
    assert squared_error(pca, x) == pytest.approx(np.square(singular[3:]).sum(), rel=1e-4)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_with_all_components_off_the_features_are_the_mean(mixed):  # for any seed
    x = mixed[2]
    for factorizer in (
        PCAFactorizer(3),
        FastICAFactorizer(3),
        RandomFactorizer(3),
        KMeansFactorizer(3),
        DictionaryLearningFactorizer(3, tol=1e-3),
    ):
        factorizer.fit(x)
        off = factorizer.decode(np.zeros((1, 3), np.float32))[0]
        np.testing.assert_allclose(off, x.mean(axis=0), atol=1e-5)


@pytest.mark.parametrize("factorizer", [PCAFactorizer, FastICAFactorizer])
def test_the_largest_loading_is_positive_and_mirrored_data_change_no_sign(factorizer, mixed):
    x = mixed[2]
    bank, _ = factorizer(3, random_state=0).fit(x)
    largest = np.take_along_axis(bank, np.abs(bank).argmax(axis=1)[:, None], axis=1)
    assert (largest > 0).all()
    mirrored, _ = factorizer(3, random_state=0).fit(-x)
    np.testing.assert_allclose(matched_cosines(mirrored, bank), 1.0, atol=1e-3)


# ---------------------------------------------------------------- ICA


def test_ica_finds_independent_sources_their_directions_and_their_filters(mixed):
    sources, directions, x = mixed
    ica = FastICAFactorizer(4, random_state=0)
    _, u = ica.fit(x)
    directions_found = np.concatenate([ica.encoding_directions, -ica.encoding_directions])
    assert matched_cosines(directions_found, directions).min() > 0.99
    correlations = np.corrcoef(u.T, sources.T)[:4, 4:]
    assert np.abs(correlations).max(axis=0).min() > 0.99
    # a filter reads its own direction, and no other
    np.testing.assert_allclose(
        ica.decoding_directions @ ica.encoding_directions.T, np.eye(4), atol=1e-4
    )
    np.testing.assert_allclose(np.linalg.norm(ica.encoding_directions, axis=1), 1.0, atol=1e-5)
    assert ica.converged_ and ica.n_iter_ < ica.max_iter


def test_ica_refuses_more_concepts_than_the_features_vary_along(mixed):
    with pytest.raises(ValueError, match=r"number_of_concepts .*at most 4.*not 5"):
        FastICAFactorizer(5).fit(mixed[2])


# ---------------------------------------------------------------- K-Means


@pytest.fixture
def blobs(rng):
    centres = 10 * np.eye(4, 6) + 5
    labels = rng.permutation(np.repeat(np.arange(4), [10, 20, 30, 40]))
    return centres, labels, (centres[labels] + 0.1 * rng.normal(size=(100, 6))).astype(np.float32)


def test_k_means_finds_blobs_and_decodes_a_position_to_its_centroid(blobs):
    centres, labels, x = blobs
    factorizer = KMeansFactorizer(4, random_state=0)
    bank, u = factorizer.fit(x)
    np.testing.assert_allclose(factorizer.decode(u), centres[labels], atol=0.15)
    np.testing.assert_array_equal(u.sum(axis=1), 1)
    assert set(np.unique(u)) == {0, 1}
    assert matched_cosines(bank, centres - x.mean(axis=0)).min() > 0.999
    centroids = np.stack([x[labels == i].mean(axis=0) for i in range(4)])
    assert matched_cosines(bank + x.mean(axis=0), centroids).min() > 0.9999
    assert factorizer.decoding_directions is None


def test_fresh_positions_belong_to_the_nearest_centroid(blobs, rng):
    factorizer = KMeansFactorizer(4, random_state=0)
    bank, _ = factorizer.fit(blobs[2])
    fresh = rng.uniform(4, 12, size=(50, 6)).astype(np.float32)
    centroids = bank + factorizer.constant_
    distances = np.linalg.norm(fresh[:, None] - centroids, axis=-1)
    np.testing.assert_array_equal(factorizer.encode(fresh).argmax(axis=1), distances.argmin(axis=1))


def test_k_means_keeps_the_best_of_several_clusterings(rng):
    x = rng.normal(size=(200, 6)).astype(np.float32)
    lost = np.empty((5, 2))
    for seed in range(5):
        for k, n_init in enumerate((1, 8)):
            factorizer = KMeansFactorizer(8, n_init=n_init, random_state=seed)
            factorizer.fit(x)
            lost[seed, k] = squared_error(factorizer, x)
    assert lost[:, 1].mean() < lost[:, 0].mean() and lost[:, 1].max() < lost[:, 0].max()


# ---------------------------------------------------------------- NMF


@pytest.fixture
def parts(rng):
    """Separable non-negative data: every part is alone somewhere (Donoho & Stodden 2003)."""
    directions = rng.uniform(size=(4, 10)) * (rng.uniform(size=(4, 10)) < 0.5) + np.eye(4, 10)
    sources = rng.uniform(1, 2, size=(300, 4)) * (rng.uniform(size=(300, 4)) < 0.4)
    return directions, (sources @ directions).astype(np.float32)


def test_nmf_finds_the_parts_of_separable_data(parts):
    directions, x = parts
    nmf = NMFFactorizer(4, random_state=0)
    bank, u = nmf.fit(x)
    assert matched_cosines(bank, directions).min() > 0.99
    assert nmf.converged_ and (u >= 0).all() and (bank >= 0).all()
    np.testing.assert_allclose(np.linalg.norm(bank, axis=1), 1.0, atol=1e-5)
    np.testing.assert_array_equal(nmf.constant_, 0)


def test_nmf_shifts_the_channels_that_need_it_and_takes_the_shift_back(parts):
    directions, x = parts
    offset = np.where(np.arange(10) < 3, -2.0, 0.0).astype(np.float32)
    nmf = NMFFactorizer(4, random_state=0)
    bank, _ = nmf.fit(x + offset)
    np.testing.assert_allclose(nmf.shift_, -np.minimum((x + offset).min(axis=0), 0.0))
    assert (nmf.shift_[3:] == 0).all() and matched_cosines(bank, directions).min() > 0.99
    assert squared_error(nmf, x + offset) < 1e-3 * np.square(x - x.mean(axis=0)).sum()
    lowest = (x + offset).min(axis=0, keepdims=True)
    np.testing.assert_allclose(nmf.encode(lowest - 5), nmf.encode(lowest), atol=1e-6)
    below = (x + offset)[:50] - 5.0 * (np.arange(10) == 0).astype(np.float32)
    read = nmf.encode_differentiable(tf.constant(below))
    np.testing.assert_allclose(read, nmf.encode(below), atol=1e-5)
    restored = nmf.decode(nmf.encode(lowest - 5)) + nmf.residual(lowest - 5)
    np.testing.assert_allclose(restored, lowest - 5, atol=1e-5)


@pytest.mark.parametrize(
    "kind, model",
    [(NMFFactorizer, "NMF"), (DictionaryLearningFactorizer, "MiniBatchDictionaryLearning")],
)
def test_an_interrupted_fit_does_not_change_a_fitted_factorizer(kind, model, parts, monkeypatch):
    x = parts[-1]
    factorizer = kind(3, random_state=0)
    factorizer.fit(x)
    before = factorizer.encode(x)

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(f"xplique_dirpairs.factorizers.nonnegative.{model}.fit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        factorizer.fit(2.0 * x - 2.0)
    np.testing.assert_array_equal(factorizer.encode(x), before)


# ---------------------------------------------------------------- semi-NMF


def test_semi_nmf_takes_directions_of_any_sign_and_its_objective_never_rises(mixed):
    x = mixed[2] - 3.0
    semi = SemiNMFFactorizer(4, random_state=0)
    bank, u = semi.fit(x)
    assert bank.min() < -0.1 and (u >= 0).all() and semi.converged_
    steps = np.diff(semi.objective_)
    assert (steps <= 1e-6 * semi.objective_[0]).all() and semi.objective_[-1] < semi.objective_[0]
    assert squared_error(semi, x) <= 1.001 * semi.objective_[-1] + 1e-4
    np.testing.assert_allclose(np.linalg.norm(bank, axis=1), 1.0, atol=1e-5)


@pytest.mark.parametrize(
    "option, message",
    [
        ({"max_iter": 0}, "max_iter must be"),
        ({"tol": np.nan}, "tol must be a finite number, not nan"),
    ],
)
def test_semi_nmf_refuses_limits_out_of_range(option, message, mixed):
    with pytest.raises(ValueError, match=message):
        SemiNMFFactorizer(3, **option).fit(mixed[2])


def test_directions_of_any_sign_lose_no_more_than_non_negative_ones(parts, rng):
    x = parts[1] + rng.uniform(0, 0.5, parts[1].shape).astype(np.float32)
    nmf, semi = NMFFactorizer(4, random_state=0), SemiNMFFactorizer(4, random_state=0)
    nmf.fit(x)
    semi.fit(x)
    assert squared_error(semi, x) <= squared_error(nmf, x)


# ---------------------------------------------------------------- dictionary learning


@pytest.mark.parametrize("concepts", [16, 36])  # fewer than channels, and more
def test_dictionary_learning_finds_the_atoms_of_sparse_mixtures(concepts):
    x, atoms = sparse_mixtures(3000, 24, concepts)
    factorizer = DictionaryLearningFactorizer(concepts, random_state=0)
    bank, u = factorizer.fit(x)
    random_bank, _ = RandomFactorizer(concepts, random_state=0).fit(x)
    assert np.median(matched_cosines(bank, atoms)) > 0.9
    assert np.median(matched_cosines(random_bank, atoms)) < 0.5
    assert factorizer.converged_ and bank.min() < -0.1 and (u >= 0).all()
    assert 0 < (u > 0).mean() < 0.5
    np.testing.assert_allclose(np.linalg.norm(bank, axis=1), 1.0, atol=1e-5)


@pytest.mark.filterwarnings("ignore:Objective did not converge")  # where all channels are zero
def test_a_dictionary_and_its_codes_are_those_of_scikit_learn(mixed):
    x = mixed[2] - 3.0
    factorizer = DictionaryLearningFactorizer(4, alpha=0.8, centred=False, random_state=0)
    bank, u = factorizer.fit(x)
    deviation = np.sqrt(x.var(axis=0).mean())
    model = MiniBatchDictionaryLearning(
        4,
        alpha=0.8,
        fit_algorithm="cd",
        positive_code=True,
        transform_algorithm="lasso_cd",
        tol=1e-4,
        random_state=0,
    ).fit(x / deviation)
    assert matched_cosines(bank, model.components_).min() > 0.9999
    assert np.abs(u - model.transform(x / deviation) * deviation).max() < 0.02 * u.max()
    np.testing.assert_array_equal(factorizer.constant_, 0)


def test_without_centring_most_atoms_point_along_a_large_mean():
    x, atoms = sparse_mixtures(3000, 16, 8, offset=3.0)
    banks = {
        centred: DictionaryLearningFactorizer(8, centred=centred, random_state=0).fit(x)[0]
        for centred in (True, False)
    }
    along = {key: cosines(bank, x.mean(axis=0)[None]).ravel() for key, bank in banks.items()}
    assert np.median(along[False]) > 0.8 > 0.5 > np.median(np.abs(along[True]))
    found = {key: np.median(matched_cosines(bank, atoms)) for key, bank in banks.items()}
    assert found[True] > found[False]


def test_codes_are_the_exact_solution_of_the_non_negative_lasso(mixed):
    x = mixed[2]
    factorizer = DictionaryLearningFactorizer(6, tol=1e-3, random_state=0)
    bank, u = factorizer.fit(x)
    slow = sparse_encode(
        (x - factorizer.constant_).astype(np.float64),
        bank.astype(np.float64),
        algorithm="lasso_lars",
        alpha=factorizer.penalty_,
        positive=True,
    )
    np.testing.assert_allclose(u, slow, atol=1e-3)
    np.testing.assert_allclose(factorizer.constant_, x.mean(axis=0), atol=1e-5)


@pytest.mark.slow
def test_a_larger_alpha_leaves_fewer_coefficients_and_a_larger_residual(mixed):
    x = mixed[2]
    shares, errors = [], []
    for alpha in (0.1, 1.0, 2.0):
        factorizer = DictionaryLearningFactorizer(6, alpha=alpha, random_state=0)
        shares.append((factorizer.fit(x)[1] > 0).mean())
        errors.append(squared_error(factorizer, x))
    assert shares[0] > shares[1] > shares[2] > 0
    assert errors[0] < errors[1] < errors[2]


def test_other_units_of_the_features_change_the_units_of_the_codes_alone(mixed):
    x = mixed[2]
    factorizer = DictionaryLearningFactorizer(4, tol=1e-3, random_state=0)
    bank, u = factorizer.fit(x)
    factorizer_of_larger = DictionaryLearningFactorizer(4, tol=1e-3, random_state=0)
    larger_bank, larger_u = factorizer_of_larger.fit(64 * x)
    np.testing.assert_allclose(larger_bank, bank, atol=1e-4)
    np.testing.assert_allclose(larger_u, 64 * u, atol=1e-2)
    assert factorizer_of_larger.penalty_ == pytest.approx(64 * factorizer.penalty_)


@pytest.mark.parametrize("alpha", [0.0, -1.0, np.nan])
def test_dictionary_learning_refuses_an_alpha_that_is_not_positive(alpha, mixed):
    with pytest.raises(ValueError, match="alpha must be"):
        DictionaryLearningFactorizer(3, alpha=alpha).fit(mixed[2])


# ---------------------------------------------------------------- non-negative least squares


@pytest.mark.parametrize("concepts", [3, 8, 15])
@pytest.mark.parametrize("nearly_dependent", [False, True])
def test_coefficients_are_those_of_lawson_and_hansen(rng, concepts, nearly_dependent):
    bank = rng.normal(size=(concepts, 8))
    if nearly_dependent:
        bank = bank[:1] + 0.01 * bank
    bank = (bank / np.linalg.norm(bank, axis=1, keepdims=True)).astype(np.float32)
    x = rng.normal(size=(60, 8)).astype(np.float32)
    u = nonnegative_least_squares(x, bank)
    assert (u >= 0).all()
    errors = np.linalg.norm(x - u.astype(np.float64) @ bank, axis=1)
    slow = [nnls(bank.T.astype(np.float64), row.astype(np.float64)) for row in x]
    np.testing.assert_allclose(errors, [error for _, error in slow], atol=1e-3)
    if concepts <= 8 and not nearly_dependent:
        np.testing.assert_allclose(u, [solution for solution, _ in slow], atol=1e-4)


def test_a_concept_without_a_direction_has_no_coefficient(rng):
    bank = np.concatenate([np.eye(2, 5), np.zeros((1, 5))]).astype(np.float32)
    u = nonnegative_least_squares(rng.normal(size=(20, 5)).astype(np.float32), bank)
    assert (u[:, 2] == 0).all() and (u[:, :2] > 0).any()


def test_the_gradient_of_positive_coefficients_is_that_of_least_squares_on_them(rng):
    bank = rng.normal(size=(3, 6)).astype(np.float32)
    x = tf.constant(rng.uniform(size=(1, 3)) @ bank, tf.float32)  # all three positive
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        u = differentiable_least_squares(x, bank)
    jacobian = tape.jacobian(u, x, experimental_use_pfor=False)[0, :, 0]
    np.testing.assert_allclose(jacobian, np.linalg.pinv(bank).T, atol=1e-4)


# ---------------------------------------------------------------- fits that are cut short


@pytest.mark.parametrize(
    "kind, options",
    [
        (NMFFactorizer, {"max_iter": 2, "tol": 1e-8}),
        (SemiNMFFactorizer, {"max_iter": 2, "tol": 1e-9}),
        (DictionaryLearningFactorizer, {"max_iter": 1}),
        (FastICAFactorizer, {"max_iter": 1, "tol": 1e-8}),
        (KMeansFactorizer, {"max_iter": 1, "n_init": 1}),
    ],
)
def test_a_fit_that_has_not_converged_warns_once_and_is_flagged(kind, options, mixed):
    factorizer = kind(4, random_state=0, **options)
    with pytest.warns(ConvergenceWarning, match="Raise max_iter") as warned:
        factorizer.fit(mixed[2])
    assert len(warned) == 1 and warned[0].filename == __file__
    assert not factorizer.converged_ and factorizer.n_iter_ == options["max_iter"]
    assert factorizer.encode(mixed[2]).shape == (400, 4)


# ---------------------------------------------------------------- baselines


def test_random_directions_are_orthonormal_and_differ_by_seed(mixed):
    x = mixed[2]
    factorizer = RandomFactorizer(4, random_state=0)
    bank, u = factorizer.fit(x)
    np.testing.assert_allclose(bank @ bank.T, np.eye(4), atol=1e-5)
    np.testing.assert_allclose(u, (x - x.mean(axis=0)) @ bank.T, atol=1e-4)
    other, _ = RandomFactorizer(4, random_state=1).fit(x)
    assert np.abs(other - bank).max() > 0.1
    many, _ = RandomFactorizer(15, random_state=0).fit(x)
    np.testing.assert_allclose(np.linalg.norm(many, axis=1), 1.0, atol=1e-5)


def test_random_coefficients_are_least_squares_on_the_directions(mixed):
    x = mixed[2]
    factorizer = RandomFactorizer(15, random_state=0)
    bank, u = factorizer.fit(x)
    best = np.linalg.lstsq(bank.T, (x - x.mean(axis=0)).T, rcond=None)[0].T
    np.testing.assert_allclose(u, best, atol=1e-3)


def test_without_learning_a_detector_is_on_at_its_share_of_the_positions(mixed):
    x = mixed[2]
    factorizer = NoLearningFactorizer(4, random_state=0)
    factorizer.fit(x)
    np.testing.assert_allclose((factorizer.detect(x) > 0.5).mean(axis=0), 0.25, atol=0.02)
    assert (factorizer.encode(x) >= 0).all() and factorizer.history_ is None
    assert factorizer.pairs_.condition_number <= WELL_CONDITIONED


def test_clustered_detectors_point_to_the_clusters_of_whitened_features(rng):
    labels = np.repeat(np.arange(4), 50)
    x = (np.eye(4)[labels] * 5 + 0.1 * rng.normal(size=(200, 4))).astype(np.float32)
    filters, biases = clustered_detectors(x, 4, rng)
    np.testing.assert_allclose(filters @ filters.T, np.eye(4), atol=1e-5)
    assert matched_cosines(filters, np.eye(4)).min() > 0.99
    on = x @ filters.T > biases
    np.testing.assert_array_equal(on.sum(axis=1), 1)
    with pytest.raises(ValueError, match="positions"):
        clustered_detectors(x[:3], 4, rng)
