"""Recipes, as plain data: what each stage minimises, under which constraints, and how.

The recipes that have a name are in `presets`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from xplique_dirpairs.core.validation import check_choice, check_integer, check_number

CoordinatesName = Literal["standardised", "whitened", "centred"]
SignalsName = Literal["none", "positives", "joint", "free"]
ScheduleName = Literal["constant", "cosine", "plateau"]
StartName = Literal["skewness", "consensus", "random", "sparse"]

#: Names of the losses in `losses`; a stage computes those with a weight or a constraint.
LOSSES = ("s", "sb", "ma", "mm", "ic", "eac", "fso", "uur", "cur", "fired")
#: The losses that pass features through the head, and those that need signal vectors.
NETWORK_LOSSES, SIGNAL_LOSSES = {"uur", "cur", "fired"}, {"fso", "cur"}

#: Largest sharpness in units of 1/noise [measured: on fresh data, the IoU is .83 with 1.7, .86 with
#: 2.5 and .72 without a limit; the best possible IoU is .89].
_SHARPEST = 3.0


@dataclass(frozen=True)
class Stage:
    """One stage of the learning.

    Parameters
    ----------
    name : str
        "a", "b" or "d" in the recipes of this module, as in the paper; its stage c computes signal
        vectors and learns nothing.
    weights : dict of str to float
        Name of a loss → its weight; the weighted sum is minimised. Names are those of the paper
        without L: "s" is L^s; the table in docs/method.md has all of them. "fired" is CBE's.
    constraints : dict of str to float, default={}
        Name of a loss → the bound that it must stay below (augmented Lagrangian). No constraints
        by default.
    coordinates : str, default="whitened"
        Coordinates that detectors are learned in. "standardised": channels of unit variance;
        "whitened": principal axes scaled to unit variance; "centred": principal axes, unscaled.
    orthonormal : bool, default=False
        Whether filters are kept orthonormal in these coordinates. This has no effect if there are
        more concepts than axes, I > A.
    shared : bool, default=False
        Whether all concepts share one margin and one bias.
    sharpness : tuple of float, optional
        First and last sharpness 1/M, the inverse margin, in these coordinates. It rises
        geometrically during the first 70 % of the steps, so the last must not be below the first.
        None: margins are learned.
    signals : str, default="none"
        Where signal vectors come from. "none": there are none; "positives" or "joint": they are
        computed from the detections in every step, with gradients, by
        `signals.positives_covariance` or `signals.joint_signals`; "free": they are parameters that
        are learned, as in the paper.
    epochs : int, default=20
        Number of epochs. After each of them the losses are recorded, the multipliers of the
        constraints are updated, and the progress bar advances.
    steps_per_epoch : int or None, default=40
        Steps in an epoch. None: as many as one pass over the positions takes.
    learning_rate : float, default=3e-3
        Learning rate of Adam at the beginning of the stage.
    schedule : str, default="cosine"
        How the learning rate changes. "constant": not at all; "cosine": it falls along a cosine to
        2 % of its value, and the stage stops early if the objective does not improve for 5 epochs
        among the last 30 %; "plateau": it is halved when the objective has not improved for
        ``patience`` epochs, and the stage stops after 5 × ``patience`` such epochs in a row.
    patience : int, default=10
        Epochs without improvement before a "plateau" schedule halves the learning rate.
    kappa : tuple of float, default=(0.5, 0.9)
        Range from which κ is drawn: how far features are moved towards the hyperplanes (1: onto
        them) for the losses that evaluate the network.
    tau : float, default=0.8
        τ in ν = τ/I, the activity E_p[y^γ] below which a concept is penalised (L^ic).
    rho : float, default=1.5
        Factor in ρ = rho · τ/I, the activity above which a concept is penalised (L^eac).
    largest_rho : float, default=0.9
        Upper limit of ρ, between 0 and 1.
    per_position : int, default=1
        Number of concepts that a position should carry: L^s is 0 for that number.
    meant_for_axes : int, optional
        Number of axes that ``learning_rate`` and ``epochs`` are meant for. With fewer axes A, where
        slow learning would end too early and steps are cheap, both are multiplied by
        ``meant_for_axes / A``, but at most by 3. None: they are never changed.
    meant_for_concepts : int, optional
        Number of concepts that ``sharpness`` is meant for. In whitened coordinates, the projections
        of a concept on a share 1/I of the positions reach at most sqrt(I − 1): for I concepts, the
        sharpness is multiplied by ``sqrt(meant_for_concepts / I)``, so that a margin is always the
        same share of that reach. None: it is never changed.

    Raises
    ------
    ValueError
        If a loss is unknown, no loss has a weight, a loss of signal vectors is used with
        ``signals="none"``, or a setting has a wrong type or value.
    """

    name: str
    weights: dict[str, float]
    constraints: dict[str, float] = field(default_factory=dict)
    coordinates: CoordinatesName = "whitened"
    orthonormal: bool = False
    shared: bool = False
    sharpness: tuple[float, float] | None = None
    signals: SignalsName = "none"
    epochs: int = 20
    steps_per_epoch: int | None = 40
    learning_rate: float = 3e-3
    schedule: ScheduleName = "cosine"
    patience: int = 10
    kappa: tuple[float, float] = (0.5, 0.9)
    tau: float = 0.8
    rho: float = 1.5
    largest_rho: float = 0.9
    per_position: int = 1
    meant_for_axes: int | None = None
    meant_for_concepts: int | None = None

    def __post_init__(self) -> None:
        unknown = sorted((set(self.weights) | set(self.constraints)) - set(LOSSES))
        if unknown:
            raise ValueError(f"unknown losses {unknown}: use {', '.join(LOSSES)}")
        needing = sorted(SIGNAL_LOSSES & set(self.terms))
        if self.signals == "none" and needing:
            raise ValueError(f"the losses {needing} need signal vectors: set signals='joint'")
        if not self.weights:
            raise ValueError(f"stage {self.name!r} has no loss to minimise: give weights")
        check_choice("coordinates", self.coordinates, get_args(CoordinatesName))
        check_choice("signals", self.signals, get_args(SignalsName))
        check_choice("schedule", self.schedule, get_args(ScheduleName))
        for name in ("epochs", "patience", "per_position"):
            check_integer(name, getattr(self, name))
        for name in ("steps_per_epoch", "meant_for_axes", "meant_for_concepts"):
            if getattr(self, name) is not None:
                check_integer(name, getattr(self, name))
        for name in ("learning_rate", "tau", "rho", "largest_rho"):
            check_number(name, getattr(self, name), above=0)
        if self.largest_rho >= 1:
            raise ValueError(f"largest_rho must be less than 1, not {self.largest_rho!r}")
        for name, value in (*self.weights.items(), *self.constraints.items()):
            check_number(f"weight or bound of {name!r}", value)
        if self.sharpness is not None:
            _check_range("sharpness", self.sharpness)
            check_number("sharpness", self.sharpness[0], above=0)
        _check_range("kappa", self.kappa)

    def in_axes(self, axes: int) -> Stage:
        """Return this stage adapted to ``axes`` axes, as described under ``meant_for_axes``."""
        if self.meant_for_axes is None:
            return self
        factor = min(max(self.meant_for_axes / axes, 1.0), 3.0)
        return replace(
            self, learning_rate=factor * self.learning_rate, epochs=round(factor * self.epochs)
        )

    def for_concepts(self, concepts: int) -> Stage:
        """Return this stage adapted to a number of concepts, see ``meant_for_concepts``."""
        if self.sharpness is None or self.meant_for_concepts is None:
            return self
        factor = (self.meant_for_concepts / concepts) ** 0.5
        first, last = self.sharpness
        return replace(self, sharpness=(factor * first, factor * last))

    def for_noise(self, noise: float) -> Stage:
        """Return this stage with a sharpness that the noise of the features allows.

        Where noise blurs the edge of a concept, a sharper sigmoid would fit the noise of the
        positions that it is learned from.

        Parameters
        ----------
        noise : float
            Standard deviation of the noise along a filter, `Coordinates.noise`.

        Returns
        -------
        stage : Stage
        """
        if self.sharpness is None or noise == 0.0:
            return self
        first, last = (min(end, _SHARPEST / noise) for end in self.sharpness)
        return replace(self, sharpness=(first, last))

    def rho_of(self, concepts: int) -> float:
        """Return ρ, the highest activity that costs nothing, for a number of concepts."""
        return min(self.rho * self.tau / concepts, self.largest_rho)

    @property
    def terms(self) -> tuple[str, ...]:
        """Names of the losses that this stage computes, in the order of `LOSSES`."""
        used = set(self.weights) | set(self.constraints)
        return tuple(name for name in LOSSES if name in used)


def terms_of(stage: Stage, head: object | None) -> tuple[str, ...]:
    """Return the names of a stage's losses, without a head only those that do not need one."""
    return tuple(name for name in stage.terms if head is not None or name not in NETWORK_LOSSES)


@dataclass(frozen=True)
class Recipe:
    """A recipe: the stages in which direction pairs are learned, and their common settings.

    Parameters
    ----------
    name : str
    stages : tuple of Stage
        Stages in the order in which they are run. Only with ``start="sparse"`` there may be none:
        its detectors are then the result.
    start : str, default="skewness"
        Initial filters: "skewness", "consensus" or "random" (see `starts`), or "sparse" (see
        `sparse`). "consensus" and "sparse" depend on the features alone; the seed then only decides
        the order of the positions in learning.
    restarts : int, optional
        Number of restarts that are learned side by side to the end; the best is kept. None: as many
        as are cheap, up to 8, and after every stage only the better half goes on.
    gamma : float, default=1.1
        Exponent γ of the activity E_p[y^γ].
    batch : int, default=4096
        Positions that a step sees, at least. It sees all positions if there are at most twice as
        many as `batch_for` returns.
    batch_per_concept : int, default=1
        Positions that a step sees for each concept, at least.
    maps : int, default=4
        Feature maps that a step passes through a head that does not begin with a pooling.
    network_every : int, default=5
        A head that does not begin with a pooling is evaluated only in every n-th step, with n times
        the gradient.
    otherwise : Recipe, optional
        The recipe to use instead where positions carry overlapping concepts, as in real networks,
        because sharp detectors have too few positions to learn from there. It is used from the
        start if the spectrum of the features has no floor of noise, and after the first stage if
        that stage ends with L^s above ``clear_below`` bits. Where concepts are sparse (see
        `sparse`), recipe "sparse" is used instead of both. None: this recipe is always used.
    clear_below : float, default=0.1
        Largest L^s, in bits, after the first stage with which this recipe goes on.

    Raises
    ------
    ValueError
        If there are no stages without ``start="sparse"``, two of them have the same name, a setting
        has a wrong type or value, or ``otherwise`` is given and the first or last stage does not
        compute L^s.
    """

    name: str
    stages: tuple[Stage, ...]
    start: StartName = "skewness"
    restarts: int | None = None
    gamma: float = 1.1
    batch: int = 4096
    batch_per_concept: int = 1
    maps: int = 4
    network_every: int = 5
    otherwise: Recipe | None = None
    clear_below: float = 0.1

    def __post_init__(self) -> None:
        if not self.stages and self.start != "sparse":
            raise ValueError(f"recipe {self.name!r} has no stages: give at least one")
        names = [stage.name for stage in self.stages]
        if len(set(names)) != len(names):
            raise ValueError(f"stages must have different names, not {names}")
        check_choice("start", self.start, get_args(StartName))
        for name in ("batch", "batch_per_concept", "maps", "network_every"):
            check_integer(name, getattr(self, name))
        if self.restarts is not None:
            check_integer("restarts", self.restarts)
        check_number("gamma", self.gamma, above=0)
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
        """Return how many positions a step sees with a number of concepts."""
        return max(self.batch, self.batch_per_concept * concepts)

    def with_restarts(self, restarts: int | None) -> Recipe:
        """Return this recipe and its ``otherwise`` with another number of restarts.

        With ``restarts=None`` the recipe is returned unchanged.
        """
        if restarts is None:
            return self
        otherwise = None if self.otherwise is None else self.otherwise.with_restarts(restarts)
        return replace(self, restarts=restarts, otherwise=otherwise)

    @property
    def is_sharp(self) -> bool:
        """Whether this recipe is meant for features that follow the signal–distractor model."""
        return self.otherwise is not None

    def coordinates_of(self, stage: int) -> CoordinatesName:
        """Return the coordinates of the first (0) or last (-1) stage; "whitened" without stages."""
        return self.stages[stage].coordinates if self.stages else "whitened"

    @property
    def estimator(self) -> str:
        """Estimator of the final signal vectors: "joint", "positives" or "regression"."""
        if not self.stages:
            return "regression"
        return "joint" if self.stages[-1].signals == "joint" else "positives"


def _check_range(name: str, value: tuple[float, float]) -> None:
    """Raise a ValueError unless a value is two numbers in ascending order, of at least 0."""
    if not isinstance(value, Sequence) or len(value) != 2:
        raise ValueError(f"{name} must be two numbers, not {value!r}")
    for number in value:
        check_number(name, number, minimum=0)
    if value[0] > value[1]:
        raise ValueError(f"{name} must be in order, the lower number first, not {value!r}")
