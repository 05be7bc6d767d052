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
        Any name; "a", "b" or "d" in the recipes that have a name, as in the paper (Doumanoglou et
        al., arXiv 2509.23926). The paper's stage c computes signal vectors and learns nothing.
    weights : dict of str to float
        Name of a loss → its weight; the weighted sum is minimised. The names are those of the paper
        without the L: "s" (L^s, few concepts at a position), "sb" (the same at the worst
        positions), "ma" (at least one concept at a position), "mm" (wide margins), "ic" and "eac"
        (no concept too rare, none too frequent), "fso" (a filter orthogonal to the signal vectors
        of other concepts), "uur" and "cur" (an uncertain network where concepts are switched off).
        "fired" is "uur" with the concepts that fire suppressed, as in Concept Basis Extraction
        (CBE), an earlier method of the paper's authors. docs/method.md has a table of formulas.
    constraints : dict of str to float, default={}
        Name of a loss → the bound that it must stay below (augmented Lagrangian). No constraints
        by default.
    coordinates : str, default="whitened"
        Coordinates that detectors are learned in. "standardised": channels of unit variance;
        "whitened": principal axes scaled to unit variance; "centred": principal axes, unscaled.
    orthonormal : bool, default=False
        Whether filters are kept orthonormal in these coordinates. This has no effect if there are
        more concepts I than axes A of the coordinates.
    shared : bool, default=False
        Whether all concepts share one margin and one bias.
    sharpness : tuple of float, optional
        First and last sharpness 1/M, the inverse margin, in these coordinates. It rises
        geometrically during the first 70 % of the steps, so the last must not be below the first.
        None: margins are learned.
    signals : str, default="none"
        Where signal vectors come from. "none": the stage uses none; "positives" or "joint": they
        are computed from the detections in every step, with gradients, by the estimator of that
        name of `estimate_signals`; "free": they are parameters that are learned, as in the paper.
    epochs : int, default=20
        Number of epochs. After each of them the losses are recorded, the multipliers of the
        constraints are updated, and the progress bar advances.
    steps_per_epoch : int or None, default=40
        Steps in an epoch. None: as many as one pass over the positions takes.
    learning_rate : float, default=3e-3
        Learning rate of Adam at the beginning of the stage.
    schedule : str, default="cosine"
        How the learning rate changes. "constant": not at all; "cosine": it falls along a cosine to
        2 % of its value, and the stage stops early if the objective (the weighted sum of the
        losses and the penalty of violated constraints) does not improve for 5 epochs among the
        last 30 %; "plateau": it is halved when the objective has not improved for
        ``patience`` epochs, and the stage stops after 5 × ``patience`` such epochs in a row.
    patience : int, default=10
        Epochs without improvement before a "plateau" schedule halves the learning rate.
    kappa : tuple of float, default=(0.5, 0.9)
        Range from which κ is drawn for the losses that evaluate the network. They switch concepts
        off by moving features towards the hyperplanes where detections are 0.5: κ = 0 does not move
        them, and κ = 1 moves them onto the hyperplanes.
    tau : float, default=0.8
        τ in ν = τ/I. L^ic penalises a concept whose activity is below ν. The activity is
        E_p[y^γ], the mean over positions p of the concept's detection y to the power γ of the
        recipe.
    rho : float, default=1.5
        Factor in ρ = rho · τ/I. L^eac penalises a concept whose activity is above ρ.
    largest_rho : float, default=0.9
        Upper limit of ρ, between 0 and 1.
    per_position : int, default=1
        Number n of concepts that a position should carry. For n > 1, L^s is the mean distance of
        the detections' entropy from log2 n bits.
    meant_for_axes : int, optional
        Number of axes that ``learning_rate`` and ``epochs`` are meant for. In coordinates with
        fewer axes A, where slow learning would end too early and steps are cheap, both are
        multiplied by ``meant_for_axes / A``, but at most by 3. None: they are never changed.
    meant_for_concepts : int, optional
        Number of concepts that ``sharpness`` is meant for. For I concepts it is multiplied by
        ``sqrt(meant_for_concepts / I)``, in any coordinates. The reason holds in whitened ones:
        there the projections of a concept on a share 1/I of the positions reach at most
        sqrt(I − 1), and a margin stays the same share of that. None: it is never changed.

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
        """Return this stage adapted to a number of axes, as described under ``meant_for_axes``.

        Parameters
        ----------
        axes : int
            Number A of axes of the stage's coordinates.

        Returns
        -------
        stage : Stage
            A stage with another learning rate and number of epochs, or this one.
        """
        if self.meant_for_axes is None:
            return self
        factor = min(max(self.meant_for_axes / axes, 1.0), 3.0)
        return replace(
            self, learning_rate=factor * self.learning_rate, epochs=round(factor * self.epochs)
        )

    def for_concepts(self, concepts: int) -> Stage:
        """Return this stage adapted to a number of concepts, see ``meant_for_concepts``.

        Parameters
        ----------
        concepts : int
            Number of concepts I.

        Returns
        -------
        stage : Stage
            A stage with another sharpness, or this one.
        """
        if self.sharpness is None or self.meant_for_concepts is None:
            return self
        factor = (self.meant_for_concepts / concepts) ** 0.5
        first, last = self.sharpness
        return replace(self, sharpness=(factor * first, factor * last))

    def for_noise(self, noise: float) -> Stage:
        """Return this stage with a sharpness 1/M of at most 3/noise.

        Where noise blurs the edge of a concept, a sharper detector would fit the noise of the
        positions that it is learned from.

        Parameters
        ----------
        noise : float
            Standard deviation of the noise along a filter, in the stage's coordinates. 0: the
            sharpness is not limited.

        Returns
        -------
        stage : Stage
            A stage with another sharpness, or this one.
        """
        if self.sharpness is None or noise == 0.0:
            return self
        first, last = (min(end, _SHARPEST / noise) for end in self.sharpness)
        return replace(self, sharpness=(first, last))

    def rho_of(self, concepts: int) -> float:
        """Return ρ, the activity above which L^eac penalises a concept, see ``rho``.

        Parameters
        ----------
        concepts : int
            Number of concepts I.

        Returns
        -------
        rho : float
            min(``rho`` · ``tau`` / I, ``largest_rho``).
        """
        return min(self.rho * self.tau / concepts, self.largest_rho)

    @property
    def terms(self) -> tuple[str, ...]:
        """Names of the losses that this stage computes: those with a weight or a constraint."""
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
        Name of the recipe in messages and in `History.recipe`.
    stages : tuple of Stage
        Stages in the order in which they are run. Only with ``start="sparse"`` there may be none:
        the initial detectors are then the result.
    start : str, default="skewness"
        Initial filters. "skewness": an independent component analysis that looks for the most
        skewed projections; "consensus": the directions on which many K-Means clusterings agree;
        "random": a random rotation; "sparse": a search for rare concepts that are present or absent
        independently of one another. "consensus" and "sparse" depend on the features alone; the
        seed then only decides the order of the positions in learning.
    restarts : int, optional
        Number of restarts, fits from different initial filters, that are learned side by side to
        the end; the best is kept. None: up to 8, as many as keep a step cheap, and after every
        stage only the better half goes on.
    gamma : float, default=1.1
        Exponent γ of the activity E_p[y^γ] of a concept, the mean of its detections y to the power
        γ over positions p, which L^ic and L^eac keep within bounds. The larger γ, the less weak
        detections count.
    batch : int, default=4096
        Smallest number of positions in a step of the learning. A step has all positions of the
        features if these are at most twice as many as `batch_for` returns.
    batch_per_concept : int, default=1
        Smallest number of positions in a step for each concept.
    maps : int, default=4
        Number of feature maps in a step for the losses that evaluate the network, if the head does
        not begin with a pooling.
    network_every : int, default=5
        A head that does not begin with a pooling is evaluated only in every n-th step, with n times
        the gradient.
    otherwise : Recipe, optional
        The recipe to use instead where positions carry overlapping concepts, as in real networks,
        because sharp detectors have too few positions to learn from there. It is used from the
        start if the eigenvalues of the features' covariance do not end in a flat floor of noise,
        and after the first stage if that stage ends with L^s above ``clear_below`` bits and the
        initial detectors did not stand out. Where concepts are rare and present or absent
        independently of one another, recipe "sparse" is used instead of both. None: this recipe is
        always used.
    clear_below : float, default=0.1
        Largest L^s, in bits, after the first stage with which this recipe is continued although
        ``otherwise`` is given.

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
        """Return the smallest number of positions in a step, for a number of concepts.

        Parameters
        ----------
        concepts : int
            Number of concepts I.

        Returns
        -------
        positions : int
            The larger of ``batch`` and ``batch_per_concept`` · I.
        """
        return max(self.batch, self.batch_per_concept * concepts)

    def with_restarts(self, restarts: int | None) -> Recipe:
        """Return this recipe and its ``otherwise`` with another number of restarts.

        Parameters
        ----------
        restarts : int or None
            Number of restarts. None: the recipe is returned unchanged.

        Returns
        -------
        recipe : Recipe
            Another recipe, or this one.
        """
        if restarts is None:
            return self
        otherwise = None if self.otherwise is None else self.otherwise.with_restarts(restarts)
        return replace(self, restarts=restarts, otherwise=otherwise)

    @property
    def is_sharp(self) -> bool:
        """Whether this recipe is only for features that are signals plus distractors.

        Signals are amounts of concepts along their signal vectors, distractors other independent
        variation. Such a recipe has an ``otherwise`` for other features.
        """
        return self.otherwise is not None

    def coordinates_of(self, stage: int) -> CoordinatesName:
        """Return the name of a stage's coordinates.

        Parameters
        ----------
        stage : int
            Index of the stage: 0 is the first, -1 the last.

        Returns
        -------
        coordinates : {"standardised", "whitened", "centred"}
            "whitened" if the recipe has no stages.
        """
        return self.stages[stage].coordinates if self.stages else "whitened"

    @property
    def estimator(self) -> str:
        """Estimator of the final signal vectors, as `estimate_signals` takes it.

        "joint" if the last stage has ``signals="joint"``, "regression" if there are no stages, and
        otherwise "positives".
        """
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
