"""A second fit of an extractor enters few files of the package and checks its input once."""

import sys
from pathlib import Path

from test_real_learning import short

import xplique_dirpairs
from xplique_dirpairs.core import validation
from xplique_dirpairs.extractors.craft import DirectionPairsTf

ROOT = Path(xplique_dirpairs.__file__).parent
#: Maximum number of files, outside of learning/, that the second fit in a process may enter.
FILES = 15


def test_a_second_fit_enters_few_files_and_checks_images_and_activations_once(halves, images):
    split, pictures = halves("conv_gap"), images("conv_gap", 12)
    crafts = [
        DirectionPairsTf(split, number_of_concepts=3, patch_size=16, recipe=short(), verbose=0)
        for _ in range(2)
    ]
    crafts[0].fit(pictures)
    entered, checked = set(), []

    def record_call(frame, event, _):
        if event == "call":
            entered.add(frame.f_code.co_filename)
            if frame.f_code is validation.check_finite.__code__:
                checked.append(frame.f_locals["name"])

    sys.setprofile(record_call)
    try:
        crafts[1].fit(pictures)
    finally:
        sys.setprofile(None)
    files = [Path(file).relative_to(ROOT) for file in entered if file.startswith(str(ROOT))]
    outside = sorted(file.as_posix() for file in files if file.parts[0] != "learning")
    assert len(outside) <= FILES, outside
    assert checked == ["images", "activations"]
