"""The site: every executed notebook as a page, and an index that lists and searches them."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

from nbexport.runner.pages import TEMPLATES, Page, make_page
from nbexport.runner.provenance import provenance
from nbexport.runner.run import Run, run_notebook

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from nbexport.runner.notebook import Notebook

_ASSETS = ("site.css", "site.js", "theme.js")


def build_site(notebooks: Iterable[Notebook], folder: Path, *, progress: bool = False) -> Path:
    """Run notebooks with their defaults and render them.

    The pages are made in a folder of their own and replace the old site as a whole, so that a
    failing notebook leaves the site of the last good run.

    Args:
        notebooks: what to run, in the order of the index.
        folder: gets ``notebooks/`` (executed copies and their results) and ``site/`` (pages).
        progress: whether to draw progress bars on standard error.

    Returns:
        The index page, ``folder/site/index.html``.

    Raises:
        NotebookError: a notebook failed.
    """
    from tqdm import tqdm  # noqa: PLC0415 - needed only here

    shown = tqdm(list(notebooks), desc="notebooks", unit="notebook", disable=not progress)
    runs = [
        run_notebook(notebook, folder / "notebooks" / notebook.path.name, progress=progress)
        for notebook in shown
    ]
    return write_site(runs, folder / "site")


def write_site(runs: Sequence[Run], site: Path) -> Path:
    """Render runs as a site that needs neither a server nor a network.

    Args:
        runs: executed notebooks, in the order of the index.
        site: the folder of the site; one that is there is replaced as a whole.

    Returns:
        The index page.
    """
    fresh = site.with_name(f"{site.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    try:
        pages = [make_page(run) for run in runs]
        for run, page in zip(runs, pages, strict=True):
            for figure in page.figures:
                (fresh / figure.name).write_bytes(figure.png)
            shutil.copyfile(run.output, fresh / f"{page.name}.ipynb")
            shutil.copyfile(run.results, fresh / f"{page.name}.results.json")
        _write_pages(pages, fresh)
        _write_search(pages, fresh)
        for name in _ASSETS:
            shutil.copyfile(TEMPLATES / name, fresh / name)
        shutil.rmtree(site, ignore_errors=True)
        fresh.rename(site)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return site / "index.html"


def _write_pages(pages: Sequence[Page], site: Path) -> None:
    from jinja2 import Environment, FileSystemLoader  # noqa: PLC0415 - comes with nbconvert

    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True)
    made = provenance()
    index = environment.get_template("index.html.j2").render(pages=pages, made=made)
    (site / "index.html").write_text(index, encoding="utf-8")
    template = environment.get_template("page.html.j2")
    for before, page, after in zip([None, *pages], pages, [*pages[1:], None], strict=False):
        text = template.render(page=page, pages=pages, before=before, after=after, made=made)
        (site / f"{page.name}.html").write_text(text, encoding="utf-8")


def _write_search(pages: Sequence[Page], site: Path) -> None:
    """Write what is searched as a script: a page opened from a file may not read other files."""
    sections = [
        {
            "page": page.name,
            "title": page.title,
            "anchor": section.anchor,
            "heading": section.heading,
            "text": section.text,
        }
        for page in pages
        for section in page.outline
    ]
    text = json.dumps(sections, ensure_ascii=False, separators=(",", ":"))
    script = f"globalThis.nbexportSections = {text};\n"
    (site / "search-index.js").write_text(script, encoding="utf-8")
