import itertools
import json
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest

from xplique_dirpairs.connectome.result import Connectome, Edges, LayerConcepts

PICTURES = np.zeros((2, 4, 4, 3), np.uint8)


@pytest.fixture
def made():
    """A connectome of three layers with random effects, of which half are kept."""
    rng = np.random.default_rng(0)
    sizes = (4, 3, 5, 2)
    layers = tuple(
        LayerConcepts(
            f"layer {n}", tuple(f"{n}.{i}" for i in range(size)), np.eye(6)[:size],
            rng.random((size, 6)), rng.random(size), (PICTURES,) * size,
        )
        for n, size in enumerate(sizes[:-1])
    )  # fmt: skip
    edges = []
    for shape in itertools.pairwise(sizes):
        scores, effects, contributions = rng.standard_normal((3, *shape))
        kept = rng.random(shape) < 0.5
        edges.append(Edges(np.tanh(scores), effects, contributions, rng.random(shape), kept))
    settings = {
        "level": 0.05,
        "correction": "benjamini-hochberg",
        "direction": "signals",
        "images": 9,
    }
    return Connectome(layers, tuple(edges), (3, 7), ("cat", "dog"), settings)


def test_paths_are_the_strongest_of_all_chains(made):
    chains = []
    for concepts in itertools.product(range(4), range(3), range(5)):
        effect = 1.0
        for n, each in enumerate(made.edges):
            step = concepts[n], (*concepts, 1)[n + 1]
            effect *= each.effects[step] if each.kept[step] else 0.0
        chains.append((effect, concepts))
    chains = sorted((c for c in chains if c[0]), key=lambda chain: -abs(chain[0]))
    found = made.paths("dog", count=7)
    assert [path.concepts for path in found] == [concepts for _, concepts in chains[:7]]
    np.testing.assert_allclose([path.effect for path in found], [e for e, _ in chains[:7]])
    assert found[0].names[-1] == "dog"
    assert [p.concepts for p in made.paths(7, count=7)] == [p.concepts for p in found]
    assert len(made.paths(7, count=1000)) == len(chains)


def test_classes_of_the_same_name_are_told_apart_by_their_indices(made):
    same = replace(made, class_names=("crane", "crane"))
    for k in (3, 7):
        assert [one.effect for one in same.paths(k)] == [one.effect for one in made.paths(k)]
        assert {one.names[-1] for one in same.paths(k)} == {f"crane ({k})"}
    for ask in (same.paths, same.plot):
        with pytest.raises(ValueError, match=r"name of classes \[3, 7\]: give the index of one"):
            ask("crane")
    assert "crane (7)" in str(same.table())
    figure = same.plot()
    assert {"crane (3)", "crane (7)"} <= {text.get_text() for text in figure.axes[0].texts}
    plt.close(figure)


def test_metrics_count_positive_kept_edges(made):
    figures = made.metrics()
    assert [one["concepts"] for one in figures] == [4, 3, 5]
    each = made.edges[1]
    positive = sum(
        each.kept[i, j] and each.scores[i, j] > 0 for i, j in itertools.product(range(3), range(5))
    )
    assert figures[1]["branching"] == pytest.approx(positive / 5)
    assert figures[1]["edge mean"] == pytest.approx(np.abs(each.scores[each.kept]).mean())


def test_metrics_of_the_published_form_are_those_of_a_slow_second_writing(made):
    scores = 2 * np.random.default_rng(1).integers(0, 5, (4, 3)) / 4 - 1  # of four segments
    first = replace(made.edges[0], scores=scores, kept=np.arange(12).reshape(4, 3) % 2 == 0)
    published = replace(
        made, edges=(first, *made.edges[1:]), settings={**made.settings, "direction": "cav"}
    )
    weights, positive = [], [0, 0, 0]
    for i, j in itertools.product(range(4), range(3)):
        share = (1 + scores[i, j]) / 2
        if (3 * i + j) % 2 == 0:
            weights.append(share)
            positive[j] += share > 0
    assert 0 in weights
    mean = sum(weights) / len(weights)
    figures = published.metrics()[0]
    assert figures["edge mean"] == pytest.approx(mean)
    variance = sum((one - mean) ** 2 for one in weights) / len(weights)
    assert figures["edge variance"] == pytest.approx(variance)
    assert figures["branching"] == pytest.approx(sum(positive) / 3)


def test_table_has_the_kept_edges_the_largest_first(made):
    table = made.table()
    assert len(table.rows) == sum(each.kept.sum() for each in made.edges)
    effects = [abs(row[4].numbers[0]) for row in table.rows if row[0].text == "layer 1"]
    assert effects == sorted(effects, reverse=True)
    assert "layer 2 to classes" in str(table)
    assert len(made.table(at_most=1).rows) == 3


def test_a_saved_connectome_comes_back(made, tmp_path):
    made.save(tmp_path / "connectome.npz")
    loaded = Connectome.load(tmp_path / "connectome.npz")
    for ours, theirs in zip(loaded.edges, made.edges, strict=True):
        for name, value in vars(theirs).items():
            np.testing.assert_array_equal(getattr(ours, name), value)
    for ours, theirs in zip(loaded.layers, made.layers, strict=True):
        assert (ours.name, ours.concept_names) == (theirs.name, theirs.concept_names)
        for name in ("signals", "centres", "shares"):
            np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
        assert [crops.shape for crops in ours.crops] == [crops.shape for crops in theirs.crops]
    assert loaded.class_ids == (3, 7)
    assert loaded.class_names == ("cat", "dog")
    assert loaded.concept_layers is None
    assert str(loaded) == str(made)


def test_another_file_is_refused(tmp_path):
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    with pytest.raises(ValueError, match="not a file of a connectome"):
        Connectome.load(tmp_path / "other.npz")


@pytest.mark.parametrize(
    ("arrays", "header"),
    [
        ({"0.scores": np.zeros((2, 2))}, {}),
        ({"1.kept": np.zeros((3, 5))}, {}),
        ({"0.effects": np.zeros((4, 3), "U1")}, {}),
        ({"0.signals": np.zeros(())}, {}),
        ({"0.crops.0": np.zeros(3, np.uint8)}, {}),
        ({}, {"layers": [["layer 0", ["a"]], ["layer 1", ["b"]], ["layer 2", ["c"]]]}),
        ({}, {"layers": []}),
        ({}, {"layers": 5}),
        ({}, {"settings": {}}),
        ({}, {"settings": [1]}),
        ({}, {"settings": {"level": "x", "correction": "none", "direction": "x", "images": 1}}),
        ({}, {"class_names": ["cat"]}),
        ({}, {"class_names": [1, 2]}),
        ({}, {"class_ids": ["x", "y"]}),
    ],
)
def test_files_of_the_right_form_with_other_content_are_damaged(made, tmp_path, arrays, header):
    path = tmp_path / "connectome.npz"
    made.save(path)
    content = dict(np.load(path))
    content["header"] = np.array(json.dumps({**json.loads(str(content["header"])), **header}))
    np.savez(path, **{**content, **arrays})
    with pytest.raises(ValueError, match="is damaged"):
        Connectome.load(path)


def test_plot_draws_kept_edges_between_at_most_that_many_concepts(made):
    figure = made.plot(at_most=3)
    (ax,) = figure.axes
    texts = [text.get_text() for text in ax.texts]
    assert "layer 0: 3 of 4" in texts
    assert sum(text.startswith("2.") for text in texts) == 3
    assert {"cat", "dog"} <= set(texts)
    plt.close(figure)
    figure = made.plot("cat")
    assert "dog" not in [text.get_text() for text in figure.axes[0].texts]
    lines = [line for line in figure.axes[0].lines if len(line.get_xdata())]
    kept = sum(each.kept.sum() for each in made.edges[:2]) + made.edges[2].kept[:, 0].sum()
    assert len(lines) == kept
    plt.close(figure)


def test_unknown_classes_are_refused(made):
    for class_id in (0, "bird", True, 3.0):
        with pytest.raises(ValueError, match="class_id"):
            made.paths(class_id)
        with pytest.raises(ValueError, match="class_id"):
            made.plot(class_id)
    with pytest.raises(ValueError, match="count"):
        made.paths(3, count=0)
    with pytest.raises(ValueError, match="at_most"):
        made.table(at_most=0)
