"""TLS of the server: certificates and versions -> a context; by Go's names for things."""

from __future__ import annotations

import os
import re
import ssl
import tempfile
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

REQUIRED = ("RequireAndVerifyClientCert", "RequireAnyClientCert", "RequireClientCert")
# Python's ssl cannot ask for a certificate that it does not verify: those who would take any are
# stricter here, and need a CA. To ask for one and not to look at it is not to ask.
VERIFIED = (*REQUIRED, "VerifyClientCertIfGiven")

# Go's crypto/tls.CipherSuites and OpenSSL's name of each; "": TLS 1.3, where none is chosen.
CIPHERS = {
    "TLS_AES_128_GCM_SHA256": "",
    "TLS_AES_256_GCM_SHA384": "",
    "TLS_CHACHA20_POLY1305_SHA256": "",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA": "ECDHE-ECDSA-AES128-SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA": "ECDHE-ECDSA-AES256-SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA": "ECDHE-RSA-AES128-SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA": "ECDHE-RSA-AES256-SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256": "ECDHE-ECDSA-AES128-GCM-SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384": "ECDHE-ECDSA-AES256-GCM-SHA384",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256": "ECDHE-RSA-AES128-GCM-SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384": "ECDHE-RSA-AES256-GCM-SHA384",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-RSA-CHACHA20-POLY1305",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-ECDSA-CHACHA20-POLY1305",
}
_VERSIONS = {
    "TLS10": ssl.TLSVersion.TLSv1,
    "TLS11": ssl.TLSVersion.TLSv1_1,
    "TLS12": ssl.TLSVersion.TLSv1_2,
    "TLS13": ssl.TLSVersion.TLSv1_3,
}


_BEGIN = "-----BEGIN {}-----"
_CERTIFICATE = re.compile(b"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
# As OpenSSL says that key and certificate are of two pairs, of the same kind or not.
_FOREIGN = ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED")


class UnusableError(Exception):
    """A certificate, key or CA that cannot be used; `key` names which."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key


def context(
    cert: str | Path,
    key: str | Path,
    client_ca: str | Path | None,
    *,
    required: bool,
    versions: tuple[str, str],
    ciphers: Sequence[str],
    prefer_ours: bool,
) -> ssl.SSLContext:
    """Return a server's context, of PEM text or files; raise UnusableError."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version, made.maximum_version = (_VERSIONS[name] for name in versions)
    if named := [CIPHERS[name] for name in ciphers if CIPHERS[name]]:
        made.set_ciphers(":".join(named))
    if prefer_ours:
        made.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
    else:
        made.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    _load_pair(made, _pem("cert", cert), _pem("key", key))
    if client_ca is not None:
        _load_certificates(made, "client_ca", _pem("client_ca", client_ca))
        made.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # any of them vouches, as in Go
        made.verify_mode = ssl.CERT_REQUIRED if required else ssl.CERT_OPTIONAL
    return made


def names(certificate: dict[str, Any] | bytes | None) -> frozenset[str]:
    """Return the subject alternative names of a client's certificate: DNS, IP, e-mail, URI."""
    fields = certificate if isinstance(certificate, dict) else {}
    return frozenset(plain_name(value) for _, value in fields.get("subjectAltName", ()))


def plain_name(name: str) -> str:
    """Return a name in its one form: there are many for an IPv6 address."""
    try:
        return str(ip_address(name))
    except ValueError:
        return name


def _pem(key: str, given: str | Path) -> bytes:
    if isinstance(given, str):
        return given.encode()
    try:
        return given.read_bytes()
    except OSError as error:
        raise UnusableError(key, f"cannot be read: {error.strerror}") from None


def _load_certificates(made: ssl.SSLContext, key: str, content: bytes) -> None:
    """Trust these certificates."""
    try:
        made.load_verify_locations(cadata=content.decode("ascii", "ignore"))
    except (ssl.SSLError, ValueError):
        raise UnusableError(key, _no_pem(content, "CERTIFICATE")) from None


def _load_pair(made: ssl.SSLContext, cert: bytes, key: bytes) -> None:
    """Load both as they were read: from the files themselves, one may have changed since."""
    _load_certificates(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), "cert", cert)  # only to look at
    fault = _refused(made, cert, key)
    if fault is None:
        return
    if b"ENCRYPTED" in key:
        raise UnusableError("key", "is encrypted; decrypt it with openssl pkey")
    if fault in _FOREIGN:
        scratch = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        if any(_refused(scratch, later, key) is None for later in _CERTIFICATE.findall(cert)[1:]):
            raise UnusableError("cert", "begins with another certificate; put the key's own first")
        raise UnusableError("key", "does not belong to the certificate")
    if fault:  # a key too short, for one
        raise UnusableError("cert", f"is refused by OpenSSL: {fault.replace('_', ' ').lower()}")
    raise UnusableError("key", _no_pem(key, "PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY"))


def _no_pem(content: bytes, *labels: str) -> str:
    if any(_BEGIN.format(label).encode() in content for label in labels):
        return "is damaged"
    return f"has no line {_BEGIN.format(labels[0])}: is it PEM, and the right file?"


def _refused(made: ssl.SSLContext, cert: bytes, key: bytes) -> str | None:
    """Load a pair; return OpenSSL's name for what is wrong, which may be empty, or None.

    OpenSSL would ask the terminal for the passphrase of an encrypted key.
    """
    with _file(cert) as cert_path, _file(key) as key_path:
        try:
            made.load_cert_chain(cert_path, key_path, password=lambda: "")
        except ssl.SSLError as error:
            return error.reason or ""
    return None


@contextmanager
def _file(content: bytes) -> Iterator[str]:
    """Give what OpenSSL reads from files only; in memory, where the system can."""
    if hasattr(os, "memfd_create"):
        with os.fdopen(os.memfd_create("pem"), "wb") as file:
            file.write(content)
            file.flush()
            yield f"/proc/self/fd/{file.fileno()}"
        return
    with tempfile.NamedTemporaryFile() as file:  # nobody else may read it
        file.write(content)
        file.flush()
        yield file.name
