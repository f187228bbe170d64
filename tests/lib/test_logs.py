"""Logs are lines of JSON with what is bound to the task, from structlog and from the standard library alike."""

import io
import json
import logging
from collections.abc import Generator

import pytest
import structlog

from nacre.lib import logs


@pytest.fixture
def lines() -> Generator[io.StringIO]:
    stream = io.StringIO()
    root = logging.getLogger()
    before = (root.handlers, root.level)
    logs.set_up("info", program="test", stream=stream)
    yield stream
    structlog.reset_defaults()
    root.handlers, root.level = before


def parsed(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_has_its_fields_and_what_is_bound(lines: io.StringIO) -> None:
    log = structlog.get_logger()
    with structlog.contextvars.bound_contextvars(request_id="abc"):
        log.info("vm.started", vm="vm-1")
    log.debug("not.shown")
    (line,) = parsed(lines)
    assert (line["event"], line["vm"], line["request_id"], line["level"], line["program"]) == (
        "vm.started",
        "vm-1",
        "abc",
        "info",
        "test",
    )
    assert str(line["timestamp"]).endswith("Z")


def test_an_exception_is_logged_with_its_traceback_on_one_line(lines: io.StringIO) -> None:
    try:
        raise ValueError("broken")
    except ValueError:
        structlog.get_logger().exception("loop.failed")
    (line,) = parsed(lines)
    assert "ValueError: broken" in str(line["exception"])


def test_warnings_of_libraries_come_in_the_same_form(lines: io.StringIO) -> None:
    logging.getLogger("uvicorn.error").warning("%s is odd", "this")
    logging.getLogger("uvicorn.error").info("not shown")
    (line,) = parsed(lines)
    assert (line["event"], line["logger"], line["level"]) == ("this is odd", "uvicorn.error", "warning")
