"""A scan passes each image through the network once and agrees with directly computed counts."""

import numpy as np
import pytest
from conftest import NETWORKS, make_images, make_pairs
from counted import counted

from xplique_dirpairs.data.images import concept_maps, crop_at, crop_coefficients
from xplique_dirpairs.extractors.concept_layer import ConceptLayer
from xplique_dirpairs.extractors.scan import BINS, sample_positions, scan
from xplique_dirpairs.models.split import SplitModel

IMAGES, CONCEPTS = 10, 4


@pytest.fixture(scope="module")
def case(halves):
    """Function that returns concepts and images for the name of a network."""

    def get(network):
        split = SplitModel.of(halves(network))
        layer = ConceptLayer.of(make_pairs(split[0].output_shape[-1], CONCEPTS), split)
        return layer, make_images(IMAGES, NETWORKS[network][1], 3)

    return get


@pytest.mark.parametrize("network", ["conv_gap", "conv_flatten", "class_token", "vectors", "tall"])
def test_a_scan_holds_activations_logits_and_detections_of_each_image(case, network):
    layer, images = case(network)
    scanned = scan(layer, images, batch_size=4, verbose=0)
    x = layer.activations(images)
    u, shown = layer.read(x)
    all_images = np.arange(IMAGES)
    np.testing.assert_allclose(scanned.activations(all_images), x, atol=1e-5)
    np.testing.assert_allclose(scanned.features(all_images), layer.head.pool(x), atol=1e-5)
    np.testing.assert_allclose(scanned.coefficients(all_images), layer.head.pool(u), atol=1e-4)
    np.testing.assert_allclose(scanned.logits, layer.head.logits(x), atol=1e-4)
    np.testing.assert_array_equal(scanned.class_ids, scanned.logits.argmax(axis=1))
    on = (shown > 0).reshape(IMAGES, -1, CONCEPTS)
    np.testing.assert_allclose(scanned.detected, on.mean(axis=1), atol=1e-6)
    y = layer.detections(x.reshape(-1, x.shape[-1]))
    flat = on.reshape(-1, CONCEPTS)
    for i in range(CONCEPTS):
        np.testing.assert_array_equal(scanned.histogram[i], np.histogram(y[:, i], BINS, (0, 1))[0])
        for j in range(CONCEPTS):
            both, either = (flat[:, i] & flat[:, j]).sum(), (flat[:, i] | flat[:, j]).sum()
            assert scanned.overlaps[i, j] == pytest.approx(both / either if either else 0.0)


def test_crops_are_the_best_ones_with_at_most_one_per_image(case):
    layer, images = case("tall")
    scanned = scan(layer, images, batch_size=3, verbose=0)
    shape = images.shape[1:]
    assert scanned.patch == -(-3 * min(shape[:2]) // 10)  # 0.3 of the shorter side, rounded up
    shown = layer.shown(layer.activations(images))
    values = crop_coefficients(concept_maps(shown, shape), shape, scanned.patch)
    values = values.reshape(IMAGES, -1, CONCEPTS)
    for i in range(CONCEPTS):
        best = values[..., i].max(axis=1)
        order = np.argsort(-best, kind="stable")[:3]
        order = order[best[order] > 0]
        np.testing.assert_array_equal(scanned.best_images(i, 3), order)
        for crop, n in zip(scanned.crops(i, 3), order, strict=True):
            expected = crop_at(images[n], int(values[n, :, i].argmax()), scanned.patch)
            np.testing.assert_allclose(crop, 255 * expected, atol=0.51)
            top, left, bottom, right = np.array(scanned.crop_box(n, i)) * [*shape[:2], *shape[:2]]
            part = images[n, round(top) : round(bottom), round(left) : round(right)]
            np.testing.assert_array_equal(part, expected)
    among = np.array([4, 7])
    assert set(scanned.best_images(0, 5, among)) <= {4, 7}


@pytest.mark.parametrize("network", ["conv_gap", "conv_flatten"])
def test_images_pass_the_network_once_and_those_beyond_the_memory_again_when_needed(case, network):
    layer, images = case(network)
    split, counts = counted(layer.split)
    layer = ConceptLayer.of(layer.pairs, split)
    scanned = scan(layer, images, batch_size=4, verbose=0)
    scanned.activations(np.arange(IMAGES))
    assert set(counts.values()) == {1} and len(counts) == IMAGES
    counts.clear()
    size = scanned.activations(np.array([0])).nbytes
    second = scan(layer, images, batch_size=4, memory=6 * size, verbose=0)
    for indices in ([2, 5], [9, 1, 7], [7, 9]):
        expected = scanned.activations(np.array(indices))
        np.testing.assert_allclose(second.activations(np.array(indices)), expected, atol=1e-6)
    times = [counts[image.tobytes()] for image in images]
    assert times == [1, 1, 1, 1, 1, 1, 1, 2, 1, 2]


def test_labels_may_be_classes_or_one_hot_rows(case):
    layer, images = case("conv_gap")
    labels = np.arange(IMAGES) % 3
    for given in (labels, np.eye(3)[labels]):
        np.testing.assert_array_equal(scan(layer, images, given, verbose=0).class_ids, labels)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"labels": [0]}, "labels must be one for each of 10"),
        ({"batch_size": 0}, "batch_size"),
        ({"memory": -1}, "memory"),
        ({"patch_size": 0}, "patch_size"),
    ],
)
def test_invalid_arguments_are_refused(case, changed, message):
    layer, images = case("conv_gap")
    with pytest.raises(ValueError, match=message):
        scan(layer, **{"images": images, "verbose": 0} | changed)


# ------------------------------------------------------------------ a sample of positions


def stream(batches):
    """Return features and detections of 240 numbered positions, in batches."""
    index = np.arange(240).reshape(-1, 2, 3)
    parts = np.array_split(index, batches)
    return [(part[..., None] * np.ones(2), (part[..., None] % [2, 3]) == 0) for part in parts]


def test_a_sample_of_positions_does_not_depend_on_the_batches():
    x, y = sample_positions(stream(5), 50, random_state=3)
    assert x.shape == (50, 2) and y.shape == (50, 2) and len(np.unique(x[:, 0])) == 50
    np.testing.assert_array_equal(y, (x[:, :1] % [2, 3]) == 0)
    again = sample_positions(iter(stream(11)), 50, random_state=3)
    np.testing.assert_array_equal(again[0], x)


def test_every_position_has_the_same_probability_of_being_sampled():
    counts = np.zeros(240)
    for seed in range(300):
        counts[sample_positions(stream(4), 60, seed)[0][:, 0].astype(int)] += 1
    spread = np.sqrt(300 * 0.25 * 0.75)
    assert np.abs(counts - 75).max() < 4.5 * spread
    quarters = counts.reshape(4, -1).mean(axis=1)  # early and late batches are sampled alike
    assert np.abs(quarters - 75).max() < 4


def test_all_positions_of_a_short_stream_are_sampled():
    x, _ = sample_positions(stream(3), 10_000)
    np.testing.assert_array_equal(x[:, 0], np.arange(240))
