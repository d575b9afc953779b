"""The machine that the program runs on: its cores, devices and folders, and the environment of a result."""

import gc
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from variants import InputError


def cores() -> int:
    """Return how many CPU cores this process may use, by its affinity and its container's quota (cgroup v2 or v1)."""
    available = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    for quota, period in _quotas():
        if quota > 0 and period > 0:
            available = min(available, quota / period)
    return max(1, int(available))


def _quotas() -> list[tuple[float, float]]:
    """Return the (quota, period) pairs of this process's container, in microseconds."""
    quotas = []
    for files in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            quota, period = " ".join((Path("/sys/fs/cgroup") / f).read_text() for f in files).split()[:2]
            quotas.append((float(quota), float(period)))  # the word "max" means that there is no quota
        except (OSError, ValueError):
            continue
    return quotas


def prepare(threads: int | None = None, workers: int = 1) -> int:
    """Set the number of torch's threads, and return it.

    It is `threads` if given, else OMP_NUM_THREADS if set, else the number of cores divided by `workers`.

    Denormal floats are flushed to zero. Otherwise training slows down as the moments of weights without a gradient
    decay. The setting applies to threads that are started later, so this must come before any tensor operation.
    """
    if threads is not None and threads < 1:
        raise InputError(f"--threads {threads}: expected 1 or more")
    variable = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]  # the others are for nested parallel regions
    count = threads or (int(variable) if variable.isdecimal() else 0) or max(1, cores() // workers)
    torch.set_flush_denormal(True)
    warnings.filterwarnings("ignore", "The value of the smallest subnormal")  # NumPy before 2.4 warns about flushing
    torch.set_num_threads(count)
    if not gc.get_freeze_count():
        gc.freeze()  # the garbage collector need not visit the many objects that the imports created
    return count


def device(name: str) -> torch.device:
    """Return the device of that name; `auto` is CUDA if available. Raises `InputError` if there is no such device."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"--device {name}: expected auto, cpu, cuda or cuda:0") from error
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"--device {name}: expected auto, cpu, cuda or cuda:0")
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if not torch.cuda.is_available() or (device.index or 0) >= count:
            raise InputError(
                f"--device {name}: torch {torch.__version__} sees {count} CUDA devices here; try --device cpu"
            )
    return device


def peak_memory(device: torch.device) -> int:
    """Return the most bytes that this process has taken so far: on a GPU by its tensors there, otherwise in all."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    import resource  # which Windows does not have

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def synchronize(device: torch.device) -> None:
    """Wait until a device has done what it was asked to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def seeded(device: torch.device, seed: int) -> Iterator[None]:
    """Run the block without gradients and with its own random state; afterwards the random state is as before."""
    with torch.no_grad(), torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


class EqualNoise(TorchFunctionMode):
    """Inside this context, torch draws the same random numbers for each of `n` examples.

    The score of an example then depends neither on the other examples nor on their order. It applies to tensors
    (n * k, ...) that `torch.randn`, `torch.rand` and their `_like` forms return, with the k draws of an example in
    consecutive rows.
    """

    def __init__(self, n: int) -> None:
        super().__init__()
        self.n = n

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in (torch.randn, torch.randn_like, torch.rand, torch.rand_like):
            return func(*args, **(kwargs or {}))
        is_like = func in (torch.randn_like, torch.rand_like)
        whole = (torch.empty_like if is_like else torch.empty)(*args, **(kwargs or {}))
        draw = torch.randn if func in (torch.randn, torch.randn_like) else torch.rand
        each = draw(len(whole) // self.n, *whole.shape[1:], dtype=whole.dtype, device=whole.device)
        return each.repeat(self.n, *[1] * (whole.ndim - 1))


def writable(folder: Path) -> None:
    """Create a folder if necessary, and raise `InputError` if no file can be created in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        message = f"cannot write to {folder.absolute()} ({error}); start in a folder that you may write to"
        raise InputError(message) from error


def disk_is_full(error: BaseException) -> bool:
    """Return whether an error says that a disk is full, in the words of the system, of SQLite or of PostgreSQL."""
    return any(words in str(error) for words in ("No space left on device", "disk is full", "quota exceeded"))


def room_left() -> str:
    """Return a clause that says how much room the disk of the working directory has."""
    return f"{shutil.disk_usage('.').free / 1e6:,.1f} MB are left on the disk of {Path.cwd()}"


class AlreadyRunning(InputError):
    """Another process is doing the same work. Nothing is wrong."""


@contextmanager
def exclusive(lock: Path, what: str) -> Iterator[None]:
    """Let one process at a time run the block, by a lock file that is released when its process ends.

    `what` begins the message, such as "digits is being compared". Raises `AlreadyRunning` if another process runs it.
    """
    from filelock import FileLock, Timeout

    writable(lock.parent)
    try:
        lock_file = FileLock(lock).acquire(timeout=0.1)
    except Timeout as error:
        raise AlreadyRunning(f"{what} in another process; wait for it") from error
    with lock_file:
        yield


def environment(device: torch.device, threads: int) -> dict[str, str]:
    """Return the hardware, the versions of libraries and, in a git checkout, the commit, as tags of a run."""
    from importlib.metadata import version

    cuda = device.type == "cuda"
    facts = {
        "hardware": torch.cuda.get_device_name(device) if cuda else f"{_cpu()} x{cores()}",
        "threads": str(threads),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "optuna", "mlflow", "scikit-learn")},
    }
    commit = git("rev-parse", "HEAD")
    if commit:
        edits = git("diff", "HEAD")
        facts["commit"] = f"{commit}-dirty-{zlib.crc32(edits.encode()):08x}" if edits else commit
    return facts


def packages() -> str:
    """Return every installed package with its version, one per line, sorted."""
    from importlib.metadata import distributions

    versions = {d.metadata["Name"].lower(): d.version for d in distributions() if d.metadata["Name"]}
    return "".join(f"{name}=={version}\n" for name, version in sorted(versions.items()))


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def git(*arguments: str) -> str:
    """Return the output of a git command in the checkout that holds this file, or "" if that fails."""
    command = ["git", "-C", str(Path(__file__).resolve().parent), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
