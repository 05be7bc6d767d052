"""The commands of the command line and their options.

Each command is a function that returns its options; its docstring is the help of the command.
Nothing here imports numpy or TensorFlow, so that help is shown without delay.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

from xplique_dirpairs.commands.option_values import (
    EXTRACTORS,
    RECIPES,
    extractor,
    layer_and_file,
    number_of_concepts,
    open_share,
    share,
    size,
    strength,
    whole_number,
)

# -------------------------------------------------------------------- options

#: The name of an option, and keyword arguments of `ArgumentParser.add_argument`.
Option: TypeAlias = tuple[str, dict[str, Any]]
Options: TypeAlias = tuple[Option, ...]

_FILE: dict[str, Any] = {"type": Path, "metavar": "FILE"}
_FOLDER: dict[str, Any] = {"type": Path, "metavar": "DIR"}


def _option(name: str, help: str, **settings: Any) -> Option:
    """Return an option with its help and further arguments of `add_argument`."""
    return name, {"help": help, **settings}


def _flag(name: str, help: str) -> Option:
    """Return an option without a value."""
    return _option(name, help, action="store_true")


def _output(folder: str) -> Option:
    """Return the option --output with its default."""
    help = f"folder to write to; created if it does not exist (default: {folder})"
    return _option("--output", help, default=Path(folder), **_FOLDER)


def _seed(help: str) -> Option:
    """Return the option --seed."""
    seed = whole_number(0, 2**32 - 1)
    return _option("--seed", f"{help} (default: 0)", type=seed, default=0, metavar="S")


def _pairs(required: bool = False) -> Option:
    """Return the option --pairs."""
    help = 'pairs.npz of an earlier "fit", whose layer and preprocessing are then used'
    return _option("--pairs", help, required=required, **_FILE)


def _extractors(name: str, help: str, default: list[str]) -> Option:
    """Return an option that takes names of `EXTRACTORS`."""
    return _option(name, help, default=default, type=extractor, nargs="+", metavar="NAME")


_MODEL = (
    _option("--model", "a Keras model: .keras or .h5", required=True, **_FILE),
    _option(
        "--import",
        "a module that registers layers of your own; may be given several times",
        dest="imports",
        action="append",
        default=[],
        metavar="MODULE",
    ),
)
_SUBJECT = (
    *_MODEL,
    _option(
        "--images",
        "folder of images (jpg, png, webp, bmp, gif), or of one folder of images for each class; "
        "for a model of videos, folders of frames, animations (gif, webp) or video files (mp4)",
        required=True,
        **_FOLDER,
    ),
    _option(
        "--layer",
        "name or number of the layer; without it, a table of candidates is shown",
        metavar="NAME",
    ),
    _option(
        "--preprocessing",
        "input that the model expects: none (0 to 255), unit (0 to 1), symmetric (-1 to 1), a "
        "network of keras.applications such as mobilenet_v2 or resnet50, or module:function, a "
        "function of your own. Needed only if the model and the images do not tell it",
        metavar="NAME",
    ),
    _option(
        "--size",
        "size of the images in pixels, for a model that takes images of any size",
        type=size,
        metavar="N or HxW",
    ),
    _option(
        "--frames",
        "number of frames of each video, for a model that takes videos of any length",
        type=whole_number(1),
        metavar="N",
    ),
    _option(
        "--max-images",
        "maximum number of images, spread evenly over classes (default: 500)",
        type=whole_number(1),
        default=500,
        metavar="N",
    ),
    _option(
        "--class-names",
        "names of the model's outputs, in order: one per line, or a JSON list. Class folders are "
        "matched to them. Without this option the folders are the outputs of their numbers, "
        "ImageNet's classes, or in sorted order the outputs, if there are as many",
        **_FILE,
    ),
    _option("--classes", "use only these classes (names or numbers)", nargs="+", metavar="CLASS"),
    _seed("seed of the choice of images and of the learning"),
)
_LEARNING = (
    _option(
        "--concepts",
        "number of concepts, or auto: estimated from the features if possible (default: 20)",
        type=number_of_concepts,
        default=20,
        metavar="N",
    ),
    _option(
        "--recipe",
        f"how pairs are learned: {', '.join(RECIPES)}",
        choices=RECIPES,
        default="default",
        metavar="NAME",
    ),
)
_MIN_IMAGES = _option(
    "--min-images",
    "classes with fewer images are left out of tables, pictures and importances, unless --classes "
    "names them; without class folders that match the outputs, images count for the class that is "
    "predicted (default: 5)",
    type=whole_number(1),
    default=5,
    metavar="N",
)
_OTHER = (
    _option(
        "--other",
        'folders of earlier "fit" or "report" runs (or their pairs.npz) of other models or layers, '
        "which then read the same images",
        type=Path,
        nargs="+",
        action="extend",
        default=[],
        metavar="PLACE",
    ),
    _option(
        "--other-model",
        "their models, in the same order, if they are no longer where they were",
        type=Path,
        nargs="+",
        action="extend",
        metavar="FILE",
    ),
)
_HELD_OUT = _option(
    "--held-out",
    "share of the images to measure on, which are not learned from (default: 0.3)",
    type=share,
    default=0.3,
    metavar="SHARE",
)


# -------------------------------------------------------------------- commands


def demo() -> Options:
    r"""Show concepts of a network beside those of CRAFT, and what can be done with them.

    Without options: 320 scenes are drawn in which every pixel has a true object, part,
    texture and colour (nothing is downloaded). Both methods learn concepts of a small
    network that comes with the package, and are compared with the truth on other scenes.
    A shortcut that was planted in the network is found and switched off. Files in DIR:

        summary.md, summary.txt     results, pictures, times
        concepts.png                concepts of both methods beside the truth
        repair.png                  scenes that the shortcut misled, before and after
        prediction.png …            an explained prediction, what would change it, the classes
        report/index.html           the report; it is opened at the end
        pairs.npz                   the learned pairs: DirectionPairs.load(path)

    It takes about a minute on 2 cores. With --network: a network of keras.applications
    and your own images, a folder of images for each class or just images.

    examples:
        xplique-dirpairs demo
        xplique-dirpairs demo --output pictures --concepts 32 --seed 1
        xplique-dirpairs demo --quiet && cat demo/summary.txt
        xplique-dirpairs demo --network mobilenet_v2 --images photos --download
        xplique-dirpairs demo --network mobilenet_v2 --images photos \
            --weights mobilenet_v2.weights.h5
        xplique-dirpairs COMMAND --help
    """
    concepts = _option(
        "--concepts",
        "number of concepts of both methods, 2 to 64 (default: 24)",
        type=whole_number(2, 64),
        default=24,
        metavar="N",
    )
    network = _option(
        "--network",
        "a classifier of keras.applications, such as mobilenet_v2, in place of the built-in "
        "network; with --images, and --weights or --download",
        metavar="NAME",
    )
    images = _option("--images", "folder of images for --network", **_FOLDER)
    weights = _option(
        "--weights", "weights of --network (.h5), or the whole model (.keras)", **_FILE
    )
    download = _flag("--download", "let Keras download the weights of --network (ImageNet)")
    no_open = _flag("--no-open", "do not open the report in a browser")
    seed = _seed("seed of the scenes and of the learning")
    return (_output("demo"), concepts, network, images, weights, download, no_open, seed)


def layers() -> Options:
    """List the layers where a model can be cut.

    Concepts are learned from the features of one layer. The model can be cut there
    if its outputs depend on the image through this layer only. Start with the last
    layer that has positions (height and width), before the global pooling. Earlier
    layers have finer maps and simpler concepts.

    examples:
        xplique-dirpairs layers --model m.keras
        xplique-dirpairs layers --model m.keras --all
        xplique-dirpairs layers --model m.keras --json
    """
    return (*_MODEL, _flag("--all", "list every layer, with the reason if the model cannot be cut"))


def fit() -> Options:
    r"""Learn the concepts of a layer, and measure what each class uses of them.

    Written to DIR:

        importances.md, .csv   importance of every concept for every class; pictures
        class_*.png …          best crops of the concepts, for each class (at most 10)
        history.txt, .json     how the learning went, and problems to check
        pairs.npz              the learned pairs: DirectionPairs.load(path)
        summary.json           all results, machine-readable

    examples:
        xplique-dirpairs fit --model m.keras --images photos --layer out_relu
        xplique-dirpairs fit --model m.keras --images photos --layer out_relu \
            --preprocessing mobilenet_v2 --class-names imagenet.json --concepts 12
        xplique-dirpairs fit --model m.keras --images photos --layer out_relu \
            --concepts auto --resume state       # continues an interrupted fit
        xplique-dirpairs fit --model m.keras --images photos      # lists the layers
    """
    resume = _option(
        "--resume",
        "keep the state of the learning in this folder, and continue from what it holds",
        **_FOLDER,
    )
    return (*_SUBJECT, _MIN_IMAGES, *_LEARNING, resume, _output("concepts"))


def compare() -> Options:
    r"""Measure several concept extractors on the same images of the same layer.

    They are fitted on one part of the images and measured on the other, together
    with two controls (random directions, and detectors without learning). Written to
    DIR:

        table.md, table.csv     every value with its interval; the best is marked
        fidelity.png, .svg …    deletion and insertion, importances, maps, concepts
                                that are detected at the same positions
        comparison.npz          Comparison.load(path)
        summary.json            all results, machine-readable

    examples:
        xplique-dirpairs compare --model m.keras --images photos --layer out_relu
        xplique-dirpairs compare --model m.keras --images photos --layer out_relu \
            --extractors pairs CRAFT PCA "RA-SAE" --concepts 12
        xplique-dirpairs compare --model m.keras --images photos --layer out_relu \
            --pairs concepts/pairs.npz --json > comparison.json
    """
    names = f"any of {', '.join(EXTRACTORS)} (default: pairs CRAFT PCA)"
    extractors = _extractors("--extractors", names, ["pairs", "CRAFT", "PCA"])
    return (*_SUBJECT, extractors, _pairs(), *_LEARNING, _HELD_OUT, _output("comparison"))


def report() -> Options:
    r"""Write an HTML report: a page for each concept, class and image.

    Any browser opens it from disk. The concepts are learned from one part of the
    images and shown on the other part, or they are those of --pairs and shown on all
    images. With --beside, other extractors are compared with them. The page of an
    image says which concepts led to its prediction, and the smallest change of them
    that would change the prediction. With --other, the page of a concept shows the
    concept of another model that it resembles most. Written to DIR: index.html, its
    files, and pairs.npz and summary.json if the concepts were learned by this
    command.

    examples:
        xplique-dirpairs report --model m.keras --images photos --layer out_relu
        xplique-dirpairs report --model m.keras --images photos \
            --pairs concepts/pairs.npz           # "fit" has stored the layer
        xplique-dirpairs report --model m.keras --images photos --layer out_relu \
            --beside CRAFT --single-file --output report.html
        xplique-dirpairs report --model m.keras --images photos --layer out_relu \
            --other report_of_another_model
        xplique-dirpairs report --model m.keras --images photos \
            --pairs concepts/pairs.npz --connectome connectome/connectome.npz
        xplique-dirpairs report --model m.keras --images photos --layer out_relu \
            --preprocessing mobilenet_v2 --class-names imagenet.json --classes tench 482
    """
    others = f"extractors to compare with: any of {', '.join(EXTRACTORS[1:])}"
    linked = 'connectome.npz of "connectome" for this model: the report leads to its page'
    single_file = "write one HTML file, named by --output; learned pairs are written beside it"
    return (
        *_SUBJECT,
        _MIN_IMAGES,
        _extractors("--beside", others, []),
        *_OTHER,
        _pairs(),
        *_LEARNING,
        _HELD_OUT,
        _option("--title", "title of the report", metavar="TEXT"),
        _flag("--no-counterfactuals", "leave out what would change each prediction"),
        _option("--connectome", linked, **_FILE),
        _flag("--position", "say of each concept whether it depends on the place in the image"),
        _flag("--maximise", "generate a picture for each concept; takes minutes"),
        _flag("--single-file", single_file),
        _output("report"),
    )


def correct() -> Options:
    r"""Make a model that no longer uses some concepts, such as a shortcut.

    Nothing is trained: new layers after the layer of the pairs remove the concepts
    where they are detected. Written to DIR:

        corrected.keras           stock Keras layers: loads without this package
        correction.md, .csv       accuracy before and after, by class
        confusion.png             confusion matrices before and after (up to 40 classes)
        summary.json              all results, machine-readable

    examples:
        xplique-dirpairs correct --model m.keras --images photos \
            --pairs concepts/pairs.npz --suppress 7
        xplique-dirpairs correct --model m.keras --images photos \
            --pairs concepts/pairs.npz --suppress 3 7 --off absent --output repaired
    """
    suppress = _option(
        "--suppress",
        "numbers of the concepts to suppress",
        type=whole_number(0),
        nargs="+",
        required=True,
        metavar="CONCEPT",
    )
    off = _option(
        "--off",
        "where detected concepts are moved to: undecided, the detector's hyperplane, or absent, "
        "the concept's mean level where it is not detected (default: undecided)",
        choices=["undecided", "absent"],
        default="undecided",
    )
    k = _option(
        "--k",
        "use the paper's formula instead of --off, with this strength in units of the features",
        type=strength,
        metavar="K",
    )
    own = (_pairs(required=True), suppress, off, k, _output("corrected"))
    return (*_SUBJECT, _MIN_IMAGES, *own)


def match() -> Options:
    r"""Find which concepts of several models, or layers, are the same.

    Concepts are matched by where they are, on half of the images, and measured on
    the other half. Written to DIR:

        matches.md, .csv       every match: correlation, φ, significance
        matches.png            the same as a figure
        summary.json           all results, machine-readable

    examples:
        xplique-dirpairs fit --model a.keras --images photos --layer relu --output a
        xplique-dirpairs fit --model b.keras --images photos --layer relu --output b
        xplique-dirpairs match --model a.keras --images photos --pairs a/pairs.npz \
            --other b
        xplique-dirpairs match --model a.keras --images photos --pairs a/pairs.npz \
            --other b c --other-model moved/b.keras moved/c.keras --by detections
    """
    (_, other), other_model = _OTHER
    required = {key: value for key, value in other.items() if key != "default"}
    return (
        *_SUBJECT,
        _pairs(required=True),
        ("--other", {**required, "required": True}),
        other_model,
        _option(
            "--by",
            "what is compared: coefficients, or detections (default: coefficients)",
            choices=["coefficients", "detections"],
            default="coefficients",
        ),
        _option(
            "--at-least",
            "least correlation of a match (default: 0.3)",
            type=open_share,
            default=0.3,
            metavar="R",
        ),
        _output("matches"),
    )


def connectome() -> Options:
    r"""Show which concepts of a layer make those of the next, and the classes.

    --layer is the last layer; --below names the layers before it, in the order in
    which images pass them. At each of them direction pairs are learned, or read
    from a file; those of --pairs stand for the last layer's. On the images of
    --held-out (30 % unless you say otherwise; 0 for none) each concept is suppressed,
    and what happens is compared with what the connectome predicts. Written to DIR:

        connectome.html        a page to walk: what makes a concept, what it makes
        connectome.md, .csv    all kept edges
        connectome.png         the strongest concepts and edges
        suppression.md, .png   predicted and measured changes
        connectome.npz         the graph and its crops, for Connectome.load
        pairs_1_LAYER.npz      the pairs learned at each layer, also if interrupted
        summary.json           settings and results, machine-readable

    examples:
        xplique-dirpairs connectome --model m.keras --images photos \
            --below block_6_add block_12_add --layer out_relu
        xplique-dirpairs connectome --model m.keras --images photos \
            --below block_12_add --layer out_relu --concepts 12 --level 0.01 --json
        xplique-dirpairs connectome --model m.keras --images photos \
            --below block_6_add block_12_add --pairs concepts/pairs.npz
    """
    return (
        *_SUBJECT,
        _pairs(),
        _option(
            "--below",
            "layers before --layer, in the order in which images pass them; NAME=FILE takes the "
            "pairs of a file",
            type=layer_and_file,
            nargs="+",
            action="extend",
            required=True,
            metavar="NAME",
        ),
        _option(
            "--concepts",
            "number of concepts of each layer (default: 20)",
            type=whole_number(1),
            default=20,
            metavar="N",
        ),
        _option(
            "--level",
            "significance level of kept edges (default: 0.05)",
            type=strength,
            default=0.05,
            metavar="P",
        ),
        _HELD_OUT,
        _output("connectome"),
    )


#: Name of a command → the function that returns its options, in the order of the help.
COMMANDS: dict[str, Callable[[], Options]] = {
    command.__name__: command
    for command in (demo, layers, fit, compare, report, match, connectome, correct)
}
