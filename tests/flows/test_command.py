"""The package as pip installs it: what it says without its extras, and that a user's folder does not get in its way."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.installation import installed

ROOT = Path(__file__).parents[2]
DEADLINE = 500.0
SMALL = (
    *("--features", "sentence", "--features", "vision", "--json"),
    *("--demo", '{"items": 60, "users": 150}', "--trainer", '{"max_epochs": 2}'),
)

AS_ON_WINDOWS = """
import sys, sysconfig
sysconfig.get_config_vars()  # Linux's, which nobody may look for later
sys.platform, lacking = "win32", {"fcntl": None, "resource": None}
sys.modules |= lacking
"""


def refused(script: str) -> str:
    """What a script of Python says before it ends with status 1."""
    answer = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE, check=False
    )
    assert answer.returncode == 1
    return answer.stderr


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command where no extra is installed."""
    return installed(tmp_path_factory.mktemp("bare"))


@pytest.mark.parametrize(
    ("words", "needs"),
    [
        ((), "cm3 needs"),
        (("--help",), "cm3 needs"),
        (("run", "demo"), "cm3 run needs"),
        (("serve",), "cm3 serve needs"),
    ],
)
def test_without_its_packages_the_command_names_the_extra_to_install_in_one_line(
    bare: Path, words: tuple[str, ...], needs: str
) -> None:
    answer = subprocess.run([bare, *words], capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert answer.returncode == 1
    assert answer.stderr.startswith(f"error: {needs} packages that are not installed (no typer)")
    assert answer.stderr.endswith(f"pip install 'cm3-features[{'serve' if 'serve' in words else 'run'}]'\n")
    assert answer.stderr.count("\n") == 1


def test_on_windows_the_command_says_wsl_in_one_line() -> None:
    said = refused(AS_ON_WINDOWS + "from flows.command import main; main()")
    assert said.startswith("error: cm3 runs on Linux and macOS")
    assert "WSL" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("call", ["read('demo/items')", "run('demo')", "recommend('demo', ['u'])", "similar('d', 'i')"])
def test_on_windows_the_python_interface_says_so_when_it_is_first_used(call: str) -> None:
    """The contract of the tables is read there as anywhere."""
    attempt = f"try: cm3.{call}\nexcept cm3.UserError as error: sys.exit(str(error))"
    said = refused(f"{AS_ON_WINDOWS}import schemas.tables, cm3\n{attempt}")
    assert said.startswith("cm3 runs on Linux and macOS")
    assert said.count("\n") == 1


@pytest.mark.slow
def test_the_wheel_runs_the_demo_in_a_folder_that_has_modules_of_the_same_names(tmp_path: Path) -> None:
    site, folder, source = tmp_path / "site", tmp_path / "shop", tmp_path / "source"
    for part in ("cm3", "schemas", "pipeline", "trainers", "flows"):
        shutil.copytree(ROOT / part, source / part)  # a build leaves its files beside what it builds
    for part in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / part, source)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", str(site), str(source)], check=True, timeout=DEADLINE)
    for name in ("cm3", "schemas", "pipeline", "trainers", "flows"):
        module = folder / name / "__init__.py"
        module.parent.mkdir(parents=True)
        module.write_text(f"raise RuntimeError('{name} of the user was imported')")
    answer = subprocess.run(
        [str(site / "bin" / "cm3"), "run", "demo", *SMALL],
        env=os.environ | {"PYTHONPATH": str(site), "CM3_STORE": str(tmp_path / "store")},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    assert (tmp_path / "store" / "demo" / "embeddings" / "items" / "latest").exists()
