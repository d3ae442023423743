"""An executed notebook as the parts of a page: its cells as HTML, its figures, its sections."""

from __future__ import annotations

import base64
import html
import json
import re
import shlex
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nbexport.runner.run import Run

TEMPLATES = Path(__file__).with_name("templates")

_HEADING = re.compile(r"<h([1-6])([^>]*)>(.*?)</h\1>", re.DOTALL)
_ID = re.compile(r'\s*id="([^"]*)"')
_NOTEBOOK_LINK = re.compile(r'href="([^":/?#]+)\.ipynb(#[^"]*)?"')
_RESERVED = frozenset({"content", "how-made", "query", "count", "theme", "code"})
"""Ids that the templates use themselves."""

SECTION_TEXT_MAX = 20_000
"""Characters of a section that the search looks at; the tables of a long interface are more."""


@dataclass(frozen=True)
class Figure:
    """A picture on a page.

    Attributes:
        name: its file.
        png: what is in it.
        alt: its text alternative.
    """

    name: str
    png: bytes
    alt: str


@dataclass
class Section:
    """A heading, and the text behind it up to the next one.

    Attributes:
        level: 1 for the title of the page.
        anchor: its id.
        heading: its text.
        text: what is said in it, without markup.
    """

    level: int
    anchor: str
    heading: str
    text: str = ""


@dataclass(frozen=True)
class Page:
    """What the templates need of a run.

    Attributes:
        name: of the notebook; pages and files are called after it.
        title: its first heading.
        summary: its first paragraph, as HTML.
        parameters: with which it ran, as Python writes them.
        given: those of them that are not the notebook's defaults, as a shell takes them.
        seconds: how long it ran.
        head: the part up to the title, as HTML.
        body: the rest.
        outline: its sections.
        figures: its pictures, in order.
        figure: the one that stands for it: of the first cell that is tagged ``cover``, else the
            first.
    """

    name: str
    title: str
    summary: Any
    parameters: Mapping[str, str]
    given: Mapping[str, str]
    seconds: str
    head: Any
    body: Any
    outline: list[Section] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    figure: Figure | None = None

    @property
    def number(self) -> str:
        """What the notebook's name begins with."""
        return self.name.partition("_")[0]


def make_page(run: Run) -> Page:
    """Turn an executed notebook into the parts of a page.

    Raises:
        OSError: the executed copy cannot be read.
    """
    import nbformat  # noqa: PLC0415 - heavy
    from markupsafe import Markup  # noqa: PLC0415 - comes with jinja2
    from nbconvert import HTMLExporter  # noqa: PLC0415 - heavy
    from nbconvert.filters import markdown2html  # noqa: PLC0415 - heavy

    exporter = HTMLExporter(
        template_name="nbexport",
        extra_template_basedirs=[str(TEMPLATES)],
        embed_images=True,
        exclude_anchor_links=True,
    )
    node = nbformat.read(run.output, as_version=4)
    asked = {"page": run.notebook.name, "figures": []}
    text, told = exporter.from_notebook_node(node, resources=asked)  # which works on a copy
    drawn = told["figures"]
    text = anchored(_NOTEBOOK_LINK.sub(r'href="\1.html\2"', text))
    end = text.find("</h1>") + len("</h1>") if "</h1>" in text else 0
    figures = [Figure(each["name"], base64.b64decode(each["png"]), each["alt"]) for each in drawn]
    covers = [figure for figure, each in zip(figures, drawn, strict=True) if each["cover"]]
    summary = str(markdown2html(run.notebook.summary)).strip()
    defaults = run.notebook.parameters
    # The notebooks are the author's own; nothing in them is a stranger's.
    return Page(
        name=run.notebook.name,
        title=run.notebook.title,
        summary=Markup(summary.removeprefix("<p>").removesuffix("</p>")),  # noqa: S704 - see above
        parameters={name: repr(value) for name, value in run.parameters.items()},
        given={
            name: shlex.quote(value if isinstance(value, str) else json.dumps(value))
            for name, value in run.parameters.items()
            if value != defaults.get(name)
        },
        seconds=f"{run.seconds:.1f}",
        head=Markup(text[:end]),  # noqa: S704 - see above
        body=Markup(text[end:]),  # noqa: S704 - see above
        outline=outline(text),
        figures=figures,
        figure=next(iter(covers or figures), None),
    )


def anchored(text: str) -> str:
    """Give each heading an id that no other element of the page has, and a link to itself."""
    seen = set(_RESERVED)

    def mend(found: re.Match[str]) -> str:
        level, attributes, inner = found.groups()
        given = _ID.search(attributes)
        plain = html.unescape(re.sub("<[^>]*>", "", inner)).strip()
        base = re.sub(r"[^\w.-]+", "-", given[1] if given else plain).strip("-") or "section"
        name, number = base, 1
        while name in seen:
            number += 1
            name = f"{base}-{number}"
        seen.add(name)
        label = html.escape(f"Link to {plain}")
        link = f'<a class="anchor" href="#{name}" aria-label="{label}">#</a>'
        return f'<h{level} id="{name}"{_ID.sub("", attributes)}>{inner}{link}</h{level}>'

    return _HEADING.sub(mend, text)


def outline(text: str) -> list[Section]:
    """Return the sections of a page, with what stands in each; text before the first is left out.

    Args:
        text: HTML in which each heading has an id.
    """
    reader = _Reader()
    reader.feed(text)
    reader.close()
    for section in reader.sections:
        section.text = " ".join(section.text.split())[:SECTION_TEXT_MAX]
        section.heading = " ".join(section.heading.split())
    return reader.sections


class _Reader(HTMLParser):
    """Collects the text of sections; a link of a heading to itself is no text."""

    def __init__(self) -> None:
        super().__init__()
        self.sections: list[Section] = []
        self._in_heading = False
        self._in_anchor = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        if re.fullmatch("h[1-6]", tag):
            self.sections.append(Section(int(tag[1]), attributes.get("id") or "", ""))
            self._in_heading = True
        elif tag == "a" and attributes.get("class") == "anchor":
            self._in_anchor = True
        elif self.sections and not self._in_heading and tag not in {"code", "em", "strong", "span"}:
            self.sections[-1].text += " "  # cells and paragraphs are words of their own

    def handle_endtag(self, tag: str) -> None:
        if re.fullmatch("h[1-6]", tag):
            self._in_heading = False
        elif tag == "a":
            self._in_anchor = False

    def handle_data(self, data: str) -> None:
        if not self.sections or self._in_anchor:
            return
        if self._in_heading:
            self.sections[-1].heading += data
        else:
            self.sections[-1].text += data
