"""Which concepts two networks share: a CNN and a small ViT on the same scenes, and two layers.

    python benchmarks/two_networks.py --output DIR
    python benchmarks/two_networks.py --output DIR --parts layers --data DIR
    python benchmarks/two_networks.py --output DIR --parts pictures

    scenes   the annotated scenes' CNN, and a vision transformer that is trained on the same scenes
    layers   two layers of MobileNetV2 on photographs ("general"), averaged to 7 × 7 cells; --data
             is laid out as for real_network.py

    pictures pictures of the concepts that pairs learned together share, made for each network: how
             many raise the concept above the 95 % quantile of the scenes (mean coefficient of an
             image), in their own network and in the other one

Concepts are learned on the training images by four methods: pairs of each network, pairs of both
together, USAE, and FastICA of each network; which concepts are the same is found, or checked where
it is claimed, on validation images by `match_extractors`. Columns:

    concepts    of the first and of the second network
    universal   of these, in a match that holds: found again on images that it was not found on
    r, φ        medians over the matches that hold
    cross R²    by ridge from the matched concepts of the first network to the second and back,
                (ceiling from all features)
    IoU         (scenes) mean IoU of the concepts with their labels, of universal concepts and of
                private ones, both networks, and S² of each network
    p           that the former is at least this much larger by chance: 9,999 permutations of which
                concepts of a network are universal

Networks are trained once and kept in --output.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
from annotated import NETWORK_IMAGES, NETWORK_SEED, TRAINING_SEED, VALIDATION_SEED, scene_network
from keras import layers
from numpy.typing import NDArray
from real_network import load_data

from xplique_dirpairs.core.tables import Cell, Table
from xplique_dirpairs.data.alignment import align_positions
from xplique_dirpairs.data.images import compute_activations
from xplique_dirpairs.datasets.annotated_scenes import (
    CLASS_NAMES,
    LAYER,
    SIDE,
    annotated_scenes,
)
from xplique_dirpairs.datasets.pictures import train_classifier
from xplique_dirpairs.extractors.concept_layer import ConceptLayer
from xplique_dirpairs.factorizers.decompositions import FastICAFactorizer
from xplique_dirpairs.factorizers.universal import UniversalFactorizer
from xplique_dirpairs.learning.learner import learn_pairs
from xplique_dirpairs.learning.universal_pairs import learn_universal_pairs
from xplique_dirpairs.matching.match_extractors import match_extractors
from xplique_dirpairs.matching.match_result import Matches
from xplique_dirpairs.maximisation.together import maximise_together
from xplique_dirpairs.metrics.labelled_detectors import interpretability
from xplique_dirpairs.models.split import split_model

#: Layer of the transformer: tokens after the last block.
TOKENS = "tokens"
#: Width and number of the blocks of the transformer.
_WIDTH, _BLOCKS = 64, 2
#: Layers of MobileNetV2, with maps of 14 × 14 and of 7 × 7 cells.
REAL_LAYERS = ("block_13_expand_relu", "block_16_expand_relu")

Networks = Mapping[str, NDArray]
Learned = tuple[dict[str, Any], NDArray | None, float | None]


def scene_transformer(folder: Path, epochs: int) -> keras.Model:
    """Return a small vision transformer of the scenes, trained once and kept in the folder."""
    path = folder / f"scene_transformer_{NETWORK_IMAGES}_{epochs}.keras"
    if path.exists():
        return keras.models.load_model(path)
    print(f"training the transformer on {NETWORK_IMAGES} scenes", flush=True)
    scenes = annotated_scenes(NETWORK_IMAGES, seed=NETWORK_SEED)
    model = untrained_transformer()
    train_classifier(model, scenes.images, scenes.labels, epochs, 2)
    folder.mkdir(parents=True, exist_ok=True)
    model.save(path)
    return model


def untrained_transformer(seed: int = 0) -> keras.Model:
    """Return the transformer with random weights: 8 × 8 tokens, two blocks, averaged tokens."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((SIDE, SIDE, 3))
    # two steps to patches of 8 × 8 pixels, with which few images are enough
    x = layers.Conv2D(_WIDTH // 2, 4, 4, activation="relu")(inputs)
    x = layers.Conv2D(_WIDTH, 2, 2)(x)
    x = layers.Reshape((-1, _WIDTH))(x)
    places = keras.ops.arange(x.shape[1])
    x = x + layers.Embedding(x.shape[1], _WIDTH)(places)
    for number in range(_BLOCKS):
        attended = layers.LayerNormalization()(x)
        x = layers.Add()([x, layers.MultiHeadAttention(4, _WIDTH // 4)(attended, attended)])
        hidden = layers.Dense(2 * _WIDTH, "gelu")(layers.LayerNormalization()(x))
        last = number == _BLOCKS - 1
        x = layers.Add(name=TOKENS if last else None)([x, layers.Dense(_WIDTH)(hidden)])
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))
    return keras.Model(inputs, layers.Dense(len(CLASS_NAMES))(x), name="scene_transformer")


# ------------------------------------------------------------ methods


def separate_pairs(training: Networks, concepts: int, seed: int) -> Learned:
    """Learn pairs of each network."""
    fitted = {
        k: learn_pairs(x, concepts, random_state=seed, verbose=0)[0] for k, x in training.items()
    }
    return fitted, None, None


def universal_pairs(training: Networks, concepts: int, seed: int) -> Learned:
    """Learn pairs of both networks together."""
    universal = learn_universal_pairs(training, concepts, random_state=seed, verbose=0)
    print(f"universal pairs: recipe {universal.recipe}", flush=True)
    return dict(universal.pairs), universal.shared, None


def usae(training: Networks, concepts: int, seed: int) -> Learned:
    """Learn a universal sparse autoencoder."""
    universal = UniversalFactorizer(concepts, random_state=seed).fit(training)
    return {k: universal[k] for k in universal}, universal.concepts, 0.1


def separate_ica(training: Networks, concepts: int, seed: int) -> Learned:
    """Fit FastICA to each network."""
    fitted = {k: FastICAFactorizer(concepts, random_state=seed) for k in training}
    for k, x in training.items():
        fitted[k].fit(x.reshape(-1, x.shape[-1]))
    return fitted, None, None


METHODS: dict[str, Callable[[Networks, int, int], Learned]] = {
    "pairs, separate": separate_pairs,
    "pairs, together": universal_pairs,
    "USAE": usae,
    "FastICA, separate": separate_ica,
}


# ------------------------------------------------------------ measuring


def universal_concepts(found: Matches, m: int, number: int) -> NDArray:
    """Return which concepts of network m are in a match that holds, (I_m,) bool."""
    own = found.concepts[found.holds, m]
    return np.isin(np.arange(number), own[own >= 0])


def shared_cells(found: Matches, fitted: Mapping[str, Any]) -> list[Cell]:
    """Return cells on what is shared."""
    numbers = [len(names) for names in found.concept_names]
    universal = [int(universal_concepts(found, m, n).sum()) for m, n in enumerate(numbers)]
    holds = found.holds
    assert found.cross_r2 is not None and found.ceiling is not None
    cross = [f"{found.cross_r2[i, j]:.2f} ({found.ceiling[i, j]:.2f})" for i, j in ((0, 1), (1, 0))]
    return [
        Cell(" / ".join(map(str, numbers))),
        Cell(" / ".join(map(str, universal))),
        Cell.figure(float(np.median(found.correlation[holds])) if holds.any() else np.nan, 2),
        Cell.figure(float(np.median(found.phi[holds])) if holds.any() else np.nan, 2),
        Cell(" / ".join(cross)),
    ]


def detector_iou(one: Any, scenes: tuple, x: tuple[NDArray, NDArray]) -> tuple[NDArray, float]:
    """Return the IoU of each concept with its label on validation images, and S²."""
    training, validation = scenes
    pairs = hasattr(one, "biases")
    read = one.project if pairs else one.encode

    def maps(block: NDArray) -> NDArray:
        cells = block.reshape(len(block), 8, 8, -1)
        return np.asarray(read(cells.reshape(-1, cells.shape[-1]))).reshape(*cells.shape[:3], -1)

    scored = interpretability(
        training,
        validation,
        maps,
        one.biases if pairs else None,
        training_activations=x[0],
        validation_activations=x[1],
    )
    return np.nan_to_num(scored.iou), float(scored.s2)


def iou_cells(
    found: Matches, fitted: Mapping[str, Any], scenes: tuple, x: Mapping[str, tuple]
) -> list[Cell]:
    """Return cells that compare the IoU of universal concepts with that of private ones."""
    ious, flags, s2 = [], [], []
    for m, (name, one) in enumerate(fitted.items()):
        iou, score = detector_iou(one, scenes, x[name])
        ious.append(iou)
        flags.append(universal_concepts(found, m, len(iou)))
        s2.append(score)
    values, is_universal = np.concatenate(ious), np.concatenate(flags)
    if is_universal.all() or not is_universal.any():
        return [Cell(f"{values.mean():.3f}"), Cell("–"), Cell("–"), Cell(_both(s2))]

    def difference(which: NDArray) -> float:
        return float(values[which].mean() - values[~which].mean())

    rng = np.random.default_rng(0)
    drawn = [
        difference(np.concatenate([rng.permutation(one) for one in flags])) for _ in range(9999)
    ]
    p = (1 + np.sum(np.array(drawn) >= difference(is_universal) - 1e-12)) / 10_000
    return [
        Cell.figure(float(values[is_universal].mean()), 3),
        Cell.figure(float(values[~is_universal].mean()), 3),
        Cell.number(float(p), ".2g"),
        Cell(_both(s2)),
    ]


def _both(values: list[float]) -> str:
    return " / ".join(f"{value:.2f}" for value in values)


def measured(
    names: list[str],
    training: Networks,
    validation: Networks,
    concepts: int,
    seed: int,
    scenes=None,
) -> Table:
    """Return the table of all methods for two networks."""
    headers = ["method", "concepts", "universal", "r", "φ", "cross R² (ceiling)"]
    headers += ["IoU universal", "private", "p", "S²"] if scenes else []
    rows = []
    for name in names:
        start = time.perf_counter()
        fitted, claimed, threshold = METHODS[name](training, concepts, seed)
        seconds = time.perf_counter() - start
        found = match_extractors(
            {k: (fitted[k], validation[k]) for k in fitted}, concepts=claimed, threshold=threshold
        )
        cells = [Cell(name), *shared_cells(found, fitted)]
        if scenes:
            x = {k: (training[k], validation[k]) for k in fitted}
            cells += iou_cells(found, fitted, scenes, x)
        rows.append([*cells, Cell.figure(seconds, 0)])
        print(f"{name}: {seconds:.0f} s", flush=True)
    return Table([*headers, "s"], rows, [f"{' and '.join(training)}; {concepts} concepts."])


def scenes_part(arguments: argparse.Namespace) -> Table:
    """Return the table of the CNN and the transformer of the scenes."""
    models = {
        "cnn": (scene_network(arguments.output), LAYER),
        "vit": (scene_transformer(arguments.output, arguments.epochs), TOKENS),
    }
    parts = [
        annotated_scenes(arguments.images, seed=seed) for seed in (TRAINING_SEED, VALIDATION_SEED)
    ]
    activations: list[dict[str, NDArray]] = [{}, {}]
    for name, (model, layer) in models.items():
        for part, own in zip(parts, activations, strict=True):
            own[name] = compute_activations(split_model(model, layer)[0], part.images)
        right = model.predict(parts[1].images, verbose=0).argmax(axis=1) == parts[1].labels
        print(f"{name}: right about {right.mean():.1%} of the validation scenes", flush=True)
    return measured(
        arguments.methods, *activations, arguments.concepts, arguments.seed, tuple(parts)
    )


def pictures_part(arguments: argparse.Namespace) -> Table:
    """Return the table of pictures that are made for shared concepts."""
    models = {
        "cnn": (scene_network(arguments.output), LAYER),
        "vit": (scene_transformer(arguments.output, arguments.epochs), TOKENS),
    }
    scenes = annotated_scenes(arguments.images, seed=TRAINING_SEED)
    splits = {name: split_model(*one) for name, one in models.items()}
    x = {k: compute_activations(split[0], scenes.images) for k, split in splits.items()}
    universal = learn_universal_pairs(x, arguments.concepts, random_state=arguments.seed, verbose=0)
    concepts = {k: ConceptLayer.of(universal[k], split) for k, split in splits.items()}
    made = maximise_together(
        concepts, universal.shared, random_state=arguments.seed, verbose=0
    ).pictures
    rows = []
    for source in models:
        shares = []
        for m, (target, layer) in enumerate(concepts.items()):
            own = universal.shared[:, m]
            data, pictures = (
                layer.coefficients(values).reshape(len(values), -1, layer.number_of_concepts)
                for values in (x[target], layer.activations(made[source]))
            )
            limits = np.quantile(data.mean(axis=1), 0.95, axis=0)
            raised = pictures.mean(axis=1)[np.arange(len(own)), own] > limits[own]
            shares.append(Cell.share(float(raised.mean())))
        rows.append([Cell(source), *shares])
    notes = [f"{len(universal.shared)} shared concepts; by chance 5 %."]
    return Table(["pictures made for", *(f"raised in {name}" for name in models)], rows, notes)


def layers_part(arguments: argparse.Namespace) -> Table:
    """Return the table of two layers of MobileNetV2."""
    data = load_data(arguments.data)
    model, (images, _) = data.model(), data.general()
    order = np.random.default_rng(0).permutation(len(images))[: 2 * arguments.photos]
    parts = [np.sort(part) for part in np.split(order, 2)]
    activations: list[dict[str, NDArray]] = [{}, {}]
    for layer in REAL_LAYERS:
        g = split_model(model, layer)[0]
        for part, own in zip(parts, activations, strict=True):
            own[layer] = compute_activations(g, data.preprocess(images[part]))
    # on one grid, so that each method learns from as many positions
    activations = [align_positions(own) for own in activations]
    return measured(arguments.methods, *activations, arguments.concepts, arguments.seed)


_PARTS = {"scenes": scenes_part, "layers": layers_part, "pictures": pictures_part}


def main() -> None:
    """Measure, print and write the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--parts", nargs="+", choices=list(_PARTS), default=["scenes"])
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--images", type=int, default=1000, help="scenes of each part")
    parser.add_argument("--photos", type=int, default=500, help="photographs of each part")
    parser.add_argument("--concepts", type=int, default=48)
    parser.add_argument("--epochs", type=int, default=15, help="of the transformer's training")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    if "layers" in arguments.parts and arguments.data is None:
        parser.error("--parts layers needs --data")
    for part in arguments.parts:
        table = _PARTS[part](arguments)
        print(table, flush=True)
        (arguments.output / f"two_networks_{part}.txt").write_text(f"{table}\n")


if __name__ == "__main__":
    main()
