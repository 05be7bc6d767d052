"""A network that counts how often each image passes through its first half."""

from collections import Counter

import keras
import tensorflow as tf

from xplique_dirpairs.models.split import SplitModel


def counted(split):
    """Return halves that count their images, and the `Counter` of the images' bytes."""
    counts = Counter()

    def count(batch):
        counts.update(image.tobytes() for image in batch.numpy())
        return batch

    def passed(images):
        result = tf.py_function(count, [images], images.dtype)
        result.set_shape(images.shape)
        return result

    inputs = keras.Input(split.input_to_latent_model.input_shape[1:])
    seen = keras.layers.Lambda(passed, output_shape=inputs.shape[1:])(inputs)
    first = keras.Model(inputs, split.input_to_latent_model(seen))
    return SplitModel.of(first, split.latent_to_logit_model), counts
