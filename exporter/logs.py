"""Logs on stderr: one line an event, logfmt or JSON, and no password in any of them."""

from __future__ import annotations

import json
import logging
import math
import re
import sys
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from pythonjsonlogger.core import RESERVED_ATTRS, BaseJsonFormatter
from pythonjsonlogger.json import JsonFormatter

from exporter import redaction
from exporter.printable import lines, printable

if TYPE_CHECKING:
    from types import TracebackType

Format = Literal["logfmt", "json"]

LONGEST_MESSAGE = 2_000  # characters; warnings of libraries are long

_FIRST = ["time", "level", "name", "message"]  # before what a call gives as `extra`
_RENAMED = {"name": "logger", "message": "msg", "exc_info": "exception", "stack_info": "stack"}
_OWN = {*RESERVED_ATTRS, *_FIRST}
_BARE = re.compile(r'[^\s="\\]+')
_TRACEBACKS = logging.Formatter()


def configure(level: str, log_format: Format) -> None:
    """Send everything that is logged, warned or not caught to stderr."""
    logging.basicConfig(level=level.upper(), handlers=[handler(log_format)], force=True)
    logging.captureWarnings(capture=True)
    for library in ("sqlalchemy", "tornado"):  # they would tell of each row and each bad request
        logging.getLogger(library).setLevel(logging.WARNING)
    # A handshake that fails is the client's own, and whoever can reach the port may try many.
    logging.getLogger("tornado.general").setLevel(logging.ERROR)
    # A connection that was cut cannot be closed politely; why it was is told where it was cut.
    logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)
    # Python's own report of a crash would show whatever password the exception holds.
    sys.excepthook = _log_crash
    threading.excepthook = _log_thread_crash


def handler(log_format: Format) -> logging.Handler:
    """Return a handler that writes masked lines to stderr."""
    result = logging.StreamHandler()
    result.addFilter(_prepare)
    make = JsonFormatter if log_format == "json" else _Logfmt
    result.setFormatter(make(_FIRST, rename_fields=_RENAMED))
    return result


class _Logfmt(BaseJsonFormatter):
    """``key=value`` pairs, as Go's logfmt writes them."""

    def jsonify_log_record(self, log_data: dict[str, Any]) -> str:
        return " ".join(f"{key}={_logfmt(value)}" for key, value in log_data.items())


def _logfmt(value: object) -> str:
    text = json.dumps(value) if value is None or isinstance(value, bool) else str(value)
    return text if _BARE.fullmatch(text) else json.dumps(text, ensure_ascii=False)


def _prepare(record: logging.LogRecord) -> bool:
    """Give a record the fields that are shown, as text that is masked and then printable."""
    time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
    record.time, record.level = time.replace("+00:00", "Z"), record.levelname.lower()
    try:
        message = record.getMessage()
    except Exception:  # noqa: BLE001 - a log line never ends the work that it tells of
        message = f"{record.msg} (its arguments do not fit)"
    record.msg, record.args = printable(redaction.mask(message), LONGEST_MESSAGE), None
    if record.exc_info:
        record.exc_text = lines(redaction.mask(_TRACEBACKS.formatException(record.exc_info)))
        record.exc_info = None
    if record.stack_info:
        record.stack_info = lines(redaction.mask(record.stack_info))
    for key, value in vars(record).items():
        if key not in _OWN and not _is_plain(value):
            setattr(record, key, printable(redaction.mask(str(value))))
    return True


def _is_plain(value: object) -> bool:
    finite = isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
    return value is None or finite


def _log_crash(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    logging.getLogger(__name__).critical("crashed", exc_info=(kind, error, trace))


def _log_thread_crash(crash: threading.ExceptHookArgs) -> None:
    thread = crash.thread.name if crash.thread else ""
    error = crash.exc_value or crash.exc_type()
    logging.getLogger(__name__).critical("crashed", extra={"in": thread}, exc_info=error)
