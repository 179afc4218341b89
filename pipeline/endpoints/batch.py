"""OpenAI batches: requests as JSON Lines to send, and answers read back, whatever is asked for.

`custom_id` is the SHA-256 of the content: an answer finds it whatever became of the catalogue meanwhile.
"""

import json
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from pipeline.endpoints.client import MALFORMED, is_model
from pipeline.published import Counts
from schemas.encoders import ServedSpec
from schemas.errors import UserError

logger = logging.getLogger(__name__)

MOST_REQUESTS = 50_000
MOST_BYTES = 200_000_000
"""Of one file, as OpenAI takes it."""
ROWS = 1024
"""Answers that are kept together."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Form:
    """What a batch asks for.

    Attributes:
        command: the group of commands that write and read it, e.g. `captions`.
        role: the parameter with the model, e.g. `captioner`.
        kinds: the kinds of models that a server has.
        content: what one request is about, e.g. `picture`.
        url: the path of the requests.
        answer: one answer, in words, e.g. `chat completion`.
    """

    command: str
    role: str
    kinds: tuple[str, ...]
    content: str
    url: str
    answer: str

    def check(self, spec: ServedSpec) -> None:
        """Refuse a model that is loaded here.

        Raises:
            UserError: it is.
        """
        if spec.kind not in self.kinds:
            raise UserError(
                f"A batch is for {self.command} by a server: {self.role}.kind is {spec.kind!r}, expected "
                f"{' or '.join(map(repr, self.kinds))}."
            )


def write(form: Form, bodies: Iterable[tuple[str, Any]], folder: Path) -> list[Path]:
    """Write requests into files of a size that a batch takes.

    Args:
        bodies: content hash and body of each request.

    Returns: the files, `requests-00000.jsonl` and on; none if there are no requests.

    Raises:
        UserError: the folder holds such files already, or cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if old := sorted(folder.glob("*.jsonl")):
            raise UserError(f"{folder} holds {old[0].name} already. Name another folder, or empty this one.")
        files: list[Path] = []
        lines = (
            json.dumps({"custom_id": key, "method": "POST", "url": form.url, "body": body}).encode() + b"\n"
            for key, body in bodies
        )
        for part_lines in _parts(lines):
            path = folder / f"requests-{len(files):05d}.jsonl"
            part = path.with_suffix(".part")
            with part.open("wb") as file:
                file.writelines(part_lines)
            files.append(part.replace(path))
    except OSError as error:
        raise UserError(f"Could not write requests to {folder}: {error}. Name another folder.") from error
    return files


def read(
    form: Form,
    files: Sequence[Path],
    spec: ServedSpec,
    *,
    dataset: str,
    asked: Collection[str],
    row: Callable[[str, Any], Row],
    keep: Callable[[list[Row]], None],
) -> Counts:
    """Keep the answers of a batch. A failed one stays open.

    Counts: answers that were `kept`, those that `failed`, and `others`, of contents that the data set does not have.

    Args:
        asked: the content hashes that the data set has.
        row: from a content hash and an answer's body to what is kept; raises one of `MALFORMED` for another form.
        keep: keeps some rows.

    Raises:
        UserError: a file cannot be read or is of another format, another model answered, or no answer is of a content
            of this data set.
    """
    counts: Counts = {"kept": 0, "failed": 0, "others": 0}
    rows: list[Row] = []
    for place, line in _lines(files):
        key, body, reason = _answer(line, place)
        if body is not None:
            _check_model(form, spec, body, place)
        if key not in asked:
            counts["others"] += 1
            continue
        try:
            if body is not None:
                rows.append(row(key, body))
        except MALFORMED as fault:
            body, reason = None, f"no {form.answer}: {type(fault).__name__}: {fault}"
        if body is None:
            counts["failed"] += 1
            logger.warning("%s %s: %.200s", form.content, key, reason)
            continue
        counts["kept"] += 1
        if len(rows) == ROWS:
            keep(rows)
            rows = []
    if counts["others"] and not counts["kept"] + counts["failed"]:
        raise UserError(
            f"None of {counts['others']:,.0f} answers is of a {form.content} of {dataset}. Check that the files are "
            f"the answers to what `cm3 {form.command} export {dataset}` wrote."
        )
    if rows:
        keep(rows)
    return counts


def bodies(files: Sequence[Path]) -> Iterator[tuple[str, Any]]:
    """Content hash and body of every answer that succeeded.

    Raises:
        UserError: a file cannot be read or is of another format.
    """
    for place, line in _lines(files):
        key, body, _ = _answer(line, place)
        if body is not None:
            yield key, body


def _parts(lines: Iterator[bytes]) -> Iterator[Iterator[bytes]]:
    """The lines of each file. A file's lines are read before the next file's are asked for."""
    line = next(lines, None)

    def part() -> Iterator[bytes]:
        nonlocal line
        requests = size = 0
        while line is not None and requests < MOST_REQUESTS and (not requests or size + len(line) <= MOST_BYTES):
            requests, size = requests + 1, size + len(line)
            yield line
            line = next(lines, None)

    while line is not None:
        yield part()


def _lines(files: Sequence[Path]) -> Iterator[tuple[str, str]]:
    """Place and text of every line that is not empty."""
    for path in files:
        try:
            with path.open(encoding="utf-8") as file:
                for number, line in enumerate(file, 1):
                    if line.strip():
                        yield f"{path}, line {number}", line
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: cannot be read ({error}). Give the file of answers of a batch.") from error


def _answer(line: str, place: str) -> tuple[str, Any, str]:
    """Content hash, and the body of a successful answer, or None and the reason."""
    try:
        entry = from_json(line)
        key, response, error = str(entry["custom_id"]), entry.get("response"), entry.get("error")
    except MALFORMED as fault:
        if key := _custom_id(line):
            return key, None, f"no answer: {type(fault).__name__}: {fault}"
        raise UserError(
            f"{place}: expected an answer of a batch, JSON with custom_id and response; found {line.strip():.80}. If "
            "the file was cut short, fetch it again; nothing is lost by reading it twice."
        ) from fault
    try:
        if error or response["status_code"] != 200:
            return key, None, f"the server answered {error or response['status_code']}"
        return key, dict(response["body"]), ""
    except MALFORMED as fault:
        return key, None, f"no answer: {type(fault).__name__}: {fault}"


def _custom_id(line: str) -> str:
    """The content hash of an answer that is JSON with half a character in it; empty for anything else."""
    try:
        return str(json.loads(line)["custom_id"])
    except (*MALFORMED, RecursionError):
        return ""


def _check_model(form: Form, spec: ServedSpec, body: dict[str, Any], place: str) -> None:
    name = str(body.get("model") or spec.model)
    if not is_model(name, spec.model):
        raise UserError(
            f"{place}: {name:.100} answered, where the {form.role} is {spec.model!r}. Give the {form.role} whose "
            "requests were exported."
        )
