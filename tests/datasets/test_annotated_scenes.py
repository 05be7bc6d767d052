import colorsys

import numpy as np
import pytest
from annotated_masks import mask_of

from xplique_dirpairs.data.annotated_images import flat_concepts
from xplique_dirpairs.datasets.annotated_scenes import (
    CLASS_NAMES,
    CLASSES,
    CONCEPTS,
    DISTRACTOR,
    DISTRACTOR_SHARE,
    annotated_scenes,
    draw_scene,
    scene_labels,
)
from xplique_dirpairs.datasets.scene_settings import LEAST_VISIBLE

OBJECTS = CONCEPTS["object"]
#: Part → the objects that have it.
WHOLES = {
    "roof": {"house"},
    "door": {"house"},
    "window": {"house", "car"},
    "chimney": {"house"},
    "crown": {"tree"},
    "trunk": {"tree"},
    "wheel": {"car"},
    "hull": {"boat"},
    "sail": {"boat"},
    "pole": {"boat", "parasol"},
    "blossom": {"flowers"},
    "table top": {"table"},
    "leg": {"table", "sofa"},
    "canopy": {"parasol"},
    "cushion": {"sofa"},
    "lampshade": {"lamp"},
}


@pytest.fixture(scope="module")
def scenes():
    return annotated_scenes(800, seed=5)


@pytest.fixture(scope="module")
def few():
    return annotated_scenes(64, seed=8)


def occurs(scenes, category, name):
    """Return whether a concept is in each image, (N,) bool."""
    return mask_of(scenes, category, name).any(axis=(1, 2))


def test_images_and_masks_have_the_documented_shapes_and_ranges(few):
    assert few.images.shape == (64, 64, 64, 3)
    assert few.images.dtype == np.float32
    assert few.images.min() >= 0.0
    assert few.images.max() <= 1.0
    assert np.ptp(few.images, axis=(1, 2, 3)).min() > 0.5
    assert list(few.masks) == ["object", "part", "texture", "colour"]
    assert few.class_names == CLASS_NAMES


def test_there_are_more_than_fifty_concepts_in_four_categories(few):
    assert len(flat_concepts(few.concepts)) == sum(map(len, CONCEPTS.values())) > 50
    assert min(map(len, CONCEPTS.values())) >= 10


def test_each_block_of_eight_images_has_one_of_each_class(scenes):
    for start in range(0, 800, 8):
        np.testing.assert_array_equal(np.sort(scenes.labels[start : start + 8]), np.arange(8))


# ------------------------------------------------------------------------------- exact masks


def test_leaving_out_an_object_changes_exactly_the_pixels_of_its_mask(few):
    for name in OBJECTS:
        rest = annotated_scenes(64, seed=8, without=[name])
        mask = mask_of(few, "object", name)
        changed = (rest.images != few.images).any(axis=-1)
        assert mask.any(), name
        assert not (changed & ~mask).any(), name
        # Two different whites may both be clipped to the same white.
        white = (few.images > 0.99).all(axis=-1) | (rest.images > 0.99).all(axis=-1)
        assert changed[mask & ~white].all(), name
        assert not mask_of(rest, "object", name).any()
        for category in CONCEPTS:
            outside = few.masks[category][~mask]
            np.testing.assert_array_equal(rest.masks[category][~mask], outside)


def test_leaving_out_a_part_changes_only_the_pixels_of_its_mask(few):
    for name in ("wheel", "canopy", "window"):
        rest = annotated_scenes(64, seed=8, without=[name])
        changed = (rest.images != few.images).any(axis=-1)
        assert changed.any()
        assert not (changed & ~mask_of(few, "part", name)).any()
        assert not mask_of(rest, "part", name).any()


def test_several_objects_can_be_left_out_together(few):
    both = annotated_scenes(64, seed=8, without=["house", "tree"])
    for name in ("house", "tree"):
        assert not mask_of(both, "object", name).any()
    untouched = ~(mask_of(few, "object", "house") | mask_of(few, "object", "tree"))
    np.testing.assert_array_equal(both.images[untouched], few.images[untouched])


def test_every_pixel_has_an_object_and_a_colour(scenes):
    assert scenes.masks["object"].min() > 0
    assert scenes.masks["colour"].min() > 0


def test_parts_lie_within_their_objects(scenes):
    assert set(WHOLES) == set(CONCEPTS["part"])
    for part, wholes in WHOLES.items():
        objects = np.unique(scenes.masks["object"][mask_of(scenes, "part", part)])
        assert {OBJECTS[number - 1] for number in objects} == wholes, part


def plausible_names(rgb):
    """Return plausible names of a colour, from its hue, saturation and value."""
    hue, saturation, value = colorsys.rgb_to_hsv(*rgb)
    hue *= 360
    grey = saturation < 0.22
    names = {
        "white": grey and value > 0.62,
        "grey": grey and 0.22 < value < 0.8,
        "black": value < 0.27,
        "red": saturation > 0.55 and (hue < 15 or hue > 340),
        "pink": value > 0.6 and saturation < 0.65 and (hue > 310 or hue < 12),
        "brown": value < 0.62 and 5 < hue < 45,
        "orange": value > 0.5 and 10 < hue < 42,
        "yellow": value > 0.45 and 40 < hue < 70,
        "green": 70 < hue < 160,
        "blue": 195 < hue < 250,
        "purple": 255 < hue < 305,
    }
    return {name for name, fits in names.items() if fits}


def test_pixels_have_the_colour_of_their_mask(scenes, rng):
    for colour in CONCEPTS["colour"]:
        pixels = scenes.images[mask_of(scenes, "colour", colour)]
        pixels = pixels[rng.permutation(len(pixels))[:2000]]
        right = np.mean([colour in plausible_names(pixel) for pixel in pixels])
        assert right > 0.93, (colour, right)


def test_textured_regions_vary_more_than_plain_ones(scenes):
    luminance = scenes.images @ np.array([0.299, 0.587, 0.114])
    texture = scenes.masks["texture"]
    where = [scenes.masks[name].astype(int) for name in ("object", "part", "texture")]
    near = np.stack([np.abs(np.diff(luminance, axis=axis))[:, :63, :63] for axis in (1, 2)])
    within = np.all(
        [np.diff(mask, axis=axis)[:, :63, :63] == 0 for mask in where for axis in (1, 2)], axis=0
    )
    steps = near.max(axis=0)
    plain = np.median(steps[within & (texture[:, :63, :63] == 0)])
    for number, name in enumerate(CONCEPTS["texture"], start=1):
        steps_within = steps[within & (texture[:, :63, :63] == number)]
        # The widest stripes change only at every fourth pixel.
        assert np.quantile(steps_within, 0.8) > 3 * plain, name


def test_a_chequered_floor_has_two_colours_in_equal_parts(scenes):
    floor = mask_of(scenes, "texture", "chequered") & mask_of(scenes, "object", "floor")
    shares = []
    for mask, colour in zip(floor, scenes.masks["colour"], strict=True):
        if mask.sum() > 400:
            counts = np.unique(colour[mask], return_counts=True)[1]
            assert len(counts) == 2
            shares.append(counts.min() / counts.sum())
    assert len(shares) > 20
    assert np.median(shares) > 0.45


# ------------------------------------------------------------------------ classes and concepts


def test_every_concept_is_in_some_but_not_all_images(scenes):
    for concept in flat_concepts(scenes.concepts):
        share = occurs(scenes, *concept).mean()
        assert 0.04 < share < 0.97, (concept, share)


def test_defining_things_are_in_all_images_of_the_class(scenes):
    for label, name in enumerate(CLASS_NAMES):
        for thing in CLASSES[name].defining:
            is_present = occurs(scenes, "object", thing)[scenes.labels == label]
            assert is_present.all(), (name, thing)


def test_the_sofa_is_the_only_object_of_a_single_class(scenes):
    for name in OBJECTS:
        classes = set(scenes.labels[occurs(scenes, "object", name)])
        assert (len(classes) > 1) == (name != "sofa"), (name, classes)


def test_classes_differ_in_their_defining_things(scenes):
    kinds = [(kind.setting, frozenset(kind.defining)) for kind in CLASSES.values()]
    assert len(set(kinds)) == len(CLASSES)
    settings = [kind.setting for kind in CLASSES.values()]
    assert {settings.count(setting) for setting in settings} == {2}


def test_defining_things_are_mostly_visible(few):
    """The distractor, which is independent of the class, may hide more."""
    in_front = annotated_scenes(64, seed=8, without=[DISTRACTOR])
    for thing in {thing for kind in CLASSES.values() for thing in kind.defining}:
        others = [name for name in OBJECTS if name != thing]
        alone = annotated_scenes(64, seed=8, without=others)
        classes = [k for k, name in enumerate(CLASS_NAMES) if thing in CLASSES[name].defining]
        in_sight, complete = (
            mask_of(part, "object", thing)[np.isin(few.labels, classes)].sum(axis=(1, 2))
            for part in (in_front, alone)
        )
        assert (in_sight >= LEAST_VISIBLE * complete).all(), thing
        assert complete.min() > 40, thing


def test_things_differ_in_size_and_place(scenes):
    for name in ("house", "tree", "car", "boat", "table", "parasol", "sofa", "lamp", DISTRACTOR):
        masks = mask_of(scenes, "object", name)[occurs(scenes, "object", name)]
        sizes = masks.sum(axis=(1, 2))
        assert np.quantile(sizes, 0.9) > 1.3 * np.quantile(sizes, 0.1), name
        columns = (masks.any(axis=1) * np.arange(64)).sum(axis=1) / masks.any(axis=1).sum(axis=1)
        assert columns.std() > 5, name


# --------------------------------------------------------------------------------- distractor


def test_the_distractor_does_not_depend_on_the_class():
    for index in range(24):
        drawn = [draw_scene(3, index, label) for label in range(8)]
        number = OBJECTS.index(DISTRACTOR) + 1
        mask = drawn[0].masks[0] == number
        for canvas in drawn[1:]:
            np.testing.assert_array_equal(canvas.masks[0] == number, mask)
            np.testing.assert_array_equal(canvas.masks[:, mask], drawn[0].masks[:, mask])
            np.testing.assert_array_equal(canvas.rgb[mask], drawn[0].rgb[mask])


def test_the_distractor_is_in_front_of_everything_else(few):
    alone = annotated_scenes(64, seed=8, without=[o for o in OBJECTS if o != DISTRACTOR])
    mask = mask_of(few, "object", DISTRACTOR)
    np.testing.assert_array_equal(mask_of(alone, "object", DISTRACTOR), mask)
    np.testing.assert_array_equal(alone.images[mask], few.images[mask])


def test_pixels_outside_the_distractor_do_not_depend_on_it(few):
    rest = annotated_scenes(64, seed=8, without=[DISTRACTOR])
    outside = ~mask_of(few, "object", DISTRACTOR)
    np.testing.assert_array_equal(rest.images[outside], few.images[outside])


def test_the_distractor_is_in_half_of_the_images_of_every_class(scenes):
    is_present = occurs(scenes, "object", DISTRACTOR)
    for label in range(8):
        share = is_present[scenes.labels == label].mean()
        assert share == pytest.approx(DISTRACTOR_SHARE, abs=4 * 0.05)


# ----------------------------------------------------------------------------- reproducibility


def test_images_of_a_seed_are_the_same_if_drawn_in_blocks():
    everything = annotated_scenes(21, seed=2)
    for start, n in ((0, 21), (5, 3), (15, 6)):
        part = annotated_scenes(n, seed=2, start=start)
        np.testing.assert_array_equal(part.images, everything.images[start : start + n])
        np.testing.assert_array_equal(part.labels, everything.labels[start : start + n])
        np.testing.assert_array_equal(scene_labels(n, 2, start=start), part.labels)
        for category, mask in part.masks.items():
            np.testing.assert_array_equal(mask, everything.masks[category][start : start + n])
    assert not np.array_equal(annotated_scenes(21, seed=3).labels, everything.labels)


def test_no_image_occurs_twice():
    images = np.concatenate([annotated_scenes(40, seed).images for seed in (0, 1)])
    assert len({image.tobytes() for image in images}) == 80


def test_invalid_arguments_are_refused():
    with pytest.raises(ValueError, match="n must be an integer of at least 1, not 0"):
        annotated_scenes(0)
    with pytest.raises(ValueError, match=r"n must be an integer of at least 1, not 2\.5"):
        annotated_scenes(2.5)
    with pytest.raises(ValueError, match="seed must be an integer of at least 0, not -1"):
        annotated_scenes(3, seed=-1)
    with pytest.raises(TypeError, match=r"without must be a collection of names, .* not 'tree'"):
        annotated_scenes(3, without="tree")
    with pytest.raises(ValueError, match=r"unknown objects or parts \['trees'\]; choose"):
        annotated_scenes(3, without=["trees"])


def test_a_negative_start_is_refused():
    with pytest.raises(ValueError, match="start must be an integer of at least 0, not -8"):
        annotated_scenes(3, start=-8)
