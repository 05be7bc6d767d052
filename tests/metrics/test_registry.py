"""The list of all metrics."""

import dataclasses

import numpy as np
import pytest

from xplique_dirpairs.metrics.fidelity import fidelity
from xplique_dirpairs.metrics.manipulation import Reading
from xplique_dirpairs.metrics.registry import METRICS, Metric

FIDELITY_KINDS = {"curves", "all off", "reconstruction"}


@pytest.fixture
def metric():
    return Metric("warmth", "warmth", True, "How warm it is, in kelvin; nobody 1900", "weather")


def test_fidelity_returns_exactly_the_registered_metrics_in_their_order(rng):
    x = rng.uniform(size=(6, 4))
    reading = Reading(
        activations=x,
        coefficients=x[:, :2],
        bank=np.eye(2, 4),
        predict=lambda features: features,
        class_ids=np.arange(6) % 4,
        limits=(0, 1),
    )
    values = fidelity(reading, reconstructions=x, labels=x.argmax(axis=1)).values
    assert list(values) == [key for key, metric in METRICS.items() if metric.kind in FIDELITY_KINDS]
    for key, value in values.items():
        assert len(value) == 6
        assert np.isfinite(METRICS[key].summary(value, resamples=10).value)


def test_every_metric_has_a_key_a_name_a_kind_and_a_description(rng):
    for key, metric in METRICS.items():
        assert metric.key == key and key.replace(".", "_").isidentifier()
        assert metric.name.strip() and metric.kind.strip()
        assert "\n" not in metric.description and len(metric.description) > 20
        assert metric.higher_is_better in (True, False, None)


def test_the_arrow_shows_the_better_direction(metric):
    assert metric.arrow == "↑"
    assert dataclasses.replace(metric, higher_is_better=False).arrow == "↓"
    assert dataclasses.replace(metric, higher_is_better=None).arrow == ""
    headers = [METRICS[key].header for key in ("deletion", "insertion", "p_at_0.2", "all_off_norm")]
    assert headers == ["deletion ↓", "insertion ↑", "P@0.2 ↓", "all-off norm"]


def test_keys_and_printed_names_are_unique():
    assert len({metric.name for metric in METRICS.values()}) == len(METRICS)
    assert [metric.key for metric in METRICS.values()] == list(METRICS)


def test_the_summary_of_a_single_value_has_no_interval():
    figure = METRICS["stable_rank"].summary(2.5)
    assert figure.value == 2.5 and np.isnan([figure.low, figure.high]).all()
    assert figure.undefined == 0


def test_the_figure_is_computed_by_the_statistic_of_the_metric():
    columns = np.array([[1.0, 2.0], [2.0, 4.0], [3.0, 3.0]])
    np.testing.assert_allclose(METRICS["logit_r2"].summary(columns).value, 6 / 9)
    np.testing.assert_allclose(METRICS["deletion"].summary(columns[:, 0]).value, 2)
