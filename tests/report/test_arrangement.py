"""Images are arranged by what made their logits, and concepts point to classes by their weights."""

import numpy as np
import pytest
from conftest import NETWORKS, make_images, make_pairs
from sklearn.neighbors import NearestNeighbors

from xplique_dirpairs.explanations.model import explain_scan
from xplique_dirpairs.extractors.concept_layer import ConceptLayer
from xplique_dirpairs.extractors.scan import scan
from xplique_dirpairs.models.split import SplitModel
from xplique_dirpairs.pairs import DirectionPairs
from xplique_dirpairs.report.arrangement import arranged, arranged_by_class, pointed_classes

IMAGES = 9


def planted(groups, count, seed, concepts=20):
    """Return contributions to each of which one concept, that of its group, adds 3 logits."""
    rng = np.random.default_rng(seed)
    group = np.arange(count) % groups
    values = rng.normal(0, 0.5, (count, concepts))
    values[np.arange(count), group] += 3
    return values, group


def purity(places, group, neighbours=5):
    """Return the share of the nearest neighbours of all points that are of the point's group."""
    search = NearestNeighbors(n_neighbors=neighbours + 1).fit(places)
    nearest = search.kneighbors(places, return_distance=False)[:, 1:]
    return (group[nearest] == group[:, None]).mean()


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(("groups", "count"), [(2, 24), (2, 80), (6, 90)])
def test_images_of_one_concept_are_neighbours(groups, count, seed):
    values, group = planted(groups, count, seed)
    places = arranged(values, seed)
    assert places.min() == 0 and places.max() == 1
    assert purity(places, group) >= 0.95
    assert purity(places, np.random.default_rng(seed).permutation(group)) < 0.8


def test_the_same_seed_gives_the_same_places():
    values, _ = planted(2, 20, 0)
    np.testing.assert_array_equal(arranged(values, 3), arranged(values, 3))


def test_each_class_is_arranged_on_its_own_unless_it_has_too_few_images():
    values, _ = planted(2, 30, 0)
    classes = np.repeat([7, 2, 5], [12, 4, 14])
    places = arranged_by_class(values, classes)
    np.testing.assert_array_equal(places[:12], arranged(values[:12]))
    assert np.isnan(places[12:16]).all() and np.isfinite(places[16:]).all()


@pytest.mark.parametrize("values", [np.ones((6, 3)), np.full((6, 3), np.nan), np.eye(6)[:, :1]])
def test_equal_and_missing_contributions_have_places(values):
    places = arranged(values)
    assert places.shape == (6, 2) and np.isfinite(places).all()


def scanned(halves, network, signals=None):
    split = SplitModel.of(halves(network))
    pairs = make_pairs(split[0].output_shape[-1], 3)
    if signals is not None:
        rows = split.head.class_rows
        pairs = DirectionPairs(
            pairs.filters, pairs.biases, signals(rows), pairs.mean, pairs.absent_levels
        )
    images = make_images(IMAGES, NETWORKS[network][1], 3)
    seen = scan(ConceptLayer.of(pairs, split), images, np.arange(IMAGES) % 3, verbose=0)
    return seen, explain_scan(seen, verbose=0)


def test_a_direction_equal_to_the_centred_weights_of_a_class_points_to_it_at_100_percent(halves):
    seen, explanation = scanned(halves, "conv_gap", lambda rows: (rows - rows.mean(axis=0))[:3])
    classes, values, values_of = pointed_classes(seen, explanation)
    assert values_of == "cosine" and classes.shape == values.shape
    np.testing.assert_array_equal(classes[:, 0], [0, 1, 2])
    np.testing.assert_allclose(values[:, 0], 1, atol=1e-5)
    assert (np.diff(values, axis=1) <= 0).all()


def test_classes_are_ranked_by_the_unit_effect_where_the_head_is_not_linear(halves):
    seen, explanation = scanned(halves, "conv_flatten")
    classes, values, values_of = pointed_classes(seen, explanation)
    assert values_of == "unit effect"
    effects = explanation.influence.unit_effects
    np.testing.assert_array_equal(classes[:, 0], explanation.class_ids[effects.argmax(axis=1)])
    np.testing.assert_allclose(values, -np.sort(-effects, axis=1)[:, :5])
