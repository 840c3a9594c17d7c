"""Log lines: events with fields, to stderr, as JSON or for a person's eyes.

Everything that speaks in the process comes out in one shape, one event a line (a person's console shows a traceback
below its event): structlog, the standard library's logging (asyncio, client libraries) and Python's warnings::

    {"event": "listening", "level": "info", "logger": "kproxy.service", "timestamp": "2026-01-01T00:00:00.000000Z",
     "process": 4711, "listener": "public", "address": "kafka.example.com:9092"}

A traceback is text in the field ``exception``, without the values of local variables: one of them may be a password.
"""

import logging
import os
import sys
from typing import Literal, TextIO

import structlog

LogFormat = Literal["json", "console"]
LogLevel = Literal["debug", "info", "warning", "error"]


def default_format(stream: TextIO | None = None) -> LogFormat:
    """Return console where a person looks on, json where a program reads."""
    return "console" if (stream or sys.stderr).isatty() else "json"


def configure(log_format: LogFormat, level: LogLevel = "info") -> None:
    """Send every event from ``level`` on to stderr; call it once per process, or again to change it."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        _add_process,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.UnicodeDecoder(),
        structlog.processors.format_exc_info,
    ]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _renderer(log_format)],
        )
    )
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    logging.captureWarnings(True)
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        # Loggers are made at import, before this; caching would keep them at what they first saw.
        cache_logger_on_first_use=False,
    )


def _add_process(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Tell workers from one another, and from their supervisor, who all write into one log."""
    event["process"] = os.getpid()
    return event


def _renderer(log_format: LogFormat) -> structlog.typing.Processor:
    if log_format == "json":
        return structlog.processors.JSONRenderer()
    return structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty(),
        # The default shows local variables.
        exception_formatter=structlog.dev.plain_traceback,
    )
