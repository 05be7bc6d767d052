"""A comparison as a file, so that what took hours to measure is kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from xplique_dirpairs.comparison.extractor_result import ExtractorResult
from xplique_dirpairs.core.archives import ArchiveFormat
from xplique_dirpairs.metrics.fidelity import Curves, Fidelity
from xplique_dirpairs.metrics.importance import SobolIndices

FORMAT = ArchiveFormat(
    "xplique_dirpairs.Comparison", 1, "a comparison", "Comparison.save", compressed=True
)


def write_results(
    path: str | Path,
    results: Mapping[str, ExtractorResult],
    arrays: Mapping[str, NDArray],
    about: Mapping[str, Any],
) -> None:
    """Write results, other arrays, and what JSON can hold, to ``path`` under that very name."""
    arrays = dict(arrays)
    entries = [_taken_apart(r, f"{number}", arrays) for number, r in enumerate(results.values())]
    FORMAT.write(path, arrays, {"results": entries, **about})


def read_results(
    path: str | Path,
) -> tuple[dict[str, ExtractorResult], dict[str, NDArray], dict[str, Any]]:
    """(results, arrays, header) of a file that `write_results` wrote.

    Raises
    ------
    FileNotFoundError, IsADirectoryError
        If there is no such file, or it is a folder.
    ValueError
        If the file is damaged, of another kind, or of a newer format than this version reads.
    """

    def build(
        arrays: dict[str, NDArray], header: dict[str, Any]
    ) -> tuple[dict[str, ExtractorResult], dict[str, NDArray], dict[str, Any]]:
        entries = enumerate(header["results"])
        results = [_put_together(entry, f"{number}", arrays) for number, entry in entries]
        return {result.name: result for result in results}, arrays, header

    return FORMAT.load(path, build)


def _taken_apart(result: ExtractorResult, at: str, arrays: dict[str, NDArray]) -> dict[str, Any]:
    """Puts the arrays of a result under names that begin with ``at``; returns the rest."""
    found = result.fidelity
    parts = {
        "shown": result.shown,
        "encoding": result.encoding,
        "deletion": found.deletion.probabilities,
        "deletion_changed": found.deletion.changed,
        "insertion": found.insertion.probabilities,
        "insertion_changed": found.insertion.changed,
        "contributions": found.contributions,
        "orders": found.orders,
        "crossed": found.crossed,
        **{f"sobol.{f.name}": getattr(result.importances, f.name) for f in fields(SobolIndices)},
        **{f"values.{key}": value for key, value in result.values.items()},
    }
    if result.decoding is not None:
        parts["decoding"] = result.decoding
    arrays |= {f"{at}.{name}": value for name, value in parts.items()}
    return {
        "name": result.name,
        "values": list(result.values),
        "fidelity": list(found.values),
        "seconds": result.seconds,
        "remarks": list(result.remarks),
        "seeds": [
            _taken_apart(seed, f"{at}.seed{k}", arrays) for k, seed in enumerate(result.seeds)
        ],
    }


def _put_together(about: dict[str, Any], at: str, arrays: dict[str, NDArray]) -> ExtractorResult:
    def part(name: str) -> NDArray:
        return arrays[f"{at}.{name}"]

    seeds = [_put_together(seed, f"{at}.seed{k}", arrays) for k, seed in enumerate(about["seeds"])]
    values = {key: part(f"values.{key}") for key in about["values"]}
    return ExtractorResult(
        about["name"],
        part("encoding"),
        arrays.get(f"{at}.decoding"),
        part("shown"),
        values,
        Fidelity(
            {key: values[key] for key in about["fidelity"]},
            Curves(part("deletion"), part("deletion_changed")),
            Curves(part("insertion"), part("insertion_changed")),
            part("contributions"),
            part("orders"),
            part("crossed"),
        ),
        SobolIndices(*(part(f"sobol.{f.name}") for f in fields(SobolIndices))),
        dict(about["seconds"]),
        tuple(about["remarks"]),
        tuple(seeds),
    )
