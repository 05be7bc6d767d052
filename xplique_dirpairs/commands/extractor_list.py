"""Names of the concept extractors that the command line knows; importing this costs nothing."""

from __future__ import annotations

#: The first are the direction pairs.
NAMES = (
    "pairs", "CRAFT", "PCA", "FastICA", "K-Means", "NMF", "semi-NMF", "TopK SAE", "A-SAE", "RA-SAE",
)  # fmt: skip


def extractor_name(text: str) -> str:
    """A name as it is written here; case, spaces and hyphens do not count.

    Raises
    ------
    ValueError
        If there is none.
    """
    wanted = _key(text)
    for name in NAMES:
        if wanted in (_key(name), _key(name.removesuffix(" SAE"))):
            return name
    raise ValueError(f"there is no extractor {text!r}; there are: {', '.join(NAMES)}")


def _key(name: str) -> str:
    return "".join(c for c in name.casefold() if c.isalnum())
