"""The influence of directions on the annotated scenes, for influence.py and ablation.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from annotated import AnnotatedLayer, layer_of_scenes
from numpy.typing import NDArray

from xplique_dirpairs.core.tables import Cell, Table
from xplique_dirpairs.data.annotated_images import flat_concepts
from xplique_dirpairs.datasets.annotated_scenes import CLASS_NAMES, random_scene_network
from xplique_dirpairs.datasets.scene_settings import CLASSES, DISTRACTOR
from xplique_dirpairs.extractors.concept_layer import ConceptLayer
from xplique_dirpairs.learning.learner import learn_pairs
from xplique_dirpairs.learning.supervised import SupervisedPairs, cell_coverage, supervised_pairs
from xplique_dirpairs.models.split import split_model
from xplique_dirpairs.pairs import DirectionPairs
from xplique_dirpairs.sensitivity.influence import (
    InfluenceSettings,
    influence,
    influence_of_directions,
)
from xplique_dirpairs.sensitivity.influence_result import Influence
from xplique_dirpairs.sensitivity.influence_summary import s3
from xplique_dirpairs.sensitivity.noise_vectors import mean_difference_noise, trained_filter_noise
from xplique_dirpairs.sensitivity.responses import sensitivity, tcav_scores


class Test(NamedTuple):
    """A test of significance."""

    images: str
    noise: str


#: Settings of each kind of noise. Uniform directions are compared by the effect on the centred
#: logit, whatever the images are; the others by |mean Δ|.
NOISE: dict[str, dict[str, Any]] = {
    "uniform": {},
    "mean difference": {"noise": "permuted labels", "estimator": mean_difference_noise},
    "trained filter": {"noise": "permuted labels", "estimator": trained_filter_noise},
}
UNIFORM = Test("all", "uniform")
#: The paper's test: over each class's own images.
OWN_TESTS = (UNIFORM, *(Test("class", noise) for noise in list(NOISE)[1:]))
ALL_TESTS = (*OWN_TESTS, *(Test("all", noise) for noise in list(NOISE)[1:]))

#: What is on the ground of each setting, and of no other.
_GROUNDS = {"water": "sea", "meadow": "grass", "town": "road", "room": "wall"}
#: Objects that tell classes apart. The boat is left out, as it always comes with the sea, and so is
#: the picture, which is in many kitchens.
_THINGS = ("house", "table", "parasol", "sofa", "car", "tree", "lamp")
#: Concepts that define classes, and which: (C, K).
DEFINING = (*_THINGS, *_GROUNDS.values())
DEFINES = np.array(
    [
        [name in (*kind.defining, _GROUNDS[kind.setting]) for kind in CLASSES.values()]
        for name in DEFINING
    ]
)

Found = dict[Test, Influence]


def influences(
    data: AnnotatedLayer,
    directions: NDArray,
    detections: NDArray,
    how: dict[str, Any],
    tests: Sequence[Test] = OWN_TESTS,
) -> Found:
    """Return the influence of directions on validation images, against noise of training images."""
    by_test = {}
    for test in tests:
        settings = InfluenceSettings(images=test.images, **NOISE[test.noise], **how)
        found = influence_of_directions(
            data.head, data.x_validation, data.validation.labels, directions, detections,
            data.x_training, settings=settings, verbose=0,
        )  # fmt: skip
        if found.interrupted:
            raise KeyboardInterrupt  # a table of what was tested by then would not say so
        by_test[test] = found
    return by_test


def of_pairs(
    data: AnnotatedLayer,
    pairs: DirectionPairs,
    how: dict[str, Any],
    tests: Sequence[Test] = OWN_TESTS,
) -> Found:
    """Return the influence of the signal vectors."""
    detections = pairs.project(data.x_training) > pairs.biases
    return influences(data, pairs.signals, detections, how, tests)


def of_references(
    data: AnnotatedLayer,
    supervised: SupervisedPairs,
    which: Sequence[int] | slice,
    how: dict[str, Any],
) -> Found:
    """Return the influence of annotated concepts' Pattern-CAVs, against noise of mask labels."""
    cells, concepts = data.x_training.shape[1:3], data.training.concepts
    shares, _ = cell_coverage(data.training.masks, concepts, cells)
    there = shares[..., supervised.labels] >= (1 - 1e-5) * supervised.coverage
    return influences(data, supervised.pairs.signals[which], there[..., which], how, ALL_TESTS)


def s3_of(
    data: AnnotatedLayer,
    directions: NDArray,
    labels: NDArray,
    supervised: SupervisedPairs,
    amount: float,
) -> float:
    """Return S³ of directions, by the labels of their detectors."""
    scores, of_cavs = (
        sensitivity(data.head, data.x_validation, data.validation.labels, d, amount=amount).scores
        for d in (directions, supervised.pairs.signals)
    )
    rows = np.full((len(flat_concepts(data.training.concepts)), scores.shape[1]), np.nan)
    rows[supervised.labels] = of_cavs
    return s3(scores, labels, rows)


# ------------------------------------------------------------------------------ known concepts


def known_concepts(
    data: AnnotatedLayer, supervised: SupervisedPairs, how: dict[str, Any]
) -> tuple[list[str], Found]:
    """Return names and influence of concepts that define classes and, last, of the distractor.

    Corrections are over these tests.
    """
    names = [n for n in (*DEFINING, DISTRACTOR) if ("object", n) in supervised.concepts]
    rows = [supervised.index("object", name) for name in names]
    return names, of_references(data, supervised, rows, how)


def effects_table(names: list[str], found: Influence) -> Table:
    """Return a table of the unit effect of each concept on each class."""
    rows, marked = [], found.significant()
    for i, name in enumerate(names):
        cells = [Cell(name)]
        for k, effect in enumerate(found.unit_effects[i]):
            mark = "*" if marked[i, k] else "°" * bool(found.p_values[i, k] <= found.level)
            defines = name in DEFINING and DEFINES[DEFINING.index(name), k]
            cells.append(Cell(f"{effect:+.2f}{mark}", bool(defines), (effect,)))
        rows.append(cells)
    note = (
        "Unit effects (logits). Bold: the concept defines the class. *: significant "
        f"(Benjamini–Hochberg over the table), °: p ≤ {found.level:g}, not corrected."
    )
    return Table(["Pattern-CAV", *CLASS_NAMES], rows, [note])


def logits_table(data: AnnotatedLayer, supervised: SupervisedPairs, names: list[str]) -> Table:
    """Return a table of the effect in logits of each concept on each class, in its images."""
    concepts = ConceptLayer.of(supervised.pairs, split_model(data.model, data.name))
    found = influence(concepts, data.validation.images, data.validation.labels, verbose=0)
    rows = []
    for name in names:
        i, cells = supervised.index("object", name), [Cell(name)]
        for k in range(len(CLASS_NAMES)):
            cell = Cell.interval(found.effects[i, k], found.intervals[i, k])
            defines = name in DEFINING and DEFINES[DEFINING.index(name), k]
            cells.append(Cell(cell.text, bool(defines), cell.numbers))
        rows.append(cells)
    note = "Effect in logits ± 95 % interval. Bold: the concept defines the class."
    return Table(["Pattern-CAV", *CLASS_NAMES], rows, [note])


def known_signs(names: list[str], found: Influence) -> str:
    """Return the unit effects where they must be positive, elsewhere, and of the distractor."""
    rows = [i for i, name in enumerate(names) if name in DEFINING]
    defines = DEFINES[[DEFINING.index(names[i]) for i in rows]]
    effects = found.unit_effects[rows]
    said = (
        f"the unit effect is positive for {int((effects[defines] > 0).sum())} of {defines.sum()} "
        f"pairs of a concept and a class that it defines, {effects[defines].mean():+.2f} on "
        f"average; of the same concepts on other classes {effects[~defines].mean():+.2f}"
    )
    if DISTRACTOR in names:
        of_distractor = found.unit_effects[names.index(DISTRACTOR)]
        said += (
            f"; of the {DISTRACTOR} {of_distractor.mean():+.2f}, by size "
            f"{np.abs(of_distractor).mean():.2f}, of the others {np.abs(effects).mean():.2f}"
        )
    return said


def known_concepts_table(names: list[str], by_test: Found) -> Table:
    """Return how many pairs are significant, of those that must be and of those that must not."""
    nothing = np.zeros(len(CLASS_NAMES), bool)
    defines = np.array([DEFINES[DEFINING.index(n)] if n in DEFINING else nothing for n in names])
    corrections = {"none": "p ≤ 0.05", "benjamini-hochberg": "BH", "bonferroni": "Bonferroni"}
    rows = []
    for test, found in by_test.items():
        cells = [*map(Cell, test)]
        for correction in corrections:
            if not found.reachable(correction):
                cells += [Cell("unreachable", numbers=(np.nan,))] * 2
                continue
            significant = found.significant(correction)
            marked = significant & defines
            effects = found.unit_effects
            counts = [int((marked & (sign * effects > 0)).sum()) for sign in (1, -1)]
            text = f"{counts[0]} help, {counts[1]} hurt"
            cells.append(Cell(text, numbers=tuple(map(float, counts))))
            ignored = int(significant[names.index(DISTRACTOR)].sum()) if DISTRACTOR in names else 0
            cells.append(Cell(str(ignored), numbers=(ignored,)))
        rows.append(cells)
    headers = ["images", "noise"]
    for short in corrections.values():
        headers += [f"defining, {short}", f"{DISTRACTOR}, {short}"]
    note = (
        f"Of {defines.sum()} pairs of a concept and a class that it defines, those significant; of "
        f"{len(CLASS_NAMES)} classes, those for which the {DISTRACTOR} is. Images: of the "
        "class, or all."
    )
    return Table(headers, rows, [note])


def tcav_table(data: AnnotatedLayer, supervised: SupervisedPairs, names: list[str]) -> Table:
    """Return Xplique's TCAV of the same Pattern-CAVs, minus that of their opposites, in [−1, 1]."""
    _, h = split_model(data.model, data.name)
    directions = supervised.pairs.signals[[supervised.index("object", name) for name in names]]
    along, against = (
        tcav_scores(h, data.x_validation, data.validation.labels, sign * directions)
        for sign in (1, -1)
    )
    rows = []
    for i, name in enumerate(names):
        cells = [Cell(name)]
        for k, score in enumerate(along[i] - against[i]):
            defines = name in DEFINING and DEFINES[DEFINING.index(name), k]
            cells.append(Cell(f"{score:+.2f}", bool(defines), (float(score),)))
        rows.append(cells)
    note = "TCAV of the direction minus TCAV of its opposite. Bold: the concept defines the class."
    return Table(["TCAV", *CLASS_NAMES], rows, [note])


# ------------------------------------------------------------------------------ random weights


def any_at_all(found: Influence) -> float:
    """Return whether any test is significant by Bonferroni; NaN with too few noise vectors."""
    return float(found.significant("bonferroni").any()) if found.reachable("bonferroni") else np.nan


def networks_cell(any_of_network: NDArray) -> Cell:
    """Return the cell with the number of networks that have any."""
    if np.isnan(any_of_network).any():
        return Cell("unreachable", numbers=(np.nan,))
    return Cell(f"{int(any_of_network.sum())} of {len(any_of_network)}")


def false_positives_table(
    networks: int, training: int, validation: int, concepts: int, how: dict[str, Any]
) -> Table:
    """Return how often directions are significant on networks with random weights."""
    counted: dict[tuple[str, Test], list[tuple[float, ...]]] = {}
    for seed in range(networks):
        data = layer_of_scenes(random_scene_network(seed), training, validation, {})
        pairs, _ = learn_pairs(
            data.x_training, concepts, head=data.head, random_state=seed, verbose=0
        )
        supervised = supervised_pairs(data.training, activations=data.x_training)
        kinds = {
            "direction pairs": of_pairs(data, pairs, how, ALL_TESTS),
            "Pattern-CAVs": of_references(data, supervised, slice(None), how),
        }
        for kind, by_test in kinds.items():
            for test, found in by_test.items():
                tests = max(found.tests, 1)
                shares = [
                    float(found.significant(c).sum() / tests)
                    for c in ("none", "benjamini-hochberg")
                ]
                counted.setdefault((kind, test), []).append((tests, *shares, any_at_all(found)))
    rows = []
    for (kind, test), values in counted.items():
        tests, *shares, any_of_network = np.array(values).T
        cells = [Cell(kind), *map(Cell, test), Cell(f"{int(tests.sum())}")]
        cells += [Cell(f"{s.mean():.3f} ({s.max():.3f})", numbers=(s.mean(),)) for s in shares]
        rows.append([*cells, networks_cell(any_of_network)])
    headers = ["directions", "images", "noise", "tests"]
    note = (
        f"Shares of the tests, mean (largest) over {networks} networks with random weights, and "
        "networks with any; nominal level: 0.05. Tests of one network share its weights: shares "
        "differ more from network to network than independent tests' would."
    )
    return Table([*headers, "p ≤ 0.05", "BH", "any, Bonferroni"], rows, [note])
