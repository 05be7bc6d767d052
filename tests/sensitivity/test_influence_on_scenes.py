"""The test of influence finds concepts that define classes, and nothing on random networks.

This is measured on the annotated scenes, whose classes are defined by known objects and grounds.
"""

import warnings

import numpy as np
import pytest
from annotated_masks import mask_of

from xplique_dirpairs.data.images import compute_activations
from xplique_dirpairs.datasets.annotated_scenes import (
    CLASS_NAMES,
    LAYER,
    annotated_scenes,
    random_scene_network,
    train_scene_network,
)
from xplique_dirpairs.datasets.scene_settings import CLASSES, DISTRACTOR
from xplique_dirpairs.extractors.concept_layer import ConceptLayer
from xplique_dirpairs.learning.history import LearningWarning
from xplique_dirpairs.learning.learner import learn_pairs
from xplique_dirpairs.learning.supervised import supervised_pairs
from xplique_dirpairs.models.head import Head
from xplique_dirpairs.models.split import split_model
from xplique_dirpairs.sensitivity.influence import influence, influence_of_directions

#: What is on the ground of each setting, and of no other; objects that tell classes apart.
GROUNDS = {"water": "sea", "meadow": "grass", "town": "road", "room": "wall"}
THINGS = ("house", "table", "parasol", "sofa", "car", "tree", "lamp")
KNOWN = [
    (name, k)
    for k, kind in enumerate(CLASSES.values())
    for name in (*THINGS, *GROUNDS.values())
    if name in (*kind.defining, GROUNDS[kind.setting])
]


@pytest.fixture(scope="module")
def scenes():
    return annotated_scenes(600, seed=1)


def influence_on(head, activations, directions):
    return influence_of_directions(head, activations, None, directions, verbose=0)


@pytest.mark.slow
def test_nothing_is_significant_on_networks_with_random_weights(scenes):
    shares, found = {"pairs": [], "Pattern-CAVs": []}, {"pairs": 0, "Pattern-CAVs": 0}
    for seed in range(10):
        g, h = split_model(random_scene_network(seed), LAYER)
        head, x = Head(h), compute_activations(g, scenes.images)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", LearningWarning)
            pairs, _ = learn_pairs(x, 20, head=head, random_state=seed, verbose=0)
        directions = {
            "pairs": pairs.signals,
            "Pattern-CAVs": supervised_pairs(scenes, activations=x).pairs.signals,
        }
        for kind, rows in directions.items():
            result = influence_on(head, x, rows)
            shares[kind].append(result.significant("none").mean())
            found[kind] += result.significant().any()
    print({kind: np.round(values, 3).tolist() for kind, values in shares.items()}, found)
    for kind, values in shares.items():
        assert np.mean(values) <= 0.06, kind
        assert found[kind] <= 1, kind


@pytest.mark.slow
def test_concepts_that_define_the_learned_classes_are_significant_with_the_right_sign():
    training = annotated_scenes(5000, seed=0)
    network = train_scene_network(training.images, training.labels, verbose=0)  # two minutes

    # The network learns the classes, and ignores what has nothing to do with them.
    fresh = annotated_scenes(1600, seed=1000)
    predicted = network.predict(fresh.images, verbose=0).argmax(axis=1) == fresh.labels
    assert predicted.mean() > 0.95
    has_balloon = mask_of(fresh, "object", DISTRACTOR).any(axis=(1, 2))
    assert abs(predicted[has_balloon].mean() - predicted[~has_balloon].mean()) < 0.04

    scenes = annotated_scenes(1000, seed=1)
    split = split_model(network, LAYER)
    x = compute_activations(split.input_to_latent_model, scenes.images)
    supervised = supervised_pairs(scenes, activations=x)
    names = sorted({name for name, _ in KNOWN} | {DISTRACTOR})
    rows = [supervised.index("object", name) for name in names]
    result = influence_on(Head(split.latent_to_logit_model), x, supervised.pairs.signals[rows])
    marked, positive = result.significant(), result.unit_effects > 0
    right = sum(marked[names.index(n), k] and positive[names.index(n), k] for n, k in KNOWN)
    assert len(KNOWN) == 21 and len(CLASS_NAMES) == 8
    print(right, result.significant("bonferroni").sum(), np.round(result.unit_effects, 2))
    assert right >= 18

    # A concept that contributes more than a logit is never said to have no effect.
    concepts = ConceptLayer.of(supervised.pairs, split)
    of_concepts = influence(concepts, scenes.images, scenes.labels, verbose=0)
    assert of_concepts.tests == of_concepts.effects.size
    assert (of_concepts.intervals > 0).all()
    sea, harbour = supervised.index("object", "sea"), CLASS_NAMES.index("harbour")
    assert of_concepts.effects[sea, harbour] > of_concepts.intervals[sea, harbour]
