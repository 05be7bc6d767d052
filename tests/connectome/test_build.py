from dataclasses import replace
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from planted_graph import its_connectome, planted_network
from scipy import stats
from sklearn.metrics import roc_auc_score

from xplique_dirpairs import ConceptLayer
from xplique_dirpairs.connectome.build import EdgeSettings, build_connectome
from xplique_dirpairs.connectome.layers import learned_positions, survey
from xplique_dirpairs.connectome.result import Connectome
from xplique_dirpairs.core.linear_algebra import cosines, match
from xplique_dirpairs.datasets.planted_connectome import LOWER, UPPER, planted_connectome
from xplique_dirpairs.factorizers.decompositions import KMeansFactorizer, PCAFactorizer
from xplique_dirpairs.factorizers.nonnegative import NMFFactorizer
from xplique_dirpairs.models.segment import segment_model
from xplique_dirpairs.models.split import split_model
from xplique_dirpairs.pairs import DirectionPairs


@pytest.fixture
def planted():
    return planted_network()


@pytest.fixture
def connectome():
    return its_connectome()


def build(planted, lower=None, upper=None, images=None, **options):
    settings = EdgeSettings(**options)
    pairs = {LOWER: lower or planted.lower, UPPER: upper or planted.upper}
    images = planted.images if images is None else images
    return build_connectome(planted.model, pairs, images, settings=settings, verbose=0)


def aucs(edges, values):
    return [roc_auc_score((s * edges > 0).ravel(), (s * values).ravel()) for s in (1, -1)]


def test_planted_edges_of_either_sign_are_found_and_no_others(planted, connectome):
    scores, effects = connectome.scores[0], connectome.effects[0]
    assert min(*aucs(planted.edges, scores), *aucs(planted.edges, effects)) >= 0.99
    absent = np.abs(effects[planted.edges == 0]).mean()
    assert absent <= 0.05 * np.abs(effects[planted.edges != 0]).mean()
    np.testing.assert_array_equal(np.sign(connectome.class_scores), planted.class_edges)


def test_kept_edges_are_planted_ones(planted, connectome):
    kept = connectome.kept[0]
    assert kept.any()
    assert not kept[planted.edges == 0].any()


@pytest.mark.parametrize("measure", ["slope", "shift"])
@pytest.mark.parametrize("target", ["coefficient", "detector"])
def test_each_measure_and_target_finds_the_planted_edges(planted, measure, target):
    found = build(planted, measure=measure, target=target, exemplars=8)
    assert min(aucs(planted.edges, found.effects[0])) >= 0.99


def test_paper_target_finds_less(planted, connectome):
    centres = np.mean(aucs(planted.edges, build(planted, target="centroid").effects[0]))
    assert centres < np.mean(aucs(planted.edges, connectome.effects[0]))


def test_linear_segment_has_the_effects_of_the_closed_form():
    planted = planted_connectome(24, linear=True)
    undecided = [
        split_layer(planted, name, pairs)
        for name, pairs in ((LOWER, planted.lower), (UPPER, planted.upper))
    ]
    found = build(planted, *undecided, target="detector")
    x = planted.images.astype(np.float64)
    jacobian = planted.model.get_layer("causes").get_weights()[0][0, 0].astype(np.float64)
    jacobian = jacobian @ planted.model.get_layer(UPPER).get_weights()[0][0, 0]
    lower = (np.maximum(x @ planted.lower.filters.T.astype(float), 0)).mean(axis=(1, 2))
    lengths = (planted.lower.bank() * planted.lower.signals).sum(axis=1)
    upper = (x @ jacobian @ planted.upper.filters.T).mean(axis=(1, 2))
    closed = planted.lower.signals @ jacobian @ planted.upper.filters.T
    closed = closed * (lower.std(axis=0) * lengths)[:, None] / upper.std(axis=0)
    np.testing.assert_allclose(found.effects[0], closed, atol=1e-5 * np.abs(closed).max())


def split_layer(planted, name, pairs):
    return ConceptLayer.of(pairs, split_model(planted.model, name))


def test_contributions_are_those_of_a_slow_second_writing(planted, connectome):
    segment = segment_model(planted.model, LOWER, UPPER)
    layer = split_layer(planted, LOWER, planted.lower)
    upper = split_layer(planted, UPPER, planted.upper)
    x = planted.images
    u, before = layer.coefficients(x), upper.coefficients(np.asarray(segment(x)))
    spreads = before.mean(axis=(1, 2)).std(axis=0)
    small = 1e-3
    expected = np.zeros_like(connectome.edges[0].contributions)
    for c in range(len(expected)):
        moved = x + small * u[..., [c]] * layer.bank[c]
        after = upper.coefficients(np.asarray(segment(moved)))
        expected[c] = (after - before).mean(axis=(0, 1, 2)) / small / spreads
    np.testing.assert_allclose(connectome.edges[0].contributions, expected, atol=0.02)


def slopes_by_steps(planted, images, step):
    """Return how each upper reading changes for a step along each signal, (I, n, J)."""
    segment = segment_model(planted.model, LOWER, UPPER)
    upper = split_layer(planted, UPPER, planted.upper)

    def read(x):
        return upper.coefficients(np.asarray(segment(x))).mean(axis=(1, 2), dtype=np.float64)

    before = read(images)
    return np.stack(
        [
            (read((images + size * signal).astype(np.float32)) - before) / size
            for signal, size in zip(planted.lower.signals, step, strict=True)
        ]
    )


def spreads(planted):
    """Return how much concepts of both layers vary over images, and how upper ones are shown."""
    layer = split_layer(planted, LOWER, planted.lower)
    upper = split_layer(planted, UPPER, planted.upper)
    y = np.asarray(segment_model(planted.model, LOWER, UPPER)(planted.images))
    spread = layer.coefficients(planted.images).mean(axis=(1, 2)).std(axis=0)
    spread = spread * (layer.bank * planted.lower.signals).sum(axis=1)
    upper_spread = upper.coefficients(y).mean(axis=(1, 2)).std(axis=0)
    shown = upper.shown(y).mean(axis=(1, 2))
    return spread, upper_spread, shown


def test_scores_effects_and_p_are_those_of_a_slow_second_writing(planted):
    found = build(planted, exemplars=5).edges[0]
    spread, upper_spread, shown = spreads(planted)
    for q in range(shown.shape[1]):
        best = [n for n in np.argsort(-shown[:, q], kind="stable")[:5] if shown[n, q] > 0]
        slopes = slopes_by_steps(planted, planted.images[best], np.full(8, 1e-3))[..., q]
        effects = slopes.mean(axis=1) * spread / upper_spread[q]
        np.testing.assert_allclose(found.effects[:, q], effects, atol=0.03 * np.abs(effects).max())
        clear = np.abs(effects) > 0.1 * np.abs(effects).max()
        scores = (slopes > 0).mean(axis=1) - (slopes < 0).mean(axis=1)
        np.testing.assert_allclose(found.scores[clear, q], scores[clear])


def test_shifts_are_those_of_a_slow_second_writing(planted):
    found = build(planted, measure="shift", exemplars=5).edges[0]
    spread, upper_spread, shown = spreads(planted)
    for q in range(shown.shape[1]):
        best = [n for n in np.argsort(-shown[:, q], kind="stable")[:5] if shown[n, q] > 0]
        slopes = slopes_by_steps(planted, planted.images[best], spread)[..., q].mean(axis=1)
        effects = slopes * spread / upper_spread[q]
        np.testing.assert_allclose(found.effects[:, q], effects, atol=1e-3 * np.abs(effects).max())


def test_p_of_shifts_in_a_linear_network_is_the_exact_one_but_for_its_noise():
    planted = planted_connectome(24, linear=True)
    found = build(planted, measure="shift", target="detector", exemplars=4, sample=2).edges
    exact = build(planted, measure="slope", target="detector", exemplars=4, sample=2).edges
    for ours, theirs in zip(found, exact, strict=True):
        assert np.nanmin(theirs.p_values) < 0.1
        np.testing.assert_allclose(ours.p_values, theirs.p_values, atol=0.1)


def test_edges_to_classes_are_those_of_a_slow_second_writing():
    """In a network whose logits are not centred, and whose slopes differ from image to image."""
    rng = np.random.default_rng(0)
    inner, outer = rng.standard_normal((8, 5)), rng.standard_normal((5, 4)) + [2, 0, 0, 0]
    inputs = keras.Input((3, 3, 8))
    y = keras.layers.Activation("linear", name=LOWER)(inputs)
    y = keras.layers.GlobalAveragePooling2D()(y)
    y = keras.layers.Dense(5, activation="tanh", use_bias=False, name="inner")(y)
    model = keras.Model(inputs, keras.layers.Dense(4, use_bias=False, name="outer")(y))
    model.get_layer("inner").set_weights([inner])
    model.get_layer("outer").set_weights([outer])
    x = rng.standard_normal((20, 3, 3, 8)).astype(np.float32)
    pairs = DirectionPairs(
        rng.standard_normal((3, 8)), rng.standard_normal(3), rng.standard_normal((3, 8)),
        np.zeros(8), np.zeros(3),
    )  # fmt: skip
    layer = ConceptLayer.of(pairs, split_model(model, LOWER))
    settings = EdgeSettings(exemplars=2, sample=20)
    found = build_connectome(model, {LOWER: layer}, x, settings=settings, verbose=0)

    signals = pairs.signals / np.linalg.norm(pairs.signals, axis=1)[:, None]
    u = layer.coefficients(x)
    hidden = np.tanh(x.mean(axis=(1, 2)) @ inner)
    logits = hidden @ outer
    centred = logits - logits.mean(axis=1)[:, None]
    assert len(found.class_ids) > 1
    edges = found.edges[0]
    for j, k in enumerate(found.class_ids):
        weights = outer[:, k] - outer.mean(axis=1)
        slopes = np.array([inner @ ((1 - h**2) * weights) for h in hidden])  # summed over positions
        own = [n for n in range(20) if logits[n].argmax() == k]
        best = sorted(own, key=lambda n: -centred[n, k])[:2]
        spread = centred[:, k].std()
        mean = slopes[best].mean(axis=0)
        for c in range(3):
            along = slopes[best] @ signals[c]
            assert edges.scores[c, j] == np.sign(along).mean()
            step = u[..., c].mean(axis=(1, 2)).std() * abs(layer.bank[c] @ signals[c])
            assert edges.effects[c, j] == pytest.approx(along.mean() * step / spread, rel=1e-4)
            added = [
                (slopes[n] / 9) @ layer.bank[c] * u[n, a, b, c] for n, a, b in np.ndindex(20, 3, 3)
            ]
            assert edges.contributions[c, j] == pytest.approx(
                sum(added) / 20 / spread, rel=1e-3, abs=1e-5
            )
            cosine = mean @ signals[c] / np.linalg.norm(mean)
            assert edges.p_values[c, j] == pytest.approx(
                stats.beta(0.5, 3.5).sf(cosine**2), abs=1e-4
            )


def test_a_negated_signal_negates_its_row_and_a_scaled_one_changes_nothing(planted, connectome):
    pairs = planted.lower
    scale = np.array([-1.0, *np.ones(7)])[:, None]
    flipped = replace(pairs, signals=pairs.signals * scale)
    found, before = build(planted, flipped), connectome.edges[0]
    np.testing.assert_allclose(found.scores[0][0], -before.scores[0])
    np.testing.assert_allclose(found.effects[0][1:], before.effects[1:], atol=1e-6)
    scaled = replace(pairs, filters=2 * pairs.filters, biases=2 * pairs.biases)
    np.testing.assert_allclose(
        build(planted, scaled).effects[0], before.effects, rtol=1e-4, atol=1e-6
    )


def test_order_of_images_and_of_concepts_and_batches_change_nothing(planted, connectome):
    order = np.random.default_rng(1).permutation(len(planted.images))
    concepts = np.random.default_rng(2).permutation(8)
    pairs = planted.lower
    shuffled = replace(
        pairs,
        **{
            name: getattr(pairs, name)[concepts]
            for name in ("filters", "biases", "signals", "absent_levels")
        },
    )
    settings = EdgeSettings(sample=len(order))
    found = build_connectome(
        planted.model,
        {LOWER: shuffled, UPPER: planted.upper},
        planted.images[order],
        settings=settings,
        batch_size=7,
        verbose=0,
    )
    for name in ("scores", "effects", "contributions", "p_values"):
        ours, theirs = getattr(found.edges[0], name), getattr(connectome.edges[0], name)
        np.testing.assert_allclose(ours, theirs[concepts], rtol=1e-4, atol=1e-5, err_msg=name)


def test_same_seed_gives_the_same_connectome(planted):
    first, second = (
        build(planted, noise="permuted labels", exemplars=8).p_values[0] for _ in range(2)
    )
    np.testing.assert_array_equal(first, second)


def test_permuted_labels_rank_planted_edges_first(planted):
    p = build(planted, noise="permuted labels", exemplars=8).p_values[0]
    assert np.median(p[planted.edges != 0]) < np.median(p[planted.edges == 0])


def test_learned_pairs_find_the_planted_edges():
    planted = planted_connectome(96, lower=16, side=8)
    found = build_connectome(
        planted.model, {LOWER: 16, UPPER: 6}, planted.images, random_state=0, verbose=0
    )
    signs, rows = [], []
    for layer, truth in zip(found.concept_layers, (planted.lower, planted.upper), strict=True):
        cosine = cosines(layer.encoding, truth.signals)
        matched = match(np.abs(cosine))
        rows.append(matched)
        signs.append(np.sign(cosine[matched, np.arange(len(matched))]))
    effects = found.effects[0][np.ix_(*rows)] * signs[0][:, None] * signs[1]
    assert min(aucs(planted.edges, effects)) >= 0.9


def test_shuffled_weights_and_random_directions_have_no_edges(planted):
    """Before correction, a share of the edges up to the level is kept."""
    rng = np.random.default_rng(0)
    shares, scores = [], []
    for _ in range(10):
        network = keras.models.clone_model(planted.model)
        network.set_weights(planted.model.get_weights())
        causes = network.get_layer("causes")
        weights = causes.get_weights()[0]
        causes.set_weights([rng.permutation(weights.ravel()).reshape(weights.shape)])
        found = build_connectome(
            network,
            {LOWER: planted.lower, UPPER: planted.upper},
            planted.images,
            settings=EdgeSettings(correction="none", exemplars=16, sample=2),
            verbose=0,
        )
        tested = np.isfinite(found.p_values[0])
        shares.append(found.kept[0][tested].mean())
        scores.append(aucs(planted.edges, np.nan_to_num(found.scores[0])))
    assert np.mean(shares) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / (10 * planted.edges.size))
    assert abs(np.mean(scores) - 0.5) <= 0.1


@pytest.mark.parametrize("factorizer", [PCAFactorizer(4), NMFFactorizer(4, random_state=0)])
def test_other_extractors_have_edges_too(planted, factorizer):
    factorizer = replace(factorizer)
    upper = np.asarray(segment_model(planted.model, LOWER, UPPER)(planted.images))
    upper = np.maximum(upper, 0)
    factorizer.fit(upper.reshape(-1, upper.shape[-1]))
    positive = planted_relu(planted)
    found = build_connectome(
        positive, {"positive": factorizer}, planted.images, class_ids=[0, 1, 2], verbose=0
    )
    assert found.class_scores.shape == (4, 3)
    assert np.isfinite(found.class_effects).all()


def planted_relu(planted):
    model = planted.model
    rest = keras.Model(model.get_layer(UPPER).output, model.output)
    positive = keras.layers.ReLU(name="positive")(model.get_layer(UPPER).output)
    return keras.Model(model.input, rest(positive))


def test_k_means_has_edges_by_its_distances(planted):
    kmeans = KMeansFactorizer(6, random_state=0)
    kmeans.fit(planted.images.reshape(-1, planted.images.shape[-1]))
    found = build(planted, kmeans, exemplars=8)
    assert np.isfinite(found.effects[0]).all()


def test_slopes_that_are_0_everywhere_are_warned_of(planted):
    upper = np.asarray(segment_model(planted.model, LOWER, UPPER)(planted.images))
    kmeans = KMeansFactorizer(4, random_state=0)
    kmeans.fit(upper.reshape(-1, upper.shape[-1]))
    with pytest.warns(UserWarning, match=r"lower to upper: .* 4 of 4 readings are 0 .*'shift'"):
        found = build(planted, upper=kmeans, exemplars=4)
    assert not found.effects[0].any()
    found = build(planted, upper=kmeans, exemplars=4, measure="shift")
    assert found.effects[0].any()


def test_class_ids_choose_the_classes(planted):
    found = build_connectome(
        planted.model, {UPPER: planted.upper}, planted.images, class_ids=[2, 0],
        class_names=["a", "b", "c"], verbose=0,
    )  # fmt: skip
    assert found.class_names == ("c", "a")
    np.testing.assert_array_equal(np.sign(found.class_scores), planted.class_edges[:, [2, 0]])


def test_names_of_a_concept_layer_are_kept(planted):
    names = [f"cause {i}" for i in range(8)]
    layer = ConceptLayer.of(planted.lower, split_model(planted.model, LOWER), concept_names=names)
    found = build_connectome(planted.model, {LOWER: layer}, planted.images, verbose=0)
    assert found.layers[0].concept_names == tuple(names)
    with pytest.raises(ValueError, match="belong to layer 'lower'"):
        build_connectome(planted.model, {UPPER: layer}, planted.images, verbose=0)


def test_survey_averages_over_images_and_positions(planted):
    layer = split_layer(planted, LOWER, planted.lower)
    found = survey(
        layer,
        planted.images,
        planted.images,
        is_last=False,
        crops=2,
        batch_size=7,
        random_state=0,
        verbose=0,
    )
    shown = layer.shown(planted.images)
    np.testing.assert_allclose(found.shown, shown.mean(axis=(1, 2)), rtol=1e-5)
    weights, x = shown.reshape(-1, 8), planted.images.reshape(-1, 64)
    centres = weights.T @ x / weights.sum(axis=0)[:, None]
    np.testing.assert_allclose(found.centres, centres, rtol=1e-3, atol=1e-4)
    assert all(len(crops) <= 2 for crops in found.crops)


def test_crops_are_cut_from_the_pictures(planted):
    pictures = np.full((48, 4, 4, 3), [10, 20, 30], np.uint8)
    found = build_connectome(
        planted.model, {LOWER: planted.lower}, planted.images, pictures=pictures, verbose=0
    )
    for crops in found.layers[0].crops:
        np.testing.assert_array_equal(np.unique(crops.reshape(-1, 3), axis=0), [[10, 20, 30]])
    with pytest.raises(ValueError, match="pictures must be of the images"):
        build_connectome(
            planted.model, {LOWER: planted.lower}, planted.images, pictures=pictures[1:], verbose=0
        )


def test_pairs_are_learned_from_as_many_positions_of_each_image(planted, monkeypatch):
    monkeypatch.setattr("xplique_dirpairs.connectome.layers.LEARNED_POSITIONS", 5 * 48)
    half = split_model(planted.model, LOWER).input_to_latent_model
    x = learned_positions(half, planted.images, 7, 0)
    assert x.shape == (48, 5, 64)
    maps = planted.images.reshape(48, -1, 64)
    for own, every in zip(x, maps, strict=True):
        rows = [np.flatnonzero((every == one).all(axis=1)).item() for one in own]
        assert len(set(rows)) == 5


@pytest.mark.parametrize("place", ["second layer", "last steps of a layer", "edges"])
def test_an_interruption_keeps_what_was_learned(planted, monkeypatch, place):
    learned = []

    def learn(x, count, **options):
        if place == "second layer" and learned:
            raise KeyboardInterrupt
        learned.append(count)
        history = SimpleNamespace(interrupted=place == "last steps of a layer" and count == 3)
        return planted.lower if count == 2 else planted.upper, history

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("xplique_dirpairs.connectome.layers.learn_pairs", learn)
    with monkeypatch.context() as patch:
        patch.setattr("xplique_dirpairs.connectome.build.responses_above", interrupted)
        with pytest.raises(KeyboardInterrupt, match=f"has the concepts of {LOWER}") as stopped:
            build_connectome(planted.model, {LOWER: 2, UPPER: 3}, planted.images, verbose=0)
    layers = stopped.value.layers
    assert layers[LOWER].fitted is planted.lower
    assert layers[UPPER] == 3 or place == "edges"
    # Only what is missing is learned.
    place = ""
    learned.clear()
    found = build_connectome(planted.model, layers, planted.images, verbose=0)
    assert learned == [3] * isinstance(layers[UPPER], int)
    assert found.scores[0].shape == planted.edges.shape


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_ids": [99]}, "class_ids must be different indices"),
        ({"class_names": ["x"]}, "class_names must be"),
        ({"settings": {"measure": "shift"}}, "settings must be EdgeSettings, not dict"),
        ({"upper": 0}, "number of concepts of layer"),
        ({"upper": "x"}, "x|str"),
        ({"upper": "wrong channels"}, "channels"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_learned(
    planted, monkeypatch, options, message
):
    monkeypatch.setattr("xplique_dirpairs.connectome.layers.learn_pairs", pytest.fail)
    upper = options.pop("upper", 2)
    upper = planted_connectome(24).lower if upper == "wrong channels" else upper
    with pytest.raises((TypeError, ValueError), match=message):
        build_connectome(
            planted.model, {LOWER: 2, UPPER: upper}, planted.images, verbose=0, **options
        )


def test_a_concept_that_no_image_shows_has_no_centre(planted):
    pairs = planted.lower
    biases = pairs.biases.copy()
    biases[1] = 1e4
    layer = split_layer(planted, LOWER, replace(pairs, biases=biases))
    images = planted.images
    read = survey(
        layer, images, images, is_last=False, crops=1, batch_size=32, random_state=0, verbose=0
    )
    assert np.isnan(read.centres[1]).all()
    assert np.isfinite(np.delete(read.centres, 1, axis=0)).all()


def test_bad_arguments_are_refused(planted):
    pairs = {LOWER: planted.lower, UPPER: planted.upper}
    with pytest.raises(ValueError, match="at least 2"):
        build_connectome(planted.model, pairs, planted.images[:1], verbose=0)
    with pytest.raises(ValueError, match="does not come before"):
        build_connectome(planted.model, dict(reversed(pairs.items())), planted.images, verbose=0)
    with pytest.raises(TypeError, match="dict of layer names"):
        build_connectome(planted.model, [planted.lower], planted.images, verbose=0)
    with pytest.raises(ValueError, match=r"layers is empty.* \{'block_3': 20"):
        build_connectome(planted.model, {}, planted.images, verbose=0)
    for wrong in ("4", 2.5):
        with pytest.raises(TypeError, match=r"unless it is a number, .* 'lower' must be .*, not"):
            build_connectome(planted.model, {LOWER: wrong}, planted.images, verbose=0)
    with pytest.raises(ValueError, match=r"layer 'causes': .* 64 channels"):
        build_connectome(planted.model, {"causes": planted.lower}, planted.images, verbose=0)
    with pytest.raises(ValueError, match="class_ids must be different"):
        build_connectome(planted.model, pairs, planted.images, class_ids=[0, 9], verbose=0)
    with pytest.raises(ValueError, match="number of concepts of layer"):
        build_connectome(planted.model, {LOWER: 0}, planted.images, verbose=0)
    for name, value in (("target", "x"), ("measure", "x"), ("level", 2), ("exemplars", 0)):
        with pytest.raises(ValueError, match=name):
            EdgeSettings(**{name: value})
    for other in ({"measure": "shift"}, {"direction": "filters"}):
        with pytest.raises(ValueError, match=r"only slopes along signal vectors .* use noise="):
            EdgeSettings(noise="permuted labels", **other)


def test_settings_of_numpy_are_saved_as_numbers(planted, tmp_path):
    numbers = {"exemplars": np.int64(5), "sample": np.int32(4), "level": np.float32(0.5), "tie": 0}
    found = build(planted, **numbers)
    found.save(tmp_path / "connectome.npz")
    settings = Connectome.load(tmp_path / "connectome.npz").settings
    assert {name: settings[name] for name in numbers} == numbers
