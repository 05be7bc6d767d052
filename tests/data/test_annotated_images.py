import dataclasses

import numpy as np
import pytest
from annotated_masks import mask_of

from xplique_dirpairs.data.annotated_images import (
    AnnotatedImages,
    AnnotatedStream,
    flat_concepts,
)

CONCEPTS = {"object": ("house", "tree"), "colour": ("red", "green", "blue")}


@pytest.fixture
def annotated(rng):
    masks = {name: rng.integers(0, len(c) + 1, (10, 4, 5)) for name, c in CONCEPTS.items()}
    masks["object"][:4][masks["object"][:4] == 2] = 0
    images = np.arange(10 * 4 * 5 * 3, dtype=np.float32).reshape(10, 4, 5, 3)
    return AnnotatedImages(images, masks, CONCEPTS, np.arange(10) % 3, ("a", "b", "c"))


def test_concepts_are_listed_category_by_category():
    flat = [("object", "house"), ("object", "tree")]
    flat += [("colour", name) for name in ("red", "green", "blue")]
    assert flat_concepts(CONCEPTS) == flat


@pytest.mark.parametrize("size", [1, 3, 10, 64])
def test_batches_contain_all_images_in_order(annotated, size):
    batches = list(annotated.batches(size))
    assert max(len(images) for images, _ in batches) <= size
    np.testing.assert_array_equal(
        np.concatenate([images for images, _ in batches]), annotated.images
    )
    for category, mask in annotated.masks.items():
        parts = [masks[category] for _, masks in batches]
        np.testing.assert_array_equal(np.concatenate(parts), mask)


def test_a_subset_keeps_images_masks_and_labels_together(annotated):
    for which in ([7, 2], np.isin(np.arange(10), [2, 7])):
        part = annotated.subset(which)
        numbers = np.flatnonzero(which) if np.asarray(which).dtype == bool else which
        np.testing.assert_array_equal(part.images, annotated.images[numbers])
        np.testing.assert_array_equal(part.masks["object"], annotated.masks["object"][numbers])
        np.testing.assert_array_equal(part.labels, annotated.labels[numbers])
        assert part.concepts == annotated.concepts
        assert part.class_names == annotated.class_names
        assert not part.exhaustive
        assert dataclasses.replace(annotated, exhaustive=True).subset(which).exhaustive


def test_a_split_contains_every_image_once(annotated):
    first, second = annotated.split(0.3, random_state=1)
    assert (len(first), len(second)) == (3, 7)
    both = np.concatenate([first.images, second.images])[:, 0, 0, 0]
    np.testing.assert_array_equal(np.sort(both), annotated.images[:, 0, 0, 0])


def test_a_split_depends_on_the_seed(annotated):
    one, again, other = (annotated.split(random_state=seed)[0].images for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)


def test_a_split_keeps_groups_together(annotated):
    groups = np.array(list("abcdeedcba"))
    for seed in range(5):
        first, second = annotated.split(0.4, groups=groups, random_state=seed)
        number = {
            int(image[0, 0, 0]): group
            for image, group in zip(annotated.images, groups, strict=True)
        }
        sides = [{number[int(image[0, 0, 0])] for image in part.images} for part in (first, second)]
        assert not sides[0] & sides[1]
        assert (len(sides[0]), len(sides[1])) == (2, 3)


@pytest.mark.parametrize("background", [0, 7, None])
def test_a_single_mask_is_renumbered_in_the_order_of_names(rng, background):
    names = {7: "hat", 0: "skin", 200: "shoe", 3: "belt"}
    masks = rng.choice([0, 3, 7, 200], (6, 4, 4))
    annotated = AnnotatedImages.from_one_mask(
        np.zeros((6, 4, 4, 3), np.uint8), masks, names, category="cloth", background=background
    )
    listed = [name for number, name in names.items() if number != background]
    assert flat_concepts(annotated.concepts) == [("cloth", name) for name in listed]
    assert not annotated.exhaustive
    for number, name in names.items():
        if number == background:
            np.testing.assert_array_equal(annotated.masks["cloth"] == 0, masks == number)
        else:
            np.testing.assert_array_equal(mask_of(annotated, "cloth", name), masks == number)


def test_a_background_needs_no_name():
    masks = np.array([[[0, 4]]])
    annotated = AnnotatedImages.from_one_mask(np.zeros((1, 1, 2, 3)), masks, {4: "hat"})
    np.testing.assert_array_equal(annotated.masks["object"], [[[0, 1]]])


def test_a_stream_can_be_read_twice_with_the_same_result(annotated):
    stream = AnnotatedStream(annotated.batches, CONCEPTS)
    assert stream.concepts == annotated.concepts
    for _ in range(2):
        for batch, expected in zip(stream.batches(4), annotated.batches(4), strict=True):
            np.testing.assert_array_equal(batch[0], expected[0])
            np.testing.assert_array_equal(batch[1]["colour"], expected[1]["colour"])


def test_a_stream_reads_one_batch_at_a_time(annotated):
    read = []

    def batches(size):
        for k, batch in enumerate(annotated.batches(size)):
            read.append(k)
            yield batch

    iterator = AnnotatedStream(batches, CONCEPTS).batches(3)
    assert read == []
    next(iterator)
    assert read == [0]


def test_masks_of_one_concept_may_be_bool():
    mask = np.array([[[True, False]]])
    annotated = AnnotatedImages(np.zeros((1, 1, 2, 3)), {"sign": mask}, {"sign": ["mark"]})
    np.testing.assert_array_equal(mask_of(annotated, "sign", "mark"), mask)


IMAGES = np.zeros((2, 3, 3, 3), np.float32)
MASK = np.zeros((2, 3, 3), np.uint8)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"images": IMAGES[0]}, ValueError, r"images must be numbers .* not float32 \(3"),
        ({"images": IMAGES[:0]}, ValueError, r"there are no images: shape \(0, 3, 3, 3\)"),
        ({"images": IMAGES.astype(str)}, ValueError, "images must be numbers"),
        ({"masks": MASK}, TypeError, "masks must be a dict .* not ndarray: .*from_one_mask"),
        (
            {"masks": {"colour": MASK}},
            ValueError,
            r"categories \['obj.* not \['colour'\]",
        ),
        (
            {"masks": {"object": MASK[:, :2]}},
            ValueError,
            r"must have shape \(2, 3, 3\), not",
        ),
        ({"masks": {"object": MASK * 1.0}}, ValueError, "must be integers, not float64"),
        ({"masks": {"object": MASK + 3}}, ValueError, "from 3 to 3, but there are 2 names"),
        ({"masks": {"object": MASK - 1.0}}, ValueError, "must be integers"),
        ({"masks": {"object": MASK.astype(int) - 1}}, ValueError, "numbers from -1 to -1"),
        ({"concepts": ["house"]}, TypeError, "concepts must be a dict .* not list"),
        ({"concepts": {}}, ValueError, "at least one category"),
        ({"concepts": {"object": "house"}}, TypeError, r"concepts\['object'\] must be a list"),
        ({"concepts": {"object": ["a", "b", "a"]}}, ValueError, r"contains \['a'\] twice"),
        ({"concepts": {"object": []}}, ValueError, "is empty"),
        ({"labels": [0, 1, 2]}, ValueError, r"each of 2 images, .*not of shape \(3,\)"),
        ({"labels": [0.5, 1.0]}, ValueError, "labels must be integer class indices"),
        (
            {"labels": [0, -1]},
            ValueError,
            "labels must be class indices of at least 0, not -1",
        ),
        ({"labels": [0, 2]}, ValueError, "labels go up to 2, but there are 2 names"),
    ],
)
def test_invalid_arguments_are_refused(changed, error, message):
    arguments = {
        "images": IMAGES,
        "masks": {"object": MASK},
        "concepts": {"object": ["house", "tree"]},
        "labels": [0, 1],
        "class_names": ["a", "b"],
    }
    AnnotatedImages(**arguments)
    with pytest.raises(error, match=message):
        AnnotatedImages(**arguments | changed)


def test_invalid_single_masks_are_refused():
    with pytest.raises(TypeError, match=r"names must be a dict of number → name, not list"):
        AnnotatedImages.from_one_mask(IMAGES, MASK, ["hat"])
    with pytest.raises(ValueError, match=r"numbers without a name: \[5\]"):
        AnnotatedImages.from_one_mask(IMAGES, MASK + 5, {1: "hat"})
    with pytest.raises(ValueError, match="masks must be integers, not float64"):
        AnnotatedImages.from_one_mask(IMAGES, MASK * 1.0, {1: "hat"})


def test_invalid_arguments_of_methods_are_refused(annotated):
    with pytest.raises(ValueError, match="batch_size must be an integer of at least 1, not 0"):
        annotated.batches(0)
    for share in (0.0, 1.0, 0.01):
        with pytest.raises(ValueError, match="leaves one set empty"):
            annotated.split(share)
    with pytest.raises(ValueError, match=r"groups must have shape \(10,\), not \(3,\)"):
        annotated.split(groups=[1, 2, 3])
    with pytest.raises(ValueError, match="there are no images"):
        annotated.subset(np.zeros(10, bool))


def test_invalid_streams_are_refused(annotated):
    with pytest.raises(TypeError, match=r"make_batches must be a function .* not generator"):
        AnnotatedStream((batch for batch in annotated.batches(2)), CONCEPTS)
    other = AnnotatedStream(annotated.batches, {"object": ["house", "tree"]})
    with pytest.raises(ValueError, match="masks must have the categories"):
        next(other.batches(2))
    with pytest.raises(ValueError, match="batch_size"):
        other.batches(-1)
