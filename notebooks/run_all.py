"""Run the notebooks from top to bottom, and store them with their outputs.

    python notebooks/run_all.py
    python notebooks/run_all.py 1_quick_start --output DIR

Each notebook runs in an empty folder and is written to build/notebooks, where `mkdocs build` takes
it from. With `--workers 2` two run at a time, with one thread each: with more, they would wait for
one another. The metadata of a stored notebook says how many seconds it took, and which files it
left in its folder. Needs the packages of the extra "notebooks".
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbclient
import nbformat

HERE = Path(__file__).parent
#: Settings of the processes that notebooks run in.
SETTINGS = {
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    "PYDEVD_DISABLE_FILE_VALIDATION": "1",
}
ONE_THREAD = {"OMP_NUM_THREADS": "1", "TF_NUM_INTRAOP_THREADS": "1"}


def run(path: Path, folder: Path) -> str:
    """Run a notebook, write it with its outputs to a folder, and say how long it took.

    Raises
    ------
    nbclient.exceptions.CellExecutionError
        If a cell raises.
    """
    notebook = nbformat.read(path, as_version=4)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as place:
        resources = {"metadata": {"path": place}}
        nbclient.NotebookClient(
            notebook, timeout=900, kernel_name="python3", resources=resources
        ).execute()
        left = sorted(os.listdir(place))
    seconds = round(time.perf_counter() - start, 1)
    notebook.metadata["run"] = {"seconds": seconds, "files_left": left}
    nbformat.write(notebook, folder / path.name)
    return f"{path.stem}: {seconds} s"


def main() -> None:
    """Run the notebooks that are named, or all of them."""
    names = sorted(
        (path.stem for path in HERE.glob("*.ipynb")), key=lambda name: int(name.split("_")[0])
    )
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of {', '.join(names)}")
    parser.add_argument("--output", type=Path, default=HERE.parent / "build" / "notebooks")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="notebooks at a time")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(names):
        parser.error(f"there is no notebook {', '.join(sorted(unknown))}: give {', '.join(names)}")
    arguments.output.mkdir(parents=True, exist_ok=True)
    os.environ.update(SETTINGS | (ONE_THREAD if arguments.workers > 1 else {}))
    paths = [HERE / f"{name}.ipynb" for name in arguments.names or names]
    with ThreadPoolExecutor(arguments.workers) as pool:
        for line in pool.map(lambda path: run(path, arguments.output), paths):
            print(line, flush=True)


if __name__ == "__main__":
    main()
