"""Property tests: a few examples every day, thousands among the slow tests."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

EVERY_DAY, THOROUGH = 20, 2000


def holds_in(examples, **strategies):
    """Turn a function of examples into one that checks it for many of them."""
    limits = settings(
        max_examples=examples,
        derandomize=True,
        deadline=None,
        database=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )
    return lambda check: limits(given(**strategies)(check))


def holds_for(every_day=EVERY_DAY, thorough=THOROUGH, **strategies):
    """Turn a function of examples into a test: a few fixed ones, or many if it is slow."""

    def decorate(check):
        @pytest.mark.parametrize(
            "examples", [every_day, pytest.param(thorough, marks=pytest.mark.slow)]
        )
        def test(examples):
            holds_in(examples, **strategies)(check)()

        test.__name__, test.__doc__ = check.__name__, check.__doc__
        return test

    return decorate


#: Units of measurement of features, from far below those of networks to far above.
UNITS = st.sampled_from([1e-20, 1e-6, 1.0, 1.0, 1.0, 1e6, 1e15])


@st.composite
def matrices(draw, rows, columns, unit=1.0):
    """Draw an array of the given shape, in which some columns and rows may be equal or constant."""
    values = draw(
        arrays.arrays(
            np.float64,
            (rows, columns),
            elements=st.floats(-4, 4, width=32, allow_subnormal=False),
            fill=st.nothing(),
        )
    )
    kind = draw(st.sampled_from(["plain", "plain", "constant", "duplicate", "rare"]))
    place = draw(st.integers(0, columns - 1))
    if kind == "constant":
        values[:, place] = values[0, place]
    elif kind == "duplicate":
        values[:, place] = values[:, 0]
    elif kind == "rare":
        values[np.arange(rows) != draw(st.integers(0, rows - 1)), place] = 0.0
    return values * unit


@st.composite
def sizes(draw, channels=6):
    """Draw numbers of concepts and channels, I from 1 to 2 D."""
    d = draw(st.integers(1, channels))
    return draw(st.integers(1, 2 * d)), d
