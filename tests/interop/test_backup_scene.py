"""Two consumers back up one disk: the emulator and QEMU's programs mark and copy the same."""

import pytest
from peers import peer

from nbexport.bench.backups import Scene
from nbexport.emulator import launch
from nbexport.errors import UsageError

pytestmark = pytest.mark.interop

SIZE = 16 << 20


def play(target, release="7.2", *, together=True):
    """Return what each backup marked; every copy has to be right."""
    with launch(target, release) as machine, Scene(machine, SIZE, seed=3) as scene:
        onsite, offsite = scene.consumer("onsite"), scene.consumer("offsite")
        groups = [(onsite, offsite)] if together else [(onsite,), (offsite,)]
        found = [each for some in groups for each in scene.back_up(*some, meanwhile=5)]
        scene.guest.work(20, "hot")
        found += scene.back_up(onsite, meanwhile=10)
        lost = scene.begin(offsite)
        scene.guest.work(10, "random")
        scene.fail(offsite, lost)
        scene.guest.work(10, "files")
        found += [each for some in groups for each in scene.back_up(*some, meanwhile=10)]
        assert all(each.same for each in found)
        assert scene.restore(onsite)
        assert scene.restore(offsite)
        names = {each["name"] for node in machine.qmp.execute("query-named-block-nodes")
                 for each in node.get("dirty-bitmaps", ()) if each.get("name")}  # fmt: skip
        # before 4.2 a node does not tell its bitmaps
        assert names == ({onsite.bitmap, offsite.bitmap} if together else set())
    marked = [(each.bitmap, each.marked) for each in found]
    assert [bitmap for bitmap, _ in marked] == [
        None, None, "onsite-since-0", "onsite-since-1", "offsite-since-1",
    ]  # fmt: skip
    assert all(0 < each.copied < each.in_use for each in found[2:])
    return marked


@pytest.fixture(scope="module")
def emulated():
    return play("emulated")


@pytest.mark.parametrize(
    ("target", "program"),
    [
        ("qemu-system", "qemu-system-x86_64"),
        ("qemu-storage-daemon", "qemu-storage-daemon"),
    ],
)
def test_qemu_marks_the_same(target, program, emulated):
    peer(program)
    assert play(target) == emulated


def test_a_release_without_named_exports_marks_the_same(emulated):
    assert play("emulated", "5.1") == emulated


def test_before_4_2_a_disk_has_one_backup_at_a_time():
    assert len(play("emulated", "4.0", together=False)) == 5
    with pytest.raises(UsageError, match=r"refuses transaction: Node 'disk' is busy"):
        play("emulated", "4.0")


def test_a_full_backup_that_fails_is_repeated():
    with launch("emulated", "7.2") as machine, Scene(machine, SIZE, seed=3) as scene:
        consumer = scene.consumer("c")
        with pytest.raises(UsageError, match="c has no backup to restore"):
            scene.restore(consumer)
        scene.fail(consumer, scene.begin(consumer))
        (again,) = scene.back_up(consumer, meanwhile=3)
        assert (again.bitmap, again.same) == (None, True)


@pytest.mark.parametrize(("size", "filled"), [(5 << 16, 0.2), (2 << 30, 0.2), (SIZE, 1.5)])
def test_what_no_scene_can_be_made_of_is_told(size, filled):
    with launch("emulated", "7.2") as machine, pytest.raises(UsageError, match="are possible"):
        Scene(machine, size, filled=filled)
