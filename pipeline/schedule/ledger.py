"""A row a slot: what became of each, in SQLite or PostgreSQL, beside Optuna's tables.

    waiting -> running -> done       a rerun ended, whatever its verdict (the exit code says)
       ^          |  `--> failed     given up
       '----------'                  its process died, or failed: tried again later
    missed                           came while nobody was there, or waited until the next one came

At most one row of a suite is running: a partial unique index says so, whatever the number of machines. Whoever runs it
holds a lease, renewed by a heartbeat, and a token that grows with each attempt (a fence): one that lost its lease can
neither renew it nor end the slot. Every change is one statement, which finds its row as it was expected, or nothing.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import sqlalchemy
from sqlalchemy import Column, Float, Index, Integer, MetaData, String, Table, Text, func, select, text, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.schema import CreateIndex, CreateTable

from pipeline.schedule.cron import Cron
from variants import InputError

State = Literal["waiting", "running", "done", "failed", "missed"]
FINAL: tuple[State, ...] = ("done", "failed", "missed")
LEASE = 120.0  # seconds without a heartbeat, after which a process counts as dead
BEAT = 20.0  # seconds between heartbeats
ATTEMPTS = 4
BACKOFF = 60.0  # seconds until the second attempt, four times as long until each other

IMPATIENT = {
    "connect_timeout": 10,
    "options": "-c statement_timeout=10000",
    "tcp_user_timeout": 15_000,
}  # of PostgreSQL

_tables = MetaData()
SLOTS = Table(
    "benchmark_slots", _tables,
    Column("suite", String(100), primary_key=True), Column("slot", Float(53), primary_key=True),
    Column("state", String(10), nullable=False), Column("attempts", Integer, nullable=False, default=0),
    Column("token", Integer, nullable=False, default=0), Column("owner", String(200), nullable=False, default=""),
    Column("due", Float(53), nullable=False), Column("lease", Float(53)), Column("began", Float(53)),
    Column("ended", Float(53)), Column("code", Integer), Column("note", Text, nullable=False, default=""),
)  # fmt: skip
_RUNNING = text("state = 'running'")
ONE = Index(
    "benchmark_one_running", SLOTS.c.suite, unique=True, sqlite_where=_RUNNING, postgresql_where=_RUNNING
)  # fmt: skip
SCHEDULES = Table(
    "benchmark_schedules", _tables, Column("suite", String(100), primary_key=True),
    Column("cron", String(200), nullable=False), Column("zone", String(100), nullable=False),
    Column("since", Float(53), nullable=False), Column("told", Float(53), nullable=False, default=0.0),
)  # fmt: skip


@dataclass(frozen=True)
class Claim:
    """A slot that is ours as long as the token is."""

    suite: str
    slot: float
    token: int


@dataclass(frozen=True, kw_only=True)
class SlotRow:
    """A slot as it is written down. Times are seconds since 1970."""

    suite: str
    slot: float
    state: State
    attempts: int
    token: int
    owner: str
    due: float
    lease: float | None
    began: float | None
    ended: float | None
    code: int | None
    note: str


class Ledger:
    """Raises `InputError` where the store cannot be opened. `clock` gives the time: a server's own, if there is one."""

    def __init__(self, url: str, clock: Callable[[], float] | None = None) -> None:
        lite = url.startswith("sqlite")
        if not lite and not url.startswith("postgresql"):
            raise InputError(f"--storage {url.split(':', 1)[0]}:...: expected sqlite:///FILE or postgresql://...")
        try:
            # a connection is made for each change and given back: a service that waits for days holds none
            self._engine = sqlalchemy.create_engine(
                url, poolclass=sqlalchemy.pool.NullPool, connect_args={"timeout": 20} if lite else IMPATIENT
            )
            if lite and self._engine.url.database:
                Path(self._engine.url.database).absolute().parent.mkdir(parents=True, exist_ok=True)
            self._create()
        except (SQLAlchemyError, ImportError, OSError, ValueError) as error:
            kind, first = url.split(":", 1)[0], (str(error).splitlines() or [""])[0]
            where = url if lite else f"{kind}://..."  # it may hold a password
            raise InputError(f"--storage {where} cannot be opened ({type(error).__name__}: {first})") from error
        self._clock = clock or (time.time if lite else self._server)

    def _create(self) -> None:
        tables = [CreateTable(t, if_not_exists=True) for t in _tables.sorted_tables]
        made: list[Any] = [*tables, CreateIndex(ONE, if_not_exists=True)]
        for training_run in range(3):  # two that make them at once may collide in PostgreSQL, if-not-exists or not
            try:
                with self._engine.begin() as connection:
                    for statement in made:
                        connection.execute(statement)
                return
            except SQLAlchemyError:
                if training_run == 2:
                    raise
                time.sleep(0.2)

    def _server(self) -> float:
        with self._engine.connect() as connection:
            return float(connection.execute(text("select extract(epoch from clock_timestamp())")).scalar_one())

    def now(self) -> float:
        return self._clock()

    def _change(self, statement: Any) -> int:
        with self._engine.begin() as connection:
            return int(connection.execute(statement).rowcount)

    def schedule(self, suite: str, cron: Cron, since: float) -> None:
        """Write a suite's times down; other times than before count from `since` on."""
        values = {"cron": cron.expression, "zone": cron.zone, "since": since}
        here = SCHEDULES.c.suite == suite
        other = (SCHEDULES.c.cron != cron.expression) | (SCHEDULES.c.zone != cron.zone)
        if not self._change(update(SCHEDULES).where(here, other).values(values)):
            self._add(SCHEDULES, [{"suite": suite, **values}])

    def _add(self, table: Table, rows: list[dict[str, Any]]) -> None:
        """Insert rows, but those whose key is there."""
        insert: Any = sqlite.insert if self._engine.dialect.name == "sqlite" else postgresql.insert
        with self._engine.begin() as connection:
            connection.execute(insert(table).on_conflict_do_nothing(), rows)

    def cron(self, suite: str) -> tuple[Cron, float] | None:
        """A suite's times, and since when they count; None for a suite that was never scheduled."""
        with self._engine.connect() as connection:
            row = connection.execute(select(SCHEDULES).where(SCHEDULES.c.suite == suite)).first()
        return (Cron(row.cron, row.zone), row.since) if row else None

    def plan(self, suite: str) -> list[SlotRow]:
        """Write down what came since the last look: the newest slot waits, older ones were missed, and what a dead
        process ran waits again. Returns the slots that are given up by this, each to one caller alone.
        """
        known = self.cron(suite)
        assert known, f"{suite} is not scheduled"
        cron, since = known
        now = self.now()
        here = SLOTS.c.suite == suite
        dead = here & (SLOTS.c.state == "running") & (SLOTS.c.lease < now)
        values = {"token": SLOTS.c.token + 1, "note": SLOTS.c.note + " its process died;"}
        self._change(update(SLOTS).where(dead, SLOTS.c.attempts < ATTEMPTS).values(state="waiting", due=now, **values))
        given_up = self._give_up(dead, now, values)
        with self._engine.connect() as connection:
            last = connection.execute(select(func.max(SLOTS.c.slot)).where(here)).scalar()
        came = cron.between(max(since, last or 0.0), now)
        if came:
            absent = {"suite": suite, "state": "missed", "note": "nobody was there"}
            rows: list[dict[str, Any]] = [{**absent, "slot": slot, "due": slot} for slot in came]
            rows[-1] |= {"state": "waiting", "note": ""}
            self._add(SLOTS, rows)
        newest = came[-1] if came else last
        if newest is None:
            return given_up
        older = here & (SLOTS.c.slot < newest) & (SLOTS.c.state == "waiting")
        note = {"note": SLOTS.c.note + " overtaken by a later slot"}
        self._change(update(SLOTS).where(older, SLOTS.c.attempts == 0).values(state="missed", ended=now, **note))
        return given_up + self._give_up(older, now, note)

    def _give_up(self, which: Any, now: float, values: dict[str, Any]) -> list[SlotRow]:
        """Mark slots as failed. Returns those that this call marked, and no other."""
        with self._engine.connect() as connection:
            found = connection.execute(select(SLOTS).where(which)).all()
        mine = []
        for row in found:
            this = which & (SLOTS.c.slot == row.slot) & (SLOTS.c.token == row.token)
            if self._change(update(SLOTS).where(this).values(state="failed", ended=now, **values)):
                mine += [r for r in self.rows(row.suite) if r.slot == row.slot]
        return mine

    def late(self, suite: str, slots: int) -> str:
        """In words, that so many slots or more came and went since the last rerun that ended; said once, to one."""
        known = self.cron(suite)
        assert known, f"{suite} is not scheduled"
        cron, since = known
        done = select(func.max(SLOTS.c.slot)).where(SLOTS.c.suite == suite, SLOTS.c.state == "done")
        with self._engine.connect() as connection:
            last = max(since, connection.execute(done).scalar() or 0.0)
        missing = len(cron.between(last, self.now())) - 1  # the newest may be at work
        fresh = (SCHEDULES.c.suite == suite) & (SCHEDULES.c.told != last)
        if missing < slots or not self._change(update(SCHEDULES).where(fresh).values(told=last)):
            return ""
        return f"No rerun ended since {cron.local(last)}; {missing} slots came and went."

    def claim(self, suite: str, owner: str) -> Claim | None:
        """The slot that is due, if there is one and none is running. Call `plan` before."""
        now = self.now()
        waiting = (SLOTS.c.suite == suite) & (SLOTS.c.state == "waiting") & (SLOTS.c.due <= now)
        with self._engine.connect() as connection:
            row = connection.execute(select(SLOTS).where(waiting).order_by(SLOTS.c.slot.desc())).first()
        if row is None:
            return None
        seen = waiting & (SLOTS.c.slot == row.slot) & (SLOTS.c.token == row.token)
        values = {
            "state": "running", "token": row.token + 1, "attempts": row.attempts + 1, "owner": owner,
            "lease": now + LEASE, "began": row.began or now,
        }  # fmt: skip
        try:
            changed = self._change(update(SLOTS).where(seen).values(values))
        except IntegrityError:  # another slot is running
            return None
        return Claim(suite, row.slot, row.token + 1) if changed else None

    def _mine(self, claim: Claim) -> Any:
        return (
            (SLOTS.c.suite == claim.suite) & (SLOTS.c.slot == claim.slot) & (SLOTS.c.token == claim.token)
            & (SLOTS.c.state == "running")
        )  # fmt: skip

    def beat(self, claim: Claim) -> bool:
        """Renew the lease. False where the slot is no longer ours."""
        return bool(self._change(update(SLOTS).where(self._mine(claim)).values(lease=self.now() + LEASE)))

    def end(self, claim: Claim, code: int, note: str = "", pause: float = 0.0) -> State | None:
        """What becomes of a slot by the exit code of its rerun; None where it is no longer ours.

        0 and 1 are verdicts: done. 130 was asked to stop: it waits, as if it had not begun, for `pause` seconds. Others
        are tried again, later each time, and failed in the end.
        """
        now = self.now()
        attempts = self._attempts(claim)
        note = f" {note};" if note else ""
        values: dict[str, Any] = {"code": code, "ended": now, "note": SLOTS.c.note + note}
        state: State
        if code in (0, 1):
            state = "done"
        elif code == 130:
            state = "waiting"
            values |= {"attempts": SLOTS.c.attempts - 1, "due": now + pause, "ended": None}
        elif attempts >= ATTEMPTS:
            state = "failed"
        else:
            state = "waiting"
            values |= {"due": now + BACKOFF * 4 ** (attempts - 1), "ended": None}
        return state if self._change(update(SLOTS).where(self._mine(claim)).values(state=state, **values)) else None

    def _attempts(self, claim: Claim) -> int:
        with self._engine.connect() as connection:
            return int(connection.execute(select(SLOTS.c.attempts).where(self._mine(claim))).scalar() or 0)

    def waits(self, suite: str) -> bool:
        """Whether a slot could be claimed now, as far as can be seen without trying."""
        now, here = self.now(), SLOTS.c.suite == suite
        with self._engine.connect() as connection:
            busy = connection.execute(select(SLOTS.c.slot).where(here, SLOTS.c.state == "running")).first()
            due = connection.execute(select(SLOTS.c.slot).where(here, SLOTS.c.state == "waiting", SLOTS.c.due <= now))
            return busy is None and due.first() is not None

    def rows(self, suite: str | None = None, last: int | None = None) -> list[SlotRow]:
        """Slots, oldest first; the last ones, where a number is given."""
        query = select(SLOTS).order_by(SLOTS.c.slot.desc())
        query = query.where(SLOTS.c.suite == suite) if suite else query
        with self._engine.connect() as connection:
            found = connection.execute(query.limit(last) if last else query).all()
        return [SlotRow(**row._mapping) for row in reversed(found)]

    def suites(self) -> list[str]:
        with self._engine.connect() as connection:
            return sorted(connection.execute(select(SCHEDULES.c.suite)).scalars())
