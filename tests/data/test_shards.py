"""Activations on disk and learning from them."""

import dataclasses
import json
import os

import keras
import numpy as np
import pytest
import tensorflow as tf

from xplique_dirpairs.data.shards import ActivationShards
from xplique_dirpairs.datasets.synthetic import (
    pooled_dense_head,
    random_directions,
    synthetic_signals,
)
from xplique_dirpairs.learning import features as features_
from xplique_dirpairs.learning.coordinates import Moments, whitened
from xplique_dirpairs.learning.features import Features, RandomBatches
from xplique_dirpairs.learning.learner import learn_pairs
from xplique_dirpairs.learning.objective import Objective
from xplique_dirpairs.learning.presets import get_recipe
from xplique_dirpairs.models.head import Head


@pytest.fixture
def activations(rng):
    return rng.normal(size=(50, 3, 2, 4)).astype(np.float32)


def written(tmp_path, activations, per_file=7, batch=5):
    batches = (activations[k : k + batch] for k in range(0, len(activations), batch))
    return ActivationShards.write(
        tmp_path, batches, megabytes=per_file * activations[0].nbytes / 1e6
    )


@pytest.mark.parametrize("per_file, batch", [(7, 5), (5, 20), (1, 1), (100, 7)])
def test_activations_are_read_in_the_order_they_were_written(
    per_file, batch, tmp_path, activations
):
    written(tmp_path, activations, per_file, batch)
    shards = ActivationShards(tmp_path)
    assert shards.shape == activations.shape
    np.testing.assert_array_equal(np.concatenate(list(shards)), activations)
    assert max(shards.counts) <= per_file


def test_compute_writes_the_activations_of_a_dataset(tmp_path, rng):
    images = rng.uniform(size=(10, 8, 8, 3)).astype(np.float32)
    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(2, 3)])
    dataset = tf.data.Dataset.from_tensor_slices(images).batch(4)
    shards = ActivationShards.compute(tmp_path, model, dataset)
    expected = model(images).numpy()
    np.testing.assert_allclose(np.concatenate(list(shards)), expected, atol=1e-6)


def test_a_single_array_of_any_rank_is_one_batch(tmp_path, activations):
    for number, array in enumerate((activations, activations[:, 0], tf.constant(activations))):
        shards = ActivationShards.write(tmp_path / str(number), array, megabytes=1e-3)
        np.testing.assert_array_equal(np.concatenate(list(shards)), array)


def test_compute_accepts_one_array_of_images_or_single_images(tmp_path, rng):
    images = rng.uniform(size=(70, 8, 8, 3)).astype(np.float32)
    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(2, 3)])
    expected = model(images).numpy()
    for number, given in enumerate((images, tf.data.Dataset.from_tensor_slices(images).take(5))):
        shards = ActivationShards.compute(tmp_path / f"{number}", model, given)
        assert shards.shape[0] == (70, 5)[number]
        computed = np.concatenate(list(shards))
        np.testing.assert_allclose(computed, expected[: len(computed)], atol=1e-6)
    one = ActivationShards.compute(tmp_path / "one", model, images[0])
    assert one.shape == (1, 6, 6, 2)


def test_a_generator_may_reuse_its_array(tmp_path, activations):
    def again():
        buffer = np.empty_like(activations[:5])
        for start in range(0, len(activations), 5):
            buffer[:] = activations[start : start + 5]
            yield buffer

    shards = ActivationShards.write(tmp_path, again())
    np.testing.assert_array_equal(np.concatenate(list(shards)), activations)


def test_empty_batches_are_left_out(tmp_path, activations):
    shards = ActivationShards.write(tmp_path, [activations[:0], activations, activations[:0]])
    assert shards.shape == activations.shape


@pytest.mark.parametrize("again", [False, True], ids=["all", "a part of a part"])
def test_a_part_contains_the_chosen_images_in_order(again, tmp_path, activations):
    shards, images = written(tmp_path, activations), np.arange(50)
    if again:
        images = np.array([0, 1, 20, 21, 22, 40, 49])
        shards = shards.part(images)
    chosen = np.array([len(images) - 1, 3, 2])
    part = shards.part(chosen)
    expected = activations[images[np.sort(chosen)]]
    np.testing.assert_array_equal(np.concatenate(list(part)), expected)
    assert part.shape == expected.shape and len(shards.counts) > len(part.counts)


def test_reading_a_part_loads_only_its_images(tmp_path, activations, monkeypatch):
    part, load, loaded = written(tmp_path, activations).part(np.array([8])), np.load, []
    monkeypatch.setattr(np, "load", lambda *a, **k: loaded.append(load(*a, **k)) or loaded[-1])
    (array,) = part
    assert [type(array) for array in loaded] == [np.memmap] and type(array) is np.ndarray
    np.testing.assert_array_equal(array, activations[[8]])


@pytest.mark.parametrize(
    "images",
    [[], [-1], [50], [3, 3], [1.0], [[1, 2]], np.arange(50) < 10],
    ids=["none", "negative", "too large", "twice", "no whole number", "of two axes", "a mask"],
)
def test_a_part_of_invalid_image_numbers_is_refused(images, tmp_path, activations):
    shards = written(tmp_path, activations)
    with pytest.raises(ValueError, match=r"images must be indices from 0 to 49, each once"):
        shards.part(np.array(images))


def test_a_folder_can_be_written_again_after_an_interruption(tmp_path, activations, monkeypatch):
    """The index is written atomically, after all other files."""

    def kill(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("os.replace", kill)
        with pytest.raises(KeyboardInterrupt):
            written(tmp_path, activations)
    assert written(tmp_path, activations).shape == activations.shape


def test_a_second_writer_of_a_folder_is_refused(tmp_path, activations):
    def meets_another():
        yield activations[:25]
        with pytest.raises(ValueError, match=r"being written to, .* delete .*being_written and"):
            written(tmp_path, -activations)
        yield activations[25:]

    shards = ActivationShards.write(tmp_path, meets_another(), megabytes=1e-4)
    np.testing.assert_array_equal(np.concatenate(list(shards)), activations)
    assert not (tmp_path / "being_written").exists()


def test_deleting_the_marker_early_does_not_mix_activations(tmp_path, activations):
    def meets_another():
        yield activations
        (tmp_path / "being_written").unlink()
        written(tmp_path, -activations)

    with pytest.raises(ValueError, match="holds activations already"):
        ActivationShards.write(tmp_path, meets_another())
    np.testing.assert_array_equal(np.concatenate(list(ActivationShards(tmp_path))), -activations)


def test_the_marker_of_a_killed_writer_is_reported_with_advice(tmp_path, activations):
    (tmp_path / "being_written").touch()
    with pytest.raises(ValueError, match=r"was killed: .* delete .*being_written and write again"):
        written(tmp_path, activations)
    (tmp_path / "being_written").unlink()
    assert written(tmp_path, activations).shape == activations.shape


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
    with pytest.raises(ValueError, match="holds other activations than the index describes"):
        shards.read(1)
    (tmp_path / "good" / "000001.npy").write_bytes(b"no")
    with pytest.raises(ValueError, match="missing or damaged: write the activations again"):
        shards.read(1)
    index = json.loads((tmp_path / "good" / "index.json").read_text())
    (tmp_path / "good" / "index.json").write_text(json.dumps(index | {"version": 99}))
    with pytest.raises(ValueError, match=r"another version .* after deleting it"):
        ActivationShards(tmp_path / "good")


def test_nan_in_a_file_is_reported_with_the_name_of_the_file(tmp_path, activations):
    shards = written(tmp_path, activations)
    damaged = shards.read(2)
    damaged[0, 0, 0, 0] = np.nan
    np.save(tmp_path / "000002.npy", damaged)
    with pytest.raises(ValueError, match=r"000002.npy hold NaN"):
        learn_pairs(shards, 2, random_state=0, verbose=0)


@pytest.mark.parametrize(
    "settings, error, message",
    [
        ({"megabytes": "3"}, ValueError, "megabytes must be a finite number, not '3'"),
        ({"megabytes": 0}, ValueError, "megabytes must be more than 0, not 0"),
        ({"megabytes": -1.0}, ValueError, "megabytes"),
        ({"megabytes": np.nan}, ValueError, "megabytes"),
        ({"folder": 3}, TypeError, "folder must be a path, not int"),
        ({"batches": None}, TypeError, "batches must be an iterable of arrays .* not None"),
        ({"batches": "activations.npy"}, TypeError, "batches must be an iterable of arrays"),
        ({"batches": np.array(3.0)}, ValueError, "batch 0: activations must be"),
    ],
)
def test_invalid_arguments_of_write_are_refused(settings, error, message, tmp_path, activations):
    with pytest.raises(error, match=message):
        ActivationShards.write(**{"folder": tmp_path, "batches": [activations], **settings})


def test_an_invalid_folder_is_refused(tmp_path, activations):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is not a folder and cannot be created"):
        ActivationShards.write(tmp_path / "file", [activations])
    with pytest.raises(TypeError, match="folder must be a path"):
        ActivationShards(3)


@pytest.mark.parametrize("shape", [(4,), (3, 4), (3, 2, 4)])
def test_an_unbatched_dataset_is_refused(shape, tmp_path, rng):
    """The rows of an image would be mistaken for images, and its columns for tokens."""
    activations = rng.normal(size=(6, *shape)).astype(np.float32)
    dataset = tf.data.Dataset.from_tensor_slices(activations)
    with pytest.raises(ValueError, match=r"batch them, dataset.batch\(64\)"):
        ActivationShards.write(tmp_path, dataset)
    assert ActivationShards.write(tmp_path, dataset.batch(4)).shape == activations.shape
    batches = dataset.batch(3, drop_remainder=True).as_numpy_iterator()
    shards = ActivationShards.write(tmp_path / "b", batches, tokens=len(shape) == 2)
    assert shards.shape == activations.shape


def dataset_of_unknown_rank(maps):
    return tf.data.Dataset.from_generator(lambda: iter(maps), output_types=tf.float32)


@pytest.mark.parametrize("container", [list, tuple, iter, dataset_of_unknown_rank])
def test_single_maps_are_not_mistaken_for_batches_of_tokens(container, tmp_path, activations):
    message = r"batch 0: .*\(3, 2, 4\): .* np.stack\(maps\); .* batch of 3 .* tokens=True"
    with pytest.raises(ValueError, match=message):
        ActivationShards.write(tmp_path, container(list(activations)))
    known = tf.data.Dataset.from_tensor_slices(activations)
    for number, batches in enumerate((container(list(activations)), known)):
        shards = ActivationShards.write(tmp_path / str(number), batches, tokens=True)
        assert shards.shape == (150, 2, 4)


def test_batches_with_labels_are_refused(tmp_path, rng):
    images = rng.uniform(size=(4, 8, 8, 3)).astype(np.float32)
    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(2, 3)])
    dataset = tf.data.Dataset.from_tensor_slices((images, np.arange(4))).batch(2)
    message = r"dataset.map\(lambda x, y: x\)"
    with pytest.raises(ValueError, match=message):
        ActivationShards.compute(tmp_path, model, dataset)
    with pytest.raises(ValueError, match=message):
        ActivationShards.write(tmp_path, dataset)
    assert ActivationShards.compute(tmp_path, model, dataset.map(lambda x, y: x)).shape[0] == 4


def test_images_that_do_not_fit_the_model_are_refused(tmp_path, rng):
    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(2, 3)])
    with pytest.raises(ValueError, match=r"batch 0: .*network takes \(8, 8, 3\)"):
        ActivationShards.compute(tmp_path, model, [rng.uniform(size=(2, 9, 9, 3))])


def test_invalid_batches_are_refused(tmp_path, activations):
    with pytest.raises(ValueError, match="batches are empty"):
        ActivationShards.write(tmp_path / "a", [])
    with pytest.raises(ValueError, match="activations must have one shape"):
        ActivationShards.write(tmp_path / "b", [activations, activations[:, :2]])
    with pytest.raises(ValueError, match="batch 1: activations hold NaN"):
        ActivationShards.write(tmp_path / "c", [np.ones((2, 3)), np.full((2, 3), np.nan)])


@pytest.fixture(params=["kept", "streamed"])
def both(request, tmp_path, activations, monkeypatch):
    """Features in memory and from shards, which are kept in memory or streamed."""
    if request.param == "streamed":
        monkeypatch.setattr(features_, "KEPT_MEGABYTES", 0.0)
    return Features(activations), Features(written(tmp_path, activations))


def drawn(batches, count):
    """Return the next ``count`` batches as arrays (n, A)."""
    arrays = []
    while len(arrays) < count:
        rows, order = batches.take(count - len(arrays))
        arrays += [rows.numpy()[places] for places in order]
    return arrays


def test_features_from_shards_equal_features_in_memory(both, activations):
    held, streamed = both
    assert len(held) == len(streamed) == 300 and held.shape == streamed.shape
    first, other = (np.concatenate(list(features.blocks())) for features in both)
    np.testing.assert_array_equal(first, other)
    moments = [Moments.of(features) for features in both]
    np.testing.assert_allclose(moments[0].covariance, moments[1].covariance, rtol=1e-5)
    coordinates = whitened(moments[0], 2)
    samples = [f.sample(coordinates, 40, np.random.default_rng(3)) for f in both]
    for sample in samples:
        assert sample.shape == (40, coordinates.axes)
        away = np.abs(sample[:, None] - coordinates.features(first)[None]).max(axis=2).min(axis=1)
        assert away.max() < 1e-5, "samples are positions of the data"
        assert len(np.unique(sample.round(4), axis=0)) == 40, "without replacement"
    everything = [f.batches(coordinates, None, 0).take(1)[0] for f in both]
    np.testing.assert_allclose(*everything, atol=1e-6)


@pytest.mark.parametrize("kind", [0, 1])
def test_a_pass_yields_each_position_about_once_in_a_seeded_order(kind, both):
    features = both[kind]
    coordinates = whitened(Moments.of(features), 2)

    def batches(seed, count):
        return np.concatenate(drawn(features.batches(coordinates, 32, seed), count))

    passed = batches(0, 9)  # 288 of 300
    assert len(np.unique(passed.round(4), axis=0)) > 0.85 * 288
    np.testing.assert_array_equal(passed, batches(0, 9))
    assert np.abs(passed - batches(1, 9)).max() > 0.1
    assert np.abs(passed[:32] - batches(0, 18)[288:320]).max() > 0.1, (
        "the order changes in every pass"
    )


def test_a_seed_beyond_32_bits_has_an_order_of_its_own():
    rows = np.arange(9, dtype=np.float32)[:, None]
    orders = [RandomBatches(rows, 9, seed).take(2)[1] for seed in (2**31 - 1, 2**31)]
    assert all((np.sort(order, axis=1) == np.arange(9)).all() for order in orders)
    assert (orders[0] != orders[1]).any()


def test_positions_that_fit_in_memory_are_read_once(tmp_path, activations, monkeypatch):
    held, shards = Features(activations), written(tmp_path, activations)
    coordinates, streamed, read = whitened(Moments.of(held), 2), Features(shards), []
    reading = shards.read
    monkeypatch.setattr(shards, "read", lambda number: read.append(number) or reading(number))
    batches = [drawn(f.batches(coordinates, 32, 5), 30) for f in (held, streamed)]
    np.testing.assert_allclose(*batches, atol=1e-6)
    samples = [f.sample(coordinates, 20, np.random.default_rng(1)) for f in (held, streamed)]
    np.testing.assert_allclose(*samples, atol=1e-6)
    assert read == list(range(len(shards.counts)))
    monkeypatch.setattr(features_, "KEPT_MEGABYTES", 4e-6 * (300 * coordinates.axes - 1))
    read.clear()
    drawn(Features(shards).batches(coordinates, 32, 5), 30)
    assert len(read) > 3 * len(shards.counts), "if they do not fit, every pass reads the files"


@pytest.mark.parametrize("skip", [4, 9, 23])
def test_skipped_batches_do_not_change_later_batches(skip, both):
    coordinates = whitened(Moments.of(both[0]), 2)
    for features in both:
        every = drawn(features.batches(coordinates, 32, 5), skip + 3)
        rest = drawn(features.batches(coordinates, 32, 5, skip), 3)
        np.testing.assert_array_equal(rest, every[skip:])


def test_skipped_passes_are_not_read(both, monkeypatch):
    streamed, read = both[1], []
    coordinates, reading = whitened(Moments.of(both[0]), 2), streamed.activations.read
    monkeypatch.setattr(streamed.activations, "read", lambda k: read.append(k) or reading(k))
    drawn(streamed.batches(coordinates, 32, 5, 10 * (300 // 32)), 1)
    assert 0 < len(read) <= len(streamed.activations.counts)


@pytest.mark.parametrize("kind", [0, 1])
def test_batches_of_maps_are_images_or_pooled_images(kind, both, activations):
    (maps,) = drawn(both[kind].maps(None, 8, 0), 1)
    assert maps.shape == (8, 3, 2, 4)
    assert all((np.abs(activations - one).max(axis=(1, 2, 3)) == 0).any() for one in maps)
    (pooled,) = drawn(both[kind].maps(lambda x: x.mean(axis=(1, 2)), 80, 0), 1)
    assert pooled.shape == (50, 4)


def test_a_file_damaged_during_learning_is_named(tmp_path, activations, monkeypatch):
    monkeypatch.setattr(features_, "KEPT_MEGABYTES", 0.0)
    recipe = get_recipe("soft")
    stage = dataclasses.replace(recipe.stages[0], epochs=2, steps_per_epoch=30)  # two passes
    recipe = dataclasses.replace(recipe, stages=(stage,), start="random", restarts=1, batch=20)
    shards, proceed = written(tmp_path, activations), Objective.update_multipliers

    def update_multipliers(self):
        proceed(self)
        np.save(tmp_path / "nan.npy", np.full((5, 3, 2, 4), np.nan, np.float32))
        os.replace(tmp_path / "nan.npy", tmp_path / "000002.npy")  # while files are read ahead

    monkeypatch.setattr(Objective, "update_multipliers", update_multipliers)
    with pytest.raises(ValueError, match=r"000002\.npy hold NaN or infinite"):
        learn_pairs(shards, 2, recipe=recipe, random_state=0, verbose=0)


@pytest.mark.slow
def test_learning_from_shards_recovers_the_true_signals(tmp_path, monkeypatch):
    monkeypatch.setattr(features_, "KEPT_MEGABYTES", 0.0)
    signals, distractors = random_directions(1)
    data = synthetic_signals(2000, 1, signals, distractors)  # 12 000 positions: minibatches
    head = Head(pooled_dense_head(data.features, data.labels))
    shards = written(tmp_path, data.features, per_file=300, batch=100)
    recipe = dataclasses.replace(get_recipe("default"), restarts=1)
    for activations in (data.features, shards):
        pairs, _ = learn_pairs(activations, 3, head=head, recipe=recipe, random_state=0, verbose=0)
        cosines = np.sort(np.abs(pairs.signals @ signals.T).max(axis=0))
        assert cosines[0] > 0.97, cosines


@pytest.mark.parametrize("change", ["insert", "append", "flip"])
def test_a_file_with_other_bytes_than_were_written_is_refused(change, tmp_path):
    x = np.random.default_rng(0).normal(size=(4, 2, 2, 3)).astype(np.float32)
    shards = ActivationShards.write(tmp_path / "shards", [x])
    path = tmp_path / "shards" / "000000.npy"
    data = bytearray(path.read_bytes())
    if change == "insert":  # all values behind it would be other ones
        data[200:200] = b"\0"
    elif change == "append":
        data += b"\0"
    else:
        data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="damaged"):
        list(shards)


def test_folders_that_were_written_without_checksums_are_read(tmp_path):
    x = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    ActivationShards.write(tmp_path / "shards", [x])
    index = tmp_path / "shards" / "index.json"
    content = json.loads(index.read_text())
    del content["checksums"]
    index.write_text(json.dumps(content))
    np.testing.assert_array_equal(next(iter(ActivationShards(tmp_path / "shards"))), x)


@pytest.mark.parametrize("change", [{"counts": [-1]}, {"shape": [2.5]}, {"checksums": [1, 2]}])
def test_an_index_of_impossible_lengths_is_damaged(change, tmp_path):
    ActivationShards.write(tmp_path / "shards", [np.ones((4, 3))])
    index = tmp_path / "shards" / "index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | change))
    with pytest.raises(ValueError, match="damaged"):
        ActivationShards(tmp_path / "shards")


def test_shards_of_a_relative_path_are_found_from_another_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shards = ActivationShards.write("shards", [np.ones((4, 3))])
    monkeypatch.chdir(tmp_path.parent)
    assert shards.read(0).shape == (4, 3)
