"""What `explain_model` measures, and which concepts matter by it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import check_choice
from xplique_dirpairs.explanations.contributions import Confusion, strongest
from xplique_dirpairs.sensitivity.influence_result import Influence


@dataclass(frozen=True, eq=False)
class ModelMeasurements:
    """Measurements of I concepts in C explained classes, and the concepts that matter by them.

    `ModelExplanation`, which adds tables and figures, describes the attributes.
    """

    class_ids: Array
    class_names: tuple[str, ...]
    concept_names: tuple[str, ...]
    images: Array
    accuracy: Array
    influence: Influence
    contributions: Array
    residuals: Array
    logits: Array
    presence: Array
    presence_outside: Array
    occupancy: Array
    occupancy_outside: Array
    confusions: tuple[Confusion, ...]
    crops: tuple[Array, ...]
    class_crops: Mapping[tuple[int, int], Array]
    amount: float

    def __post_init__(self) -> None:
        for value in vars(self).values():
            if isinstance(value, np.ndarray):
                value.setflags(write=False)

    @property
    def gaps(self) -> Array:
        """Mean logits − residuals − Σ contributions of the C classes, (C,), in logits.

        They are 0 up to rounding if the head (the network after the layer) is linear. Otherwise
        they are the mean errors of the integrated gradients by which contributions are computed.
        """
        return np.asarray(self.logits - self.residuals - self.contributions.sum(axis=1))

    @cached_property
    def significance(self) -> Array:
        """Grade of significance of the influence of I concepts on C classes, (I, C), int.

        2: significant after the correction by Benjamini–Hochberg for all tests, those of the
        network's other classes included; 1: only before it (p ≤ ``influence.level``); 0: not
        significant; −1: not tested, or with too few noise vectors for anything to be significant.
        """
        names = "none", "benjamini-hochberg"
        uncorrected, corrected = (self.influence.significant(name) for name in names)
        counts = self.influence.tested & self.influence.reachable()
        return np.where(counts, np.where(corrected, 2, uncorrected), -1)

    def ranked(
        self, class_id: int | str, count: int = 6, by: str = "contribution"
    ) -> tuple[Array, Array]:
        """Return the concepts that speak for a class, and those against it, strongest first.

        Parameters
        ----------
        class_id : int or str
            Index or name of the class.
        count : int, default=6
            Upper limit on the number of concepts for it, and on those against it.
        by : {"contribution", "influence"}, default="contribution"
            "contribution" ranks concepts by ``contributions``, what their coefficients add to the
            class's logit in its images; "influence" by `Influence.effects`, what their encoding
            directions add to the class's centred logit (its logit minus the mean logit).

        Returns
        -------
        supporting : ndarray of int
            Indices of the concepts for the class.
        opposing : ndarray of int
            Indices of the concepts against it.

        Raises
        ------
        ValueError
            If the class was not explained, ``by`` is unknown, or ``count`` is not a positive
            integer.
        """
        c = self._row(class_id)
        check_choice("by", by, ("contribution", "influence"))
        values = self.contributions[c] if by == "contribution" else self.influence.effects[:, c]
        return strongest(values, count)

    def shared(self, at_least: float = 0.05) -> Array:
        """Return which of I concepts matter to which of C classes.

        Parameters
        ----------
        at_least : float, default=0.05
            A concept matters to a class if its contribution, without sign, is at least this share
            of the sum of all concepts' contributions to the class, without signs.

        Returns
        -------
        sides : ndarray of shape (C, I), int
            1 where the concept speaks for the class (its contribution is above 0), −1 where it
            speaks against it, 0 where it does not matter. A concept whose column has several
            entries other than 0 is shared by these classes.

        Raises
        ------
        ValueError
            If ``at_least`` is not above 0 and at most 1.
        """
        if not 0 < at_least <= 1:
            raise ValueError(f"at_least must be a share above 0 and at most 1, not {at_least!r}")
        size = np.abs(self.contributions)
        matters = (size >= at_least * size.sum(axis=1, keepdims=True)) & (size > 0)
        return np.where(matters, np.sign(self.contributions), 0).astype(int)

    def confusion(self, source: int | str, target: int | str) -> Confusion:
        """Return what pushes the images of one class towards another.

        Parameters
        ----------
        source : int or str
            Index or name of the class of the images.
        target : int or str
            Index or name of the class that they are pushed towards.

        Returns
        -------
        confusion : Confusion
            Its ``contributions`` and ``residual`` sum to ``difference``, the mean of
            logit(target) − logit(source) over all images of the source class.
            ``confused_contributions`` and ``confused_residual`` sum to ``confused_difference``, the
            same mean over only those of the images that are predicted as the target.

        Raises
        ------
        ValueError
            If this pair of classes was not measured: see ``confusions`` of `explain_model`.
        """
        for confusion in self.confusions:
            a, b = confusion.names
            if source in (confusion.source, a) and target in (confusion.target, b):
                return confusion
        measured = [confusion.names for confusion in self.confusions]
        raise ValueError(
            f"the confusion ({source!r}, {target!r}) was not measured, only {measured}: call "
            "explain_model with confusions=[(a, b), …]"
        )

    def crops_of(self, concept: int, class_id: int | None = None) -> Array:
        """Return the crops in which a concept is strongest.

        Parameters
        ----------
        concept : int
            Index of the concept.
        class_id : int, optional
            Index of a class. If ``class_crops`` holds crops for this class and concept, they are
            returned: all are from images of the class. Otherwise, and with None, the crops are
            those of ``crops``, from images of any class.

        Returns
        -------
        crops : ndarray of shape (k, patch, patch, 3), uint8
            RGB crops of side ``patch`` pixels, best first; k may be 0.
        """
        own = None if class_id is None else self.class_crops.get((class_id, concept))
        return self.crops[concept] if own is None or not len(own) else own

    def _row(self, class_id: int | str) -> int:
        """Return the row of a class, given by number or name, in arrays of shape (C, …)."""
        explained = dict(zip(self.class_ids.tolist(), self.class_names, strict=True))
        for c, number_and_name in enumerate(explained.items()):
            if class_id in number_and_name:
                return c
        raise ValueError(f"class {class_id!r} is not among the explained classes, {explained}")
