"""The status page tells people what is going on, and nobody else's markup gets in."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser

import pytest

from exporter.printable import printable
from exporter.web.charts import bars
from exporter.web.page import LONGEST_STATE, MISSING, breakable, cards, render
from exporter.web.status import (
    BackendStatus,
    BeatStatus,
    CatchUpStatus,
    HourStatus,
    OutageStatus,
    TableStatus,
    TaskStatus,
)
from exporter.web.verdict import verdict
from exporter.web.view import View
from tests.web.statuses import NOW, backend, down, hour, lately, service, task

VOID = {"meta", "link", "wbr", "input"}


class Page(HTMLParser):
    """A page as its reader meets it; fails where the markup is not well nested."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.rows: list[list[str]] = []
        self.words = ""
        self.opened: list[bool] = []  # of each backend, whether it is shown in full
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)
        if tag == "details":
            self.opened.append(("open", None) in attrs)
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


def first_line(page: Page) -> str:
    """Return what a reader meets first, below the title of the window."""
    return one_line(page).partition("Celery results exporter ")[2].partition(". ")[0] + "."


def one_line(page: Page) -> str:
    return " ".join(page.words.split())


def test_the_first_line_says_whether_all_is_well() -> None:
    """Before anything else; and what to do, where something is not."""
    well = Page(render(service(backend()), NOW))
    assert first_line(well) == "All is well: orders is up."
    ill = Page(render(service(backend("mail"), down()), NOW))
    assert first_line(ill) == (
        "Not well, 1 of 2 backends: orders has been down since 2027-01-15 07:17:07 UTC, 42 min ago."
    )
    assert "What to do: See whether the database server runs" in one_line(ill)
    assert (
        one_line(ill).count("has been down since") == 1
    )  # and not again, where it is the only one


def test_troubles_are_listed_the_worst_first_and_not_endlessly() -> None:
    odd = backend("odd", doubts=("compare clocks",))
    page = Page(render(service(odd, *(down(f"b{n}") for n in range(20))), NOW))
    words = one_line(page)
    assert "Not well: 20 of 21 backends are not read" in words
    assert words.count("What to do:") == 10
    assert "And 11 more; see below." in words
    assert ("href", "?backend=b0") in page.attributes


def test_backend_and_tables() -> None:
    """Version, uptime, server, poll and tables are on the page."""
    tables = (
        TableStatus(
            "task",
            "celery.celery_taskmeta",
            present=True,
            highest_id=-(2**63),
            id_used_ratio=0.125,
            ids_run_out=NOW + 400 * 86400,
            backlog_ids=1234,
            gap_ids=2,
            watched_rows=46,
            oldest_result=NOW - 86400 * 3,
            rows_estimate=90_000,
        ),
        TableStatus("group", "celery.celery_tasksetmeta", present=False),
    )
    page = Page(render(service(backend(tables=tables)), NOW, metrics="some/metrics"))
    assert "1.2.3" in page.words
    assert "started 2 h ago" in page.words
    assert ("title", "2027-01-15 06:00:00 UTC") in page.attributes
    assert "PostgreSQL 15.18, psycopg" in page.words
    assert ("href", "some/metrics") in page.attributes
    assert page.row("celery.celery_taskmeta") == [
        "celery.celery_taskmeta", "task", "yes", "90,000", "3 d ago", "-9,223,372,036,854,775,808",
        "12.5% run out on 2028-02-19", "1,234", "2", "46",
    ]  # fmt: skip
    assert page.row("celery.celery_tasksetmeta")[1:6] == ["group", "not yet", *["\u2013"] * 3]
    words = one_line(page)
    for figure in (
        "Up since 116 min ago",
        "Last poll 4 s ago took 12 ms, every 15 s",
        "Backlog 1,234 ids",
        "Gaps 2 ids",
        "Oldest result 3 d ago",
        "Ids used 12.5% run out on 2028-02-19",
    ):
        assert figure in words


def test_tasks() -> None:
    """Each task has its last hour and its counts by state, and the backend its sums."""
    pay = TaskStatus(
        task="a.pay",
        finished={"SUCCESS": 1500, "FAILURE": 500},
        unfinished={"STARTED": 3},
        last_finished=NOW - 120,
        oldest={"STARTED": NOW - 1500},
        results=(0,) * 58 + (20, 10),
        failures=(0,) * 59 + (3,),
        exceptions={"KeyError": 1, "OperationalError": 2, "": 1},
    )
    tasks = (
        pay,
        TaskStatus("a.mail", {"SUCCESS": 2000}, {"RETRY": 1}, None),
        TaskStatus("", {"REVOKED": 1}, {}, None),
    )
    page = Page(render(service(backend(tasks=tasks, hour=hour(1))), NOW))
    assert page.row("Task")[1:] == [
        "Results in the last hour", "Failed in the last hour", "Unfinished", "Newest",
        "SUCCESS", "FAILURE", "REVOKED",
    ]  # fmt: skip
    assert page.row("a.pay") == [
        "a.pay", "30", "3 OperationalError 2 KeyError 1 unknown 1", "STARTED 3 up to 25 min",
        "2 min ago", "1,500", "500", "0",
    ]  # fmt: skip
    assert page.row("a.mail") == ["a.mail", "0", "0", "RETRY 1", "", "2,000", "0", "0"]
    assert page.row("no name stored") == ["no name stored", "0", "0", "", "", "0", "0", "1"]
    assert ("title", "2027-01-15 07:58:00 UTC") in page.attributes
    assert "Counted so far 4,001 12.5% failed" in one_line(page)
    assert "Unfinished 4 oldest first seen 25 min ago" in one_line(page)
    assert "Newest result 2 min ago" in one_line(page)


def test_the_last_hour_is_drawn() -> None:
    """By charts that say in words, too, how much it is; of each task that had results, too."""
    counts = (0,) * 50 + (7,) * 10
    blind = (False,) * 30 + (True,) * 5 + (False,) * 25
    lived = HourStatus(NOW - 3570, 40, counts, (0,) * 59 + (2,), blind)
    page = Page(render(service(backend(hour=lived, tasks=(lately("a", 5, 1),))), NOW))
    assert page.tags.count("svg") == 4
    labels = [value for name, value in page.attributes if name == "aria-label"]
    assert "Results a minute in the last 40 min, 7 at most" in labels
    assert "Failures a minute in the last 40 min, 2 at most" in labels
    assert "Results a minute, 5 at most" in labels
    paths = [value for name, value in page.attributes if name == "d"]
    assert paths[:3] == ["M0 24v-24h20v24z", "M30 24v-24h5v24z", "M50 24v-24h10v24z"]
    assert "Results in the last 40 min 70" in one_line(page)
    assert "Failed in the last 40 min 2 2.9%" in one_line(page)
    assert "svg" not in Page(render(service(backend(tasks=(task("a"),))), NOW)).tags


def test_a_chart_is_whole() -> None:
    """However long its outline is, of which `escaped` would show the ends only."""
    counts = tuple(number * 7919 % 1009 for number in range(60))
    made = HourStatus(NOW - 3570, 60, counts, counts, (True, False) * 30)
    one = backend(hour=made, tasks=(TaskStatus("a", {}, {}, None, {}, counts, counts),))
    page = Page(render(service(one), NOW))
    paths = [value for name, value in page.attributes if name == "d"]
    assert paths.count(bars(counts)) == 4
    assert paths.count(bars((1, 0) * 30)) == 2


def test_an_outage_that_is_over_is_told() -> None:
    outages = (
        OutageStatus(NOW - 9000, NOW - 8000, "an older one"),
        OutageStatus(NOW - 600, NOW - 300, "connection refused"),
    )
    words = one_line(Page(render(service(backend(outages=outages)), NOW)))
    told = "Was down for 5 min from 2027-01-15 07:50:00 UTC on, 10 min ago: connection refused"
    assert told in words
    assert "an older one" not in words
    lasting = (OutageStatus(NOW - 600, None, "connection refused"),)
    assert "Was down" not in render(service(down(outages=lasting)), NOW)


def test_catching_up_has_its_progress() -> None:
    known = backend(catching_up=CatchUpStatus(500_000, 0.62, 180.0))
    assert "Caught up 62% 500,000 ids, about 3 min left" in one_line(
        Page(render(service(known), NOW))
    )
    unknown = backend(catching_up=CatchUpStatus(500_000, 0.62, None))
    assert "500,000 ids, time left not known" in one_line(Page(render(service(unknown), NOW)))


def test_schedules_are_counted() -> None:
    beat = BeatStatus("django-celery-beat", up=True, message="", entries=9, overdue=2, unreadable=1)
    words = one_line(Page(render(service(backend(beat=beat)), NOW)))
    assert "Schedules 9 2 overdue, 1 unreadable" in words
    words = one_line(Page(render(service(backend(beat=replace(beat, up=False))), NOW)))
    assert "Schedules not read" in words
    assert "Schedules" not in render(service(backend()), NOW)


def test_who_follows_what_is_told() -> None:
    followers = {"orders": "a/1", "mail": "b/<2>", "shop": "a/1", "news": ""}
    page = Page(render(service(backend(), replica="a/1", followers=followers), NOW))
    assert [row for row in page.rows if row[0] == "Replica"] == [["Replica", "Backends", "Which"]]
    assert page.rows[-3:] == [
        ["a/1 this one", "2", "orders, shop"],
        ["b/<2>", "1", "mail"],
        ["none", "1", "news"],
    ]
    alone = Page(render(service(backend()), NOW))
    assert ["Replica", "Backends", "Which"] not in alone.rows


def test_what_is_missing_is_told_with_what_it_would_bring() -> None:
    page = Page(render(service(backend(missing=(*MISSING, "table_task"))), NOW))
    assert all(words in page.words for words in MISSING.values())
    assert "What is missing" not in render(service(backend(missing=("table_task",))), NOW)


HOSTILE = "<script>alert('1')</script>&amp;\"><img src=x onerror=alert(1)>\u202e\x1b\n"
SHOWN = HOSTILE[:-3] + r"\u202e\x1b\n"


def test_hostile_text_is_only_text() -> None:
    """Whatever anything is called, by rows, a server or who asks, the page's markup is ours."""

    def page(word: str) -> Page:
        tasks = (
            TaskStatus(
                word, {word: 1}, {word: 2}, NOW, {word: NOW, "STARTED": 1.0},
                (20,) * 60, (20,) * 60, {word: 3},
            ),
        )  # fmt: skip
        one = backend(
            name=word,
            up=False,
            server=word,
            message=word,
            reason=word,
            doubts=(word,),
            outages=(OutageStatus(1.0, 2.0, word),),
            tables=(TableStatus(word, word, present=True, id_used_ratio=1.0),),
            hour=hour(20, 20),
            tasks=tasks,
        )
        status = service(one, version=word, unhealthy=word, unready=word, refused=(word,))
        return Page(render(status, NOW, View(task=word, backend=word), metrics="m"))

    hostile, harmless = page(HOSTILE), page("harmless")
    assert "script" not in hostile.tags
    assert [tag for tag in hostile.tags if tag != "wbr"] == harmless.tags
    assert [name for name, _ in hostile.attributes] == [name for name, _ in harmless.attributes]
    assert harmless.words.count("harmless") == hostile.words.count(SHOWN[:15])
    assert hostile.words.count(SHOWN) == 20  # others are cut: a state, classes, and in sentences
    assert hostile.words.count(printable(SHOWN, LONGEST_STATE)) == 2
    assert ("aria-label", f"Tasks of {SHOWN}") in hostile.attributes
    assert hostile.words.replace("\n", "").replace("\xa0", "").isprintable()


def test_states_wrap_as_words() -> None:
    """In a column that may be as narrow as a word; on a phone in a row of their own."""
    tasks = (TaskStatus("a", {}, {"ON_ITS_WAY": 2}, None),)
    html = render(service(backend(tasks=tasks)), NOW)
    assert "<bdi>ON_<wbr>ITS_<wbr>WAY</bdi>" in html
    assert html.count('class="states"') == 1


def test_text_is_bounded() -> None:
    """However long a state, a name or a message is, the page stays a page."""
    word = "x" * 10_000
    tasks = (TaskStatus(word, {word: 1}, {word: 1}, NOW, {}, (30,) * 60, (9,) * 60, {word: 1}),)
    long = backend(
        name=word,
        message=word,
        server=word,
        tables=(TableStatus(word, word, present=True),),
        tasks=tasks,
    )
    assert len(render(service(long), NOW)) < 30_000


CONDITIONS = [
    (backend(), "up"),
    (backend(message="waits for celery_taskmeta"), "waiting"),
    (backend(up=None, message="not tried yet", last_poll=None, poll_duration=None), "waiting"),
    (backend(catching_up=CatchUpStatus(5, 0.5, None)), "catching up"),
    (backend(doubts=("compare clocks",)), "worth a look"),
    (backend(last_poll=NOW - 1000), "down"),
    (down(), "down"),
    (down(stuck=True), "stuck"),
]


@pytest.mark.parametrize(("one", "expected"), CONDITIONS)
def test_conditions(one: BackendStatus, expected: str) -> None:
    """Each has its word, so that colour is never needed to tell."""
    page = Page(render(service(one), NOW))
    assert f"orders {expected}" in one_line(page)
    if one.message and one.up is not None:
        assert one.message in page.words


def test_health_and_readiness() -> None:
    fine = Page(render(service(backend()), NOW)).words
    assert "unhealthy" not in fine
    assert "not ready" not in fine
    ill = render(service(unhealthy="orders: no progress", unready="mail not tried"), NOW)
    words = Page(ill).words
    assert "unhealthy orders: no progress" in words
    assert "not ready mail not tried" in words
    assert "No backends are read here." in words


def test_many_backends_are_short_and_those_with_trouble_come_first() -> None:
    many = [backend(f"b{number:02}", hour=hour(1)) for number in range(48)]
    page = Page(render(service(*many[:20], backend("odd", doubts=("x",)), *many[20:], down()), NOW))
    assert page.opened == [True, True] + [False] * 48
    names = [value for name, value in page.attributes if name == "id"]
    assert names == [f"backend-{number}" for number in range(1, 51)]
    assert one_line(page).index("orders down") < one_line(page).index("odd worth a look")
    assert one_line(page).index("odd worth a look") < one_line(page).index("b00 up")
    assert one_line(page).count("60 results in the last hour, 0 failed") == 48
    assert "49 of 50 backends up" in one_line(page)
    assert Page(render(service(*many[:3]), NOW)).opened == [True] * 3


def test_a_page_is_bounded() -> None:
    """Of thousands of backends with hundreds of tasks each, too."""
    tasks = tuple(lately(f"app.tasks.number_{number}", number, 1) for number in range(300))
    many = [backend(f"b{number}", tasks=tasks, hour=hour(5)) for number in range(500)]
    html = render(service(*many), NOW)
    assert len(html) < 3_000_000
    page = Page(html)
    assert len(page.opened) == 200
    assert "300 more backends are not shown. Find one by its name." in one_line(page)


def shown(page: Page) -> list[str]:
    return [row[0] for row in page.rows if row[0].startswith("t")]


def test_tasks_that_are_not_shown_are_a_line() -> None:
    tasks = tuple(lately(f"t{number:03}", number, 0) for number in range(230))
    everything = sum(range(230)) + 70  # of tasks that are not told apart
    page = Page(render(service(backend(tasks=tasks, hour=hour(everything))), NOW))
    assert shown(page) == [f"t{number:03}" for number in range(229, 29, -1)]
    rest = 60 * (sum(range(30)) + 70)
    line = f"30 more tasks have {rest:,} results in the last hour, of which 0 failed."
    assert f"{line} Find a task by its name; all are in the metrics." in one_line(page)
    few = backend(tasks=tasks[:200], hour=hour(sum(range(200))))
    assert "in the last hour, of which" not in render(service(few), NOW)
    untold = backend(tasks=tasks[:1], hour=hour(2))
    assert "Tasks that are not told apart by minute have 120 results" in render(
        service(untold), NOW
    )
    one = backend(tasks=tasks[:201], hour=hour(sum(range(201))))
    assert "One more task has 0 results" in render(service(one), NOW)


def test_many_backends_share_the_rows_of_a_page() -> None:
    tasks = tuple(task(f"t{number:03}", SUCCESS=number) for number in range(60))
    many = [backend(f"b{number}", tasks=tasks) for number in range(20)]
    page = Page(render(service(*many), NOW))
    assert len(shown(page)) == 20 * 20
    assert ("href", "?backend=b7") in page.attributes
    alone = Page(render(service(*many), NOW, View(backend="b7")))
    assert len(shown(alone)) == 60
    assert alone.opened == [True]


def test_what_is_looked_for_is_shown() -> None:
    tasks = (task("mail.send"), task("shop.pay"))
    status = service(backend(tasks=tasks), backend("other", tasks=tasks[1:]))
    page = Page(render(status, NOW, View(task="MAIL", sort="newest", refresh=False)))
    assert [row[0] for row in page.rows if "." in row[0]] == ["mail.send"]
    assert page.opened == [True]  # the other backend has no such task
    assert ("value", "MAIL") in page.attributes
    hidden = [n for n, (name, value) in enumerate(page.attributes) if value == "hidden"]
    kept = {page.attributes[n + 1][1]: page.attributes[n + 2][1] for n in hidden}
    assert kept == {"sort": "newest", "refresh": "off"}
    assert ("href", "?sort=newest&refresh=off") in page.attributes  # show all
    assert ("href", "status.json?sort=newest&task=MAIL") in page.attributes
    nothing = Page(render(status, NOW, View(backend="none")))
    assert "No backend has none in its name." in one_line(nothing)
    for view, said in (
        (View(task="x"), "No task has x in its name."),
        (View(task="x", backend="y"), "No task has x, and no backend has y in its name."),
    ):
        assert said in one_line(Page(render(status, NOW, view)))
    assert first_line(nothing) == first_line(page)  # of all, whatever is looked for


def test_a_link_to_a_long_name_is_whole() -> None:
    name = "ü" * 200
    html = render(service(backend(tasks=(task(name),))), NOW, View(task=name))
    assert f"?sort=newest&amp;task={'%C3%BC' * 200}" in html


def test_the_order_is_told() -> None:
    page = Page(render(service(backend(tasks=(task("a"),))), NOW))
    assert ("aria-sort", "descending") in page.attributes
    assert ("href", "?sort=unfinished") in page.attributes
    by_name = Page(render(service(backend(tasks=(task("a"),))), NOW, View(sort="task")))
    assert ("aria-sort", "ascending") in by_name.attributes
    by_total = Page(render(service(backend(tasks=(task("a"),))), NOW, View(sort="total")))
    assert ("aria-sort", "descending") in by_total.attributes


def test_reloading_can_be_switched_off() -> None:
    on, off = render(service(), NOW), render(service(), NOW, View(refresh=False))
    assert '<meta http-equiv="refresh" content="30">' in on
    assert 'href="?refresh=off"' in on
    assert "http-equiv" not in off
    assert 'href="?"' in off


def test_nothing_comes_from_elsewhere() -> None:
    """The page needs no script and no other file."""
    page = Page(render(service(backend(tasks=(lately("a", 1),), hour=hour(1))), NOW))
    assert not {"script", "img", "iframe", "use", "image"} & set(page.tags)
    links = [value for name, value in page.attributes if name in ("href", "src", "action")][1:]
    assert links[:2] == ["metrics", "status.json"]
    assert all(link and link.startswith("?") for link in links[2:])
    assert not [name for name, _ in page.attributes if name.startswith("on") or name == "style"]


def test_a_card_for_each_backend_that_is_shown() -> None:
    status = service(backend("a"), down("b"))
    found = cards(status.backends, verdict(status, NOW), View())
    assert [card.backend.name for card in found] == ["b", "a"]


def test_names_wrap_at_their_dots() -> None:
    assert breakable("a.b_c<d>&'") == "a.<wbr>b_<wbr>c&lt;d&gt;&amp;&#x27;"
