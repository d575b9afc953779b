"""`python -m pipeline`: list the commands."""

COMMANDS = {
    "data": "show what is understood of a data set: its values, classes and splits, and what may be wrong",
    "study": "search the hyperparameters of one variant on a data set",
    "compare": "compare variants on a data set, and write a report with intervals and verdicts",
    "evaluate": "score a trained model on the test split with every metric that applies to it",
    "apply": "use a trained model on new data: codes, reconstructions, scores, samples, missing values, forecasts",
    "benchmark": "rerun a suite of fixed trainings, and report whether anything got worse",
    "schedule": "rerun a benchmark at the times of a crontab expression",
    "ui": "look at the runs in MLflow",
    "reproduce": "train a variant in the setting of its paper, and print the published score beside ours",
    "sync": "send to MLflow what it missed while it could not be reached",
    "speed": "measure how fast the trainer is on this machine, and what tracking costs",
}

if __name__ == "__main__":
    print("`python -m pipeline.COMMAND --help` explains each command:\n")
    for name, about in COMMANDS.items():
        print(f"  python -m pipeline.{name:<10} {about}")
