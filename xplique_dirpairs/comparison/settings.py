"""What tells two comparisons of the same images apart."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: How far, relative to the largest, logits and limits may differ: another machine rounds otherwise.
_SAME = 1e-3


@dataclass(frozen=True, eq=False)
class Settings:
    """How a comparison was made.

    Attributes
    ----------
    shape
        Of the activations of one image, ``(*spatial, D)``.
    logits : (N, K)
        Of the intact network.
    limits
        Of the layer: features are clipped to them.
    fit_images
        Checksum of the images of the fit; None where there were none.
    importance_images, nb_design
        Of the Sobol indices.
    random_state
        Of an average, those of all its seeds.
    """

    shape: tuple[int, ...]
    logits: NDArray
    limits: tuple[float, float]
    fit_images: str | None
    importance_images: int
    nb_design: int
    random_state: int | list[Any]

    def differences(self, other: Settings) -> list[str]:
        """What differs, in words, with both values where they are short."""
        found = []
        if self.shape != other.shape:
            found.append(f"shape of the activations ({self.shape} and {other.shape})")
        if not _are_close(self.logits, other.logits):
            found.append("logits of the intact network: it is another network")
        if not _are_close(np.array(self.limits), np.array(other.limits)):
            found.append(f"limits of the layer ({self.limits} and {other.limits})")
        if self.fit_images != other.fit_images:
            found.append("fit_images")
        for name in ("importance_images", "nb_design", "random_state"):
            ours, theirs = getattr(self, name), getattr(other, name)
            if ours != theirs:
                found.append(f"{name} ({ours} and {theirs})")
        return found

    def as_json(self) -> dict[str, Any]:
        """All but the logits, as JSON holds it."""
        return {name: value for name, value in asdict(self).items() if name != "logits"}

    @classmethod
    def from_json(cls, about: dict[str, Any], logits: NDArray) -> Settings:
        """What `as_json` gave, and the logits."""
        low, high = about["limits"]
        return cls(
            **about | {"shape": tuple(about["shape"]), "limits": (low, high), "logits": logits}
        )


def checksum(images: NDArray | None) -> str | None:
    """Of an array's values, type and shape."""
    if images is None:
        return None
    found = hashlib.sha256(f"{images.dtype} {images.shape}".encode())
    found.update(np.ascontiguousarray(images).tobytes())
    return found.hexdigest()[:16]


def _are_close(ours: NDArray, theirs: NDArray) -> bool:
    if ours.shape != theirs.shape:
        return False
    return bool(np.abs(ours - theirs).max() <= _SAME * max(float(np.abs(ours).max()), 1e-12))
