"""The tasks of a saved group, from the bytes that Celery stored. Pure.

Nothing is ever unpickled: `pickletools.genops` names the opcodes, and what they would make is
followed with lists, tuples and names alone. A task is a result of its own: in a group in a group,
and as the body of a chord, but not as its parent. What each version stores: docs/groups.md.
"""

from __future__ import annotations

import json
import pickletools
from base64 import b64decode
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from exporter.backends.failures import BASE64_PICKLE
from exporter.counting.groups import Untold

LONGEST = 1_048_576  # bytes that are looked at
MOST_MEMBERS = 10_000
MOST_OPCODES = 200_000  # a member takes a dozen
MOST_NODES = 100_000  # results and groups within groups; a pickle may have one in itself
LONGEST_ID = 255  # characters, in the widest column that task ids are stored in


class UntoldError(Exception):
    """Bytes do not tell who the members are."""

    def __init__(self, reason: Untold) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True, eq=False)
class _Made:
    """An object that a pickle would make: only from what, not by which function or class."""

    arguments: Sequence[Any]


def task_ids(stored: bytes) -> list[str]:
    """Return the ids of a group's tasks, each once; raise UntoldError."""
    if len(stored) > LONGEST:
        raise UntoldError(Untold.TOO_LARGE)
    try:
        return _leaves(_decoded(stored))
    except UntoldError:
        raise
    except Exception:  # noqa: BLE001  # whatever hostile bytes do to a parser, they tell nothing
        raise UntoldError(Untold.NOT_UNDERSTOOD) from None


def _decoded(stored: bytes) -> Any:
    if stored.startswith(BASE64_PICKLE):
        stored = b64decode(stored)
    return _from_pickle(stored) if stored[:1] == b"\x80" else json.loads(stored)


def _leaves(group: Any) -> list[str]:
    """Walk through a group, whose results may be groups; see `celery.result.result_from_tuple`."""
    _, results = _parts(group)
    if results is None:
        raise ValueError("one task's result is no group")
    found: dict[str, None] = {}
    left = [*reversed(results)]
    for _ in range(MOST_NODES):
        if not left:
            return [*found]
        name, results = _parts(left.pop())
        if results is None:
            found[_id(name)] = None
        else:
            left += reversed(results)
        if len(found) > MOST_MEMBERS or len(left) > MOST_NODES:
            break
    raise UntoldError(Untold.TOO_LARGE)


def _parts(result: Any) -> tuple[Any, Sequence[Any] | None]:
    """Return the id of a result, and the results in it, if it is a group.

    Of objects the one comes first, and the other next, where a task's has its backend.
    """
    if isinstance(result, _Made):
        name, what, *_ = result.arguments
        if isinstance(what, tuple):  # of an app: _unpickle_appattr("GroupResult", (id, results))
            name, what, *_ = what
        return name, what if isinstance(what, list) else None
    (name, _), results = result  # each with its parent
    if not isinstance(results, list | None):
        raise TypeError("a group's results are a list")
    return name, results


def _id(name: Any) -> str:
    """Return what may be a task id: any database can be asked for it."""
    if not isinstance(name, str) or not 0 < len(name) <= LONGEST_ID:
        raise TypeError("no task has such an id")
    if name.isascii() and name.isprintable():
        return name
    raise ValueError("no task has such an id")


# -- pickles -------------------------------------------------------------------------------------


Step = Callable[["_Stack", Any], None]  # takes the opcode's argument


class _Stack:
    """What a pickle's opcodes would leave on theirs, as far as results are concerned.

    Of classes, dicts and states no more is kept than that they are there.
    """

    def __init__(self) -> None:
        self.items: list[Any] = []
        self._below: list[list[Any]] = []  # the marks
        self._memo: dict[int, Any] = {}

    def follow(self, opcode: pickletools.OpcodeInfo, argument: Any) -> None:
        """Do what an opcode would do."""
        step = _STEPS.get(opcode.name)
        if step is not None:
            step(self, argument)
        elif not opcode.stack_before:  # a number, a text, a class
            self.items += [argument for _ in opcode.stack_after]
        else:
            raise ValueError("results need no such opcode")

    def mark(self, _: Any) -> None:
        """Begin anew on top."""
        self._below.append(self.items)
        self.items = []

    def _since_mark(self) -> list[Any]:
        items, self.items = self.items, self._below.pop()
        return items

    def _take(self, count: int) -> list[Any]:
        """Take the topmost."""
        at = len(self.items) - count
        if at < 0:
            raise IndexError("there are not so many")
        taken = self.items[at:]
        del self.items[at:]
        return taken

    def memoize(self, _: Any) -> None:
        """Keep what is on top."""
        self.put(len(self._memo))

    def put(self, place: int) -> None:
        """Keep it in a place."""
        self._memo[place] = self.items[-1]

    def get(self, place: int) -> None:
        """Put on top what was kept."""
        self.items.append(self._memo[place])

    def empty_list(self, _: Any) -> None:
        """Make a list, of which no other has a part."""
        self.items.append([])

    def append(self, _: Any) -> None:
        """Add to a list."""
        more = self._take(1)
        self.items[-1].extend(more)

    def appends(self, _: Any) -> None:
        """Likewise, several."""
        more = self._since_mark()
        self.items[-1].extend(more)

    def tuple(self, _: Any) -> None:
        """Make a tuple."""
        made = tuple(self._since_mark())
        self.items.append(made)

    def small_tuple(self, size: int) -> None:
        """Make one of so many items."""
        self.items.append(tuple(self._take(size)))

    def make(self, _: Any) -> None:
        """Make an object, of a class and its arguments."""
        _, arguments = self._take(2)
        self.items.append(_Made(arguments))

    def name(self, _: Any) -> None:
        """Look for a class, by two names."""
        self._take(2)
        self.items.append(None)

    def drop(self, count: int) -> None:
        """Leave out what belongs to a dict or an object."""
        self._take(count)

    def drop_since_mark(self, _: Any) -> None:
        """Likewise, several."""
        self._since_mark()


def _fixed(step: Callable[[_Stack, int], None], count: int) -> Step:
    return lambda stack, _: step(stack, count)


_STEPS: dict[str, Step] = {
    "MARK": _Stack.mark,
    "MEMOIZE": _Stack.memoize,
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _Stack.put),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Stack.get),
    "EMPTY_LIST": _Stack.empty_list,
    "APPEND": _Stack.append,
    "APPENDS": _Stack.appends,
    "EMPTY_TUPLE": _fixed(_Stack.small_tuple, 0),
    "TUPLE1": _fixed(_Stack.small_tuple, 1),
    "TUPLE2": _fixed(_Stack.small_tuple, 2),
    "TUPLE3": _fixed(_Stack.small_tuple, 3),
    "TUPLE": _Stack.tuple,
    **dict.fromkeys(("REDUCE", "NEWOBJ"), _Stack.make),
    "STACK_GLOBAL": _Stack.name,
    "SETITEM": _fixed(_Stack.drop, 2),
    "SETITEMS": _Stack.drop_since_mark,
    "BUILD": _fixed(_Stack.drop, 1),
}


def _from_pickle(stored: bytes) -> Any:
    stack = _Stack()
    for number, (opcode, argument, _) in enumerate(pickletools.genops(stored)):
        if number == MOST_OPCODES:
            raise UntoldError(Untold.TOO_LARGE)
        if opcode.name != "STOP":  # which is the last
            stack.follow(opcode, argument)
    (made,) = stack.items
    return made
