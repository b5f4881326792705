"""Times at which other bounds hold: office hours, nights, a campaign's day."""

import datetime as dt
import re
import zoneinfo
from enum import StrEnum
from typing import Annotated

import pydantic

from tandem.controller.policy.base import PolicyModel, complain
from tandem.controller.policy.sections import BudgetSection

_CLOCK_PATTERN = r"^([01]\d|2[0-3]):[0-5]\d$"


class Day(StrEnum):
    """Days of the week, in the order of ``datetime.weekday``."""

    MON = "Mon"
    TUE = "Tue"
    WED = "Wed"
    THU = "Thu"
    FRI = "Fri"
    SAT = "Sat"
    SUN = "Sun"


_DAYS = tuple(Day)


def _clock_text(value: object) -> object:
    if not isinstance(value, str) or re.match(_CLOCK_PATTERN, value) is None:
        raise ValueError('is not a time of day; write it like "08:30"')
    return value


def _zone_text(value: object) -> object:
    try:
        if isinstance(value, str) and value:
            zoneinfo.ZoneInfo(value)
            return value
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        pass
    raise ValueError("is not a time zone of this machine; write it like Europe/Vienna, or UTC")


_ClockInput = Annotated[str, pydantic.Field(pattern=_CLOCK_PATTERN, examples=["08:30"])]
ClockText = Annotated[str, pydantic.BeforeValidator(_clock_text, json_schema_input_type=_ClockInput)]
ZoneText = Annotated[str, pydantic.BeforeValidator(_zone_text, json_schema_input_type=str)]


class PoolOverride(PolicyModel):
    """Bounds of a pool while a schedule is active; what is not named stays."""

    min_replicas: int | None = pydantic.Field(default=None, ge=1, le=4096)
    """Fewest workers."""
    max_replicas: int | None = pydantic.Field(default=None, ge=1, le=4096)
    """Most workers."""
    replicas: int | None = pydantic.Field(default=None, ge=1, le=4096)
    """Strategy Fixed: this many."""

    @pydantic.model_validator(mode="after")
    def _says_something(self) -> "PoolOverride":
        if not self.model_dump(exclude_none=True):
            raise ValueError("changes nothing; name minReplicas, maxReplicas or replicas, or take it out")
        return self


class PoolOverrides(PolicyModel):
    """Overrides of both pools."""

    prefill: PoolOverride | None = None
    """Of the prefill pool."""
    decode: PoolOverride | None = None
    """Of the decode pool."""


class Schedule(PolicyModel):
    """When, and what holds then. Of several active ones the last in the file wins, field by field."""

    name: str = pydantic.Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")
    """Name in decisions; lower-case letters, digits and dashes."""
    days: tuple[Day, ...] = pydantic.Field(default=_DAYS, min_length=1)
    """Days of the week on which it begins."""
    start: ClockText
    """Time of day at which it begins, such as "08:00"."""
    end: ClockText
    """Time of day at which it ends; before `start` = on the next day."""
    time_zone: ZoneText = "UTC"
    """Time zone of both, such as Europe/Vienna; summer time is kept."""
    pools: PoolOverrides = PoolOverrides()
    """Bounds of the pools meanwhile."""
    budget: BudgetSection | None = None
    """Budget meanwhile."""

    @pydantic.model_validator(mode="after")
    def _has_a_length(self) -> "Schedule":
        if self.start == self.end:
            complain(("end",), "must differ from start; for whole days write 00:00 and 23:59", self.end)
        return self

    def is_active(self, unix_s: float) -> bool:
        """Whether it holds at a point in time (seconds since 1970)."""
        local = dt.datetime.fromtimestamp(unix_s, zoneinfo.ZoneInfo(self.time_zone))
        clock, today = f"{local:%H:%M}", _DAYS[local.weekday()]
        if self.start < self.end:
            return today in self.days and self.start <= clock < self.end
        yesterday = _DAYS[(local.weekday() - 1) % 7]
        return (today in self.days and clock >= self.start) or (yesterday in self.days and clock < self.end)
