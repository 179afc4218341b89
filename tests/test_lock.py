"""The lock: every package at one version, with the hash of every file that may be installed, and no address."""

import os
import re
import subprocess
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement

from benchmarks.sizes import CUDA, normalised

ROOT = Path(__file__).parent.parent
LOCK = (ROOT / "requirements.txt").read_text()
PACKAGES = LOCK.replace("\\\n", "").splitlines()


def test_every_package_has_one_version_and_hashes() -> None:
    assert len(PACKAGES) > 250
    for line in PACKAGES:
        assert re.match(r"[a-z0-9][a-z0-9._-]*==[^ ]+ ", line), line
        assert re.search(r" --hash=sha256:[0-9a-f]{64}( |$)", line), line


def test_the_lock_names_no_address() -> None:
    assert "://" not in LOCK
    assert not re.search(r"^-", LOCK, re.MULTILINE)  # no option such as --index-url


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_every_python_has_one_version_of_all_that_the_extras_ask_for(python: str) -> None:
    here = {**default_environment(), "python_version": python, "python_full_version": f"{python}.0"}
    lines = [Requirement(line.partition(" --hash")[0]) for line in PACKAGES]
    locked = [line for line in lines if line.marker is None or line.marker.evaluate(here)]
    versions = {line.name: str(line.specifier).removeprefix("==") for line in locked}
    assert len(versions) == len(locked)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = map(Requirement, sum(project["optional-dependencies"].values(), project["dependencies"]))
    for requirement in (requirement for requirement in asked if requirement.name != project["name"]):
        assert requirement.specifier.contains(versions[normalised(requirement.name)]), requirement


def test_what_is_built_with_the_lock_asks_for_the_hashes() -> None:
    (line,) = [line for line in (ROOT / "Makefile").read_text().splitlines() if "-r requirements.txt" in line]
    assert "--require-hashes" in line


@dataclass(frozen=True)
class Installation:
    """One call of pip: its words, and the requirements that it was given."""

    words: list[str]
    packages: list[str]


def installations(folder: Path, torch: str) -> list[Installation]:
    """What the Dockerfile's step installs; pip is a script that notes it."""
    steps = re.sub(r"\\\n", "", (ROOT / "Dockerfile").read_text()).splitlines()
    (step,) = [step for step in steps if step.startswith("RUN ") and "requirements.txt" in step]
    (folder / "requirements.txt").write_text(LOCK)
    pip = folder / "pip"
    pip.write_text('#!/bin/sh\nfor last; do :; done\n{ echo "pip $*"; cat "$last"; } >> calls\n')
    pip.chmod(0o755)
    subprocess.run(
        ["/bin/sh", "-c", re.sub(r"^RUN (--\S+ )*", "", step)],
        env={"PATH": f"{folder}:{os.environ['PATH']}", "TORCH": torch},
        cwd=folder,
        check=True,
    )
    calls = re.split(r"^pip ", (folder / "calls").read_text(), flags=re.MULTILINE)[1:]
    return [Installation(words.split(), rows) for words, *rows in map(str.splitlines, calls)]


def names(packages: Iterable[str]) -> set[str]:
    return {line.partition("==")[0] for line in packages}


LOCKED = [line for line in PACKAGES if "==" in line]
BUILDS = {"torch", "torchvision"}
"""Packages of which PyTorch has builds of its own for CPUs."""


def test_the_image_for_cuda_is_the_whole_lock(tmp_path: Path) -> None:
    (whole,) = installations(tmp_path, "cuda")
    assert "--require-hashes" in whole.words
    assert [line.split() for line in whole.packages] == [line.split() for line in LOCKED]


def test_the_image_for_cpus_is_the_lock_without_cuda_and_with_pytorchs_own_builds(tmp_path: Path) -> None:
    pytorch, rest = installations(tmp_path, "cpu")
    assert "https://download.pytorch.org/whl/cpu" in pytorch.words
    assert pytorch.packages == [line.split()[0] for line in LOCKED if names([line]) <= BUILDS]
    assert "--require-hashes" in rest.words
    assert names(rest.packages) == {name for name in names(LOCKED) - BUILDS if not CUDA.match(name)}
    assert len(LOCKED) - len(rest.packages) > 15, "CUDA's libraries are many packages"
    assert {tuple(line.split()) for line in rest.packages} < {tuple(line.split()) for line in LOCKED}, "with hashes"


def test_an_image_for_anything_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        installations(tmp_path, "gpu")
    assert not (tmp_path / "calls").exists()
