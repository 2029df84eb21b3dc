"""What a replica does when another has taken over what it followed."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import update

from exporter.checkpoint.checkpoint import Checkpoint
from exporter.checkpoint.lease import LEASE_DURATION, Leases
from exporter.checkpoint.schema import LEASES, REPLICAS
from exporter.checkpoint.store import IN_A_DATABASE, Store
from exporter.runtime.replica import Replica
from tests.servers.process import wait_until

if TYPE_CHECKING:
    from collections.abc import Collection

    from tests.servers.database import Database


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_what_is_lost_is_given_up_before_anything_is_served_again(database: Database) -> None:
    """A process that was paused wakes up, and finds that its lease is another's."""
    paused = 0.0
    leases = Leases(Store(database.owner, IN_A_DATABASE), lambda: time.monotonic() + paused)
    checkpoint = Checkpoint(Store(database.owner, IN_A_DATABASE), leases.fence)
    served: list[bool] = []  # when something was lost

    def follow(_: Collection[str], lost: Collection[str]) -> None:
        if lost:
            served.append(replica.confirmed)

    replica = Replica(
        leases,
        wanted=lambda: ["shop"],
        follow=follow,
        ending=list,
        open_checkpoint=checkpoint.lay_out,
    )
    replica.start()
    try:
        wait_until(lambda: replica.followed, "it follows")
        assert replica.confirmed
        paused = LEASE_DURATION
        assert not replica.confirmed
        with database.engine().begin() as connection:
            connection.execute(update(REPLICAS).values(name="b/1"))
            connection.execute(update(LEASES).values(replica="b/1"))
        replica.wake()
        wait_until(lambda: served, "it notices")
        assert served == [False]
        wait_until(lambda: replica.confirmed, "it stands by")
        assert replica.fault.startswith("standing by")
        assert replica.followers == {"shop": "b/1"}
    finally:
        replica.stop(5.0)
        checkpoint.close()
