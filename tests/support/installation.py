"""An environment that holds what pip installs for some extras, and nothing else."""

import tomllib
import venv
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement

from benchmarks.sizes import needed

ROOT = Path(__file__).parents[2]
COMMAND = """#!{python}
from flows.command import main

if __name__ == "__main__":
    main()
"""


def installed(folder: Path, *extras: str) -> Path:
    """The command `cm3` of a new environment: this checkout, and links to the packages that the extras need."""
    venv.create(folder, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    packages: set[str] = set()
    for requirement in map(Requirement, _requirements(*extras)):
        packages |= needed(requirement.name, requirement.extras)
    for package in packages:
        _link(package, site)
    (site / "checkout.pth").write_text(f"{ROOT}\n")
    command = folder / "bin" / "cm3"
    command.write_text(COMMAND.format(python=folder / "bin" / "python"))
    command.chmod(0o755)
    return command


def _requirements(*extras: str) -> list[str]:
    """As pyproject.toml has them: an environment that was installed earlier may have others in its metadata."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return sum((project["optional-dependencies"][extra] for extra in extras), project["dependencies"])


def _link(package: str, site: Path) -> None:
    for file in distribution(package).files or []:
        target = site / file
        if ".." not in file.parts and not target.exists():  # scripts lie elsewhere; MLflow's two packages share files
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(str(file.locate()))
