"""Runs tasks on a Ray cluster: an existing one, or one that is started on this machine for as long as it is needed.

All nodes share the working directory, where checkpoints and journals lie, and have this package installed.
"""

import os
import sys
from collections.abc import Hashable
from typing import Any

from pipeline import machine
from pipeline.executor import Compute, Ended, OnProgress, Resources, Task
from variants import InputError


class RayExecutor:
    """Runs each task with its share of the CPUs and, on CUDA, of a GPU. Progress messages are not passed on."""

    def __init__(self, compute: Compute) -> None:
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")  # else Ray packs up the working directory
        try:
            import ray
        except ImportError as error:
            raise InputError("--executor ray needs Ray: pip install 'vae-variants[ray]'") from error
        self._ray = ray
        self.slots = compute.workers
        threads = machine.prepare(compute.threads, compute.workers)
        if not compute.address:  # otherwise any other busy process takes nearly all time from workers of niceness 15
            os.environ.setdefault("RAY_worker_niceness", "0")
        paths = os.pathsep.join(filter(None, sys.path))  # workers of our own cluster import what we can import
        own_cluster = {
            "num_cpus": max(machine.cores(), compute.workers * threads),
            "runtime_env": {"env_vars": {"PYTHONPATH": paths}},
        }
        options: dict[str, Any] = {} if compute.address else own_cluster
        try:
            ray.init(
                address=compute.address,
                include_dashboard=None if compute.address else False,
                log_to_driver=False,
                logging_level="ERROR",
                **options,
            )
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise InputError(f"--ray-address {compute.address}: {str(error).splitlines()[0]}") from error
        cluster = ray.cluster_resources()
        gpus = cluster.get("GPU", 0.0) if compute.device in ("auto", "cuda") else 0.0
        if compute.device == "cuda" and not gpus:
            raise InputError("--device cuda: the Ray cluster has no GPU")
        self._resources = Resources("cuda" if gpus else "cpu", threads, os.getcwd())
        # a task writes its own results, and `run_all` submits it again if its process dies: Ray itself need not retry
        self._remote = ray.remote(
            num_cpus=threads, num_gpus=min(1.0, gpus / compute.workers), max_retries=0, scheduling_strategy="SPREAD"
        )(_run_task)
        self._running: dict[Any, Hashable] = {}

    @property
    def hosts(self) -> int:
        return len({n["NodeManagerHostname"] for n in self._ray.nodes() if n["Alive"]})

    def submit(self, key: Hashable, task: Task) -> None:
        self._running[self._remote.remote(task, self._resources)] = key

    def wait(self, on_progress: OnProgress) -> list[Ended]:
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


def _run_task(task: Task, resources: Resources) -> Any:
    os.chdir(resources.folder)
    machine.prepare(resources.threads)
    return task.run(resources, lambda message: None)
