"""PURE: a number that follows the configuration, secrets too, and is no way to guess them.

Whoever can scrape reads it. A hash of a password, however slow, lets him try a list of passwords
at home. So a secret adds 12 bits of itself and no more: of a list of a million passwords he cannot
rule out 250, and one change in 4,096 goes unseen. Each secret always adds the same bits, and they
are only added up: else each edit of what stands beside a secret would tell 12 bits more of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256

from sqlalchemy import URL

from exporter.redaction import HIDDEN, SecretMask, names_a_secret

SECRET_BITS = 12
PUBLIC_BITS = 48 - SECRET_BITS  # a sample holds 53


def fingerprint(tree: Mapping[str, object]) -> float:
    """Return the number for these settings, by their keys."""
    public, told = sha256(), 0
    patterns = SecretMask()  # knows none by heart: those of another configuration do not count
    for path, secret, text in _leaves("", tree, secret=False):
        shown = HIDDEN if secret else patterns.mask(text)
        public.update(_bytes(f"{path}={shown}\n"))
        if shown != text:
            told += int.from_bytes(sha256(_bytes(text)).digest()[-2:])
    high = int.from_bytes(public.digest()[:8]) >> (64 - PUBLIC_BITS)
    return float((high << SECRET_BITS) + told % 2**SECRET_BITS)


def _leaves(path: str, value: object, *, secret: bool) -> Iterator[tuple[str, bool, str]]:
    """Yield all values with their paths, and whether a key above has the name of a secret."""
    if isinstance(value, URL):
        value = value._asdict()
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(f"{path}.{key}", item, secret=secret or names_a_secret(str(key)))
    elif isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        for number, item in enumerate(value):
            yield from _leaves(f"{path}.{number}", item, secret=secret)
    elif value is not None:
        yield path, secret, str(value)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")  # a variable may hold bytes that are no text
