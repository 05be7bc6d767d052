"""Sparse autoencoders of sae-lens 6.54 on the data that benchmarks/planted.py exports.

    python -m venv VENV && VENV/bin/pip install torch sae-lens==6.54
    python benchmarks/planted.py --export DATA
    VENV/bin/python benchmarks/planted_sae_lens.py --data DATA --output FOUND
    python benchmarks/planted.py --read FOUND

It runs in that environment, which needs neither TensorFlow nor this project. Settings are those of
sae-lens' `train_toy_sae` (10 million positions in batches of 1024, Adam, 3e-4); the positions of
the learning data come again and again, each time in another order. k is the mean number of atoms
that are on, or --k. Of several k, the one is kept whose concepts are most like the atoms, by cosine
and φ together: chosen with the truth. Matryoshka levels have a quarter, half and all of the
concepts. Codes are those of the autoencoder that sae-lens saves for use, which has a threshold in
place of BatchTopK.

Files that are in FOUND are not computed again.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

NAMES = {"batchtopk": "BatchTopK SAE", "matryoshka": "Matryoshka BatchTopK SAE"}


def batches(x: NDArray, size: int, seed: int) -> Iterator[Any]:
    """Yield random batches without end; every position comes once before one comes again."""
    import torch

    rows, rng = torch.tensor(x, dtype=torch.float32), np.random.default_rng(seed)
    size = min(size, len(x))
    while True:
        order = torch.tensor(rng.permutation(len(x)))
        for start in range(0, len(x) - size + 1, size):
            yield rows[order[start : start + size]]


def levels(concepts: int) -> list[int]:
    """Return the numbers of concepts of the nested dictionaries."""
    return sorted({max(1, concepts // 4), max(1, concepts // 2), concepts})


def untrained(architecture: str, channels: int, concepts: int, k: float) -> Any:
    """Return an autoencoder of sae-lens with its defaults."""
    from sae_lens.saes import (
        BatchTopKTrainingSAE,
        BatchTopKTrainingSAEConfig,
        MatryoshkaBatchTopKTrainingSAE,
        MatryoshkaBatchTopKTrainingSAEConfig,
    )

    sizes = {"d_in": channels, "d_sae": concepts, "k": k}
    if architecture == "batchtopk":
        return BatchTopKTrainingSAE(BatchTopKTrainingSAEConfig(**sizes))
    config = MatryoshkaBatchTopKTrainingSAEConfig(**sizes, matryoshka_widths=levels(concepts))
    return MatryoshkaBatchTopKTrainingSAE(config)


def trained(
    architecture: str, x: NDArray, concepts: int, k: float, seed: int, arguments: argparse.Namespace
) -> Any:
    """Train an autoencoder on positions (P, D), and return the one that is saved for use."""
    import torch
    from sae_lens.config import LoggingConfig, SAETrainerConfig
    from sae_lens.saes import SAE
    from sae_lens.training.sae_trainer import SAETrainer

    torch.manual_seed(seed)
    sae = untrained(architecture, x.shape[1], concepts, k)
    config = SAETrainerConfig(
        total_training_samples=arguments.samples,
        train_batch_size_samples=min(arguments.batch, len(x)),
        lr=arguments.learning_rate,
        lr_end=arguments.learning_rate,
        logger=LoggingConfig(log_to_wandb=False),
    )
    SAETrainer(config, sae, batches(x, arguments.batch, seed)).fit()
    with tempfile.TemporaryDirectory() as folder:
        sae.save_inference_model(folder)
        return SAE.load_from_disk(folder)


def likeness(directions: NDArray, codes: NDArray, data: dict[str, NDArray]) -> float:
    """Return the sum of two means over the atoms: of the largest cosine, and of the largest φ.

    The largest are over the concepts, with directions (J, D) and codes (P, J) of the fresh data.
    """
    lengths = np.maximum(np.linalg.norm(directions, axis=1, keepdims=True), 1e-12)
    cosines = (directions / lengths) @ data["truth_atoms"].T
    phi = _standardised(codes > 0).T @ _standardised(data["truth_present"]) / len(codes)
    return float(cosines.max(axis=0).mean() + phi.max(axis=0).mean())


def _standardised(on: NDArray) -> NDArray:
    """Return binary variables with mean 0 and deviation 1, or all 0 if they do not vary."""
    share = on.mean(axis=0)
    return (on - share) / np.maximum(np.sqrt(share * (1.0 - share)), 1e-12)


def found(
    architecture: str, data: dict[str, NDArray], seed: int, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Return what `planted.py --read` reads: of several k, the result of the best one."""
    import sae_lens
    import torch

    concepts, results = int(data["concepts"]), []
    for k in arguments.k or [max(1.0, float(data["mean_on"]))]:
        start = time.perf_counter()
        sae = trained(architecture, data["learning"], concepts, min(k, concepts), seed, arguments)
        seconds = time.perf_counter() - start
        with torch.no_grad():
            codes = sae.encode(torch.tensor(data["fresh"], dtype=torch.float32)).numpy()
            directions = sae.W_dec.numpy()
        print(f"{architecture}, k {k:.3g}: {seconds:.1f} s, L0 {(codes > 0).sum(1).mean():.3g}")
        arrays = {"directions": directions, "codes": codes, "seconds": seconds, "k": k}
        results.append((likeness(directions, codes, data), arrays))
    best = max(results, key=lambda result: result[0])[1]
    version = f"(sae-lens {sae_lens.__version__})"
    name = NAMES[architecture] + (", best k" if len(results) > 1 else "")
    return {**best, "name": name, "version": version}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    names = list(NAMES)
    parser.add_argument("--architectures", nargs="+", choices=names, default=names)
    parser.add_argument("--k", nargs="+", type=float, metavar="K")
    parser.add_argument("--samples", type=int, default=10_000_000, metavar="P")
    parser.add_argument("--batch", type=int, default=1024, metavar="P")
    parser.add_argument("--learning-rate", type=float, default=3e-4, metavar="R")
    arguments = parser.parse_args()

    paths = sorted(arguments.data.glob("*.npz"))
    if not paths:
        parser.error(f"there is no npz in {arguments.data}: planted.py --export writes them")
    for path in paths:
        with np.load(path, allow_pickle=False) as archive:
            data = dict(archive)
        seed = int(path.stem.rsplit("_", 1)[1])
        for architecture in arguments.architectures:
            target = arguments.output / architecture / path.name
            if target.exists():
                continue
            print(path.stem, flush=True)
            target.parent.mkdir(parents=True, exist_ok=True)
            np.savez_compressed(target, **found(architecture, data, seed, arguments))


if __name__ == "__main__":
    main()
