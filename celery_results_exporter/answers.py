"""Answers: what was read, or why it could not be; as JSON, in one line, through a pipe."""

from __future__ import annotations

import json
import os
import re
import sysconfig
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

Answer = dict[str, Any]  # url, settings, faults of single settings; or fault, and its trace

LONGEST = 60 * 1024  # bytes; a pipe holds 64 KiB that nobody has read yet
_LONGEST_FAULT = 400  # characters
_MOST_FRAMES = 40

# As the exporter's `redaction` has it.
_SECRET_KEY = re.compile(r"passw|pwd|passphrase|secret|token", re.IGNORECASE)
_IN_URL = re.compile(r"://[^\s:/@]*:([^\s@]+)@")
_HIDDEN = "***"
_SHORTEST = 4  # shorter ones would shred the text
_DEEPEST = 5
_OTHERWISE = "correct it, or give the URL of its database instead"
_STAND_ELSEWHERE = "start the exporter where it can be imported: its environment, its folder"


class UnusableError(Exception):
    """Nothing that can be used is said there; the text says so to people."""


def answered(read: Callable[[], Answer], otherwise: str = _OTHERWISE) -> Answer:
    """Return what `read` returns, or why it does not, whatever the code it runs does.

    `otherwise` says what to do about that.
    """
    try:
        return read()
    except UnusableError as error:
        return {"fault": str(error)}
    except BaseException as error:  # noqa: BLE001 - of code that may do anything
        return _failed(error, otherwise)


def send(answer: Answer, pipe: int) -> int:
    """Write the answer, and its end; return how many bytes more there is room for."""
    line = json.dumps(answer).encode()
    if len(line) > LONGEST:
        line = json.dumps({"fault": "has settings that are too long to be handed over"}).encode()
    os.write(pipe, line + b"\n")
    return LONGEST - len(line)


def plain(value: object, path: str = "") -> Any:
    """Return a value that JSON can hold; raise ValueError where it is another object."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item, f"{path}.{key}") for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item, path) for item in value]
    raise ValueError(f"an object of the type {type(value).__name__} in {path.lstrip('.')}")


def _failed(error: BaseException, otherwise: str) -> Answer:
    """Say what was raised, and where, without a secret that can be found there."""
    steps = list(traceback.walk_tb(error.__traceback__))[-_MOST_FRAMES:]
    # No lines of the source: a settings file has passwords in them.
    trace = [f"{_file(frame)}:{line}, in {frame.f_code.co_name}" for frame, line in steps]
    of_theirs = [f" at {_file(frame)}:{line}" for frame, line in steps if _is_theirs(_file(frame))]
    where = of_theirs[-1] if of_theirs else ""
    secrets = [dict(os.environ), *(frame.f_globals for frame, _ in steps)]
    secrets += [dict(frame.f_locals) for frame, _ in steps]
    hide = _mask(secret for values in secrets for secret in _secrets(values))
    # Masked before it is cut, or a password across the cut would show its beginning.
    words = hide(" ".join(f"{type(error).__name__}: {error}".split()))[:_LONGEST_FAULT]
    if isinstance(error, SystemExit):
        fault = f"ends the process when it is imported ({words}){where}"
    else:
        fault = f"cannot be read: {words}{where}"
    missing = isinstance(error, ModuleNotFoundError)
    advice = _STAND_ELSEWHERE if missing else otherwise
    return {"fault": f"{fault}; {advice}", "trace": "\n".join([*trace, words])}


def _file(frame: Any) -> str:
    return str(frame.f_code.co_filename)


def _is_theirs(file: str) -> bool:
    """Whether it is no library, as far as its place tells."""
    paths = sysconfig.get_paths()
    installed = {paths[kind] for kind in ("stdlib", "platstdlib", "purelib", "platlib")}
    return not file.startswith(("<", str(Path(__file__).parent), *installed))


def _secrets(values: Mapping[Any, Any], depth: int = 0) -> Iterator[str]:
    """Find what has the name of a secret, and passwords in URLs."""
    for key, value in list(values.items()):
        kind = type(value)  # not isinstance: a lazy object would begin to work
        if issubclass(kind, str):
            if isinstance(key, str) and _SECRET_KEY.search(key):
                yield value
            yield from _IN_URL.findall(value)
        elif issubclass(kind, dict) and depth < _DEEPEST:
            yield from _secrets(value, depth + 1)


def _mask(secrets: Iterator[str]) -> Callable[[str], str]:
    known = sorted({one for one in secrets if len(one) >= _SHORTEST}, key=len, reverse=True)
    pattern = "|".join(map(re.escape, known))
    return lambda text: re.sub(pattern, _HIDDEN, text) if pattern else text
