"""Transmits journals to the MLflow store: one thread per process, in order, with retries until the store accepts."""

import re
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelOutput, Metric, Param, RunTag

from pipeline.tracker.journal import Entry, Journal

STATUS = {"complete": "FINISHED", "pruned": "KILLED", "failed": "FAILED", "interrupted": "KILLED"}
BATCH_SIZE = 800  # metrics in one call; the store accepts 1000
RETRY_DELAYS = (0.5, 1, 2, 4, 8, 15)  # seconds after the first, the second, ... failure
BUFFER = 1.0  # seconds for which metrics are collected, as a call costs much more than what it carries


class Sender:
    """Sends the entries of journals. A journal is closed when its run has ended and all its entries are sent.

    `experiment` returns the id of an experiment for its name. Metrics are collected for `BUFFER` seconds, unless other
    entries wait too.
    """

    def __init__(self, client: MlflowClient, experiment: Callable[[str], str]) -> None:
        self._client, self._experiment = client, experiment
        self._journals: list[Journal] = []
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def add(self, journal: Journal) -> None:
        """Take over the journal of a run that begins, and start the thread if it does not run yet."""
        with self._changed:
            self._journals.append(journal)
            self._changed.notify_all()
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, daemon=True, name="tracking")
                self._thread.start()

    def wake(self) -> None:
        """Tell the thread that a journal has a new entry."""
        with self._changed:
            self._changed.notify_all()

    def _work(self) -> None:
        failures = 0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: any(j.unsent for j in self._journals))
                self._changed.wait_for(self._has_more_than_metrics, BUFFER)
                waiting = [j for j in self._journals if j.unsent]
            failed = [j for j in waiting if not self._send_all(j)]  # a journal that fails does not delay the others
            failures = failures + 1 if failed else 0
            if failed:
                time.sleep(RETRY_DELAYS[min(failures, len(RETRY_DELAYS)) - 1])

    def _has_more_than_metrics(self) -> bool:
        return any(e["op"] != "metrics" for j in self._journals for e in j.unsent)

    def _send_all(self, journal: Journal) -> bool:
        """Send the entries that a journal has now, so that later metrics are collected again.

        Return False if that fails; the entries are then kept for the next attempt.
        """
        waiting = len(journal.unsent)
        try:
            while waiting > 0:
                count = self.send(journal)
                journal.mark_sent(count)
                waiting -= count
        except Exception as error:
            with journal.changed:
                first = re.sub(r"//[^/@\s]*@", "//", (str(error).splitlines() or [""])[0])  # without credentials
                journal.error = f"{type(error).__name__}: {first}"
                journal.changed.notify_all()
            return False
        journal.error = ""
        if journal.ended and not journal.unsent:
            with self._changed:
                self._journals.remove(journal)
            journal.close()
        return True

    def send(self, journal: Journal) -> int:
        """Send the first unsent entry, and those that fit into the same call. Return the number of entries sent."""
        first, *others = journal.unsent
        if first["op"] == "begin":
            journal.run_id = self._begin(journal, first)
            return 1
        run = journal.run_id
        assert run is not None
        if first["op"] == "metrics":
            batch = [first]
            for entry in others:
                if entry["op"] != "metrics" or sum(len(e["values"]) for e in batch) > BATCH_SIZE:
                    break
                batch.append(entry)
            points = [Metric(k, v, e["time"], e["step"]) for e in batch for k, v in e["values"].items()]
            self._client.log_batch(run, points, synchronous=True)
            return len(batch)
        getattr(self, f"_{first['op']}")(run, journal, first)
        return 1

    def find_run(self, experiment: str, key: str) -> str | None:
        """Return the id of the run with this key; None if the store has none."""
        runs = self._client.search_runs([self._experiment(experiment)], f"tags.key = '{key}'", max_results=1)
        return str(runs[0].info.run_id) if runs else None

    def _begin(self, journal: Journal, entry: Entry) -> str:
        """Return the id of the journal's run: a run of the store that runs again, or a new one."""
        run = journal.run_id or self.find_run(journal.experiment, journal.key)
        if run is None:
            tags = {**entry["tags"], "key": journal.key}
            created = self._client.create_run(self._experiment(journal.experiment), tags=tags, run_name=entry["name"])
            return str(created.info.run_id)
        if entry["reopen"]:
            self._client.update_run(run, status="RUNNING")
            for tag in ("state", "reason"):
                with suppress(Exception):  # the run may have no such tag
                    self._client.delete_tag(run, tag)
        self._client.log_batch(run, tags=[RunTag(k, str(v)) for k, v in entry["tags"].items()])
        return run

    # one method for each other kind of entry

    def _params(self, run: str, journal: Journal, entry: Entry) -> None:
        self._client.log_batch(run, params=[Param(k, v) for k, v in entry["values"].items()])

    def _tags(self, run: str, journal: Journal, entry: Entry) -> None:
        self._client.log_batch(run, tags=[RunTag(k, v) for k, v in entry["values"].items()])

    def _file(self, run: str, journal: Journal, entry: Entry) -> None:
        local = journal.folder / "files" / entry["file"]
        if local.is_dir():
            self._client.log_artifacts(run, str(local), entry["path"])
        else:
            self._client.log_artifact(run, str(local), entry["path"] or None)

    def _dataset(self, run: str, journal: Journal, entry: Entry) -> None:
        dataset = Dataset(**entry["values"])
        self._client.log_inputs(run, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])

    def _model(self, run: str, journal: Journal, entry: Entry) -> None:
        """Create a LoggedModel. Its tag `made`, of run and step, shows whether an earlier attempt created it."""
        experiment = self._experiment(journal.experiment)
        mark = f"{journal.key}@{entry['step']}"
        existing = self._client.search_logged_models([experiment], f"tags.made = '{mark}'", max_results=1)
        model = existing[0] if existing else self._client.create_logged_model(
            experiment, name=entry["name"], source_run_id=run, tags={**entry["tags"], "made": mark}, model_type="vae"
        )  # fmt: skip
        self._client.log_model_artifacts(model.model_id, str(journal.folder / "files" / entry["file"]))
        self._client.finalize_logged_model(model.model_id, "READY")
        outputs = self._client.get_run(run).outputs
        if model.model_id not in {o.model_id for o in (outputs.model_outputs if outputs else [])}:
            self._client.log_outputs(run, [LoggedModelOutput(model.model_id, entry["step"])])
        scores = [
            Metric(k, v, entry["time"], entry["step"], model_id=model.model_id, run_id=run)
            for k, v in entry["values"].items()
        ]
        self._client.log_batch(run, scores, synchronous=True)

    def _end(self, run: str, journal: Journal, entry: Entry) -> None:
        if not entry["state"]:  # the run was reopened, and keeps its state
            return
        # `_begin` removed the state: if it is "complete" now, another machine took this process for dead, and completed
        # the run in the meantime
        undone = entry["state"] in ("interrupted", "failed")
        if undone and self._client.get_run(run).data.tags.get("state") == "complete":
            return
        self._client.set_tag(run, "state", entry["state"])
        self._client.set_terminated(run, STATUS[entry["state"]], end_time=entry["time"])
