"""Notebooks at addresses, with papermill's own handler for HTTP and a server on loopback."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import nbformat
import pytest
from click.testing import CliRunner
from papermill.iorw import papermill_io

from nbexport.cli.main import cli
from nbexport.errors import NotebookError
from nbexport.runner import Notebook
from nbexport.runner.campaign import Outputs, local_executor, run_matrix
from nbexport.runner.matrix import Matrix
from nbexport.runner.storage import file_name, is_remote, sibling

# papermill and its kernel client leave sockets and loops to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def store():
    """Give a server's address and what it holds, by path."""
    files = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            found = files.get(self.path)
            self.send_response(404 if found is None else 200)
            self.end_headers()
            self.wfile.write((found or "").encode())

        def do_PUT(self):
            files[self.path] = self.rfile.read(int(self.headers["Content-Length"])).decode()
            self.send_response(200)
            self.end_headers()

        def log_message(self, *words):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", files
    server.shutdown()
    thread.join(10)
    server.server_close()


def text(*sources):
    cells = [
        nbformat.v4.new_markdown_cell("# Far away\n\nText."),
        nbformat.v4.new_code_cell("value = 1", metadata={"tags": ["parameters"]}),
        *map(nbformat.v4.new_code_cell, sources),
    ]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return nbformat.writes(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}))


def test_an_address_is_told_from_a_path():
    assert is_remote("s3://bucket/a.ipynb")
    assert not is_remote("a/b.ipynb")
    assert file_name("s3://bucket/x/a.ipynb?v=1") == "a.ipynb"
    assert sibling("s3://bucket/x/a.ipynb", "b.json") == "s3://bucket/x/b.json"


def test_a_notebook_is_read_run_and_kept_at_an_address(store):
    base, files = store
    record = "from nbexport.runner import record\nrecord('twice', 2 * value)"
    files["/in/a.ipynb"] = text(record)
    words = ["run", f"{base}/in/a.ipynb", "-p", "value", "4", "-o", f"{base}/out/b.ipynb"]
    result = CliRunner().invoke(cli, words, catch_exceptions=False)
    assert result.output == f"{base}/out/b.ipynb\n"
    assert "recorded twice = 8" in files["/out/b.ipynb"]
    assert json.loads(files["/out/b.results.json"])["results"] == {"twice": 8}


def test_a_failed_copy_goes_there_too_under_its_other_name(store):
    base, files = store
    files["/a.ipynb"] = text("1 / 0")
    with pytest.raises(NotebookError) as caught:
        CliRunner().invoke(
            cli, ["run", f"{base}/a.ipynb", "-o", f"{base}/b.ipynb"], catch_exceptions=False
        )
    assert str(caught.value).endswith(f"(executed copy: {base}/b.failed.ipynb)")
    assert "ZeroDivisionError" in files["/b.failed.ipynb"]
    assert "/b.ipynb" not in files


def test_what_is_not_there_is_named(store):
    base, _files = store
    # papermill takes the page that says 404 for the file
    with pytest.raises(NotebookError, match=f"{base}/none.ipynb: not a notebook"):
        Notebook.load(f"{base}/none.ipynb")
    with pytest.raises(NotebookError, match=r"http://127.0.0.1:1/none.ipynb: .*refused"):
        Notebook.load("http://127.0.0.1:1/none.ipynb")


class Shelf:
    """A handler such as papermill's for buckets: it keeps whatever text it gets."""

    def __init__(self):
        self.files = {}

    def read(self, address):
        return self.files[address]

    def write(self, text, address):
        self.files[address] = text


def test_a_matrix_can_leave_everything_at_an_address(tmp_path, monkeypatch):
    shelf = Shelf()
    monkeypatch.setattr(papermill_io, "_handlers", list(papermill_io._handlers))
    papermill_io.register("shelf://", shelf)
    shelf.files["shelf://in/a.ipynb"] = text("value")
    path = tmp_path / "matrix.toml"
    path.write_text("[[group]]\nnotebooks = ['shelf://in/a.ipynb']\nparameters.value = [5]\n")
    matrix = Matrix.load(path)
    with local_executor(1) as pool:
        (first,) = run_matrix(matrix, Outputs("shelf://out/"), pool)
        (again,) = run_matrix(matrix, Outputs("shelf://out"), pool, resume=True)
    assert (first.status, first.kept, again.status, again.kept) == ("passed", False, "passed", True)
    folder = f"shelf://out/runs/{first.run.folder}"
    left = {f"{folder}/a.ipynb", f"{folder}/log.txt", f"{folder}/outcome.json"}
    assert set(shelf.files) == {"shelf://in/a.ipynb", *left}
