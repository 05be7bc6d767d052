"""Features (N, T, H, W, D): heads that pool over time, extractors, comparison, pictures."""

import keras
import matplotlib.pyplot as plt
import numpy as np
import pytest
from conftest import make_pairs
from PIL import Image
from test_probe import clips, transformer

from xplique_dirpairs import (
    ConceptLayer,
    KMeansFactorizer,
    NMFFactorizer,
    VideoProbe,
    blend_separation,
    compare,
    discover_video_concepts,
    learn_pairs,
    masked_importance,
    split_model,
)  # fmt: skip
from xplique_dirpairs.datasets.moving_shapes import moving_shapes
from xplique_dirpairs.plots.video_pictures import frames_with_map, plot_strips, save_animation


@pytest.fixture(scope="module")
def split():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 20, 20, 3))
    x = keras.layers.Conv3D(6, (2, 5, 5), (2, 5, 5), name="features", activation="relu",
                            bias_initializer="ones")(inputs)  # fmt: skip
    x = keras.layers.GlobalAveragePooling3D()(x)
    return split_model(
        keras.Model(inputs, keras.layers.Dense(4, activation="softmax")(x)), "features"
    )


@pytest.fixture(scope="module")
def videos():
    return moving_shapes(10, frames=8, side=20).videos


def test_a_head_that_pools_over_time_is_known_as_such(split, videos):
    layer = ConceptLayer.of(make_pairs(6, 3), split)
    x = layer.activations(videos)
    assert x.shape == (10, 4, 4, 4, 6) and layer.head.pools_first
    assert layer.head.class_rows.shape == (4, 6)
    np.testing.assert_allclose(
        layer.head.logits(x.mean(axis=(1, 2, 3))), layer.head.logits(x), atol=1e-4
    )
    assert layer.coefficients(x).shape == (10, 4, 4, 4, 3)
    rebuilt = layer.reconstructions(layer.coefficients(x))
    assert rebuilt.shape == x.shape


@pytest.mark.slow
def test_pairs_are_learned_from_features_with_time(split, videos):
    x = ConceptLayer.of(make_pairs(6, 3), split).activations(videos)
    settings = {"recipe": "soft", "random_state": 0, "verbose": 0}
    pairs, _ = learn_pairs(x, 2, head=split.head, **settings)
    flat, _ = learn_pairs(x.reshape(10, -1, 6), 2, **settings)  # this recipe asks no network
    np.testing.assert_allclose(pairs.filters, flat.filters, rtol=1e-3, atol=1e-3)


def test_analyses_of_layers_take_videos(split, videos):
    factorizer = KMeansFactorizer(3, random_state=0)
    x = split.input_to_latent_model.predict_on_batch(videos)
    factorizer.fit(x.reshape(-1, 6))
    layer = ConceptLayer.of(factorizer, split)
    assert np.isfinite(blend_separation(layer, videos, 10).images.additivity.value)
    found = masked_importance(layer, videos, lambda y, inputs: y[:, 0], subsets=8)
    assert np.isfinite(found.importance).all()


# ------------------------------------------------------------ pictures


def test_frames_are_dimmed_where_a_concept_is_absent(videos):
    mask = np.zeros((4, 2, 2))
    mask[0, 0, 0] = 1
    frames = frames_with_map(videos[0], mask, (0, 1))
    assert frames.shape == (8, 20, 20, 3) and frames.min() >= 0 and frames.max() <= 1
    np.testing.assert_allclose(frames[4:], 0.35 * videos[0, 4:], atol=1e-5)
    assert frames[0, 2, 2].mean() > 0.35 * videos[0, 0, 2, 2].mean() + 0.05
    np.testing.assert_allclose(frames[0, 2, 2], frames_with_map(videos[0], mask, (0, 1))[0, 2, 2])


def test_strips_show_evenly_spaced_frames(videos):
    figure = plot_strips("a title", [videos[0], videos[1]], 4, ["a", "b"])
    assert len(figure.axes) == 8 and figure.axes[-1].get_xlabel() == "frame 7"
    assert figure.axes[4].get_ylabel() == "b"
    plt.close(figure)


def test_animations_have_all_frames(tmp_path, videos):
    save_animation(tmp_path / "clip.webp", videos[0], side=40)
    with Image.open(tmp_path / "clip.webp") as picture:
        assert picture.is_animated and picture.n_frames == 8 and picture.size == (40, 40)
    with pytest.raises(ValueError, match="milliseconds"):
        save_animation(tmp_path / "clip.webp", videos[0], 0)


def test_concepts_are_drawn_and_animated(tmp_path):
    data = clips(6, frames=4)
    concepts = discover_video_concepts(
        VideoProbe(transformer()), data, heads=[(0, 0)], count=4,
        extractor=lambda: KMeansFactorizer(2, random_state=0),
    )  # fmt: skip
    figure = concepts.plot(0, videos=2, frames=3)
    assert len(figure.axes) == 6
    plt.close(figure)
    concepts.animate(0, tmp_path / "concept.webp")
    with Image.open(tmp_path / "concept.webp") as picture:
        assert picture.n_frames == 4
    with pytest.raises(ValueError, match="videos are numbered"):
        concepts.animate(0, tmp_path / "concept.webp", video=9)
    with pytest.raises(ValueError, match="concepts are numbered"):
        concepts.plot(2)


def test_extractors_are_compared_on_videos(split, videos):
    found = compare(
        {"NMF": NMFFactorizer(3, random_state=0)}, videos, split=split, fit_images=videos,
        controls=False, importance_images=1, nb_design=2, verbose=0,
    )  # fmt: skip
    assert not found.errors and found.results["NMF"].shown.shape == (10, 4, 4, 4, 3)
