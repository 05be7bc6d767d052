from pathlib import Path

import numpy as np

from xplique_dirpairs.core.plain_data import plain_data


def test_non_finite_numbers_become_none_and_floats_are_rounded():
    values = [np.nan, np.inf, np.float32(0.123456), 12345.6, 12345, None, True]
    assert plain_data(values, str, digits=4) == [None, None, 0.1235, 12350.0, 12345, None, True]
    assert plain_data(values[2:4], str) == [float(np.float32(0.123456)), 12345.6]


def test_arrays_tuples_and_mappings_become_lists_and_dictionaries():
    data = {3: (np.arange(4).reshape(2, 2), "a"), "path": Path("b")}
    assert plain_data(data, lambda text: f"<{text}>") == {
        "<3>": [[[0, 1], [2, 3]], "<a>"],
        "<path>": "<b>",
    }
