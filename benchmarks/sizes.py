"""What an installation weighs: `python -m benchmarks.sizes`, in an environment that has everything (`make test`'s).

Bytes of the files that pip says it installed, of an extra's packages and of all that they need; no block sizes, and no
interpreter. The share in brackets is for NVIDIA GPUs alone: the image for CPUs is without it, and its
PyTorch, a build for CPUs, has 0.7 GB instead of 1.2.
"""

import re
from collections.abc import Iterable
from importlib.metadata import Distribution, PackageNotFoundError, distribution, distributions
from pathlib import Path

from packaging.requirements import Requirement

OURS = "cm3-features"
CUDA = re.compile(r"nvidia-|cuda-|triton$")
INSTALLED = ((), ("serve",), ("run",), ("run", "offline"), ("full",))
IMAGE = ("cm3", "schemas", "pipeline", "trainers", "flows", "requirements.txt")
"""What the Dockerfile copies into /app."""


def main() -> None:
    """Print one line per way to install, and the image's layers above its base."""
    for extras in INSTALLED:
        packages = needed(OURS, extras)
        name = f".[{','.join(extras)}]" if extras else "."
        print(f"pip install '{name}'".ljust(34), weight(packages))
    print("image for CUDA: /opt/venv".ljust(34), weight(part.name for part in distributions()))
    root = Path(__file__).parent.parent
    files = [file for part in IMAGE for file in (root / part, *(root / part).rglob("*"))]
    app = sum(file.stat().st_size for file in files if file.is_file() and file.suffix != ".pyc")
    print("images: /app".ljust(34), f"{app / 1e6:,.0f} MB")


def needed(name: str, extras: Iterable[str]) -> set[str]:
    """A package and everything that it needs on this machine, by normalised name."""
    packages: set[str] = set()
    waiting = {(name, extra) for extra in ("", *extras)}
    done: set[tuple[str, str]] = set()
    while waiting:
        name, extra = task = waiting.pop()
        done.add(task)
        try:
            requirements = distribution(name).requires or []
        except PackageNotFoundError:  # of another platform
            continue
        packages.add(name)
        for requirement in map(Requirement, requirements):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                further = normalised(requirement.name)
                waiting |= {(further, wanted) for wanted in ("", *requirement.extras)} - done
    return packages


def weight(packages: Iterable[str]) -> str:
    """Number and size of packages, and of those that only an NVIDIA GPU needs."""
    sizes = {name: size(distribution(name)) for name in set(map(normalised, packages))}
    total, cuda = sum(sizes.values()), sum(size for name, size in sizes.items() if CUDA.match(name))
    return f"{len(sizes):4} packages, {total / 1e6:6,.0f} MB (CUDA: {cuda / 1e6:,.0f} MB)"


def size(part: Distribution) -> int:
    """Bytes of a package's files."""
    paths = [Path(str(part.locate_file(file))) for file in part.files or []]
    return sum(path.stat().st_size for path in paths if path.is_file())


def normalised(name: str) -> str:
    """The name as the index spells it."""
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    main()
