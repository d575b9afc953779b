"""The times of a crontab expression, as Debian's cron has them.

Weekdays 0 and 7 are Sunday, and day of month or weekday is enough where both are given. Where clocks change, a fixed
hour that does not exist comes right after the gap, and one that exists twice comes once; what comes every hour goes on
through both.
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
    """Times are seconds since 1970. Raises `InputError` for an expression or a zone that is none."""

    expression: str
    zone: str

    def __post_init__(self) -> None:
        try:
            ZoneInfo(self.zone)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise InputError(f"--timezone {self.zone!r}: expected such as Europe/Zurich or UTC") from error
        try:
            next(CronSim(self.expression, datetime.now(UTC)))
        except (CronSimError, StopIteration) as error:
            raise InputError(
                f"--cron {self.expression!r}: {str(error) or 'it never comes'}; expected five fields: minute, hour, "
                'day of month, month, weekday (0 or 7 is Sunday), such as "0 3 * * *" or "*/30 8-18 * * 1-5"'
            ) from error

    def _from(self, time: float) -> Iterator[float]:
        begin = datetime.fromtimestamp(time, ZoneInfo(self.zone))
        slots = (slot.timestamp() for slot in CronSim(self.expression, begin))
        return dropwhile(lambda slot: slot <= time, slots)  # in an hour that comes twice it begins with the first

    def next(self, time: float) -> float:
        """The first slot after a time."""
        return next(self._from(time))

    def between(self, after: float, until: float) -> list[float]:
        """The slots after one time, up to another, oldest first."""
        return list(takewhile(lambda slot: slot <= until, self._from(after)))

    def last(self, time: float) -> float:
        """The newest slot that is not after a time."""
        spans = (0.001, 0.1, 2, 40, 400, 8 * 366)  # days; 29 February comes every eight years, at worst
        return next(found[-1] for days in spans if (found := self.between(time - days * 86_400, time)))

    def words(self) -> str:
        """In plain English, with the zone."""
        return f"{CronSim(self.expression, datetime.now(UTC)).explain()} ({self.zone})"

    def local(self, time: float) -> str:
        return f"{datetime.fromtimestamp(time, ZoneInfo(self.zone)):%Y-%m-%d %H:%M:%S %Z}"
