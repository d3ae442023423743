import nbformat
import pytest

from nbexport.errors import FormatError, NotebookError
from nbexport.runner.matrix import Matrix


@pytest.fixture
def folder(tmp_path):
    for name, parameters in {
        "01_both": "release = '7.2'\ntarget = 'emulated'\nsizes = [1]",
        "02_none": "depth = 1",
    }.items():
        cells = [
            nbformat.v4.new_markdown_cell(f"# {name}\n\nText."),
            nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}),
        ]
        nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / f"{name}.ipynb")
    return tmp_path


def load(folder, text):
    path = folder / "matrix.toml"
    path.write_text(text)
    return Matrix.load(path)


def ids(folder, text):
    return [run.id for run in load(folder, text).runs]


def test_every_combination_is_a_run_in_the_order_of_the_file(folder):
    text = """
        [[group]]
        notebooks = ["01_both"]
        releases = ["5.1", "5.2"]
        targets = ["emulated", "qemu"]
        parameters.sizes = [[], [1, 2]]
    """
    assert ids(folder, text) == [
        f"01_both[release={release},sizes={sizes},target={target}]"
        for release in ("5.1", "5.2")
        for target in ("emulated", "qemu")
        for sizes in ("[]", "[1,2]")
    ]


def test_an_axis_that_a_notebook_lacks_is_left_out_and_a_run_is_made_once(folder):
    text = """
        [[group]]
        notebooks = ["01_both", "02_none"]
        releases = ["5.1", "5.2"]
        [[group]]
        notebooks = ["02_none.ipynb"]
    """
    assert ids(folder, text) == ["01_both[release=5.1]", "01_both[release=5.2]", "02_none"]


def test_what_is_excluded_is_no_run(folder):
    text = """
        [[group]]
        notebooks = ["01_both"]
        releases = ["5.1", "5.2"]
        targets = ["emulated", "qemu"]
        exclude = [{ release = "5.1", target = "qemu" }]
    """
    assert ids(folder, text) == [
        "01_both[release=5.1,target=emulated]",
        "01_both[release=5.2,target=emulated]",
        "01_both[release=5.2,target=qemu]",
    ]


def test_limits_and_programs_belong_to_their_group(folder):
    text = """
        time-limit = 20
        [[group]]
        notebooks = ["01_both"]
        [[group]]
        notebooks = ["02_none"]
        time-limit = 5
        requires = ["qemu-img"]
    """
    first, second = load(folder, text).runs
    assert (first.time_limit, first.requires) == (20.0, ())
    assert (second.time_limit, second.requires) == (5.0, ("qemu-img",))


def test_folders_of_runs_are_different_and_can_be_file_names(folder):
    text = f"""
        [[group]]
        notebooks = ["01_both"]
        releases = ["a/b", "a b", "a_b", "{"x" * 300}", "{"x" * 301}"]
    """
    names = [run.folder for run in load(folder, text).runs]
    assert len(set(names)) == len(names)
    assert all(len(name) < 100 and "/" not in name and " " not in name for name in names)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"matrix.toml: there is no \[\[group\]\]"),
        ("[[group]", "matrix.toml: "),
        ("group = 3", "'group' takes a list"),
        ("group = [3]", "group 1: it is no table"),
        ("[[group]]", "group 1: 'notebooks' is missing"),
        ("[[group]]\nnotebooks = '01_both'", "group 1: 'notebooks' takes a list"),
        ("[[group]]\nnotebooks = [1]", "group 1: 'notebooks' takes a list of texts"),
        ("[[group]]\nnotebooks = ['03']", "group 1: there is no notebook '03'"),
        ("[[group]]\nnotebooks = ['01_both']\nrelease = ['5.2']", "unknown key 'release'"),
        ("tile = 'x'\n[[group]]\nnotebooks = ['01_both']", "unknown key 'tile'"),
        ("time-limit = 0\n[[group]]\nnotebooks = ['01_both']", "'time-limit' takes a number"),
        ("[[group]]\nnotebooks = ['01_both']\nparameters.sizes = 3", "takes a list of values"),
        ("[[group]]\nnotebooks = ['01_both']\nparameters.sizes = []", "takes a list of values"),
        ("[[group]]\nnotebooks = ['01_both']\nexclude = ['x']", "'exclude' takes tables"),
        (
            "[[group]]\nnotebooks = ['01_both']\nreleases = ['1']\nparameters.release = ['1']",
            "group 1: parameter 'release' is given twice",
        ),
        (
            "[tolerance]\nx = '1'\n[[group]]\nnotebooks = ['01_both']",
            "tolerance 'x' takes a number",
        ),
    ],
)
def test_a_wrong_file_is_refused_with_its_place(folder, text, message):
    with pytest.raises(FormatError, match=message):
        load(folder, text)


def test_a_parameter_that_the_notebook_lacks_is_refused(folder):
    with pytest.raises(NotebookError, match=r"group 1: 02_none.ipynb has no parameter 'sizes'"):
        load(folder, "[[group]]\nnotebooks = ['02_none']\nparameters.sizes = [[1]]")


def test_too_many_runs_are_a_mistake(folder):
    text = f"[[group]]\nnotebooks = ['02_none']\nparameters.depth = {list(range(10_001))}"
    with pytest.raises(FormatError, match="more than 10000 runs"):
        load(folder, text)
