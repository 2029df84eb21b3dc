"""The class of an exception, without unpickling anything."""

from __future__ import annotations

import ast
import json
import pickle
import traceback
from base64 import b64encode
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from billiard.pool import MaybeEncodingError
from celery.utils.serialization import UnpickleableExceptionWrapper
from hypothesis import given
from hypothesis import strategies as st
from kombu.serialization import dumps
from prometheus_client.openmetrics.parser import text_string_to_metric_families

import exporter
from exporter.backends.failures import (
    LAST_CHARACTERS,
    RESULT_BYTES,
    from_last_line,
    from_result,
    from_traceback,
)
from exporter.exposition.formats import Format
from tests.follow import TASKS, Follower, insert

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from tests.servers.database import Database


class Unlucky(Exception):  # noqa: N818
    """With a signature of its own."""

    def __init__(self, one: int, two: str) -> None:
        super().__init__(f"{one} {two}")


def stored_dict(name: str, module: str = "builtins", *message: object) -> dict[str, Any]:
    """What Celery <= 5.6 pickles with the JSON serializer, and 5.7 writes as JSON."""
    return {"exc_type": name, "exc_message": message, "exc_module": module}


WRAPPED = UnpickleableExceptionWrapper("shop.errors", "OutOfStock", ["no apples"])
_TRACEBACK = 'Traceback (most recent call last):\n  File "exc.py", line 20, in lock\n'
PROTOCOLS = range(2, pickle.HIGHEST_PROTOCOL + 1)


def test_json() -> None:
    stored = json.dumps(stored_dict("ValueError", "builtins", "boom" * 1000)).encode()
    assert from_result(stored[:RESULT_BYTES]) == "ValueError"


def test_wrapped_in_json() -> None:
    stored = stored_dict(
        "UnpickleableExceptionWrapper", "x", "shop.errors", "OutOfStock", ["no apples"]
    )
    assert from_result(json.dumps(stored).encode()) == "OutOfStock"


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("stored", "name"),
    [
        (stored_dict("ValueError", "builtins", "boom" * 1000), "ValueError"),
        (
            stored_dict("UnpickleableExceptionWrapper", "c", "shop.errors", "OutOfStock", []),
            "OutOfStock",
        ),
        (KeyError("key"), "KeyError"),
        (Unlucky(1, "x"), "Unlucky"),
        (json.JSONDecodeError("no", "doc" * 1000, 1), "JSONDecodeError"),
        (WRAPPED, "OutOfStock"),
    ],
)
def test_pickles_of_every_protocol(stored: object, name: str, protocol: int) -> None:
    assert from_result(pickle.dumps(stored, protocol)[:RESULT_BYTES]) == name
    as_text = b64encode(pickle.dumps(stored, protocol))  # as django-celery-results has it
    assert from_result(as_text[:RESULT_BYTES]) == name


@pytest.mark.parametrize(
    ("stored", "name"),
    [
        (stored_dict("ValueError", "builtins", "boom"), "ValueError"),
        (stored_dict("ValueError"), "ValueError"),
        (stored_dict("Outer.Locked", "shop", "one\nexc_type: KeyError\n", "- two"), "Locked"),
        (stored_dict("UnpickleableExceptionWrapper", "c", "shop", "OutOfStock", []), "OutOfStock"),
        (stored_dict("ValueError", "builtins", "boom" * 1000), ""),  # out of sight
    ],
)
def test_yaml(stored: dict[str, Any], name: str) -> None:
    plain = stored | {"exc_message": list(stored["exc_message"])}
    *_, written = dumps(plain, "yaml")
    assert from_result(written.encode()[:RESULT_BYTES]) == name


@pytest.mark.parametrize(
    ("name", "stored", "words"),
    [
        (
            "Unpick",
            "Unpick",
            "Can't pickle <class 'exc.Unpick'>: it's not the same object as exc.Unpick",
        ),
        (
            "Locked",
            "Outer.Locked",
            "Can't pickle <class 'exc.Locked'>: attribute lookup Locked on exc failed",
        ),
        (
            "Local",
            "local.<locals>.Local",
            "Can't pickle <class 'exc.Local'>: attribute lookup Local on exc failed",
        ),
    ],
)
def test_failure_that_is_stored_twice_has_one_class(name: str, stored: str, words: str) -> None:
    """As Celery 5.2.7 stored them: of its own signature, with a lock in it, within a function."""
    message = "x" * 1000
    first = stored_dict(stored, "exc", message)
    reason, value = repr(pickle.PicklingError(words)), f"(1, <ExceptionInfo: {name}({message!r})>"
    second = stored_dict("MaybeEncodingError", "billiard.pool", repr(reason), repr(value))
    for some in (first, second):
        assert from_result(pickle.dumps(some, 5)[:RESULT_BYTES]) == name
    assert from_traceback(f"{_TRACEBACK}exc.{stored}: {message}\n") == name


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (("a lock", "(1, <ExceptionInfo: OutOfStock('no apples')>, None)"), "OutOfStock"),
        (("a lock", "(0, <a result that cannot be sent>, None)"), "MaybeEncodingError"),
        (("a lock", "(1, <ExceptionInfo: <an error of many words>>, None)"), "MaybeEncodingError"),
    ],
)
def test_what_could_not_be_sent_is_named_by_its_words(words: tuple[str, str], name: str) -> None:
    stored = stored_dict("MaybeEncodingError", "billiard.pool", *words)
    error = MaybeEncodingError(*words)
    error.args = words
    for some in (stored, error):
        assert from_result(pickle.dumps(some)) == name
    assert from_result(json.dumps(stored).encode()) == name


@given(st.binary(max_size=RESULT_BYTES))
def test_any_bytes_name_at_most_one_bounded_word(data: bytes) -> None:
    for start in (data, b"\x80\x04" + data, b'{"exc_type": "' + data):
        name = from_result(start)
        assert len(name) <= 100
        assert name.isprintable()


def _raised(source: str) -> str:
    """Run Python and return the traceback of what it raises."""
    try:
        exec(compile(source, "<task>", "exec"), {"__name__": "shop.tasks"})  # noqa: S102
    except BaseException:  # noqa: BLE001
        return traceback.format_exc()
    raise AssertionError("nothing was raised")


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("raise ValueError('boom')", "ValueError"),
        ("raise ValueError", "ValueError"),
        ("class Deep(Exception): pass\nraise Deep('x')", "Deep"),
        ("try: 1/0\nexcept Exception as e: raise KeyError('x') from e", "KeyError"),
        (
            "raise RuntimeError('one\\ntwo\\n  File \"f\", line 1\\nValueError: not me')",
            "RuntimeError",
        ),
        ("e = ValueError('x'); e.add_note('KeyError: not me'); raise e", "ValueError"),
        ("raise ExceptionGroup('many', [ValueError('a'), TypeError('b')])", "ExceptionGroup"),
        ("compile('1 +', 'f', 'exec')", "SyntaxError"),
        ("class Outer:\n  class Inner(Exception): pass\nraise Outer.Inner('x')", "Inner"),
        ("def f():\n  class Local(Exception): pass\n  raise Local('x')\nf()", "Local"),
    ],
)
def test_tracebacks(source: str, name: str) -> None:
    """The class has the name that `result` gives it; the last line has it, or tells nothing."""
    end = _raised(source)
    assert from_traceback(end) == name
    assert from_last_line(end[-LAST_CHARACTERS:]) in (name, "")


@pytest.mark.parametrize(
    ("message", "name"),
    [
        ("boom", "KeyError"),
        ("x" * LAST_CHARACTERS, ""),
        ("one\n\ntwo", ""),
        ("    one\n  two", ""),
    ],
)
def test_last_line_tells_where_the_message_is_a_short_one(message: str, name: str) -> None:
    line = '  File "/srv/shop/orders.py", line 80, in step\n    return self.next(order)\n'
    marks = "           ^^^^^^^^^^^^^^^^\n"
    for frame in (line, line + marks, line.splitlines(keepends=True)[0]):
        end = f"{_TRACEBACK}{frame * 5}KeyError: {message}\n"
        assert from_last_line(end[-LAST_CHARACTERS:]) == name
        assert from_traceback(end) == "KeyError"


def test_wrapped_in_a_traceback() -> None:
    error = UnpickleableExceptionWrapper("shop.errors", "OutOfStock", ["x"], "OutOfStock('x')")
    lines = traceback.format_exception_only(error)
    assert from_traceback("".join([_TRACEBACK, *lines])) == "OutOfStock"


@given(st.text(max_size=300))
def test_any_text_names_at_most_one_bounded_word(text: str) -> None:
    for end in (text, "Traceback (most recent call last):\n" + text):
        assert len(from_traceback(end)) <= 100
        assert len(from_last_line(end)) <= 100


class Bomb:
    """A pickle that creates a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return open, (str(self.path), "w")


def test_failures_count_by_class(database: Database, engine: Engine, tmp_path: Path) -> None:
    """From JSON, from pickles, from the traceback; and the bomb does not go off."""
    bomb = tmp_path / "bomb"
    rows = [
        (json.dumps(stored_dict("ValueError")).encode(), None),
        (pickle.dumps(stored_dict("KeyError")), None),
        (pickle.dumps(OSError("x")), None),
        (None, _raised("raise TimeoutError('x')")),
        (b"\x80\x04garbage", "x" * 5000 + "\n" + _raised("raise LookupError")),
        (pickle.dumps(Bomb(bomb)), None),
        (None, None),
    ]
    with engine.begin() as connection:
        for result, trace in rows:
            raw = TASKS.insert().values(
                task_id=str(len(str(trace)) + hash(result)), status="FAILURE", name="app.add",
                queue="q", traceback=trace, result=result,
            )  # fmt: skip
            connection.execute(raw)
        insert(connection, "SUCCESS")
    follower = Follower(database.reader_url).poll()
    counted = {
        labels["exception"]: value
        for labels, value in follower.samples("celery_task_failures_total")
    }
    expected = ["ValueError", "KeyError", "OSError", "TimeoutError", "LookupError", "open", ""]
    assert counted == dict.fromkeys(expected, 1)
    assert not bomb.exists()
    pickle.loads(pickle.dumps(Bomb(bomb))).close()  # noqa: S301  # it would have
    assert bomb.exists()
    follower.close()


def test_newest_task_is_the_exemplar(database: Database, engine: Engine) -> None:
    follower = Follower(database.reader_url).poll()
    with engine.begin() as connection:
        for name in ("first", "newest"):
            insert(connection, task_id=f"good-{name}")
            insert(connection, "FAILURE", task_id=f"bad-{name}")
        insert(connection, task_id="x" * 130, name="app.long")
    follower.poll()
    body = follower.exposition.body(Format.OPENMETRICS).decode()
    exemplars = {
        (sample.name, sample.labels["task"], sample.labels.get("state")): sample.exemplar
        for family in text_string_to_metric_families(body)
        for sample in family.samples
        if sample.name in ("celery_task_results_total", "celery_task_failures_total")
    }
    results = "celery_task_results_total"
    good, bad = exemplars[results, "app.add", "SUCCESS"], exemplars[results, "app.add", "FAILURE"]
    assert (good.labels, bad.labels) == ({"task_id": "good-newest"}, {"task_id": "bad-newest"})
    failed = exemplars["celery_task_failures_total", "app.add", None]
    assert failed.labels == {"task_id": "bad-newest"}
    assert exemplars[results, "app.long", "SUCCESS"] is None  # longer than OpenMetrics allows
    follower.close()


def test_nothing_in_the_package_can_unpickle() -> None:
    """No call of pickle's load, loads or Unpickler, under whatever name; nor of its friends."""
    for path in Path(exporter.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            forbidden = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal"}
            assert not forbidden.intersection(name.split(".")[0] for name in names), path
