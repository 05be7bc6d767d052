"""Learning direction pairs from annotations."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from sklearn.metrics import jaccard_score

from xplique_dirpairs.core.linear_algebra import cosines
from xplique_dirpairs.learning.signals import mean_difference
from xplique_dirpairs.learning.supervised import (
    SupervisedPairs,
    best_bias,
    cell_coverage,
    supervised_pairs,
)
from xplique_dirpairs.metrics.labelled_detectors import interpretability, score_labels

CONCEPTS = {"object": ("house", "tree", "sun"), "colour": ("red", "blue")}
CELLS, SIDE, CHANNELS = (4, 5), 6, 12


@dataclasses.dataclass
class Annotations:
    activations: np.ndarray
    masks: dict
    concepts: dict
    exhaustive: bool = False

    def batches(self, batch_size=32):
        for start in range(0, len(self.activations), batch_size):
            part = slice(start, start + batch_size)
            yield self.activations[part], {name: m[part] for name, m in self.masks.items()}


def annotations(seed=0, images=60, noise=0.3, signals=None):
    """Return activations with the signals of the concepts in whole cells, and noise."""
    rng = np.random.default_rng(seed)
    cells = {name: rng.integers(0, len(c) + 1, (images, *CELLS)) for name, c in CONCEPTS.items()}
    cells["colour"][::3] = 0  # these images are not annotated with colours
    x = rng.normal(0.0, noise, (images, *CELLS, CHANNELS)) + 1.0
    for i, where in enumerate(np.moveaxis(indicators(cells), -1, 0)):
        x[where] += signals[i]
    masks = {name: m.repeat(SIDE, axis=1).repeat(SIDE, axis=2) for name, m in cells.items()}
    return Annotations(x.astype(np.float32), masks, CONCEPTS)


def indicators(cells):
    where = [cells[k] == n + 1 for k, names in CONCEPTS.items() for n in range(len(names))]
    return np.stack(where, axis=-1)


def own(activations):
    return activations


@pytest.fixture
def signals(rng):
    return np.linalg.qr(rng.normal(size=(CHANNELS, 5)))[0].T * 3


@pytest.fixture
def data(signals):
    return annotations(signals=signals)


# ------------------------------------------------------------------ what covers a cell


def test_coverage_is_the_share_of_the_pixels_of_a_cell(rng):
    masks = {name: rng.integers(0, len(c) + 1, (3, 8, 12)) for name, c in CONCEPTS.items()}
    masks["colour"][1] = 0
    coverage, known = cell_coverage(masks, CONCEPTS, (2, 3))
    for n in range(3):
        for r in range(2):
            for c in range(3):
                flat = 0
                for category, names in CONCEPTS.items():
                    cell = masks[category][n, 4 * r : 4 * r + 4, 4 * c : 4 * c + 4].ravel().tolist()
                    for number in range(1, len(names) + 1):
                        share = cell.count(number) / 16
                        assert coverage[n, r, c, flat] == pytest.approx(share, abs=1e-6)
                        flat += 1
    np.testing.assert_array_equal(known, [[1] * 5, [1, 1, 1, 0, 0], [1] * 5])
    same, known = cell_coverage(masks, CONCEPTS, (2, 3), exhaustive=True)
    np.testing.assert_array_equal(same, coverage)
    assert known.all()


def test_a_shift_moves_the_cells_over_the_masks(data):
    supervised = supervised_pairs(data, own, shift=(SIDE, -SIDE))

    def seen(mask):  # the mask that a cell sees is one cell lower and farther left
        seen = np.zeros_like(mask)
        seen[:, :-SIDE, SIDE:] = mask[:, SIDE:, :-SIDE]
        return seen

    masks = {name: seen(mask) for name, mask in data.masks.items()}
    other = supervised_pairs(dataclasses.replace(data, masks=masks), own)
    np.testing.assert_array_equal(supervised.positives, other.positives)
    np.testing.assert_array_equal(supervised.pairs.signals, other.pairs.signals)


# ------------------------------------------------------------------ Pattern-CAVs


def test_signal_vectors_are_pattern_cavs_of_the_annotated_images(data):
    supervised = supervised_pairs(data, own)
    cells = {name: mask[:, ::SIDE, ::SIDE] for name, mask in data.masks.items()}
    for i, where in enumerate(np.moveaxis(indicators(cells), -1, 0)):
        known = cells[supervised.concepts[i][0]].any(axis=(1, 2))
        x = data.activations[known].reshape(-1, CHANNELS)
        t = where[known].reshape(-1)
        slow = x[t].mean(axis=0) - x[~t].mean(axis=0)
        np.testing.assert_allclose(
            supervised.pairs.signals[i], slow / np.linalg.norm(slow), atol=1e-5
        )
        theirs = mean_difference(tf.constant(x), tf.constant(t[:, None], tf.float32))[0]
        assert cosines(supervised.pairs.signals[i : i + 1], theirs[None]) > 1 - 1e-6
        assert supervised.positives[i] == t.sum()


def test_exhaustive_masks_make_unlabelled_images_negatives(data):
    data.exhaustive = True
    supervised = supervised_pairs(data, own)
    cells = {name: mask[:, ::SIDE, ::SIDE] for name, mask in data.masks.items()}
    assert any((mask == 0).all(axis=(1, 2)).any() for mask in cells.values())
    x = data.activations.reshape(-1, CHANNELS)
    for signal, where in zip(
        supervised.pairs.signals, np.moveaxis(indicators(cells), -1, 0), strict=True
    ):
        t = where.reshape(-1)
        slow = x[t].mean(axis=0) - x[~t].mean(axis=0)
        np.testing.assert_allclose(signal, slow / np.linalg.norm(slow), atol=1e-5)


def test_true_signals_and_concepts_are_recovered(data, signals):
    supervised = supervised_pairs(data, own)
    assert supervised.concepts == tuple((k, n) for k, names in CONCEPTS.items() for n in names)
    np.testing.assert_array_equal(supervised.labels, range(5))
    assert not supervised.left_out
    assert np.diag(cosines(supervised.pairs.signals, signals)).min() > 0.85
    held_out = annotations(seed=1, signals=signals)
    cells = {name: mask[:, ::SIDE, ::SIDE] for name, mask in held_out.masks.items()}
    fires = supervised.pairs.detect(held_out.activations) > 0.5
    for i, where in enumerate(np.moveaxis(indicators(cells), -1, 0)):
        known = cells[supervised.concepts[i][0]].any(axis=(1, 2))
        assert jaccard_score(where[known].ravel(), fires[known][..., i].ravel()) > 0.95


def test_supervised_pairs_are_scored_on_their_own_labels(data, signals):
    from xplique_dirpairs.metrics.dissection import dissect

    supervised = supervised_pairs(data, own)
    dissection = dissect(data, supervised.pairs.project, supervised.pairs.biases)
    held_out = annotations(seed=1, signals=signals)
    scores = score_labels(held_out, supervised.pairs.project, dissection, supervised.labels)
    unsupervised = interpretability(data, held_out, lambda x: x, np.full(CHANNELS, 2.0))
    assert scores.s2 > 2.5 > unsupervised.s2
    np.testing.assert_array_equal(scores.labels, dissection.labels)


def test_absent_levels_are_means_over_positions_without_the_concept(data):
    supervised = supervised_pairs(data, own, positions=10_000)
    cells = {name: mask[:, ::SIDE, ::SIDE] for name, mask in data.masks.items()}
    z = supervised.pairs.project(data.activations)
    for i, where in enumerate(np.moveaxis(indicators(cells), -1, 0)):
        known = cells[supervised.concepts[i][0]].any(axis=(1, 2))
        level = z[known][..., i][~where[known]].mean()
        assert supervised.pairs.absent_levels[i] == pytest.approx(level, rel=1e-4)
    mean = data.activations.mean(axis=(0, 1, 2), dtype=float)
    np.testing.assert_allclose(supervised.pairs.mean, mean, rtol=1e-5)


# ------------------------------------------------------------------ biases


@pytest.mark.parametrize("odds", [0.01, 0.3, 2.0])
def test_the_bias_has_the_largest_iou_of_all_thresholds(rng, odds):
    with_it, without = rng.normal(1.0, 1.0, 40).round(1), rng.normal(0.0, 1.0, 70).round(1)

    def iou(threshold):
        hits, misses = (with_it > threshold).mean(), (without > threshold).mean()
        return odds * hits / (odds + misses)

    best = max(iou(t) for t in np.arange(-5, 5, 0.01))
    assert iou(best_bias(with_it, without, odds)) == pytest.approx(best)


def test_the_biases_are_the_best_thresholds_over_all_positions(signals):
    data = annotations(noise=1.5, signals=signals)
    supervised = supervised_pairs(data, own, positions=10_000)
    cells = {name: mask[:, ::SIDE, ::SIDE] for name, mask in data.masks.items()}
    z = supervised.pairs.project(data.activations)
    for i, where in enumerate(np.moveaxis(indicators(cells), -1, 0)):
        known = cells[supervised.concepts[i][0]].any(axis=(1, 2))
        truth, values = where[known].ravel(), z[known][..., i].ravel()
        best = max(jaccard_score(truth, values > limit) for limit in np.sort(values)[::5])
        reached = jaccard_score(truth, values > supervised.pairs.biases[i])
        assert 0.3 < best - 1e-3 < reached < 1.0


def test_a_sample_of_positions_is_weighted_to_represent_all(signals):
    data = annotations(noise=1.5, signals=signals, images=120)
    every = supervised_pairs(data, own, positions=10_000).pairs
    part = supervised_pairs(data, own, positions=200).pairs
    shares = [(p.project(data.activations) > p.biases).mean() for p in (every, part)]
    assert shares[1] == pytest.approx(shares[0], rel=0.15)


def test_rarer_concepts_have_higher_biases(rng):
    with_it, without = rng.normal(1.0, 1.0, 400), rng.normal(0.0, 1.0, 700)
    biases = [best_bias(with_it, without, odds) for odds in (1.0, 0.1, 0.001)]
    assert biases == sorted(biases) and biases[0] < biases[-1]


# ------------------------------------------------------------------ invariance and sampling


def assert_same(a, b):
    for name in ("filters", "biases", "signals", "mean", "absent_levels"):
        ours, theirs = getattr(a.pairs, name), getattr(b.pairs, name)
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4, err_msg=name)


def test_the_batch_size_has_no_effect(data):
    assert_same(supervised_pairs(data, own), supervised_pairs(data, own, batch_size=7))


def test_activations_can_be_given_instead_of_computed(data):
    blank = dataclasses.replace(data, activations=np.zeros(len(data.activations)))
    given = supervised_pairs(blank, activations=data.activations)
    assert_same(given, supervised_pairs(data, own))


def test_a_fit_uses_the_requested_number_of_positions(data, monkeypatch):
    import sklearn.linear_model

    sizes = []
    real = sklearn.linear_model.LogisticRegression.fit

    def fit(self, x, t):
        sizes.append((int(t.sum()), int((~t).sum())))
        return real(self, x, t)

    monkeypatch.setattr(sklearn.linear_model.LogisticRegression, "fit", fit)
    supervised_pairs(data, own, positions=30)
    assert sizes == [(30, 120)] * 5


def test_another_seed_draws_other_positions(data):
    a, b = (supervised_pairs(data, own, positions=30, random_state=seed) for seed in (0, 1))
    assert np.abs(a.pairs.filters - b.pairs.filters).max() > 1e-3
    np.testing.assert_array_equal(a.pairs.signals, b.pairs.signals)


# ------------------------------------------------------------------ small and rare concepts


def test_the_required_coverage_is_lowered_for_small_concepts(data):
    small = data.masks["object"]
    sun = small == 3
    sun[:, :: SIDE // 2] = False  # a third of its cells' pixels remain
    sun[:, 1 :: SIDE // 2] = False
    data.masks["object"] = np.where((small == 3) & ~sun, 0, small)
    supervised = supervised_pairs(data, own)
    np.testing.assert_array_equal(supervised.coverage, [0.5, 0.5, 0.25, 0.5, 0.5])
    assert supervised.index("object", "sun") == 2


def test_a_concept_with_too_few_positions_is_left_out(data):
    mask = data.masks["object"]
    rare = (mask == 2) & (np.arange(len(mask)) > 1)[:, None, None]
    data.masks["object"] = np.where(rare, 0, mask)
    supervised = supervised_pairs(data, own)
    assert supervised.left_out == (("object", "tree"),)
    np.testing.assert_array_equal(supervised.labels, [0, 2, 3, 4])
    assert supervised.index("object", "sun") == 1
    with pytest.raises(ValueError, match="too few positions"):
        supervised.index("object", "tree")
    with pytest.raises(ValueError, match="no such concept"):
        supervised.index("object", "moon")


def test_a_constant_channel_has_no_weight(data):
    data.activations[..., 3] = 2.0
    supervised = supervised_pairs(data, own)
    np.testing.assert_allclose(supervised.pairs.filters[:, 3], 0.0, atol=1e-12)
    assert isinstance(supervised, SupervisedPairs)


# ------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"coverage": 0.0}, "coverage must be a share"),
        ({"coverage": 1.1}, "coverage must be a share"),
        ({"regularisation": 0.0}, "regularisation must be positive"),
        ({"positions": 0}, "positions must be an integer"),
        ({"least": 0}, "least must be an integer"),
        ({"least": 100_000}, "no concept has 100000 positions"),
        ({"random_state": "a"}, "random_state must be"),
        ({"compute": None}, "give compute"),
        ({"shift": (1, 2, 3)}, "shift must be"),
        ({"activations": np.zeros((5, 4, 5, 12))}, "those of 60 images, not of 5"),
    ],
)
def test_invalid_arguments_are_refused(data, wrong, words):
    with pytest.raises(ValueError, match=words):
        supervised_pairs(data, **{"compute": own} | wrong)
