"""`python -m pipeline.sync`: send what is not in MLflow yet.

Whatever is tracked goes to a journal in mlruns/.runs first. Where the store was away until the end of a command, what
is left there is sent by this one, in order and once, and runs whose process died are marked as interrupted. Runs of
processes that live are left alone. Start it in the folder in which the command ran, with the same MLFLOW_TRACKING_URI.
"""

from pipeline import cli


def main(words: list[str]) -> int:
    parser = cli.parser("sync", str(__doc__).split(": ", 1)[1])
    parser.parse_args(words)

    from pipeline.tracker import Tracker, left

    waiting = left()
    if not waiting:
        print("everything is in MLflow")
        return 0
    problems = [p for dataset in sorted({d for d, _ in waiting}) for p in Tracker(dataset).catch_up()]
    for problem in problems:
        print(f"not sent: {problem}")
    print(f"{len(waiting)} runs looked at, {len(problems)} not sent")
    return 1 if problems else 0


if __name__ == "__main__":
    cli.run(main, "give the same command again")
