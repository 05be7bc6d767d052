"""`static_dynamic` on small video networks, and the pairs of clips that it is measured with."""

import keras
import matplotlib.pyplot as plt
import numpy as np
import pytest
from conftest import make_pairs

from xplique_dirpairs import ConceptLayer, VideoPairs, split_model, static_dynamic
from xplique_dirpairs.datasets.moving_shapes import MOTIONS, SHAPES, moving_shapes


@pytest.fixture(scope="module")
def videos():
    return moving_shapes(24, frames=8, side=20).videos


def network(first, shape=(8, 20, 20, 3)):
    """Return a network that begins with a function of videos, followed by a convolution."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input(shape)
    x = keras.layers.Lambda(first)(inputs)
    x = keras.layers.Conv3D(6, (1, 4, 4), (1, 4, 4), activation="relu", name="features")(x)
    x = keras.layers.GlobalAveragePooling3D()(x)
    return keras.Model(inputs, keras.layers.Dense(3)(x))


def averaging(x):
    return keras.ops.mean(x, axis=1, keepdims=True)


def differences(x):
    return x[:, 1:] - x[:, :-1]


def test_a_network_that_averages_frames_knows_nothing_of_motion(videos):
    split = split_model(network(averaging), "features")
    result = static_dynamic(split, videos, pairs=120)
    shares = result.shares
    assert np.nanmax(np.abs(shares.dynamic + shares.interaction)) < 1e-5
    alive = ~np.isnan(shares.static)
    assert alive.sum() >= 3
    np.testing.assert_allclose((shares.static + shares.content)[alive], 1.0, atol=1e-5)
    np.testing.assert_allclose(shares.published().static[alive], 1.0, atol=1e-5)


def test_a_network_on_frame_differences_is_dynamic_rather_than_static():
    videos = moving_shapes(24, frames=16, side=26).videos
    split = split_model(network(differences, videos.shape[1:]), "features")
    result = static_dynamic(split, videos, pairs=120)
    alive = ~np.isnan(result.shares.static)
    assert alive.any()
    assert (result.shares.dynamic[alive] >= result.shares.static[alive]).all()


def test_concepts_are_read_by_their_coefficients(videos):
    split = split_model(network(differences), "features")
    concepts = ConceptLayer.of(make_pairs(6, 3), split, concept_names=["a", "b", "c"])
    result = static_dynamic(concepts, videos, pairs=20)
    assert result.concept_names == ("a", "b", "c") and result.number_of_videos == 20
    table = str(result.table())
    assert "± " in table and "by side" in table and "20 videos" in table
    again = static_dynamic(concepts, videos, pairs=20, batch_size=7)
    np.testing.assert_allclose(again.shares.static, result.shares.static, atol=1e-5)
    figure = result.plot([2, 0])
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["c", "a"]
    plt.close(figure)
    other = static_dynamic(concepts, videos, pairs=20, pool="max", random_state=1)
    assert np.nanmax(np.abs(other.shares.static - result.shares.static)) > 1e-3


def test_pairs_share_what_their_kind_says(videos):
    pairs = VideoPairs(videos, number=30)
    clips = next(pairs.batches(30))
    first = clips["first"]
    order = np.sort(first.reshape(30, 8, -1).sum(axis=-1), axis=1)
    for kind, base in (("static", first), ("neither", clips["dynamic"])):
        np.testing.assert_allclose(
            np.sort(clips[kind].reshape(30, 8, -1).sum(axis=-1), axis=1),
            order if kind == "static" else np.sort(base.reshape(30, 8, -1).sum(axis=-1), axis=1),
            rtol=1e-5,
        )
        assert (np.abs(clips[kind] - base).max(axis=(1, 2, 3, 4)) > 0).all()
    assert (np.abs(clips["dynamic"] - first).max(axis=(1, 2, 3, 4)) > 0.05).all()
    assert first.min() >= videos.min() - 1e-6 and first.max() <= videos.max() + 1e-6
    assert first.dtype == np.float32
    again = np.concatenate([part["neither"] for part in pairs.batches(4)])
    np.testing.assert_array_equal(again, clips["neither"])


def test_a_style_is_the_same_in_all_frames(videos):
    still = np.repeat(videos[:3, :1], 8, axis=1)
    clips = next(VideoPairs(still, number=3).batches())
    for kind, values in clips.items():
        np.testing.assert_allclose(values, values[:, :1].repeat(8, axis=1), err_msg=kind)


def test_styles_of_the_user_are_drawn_independently(videos):
    styles = np.stack([videos, 1 - videos, 0.5 * videos]).astype(np.float32)
    pairs = VideoPairs(videos, styles, number=90)
    clips = next(pairs.batches(90))
    drawn = np.zeros((3, 3))
    for n, video in enumerate(pairs.video):
        first, other = (
            [np.array_equal(clips[kind][n], style[video]) for style in styles]
            for kind in ("first", "dynamic")
        )
        assert sum(first) == sum(other) == 1
        drawn[first.index(True), other.index(True)] += 1
    assert (drawn >= 3).all(), "each style is drawn with each, itself as well"


@pytest.mark.parametrize("count", [2, 3, 4, 8])
def test_a_static_unit_is_static_however_few_styles_there_are(count):
    rng = np.random.default_rng(0)
    looks = np.linspace(0, 1, count).reshape(-1, 1, 1, 1, 1, 1)
    styles = np.broadcast_to(looks, (count, 5, 2, 2, 2, 3))
    inputs = keras.Input((2, 2, 2, 3))
    brightness = keras.Model(inputs, keras.layers.GlobalAveragePooling3D()(inputs))
    videos = rng.uniform(size=styles.shape[1:])
    shares = static_dynamic(brightness, videos, styles=styles, pairs=3000, batch_size=500).shares
    np.testing.assert_allclose(shares.static, 1.0, atol=0.06)
    for share in (shares.content, shares.dynamic, shares.interaction):
        np.testing.assert_allclose(share, 0.0, atol=0.06)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"videos": np.zeros((2, 3, 3))}, "videos must have shape"),
        ({"videos": np.zeros((2, 1, 8, 8, 3))}, "at least 2 frames"),
        ({"videos": np.full((2, 8, 20, 20, 3), np.nan)}, "NaN"),
        ({"styles": np.zeros((1, 24, 8, 20, 20, 3))}, "styles must be"),
        ({"pairs": 1}, "number must be an integer"),
        ({"pool": "sum"}, "pool must be one of"),
        ({"resamples": 0}, "resamples"),
        ({"batch_size": 0}, "batch_size"),
        ({"videos": np.zeros((2, 8, 24, 20, 3))}, "videos have shape"),
    ],
)
def test_bad_input_is_refused(videos, change, message):
    settings = {"videos": videos, "pairs": 4, **change}
    with pytest.raises(ValueError, match=message):
        static_dynamic(split_model(network(averaging), "features"), **settings)


def test_objects_without_concepts_are_refused(videos):
    with pytest.raises(TypeError):
        static_dynamic("concepts", videos)


# ------------------------------------------------------------ moving shapes


def test_masks_cover_the_objects_and_stay_inside():
    data = moving_shapes(40)
    assert data.videos.shape == (40, 16, 32, 32, 3) and data.videos.dtype == np.float32
    assert data.videos.min() >= 0 and data.videos.max() <= 1
    assert (data.masks.sum(axis=1) <= 1).all(), "a pixel shows one object"
    target = data.masks[:, 0]
    sizes = target.sum(axis=(2, 3))
    assert (sizes == sizes[:, :1]).all(), "nothing hides the target, and it stays inside"
    orange = data.videos[..., 0] - data.videos[..., 2]
    assert orange[target].min() > orange[~target].mean() + 0.2
    assert (data.masks[data.shapes < 0].sum() == 0) and (data.shapes[:, 0] >= 0).all()


def test_the_target_moves_as_its_class_says():
    data = moving_shapes(40)
    places = np.argwhere(np.ones((32, 32))).reshape(32, 32, 2)
    for n in range(40):
        centres = np.stack([places[mask].mean(axis=0) for mask in data.masks[n, 0]])
        steps = np.diff(centres, axis=0)
        expected = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}
        expected = expected.get(MOTIONS[data.labels("motion")[n]], (0, 0))
        np.testing.assert_allclose(steps, np.broadcast_to(expected, steps.shape), atol=1e-9)


def test_classes_are_balanced_and_masks_of_kinds_are_unions():
    data = moving_shapes(40, random_state=3)
    assert np.bincount(data.labels("motion")).tolist() == [8] * 5
    assert np.bincount(data.labels("shape")).tolist() == [10] * 4
    assert data.masks_of("shape").shape == (40, len(SHAPES), 16, 32, 32)
    np.testing.assert_array_equal(data.masks_of("motion").any(axis=1), data.masks.any(axis=1))
    np.testing.assert_array_equal(moving_shapes(40, random_state=3).videos, data.videos)
    with pytest.raises(ValueError, match="side must be"):
        moving_shapes(2, frames=16, side=20)
    with pytest.raises(ValueError, match="by must be"):
        data.labels("texture")
