"""`python -m pipeline.schedule`: rerun a suite at its times."""

import sys
from pathlib import Path

from pipeline import cli

ABOUT = """Rerun a suite of benchmarks at the times of a crontab expression, each time once.

Runs in the foreground until it is stopped; --once does what is due and ends, for cron, a systemd timer, a Kubernetes
CronJob or a CI schedule. Any number of them, on any number of machines, may share a ledger (--storage): each slot is
rerun by one. Slots that came while nobody was there are written down, and the newest of them is caught up."""

EPILOG = """exit codes with --once: 0 nothing got worse, or nothing was due; 1 bad news; 2 bad usage; 3 a fault of this
program; 130 interrupted. A suite has one set of times: others that are given take their place, and end services of
the old ones. The ledger is two tables in --storage, beside Optuna's.

examples:
  python -m pipeline.schedule smoke --cron "0 3 * * *" --timezone Europe/Zurich --workers 2
  python -m pipeline.schedule nightly --cron "30 22 * * 1-5" --once --storage postgresql://...
  python -m pipeline.schedule --history
"""


def main(words: list[str]) -> int:
    parser = cli.parser("schedule", ABOUT, "--storage", *cli.COMPUTE, epilog=EPILOG)
    parser.add_argument("suite", nargs="?", metavar="SUITE", help="a suite of pipeline.benchmark")
    parser.add_argument("--cron", metavar="TIMES", help='minute, hour, day of month, month, weekday: "0 3 * * *"')
    parser.add_argument("--timezone", default="UTC", metavar="ZONE", help="of these times, such as Europe/Zurich (UTC)")
    parser.add_argument("--limit", type=cli.seconds, default=12 * 3600.0, metavar="SECONDS", help="of a rerun (12h)")
    parser.add_argument("--once", action="store_true", help="do what is due, and end")
    parser.add_argument("--history", action="store_true", help="what became of the last slots")
    parser.add_argument("--out", type=Path, default=Path("reports"), metavar="FOLDER", help="where pages go (reports)")
    arguments = parser.parse_args(words)

    from pipeline import machine, notify
    from pipeline.progress import Display
    from pipeline.schedule.cron import Cron
    from pipeline.schedule.ledger import Ledger
    from studies import benchmark as suites
    from variants import InputError

    display = Display()
    if arguments.history:
        return _history(Ledger(arguments.storage), arguments.suite, display)
    if arguments.suite is None or arguments.cron is None:
        raise InputError('expected a suite and its times: python -m pipeline.schedule smoke --cron "0 3 * * *"')
    suites.get(arguments.suite)
    notify.check()
    machine.writable(arguments.out)
    cron = Cron(arguments.cron, arguments.timezone)
    ledger = Ledger(arguments.storage)
    now = ledger.now()
    if not arguments.once:
        from pipeline.schedule.service import Service

        ledger.schedule(arguments.suite, cron, now)
        line = [sys.executable, "-m", "pipeline.schedule", *words, "--once"]
        Service(ledger=ledger, suite=arguments.suite, cron=cron, line=line, say=display.say).run()
    from pipeline.schedule import slot

    ledger.schedule(arguments.suite, cron, cron.last(now) - 1)

    def rerun(name: str, alive: slot.Alive) -> int:
        from pipeline.benchmark import rerun
        from pipeline.benchmark.finish import finish

        request = rerun.RerunRequest(suite=arguments.suite, slot=name, compute=cli.compute(arguments))
        found = rerun.run(request, display, alive)
        return finish(found, display, arguments.out)

    return slot.run(ledger, arguments.suite, rerun, display.say, arguments.limit)


def _history(ledger: "Ledger", suite: str | None, display: "Display") -> int:  # type: ignore[name-defined]  # noqa: F821
    from rich.markup import escape
    from rich.table import Table

    suites = [suite] if suite else ledger.suites()
    for each in suites:
        known = ledger.cron(each)
        if known is None:
            display.say(f"{each}: never scheduled here")
            continue
        cron = known[0]
        table = Table("slot", "state", "tries", "code", "by", "seconds", "", title=f"{each}: {cron.words()}")
        for row in ledger.rows(each, 30):
            took = f"{row.ended - row.began:.0f}" if row.began and row.ended else ""
            code = "" if row.code is None else str(row.code)
            cells = (cron.local(row.slot), row.state, str(row.attempts), code, row.owner, took, row.note.strip())
            table.add_row(*map(escape, cells))
        display.console.print(table)
    if not suites:
        display.say("no suite was ever scheduled here")
    return 0


if __name__ == "__main__":
    cli.run(main, "the same command goes on where this one stopped")
