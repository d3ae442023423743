"""What holds of the project as a whole: generated files, notebooks, package data, imports."""

import ast
import json
import subprocess
import sys

import pytest

from nbexport import resources
from nbexport.errors import UsageError
from nbexport.runner import find_notebooks

CELL_LINES_MAX = 8


def cells(notebook, kind):
    found = json.loads(notebook.path.read_text())["cells"]
    return [cell for cell in found if cell["cell_type"] == kind]


NOTEBOOKS = find_notebooks(resources.notebooks_path())
EACH_NOTEBOOK = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda n: n.name)


def check_lock(folder):
    command = [sys.executable, folder / ".ci" / "lock.py", "--check"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_lock_and_the_conda_environment_follow_the_project_file(root):
    done = check_lock(root)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_dependency_that_the_lock_lacks_is_noticed(root, tmp_path):
    for name in ("pyproject.toml", "requirements.lock", "environment.yml"):
        (tmp_path / name).write_text((root / name).read_text())
    (tmp_path / ".ci").mkdir()
    (tmp_path / ".ci" / "lock.py").write_text((root / ".ci" / "lock.py").read_text())
    project = tmp_path / "pyproject.toml"
    project.write_text(project.read_text().replace('"click>=8.1"', '"click>=99", "attrs>=1"'))
    done = check_lock(tmp_path)
    assert done.returncode == 1
    assert "click" in done.stderr
    assert "other dependencies" in done.stderr


def test_the_lock_holds_names_and_versions_only(root):
    for name in ("requirements.lock", "environment.yml"):
        assert "://" not in (root / name).read_text()


@EACH_NOTEBOOK
def test_a_notebook_is_numbered_and_stored_without_outputs(notebook):
    number, _, topic = notebook.name.partition("_")
    assert number.isdecimal()
    assert len(number) == 2
    assert topic == topic.lower()
    for cell in cells(notebook, "code"):
        assert cell["outputs"] == []
        assert cell["execution_count"] is None


@EACH_NOTEBOOK
def test_a_notebook_has_one_parameters_cell_before_its_code(notebook):
    tagged = ["parameters" in cell["metadata"].get("tags", []) for cell in cells(notebook, "code")]
    assert tagged[0]
    assert sum(tagged) == 1
    assert notebook.parameters


@EACH_NOTEBOOK
def test_the_cells_of_a_notebook_are_thin(notebook):
    for cell in cells(notebook, "code"):
        source = "".join(cell["source"])
        assert len(source.splitlines()) <= CELL_LINES_MAX, source
        tree = ast.parse(source)
        kinds = (ast.FunctionDef, ast.ClassDef, ast.Lambda, ast.For, ast.While, ast.Try)
        assert not [node for node in ast.walk(tree) if isinstance(node, kinds)], source


@EACH_NOTEBOOK
def test_the_readme_lists_a_notebook_by_its_title(notebook, root):
    assert (
        f"[{notebook.name[:2]} {notebook.title}](notebooks/{notebook.path.name})"
        in (root / "README.md").read_text()
    )


def test_data_is_found_by_name_and_missing_data_is_named(two_bitmaps):
    assert resources.data_path("images", "two-bitmaps.qcow2") == two_bitmaps
    with pytest.raises(UsageError, match="images/none"):
        resources.data_path("images", "none")


def test_an_image_is_a_path_or_one_of_ours(two_bitmaps, tmp_path):
    own = tmp_path / "disk.raw"
    own.touch()
    assert resources.image_path(str(own)) == own
    assert resources.image_path("two-bitmaps.qcow2") == two_bitmaps
    with pytest.raises(UsageError, match="no such image: none"):
        resources.image_path("none")


def test_the_command_line_imports_nothing_heavy():
    code = (
        "import sys, nbexport, nbexport.cli.main;"
        "print(sorted({m.partition('.')[0] for m in sys.modules}"
        " & {'numpy', 'matplotlib', 'papermill', 'nbconvert', 'nbformat', 'tqdm', 'asyncio'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
