import numpy as np
import pytest

from xplique_dirpairs.datasets.synthetic import pooled_dense_head, random_directions, signal_maps

CONCEPTS, DISTRACTORS, CHANNELS = 20, 4, 32
DIRECTIONS = random_directions(0, CONCEPTS, DISTRACTORS, CHANNELS)


def make(images=300, *, directions=DIRECTIONS, **options):
    return signal_maps(images, *directions, **options)


def shares(data):
    """Return the share of positions where each concept is present, (I,)."""
    return data.masks.mean(axis=(0, 1, 2))


def rest(data):
    """Return the features without signals and offset, (P, D)."""
    rest = data.features - 10.0 - data.alpha @ data.signals
    return rest.reshape(-1, data.features.shape[-1])


@pytest.mark.parametrize(
    ("images", "options"),
    [
        (300, {}),
        (300, {"map_shape": (5, 3), "patches": 3}),
        (300, {"concepts_per_pixel": 3, "zipf": 1.0, "absent": (0.0, 0.5)}),
        (9000, {}),  # more than one chunk
    ],
)
def test_features_are_the_sum_of_signals_distractors_and_an_offset(images, options):
    data = make(images, **options)
    left = rest(data)
    beta = left @ np.linalg.pinv(data.distractors)
    np.testing.assert_allclose(beta @ data.distractors, left, atol=3e-5)
    assert -1e-3 < beta.min() < 0.1
    assert 4.9 < beta.max() < 5.0 + 1e-3
    assert abs(np.corrcoef(beta, rowvar=False) - np.eye(DISTRACTORS)).max() < 0.2


def test_noise_has_the_given_deviation_in_every_channel_and_changes_nothing_else():
    clean, noisy = make(2000), make(2000, noise=0.1)
    np.testing.assert_array_equal(clean.alpha, noisy.alpha)
    noise_only = rest(noisy) @ np.linalg.qr(noisy.distractors.T, "complete")[0][:, 4:]
    np.testing.assert_allclose(noise_only.std(axis=0), 0.1, rtol=0.1)
    np.testing.assert_allclose(rest(clean).mean(axis=0), rest(noisy).mean(axis=0), atol=0.2)


@pytest.mark.parametrize("absent", [(0.0, 2.5), (0.0, 0.5), (-1.0, 1.0)])
def test_signal_values_lie_in_their_ranges(absent):
    data = make(absent=absent, present=(3.0, 4.0))
    for values, (low, high) in (
        (data.alpha[data.masks], (3.0, 4.0)),
        (data.alpha[~data.masks], absent),
    ):
        assert low <= values.min() < low + 0.05
        assert high - 0.05 < values.max() <= high
        assert values.mean() == pytest.approx((low + high) / 2, abs=0.05)


@pytest.mark.parametrize("patches", [None, 3])
@pytest.mark.parametrize("count", [1, 2, CONCEPTS])
def test_every_position_has_the_given_number_of_concepts(count, patches):
    data = make(50, map_shape=(4, 3), concepts_per_pixel=count, patches=patches)
    assert (data.masks.sum(axis=-1) == count).all()


def test_a_concept_is_present_in_connected_patches():
    data = make(200, map_shape=(9, 9), patches=4)
    concept = data.masks.argmax(axis=-1)
    signal_value = np.take_along_axis(data.alpha, concept[..., None], axis=-1)[..., 0]
    seen = np.array([len(np.unique(image)) for image in concept])
    assert seen.max() == 4  # never more than the number of patches
    # Voronoi cells are convex: if four concepts are present, each has one run in every row and
    # every column.
    for image in concept[seen == 4]:
        for line in [*image, *image.T]:
            assert np.count_nonzero(np.diff(line)) == len(np.unique(line)) - 1
    # The presence of a concept is coherent, not its signal value.
    same = concept[:, :, 1:] == concept[:, :, :-1]
    pair = np.corrcoef(signal_value[:, :, 1:][same], signal_value[:, :, :-1][same])
    assert same.mean() > 0.7
    assert abs(pair[0, 1]) < 0.05


def test_without_patches_neighbours_are_independent():
    data = make(1000, map_shape=(1, 6), classes=1)
    concept = data.masks.argmax(axis=-1)
    assert (concept[..., 1:] == concept[..., :-1]).mean() == pytest.approx(1 / CONCEPTS, abs=0.015)


@pytest.mark.parametrize("zipf", [0.5, 1.0])
def test_frequencies_follow_a_power_law_of_the_rank(zipf):
    share = shares(make(20_000, zipf=zipf))
    slope, _ = np.polyfit(np.log(np.arange(1, CONCEPTS + 1)), np.log(share), 1)
    assert slope == pytest.approx(-zipf, abs=0.1)


def test_with_one_class_frequencies_are_exactly_those_of_zipf():
    wanted = 1 / np.arange(1, CONCEPTS + 1)
    share = shares(make(30_000, zipf=1.0, classes=1))
    np.testing.assert_allclose(share, wanted / wanted.sum(), rtol=0.1)


def test_all_concepts_are_equally_frequent_by_default():
    np.testing.assert_allclose(shares(make(30_000)), 1 / CONCEPTS, rtol=0.1)


def test_preferred_concepts_are_four_times_as_frequent_as_the_others():
    data = make(20_000, classes=5)
    np.testing.assert_array_equal(np.unique(data.labels), np.arange(5))
    for label in range(5):
        share = data.masks[data.labels == label].mean(axis=(0, 1, 2))
        preferred = np.isin(np.arange(CONCEPTS) % 5, [label, (label + 1) % 5])
        ratio = share[preferred].mean() / share[~preferred].mean()
        assert ratio == pytest.approx(4.0, rel=0.1)


def test_two_classes_prefer_different_concepts():
    data = make(5000, classes=2)
    even = np.arange(CONCEPTS) % 2 == 0
    for label, preferred in ((0, even), (1, ~even)):
        share = data.masks[data.labels == label].mean(axis=(0, 1, 2))
        assert share[preferred].mean() / share[~preferred].mean() == pytest.approx(4.0, rel=0.1)


def test_the_preferred_concepts_do_not_depend_on_the_number_of_images():
    of_preferred = []
    for seed in range(60):
        data = make(1, classes=5, map_shape=(8, 8), seed=seed)
        preferred = np.isin(np.arange(CONCEPTS) % 5, [data.labels[0], (data.labels[0] + 1) % 5])
        of_preferred.append(shares(data)[preferred].sum())
    eight, twelve = 8 * 4.0, 12 * 1.0  # 8 of 20 concepts are preferred
    assert np.mean(of_preferred) == pytest.approx(eight / (eight + twelve), abs=0.03)


def test_the_number_of_classes_is_limited_to_that_of_concepts():
    data = make(100, directions=random_directions(0, 3, 2, 8))
    np.testing.assert_array_equal(np.unique(data.labels), [0, 1, 2])


def test_a_head_on_pooled_features_learns_the_classes():
    directions = random_directions(1, 8, 2, 16)
    options = {"directions": directions, "map_shape": (4, 4), "classes": 4, "absent": (0.0, 0.5)}
    train, fresh = make(1500, seed=0, **options), make(1500, seed=1, **options)
    head = pooled_dense_head(train.features, train.labels)
    right = np.mean(head(fresh.features).numpy().argmax(axis=1) == fresh.labels)
    assert right > 0.6  # chance: 0.25


def test_the_seed_determines_the_data_and_another_seed_gives_new_data():
    a, again, fresh = (make(100, noise=0.1, patches=2, seed=seed) for seed in (1, 1, 2))
    for name in ("features", "labels", "masks", "alpha"):
        np.testing.assert_array_equal(getattr(a, name), getattr(again, name))
        assert not np.array_equal(getattr(a, name), getattr(fresh, name))
    np.testing.assert_array_equal(a.signals, fresh.signals)
    np.testing.assert_array_equal(a.distractors, fresh.distractors)
    both = np.corrcoef(a.alpha[~a.masks & ~fresh.masks], fresh.alpha[~a.masks & ~fresh.masks])
    assert abs(both[0, 1]) < 0.05


def test_the_data_has_the_documented_shapes_and_dtypes():
    data = make(7, map_shape=(3, 2))
    assert data.features.shape == (7, 3, 2, CHANNELS)
    assert data.features.dtype == data.alpha.dtype == np.float32
    assert data.masks.shape == data.alpha.shape == (7, 3, 2, CONCEPTS)
    assert data.masks.dtype == bool
    assert data.labels.shape == (7,)


def test_the_number_of_distractors_may_be_zero():
    data = make(10, directions=(DIRECTIONS[0], DIRECTIONS[1][:0]))
    np.testing.assert_allclose(rest(data), 0.0, atol=1e-5)


@pytest.mark.parametrize("cosine", [0.2, 0.5])
def test_signal_vectors_can_be_correlated(cosine):
    signals, distractors = random_directions(0, 64, 16, 512, cosine=cosine)
    np.testing.assert_allclose(np.linalg.norm(signals, axis=1), 1.0)
    between = (signals @ signals.T)[np.triu_indices(64, 1)]
    assert between.mean() == pytest.approx(cosine, abs=0.03)
    assert between.std() < 0.06
    # The cosine does not affect the distractors.
    np.testing.assert_array_equal(distractors, random_directions(0, 64, 16, 512)[1])
    assert abs(signals @ distractors.T).max() < 0.25


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": 0}, "images must be an integer of at least 1, not 0"),
        ({"classes": 0}, "classes must be an integer of at least 1, not 0"),
        ({"patches": 0}, "patches must be an integer of at least 1, not 0"),
        ({"map_shape": (0, 2)}, "map_shape must be an integer of at least 1, not 0"),
        ({"concepts_per_pixel": 0}, "concepts_per_pixel must be an integer of at least 1, not 0"),
        ({"concepts_per_pixel": 21}, "concepts_per_pixel must be at most 20, not 21"),
        ({"directions": (DIRECTIONS[0], DIRECTIONS[1][:, :5])}, r"not \(20, 32\), \(4, 5\)"),
        ({"directions": (DIRECTIONS[0][0], DIRECTIONS[1])}, r"signals must be \(I, D\)"),
    ],
)
def test_invalid_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)
