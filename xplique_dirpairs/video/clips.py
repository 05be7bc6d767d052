"""Pairs of clips that share how they look, how they move, or neither."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from xplique_dirpairs.core.batching import slices
from xplique_dirpairs.core.geometry import bilinear_matrix
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import as_videos, check_finite, check_integer, check_seed
from xplique_dirpairs.metrics.static_dynamic import DYNAMIC, NEITHER, STATIC

#: Ranges of the style changes: logarithm of gamma, share of a colour that other channels give,
#: strength of the texture, and the number of its cells along a side.
_GAMMA, _MIXING, _TEXTURE, _CELLS = 0.7, 0.6, 0.3, 8


class _Style(NamedTuple):
    """A change of how a clip looks, the same in all frames: colours, contrast and a texture."""

    colors: Array
    gamma: float
    texture: Array

    @classmethod
    def of(cls, shape: tuple[int, ...], rng: np.random.Generator) -> _Style:
        """Draw a style for frames of a shape (height, width, C)."""
        height, width, channels = shape
        mixing = rng.uniform(0.0, _MIXING, channels)[:, None]
        colors = (1.0 - mixing) * np.eye(channels) + mixing * rng.dirichlet(
            np.ones(channels), channels
        )
        colors = colors[rng.permutation(channels)] * rng.uniform(0.7, 1.0, (channels, 1))
        cells = rng.uniform(-1.0, 1.0, (min(_CELLS, height), min(_CELLS, width)))
        rows, columns = (
            bilinear_matrix(n, size) for n, size in zip(cells.shape, (height, width), strict=True)
        )
        tint = rng.uniform(0.2, 1.0, channels) * rng.uniform(0.0, _TEXTURE)
        texture = (rows @ cells @ columns.T)[..., None] * tint
        return cls(colors, float(np.exp(rng.uniform(-_GAMMA, _GAMMA))), texture)

    def of_clip(self, clip: Array, low: float, high: float) -> Array:
        """Return a clip (T, height, width, C) of pixels in [low, high] in this style."""
        unit = np.clip((clip - low) / (high - low), 0.0, 1.0) ** self.gamma
        return low + (high - low) * np.clip(unit @ self.colors.T + self.texture, 0.0, 1.0)


class VideoPairs:
    """Pairs of clips, each of one video, that share appearance, motion or neither.

    All kinds of pairs have their first clip in common: a video in a style. The second clip is the
    same with its frames shuffled ("static"), in a style that is drawn independently of the first
    ("dynamic") or both ("neither").

    Parameters
    ----------
    videos : array-like of shape (N, T, height, width, C)
        N videos of T ≥ 2 frames, preprocessed for the network.
    styles : array-like of shape (K, N, T, height, width, C), optional
        The videos in K ≥ 2 styles, such as four artistic ones. Both styles of a pair are drawn
        independently, so that one pair in K has the same twice: the shares of
        `static_dynamic_shares` are only right for independent styles. None: random colours,
        contrast and texture, the same in all frames of a clip, within the range of the pixels.
    number : int, default=600
        Number of pairs of each kind, n. Videos take turns.
    random_state : int or None, default=0
        Seed of styles and orders of frames. None draws a seed.

    Raises
    ------
    ValueError
        If videos or styles have a wrong shape, or values that are not finite; or if an argument is
        out of range.
    """

    def __init__(
        self,
        videos: ArrayLike,
        styles: ArrayLike | None = None,
        number: int = 600,
        random_state: int | None = 0,
    ) -> None:
        self._videos = as_videos(videos)
        check_finite("videos", self._videos, "")
        if self._videos.shape[1] < 2:
            raise ValueError(
                f"videos must have at least 2 frames to shuffle, not {self._videos.shape}"
            )
        check_integer("number", number, 2)
        self._number = number
        # A seed is drawn once, so that every pass over the pairs gives the same clips.
        self._seed = int(check_seed(random_state).generate_state(1)[0])
        self._styles = None if styles is None else np.asarray(styles)
        if self._styles is not None:
            shape = self._styles.shape
            if len(shape) != 6 or shape[1:] != self._videos.shape or shape[0] < 2:
                raise ValueError(
                    f"styles must be the {len(self._videos)} videos in at least 2 styles, of shape "
                    f"(K, {', '.join(map(str, self._videos.shape))}), not {shape}"
                )
            check_finite("styles", self._styles, "")

    @property
    def video(self) -> Array:
        """Index of the video of each pair, (n,): they take turns."""
        return np.asarray(np.arange(self._number) % len(self._videos))

    def batches(self, size: int = 16) -> Iterator[dict[str, Array]]:
        """Yield the clips of up to ``size`` pairs, by kind.

        Parameters
        ----------
        size : int, default=16
            Largest number of pairs of a batch.

        Yields
        ------
        clips : dict of str to ndarray of shape (m, T, height, width, C), float32
            "first": the clip that all kinds of pairs share; "static", "dynamic" and "neither": the
            second clip of each kind.
        """
        limits = float(self._videos.min()), float(self._videos.max())
        rng = np.random.default_rng(self._seed)
        for part in slices(self._number, size):
            pairs = [self._clips(int(n), limits, rng) for n in self.video[part]]
            yield {kind: np.stack([pair[kind] for pair in pairs]) for kind in pairs[0]}

    def _clips(
        self, index: int, limits: tuple[float, float], rng: np.random.Generator
    ) -> dict[str, Array]:
        """Return the clips of one pair of each kind."""
        if self._styles is None:
            clip = self._videos[index]
            low, high = limits if limits[0] < limits[1] else (limits[0], limits[0] + 1.0)
            first, other = (
                _Style.of(clip.shape[1:], rng).of_clip(clip, low, high).astype(np.float32)
                for _ in range(2)
            )
        else:
            # Independent draws, as the shares ask: of two styles that must differ, the second
            # one says something of the first, by which a static unit has a correlation of
            # −1/(K − 1) where it should have 0.
            chosen = rng.integers(len(self._styles), size=2)
            first, other = (self._styles[k, index].astype(np.float32) for k in chosen)
        orders = [_shuffled(len(first), rng) for _ in range(2)]
        return {
            "first": first, STATIC: first[orders[0]], DYNAMIC: other, NEITHER: other[orders[1]]
        }  # fmt: skip


def _shuffled(frames: int, rng: np.random.Generator) -> Array:
    """Return an order of frames that differs from their own."""
    order = np.arange(frames)
    while (order == np.arange(frames)).all():
        order = rng.permutation(frames)
    return order
