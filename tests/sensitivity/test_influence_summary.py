"""Counts of significant influences and S³ equal plain loops, and are right in extreme cases."""

import numpy as np
import pytest

from xplique_dirpairs.sensitivity.influence_summary import (
    InfluenceSummary,
    s3,
    summarise_influence,
)


@pytest.fixture(params=range(3))
def rng(request):
    return np.random.default_rng(request.param)


def slow_summary(scores, significant):
    """Return the counts of an `InfluenceSummary`: reference implementation."""
    concepts, all_classes = scores.shape
    classes = [k for k in range(all_classes) if not np.isnan(scores[0, k])]
    entries = {(i, k): scores[i, k] for i in range(concepts) for k in classes if significant[i, k]}

    def pairs_with_sign(sign):
        return {pair for pair, score in entries.items() if sign * score > 0}

    def most_classes(pairs):
        return max([sum(i == j for i, _ in pairs) for j in range(concepts)])

    helps, hurts = pairs_with_sign(1), pairs_with_sign(-1)
    return InfluenceSummary(
        len({i for i, _ in entries}), len(entries),
        len({i for i, _ in helps}), len({i for i, _ in hurts}),
        len(helps) / len(classes), len(hurts) / len(classes),
        most_classes(helps), most_classes(hurts),
        len({k for _, k in helps}), len({k for _, k in hurts}),
    )  # fmt: skip


def test_the_summary_equals_plain_loops(rng):
    scores = rng.choice([-1.0, -0.5, 0.0, 0.5, 1.0], (7, 5))
    scores[:, 2] = np.nan
    significant = rng.random((7, 5)) < 0.4
    assert summarise_influence(scores, significant) == slow_summary(scores, significant)


def test_counts_are_zero_if_nothing_is_significant_and_largest_if_everything_is():
    scores = np.ones((4, 3))
    assert summarise_influence(scores, scores < 0) == InfluenceSummary(*[0] * 10)
    assert summarise_influence(scores, scores > 0) == (4, 12, 4, 0, 4.0, 0.0, 3, 0, 3, 0)
    assert summarise_influence(-scores, scores > 0) == (4, 12, 0, 4, 0.0, 4.0, 0, 3, 0, 3)


def test_averages_over_classes_are_nan_if_no_class_has_images():
    summary = summarise_influence(np.full((2, 3), np.nan), np.zeros((2, 3), bool))
    assert summary.sdc == 0 and np.isnan(summary.positive_per_class)


def slow_s3(scores, labels, reference, level):
    """Return S³: reference implementation, label by label and class by class."""
    below = []
    for label in range(len(reference)):
        of_label = [j for j, own in enumerate(labels) if own == label]
        for k in range(scores.shape[1]):
            if not of_label or np.isnan(scores[0, k]) or np.isnan(reference[label, k]):
                continue
            stronger = sum(abs(scores[j, k]) >= abs(reference[label, k]) for j in of_label)
            below.append(stronger / len(of_label) < level / len(of_label))
    return sum(below) / len(below)


def test_s3_equals_plain_loops(rng):
    scores, reference = rng.integers(-3, 4, (9, 6)) / 3, rng.integers(-3, 4, (5, 6)) / 3
    scores[:, 1] = np.nan
    reference[2] = np.nan
    labels = rng.integers(-1, 4, 9)
    wanted = slow_s3(scores, labels, reference, 0.05)
    assert s3(scores, labels, reference) == pytest.approx(wanted)
    order = rng.permutation(9)
    assert s3(scores[order], labels[order], reference) == pytest.approx(wanted)
    assert 0 < wanted < 1


def test_s3_is_zero_if_signal_vectors_are_stronger_and_one_if_pattern_cavs_are():
    labels = [0, 1, 1]
    strong, weak = np.full((3, 4), -1.0), np.full((3, 4), 0.5)
    assert s3(strong, labels, weak[:2]) == 0.0
    assert s3(weak, labels, strong[:2]) == 1.0
    assert s3(weak, labels, weak[:2]) == 0.0  # ties count for the signal vectors
    weak_but_one = weak.copy()
    weak_but_one[1] = 1.0  # one strong direction of the label is enough
    assert s3(weak_but_one, [0, 0, 0], strong[:1]) == 0.0


def test_s3_does_not_count_labels_without_directions():
    strong_without_directions = np.array([[0.0] * 3, [2.0] * 3])
    assert s3(np.ones((2, 3)), [0, -1], strong_without_directions) == 0.0
    assert s3(np.ones((2, 3)), [0, 1], strong_without_directions) == 0.5
    assert np.isnan(s3(np.ones((2, 3)), [-1, -1], np.zeros((2, 3))))


def test_invalid_shapes_labels_and_levels_are_refused():
    with pytest.raises(ValueError, match="must have the shape of the scores"):
        summarise_influence(np.ones((2, 3)), np.ones((3, 2), bool))
    with pytest.raises(ValueError, match="same classes"):
        s3(np.ones((2, 3)), [0, 0], np.ones((1, 2)))
    with pytest.raises(ValueError, match="rows of reference, 0 to 0"):
        s3(np.ones((2, 3)), [0, 1], np.ones((1, 3)))
    with pytest.raises(ValueError, match="integer for each of 2 directions"):
        s3(np.ones((2, 3)), [0.0, 1.0], np.ones((1, 3)))
    with pytest.raises(ValueError, match="level"):
        s3(np.ones((2, 3)), [0, 0], np.ones((1, 3)), level=0)
