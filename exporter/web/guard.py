"""Who may ask, and how often: the web configuration in use, read again when its files change."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from exporter.errors import ConfigError
from exporter.web.webconfig import NO_LIMIT, RateLimit, WebConfig, load, stamp

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_log = logging.getLogger(__name__)

_LOOK_AGAIN_AFTER = 1.0  # seconds


class Guard:
    """Holds the configuration; a new one that is wrong leaves the old one in place."""

    def __init__(
        self, path: Path | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Read the file; raise ConfigError."""
        self._path = path
        self._clock = clock
        self._looked = clock()
        self.faults: tuple[str, ...] = ()  # why the files as they are now are not in use
        self._bucket = Bucket(NO_LIMIT, clock)
        self._use(load(path) if path else WebConfig())

    @property
    def config(self) -> WebConfig:
        """What holds now."""
        if self._path is not None and self._clock() - self._looked >= _LOOK_AGAIN_AFTER:
            self._looked = self._clock()
            if self.faults or any(stamp(file) != then for file, then in self._config.files):
                self._read(self._path)
        return self._config

    def lets_pass(self) -> bool:
        """Take one request from the rate limit; False: there are too many."""
        return self._bucket.take()

    def _read(self, path: Path) -> None:
        try:
            new = load(path)
            faults = self._lost(path, new)
        except ConfigError as error:
            new, faults = self._config, tuple(error.faults)
        except Exception as error:  # noqa: BLE001  # our mistake; its words may hold a key
            new, faults = self._config, (f"{path}: {type(error).__name__}",)
        if faults:
            if faults != self.faults:
                _log.error(
                    "the web configuration is wrong; the one before stays in use",
                    extra={"faults": "; ".join(faults)},
                )
            self.faults = faults
            return
        _log.info("the web configuration was read again")
        self.faults = ()
        self._use(new)

    def _lost(self, path: Path, new: WebConfig) -> tuple[str, ...]:
        """Say what may not end while serving: the file may be half written."""
        old = self._config
        ends = {
            "tls_server_config": old.tls is not None and new.tls is None,
            "basic_auth_users": bool(old.users) and not new.users,
        }
        return tuple(f"{path}: {key} is gone; that takes a restart" for key in ends if ends[key])

    def _use(self, config: WebConfig) -> None:
        if config.rate_limit != self._bucket.limit:
            self._bucket = Bucket(config.rate_limit, self._clock)
        self._config = config
        for warning in config.warnings:
            _log.warning(warning)


class Bucket:
    """A token bucket: `burst` at once, and one more after each interval."""

    def __init__(self, limit: RateLimit, clock: Callable[[], float]) -> None:
        self.limit = limit
        self._clock = clock
        self._tokens = float(limit.burst)
        self._filled = clock()

    def take(self) -> bool:
        """Take a token, if there is one."""
        if not self.limit.interval:
            return True
        now = self._clock()
        self._tokens += (now - self._filled) / self.limit.interval
        self._tokens = min(self._tokens, self.limit.burst)
        self._filled = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
