"""Estimate the importance of concepts for a class, with the residual of the features kept."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike
from xplique.concepts.craft import Sensitivity

from xplique_dirpairs.core.batching import by_position, chunk_size, slices
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.extractors.base import ChecksFit
from xplique_dirpairs.metrics.importance import sobol_designs, sobol_indices
from xplique_dirpairs.models.head import Head
from xplique_dirpairs.plots.palette import concept_colors

#: Maximum number of floats in the masked copies of an image's features that pass through the head
#: together. Many copies of small features form one batch, so that the head is called less often.
_FEATURES_AT_ONCE = 2**23


class ConceptImportance(ChecksFit):
    """Mixin with the importances of a fitted `FactorizerCraftTf`."""

    head: Head
    factorizer: Any
    number_of_concepts: int
    batch_size: int
    random_state: int | np.random.Generator | None
    sensitivity: Sensitivity | None
    _activations: Callable[..., Array]
    _pooled: tuple[Array, Array] | None  # features and coefficients of the fit, if they suffice

    def estimate_importance(self, inputs: ArrayLike | None = None, nb_design: int = 32) -> Array:
        """Estimate the importance of each concept for the class of `fit`: its total Sobol index.

        A mask m in [0, 1]^I scales the coefficients u of the I concepts at all positions of an
        image: its features x become r + decode(m · u), with the residual r = x − decode(u), so that
        m = 1 gives the network's own output. Under random masks, the class's output varies (its
        logit if the second half of the network returns logits). A concept's index is the share of
        this variance that it causes, alone or in interactions with others (estimator of Jansen,
        1999). Every image has its own masks, so that their errors average out over images.

        Parameters
        ----------
        inputs : array-like of shape (N, height, width, channels), optional
            Images for local importances, which are only returned. None: importances for the images
            of `fit` are estimated and also kept in ``sensitivity``, where plots find them.
        nb_design : int, default=32
            Number n ≥ 2 of base masks: the head is evaluated n · (I + 2) times for each image. For
            a single image, whose errors do not average out, 128 is recommended.

        Returns
        -------
        importances : ndarray of shape (I,)
            Mean index of each concept over the images, at least 0. They sum to 1 if the class's
            output is a sum of functions of one concept each, and to more if concepts interact.

        Raises
        ------
        NotFittedError
            If `fit` was not called.
        ValueError
            If the images are invalid, or ``nb_design`` is not an integer of at least 2.
        """
        self.check_if_fitted()
        if inputs is None and self._pooled is not None:
            features, coefficients = self._pooled
        else:
            features = self._activations(self.factorization.inputs if inputs is None else inputs)
            coefficients = by_position(self.factorizer.encode, features)
            if self._pools:
                features, coefficients = self.head.pool(features), self.head.pool(coefficients)
        head = self.head.checked_on(features)
        if head is not self.head:  # as after a change of its weights
            self.head = head
            self.__dict__.pop("_scores", None)
        concepts = self.number_of_concepts
        designs = sobol_designs(concepts, nb_design, self.random_state)
        importances = np.zeros(concepts)
        for x, u, masks in zip(features, coefficients, designs, strict=False):
            scores = self._masked_scores(x, u, masks)
            importances += sobol_indices(scores, masks, degree=0).total / len(features)
        if inputs is None:
            self.sensitivity = sensitivity_of(importances)
        return importances

    @property
    def _pools(self) -> bool:
        """Whether pooled features suffice, because averaging commutes with an affine decoder."""
        return self.head.pools_first and self.factorizer.decodes_affinely

    def _masked_scores(self, x: Array, u: Array, masks: Array) -> Array:
        """Return class scores (M,) of features x with coefficients u under masks (M, I)."""
        size = chunk_size(x.size, self.batch_size, _FEATURES_AT_ONCE)
        x, u = tf.constant(x), tf.constant(u, tf.float32)
        class_id = tf.constant(self.factorization.class_id)
        # one trace for every number of masks, since that of the last part differs
        run = self._scores.get_concrete_function(
            x, u, tf.TensorSpec((None, masks.shape[1]), masks.dtype), class_id
        )
        scores = [
            run(x, u, tf.constant(masks[part]), class_id) for part in slices(len(masks), size)
        ]
        return np.concatenate(scores)

    @cached_property
    def _scores(self) -> tf.types.experimental.PolymorphicFunction:
        """`_scores_of_batch` as a compiled function."""
        return tf.function(self._scores_of_batch, reduce_retracing=True)

    def _scores_of_batch(
        self, x: tf.Tensor, u: tf.Tensor, masks: tf.Tensor, class_id: tf.Tensor
    ) -> tf.Tensor:
        """Return class scores (B,) of x + decode(m · u) − decode(u) for masks m, (B, I)."""
        concepts = u.shape[-1]
        masks = tf.reshape(masks, [-1, *[1] * (len(u.shape) - 1), concepts])
        intact = tf.reshape(self.factorizer.decode(tf.reshape(u, [-1, concepts])), x.shape)
        dimmed = self.factorizer.decode(tf.reshape(masks * u, [-1, concepts]))
        features = tf.reshape(dimmed, [-1, *x.shape]) + (x - intact)
        return self.head.class_scores(features, class_id)


def sensitivity_of(importances: Array) -> Sensitivity:
    """Return Xplique's record of importances (I,), with each concept's colour by its number."""
    order = np.argsort(-importances, kind="stable")
    colors = concept_colors(len(importances))
    return Sensitivity(importances, order, cmaps=[colors[i] for i in order])
