"""`python -m pipeline.sync`: Send what MLflow does not have yet.

Every command writes what it tracks to a journal in mlruns/.runs, and sends it to MLflow from there. If MLflow could not
be reached until the command ended, this command sends the rest, and marks runs whose process died as interrupted. Runs
of processes that are still alive are not touched. Start it in the folder in which the other command ran, with the same
MLFLOW_TRACKING_URI.
"""

from pipeline import cli


def main(argv: list[str]) -> int:
    parser = cli.parser("sync", str(__doc__).split(": ", 1)[1])
    parser.parse_args(argv)

    from pipeline.tracker import Tracker, unsent_runs

    runs = unsent_runs()
    if not runs:
        print("everything is in MLflow")
        return 0
    problems = [p for dataset in sorted({d for d, _ in runs}) for p in Tracker(dataset).catch_up()]
    for problem in problems:
        print(f"not sent: {problem}")
    print(f"runs checked: {len(runs)}; not sent completely: {len(problems)}")
    return 1 if problems else 0


if __name__ == "__main__":
    cli.run(main, "run the same command again")
