"""`make lab`: JupyterLab comes up on the notebooks, and a kernel can run them."""

import json
import os
import shlex
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request

import pytest

from nbexport.resources import notebooks_path

TIME_LIMIT_S = 60
TOKEN = "only-for-this-test"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def lab(root, tmp_path):
    """The root of a server that runs the command of the Makefile, with a home of its own."""
    port = free_port()
    more = f"--no-browser --ip=127.0.0.1 --port={port} --IdentityProvider.token={TOKEN}"
    if os.geteuid() == 0:
        more += " --allow-root"
    told = subprocess.run(
        ["make", "--dry-run", "--no-print-directory", "lab", f"LAB={more}"],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    )
    command = shlex.split(told.stdout.splitlines()[-1])
    assert command[1] == "lab"
    environment = {**os.environ, "HOME": str(tmp_path), "JUPYTER_RUNTIME_DIR": str(tmp_path)}
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=root, env=environment, stdout=log, stderr=log)
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def ask(url, method="GET", data=None):
    request = urllib.request.Request(
        url,
        method=method,
        data=None if data is None else json.dumps(data).encode(),
        headers={"Authorization": f"token {TOKEN}"},
    )
    with urllib.request.urlopen(request, timeout=TIME_LIMIT_S) as reply:
        return reply.read()


def wait_for(url):
    deadline = time.monotonic() + TIME_LIMIT_S
    while True:
        try:
            return ask(url)
        except (urllib.error.URLError, ConnectionError):
            assert time.monotonic() < deadline, f"nobody answers at {url}"
            time.sleep(0.2)


def test_jupyterlab_has_the_notebooks_and_a_kernel_for_them(lab):
    kinds = json.loads(wait_for(f"{lab}/api/kernelspecs"))
    assert kinds["kernelspecs"]["python3"]["spec"]["language"] == "python"
    listed = {each["name"] for each in json.loads(ask(f"{lab}/api/contents"))["content"]}
    assert {path.name for path in notebooks_path().glob("*.ipynb")} <= listed
    kernel = json.loads(ask(f"{lab}/api/kernels", "POST", {"name": "python3"}))
    assert kernel["name"] == "python3"
    ask(f"{lab}/api/kernels/{kernel['id']}", "DELETE")
    assert b"JupyterLab" in ask(f"{lab}/lab")
