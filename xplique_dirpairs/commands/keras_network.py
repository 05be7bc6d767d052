"""The command ``demo`` with a network of `keras.applications` and the user's images."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
from matplotlib.figure import Figure

from xplique_dirpairs.commands.compare import compare_extractors, divide, metrics_of
from xplique_dirpairs.commands.console import Console, UsageError
from xplique_dirpairs.commands.network import candidates, load_model, suggestion
from xplique_dirpairs.commands.options import report
from xplique_dirpairs.commands.subject import Subject, open_subject
from xplique_dirpairs.comparison.result import Comparison
from xplique_dirpairs.demo.pictures import save_picture
from xplique_dirpairs.explanations.prediction import explain_prediction
from xplique_dirpairs.extractors.concept_layer import ConceptLayer
from xplique_dirpairs.interventions.counterfactuals import counterfactuals
from xplique_dirpairs.report.content import ReportSettings
from xplique_dirpairs.report.write import write_report

#: Names of the compared extractors.
_PAIRS, _CRAFT = "pairs", "CRAFT"
#: Maximum number of images.
_IMAGES = 200
#: Name of a picture's file, without ``.png`` → its caption.
_CAPTIONS = {
    "concepts": "Best crops of the concepts that both methods have.",
    "prediction": "Why the network predicts what it predicts for one image.",
    "counterfactual": "The least change of at most three concepts that changes this prediction.",
}


def show_network(arguments: argparse.Namespace, console: Console) -> tuple[str, dict[str, Any]]:
    """Learn and compare concepts of a network of `keras.applications`; write pictures and a report.

    Parameters
    ----------
    arguments : argparse.Namespace
        Values of the options of ``demo``.
    console : Console

    Returns
    -------
    text : str
        The results as text.
    results : dict of str to object
        The results as data; "page" is the page of the report.

    Raises
    ------
    UsageError
        If images or weights are missing, or there is no such network.
    ValueError
        If the weights do not fit, or the images cannot be used.
    """
    subject = _subject(arguments, console)
    to_fit, shown = divide(subject, arguments, console)
    extractors, comparison = compare_extractors(
        [_PAIRS, _CRAFT], to_fit, shown, None, arguments, console
    )
    if comparison.interrupted:
        raise KeyboardInterrupt
    if _PAIRS not in comparison.results:
        raise ValueError(comparison.errors[_PAIRS])
    layer = ConceptLayer.of(extractors[_PAIRS], class_names=subject.class_names.shown)
    console.step("explain a prediction, and what would change it")
    written = _draw(arguments.output, layer, comparison, to_fit, shown)
    extractors[_PAIRS].pairs.save(arguments.output / "pairs.npz")
    console.step("write the report")
    settings = ReportSettings(
        title=f"Concepts of {arguments.network}, layer {layer.layer}",
        notes=console.notes + console.skipped_notes(),
        image_names=shown.folder_images.names.tolist(),
        pictures=shown.folder_images.pixels,
        random_state=arguments.seed,
    )
    page = write_report(
        arguments.output / "report", layer, shown.images, shown.labels,
        comparison=comparison, counterfactuals=2, training_activations=to_fit.activations,
        settings=settings, verbose=console.progress,
    )  # fmt: skip
    _write_summary(arguments, comparison, written)
    return _measured(comparison, "text"), {
        "metrics": metrics_of(comparison),
        "errors": comparison.errors,
        "written": ["summary.md", *(f"{name}.png" for name in written)],
        "page": page,
    }


def application(name: str, weights: Path | None, download: bool) -> tuple[keras.Model, str]:
    """Return a classifier of `keras.applications`, and the name of its preprocessing.

    Parameters
    ----------
    name : str
        Such as "mobilenet_v2" or "ResNet50"; case, hyphens and underscores are ignored.
    weights : Path or None
        File with its weights, or with a whole model (``.keras``).
    download : bool
        Whether Keras may download ImageNet's weights.

    Returns
    -------
    model : keras.Model
    preprocessing : str

    Raises
    ------
    UsageError
        If there is no such network, or there are no weights.
    ValueError
        If the weights do not fit the network.
    """
    makers = {
        _letters(maker): getattr(keras.applications, maker)
        for maker in dir(keras.applications)
        if maker[:1].isupper()
    }
    maker = makers.get(_letters(name))
    if maker is None:
        names = ", ".join(maker.__name__ for maker in makers.values())
        raise UsageError(f"--network: keras.applications has no {name!r}; it has {names}")
    preprocessing = maker.__module__.rpartition(".")[2]
    if weights is not None and weights.suffix == ".keras":
        return load_model(weights), preprocessing
    if weights is None and not download:
        raise UsageError(
            f"--network {name} needs weights: give --weights FILE (.h5, or .keras for a whole "
            "model), or --download to let Keras download those of ImageNet"
        )
    try:
        return maker(weights="imagenet" if weights is None else str(weights)), preprocessing
    except Exception as error:  # Keras raises many kinds of errors
        reason = " ".join(str(error).split())
        if weights is None:
            raise ValueError(f"the weights of {name} cannot be downloaded: {reason}") from error
        raise ValueError(f"--weights: {weights} does not fit {name}: {reason}") from error


def _letters(name: str) -> str:
    """Return the letters and digits of a name, in lower case."""
    return "".join(c for c in name.casefold() if c.isalnum())


def _subject(arguments: argparse.Namespace, console: Console) -> Subject:
    """Return the network, cut at the suggested layer, and the images.

    The network is kept in the output folder, where all other commands can use it.
    """
    if arguments.images is None:
        raise UsageError("--network needs images: give --images FOLDER")
    console.step(f"make {arguments.network}")
    model, preprocessing = application(arguments.network, arguments.weights, arguments.download)
    layer = suggestion(candidates(model))
    if layer is None:
        raise ValueError(f"{arguments.network} has no layer at which it can be cut")
    arguments.output.mkdir(parents=True, exist_ok=True)
    path = arguments.output / f"{_letters(arguments.network)}.keras"
    model.save(path)
    parser = argparse.ArgumentParser()
    for flag, settings in report():
        parser.add_argument(flag, **settings)
    of_report = parser.parse_args(
        [
            *("--model", str(path), "--images", str(arguments.images), "--layer", layer),
            *("--preprocessing", preprocessing, "--max-images", str(_IMAGES)),
            *("--concepts", str(arguments.concepts), "--seed", str(arguments.seed)),
        ]
    )
    for name, value in vars(of_report).items():
        if not hasattr(arguments, name):
            setattr(arguments, name, value)
    arguments.model = path
    return open_subject(of_report, console)


def _draw(
    output: Path, layer: ConceptLayer, comparison: Comparison, to_fit: Subject, shown: Subject
) -> list[str]:
    """Draw the pictures, and return their names."""
    image = shown.images[0]
    figures: dict[str, Callable[[], Figure]] = {"prediction": explain_prediction(layer, image).plot}
    if _CRAFT in comparison.results:
        figures = {"concepts": lambda: comparison.plot_aligned(_PAIRS, _CRAFT)} | figures
    if layer.head.has_exclusive_classes and len(to_fit.images) > 1:
        changed = counterfactuals(layer, image[None], to_fit.images, verbose=0)
        figures["counterfactual"] = changed[0].plot
    for name, draw in figures.items():
        save_picture(draw(), output / f"{name}.png", few_colors=False)
    return list(figures)


def _measured(comparison: Comparison, form: str) -> str:
    """Return the curves of all extractors as a table, what they mean, and where the rest is."""
    table = comparison.table("curves")
    meaning = (
        "deletion, P@…: probability of the class while concepts are removed, those that contribute "
        "most first (P@0.2: when the features have changed by a fifth). Lower: these concepts "
        "matter more to the network. insertion: the same while they are put back. μ-fidelity: "
        "correlation of contributions with what removing them does. The two last rows are controls "
        "without learning. All other measures: the page Comparison of the report."
    )
    failed = [f"{name} failed: {error}" for name, error in comparison.errors.items()]
    shown = str(table) if form == "text" else table.formatted(form)
    return "\n\n".join([shown, meaning, *failed])


def _write_summary(
    arguments: argparse.Namespace, comparison: Comparison, written: list[str]
) -> None:
    """Write ``summary.md``."""
    model = arguments.model.name
    pictures = [f"{_CAPTIONS[name]}\n\n![{name}]({name}.png)" for name in written]
    parts = [
        f"# Concepts of {arguments.network}",
        "The HTML report of all concepts, classes and images: [open](report/index.html).",
        *pictures,
        "## Both methods on images that neither learned from",
        _measured(comparison, "markdown"),
        f"All other commands take the network from here: `--model {arguments.output / model}`.",
    ]
    path = arguments.output / "summary.md"
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
