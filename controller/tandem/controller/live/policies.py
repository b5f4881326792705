"""Which policy holds: a file, and what was applied to the cluster. Either may change while the controller runs.

At the start what was applied stands before the file; later the one that changed last. A policy that does not validate
is left where it is: the one before goes on.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path

import structlog

from tandem.controller.policy.model import AutoscalingPolicy
from tandem.core.config.yaml_file import parse_yaml_config, read_yaml_text
from tandem.core.errors import ConfigError, TandemError
from tandem.core.records import POLICY_RECORD, RecordStore

_log = structlog.get_logger(__name__)


class Policies:
    """Looks at the file and at the record whenever it is asked."""

    def __init__(self, store: RecordStore, file: Path | None) -> None:
        self._store = store
        self._file = file
        self._file_stamp: tuple[int, ...] | None = None
        self._version = 0
        self._policy: AutoscalingPolicy | None = None
        self.problem = ""  # of what was found last; empty = it is in force

    async def current(self) -> AutoscalingPolicy | None:
        """Return the policy in force; None = there has never been a good one."""
        if self._file is not None:
            await self._look_at_file(self._file)
        try:
            record = await self._store.read(POLICY_RECORD)
        except TandemError:
            return self._policy  # a store that is away changes nothing
        if record is None:
            self._version = 0  # it lost its memory: what is applied next counts from 1 again
        elif record.version != self._version:
            self._version = record.version
            self._take(f"applied policy, version {record.version}", lambda: record.value.decode("utf-8"))
        return self._policy

    async def _look_at_file(self, file: Path) -> None:
        try:
            status = await asyncio.to_thread(file.stat)
        except OSError:
            return  # being replaced, or gone: what holds goes on
        # Device and inode too: a mounted ConfigMap changes by a symbolic link that points elsewhere, and what unpacks
        # or copies files may give each the same time.
        stamp = (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size)
        if stamp == self._file_stamp:
            return
        self._file_stamp = stamp
        text = ""
        try:
            text = await asyncio.to_thread(read_yaml_text, file)
        except ConfigError as error:
            self._refuse(str(file), error)
            return
        self._take(str(file), lambda: text)

    def _take(self, name: str, read: Callable[[], str]) -> None:
        try:
            policy = parse_yaml_config(read(), AutoscalingPolicy, name=name)
        except (ConfigError, UnicodeDecodeError) as error:
            self._refuse(name, error)
            return
        self.problem = ""
        if policy != self._policy:
            self._policy = policy
            _log.info("policy_in_force", source=name, policy=policy.metadata.name, mode=policy.spec.mode.value)

    def _refuse(self, name: str, error: Exception) -> None:
        self.problem = str(error)
        _log.error("policy_refused", source=name, problem=str(error))
