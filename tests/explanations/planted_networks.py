"""A model whose reasons are known: channels are concepts, and classes are weighted sums of them.

The features are the images themselves. Channels 0 to 3 are the concepts A to D, 4 and 5 are
distractors. Class 0 is driven by A and D, class 1 by B and D, and class 2 by C. D is shared by two
classes, and A speaks against class 2.
"""

import keras
import numpy as np

from xplique_dirpairs.extractors.concept_layer import ConceptLayer
from xplique_dirpairs.models.split import SplitModel
from xplique_dirpairs.pairs import DirectionPairs

D, CONCEPTS, CLASSES, SIDE = 6, 4, 3, 8
NAMES = tuple("ABCD")
#: Weight of each channel (rows) for each class (columns).
WEIGHTS = np.array(
    [[6.0, 0.0, -3.0], [0.0, 6.0, 0.0], [0.0, 0.0, 6.0], [3.0, 3.0, 0.0], [0, 0, 0], [0, 0, 0]]
)
BIASES = np.array([0.1, 0.2, 0.3])


def planted_pairs():
    """Return detectors of the channels, which fire above ½; absent concepts are at 0."""
    rows = np.eye(CONCEPTS, D)
    levels = np.full(CONCEPTS, 0.5)
    return DirectionPairs(10 * rows, 10 * levels, rows, np.zeros(D), np.zeros(CONCEPTS))


def planted_halves(hidden=False):
    """Return both parts of the network: images to features (the identity), and to logits."""
    inputs, latent = keras.Input((SIDE, SIDE, D)), keras.Input((SIDE, SIDE, D))
    x = keras.layers.GlobalAveragePooling2D()(latent)
    if hidden:  # add a part that is not linear
        keras.utils.set_random_seed(0)
        nonlinear = keras.layers.Dense(5, activation="relu")(x)
        x = keras.layers.Concatenate()([x, nonlinear])
    dense = keras.layers.Dense(CLASSES)
    outputs = dense(x)
    kernel = 0.3 * np.random.default_rng(0).normal(size=dense.kernel.shape)
    kernel[:D] = WEIGHTS
    dense.set_weights([kernel, BIASES])
    first = keras.Model(inputs, keras.layers.Identity()(inputs))
    return SplitModel.of(first, keras.Model(latent, outputs))


def planted_layer(split=None, **names):
    """Return a concept layer with the channels as concepts."""
    return ConceptLayer.of(planted_pairs(), split or planted_halves(), **names)


def planted_images(count, seed=0):
    """Return images (count, 8, 8, 6) in [0, 1] and classes; a concept fills 3 × 3 cells."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % CLASSES
    images = np.zeros((count, SIDE, SIDE, D), np.float32)
    images[..., CONCEPTS:] = rng.random((count, SIDE, SIDE, D - CONCEPTS))
    for image, label in zip(images, labels, strict=True):
        present = {int(label)}
        if label < 2 and rng.random() < 0.6:
            present.add(3)
        if label == 2 and rng.random() < 0.4:
            present.add(0)
        for concept in present:
            top, left = rng.integers(SIDE - 3, size=2)
            image[top : top + 3, left : left + 3, concept] = rng.uniform(0.7, 1.0)
    return images, labels
