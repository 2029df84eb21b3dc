"""Four replicas share 40 backends: killed, ended, paused and started again, under load."""

from __future__ import annotations

import time
from statistics import mean
from typing import TYPE_CHECKING

import pytest

from tests.acceptance.replicas import Load, assert_all_counts, fleet_of
from tests.soak.sizes import REPLICA_ROUNDS, kinds

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers.database import Database

PAUSE = 40.0  # seconds
PROMISED_AFTER_KILL, PROMISED_AFTER_END = 30.0, 5.0  # seconds
PROMISED_MOVES = 1.25  # fair shares that a join moves, in the mean
HOW = ("killed", "ended", "ended", "paused")


@pytest.mark.long
@pytest.mark.timeout(3600)
@kinds("postgresql", "mariadb-pymysql")
def test_replicas_come_and_go(database: Database, tmp_path: Path) -> None:
    load = Load(tmp_path, 40, 0.02)
    with fleet_of(4, tmp_path, load, database, quick=False) as (replicas, fleet, watch):
        for replica in replicas:
            fleet.add(replica)
        began = time.monotonic()
        for number in range(REPLICA_ROUNDS):
            replica, how = replicas[number % 4], HOW[number // 4 % 4]
            fleet.remove(replica, how, PAUSE)
            if how != "paused":
                fleet.add(replica)
        fleet.settled()
        longest = watch.longest_unserved(began, time.monotonic())
        load.stop()
        results = assert_all_counts(replicas, load)
    shares = [moved / share for moved, share in fleet.moves]
    print(  # noqa: T201 - the figures, shown with -s
        f"\n{results} results, {watch.scrapes} scrapes in {time.monotonic() - began:.0f} s; "
        f"{len(shares)} joins moved {max(shares):.2f} times the fair share at most, "
        f"{mean(shares):.2f} in the mean; others followed after at most "
        f"{ {how: round(max(each), 1) for how, each in fleet.takeovers.items()} } s; "
        f"longest time without one that serves {longest:.1f} s; none served twice, none went back"
    )
    assert mean(shares) <= PROMISED_MOVES
    assert longest < PROMISED_AFTER_KILL
    assert max(fleet.takeovers["ended"]) < PROMISED_AFTER_END
