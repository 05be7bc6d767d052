"""Tubelets, concepts of heads, their masks and removal, and concepts that networks share."""

import copy
import pickle

import keras
import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score
from test_probe import clips, transformer

from xplique_dirpairs import (
    ConvexNMFFactorizer,
    DirectionPairsFactorizer,
    KMeansFactorizer,
    PCAFactorizer,
    ProbedSelfAttention,
    VideoPairs,
    VideoProbe,
    discover_video_concepts,
    masked_importance,
    propose_tubelets,
    rosetta,
)  # fmt: skip
from xplique_dirpairs.metrics.mask_overlap import (
    chance_corrected_overlap,
    joint_overlap,
    overlap,
)


def moving_boxes(count=2, seed=0):
    """Return features (N, 8, 16, 16, 5) of three boxes that move, and the box of each token."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((count, 8, 16, 16), int)
    for t in range(8):
        labels[:, t, 1:6, t : t + 6] = 1
        labels[:, t, 10:15, 9 - t : 15 - t] = 2
        labels[:, t, 6:10, 2:7] = 3
    colors = np.eye(5)[:4]
    return (colors[labels] + 0.01 * rng.normal(size=(*labels.shape, 5))).astype(np.float32), labels


def best_overlap(tubelets, mask, n):
    scores = []
    for number in np.unique(tubelets.labels[n]):
        own = tubelets.labels[n] == number
        scores.append((own & mask).sum() / (own | mask).sum())
    return max(scores)


def test_tubelets_follow_moving_boxes():
    maps, labels = moving_boxes()
    tubelets = propose_tubelets(maps, 12, 0.1)
    for n in range(2):
        for box in (1, 2, 3):
            assert best_overlap(tubelets, labels[n] == box, n) >= 0.9
    assert (tubelets.labels >= 0).mean() > 0.99
    assert set(np.unique(tubelets.labels)) - {-1} == set(range(len(tubelets.vectors)))
    for number in (0, len(tubelets.vectors) - 1):
        own = maps[tubelets.labels == number].mean(axis=0)
        np.testing.assert_allclose(tubelets.vectors[number], own, atol=1e-5)
        assert (np.argwhere(tubelets.labels == number)[:, 0] == tubelets.video[number]).all()


def test_the_order_of_channels_does_not_matter_and_compact_tubelets_are_boxes():
    maps, _ = moving_boxes(1)
    plain = propose_tubelets(maps)
    turned = propose_tubelets(maps[..., [3, 1, 4, 0, 2]])
    np.testing.assert_array_equal(turned.labels, plain.labels)
    sizes = np.bincount(propose_tubelets(maps, 8, 10.0).labels.ravel())
    assert sizes.max() <= 1.7 * sizes.min()
    constant = propose_tubelets(np.ones((1, 4, 8, 8, 3)))
    assert np.isfinite(constant.vectors).all() and (constant.labels >= 0).all()


@pytest.fixture(scope="module")
def probe():
    return VideoProbe(transformer(frames=8))


@pytest.fixture(scope="module")
def videos():
    return clips(12, frames=8)


@pytest.mark.parametrize("proposals", ["tubelets", "positions"])
def test_concepts_of_heads_have_masks_in_these_and_other_videos(probe, videos, proposals):
    concepts = discover_video_concepts(
        probe, videos, heads=[(0, 1), (1, 2)], proposals=proposals, count=4,
        extractor=lambda: KMeansFactorizer(3, random_state=0),
    )  # fmt: skip
    assert concepts.units == tuple((k, h, i) for k, h in ((0, 1), (1, 2)) for i in range(3))
    assert concepts.masks(4).shape == (12, *probe.grid) and concepts.masks(4).dtype == bool
    assert f"6 concepts of the keys of 2 heads, on {proposals}" in str(concepts)
    again = concepts.masks_in(videos.copy())
    part = concepts.masks_in(videos[:5])
    for head in ((0, 1), (1, 2)):
        np.testing.assert_array_equal(again[head], concepts.by_head[head].masks)
        np.testing.assert_array_equal(part[head], again[head][:5])
    if proposals == "tubelets":
        assert (again[0, 1].sum(axis=-1) <= 1).all()
    for removal in ("zero", "mean", "minus_infinity"):
        found = masked_importance(
            concepts, videos[:4], lambda y, x: y[:, 0], subsets=8, removal=removal
        )
        assert np.isfinite(found.importance).all() and len(found.importance) == 6
        assert set(found.by_head()) == {(0, 1), (1, 2)}


def test_removing_a_concept_masks_its_tokens(probe, videos):
    concepts = discover_video_concepts(probe, videos, heads=[(0, 1)], count=4)
    run = concepts.runner(videos, "zero", 16)
    none = np.zeros(len(concepts.units), bool)
    np.testing.assert_allclose(run(none), probe.run(videos), atol=1e-5)
    first = none.copy()
    first[0] = True
    expected = probe.run(videos, {(0, 1): 1.0 - concepts.masks(0)})
    np.testing.assert_allclose(run(first), expected, atol=1e-5)


@pytest.mark.parametrize("rate", [0.05, 0.25])
def test_concepts_without_detector_fire_on_their_share_of_the_tokens(probe, videos, rate):
    concepts = discover_video_concepts(
        probe, videos, heads=[(0, 1)], proposals="positions", rate=rate,
        extractor=lambda: PCAFactorizer(3, random_state=0),
    )  # fmt: skip
    for q in range(3):
        assert concepts.masks(q).mean() == pytest.approx(rate, abs=0.01)


@pytest.mark.parametrize("removal", ["zero", "mean", "minus_infinity"])
def test_each_way_of_removal_is_that_of_the_probe_where_heads_have_several_widths(removal):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4, 8, 8, 3))
    x = keras.layers.Reshape((-1, 12))(keras.layers.Conv3D(12, (2, 4, 4), (2, 4, 4))(inputs))
    for width in (4, 6):
        x = keras.layers.Add()([x, ProbedSelfAttention(2, width)(x)])
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling1D()(x))
    probe, some = VideoProbe(model), clips(8)
    concepts = discover_video_concepts(
        probe, some, heads=[(0, 1), (1, 0)], proposals="positions",
        extractor=lambda: KMeansFactorizer(2, random_state=0),
    )  # fmt: skip
    keep = {(0, 1): 1.0 - concepts.masks(1), (1, 0): 1.0 - concepts.masks(2)}
    found = concepts.runner(some, removal, 16)(np.array([False, True, True, False]))
    expected = probe.run(some, keep, removal=removal)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(found - probe.run(some)).max() > 1e-4


def test_direction_pairs_are_suppressed_along_their_signal_vectors(probe, videos, quick_learning):
    concepts = discover_video_concepts(
        probe, videos, heads=[(0, 0), (1, 1)], proposals="positions",
        extractor=lambda: DirectionPairsFactorizer(2, random_state=0, verbose=0),
    )  # fmt: skip
    pairs = concepts.by_head[1, 1].reader.pairs
    features = probe.features(videos, heads=[(1, 1)])[1, 1]
    np.testing.assert_array_equal(concepts.masks(3), pairs.detect(features)[..., 1] > 0.5)
    run = concepts.runner(videos, "suppress", 16)
    none = np.zeros(4, bool)
    np.testing.assert_allclose(run(none), probe.run(videos), atol=1e-5)
    assert np.abs(run(~none) - run(none)).max() > 1e-4

    def without_the_second(x):
        moved = pairs.suppress(x[:, :, 1], [1])
        return np.stack([x[:, :, 0], moved, x[:, :, 2]], axis=2)

    expected = probe.runner_of([lambda x: x, without_the_second], "keys")(videos)
    np.testing.assert_allclose(run(np.arange(4) == 3), expected, atol=1e-5)
    assert np.abs(run(np.arange(4) == 2) - expected).max() > 1e-4
    found = masked_importance(concepts, videos, lambda y, x: y[:, 0], subsets=6, removal="suppress")
    assert found.removal == "suppress"
    other = discover_video_concepts(probe, videos, heads=[(0, 0)], count=4)
    with pytest.raises(TypeError, match="only direction pairs"):
        other.runner(videos, "suppress", 16)


def test_planted_clusters_of_tubelets_are_found_by_default():
    maps, labels = moving_boxes(4)
    tubelets = propose_tubelets(maps)
    factorizer = ConvexNMFFactorizer(None, random_state=0)
    factorizer.fit(tubelets.vectors)
    masks = tubelets.masks_of(factorizer.encode(tubelets.vectors).argmax(axis=1),
                              factorizer.number_of_concepts_)  # fmt: skip
    inside = labels > 0
    score = adjusted_rand_score(labels[inside], masks.argmax(axis=-1)[inside])
    assert score >= 0.9


# ------------------------------------------------------------ rosetta


# Keras [3.15] reads variables in a way that numpy deprecates when it saves a model.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize(
    "restored", [lambda o: pickle.loads(pickle.dumps(o)), copy.deepcopy], ids=["pickle", "copy"]
)
@pytest.mark.parametrize("kind", ["own", "keras"])
def test_concepts_are_pickled_and_copied_with_their_probe(videos, kind, restored):
    probe = VideoProbe(transformer(kind, frames=8), ["attention_1"], batch_size=5)
    concepts = discover_video_concepts(probe, videos, extractor=lambda: KMeansFactorizer(2))
    again = restored(concepts)
    assert again.probe is not probe and again.probe.heads == probe.heads
    assert again.probe.batch_size == 5 and again.probe.grid == probe.grid
    other = clips(4, frames=8)
    for head, masks in concepts.masks_in(other).items():
        np.testing.assert_array_equal(again.masks_in(other)[head], masks)
    np.testing.assert_allclose(again.probe.run(other), probe.run(other), rtol=1e-5, atol=1e-5)


def random_masks(count, area, videos=20, seed=0):
    rng = np.random.default_rng(seed)
    masks = np.zeros((videos, 1, 20, 20, count), bool)
    side = round(20 * area**0.5)
    for n, q in np.ndindex(videos, count):
        top, left = rng.integers(0, 21 - side, 2)
        masks[n, 0, top : top + side, left : left + side, q] = True
    return masks


def test_the_same_concepts_in_another_order_find_themselves():
    masks = random_masks(6, 0.1)
    order = np.array([3, 0, 5, 1, 4, 2])
    found = rosetta([masks, masks[..., order]])
    assert {group for group in found.concepts} == {((0, int(order[k])), (1, k)) for k in range(6)}
    np.testing.assert_allclose(found.scores, 1.0)
    assert (found.corrected >= 0.95).all() and "6 of 2" in str(found)
    assert "R" in str(found.table(["a", "b"]))


@pytest.mark.parametrize("area", [0.05, 0.1, 0.2, 0.4])
def test_masks_of_other_videos_do_not_match_after_correction(area):
    a, b = random_masks(30, area, seed=1), random_masks(30, area, seed=2)
    assert rosetta([a, b]).concepts == ()
    if area >= 0.2:  # as published, large masks match by chance
        assert len(rosetta([a, b], correct_for_chance=False).concepts) > 0


def test_triples_come_before_pairs_and_only_important_concepts_take_part():
    masks = random_masks(4, 0.1)
    found = rosetta([masks, masks[..., :3], masks[..., [1, 3]]])
    assert found.concepts[0] == ((0, 1), (1, 1), (2, 0))
    assert {len(group) for group in found.concepts[1:]} == {2}
    best = rosetta([masks, masks], [np.arange(4), np.arange(4)], keep=0.25)
    assert best.concepts == (((0, 3), (1, 3)),) and best.kept[0].tolist() == [3]


def test_grids_of_several_sizes_are_brought_together():
    fine = random_masks(3, 0.25).repeat(2, axis=1)
    coarse = fine[:, :1]
    assert len(rosetta([fine, coarse]).concepts) == 3


def test_overlaps_equal_a_slow_reference():
    rng = np.random.default_rng(0)
    a, b = rng.random((4, 9, 3)) > 0.6, rng.random((4, 9, 2)) > 0.6
    a[0, :, 0] = b[0, :, 0] = False
    for i, j in np.ndindex(3, 2):
        scores = []
        for n in range(4):
            either = sum(x or y for x, y in zip(a[n, :, i], b[n, :, j], strict=True))
            both = sum(x and y for x, y in zip(a[n, :, i], b[n, :, j], strict=True))
            if either:
                scores.append(both / either)
        assert overlap(a, b)[i, j] == pytest.approx(np.mean(scores))
        joint = joint_overlap(np.stack([a[..., i], b[..., j]]))
        assert joint == pytest.approx(np.mean(scores))


def test_scores_corrected_for_chance_equal_a_slow_reference():
    rng = np.random.default_rng(0)
    a, b = rng.random((6, 9, 3)) > 0.6, rng.random((6, 9, 2)) > 0.6
    found, largest = chance_corrected_overlap(a, b, 5, np.random.default_rng(7))
    again = np.random.default_rng(7)
    orders = [again.permutation(6) for _ in range(5)]  # with this seed none is the first order
    of_noise = []
    for i, j in np.ndindex(3, 2):
        drawn = [overlap(a[..., i : i + 1], b[order][..., j : j + 1]).item() for order in orders]
        own = overlap(a[..., i : i + 1], b[..., j : j + 1]).item()
        expected = (sum(drawn) + own) / 6
        assert found[i, j] == pytest.approx((own - expected) / (1 - expected))
        of_noise += [(score - expected) / (1 - expected) for score in drawn]
    assert largest == pytest.approx(max(of_noise))


@pytest.mark.parametrize("count", [5, 8])
def test_noise_of_few_videos_passes_as_seldom_as_that_of_many(count):
    passed = 0
    for seed in range(40):
        masks = [random_masks(6, 0.2, count, 2 * seed + k) for k in range(2)]
        passed += len(rosetta(masks, random_state=seed).concepts) > 0
    assert passed <= 6, "2 of 40 are expected, more than 6 in one of 100 cases"


def test_concepts_that_do_not_move_are_only_found_without_correction():
    still = random_masks(3, 0.1, videos=1).repeat(8, axis=0)
    assert rosetta([still, still]).concepts == ()
    assert len(rosetta([still, still], correct_for_chance=False).concepts) == 3


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda p, v: propose_tubelets(v[0]), "maps must have shape"),
        (lambda p, v: propose_tubelets(v, 0), "count must be"),
        (lambda p, v: propose_tubelets(v, 4, 0.0), "compactness must be"),
        (lambda p, v: discover_video_concepts(p, v, part="logits"), "part must be"),
        (lambda p, v: discover_video_concepts(p, v, proposals="all"), "proposals must be"),
        (lambda p, v: discover_video_concepts(p, v[:, :4]), "videos have shape"),
        (lambda p, v: discover_video_concepts(
            p, v, heads=[(0, 0)], extractor=lambda: KMeansFactorizer(10**6)
        ), "no head has concepts"),
        (lambda p, v: discover_video_concepts(p, v[:0]), r"there are no videos: shape \(0, 8"),
        (lambda p, v: masked_importance(p, v[:0], lambda y, x: y[:, 0]), "there are no videos"),
        (lambda p, v: VideoPairs(v[:0]), "there are no videos"),
        (lambda p, v: rosetta([random_masks(2, 0.1)]), "two networks"),
        (lambda p, v: rosetta([random_masks(2, 0.1), random_masks(2, 0.1, 10)]), "same videos"),
        (lambda p, v: rosetta([random_masks(2, 0.1)] * 2, [[1], [1]]), "one for each of 2"),
        (lambda p, v: rosetta([random_masks(2, 0.1)] * 2, keep=0.0), "keep must lie"),
        (lambda p, v: rosetta([random_masks(2, 0.1, 4)] * 2), "4 videos are too few"),
        (lambda p, v: rosetta([random_masks(0, 0.1), random_masks(2, 0.1)]), "one concept, not"),
        (lambda p, v: rosetta([random_masks(2, 0.1)] * 2, [[1, np.nan]] * 2), "hold NaN"),
    ],
)  # fmt: skip
def test_bad_input_is_refused(probe, videos, use, message):
    with pytest.raises(ValueError, match=message):
        use(probe, videos)


@pytest.mark.parametrize("proposals", ["tubelets", "positions"])
def test_one_factorizer_for_all_heads_is_refused(probe, videos, proposals):
    one = KMeansFactorizer(2, random_state=0)
    settings = {"proposals": proposals, "count": 4, "extractor": lambda: one}
    with pytest.raises(ValueError, match=r"the same KMeansFactorizer for two heads: .* new one"):
        discover_video_concepts(probe, videos, **settings)
    assert len(discover_video_concepts(probe, videos, heads=[(0, 0)], **settings).units) == 2


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda p, v: discover_video_concepts(p.model, v), r"a VideoProbe, not .*: call"),
        (lambda p, v: discover_video_concepts(p, v, extractor=KMeansFactorizer(3)),
         r"a factorizer, such as lambda: KMeansFactorizer\(8\), not KMeansF"),
        (lambda p, v: discover_video_concepts(p, v, extractor=lambda: 3), "a factorizer, not int"),
    ],
)  # fmt: skip
def test_what_makes_no_concepts_is_refused(probe, videos, use, message):
    with pytest.raises(TypeError, match=message):
        use(probe, videos)
