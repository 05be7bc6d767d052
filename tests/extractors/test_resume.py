"""Extractors resume interrupted fits from a folder; see also tests/learning/test_checkpoint.py."""

import numpy as np
import pytest

from xplique_dirpairs.extractors.craft import DirectionPairsTf
from xplique_dirpairs.extractors.manager import DirectionPairsManagerTf
from xplique_dirpairs.learning.history import LearningWarning
from xplique_dirpairs.learning.recipe import Recipe, Stage

pytestmark = pytest.mark.filterwarnings("ignore::xplique_dirpairs.learning.history.LearningWarning")

QUICK = Recipe("quick", (Stage("a", {"s": 1.0, "ma": 1.0}, epochs=1, steps_per_epoch=1),))
BREAKS_A_BOUND = Recipe(
    "bound", (Stage("a", {"s": 1.0}, {"ma": 1e-9}, epochs=1, steps_per_epoch=1),)
)


def test_a_fit_is_resumed_from_its_folder(halves, images, tmp_path):
    def fit():
        pairs = DirectionPairsTf(
            *halves("conv_gap"), 3, 16, 16, random_state=0, verbose=0, recipe=QUICK
        )
        pairs.fit(images("conv_gap", 6), class_id=1, resume=tmp_path)
        return pairs

    first, again = fit(), fit()
    np.testing.assert_array_equal(first.pairs.filters, again.pairs.filters)
    assert any("resumed in" in note for note in again.history_.notes)


def test_a_manager_saves_the_state_of_each_class_in_a_separate_folder(halves, images, tmp_path):
    g, h = halves("conv_gap")
    x = images("conv_gap", 12)
    labels = h.predict_on_batch(g.predict_on_batch(x)).argmax(axis=1)
    manager = DirectionPairsManagerTf(
        g, h, x, labels, None, 3, 16, 16, shared=False, random_state=0, verbose=0, recipe=QUICK
    )
    manager.fit(resume=tmp_path)
    kept = {path.parent.name for path in tmp_path.rglob("state.npz")}
    assert kept == {f"class_{label}" for label in np.unique(labels)}


def test_the_warning_of_a_fit_refers_to_the_line_that_called_fit(halves, images):
    pairs = DirectionPairsTf(
        *halves("conv_gap"), 3, 16, 16, random_state=0, verbose=0, recipe=BREAKS_A_BOUND
    )
    with pytest.warns(LearningWarning, match="bound") as warned:
        pairs.fit(images("conv_gap", 6), class_id=1)
    assert [w.filename for w in warned if w.category is LearningWarning] == [__file__]
