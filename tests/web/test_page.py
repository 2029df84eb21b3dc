"""The status page tells people what is going on, and nobody else's markup gets in."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest

from exporter.printable import printable
from exporter.web.page import LONGEST_STATE, badge, breakable, busiest, render
from exporter.web.status import BackendStatus, ServiceStatus, TableStatus, TaskStatus

NOW = 1_800_000_000.0  # 2027-01-15 08:00:00 UTC
VOID = {"meta", "link", "wbr"}


class Page(HTMLParser):
    """A page as its reader meets it; fails where the markup is not well nested."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.rows: list[list[str]] = []
        self.words = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            return
        self.words += data
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data

    def row(self, first: str) -> list[str]:
        """Return the cells of the row that starts with this text."""
        (found,) = [row for row in self.rows if row[0].strip() == first]
        return [" ".join(cell.split()) for cell in found]


def backend(**changes: object) -> BackendStatus:
    values: dict[str, object] = {
        "name": "orders",
        "up": True,
        "message": "",
        "server": "PostgreSQL 15.18, psycopg",
        "poll_interval": 15.0,
        "last_poll": NOW - 4,
        "poll_duration": 0.012,
    }
    return BackendStatus(**(values | changes))  # type: ignore[arg-type]


def service(*backends: BackendStatus) -> ServiceStatus:
    return ServiceStatus("1.2.3", NOW - 7200, backends)


def task(name: str, **finished: int) -> TaskStatus:
    return TaskStatus(name, finished, {}, None)


def test_backend_and_tables() -> None:
    """Version, uptime, server, poll and tables are on the page."""
    tables = (
        TableStatus(
            "task",
            "celery.celery_taskmeta",
            present=True,
            highest_id=-(2**63),
            backlog_ids=1234,
            gap_ids=2,
            watched_rows=46,
        ),
        TableStatus("group", "celery.celery_tasksetmeta", present=False),
    )
    page = Page(render(service(backend(tables=tables)), NOW, metrics="some/metrics"))
    assert "1.2.3" in page.words
    assert "started 2 h ago" in page.words
    assert ("title", "2027-01-15 06:00:00 UTC") in page.attributes
    assert "PostgreSQL 15.18, psycopg" in page.words
    assert "4 s ago" in page.words
    assert "12 ms" in page.words
    assert ("href", "some/metrics") in page.attributes
    assert page.row("celery.celery_taskmeta") == [
        "celery.celery_taskmeta", "task", "yes", "-9,223,372,036,854,775,808", "1,234", "2", "46",
    ]  # fmt: skip
    assert page.row("celery.celery_tasksetmeta")[1:4] == ["group", "not yet", "\u2013"]


def test_tasks() -> None:
    """Each task has its counts by state, and the backend its sums."""
    tasks = (
        TaskStatus("a.pay", {"SUCCESS": 1500, "FAILURE": 500}, {"STARTED": 3}, NOW - 120),
        TaskStatus("a.mail", {"SUCCESS": 2000, "ARCHIVED": 7}, {"RETRY": 1, "PENDING": 0}, None),
        TaskStatus("", {"REVOKED": 1}, {}, None),
    )
    page = Page(render(service(backend(tasks=tasks)), NOW))
    assert page.row("Task")[1:] == [
        "SUCCESS", "FAILURE", "REVOKED", "Other finished", "Unfinished", "Last finished",
    ]  # fmt: skip
    assert page.row("a.pay") == ["a.pay", "1,500", "500", "0", "", "STARTED 3", "2 min ago"]
    assert page.row("a.mail") == ["a.mail", "2,000", "0", "0", "ARCHIVED 7", "RETRY 1", ""]
    assert page.row("no name stored") == ["no name stored", "0", "0", "1", "", "", ""]
    assert ("title", "2027-01-15 07:58:00 UTC") in page.attributes
    assert "4,008" in page.words  # finished
    assert "12.5%" in page.words  # failed
    assert "Other finished" not in render(service(backend(tasks=tasks[:1])), NOW)


HOSTILE = "<script>alert('1')</script>&amp;\"><img src=x onerror=alert(1)>\u202e\x1b\n"
SHOWN = HOSTILE[:-3] + r"\u202e\x1b\n"


def test_hostile_text_is_only_text() -> None:
    """Whatever a task, state, table, server or message is called, the page's markup is ours."""

    def page(word: str) -> Page:
        tasks = (TaskStatus(word, {word: 1}, {word: 2}, NOW),)
        status = ServiceStatus(
            word,
            NOW,
            (
                backend(
                    name=word,
                    up=False,
                    server=word,
                    message=word,
                    tables=(TableStatus(word, word, present=True),),
                    tasks=tasks,
                ),
            ),
        )
        return Page(render(status, NOW, unhealthy=word, unready=word))

    hostile, harmless = page(HOSTILE), page("harmless")
    assert "script" not in hostile.tags
    assert [tag for tag in hostile.tags if tag != "wbr"] == harmless.tags
    assert [name for name, _ in hostile.attributes] == [name for name, _ in harmless.attributes]
    # version, health, readiness, name, server, message, table and kind, task; two states are cut
    assert hostile.words.count(SHOWN) == 9
    assert hostile.words.count(printable(SHOWN, LONGEST_STATE)) == 2
    assert f"Tasks of {SHOWN}" in dict(hostile.attributes).values()
    assert hostile.words.replace("\n", "").replace("\xa0", "").isprintable()


def test_states_wrap_as_words() -> None:
    """In a column that may be as narrow as a word; on a phone in a row of their own."""
    tasks = (TaskStatus("a", {"SEALED_FOR_EVER": 1}, {"ON_ITS_WAY": 2}, None),)
    html = render(service(backend(tasks=tasks)), NOW)
    for state in ("SEALED_<wbr>FOR_<wbr>EVER", "ON_<wbr>ITS_<wbr>WAY"):
        assert f"<bdi>{state}</bdi>" in html
    assert html.count('class="states"') == 2


def test_text_is_bounded() -> None:
    """However long a state, a name or a message is, the page stays a page."""
    word = "x" * 10_000
    tasks = (TaskStatus(word, {word: 1}, {}, NOW),)
    long = backend(
        name=word,
        message=word,
        server=word,
        tables=(TableStatus(word, word, present=True),),
        tasks=tasks,
    )
    assert len(render(service(long), NOW)) < 20_000


@pytest.mark.parametrize(
    ("up", "message", "expected"),
    [
        (True, "", "up"),
        (True, "waits for celery_taskmeta", "waiting"),
        (None, "", "waiting"),
        (False, "connection refused", "down"),
    ],
)
def test_badge(up: bool | None, message: str, expected: str) -> None:  # noqa: FBT001
    """Each condition has its word, so that colour is never needed to tell."""
    one = backend(up=up, message=message, last_poll=None, poll_duration=None)
    assert badge(one) == expected
    page = Page(render(service(one), NOW))
    assert f"orders {expected}" in page.words
    assert (message or expected) in page.words
    assert "never" in page.words


def test_health_and_readiness() -> None:
    fine = Page(render(service(backend()), NOW)).words
    assert "unhealthy" not in fine
    assert "not ready" not in fine
    ill = render(service(), NOW, unhealthy="orders: no progress", unready="mail not tried")
    words = Page(ill).words
    assert "unhealthy orders: no progress" in words
    assert "not ready mail not tried" in words
    assert "No backends are configured." in words


def test_only_the_busiest_tasks() -> None:
    tasks = tuple(task(f"t{number:03}", SUCCESS=number) for number in range(130))
    page = Page(render(service(backend(tasks=tasks)), NOW))
    shown = [row[0] for row in page.rows if row[0].startswith("t")]
    assert shown == [f"t{number:03}" for number in range(129, 29, -1)]
    assert "The 100 busiest tasks are shown, 30 more are in the metrics." in page.words
    assert "busiest" not in render(service(backend(tasks=tasks[:100])), NOW)


def test_busiest_counts_unfinished_and_breaks_ties_by_name() -> None:
    waiting = TaskStatus("w", {}, {"RETRY": 3}, None)
    order = busiest((task("b", SUCCESS=2), task("a", SUCCESS=2), waiting))
    assert [found.task for found in order] == ["w", "a", "b"]


def test_reloading_can_be_switched_off() -> None:
    on, off = render(service(), NOW), render(service(), NOW, refresh=False)
    assert '<meta http-equiv="refresh" content="15">' in on
    assert 'href="?refresh=off"' in on
    assert "http-equiv" not in off
    assert 'href="?"' in off


def test_nothing_comes_from_elsewhere() -> None:
    """The page needs no script and no other file."""
    page = Page(render(service(backend(tasks=(task("a"),))), NOW))
    assert not {"script", "img", "iframe"} & set(page.tags)
    assert [value for name, value in page.attributes if name == "href"][1:] == [
        "metrics", "?refresh=off",
    ]  # fmt: skip
    assert not [name for name, _ in page.attributes if name.startswith("on") or name == "style"]


def test_names_wrap_at_their_dots() -> None:
    assert breakable("a.b_c<d>&'") == "a.<wbr>b_<wbr>c&lt;d&gt;&amp;&#x27;"
