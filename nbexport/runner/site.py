"""The site: every executed notebook as a page, and an index that lists them."""

from __future__ import annotations

import base64
import datetime as dt
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbexport import __version__
from nbexport.runner.run import Run, run_notebook

if TYPE_CHECKING:
    from collections.abc import Iterable

    from nbexport.runner.notebook import Notebook

_TEMPLATES = Path(__file__).with_name("templates")


def build_site(notebooks: Iterable[Notebook], folder: Path, *, progress: bool = False) -> Path:
    """Run notebooks with their defaults and render them.

    The pages are made in a folder of their own and replace the old site as a whole, so that a
    failing notebook leaves the site of the last good run.

    Args:
        notebooks: what to run, in the order of the index.
        folder: gets ``notebooks/`` (executed copies) and ``site/`` (pages).
        progress: whether to draw progress bars on standard error.

    Returns:
        The index page, ``folder/site/index.html``.

    Raises:
        NotebookError: a notebook failed.
    """
    from tqdm import tqdm  # noqa: PLC0415 - needed only here

    fresh = folder / "site.new"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    cards = []
    try:
        for notebook in tqdm(
            list(notebooks), desc="notebooks", unit="notebook", disable=not progress
        ):
            output = folder / "notebooks" / notebook.path.name
            cards.append(_render(run_notebook(notebook, output, progress=progress), fresh))
        _write_index(cards, fresh)
        site = folder / "site"
        shutil.rmtree(site, ignore_errors=True)
        fresh.rename(site)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return site / "index.html"


def _render(run: Run, site: Path) -> dict[str, Any]:
    """Write the page of one run and return what the index says of it."""
    import nbformat  # noqa: PLC0415 - heavy
    from nbconvert import HTMLExporter  # noqa: PLC0415

    node = nbformat.read(run.output, as_version=4)
    page = {
        "name": run.notebook.name,
        "title": run.notebook.title,
        "parameters": {name: repr(value) for name, value in run.parameters.items()},
        "seconds": f"{run.seconds:.1f}",
        "version": __version__,
        "date": _today(),
        "css": _css(),
    }
    exporter = HTMLExporter(
        template_name="nbexport",
        extra_template_basedirs=[str(_TEMPLATES)],
        embed_images=True,
    )
    body, _ = exporter.from_notebook_node(node, resources={"page": page})
    (site / f"{run.notebook.name}.html").write_text(body, encoding="utf-8")
    figure, alt = _first_figure(node, run.notebook.name, site)
    return {**page, "summary": _inline(run.notebook.summary), "figure": figure, "alt": alt}


def _first_figure(node: Any, name: str, site: Path) -> tuple[str | None, str]:
    """Save the first PNG output as a file; return its name and its text alternative."""
    for cell in node.cells:
        for output in cell.get("outputs", []):
            picture = output.get("data", {}).get("image/png")
            if picture is not None:
                (site / f"{name}.png").write_bytes(base64.b64decode(picture))
                return f"{name}.png", output.get("metadata", {}).get("image/png", {}).get("alt", "")
    return None, ""


def _inline(markdown: str) -> Any:
    """Render one paragraph of markdown without the paragraph."""
    from markupsafe import Markup  # noqa: PLC0415 - comes with jinja2
    from nbconvert.filters import markdown2html  # noqa: PLC0415 - heavy

    html = str(markdown2html(markdown)).strip()
    return Markup(html.removeprefix("<p>").removesuffix("</p>"))  # noqa: S704 - our own notebook


def _write_index(cards: list[dict[str, Any]], site: Path) -> None:
    from jinja2 import Environment, FileSystemLoader  # noqa: PLC0415 - comes with nbconvert

    environment = Environment(loader=FileSystemLoader(_TEMPLATES), autoescape=True)
    template = environment.get_template("site.html.j2")
    from markupsafe import Markup  # noqa: PLC0415

    css = Markup(_css())  # noqa: S704 - our own style sheet
    text = template.render(cards=cards, css=css, version=__version__, date=_today())
    (site / "index.html").write_text(text, encoding="utf-8")


def _css() -> str:
    return (_TEMPLATES / "page.css").read_text(encoding="utf-8")


def _today() -> str:
    return dt.datetime.now(tz=dt.UTC).strftime("%Y-%m-%d")
