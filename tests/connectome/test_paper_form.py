from dataclasses import replace

import keras
import matplotlib.pyplot as plt
import numpy as np
import pytest
from scipy import stats

from xplique_dirpairs.connectome.build import build_connectome
from xplique_dirpairs.connectome.diagnose import diagnose_prediction
from xplique_dirpairs.connectome.divide import divide_images
from xplique_dirpairs.connectome.itcav import itcav, paired_p_values
from xplique_dirpairs.connectome.result import Connectome
from xplique_dirpairs.connectome.segment_concepts import (
    is_common,
    least_size,
    segment_concepts,
)
from xplique_dirpairs.extractors.concept_layer import ConceptLayer
from xplique_dirpairs.models.split import split_model

layers = keras.layers
SIDE = 32


def colours(halves, rng):
    """Draw images whose left and right halves have the given colours (red, green or blue)."""
    images = np.full((len(halves), SIDE, SIDE, 3), 0.1, np.float32)
    for image, (left, right) in zip(images, halves, strict=True):
        image[:, : SIDE // 2, left] = 0.9
        image[:, SIDE // 2 :, right] = 0.9
    return np.clip(images + 0.01 * rng.standard_normal(images.shape), 0, 1).astype(np.float32)


@pytest.fixture(scope="module")
def network():
    """A network that passes colours on; class 0 is red, class 1 green, class 2 blue."""
    inputs = keras.Input((SIDE, SIDE, 3))
    x = layers.AveragePooling2D(4, name="first")(inputs)
    x = layers.Conv2D(3, 1, use_bias=False, activation="relu", name="second")(x)
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, layers.Dense(3, use_bias=False, name="logits")(x))
    model.get_layer("second").set_weights([np.eye(3)[None, None]])
    model.get_layer("logits").set_weights([4 * np.eye(3)])
    return model


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    halves = [(k % 3, (k + 1 + k // 3 % 2) % 3) for k in range(24)]
    return colours(halves, rng)


@pytest.fixture(scope="module")
def segments(network, images):
    return divide_images(network, ["first", "second"], images, cell=4, verbose=0)


@pytest.fixture(scope="module")
def concepts(network, segments):
    return segment_concepts(network, segments, number_of_concepts=3, prune=False, verbose=0)


def test_top_segments_are_the_two_textures(segments):
    for labels in segments.labels[-1]:
        left = labels == labels[0, 0]
        truth = np.zeros(left.shape, bool)
        truth[:, : left.shape[1] // 2] = True
        assert (left & truth).sum() / (left | truth).sum() >= 0.9


def test_children_fill_their_parents_and_cells_have_one_segment(segments):
    children, top = segments.labels
    for n in range(len(children)):
        parents = segments.parents[0][n]
        np.testing.assert_array_equal(parents[children[n]], top[n])
        assert set(np.unique(children[n])) == set(range(len(parents)))
        assert (segments.parents[1][n] == -1).all()


def test_small_segments_are_dropped(network, images):
    coarse = divide_images(network, ["second"], images[:4], cell=4, least=0.6, verbose=0)
    assert all((own == -1).any() or len(np.unique(own)) == 1 for own in coarse.labels[0])


def test_pictures_of_segments_are_enlarged_and_grey_outside(segments, images):
    member = np.array([[0, int(segments.labels[1][0][0, 0])]])
    picture = segments.pictures(1, member)[0]
    assert picture.shape == images.shape[1:]
    np.testing.assert_allclose(
        picture.mean(axis=(0, 1)), images[0, :, : SIDE // 2].mean(axis=(0, 1)), atol=0.02
    )


def test_same_seed_gives_the_same_segments(network, images, segments):
    again = divide_images(network, ["first", "second"], images, cell=4, verbose=0, batch_size=5)
    for ours, theirs in zip(again.labels, segments.labels, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_least_size_of_a_cluster():
    sizes = [least_size(n) for n in (100, 500, 1000, 2000)]
    np.testing.assert_allclose(sizes, [8.7, 17.3, 28, 48], atol=0.7)


def test_common_clusters_come_from_several_images():
    assert not is_common(40, 1, 50)
    assert is_common(40, 21, 50)
    assert is_common(40, 13, 50)
    assert not is_common(40, 12, 50)
    assert is_common(201, 1, 50)
    assert is_common(200, 26, 50)


def test_clusters_of_segments_are_the_colours(concepts):
    for found in concepts.values():
        centres = found.centres - 0.1
        assert sorted(centres.argmax(axis=1)) == [0, 1, 2]
        np.testing.assert_allclose(centres.max(axis=1), 0.8, atol=0.05)
        assert ConceptLayer.of(found.layer).number_of_concepts == 3
        np.testing.assert_allclose(
            found.layer.bank + found.layer.constant, found.centres, atol=1e-5
        )


def test_pruning_can_leave_nothing(network, segments):
    with pytest.raises(ValueError, match=r"no cluster .* large and common"):
        segment_concepts(network, segments, number_of_concepts=24, verbose=0)


def test_edges_of_the_published_form_follow_the_colours(concepts):
    random_images = np.random.default_rng(1).random((30, SIDE, SIDE, 3), np.float32)
    found = itcav(concepts, random_images, random_sets=4, class_ids=[0, 1, 2], verbose=0)
    order = [one.centres.argmax(axis=1) for one in concepts.values()]
    scores = found.class_scores[np.argsort(order[1])]
    assert (np.diag(scores) > 0).all()
    assert found.scores[0].shape == (3, 3)
    assert np.abs(found.scores[0]).max() <= 1
    assert np.isnan(found.edges[0].contributions).all()
    np.testing.assert_array_equal(found.kept[0], found.p_values[0] <= 0.05)


def test_paired_test_without_variation():
    shares = np.stack([np.full((3, 2), 0.5), np.full((3, 2), 0.8)])
    np.testing.assert_array_equal(paired_p_values(shares, np.full((3, 2), 0.5)), [[1, 1], [0, 0]])


def test_rounding_is_no_variation():
    of_random = np.array([[0.1], [0.2], [0.4]])
    shares = np.stack([of_random + 0.2, of_random + 1e-16])
    np.testing.assert_array_equal(paired_p_values(shares, of_random), [[0], [1]])


def test_paired_test_is_that_of_a_slow_second_writing():
    rng = np.random.default_rng(0)
    shares, of_random = rng.random((4, 6, 3)), rng.random((6, 3))
    found = paired_p_values(shares, of_random)
    for c, q in np.ndindex(4, 3):
        difference = shares[c, :, q] - of_random[:, q]
        t = difference.mean() / (difference.std(ddof=1) / np.sqrt(6))
        assert found[c, q] == pytest.approx(2 * stats.t.sf(abs(t), df=5))


def test_halves_of_an_image_go_to_their_classes(network):
    rng = np.random.default_rng(2)
    red, green = (colours([(k, k)] * 6, rng) for k in (0, 1))
    graphs = {}
    for name, own in (("red", red), ("green", green)):
        graphs[name] = itcav(
            segment_concepts(
                network,
                divide_images(network, ["first", "second"], own, cell=4, verbose=0),
                number_of_concepts=1, prune=False, verbose=0,
            ),
            rng.random((20, SIDE, SIDE, 3), np.float32), random_sets=2, verbose=0,
        )  # fmt: skip
    image = colours([(0, 1)], rng)
    for features in ("cells", "crops"):
        found = diagnose_prediction(graphs, image[0], features=features, cell=4)
        np.testing.assert_allclose(found.shares, 0.5, atol=0.1)
        for one in found.matches:
            cells = found.segments.labels[one.layer][0] == one.number
            is_left = np.nonzero(cells)[1].mean() < cells.shape[1] / 2
            assert one.class_index == (0 if is_left else 1)
    assert found.first_layer("red") in (None, "first", "second")
    assert found.table().rows
    figure = found.plot()
    assert [ax.get_title() for ax in figure.axes] == ["image", "first", "second"]
    plt.close(figure)


def test_distances_of_segments_are_those_of_a_slow_second_writing(network, images):
    made = build_connectome(network, {"second": 2}, images, verbose=0)
    other = build_connectome(network, {"second": 3}, images, verbose=0)
    found = diagnose_prediction({"a": made, "b": other}, images[5], cell=4)
    x = np.asarray(split_model(network, "second").input_to_latent_model(images[5:6]))[0]
    for one in found.matches:
        inside = found.segments.labels[0][0] == one.number  # a cell is a position here
        assert one.area == pytest.approx(inside.mean())
        own = np.mean([x[i, j] for i, j in np.argwhere(inside)], axis=0)
        distances = [
            [np.sqrt(((own - centre) ** 2).sum()) for centre in graph.layers[0].centres]
            for graph in (made, other)
        ]
        nearest = [min(rows) for rows in distances]
        np.testing.assert_allclose(one.distances, nearest, rtol=1e-4, atol=1e-5)
        assert one.class_index == int(np.argmin(nearest))
        assert one.concept == int(np.argmin(distances[one.class_index]))


def test_loaded_connectomes_are_diagnosed_with_their_network(network, images, tmp_path):
    made = build_connectome(network, {"second": 2}, images, verbose=0)
    made.save(tmp_path / "made.npz")
    loaded = Connectome.load(tmp_path / "made.npz")
    graphs = {"a": loaded, "b": loaded}
    with pytest.raises(ValueError, match="network is needed"):
        diagnose_prediction(graphs, images[0], cell=4)
    found = diagnose_prediction(graphs, images[0], cell=4, model=network)
    expected = diagnose_prediction({"a": made, "b": made}, images[0], cell=4)
    np.testing.assert_array_equal(found.shares, expected.shares)


def test_connectomes_of_direction_pairs_can_be_diagnosed(network, images):
    pairs = build_connectome(network, {"second": 2}, images, verbose=0)
    found = diagnose_prediction({"a": pairs, "b": pairs}, images[0], cell=4)
    assert all(one.class_index == 0 for one in found.matches)
    assert found.first_layer("a") == "second"
    assert found.first_layer("b") is None


def test_no_part_of_an_image_goes_to_a_concept_that_no_image_shows(network, images):
    made = build_connectome(network, {"second": 2}, images, verbose=0)
    own = made.layers[0]
    unshown = replace(own, centres=np.full_like(own.centres, np.nan))
    partly = replace(own, centres=np.where([[True], [False]], np.nan, own.centres))
    graphs = {"unshown": replace(made, layers=(unshown,)), "shown": replace(made, layers=(partly,))}
    found = diagnose_prediction(graphs, np.zeros_like(images[0]), cell=4)
    assert {(one.class_index, one.concept) for one in found.matches} == {(1, 1)}
    nothing = diagnose_prediction(
        {"a": graphs["unshown"], "b": graphs["unshown"]}, images[0], cell=4
    )
    assert not nothing.matches and not nothing.shares.any()


def test_bad_arguments_are_refused(network, images, concepts):
    with pytest.raises(ValueError, match="cell must be at most half"):
        divide_images(network, ["second"], images, cell=32)
    with pytest.raises(ValueError, match="at least one layer"):
        divide_images(network, [], images)
    with pytest.raises(ValueError, match="'second' does not come before 'first'"):
        divide_images(network, ["second", "first"], images)
    with pytest.raises(TypeError, match="Segments"):
        segment_concepts(network, images)
    with pytest.raises(ValueError, match="at least one layer"):
        itcav({}, images)
    with pytest.raises(ValueError, match="random_sets"):
        itcav(concepts, images, random_sets=1)
    with pytest.raises(ValueError, match="random_images must be at least 2"):
        itcav(concepts, images[:1])
    with pytest.raises(ValueError, match="different indices of the 3 classes"):
        itcav(concepts, images, class_ids=[3], verbose=0)
    with pytest.raises(TypeError, match="concepts must be a dict of SegmentConcepts"):
        itcav(images, images)
    with pytest.raises(ValueError, match="at least two classes"):
        diagnose_prediction({}, images[0])
    for wrong in ([1, 2], {"a": 1, "b": 2}):
        with pytest.raises(TypeError, match="connectome"):
            diagnose_prediction(wrong, images[0])
