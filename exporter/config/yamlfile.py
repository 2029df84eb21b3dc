"""YAML text to plain data that remembers its lines, with ``${VAR}`` replaced.

Stricter than YAML: each key once, no aliases, no tags, one document. ``defaults:`` does what
aliases are for, and without them a small file cannot grow large in memory.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import yaml

KeyPath = tuple[str | int, ...]

_DEEPEST = 20
# Everything else is text: dates, "<<", and whatever YAML may think of next.
_TYPED = {f"tag:yaml.org,2002:{name}" for name in ("bool", "int", "float", "null")}
_PLACEHOLDER = re.compile(r"\$\$\{|\$\{(?P<body>[^}]*)(?P<end>\}?)")
_URL_PREFIX = re.compile(r"\s*(?:(?:db|database)\+)?")
_VARIABLE = re.compile(
    r"(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?P<fallback>:-(?P<default>.*))?", re.DOTALL
)


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong with the file, and where."""

    path: KeyPath
    message: str
    line: int | None = None  # None: the line of the path


@dataclass(frozen=True, slots=True)
class Document:
    """A file's content as plain dicts, lists and scalars."""

    data: Any
    lines: dict[KeyPath, int]
    texts: dict[KeyPath, str]  # scalars as written, before ${VAR}: fit to be shown
    faults: list[Fault]

    def line(self, path: KeyPath) -> int | None:
        """Return the line of a key, or of the nearest thing around it that has one."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path)


def parse(text: str, env: Mapping[str, str], url_keys: frozenset[str]) -> Document:
    """Read the whole text; what is wrong stands in the document's faults.

    The values of ``url_keys`` are URLs: variables inside them are percent-encoded.
    """
    return _Parser(text, env, url_keys).document()


class ExpansionError(ValueError):
    """A ``${...}`` cannot be replaced."""


def expand(text: str, env: Mapping[str, str], *, in_url: bool = False) -> str:
    """Replace ``${VAR}`` and ``${VAR:-default}``; ``$${`` is a literal ``${``.

    Inside a URL the value is percent-encoded, so that any password works, unless the URL begins
    with it: then it is all of it, or its scheme and what follows.
    """
    start = _URL_PREFIX.match(text)
    problems: list[str] = []

    def value(match: re.Match[str]) -> str:
        if match["body"] is None:
            return "${"
        try:
            found = _lookup(match, env)
        except ExpansionError as error:
            problems.append(str(error))
            return match[0]
        begins = start is not None and match.start() == start.end()
        return quote(found, safe="") if in_url and not begins else found

    expanded = _PLACEHOLDER.sub(value, text)
    if problems:
        raise ExpansionError("; ".join(dict.fromkeys(problems)))
    return expanded


def _lookup(match: re.Match[str], env: Mapping[str, str]) -> str:
    variable = _VARIABLE.fullmatch(match["body"])
    if not match["end"] or variable is None or "${" in (variable["default"] or ""):
        raise ExpansionError(
            "a '${' begins no variable; write ${NAME} or ${NAME:-default}, and $${ for a plain ${"
        )
    found = env.get(variable["name"])
    if variable["fallback"] and not found:  # empty counts as unset, as in the shell
        return str(variable["default"])
    if found is None:
        raise ExpansionError(
            f"variable {variable['name']} is not set; set it, or write "
            f"${{{variable['name']}:-default}}"
        )
    if any("\ud800" <= character <= "\udfff" for character in found):
        raise ExpansionError(f"variable {variable['name']} is not UTF-8 text")
    return found


class _UnusableError(Exception):
    """A fault after which nothing more can be read."""


class _Parser:
    """Builds the document from YAML's events, so that nothing is made that it does not want."""

    def __init__(self, text: str, env: Mapping[str, str], url_keys: frozenset[str]) -> None:
        self._text = text
        self._env = env
        self._url_keys = url_keys
        self._lines: dict[KeyPath, int] = {}
        self._texts: dict[KeyPath, str] = {}
        self._faults: list[Fault] = []
        self._loader: Any = None

    def document(self) -> Document:
        data = None
        try:
            data = self._read()
        except yaml.MarkedYAMLError as error:
            # Only the problem: the snippet that PyYAML has beside it may show a password.
            self._syntax(str(error.problem), error.problem_mark)
        except yaml.reader.ReaderError as error:
            line = self._text.count("\n", 0, error.position) + 1
            self._faults.append(Fault((), f"YAML syntax: {error.reason}", line))
        except _UnusableError:
            pass
        return Document(data, self._lines, self._texts, self._faults)

    def _read(self) -> Any:
        self._loader = yaml.CSafeLoader(self._text)
        self._loader.get_event()  # the stream's start
        if self._loader.check_event(yaml.StreamEndEvent):
            return None
        self._loader.get_event()  # the document's start
        data = self._value(())
        self._loader.get_event()  # the document's end
        if not self._loader.check_event(yaml.StreamEndEvent):
            line = _line(self._loader.get_event())
            self._faults.append(Fault((), "only one YAML document is read", line))
        return data

    def _value(self, path: KeyPath) -> Any:
        event = self._loader.get_event()
        self._lines.setdefault(path, _line(event))  # a key has set its own
        if len(path) > _DEEPEST:
            self._faults.append(Fault(path[:3], f"is nested more than {_DEEPEST} deep"))
            raise _UnusableError
        if isinstance(event, yaml.MappingStartEvent):
            return self._mapping(path)
        if isinstance(event, yaml.SequenceStartEvent):
            return self._sequence(path)
        if isinstance(event, yaml.AliasEvent):
            self._faults.append(Fault(path, "YAML aliases are not read; use defaults: instead"))
            return None
        return self._scalar(path, event)

    def _mapping(self, path: KeyPath) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        while not self._loader.check_event(yaml.MappingEndEvent):
            event = self._loader.get_event()
            if not isinstance(event, yaml.ScalarEvent):
                self._faults.append(Fault(path, "a key must be plain text", _line(event)))
                raise _UnusableError
            child, line = (*path, event.value), _line(event)
            if event.value in mapping:
                first = self._lines[child]
                self._faults.append(Fault(child, f"is there already, in line {first}", line))
            self._lines.setdefault(child, line)
            mapping[event.value] = self._value(child)
        self._loader.get_event()
        return mapping

    def _sequence(self, path: KeyPath) -> list[Any]:
        items: list[Any] = []
        while not self._loader.check_event(yaml.SequenceEndEvent):
            items.append(self._value((*path, len(items))))
        self._loader.get_event()
        return items

    def _scalar(self, path: KeyPath, event: yaml.ScalarEvent) -> Any:
        self._texts[path] = event.value
        if event.tag is not None:
            self._faults.append(Fault(path, f"the YAML tag {event.tag} is not read; remove it"))
            return None
        tag = self._loader.resolve(yaml.ScalarNode, event.value, event.implicit)
        if tag in _TYPED:
            try:
                return self._loader.construct_object(yaml.ScalarNode(tag, event.value))
            except ValueError:  # "0x_", or thousands of digits: only looks like a number
                return event.value
        in_url = bool(path) and path[-1] in self._url_keys
        try:
            return expand(event.value, self._env, in_url=in_url)
        except ExpansionError as error:
            self._faults.append(Fault(path, str(error)))
            return None

    def _syntax(self, problem: str, mark: Any) -> None:
        where = f"column {mark.column + 1}: " if mark else ""
        line = mark.line + 1 if mark else None
        self._faults.append(Fault((), f"YAML syntax, {where}{problem}", line))


def _line(event: Any) -> int:
    return int(event.start_mark.line) + 1
