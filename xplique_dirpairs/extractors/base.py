"""What the extractors share: checks of their arguments and of their state, and learned pairs."""

from __future__ import annotations

from typing import Any

import keras
from sklearn.exceptions import NotFittedError

from xplique_dirpairs.core.validation import check_takes_images
from xplique_dirpairs.learning.history import History
from xplique_dirpairs.models.graph import check_keras_model
from xplique_dirpairs.models.split import SplitModel
from xplique_dirpairs.pairs import DirectionPairs


class ChecksFit:
    """Mixin for classes with Xplique's attribute ``factorization``, which is None before `fit`."""

    factorization: Any

    def check_if_fitted(self) -> None:
        """Raise scikit-learn's `NotFittedError` if `fit` was not called, or has not ended."""
        factorizer = getattr(self, "factorizer", None)  # a manager has none of its own
        if self.factorization is None or not getattr(factorizer, "is_fitted", True):
            raise NotFittedError(f"this {type(self).__name__} is not fitted: call fit() first")


class HoldsPairs(ChecksFit):
    """Mixin for extractors whose factorizer learns direction pairs."""

    factorizer: Any

    @property
    def pairs(self) -> DirectionPairs:
        """The direction pairs, learned by `fit` or given; `NotFittedError` before `fit`.

        `TypeError` is raised if another factorizer found the concepts.
        """
        self.check_if_fitted()
        pairs: DirectionPairs | None = getattr(self.factorizer, "pairs_", None)
        if pairs is None:
            raise TypeError(
                f"the concepts are those of a {type(self.factorizer).__name__}, which has no "
                "direction pairs and no detections: leave out factorizer to learn direction pairs, "
                "or use encode and transform"
            )
        return pairs

    @property
    def history_(self) -> History | None:
        """History of the learning, with its losses and problems; None if the pairs were given.

        It is also None if another factorizer, which keeps no history, found the concepts.
        `NotFittedError` is raised before `fit`.
        """
        self.check_if_fitted()
        history: History | None = getattr(self.factorizer, "history_", None)
        return history


def check_split(first: SplitModel | keras.Model, second: keras.Model | None) -> SplitModel:
    """Return the first two arguments of an extractor as a `SplitModel`.

    Raises
    ------
    TypeError
        If the halves are not Keras models, or the second half is missing.
    ValueError
        If the halves do not belong together, or the first one does not take images.
    """
    if second is not None:
        check_keras_model("latent_to_logit_model", second)
    split = SplitModel.of(first, second)
    check_takes_images(split.input_to_latent_model)
    return split
