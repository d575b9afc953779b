from pathlib import Path


def write(suite: str, folder: Path) -> Path:
    return folder / "benchmark.html"
