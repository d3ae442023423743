"""Fixtures that every test may use."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import in_place
import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from collections.abc import Iterator

# How long an example takes depends on who else uses the machine.
settings.register_profile("nbexport", deadline=None)
settings.load_profile("nbexport")

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT / "data" / "images"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """In a run with our commands in the place of QEMU's, mark what cannot hold there."""
    if in_place.folder() is not None:
        in_place.expect(items)


@pytest.fixture(scope="session")
def root() -> Path:
    """The top folder of the checkout."""
    return ROOT


@pytest.fixture(scope="session")
def two_bitmaps() -> Path:
    """The committed image; read it, never write it."""
    return IMAGES / "two-bitmaps.qcow2"


@pytest.fixture(scope="session", autouse=True)
def committed_images_stay() -> Iterator[None]:
    """Fail if a test has written an image that all tests read."""
    before = {path: path.read_bytes() for path in IMAGES.glob("*.qcow2")}
    yield
    written = [path.name for path, data in before.items() if path.read_bytes() != data]
    assert not written


@pytest.fixture
def two_bitmaps_copy(tmp_path: Path) -> Path:
    """A copy of the committed image and its backing file that a test may damage."""
    for name in ("two-bitmaps.qcow2", "two-bitmaps.base.qcow2"):
        shutil.copy(IMAGES / name, tmp_path / name)
    return tmp_path / "two-bitmaps.qcow2"
