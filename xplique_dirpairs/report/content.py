"""What a report shows, as plain arrays and names: made by `make_report`, or by hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from numpy.typing import NDArray

from xplique_dirpairs.core.tables import Table

if TYPE_CHECKING:
    from xplique_dirpairs.explanations.model_explanation import ModelExplanation


class Label(NamedTuple):
    """What annotations call a concept.

    Attributes
    ----------
    name, category
    iou, precision, recall, average_precision
        Of the detector with it, in [0, 1], on images that the label is not from.
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
    crops
        For each concept its best crops (k, s, s, 3) uint8, best first; all of one side s.
    crop_images
        For each concept the images they are of, (k,) int: places among the shown, −1 if not shown.
    presence, occupancy : (I,)
        Share of the images where the concept is detected at all, and of all positions.
    histogram : (I, B)
        Shares of the positions, by detection from 0 to 1 in B equal steps.
    histogram_of : str
        What the steps are of: "detection", or "coefficient" (of its largest) where an extractor
        has no detectors.
    signal_cosines : (I, I)
        Of the encoding directions.
    filter_cosines : (I, I) or None
        Of the filters.
    overlaps : (I, I)
        Of the positions where either of two is detected, the share where both are.
    labels
        For each concept, None where it has none.
    """

    crops: tuple[NDArray, ...]
    crop_images: tuple[NDArray, ...]
    presence: NDArray
    occupancy: NDArray
    histogram: NDArray
    histogram_of: str
    signal_cosines: NDArray
    filter_cosines: NDArray | None
    overlaps: NDArray
    labels: tuple[Label | None, ...]


class Change(NamedTuple):
    """A counterfactual: the least change of concepts that changes an image's prediction.

    Attributes
    ----------
    status
        "changed", "not found" or "already the target".
    after : int
        The class then predicted.
    concepts : (k,) int
        Which were moved, the largest change of features first.
    before_means, after_means : (k,)
        Of their coefficients over the image.
    changed : float
        ‖x' − x‖ / ‖x‖ of the features.
    percentile : float
        Of the training images' distances, where the moved features are.
    """

    status: str
    after: int
    concepts: NDArray
    before_means: NDArray
    after_means: NDArray
    changed: float
    percentile: float


@dataclass(frozen=True, eq=False)
class ImagePages:
    """n images: what the network says of them, by which concepts, and where these are.

    Attributes
    ----------
    pictures
        (height, width, 3) uint8 each, of any size.
    names
    labels : (n,) int
        Their classes.
    likeliest : (n, m) int
        The likeliest classes, the predicted one first.
    probabilities : (n, m)
        Theirs.
    scores, residuals : (n,)
        Logit of the predicted class, and what is left of it with every concept off.
    contributions : (n, I)
        Of each concept to that logit.
    maps : (n, h, w, I)
        Where the concepts are, in [0, 1]; 0 where one is not detected.
    changes
        Counterfactuals, for each image or None.
    """

    pictures: tuple[NDArray, ...]
    names: tuple[str, ...]
    labels: NDArray
    likeliest: NDArray
    probabilities: NDArray
    scores: NDArray
    residuals: NDArray
    contributions: NDArray
    maps: NDArray
    changes: tuple[Change | None, ...]


@dataclass(frozen=True, eq=False)
class ExtractorConcepts:
    """Another extractor's concepts, as far as class pages show them.

    Attributes
    ----------
    name
    contributions
        Class → what each concept does to its logit, (I',), mean over its images.
    crops
        Concept → best crops (k, s, s, 3) uint8; of those that are shown.
    """

    name: str
    contributions: Mapping[int, NDArray]
    crops: Mapping[int, NDArray]


@dataclass(frozen=True, eq=False)
class Report:
    """A report, ready to be written.

    Attributes
    ----------
    title
    explanation : ModelExplanation
        What drives each class.
    concepts : ConceptPages
    images : ImagePages
    class_names
        Of every class that is named anywhere: of `explanation`, and predicted ones.
    extractors
        Others, beside which the concepts stand on class pages.
    tables
        Of a comparison.
    metrics
        What the columns of the tables mean: header → description.
    notes
        To be read on the front page.
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

    def save(self, path: str | Path, single_file: bool = False) -> Path:
        """Write the report.

        Parameters
        ----------
        path
            A folder, which is made if it is not there; or a file, with ``single_file``.
        single_file
            Everything in one HTML file, about a third larger.

        Returns
        -------
        page : Path
            What to open in a browser: ``index.html`` in the folder, or the file.

        Raises
        ------
        NotADirectoryError, IsADirectoryError, FileExistsError
            If ``path`` is a file, or a folder, where the other was wanted, or its ``report_files``
            are no report's.
        """
        from xplique_dirpairs.report.page_files import write_file, write_folder

        return write_file(self, Path(path)) if single_file else write_folder(self, Path(path))
