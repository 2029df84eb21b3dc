"""Database drivers by name: what a person has to do about the mistakes that they report.

What they raise for a mistake of their user is of any type; it is known here by its words.
"""

from __future__ import annotations

import re

CHECK_ARGUMENTS = "check connect_args, and what follows '?' in the URL"
_NO_SUCH_ARGUMENT = re.compile(
    r"""(?:unexpected keyword argument|Unsupported argument|invalid connection option) ["'](\w+)"""
    r"""|^'(\w+)' is an invalid keyword argument"""
)
_NO_SUCH_PACKAGE = re.compile(r"^'(\w+)' package is required")  # PyMySQL, where a server asks
_PACKAGES = {
    "cryptography": "'pymysql[rsa]'",
    "pynacl": "'celery-results-exporter[ed25519]'",
}


def mistake(words: str, driver: str) -> str:
    """Say what the user of a driver did wrong, by the words it failed with; else ""."""
    if found := _NO_SUCH_ARGUMENT.search(words):
        return f"driver {driver!r} takes no argument {found[1] or found[2]!r}; {CHECK_ARGUMENTS}"
    if found := _NO_SUCH_PACKAGE.search(words):
        return f"{words}: pip install {_PACKAGES.get(found[1], found[1])}"
    return ""
