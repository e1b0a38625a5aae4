#!/usr/bin/env python3
"""Measures how cost grows with archives and chunk ids, with files, and with snapshots.

    cargo build --release && benches/growth.py archives|vault|files|snapshots [--sizes N,N,…] [--work DIR] [--lock FILE]
    benches/growth.py plot [--pictures docs/performance]

Each part adds its figures to `figures.json` beside the pictures and replaces those of the same part and size; `plot`
draws them all and prints the tables. The agent reaches the vault through pipes; page cache warm.

archives    a source of so many archives of 16 blocks of 4 chunks (`synthetic-source`): signed indexes, sealed chunk
            tables and local index are real, the blocks are holes. 156,250 archives are 10 million chunk ids.
vault       the same with 8 chunks in a block: 312,500 archives are 40 million chunk ids, a vault of 10 TB
files       so many files of 100 to 900 bytes, 100 in a directory
snapshots   so many real runs, with a small change before each
"""

import argparse
import fcntl
import json
import math
import os
import random
import re
import shutil
import sys
from pathlib import Path

import plot
from rig import MIB, ROOT, Rig, locked, markdown, run, tree_bytes

BLOCKS = 16
CHUNKS = {"archives": 4, "vault": 8}
KEEP = "\n[defaults.retention]\nkeep-last = 10000\n"
ACCEPT = ["--accept", "new", "--accept", "grow", "--accept", "burst", "--accept", "flood", "--reason", "measured"]


class Bench:
    def __init__(self, options):
        self.options = options
        self.figures = []

    def rig(self, part, size):
        rig = Rig(self.options.work / f"{part}-{size}", self.options.bin, self.programs(part))
        rig.ready(KEEP)
        return rig

    def programs(self, part):
        return ("remote-sink", "source-agent") + (("synthetic-source",) if part in CHUNKS else ())

    def row(self, part, size, what, done, **more):
        figure = {"part": part, "size": size, "what": what, "wall": round(done.wall, 3), "cpu": round(done.cpu, 3),
                  "agent": round(done.mib("source-agent"), 1), "sink": round(done.mib("remote-sink"), 1), **more}
        self.note(figure)

    def note(self, figure):
        self.figures.append(figure)
        print(json.dumps(figure), file=sys.stderr, flush=True)

    def timed(self, rig, part, size, what, command, runs=1, codes=(0,), **more):
        with locked(self.options.lock) as quiet:
            results = [rig.measure(command() if callable(command) else command, codes=codes) for _ in range(runs)]
        best = min(results, key=lambda done: done.wall)
        # The highest of all runs is what must fit.
        for program in ("source-agent", "remote-sink"):
            best.peak[program] = max(done.mib(program) for done in results)
        self.row(part, size, what, best, quiet=quiet, **more)
        return best

    def index_bytes(self, rig, part, size, **more):
        size_of = tree_bytes(rig.agent_dir / "cache")
        self.note({"part": part, "size": size, "what": "local index", "bytes": size_of, **more})

    def clear(self, rig):
        if not self.options.keep:
            shutil.rmtree(rig.work)

    # ---- parts

    def made(self, part, size):
        """A source of so many archives; one that was made before is used again."""
        work = self.options.work / f"{part}-{size}"
        made, keep = work / "made", (work / "made").exists()
        rig = Rig(work, self.options.bin, self.programs(part), keep)
        data = work / "data"
        if keep:
            return rig, data
        rig.ready(KEEP)
        small_tree(data, 1000)
        run(*rig.agent("-q", "backup", data))
        with locked(self.options.lock, fcntl.LOCK_SH):
            words = [rig.bin / "synthetic-source", rig.agent_dir, rig.vault, "web1", data, size, BLOCKS, CHUNKS[part]]
            done = rig.measure(words)
        print(done.out, file=sys.stderr)
        tenths = [float(seconds) for seconds in re.findall(r": ([0-9.]+) s", done.out)]
        self.note({"part": part, "size": size, "what": "noted in the local index", "tenths": tenths, "cpu": done.cpu,
                   "ids": size * BLOCKS * CHUNKS[part]})
        made.touch()
        return rig, data

    def archives(self, size):
        self.large_source("archives", size)

    def vault(self, size):
        self.large_source("vault", size)

    def large_source(self, part, size):
        ids = size * BLOCKS * CHUNKS[part]
        rig, data = self.made(part, size)
        backup = rig.agent("-q", "backup", data)
        self.timed(rig, part, size, "ledger rebuild", rig.sink("rebuild"))
        self.timed(rig, part, size, "first run that names them", backup)
        self.index_bytes(rig, part, size, ids=ids)
        self.timed(rig, part, size, "unchanged run", backup, runs=3)
        numbers = iter(range(1000))

        def change():
            (data / "d000/changed").write_bytes(random.Random(next(numbers)).randbytes(4 * MIB))
            return backup

        self.timed(rig, part, size, "4 MiB changed", change, runs=3)
        reader = rig.reader()
        targets = iter(range(1000))
        words = ["-q", "restore", f"latest:{data}/d003/f0003", "-i", rig.identity, "-H", "web1", "-t"]
        self.timed(rig, part, size, "restore of one small file",
                   lambda: rig.agent(*words, fresh(rig.work / f"out{next(targets)}"), config=reader), runs=3)
        self.timed(rig, part, size, "observe", rig.sink("observe"))
        self.timed(rig, part, size, "prune", rig.sink("prune", "web1", *ACCEPT))
        self.timed(rig, part, size, "prune again", rig.sink("prune", "web1"), codes=(0, 20))
        self.timed(rig, part, size, "verify, 1 % of the archives", rig.sink("verify", "--sample", "1%"))
        shutil.rmtree(rig.agent_dir / "cache")
        self.timed(rig, part, size, "index rebuild", backup)
        self.clear(rig)

    def files(self, size):
        rig, part = self.rig("files", size), "files"
        data = rig.work / "data"
        many_files(data, size)
        backup = rig.agent("-q", "backup", data)
        self.timed(rig, part, size, "first backup", backup, data=tree_bytes(data))
        self.index_bytes(rig, part, size, data=tree_bytes(data))
        self.timed(rig, part, size, "unchanged run", backup, runs=3)
        for at in range(0, size, 100):
            (data / f"{at // 100:06}/f{at:08}").write_bytes(b"changed %d" % at)
        self.timed(rig, part, size, "1 % changed", backup)
        reader = rig.reader()
        words = ["-q", "restore", f"latest:{data}", "-i", rig.identity, "-H", "web1", "-t", rig.work / "out"]
        self.timed(rig, part, size, "restore", rig.agent(*words, config=reader))
        self.clear(rig)

    def snapshots(self, sizes):
        part = "snapshots"
        rig = self.rig(part, max(sizes))
        data = rig.work / "data"
        small_tree(data, 1000)
        reader = rig.reader()
        backup, targets = rig.agent("-q", "backup", data), iter(range(10000))
        for at in range(1, max(sizes) + 1):
            (data / f"d{at % 10:03}/f{at % 100:04}").write_bytes(random.Random(at).randbytes(3000))
            if at not in sizes:
                run(*backup)
                if at % 100 == 0:
                    run(*rig.sink("observe"))
                continue
            self.timed(rig, part, at, "backup", backup)
            self.timed(rig, part, at, "unchanged run", backup)
            self.timed(rig, part, at, "snapshots", rig.agent("snapshots", config=reader), runs=2)
            words = ["-q", "restore", f"latest:{data}", "-i", rig.identity, "-H", "web1", "-t"]
            self.timed(rig, part, at, "restore of the newest",
                       lambda: rig.agent(*words, rig.work / f"out{next(targets)}", config=reader), runs=2)
            self.timed(rig, part, at, "observe", rig.sink("observe"))
            self.timed(rig, part, at, "prune", rig.sink("prune", "web1", *ACCEPT))
            self.timed(rig, part, at, "prune again", rig.sink("prune", "web1"), codes=(0, 20))
        self.clear(rig)


def fresh(path):
    shutil.rmtree(path, ignore_errors=True)
    return path


def small_tree(data, files):
    numbers = random.Random(1)
    for at in range(files):
        folder = data / f"d{at % 10:03}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"f{at:04}").write_bytes(numbers.randbytes(3000))


def many_files(data, files):
    numbers = random.Random(2)
    text = bytes(numbers.choices(b"abcdefghijklmnopqrstuvwxyz \n", k=1 << 16))
    for at in range(files):
        folder = data / f"{at // 100:06}"
        if at % 100 == 0:
            folder.mkdir(parents=True)
        begin = numbers.randrange(60000)
        (folder / f"f{at:08}").write_bytes(b"%d " % at + text[begin:begin + numbers.randrange(100, 900)])


# ---- tables and pictures

HEADS = {"archives": ("archives", "archives at the sink, 64 chunk ids each"), "vault": ("archives of 128 chunk ids", ""), "files": ("files", "files"),
         "snapshots": ("snapshots", "snapshots of one source")}


def growth_table(part, figures):
    """A line per measure: processor seconds of both ends and, behind them, of the clock for each size; the exponent of the
    former; the agent's and the sink's peak at the largest."""
    mine = [one for one in figures if one["part"] == part and one["what"] != "noted in the local index"]
    sizes = sorted({one["size"] for one in mine})
    rows = []
    for what in dict.fromkeys(one["what"] for one in mine):
        found = {one["size"]: one for one in mine if one["what"] == what}
        points = [(size, found[size].get("cpu", found[size].get("bytes"))) for size in sizes if size in found]
        is_size = what == "local index"
        show = (lambda one: f'{one["bytes"] / MIB:.1f} MiB') if is_size else (lambda one: f'{one["cpu"]:.2f} ({one["wall"]:.1f})')
        cells = [show(found[size]) if size in found else "" for size in sizes]
        last = found[max(found)]
        peaks = f'{last.get("agent", 0):.0f} / {last.get("sink", 0):.0f}' if "agent" in last else ""
        exponent = plot.exponent(points)
        rows.append([what, *cells, "–" if math.isnan(exponent) else f"{exponent:.2f}", peaks])
    return markdown([HEADS[part][0], *[f"{size:,}" for size in sizes], "exponent", "peak MiB agent / sink"], rows)


def draw(figures, pictures):
    pictures.mkdir(parents=True, exist_ok=True)
    for part, (_, across) in HEADS.items():
        mine = [one for one in figures if one["part"] == part]
        times = series(mine, "cpu", exclude=("noted in the local index",))
        memory = {f"{what}, agent": line for what, line in series(mine, "agent").items()
                  if what in ("unchanged run", "first backup", "4 MiB changed", "backup", "index rebuild", "restore",
                              "restore of one small file", "restore of the newest")}
        memory |= {f"{what}, sink": line for what, line in series(mine, "sink").items() if what in ("unchanged run", "prune")}
        if across and times:
            (pictures / f"{part}-seconds.svg").write_text(plot.svg(f"Processor seconds by {HEADS[part][0]}", across, "seconds of both ends", times))
            (pictures / f"{part}-memory.svg").write_text(
                plot.svg(f"Peak memory by {HEADS[part][0]}", across, "MiB of the largest process", memory))


def series(figures, key, exclude=()):
    lines = {}
    for one in sorted(figures, key=lambda one: one["size"]):
        if one["what"] not in exclude and one.get(key):
            lines.setdefault(one["what"], []).append((one["size"], one[key]))
    return lines


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["archives", "vault", "files", "snapshots", "plot"])
    parser.add_argument("--sizes", help="default: 100 to 156,250 archives, 312,500 of a vault, 10,000 to 1,000,000 files, 1 to 900 snapshots (a sink takes 1,000 a day)")
    parser.add_argument("--bin", type=Path, default=ROOT / "target/release")
    parser.add_argument("--work", type=Path, default=Path("/var/tmp/pawl-bench-growth"))
    parser.add_argument("--pictures", type=Path, default=ROOT / "docs/performance")
    parser.add_argument("--keep", action="store_true", help="leave vaults and data; archives are not made again then")
    parser.add_argument("--lock", type=Path, help="a file to lock while something is measured")
    options = parser.parse_args()
    store = options.pictures / "figures.json"

    def known_figures():
        return json.loads(store.read_text()) if store.exists() else []

    known = known_figures()
    if options.part == "plot":
        draw(known, options.pictures)
        for part in HEADS:
            if any(one["part"] == part for one in known):
                print(growth_table(part, known))
        return
    bench = Bench(options)
    default = {"archives": "100,1000,10000,100000,156250", "vault": "312500", "files": "10000,100000,1000000", "snapshots": "1,10,100,900"}
    sizes = [int(size) for size in (options.sizes or default[options.part]).split(",")]
    options.work.mkdir(parents=True, exist_ok=True)
    try:
        if options.part == "snapshots":
            bench.snapshots(sizes)
        else:
            for size in sizes:
                getattr(bench, options.part)(size)
    finally:
        again = {(one["part"], one["size"], one["what"]) for one in bench.figures}
        known = [one for one in known_figures() if (one["part"], one["size"], one["what"]) not in again] + bench.figures
        options.pictures.mkdir(parents=True, exist_ok=True)
        store.write_text("[\n" + ",\n".join(json.dumps(one) for one in known) + "\n]\n")


if __name__ == "__main__":
    main()
