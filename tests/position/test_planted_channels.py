"""Channels whose dependence on the place is known get their verdicts, from images alone."""

from dataclasses import replace

import numpy as np
import pytest

from xplique_dirpairs import (
    ConceptLayer,
    DirectionPairs,
    mirror_scores,
    position_dependence,
    split_model,
)
from xplique_dirpairs.datasets.planted_channels import (
    CHANNELS,
    planted_channels,
    planted_classifier,
    planted_images,
)

INVARIANT, BORDER, RAMP, BY_POSITION, PADDED, WEAK = range(6)


@pytest.fixture(scope="module")
def network():
    return planted_channels()


@pytest.fixture(scope="module")
def found(network):
    return position_dependence(network, planted_images(64))


@pytest.fixture(scope="module")
def centred(network):
    return position_dependence(network, planted_images(64, centred=True), wrap=False)


def test_all_verdicts_are_right(found, centred):
    assert found.verdicts.tolist() == list(CHANNELS.values())
    assert centred.verdicts.tolist() == list(CHANNELS.values())


def test_shares_of_the_planted_channels_are_what_was_planted(found, centred):
    for measured in (found, centred):
        assert (measured.rolled_share[[BORDER, RAMP]] >= 0.95).all()
        assert measured.rolled_share[INVARIANT] <= 0.02
        assert measured.placed_interior[INVARIANT] <= 0.01
        assert measured.placed_interior[BY_POSITION] >= 0.7
        assert measured.placed_interior[PADDED] <= 0.03
        assert measured.placed_edge[PADDED] >= 0.5
        assert measured.border_share[BORDER] > 0.95
        assert measured.border_share[RAMP] < 0.7


def test_things_in_the_middle_of_pictures_are_not_taken_for_position(centred):
    assert 0.15 <= centred.map_share[INVARIANT] <= 0.3
    assert centred.rolled_share[INVARIANT] <= 0.02
    assert centred.placed_interior[INVARIANT] <= 0.02
    assert centred.placed_edge[INVARIANT] <= 0.02


def test_the_column_is_told_from_content_times_position_only(found):
    assert found.decodability[BY_POSITION] >= 0.7
    assert abs(found.decodability[INVARIANT] - 1 / 3) <= 0.05


def test_stride_and_margin_are_measured(found):
    assert found.stride == (4, 4)
    assert found.margin is not None
    # Five cells of 4 pixels are seen by one: half of that, and up to a cell more.
    assert 8 <= found.margin[0] <= 16


def test_only_what_zeros_at_the_edges_cause_goes_with_wrapped_padding(found):
    assert found.wrapped_edge[PADDED] <= 0.02
    assert found.caused_by_padding[PADDED] > 0.95
    assert found.caused_by_padding[BORDER] > 0.95
    assert found.caused_by_padding[[RAMP, BY_POSITION]].max() < 0.05
    assert "padding of the network is the cause" in found.sentence(BORDER)
    assert "padding" not in found.sentence(RAMP)


def test_the_cause_of_a_weak_dependence_is_sought_where_it_is_larger(found):
    shares = {"rolled_share": 0.2, "placed_edge": 0.1, "wrapped_rolled": 0.05, "wrapped_edge": 0.1}
    weak = replace(
        found,
        verdicts=np.full(6, "weak"),
        **{name: np.full(6, share) for name, share in shares.items()},
    )
    np.testing.assert_allclose(weak.caused_by_padding, 0.75)
    of_places = replace(weak, rolled_share=np.full(6, 0.08))
    np.testing.assert_allclose(of_places.caused_by_padding, 0.0)


def test_the_paper_s_mirror_ranking_misses_position_and_takes_content_for_it(network):
    images = planted_images(64)
    pooled, mirrored = (network(x).numpy().mean(axis=(1, 2)) for x in (images, images[:, :, ::-1]))
    scores = mirror_scores(pooled, mirrored) / pooled.std(axis=0)
    assert scores[BY_POSITION] > 5 * max(scores[BORDER], scores[RAMP])


def test_intervals_hold_the_shares_and_verdicts_are_supported(found):
    for name, share in (
        ("rolled", found.rolled_share),
        ("interior", found.placed_interior),
        ("edge", found.placed_edge),
    ):
        low, high = found.intervals[name]
        assert (low <= share + 0.01).all() and (share <= high + 0.01).all(), name
    assert (found.support[:5] > 0.9).all()


def test_scrambled_pixels_are_a_second_control(network):
    found = position_dependence(network, planted_images(32), control="scrambled", wrap=False)
    assert found.rolled_share[[BORDER, RAMP]].min() > 0.9
    assert found.rolled_share[INVARIANT] < 0.05
    assert found.rolled_share[PADDED] > 0.5  # in noise nothing but its border is left
    assert found.verdicts.tolist() == list(CHANNELS.values())


@pytest.mark.parametrize("seed", [1, 2])
def test_eight_images_are_enough_for_the_right_verdicts(network, seed):
    found = position_dependence(network, planted_images(8, seed=seed), wrap=False)
    assert found.verdicts.tolist() == list(CHANNELS.values())


def test_the_pair_of_position_and_no_other_is_called_position():
    classifier, mixed = planted_classifier()
    split = split_model(classifier, "mixed")
    # Filters that read the planted channels out of their mixture, and the directions they add.
    reading = np.linalg.inv(mixed)
    chosen = [INVARIANT, RAMP, BY_POSITION]
    x = split.input_to_latent_model(planted_images(16)).numpy().reshape(-1, len(mixed))
    z = x @ reading[:, chosen]
    biases = np.quantile(z, 0.7, axis=0)
    absent = [z[z[:, i] <= biases[i], i].mean() for i in range(3)]
    pairs = DirectionPairs(reading[:, chosen].T, biases, mixed[chosen], x.mean(axis=0), absent)
    found = position_dependence(ConceptLayer.of(pairs, split), planted_images(32), wrap=False)
    assert found.verdicts[1] == "position"
    assert "position" not in found.verdicts[[0, 2]].tolist()


# ------------------------------------------------------------------ what is shown


def test_the_table_has_a_row_for_each_channel(found):
    table = found.table()
    assert [row[0].text for row in table.rows] == [str(i) for i in range(6)]
    verdicts = [row[table.headers.index("verdict")].text for row in table.rows]
    assert verdicts == list(CHANNELS.values())
    assert "6 concepts in 64 images" in str(found)
    assert "Layers that pad" in str(table)


def test_sentences_need_no_knowledge_of_the_measures(found):
    assert found.sentence(RAMP).startswith("It marks a place in the image, not a thing")
    assert found.sentence(INVARIANT) == "It answers to content, wherever in the image that is."
    with pytest.raises(ValueError, match="numbered 0 to 5"):
        found.sentence(6)


def test_the_plot_shows_what_depends_on_the_place_most(found):
    figure = found.plot()
    figure.canvas.draw()
    written = [text.get_text().replace("\n", " ") for ax in figure.axes for text in ax.texts]
    assert all(verdict in written for verdict in CHANNELS.values())
    assert len([ax for ax in figure.axes if ax.images]) == 6
    assert len([ax for ax in found.plot([RAMP]).axes if ax.images]) == 1
    with pytest.raises(ValueError, match="numbered 0 to 5"):
        found.plot([6])
