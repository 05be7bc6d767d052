"""Direction pairs where `CraftTf` and `CraftManagerTf` stood."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray
from sklearn.exceptions import NotFittedError
from xplique.concepts import CraftManagerTf, DisplayImportancesOrder

from xplique_dirpairs.core.validation import check_class, check_images, check_integer
from xplique_dirpairs.extractors.craft import FactorizerCraftTf
from xplique_dirpairs.factorizers.direction_pairs import DirectionPairsFactorizer
from xplique_dirpairs.learning.checkpoint import Checkpoint
from xplique_dirpairs.learning.history import History
from xplique_dirpairs.learning.recipe import Recipe, get_recipe
from xplique_dirpairs.models.head import Head
from xplique_dirpairs.pairs import DirectionPairs, Off

logger = logging.getLogger("xplique_dirpairs")


class DirectionPairsTf(FactorizerCraftTf):
    """Concepts as encoding-decoding direction pairs, used like `CraftTf`.

    Parameters
    ----------
    input_to_latent_model : keras.Model
        Images to activations; `split_model` makes both halves.
    latent_to_logit_model : keras.Model
        Activations to logits or probabilities.
    number_of_concepts
        I; may exceed the number of channels.
    batch_size
        Images, or masked feature maps, in one pass.
    patch_size
        Side of the square crops shown for the concepts, in pixels.
    recipe
        How the pairs are learned, as `learn_pairs` takes it.
    off
        What "a concept is switched off" means: see `DirectionPairs.coefficients`.
    n_init
        Starts to learn from, the best kept, as `learn_pairs` takes it.
    random_state
        Seed of the learning and of the masks of `estimate_importance`.
    verbose
        0 for silence.
    pairs
        Pairs learned, or loaded, elsewhere: `fit` then learns none, and only reads the images.
        ``number_of_concepts``, ``recipe``, ``n_init`` and ``verbose`` are without effect.
    """

    def __init__(
        self,
        input_to_latent_model: keras.Model,
        latent_to_logit_model: keras.Model,
        number_of_concepts: int = 20,
        batch_size: int = 64,
        patch_size: int = 64,
        *,
        recipe: str | Recipe = "default",
        off: Off = "absent",
        n_init: int | None = None,
        random_state: int | None = None,
        verbose: int = 1,
        pairs: DirectionPairs | None = None,
    ):
        self._given = pairs is not None
        self._resume: str | os.PathLike | None = None
        if pairs is not None:
            factorizer = DirectionPairsFactorizer.from_pairs(pairs, off)
        else:
            factorizer = DirectionPairsFactorizer(
                number_of_concepts,
                recipe=get_recipe(recipe),
                off=off,
                n_init=n_init,
                random_state=random_state,
                verbose=verbose,
            )
        super().__init__(
            input_to_latent_model,
            latent_to_logit_model,
            factorizer,
            batch_size,
            patch_size,
            random_state=random_state,
        )

    @property
    def pairs(self) -> DirectionPairs:
        """The learned direction pairs."""
        self.check_if_fitted()
        return self.factorizer.pairs_

    @property
    def history_(self) -> History | None:
        """How the fit went; None where the pairs were given."""
        self.check_if_fitted()
        return self.factorizer.history_

    def fit(
        self, inputs: ArrayLike, class_id: int = 0, *, resume: str | os.PathLike | None = None
    ) -> tuple[tf.Tensor, NDArray, NDArray]:
        """Learn the direction pairs; arguments and results as for `FactorizerCraftTf.fit`.

        Parameters
        ----------
        inputs, class_id
        resume
            A folder that keeps the state of the learning after every epoch; if it holds the state
            of a fit of the same images with the same settings, that one goes on.
        """
        self._resume = resume
        try:
            return super().fit(inputs, class_id)
        finally:
            self._resume = None

    def detect(self, inputs: ArrayLike | None, activations: ArrayLike | None = None) -> NDArray:
        """Concept detections y of images, in [0, 1]; the concept is there where y > 0.5.

        Arguments and shape as for `transform`.
        """
        self.check_if_fitted()
        return self._by_position(self.factorizer.detect, self._activations(inputs, activations))

    def _fit_factorizer(self, activations: NDArray) -> None:
        if not self._given:
            self.factorizer.fit_maps(activations, self.head, resume=self._resume)
            return
        channels = self.factorizer.pairs_.channels
        if activations.shape[-1] != channels:
            raise ValueError(
                f"the pairs are of a layer of {channels} channels, but the activations have shape "
                f"{activations.shape}"
            )


class DirectionPairsManagerTf(CraftManagerTf):
    """Direction pairs of several classes, used like `CraftManagerTf`.

    Parameters
    ----------
    input_to_latent_model, latent_to_logit_model : keras.Model
        The network's halves.
    inputs : (N, height, width, channels)
    labels : (N,) or (N, K)
        Class indices, or one-hot rows.
    list_of_class_of_interest
        Classes to explain. None: all that occur in the labels.
    number_of_concepts, batch_size, patch_size
        As in `DirectionPairsTf`.
    shared
        True: one set of pairs, learned from the images of all the classes of interest, with
        importances for each class. False: a set for each class, as CRAFT does.
    recipe, off, n_init, random_state, verbose
        As in `DirectionPairsTf`.

    Attributes
    ----------
    craft_instances : dict
        Class → its `DirectionPairsTf`.
    """

    def __init__(
        self,
        input_to_latent_model: keras.Model,
        latent_to_logit_model: keras.Model,
        inputs: ArrayLike,
        labels: ArrayLike,
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
        check_images(inputs)
        inputs, labels = np.asarray(inputs), _class_indices(labels)
        inputs = inputs[None] if inputs.ndim == 3 else inputs
        if len(inputs) != len(labels):
            raise ValueError(f"there are {len(inputs)} images but {len(labels)} labels")
        given = list_of_class_of_interest
        classes: Sequence[int] | NDArray = np.unique(labels) if given is None else given
        if np.ndim(classes) != 1:
            raise TypeError(f"list_of_class_of_interest must be a list of classes, not {classes!r}")
        number_of_classes = Head(latent_to_logit_model).number_of_classes
        for class_id in classes:
            check_class(class_id, number_of_classes)
        super().__init__(
            input_to_latent_model,
            latent_to_logit_model,
            inputs,
            labels,
            [int(class_id) for class_id in classes],
            number_of_concepts,
            batch_size,
            patch_size,
        )
        self.shared = shared
        self.craft_instances = {
            class_id: DirectionPairsTf(
                input_to_latent_model,
                latent_to_logit_model,
                number_of_concepts,
                batch_size,
                patch_size,
                recipe=recipe,
                off=off,
                n_init=n_init,
                random_state=random_state,
                verbose=verbose,
            )
            for class_id in self.list_of_class_of_interest
        }

    def compute_predictions(self) -> NDArray:
        """The network's class of every image, (N,)."""
        return self._predict(self._activations())

    def _any_instance(self) -> DirectionPairsTf:
        if not self.craft_instances:
            raise ValueError("list_of_class_of_interest is empty: there is nothing to explain")
        return next(iter(self.craft_instances.values()))

    def _activations(self) -> NDArray:
        return self._any_instance()._activations(self.inputs)

    def _predict(self, activations: NDArray) -> NDArray:
        head = self._any_instance().head
        return head.predict(head.pool(activations)).argmax(axis=-1)

    def fit(
        self,
        nb_samples_per_class: int | None = None,
        verbose: bool = False,
        *,
        resume: str | os.PathLike | None = None,
    ) -> None:
        """Learn the concepts from the images that the network assigns to the classes of interest.

        Parameters
        ----------
        nb_samples_per_class
            At most so many images of each class; None for all.
        verbose
            Whether to print the class being fitted.
        resume
            As in `DirectionPairsTf.fit`; a folder in it for each class where they are not shared.

        Raises
        ------
        ValueError
            If no image is assigned to any of the classes.

        Warns
        -----
        UserWarning
            For a class that no image is assigned to; it is left out.
        """
        if nb_samples_per_class is not None:
            check_integer("nb_samples_per_class", nb_samples_per_class)
        folder = None if resume is None else Checkpoint.folder_for(resume)
        activations = self._activations()
        predictions = self._predict(activations)
        chosen = {}
        for class_id in self.craft_instances:
            indices = np.flatnonzero(predictions == class_id)[:nb_samples_per_class]
            if indices.size:
                chosen[class_id] = indices
        if not chosen:
            raise ValueError(
                f"the network assigns none of the {len(predictions)} images to any of the classes "
                f"{list(self.craft_instances)}, but to {np.unique(predictions).tolist()}"
            )
        missing = [class_id for class_id in self.craft_instances if class_id not in chosen]
        if missing:
            warnings.warn(
                f"the network assigns no image to the classes {missing}: they are left out",
                UserWarning,
                stacklevel=2,
            )
        for instance in self.craft_instances.values():
            instance.factorization = None  # a class left out now must not keep an earlier fit
        shared = None
        if self.shared:
            shared = self.craft_instances[next(iter(chosen))]
            shared._resume = folder
            shared._fit_factorizer(activations[np.concatenate(list(chosen.values()))])
        for class_id, indices in chosen.items():
            if verbose:
                print(f"Fitting direction pairs for class {class_id}")
            instance = self.craft_instances[class_id]
            if shared is None:
                instance._resume = folder and folder / f"class_{class_id}"
                instance._fit_factorizer(activations[indices])
            else:
                instance.factorizer = shared.factorizer
            instance._describe(self.inputs[indices], activations[indices], class_id)
            if shared is None and instance.history_ and instance.history_.interrupted:
                break  # Ctrl-C is meant for the whole fit; what there is stays

    def _fitted(self) -> dict[int, DirectionPairsTf]:
        fitted = {k: c for k, c in self.craft_instances.items() if c.factorization is not None}
        if not fitted:
            raise NotFittedError("this DirectionPairsManagerTf is not fitted: call fit() first")
        return fitted

    @property
    def pairs(self) -> DirectionPairs | dict[int, DirectionPairs]:
        """The shared pairs, or those of each class where they are not shared."""
        by_class = {class_id: craft.pairs for class_id, craft in self._fitted().items()}
        return next(iter(by_class.values())) if self.shared else by_class

    @property
    def history_(self) -> History | dict[int, History | None] | None:
        """How the fit went; of each class where pairs are not shared."""
        by_class = {class_id: craft.history_ for class_id, craft in self._fitted().items()}
        return next(iter(by_class.values())) if self.shared else by_class

    def estimate_importance(self, nb_design: int = 32, verbose: bool = False) -> None:
        """Importances of the concepts for every fitted class: see `DirectionPairsTf`.

        A concept has its colour by its number: where the pairs are shared, the same in every class.
        """
        fitted = self._fitted()
        for class_id, instance in fitted.items():
            if verbose:
                print(f"Estimating importances for class {class_id}")
            instance.estimate_importance(nb_design=nb_design)

    def _instance(self, class_id: int) -> DirectionPairsTf:
        if class_id not in self.craft_instances:
            raise ValueError(
                f"class {class_id} is not one of the classes of interest, "
                f"{list(self.craft_instances)}"
            )
        if self.craft_instances[class_id] not in self._fitted().values():
            raise NotFittedError(f"class {class_id} was left out of the fit: no image is predicted")
        return self.craft_instances[class_id]

    def plot_concepts_importances(
        self, class_id: int, nb_most_important_concepts: int = 5, verbose: bool = False
    ) -> Figure:
        """Bars of the importances of one class: see `DirectionPairsTf`."""
        return self._instance(class_id).plot_concepts_importances(
            nb_most_important_concepts=nb_most_important_concepts, verbose=verbose
        )

    def plot_concepts_crops(
        self, class_id: int, nb_crops: int = 10, nb_most_important_concepts: int | None = None
    ) -> Figure:
        """Best crops of each concept among the images of one class: see `DirectionPairsTf`."""
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
        """One image and what a class's concepts say of it: see `DirectionPairsTf`."""
        return self._instance(class_id).plot_image_concepts(
            img,
            display_importance_order=display_importance_order,
            nb_most_important_concepts=nb_most_important_concepts,
            filter_percentile=filter_percentile,
            clip_percentile=clip_percentile,
            alpha=alpha,
            filepath=filepath,
        )


def _class_indices(labels: ArrayLike) -> NDArray:
    """Class indices (N,) of labels (N,), (N, 1) or one-hot (N, K)."""
    labels = np.asarray(labels)
    if labels.ndim not in (1, 2) or labels.dtype.kind not in "fiub":
        raise ValueError(
            "labels must be class indices (N,) or one-hot rows (N, K), "
            f"not {labels.dtype} {labels.shape}"
        )
    if labels.ndim == 2 and labels.shape[1] > 1:
        if not (np.isin(labels, (0, 1)).all() and (labels.sum(axis=1) == 1).all()):
            raise ValueError("rows of labels must be one-hot: one 1, the rest 0")
        return labels.argmax(axis=1)
    indices = labels.reshape(len(labels)).astype(int)
    if (indices != labels.reshape(len(labels))).any():
        raise ValueError("labels must be whole class indices")
    return indices
