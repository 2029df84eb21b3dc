"""What the documents say of the code is so."""

from __future__ import annotations

import pkgutil
import re
import subprocess
import tomllib
from pathlib import Path
from textwrap import indent
from typing import NamedTuple

import click
import pytest
import yaml

from exporter import commands, durations, flags
from exporter.backends.tables import FAMILIES, celery, kinds
from exporter.config import loading
from exporter.config.file import Entry
from exporter.config.settings import Settings, TableNames, TableSchemas
from exporter.counting.groups import Untold
from exporter.errors import Reason
from exporter.metrics import catalogue
from exporter.metrics.catalogue import CATALOGUE
from exporter.sql.dialects import Dialect, Limits
from exporter.web import webconfig
from tests.deploy.promql import family, faults, groups
from tests.docs import reference
from tests.docs.peers import THEIRS
from tests.servers.process import require
from tests.web.certificates import Authority

ROOT = reference.PAGE.parents[1]
DOCUMENTS = [
    *(
        ROOT / name
        for name in (
            "README.md",
            "CONTRIBUTING.md",
            "CHANGELOG.md",
            "SECURITY.md",
            "deploy/README.md",
            "deploy/helm/celery-results-exporter/README.md",
        )
    ),
    *sorted((ROOT / "docs").glob("*.md")),
]
README = (ROOT / "README.md").read_text()
ACCOUNTS, CONFIGURATION, METRICS, QUICK_START, RUNNING = (
    (ROOT / "docs" / f"{page}.md").read_text()
    for page in ("accounts", "configuration", "metrics", "quick-start", "running")
)
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LARGEST_PICTURE = 150 * 1024
LONGEST_README = 200  # lines
NONE = "–"  # noqa: RUF001 - in tables: there is no default

FLAGS = {
    flag.opts[0]: flag
    for flag in flags.options()
    if isinstance(flag, click.Option) and flag.opts[0] != "--version" and not flag.hidden
}

every_document = pytest.mark.parametrize(
    "document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT))
)


def blocks(text: str, language: str) -> list[str]:
    """Return the fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def rows(text: str) -> list[list[str]]:
    """Return the cells of a table's rows that begin with code, with the backticks taken off."""
    lines = re.findall(r"^\| (`.*) \|$", text, re.MULTILINE)
    return [[cell.strip("` ") for cell in line.split(" | ")] for line in lines]


def between(name: str) -> str:
    marked = rf"<!-- {name}:begin -->(.*)<!-- {name}:end -->"
    (found,) = re.findall(marked, CONFIGURATION, re.DOTALL)
    return found


def normal(requirement: str) -> str:
    """Return the name of a requirement as package indexes compare it."""
    return re.match(r"[\w.-]+", requirement)[0].lower()


# --- metrics ------------------------------------------------------------------------------------


def test_metrics_reference_is_current() -> None:
    assert reference.renewed(METRICS) == METRICS, "run: python -m tests.docs.reference"
    assert reference.table() in METRICS


def test_values_of_labels_are_those_of_the_code() -> None:
    values = {row[0]: set(re.findall(r"`([\w.-]+)`", f"`{row[1]}`")) for row in rows(METRICS)}
    assert values["reason"] == {*Reason, *Untold}
    assert values["table"] == set(kinds())
    columns = ({"name", "stamps"}, {"name"}, {"date_started"}, {"periodic_task_name"}, set[str]())
    versions = {family.version(some) for family in FAMILIES for some in columns}
    assert values["schema_family"] == versions


@every_document
def test_metrics_exist(document: Path) -> None:
    words = r"\bcelery_(?:task|group|backend|beat|results_exporter)_\w+"
    told = set(re.findall(words, document.read_text()))
    told -= {rule["record"] for group in groups("compatibility.yml") for rule in group["rules"]}
    if document.name == "migration.md":
        told -= THEIRS
    assert {name for name in told if name not in CATALOGUE and family(name) is None} == set()


class Query(NamedTuple):
    document: Path
    expression: str


QUERIES = [Query(path, query) for path in DOCUMENTS for query in blocks(path.read_text(), "promql")]


def test_queries_are_promql(tmp_path: Path) -> None:
    promtool_accepts([query.expression for query in QUERIES], tmp_path)


def promtool_accepts(expressions: list[str], tmp_path: Path) -> None:
    assert expressions
    rules = [{"record": f"query:{n}", "expr": one} for n, one in enumerate(expressions)]
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    promtool = require("promtool", "prometheus")
    done = subprocess.run(
        [promtool, "check", "rules", file], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query.expression.split("\n")[0])
def test_query_asks_for_what_is_served(query: Query) -> None:
    found = faults(query.expression)
    if query.document.name in {"counting.md", "exactness.md"}:  # totals themselves, on purpose
        found = [fault for fault in found if not fault.endswith("selector.ranged=False")]
    assert found == []


# --- configuration and command line -------------------------------------------------------------


def defaults() -> dict[str, object]:
    """Return the keys that ``defaults:`` may have, each with its default."""
    shown: dict[str, object] = {}
    for key, field in Settings.model_fields.items():
        default = field.get_default(call_default_factory=True)
        if isinstance(default, TableNames):
            shown |= {f"{key}.{layout.setting}": layout.name for layout in celery.FAMILY.layouts}
        elif isinstance(default, TableSchemas):
            shown |= {f"{key}.{part}": value for part, value in default}
        else:
            shown[key] = "true" if default is True else default
    return {key: NONE if default is None else default for key, default in shown.items()}


def test_every_shared_key_is_told_with_its_default() -> None:
    told = {key: default for key, _, default, _ in rows(between("shared-keys"))}
    kinds = {key: kind for key, kind, _, _ in rows(between("shared-keys"))}
    for key, default in defaults().items():
        if kinds[key] == "duration":
            assert durations.parse(told[key]) == default, key
        elif kinds[key] == "list of durations":
            bounds = told[key].strip("[]").split(", ")
            assert [durations.parse(bound) for bound in bounds] == default, key
        else:
            assert told[key] == str(default), key
    assert told.keys() == defaults().keys()


def test_every_key_of_a_backend_is_told() -> None:
    told = {row[0] for row in rows(between("backend-keys"))}
    own = Entry.model_fields.keys() - Settings.model_fields.keys()
    assert told == own


def test_example_of_a_file_loads(tmp_path: Path) -> None:
    (example,) = blocks(QUICK_START, "yaml")
    _, rules, expected_tasks, schedules = blocks(CONFIGURATION, "yaml")
    file = tmp_path / "config.yaml"
    file.write_text(schedules)
    (backend,) = loading.load(file, {"DJANGO_DB_PASSWORD": "p@ss"}).backends
    assert backend.beat_database is not None
    assert backend.beat_database.password == "p@ss"  # noqa: S105 - the example's
    *rest, labels = example.splitlines(keepends=True)
    pod = ("app.add", "SUCCESS", "celery@web-7d9f8b6c5-x2x4z", "mail")
    for content, expected in (
        (example, (*pod[:2], "", "mail")),
        ("".join(rest) + indent(rules + expected_tasks, "    "), (*pod[:2], "web", "")),
    ):
        file.write_text(content)
        (backend,) = loading.load(file, {"ORDERS_DB_PASSWORD": "p@ss"}).backends
        assert backend.url.password == "p@ss"  # noqa: S105 - the example's
        assert backend.relabelling()(catalogue.RESULTS, pod) == expected, labels
    assert [each.task for each in backend.expected] == ["reports.nightly", "sync.*"]


def test_example_of_a_web_configuration_loads(tmp_path: Path) -> None:
    (example,) = blocks(RUNNING, "yaml")
    authority = Authority()
    (tmp_path / "ca.crt").write_text(authority.cert)
    authority.pair("localhost").write(tmp_path, "server")
    file = tmp_path / "web.yaml"
    file.write_text(example)
    config = webconfig.load(file)
    assert config.tls is not None
    assert (config.users or {}).keys() == {"prometheus"}


def test_readme_is_short_and_begins_as_the_quick_start_does() -> None:
    assert len(README.splitlines()) < LONGEST_README
    start, more = README.partition("## Quick start")[2], QUICK_START
    assert blocks(start, "yaml") == blocks(more, "yaml")
    lines = {line for block in blocks(more, "sh") for line in block.splitlines()}
    assert {line for block in blocks(start, "sh") for line in block.splitlines()} <= lines


def test_quick_start_begins_with_the_driver_it_uses() -> None:
    first = blocks(QUICK_START, "sh")[0].splitlines()
    (driver,) = re.findall(r"db\+postgresql\+(\w+)://", "".join(first))
    (extra,) = re.findall(r"^pip install '\.\[(\w+)\]'", first[0])
    wanted = PROJECT["project"]["optional-dependencies"][extra]
    assert driver in {normal(requirement) for requirement in wanted}


def test_every_flag_is_told() -> None:
    told = {row[0]: row for row in rows(RUNNING) if row[0].startswith("--")}
    del told["--version`, `--help"]
    assert told.keys() == FLAGS.keys()
    for name, flag in FLAGS.items():
        _, variable, _, meaning = told[name]
        assert variable == flag.envvar
        if isinstance(flag.type, click.Choice):
            assert set(flag.type.choices) <= set(re.findall(r"\w+", meaning))


def test_every_command_is_told() -> None:
    (section,) = re.findall(r"^## Command line\n(.*?)^## ", RUNNING, re.DOTALL | re.MULTILINE)
    modules = pkgutil.iter_modules(commands.__path__)
    assert {module.name for module in modules} == {
        r[0] for r in rows(section) if not r[0].startswith("--")
    }


@every_document
def test_flags_exist(document: Path) -> None:
    found = re.findall(r"--(?:celery|config|log|web)\.[\w.-]*\w", document.read_text())
    assert set(found) <= FLAGS.keys()


# --- links and names ----------------------------------------------------------------------------


def anchors(document: Path) -> set[str]:
    """Return the anchors that a document's headings make."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


@every_document
def test_tests_that_are_named_exist(document: Path) -> None:
    for path in re.findall(r"`(tests/[\w/]+(?:\.py)?)`", document.read_text()):
        assert (ROOT / path).exists(), path


@every_document
def test_relative_links_lead_somewhere(document: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        if re.match(r"https?://", link):
            continue
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_pictures_are_small() -> None:
    for picture in (ROOT / "docs").glob("*.png"):
        assert 0 < picture.stat().st_size < LARGEST_PICTURE, picture


@every_document
def test_make_targets_exist(document: Path) -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    told = re.findall(r"(?:^|`)make ([a-z]+)", document.read_text(), re.MULTILINE)
    assert set(told) <= targets


def test_every_rule_that_the_code_names_is_told() -> None:
    told = set(
        re.findall(r"^## (R\d+):", (ROOT / "docs" / "counting.md").read_text(), re.MULTILINE)
    )
    source = "".join(path.read_text() for path in (ROOT / "exporter").rglob("*.py"))
    assert told == {f"R{number}" for number in range(14)}
    assert set(re.findall(r"\bR\d+\b", source)) <= told


def test_layers_are_those_that_are_checked() -> None:
    layers = {
        contract["containers"][0]: contract["layers"]
        for contract in PROJECT["tool"]["importlinter"]["contracts"]
        if contract["type"] == "layers"
    }
    (rooms,), (modules,) = blocks(CONTRIBUTING, "rooms"), blocks(CONTRIBUTING, "modules")
    assert rooms.splitlines() == layers.pop("exporter")
    assert modules.splitlines() == [
        f"{room.removeprefix('exporter.')}: {' > '.join(within)}" for room, within in layers.items()
    ]


def test_every_dependency_has_its_reason() -> None:
    project = PROJECT["project"]
    wanted = [
        *project["dependencies"],
        *(one for extra in project["optional-dependencies"].values() for one in extra),
        *PROJECT["dependency-groups"]["dev"],
    ]
    told = {name for row in rows(CONTRIBUTING) for name in re.split(r"`, `", row[0])}
    assert {normal(requirement) for requirement in wanted} <= told


def test_column_grants_are_the_columns_that_are_read() -> None:
    granted = re.findall(r"^GRANT SELECT \((.*)\) ON (\w+)", ACCOUNTS, re.MULTILINE)
    assert {table: set(columns.split(", ")) for columns, table in granted} == {
        layout.name: {*layout.required, *layout.optional} - {layout.members}
        for family in FAMILIES
        for layout in family.layouts
    }


def test_a_database_without_a_file_of_its_own_gets_the_defaults() -> None:
    """As CONTRIBUTING.md has it; with one, its file is found by its name."""
    from exporter.sql import dialects  # noqa: PLC0415

    limits = Limits(1.0, 1.0)
    assert type(dialects.of("oracle", limits)) is Dialect
    for file in Path(dialects.__file__).parent.glob("[a-z]*.py"):
        assert type(dialects.of(file.stem, limits)) is not Dialect
