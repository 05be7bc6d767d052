import dataclasses

import pytest

from xplique_dirpairs.learning.presets import RECIPES, get_recipe
from xplique_dirpairs.learning.recipe import LOSSES, Recipe, Stage

#: Settings of the paper (Doumanoglou et al.) for a deep classifier: weights, epochs, learning rate,
#: patience, τ and ρ of each stage; None: the paper gives none.
DEEP = {
    "a": (dict(s=2.6, ma=2.8, mm=0.6, ic=5.0, uur=0.25), 800, 1e-3, 10, 0.9, None),
    "b": (
        dict(s=0.85, sb=2.6, ma=2.8, mm=0.6, ic=15, uur=0.25, eac=15),
        *(2000, 1e-4, 50, 0.9, 12),
    ),
    "d": (
        dict(s=0.85, sb=2.6, ma=2.8, mm=0.6, ic=15, cur=0.25, eac=15, fso=1.0),
        *(2000, 5e-4, 50, 0.2, 70),
    ),
}


def test_paper_deep_has_the_settings_of_the_paper():
    recipe = get_recipe("paper-deep")
    assert [stage.name for stage in recipe.stages] == list(DEEP)
    assert (recipe.batch, recipe.start) == (4096, "random")
    for stage in recipe.stages:
        weights, epochs, rate, patience, tau, rho = DEEP[stage.name]
        assert stage.weights == weights and not stage.constraints
        assert (stage.epochs, stage.learning_rate, stage.tau) == (epochs, rate, tau)
        assert rho is None or stage.rho == rho
        assert (stage.schedule, stage.patience) == ("plateau", patience)
        assert stage.steps_per_epoch is None and stage.sharpness is None
    a, b, d = recipe.stages
    assert (a.coordinates, a.orthonormal, a.shared) == ("standardised", True, True)
    assert not any((b.orthonormal, b.shared, d.orthonormal, d.shared))
    assert (a.signals, b.signals, d.signals) == ("none", "none", "free")


def test_paper_synthetic_has_the_settings_of_the_paper():
    recipe = get_recipe("paper-synthetic")
    a, d = recipe.stages
    assert recipe.gamma == 1.1
    assert set(a.weights) == {"s", "uur"} and set(d.weights) == {"s", "sb", "cur"}
    bounds = dict(ma=0.8, mm=8.0, ic=0.1)
    assert a.constraints == bounds
    assert d.constraints == {**bounds, "eac": 0.1, "fso": 0.1}
    for stage in recipe.stages:
        assert stage.epochs * stage.steps_per_epoch == 20_000
        assert (stage.learning_rate, stage.tau) == (5e-5, 1.0)
    assert d.rho * d.tau / 3 == 1.5 / 3
    assert (a.coordinates, a.orthonormal, a.shared, d.signals) == (
        *("standardised", True, True),
        "free",
    )


def test_paper_synthetic_has_no_cosine_schedule():
    assert all(stage.schedule != "cosine" for stage in get_recipe("paper-synthetic").stages)


@pytest.mark.parametrize("name", RECIPES)
def test_get_recipe_takes_a_name_or_a_recipe(name):
    assert get_recipe(name).name == name
    assert get_recipe(RECIPES[name]) is RECIPES[name]


def test_an_unknown_recipe_is_refused_with_the_names_of_the_known_ones():
    with pytest.raises(ValueError, match=r"'paper_deep'.*default.*, paper-deep, paper-synthetic"):
        get_recipe("paper_deep")
    with pytest.raises(TypeError, match="dict"):
        get_recipe({"name": "default"})


@pytest.mark.parametrize("where", ["weights", "constraints"])
def test_a_stage_refuses_unknown_losses(where):
    with pytest.raises(ValueError, match=r"\['sparsity'\].*s, sb, ma"):
        Stage("a", **{"weights": {"s": 1.0}, where: {"sparsity": 1.0}})


@pytest.mark.parametrize("loss", ["fso", "cur"])
def test_a_stage_without_signal_vectors_refuses_losses_that_need_them(loss):
    with pytest.raises(ValueError, match="signal vectors"):
        Stage("d", {"s": 1.0, loss: 1.0})
    with pytest.raises(ValueError, match="signal vectors"):
        Stage("d", {"s": 1.0}, {loss: 1.0})
    assert loss in Stage("d", {"s": 1.0, loss: 1.0}, signals="joint").terms


@pytest.mark.parametrize(
    "wrong",
    [
        dict(schedule="consine"),
        dict(signals="fixed"),
        dict(coordinates="whitend"),
        dict(epochs=0),
        dict(steps_per_epoch=0),
        dict(sharpness=(0.0, 10.0)),
        dict(weights={}),
        dict(weights={"s": "a"}),
        dict(constraints={"ma": float("nan")}),
        dict(epochs=1.5),
        dict(steps_per_epoch=True),
        dict(patience=None),
        dict(meant_for_axes=0),
        dict(learning_rate="fast"),
        dict(sharpness=10.0),
        dict(sharpness=(1.0, 2.0, 3.0)),
        dict(sharpness=(50.0, 20.0)),
        dict(kappa=(2, 1)),
        dict(kappa=(-0.5, 1)),
        dict(kappa=3),
        dict(kappa=("a", 1)),
        dict(tau=-1),
        dict(per_position=0),
        dict(rho=0),
        dict(largest_rho=1.0),
    ],
    ids=str,
)
def test_a_stage_refuses_wrong_settings(wrong):
    with pytest.raises(ValueError):
        Stage("a", **{"weights": {"s": 1.0}, **wrong})


@pytest.mark.parametrize(
    "wrong",
    [
        dict(stages=()),
        dict(start="ica"),
        dict(restarts=0),
        dict(restarts=1.5),
        dict(batch=None),
        dict(gamma=-1),
        dict(otherwise="soft"),
    ],
    ids=str,
)
def test_a_recipe_refuses_wrong_settings(wrong):
    stages = (Stage("a", {"s": 1.0}),)
    with pytest.raises(ValueError):
        Recipe("mine", **{"stages": stages, **wrong})


@pytest.mark.parametrize("weights", [({"ma": 1.0}, {"s": 1.0}), ({"s": 1.0}, {"ma": 1.0})])
def test_a_recipe_with_an_alternative_needs_the_loss_that_chooses_between_them(weights):
    stages = tuple(Stage(name, w) for name, w in zip("ad", weights, strict=True))
    with pytest.raises(ValueError, match=r"needs L\^s, by which .* set otherwise=None"):
        Recipe("mine", stages, otherwise=get_recipe("soft"))
    assert Recipe("mine", stages).otherwise is None


def test_terms_are_the_losses_with_a_weight_or_a_constraint_in_a_fixed_order():
    stage = Stage("a", {"uur": 1.0, "s": 1.0}, {"ma": 0.8, "s": 0.5})
    assert stage.terms == ("s", "ma", "uur")
    assert [n for n in LOSSES if n in stage.terms] == list(stage.terms)


def test_recipes_are_immutable():
    with pytest.raises(dataclasses.FrozenInstanceError):
        get_recipe("default").gamma = 2.0


def test_a_stage_learns_faster_and_longer_with_fewer_axes_than_it_is_meant_for():
    stage = Stage("a", {"s": 1.0}, epochs=10, learning_rate=1e-3, meant_for_axes=128)
    for axes, factor in ((1000, 1.0), (128, 1.0), (64, 2.0), (8, 3.0)):
        adapted = stage.in_axes(axes)
        assert adapted.epochs == 10 * factor
        assert adapted.learning_rate == pytest.approx(1e-3 * factor)
    for recipe in ("paper-deep", "paper-synthetic", "default"):
        assert all(stage.in_axes(2) == stage for stage in get_recipe(recipe).stages)


def test_noise_limits_the_sharpness_of_detectors():
    stage = Stage("a", {"s": 1.0}, sharpness=(20.0, 300.0))
    assert stage.for_noise(0.0) == stage.for_noise(1e-4) == stage
    first, last = stage.for_noise(0.1).sharpness
    assert first == 20.0 and 10.0 < last < 100.0
    assert stage.for_noise(0.2).sharpness[1] == pytest.approx(last / 2)
    assert Stage("a", {"s": 1.0}).for_noise(0.1).sharpness is None


def test_the_batch_size_grows_with_the_number_of_concepts():
    recipe = get_recipe("default")
    assert recipe.batch_for(3) == 4096 and recipe.batch_for(128) == 8192
    assert get_recipe("paper-deep").batch_for(500) == 4096, "the batch size of the paper"


def test_rho_is_proportional_to_tau_over_the_number_of_concepts_up_to_a_limit():
    (deep,) = (stage for stage in get_recipe("paper-deep").stages if stage.name == "b")
    assert deep.rho_of(500) == pytest.approx(12 * 0.9 / 500)
    assert deep.rho_of(8) == 0.9
    for name in ("default", "soft"):
        assert {stage.rho_of(1) for stage in get_recipe(name).stages} == {0.5}
