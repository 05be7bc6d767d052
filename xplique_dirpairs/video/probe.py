"""`VideoProbe`: read and mask the heads of a video transformer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from xplique_dirpairs.core.batching import slices
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import (
    check_choice,
    check_images_fit,
    check_inputs,
    check_integer,
    check_type,
)
from xplique_dirpairs.models.attention import (
    PARTS,
    FoundAttention,
    HeadEdit,
    SwitchedAttention,
    attention_layers,
    number_of_heads,
)
from xplique_dirpairs.models.graph import check_single
from xplique_dirpairs.models.layout import token_grid
from xplique_dirpairs.models.switches import check_same_outputs, switched_copy
from xplique_dirpairs.models.tracing import any_number
from xplique_dirpairs.sensitivity.masked_importance import (
    MEAN,
    MINUS_INFINITY,
    SUPPRESS,
    ZERO,
    Unit,
)

#: A head: number of its attention layer, and its number there.
Head: TypeAlias = tuple[int, int]
#: A function from what the heads of a layer compute, (n, tokens, heads, d), to what they should.
HeadFunction: TypeAlias = Callable[[Array], Array]


class VideoProbe:
    """Reads the queries, keys and values of each head of a transformer, and masks them.

    Networks of images are probed in the same way, as videos of one frame.

    Parameters
    ----------
    model : keras.Model
        A functional network of one input and one output with self-attention layers:
        `ProbedSelfAttention`, or `keras.layers.MultiHeadAttention` of tokens (N, tokens, D) to
        themselves, without masks. Other attention layers, such as
        `keras.layers.GroupQueryAttention`, are left as they are.
    layers : sequence of str, optional
        Names of the attention layers, as in ``layer_names``. None: all that can be probed.
    grid : (int, int, int), optional
        Number of tokens along time, height and width. None: the grid from which the network makes
        the sequence.
    extra_tokens : sequence of int, optional
        Places of tokens that are no part of the video. None: the first ones, as many as there are
        more tokens than the grid has.
    batch_size : int, default=16
        Number of videos in a batch.

    Attributes
    ----------
    layer_names : tuple of str
        Names of the attention layers, "block/attention" in nested models where several have one
        name; a head is (number of its layer here, its number there).
    skipped : dict of str to str
        Other attention layers of the network, with the reason why they cannot be probed.
    heads : tuple of (int, int)
        All heads.
    grid : (int, int, int)
        Grid of the tokens, T′ × H′ × W′.

    Raises
    ------
    TypeError
        If the model is no Keras model.
    ValueError
        If the network is a subclassed one, or has several inputs or outputs; if there is no
        attention layer that can be probed, or none of a given name; if layers differ in the number
        of their tokens; if the grid is not known, or is not that of the tokens; or if the network
        cannot be copied layer by layer, or computes something else than the formula of attention
        that a probe changes.
    """

    def __init__(
        self,
        model: keras.Model,
        layers: Sequence[str] | None = None,
        *,
        grid: tuple[int, int, int] | None = None,
        extra_tokens: Sequence[int] | None = None,
        batch_size: int = 16,
    ) -> None:
        check_type("model", model, keras.Model, "a Keras model")
        check_integer("batch_size", batch_size)
        check_single(model)
        found = attention_layers(model)
        chosen = _chosen_layers(model, found, layers)
        self.model, self.batch_size = model, batch_size
        self.layer_names = tuple(one.name for one in chosen)
        self.skipped = {one.name: one.reason for one in found if one.reason}
        self._numbers = tuple(number_of_heads(one.layer) for one in chosen)
        self.heads: tuple[Head, ...] = tuple(
            (k, head) for k, number in enumerate(self._numbers) for head in range(number)
        )
        tokens = _number_of_tokens(chosen)
        self.grid, self._extra = _layout(model, chosen[0], tokens, grid, extra_tokens)
        self._inside = np.setdiff1d(np.arange(tokens), self._extra)
        self._copy, self._slots = switched_copy(
            model, [one.layer for one in chosen], SwitchedAttention
        )
        shape = [1, *(32 if n is None else n for n in model.inputs[0].shape[1:])]
        noise = np.random.default_rng(0).uniform(size=shape).astype(np.float32)
        check_same_outputs(model, self._copy, noise)
        check_same_outputs(
            model,
            lambda x, training: self._with_edits(x, [HeadEdit] * len(chosen)),  # changes nothing
            noise,
            f"of {', '.join(self.layer_names)}, some compute more than softmax(q kᵀ / √d) v for "
            "each head: leave them out of layers=, or write them as ProbedSelfAttention",
        )
        self._functions: dict[Any, Any] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        # Pickles and deep copies hold the network, of which a probe is made again.
        options = {"grid": self.grid, "extra_tokens": self._extra, "batch_size": self.batch_size}
        return _made_again, (self.model, self.layer_names, options)

    def __repr__(self) -> str:
        named = [f"; without {name}, which {why}" for name, why in self.skipped.items()]
        more = f"; and {len(named) - 3} more, in skipped" if len(named) > 3 else ""
        skipped = "".join(named[:3]) + more
        return (
            f"VideoProbe({len(self.layer_names)} layers, {len(self.heads)} heads, "
            f"{' × '.join(map(str, self.grid))} tokens{skipped})"
        )

    # ------------------------------------------------------------ reading

    def features(
        self, videos: ArrayLike, part: str = "keys", heads: Sequence[Head] | None = None
    ) -> dict[Head, Array]:
        """Return what heads compute of videos.

        All heads at once take much memory in a large network (12 × 12 heads of 8 × 14 × 14 tokens:
        57 MB a video): ask for some heads, or for one layer by `layer_features`.

        Parameters
        ----------
        videos : array-like of shape (N, T, height, width, C)
            N videos, preprocessed for the network.
        part : {"keys", "queries", "values"}, default="keys"
            What to read: before scaling and softmax.
        heads : sequence of (int, int), optional
            Heads to read. None: all.

        Returns
        -------
        features : dict of (int, int) to ndarray of shape (N, T′, H′, W′, d), float32
            Features of each head on the grid of the tokens.

        Raises
        ------
        ValueError
            If videos do not fit the network, or there is no such part or head.
        """
        chosen = self.check_heads(heads)
        found: dict[Head, Array] = {}
        for layer in sorted({layer for layer, _ in chosen}):
            values = self.layer_features(videos, layer, part)
            found |= {
                head: np.ascontiguousarray(values[..., head[1], :])
                for head in chosen
                if head[0] == layer
            }
        return {head: found[head] for head in chosen}

    def layer_features(self, videos: ArrayLike, layer: int, part: str = "keys") -> Array:
        """Return what all heads of one layer compute, (N, T′, H′, W′, heads, d), float32.

        Parameters and errors are those of `features`; ``layer`` is the number of the layer.
        """
        check_choice("part", part, PARTS)
        if layer not in range(len(self.layer_names)):
            raise ValueError(
                f"there is no layer {layer!r}: layers are numbered 0 to "
                f"{len(self.layer_names) - 1}, in the order of layer_names"
            )
        inputs = self.check_videos(videos)
        if ("read", layer, part) not in self._functions:
            self._functions["read", layer, part] = self._reader(layer, part)
        read = self._functions["read", layer, part]
        parts = [np.asarray(any_number(read, inputs[p]), np.float32)
                 for p in slices(len(inputs), self.batch_size)]  # fmt: skip
        values = np.concatenate(parts)[:, self._inside]
        return values.reshape(len(values), *self.grid, *values.shape[2:])

    def _reader(self, layer: int, part: str) -> Any:
        """Return a compiled function from videos to one part of the heads of a layer."""

        def read(x: tf.Tensor) -> tf.Tensor:
            found: list[tf.Tensor] = []

            def keep(*heads: tf.Tensor) -> HeadEdit:
                found.append(heads[PARTS.index(part)])
                return HeadEdit(*heads)

            self._slots[layer].edit = keep
            try:
                self._copy(x, training=False)
            finally:
                self._slots[layer].edit = None
            return found[0]  # what comes after it is not computed

        return tf.function(read)

    # ------------------------------------------------------------ masking

    def run(
        self,
        videos: ArrayLike,
        keep: Mapping[Head, ArrayLike] | None = None,
        *,
        part: str = "keys",
        removal: str = "zero",
    ) -> Array:
        """Return the outputs of the network with parts of heads masked.

        Parameters
        ----------
        videos : array-like of shape (N, T, height, width, C)
            N videos, preprocessed for the network.
        keep : mapping of (int, int) to array-like of shape (N, T′, H′, W′), optional
            For some heads, the share of each token that is kept, in [0, 1]; it is broadcast to its
            shape. None: nothing is masked.
        part : {"keys", "queries", "values"}, default="keys"
            What is masked.
        removal : {"zero", "mean", "minus_infinity"}, default="zero"
            "zero": the part is multiplied by ``keep``; a key of 0 still has a logit of 0. "mean":
            it moves to its mean over the tokens of these videos. "minus_infinity": the token is not
            attended to (for keys only).

        Returns
        -------
        outputs : ndarray of shape (N, …)
            Outputs of the network.

        Raises
        ------
        ValueError
            If videos do not fit the network, or an argument is out of range.
        """
        inputs = self.check_videos(videos)
        keep = {} if keep is None else dict(keep)
        self.check_heads(list(keep) or None)
        check_choice("removal", removal, (ZERO, MEAN, MINUS_INFINITY))
        kept = {head: self._shares(head, values, len(inputs)) for head, values in keep.items()}
        fills = self.means(inputs, part, {layer for layer, _ in keep}) if removal == MEAN else None
        masks = [np.ones((len(inputs), *self.grid, number), np.float32) for number in self._numbers]
        for (layer, head), values in kept.items():
            masks[layer][..., head] = values
        return self.run_masked(inputs, masks, part, removal, fills)

    def _shares(self, head: Head, values: ArrayLike, count: int) -> Array:
        """Return what is kept of a head, (count, T′, H′, W′); raise a ValueError if it is wrong."""
        shares, shape = np.asarray(values, np.float32), (count, *self.grid)
        try:
            shares = np.broadcast_to(shares, shape)
        except ValueError:
            raise ValueError(
                f"keep of head {head} has shape {shares.shape}, which does not broadcast to "
                f"(N, T′, H′, W′), here {shape}"
            ) from None
        if not (shares.min() >= 0 and shares.max() <= 1):  # so that NaN is refused, too
            raise ValueError(
                f"keep must hold shares in [0, 1], but that of head {head} goes from "
                f"{shares.min():g} to {shares.max():g}"
            )
        return shares

    def means(self, inputs: Array, part: str, layers: Any = None) -> list[Array]:
        """Return the mean of a part of each head over videos and tokens, (heads, d) by layer."""
        wanted = range(len(self._numbers)) if layers is None else layers
        return [
            self.layer_features(inputs, layer, part).mean(axis=(0, 1, 2, 3))
            if layer in wanted
            else np.zeros((number, 1), np.float32)
            for layer, number in enumerate(self._numbers)
        ]

    def run_masked(
        self,
        inputs: Array,
        masks: Sequence[Array],
        part: str,
        removal: str,
        fills: Sequence[Array] | None = None,
    ) -> Array:
        """Return the outputs with masks (N, T′, H′, W′, heads) by layer, without checks."""
        check_choice("part", part, PARTS)
        if removal == MINUS_INFINITY and part != "keys":
            raise ValueError("removal 'minus_infinity' is for keys: a token is not attended to")
        if ("run", part, removal) not in self._functions:
            self._functions["run", part, removal] = self._runner(part, removal)
        run = self._functions["run", part, removal]
        if fills is None:
            fills = [np.zeros((number, 1), np.float32) for number in self._numbers]
        constants = [tf.constant(fill) for fill in fills]
        outputs = []
        for place in slices(len(inputs), self.batch_size):
            own = [tf.constant(self._on_tokens(mask[place])) for mask in masks]
            outputs.append(np.asarray(run(tf.constant(inputs[place]), own, constants)))
        return np.concatenate(outputs)

    def _on_tokens(self, mask: Array) -> Array:
        """Return a mask (n, T′, H′, W′, heads) on all tokens (n, tokens, heads)."""
        tokens = np.ones((len(mask), len(self._inside) + len(self._extra), mask.shape[-1]))
        tokens[:, self._inside] = mask.reshape(len(mask), -1, mask.shape[-1])
        return tokens.astype(np.float32)

    def _runner(self, part: str, removal: str) -> Any:
        """Return a compiled function of videos, masks and fills to outputs."""
        index = PARTS.index(part)

        def edit_of(keep: tf.Tensor, fill: tf.Tensor) -> Callable[..., HeadEdit]:
            def edit(*heads: tf.Tensor) -> HeadEdit:
                if removal == MINUS_INFINITY:
                    return HeadEdit(heads[0], heads[1], heads[2], keep)
                weights = tf.cast(keep, heads[index].dtype)[..., None]
                other = tf.cast(fill, heads[index].dtype)
                moved = list(heads)
                moved[index] = heads[index] * weights + other * (1.0 - weights)
                return HeadEdit(*moved)

            return edit

        def run(x: tf.Tensor, masks: Any, fills: Any) -> tf.Tensor:
            return self._with_edits(
                x, [edit_of(keep, fill) for keep, fill in zip(masks, fills, strict=True)]
            )

        return tf.function(run, reduce_retracing=True)

    def _with_edits(self, x: tf.Tensor, edits: Sequence[Callable[..., HeadEdit]]) -> tf.Tensor:
        """Return the outputs of the copy with an edit at each attention layer."""
        for slot, edit in zip(self._slots, edits, strict=True):
            slot.edit = edit
        try:
            return self._copy(x, training=False)
        finally:
            for slot in self._slots:
                slot.edit = None

    def runner_of(self, functions: Sequence[HeadFunction], part: str) -> Callable[[Array], Array]:
        """Return a function from videos to outputs, where numpy functions change the heads.

        ``functions`` are one for each layer, from (n, tokens, heads, d) to the same shape.
        """
        index = PARTS.index(part)

        def edit_of(function: HeadFunction) -> Callable[..., HeadEdit]:
            def edit(*heads: tf.Tensor) -> HeadEdit:
                moved = list(heads)
                changed = tf.numpy_function(
                    lambda x: np.asarray(function(x), np.float32),
                    [tf.cast(heads[index], tf.float32)],
                    tf.float32,
                )
                changed = tf.ensure_shape(changed, heads[index].shape)
                moved[index] = tf.cast(changed, heads[index].dtype)
                return HeadEdit(*moved)

            return edit

        edits = [edit_of(function) for function in functions]
        compiled = tf.function(lambda x: self._with_edits(x, edits), reduce_retracing=True)

        def run(inputs: Array) -> Array:
            parts = slices(len(inputs), self.batch_size)
            return np.concatenate([np.asarray(compiled(tf.constant(inputs[p]))) for p in parts])

        return run

    # ------------------------------------------------------------ heads as what is removed

    @property
    def units(self) -> tuple[Unit, ...]:
        """The heads as `masked_importance` removes them: layer, head and 0."""
        return tuple((layer, head, 0) for layer, head in self.heads)

    @property
    def unit_names(self) -> tuple[str, ...]:
        """Name of each head."""
        return tuple(f"{self.layer_names[layer]}, head {head}" for layer, head in self.heads)

    def runner(self, inputs: Array, removal: str, batch_size: int) -> Callable[[Array], Array]:
        """Return a function from removed heads (Q,) to the outputs: their values are masked."""
        if removal in (MINUS_INFINITY, SUPPRESS):
            raise ValueError(f"whole heads are removed by 'zero' or 'mean', not {removal!r}")
        inputs = self.check_videos(inputs)
        fills = self.means(inputs, "values") if removal == MEAN else None
        starts = np.cumsum([0, *self._numbers[:-1]])
        kept = np.ones(len(self.heads), np.float32)

        def function_of(layer: int) -> HeadFunction:
            own = slice(starts[layer], starts[layer] + self._numbers[layer])
            fill = 0.0 if fills is None else fills[layer]
            return lambda x: x * kept[own, None] + fill * (1.0 - kept[own, None])

        compiled = self.runner_of([function_of(k) for k in range(len(self._numbers))], "values")

        def run(removed: Array) -> Array:
            kept[:] = ~removed
            return compiled(inputs)

        return run

    # ------------------------------------------------------------ checks

    def check_heads(self, heads: Sequence[Head] | None) -> tuple[Head, ...]:
        """Return heads, all for None; raise a ValueError if there is no such head."""
        if heads is None:
            return self.heads
        if not len(heads):
            raise ValueError("heads are none: name some as (layer, head), or give None for all")
        unknown = [one for one in heads if np.shape(one) != (2,) or tuple(one) not in self.heads]
        if unknown:
            raise ValueError(
                f"there is no head {unknown[0]!r}: heads are (layer, head), up to {self.heads[-1]}"
            )
        return tuple((int(layer), int(head)) for layer, head in heads)

    def check_videos(self, videos: ArrayLike) -> Array:
        """Return videos as float32; raise a ValueError if they do not fit the network."""
        inputs = check_inputs(videos)
        check_images_fit(inputs.shape[1:], self.model)
        return inputs


def _made_again(model: keras.Model, layers: Sequence[str], options: dict[str, Any]) -> VideoProbe:
    return VideoProbe(model, layers, **options)


def _chosen_layers(
    model: keras.Model, found: Sequence[FoundAttention], names: Sequence[str] | None
) -> list[FoundAttention]:
    """Return the attention layers that can be probed, or those of the given names."""
    known = {one.name: one for one in found if not one.reason}
    skipped = "; ".join(f"layer {one.name!r} {one.reason}" for one in found if one.reason)
    if not known:
        raise ValueError(
            f"model {model.name!r} has no self-attention layer that can be probed: "
            "ProbedSelfAttention, or keras.layers.MultiHeadAttention of tokens (N, tokens, D) to "
            f"themselves, without masks, in a functional model{skipped and f' ({skipped})'}"
        )
    if names is None:
        return list(known.values())
    missing = [name for name in names if name not in known]
    if missing or not len(names):
        raise ValueError(
            f"layers must be some of {tuple(known)}, not {names!r}{skipped and f' ({skipped})'}"
        )
    return [known[name] for name in names]


def _number_of_tokens(chosen: Sequence[FoundAttention]) -> int:
    """Return the number of tokens of some layers; raise a ValueError unless it is one number."""
    numbers = {one.name: one.output.shape[1] for one in chosen}
    if None in numbers.values():
        raise ValueError(
            "the number of tokens is not known: build the network for a fixed size of videos"
        )
    if len(set(numbers.values())) > 1:
        raise ValueError(
            f"layers have different numbers of tokens, {numbers}: name those of one number in "
            "layers="
        )
    return int(next(iter(numbers.values())))


def _layout(
    model: keras.Model,
    attention: FoundAttention,
    tokens: int,
    grid: tuple[int, int, int] | None,
    extra_tokens: Sequence[int] | None,
) -> tuple[tuple[int, int, int], Array]:
    """Return the grid of the tokens, and the places of the others."""
    of_video = len(model.inputs[0].shape) == 5
    found = token_grid(attention.output, of_video) if grid is None else tuple(int(n) for n in grid)
    if found is None:
        raise ValueError(
            f"the grid of the {tokens} tokens is not known: give grid=(frames, rows, columns) of "
            "tokens"
        )
    more = tokens - int(np.prod(found))
    extra = np.arange(more) if extra_tokens is None else np.unique(np.asarray(extra_tokens, int))
    if len(found) != 3 or more < 0 or len(extra) != more or (more and extra.max() >= tokens):
        raise ValueError(
            f"grid {found} and {len(extra)} extra tokens must be the {tokens} tokens of layer "
            f"{attention.name!r}"
        )
    return (found[0], found[1], found[2]), extra
