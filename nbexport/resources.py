"""Where the files that travel with the package are: one function for data, one for notebooks."""

from __future__ import annotations

from pathlib import Path

from nbexport.errors import UsageError

_PACKAGE = Path(__file__).resolve().parent


def _folder(installed: str, checkout: str) -> Path:
    """Return the folder beside the package (a checkout) or inside it (an installed wheel)."""
    for candidate in (_PACKAGE / installed, _PACKAGE.parent / checkout):
        if candidate.is_dir():
            return candidate
    raise UsageError(f"the package's {checkout} folder is missing: reinstall nbexport")


def data_path(*parts: str) -> Path:
    """Return the path of a file or folder below ``data/``.

    Args:
        parts: path components, as in ``data_path("images", "two-bitmaps.qcow2")``.

    Raises:
        UsageError: there is no such file in the data that travels with the package.
    """
    path = _folder("_data", "data").joinpath(*parts)
    if not path.exists():
        raise UsageError(f"no such data file: {'/'.join(parts)}")
    return path


def notebooks_path() -> Path:
    """Return the folder of the notebooks that travel with the package."""
    return _folder("_notebooks", "notebooks")


def image_path(name: str) -> Path:
    """Return a disk image: a file of that path, or one that travels with the package.

    Raises:
        UsageError: there is neither.
    """
    path = Path(name)
    if path.exists():
        return path.resolve()
    known = _folder("_data", "data") / "images" / name
    if known.is_file():
        return known
    raise UsageError(f"no such image: {name}")
