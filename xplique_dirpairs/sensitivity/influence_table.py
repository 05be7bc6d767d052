"""Influence as tables: the paper's Table 8 for several extractors, and the strongest directions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from xplique_dirpairs.core.tables import Cell, Table
from xplique_dirpairs.sensitivity.influence import Influence

#: Header → attribute of `InfluenceSummary`, and decimals.
_COLUMNS = {
    "SDC": ("sdc", 0),
    "SCDP": ("scdp", 0),
    "directions +": ("positive_directions", 0),
    "directions −": ("negative_directions", 0),
    "per class +": ("positive_per_class", 2),
    "per class −": ("negative_per_class", 2),
    "most classes +": ("most_helped", 0),
    "most classes −": ("most_hurt", 0),
    "classes +": ("classes_helped", 0),
    "classes −": ("classes_hurt", 0),
}
_CAPTION = (
    "SDC: directions significant for at least one class; SCDP: significant pairs of class and "
    "direction; + helps, − hurts: sign of SC of significant pairs."
)
_MEANINGS = {
    "benjamini-hochberg": "Benjamini–Hochberg at {level:g} over all pairs",
    "bonferroni": "Bonferroni at {level:g} over all pairs",
    "none": "p ≤ {level:g}, not corrected",
    "paper": "stronger than all noise vectors, as in the paper, not corrected",
}


_STATISTICS = {
    "change": "|mean Δ|",
    "signed change": "the mean Δ on its own side of 0, p doubled",
    "score": "|SC|",
}


def influence_table(
    influences: Mapping[str, Influence],
    corrections: Sequence[str] = ("benjamini-hochberg", "paper"),
) -> Table:
    """SDC, SCDP and the paper's Table 8 of several extractors.

    Parameters
    ----------
    influences
        By the extractor's name.
    corrections
        A row each; see `Influence.significant`. Where there were too few permutations for any
        significance the row says "unreachable".

    Raises
    ------
    ValueError
        If there is nothing to show.
    """
    if not influences or not corrections:
        raise ValueError("give at least one influence and one correction: there is nothing to show")
    headers = ["extractor", "significant", "directions", "tests", *_COLUMNS]
    rows = []
    for name, found in influences.items():
        for correction in corrections:
            reachable = found.reachable(correction)
            size = len(found.scores)
            cells = [
                Cell(name),
                Cell(correction),
                Cell(str(size), numbers=(size,)),
                Cell(str(found.tests), numbers=(found.tests,)),
            ]
            summary = found.summary(correction)
            for attribute, decimals in _COLUMNS.values():
                value = getattr(summary, attribute)
                text = f"{value:.{decimals}f}" if np.isfinite(value) else "–"
                cells.append(
                    Cell(text, numbers=(value,))
                    if reachable
                    else Cell("unreachable", numbers=(np.nan,))
                )
            rows.append(cells)
    return Table(headers, rows, [_CAPTION, *_notes(influences, corrections)])


def strongest_table(
    found: Influence,
    concept_names: Sequence[str] | None = None,
    class_names: Sequence[str] | None = None,
    correction: str = "benjamini-hochberg",
    at_most: int = 20,
) -> Table:
    """Significant pairs of direction and class, by the size of the mean Δ.

    Parameters
    ----------
    found
    concept_names : I of them
        None: their numbers.
    class_names : K of them
    correction
        See `Influence.significant`.
    at_most
        Rows.

    Raises
    ------
    ValueError
        If there are other numbers of names.
    """
    concepts, classes = found.scores.shape
    concept_names = _names("concept_names", concept_names, concepts)
    class_names = _names("class_names", class_names, classes)
    order = np.argsort(-np.abs(np.nan_to_num(found.changes)), axis=None, kind="stable")
    pairs = np.stack(np.unravel_index(order, found.scores.shape), axis=1)
    pairs = pairs[found.significant(correction)[tuple(pairs.T)]]
    rows = []
    for i, k in pairs[:at_most]:
        change, score, p = found.changes[i, k], found.scores[i, k], found.p_values[i, k]
        rows.append(
            [
                Cell(concept_names[i]),
                Cell(class_names[k]),
                Cell(f"{change:+.3f}", numbers=(change,)),
                Cell(f"{score:+.2f}", numbers=(score,)),
                Cell(f"{p:.2g}", numbers=(p,)),
            ]
        )
    notes = _notes({"": found}, [correction])
    if len(pairs) > at_most:
        notes.insert(0, f"The strongest {at_most} of {len(pairs)} significant pairs.")
    return Table(["direction", "class", "mean Δ (nats)", "SC", "p"], rows, notes)


def _names(what: str, names: Sequence[str] | None, count: int) -> list[str]:
    if names is None:
        return [str(k) for k in range(count)]
    if len(names) != count:
        raise ValueError(f"{what} must be {count} names, not {len(names)}")
    return [str(name) for name in names]


def _notes(influences: Mapping[str, Influence], corrections: Sequence[str]) -> list[str]:
    levels = sorted({found.level for found in influences.values()})
    notes = []
    for correction in corrections:
        said = "; ".join(_MEANINGS[correction].format(level=level) for level in levels)
        notes.append(f"{correction}: {said}.")
        few = [
            n for n, found in influences.items() if found.tests and not found.reachable(correction)
        ]
        if few:
            notes.append(
                f"unreachable ({correction}"
                + (f": {', '.join(few)}" if any(few) else "")
                + "): with so few permutations no p-value can be small enough."
            )
    if "benjamini-hochberg" in corrections:
        least = [found.least_rejections() for found in influences.values()]
        if max(least) > 1:
            notes.append(
                "With so many permutations Benjamini–Hochberg finds either nothing or at least "
                f"{', '.join(map(str, least))} pairs at once."
            )
    how = {
        name: f"{found.permutations} noise vectors for each direction, compared by "
        f"{_STATISTICS[found.statistic]}"
        for name, found in influences.items()
    }
    if len(set(how.values())) == 1:
        notes.append(f"{next(iter(how.values()))}.")
    else:
        notes += [f"{name}: {said}." for name, said in how.items()]
    for name, found in influences.items():
        if len(found.untested):
            why = (
                "it was interrupted"
                if found.interrupted
                else "detectors fire everywhere or nowhere"
            )
            of = f" of {name}" if name else ""
            notes.append(f"Not tested, since {why}: directions {found.untested.tolist()}{of}.")
    return notes
