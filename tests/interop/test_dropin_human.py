"""The monitor for humans of ``nbexport-monitor``, and ``qemu-io`` in it, beside QEMU's."""

from __future__ import annotations

import re
import subprocess

import pytest
from dropin_pair import folder_of_commands, masked
from monitors import SYSTEM, Monitor
from peers import TIME_LIMIT, background, peer, run

pytestmark = pytest.mark.interop

WORDS = [
    *("-nodefaults", "-display", "none", "-S"),
    *("-blockdev", "file,node-name=f,filename=e.qcow2,discard=unmap"),
    *("-blockdev", "qcow2,node-name=n,file=f,discard=unmap"),
    *("-blockdev", "null-co,node-name=null,size=1048576,read-zeroes=on"),
    *("-blockdev", "null-co,node-name=ro,size=1048576,read-only=on"),
    *("-drive", "if=none,id=d0,file=r.raw,format=raw", "-device", "virtio-blk,drive=d0,id=v0"),
    *("-drive", "if=virtio,file=b.qcow2,format=qcow2,id=d1,cache=writethrough"),
    *("-drive", "if=none,id=e0", "-device", "virtio-scsi", "-device", "scsi-hd,drive=ro,id=h0"),
]
TYPED = {
    "words": """
        bogus||   |info bogus|inf|quit x|qemu-io|qemu-io d0|qemu-io d0 read 0 4k|qemu-io -x n
        qemu-io "n|qemu-io "n\\q" x|help bogus|stop x|nbd_server_start|nbd_server_add
        block_job_cancel|block_job_set_speed d0 zz|block_job_set_speed d0|drive_add 0|device_del
    """,
    "disks": """
        info block|info block d0|info  block   e0|info block zz|info block -n n|info block -n
        info block -v d0|info block -v d1|info block -v null|info block-jobs|info status|cont
        info status|stop|s|info status|info name
    """,
    "drives": """
        drive_add 0 if=none,id=d5,driver=null-co|drive_add 0 if=none,id=d5,driver=null-co
        drive_add 0 if=none,id=d6,file=b.qcow2|drive_add 0 if=scsi,driver=null-co|drive_add 0 foo
        drive_add 0 if=none,id=d7,bogus=1,driver=null-co|info block|drive_del d5|drive_del d5
        drive_del null|drive_del n|drive_del d0|info block|device_add bogus|device_add
        device_add virtio-blk,drive=null,id=v5|device_add virtio-blk,drive=n,id=v6|device_add x y
        eject e0|eject d1|eject zz
    """,
    "server": """
        nbd_server_add n|nbd_server_start foo|nbd_server_start unix:nbd.sock
        nbd_server_start unix:nbd.sock|nbd_server_add n|nbd_server_add n|nbd_server_add -w n x
        nbd_server_add zz|nbd_server_remove n|nbd_server_remove n|nbd_server_remove -f x
        nbd_server_stop|nbd_server_stop|nbd_server_start -w unix:nbd.sock
        nbd_server_start -a unix:nbd.sock|nbd_server_stop|block_job_cancel d0|block_job_pause d0
        block_job_resume d0|block_job_complete d0|block_job_set_speed d0 0
    """,
    "qemu-io": """
        qemu-io zz "read 0 1"|qemu-io -d v0 "read 0 1"|qemu-io -d zz "read 0 1"
        qemu-io ro "write 0 512"|qemu-io -d h0 "write 0 512"|qemu-io n "info"|qemu-io d0 "info"
        qemu-io null "info"|qemu-io f "info"|qemu-io f "map"
    """,
}
# Commands of qemu-io; each is run on n, and so is the program itself on an image.
IO = """
    |bogus|read|read 0|write 0|read x 1|read 0 1X|read 0 99999999999999999999
    read 0 3G|read -P 300 0 1|read -P x 0 1|read -z 0 1|read -P|read -s 1 0 1
    read -P 0 -s 1k 0 512|read -P 0 -l 2k 0 512
    read -P 0 0 4k|read -P 1 0 4k|read -P 0 -s 1k -l 1k 0 4k|read -vP 0 16 40|read -q 0 1k
    write -P 7 1 1000|read -P 7 1 1000|read -v 0 20|write -z 64k 64k|write -zu 128k 64k
    write -n 0 1|write -u 0 1|write -z -P 1 0 1|write -s nobody 0 512|write -P 0x11 512k 64k
    write -f 0 4k|writev 768k 512 1k|writev -P 3 0 512|writev 0|readv 0 512 1k|readv -P 3 0 512
    readv -P 4 0 512|write 1M 1|read 1M 1|read 1048575 1|write 1048576 0|discard 512k 64k
    discard -q 0 64k|discard 2M 1|discard|flush|f|length|l|map|alloc 0 1M|alloc 0|a 512k 128k
    alloc 1|alloc x|alloc 2M 1|aio_write -P 5 256k 64k|aio_flush|aio_read -P 5 256k 64k|aio_flush
    aio_write -z 320k 64k|aio_flush|aio_write -zP 1 0 1|aio_write -u 0 1|aio_write -z 0 1 2
    aio_read 0|aio_read -i 0 1|aio_write -i 0 1|sleep 1|sleep x|sleep|write -bz 0 512
    write -c -f 0 512|r 0 1|w 0 1|read -C -P 0 512 512|help nobody|read -- 0 512|d 0 512
"""


def listed(text):
    return [
        word.strip() for line in text.strip("\n").splitlines() for word in line.strip().split("|")
    ]


def steady(text):
    """Leave out what depends on time: rates, and how many bytes a file takes."""
    text = re.sub(r"; [0-9:.]+( sec)? \(.*? ops/sec\)", "; -", text)
    text = re.sub(r"^(\d+,1),.*$", r"\1", text, flags=re.MULTILINE)
    text = re.sub(r"^(\w+ \S.* -- ).*$", r"\1", text, flags=re.MULTILINE)  # usages: our words
    text = re.sub(r"disk size: .*", "disk size: -", text)
    return re.sub(r"#block(\d+)\d\d", r"#block\1", text)


@pytest.fixture
def folders(tmp_path):
    for name in ("theirs", "ours"):
        (tmp_path / name).mkdir()
        for image in ("e.qcow2", "b.qcow2"):
            run("qemu-img", "create", "-q", "-f", "qcow2", tmp_path / name / image, "1M")
        run("qemu-img", "create", "-q", "-f", "raw", tmp_path / name / "r.raw", "1M")
    return tmp_path


def type_in(folders, lines):
    """Have both programs run lines; what their monitors told, and what the processes printed."""
    found = []
    programs = (("theirs", peer(SYSTEM)), ("ours", folder_of_commands(folders) / SYSTEM))
    for where, program in programs:
        folder = folders / where
        words = [*WORDS, "-qmp", "unix:qmp.sock,server=on,wait=off"]
        shell = ("sh", "-c", 'exec "$@" > out.txt', "sh")
        with background(*shell, program, *words, ready=folder / "qmp.sock", cwd=folder) as process:
            with Monitor(folder) as monitor:
                for line in lines:
                    monitor.execute("human-monitor-command", command_line=line)
                log = masked(monitor.log)
                monitor.quit()
            _, err = process.communicate(timeout=TIME_LIMIT)
        told = [steady(each["return"]) if "return" in each else each for each in log]
        err = re.sub(r"qemu: module \S+ not found.*\n", "", err.decode())
        found.append((told, steady((folder / "out.txt").read_text()), err))
    return found


@pytest.mark.parametrize("name", TYPED)
def test_a_line_is_answered_as_by_qemu(name, folders):
    lines = listed(TYPED[name])
    theirs, ours = type_in(folders, lines)
    differ = [(a, b) for a, b in zip(theirs[0], ours[0], strict=True) if a != b]
    assert not differ
    assert ours == theirs
    assert len(lines) >= 8


def test_qemu_io_prints_what_qemus_does(folders):
    lines = [f'qemu-io n "{line}"' for line in listed(IO)]
    theirs, ours = type_in(folders, lines)
    assert ours[1].splitlines() == theirs[1].splitlines()
    assert ours[0] == theirs[0]
    # A usage is told in our words, and so is what getopt says of its caller.
    assert ours[2] == theirs[2]
    assert ours[1].count("wrote") >= 12
    for where in ("theirs", "ours"):
        run("qemu-img", "check", "-q", folders / where / "e.qcow2")
    run("qemu-img", "compare", "-q", *(folders / where / "e.qcow2" for where in ("theirs", "ours")))


# Each line goes in alone, so that what is drawn of one does not meet the answer to another.
KEYS = [
    b"info status\n", b"bogus\n", b"\n", b"inx\x7ffo stb\batus\r\n", b"tatus\x01info s\x05\n",
    b"xinfo\x1b[D\x1b[D\x1b[D\x1b[D\x1b[D\x04\x05 status\n",
    b"info zz zz\x17\x17 status\n", b"\x1b[A\x1b[A\x1b[B\x1b[A\n",
    b"\x1b[A\x1b[H\x1b[F\x1b[E\x1b[1~\x1b[3~i\x1b[4~\n", b"\x1b[A\x1bOH\x1bOF\n",
    b'qemu-io null "length"\n', b"nbd_server_stop\n",
]  # fmt: skip


def test_what_is_typed_is_drawn_as_qemu_draws_it(folders):
    found = []
    programs = (("theirs", peer(SYSTEM)), ("ours", folder_of_commands(folders) / SYSTEM))
    for where, program in programs:
        process = subprocess.Popen(
            [program, *WORDS, "-monitor", "stdio"], cwd=folders / where, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        drawn = []
        with process:
            drawn.append(until_prompt(process))
            for keys in KEYS:
                process.stdin.write(keys)
                process.stdin.flush()
                drawn += [until_prompt(process) for _ in range(len(re.findall(rb"[\r\n]", keys)))]
            process.stdin.write(b"q\n")
            process.stdin.flush()
            drawn.append(process.stdout.read())
            assert process.wait(TIME_LIMIT) == 0
        found.append(drawn)
    assert found[1] == found[0]


def until_prompt(process):
    """Return what the process prints up to its next prompt."""
    seen = b""
    while not seen.endswith(b"(qemu) "):
        byte = process.stdout.read(1)
        assert byte, seen
        seen += byte
    return seen


def test_a_monitor_for_humans_serves_one_client_after_another(folders):
    import socket

    found = []
    programs = (("theirs", peer(SYSTEM)), ("ours", folder_of_commands(folders) / SYSTEM))
    for where, program in programs:
        folder = folders / where
        words = [*WORDS, "-chardev", "socket,id=c,path=hmp.sock,server=on,wait=off", "-mon", "c"]
        said = []
        with background(program, *words, ready=folder / "hmp.sock", cwd=folder) as process:
            for last in (b"info status\n", b"quit\n"):
                with socket.socket(socket.AF_UNIX) as client:
                    client.settimeout(TIME_LIMIT)
                    client.connect(str(folder / "hmp.sock"))
                    seen = b""
                    while seen.count(b"(qemu) ") < 1:
                        seen += client.recv(1000)
                    client.sendall(last)
                    while last != b"quit\n" and seen.count(b"(qemu) ") < 2:
                        seen += client.recv(1000)
                    said.append(seen)
                    if last == b"quit\n":
                        assert process.wait(TIME_LIMIT) == 0
        found.append(said)
    assert found[1] == found[0]
