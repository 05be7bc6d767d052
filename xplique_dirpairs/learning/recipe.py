"""Recipes: what is minimised in which stage, under which constraints, and how; as plain data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from numbers import Integral, Real
from typing import Literal

#: Names of the losses, as in `losses`; those with a weight or a constraint are computed.
LOSSES = ("s", "sb", "ma", "mm", "ic", "eac", "fso", "uur", "cur", "fired")

#: Sharpness in units of 1/noise, at most [measured: with 1.7 and 2.5, fresh data has an IoU of .83
#: and .86, of .72 without a limit; the best possible is .89].
_SHARPEST = 3.0


@dataclass(frozen=True)
class Stage:
    """One stage of the learning.

    Parameters
    ----------
    name
        "a", "b" or "d", as in the paper (stage c, the signal vectors, is a computation).
    weights
        Loss name → λ; their weighted sum is minimised.
    constraints
        Loss name → bound it must stay below (augmented Lagrangian).
    coordinates
        What is learned in: channels of unit variance, principal axes of unit variance, or
        principal axes as they are.
    orthonormal
        Filters are kept orthonormal in these coordinates (needs I ≤ A; left free otherwise).
    shared
        One margin and one bias for all concepts.
    sharpness
        1/M in these coordinates, from and to, geometric over the first 70 % of the steps; None:
        margins are learned.
    signals
        "none"; "positives" or "joint": recomputed from the detections at every step, with
        gradients, by `signals.positives_covariance` or `signals.joint_signals`; "free":
        parameters of their own, as in the paper.
    epochs, steps_per_epoch
        An epoch is the unit of progress, of dual updates and of the history; steps_per_epoch None
        is one pass over the positions.
    schedule
        "constant"; "cosine" to 2 % of the learning rate, stopped where the last 30 % of the epochs
        bring no more; "plateau": halved when the objective does not improve for ``patience``
        epochs, stopped when it does not for 5 × patience.
    kappa
        Range of κ: how far towards the hyperplanes features are moved for the network terms.
    tau
        ν = τ/I, the least activity of a concept (L^ic).
    rho
        The highest activity of a concept, ρ = rho · τ/I (L^eac).
    largest_rho
        And ρ is no more than that.
    per_position
        How many concepts a position carries: what L^s asks for.
    meant_for_axes
        Axes that learning rate and epochs are meant for. In fewer of them steps are cheap, and
        slow learning would stop short: both grow in proportion, up to three times.
    """

    name: str
    weights: dict[str, float]
    constraints: dict[str, float] = field(default_factory=dict)
    coordinates: Literal["standardised", "whitened", "centred"] = "whitened"
    orthonormal: bool = False
    shared: bool = False
    sharpness: tuple[float, float] | None = None
    signals: Literal["none", "positives", "joint", "free"] = "none"
    epochs: int = 20
    steps_per_epoch: int | None = 40
    learning_rate: float = 3e-3
    schedule: Literal["constant", "cosine", "plateau"] = "cosine"
    patience: int = 10
    kappa: tuple[float, float] = (0.5, 0.9)
    tau: float = 0.8
    rho: float = 1.5
    largest_rho: float = 0.9
    per_position: int = 1
    meant_for_axes: int | None = None

    def __post_init__(self) -> None:
        unknown = sorted((set(self.weights) | set(self.constraints)) - set(LOSSES))
        if unknown:
            raise ValueError(f"unknown losses {unknown}; there are: {', '.join(LOSSES)}")
        if self.signals == "none" and {"fso", "cur"} & (set(self.weights) | set(self.constraints)):
            raise ValueError("L^fso and L^cur need signal vectors: signals='joint', for one")
        if not self.weights:
            raise ValueError(f"stage {self.name!r} has no losses to minimise")
        _check_choice("coordinates", self.coordinates, ("standardised", "whitened", "centred"))
        _check_choice("signals", self.signals, ("none", "positives", "joint", "free"))
        _check_choice("schedule", self.schedule, ("constant", "cosine", "plateau"))
        for name in ("epochs", "steps_per_epoch", "patience", "per_position", "meant_for_axes"):
            if getattr(self, name) is not None or name not in ("steps_per_epoch", "meant_for_axes"):
                _check_whole(name, getattr(self, name))
        for name in ("learning_rate", "tau", "rho", "largest_rho"):
            _check_positive(name, getattr(self, name))
        for name, value in (*self.weights.items(), *self.constraints.items()):
            _check_number(f"weight or bound of {name!r}", value)
        if self.sharpness is not None:
            _check_pair("sharpness", self.sharpness)
            for value in self.sharpness:
                _check_positive("sharpness", value)
        _check_pair("kappa", self.kappa)
        if not 0 <= self.kappa[0] <= self.kappa[1]:
            raise ValueError(f"kappa must be a range from low to high, not {self.kappa!r}")

    def in_axes(self, axes: int) -> Stage:
        """This stage for so many axes: see ``meant_for_axes``."""
        if self.meant_for_axes is None:
            return self
        factor = min(max(self.meant_for_axes / axes, 1.0), 3.0)
        return replace(
            self, learning_rate=factor * self.learning_rate, epochs=round(factor * self.epochs)
        )

    def for_noise(self, noise: float) -> Stage:
        """This stage where features have so much noise: no sharper than it leaves detections.

        Where noise blurs an edge, a sharper sigmoid fits the noise of the positions it is learned
        from.

        Parameters
        ----------
        noise
            Standard deviation along a filter, as `Coordinates.noise`.
        """
        if self.sharpness is None or noise == 0.0:
            return self
        first, last = (min(end, _SHARPEST / noise) for end in self.sharpness)
        return replace(self, sharpness=(first, last))

    def rho_of(self, concepts: int) -> float:
        """ρ of so many concepts."""
        return min(self.rho * self.tau / concepts, self.largest_rho)

    @property
    def terms(self) -> tuple[str, ...]:
        """Names of the losses this stage computes."""
        used = set(self.weights) | set(self.constraints)
        return tuple(name for name in LOSSES if name in used)


@dataclass(frozen=True)
class Recipe:
    """How direction pairs are learned.

    Parameters
    ----------
    name
    stages
        In order.
    start
        Initial filters: "skewness", "consensus" or "random" (see `starts`). A consensus depends on
        the features alone; the seed decides the order in which they are learned from.
    restarts
        Starts learned side by side, each to the end, the best kept; None: as many, up to 8, as cost
        little, of which the worse half ends with every stage.
    gamma
        Exponent of the activity E_p[y^γ].
    batch, batch_per_concept
        Positions a step sees, the larger of ``batch`` and I times ``batch_per_concept``; all of
        them where there are at most twice as many.
    maps
        Feature maps a step passes through a head that does not begin with a pooling.
    network_every
        Such a head is used in every n-th step only, with n times the weight.
    otherwise
        The recipe to use instead where positions carry overlapping concepts, as in real networks:
        sharp detectors have too few positions to learn from there. It is used from the start where
        the features' spectrum has no floor of noise, and after the first stage where that stage
        ends with L^s above ``clear_below`` bits. None: there is no such choice.
    clear_below
        Bits.
    """

    name: str
    stages: tuple[Stage, ...]
    start: Literal["skewness", "consensus", "random"] = "skewness"
    restarts: int | None = None
    gamma: float = 1.1
    batch: int = 4096
    batch_per_concept: int = 1
    maps: int = 4
    network_every: int = 5
    otherwise: Recipe | None = None
    clear_below: float = 0.1

    def __post_init__(self) -> None:
        if not self.stages:
            raise ValueError(f"recipe {self.name!r} has no stages")
        names = [stage.name for stage in self.stages]
        if len(set(names)) != len(names):
            raise ValueError(f"stages need names of their own, not {names}")
        _check_choice("start", self.start, ("skewness", "consensus", "random"))
        for name in ("restarts", "batch", "batch_per_concept", "maps", "network_every"):
            if getattr(self, name) is not None or name != "restarts":
                _check_whole(name, getattr(self, name))
        _check_positive("gamma", self.gamma)
        if not isinstance(self.otherwise, (Recipe, type(None))):
            raise ValueError(f"otherwise must be a Recipe or None, not {self.otherwise!r}")
        if self.otherwise is not None:
            for stage in (self.stages[0], self.stages[-1]):
                if "s" not in stage.terms:
                    raise ValueError(
                        f"stage {stage.name!r} of recipe {self.name!r} needs L^s, by which the "
                        "other recipe is chosen: give it a weight, or set otherwise=None"
                    )

    def batch_for(self, concepts: int) -> int:
        """Positions a step sees."""
        return max(self.batch, self.batch_per_concept * concepts)

    @property
    def estimator(self) -> str:
        """How signal vectors are read off detectors: as the last stage ties them."""
        return "joint" if self.stages[-1].signals == "joint" else "positives"


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {choices}, not {value!r}")


def _check_number(name: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, Real) or not isfinite(value):
        raise ValueError(f"{name} must be a finite number, not {value!r}")


def _check_positive(name: str, value: float) -> None:
    _check_number(name, value)
    if value <= 0:
        raise ValueError(f"{name} must be positive, not {value!r}")


def _check_whole(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, not {value!r}")


def _check_pair(name: str, value: tuple[float, float]) -> None:
    if not isinstance(value, Sequence) or len(value) != 2:
        raise ValueError(f"{name} must be two numbers, not {value!r}")
    for number in value:
        _check_number(name, number)
