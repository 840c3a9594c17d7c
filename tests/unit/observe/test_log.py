"""Log lines: one event a line, whoever speaks, and no secret in a traceback."""

import io
import json
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from kproxy.config.values import Secret
from kproxy.observe import log


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """Leave logging as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    logging.captureWarnings(False)
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


def _events(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_every_voice_in_the_process_has_one_shape(capsys: pytest.CaptureFixture[str]) -> None:
    """structlog, the standard library and Python's warnings each become one JSON object a line, in UTC, on stderr."""
    log.configure("json", "info")
    structlog.get_logger("kproxy.service").info("listening", listener="public")
    logging.getLogger("asyncio").warning("slow %s\nindeed", "task")
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    out, err = capsys.readouterr()
    assert out == ""
    ours, theirs, warning = _events(err)
    assert (ours["event"], ours["level"], ours["logger"], ours["listener"]) == (
        "listening",
        "info",
        "kproxy.service",
        "public",
    )
    assert (theirs["event"], theirs["level"], theirs["logger"]) == ("slow task\nindeed", "warning", "asyncio")
    assert "DeprecationWarning: old" in warning["event"]
    assert all(event["timestamp"].endswith("Z") for event in (ours, theirs, warning))


def test_a_level_silences_what_is_below_it(capsys: pytest.CaptureFixture[str]) -> None:
    """From the level on, for everyone; a second call replaces the first."""
    log.configure("json", "debug")
    log.configure("json", "warning")
    structlog.get_logger("kproxy").info("quiet")
    logging.getLogger("asyncio").info("quiet")
    structlog.get_logger("kproxy").warning("loud")
    assert [event["event"] for event in _events(capsys.readouterr().err)] == ["loud"]


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_traceback_is_part_of_its_event_and_shows_no_local_variable(
    log_format: log.LogFormat, capsys: pytest.CaptureFixture[str]
) -> None:
    """What failed can be read from one event; the values at hand, a password perhaps, cannot."""
    log.configure(log_format, "info")

    def fail() -> None:
        password = "hunter" + "2"
        raise ValueError(f"{len(password)} characters")

    try:
        fail()
    except ValueError:
        structlog.get_logger("kproxy").exception("failed", secret=Secret("hunter2", "env PW"))
        logging.getLogger("asyncio").exception("failed too")
    err = capsys.readouterr().err
    assert err.count("ValueError: 7 characters") == 2
    assert "hunter2" not in err
    assert "\x1b" not in err
    if log_format == "json":
        assert all("ValueError" in event["exception"] for event in _events(err))


def test_a_person_gets_the_console_and_a_program_json() -> None:
    """The format follows from who looks on."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    assert log.default_format(Terminal()) == "console"
    assert log.default_format(io.StringIO()) == "json"
