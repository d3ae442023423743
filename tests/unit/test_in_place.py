"""The list of tests that cannot hold with our commands in the place of QEMU's names real ones."""

from __future__ import annotations

from types import SimpleNamespace

import in_place
import pytest
from peers import peer

INTEROP = in_place.TESTS / "interop"


def test_every_name_in_the_list_is_a_test():
    found = in_place.read_list()
    for name in found["short"]:
        assert (INTEROP / name).is_file(), name
    for entry in found["apart"]:
        assert entry["reason"].endswith(".")
        for name in entry["tests"]:
            file, _, function = name.partition("::")
            assert f"\ndef {function.partition('[')[0]}(" in (INTEROP / file).read_text("utf-8"), (
                name
            )


@pytest.mark.parametrize(
    ("name", "nodeid", "covered"),
    [
        ("test_a.py::test_b", "test_a.py::test_b", True),
        ("test_a.py::test_b", "test_a.py::test_b[one]", True),
        ("test_a.py::test_b", "test_a.py::test_bc", False),
        ("test_a.py::test_b[one]", "test_a.py::test_b[two]", False),
        ("test_a.py", "test_a.py::test_b", True),
    ],
)
def test_a_name_covers_its_cases(name, nodeid, covered):
    assert in_place._covers(name, nodeid) == covered


def test_only_what_is_listed_is_expected_to_fail():
    marks = []
    listed = in_place.read_list()["apart"][0]["tests"][0]
    items = [
        SimpleNamespace(nodeid=f"tests/interop/{name}", add_marker=marks.append)
        for name in (listed, "test_serve.py::test_other")
    ]
    in_place.expect(items)
    assert [(mark.name, mark.kwargs["strict"]) for mark in marks] == [("xfail", True)]


def test_servers_are_ours_and_clients_are_not(tmp_path, monkeypatch):
    made = in_place.make_folder(tmp_path)
    assert {path.name for path in made.iterdir()} == set(in_place.SERVERS)
    genuine = tmp_path / "genuine"
    genuine.mkdir()
    for name in ("qemu-img", "qemu-nbd"):
        (genuine / name).write_text("#!/bin/sh\n")
        (genuine / name).chmod(0o755)
    monkeypatch.setenv(in_place.FOLDER, str(made))
    monkeypatch.setenv("PATH", f"{made}:{genuine}")
    assert peer("qemu-nbd") == str(made / "qemu-nbd")
    assert peer("qemu-img") == str(genuine / "qemu-img")
    monkeypatch.setenv("PATH", str(genuine))
    with pytest.raises(AssertionError):
        peer("qemu-nbd")
    (made / "qemu-img").symlink_to(genuine / "qemu-img")
    monkeypatch.setenv("PATH", str(made))
    with pytest.raises(AssertionError):
        peer("qemu-img")
