#!/usr/bin/env python3
"""Measures the operator's commands on a synthetic vault: many snapshots over many archives, one of which goes.

    cargo build --release && benches/retention.py [--bin DIR] [--work DIR] [--archives N] [--snapshots N]

The vault's blocks are holes: about 8 KiB of disk an archive. Each command is a process of its own; `peak` is its
largest resident memory. Page cache warm, but for nothing else is taken out of it.
"""

import argparse
import os
import shutil
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def measured(*command):
    """Wall and processor seconds, peak MiB and exit code of one command."""
    began = time.monotonic()
    child = os.posix_spawn(command[0], [str(word) for word in command], os.environ,
                           file_actions=[(os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0)])
    _, status, used = os.wait4(child, 0)
    cpu = used.ru_utime + used.ru_stime
    return time.monotonic() - began, cpu, used.ru_maxrss / 1024, os.waitstatus_to_exitcode(status)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bin", type=Path, default=ROOT / "target/release")
    parser.add_argument("--work", type=Path, default=ROOT / "target/bench-retention")
    parser.add_argument("--archives", type=int, default=100_000)
    parser.add_argument("--snapshots", type=int, default=1_000)
    args = parser.parse_args()
    vault = args.work / "vault"
    shutil.rmtree(args.work, ignore_errors=True)
    args.work.mkdir(parents=True)
    sink = [str(args.bin / "remote-sink"), "--root", vault]
    print("| what | wall s | CPU s | peak MiB |\n|---|---|---|---|")

    def row(what, *command, codes=(0,)):
        wall, cpu, peak, code = measured(*command)
        print(f"| {what} | {wall:.2f} | {cpu:.2f} | {peak:.0f} |", flush=True)
        if code not in codes:
            sys.exit(f"{what}: exit code {code}")

    made = measured(str(args.bin / "synthetic-vault"), vault, args.archives, args.snapshots)
    print(f"made {args.snapshots} snapshots over {args.archives} archives in {made[0]:.0f} s", file=sys.stderr)
    row("`observe`, everything new", *sink, "observe")
    row("`observe`, nothing new", *sink, "observe")
    row("`prune -n`", *sink, "prune", "-n")
    accept = ["--accept", "new", "--accept", "grow", "--reason", "synthetic"]
    row("`prune`, 1 snapshot goes, no list of condemned blocks yet", *sink, "prune", "web1", *accept, codes=(0, 20))
    row("`prune`, nothing to do", *sink, "prune")
    row("`prune --now`, its blocks are freed", *sink, "prune", "--now")
    row("`rebuild`", *sink, "rebuild")
    row("`status`", *sink, "status", codes=(0, 1))
    shutil.rmtree(args.work)


if __name__ == "__main__":
    main()
