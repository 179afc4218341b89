"""The programs that README and docs call, as the shell finds them when a test runs one of their blocks.

`python -m tests.support.stand_in NAME ARGUMENTS…` runs the real NAME with the shown arguments, and after them those
that make it quick or say where its input lies here (the last of two equal options wins). What cannot run in a test at
all is listed in `INSTEAD`, with the reason; any other `make` or `docker` fails, so that nobody forgets a new one.
"""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

from tests.support import warm

INSTEAD = {
    # Lines for a Docker engine, which tests do without: tests.support.compose runs docker-compose.yml.
    "docker compose up --build --detach": "the fixture `stack` has started every service, as Compose orders them",
    "docker compose ps --all": "the fixture `stack` has waited for every health check, and for the one-shots' ends",
    # Lines about this very checkout.
    "make demo": "it would install everything; .ci/run gives this line on a bare machine",
    "make test": "it is what runs here",
    "pip install '.[run,offline]'": "it would install everything; .ci/run does on a bare machine",
    "cm3 up": "the fixture `stack` serves the deployments; tests/flows/test_deployments.py has this line's recipe run",
    "make up": "the fixture `stack` serves the deployments; tests/flows/test_deployments.py has this line's recipe run",
}
EXEC = re.compile(r"^docker compose exec (?:-it )?worker (.+)$", re.DOTALL)
"""A line for the worker's container; its command is run on this machine."""
QUICK = {"max_epochs": 1, "dim": 8}
QUICK_MODELS = dict.fromkeys(("bpr", "lightgcn", "directau", "vbpr", "freedom", "bm3"), QUICK)


def main(name: str, arguments: list[str]) -> int:
    """Run it, or what stands in; returns the exit status."""
    line = shlex.join([name, *arguments])
    if inside := EXEC.match(line):
        name, *arguments = shlex.split(inside[1])
    elif name in ("docker", "make", "pip") or line in INSTEAD:
        sys.stderr.write(f"[not run] {line}: {INSTEAD.get(line, 'nothing stands in for it')}\n")
        return 0 if line in INSTEAD else 64
    if arguments == ["serve"]:
        return _serve()
    if arguments[:1] == ["serve"]:
        program = str(Path(sys.executable).parent / name)
        os.execv(program, [program, *arguments])  # the shell ends it by its own number
    arguments = [*arguments, *_quick(name, arguments)]
    if name == "cm3":
        return warm.command(arguments)
    return subprocess.run([str(Path(sys.executable).parent / name), *arguments], check=False).returncode


def _quick(name: str, arguments: list[str]) -> list[str]:
    """Options that make a command take seconds."""
    match [name, *arguments[:2]]:
        case ["cm3", "run", "file"]:
            return []  # the file has them
        case ["cm3", "run", source]:
            features = (
                []
                if "--features" in arguments
                else ["--features", "caption" if "--captioner.kind" in arguments else "sentence"]
            )
            small = ["--demo.items", "60", "--demo.users", "60"] if source == "demo" else []
            near = ["--raw", "./amazon-2018", "--image-url", "images/{item_id}.jpg"] if source == "amazon" else []
            quick = ["--trainer.max-epochs", "1", "--trainer.dim", "8"]
            return ["--models", "offline", *quick, *features, *small, *near]
        case ["cm3", "compare", _]:
            more = [*_merged(arguments, "--cm3", QUICK), *_merged(arguments, "--overrides", QUICK_MODELS)]
            return ["--seeds", "1", *more]
        case ["cm3", "compare-encoders", _]:
            return ["--seeds", "1", *_merged(arguments, "--cm3", QUICK)]
        case ["cm3", "tune", _]:
            return ["--trials", "1", *_merged(arguments, "--base", QUICK)]
        case ["prefect", "deployment", "run"]:
            return _parameters(arguments[2])
        case ["prefect", "worker", "start"]:
            return ["--run-once"]
    return []


def _merged(arguments: list[str], option: str, quick: dict[str, Any]) -> list[str]:
    """The option with the quick values added to the JSON that is shown, which must still be accepted."""
    shown = json.loads(arguments[arguments.index(option) + 1]) if option in arguments else {}
    inner = {key: shown.get(key, {}) | value for key, value in quick.items() if isinstance(value, dict)}
    return [option, json.dumps(shown | quick | inner)]


def _parameters(deployment: str) -> list[str]:
    """Small parameters of a deployment's run."""
    quick: dict[str, object] = {"features": ["sentence"], "trainer": {"max_epochs": 2, "dim": 8}}
    if deployment.endswith("/demo"):
        quick |= {"features": ["sentence", "vision"], "demo": {"items": 40, "users": 60}}
    else:
        whole = Path("amazon-2018/images").resolve().parent  # where the pictures are: the worker may read nothing else
        quick |= {"raw": str(whole), "models": "offline", "image_url": "images/{item_id}.jpg"}
    return [word for key, value in quick.items() for word in ("--param", f"{key}={json.dumps(value)}")]


def _serve() -> int:
    """Start the pages, read one, and press Ctrl-C."""
    command = [str(Path(sys.executable).parent / "cm3"), "serve", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ) as pages:
        assert pages.stdout is not None
        url = pages.stdout.readline().split()[0]
        with urllib.request.urlopen(url, timeout=60) as page:
            ok = page.status == 200
        pages.send_signal(signal.SIGINT)
    return pages.returncode if ok else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
