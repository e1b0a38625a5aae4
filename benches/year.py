#!/usr/bin/env python3
"""A simulated year: a backup and a prune each day, and what the sink holds next to what it would have to.

    cargo build --release && benches/year.py uniform|hot [--days N] [--mib N] [--work DIR] [--pictures docs/performance]
    benches/year.py plot

The agent is the real one; the sink is its library at the day's time (`sink-at`), so that receipts, observations, the
trash's grace and the wait before blocks are freed are what they would be. Data are files of random bytes, 256 KiB each;
a change makes a file another one.

uniform   each day 1 % of the files change, whichever
hot       10 % of the files change 10 % a day (each day a tenth of them, whichever), the others never
ideal     bytes of all distinct files in the snapshots that the rules keep, each once
held      bytes of all archives at the sink (what lies in the trash and what waits to be freed included)
"""

import argparse
import fcntl
import json
import os
import random
import shutil
import sys
import time
from pathlib import Path

import plot
from rig import MIB, ROOT, Rig, locked, run, tree_bytes

FILE_BYTES = 256 << 10
DAY = 86_400
RULES = """
[defaults.retention]
keep-daily = 14
keep-weekly = 8
keep-monthly = 12
grace = "7d"
"""
# The second day's snapshot is all new to a history of one; nothing else may stop a prune.
FIRST_DAYS = 3


def changed_files(workload, files, numbers):
    if workload == "uniform":
        return numbers.sample(range(files), files // 100)
    hot = files // 10
    return numbers.sample(range(hot), hot // 10)


class Year:
    def __init__(self, options):
        self.options = options
        work = options.work / options.part
        self.rig = Rig(work, options.bin, ("remote-sink", "source-agent", "sink-at"))
        self.rig.ready(RULES)
        # Enrolled by the real sink, served by the one with the clock.
        shutil.move(self.rig.bin / "remote-sink", work / "operator-sink")
        shutil.copy2(self.rig.bin / "sink-at", self.rig.bin / "remote-sink")
        self.time = work / "time"
        self.environment = {**os.environ, "SINK_TIME": str(self.time)}
        self.data = work / "data"
        self.numbers = random.Random(4)
        self.versions = [0] * (options.mib * MIB // FILE_BYTES)
        self.history, self.rows = [], []

    def write(self, at):
        folder = self.data / f"{at // 200:03}"
        folder.mkdir(parents=True, exist_ok=True)
        content = random.Random(at << 20 | self.versions[at]).randbytes(FILE_BYTES)
        (folder / f"f{at:05}").write_bytes(content)

    def day(self, number, now):
        if number == 0:
            changed = range(len(self.versions))
        else:
            changed = changed_files(self.options.part, len(self.versions), self.numbers)
        for at in changed:
            self.versions[at] += 1
            self.write(at)
        self.history.append(list(self.versions))
        self.time.write_text(f"{now}\n")
        done = self.rig.measure(self.rig.agent("--json", "-q", "backup", self.data), env=self.environment)
        sent = next((json.loads(row).get("data_added_packed") for row in done.out.splitlines() if '"summary"' in row), None)
        self.time.write_text(f"{now + 3600}\n")
        out = run(self.rig.bin / "sink-at", "prune", self.rig.vault, "web1", env=self.environment)
        seen = json.loads(out.splitlines()[-1])
        if seen["alarms"] or seen["damaged"]:
            sys.exit(f"day {number}: {seen}")
        held = tree_bytes(self.rig.vault / "sources/web1/archives")
        kept, trash = self.live(seen["kept"]), self.live(seen["kept"] + seen["trash"])
        row = {"day": number, "kept": len(seen["kept"]), "trash": len(seen["trash"]), "held": held, "ideal": kept,
               "with_trash": trash, "sent": sent, "rewritten": seen["rewritten"], "removed": seen["removed"]}
        self.rows.append(row)
        if number % 30 == 0:
            print(f"day {number}: {len(seen['kept'])} kept, {held / MIB:.0f} MiB held, {held / kept:.2f} of the ideal", file=sys.stderr)

    def live(self, sequences):
        """Bytes of the distinct files in these snapshots."""
        found = set()
        for sequence in sequences:
            found.update(enumerate(self.history[sequence]))
        return len(found) * FILE_BYTES

    def run(self):
        begin = int(time.time()) // DAY * DAY + DAY
        for number in range(self.options.days):
            with locked(self.options.lock, fcntl.LOCK_SH):
                self.day(number, begin + number * DAY + 3 * 3600)
        shutil.rmtree(self.rig.work)


def draw(pictures):
    lines = {}
    for workload in ("uniform", "hot"):
        path = pictures / f"year-{workload}.json"
        if path.exists():
            rows = json.loads(path.read_text())
            lines[f"{workload}: held / ideal"] = [(row["day"], row["held"] / row["ideal"]) for row in rows]
            lines[f"{workload}: with the trash"] = [(row["day"], row["with_trash"] / row["ideal"]) for row in rows]
            later = [row for row in rows if row["day"] >= 31] or rows[-1:]
            worst = max(later, key=lambda row: row["held"] / row["ideal"])
            mean = sum(row["held"] / row["ideal"] for row in later) / len(later)
            print(f"{workload}: worst {worst['held'] / worst['ideal']:.2f} on day {worst['day']}, mean {mean:.2f}, "
                  f"last {rows[-1]['held'] / rows[-1]['ideal']:.2f}; {rows[-1]['kept']} snapshots kept, "
                  f"{rows[-1]['held'] / MIB:,.0f} MiB held of {rows[-1]['ideal'] / MIB:,.0f} MiB")
    if lines:
        picture = plot.svg("A year of daily runs: held at the sink by the ideal", "day", "times", lines, (False, False), (1.6, "goal 1.6"))
        (pictures / "year.svg").write_text(picture)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["uniform", "hot", "plot"])
    parser.add_argument("--days", type=int, default=366)
    parser.add_argument("--mib", type=int, default=1300, help="of data: a twentieth of it is more than 64 MiB, as with any large source")
    parser.add_argument("--bin", type=Path, default=ROOT / "target/release")
    parser.add_argument("--work", type=Path, default=Path("/var/tmp/pawl-bench-year"))
    parser.add_argument("--lock", type=Path, help="a file that others lock while they measure; nothing is timed here")
    parser.add_argument("--pictures", type=Path, default=ROOT / "docs/performance")
    options = parser.parse_args()
    options.pictures.mkdir(parents=True, exist_ok=True)
    if options.part != "plot":
        year = Year(options)
        try:
            year.run()
        finally:
            rows = ",\n".join(json.dumps(row) for row in year.rows)
            (options.pictures / f"year-{options.part}.json").write_text(f"[\n{rows}\n]\n")
    draw(options.pictures)


if __name__ == "__main__":
    main()
