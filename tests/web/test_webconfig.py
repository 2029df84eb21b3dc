"""Files for --web.config.file: the good ones load, the bad ones say why, where and what to do.

A bad file's first line is the line and the message that it must bring.
"""

from __future__ import annotations

import shutil
import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from exporter.errors import ConfigError
from exporter.web.webconfig import load
from tests.servers.process import require
from tests.web.certificates import Authority, PrivateKey

FILES = Path(__file__).with_name("webconfig")
NO_ENCRYPTION = NoEncryption()
# As `openssl ecparam -genkey` writes it before the key.
EC_PARAMETERS = b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
WARNED = {"everything": ["curve_preferences"], "http2": ["http2"]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates that the files name."""
    path = tmp_path_factory.mktemp("web")
    authority = Authority()
    (path / "ca.crt").write_text(authority.cert)
    pair = authority.pair("127.0.0.1")
    pair.write(path, "server")
    authority.pair("127.0.0.1").write(path, "other")
    weak = rsa.generate_private_key(65537, 1024)  # noqa: S505
    authority.pair("127.0.0.1", key=weak).write(path, "weak")
    damaged = pair.cert.replace("M", "N", 5)
    for name, text in {
        "chain.crt": pair.cert + authority.cert,
        "wrong-order.crt": authority.cert + pair.cert,
        "one.pem": pair.key + pair.cert,
        "damaged.crt": damaged,
        "damaged-chain.crt": pair.cert + damaged,
        "damaged.key": pair.key.replace("M", "N", 5),
        "empty": "",
        "rsa.key": private(rsa.generate_private_key(65537, 2048)).decode(),
    }.items():
        (path / name).write_text(text)
    (path / "der.crt").write_bytes(ssl.PEM_cert_to_DER_cert(pair.cert))
    key = serialization.load_pem_private_key(pair.key.encode(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    secret = BestAvailableEncryption(b"hunter2")
    (path / "der.key").write_bytes(private(key, Encoding.DER))
    (path / "encrypted.key").write_bytes(private(key, encryption=secret))
    old = PrivateFormat.TraditionalOpenSSL
    (path / "encrypted-old.key").write_bytes(private(key, form=old, encryption=secret))
    (path / "old.key").write_bytes(EC_PARAMETERS + private(key, form=old))
    (path / "public.key").write_bytes(
        key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    return path


def private(
    key: PrivateKey,
    encoding: Encoding = Encoding.PEM,
    form: PrivateFormat = PrivateFormat.PKCS8,
    encryption: KeySerializationEncryption = NO_ENCRYPTION,
) -> bytes:
    return key.private_bytes(encoding, form, encryption)


def named(pattern: str) -> list[str]:
    return sorted(path.name.removesuffix(pattern) for path in FILES.glob(f"*{pattern}"))


@pytest.mark.parametrize("name", named(".good.yaml"))
def test_good(name: str, folder: Path) -> None:
    """For promtool, too."""
    path = Path(shutil.copy(FILES / f"{name}.good.yaml", folder))
    config = load(path)
    keys = [warning.split(": ")[1].split(" ")[0].rpartition(".")[2] for warning in config.warnings]
    assert keys == WARNED.get(name, [])
    path.write_text(yaml.safe_dump(without_what_is_newer(yaml.safe_load(path.read_text()))))
    promtool = require("promtool", "prometheus")
    run = subprocess.run(
        [promtool, "check", "web-config", str(path)], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr


def without_what_is_newer(config: dict[str, Any] | None) -> dict[str, Any]:
    """Leave out what Debian's promtool does not know yet."""
    known = {key: value for key, value in (config or {}).items() if key != "rate_limit"}
    known.get("tls_server_config", {}).pop("client_allowed_sans", None)
    return known


@pytest.mark.parametrize("name", named(".bad.yaml"))
def test_bad(name: str, folder: Path) -> None:
    path = Path(shutil.copy(FILES / f"{name}.bad.yaml", folder))
    with pytest.raises(ConfigError) as raised:
        load(path)
    (fault,) = raised.value.faults
    expected = path.read_text().splitlines()[0].removeprefix("# ")
    assert fault.startswith(f"{path}:{expected}")
    assert "hunter2" not in fault
