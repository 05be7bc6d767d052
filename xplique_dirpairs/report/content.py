"""Content of a report as plain arrays and names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from numpy.typing import ArrayLike

from xplique_dirpairs.connectome.diagnose import Diagnosis
from xplique_dirpairs.connectome.result import Connectome
from xplique_dirpairs.core.tables import Table
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import check_integer, check_type
from xplique_dirpairs.explanations.model_explanation import ModelExplanation
from xplique_dirpairs.extractors.scan import KEPT_BYTES


@dataclass(frozen=True, eq=False)
class ReportSettings:
    """Settings of `write_report`: its title, what it shows of N images, and how it is computed.

    Attributes
    ----------
    title : str, default="Concepts of a model"
        Title of the report.
    notes : sequence of str, default=()
        Paragraphs for the front page.
    image_names : sequence of N str, optional
        Names of the images, such as file names. None: "image 0", "image 1", …; or "video 0".
    pictures : sequence of N array-like of shape (height, width, C), optional
        Pictures that are shown instead of the images, such as the photographs before they were
        preprocessed: of any size, but of the same scene. None: the images themselves. Integers
        are shown with 0 as black and 255 as white; other values with 0 and 1 if all lie between
        these, and otherwise with the lowest and the highest value.
    max_images : int, default=500
        Upper limit on the number of images that have a page: first those in which a concept is
        strongest, then images of all classes in turn. Numbers in the report are computed from all
        images.
    nb_crops : int, default=10
        Largest number of crops of each concept, the parts of images in which it is strongest.
    maximise : bool, default=False
        Whether to generate a picture for each concept that makes its detector fire: see `maximise`,
        which takes seconds to a minute for each concept.
    picture_side : int, default=320
        Longest side of the pictures, in pixels; smaller pictures are not enlarged.
    batch_size : int, default=64
        Number of images that pass through the network at a time.
    memory : int, default=2**29
        Largest size, in bytes, of the activations that are kept in memory (2**29 are 512 MB). The
        images whose activations are not kept pass through the network again when these are needed.
    random_state : int or None, default=0
        Seed of the sample of positions, of the noise directions that the influence of concepts is
        tested against, of the arrangements of images, and of maximised pictures. None draws a seed.
    position : bool, default=False
        Whether the page of each concept says how it depends on the place in the image:
        `position_dependence` on up to 100 of the images.
    connectomes : mapping of str to Connectome, default={}
        By name, connectomes of the same network. Each has a page to walk, which the overview leads
        to; if its concepts at the report's layer are those of the report, so do their pages.
    diagnoses : mapping of int to Diagnosis, default={}
        By index of the image, what `diagnose_prediction` returned for it. The page of the image
        shows, layer by layer, which parts look like which class.

    Raises
    ------
    TypeError
        If connectomes or diagnoses are of another type.
    ValueError
        If ``max_images``, ``nb_crops``, ``picture_side`` or ``batch_size`` is not a positive
        integer, or ``memory`` is not an integer of at least 0.
    """

    title: str = "Concepts of a model"
    notes: Sequence[str] = ()
    image_names: Sequence[str] | None = None
    pictures: Sequence[ArrayLike] | Array | None = None
    max_images: int = 500
    nb_crops: int = 10
    maximise: bool = False
    picture_side: int = 320
    batch_size: int = 64
    memory: int = KEPT_BYTES
    random_state: int | None = 0
    position: bool = False
    connectomes: Mapping[str, Connectome] = field(default_factory=dict)
    diagnoses: Mapping[int, Diagnosis] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("max_images", "nb_crops", "picture_side", "batch_size"):
            check_integer(name, getattr(self, name))
        check_integer("memory", self.memory, 0)
        wanted = "a dict of names to connectomes"
        check_type("connectomes", self.connectomes, Mapping, wanted, "such as {'all classes': …}")
        wanted = "a dict of indices of images to diagnoses"
        check_type("diagnoses", self.diagnoses, Mapping, wanted, "such as {0: …}")
        for connectome in self.connectomes.values():
            check_type("connectomes", connectome, Connectome, "Connectome", "call build_connectome")
        for diagnosis in self.diagnoses.values():
            check_type("diagnoses", diagnosis, Diagnosis, "Diagnosis", "call diagnose_prediction")


class Label(NamedTuple):
    """A label of a concept, chosen from annotations.

    All scores compare the concept's detector with the label, on images that the label was not
    chosen on.

    Attributes
    ----------
    name : str
        Name of the label.
    category : str
        Category of the label, such as "object" or "part".
    iou : float
        Intersection over union, in [0, 1].
    precision : float
        Share of the pixels where the detector fires that belong to the label, in [0, 1].
    recall : float
        Share of the pixels of the label where the detector fires, in [0, 1].
    average_precision : float
        Average precision of the detector's map for the label, in [0, 1].
    """

    name: str
    category: str
    iou: float
    precision: float
    recall: float
    average_precision: float


class Fact(NamedTuple):
    """A fact about a concept, for the page of the concept.

    Attributes
    ----------
    name : str
        What the fact is about, such as "Nearest concept of another model".
    text : str
        A sentence.
    crops : ndarray of shape (k, s, s, 3), uint8, or None
        Crops that illustrate it, of side s in pixels.
    """

    name: str
    text: str
    crops: Array | None = None


@dataclass(frozen=True, eq=False)
class ConceptPages:
    """Data of the pages of I concepts: how they look, and where they are detected.

    Attributes
    ----------
    crops : tuple of I ndarray of shape (k, s, s, 3) or (k, T, s, s, 3), uint8
        Best crops of each concept, best first; all crops have the same side s, in pixels. Of videos
        they have T frames.
    crop_images : tuple of I ndarray of shape (k,), int
        Index among the shown images of the image that each crop is cut from; −1 if that image is
        not shown.
    presence : ndarray of shape (I,)
        Share of the images in which the concept is detected at one position or more.
    occupancy : ndarray of shape (I,)
        Share of all positions at which the concept is detected.
    histogram : ndarray of shape (I, bins)
        Share of the positions in each of equal bins, from 0 to 1, of the values of a concept.
    histogram_of : {"detection", "coefficient"}
        Values that the histogram counts: detections of direction pairs or, for an extractor without
        detectors, coefficients as a share of the largest coefficient.
    signal_cosines : ndarray of shape (I, I)
        Cosines between the encoding directions of all pairs of concepts.
    filter_cosines : ndarray of shape (I, I) or None
        Cosines between the filters (decoding directions) of all pairs of concepts; None for an
        extractor without filters.
    overlaps : ndarray of shape (I, I)
        Number of positions where both of two concepts are detected, as a share of the positions
        where at least one of them is.
    labels : tuple of I (Label or None)
        Label of each concept; None for a concept without one.
    pointed_classes : ndarray of shape (I, m), int
        Indices of at most five classes that the encoding direction of each concept points to, the
        best first: see `arrangement.pointed_classes`.
    pointed_values : ndarray of shape (I, m)
        What these classes are ranked by.
    pointed_by : {"cosine", "unit effect"}
        Meaning of the values: cosines with the centred weights of the classes or, where the head is
        not linear, changes of their centred logits for one unit of length.
    maximised : tuple of I ndarray of shape (height, width, 3), uint8, or ()
        A picture generated for each concept, which makes its detector fire; () for none.
    facts : tuple of I (tuple of Fact), or ()
        Further facts about each concept; () for none.
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
    pointed_classes: Array
    pointed_values: Array
    pointed_by: str
    maximised: tuple[Array, ...] = ()
    facts: tuple[tuple[Fact, ...], ...] = ()


class Change(NamedTuple):
    """A counterfactual: the smallest change of concepts that changes the prediction of an image.

    Attributes
    ----------
    status : {"changed", "not found", "already the target"}
        Result of the search.
    after : int
        Index of the class that is predicted after the change.
    concepts : ndarray of shape (k,), int
        Indices of the changed concepts, the one that changes the features most first.
    before_means : ndarray of shape (k,)
        Mean coefficient of each changed concept over the image before the change.
    after_means : ndarray of shape (k,)
        Mean coefficient of each changed concept over the image after the change.
    changed : float
        Relative change ‖x' − x‖ / ‖x‖ of the features x of the image.
    percentile : float
        Percentage of the training images whose own distance to the training images is smaller than
        that of the changed features: see `TrainingDistance`.
    """

    status: str
    after: int
    concepts: Array
    before_means: Array
    after_means: Array
    changed: float
    percentile: float


class LayerByLayer(NamedTuple):
    """Which parts of an image look like which class, layer by layer.

    Attributes
    ----------
    picture : ndarray of shape (height, width, 3), uint8
        The image at each layer, its parts coloured by the nearest class.
    text : str
        The same in words.
    """

    picture: Array
    text: str


class LinkedConnectome(NamedTuple):
    """A connectome that has a page beside the report.

    Attributes
    ----------
    name : str
    connectome : Connectome
    layer : int or None
        Index of the layer whose concepts are those of the report; None if there is none.
    """

    name: str
    connectome: Connectome
    layer: int | None


@dataclass(frozen=True, eq=False)
class ImagePages:
    """Data of the pages of n shown images: predictions, contributions and maps of concepts.

    Attributes
    ----------
    pictures : tuple of n ndarray of shape (height, width, 3) or (T, height, width, 3), uint8
        The images, or videos, as they are shown, of any size.
    names : tuple of n str
        Names of the images.
    labels : ndarray of shape (n,), int
        Index of the class of each image, as given to `write_report` or else as predicted.
    likeliest : ndarray of shape (n, m), int
        Indices of the m likeliest classes of each image, the predicted class first.
    probabilities : ndarray of shape (n, m)
        Probabilities of the likeliest classes.
    scores : ndarray of shape (n,)
        Logit of the predicted class.
    residuals : ndarray of shape (n,)
        Logit of the predicted class with every concept off.
    contributions : ndarray of shape (n, I)
        Contribution of each concept to the logit of the predicted class.
    maps : ndarray of shape (n, h, w, I)
        Maps of the concepts in h × w cells: coefficients scaled to [0, 1] such that the largest
        0.5 % of a concept's positive values are 1; 0 where the concept is not detected.
    changes : tuple of n (Change or None)
        Counterfactual of each image; None for an image without one.
    places : ndarray of shape (n, 2)
        Coordinates in [0, 1] of each image among the shown images that are predicted as the same
        class, arranged by their contributions; NaN where these are too few.
    over_time : tuple of n ndarray of shape (T′, I), default=()
        Contribution of each concept in each frame of the features of videos; empty for images.
    diagnoses : tuple of n (LayerByLayer or None), or ()
        Diagnosis of each image, None for an image without one; () if there are none.
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
    places: Array
    over_time: tuple[Array, ...] = ()
    diagnoses: tuple[LayerByLayer | None, ...] = ()


@dataclass(frozen=True, eq=False)
class ExtractorConcepts:
    """Concepts of another extractor that are shown on class pages.

    Attributes
    ----------
    name : str
        Name of the extractor.
    contributions : dict of int to ndarray of shape (J,)
        By index of the class: contribution of each of the extractor's J concepts to the logit of
        the class, mean over the class's images.
    crops : dict of int to ndarray of shape (k, s, s, 3), uint8
        By index of the concept, for the concepts that are shown: the k crops in which it is
        strongest, of side s in pixels.
    """

    name: str
    contributions: Mapping[int, Array]
    crops: Mapping[int, Array]


@dataclass(frozen=True, eq=False)
class OtherNetwork:
    """The concepts of another network that the I concepts of the report resemble most.

    Attributes
    ----------
    name : str
        Name of the network.
    concept_names : tuple of str
        Names of its concepts.
    nearest : ndarray of shape (I,), int
        Index of the nearest of its concepts, for each concept of the report.
    correlation : ndarray of shape (I,)
        Correlation of their coefficients over positions.
    phi : ndarray of shape (I,)
        φ of their detections.
    same : ndarray of shape (I,), bool
        Whether the two are the same concept: see `matching.match_result.Matches.holds`.
    crops : dict of int to ndarray of shape (k, s, s, 3), uint8
        By index: best crops of the nearest concepts.
    """

    name: str
    concept_names: tuple[str, ...]
    nearest: Array
    correlation: Array
    phi: Array
    same: Array
    crops: Mapping[int, Array]


@dataclass(frozen=True, eq=False)
class Report:
    """Content of a report as plain arrays and names, which `save_report` writes.

    `report.write.build_report` returns it; `write_report` builds and writes it in one call.

    Attributes
    ----------
    title : str
        Title of the report.
    explanation : ModelExplanation
        Result of `explain_model`: contributions and influence of the concepts, for each class.
    concepts : ConceptPages
        For the page of each concept: best crops, where it is detected, cosines of its directions
        with those of other concepts, overlaps of its detections with theirs, and its label.
    images : ImagePages
        For the page of each shown image: picture, prediction, contributions and maps of the
        concepts, and its counterfactual.
    class_names : dict of int to str
        Names of all classes of the network, by index.
    extractors : tuple of ExtractorConcepts, default=()
        Other extractors, whose concepts are shown on the pages of classes.
    networks : tuple of OtherNetwork, default=()
        Other networks, whose nearest concepts are shown on the pages of concepts.
    tables : tuple of Table, default=()
        Tables of a comparison of extractors, one for each kind of metrics.
    metrics : dict of str to str, default={}
        Description of each column of the tables, by its header.
    notes : tuple of str, default=()
        Paragraphs for the front page.
    connectomes : tuple of LinkedConnectome, default=()
        Connectomes of the same network, which have pages of their own.
    """

    title: str
    explanation: ModelExplanation
    concepts: ConceptPages
    images: ImagePages
    class_names: Mapping[int, str]
    extractors: tuple[ExtractorConcepts, ...] = ()
    networks: tuple[OtherNetwork, ...] = ()
    tables: tuple[Table, ...] = ()
    metrics: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    connectomes: tuple[LinkedConnectome, ...] = ()

    def __repr__(self) -> str:
        return (
            f"Report({self.title!r}: {len(self.explanation.class_names)} classes, "
            f"{len(self.explanation.concept_names)} concepts, {len(self.images.names)} images)"
        )
