"""Pages: headings and their ids, sections for the search, links, figures, provenance."""

import base64
import json
import stat

import nbformat
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbexport.runner import Notebook
from nbexport.runner.pages import SECTION_TEXT_MAX, anchored, make_page, outline
from nbexport.runner.provenance import peer_versions, provenance
from nbexport.runner.run import Run
from nbexport.runner.site import write_site

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n").decode()


def executed(folder, name, *cells, given=None):
    """An executed notebook, as papermill would leave it."""
    made = [
        nbformat.v4.new_markdown_cell(f"# The {name}\n\nA *sentence* with <b>marks</b>.\n\nMore."),
        nbformat.v4.new_code_cell("n = 1\ntext = 'a'", metadata={"tags": ["parameters"]}),
        *cells,
    ]
    path = folder / f"{name}.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=made), path)
    notebook = Notebook.load(path)
    run = Run(notebook, {**notebook.parameters, **(given or {})}, path, 1.25)
    run.results.write_text(json.dumps({"results": {}}))
    return run


def picture(alt, *tags):
    data = {"image/png": PNG, "text/plain": alt}
    shown = nbformat.v4.new_output(
        "display_data", data, metadata={"image/png": {"width": 8, "height": 8, "alt": alt}}
    )
    return nbformat.v4.new_code_cell("show()", outputs=[shown], metadata={"tags": list(tags)})


def test_headings_of_the_same_name_get_ids_of_their_own():
    text = anchored('<h2 id="A-b">A <code>b</code></h2><h2 id="A-b">A b</h2><h3>content</h3>')
    assert [s.anchor for s in outline(text)] == ["A-b", "A-b-2", "content-2"]
    assert 'href="#A-b-2" aria-label="Link to A b"' in text


@given(st.lists(st.text(min_size=1), max_size=8))
def test_any_headings_get_different_ids_that_need_no_quoting(names):
    import html

    text = anchored("".join(f"<h2>{html.escape(name)}</h2>" for name in names))
    anchors = [section.anchor for section in outline(text)]
    assert len(set(anchors)) == len(anchors) == len(names)
    assert not [a for a in anchors if not a or set(a) & set(" \"'<>&#")]


def test_the_outline_has_the_text_of_each_section_and_no_more():
    text = anchored(
        "<h1>T</h1><p>one &amp; <code>two</code></p><table><tr><td>a</td><td>b</td></tr></table>"
        f"<h2>S</h2><p>{'x' * (SECTION_TEXT_MAX + 9)}</p>"
    )
    first, second = outline(text)
    assert (first.level, first.heading, first.text) == (1, "T", "one & two a b")
    assert (second.level, second.heading, len(second.text)) == (2, "S", SECTION_TEXT_MAX)


def test_a_page_has_its_cells_figures_and_parameters(tmp_path):
    link = nbformat.v4.new_markdown_cell("## Next\n\nSee [it](02_b.ipynb#S) and [x](https://x/y).")
    run = executed(tmp_path, "01_a", link, picture("first <"), picture("second", "cover"))
    page = make_page(run)
    assert (page.number, page.title, page.seconds) == ("01", "The 01_a", "1.2")
    assert "<em>sentence</em>" in page.summary
    assert page.head.strip().endswith("</h1>")
    assert 'href="02_b.html#S"' in page.body
    assert 'href="https://x/y"' in page.body
    assert [(f.name, f.alt) for f in page.figures] == [
        ("01_a-1.png", "first <"),
        ("01_a-2.png", "second"),
    ]
    assert page.figure == page.figures[1]
    assert 'alt="first &lt;"' in page.body
    assert page.given == {}
    assert page.parameters == {"n": "1", "text": "'a'"}


def test_the_command_that_repeats_a_run_is_quoted_for_a_shell(tmp_path):
    run = executed(tmp_path, "01_a", given={"n": 2, "text": "it's $HOME"})
    assert make_page(run).given == {"n": "2", "text": "'it'\"'\"'s $HOME'"}
    page = (write_site([run], tmp_path / "site").parent / "01_a.html").read_text()
    assert "nbexport run 01_a -p n 2 -p text &#39;it&#39;" in page


def test_neighbours_downloads_and_search_follow_what_is_there(tmp_path):
    runs = [executed(tmp_path, name) for name in ("01_a", "02_b", "03_c")]
    site = write_site(runs, tmp_path / "site").parent
    middle = (site / "02_b.html").read_text()
    assert 'rel="prev" href="01_a.html"' in middle
    assert 'rel="next" href="03_c.html"' in middle
    assert 'rel="prev"' not in (site / "01_a.html").read_text()
    assert 'rel="next"' not in (site / "03_c.html").read_text()
    for name in ("01_a", "02_b", "03_c"):
        assert (site / f"{name}.ipynb").read_bytes() == (tmp_path / f"{name}.ipynb").read_bytes()
        assert (site / f"{name}.results.json").is_file()
    script = (site / "search-index.js").read_text()
    sections = json.loads(script.removeprefix("globalThis.nbexportSections = ").rstrip(";\n"))
    assert [(s["page"], s["heading"]) for s in sections] == [
        ("01_a", "The 01_a"),
        ("02_b", "The 02_b"),
        ("03_c", "The 03_c"),
    ]


def test_a_site_that_cannot_be_made_leaves_the_old_one(tmp_path):
    site = write_site([executed(tmp_path, "01_a")], tmp_path / "site").parent
    before = sorted(p.name for p in site.iterdir())
    broken = executed(tmp_path, "02_b")
    broken.results.unlink()
    with pytest.raises(FileNotFoundError):
        write_site([broken], site)
    assert sorted(p.name for p in site.iterdir()) == before
    assert not site.with_name("site.new").exists()


def program(folder, name, text):
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def test_peers_say_who_they_are(tmp_path, monkeypatch):
    program(tmp_path, "talks", "echo talks 1.2; echo more")
    program(tmp_path, "silent", "exit 3")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert peer_versions(["talks", "silent", "none"]) == {
        "talks": "talks 1.2",
        "silent": "installed, but says nothing",
        "none": None,
    }
    made = provenance()
    assert set(made.peers.values()) == {None}
    assert "Python" in made.packages
