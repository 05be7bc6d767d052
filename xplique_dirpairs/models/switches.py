"""Change what layers compute while a network runs: features between layers, or attention inside.

A *switched copy* of a network computes the same as the network, until an edit is set in one of its
slots: a function that is called with what the layer computes, and returns what it should be.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from xplique_dirpairs.models.copies import all_layers, described
from xplique_dirpairs.models.graph import inner_layers
from xplique_dirpairs.models.noise import are_equal, tolerance_of

#: Difference, relative to the largest output, that the order of additions explains.
_TOLERANCE = 1e-4


class Slot:
    """Holds the edit of one layer, or None."""

    def __init__(self) -> None:
        self.edit: Callable[..., Any] | None = None


class Switched(keras.layers.Layer):
    """A layer whose output an edit may change: ``edit(output)``."""

    def __init__(self, inner: Any, slot: Slot, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.inner, self.slot = inner, slot
        self.built = True

    def call(self, *inputs: Any, **kwargs: Any) -> Any:
        """Apply the layer, and then the edit, if there is one."""
        outputs = self.inner(*inputs, **kwargs)
        return outputs if self.slot.edit is None else self.slot.edit(outputs)

    def compute_output_spec(self, *inputs: Any, **kwargs: Any) -> Any:
        """Return the output's shape: an edit keeps it."""
        return self.inner.compute_output_spec(*inputs, **kwargs)


def switched_copy(
    model: keras.Model,
    layers: Sequence[Any],
    switch: Callable[..., keras.layers.Layer] = Switched,
) -> tuple[keras.Model, list[Slot]]:
    """Return a copy of a network with a slot at each of some layers.

    Parameters
    ----------
    model : keras.Model
        A functional or sequential network; layers of nested models can be switched as well.
    layers : sequence of keras.layers.Layer
        Layers of the network.
    switch : callable, default=Switched
        Makes the switched layer of (copied layer, slot, name=…).

    Returns
    -------
    copied : keras.Model
        The copy, with its own weights of the same values.
    slots : list of Slot
        The slots of the layers, in their order.

    Raises
    ------
    ValueError
        If the network cannot be copied.
    """
    if not getattr(model, "outputs", None):
        raise ValueError(
            f"model {model.name!r} is a subclassed model, whose layers are not known before it "
            "runs: build it with the functional interface of Keras"
        )
    slots = {id(layer): Slot() for layer in layers}

    def copied(layer: Any) -> Any:
        # The function of a Lambda comes from memory here, not from a file of unknown origin.
        safety = {"safe_mode": False} if isinstance(layer, keras.layers.Lambda) else {}
        twin = layer.__class__.from_config(layer.get_config(), **safety)
        if id(layer) not in slots:
            return twin
        twin.build_from_config(layer.get_build_config())
        return switch(twin, slots[id(layer)], name=f"{layer.name}_switched")

    try:
        result = keras.models.clone_model(model, clone_function=copied, recursive=True)
        result.set_weights(model.get_weights())
    except (TypeError, ValueError, NotImplementedError) as error:
        names = ", ".join(described(layer) for layer in list(inner_layers(model))[:6])
        raise ValueError(
            f"model {model.name!r} ({names}, …) cannot be copied layer by layer: custom layers "
            f"need get_config ({' '.join(str(error).split())[:160]})"
        ) from error
    return result, list(slots.values())


def check_same_outputs(
    model: keras.Model,
    copied: Callable[..., Any],
    inputs: Any,
    cause: str = "a custom layer keeps state that is no weight, or one that is created when it is "
    "called",
) -> None:
    """Raise a ValueError unless a switched copy computes what the network does.

    ``cause`` says why it may not, and what to do.
    """
    ours, theirs = (np.asarray(one(inputs, training=False)) for one in (model, copied))
    if not are_equal(ours, theirs, max(_TOLERANCE, tolerance_of(all_layers(model)))):
        raise ValueError(
            f"a copy of model {model.name!r} does not compute what the model does: {cause}"
        )
