"""Activations on disk, and learning from them."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from xplique_dirpairs.datasets.synthetic import (
    pooled_dense_head,
    random_directions,
    synthetic_signals,
)
from xplique_dirpairs.learning.coordinates import Moments, whitened
from xplique_dirpairs.learning.features import HeldFeatures, StreamedFeatures
from xplique_dirpairs.learning.trainer import learn_pairs
from xplique_dirpairs.network import Head
from xplique_dirpairs.shards import ActivationShards


@pytest.fixture
def activations(rng):
    return rng.normal(size=(50, 3, 2, 4)).astype(np.float32)


def written(tmp_path, activations, per_file=7, batch=5):
    batches = (activations[k : k + batch] for k in range(0, len(activations), batch))
    return ActivationShards.write(
        tmp_path, batches, megabytes=per_file * activations[0].nbytes / 1e6
    )


@pytest.mark.parametrize("per_file, batch", [(7, 5), (5, 20), (1, 1), (100, 7)])
def test_what_is_written_is_read_in_order_and_no_file_is_larger_than_asked(
    per_file, batch, tmp_path, activations
):
    written(tmp_path, activations, per_file, batch)
    shards = ActivationShards(tmp_path)
    assert shards.shape == activations.shape
    np.testing.assert_array_equal(np.concatenate(list(shards)), activations)
    assert max(shards.counts) <= per_file


def test_images_of_a_dataset_become_activations(tmp_path, rng):
    images = rng.uniform(size=(10, 8, 8, 3)).astype(np.float32)
    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(2, 3)])
    dataset = tf.data.Dataset.from_tensor_slices(images).batch(4)
    shards = ActivationShards.compute(tmp_path, model, dataset)
    expected = model.predict(images, verbose=0)
    np.testing.assert_allclose(np.concatenate(list(shards)), expected, atol=1e-6)


def test_incomplete_foreign_or_damaged_folders_are_refused(tmp_path, activations):
    with pytest.raises(ValueError, match="holds no complete activations"):
        ActivationShards(tmp_path / "nowhere")

    def breaks_off():
        yield activations
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ActivationShards.write(tmp_path / "cut", breaks_off(), megabytes=1e-3)
    with pytest.raises(ValueError, match="holds no complete activations"):
        ActivationShards(tmp_path / "cut")
    shards = written(tmp_path / "good", activations)
    with pytest.raises(ValueError, match="holds activations already"):
        written(tmp_path / "good", activations)
    np.save(tmp_path / "good" / "000001.npy", activations[:2])
    with pytest.raises(ValueError, match="of other activations"):
        shards.read(1)
    (tmp_path / "good" / "000001.npy").write_bytes(b"no")
    with pytest.raises(ValueError, match="missing or damaged"):
        shards.read(1)
    index = json.loads((tmp_path / "good" / "index.json").read_text())
    (tmp_path / "good" / "index.json").write_text(json.dumps(index | {"version": 99}))
    with pytest.raises(ValueError, match="holds no complete activations"):
        ActivationShards(tmp_path / "good")


def test_bad_batches_are_refused(tmp_path, activations):
    with pytest.raises(ValueError, match="batches are empty"):
        ActivationShards.write(tmp_path / "a", [])
    with pytest.raises(ValueError, match="after others of"):
        ActivationShards.write(tmp_path / "b", [activations, activations[:, :2]])
    with pytest.raises(ValueError, match="NaN"):
        ActivationShards.write(tmp_path / "c", [np.full((2, 3), np.nan)])


@pytest.fixture
def both(tmp_path, activations):
    return HeldFeatures(activations), StreamedFeatures(written(tmp_path, activations))


def test_streamed_features_are_the_held_ones(both, activations):
    held, streamed = both
    assert len(held) == len(streamed) == 300 and held.shape == streamed.shape
    first, other = (np.concatenate(list(features.blocks())) for features in both)
    np.testing.assert_array_equal(first, other)
    moments = [Moments.of(features) for features in both]
    np.testing.assert_allclose(moments[0].covariance, moments[1].covariance, rtol=1e-5)
    made = whitened(moments[0], 2)
    samples = [f.sample(made, 40, np.random.default_rng(3)) for f in both]
    for sample in samples:
        assert sample.shape == (40, made.axes)
        away = np.abs(sample[:, None] - made.features(first)[None]).max(axis=2).min(axis=1)
        assert away.max() < 1e-5, "positions of the data"
        assert len(np.unique(sample.round(4), axis=0)) == 40, "without replacement"
    everything = [next(iter(f.batches(made, None, 0))).numpy() for f in both]
    np.testing.assert_allclose(*everything, atol=1e-6)


@pytest.mark.parametrize("kind", [0, 1])
def test_a_pass_shows_every_position_about_once_in_an_order_of_the_seed(kind, both):
    features = both[kind]
    made = whitened(Moments.of(features), 2)

    def batches(seed, count):
        return np.concatenate([b.numpy() for b in features.batches(made, 32, seed).take(count)])

    passed = batches(0, 9)  # 288 of 300
    assert len(np.unique(passed.round(4), axis=0)) > 0.85 * 288
    np.testing.assert_array_equal(passed, batches(0, 9))
    assert np.abs(passed - batches(1, 9)).max() > 0.1
    assert np.abs(passed[:32] - batches(0, 18)[288:320]).max() > 0.1, "another order in every pass"


@pytest.mark.parametrize("kind", [0, 1])
def test_maps_are_whole_images_or_pooled_ones(kind, both, activations):
    maps = next(iter(both[kind].maps(None, 8, 0))).numpy()
    assert maps.shape == (8, 3, 2, 4)
    assert all((np.abs(activations - one).max(axis=(1, 2, 3)) == 0).any() for one in maps)
    pooled = next(iter(both[kind].maps(lambda x: x.mean(axis=(1, 2)), 80, 0))).numpy()
    assert pooled.shape == (50, 4)


def test_learning_from_shards_recovers_what_learning_from_memory_does(tmp_path):
    signals, distractors = random_directions(1)
    data = synthetic_signals(2000, 1, signals, distractors)  # 12 000 positions: minibatches
    head = Head(pooled_dense_head(data.features, data.labels))
    shards = written(tmp_path, data.features, per_file=300, batch=100)
    for activations in (data.features, shards):
        pairs, _ = learn_pairs(activations, 3, head=head, random_state=0, verbose=0)
        cosines = np.sort(np.abs(pairs.signals @ signals.T).max(axis=0))
        assert cosines[0] > 0.97, cosines
