"""config.example.yaml is complete and right."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from exporter.config import loading
from exporter.config.file import CheckpointPlace, Entry, File
from exporter.config.settings import TableNames, TableSchemas

EXAMPLE = Path(__file__).parents[2] / "config.example.yaml"
ENV = {"ORDERS_DB_PASSWORD": "p@ss"}


@pytest.fixture
def example(tmp_path: Path) -> Path:
    """Give a copy beside the secrets it names."""
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "mail-url").write_text("db+postgresql://reader:x@db.example/mail\n")
    (tmp_path / "secrets" / "shop-password").write_text("s3cr3t-pw\n")
    return Path(shutil.copy(EXAMPLE, tmp_path))


def test_loads(example: Path) -> None:
    orders, mail, shop = loading.load(example, ENV).backends
    assert (orders.name, orders.url.password) == ("orders", "p@ss")
    assert (mail.url.host, mail.timezone.key) == ("db.example", "Asia/Tokyo")
    assert (shop.connection_url().password, shop.poll_interval) == ("s3cr3t-pw", 5.0)


def test_has_every_key() -> None:
    """And no other; what the models do not know would not load."""
    content: dict[str, Any] = yaml.safe_load(EXAMPLE.read_text())
    entries = {key for entry in content["backends"] for key in entry} | set(content["defaults"])
    entries |= set(re.findall(r"^    # (\w+): [\w.]", EXAMPLE.read_text(), re.MULTILINE))
    assert set(File.model_fields) == set(content)
    assert set(Entry.model_fields) == entries
    orders = content["backends"][0]
    assert set(TableNames.model_fields) == set(orders["database_table_names"])
    assert set(TableSchemas.model_fields) == set(orders["database_table_schemas"])
    told = re.findall(r"^# (\w+)  ", EXAMPLE.read_text(), re.MULTILINE)  # they exclude each other
    assert set(CheckpointPlace.model_fields) == set(told)


def test_shows_the_defaults(tmp_path: Path) -> None:
    """Its `defaults:` change nothing: they are what holds without them."""
    content: dict[str, Any] = yaml.safe_load(EXAMPLE.read_text())
    path = tmp_path / "config.yaml"
    backends = [{"name": "a", "result_backend": "sqlite:////x"}]
    path.write_text(yaml.safe_dump({"backends": backends, "defaults": content["defaults"]}))
    with_them = loading.load(path, {}).backends
    path.write_text(yaml.safe_dump({"backends": backends}))
    assert with_them == loading.load(path, {}).backends
    assert len(content["defaults"]) >= 9
