from types import SimpleNamespace

import numpy as np

from xplique_dirpairs.learning.callbacks import Progress


def test_the_progress_bar_shows_the_objective_of_the_epoch_not_its_mean_so_far(capsys):
    objectives = iter([[9.0, 8.0], [np.nan, 1.5]])
    model = SimpleNamespace(
        reported=lambda: {"objective": np.array(next(objectives))}, stop_training=False
    )
    progress = Progress("stage a")
    progress.set_params({"epochs": 2})
    progress.set_model(model)
    progress.on_train_begin()
    for epoch in range(2):
        progress.on_epoch_end(epoch)
    progress.on_train_end()
    text = capsys.readouterr().out
    assert text.startswith("stage a")
    assert "objective: 1.5" in text.splitlines()[-1]
