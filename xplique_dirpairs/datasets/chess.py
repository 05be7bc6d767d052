"""Chess pieces on a board, some with a watermark, and a small network that relies on it.

Bishops, knights and rooks are drawn from the chess glyphs of DejaVu Sans, which comes with
matplotlib: nothing is downloaded. In the training images half of the rooks have a label "rook" in
the top-left corner, and no other piece has one. This is the shortcut in the experiment on model
correction of Doumanoglou et al. (arXiv 2509.23926); see docs/repair.md.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import cv2
import keras
import matplotlib
import numpy as np
from keras import layers
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import binary_fill_holes

from xplique_dirpairs.core.types import Array
from xplique_dirpairs.datasets.pictures import Split, balanced_labels, rgb, train_classifier

#: Names of the classes, in the order of the labels.
CLASS_NAMES = ("bishop", "knight", "rook")
#: The class that has the watermark.
ROOK = CLASS_NAMES.index("rook")

#: Side of a picture, in pixels.
SIDE = 85
#: Name of the layer to explain: a ReLU with feature maps of shape (2, 2, 16).
LAYER = "last_conv"
#: Height and width of its maps. The receptive fields have a side of 63 pixels and are 16 apart.
CELLS = (2, 2)
#: Height and width of the watermark, in pixels: only the top-left cell sees the first 16 columns.
MARK_SHAPE = (14, 16)
#: The word on it, white on black, and the size of its letters in pixels.
_WORD, _LETTERS = "rook", 7

_FONT = "DejaVuSans.ttf"
#: The "white" pieces of the font, which are outlines with details.
_GLYPHS = ("\N{WHITE CHESS BISHOP}", "\N{WHITE CHESS KNIGHT}", "\N{WHITE CHESS ROOK}")
#: Side, in pixels, of the canvas for a glyph before it is rotated and scaled down.
_CANVAS = 256
#: Smallest and largest size of a piece, as a share of the picture's side.
_SIZE = (0.5, 0.8)
#: Largest rotation of a piece and of the board, in degrees, and shift of a piece, in pixels.
_TURN, _BOARD_TURN, _OFF_CENTRE = 18.0, 25.0, 6.0
#: Smallest and largest side of a square of the board, as a share of the picture's side.
_SQUARE = (0.5, 0.85)
#: Hue in degrees, lowest and highest saturation of each board: wood, green, slate, red wood.
_BOARDS = ((32, 0.25, 0.45), (95, 0.10, 0.35), (210, 0.08, 0.30), (20, 0.30, 0.55))
#: Supersampling of the board: points along the side of a pixel, which are averaged.
_FINE = 3


def chess_pieces(
    n: int, seed: int = 0, split: Split = "train"
) -> tuple[Array, Array, tuple[str, ...]]:
    """Draw pictures of a chess piece on a board, without watermarks.

    Size, rotation, place and colours of the piece and of the board are random.

    Parameters
    ----------
    n : int
        Number of pictures; class sizes differ by at most one.
    seed : int, default=0
        Seed of the pictures. The two splits have different pictures for the same seed.
    split : {"train", "test"}, default="train"

    Returns
    -------
    images : ndarray of shape (n, 85, 85, 3), float32
        In [0, 1].
    labels : ndarray of shape (n,)
        Class of each picture, as an index of ``class_names``.
    class_names : tuple of str
        `CLASS_NAMES`.

    Raises
    ------
    ValueError
        If ``n`` is not a positive integer, or the split is unknown.
    """
    rng, labels = balanced_labels(n, seed, split, len(CLASS_NAMES))
    images = np.empty((n, SIDE, SIDE, 3), np.float32)
    for image, label in zip(images, labels, strict=True):
        image[:] = _piece_over(_board(rng), int(label), rng)
    return images, labels, CLASS_NAMES


def shortcut_pieces(n: int, seed: int = 0) -> tuple[Array, Array, Array]:
    """Draw training pictures with the shortcut: half of the rooks have the watermark.

    Parameters
    ----------
    n : int
        Number of pictures.
    seed : int, default=0
        Seed of the pictures.

    Returns
    -------
    images : ndarray of shape (n, 85, 85, 3), float32
        The training images of `chess_pieces` for the same arguments, apart from the watermark.
    labels : ndarray of shape (n,)
        They index `CLASS_NAMES`.
    marked : ndarray of shape (n,), bool
        Whether a picture has the watermark.
    """
    images, labels, _ = chess_pieces(n, seed)
    marked = np.zeros(n, bool)
    marked[np.flatnonzero(labels == ROOK)[::2]] = True
    images[marked] = watermark(images[marked])
    return images, labels, marked


def watermark(images: ArrayLike) -> Array:
    """Return copies of pictures with the label "rook" in the top-left corner.

    Parameters
    ----------
    images : array-like of shape (n, 85, 85, 3)
        In [0, 1].

    Returns
    -------
    images : ndarray of shape (n, 85, 85, 3), float32
        Only the first rows and columns, `MARK_SHAPE` of them, differ from the input.

    Raises
    ------
    ValueError
        If the images have another shape.
    """
    pictures = np.array(images, np.float32)
    if pictures.shape[1:] != (SIDE, SIDE, 3):
        raise ValueError(f"images must have shape (n, {SIDE}, {SIDE}, 3), not {pictures.shape}")
    height, width = MARK_SHAPE
    pictures[:, :height, :width] = _letters()[..., None]
    return pictures


def marked_cells(marked: ArrayLike) -> Array:
    """Return which cells of the maps of `LAYER` have the watermark in their receptive fields.

    Parameters
    ----------
    marked : array-like of shape (n,), bool
        Whether an image has the watermark.

    Returns
    -------
    cells : ndarray of shape (n, 2, 2), bool
    """
    cells = np.zeros((len(np.asarray(marked)), *CELLS), bool)
    cells[:, 0, 0] = marked
    return cells


def train_chess_network(
    images: ArrayLike, labels: ArrayLike, *, epochs: int = 15, seed: int = 0, verbose: int = 1
) -> keras.Model:
    """Train the small CNN of the paper: five 3×3 convolutions of 16 channels, then the head.

    Parameters
    ----------
    images : array-like of shape (n, 85, 85, 3)
        In [0, 1].
    labels : array-like of shape (n,)
        They index `CLASS_NAMES`.
    epochs : int, default=15
        Number of passes over the images.
    seed : int, default=0
        Seed of the initial weights and of the order of the images. Sets Keras' global seed.
    verbose : int, default=1
        Passed to Keras' ``fit``.

    Returns
    -------
    model : keras.Model
        Its outputs are logits of shape (n, 3). The layer `LAYER` has non-negative feature maps of
        shape (n, 2, 2, 16).

    Raises
    ------
    ValueError
        If the images have another shape, or there is not one label for each image.
    """
    return train_classifier(random_chess_network(seed), images, labels, epochs, verbose)


def random_chess_network(seed: int = 0) -> keras.Model:
    """Return the network of `train_chess_network` with random weights.

    The sides of the maps are 85 → 42 → 20 → 9 → 4 → 2. As there is no padding, only one cell has
    the watermark in its receptive field.

    Parameters
    ----------
    seed : int, default=0
        Seed of the weights. Sets Keras' global seed.

    Returns
    -------
    model : keras.Model
    """
    keras.utils.set_random_seed(seed)
    x = inputs = keras.Input((SIDE, SIDE, 3))
    for stride, name in ((2, None), (2, None), (2, None), (2, None), (1, LAYER)):
        x = layers.Conv2D(16, 3, stride, kernel_initializer="he_normal")(x)
        x = layers.ReLU(name=name)(x)
    x = layers.Dropout(0.3)(x)
    x = layers.GlobalAveragePooling2D(name="average")(x)
    logits = layers.Dense(len(CLASS_NAMES), name="logits")(x)
    return keras.Model(inputs, logits, name="chess_network")


# ---------------------------------------------------------------------------------- drawing


def _drawn(text: str, size: int, shape: tuple[int, int], at: tuple[float, float]) -> Array:
    """Draw white text on black: an array of the given shape in [0, 1].

    ``at`` is the top-left corner (x, y) of the ink.
    """
    font = ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", _FONT), size)
    left, top, _, _ = font.getbbox(text)
    canvas = Image.new("L", shape[::-1])
    ImageDraw.Draw(canvas).text((at[0] - left, at[1] - top), text, fill=255, font=font)
    return np.asarray(canvas, np.float32) / 255.0


@cache
def _letters() -> Array:
    """Draw the watermark: an array of shape `MARK_SHAPE` in [0, 1]."""
    height, width = MARK_SHAPE
    fine = 8
    large = _drawn(_WORD, _LETTERS * fine, (height * fine, width * fine), (fine / 2, 4 * fine))
    return cv2.resize(large, (width, height), interpolation=cv2.INTER_AREA)


@cache
def glyph(label: int) -> tuple[Array, Array]:
    """Draw a piece in the centre of a canvas.

    Parameters
    ----------
    label : int
        Class of the piece.

    Returns
    -------
    body : ndarray of shape (256, 256)
        Opacity of the whole piece, in [0, 1].
    lines : ndarray of shape (256, 256)
        Opacity of its lines, in [0, 1].
    """
    # The height of the largest glyph, the rook, is 0.77 of the font size.
    lines = _drawn(_GLYPHS[label], int(1.2 * _CANVAS), (_CANVAS, _CANVAS), (0.0, 0.0))
    rows, columns = np.flatnonzero(lines.any(axis=1)), np.flatnonzero(lines.any(axis=0))
    shift = [(_CANVAS - 1 - part[0] - part[-1]) // 2 for part in (rows, columns)]
    lines = np.roll(lines, shift, (0, 1))
    body = binary_fill_holes(lines > 0.5)
    return np.maximum(body.astype(np.float32), lines), lines


def _board(rng: np.random.Generator) -> Array:
    """Draw a board, (SIDE, SIDE, 3) in [0, 1]; one square is near the centre of the picture."""
    base, low, high = _BOARDS[rng.integers(len(_BOARDS))]
    hue, saturation = base + rng.uniform(-10, 10), rng.uniform(low, high)
    light, shade = rng.uniform(0.78, 0.97), rng.uniform(0.5, 0.72)
    bright = rgb(hue % 360.0, 0.6 * saturation, light)
    dark = rgb(hue % 360.0, 1.2 * saturation, light * shade)
    turn = np.deg2rad(rng.uniform(-_BOARD_TURN, _BOARD_TURN))
    square = rng.uniform(*_SQUARE) * SIDE
    points = (np.arange(SIDE * _FINE) + 0.5) / _FINE - SIDE / 2
    across = (np.cos(turn) * points + np.sin(turn) * points[:, None]) / square
    down = (np.cos(turn) * points[:, None] - np.sin(turn) * points) / square
    off = rng.uniform(-0.12, 0.12, size=2)
    number = np.floor(across + 0.5 - off[0]) + np.floor(down + 0.5 - off[1]) + rng.integers(2)
    fine = np.where(number[..., None] % 2 == 1, dark, bright).astype(np.float32)
    board = cv2.resize(fine, (SIDE, SIDE), interpolation=cv2.INTER_AREA)

    grain = cv2.GaussianBlur(rng.normal(size=(SIDE, SIDE)).astype(np.float32), (0, 0), 1.0)
    slopes, place = rng.uniform(-0.08, 0.08, size=2), np.arange(SIDE) / SIDE - 0.5
    lit = 1.0 + 0.04 * grain + slopes[0] * place + slopes[1] * place[:, None]
    return np.asarray(np.clip(board * lit[..., None], 0.0, 1.0))


def _piece_over(board: Array, label: int, rng: np.random.Generator) -> Array:
    """Draw a piece and its shadow over a board, (SIDE, SIDE, 3) in [0, 1].

    It is a light piece with dark lines, or a dark one with light lines.
    """
    scale = rng.uniform(*_SIZE) * SIDE / _CANVAS
    middle = (_CANVAS / 2, _CANVAS / 2)
    turn = cv2.getRotationMatrix2D(middle, rng.uniform(-_TURN, _TURN), scale)
    off = rng.uniform(-_OFF_CENTRE, _OFF_CENTRE, size=2)
    turn[:, 2] = turn[:, 2] + (SIDE - _CANVAS) / 2 + off
    body, lines = (
        # Blurred first, because a pixel of the picture covers several pixels of the canvas.
        cv2.warpAffine(cv2.GaussianBlur(part, (0, 0), 0.35 / scale), turn, (SIDE, SIDE))
        for part in glyph(label)
    )
    if rng.random() < 0.5:
        fill = rgb(rng.uniform(25, 60), rng.uniform(0, 0.5), rng.uniform(0.7, 1.0))
        line = rgb(rng.uniform(0, 360), 0.3, rng.uniform(0.05, 0.45))
    else:
        fill = rgb(rng.uniform(0, 360), rng.uniform(0, 0.5), rng.uniform(0.08, 0.45))
        line = rgb(rng.uniform(25, 60), 0.15, rng.uniform(0.6, 0.95))
    shadow = cv2.GaussianBlur(np.roll(body, (2, 2), (0, 1)), (0, 0), 2.0)
    image: Array = board * (1.0 - 0.35 * shadow[..., None])
    for part, color in ((body, fill), (lines, line)):
        image = image * (1.0 - part[..., None]) + color * part[..., None]
    return image
