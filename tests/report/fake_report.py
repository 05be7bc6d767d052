"""Reports with random content, of any size and with any names."""

import numpy as np

from xplique_dirpairs.connectome.result import Connectome, Edges, LayerConcepts
from xplique_dirpairs.core.tables import Cell, Table
from xplique_dirpairs.explanations.contributions import Confusion
from xplique_dirpairs.explanations.model_explanation import ModelExplanation
from xplique_dirpairs.report.content import (
    Change,
    ConceptPages,
    ExtractorConcepts,
    Fact,
    ImagePages,
    Label,
    LayerByLayer,
    LinkedConnectome,
    OtherNetwork,
    Report,
)
from xplique_dirpairs.sensitivity.influence_result import Influence

#: Names that break pages that put them into markup, scripts, addresses or narrow columns.
HOSTILE = (
    "<script>window.broken = 1</script>",
    "\"><img src=x onerror='window.broken = 2'>",
    "</script><script>window.broken = 3</script>",
    "javascript:window.broken = 4//",
    "${window.broken = 5} `x` {{style}} {{scripts}}",
    "  spaces  and\ttabs\nand lines  ",
    "日本語の名前 🐕 Ελληνικά عربى ‮reversed",
    "w" * 200,
    "a name of many words that goes on " * 6,
    "half a pair \ud800 &amp; & 'quotes' \"",
)


def fake_report(classes=3, concepts=4, images=6, side=48, names=None, cells=7, seed=0):
    """Return a random `Report`; ``names(kind, i)`` returns the name of, say, "concept" i."""
    rng = np.random.default_rng(seed)
    names = names or (lambda kind, i: f"{kind} {i}")
    contributions = rng.normal(size=(classes, concepts)) * rng.random(concepts) * 3
    named = {k: names("class", k) for k in range(classes)}
    logits, residuals = rng.normal(6, 1, classes), rng.normal(1, 1, classes)
    explanation = ModelExplanation(
        class_ids=np.arange(classes),
        class_names=tuple(named.values()),
        concept_names=tuple(names("concept", i) for i in range(concepts)),
        images=np.full(classes, max(1, images // classes)),
        accuracy=rng.random(classes),
        influence=Influence(
            scores=np.clip(contributions.T, -1, 1), changes=contributions.T / 3,
            logit_changes=contributions.T, images=np.full(classes, 10),
            effects=contributions.T / 2, intervals=np.abs(contributions.T) / 9,
            predicted=np.array([9] + [10] * (classes - 1)),
            p_values=np.where(
                np.arange(classes) > 0,
                (1 + rng.integers(0, 100, (concepts, classes))) / 500,
                np.nan,
            ),
            noise="uniform", noise_vectors=300, amount=5.0, statistic="logit", min_images=10,
            level=0.05,
        ),
        contributions=contributions,
        residuals=residuals,
        logits=logits,
        presence=rng.random((classes, concepts)),
        presence_outside=rng.random((classes, concepts)),
        occupancy=rng.random((classes, concepts)),
        occupancy_outside=rng.random((classes, concepts)),
        confusions=tuple(
            Confusion(
                k, (k + 1) % classes, (named[k], named[(k + 1) % classes]), 10, 2,
                contributions[(k + 1) % classes] - contributions[k], 0.5, -1.0,
                np.zeros(concepts), np.zeros(concepts), 0.0, 0.0,
            )
            for k in range(classes)
        ),
        crops=(),
        class_crops={},
        amount=5.0,
    )  # fmt: skip
    crop = max(8, side // 3)
    directions = rng.normal(size=(concepts, 32))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    pages = ConceptPages(
        crops=tuple(
            rng.integers(0, 255, (10 if i else 0, crop, crop, 3), np.uint8) for i in range(concepts)
        ),
        crop_images=tuple(
            rng.integers(-1, images, 10 if i else 0) for i in range(concepts)
        ),
        presence=rng.random(concepts),
        occupancy=rng.random(concepts) / 4,
        histogram=rng.dirichlet(np.geomspace(30, 0.1, 20), concepts),
        histogram_of="detection",
        signal_cosines=directions @ directions.T,
        filter_cosines=directions @ directions.T / 2,
        overlaps=np.abs(directions @ directions.T),
        labels=tuple(
            Label(names("label", i), "object", 0.3, 0.5, 0.4, 0.35) if i % 2 else None
            for i in range(concepts)
        ),
        pointed_classes=np.argsort(-contributions.T, axis=1)[:, :5],
        pointed_values=-np.sort(-np.tanh(contributions.T), axis=1)[:, :5],
        pointed_by="cosine",
        maximised=tuple(fake_picture(rng, side) for _ in range(concepts)),
        facts=tuple(
            (
                Fact(names("fact", i), names("sentence", i)),
                Fact("nearest", "With crops.", rng.integers(0, 255, (3, crop, crop, 3), np.uint8)),
            )
            if i % 2 else ()
            for i in range(concepts)
        ),
    )  # fmt: skip
    likeliest = np.argsort(rng.random((images, classes)), axis=1)[:, :5]
    of_images = rng.normal(size=(images, concepts))
    maps = np.clip(rng.normal(-0.6, 0.5, (images, cells, cells, concepts)), 0, 1)
    shown = ImagePages(
        pictures=tuple(fake_picture(rng, side) for _ in range(images)),
        names=tuple(names("image", n) for n in range(images)),
        labels=np.arange(images) % classes,
        likeliest=likeliest,
        probabilities=-np.sort(-rng.dirichlet(np.ones(likeliest.shape[1]), images), axis=1),
        scores=of_images.sum(axis=1) + 1.0,
        residuals=np.ones(images),
        contributions=of_images,
        maps=maps,
        changes=tuple(fake_change(n, int(likeliest[n, -1]), concepts) for n in range(images)),
        places=np.where(np.arange(images)[:, None] % 9, rng.random((images, 2)), np.nan),
        diagnoses=tuple(
            LayerByLayer(fake_picture(rng, side), names("diagnosis", n)) if n % 2 else None
            for n in range(images)
        ),
    )  # fmt: skip
    extractors = tuple(
        ExtractorConcepts(
            names("extractor", e),
            {k: rng.normal(size=concepts) for k in range(classes)},
            {i: rng.integers(0, 255, (2, crop, crop, 3), np.uint8) for i in range(concepts)},
        )
        for e in range(2)
    )
    networks = tuple(
        OtherNetwork(
            names("network", e), tuple(names("other concept", i) for i in range(concepts)),
            rng.permutation(concepts), rng.uniform(-1, 1, concepts), rng.uniform(-1, 1, concepts),
            rng.random(concepts) < 0.5,
            {i: rng.integers(0, 255, (2 if i else 0, crop, crop, 3), np.uint8)
             for i in range(concepts)},
        )
        for e in range(2)
    )  # fmt: skip
    return Report(
        title=names("title", 0),
        explanation=explanation,
        concepts=pages,
        images=shown,
        class_names=named,
        extractors=extractors,
        networks=networks,
        tables=(fake_table(names),),
        metrics={"deletion ↓": "Area under the class probability"},
        notes=(names("note", 0),),
        connectomes=(
            LinkedConnectome(names("connectome", 0), fake_connectome(names, concepts), 1),
            LinkedConnectome(names("connectome", 1), fake_connectome(names, 2), None),
        ),
    )


def fake_connectome(names, concepts, seed=0):
    """Return a random `Connectome` of two layers, which has ``concepts`` at the second one."""
    rng = np.random.default_rng(seed)
    layers = tuple(
        LayerConcepts(
            names("layer", n), tuple(names("concept", i) for i in range(count)),
            np.eye(count, 99), np.zeros((count, 99)), rng.random(count),
            tuple(rng.integers(0, 255, (i % 3, 8, 8, 3), np.uint8) for i in range(count)),
        )
        for n, count in enumerate((3, concepts))
    )  # fmt: skip
    edges = []
    for shape in ((3, concepts), (concepts, 2)):
        values = rng.uniform(-1, 1, shape)
        edges.append(Edges(np.sign(values), values, values, rng.random(shape), values > -0.5))
    settings = {"level": 0.05, "correction": "none", "images": 9, "direction": "signals"}
    return Connectome(layers, tuple(edges), (0, 1), (names("class", 0), "other"), settings)


def fake_change(n, after, concepts):
    """Return a counterfactual of image n: None if n is even, otherwise one of four in turn."""
    if n % 2 == 0:
        return None
    moved = np.arange(min(2, concepts))
    before, means = np.array([[1.0, 0.00412], [0.0, 0.00419]])[:, : len(moved)]
    changes = (
        Change("changed", after, moved, before, means, 0.2, 63.0),
        Change("not found", after, moved, before, means, 0.2, 111.4),
        Change("not found", after, moved[:0], before[:0], means[:0], np.nan, np.nan),
        Change("already the target", after, moved[:0], before[:0], means[:0], 0.0, 1.0),
    )
    return changes[n // 2 % 4]


def fake_table(names):
    """Return a table of three extractors and two metrics, in which one figure is missing."""
    figures = [(0.31, 0.9), (0.12, None), (0.205, 0.88)]
    rows = [
        [Cell(names("extractor", k))]
        + [
            Cell("–", numbers=(float("nan"),))
            if value is None
            else Cell(f"{value:.3f}", best=value in (0.12, 0.9), numbers=(value,))
            for value in row
        ]
        for k, row in enumerate(figures)
    ]
    return Table(["extractor", "deletion ↓", "insertion ↑"], rows, [names("caption", 0)])


def fake_picture(rng, side):
    """Return blocks of colour with a little noise, whose JPEG is as large as that of a photo."""
    coarse = rng.uniform(0, 255, (side // 16 + 1, side // 16 + 1, 3))
    fine = coarse.repeat(16, axis=0).repeat(16, axis=1)[:side, :side]
    return np.clip(fine + rng.normal(0, 12, fine.shape), 0, 255).astype(np.uint8)


def hostile(kind, i):
    """Return one of the `HOSTILE` names; each kind of names starts at another one."""
    return HOSTILE[(i + len(kind)) % len(HOSTILE)]
