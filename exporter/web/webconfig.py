"""The file of `--web.config.file`: TLS, headers, users, rate limit, in exporter-toolkit's format.

The format: https://github.com/prometheus/exporter-toolkit/blob/master/docs/web-configuration.md
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError

from exporter import durations
from exporter.config.faults import lines, model_faults
from exporter.config.file import path_of
from exporter.config.loading import read_text
from exporter.config.model import Model, Text, seconds
from exporter.config.yamlfile import Fault, parse
from exporter.errors import ConfigError
from exporter.web import tls

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator, Mapping

_HEADERS: Mapping[str, tuple[str, ...]] = {  # the toolkit's closed list, each with its values
    "Content-Security-Policy": (),
    "Strict-Transport-Security": (),
    "X-Content-Type-Options": ("nosniff",),
    "X-Frame-Options": ("deny", "sameorigin"),
    "X-XSS-Protection": (),
}
_BCRYPT = re.compile(r"\$2[abxy]\$(0[4-9]|[12]\d|3[01])\$[./A-Za-z0-9]{53}")
_NOT_HONOURED = "is accepted, but has no effect here"
_Version = Literal["TLS10", "TLS11", "TLS12", "TLS13"]
_ClientAuth = Literal[
    "NoClientCert",
    "RequestClientCert",
    "RequireAnyClientCert",
    "RequireClientCert",  # what RequireAnyClientCert was called before
    "VerifyClientCertIfGiven",
    "RequireAndVerifyClientCert",
]


def _header(value: str) -> str:
    if not value.isprintable() or not value.isascii():
        raise ValueError("holds a character that no header may")
    return value


def _headers(headers: dict[str, str]) -> dict[str, str]:
    for name, value in headers.items():
        if name not in _HEADERS:
            raise ValueError(f"cannot set {name!r}; it may set {', '.join(_HEADERS)}")
        if (known := _HEADERS[name]) and value and value not in known:
            raise ValueError(f"{name} is {' or '.join(known)}, not {value!r}")
    return {name: value for name, value in headers.items() if value}


def _bcrypt(value: str) -> str:
    if not _BCRYPT.fullmatch(value):
        raise ValueError("is no bcrypt hash; make one with htpasswd -nBC 10 USER")
    return value


def _cipher(value: str) -> str:
    if value not in tls.CIPHERS:
        raise ValueError(f"is no cipher suite; known: {', '.join(tls.CIPHERS)}")
    return value


_File = Annotated[Path, BeforeValidator(path_of)]


class TLSServerConfig(Model, frozen=True):
    """``tls_server_config``."""

    cert: str | None = None
    key: str | None = Field(None, repr=False)
    client_ca: str | None = None
    cert_file: _File | None = None
    key_file: _File | None = None
    client_ca_file: _File | None = None
    client_auth_type: _ClientAuth = "NoClientCert"
    client_allowed_sans: tuple[Text, ...] = Field((), strict=False)
    min_version: _Version = "TLS12"
    max_version: _Version = "TLS13"
    cipher_suites: tuple[Annotated[str, AfterValidator(_cipher)], ...] = Field((), strict=False)
    prefer_server_cipher_suites: bool = True
    curve_preferences: tuple[Text, ...] | None = Field(None, strict=False)


class HTTPServerConfig(Model, frozen=True):
    """``http_server_config``."""

    http2: bool | None = None
    headers: Annotated[
        dict[str, Annotated[str, AfterValidator(_header)]], AfterValidator(_headers)
    ] = Field(default_factory=dict)


class RateLimit(Model, frozen=True):
    """``rate_limit``: `burst` requests at once, and one more after each `interval` of seconds."""

    interval: Annotated[float, seconds(durations.parse_go)] = 0.0
    burst: Annotated[int, Field(ge=0)] = 0


class File(Model, frozen=True):
    """The whole file."""

    tls_server_config: TLSServerConfig | None = None
    http_server_config: HTTPServerConfig = HTTPServerConfig()
    basic_auth_users: dict[str, Annotated[str, AfterValidator(_bcrypt)]] = Field(
        default_factory=dict, repr=False
    )
    rate_limit: RateLimit = RateLimit()


Stamp = tuple[int, ...]
NO_LIMIT = RateLimit()


def stamp(path: Path) -> Stamp:
    """Return what changes with a file; links are followed, since Kubernetes swaps those."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_mtime_ns, found.st_ino, found.st_size


@dataclass(frozen=True, slots=True)
class WebConfig:
    """What the server needs of it."""

    tls: ssl.SSLContext | None = None  # None: plain HTTP
    sans: frozenset[str] = frozenset()  # of a client's certificate, one must be; empty: any
    headers: tuple[tuple[str, str], ...] = ()
    users: Mapping[str, str] | None = None  # name -> bcrypt hash; None: nobody is asked
    rate_limit: RateLimit = NO_LIMIT
    files: tuple[tuple[Path, Stamp], ...] = ()  # that it was read from, as they were then
    warnings: tuple[str, ...] = ()  # what has no effect


def load(path: Path) -> WebConfig:
    """Read the file and what it names; raise ConfigError with everything that is wrong with it."""
    files = [(path, stamp(path))]  # before they are read: what changes then is read again
    document = parse(read_text(path), {}, frozenset())
    faults, file = list(document.faults), File()
    if document.data is not None:  # an empty file is plain HTTP, as the toolkit has it
        try:
            file = File.model_validate(document.data, context=path.parent.absolute())
        except ValidationError as error:
            faults += model_faults(error, document, File)
    config, context = file.tls_server_config, None
    if config is not None and not faults:
        named = (config.cert_file, config.key_file, config.client_ca_file)
        files += [(one, stamp(one)) for one in named if one is not None]
        faults += _faults_between(config)
    if config is not None and not faults:
        try:
            context = _context(config)
        except tls.UnusableError as error:
            key = error.key if getattr(config, error.key) is not None else f"{error.key}_file"
            faults.append(Fault(("tls_server_config", key), str(error)))
    if file.rate_limit.interval and not file.rate_limit.burst:
        faults.append(Fault(("rate_limit", "burst"), "is 0: that would let no request pass"))
    if faults:
        raise ConfigError(lines(path, document, faults))
    return WebConfig(
        tls=context,
        sans=frozenset(map(tls.plain_name, config.client_allowed_sans)) if config else frozenset(),
        headers=tuple(file.http_server_config.headers.items()),
        users=file.basic_auth_users or None,
        rate_limit=file.rate_limit,
        files=tuple(files),
        warnings=tuple(f"{path}: {warning}" for warning in _warnings(file)),
    )


def _warnings(file: File) -> list[str]:
    found = []
    config = file.tls_server_config
    if file.http_server_config.http2:
        found.append(f"http_server_config.http2 {_NOT_HONOURED}: HTTP/1.1 is served")
    if config is not None and config.curve_preferences:
        found.append(f"tls_server_config.curve_preferences {_NOT_HONOURED}: OpenSSL chooses")
    return found


def _faults_between(config: TLSServerConfig) -> Iterator[Fault]:
    """Find keys that exclude or need each other."""
    place = ("tls_server_config",)
    for key in ("cert", "key", "client_ca"):
        given = [name for name in (key, f"{key}_file") if getattr(config, name) is not None]
        if len(given) > 1:
            yield Fault((*place, f"{key}_file"), f"stands beside {key}; keep one")
        elif not given and key != "client_ca":
            yield Fault(place, f"has neither {key} nor {key}_file")
    auth, has_ca = config.client_auth_type, bool(config.client_ca or config.client_ca_file)
    if has_ca and auth == "NoClientCert":
        yield Fault((*place, "client_auth_type"), "asks nobody for a certificate, but a CA is set")
    if auth in tls.VERIFIED and not has_ca:
        yield Fault((*place, "client_auth_type"), f"{auth} needs client_ca or client_ca_file")
    if config.client_allowed_sans and auth not in tls.REQUIRED:
        needed = " or ".join(tls.REQUIRED[:2])
        yield Fault((*place, "client_allowed_sans"), f"needs client_auth_type to be {needed}")
    if config.min_version > config.max_version:
        above = f"is {config.min_version}, above max_version {config.max_version}"
        yield Fault((*place, "min_version"), above)


def _context(config: TLSServerConfig) -> ssl.SSLContext:
    return tls.context(
        config.cert or config.cert_file or "",
        config.key or config.key_file or "",
        config.client_ca or config.client_ca_file,
        required=config.client_auth_type in tls.REQUIRED,
        versions=(config.min_version, config.max_version),
        ciphers=config.cipher_suites,
        prefer_ours=config.prefer_server_cipher_suites,
    )
