#!/usr/bin/env python3
"""Measures Pawl, and other backup programs beside it, from end to end over a real OpenSSH sshd on loopback.

    cargo build --release --workspace && benches/run.py                 Pawl and what the machine can do without it
    benches/run.py --peers                                              and borg, restic, rustic, bupstash: what is installed
    benches/run.py --report FILE.jsonl [--markdown FILE]                only the tables of earlier runs

Needs root (it makes a user for the sink and starts its own sshd on 127.0.0.1), about 30 GiB of disk, release builds.
`benches/peers/install` installs the other programs into a directory that `--peer-bin` names.

Each round runs every program in turn, and in another order each time: a forced command for each, encryption on, default
settings, source and sink on the same processors, page cache warm. Data sets are made once and kept (peers/datasets.py).
What is measured, and how exactly: peers/machine.py. What Pawl is held to: peers/goals.py. Every restore goes into an ext4
that is new and empty, and is compared with its source.
"""

import argparse
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from peers import cases, datasets, machine, programs, report  # noqa: E402


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", action="store_true", help="other programs too")
    parser.add_argument("--only", metavar="NAME,…", help="only these of: limit, " + ", ".join(each.name for each in programs.ALL))
    parser.add_argument("--cases", metavar="NAME,…", default=",".join(cases.GROUPS), help="only these of: " + ", ".join(cases.GROUPS))
    parser.add_argument("--runs", type=int, default=1, metavar="N", help="rounds; tables show medians")
    parser.add_argument("--unchanged", type=int, default=3, metavar="N", help="unchanged runs in each round")
    parser.add_argument("--peer-bin", type=Path, action="append", default=[], metavar="DIR", help="where to look before $PATH")
    parser.add_argument("--cipher", metavar="NAME", help="for every ssh of the peers, such as aes256-gcm@openssh.com")
    parser.add_argument("--lock", type=Path, metavar="FILE", help="hold this lock while something is measured")
    parser.add_argument("--data", type=Path, default=Path("/var/tmp/pawl-bench-sets"))
    parser.add_argument("--work", type=Path, default=Path("/var/tmp/pawl-bench-work"))
    parser.add_argument("--json", type=Path, metavar="FILE", help="a line for each measurement is appended here")
    parser.add_argument("--markdown", type=Path, metavar="FILE")
    parser.add_argument("--report", type=Path, metavar="FILE", help="nothing is measured: tables of such lines")
    sizes = parser.add_argument_group("sizes of the data sets, when they are made")
    for name, default in (("tree-mib", 1700), ("many", 100_000), ("random-mib", 1024), ("image-mib", 2048), ("dump-mib", 1024)):
        sizes.add_argument(f"--{name}", type=int, default=default, metavar="N")
    return parser.parse_args()


def chosen(options, bench):
    folders = [folder.resolve() for folder in options.peer_bin]
    kinds = [programs.Limits, *(programs.ALL if options.peers else programs.ALL[:1])]
    if options.only:
        kinds = [kind for kind in (programs.Limits, *programs.ALL) if kind.name in options.only.split(",")]
    found = [kind(bench, folders) for kind in kinds]
    for program in found:
        if not program.installed():
            print(f"{program.name}: not installed, left out")
    return [program for program in found if program.installed()]


def measured(options):
    """Runs it all. Returns the file of results."""
    sets = datasets.prepare(options.data, options.tree_mib, options.many, options.random_mib, options.image_mib, options.dump_mib)
    bench = machine.Bench(options.work.resolve(), options.lock, options.cipher)
    out = options.json or bench.work / "results.jsonl"
    found = chosen(options, bench)
    runner = cases.Runner(bench, sets, out, options.unchanged)
    head = [f"- {name}: {each.describe()}" for name, each in sets.items()]
    head += [f"- {program.name}: {program.version()}; {program.note}" for program in found]
    print("\n".join(head), flush=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by a signal"))
    runner.write({"head": head})
    try:
        for _ in range(options.runs):
            runner.one_round(found, options.cases.split(","))
    finally:
        bench.end()
        runner.remove()
    return out


def main():
    options = arguments()
    records = report.read(options.report or measured(options))
    text = report.markdown(records, [kind.name for kind in programs.ALL])
    print(report.plain(text))
    if options.markdown:
        options.markdown.write_text(text)
    if any("failed" in record for record in records):
        sys.exit("something failed: see above")


main()
