"""Xplique's own TCAV scores of given directions (Kim et al. 2018), beside those of RCAV.

TCAV looks at the slope of the class's output, RCAV at a whole step. What is measured is what the
model ends in: the logit, of which other classes' logits are no part, or, where a softmax ends it,
the probability, as in RCAV. Xplique's `Cav` would learn a direction for every position of the map;
here directions are given, and each is the same at all positions.
"""

from __future__ import annotations

import keras
import numpy as np
from numpy.typing import ArrayLike, NDArray
from xplique.concepts import Tcav

from xplique_dirpairs.core.validation import check_float32

_LAYER = "xplique_dirpairs_activations"


def tcav_scores(
    latent_to_logit_model: keras.Model,
    activations: ArrayLike,
    labels: ArrayLike,
    directions: ArrayLike,
    *,
    batch_size: int = 64,
) -> NDArray:
    """Share of a class's images whose output rises along a direction, by Xplique's `Tcav`.

    Images whose output neither rises nor falls (a dead ReLU, a saturated softmax) count like those
    where it falls: 0 may mean "hurts" or "nothing". ``tcav_scores(…, d) − tcav_scores(…, −d)`` is
    signed, with ties as none.

    Parameters
    ----------
    latent_to_logit_model
        Second half of `split_model`. Only this half is run, once for every direction and class.
    activations : (N, *S, D)
        Of the images.
    labels : (N,) int
        Class of each; of a network of one output 0 (no) or 1 (yes), which are its two classes.
    directions : (I, D)
        Their lengths do not matter.
    batch_size
        Images at a time.

    Returns
    -------
    scores : (I, K)
        In [0, 1]; NaN for classes without images.

    Raises
    ------
    TypeError, ValueError
        If the model is none of Keras, or shapes do not fit.
    """
    if not isinstance(latent_to_logit_model, keras.Model):
        raise TypeError(
            "latent_to_logit_model must be a keras.Model, the second half of split_model, not "
            f"{type(latent_to_logit_model).__name__}"
        )
    x = check_float32("activations", activations)
    vectors = check_float32("directions", directions)
    ids = np.asarray(labels)
    if vectors.ndim != 2 or vectors.shape[1] != x.shape[-1]:
        raise ValueError(f"directions must be (I, {x.shape[-1]}), but have shape {vectors.shape}")
    if not x.size:
        raise ValueError(f"activations must be of some images, but have shape {x.shape}")
    if ids.shape != x.shape[:1] or not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(
            f"labels must be an integer for each of {len(x)} images, not {ids.dtype} {ids.shape}"
        )
    # Tcav watches what a layer puts out: an identity in front of the half makes activations that.
    # In float32, whatever the policy: Tcav multiplies its gradients by the directions.
    source = keras.Input(x.shape[1:], dtype="float32")
    outputs = latent_to_logit_model(keras.layers.Identity(name=_LAYER, dtype="float32")(source))
    if outputs.shape[-1] == 1:  # no falls as far as yes rises, logit or probability
        outputs = keras.layers.Concatenate()([-outputs, outputs])
    model = keras.Model(source, outputs)
    classes = outputs.shape[-1]
    if ids.min() < 0 or ids.max() >= classes:
        raise ValueError(
            f"labels must be classes, 0 to {classes - 1}, but reach from {ids.min()} to {ids.max()}"
        )
    tcav = Tcav(model, _LAYER, batch_size=batch_size)
    scores = np.full((len(vectors), classes), np.nan)
    for k in np.unique(ids):
        own = x[ids == k]
        scores[:, k] = [tcav(own, int(k), vector) for vector in vectors]
    return scores
