"""Derive requirements.lock and environment.yml from pyproject.toml.

`python .ci/lock.py` resolves with pip and writes both; `--check` compares them with the project
file without any network and exits 1 where they have drifted.

The lock holds names and versions only. It is resolved for the oldest Python that the project
supports and used as a constraint for all of them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements.lock"
ENVIRONMENT = ROOT / "environment.yml"
OLDEST = (3, 11)
# Packages that conda's channels do not carry under the same name.
PIP_ONLY = {"atheris", "axe-playwright-python", "playwright", "pytest-notebook", "qemu-qmp"}


def declared() -> list[Requirement]:
    """Return every direct dependency of the project file, extras included, sorted."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = list(project["dependencies"])
    for extra in project["optional-dependencies"].values():
        lines += extra
    unique = {str(Requirement(line)): Requirement(line) for line in lines}
    return sorted(unique.values(), key=lambda r: canonicalize_name(r.name))


def fingerprint(requirements: list[Requirement]) -> str:
    """Return a digest of the direct dependencies: the lock names it, so a change shows."""
    text = "\n".join(map(str, requirements))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def resolve(requirements: list[Requirement]) -> dict[str, str]:
    """Ask pip for the newest versions that go together."""
    if sys.version_info[:2] != OLDEST:
        sys.exit(f"the lock is resolved with Python {OLDEST[0]}.{OLDEST[1]}, the oldest supported")
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run"]
        command += ["--ignore-installed", "--only-binary", ":all:", "--report", str(report)]
        subprocess.run([*command, *map(str, requirements)], check=True)
        chosen = json.loads(report.read_text())["install"]
    return {
        canonicalize_name(item["metadata"]["name"]): item["metadata"]["version"] for item in chosen
    }


def lock_text(requirements: list[Requirement], versions: dict[str, str]) -> str:
    head = [
        "# Made by `make lock` from pyproject.toml; do not edit.",
        f"# dependencies: {fingerprint(requirements)}",
    ]
    pins = [f"{name}=={version}" for name, version in sorted(versions.items())]
    return "\n".join([*head, *pins]) + "\n"


def read_lock() -> tuple[str, dict[str, str]]:
    lines = LOCK.read_text().splitlines()
    marks = [line.split(": ")[1] for line in lines if line.startswith("# dependencies: ")]
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    return "".join(marks), pins


def environment_text(requirements: list[Requirement], versions: dict[str, str]) -> str:
    """Return the conda environment: direct dependencies, pinned to the lock's versions."""
    conda, pip = [], []
    for name in sorted({canonicalize_name(r.name) for r in requirements}):
        (pip if name in PIP_ONLY else conda).append(name)
    lines = [
        "# Made by `make lock` from pyproject.toml; do not edit.",
        "# For those who prefer conda: conda env create -f environment.yml",
        "name: nbexport",
        "channels:",
        "  - conda-forge",
        "dependencies:",
        f"  - python>={OLDEST[0]}.{OLDEST[1]}",
        "  - pip",
        *(f"  - {name}={versions[name]}" for name in conda),
        "  - pip:",
        *(f"      - {name}=={versions[name]}" for name in pip),
        "      - --no-deps --editable .",
    ]
    return "\n".join(lines) + "\n"


def problems() -> list[str]:
    """Return in what way the generated files differ from what the project file asks for."""
    requirements = declared()
    mark, pins = read_lock()
    found = []
    if mark != fingerprint(requirements):
        found.append("requirements.lock was made from other dependencies than pyproject.toml has")
    for requirement in requirements:
        version = pins.get(canonicalize_name(requirement.name))
        if version is None:
            found.append(f"requirements.lock lacks {requirement.name}")
        elif not requirement.specifier.contains(version, prereleases=True):
            found.append(f"requirements.lock has {requirement.name} {version}, not {requirement}")
    if not found and ENVIRONMENT.read_text() != environment_text(requirements, pins):
        found.append("environment.yml is not what pyproject.toml and requirements.lock give")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare only, without a network")
    if parser.parse_args().check:
        found = problems()
        for line in found:
            print(f"{line}: run make lock", file=sys.stderr)
        sys.exit(1 if found else 0)
    requirements = declared()
    versions = resolve(requirements)
    LOCK.write_text(lock_text(requirements, versions))
    ENVIRONMENT.write_text(environment_text(requirements, versions))


if __name__ == "__main__":
    main()
