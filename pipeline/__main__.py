"""`python -m pipeline`: the commands, a line each."""

COMMANDS = {
    "study": "search one variant's hyperparameters on a data set",
    "compare": "compare all variants on a data set, and write a report with intervals and verdicts",
    "evaluate": "score a trained model on the test split, with every metric that it allows",
    "benchmark": "rerun a suite of fixed trainings, and say whether anything got worse",
    "schedule": "do that at the times of a crontab expression, each time once",
    "ui": "look at the runs in MLflow, at the right page",
    "reproduce": "train a variant in its paper's setting, and print the published figure beside ours",
    "sync": "send to MLflow what it missed while it was away",
    "speed": "time the trainer against the tutorial's program, pythae, and its own matrix products",
}

if __name__ == "__main__":
    print("python -m pipeline.COMMAND --help tells more of each:\n")
    for name, about in COMMANDS.items():
        print(f"  python -m pipeline.{name:<10} {about}")
