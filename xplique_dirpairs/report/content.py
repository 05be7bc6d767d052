"""The content of a report as plain arrays and names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from numpy.typing import ArrayLike

from xplique_dirpairs.core.tables import Table
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import check_integer
from xplique_dirpairs.explanations.model_explanation import ModelExplanation
from xplique_dirpairs.extractors.scan import KEPT_BYTES


@dataclass(frozen=True, eq=False)
class ReportSettings:
    """What a report is called, what it shows of the images, and how they are read.

    Attributes
    ----------
    title : str
    notes : sequence of str
        For the front page.
    image_names : sequence of str, optional
        N names, of files for example; None: numbers.
    pictures : sequence of array-like, optional
        What is shown of each of N images, of any size but the same part of the world: uint8, or in
        the range of the images. None: the images themselves, from their lowest value (black) to
        their highest.
    max_images : int, default=500
        Images that have a page of their own: those of the best crops, then evenly of all classes.
        Figures are of all images.
    nb_crops : int, default=8
        Of each concept.
    picture_side : int, default=320
        Longest side of the pictures, in pixels.
    batch_size : int, default=64
    memory : int, default=2**29
        Bytes of activations that are kept: see `scan`.
    random_state : int, default=0
        Seed of the noise of `explain_model`.

    Raises
    ------
    ValueError
        If a number is invalid.
    """

    title: str = "Concepts of a model"
    notes: Sequence[str] = ()
    image_names: Sequence[str] | None = None
    pictures: Sequence[ArrayLike] | Array | None = None
    max_images: int = 500
    nb_crops: int = 8
    picture_side: int = 320
    batch_size: int = 64
    memory: int = KEPT_BYTES
    random_state: int | None = 0

    def __post_init__(self) -> None:
        for name in ("max_images", "nb_crops", "picture_side", "batch_size"):
            check_integer(name, getattr(self, name))
        check_integer("memory", self.memory, 0)


class Label(NamedTuple):
    """A label of a concept, from annotations.

    Attributes
    ----------
    name, category : str
    iou, precision, recall, average_precision : float
        Of the detector with it, in [0, 1], on images that the label was not chosen on.
    """

    name: str
    category: str
    iou: float
    precision: float
    recall: float
    average_precision: float


@dataclass(frozen=True, eq=False)
class ConceptPages:
    """I concepts: what they look like, and where they are.

    Attributes
    ----------
    crops : tuple of ndarray of shape (k, s, s, 3), uint8
        Best crops of each concept, best first; all of one side s.
    crop_images : tuple of ndarray of shape (k,), int
        The images they are of: places among the shown, −1 if not shown.
    presence, occupancy : ndarray of shape (I,)
        Share of the images where the concept is detected at all, and of all positions.
    histogram : ndarray of shape (I, B)
        Shares of the positions, by detection from 0 to 1 in B equal steps.
    histogram_of : {"detection", "coefficient"}
        What the steps are of: "coefficient" (of its largest) where an extractor has no detectors.
    signal_cosines : ndarray of shape (I, I)
        Of the encoding directions.
    filter_cosines : ndarray of shape (I, I) or None
        Of the filters.
    overlaps : ndarray of shape (I, I)
        Positions where both of two are detected, as a share of those where either is.
    labels : tuple of Label or None
        One for each concept; None where it has none.
    """

    crops: tuple[Array, ...]
    crop_images: tuple[Array, ...]
    presence: Array
    occupancy: Array
    histogram: Array
    histogram_of: str
    signal_cosines: Array
    filter_cosines: Array | None
    overlaps: Array
    labels: tuple[Label | None, ...]


class Change(NamedTuple):
    """A counterfactual: the least change of concepts that changes an image's prediction.

    Attributes
    ----------
    status : {"changed", "not found", "already the target"}
    after : int
        The class then predicted.
    concepts : ndarray of shape (k,), int
        Moved concepts, the largest change of features first.
    before_means, after_means : ndarray of shape (k,)
        Means of their coefficients over the image.
    changed : float
        ‖x' − x‖ / ‖x‖ of the features.
    percentile : float
        Of the training images' distances, where the moved features are.
    """

    status: str
    after: int
    concepts: Array
    before_means: Array
    after_means: Array
    changed: float
    percentile: float


@dataclass(frozen=True, eq=False)
class ImagePages:
    """n images: what the network predicts, by which concepts, and where these are.

    Attributes
    ----------
    pictures : tuple of ndarray of shape (height, width, 3), uint8
        Of any size.
    names : tuple of str
    labels : ndarray of shape (n,), int
        Their classes.
    likeliest : ndarray of shape (n, m), int
        The likeliest classes, the predicted one first.
    probabilities : ndarray of shape (n, m)
    scores, residuals : ndarray of shape (n,)
        Logit of the predicted class, as it is and with every concept off.
    contributions : ndarray of shape (n, I)
        Of each concept to that logit.
    maps : ndarray of shape (n, h, w, I)
        Where the concepts are, in [0, 1]; 0 where one is not detected.
    changes : tuple of Change or None
        Counterfactuals, one for each image; None where there is none.
    """

    pictures: tuple[Array, ...]
    names: tuple[str, ...]
    labels: Array
    likeliest: Array
    probabilities: Array
    scores: Array
    residuals: Array
    contributions: Array
    maps: Array
    changes: tuple[Change | None, ...]


@dataclass(frozen=True, eq=False)
class ExtractorConcepts:
    """Another extractor's concepts, as far as class pages show them.

    Attributes
    ----------
    name : str
    contributions : dict of int to ndarray of shape (I',)
        Class → what each concept adds to its logit, mean over its images.
    crops : dict of int to ndarray of shape (k, s, s, 3), uint8
        Concept → best crops, of those that are shown.
    """

    name: str
    contributions: Mapping[int, Array]
    crops: Mapping[int, Array]


@dataclass(frozen=True, eq=False)
class Report:
    """A report, ready to be written by `save_report`.

    Attributes
    ----------
    title : str
    explanation : ModelExplanation
        What drives each class.
    concepts : ConceptPages
    images : ImagePages
    class_names : dict of int to str
        Of all classes.
    extractors : tuple of ExtractorConcepts
        Others, beside which the concepts stand on class pages.
    tables : tuple of Table
        Of a comparison.
    metrics : dict of str to str
        What the columns of the tables mean: header → description.
    notes : tuple of str
        For the front page.
    """

    title: str
    explanation: ModelExplanation
    concepts: ConceptPages
    images: ImagePages
    class_names: Mapping[int, str]
    extractors: tuple[ExtractorConcepts, ...] = ()
    tables: tuple[Table, ...] = ()
    metrics: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return (
            f"Report({self.title!r}: {len(self.explanation.class_names)} classes, "
            f"{len(self.explanation.concept_names)} concepts, {len(self.images.names)} images)"
        )
