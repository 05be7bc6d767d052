"""Features (N, T, H, W, D): heads that pool over time, extractors, comparison, pictures."""

from dataclasses import replace

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
    explain_model,
    explain_prediction,
    learn_pairs,
    masked_importance,
    split_model,
    write_report,
)  # fmt: skip
from xplique_dirpairs.datasets.moving_shapes import moving_shapes
from xplique_dirpairs.extractors.scan import scan
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


# ------------------------------------------------------------ explanations


def test_contributions_to_each_frame_follow_the_plain_formula(split, videos):
    layer = ConceptLayer.of(make_pairs(6, 3), split)
    found = explain_prediction(layer, videos[:1], 2)
    x = layer.activations(videos[:1])[0].astype(float)
    u = layer.coefficients(x[None])[0].astype(float)
    row = np.asarray(split.latent_to_logit_model.layers[-1].weights[0])[:, 2].astype(float)
    expected = np.zeros((4, 3))
    for t in range(4):
        for i in range(3):
            for h in range(4):
                for w in range(4):
                    expected[t, i] += u[t, h, w, i] * (layer.bank[i] @ row) / 64
    np.testing.assert_allclose(found.contributions_over_time, expected, atol=1e-5)
    np.testing.assert_allclose(
        found.contributions_over_time.sum(axis=0), found.concept_contributions, atol=1e-6
    )


def test_contributions_are_drawn_over_time(split, videos):
    layer = ConceptLayer.of(make_pairs(6, 3), split, concept_names=["a", "b", "c"])
    found = explain_prediction(layer, videos[:1])
    figure = found.plot_over_time(count=2, frames=4)
    *frames, curves = figure.axes
    assert [ax.get_xlabel() for ax in frames] == ["frame 1", "frame 3", "frame 5", "frame 7"]
    values = found.contributions_over_time
    assert len(curves.lines) == 4  # two concepts, the other one, and the line of 0
    np.testing.assert_allclose(curves.lines[0].get_ydata(), values[:, found.ranked[0]])
    np.testing.assert_allclose(curves.lines[0].get_xdata(), [0.5, 2.5, 4.5, 6.5])
    assert curves.lines[2].get_label() == "1 others"
    plt.close(figure)
    for draw in (found.plot, found.plot_waterfall):
        plt.close(draw())


def test_images_have_no_contributions_over_time(split, videos):
    found = explain_prediction(ConceptLayer.of(make_pairs(6, 3), split), videos[:1])
    flat = replace(found, contributions=found.contributions.mean(axis=0))
    with pytest.raises(ValueError, match="contributions over time need features"):
        flat.plot_over_time()


def test_classes_of_videos_are_explained(split, videos):
    layer = ConceptLayer.of(make_pairs(6, 3), split)
    explained = explain_model(layer, videos, verbose=0)
    assert explained.images.sum() == 10
    assert all(crops.ndim == 5 and crops.shape[1] == 8 for crops in explained.crops)
    figure = explained.plot_class(explained.class_ids[0])
    plt.close(figure)


def test_crops_of_videos_are_squares_of_all_frames(split, videos):
    seen = scan(ConceptLayer.of(make_pairs(6, 3), split), videos, verbose=0)
    assert seen.patch == 6
    maps = np.where(seen.layer.shown(seen.kept) > 0, seen.layer.shown(seen.kept), 0).mean(axis=1)
    for i in range(3):
        best = seen.best_images(i, 2)
        crops = seen.crops(i, 2)
        assert crops.shape == (len(best), 8, 6, 6, 3)
        for n, crop in zip(best, crops, strict=True):
            top, left, bottom, right = (round(20 * side) for side in seen.crop_box(n, i))
            expected = (255 * videos[n, :, top:bottom, left:right] + 0.5).astype(np.uint8)
            np.testing.assert_array_equal(crop, expected)
            enlarged = np.repeat(np.repeat(maps[n, ..., i], 5, axis=0), 5, axis=1)
            means = [enlarged[y : y + 6, x : x + 6].mean() for y in range(0, 15, 4)
                     for x in range(0, 15, 4)]  # fmt: skip
            assert enlarged[top:bottom, left:right].mean() == pytest.approx(max(means), rel=1e-4)


def test_reports_call_videos_videos_and_have_strips_of_crops(split, videos, tmp_path):
    layer = ConceptLayer.of(make_pairs(6, 3), split)
    write_report(tmp_path, layer, videos[:6], verbose=0)
    text = (tmp_path / "report_files" / "data.js").read_text()
    assert '"video 0"' in text and '"image 0"' not in text and '"frameCount":8' in text
    strips = sorted((tmp_path / "report_files" / "crops").glob("concept-*.frames.webp"))
    with Image.open(strips[0]) as strip, Image.open(str(strips[0]).replace(".frames", "")) as crops:
        count = crops.size[0] // crops.size[1]
        assert strip.size == (8 * crops.size[1], count * crops.size[1])
