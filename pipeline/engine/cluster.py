"""Tasks on a Ray cluster: one that exists, or one that is made on this machine for as long as it is needed.

All nodes share the working directory (checkpoints and journals lie there), and have this package installed.
"""

import os
import sys
from collections.abc import Hashable
from typing import Any

from pipeline import machine
from pipeline.engine import Ended, Place, Show, Task
from variants import InputError


class Ray:
    """A task a slot, each with its share of CPUs and, on CUDA, of a GPU. A task whose node dies is given out again."""

    def __init__(self, workers: int, threads: int | None, device: str, address: str | None) -> None:
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")  # else it packs up the working directory
        try:
            import ray
        except ImportError as error:
            raise InputError("--engine ray needs Ray: pip install 'vae-variants[ray]'") from error
        self._ray = ray
        self.slots = workers
        share = machine.prepare(threads, workers)
        paths = os.pathsep.join(filter(None, sys.path))  # a cluster of our own finds what we find
        own = {"num_cpus": max(machine.cores(), workers * share), "runtime_env": {"env_vars": {"PYTHONPATH": paths}}}
        here: dict[str, Any] = {} if address else own
        try:
            ray.init(
                address=address, include_dashboard=None if address else False, log_to_driver=False,
                logging_level="ERROR", **here,
            )  # fmt: skip
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise InputError(f"--ray-address {address}: {str(error).splitlines()[0]}") from error
        room = ray.cluster_resources()
        gpus = room.get("GPU", 0.0) if device in ("auto", "cuda") else 0.0
        if device == "cuda" and not gpus:
            raise InputError("--device cuda: the Ray cluster has no GPU")
        self._place = Place("cuda" if gpus else "cpu", share, os.getcwd())
        # a task of ours writes down what it did, and is given out again by us: Ray need not try a second time
        self._remote = ray.remote(
            num_cpus=share, num_gpus=min(1.0, gpus / workers), max_retries=0, scheduling_strategy="SPREAD"
        )(_work)
        self._running: dict[Any, Hashable] = {}

    @property
    def hosts(self) -> int:
        return len({n["NodeManagerHostname"] for n in self._ray.nodes() if n["Alive"]})

    def submit(self, key: Hashable, task: Task) -> None:
        self._running[self._remote.remote(task, self._place)] = key

    def wait(self, show: Show) -> list[Ended]:
        from ray.exceptions import RayError, RayTaskError

        ready, _ = self._ray.wait(list(self._running), num_returns=1)
        ends = []
        for reference in ready:
            key = self._running.pop(reference)
            try:
                ends.append(Ended(key, self._ray.get(reference)))
            except RayTaskError as error:
                raise error.cause if isinstance(error.cause, Exception) else error from None
            except RayError as error:  # the worker or its node is gone
                ends.append(Ended(key, died=f"{type(error).__name__}"))
        return ends

    def close(self, patience: float) -> None:
        for reference in self._running:
            self._ray.cancel(reference)
        if self._running:
            self._ray.wait(list(self._running), num_returns=len(self._running), timeout=patience)
        self._ray.shutdown()


def _work(task: Task, place: Place) -> Any:
    os.chdir(place.folder)
    machine.prepare(place.threads)
    return task.run(place, lambda message: None)
