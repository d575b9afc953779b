"""Each slot runs once, whatever dies: a year on a simulated clock, and processes that are killed."""

import heapq
import itertools
import random
import signal
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from conftest import Command

from pipeline import machine
from pipeline.schedule import ledger as ledgers
from pipeline.schedule import slot
from pipeline.schedule.__main__ import main
from pipeline.schedule.cron import Cron
from pipeline.schedule.ledger import FINAL, Lease, Ledger
from variants import InputError

DAY = 86_400.0
START = datetime(2026, 11, 24, 12, tzinfo=UTC).timestamp()


def by_hand(zone: str, year: int, hours: set[int], minute: int, weekdays: set[int]) -> list[float]:
    """Return the times of fixed hours and minutes in a year by checking every minute. Weekdays count from Sunday."""
    local = ZoneInfo(zone)
    time_ = datetime(year, 1, 1, tzinfo=local).astimezone(UTC)
    end = datetime(year + 1, 1, 1, tzinfo=local).astimezone(UTC)
    times, seen = [], set()
    before = time_.astimezone(local).replace(tzinfo=None) - timedelta(minutes=1)
    while time_ < end:
        wall = time_.astimezone(local).replace(tzinfo=None)
        skipped = [before + timedelta(minutes=m) for m in range(1, int((wall - before) / timedelta(minutes=1)) + 1)]
        for each in skipped or [wall]:  # skipped minutes all come right after the gap; repeated minutes come once
            fits = each.hour in hours and each.minute == minute and (each.weekday() + 1) % 7 in weekdays
            if fits and each not in seen:
                seen.add(each)
                times.append(time_.timestamp())
        before = wall
        time_ += timedelta(minutes=1)
    return times


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    ("expression", "zone", "hours", "minute", "weekdays"),
    [
        ("30 2 * * *", "Europe/Zurich", {2}, 30, set(range(7))),  # does not exist on one day, and twice on another
        ("15 1,2 * * 0", "America/New_York", {1, 2}, 15, {0}),  # on Sundays, the day on which clocks change
        ("45 1 * * 5-7", "Australia/Lord_Howe", {1}, 45, {5, 6, 0}),  # half an hour of summer time
    ],
)
def test_times_agree_with_a_check_of_every_minute(
    expression: str, zone: str, hours: set[int], minute: int, weekdays: set[int]
) -> None:
    first = datetime(2026, 1, 1, tzinfo=ZoneInfo(zone)).timestamp()
    last = datetime(2027, 1, 1, tzinfo=ZoneInfo(zone)).timestamp()
    expected = by_hand(zone, 2026, hours, minute, weekdays)
    assert Cron(expression, zone).between(first - 1, last - 1) == expected


def test_times_of_every_hour_continue_when_the_clocks_change() -> None:
    cron = Cron("*/30 * * * *", "Europe/Zurich")
    for day in ("2026-03-29", "2026-10-25"):
        begin = datetime.fromisoformat(f"{day}T00:00:00+00:00").timestamp()
        assert cron.between(begin - 1, begin + 4 * 3600 - 1) == [begin + 1800 * k for k in range(8)]


@pytest.mark.parametrize(
    ("expression", "zone", "day"),
    [
        ("30 2 * * *", "Europe/Zurich", "2026-10-25"),
        ("15 1 * * *", "America/New_York", "2026-11-01"),
        ("*/30 * * * *", "Europe/Zurich", "2026-10-25"),
        ("0 */2 * * *", "Australia/Lord_Howe", "2026-04-04"),
    ],
)
def test_from_within_an_hour_that_exists_twice(expression: str, zone: str, day: str) -> None:
    """`next` and `last` agree with the slots that `between` gives from long before."""
    cron = Cron(expression, zone)
    begin = datetime.fromisoformat(f"{day}T00:00:00+00:00").timestamp()
    slots = cron.between(begin - 3 * DAY, begin + 3 * DAY)
    for minute in range(0, 24 * 60, 5):
        now = begin + 60.0 * minute
        assert cron.next(now) == next(s for s in slots if s > now)
        assert cron.last(now) == max(s for s in slots if s <= now)


def test_weekdays_count_from_sunday() -> None:
    for words in ("0 3 * * 0", "0 3 * * 7", "0 3 * * sun"):
        slot = Cron(words, "UTC").next(START)
        assert f"{datetime.fromtimestamp(slot, UTC):%A %H:%M}" == "Sunday 03:00"
    either = [datetime.fromtimestamp(s, UTC) for s in Cron("0 3 1 * 1", "UTC").between(START, START + 40 * DAY)]
    assert {f"{d:%A}" for d in either if d.day != 1} == {"Monday"}
    assert any(d.day == 1 and f"{d:%A}" != "Monday" for d in either)  # the first of a month, or a Monday


def test_the_newest_slot() -> None:
    cron = Cron("0 3 * * *", "UTC")
    three = datetime(2026, 11, 24, 3, tzinfo=UTC).timestamp()
    assert [cron.last(three + s) for s in (-1, 0, 59, 3600)] == [three - DAY, three, three, three]


@pytest.mark.parametrize(
    ("cron", "zone", "words"),
    [("61 3 * * *", "UTC", "minute"), ("0 3 * *", "UTC", "five fields"), ("0 3 * * *", "Mars", "Europe/Zurich")],
)
def test_bad_times_are_refused(cron: str, zone: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        Cron(cron, zone)


class World:
    """Two schedulers that fail and return, on one simulated clock, and a log of what they ran."""

    def __init__(self, url: str, seed: int, cron: Cron) -> None:
        self.time, self.cron, self.random = START, cron, random.Random(seed)
        self.ledgers = [Ledger(url, lambda: self.time) for _ in range(2)]
        self.down = [0.0, 0.0]  # until when each scheduler is away
        self.log: list[tuple[float, float, float, str]] = []  # slot, from, to, end
        self.count = itertools.count()
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.ledgers[0].set_schedule("smoke", cron, self.time)

    def at(self, when: float, what: Callable[[], None]) -> None:
        heapq.heappush(self.events, (when, next(self.count), what))

    def run(self, until: float) -> None:
        for came in self.cron.between(self.time, until):
            for who in (0, 1):
                self.at(came + self.random.uniform(0, 20), lambda who=who: self.look(who))  # type: ignore[misc]
        while self.events and self.events[0][0] <= until:
            self.time, _, what = heapq.heappop(self.events)
            what()

    def look(self, who: int) -> None:
        """Do what a service does when it wakes."""
        if self.time < self.down[who]:
            self.at(self.down[who] + 1, lambda: self.look(who))
            return
        if self.random.random() < 0.03:  # an outage, of hours or of days, of one or of both
            until = self.time + self.random.choice([2 * 3600.0, 3 * DAY])
            self.down = [until, until] if self.random.random() < 0.5 else self.down
            self.down[who] = until
            self.at(self.down[who] + 1, lambda: self.look(who))
            return
        ledger = self.ledgers[who]
        ledger.refresh("smoke")
        lease = ledger.acquire("smoke", f"scheduler {who}")
        if lease:
            self.start(who, lease)

    def start(self, who: int, lease: Lease) -> None:
        began, fate, takes = self.time, self.random.random(), self.random.uniform(60, 4 * 3600)
        ledger = self.ledgers[who]

        def end(code: int) -> None:
            state = ledger.release(lease, code)
            self.log.append((lease.slot, began, self.time, str(state)))
            if state == "waiting":
                self.later(self.time + ledgers.BACKOFF * 4**3)

        def die() -> None:
            self.log.append((lease.slot, began, self.time, "died"))
            self.later(self.time + ledgers.LEASE_SECONDS)

        def send_heartbeats(then: float) -> None:
            """Until the rerun ends, renew the lease each time before it runs out."""
            if self.time >= then:
                return
            assert ledger.renew(lease)
            self.at(min(then, self.time + ledgers.LEASE_SECONDS * 0.9), lambda: send_heartbeats(then))

        def freeze() -> None:
            """Stop for longer than the lease, and then find out whether it was lost."""
            self.log.append((lease.slot, began, self.time, "froze"))
            self.later(self.time + ledgers.LEASE_SECONDS)

            def wake() -> None:
                if ledger.renew(lease):  # no other process took the slot
                    self.log.append((lease.slot, self.time, self.time, str(ledger.release(lease, 0))))
                else:
                    assert ledger.release(lease, 0) is None

            self.at(self.time + 2 * ledgers.LEASE_SECONDS, wake)

        last = self.time + takes
        send_heartbeats(last)
        if fate < 0.08:
            self.at(last, die)
        elif fate < 0.12:
            self.at(last, freeze)
        else:
            self.at(last, lambda: end(3 if fate < 0.2 else 1 if fate < 0.3 else 0))

    def later(self, when: float) -> None:
        for who in (0, 1):
            self.at(when + self.random.uniform(1, 30), lambda who=who: self.look(who))  # type: ignore[misc]


def simulated(url: str, days: int, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledgers, "LEASE_SECONDS", 3 * 3600.0)  # fewer heartbeats in a simulated night
    cron = Cron("0 3 * * *", "Europe/Zurich")
    world = World(url, seed, cron)
    world.run(START + days * DAY)
    rows = {r.slot: r for r in world.ledgers[0].rows("smoke")}
    slots = cron.between(START, START + days * DAY - 2 * DAY)
    assert set(slots) <= set(rows)
    assert {r.state for s, r in rows.items() if s in slots} <= set(FINAL)
    counts = {state: sum(r.state == state for r in rows.values()) for state in FINAL}
    assert counts["done"] > 0.6 * days
    assert counts["missed"] > 0
    ended = [slot for slot, _, _, end in world.log if end == "done"]
    assert len(ended) == len(set(ended)) == counts["done"]  # no slot ended twice
    spans = sorted((began, to) for _, began, to, _ in world.log)
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(spans))  # never two at once
    for came, row in rows.items():
        if row.state == "missed":
            assert not any(s == came for s, _, _, _ in world.log)
    assert {end for *_, end in world.log} >= {"done", "died", "froze", "waiting"}


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_a_year_of_nights_on_sqlite(tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    simulated(f"sqlite:///{tmp_path}/ledger.db", 365, seed, monkeypatch)


@pytest.mark.slow
def test_half_a_year_of_nights_on_postgresql(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    simulated(database, 180, 3, monkeypatch)


def test_a_slot_that_keeps_failing_is_given_up(tmp_path: Path) -> None:
    now = [START]
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db", lambda: now[0])
    cron = Cron("0 3 1 * *", "UTC")
    ledger.set_schedule("smoke", cron, START)
    now[0] = cron.next(START)
    waits = []
    for _ in range(ledgers.MAX_ATTEMPTS):
        ledger.refresh("smoke")
        while (lease := ledger.acquire("smoke", "me")) is None:
            now[0] += 10
            assert now[0] < START + 20 * DAY
        waits.append(now[0])
        ledger.release(lease, 3, "no room")
    row = ledger.rows("smoke")[0]
    assert (row.state, row.attempts, row.code) == ("failed", ledgers.MAX_ATTEMPTS, 3)
    assert "no room" in row.note
    gaps = [b - a for a, b in itertools.pairwise(waits)]
    assert gaps == [60.0, 240.0, 960.0]


def test_slots_that_are_given_up_and_overdue_reruns_are_notified_once(
    tmp_path: Path, receiver: list[dict[str, str]]
) -> None:
    now = [START]
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db", lambda: now[0])
    cron = Cron("0 3 * * *", "UTC")
    ledger.set_schedule("smoke", cron, START)
    lines: list[str] = []
    now[0] = cron.next(START)
    for _ in range(ledgers.MAX_ATTEMPTS):  # its process dies each time
        slot.refresh(ledger, "smoke", lines.append)
        assert ledger.acquire("smoke", "me")
        now[0] += 2 * ledgers.LEASE_SECONDS
    for _ in range(3):
        slot.refresh(ledger, "smoke", lines.append)
    assert [r.state for r in ledger.rows("smoke")] == ["failed"]
    assert [t["title"] for t in receiver] == ["Benchmark smoke: failed"]
    assert "tried 4 times" in receiver[0]["message"]
    now[0] += 2 * DAY
    for _ in range(3):
        slot.refresh(ledger, "smoke", lines.append)
    assert [t["title"] for t in receiver][1:] == ["Benchmark smoke: no rerun for too long"]
    ledger.acquire("smoke", "me")
    now[0] += 5 * DAY
    slot.refresh(ledger, "smoke", lines.append)
    titles = [t["title"] for t in receiver]  # the gap was reported before, but one more slot is given up
    assert titles == ["Benchmark smoke: failed", "Benchmark smoke: no rerun for too long", "Benchmark smoke: failed"]
    assert len(lines) == 3


def run_slot(ledger: Ledger, rerun: slot.RunSlot, limit: float = 60.0) -> tuple[int, list[str]]:
    lines: list[str] = []
    return slot.run(ledger, "smoke", rerun, lines.append, limit), lines


def test_how_a_slot_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bad news ends a slot. A rerun by hand is waited for and costs no attempt. A rerun that hangs is stopped."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    monkeypatch.setattr(slot, "HEARTBEAT", 0.05)
    now = [START]
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db", lambda: now[0])
    cron = Cron("0 3 * * *", "UTC")
    ledger.set_schedule("smoke", cron, START)

    def busy(name: str, check_lease: slot.CheckLease) -> int:
        raise machine.AlreadyRunning("smoke is being rerun in another process")

    def hangs(name: str, check_lease: slot.CheckLease) -> int:
        time.sleep(30)
        return 0

    def lost(name: str, check_lease: slot.CheckLease) -> int:
        ledger._change(ledgers.update(ledgers.SLOTS).values(token=99))
        time.sleep(30)
        return 0

    try:
        now[0] = cron.next(START)
        assert run_slot(ledger, busy)[0] == 130
        row = ledger.rows("smoke")[0]
        assert (row.state, row.attempts) == ("waiting", 0)
        assert run_slot(ledger, busy)[1] == [
            f"smoke: nothing to do; the newest slot, 2026-11-25T030000Z, is waiting (last process: {row.owner})"
        ]
        now[0] += slot.BUSY_PAUSE
        code, lines = run_slot(ledger, hangs, limit=0.2)
        assert code == 3
        assert "took longer than 0 s" in lines[0]
        assert ledger.rows("smoke")[0].attempts == 1
        now[0] += ledgers.BACKOFF
        code, lines = run_slot(ledger, lost)
        assert code == 130
        assert "was lost" in lines[0]
        now[0] += 2 * ledgers.LEASE_SECONDS
        assert run_slot(ledger, lambda name, check_lease: 1)[0] == 1
        assert ledger.rows("smoke")[0].state == "done"
    finally:
        signal.signal(signal.SIGTERM, before)


def test_changed_times_apply_from_then_on(tmp_path: Path) -> None:
    now = [START]
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db", lambda: now[0])
    ledger.set_schedule("smoke", Cron("0 * * * *", "UTC"), now[0])
    assert ledger.refresh("smoke") == []  # nothing came yet
    now[0] += 3 * 3600
    ledger.refresh("smoke")
    ledger.set_schedule("smoke", Cron("0 * * * *", "UTC"), now[0] - 10 * DAY)  # the same again changes nothing
    assert len(ledger.rows("smoke")) == 3
    ledger.set_schedule("smoke", Cron("30 * * * *", "UTC"), now[0])
    now[0] += 3600
    ledger.refresh("smoke")
    assert [r.slot % 3600 for r in ledger.rows("smoke")] == [0, 0, 0, 1800]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("smoke",), "expected a suite and its times"),
        (("smok", "--cron", "0 3 * * *"), "smoke, nightly, paper"),
        (("smoke", "--cron", "0 3 * * 8"), "five fields"),
        (("smoke", "--cron", "0 3 * * *", "--storage", "mysql://h/d"), "postgresql://"),
        (("smoke", "--cron", "0 3 * * *", "--storage", f"sqlite:///{__file__}/x.db"), "cannot be opened"),
    ],
)
def test_bad_usage_is_refused(folder: Path, arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        main(list(arguments))


def test_the_command_ends_with_2_for_an_unknown_suite(command: Command) -> None:
    done = command("schedule", "smok", "--cron", "0 3 * * *")
    assert done.returncode == 2
    assert "smoke, nightly, paper" in done.stderr
    assert "Traceback" not in done.stderr
