"""Pictures of concepts that several networks share: `maximise_together`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from xplique_dirpairs.core.claims import check_claims
from xplique_dirpairs.core.linear_algebra import UNMATCHED
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import check_named, errors_of
from xplique_dirpairs.extractors.concept_layer import ConceptLayer
from xplique_dirpairs.maximisation.maximise import MaximisationSettings, maximise
from xplique_dirpairs.plots.matching import plot_shared_pictures

_DEFAULT = MaximisationSettings()


@dataclass(frozen=True, eq=False)
class SharedPictures:
    """A picture of each of U shared concepts for each of M networks that has it.

    Attributes
    ----------
    concepts : ndarray of shape (U, M), int
        Index of each concept in each network; −1 where a network does not have it.
    pictures : dict of str to ndarray of shape (U, height, width, channels)
        Pictures by the name of the network, in the range of its input; NaN where the network does
        not have the concept.
    """

    concepts: Array
    pictures: dict[str, Array]

    def plot(self, title: str = "") -> Figure:
        """Draw a row for each concept, with the picture of each network.

        Parameters
        ----------
        title : str, default=""
            Title of the figure.

        Returns
        -------
        figure : matplotlib.figure.Figure
            The figure, which is not shown.
        """
        return plot_shared_pictures(title, self.concepts, self.pictures)


def maximise_together(
    networks: Mapping[str, Any],
    concepts: ArrayLike,
    *,
    against_rival: float = 1.0,
    values_range: tuple[float, float] | Mapping[str, tuple[float, float]] = (0.0, 1.0),
    image_shape: Mapping[str, tuple[int, int, int]] | None = None,
    steps: int = 128,
    settings: MaximisationSettings = _DEFAULT,
    batch_size: int = 8,
    random_state: int | None = None,
    verbose: int = 1,
) -> SharedPictures:
    """Generate a picture of each shared concept for each network that has it.

    The coordinated activation maximisation of USAE (arXiv 2502.03714, section 3.3): each picture
    maximises the concept in its own network, independently of the others. What the pictures have in
    common comes from the concept, not from the optimisation.

    Parameters
    ----------
    networks : mapping of str to ConceptLayer or fitted extractor
        The concepts of each network by its name, as `maximise` takes them.
    concepts : array-like of shape (U, M), int
        In each row the index of the same concept in every network, −1 where one does not have it:
        `Matches.concepts`, `UniversalFactorizer.concepts` or `UniversalPairs.concepts`, or some of
        their rows.
    against_rival : float, default=1.0
        Weight, at least 0, of the strongest other concept.
    values_range : (float, float) or mapping of str to (float, float), default=(0.0, 1.0)
        Lowest and highest value of the input of all networks, or of each network.
    image_shape : mapping of str to (int, int, int), optional
        (height, width, channels) for networks that accept images of several sizes.
    steps : int, default=128
        Number of steps of the ascent.
    settings : MaximisationSettings, default=MaximisationSettings()
        As in `maximise`.
    batch_size : int, default=8
        Number of images that are generated at once.
    random_state : int, optional
        Seed of the initial images and shifts. None: a random seed.
    verbose : int, default=1
        0: silent. Otherwise, a progress bar is shown for each network.

    Returns
    -------
    pictures : SharedPictures

    Raises
    ------
    TypeError, ValueError
        As for `maximise`; and if ``concepts`` does not have a column for each network.
    """
    check_named("networks", networks, "concepts")
    layers = {}
    for name, one in networks.items():
        with errors_of(name):
            layers[name] = ConceptLayer.of(one)
    if image_shape is not None:
        check_named("image_shape", image_shape, "(height, width, channels)")
    if isinstance(values_range, Mapping) and set(layers) - set(values_range):
        missing = next(name for name in layers if name not in values_range)
        raise ValueError(f"values_range must have the range of every network, also of {missing!r}")
    groups = check_claims(concepts, [one.number_of_concepts for one in layers.values()], least=1)
    if not len(groups):
        raise ValueError("concepts has no rows: no concept is claimed to be the same")
    pictures = {}
    for (name, layer), own in zip(layers.items(), groups.T, strict=True):
        has = own != UNMATCHED
        if not has.any():
            raise ValueError(f"{name}: concepts has no concept of this network: leave it out")
        made = maximise(
            layer,
            own[has],
            against_rival=against_rival,
            values_range=values_range[name] if isinstance(values_range, Mapping) else values_range,
            image_shape=None if image_shape is None else image_shape.get(name),
            steps=steps,
            settings=settings,
            batch_size=batch_size,
            random_state=random_state,
            verbose=verbose,
        )
        pictures[name] = np.full((len(groups), *made.shape[1:]), np.nan, np.float32)
        pictures[name][has] = made
    return SharedPictures(groups, pictures)
