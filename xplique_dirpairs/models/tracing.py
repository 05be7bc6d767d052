"""Calls of compiled functions that do not trace them again for another number of rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from xplique_dirpairs.core.types import Array


def any_number(function: tf.types.experimental.PolymorphicFunction, *batch: Array) -> Any:
    """Call a compiled function of arrays (n, ...) with a single trace for any batch size n.

    A direct call would trace the function for the first n and again for any n, and TensorFlow
    would warn of too many traces after several networks.
    """
    tensors = [x if tf.is_tensor(x) else tf.constant(np.asarray(x)) for x in batch]
    any_batch = [tf.TensorSpec((None, *t.shape[1:]), t.dtype) for t in tensors]
    return function.get_concrete_function(*any_batch)(*tensors)
