"""A JSON file that is one array of objects, record by record in little memory."""

import codecs
import json
from collections.abc import Iterator
from typing import Any

from pipeline.ingest.files.lines import BLOCK, MAX_LINE, LineGuard
from pipeline.ingest.files.streams import UTF8, opened
from pipeline.ingest.raw import RawFile
from pipeline.ingest.tally import Quality
from schemas.errors import UserError


def is_array(file: RawFile, encoding: str = UTF8) -> bool:
    """Whether the first character that is no white space opens an array."""
    with opened(file, encoding) as stream:
        while data := stream.read(64):
            if data := data.lstrip():
                return data.startswith(b"[")
    return False


def records(file: RawFile, quality: Quality, max_bad: float, encoding: str = UTF8) -> Iterator[dict[str, Any]]:
    """The array's objects in order; other elements are counted as bad lines are, by their number.

    Raises:
        UserError: it is not JSON, or ends within the array; see `LineGuard`.
    """
    guard = LineGuard(file, quality, max_bad, "a JSON array of objects")
    for number, value in enumerate(_elements(file, encoding), 1):
        guard.lines += 1
        if isinstance(value, dict):
            yield value
        else:
            guard.bad(number, f"a {type(value).__name__}, not an object")
            guard.check()
    guard.finish()


def _elements(file: RawFile, encoding: str) -> Iterator[Any]:
    decode = json.JSONDecoder().raw_decode
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text, place, number = "", 0, 0
    with opened(file, encoding) as stream:
        is_last = False
        while not is_last:
            data = stream.read(BLOCK)
            is_last = not data
            text, place = text[place:] + decoder.decode(data, is_last), 0
            while True:
                place = _after_blanks(text, place, ",[" if number == 0 else ",")
                if place >= len(text):
                    break
                if text[place] == "]":
                    return
                try:
                    value, end = decode(text, place)
                except (ValueError, RecursionError) as error:
                    if is_last or len(text) - place > MAX_LINE:
                        raise UserError(
                            f"{file.name}: record {number + 1} of the JSON array is not JSON or is cut off ({error}). "
                            f"Fetch the file again, or mend it ({file.source})."
                        ) from error
                    break
                if end == len(text) and not is_last:
                    break  # a number may go on
                number += 1
                yield value
                place = end
    raise UserError(f"{file.name} ends within its JSON array: it was cut off. Fetch it again ({file.source}).")


def _after_blanks(text: str, place: int, more: str) -> int:
    while place < len(text) and (text[place].isspace() or text[place] in more):
        place += 1
    return place
