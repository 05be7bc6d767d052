"""One pass over images: each image goes through the network once, and figures are plain counts."""

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
    """``case(network)`` → concepts at its layer, images."""

    def get(network):
        split = SplitModel.of(halves(network))
        layer = ConceptLayer.of(make_pairs(split[0].output_shape[-1], CONCEPTS), split)
        return layer, make_images(IMAGES, NETWORKS[network][1], 3)

    return get


@pytest.mark.parametrize("network", ["conv_gap", "conv_flatten", "class_token", "vectors", "tall"])
def test_a_scan_holds_what_the_concepts_read_in_each_image(case, network):
    layer, images = case(network)
    seen = scan(layer, images, batch_size=4, verbose=0)
    x = layer.activations(images)
    u, shown = layer.read(x)
    everything = np.arange(IMAGES)
    np.testing.assert_allclose(seen.activations(everything), x, atol=1e-5)
    np.testing.assert_allclose(seen.features(everything), layer.head.pool(x), atol=1e-5)
    np.testing.assert_allclose(seen.coefficients(everything), layer.head.pool(u), atol=1e-4)
    np.testing.assert_allclose(seen.logits, layer.head.logits(x), atol=1e-4)
    np.testing.assert_array_equal(seen.class_ids, seen.logits.argmax(axis=1))
    on = (shown > 0).reshape(IMAGES, -1, CONCEPTS)
    np.testing.assert_allclose(seen.detected, on.mean(axis=1), atol=1e-6)
    y = layer.detections(x.reshape(-1, x.shape[-1]))
    flat = on.reshape(-1, CONCEPTS)
    for i in range(CONCEPTS):
        np.testing.assert_array_equal(seen.histogram[i], np.histogram(y[:, i], BINS, (0, 1))[0])
        for j in range(CONCEPTS):
            both, either = (flat[:, i] & flat[:, j]).sum(), (flat[:, i] | flat[:, j]).sum()
            assert seen.overlaps[i, j] == pytest.approx(both / either if either else 0.0)


def test_crops_are_the_best_of_different_images(case):
    layer, images = case("tall")
    seen = scan(layer, images, batch_size=3, verbose=0)
    shape = images.shape[1:]
    assert seen.patch == -(-3 * min(shape[:2]) // 10)  # 0.3 of the shorter side, rounded up
    shown = layer.shown(layer.activations(images))
    values = crop_coefficients(concept_maps(shown, shape), shape, seen.patch)
    values = values.reshape(IMAGES, -1, CONCEPTS)
    for i in range(CONCEPTS):
        best = values[..., i].max(axis=1)
        order = np.argsort(-best, kind="stable")[:3]
        order = order[best[order] > 0]
        np.testing.assert_array_equal(seen.best_images(i, 3), order)
        for crop, n in zip(seen.crops(i, 3), order, strict=True):
            expected = crop_at(images[n], int(values[n, :, i].argmax()), seen.patch)
            np.testing.assert_allclose(crop, 255 * expected, atol=0.51)
            top, left, bottom, right = np.array(seen.crop_box(n, i)) * [*shape[:2], *shape[:2]]
            part = images[n, round(top) : round(bottom), round(left) : round(right)]
            np.testing.assert_array_equal(part, expected)
    among = np.array([4, 7])
    assert set(seen.best_images(0, 5, among)) <= {4, 7}


@pytest.mark.parametrize("network", ["conv_gap", "conv_flatten"])
def test_each_image_passes_once_and_beyond_the_memory_again_only_where_it_is_needed(case, network):
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


def test_labels_are_classes_or_one_hot_rows(case):
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


def stream(rng, batches):
    index = np.arange(240).reshape(-1, 2, 3)
    parts = np.array_split(index, batches)
    return [(part[..., None] * np.ones(2), (part[..., None] % [2, 3]) == 0) for part in parts]


def test_a_sample_of_positions_keeps_features_and_detections_together_however_they_come(rng):
    x, y = sample_positions(stream(rng, 5), 50, random_state=3)
    assert x.shape == (50, 2) and y.shape == (50, 2) and len(np.unique(x[:, 0])) == 50
    np.testing.assert_array_equal(y, (x[:, :1] % [2, 3]) == 0)
    again = sample_positions(iter(stream(rng, 11)), 50, random_state=3)
    np.testing.assert_array_equal(again[0], x)


def test_every_position_is_as_likely_to_be_kept(rng):
    counts = np.zeros(240)
    for seed in range(300):
        counts[sample_positions(stream(rng, 4), 60, seed)[0][:, 0].astype(int)] += 1
    spread = np.sqrt(300 * 0.25 * 0.75)
    assert np.abs(counts - 75).max() < 4.5 * spread
    quarters = counts.reshape(4, -1).mean(axis=1)  # neither the first nor the last batch
    assert np.abs(quarters - 75).max() < 4


def test_a_stream_with_fewer_positions_is_kept_whole(rng):
    x, _ = sample_positions(stream(rng, 3), 10_000)
    np.testing.assert_array_equal(x[:, 0], np.arange(240))
