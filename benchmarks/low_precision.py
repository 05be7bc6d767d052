"""Time and error of bfloat16 in the learning's large product, positions times filters.

python benchmarks/low_precision.py
"""

import time

import numpy as np
import tensorflow as tf

POSITIONS, CHANNELS, CONCEPTS, SLOPE = 4096, 512, 64, 300.0


def full(x, w):
    """Return z in float32."""
    return tf.matmul(x, w)


def low(x, w):
    """Return z from bfloat16 factors, as Keras's mixed precision would compute it."""
    return tf.cast(tf.matmul(tf.cast(x, tf.bfloat16), tf.cast(w, tf.bfloat16)), tf.float32)


def milliseconds(function, *arguments):
    """Return the shortest of many timings."""
    function(*arguments)
    times = []
    for _ in range(100):
        began = time.perf_counter()
        function(*arguments).numpy()
        times.append(time.perf_counter() - began)
    return 1e3 * min(times)


def main():
    """Print time and error of both."""
    rng = np.random.default_rng(0)
    x = tf.constant(rng.standard_normal((POSITIONS, CHANNELS)), tf.float32)
    w = tf.math.l2_normalize(tf.constant(rng.standard_normal((CHANNELS, CONCEPTS)), tf.float32), 0)
    compiled = {"float32": tf.function(full), "bfloat16": tf.function(low)}
    for name, function in compiled.items():
        error = np.sqrt(np.mean((function(x, w) - full(x, w)) ** 2))
        print(
            f"{name}: {milliseconds(function, x, w):.2f} ms, projections of spread 1 off by "
            f"{error:.4f}, logits at slope {SLOPE:.0f} by {SLOPE * error:.2f}"
        )


if __name__ == "__main__":
    main()
