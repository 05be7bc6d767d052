"""Direction pairs of several classes, with the interface of `CraftManagerTf`."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence

import keras
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from sklearn.exceptions import NotFittedError
from xplique.concepts import CraftManagerTf, DisplayImportancesOrder

from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import as_images, check_class, check_integer, check_labels
from xplique_dirpairs.data.images import compute_activations
from xplique_dirpairs.extractors.base import check_split
from xplique_dirpairs.extractors.craft import DirectionPairsTf
from xplique_dirpairs.learning.checkpoint import Checkpoint
from xplique_dirpairs.learning.history import History
from xplique_dirpairs.learning.recipe import Recipe
from xplique_dirpairs.models.copies import HoldsModels
from xplique_dirpairs.models.split import SplitModel
from xplique_dirpairs.pairs import DirectionPairs, Off


class DirectionPairsManagerTf(HoldsModels, CraftManagerTf):
    """Direction pairs of several classes, with the interface of Xplique's `CraftManagerTf`.

    Parameters
    ----------
    input_to_latent_model : SplitModel or keras.Model
        Both halves of the network, from `split_model`; or the first half, from images to
        activations.
    latent_to_logit_model : keras.Model, optional
        The second half, from activations to logits or probabilities of K classes, (N, K). Required
        unless ``input_to_latent_model`` is a `SplitModel`.
    inputs : array-like of shape (N, height, width, channels)
        N images, preprocessed for the network. Required.
    labels : array-like of shape (N,) or (N, K)
        Classes of the images, as indices or one-hot rows. Required, but only used if
        ``list_of_class_of_interest`` is None: `fit` assigns images to the classes that the network
        predicts.
    list_of_class_of_interest : sequence of int, optional
        Indices of the classes to explain. None: all classes that occur in the labels.
    number_of_concepts : int, default=20
        Number of concepts, of all classes together or, with ``shared=False``, of each class.
    batch_size : int, default=64
        Number of images that pass through the network at a time. `estimate_importance` evaluates
        the second half on this many masked copies of an image's features at a time, or on more if
        they are small.
    patch_size : int, default=64
        Side of the square crops shown for the concepts, in pixels; the shorter side of the images
        if that is smaller.
    shared : bool, default=True
        If True, one set of pairs is learned from the images of all classes of interest, and
        importances are estimated for each class. If False, a set of pairs is learned for each
        class, as CRAFT does.
    recipe : str or Recipe, default="default"
        Losses, stages and step sizes of the learning: a `Recipe` or the name of one, such as
        "default", "soft" or "paper-deep".
    off : {"absent", "undecided"}, default="absent"
        State of a concept whose coefficient is 0. "absent": the projection of the features on its
        filter does not exceed the mean of this projection over positions where the concept is not
        detected. "undecided": all detections are 0.5 if all coefficients are 0; if only some are 0,
        the detections of these concepts also depend on the others.
    n_init : int, optional
        Number of restarts of the learning, of which the best is kept. None: as the recipe says.
    random_state : int, optional
        Seed of the learning and of the masks on coefficients that `estimate_importance` draws.
        None: a random seed.
    verbose : int, default=1
        0 disables progress messages of the learning.

    Attributes
    ----------
    craft_instances : dict of int to DirectionPairsTf
        Extractor of each class of interest, by the index of the class.

    Raises
    ------
    TypeError
        If images, labels or the second half are missing, or classes are not a list of integers.
    ValueError
        If labels, classes or other parameters are invalid.
    """

    def __init__(
        self,
        input_to_latent_model: SplitModel | keras.Model,
        latent_to_logit_model: keras.Model | None = None,
        inputs: ArrayLike | None = None,
        labels: ArrayLike | None = None,
        list_of_class_of_interest: Sequence[int] | None = None,
        number_of_concepts: int = 20,
        batch_size: int = 64,
        patch_size: int = 64,
        *,
        shared: bool = True,
        recipe: str | Recipe = "default",
        off: Off = "absent",
        n_init: int | None = None,
        random_state: int | None = None,
        verbose: int = 1,
    ):
        split = check_split(input_to_latent_model, latent_to_logit_model)
        if inputs is None or labels is None:
            raise TypeError("inputs or labels are missing: give images and the class of each image")
        inputs = as_images(inputs)
        labels = check_labels(labels, len(inputs), None)
        classes = list_of_class_of_interest
        if classes is None:
            classes = np.unique(labels).tolist()
        elif np.ndim(classes) != 1:
            raise TypeError(f"list_of_class_of_interest must be integers, not {classes!r}")
        for class_id in classes:
            check_class(class_id, split.head.number_of_classes)
        super().__init__(
            *split,
            inputs,
            labels,
            [int(class_id) for class_id in classes],
            number_of_concepts,
            batch_size,
            patch_size,
        )
        self.split, self.batch_size, self.shared = split, batch_size, shared
        self.craft_instances = {
            class_id: DirectionPairsTf(
                split,
                number_of_concepts=number_of_concepts,
                batch_size=batch_size,
                patch_size=patch_size,
                recipe=recipe,
                off=off,
                n_init=n_init,
                random_state=random_state,
                verbose=verbose,
            )
            for class_id in self.list_of_class_of_interest
        }

    def compute_predictions(self) -> Array:
        """Return the index of the class that the network predicts for each of N images, (N,)."""
        return self._predictions(self._activations())

    def _activations(self) -> Array:
        """Return the activations (N, *spatial, D) of all images."""
        return compute_activations(self.split.input_to_latent_model, self.inputs, self.batch_size)

    def _predictions(self, activations: Array) -> Array:
        """Return predicted classes (N,) of activations (N, *spatial, D)."""
        head = self.split.head.checked_on(activations)
        return np.asarray(head.predict(head.pool(activations)).argmax(axis=-1))

    def fit(
        self,
        nb_samples_per_class: int | None = None,
        verbose: bool = False,
        *,
        resume: str | os.PathLike[str] | None = None,
    ) -> None:
        """Learn the concepts from the images that the network predicts as the classes of interest.

        Parameters
        ----------
        nb_samples_per_class : int, optional
            Maximum number of images of each class; the first ones are used. None: all are used.
        verbose : bool, default=False
            Whether to print the class being fitted.
        resume : str or os.PathLike, optional
            Folder in which the state of the learning is saved after every epoch, and from which the
            same fit is resumed. With ``shared=False`` it holds a folder for each class. None:
            nothing is saved.

        Raises
        ------
        ValueError
            If the network predicts none of the classes for any image, if images or activations are
            not finite, or if ``resume`` cannot be written to or holds the state of another fit.

        Warns
        -----
        LearningWarning
            If learned pairs have problems, which ``history_.problems()`` lists.
        UserWarning
            If the network predicts a class for none of the images; that class is not fitted.

        Notes
        -----
        Ctrl-C ends the learning and keeps the pairs learned so far. With ``shared=False`` classes
        whose learning had not begun are then not fitted.
        """
        if nb_samples_per_class is not None:
            check_integer("nb_samples_per_class", nb_samples_per_class)
        folder = None if resume is None else Checkpoint.folder_for(resume)
        activations = self._activations()
        predictions = self._predictions(activations)
        assigned = {
            class_id: np.flatnonzero(predictions == class_id)[:nb_samples_per_class]
            for class_id in self.craft_instances
        }
        chosen = {class_id: indices for class_id, indices in assigned.items() if indices.size}
        if not chosen:
            raise ValueError(
                f"the network predicts none of the classes {list(self.craft_instances)} for any "
                f"image, but {np.unique(predictions).tolist()}: give other images or classes"
            )
        missing = [class_id for class_id in assigned if class_id not in chosen]
        if missing:
            warnings.warn(
                f"classes {missing} are not fitted: the network predicts them for no image",
                stacklevel=2,
            )
        for instance in self.craft_instances.values():
            instance.factorization = None  # a class without images must not keep an earlier fit
        if self.shared:
            first = self.craft_instances[next(iter(chosen))]
            first._learn(activations[np.concatenate(list(chosen.values()))], folder)
        for class_id, indices in chosen.items():
            if verbose:
                print(f"Fitting direction pairs for class {class_id}")
            instance = self.craft_instances[class_id]
            if self.shared:
                instance.factorizer = first.factorizer
            else:
                instance._learn(activations[indices], folder and folder / f"class_{class_id}")
            instance._describe(self.inputs[indices], activations[indices], class_id)
            history = instance.history_
            if history is not None and history.interrupted and not self.shared:
                break  # Ctrl-C ends the fit of all classes; fitted classes are kept

    def _fitted(self) -> dict[int, DirectionPairsTf]:
        """Return the extractors of all fitted classes, by class."""
        fitted = {k: c for k, c in self.craft_instances.items() if c.factorization is not None}
        if not fitted:
            raise NotFittedError("this DirectionPairsManagerTf is not fitted: call fit() first")
        return fitted

    @property
    def pairs(self) -> DirectionPairs | dict[int, DirectionPairs]:
        """The direction pairs of all classes or, with ``shared=False``, a dict of those by class.

        `NotFittedError` is raised before `fit`.
        """
        by_class = {class_id: craft.pairs for class_id, craft in self._fitted().items()}
        return next(iter(by_class.values())) if self.shared else by_class

    @property
    def history_(self) -> History | dict[int, History | None] | None:
        """History of the learning, with losses and problems; if not ``shared``, a dict by class.

        `NotFittedError` is raised before `fit`.
        """
        by_class = {class_id: craft.history_ for class_id, craft in self._fitted().items()}
        return next(iter(by_class.values())) if self.shared else by_class

    def estimate_importance(self, nb_design: int = 32, verbose: bool = False) -> None:
        """Estimate the importance of each concept for every fitted class: its total Sobol index.

        The index for a class is that of `DirectionPairsTf.estimate_importance`, averaged over the
        images of this class that `fit` used. The results are in the ``sensitivity`` of each of
        `craft_instances`, where the plots find them. A shared concept has the same colour in every
        class.

        Parameters
        ----------
        nb_design : int, default=32
            Number n ≥ 2 of base masks: for I concepts the head is evaluated n · (I + 2) times for
            each image.
        verbose : bool, default=False
            Whether to print the class being processed.

        Raises
        ------
        NotFittedError
            If `fit` was not called.
        """
        for class_id, instance in self._fitted().items():
            if verbose:
                print(f"Estimating importances for class {class_id}")
            instance.estimate_importance(nb_design=nb_design)

    def _instance(self, class_id: int) -> DirectionPairsTf:
        """Return the fitted extractor of a class."""
        if class_id not in self.craft_instances:
            classes = list(self.craft_instances)
            raise ValueError(f"class_id must be a class of interest ({classes}), not {class_id}")
        if class_id not in self._fitted():
            raise NotFittedError(f"class {class_id} is not fitted: it is predicted for no image")
        return self.craft_instances[class_id]

    def plot_concepts_importances(
        self, class_id: int, nb_most_important_concepts: int = 5, verbose: bool = False
    ) -> Figure:
        """Draw the importances of concepts for the class with index ``class_id`` as bars.

        The ``nb_most_important_concepts`` most important ones are drawn, and printed if ``verbose``
        is True. The figure is returned. `NotFittedError` is raised before `fit` and
        `estimate_importance`.
        """
        return self._instance(class_id).plot_concepts_importances(
            nb_most_important_concepts=nb_most_important_concepts, verbose=verbose
        )

    def plot_concepts_crops(
        self, class_id: int, nb_crops: int = 10, nb_most_important_concepts: int | None = None
    ) -> Figure:
        """Draw, for each concept, the crops of the images of a class where it is strongest.

        ``class_id`` is the index of the class. At most ``nb_crops`` crops are drawn for each of the
        ``nb_most_important_concepts`` most important concepts (None: of all). The figure is
        returned. `NotFittedError` is raised before `fit` and `estimate_importance`.
        """
        return self._instance(class_id).plot_concepts_crops(
            nb_crops=nb_crops, nb_most_important_concepts=nb_most_important_concepts
        )

    def plot_image_concepts(
        self,
        img: ArrayLike,
        class_id: int,
        display_importance_order: DisplayImportancesOrder = DisplayImportancesOrder.GLOBAL,
        nb_most_important_concepts: int = 5,
        filter_percentile: int = 90,
        clip_percentile: float | None = 10,
        alpha: float = 0.65,
        filepath: str | None = None,
    ) -> Figure:
        """Draw an image with the most important concepts of the class with index ``class_id``.

        Arguments and result are those of `DirectionPairsTf.plot_image_concepts`, where "the images
        of `fit`" are those that the network predicts as this class. `NotFittedError` is raised
        before `fit` and `estimate_importance`.
        """
        return self._instance(class_id).plot_image_concepts(
            img,
            display_importance_order=display_importance_order,
            nb_most_important_concepts=nb_most_important_concepts,
            filter_percentile=filter_percentile,
            clip_percentile=clip_percentile,
            alpha=alpha,
            filepath=filepath,
        )
