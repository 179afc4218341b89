"""What a run's logs show: the stages' own lines, and a user's error as its message, without a stack trace.

With CM3_LOGS=json each line on standard error is one JSON object: time, level, logger, message, and what the line is
about: `flow_run`, `run`, `dataset`, `stage`, `shard`. Otherwise lines are plain text.
"""

import logging
import os
from typing import Any

from pythonjsonlogger.json import JsonFormatter

from pipeline import log_fields
from pipeline.masking import masked
from schemas.errors import UserError

ROOMS = ("pipeline", "trainers", "flows")
FORMAT = "CM3_LOGS"
"""Environment variable: `text` (default) or `json`."""
PREFECT_LOGGERS = ("prefect.flow_runs", "prefect.task_runs", "prefect.engine")


class _WithoutTrace(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and isinstance(record.exc_info[1], UserError):
            record.exc_info = record.exc_text = None
        return True


def prepare() -> None:
    """Set up logging for a Prefect run. Idempotent.

    Prefect shows other libraries' lines only for the loggers in PREFECT_LOGGING_EXTRA_LOGGERS, which `flows.local` and
    prefect.yaml set, and only if those are at level INFO, which is set here.
    """
    for name in PREFECT_LOGGERS:
        logger = logging.getLogger(name)
        if not any(isinstance(each, _WithoutTrace) for each in logger.filters):
            logger.addFilter(_WithoutTrace())
    show_stages()
    if structured():
        for name in ("prefect", *PREFECT_LOGGERS, *ROOMS, ""):
            for handler in logging.getLogger(name).handlers:
                if isinstance(handler, logging.StreamHandler):
                    handler.setFormatter(json_lines())


def show_stages() -> None:
    """Let the stages' lines at level INFO through.

    Every record gets the fields of `pipeline.log_fields`, and its message is free of the environment's secrets.
    """
    for room in ROOMS:
        logging.getLogger(room).setLevel(logging.INFO)
    logging.setLogRecordFactory(_record)


def structured() -> bool:
    """Whether CM3_LOGS asks for JSON.

    Raises:
        UserError: it asks for something else.
    """
    format_ = os.environ.get(FORMAT, "text")
    if format_ not in ("text", "json"):
        raise UserError(f"{FORMAT}={format_}: expected text or json.")
    return format_ == "json"


def json_lines() -> logging.Formatter:
    """One JSON object per line."""
    names = {"asctime": "time", "levelname": "level", "name": "logger"}
    return JsonFormatter(
        "%(asctime)s %(levelname)s %(name)s %(message)s",
        datefmt="%Y-%m-%dT%H:%M:%S%z",
        rename_fields=names,
        json_ensure_ascii=False,
    )


def _record(*arguments: Any, **options: Any) -> logging.LogRecord:
    record = _Record(*arguments, **options)
    record.__dict__.update(log_fields.current())
    return record


class _Record(logging.LogRecord):
    def getMessage(self) -> str:  # noqa: N802 - overrides the library's
        return masked(super().getMessage())
