"""Basic authentication: passwords compared with their bcrypt hashes, off the serving thread.

As in exporter-toolkit an unknown user is compared, too; and whatever a hash costs, a wrong password
takes as long as the dearest of them does. So time does not tell who there is.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import os
from collections import Counter, OrderedDict
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_NOBODY = "$2b${:02}$swyC6.T132Ov7wrQIInXO.T4uZJI5sFTaDFRy/pYfOZJ8xe2SdjSW"  # what nobody knows
_MOST_WAITING = 16  # comparisons; each takes some 0.1 s of a core
_MOST_OF_ONE = 2  # of these from one address, so that who guesses leaves room for others
_MOST_WRONG = 100  # wrong passwords that are remembered
_LONGEST = 72  # bytes of a password that bcrypt looks at


class BusyError(Exception):
    """Too many comparisons wait: somebody is guessing."""


class Passwords:
    """Compares one at a time; what was compared before is known by a keyed hash only.

    What is right is remembered for each user apart, so that no guesses push it out.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "passwords")
        self._secret = os.urandom(32)
        self._right: dict[str, bytes] = {}  # by user
        self._wrong: OrderedDict[bytes, None] = OrderedDict()
        self._waiting: Counter[str] = Counter()  # by address

    async def are_right(self, users: Mapping[str, str], authorization: str, address: str) -> bool:
        """Say whether a header names a user and the password; raise BusyError."""
        user, password = _credentials(authorization)
        if user is None:
            return False
        dearest = max(map(_cost, users.values()))
        stored = users.get(user, _NOBODY.format(dearest))
        known = self._digest(user, stored, password)
        if user in users and hmac.compare_digest(self._right.get(user, b""), known):
            return True
        if known in self._wrong:
            return False
        if self._waiting.total() >= _MOST_WAITING or self._waiting[address] >= _MOST_OF_ONE:
            raise BusyError
        self._waiting[address] += 1
        try:
            loop = asyncio.get_running_loop()
            equal = await loop.run_in_executor(self._thread, _equal, password, stored, dearest)
        finally:
            self._waiting[address] -= 1
            self._waiting += Counter()  # forget those of whom none waits
        if equal and user in users:
            self._right[user] = known
            return True
        self._wrong[known] = None
        if len(self._wrong) > _MOST_WRONG:
            self._wrong.popitem(last=False)
        return False

    def stop(self) -> None:
        """End the thread; what waits is not compared."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _digest(self, user: str, stored: str, password: bytes) -> bytes:
        parts = (user.encode(), stored.encode(), password)
        message = b"".join(len(part).to_bytes(8) + part for part in parts)
        return hmac.new(self._secret, message, hashlib.sha256).digest()


def _credentials(authorization: str) -> tuple[str | None, bytes]:
    scheme, _, encoded = authorization.partition(" ")
    if scheme.lower() != "basic":
        return None, b""
    try:
        user, colon, password = base64.b64decode(encoded, validate=True).partition(b":")
        return (user.decode(), password) if colon else (None, b"")
    except (binascii.Error, ValueError):
        return None, b""


def _cost(stored: str) -> int:
    """Return the base-2 logarithm of how many rounds a hash takes."""
    return int(stored.split("$")[2])


def _equal(password: bytes, stored: str, dearest: int) -> bool:
    """Compare; where that fails, go on until 2 ** dearest rounds were done."""
    if _matches(password, stored):
        return True
    for cost in range(_cost(stored), dearest):  # 2 ** 8 + (2 ** 8 + 2 ** 9) == 2 ** 10
        _matches(password, _NOBODY.format(cost))
    return False


def _matches(password: bytes, stored: str) -> bool:
    import bcrypt  # noqa: PLC0415 - only where there are users

    try:
        return bcrypt.checkpw(password[:_LONGEST], stored.encode())
    except ValueError:  # it only looks like a hash
        return False
