"""Certificates for tests: an authority of its own, and whom it vouches for."""

from __future__ import annotations

import datetime as dt
import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

if TYPE_CHECKING:
    from pathlib import Path

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
DAY = dt.timedelta(days=1)


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, as PEM text."""

    cert: str
    key: str

    def write(self, folder: Path, name: str) -> tuple[Path, Path]:
        """Write both to files."""
        paths = folder / f"{name}.crt", folder / f"{name}.key"
        for path, text in zip(paths, (self.cert, self.key), strict=True):
            path.write_text(text)
        return paths


class Authority:
    """Signs certificates of a day."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name("tests")
        self._made = self._sign(self._key, self._name, [], ca=True)
        self.cert = self._made.public_bytes(serialization.Encoding.PEM).decode()

    def pair(self, *names: str, key: PrivateKey | None = None) -> Pair:
        """Return a certificate for these subject alternative names."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        made = self._sign(key, _name("somebody"), [_general(name) for name in names], ca=False)
        pem = serialization.Encoding.PEM
        return Pair(
            made.public_bytes(pem).decode(),
            key.private_bytes(
                pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ).decode(),
        )

    def _sign(
        self,
        key: PrivateKey,
        name: x509.Name,
        names: list[x509.GeneralName],
        *,
        ca: bool,
    ) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - DAY)
            .not_valid_after(now + DAY)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self._key, hashes.SHA256())


def _general(name: str) -> x509.GeneralName:
    if "://" in name:
        return x509.UniformResourceIdentifier(name)
    if "@" in name:
        return x509.RFC822Name(name)
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
