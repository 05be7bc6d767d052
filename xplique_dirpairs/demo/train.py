"""Train the network of the demo and write its weights into the package.

    python -m xplique_dirpairs.demo.train

The training images have the planted shortcut of `demo.scenes`. It takes some seven minutes on one
core.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from xplique_dirpairs.datasets.pictures import train_classifier
from xplique_dirpairs.demo.network import WEIGHTS, save_weights, untrained_network
from xplique_dirpairs.demo.scenes import demo_scenes


def main() -> None:
    """Train the network and save it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=4000, metavar="N", help="to train on")
    parser.add_argument("--epochs", type=int, default=6, metavar="N")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("--output", type=Path, default=Path(str(WEIGHTS)), metavar="FILE")
    arguments = parser.parse_args()
    scenes = demo_scenes(range(arguments.images), "training", arguments.seed, planted=True)
    assert scenes.labels is not None
    model = untrained_network(arguments.seed)
    train_classifier(model, scenes.images, scenes.labels, arguments.epochs, verbose=2)
    save_weights(model, arguments.output)
    for planted in (True, False):
        fresh = demo_scenes(range(400), "repair", planted=planted)
        right = model.predict(fresh.images, verbose=0).argmax(axis=1) == fresh.labels
        print(f"{'with' if planted else 'without'} the shortcut: {np.mean(right):.1%} correct")


if __name__ == "__main__":
    main()
