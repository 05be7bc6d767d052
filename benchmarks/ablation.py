"""What each loss of the learning is for: the paper's Table 2, on the annotated scenes.

    python benchmarks/ablation.py --output DIR
    python benchmarks/ablation.py --output DIR --base default

Recipes are made from one of ours by switching losses on and off; everything else (initialisation,
schedule, sharpness, the other weights) stays. A row names which of L^uur, L^sb, L^eac, L^cur, L^fso
are on:

    L^uur   the network is evaluated where features are on all hyperplanes; in every stage
    L^cur   instead, in the last stage, with features moved there along the signal vectors
    L^sb    in the last stage, with 2.6, and L^s with 0.85: the paper's weights
    L^eac   in every stage, with the weight of the recipe
    L^fso   in the last stage, with 1, the paper's weight

Signal vectors are estimated jointly, as in the recipe, so that WᵀŜ = 1 and L^fso has nothing to do;
rows with L^fso, and one without to compare them with, have the paper's estimate (from positives)
instead.

Columns: S¹ and S² by Network Dissection at the detectors' own biases; SDC and SCDP by |mean Δ|
against the paper's noise, and, in a table of their own, by other tests; condition number of WᵀŜ.
Mean and standard deviation over seeds. The network, the pairs and the measurements are kept in
--output.
"""

from __future__ import annotations

import argparse
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

from annotated import AnnotatedLayer, add_scene_options, scene_layer
from kept import Measured, kept, learned, mean_and_spread, slug
from scene_influence import OWN_TESTS, Test, of_pairs

from xplique_dirpairs.core.tables import Cell, Table
from xplique_dirpairs.learning.history import LearningWarning
from xplique_dirpairs.learning.presets import RECIPES
from xplique_dirpairs.learning.recipe import Recipe, Stage
from xplique_dirpairs.metrics.labelled_detectors import interpretability

#: The paper's λ of L^s and L^sb where both are on, and of L^fso.
_SPARSITY, _BOUND, _ORTHOGONALITY = 0.85, 2.6, 1.0
#: λ of L^uur and L^cur in recipes that have none: large, so that their effect shows.
_UUR, _CUR = 4.0, 10.0

#: Columns of the first table, and their decimals: by the paper's test.
MEASURES = {"S¹": 2, "S²": 2}
MEASURES |= {f"{n}, trained filter": 1 for n in ("SDC", "SCDP")}
MEASURES |= {"cond": 1, "s": 0}


@dataclass(frozen=True)
class Row:
    """The losses that are on, and how signal vectors are estimated."""

    on: tuple[str, ...]
    signals: str = "joint"

    @property
    def name(self) -> str:
        losses = ", ".join(f"L^{loss}" for loss in self.on) or "none of them"
        return losses if self.signals == "joint" else f"{losses} (ŝ from positives)"


ROWS = (
    Row(()),
    Row(("uur",)),
    Row(("uur", "sb")),
    Row(("uur", "eac")),
    Row(("uur", "sb", "eac")),
    Row(("eac",)),
    Row(("cur", "eac")),
    Row(("cur", "sb", "eac")),
    Row(("cur", "sb", "eac"), "positives"),
    Row(("cur", "fso", "sb", "eac"), "positives"),
)


def switched(recipe: Recipe, row: Row) -> Recipe:
    """Return the recipe with these of the five losses on, and the others off.

    Raises
    ------
    ValueError
        If the recipe does not have stages "a" and "d" with L^eac each.
    """
    first, last = recipe.stages
    if not ("eac" in first.weights and "eac" in last.weights):
        raise ValueError(f"recipe {recipe.name!r} has not the losses that are switched here")

    def kept_losses(stage: Stage) -> dict[str, float]:
        left = {k: v for k, v in stage.weights.items() if k not in ("uur", "cur", "eac", "sb")}
        return left | ({"eac": stage.weights["eac"]} if "eac" in row.on else {})

    asked = {"uur", "cur"} & set(row.on)
    early, late = kept_losses(first), kept_losses(last)
    if asked:
        early["uur"] = first.weights.get("uur", _UUR)
        late["cur" if "cur" in row.on else "uur"] = last.weights.get("cur", _CUR)
    if "sb" in row.on:
        late |= {"s": _SPARSITY, "sb": _BOUND}
    if "fso" in row.on:
        late["fso"] = _ORTHOGONALITY
    if asked:
        first, last = replace(first, kappa=(0.8, 1.0)), replace(last, kappa=(0.8, 1.0))
    stages = (replace(first, weights=early), replace(last, weights=late, signals=row.signals))
    name = f"{recipe.name} {' '.join(row.on)} {row.signals}"
    otherwise = None if recipe.otherwise is None else switched(recipe.otherwise, row)
    return replace(recipe, name=name, stages=stages, otherwise=otherwise)


def test_name(test: Test) -> str:
    """Return how SDC and SCDP were tested, in words."""
    return f", {test.noise}"


def measured(
    data: AnnotatedLayer, row: Row, seed: int, arguments: argparse.Namespace
) -> dict[str, float]:
    """Return the figures of one fit."""
    recipe, concepts = switched(RECIPES[arguments.base], row), arguments.concepts
    folder = arguments.output / data.name
    how = {"noise_vectors": arguments.permutations, "amount": arguments.amount}
    settings = {
        "data": data.about,
        "validation": len(data.validation),
        "concepts": concepts,
        "recipe": str(recipe),
        **how,
    }

    def measure() -> Measured:
        pairs, seconds = learned(
            folder, data.about, data.x_training, data.head, concepts, seed, recipe
        )
        scores = interpretability(
            data.training, data.validation, pairs.project, pairs.biases,
            training_activations=data.x_training, validation_activations=data.x_validation,
        )  # fmt: skip
        figures = {"S¹": scores.s1, "S²": scores.s2}
        for test, found in of_pairs(data, pairs, how).items():
            summary = found.summary()
            figures |= {
                f"SDC{test_name(test)}": summary.sdc,
                f"SCDP{test_name(test)}": summary.scdp,
            }
        figures["cond"], figures["s"] = pairs.condition_number, seconds
        print(f"{row.name}, seed {seed}: {figures}", flush=True)
        return {}, figures

    path = folder / "ablation" / f"{slug(recipe.name)}_{concepts}_{seed}.npz"
    return kept(path, settings, measure)[1]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--base", choices=("soft", "default"), default="soft", help="a recipe")
    parser.add_argument("--rows", nargs="+", type=int, metavar="K", help="some, counted from 0")
    parser.add_argument("--concepts", type=int, default=40, metavar="I")
    parser.add_argument("--seeds", type=int, default=3, metavar="N")
    parser.add_argument("--permutations", type=int, default=1000, metavar="N")
    parser.add_argument("--amount", type=float, default=5.0, metavar="A", help="a of RCAV")
    add_scene_options(parser)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", LearningWarning)
    data = scene_layer(arguments)
    rows, significant = [], []
    for row in ROWS if arguments.rows is None else [ROWS[k] for k in arguments.rows]:
        found = [measured(data, row, seed, arguments) for seed in range(arguments.seeds)]

        def cell(name, decimals, found=found):
            return mean_and_spread([one[name] for one in found], decimals)

        rows.append([Cell(row.name), *map(cell, MEASURES, MEASURES.values())])
        counts = [cell(f"{name}{test_name(t)}", 1) for t in OWN_TESTS for name in ("SDC", "SCDP")]
        significant.append([Cell(row.name), *counts])
    note = (
        f"Recipe {arguments.base!r}, I = {arguments.concepts}, {arguments.seeds} seed(s), "
        f"a = {arguments.amount:g}, {arguments.permutations} noise vectors; mean ± standard "
        "deviation over seeds."
    )
    print("\n" + Table(["losses", *MEASURES], rows, [note]).formatted("markdown"), "\n")
    headers = [f"{name}{test_name(test)}" for test in OWN_TESTS for name in ("SDC", "SCDP")]
    caption = ["Benjamini–Hochberg, 0.05."]
    print(Table(["losses", *headers], significant, caption).formatted("markdown"))


if __name__ == "__main__":
    main()
