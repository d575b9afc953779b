"""The times of a crontab expression, with the rules of Debian's cron.

Weekdays 0 and 7 are Sunday. If both the day of the month and the weekday are restricted, one of them is enough. When
the clocks change, a fixed hour that does not exist comes right after the gap, and an hour that exists twice comes once.
An expression for every hour, or for several times an hour, continues through both changes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import dropwhile, takewhile
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from variants import InputError


@dataclass(frozen=True)
class Cron:
    """A crontab expression in a time zone. Its times, called slots, are in seconds since 1970.

    Raises:
        InputError: If the expression or the time zone is invalid.
    """

    expression: str
    zone: str

    def __post_init__(self) -> None:
        try:
            ZoneInfo(self.zone)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise InputError(f"--timezone {self.zone!r}: expected a name such as Europe/Zurich or UTC") from error
        try:
            next(CronSim(self.expression, datetime.now(UTC)))
        except (CronSimError, StopIteration) as error:
            raise InputError(
                f"--cron {self.expression!r}: {str(error) or 'it never comes'}; expected five fields: minute, hour, "
                'day of month, month, weekday (0 or 7 is Sunday), such as "0 3 * * *" or "*/30 8-18 * * 1-5"'
            ) from error

    def _after(self, time: float) -> Iterator[float]:
        begin = datetime.fromtimestamp(time, ZoneInfo(self.zone))
        slots = (slot.timestamp() for slot in CronSim(self.expression, begin))
        return dropwhile(lambda slot: slot <= time, slots)  # CronSim starts with the first of two equal hours

    def next(self, time: float) -> float:
        """Return the first slot after a time."""
        return next(self._after(time))

    def between(self, after: float, until: float) -> list[float]:
        """Return the slots after one time and up to another, oldest first."""
        return list(takewhile(lambda slot: slot <= until, self._after(after)))

    def last(self, time: float) -> float:
        """Return the newest slot that is not after a time."""
        spans = (0.001, 0.1, 2, 40, 400, 8 * 366)  # days; 29 February may not come for eight years
        return next(slots[-1] for days in spans if (slots := self.between(time - days * 86_400, time)))

    def describe(self) -> str:
        """Return the times in plain English, with the zone."""
        return f"{CronSim(self.expression, datetime.now(UTC)).explain()} ({self.zone})"

    def local(self, time: float) -> str:
        """Return a time as text, in the zone of the schedule."""
        return f"{datetime.fromtimestamp(time, ZoneInfo(self.zone)):%Y-%m-%d %H:%M:%S %Z}"
