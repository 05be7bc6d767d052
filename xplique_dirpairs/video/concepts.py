"""`discover_video_concepts`: concepts of the heads of a video transformer."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import IO, Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from xplique.concepts.factorizer import ConceptFactorizer

from xplique_dirpairs.core.batching import as_positions, by_position
from xplique_dirpairs.core.progress import progress
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import (
    check_choice,
    check_fraction,
    check_integer,
    check_type,
)
from xplique_dirpairs.extractors.concept_reader import ConceptReader
from xplique_dirpairs.factorizers.convex import ConvexNMFFactorizer
from xplique_dirpairs.metrics.blend import firing_thresholds
from xplique_dirpairs.models.attention import PARTS
from xplique_dirpairs.plots.images import pixel_limits
from xplique_dirpairs.plots.video_pictures import frames_with_map, plot_strips, save_animation
from xplique_dirpairs.sensitivity.masked_importance import MEAN, SUPPRESS, Unit
from xplique_dirpairs.video.probe import Head, HeadFunction, VideoProbe
from xplique_dirpairs.video.tubelets import DROPPED, Tubelets, propose_tubelets

TUBELETS, POSITIONS = "tubelets", "positions"


@dataclass(frozen=True, eq=False)
class HeadConcepts:
    """Concepts of one head.

    Attributes
    ----------
    reader : ConceptReader
        How I concepts are read from the d channels of the head.
    thresholds : ndarray of shape (I,)
        Coefficient above which a concept fires, for concepts of positions without detectors.
    masks : ndarray of shape (N, T′, H′, W′, I), bool
        Where the concepts are in the videos that they were found in.
    mean : ndarray of shape (d,)
        Mean of the features.
    """

    reader: ConceptReader
    thresholds: Array
    masks: Array
    mean: Array

    @property
    def number_of_concepts(self) -> int:
        """Number of concepts, I."""
        return len(self.reader.bank)


@dataclass(frozen=True, eq=False)
class VideoConcepts:
    """Q concepts of the heads of a video transformer. `discover_video_concepts` returns it.

    Attributes
    ----------
    probe : VideoProbe
        Probe of the network.
    by_head : dict of (int, int) to HeadConcepts
        Concepts of each head.
    part : {"keys", "queries", "values"}
        What they are concepts of.
    proposals : {"tubelets", "positions"}
        Whether a concept's mask consists of tubelets, or of the positions where it fires.
    skipped : dict of (int, int) to str
        Heads without concepts, with the reason.
    """

    probe: VideoProbe
    by_head: Mapping[Head, HeadConcepts]
    part: str
    proposals: str
    skipped: Mapping[Head, str]
    _videos: Array = field(repr=False)
    _settings: Mapping[str, Any] = field(repr=False)

    def __str__(self) -> str:
        return (
            f"{len(self.units)} concepts of the {self.part} of {len(self.by_head)} heads, on "
            f"{self.proposals}"
        )

    @cached_property
    def units(self) -> tuple[Unit, ...]:
        """Layer, head and number of each of Q concepts."""
        return tuple(
            (layer, head, i)
            for (layer, head), own in self.by_head.items()
            for i in range(own.number_of_concepts)
        )

    @property
    def unit_names(self) -> tuple[str, ...]:
        """Name of each of Q concepts: its layer, head and number."""
        return tuple(f"{layer}.{head}.{i}" for layer, head, i in self.units)

    def masks(self, concept: int) -> Array:
        """Return where a concept is in the videos that the concepts were found in.

        Parameters
        ----------
        concept : int
            Index of the concept, in the order of ``units``.

        Returns
        -------
        masks : ndarray of shape (N, T′, H′, W′), bool
            On the grid of the tokens.

        Raises
        ------
        ValueError
            If there is no such concept.
        """
        check_integer("concept", concept, 0)
        if concept >= len(self.units):
            raise ValueError(f"concepts are numbered 0 to {len(self.units) - 1}, not {concept}")
        layer, head, number = self.units[concept]
        return np.asarray(self.by_head[layer, head].masks[..., number])

    def masks_in(self, videos: ArrayLike) -> dict[Head, Array]:
        """Return where the concepts of each head are in other videos.

        Parameters
        ----------
        videos : array-like of shape (N, T, height, width, C)
            N videos, preprocessed for the network.

        Returns
        -------
        masks : dict of (int, int) to ndarray of shape (N, T′, H′, W′, I), bool
            Masks of the I concepts of each head.

        Raises
        ------
        ValueError
            If videos do not fit the network.
        """
        inputs = self.probe.check_videos(videos)
        if inputs.shape == self._videos.shape and np.array_equal(inputs, self._videos):
            return {head: own.masks for head, own in self.by_head.items()}
        found = {}
        for layer in sorted({layer for layer, _ in self.by_head}):
            features = self.probe.layer_features(inputs, layer, self.part)
            for head, own in self.by_head.items():
                if head[0] == layer:
                    maps = features[..., head[1], :]
                    found[head] = _masks(maps, own.reader, own.thresholds, **self._settings)
        return {head: found[head] for head in self.by_head}

    def plot(self, concept: int, videos: int = 4, frames: int = 8, title: str = "") -> Figure:
        """Plot frames of the videos in which a concept covers most, dimmed where it is absent.

        Parameters
        ----------
        concept : int
            Index of the concept, in the order of ``units``.
        videos : int, default=4
            Largest number of videos.
        frames : int, default=8
            Largest number of frames of a video.
        title : str, default=""
            Title of the figure. Empty: a general one.

        Returns
        -------
        figure : matplotlib.figure.Figure
            The figure, which is not shown.

        Raises
        ------
        ValueError
            If there is no such concept, or it is in no video.
        """
        check_integer("videos", videos)
        check_integer("frames", frames)
        order = self._videos_with(concept)[:videos]
        return plot_strips(
            title or f"Concept {self.unit_names[concept]}",
            [self._frames(concept, n) for n in order],
            frames,
            [f"video {n}" for n in order],
        )

    def animate(
        self, concept: int, path: str | os.PathLike[str] | IO[bytes], video: int | None = None
    ) -> None:
        """Write an animated WebP of a video, dimmed where a concept is absent.

        It moves in a browser even where motion is switched off in the system: `plot` draws strips
        of frames.

        Parameters
        ----------
        concept : int
            Index of the concept, in the order of ``units``.
        path : str, path-like or binary file
            File to write; its name should end in ``.webp``. Or an open one, such as `io.BytesIO`.
        video : int, optional
            Index of the video. None: the one in which the concept covers most.

        Raises
        ------
        ValueError
            If there is no such concept or video, or the concept is in no video.
        OSError
            If the file cannot be written.
        """
        if video is None:
            video = int(self._videos_with(concept)[0])
        check_integer("video", video, 0)
        if video >= len(self._videos):
            raise ValueError(f"videos are numbered 0 to {len(self._videos) - 1}, not {video}")
        save_animation(path, self._frames(concept, video))

    def _videos_with(self, concept: int) -> Array:
        """Return the videos in which a concept is, those it covers most first."""
        cover = self.masks(concept).mean(axis=(1, 2, 3))
        order = np.argsort(-cover, kind="stable")[: int((cover > 0).sum())]
        if not len(order):
            raise ValueError(f"concept {concept} is in none of the {len(cover)} videos")
        return order

    def _frames(self, concept: int, video: int) -> Array:
        """Return the frames of a video with the mask of a concept, (T, height, width, 3)."""
        clip = self._videos[video]
        clip = clip if clip.ndim == 4 else clip[None]  # an image is a video of one frame
        return frames_with_map(clip, self.masks(concept)[video], pixel_limits(self._videos))

    def runner(self, inputs: Array, removal: str, batch_size: int) -> Callable[[Array], Array]:
        """Return a function from removed concepts (Q,) bool to the outputs for all inputs."""
        probe = self.probe
        inputs = probe.check_videos(inputs)
        starts = np.cumsum([0, *(own.number_of_concepts for own in self.by_head.values())])
        places = {
            head: slice(starts[k], starts[k + 1]) for k, head in enumerate(self.by_head)
        }  # fmt: skip
        if removal == SUPPRESS:
            return self._suppressing(inputs, places)
        masks = self.masks_in(inputs)
        numbers = [
            sum(1 for one in probe.heads if one[0] == k) for k in range(len(probe.layer_names))
        ]
        fills = None
        if removal == MEAN:
            channels = {layer: own.mean.size for (layer, _), own in self.by_head.items()}
            fills = [
                np.zeros((number, channels.get(k, 1)), np.float32)
                for k, number in enumerate(numbers)
            ]
            for (layer, head), own in self.by_head.items():
                fills[layer][head] = own.mean

        def run(removed: Array) -> Array:
            kept = [np.ones((len(inputs), *probe.grid, number), np.float32) for number in numbers]
            for (layer, head), place in places.items():
                gone = masks[layer, head][..., removed[place]].any(axis=-1)
                kept[layer][..., head] = ~gone
            return probe.run_masked(inputs, kept, self.part, removal, fills)

        return run

    def _suppressing(self, inputs: Array, places: Mapping[Head, slice]) -> Callable[[Array], Array]:
        """Return a function that moves features along the signal vectors of removed concepts."""
        for own in self.by_head.values():
            if own.reader.pairs is None:
                raise TypeError(
                    "removal 'suppress' moves features along signal vectors, which only direction "
                    "pairs have: discover concepts with extractor=DirectionPairsFactorizer(…)"
                )
        removed = np.zeros(len(self.units), bool)

        def function_of(layer: int) -> HeadFunction:
            def function(features: Array) -> Array:
                features = features.copy()
                for head, place in places.items():
                    chosen = np.flatnonzero(removed[place])
                    pairs = self.by_head[head].reader.pairs
                    if head[0] == layer and len(chosen) and pairs is not None:
                        own = features[:, :, head[1]]
                        features[:, :, head[1]] = pairs.suppress(own, chosen.tolist())
                return features

            return function

        layers = range(len(self.probe.layer_names))
        compiled = self.probe.runner_of([function_of(layer) for layer in layers], self.part)

        def run(chosen: Array) -> Array:
            removed[:] = chosen
            return compiled(inputs)

        return run


def discover_video_concepts(
    probe: VideoProbe,
    videos: ArrayLike,
    *,
    part: str = "keys",
    heads: Sequence[Head] | None = None,
    extractor: Callable[[], Any] | None = None,
    proposals: str = "tubelets",
    count: int = 12,
    compactness: float = 0.1,
    rate: float = 0.05,
    random_state: int | None = 0,
    verbose: int = 0,
) -> VideoConcepts:
    """Find concepts in the heads of a video transformer.

    Kowal et al. ("Understanding video transformers via universal concept discovery", VTCD, CVPR
    2024) cluster tubelets of the keys of each head by convex NMF, which is the default. With
    ``proposals="positions"`` any extractor is fitted on all tokens of a head instead, and a concept
    is where it fires. The heads of one layer are in memory at a time.

    Parameters
    ----------
    probe : VideoProbe
        Probe of the network.
    videos : array-like of shape (N, T, height, width, C)
        N videos, preprocessed for the network.
    part : {"keys", "queries", "values"}, default="keys"
        What concepts are found in.
    heads : sequence of (int, int), optional
        Heads to look into. None: all.
    extractor : callable, optional
        Makes an unfitted factorizer, such as ``lambda: DirectionPairsFactorizer(8)``: a new one for
        each head. None: `ConvexNMFFactorizer`, which finds the number of concepts of each head.
    proposals : {"tubelets", "positions"}, default="tubelets"
        "tubelets": the factorizer is fitted on the mean features of tubelets, and a tubelet belongs
        to the concept of its largest coefficient. "positions": on the features of all tokens;
        direction pairs fire where they are detected, other concepts on a share ``rate``.
    count, compactness : int, default=12, and float, default=0.1
        As in `propose_tubelets`.
    rate : float, default=0.05
        Share of the tokens where a concept without detector fires.
    random_state : int or None, default=0
        Seed of the default extractor. None draws a seed.
    verbose : int, default=0
        A progress bar is shown unless this is 0.

    Returns
    -------
    concepts : VideoConcepts
        Heads from which nothing can be learned, such as one of constant features, are listed in
        ``skipped``.

    Raises
    ------
    TypeError
        If ``probe`` is no `VideoProbe`, or ``extractor`` does not make factorizers.
    ValueError
        If videos do not fit the network, an argument is out of range, ``extractor`` returns one
        factorizer twice, or no head has concepts.
    """
    check_type("probe", probe, VideoProbe, "a VideoProbe", "call VideoProbe(model)")
    check_choice("part", part, PARTS)
    check_choice("proposals", proposals, (TUBELETS, POSITIONS))
    check_integer("count", count)
    check_fraction("rate", rate)
    chosen = probe.check_heads(heads)
    inputs = probe.check_videos(videos)
    make = _maker(extractor or (lambda: ConvexNMFFactorizer(None, random_state=random_state)))
    settings = {"proposals": proposals, "count": count, "compactness": compactness}
    by_head: dict[Head, HeadConcepts] = {}
    skipped: dict[Head, str] = {}
    layers = sorted({layer for layer, _ in chosen})
    for layer in progress(layers, len(layers), "video concepts", verbose, "layer"):
        features = probe.layer_features(inputs, layer, part)
        for head in (one for one in chosen if one[0] == layer):
            maps = np.ascontiguousarray(features[..., head[1], :])
            factorizer = make()
            try:
                by_head[head] = _concepts_of(maps, factorizer, rate, settings)
            except ValueError as error:
                skipped[head] = str(error)
    if not by_head:
        head, reason = next(iter(skipped.items()))
        raise ValueError(f"no head has concepts; head {head}: {reason}")
    return VideoConcepts(probe, by_head, part, proposals, skipped, inputs, settings)


def _maker(extractor: Callable[[], Any]) -> Callable[[], ConceptFactorizer]:
    """Return a function that makes a new factorizer at each call, or raises an error."""
    if not callable(extractor):
        raise TypeError(
            "extractor must be a function that makes a factorizer, such as lambda: "
            f"KMeansFactorizer(8), not {type(extractor).__name__}"
        )
    made: list[ConceptFactorizer] = []

    def make() -> ConceptFactorizer:
        factorizer = extractor()
        check_type("what extractor() returns", factorizer, ConceptFactorizer, "a factorizer")
        # Readers hold the factorizer: with the next fit, they would read the next head's concepts.
        if any(factorizer is one for one in made):
            raise ValueError(
                f"extractor() returned the same {type(factorizer).__name__} for two heads: let it "
                f"make a new one at each call, lambda: {type(factorizer).__name__}(…)"
            )
        made.append(factorizer)
        return factorizer

    return make


def _concepts_of(
    maps: Array, factorizer: Any, rate: float, settings: Mapping[str, Any]
) -> HeadConcepts:
    """Fit a factorizer on the tubelets, or tokens, of one head (N, T′, H′, W′, d)."""
    positions = as_positions(maps)
    tubelets = None
    if settings["proposals"] == TUBELETS:
        tubelets = propose_tubelets(maps, settings["count"], settings["compactness"])
        factorizer.fit(tubelets.vectors)
    else:
        factorizer.fit(positions)
    reader = ConceptReader.of(factorizer)
    thresholds = firing_thresholds(reader.encode_shown(positions), rate)
    masks = _masks(maps, reader, thresholds, **settings, tubelets=tubelets)
    return HeadConcepts(reader, thresholds, masks, positions.mean(axis=0))


def _masks(
    maps: Array,
    reader: ConceptReader,
    thresholds: Array,
    proposals: str,
    count: int,
    compactness: float,
    tubelets: Tubelets | None = None,
) -> Array:
    """Return where the concepts of a head are, (N, T′, H′, W′, I) bool."""
    if proposals == POSITIONS:
        if reader.pairs is not None:
            return np.asarray(by_position(reader.pairs.detect, maps) > 0.5)
        return np.asarray(by_position(reader.encode_shown, maps) > thresholds)
    own = tubelets or propose_tubelets(maps, count, compactness)
    u = reader.encode_shown(own.vectors)
    concepts = np.where(u.max(axis=1) > 0, u.argmax(axis=1), DROPPED)
    return own.masks_of(concepts, len(reader.bank))
