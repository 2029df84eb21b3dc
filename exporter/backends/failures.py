"""The class of a failure's exception, from the first bytes of what Celery stored. Pure.

Nothing is ever unpickled: `pickletools.genops` names the opcodes and runs none of them. How Celery
stores failures, by version and serializer: docs/celery-tables.md, "Failures".
"""

from __future__ import annotations

import json
import pickletools
import re
from base64 import b64decode
from collections.abc import Iterator
from functools import lru_cache

RESULT_BYTES = 512  # enough for the opcodes before the class, and for JSON's exc_type
BASE64_PICKLE = b"gA"  # how one of protocol 2 or later begins where bytes are stored as text
TRACEBACK_CHARACTERS = 2_000  # of its end, where fewer do not tell
LAST_CHARACTERS = 200  # which do, where the message is one line, and not a long one
LONGEST_NAME = 100
RESULTS_KEPT = 256  # what fails, fails often, and many with the same words

# Celery wraps exceptions that cannot be pickled; the real class is named in the arguments.
WRAPPER = "UnpickleableExceptionWrapper"
# Up to Celery 5.2 such a failure is stored a second time, without a traceback, as this class. Both
# must make one name, whichever is seen: it is in the words, without its module and outer classes.
UNSENDABLE = "MaybeEncodingError"

_JSON_STRING = r'"((?:[^"\\]|\\.)*)"'
_EXC_TYPE = re.compile(rf'\s*{{\s*"exc_type"\s*:\s*{_JSON_STRING}')
_WRAPPED = re.compile(rf'"exc_message"\s*:\s*\[\s*{_JSON_STRING}\s*,\s*{_JSON_STRING}')
# As PyYAML writes it: what belongs to a key begins with a blank, or a dash.
_YAML_TYPE = re.compile(r"^exc_type: ['\"]?([^\s'\"]+)", re.MULTILINE)
_YAML_WRAPPED = re.compile(r"^exc_message:\n- \S+\n- (\S+)\n", re.MULTILINE)
_HEAD = "Traceback (most recent call last):"
_GROUP_HEAD = "Exception Group Traceback (most recent call last):"
_FRAME = re.compile(r'  File ".*", line \d+, in ')
_NAME = re.compile(r"(?:[\w.]|<locals>)+")
_SENT = re.compile(r"<ExceptionInfo: (\w+)\(")  # repr() of the exception that was to be sent
_WRAPPED_LINE = re.compile(rf"[\w.]+\.{WRAPPER}: (\w+)\(")  # repr(), too


@lru_cache(RESULTS_KEPT)
def from_result(start: bytes) -> str:
    """Name the class from the first bytes of the `result` column; "" where they do not tell."""
    try:
        if start.startswith(BASE64_PICKLE):
            start = b64decode(start[: len(start) // 4 * 4])
        name = _from_pickle(start) if start[:1] == b"\x80" else _from_text(start)
    except Exception:  # noqa: BLE001  # whatever hostile bytes do to a parser, they name no class
        return ""
    sent = _SENT.search(start.decode("utf-8", "replace")) if name == UNSENDABLE else None
    return _bare(sent[1] if sent else name)


def from_traceback(end: str) -> str:
    """Name the class from the end of the `traceback` column; "" where it does not tell.

    The last line lies where the message has several lines, notes, or is a group's: the class stands
    in the first line without indentation after the last heading.
    """
    lines = [line.removeprefix("  | ").removeprefix("  + ") for line in end.splitlines()]
    heads = [number for number, line in enumerate(lines) if line in (_HEAD, _GROUP_HEAD)]
    for line in lines[heads[-1] + 1 :] if heads else []:
        if line and not line[0].isspace():
            return _from_line(line)
    return ""


def from_last_line(end: str) -> str:
    """Name the class from the very end of a traceback; "" where more of it has to be read.

    The last line tells where the frame that raised, and nothing else, stands right before it.
    """
    *before, last = end.splitlines() or [""]
    if not last or last[0].isspace():
        return ""
    for line in reversed(before):
        if _FRAME.match(line):
            return _from_line(last)
        if not line.startswith("    "):
            return ""
    return ""


def _from_line(line: str) -> str:
    found = _WRAPPED_LINE.match(line) or _NAME.match(line)
    return _bare(found[found.lastindex or 0] if found else "")


def _from_text(start: bytes) -> str:
    text = start.decode("utf-8", "replace")
    return _from_json(text) or _from_yaml(text)


def _from_yaml(text: str) -> str:
    found = _YAML_TYPE.search(text)
    if found is None:
        return ""
    wrapped = _YAML_WRAPPED.match(text) if found[1] == WRAPPER else None
    return (wrapped or found)[1]


def _from_json(text: str) -> str:
    found = _EXC_TYPE.match(text)
    name = json.loads(f'"{found[1]}"') if found else ""
    wrapped = _WRAPPED.search(text) if name == WRAPPER else None
    return str(json.loads(f'"{wrapped[2]}"') if wrapped else name)


def _from_pickle(start: bytes) -> str:
    """Follow the strings of a pickle up to the class.

    Either a dict, `{"exc_type": class, "exc_message": (module, class, ...)}`, or an exception
    object, of which the first global is the class, followed by its arguments.
    """
    strings: list[str] = []
    for name, argument in _opcodes(start):
        if name == "GLOBAL":  # "module class"
            strings += str(argument).split(" ", 1)
            name = "STACK_GLOBAL"  # noqa: PLW2901  # the same, in older protocols
        elif isinstance(argument, str):
            strings.append(argument)
        found = _class_in(strings, named=name == "STACK_GLOBAL")
        if found:
            return found
    return ""


def _class_in(strings: list[str], *, named: bool) -> str:
    if strings[:1] == ["exc_type"]:
        if len(strings) < 2:  # noqa: PLR2004
            return ""
        if strings[1] != WRAPPER:
            return strings[1]
        return strings[4] if len(strings) > 4 else ""  # noqa: PLR2004  # exc_message, module, class
    if len(strings) >= 2 and strings[1] == WRAPPER:  # noqa: PLR2004
        return strings[3] if len(strings) > 3 else ""  # noqa: PLR2004  # module, class
    return strings[1] if named and len(strings) >= 2 else ""  # noqa: PLR2004


def _opcodes(start: bytes) -> Iterator[tuple[str, object]]:
    """Yield opcodes until the bytes end, which they do in the middle of one."""
    try:
        for opcode, argument, _ in pickletools.genops(start):
            yield opcode.name, argument
    except ValueError:
        return


def _bare(name: str) -> str:
    """Return the class's own name, without module and outer classes, printable and bounded.

    No more can be had everywhere: a traceback does not tell a module from an outer class, and some
    results have this name only.
    """
    last = name.rsplit(".", 1)[-1]
    return "".join(filter(str.isprintable, last))[:LONGEST_NAME]
