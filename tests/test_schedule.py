"""Each slot once, whatever dies: a year on a simulated clock, and real processes that are killed."""

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
from pipeline.schedule.ledger import FINAL, Claim, Ledger
from variants import InputError

DAY = 86_400.0
START = datetime(2026, 11, 24, 12, tzinfo=UTC).timestamp()


def by_hand(zone: str, year: int, hours: set[int], minute: int, weekdays: set[int]) -> list[float]:
    """Every minute of a year asked by itself whether a fixed hour and minute comes, weekdays counted from Sunday."""
    local = ZoneInfo(zone)
    time_ = datetime(year, 1, 1, tzinfo=local).astimezone(UTC)
    end = datetime(year + 1, 1, 1, tzinfo=local).astimezone(UTC)
    found, seen = [], set()
    before = time_.astimezone(local).replace(tzinfo=None) - timedelta(minutes=1)
    while time_ < end:
        wall = time_.astimezone(local).replace(tzinfo=None)
        skipped = [before + timedelta(minutes=m) for m in range(1, int((wall - before) / timedelta(minutes=1)) + 1)]
        for each in skipped or [wall]:  # a gap brings all that it skipped at once; a repetition brings nothing twice
            fits = each.hour in hours and each.minute == minute and (each.weekday() + 1) % 7 in weekdays
            if fits and each not in seen:
                seen.add(each)
                found.append(time_.timestamp())
        before = wall
        time_ += timedelta(minutes=1)
    return found


@pytest.mark.parametrize(
    ("expression", "zone", "hours", "minute", "weekdays"),
    [
        ("30 2 * * *", "Europe/Zurich", {2}, 30, set(range(7))),  # does not exist on one day, and twice on another
        ("15 1,2 * * 0", "America/New_York", {1, 2}, 15, {0}),  # on Sundays, the day on which clocks change
        ("45 1 * * 5-7", "Australia/Lord_Howe", {1}, 45, {5, 6, 0}),  # half an hour of summer time
    ],
)
def test_times_are_those_of_every_minute_asked_by_itself(
    expression: str, zone: str, hours: set[int], minute: int, weekdays: set[int]
) -> None:
    first = datetime(2026, 1, 1, tzinfo=ZoneInfo(zone)).timestamp()
    last = datetime(2027, 1, 1, tzinfo=ZoneInfo(zone)).timestamp()
    expected = by_hand(zone, 2026, hours, minute, weekdays)
    assert Cron(expression, zone).between(first - 1, last - 1) == expected


def test_what_comes_every_hour_goes_on_where_clocks_change() -> None:
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
def test_from_within_an_hour_that_comes_twice(expression: str, zone: str, day: str) -> None:
    """The next slot comes later, and the newest earlier, as they are seen from long before."""
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
    """Schedulers that come and go, on one clock, and a log of what they really ran."""

    def __init__(self, url: str, seed: int, cron: Cron) -> None:
        self.time, self.cron, self.random = START, cron, random.Random(seed)
        self.ledgers = [Ledger(url, lambda: self.time) for _ in range(2)]
        self.down = [0.0, 0.0]  # until when each scheduler is away
        self.log: list[tuple[float, float, float, str]] = []  # slot, from, to, end
        self.count = itertools.count()
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.ledgers[0].schedule("smoke", cron, self.time)

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
        """What a service does when it wakes."""
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
        ledger.plan("smoke")
        claim = ledger.claim("smoke", f"scheduler {who}")
        if claim:
            self.start(who, claim)

    def start(self, who: int, claim: Claim) -> None:
        began, fate, takes = self.time, self.random.random(), self.random.uniform(60, 4 * 3600)
        ledger = self.ledgers[who]

        def ends(code: int) -> None:
            state = ledger.end(claim, code)
            self.log.append((claim.slot, began, self.time, str(state)))
            if state == "waiting":
                self.later(self.time + ledgers.BACKOFF * 4**3)

        def dies() -> None:
            self.log.append((claim.slot, began, self.time, "died"))
            self.later(self.time + ledgers.LEASE)

        def beats(then: float) -> None:
            """Until it ends, one heartbeat before each lease runs out."""
            if self.time >= then:
                return
            assert ledger.beat(claim)
            self.at(min(then, self.time + ledgers.LEASE * 0.9), lambda: beats(then))

        def freezes() -> None:
            """Stopped for longer than its lease; it wakes, and finds whether it is still the one."""
            self.log.append((claim.slot, began, self.time, "froze"))
            self.later(self.time + ledgers.LEASE)

            def wakes() -> None:
                if ledger.beat(claim):  # nobody was there meanwhile: it is still the one
                    self.log.append((claim.slot, self.time, self.time, str(ledger.end(claim, 0))))
                else:
                    assert ledger.end(claim, 0) is None

            self.at(self.time + 2 * ledgers.LEASE, wakes)

        last = self.time + takes
        beats(last)
        if fate < 0.08:
            self.at(last, dies)
        elif fate < 0.12:
            self.at(last, freezes)
        else:
            self.at(last, lambda: ends(3 if fate < 0.2 else 1 if fate < 0.3 else 0))

    def later(self, when: float) -> None:
        for who in (0, 1):
            self.at(when + self.random.uniform(1, 30), lambda who=who: self.look(who))  # type: ignore[misc]


def simulated(url: str, days: int, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledgers, "LEASE", 3 * 3600.0)  # fewer heartbeats in a simulated night
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


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_year_of_nights_on_sqlite(tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    simulated(f"sqlite:///{tmp_path}/ledger.db", 365, seed, monkeypatch)


@pytest.mark.slow
def test_half_a_year_of_nights_on_postgresql(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    simulated(database, 180, 3, monkeypatch)


def test_a_slot_that_keeps_failing_is_given_up(tmp_path: Path) -> None:
    now = [START]
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db", lambda: now[0])
    cron = Cron("0 3 1 * *", "UTC")
    ledger.schedule("smoke", cron, START)
    now[0] = cron.next(START)
    waits = []
    for _ in range(ledgers.ATTEMPTS):
        ledger.plan("smoke")
        while (claim := ledger.claim("smoke", "me")) is None:
            now[0] += 10
            assert now[0] < START + 20 * DAY
        waits.append(now[0])
        ledger.end(claim, 3, "no room")
    row = ledger.rows("smoke")[0]
    assert (row.state, row.attempts, row.code) == ("failed", ledgers.ATTEMPTS, 3)
    assert "no room" in row.note
    gaps = [b - a for a, b in itertools.pairwise(waits)]
    assert gaps == [60.0, 240.0, 960.0]


def test_somebody_hears_once_of_what_was_given_up_and_of_what_never_came(
    tmp_path: Path, receiver: list[dict[str, str]]
) -> None:
    now = [START]
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db", lambda: now[0])
    cron = Cron("0 3 * * *", "UTC")
    ledger.schedule("smoke", cron, START)
    said: list[str] = []
    now[0] = cron.next(START)
    for _ in range(ledgers.ATTEMPTS):  # its process dies each time
        slot.tend(ledger, "smoke", said.append)
        assert ledger.claim("smoke", "me")
        now[0] += 2 * ledgers.LEASE
    for _ in range(3):
        slot.tend(ledger, "smoke", said.append)
    assert [r.state for r in ledger.rows("smoke")] == ["failed"]
    assert [t["title"] for t in receiver] == ["Benchmark smoke: failed"]
    assert "tried 4 times" in receiver[0]["message"]
    now[0] += 2 * DAY
    for _ in range(3):
        slot.tend(ledger, "smoke", said.append)
    assert [t["title"] for t in receiver][1:] == ["Benchmark smoke: no rerun for too long"]
    ledger.claim("smoke", "me")
    now[0] += 5 * DAY
    slot.tend(ledger, "smoke", said.append)
    titles = [t["title"] for t in receiver]  # nothing ended since, which was said before; but one more is given up
    assert titles == ["Benchmark smoke: failed", "Benchmark smoke: no rerun for too long", "Benchmark smoke: failed"]
    assert len(said) == 3


def run_slot(ledger: Ledger, rerun: slot.Rerun, limit: float = 60.0) -> tuple[int, list[str]]:
    said: list[str] = []
    return slot.run(ledger, "smoke", rerun, said.append, limit), said


def test_what_a_rerun_comes_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bad news is an end; a suite at work by hand is waited for, and costs no try; one that hangs is stopped."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    monkeypatch.setattr(slot, "BEAT", 0.05)
    now = [START]
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db", lambda: now[0])
    cron = Cron("0 3 * * *", "UTC")
    ledger.schedule("smoke", cron, START)

    def busy(name: str, alive: slot.Alive) -> int:
        raise machine.Busy("smoke is being rerun in another process")

    def hangs(name: str, alive: slot.Alive) -> int:
        time.sleep(30)
        return 0

    def lost(name: str, alive: slot.Alive) -> int:
        ledger._change(ledgers.update(ledgers.SLOTS).values(token=99))
        time.sleep(30)
        return 0

    try:
        now[0] = cron.next(START)
        assert run_slot(ledger, busy)[0] == 130
        row = ledger.rows("smoke")[0]
        assert (row.state, row.attempts) == ("waiting", 0)
        assert run_slot(ledger, busy)[1] == [
            "smoke: nothing to do; the newest slot, 2026-11-25T030000Z, is waiting by " + row.owner
        ]
        now[0] += slot.BUSY
        code, said = run_slot(ledger, hangs, limit=0.2)
        assert code == 3
        assert "took longer than 0 s" in said[0]
        assert ledger.rows("smoke")[0].attempts == 1
        now[0] += ledgers.BACKOFF
        code, said = run_slot(ledger, lost)
        assert code == 130
        assert "was lost" in said[0]
        now[0] += 2 * ledgers.LEASE
        assert run_slot(ledger, lambda name, alive: 1)[0] == 1
        assert ledger.rows("smoke")[0].state == "done"
    finally:
        signal.signal(signal.SIGTERM, before)


def test_times_that_change_count_from_then(tmp_path: Path) -> None:
    now = [START]
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db", lambda: now[0])
    ledger.schedule("smoke", Cron("0 * * * *", "UTC"), now[0])
    assert ledger.plan("smoke") == []  # nothing came yet
    now[0] += 3 * 3600
    ledger.plan("smoke")
    ledger.schedule("smoke", Cron("0 * * * *", "UTC"), now[0] - 10 * DAY)  # the same again changes nothing
    assert len(ledger.rows("smoke")) == 3
    ledger.schedule("smoke", Cron("30 * * * *", "UTC"), now[0])
    now[0] += 3600
    ledger.plan("smoke")
    assert [r.slot % 3600 for r in ledger.rows("smoke")] == [0, 0, 0, 1800]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("smoke",), "expected a suite and its times"),
        (("smok", "--cron", "0 3 * * *"), "smoke, nightly, paper"),
        (("smoke", "--cron", "0 3 * * 8"), "five fields"),
        (("smoke", "--cron", "0 3 * * *", "--storage", "mysql://h/d"), "postgresql://"),
        (("smoke", "--cron", "0 3 * * *", "--storage", f"sqlite:///{__file__}/x.db"), "cannot be opened"),
    ],
)
def test_bad_usage_is_said(folder: Path, words: tuple[str, ...], said: str) -> None:
    with pytest.raises(InputError, match=said):
        main(list(words))


def test_the_command_ends_with_2_for_what_is_no_suite(command: Command) -> None:
    done = command("schedule", "smok", "--cron", "0 3 * * *")
    assert done.returncode == 2
    assert "smoke, nightly, paper" in done.stderr
    assert "Traceback" not in done.stderr
