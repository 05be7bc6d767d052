"""What ``xplique-dirpairs --help`` says."""

DESCRIPTION = """\
Concepts of Keras image classifiers as encoding-decoding direction pairs, where
Xplique's CRAFT stood.

Start with

    xplique-dirpairs demo

which trains a small network on pictures that come with the installed packages,
explains one of its classes with direction pairs and with CRAFT, and writes
pictures and a summary to the folder "demo" (about 2 minutes).

With a model and images of your own: which layers there are, then a report.

    xplique-dirpairs layers --model m.keras
    xplique-dirpairs report --model m.keras --images photos --layer out_relu

"photos" has one folder of images for each class, or just images.
"""

STATUS = """\
exit status: 0 all went well, 1 an error (one line says which), 2 wrong usage,
130 interrupted.
"""

EXAMPLES = f"""\
examples:
    xplique-dirpairs demo
    xplique-dirpairs demo --output pictures --concepts 12 --seed 1
    xplique-dirpairs demo --quiet && cat demo/summary.txt
    xplique-dirpairs COMMAND --help

{STATUS}"""

DEMO = """\
Explain a small network with direction pairs and with CRAFT, side by side.

Pictures of handwritten digits set into photographs are made (nothing is
downloaded), a small convolutional network learns to name photograph and digit,
and both methods look for the concepts of one class in its last convolutional
layer. Written to DIR:

    summary.md, summary.txt     findings, importances, times
    1_pictures.png …            concepts with their best crops, maps, importances,
                                detections, one set of pairs for all classes
    pairs.npz                   the learned pairs: DirectionPairs.load(path)
    small_cnn_seed*.keras       the network; the next run loads it

It takes about 2 minutes on 2 cores, and less when the network is there already.
"""

LAYERS = """\
List the layers that a model can be cut at.

Concepts are learned from the features of one layer. It can be cut there if the
classes depend on the image through this layer alone; the last one with places
(height and width), before the global pooling, is where to start. Earlier ones
have finer maps and simpler concepts.
"""

LAYERS_EXAMPLES = f"""\
examples:
    xplique-dirpairs layers --model m.keras
    xplique-dirpairs layers --model m.keras --all
    xplique-dirpairs layers --model m.keras --json

{STATUS}"""

FIT = """\
Learn the concepts of a layer, and see what each class uses of them.

Written to DIR:

    importances.md, .csv   importance of every concept for every class; pictures
    class_*.png …          best crops of the concepts, of each class (at most 10)
    history.txt, .json     how the learning went, and what to look at
    pairs.npz              the learned pairs: DirectionPairs.load(path)
    summary.json           all of it for a machine
"""

FIT_EXAMPLES = f"""\
examples:
    xplique-dirpairs fit --model m.keras --images photos --layer out_relu
    xplique-dirpairs fit --model m.keras --images photos --layer out_relu \\
        --preprocessing mobilenet_v2 --class-names imagenet.json --concepts 12
    xplique-dirpairs fit --model m.keras --images photos --layer out_relu \\
        --concepts auto --resume state       # goes on after it was stopped
    xplique-dirpairs fit --model m.keras --images photos      # asks for the layer

{STATUS}"""

COMPARE = """\
Measure several concept extractors on the same images of the same layer.

They learn from one part of the images and are measured on the other, beside two
controls (random directions, and detectors without learning). Written to DIR:

    table.md, table.csv     every figure with its interval; the best is marked
    fidelity.png, .svg …    deletion and insertion, importances, maps, concepts
                            that are found at the same places
    comparison.npz          Comparison.load(path)
    summary.json            all of it for a machine
"""

COMPARE_EXAMPLES = f"""\
examples:
    xplique-dirpairs compare --model m.keras --images photos --layer out_relu
    xplique-dirpairs compare --model m.keras --images photos --layer out_relu \\
        --extractors pairs CRAFT PCA "RA-SAE" --concepts 12
    xplique-dirpairs compare --model m.keras --images photos --layer out_relu \\
        --pairs concepts/pairs.npz --json > comparison.json

{STATUS}"""

REPORT = """\
Write an HTML report: a page for each concept, class and image.

It opens from disk in any browser. The concepts are learned here from one part of
the images, and shown on the other; or they are those of --pairs, on all images.
With --beside, other extractors stand beside them. An image's page says which
concepts made its prediction, and what least change of them would make it another.
Written to DIR: index.html, what it shows, and pairs.npz if they were learned here.
"""

REPORT_EXAMPLES = f"""\
examples:
    xplique-dirpairs report --model m.keras --images photos --layer out_relu
    xplique-dirpairs report --model m.keras --images photos \\
        --pairs concepts/pairs.npz           # of "fit", which knows the layer
    xplique-dirpairs report --model m.keras --images photos --layer out_relu \\
        --beside CRAFT --single-file --output report.html
    xplique-dirpairs report --model m.keras --images photos --layer out_relu \\
        --preprocessing mobilenet_v2 --class-names imagenet.json --classes tench 482

{STATUS}"""

CORRECT = """\
Make a model that no longer uses some concepts: a shortcut, say.

Nothing is trained: layers behind the one of the pairs take the concepts away
where they are detected. Written to DIR:

    corrected.keras           stock Keras layers: loads without this package
    correction.md, .csv       images that are right before and after, by class
    confusion.png             before and after, of up to 40 classes
    summary.json              all of it for a machine
"""

CORRECT_EXAMPLES = f"""\
examples:
    xplique-dirpairs correct --model m.keras --images photos \\
        --pairs concepts/pairs.npz --suppress 7
    xplique-dirpairs correct --model m.keras --images photos \\
        --pairs concepts/pairs.npz --suppress 3 7 --off absent --output mended

{STATUS}"""
