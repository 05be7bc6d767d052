"""MkDocs hook: the notebooks with their outputs as pages, and a gallery of their pictures.

Notebooks that `notebooks/run_all.py` has run are taken from build/notebooks, others are shown
without outputs.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path

import nbformat
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from nbconvert import MarkdownExporter

ROOT = Path(__file__).parents[1]
RUN = ROOT / "build" / "notebooks"
#: Pictures of each notebook in the gallery: those with the most bytes, which show the most.
PICTURES = 3
log = logging.getLogger("mkdocs.hooks.notebook_pages")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for each notebook, its pictures, and the gallery."""
    gallery = [
        "# Gallery",
        "What the notebooks show, with the code behind it one click away. The scenes of the demo "
        "are on the [first page](index.md).",
    ]
    paths = (ROOT / "notebooks").glob("*.ipynb")
    for path in sorted(paths, key=lambda path: int(path.stem.split("_")[0])):
        was_run = (RUN / path.name).is_file()
        if not was_run:
            log.info("%s has not been run: python notebooks/run_all.py", path.name)
        notebook = nbformat.read(RUN / path.name if was_run else path, as_version=4)
        text, resources = MarkdownExporter().from_notebook_node(
            notebook, resources={"output_files_dir": path.stem, "unique_key": path.stem}
        )
        # Links of notebooks are relative to their folder in the repository.
        text = re.sub(r"\]\(\.\./docs/", "](../", text)
        text = re.sub(r"\]\((\w+)\.ipynb\)", r"](\1.md)", text)
        add(files, config, f"notebooks/{path.stem}.md", text)
        pictures = resources["outputs"]
        for name, content in pictures.items():
            add(files, config, f"notebooks/{name}", content)
        title = re.search(r"^# (.+)$", text, flags=re.MULTILINE)
        gallery.append(f"## [{title[1] if title else path.stem}](notebooks/{path.stem}.md)")
        shown = [name for name in pictures if name.endswith((".png", ".jpg", ".gif", ".webp"))]
        largest = sorted(shown, key=lambda name: -len(pictures[name]))[:PICTURES]
        gallery += [
            f"[![{path.stem}](notebooks/{name})](notebooks/{path.stem}.md)"
            for name in shown
            if name in largest
        ]
    add(files, config, "gallery.md", "\n\n".join(gallery) + "\n")
    return files


def add(files: Files, config: MkDocsConfig, name: str, content: str | bytes) -> None:
    """Add a file that is not in the folder of the docs."""
    files.append(File.generated(config, name, content=content))
