"""From journals to the store: one thread a process, in order, again and again until the store takes it."""

import re
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelOutput, Metric, Param, RunTag

from pipeline.tracker.journal import Entry, Journal

STATUS = {"complete": "FINISHED", "pruned": "KILLED", "failed": "FAILED", "interrupted": "KILLED"}
BATCH = 800  # metrics a call; the store takes 1000
AGAIN = (0.5, 1, 2, 4, 8, 15)  # seconds before a store that failed is asked again
BUFFER = 1.0  # seconds in which points for a server are gathered


class Sender:
    """Sends what journals hold. `add` a journal when a run begins; it is closed once its run has ended and is sent."""

    def __init__(self, client: MlflowClient, experiment: Callable[[str], str], buffer: float) -> None:
        self._client, self._experiment, self._buffer = client, experiment, buffer
        self._journals: list[Journal] = []
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def add(self, journal: Journal) -> None:
        with self._changed:
            self._journals.append(journal)
            self._changed.notify_all()
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, daemon=True, name="tracking")
                self._thread.start()

    def poke(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _work(self) -> None:
        failures = 0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: any(j.unsent for j in self._journals))
                waiting = [j for j in self._journals if j.unsent]
            ending = any(j.ended for j in waiting)
            if self._buffer and not ending:
                time.sleep(self._buffer)
            troubled = [j for j in waiting if not self._sent(j)]  # one that the store refuses does not hold up the rest
            failures = failures + 1 if troubled else 0
            if troubled:
                time.sleep(AGAIN[min(failures, len(AGAIN)) - 1])

    def _sent(self, journal: Journal) -> bool:
        """Send all that a journal holds. False where the store does not take it: then it is kept, and tried again."""
        try:
            while journal.unsent:
                journal.sent(self.send(journal))
        except Exception as error:
            with journal.changed:
                first = re.sub(r"//[^/@\s]*@", "//", (str(error).splitlines() or [""])[0])  # no credentials
                journal.trouble = f"{type(error).__name__}: {first}"
                journal.changed.notify_all()
            return False
        journal.trouble = ""
        if journal.ended:
            self._drop(journal)
        return True

    def _drop(self, journal: Journal) -> None:
        with self._changed:
            self._journals.remove(journal)
        journal.close()

    def send(self, journal: Journal) -> int:
        """Send the first entry that is not sent, and what can go with it in one call. Returns how many went."""
        first, *more = journal.unsent
        if first["op"] == "begin":
            journal.run_id = self._begin(journal, first)
            return 1
        run = journal.run_id
        assert run is not None
        if first["op"] == "metrics":
            together = [first]
            for entry in more:
                if entry["op"] != "metrics" or sum(len(e["values"]) for e in together) > BATCH:
                    break
                together.append(entry)
            points = [Metric(k, v, e["time"], e["step"]) for e in together for k, v in e["values"].items()]
            self._client.log_batch(run, points, synchronous=True)
            return len(together)
        getattr(self, f"_{first['op']}")(run, journal, first)
        return 1

    def find(self, experiment: str, key: str) -> str | None:
        found = self._client.search_runs([self._experiment(experiment)], f"tags.key = '{key}'", max_results=1)
        return str(found[0].info.run_id) if found else None

    def _begin(self, journal: Journal, entry: Entry) -> str:
        """The run of that key: as it is in the store, running again, or made now."""
        run = journal.run_id or self.find(journal.experiment, journal.key)
        if run is None:
            tags = {**entry["tags"], "key": journal.key}
            made = self._client.create_run(self._experiment(journal.experiment), tags=tags, run_name=entry["name"])
            return str(made.info.run_id)
        if entry["reopen"]:
            self._client.update_run(run, status="RUNNING")
            for tag in ("state", "reason"):
                with suppress(Exception):  # it may have none
                    self._client.delete_tag(run, tag)
        self._client.log_batch(run, tags=[RunTag(k, str(v)) for k, v in entry["tags"].items()])
        return run

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
        about = Dataset(**entry["values"])
        self._client.log_inputs(run, [DatasetInput(about, [InputTag("mlflow.data.context", "training")])])

    def _model(self, run: str, journal: Journal, entry: Entry) -> None:
        """A LoggedModel, made once: it bears the run and the step that it is of."""
        experiment = self._experiment(journal.experiment)
        mark = f"{journal.key}@{entry['step']}"
        known = self._client.search_logged_models([experiment], f"tags.made = '{mark}'", max_results=1)
        model = known[0] if known else self._client.create_logged_model(
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
        if not entry["state"]:  # of a run that ended before, and keeps the state that it has
            return
        if entry["state"] in ("interrupted", "failed"):
            now = self._client.get_run(run).data.tags.get("state")  # which our own beginning took away
            if now == "complete":  # by another machine, which went on after we were taken for dead
                return
        self._client.set_tag(run, "state", entry["state"])
        self._client.set_terminated(run, STATUS[entry["state"]], end_time=entry["time"])
