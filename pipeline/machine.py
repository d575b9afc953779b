"""What this machine offers: cores, device, and the environment that a result was made in."""

import gc
import os
import platform
import subprocess
import tempfile
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from variants import InputError


def cores() -> int:
    """CPU cores that this process may really use: its affinity, and the quota of its container (cgroup v2 or v1)."""
    available = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    for quota, period in _quotas():
        if quota > 0 and period > 0:
            available = min(available, quota / period)
    return max(1, int(available))


def _quotas() -> list[tuple[float, float]]:
    found = []
    for files in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            words = " ".join((Path("/sys/fs/cgroup") / f).read_text() for f in files).split()
            found.append((float(words[0]), float(words[1])))  # "max" is no number: no quota
        except (OSError, ValueError, IndexError):
            continue
    return found


def prepare(threads: int | None = None, workers: int = 1) -> int:
    """Set torch's threads: `threads`, else OMP_NUM_THREADS, else the cores shared among `workers`; return their number.

    Denormal floats are flushed to zero: without that a training slows down as moments of weights that get no
    gradient decay. The setting holds for threads started after it, so this comes before any tensor work.
    """
    if threads is not None and threads < 1:
        raise InputError(f"--threads {threads}: expected 1 or more")
    wanted = os.environ.get("OMP_NUM_THREADS", "").split(",")[
        0
    ]  # more for nested teams may follow, which torch has not
    chosen = threads or (int(wanted) if wanted.isdecimal() else 0) or max(1, cores() // workers)
    torch.set_flush_denormal(True)
    warnings.filterwarnings("ignore", "The value of the smallest subnormal")  # NumPy before 2.4 wonders at it
    torch.set_num_threads(chosen)
    if not gc.get_freeze_count():
        gc.freeze()  # the garbage collector need not walk through what the imports made
    return chosen


def device(name: str) -> torch.device:
    """The device of that name; `auto` is CUDA where there is one. Raises `InputError` where it is absent."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"--device {name}: expected auto, cpu, cuda or cuda:0") from error
    if chosen.type not in ("cpu", "cuda"):
        raise InputError(f"--device {name}: expected auto, cpu, cuda or cuda:0")
    if chosen.type == "cuda":
        count = torch.cuda.device_count()
        if not torch.cuda.is_available() or (chosen.index or 0) >= count:
            raise InputError(
                f"--device {name}: torch {torch.__version__} sees {count} CUDA devices here; try --device cpu"
            )
    return chosen


@contextmanager
def seeded(device: torch.device, seed: int) -> Iterator[None]:
    """No gradients, and a random state of its own, which leaves the caller's as it was."""
    with torch.no_grad(), torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def writable(folder: Path) -> None:
    """Raise `InputError` where no file can be made in a folder, whatever its permissions say."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise InputError(
            f"cannot write to {folder.absolute()} ({error}); start in a folder you may write to"
        ) from error


class Busy(InputError):
    """Another process is at it; nothing is wrong."""


@contextmanager
def exclusive(lock: Path, what: str) -> Iterator[None]:
    """One process at a time, by a lock file that dies with its holder. Raises `Busy` where another has it."""
    from filelock import FileLock, Timeout

    writable(lock.parent)
    try:
        held = FileLock(lock).acquire(timeout=0.1)
    except Timeout as error:
        raise Busy(f"{what} in another process; wait for it") from error
    with held:
        yield


def environment(device: torch.device, threads: int) -> dict[str, str]:
    """Hardware, library versions and, inside a checkout, the commit, as tags that tell runs apart."""
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
    """Every installed package and its version, a line each."""
    from importlib.metadata import distributions

    found = {d.metadata["Name"].lower(): d.version for d in distributions() if d.metadata["Name"]}
    return "".join(f"{name}=={version}\n" for name, version in sorted(found.items()))


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def git(*words: str) -> str:
    """What git says of the checkout that this code lies in; nothing where it lies in none."""
    here = Path(__file__).resolve().parent
    try:
        done = subprocess.run(["git", "-C", str(here), *words], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
