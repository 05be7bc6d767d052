"""A network of one output as one of two classes, 0 (no) and 1 (yes), as its labels are.

Explanations, influence, reports and the command line see such a network so. Where Xplique's
interface takes an index of the network's outputs, as ``CraftTf.estimate_importance`` does, it
remains 0.
"""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from xplique_dirpairs.models.graph import SIGMOID_LOGITS, node_of
from xplique_dirpairs.models.head import Head


def as_two_classes(head: Head, outputs: int) -> Head:
    """A head of one output with two, no and yes; any other head as it is.

    Logits are −z and z, probabilities 1 − p and p: each is yes or no on its own, and the sigmoid of
    a class's logit is its probability.

    Parameters
    ----------
    head
    outputs
        How many there are.
    """
    if outputs != 1 or head.ends_in == "softmax":
        return head
    model: Callable
    if head.ends_in == "linear" and isinstance(head.model, keras.Model):
        model = no_and_yes(head.model)
    else:

        def model(features: tf.Tensor) -> tf.Tensor:
            yes = head.outputs(features)
            no = 1.0 - yes if head.ends_in == "sigmoid" else -yes
            return tf.concat([no, yes], axis=1)

    return Head(model, head.ends_in, multilabel=True)


def no_and_yes(model: keras.Model) -> keras.Model:
    """A model of one logit z, as one of two: −z and z.

    Parameters
    ----------
    model
        Of Keras's functional form, (N, …) → (N, 1). One that ends in a dense layer gets a dense
        layer of two outputs in its place: linear heads remain linear.

    Returns
    -------
    model
        (N, …) → (N, 2), of a name by which `Head` knows that each is yes or no on its own.
    """
    source, yes = model.inputs[0], model.outputs[0]
    dense = node_of(yes).operation
    is_linear = type(dense) is keras.layers.Dense and dense.activation is keras.activations.linear
    if not is_linear or dense.quantization_mode is not None:
        outputs = keras.layers.Concatenate()([-yes, yes])
        return keras.Model(source, outputs, name=SIGMOID_LOGITS)
    both = keras.layers.Dense(2, use_bias=dense.use_bias, dtype=dense.dtype_policy)
    outputs = both(node_of(yes).input_tensors[0])
    both.set_weights([np.concatenate([-one, one], axis=-1) for one in dense.get_weights()])
    return keras.Model(source, outputs, name=SIGMOID_LOGITS)
