"""Shares of position equal slow second writings, at the ends of their range and in between."""

import itertools

import numpy as np
import pytest

from xplique_dirpairs.metrics.position import (
    BORDER_ABOVE,
    border_contrast,
    border_widths,
    decodability,
    map_statistics,
    mirror_scores,
    placed_share,
    position_verdicts,
    resamples,
)

# ------------------------------------------------------------------ map share


def slow_map_share(maps):
    """Return η² of each concept, written with loops."""
    count, height, width, concepts = maps.shape
    shares = []
    for i in range(concepts):
        means = [[0.0] * width for _ in range(height)]
        within = []
        for y, x in itertools.product(range(height), range(width)):
            values = [float(maps[n, y, x, i]) for n in range(count)]
            means[y][x] = sum(values) / count
            within.append(sum((v - means[y][x]) ** 2 for v in values) / (count - 1))
        noise = sum(within) / len(within)
        cells = [m for row in means for m in row]
        middle = sum(cells) / len(cells)
        between = max(sum((m - middle) ** 2 for m in cells) / len(cells) - noise / count, 0.0)
        shares.append(between / (between + noise))
    return shares


def test_map_share_equals_a_slow_second_writing(rng):
    maps = rng.normal(size=(9, 5, 6, 4)) + np.linspace(0, 3, 4) * rng.normal(size=(5, 6, 1))
    np.testing.assert_allclose(map_statistics(maps).share[0], slow_map_share(maps), atol=1e-6)


def test_map_share_of_pure_noise_is_next_to_nothing(rng):
    maps = rng.normal(size=(32, 16, 16, 20))
    assert map_statistics(maps).share.max() <= 0.01


def test_map_share_does_not_change_with_unit_offset_or_places_of_cells(rng):
    maps = rng.normal(size=(12, 6, 6, 3)) + rng.normal(size=(6, 6, 3))
    share = map_statistics(maps).share
    np.testing.assert_allclose(map_statistics(5 - 40 * maps).share, share, rtol=1e-4)
    np.testing.assert_allclose(map_statistics(maps[:, ::-1, rng.permutation(6)]).share, share)


def test_map_share_is_1_for_a_map_that_never_changes_and_nan_for_a_constant(rng):
    fixed = np.broadcast_to(rng.normal(size=(6, 6)), (8, 6, 6))
    maps = np.stack([fixed, np.full_like(fixed, 0.3)], axis=-1)
    np.testing.assert_allclose(map_statistics(maps).share[0], [1.0, np.nan])


def test_bootstrap_samples_of_map_share_lie_around_it(rng):
    maps = rng.normal(size=(40, 8, 8, 5)) + np.linspace(0, 2, 5) * rng.normal(size=(8, 8, 1))
    own = map_statistics(maps)
    samples = np.stack(list(resamples(40, 300, rng)))
    assert (samples.sum(axis=1) == 40).all()
    repeated = map_statistics(maps, samples=samples)
    assert repeated.share.shape == (300, 5)
    np.testing.assert_allclose(repeated.share.mean(axis=0), own.share[0], atol=0.02)


# ------------------------------------------------------------------ the border


def profiles(side):
    """Return mean maps that mark the border, and maps that mark other places."""
    y, x = np.mgrid[:side, :side] / (side - 1) * 2 - 1
    outermost = np.maximum(np.abs(x), np.abs(y)) > 1 - 1e-9
    borders = {
        "all edges": outermost,
        "right and lower edge": np.maximum(x, y) > 1 - 1e-9,
        "left against right": np.sign(x) * (np.abs(x) > 1 - 1e-9),
        "corners": np.minimum(np.abs(x), np.abs(y)) > 1 - 1e-9,
    }
    places = {
        "ramp": x,
        "diagonal": x + y,
        "valley": np.abs(x),
        "cone": np.hypot(x, y),
        "curved ramp": (x + 1) ** 2,
        "wave": np.cos(2 * np.pi * x),
        "one side": x > 0,
    }
    return borders, places


@pytest.mark.parametrize("side", [5, 7, 8, 14, 16, 28])
def test_border_share_tells_borders_from_other_places(side, rng):
    borders, places = profiles(side)
    for marks_border, group in ((True, borders), (False, places)):
        for name, profile in group.items():
            noise = 0.1 * profile.std() * rng.normal(size=(40, side, side))
            share = map_statistics((profile + noise)[..., None]).border_share[0, 0]
            assert (share > BORDER_ABOVE) == marks_border, (name, share)


def test_maps_below_five_cells_have_no_border_share(rng):
    for shape in ((4, 4), (3, 9), (9, 4)):
        statistics = map_statistics(rng.normal(size=(6, *shape, 2)))
        assert np.isnan(statistics.border_share).all() and np.isfinite(statistics.share).all()


def test_border_share_is_what_the_inside_leaves(rng):
    maps = np.broadcast_to(rng.normal(size=(16, 16)), (6, 16, 16))[..., None]
    wanted = 1 - maps[0, 3:-3, 3:-3].var() / maps[0].var()
    np.testing.assert_allclose(map_statistics(maps).border_share[0, 0], wanted, atol=1e-6)


def test_a_border_is_at_most_a_fifth_of_a_map():
    assert border_widths((16, 16)) == (1, 2, 3)
    assert border_widths((14, 7)) == (1,)
    assert border_widths((4, 4), (2, 3)) == (1,)


def test_border_contrast_is_the_difference_of_means_in_spreads(rng):
    profile = rng.normal(size=(2, 9, 7))
    contrast = border_contrast(profile, [2.0, 0.0], (1, 3, 4))
    inside = profile[0, 3:-3, 3:-3]
    outside = (profile[0].sum() - inside.sum()) / (63 - inside.size)
    np.testing.assert_allclose(contrast[0, 1], (outside - inside.mean()) / 2.0)
    assert np.isnan(contrast[0, 2]), "nothing is left inside"
    assert np.isnan(contrast[1]).all(), "the spread is 0"


# ------------------------------------------------------------------ placed patches


def test_placed_share_equals_a_slow_second_writing(rng):
    pooled = rng.normal(size=(7, 9, 3)) + 2 * rng.normal(size=(9, 1)) + rng.normal(size=(7, 1, 1))
    (share,), (main,) = placed_share(pooled)
    for i in range(3):
        c = pooled[..., i]
        total = np.mean([(v - c.mean()) ** 2 for v in c.ravel()])
        within = np.mean([np.mean([(v - row.mean()) ** 2 for v in row]) for row in c])
        means = [c[:, g].mean() for g in range(9)]
        np.testing.assert_allclose(share[i], within / total)
        np.testing.assert_allclose(main[i], np.var(means) / total)
    assert (main <= share).all()


def test_placed_share_is_0_without_and_1_with_nothing_but_the_place(rng):
    patches, places = rng.normal(size=(6, 1)), rng.normal(size=(1, 9))
    pooled = np.stack(np.broadcast_arrays(patches, places, 0.7 + 0 * places), axis=-1)
    (share,), (main,) = placed_share(pooled)
    np.testing.assert_allclose(share, [0, 1, np.nan], atol=1e-12)
    np.testing.assert_allclose(main, [0, 1, np.nan], atol=1e-12)


def test_a_sample_of_patches_gives_the_share_of_these_patches(rng):
    pooled = rng.normal(size=(5, 4, 2)) + rng.normal(size=(5, 1, 2))
    counts = np.array([[2, 0, 1, 0, 2]])
    chosen = pooled[[0, 0, 2, 4, 4]]
    for ours, wanted in zip(placed_share(pooled, counts), placed_share(chosen), strict=True):
        np.testing.assert_allclose(ours, wanted)


def test_the_place_is_told_where_it_decides_and_by_chance_elsewhere(rng):
    count, grid = 60, 3
    columns = np.broadcast_to(np.arange(grid), (count, grid, grid))
    rows = np.swapaxes(columns, 1, 2)
    content = np.broadcast_to(rng.normal(size=(count, 1, 1)), columns.shape)
    pooled = np.stack([columns, rows, content], axis=-1) + 1e-3 * rng.normal(
        size=(*columns.shape, 3)
    )
    told = decodability(pooled, rng)
    assert (told[:2] > 0.95).all()
    assert abs(told[2] - 1 / 3) < 0.05


# ------------------------------------------------------------------ verdicts and mirror scores


def test_verdicts_follow_the_rules_in_their_order():
    nan = np.nan
    cases = [
        ((0.9, 0.2, 0.9, 0.9), "position"),
        ((0.9, 0.95, nan, nan), "border"),
        ((0.4, 0.95, 0.3, 0.9), "modulated by position"),
        ((0.4, 0.95, 0.1, 0.9), "modulated by the border"),
        ((0.4, 0.95, nan, 0.9), "modulated by place"),
        ((0.04, nan, 0.01, 0.04), "free"),
        ((0.04, nan, nan, 0.04), "free"),
        ((0.06, 0.9, 0.01, 0.04), "weak"),
        ((0.01, 0.9, 0.01, 0.1), "weak"),
        ((nan, nan, nan, nan), "unknown"),
        ((0.3, 0.1, nan, nan), "unknown"),
    ]
    shares = np.array([values for values, _ in cases]).T
    assert position_verdicts(*shares).tolist() == [verdict for _, verdict in cases]


def test_mirror_scores_are_the_mean_differences(rng):
    one, other = rng.normal(size=(2, 5, 3))
    np.testing.assert_allclose(
        mirror_scores(one, other),
        [np.mean([abs(one[n, i] - other[n, i]) for n in range(5)]) for i in range(3)],
    )
    np.testing.assert_allclose(mirror_scores(one, other, signed=True), (one - other).mean(axis=0))
    assert not mirror_scores(one, one).any()


def test_mirror_scores_need_pooled_values():
    with pytest.raises(ValueError, match="averaged over positions"):
        mirror_scores(np.zeros((2, 3, 3, 4)), np.zeros((2, 3, 3, 4)))
    with pytest.raises(ValueError, match="must both have shape"):
        mirror_scores(np.zeros((2, 4)), np.zeros((3, 4)))
    with pytest.raises(ValueError, match="pooled_of_mirrored hold NaN"):
        mirror_scores(np.zeros((2, 4)), np.full((2, 4), np.nan))
