"""Check that variants do what the contract says.

A variant is given by the name under which it is registered, or as module:Class, for instance in the current folder.
Each line has the verdict of a check, its seconds, its name, and what it found. The exit code is 0 if no check failed, 1
if one did, 2 for bad usage, and 130 if the command was interrupted.
"""

import argparse
import importlib
import sys
from textwrap import shorten

import torch

import variants
from variants.base.contract import InputError, Variant
from variants.check import EACH_KIND, KINDS, ONCE, name_of, run, subjects_of


def find(name: str) -> type[Variant]:
    """Return the variant of a name, or of module:Class.

    Raises:
        InputError: If there is none.
    """
    if ":" not in name:
        return variants.get(name)
    module, _, class_name = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), class_name)
    except Exception as error:
        raise InputError(f"{name} cannot be loaded: {type(error).__name__}: {error}") from error
    return variants.checked(found, name)


def report(name: str, *, device: str, seed: int, only: str) -> bool:
    """Print what the checks of a variant find. Returns whether none failed."""
    subjects, refusals = subjects_of(variant := find(name), device, seed)
    reasons = {reason: [kind for kind in refusals if refusals[kind] == reason] for reason in refusals.values()}
    refused = "".join(f"; not {', '.join(of_reason)}: {reason}" for reason, of_reason in reasons.items())
    print(f"{name}: {len(subjects)} of {len(KINDS)} kinds of data{refused}")
    counts = dict.fromkeys(("passed", "hint", "skipped", "failed"), 0)
    seconds = 0.0
    for finding in run(variant, device=device, seed=seed, only=only):
        status, evidence = finding.result.status, finding.result.evidence
        counts[status] += 1
        seconds += finding.seconds
        text = evidence if status == "failed" else shorten(evidence, 160, placeholder=" ...")
        print(f"{status:7} {finding.seconds:5.1f} s  {finding.name}: {text}", flush=True)
    print(f"{name}: {', '.join(f'{n} {status}' for status, n in counts.items())}, in {seconds:.0f} s\n", flush=True)
    return not counts["failed"]


def main() -> int:
    checks = "\n".join(f"  {name_of(c)}\n      {(c.__doc__ or '').splitlines()[0]}" for c in (*EACH_KIND, *ONCE))
    parser = argparse.ArgumentParser(
        prog="python -m variants.check",
        description=__doc__,
        epilog=f"the checks, of which the first {len(EACH_KIND)} run on each kind of data:\n{checks}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="a registered variant, or module:Class")
    parser.add_argument("--all", action="store_true", help="check all registered variants")
    parser.add_argument("--only", default="", metavar="WORDS", help="carry out the checks whose names have these words")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights, data and noise (0)")
    parser.add_argument("--device", default="cpu", help="cpu, or for instance cuda (cpu)")
    options = parser.parse_args()
    names = variants.names() if options.all else options.names
    if not names:
        parser.error("which variant? give a NAME, or --all")
    if not any(options.only in name_of(check) for check in (*EACH_KIND, *ONCE)):
        parser.error(f"--only {options.only!r}: no check has these words in its name; --help lists them")
    try:
        torch.zeros(1, device=options.device)
    except (AssertionError, RuntimeError) as error:
        parser.error(f"--device {options.device!r}: {str(error).splitlines()[0]}")
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    try:
        for name in names:
            find(name)
        failed = [n for n in names if not report(n, device=options.device, seed=options.seed, only=options.only)]
        return int(bool(failed))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
