from types import SimpleNamespace

import numpy as np

from xplique_dirpairs.factorizers.autoencoder_callbacks import NaNGuard, Progress


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


def test_the_guard_leaves_it_to_the_caller_to_warn(caplog):
    """Without handlers, logging prints warnings beside those of the caller."""
    model = SimpleNamespace(
        name="a",
        get_weights=list,
        set_weights=lambda _: None,
        finite_restarts=lambda: np.zeros(1, bool),
    )
    guard = NaNGuard()
    guard.set_model(model)
    guard.on_train_begin()
    with caplog.at_level("WARNING"):
        guard.on_epoch_end(2)
    assert guard.tripped_at == 2 and model.stop_training and not caplog.records
