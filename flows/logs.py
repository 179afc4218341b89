"""What a run's logs show: the stages' own lines, and a user's error as its message, without a stack trace.

With CM3_LOGS=json each line on standard error is one JSON object: time, level, logger, message, and what the line is
about: `flow_run`, `run`, `dataset`, `stage`, `shard`. Otherwise they are for a person.
"""

import logging
import os
from typing import Any

from pythonjsonlogger.json import JsonFormatter  # the usual one

from pipeline import log_fields
from schemas.errors import UserError

ROOMS = ("pipeline", "trainers", "flows")
FORMAT = "CM3_LOGS"
"""Environment variable: `text` (default) or `json`."""
PREFECTS = ("prefect.flow_runs", "prefect.task_runs", "prefect.engine")


class _WithoutTrace(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and isinstance(record.exc_info[1], UserError):
            record.exc_info = record.exc_text = None
        return True


def prepare() -> None:
    """Set up logging for a Prefect run; again is harmless.

    Prefect shows other libraries' lines only for the loggers in PREFECT_LOGGING_EXTRA_LOGGERS, and only those that are
    at level INFO: `flows.local` and docker-compose.yml set the one, this the other.
    """
    for name in PREFECTS:
        logger = logging.getLogger(name)
        if not any(isinstance(known, _WithoutTrace) for known in logger.filters):
            logger.addFilter(_WithoutTrace())
    show_stages()
    if structured():
        for name in ("prefect", *PREFECTS, *ROOMS, ""):
            for handler in logging.getLogger(name).handlers:
                if isinstance(handler, logging.StreamHandler):
                    handler.setFormatter(json_lines())


def show_stages() -> None:
    """Let through what the stages say of their progress, each line with what it is about."""
    for room in ROOMS:
        logging.getLogger(room).setLevel(logging.INFO)
    logging.setLogRecordFactory(_record)


def structured() -> bool:
    """Whether CM3_LOGS asks for JSON.

    Raises:
        UserError: it asks for something else.
    """
    found = os.environ.get(FORMAT, "text")
    if found not in ("text", "json"):
        raise UserError(f"{FORMAT}={found}: expected text or json.")
    return found == "json"


def json_lines() -> logging.Formatter:
    """One JSON object a line."""
    names = {"asctime": "time", "levelname": "level", "name": "logger"}
    return JsonFormatter(
        "%(asctime)s %(levelname)s %(name)s %(message)s", datefmt="%Y-%m-%dT%H:%M:%S%z", rename_fields=names,
        json_ensure_ascii=False,
    )  # fmt: skip


def _record(*arguments: Any, **options: Any) -> logging.LogRecord:
    record = logging.LogRecord(*arguments, **options)
    record.__dict__.update(log_fields.current())
    return record
