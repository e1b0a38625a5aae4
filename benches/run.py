#!/usr/bin/env python3
"""Measures first backup, unchanged run and restore over a real sshd on loopback, next to tar, zstd and ssh in the same run.

    benches/run.py [--data DIR] [--work DIR] [--runs N] [--markdown FILE]

Needs root (it makes a user for the sink, starts its own sshd on 127.0.0.1) and release builds of the programs.
Data sets: `tree`, about 1 GiB of this machine's own files; `many`, 100,000 tiny files. Both are made once and kept.

wall   seconds from the client's start to its exit
cpu    seconds that the machine's processors worked meanwhile: client, ssh, sshd, sink and kernel together (keep it idle otherwise)
rss    largest single process of the client's side / of the sink's side, in MiB
rest   MiB that lie on the sink afterwards

Every restore goes into a directory of its own, removed at the end of all: ext4 gives no inode number out again for some
minutes, and searches long for another one, so that a restore right behind a removal measures that search.
"""

import argparse
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SINK_USER = "pawl-bench-sink"
MIB = 1 << 20


def run(*command, **options):
    return subprocess.run([str(word) for word in command], check=True, text=True, **options)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


# ---- data sets


def make_tree(target, bytes_max):
    """Copies files of this machine until there are about `bytes_max` bytes."""
    if (target / ".done").exists():
        return
    shutil.rmtree(target, ignore_errors=True)
    total = 0
    for source in ("/usr/share", "/usr/lib/python3", "/usr/lib/gcc", "/usr/lib/x86_64-linux-gnu", "/usr/bin", "/usr/lib"):
        for folder, folders, files in os.walk(source):
            folders.sort()
            if total > bytes_max:
                break
            copy = target / folder.lstrip("/")
            copy.mkdir(parents=True, exist_ok=True)
            for name in sorted(files):
                path = Path(folder, name)
                if path.is_symlink():
                    (copy / name).symlink_to(os.readlink(path)) if not os.path.lexists(copy / name) else None
                elif path.is_file() and not (copy / name).exists():
                    shutil.copy2(path, copy / name)
                    total += path.stat().st_size
    (target / ".done").touch()


def make_many(target, count):
    if (target / ".done").exists():
        return
    shutil.rmtree(target, ignore_errors=True)
    numbers = random.Random(1)
    words = [bytes(numbers.choices(b"abcdefghijklmnopqrstuvwxyz", k=numbers.randint(3, 9))) for _ in range(2000)]
    for at in range(count):
        folder = target / f"{at // 1000:03}"
        if at % 1000 == 0:
            folder.mkdir(parents=True)
        text = b" ".join(numbers.choices(words, k=numbers.randint(20, 280)))
        (folder / f"f{at:06}.txt").write_bytes(text)
    (target / ".done").touch()


# ---- the sink's side


class Sink:
    """A vault of an ordinary user behind an sshd of our own."""

    def __init__(self, work):
        self.work = work
        self.home = work / "sink-home"
        shutil.rmtree(self.home, ignore_errors=True)
        try:
            pwd.getpwnam(SINK_USER)
        except KeyError:
            run("useradd", "--system", "--no-create-home", "--shell", "/bin/sh", "--password", "*", SINK_USER)
        (self.home / ".ssh").mkdir(parents=True)
        self.port = free_port()
        self.vault = self.home / "vault"
        self.bin = work / "bin"
        self.bin.mkdir(exist_ok=True)
        for name in ("remote-sink", "source-agent"):
            shutil.copy2(ROOT / "target/release" / name, self.bin / name)
        (work / "host_key").unlink(missing_ok=True)
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", work / "host_key")
        (work / "client_key").unlink(missing_ok=True)
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", work / "client_key")
        # `ssh HOST NAME` gets an archive if there is one of that name; anything else takes what comes.
        asked = f"{self.home}/$SSH_ORIGINAL_COMMAND.tar.zst"
        command = f"if [ -f {asked} ]; then cat {asked}; else cat > /dev/null; fi"
        self.keys = [f'restrict,command="{command}" {(work / "client_key.pub").read_text()}']
        for folder in [*work.parents, work]:
            folder.chmod(folder.stat().st_mode | 0o055)

    def start(self):
        keys = self.home / ".ssh/authorized_keys"
        keys.write_text("".join(self.keys))
        run("chown", "-R", f"{SINK_USER}:", self.home)
        config = self.work / "sshd_config"
        config.write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {self.work}/host_key\nPidFile none\nUsePAM no\n"
            f"StrictModes no\nAuthorizedKeysFile {keys}\nLogLevel ERROR\nMaxStartups 100\n"
        )
        Path("/run/sshd").mkdir(exist_ok=True)
        self.sshd = subprocess.Popen(["/usr/sbin/sshd", "-D", "-e", "-f", str(config)])
        for _ in range(100):
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                return
            except OSError:
                time.sleep(0.05)
        sys.exit("sshd does not start")

    def ssh(self, *words):
        known = self.work / "known_hosts"
        key = (self.work / "host_key.pub").read_text().split()
        known.write_text(f"[127.0.0.1]:{self.port} {key[0]} {key[1]}\n")
        return ["ssh", "-T", "-o", "BatchMode=yes", "-o", f"UserKnownHostsFile={known}", "-c", "aes256-gcm@openssh.com",
                "-i", str(self.work / "client_key"), "-p", str(self.port), f"{SINK_USER}@127.0.0.1", *words]

    def as_sink(self, *words):
        return run("runuser", "-u", SINK_USER, "--", self.bin / "remote-sink", "--root", self.vault, *words, stdout=subprocess.PIPE).stdout

    def stop(self):
        self.sshd.send_signal(signal.SIGTERM)
        self.sshd.wait()


# ---- measuring


def busy_cpu():
    """Seconds that this machine's processors have worked: user, nice, system, interrupts."""
    fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    return sum(int(fields[at]) for at in (0, 1, 2, 5, 6)) / os.sysconf("SC_CLK_TCK")


class Sampler:
    """Peak memory of the largest process of the sink, sampled 50 times a second."""

    def __init__(self):
        self.peak = 0

    def sample(self):
        for status in Path("/proc").glob("[0-9]*/status"):
            try:
                text = status.read_text()
            except OSError:
                continue
            if "\nName:\tremote-sink" in "\n" + text and "VmHWM:" in text:
                self.peak = max(self.peak, int(text.split("VmHWM:")[1].split()[0]) // 1024)


def measure(command, shell=False):
    os.sync()
    before = busy_cpu()
    sampler = Sampler()
    start = time.monotonic()
    words = command if shell else [str(word) for word in command]
    process = subprocess.Popen(words, shell=shell, executable="/bin/bash" if shell else None, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while True:
        try:
            process.wait(timeout=0.02)
            break
        except subprocess.TimeoutExpired:
            sampler.sample()
    wall = time.monotonic() - start
    errors = process.stderr.read().decode(errors="replace")
    if process.returncode != 0:
        sys.exit(f"{command}: exit {process.returncode}\n{errors}")
    return {"wall": wall, "cpu": busy_cpu() - before, "rss_sink": sampler.peak}


def client_rss(command):
    """Largest process of a command, by GNU time in a wrapper of its own."""
    code = "import resource,subprocess,sys; subprocess.run(sys.argv[1:],check=True,stdout=subprocess.DEVNULL,stderr=subprocess.DEVNULL); print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss//1024)"
    return int(subprocess.run([sys.executable, "-c", code, *map(str, command)], check=True, text=True, stdout=subprocess.PIPE).stdout)


def best(runs, command, shell=False):
    """The fastest of some runs. `command` may be a function that makes it for each run."""
    results = [measure(command() if callable(command) else command, shell) for _ in range(runs)]
    return min(results, key=lambda result: result["wall"])


def size_mib(path):
    return sum(os.lstat(Path(folder, name)).st_size for folder, _, names in os.walk(path) for name in names) / MIB


# ---- the cases


class Source:
    def __init__(self, sink, work, name):
        self.sink, self.name = sink, name
        self.agent = sink.bin / "source-agent"
        self.directory = work / f"source-{name}"
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir()
        self.config = self.directory / "config.toml"
        self.identity = work / "owner.key"
        if not self.identity.exists():
            run(self.agent, "keygen", "-o", self.identity, "--no-passphrase", stdout=subprocess.DEVNULL)
        card = self.init("--recipient", work / "owner.pub", "--name", name)
        self.sink_card = self.enroll(card, "push")
        self.card = card

    def init(self, *words, config=None):
        out = run(self.agent, "-c", config or self.config, "init", *words, stdout=subprocess.PIPE).stdout
        return next(line for line in out.splitlines() if line.startswith("source-card:"))

    def enroll(self, card, role):
        out = self.sink.as_sink("enroll", card, "--role", role, "--address", f"{SINK_USER}@127.0.0.1:{self.sink.port}",
                                "--host-key", self.sink.work / "host_key.pub")
        self.sink.keys.append(next(line for line in out.splitlines() if line.strip().startswith("restrict,")).strip() + "\n")
        return next(line for line in out.splitlines() if line.strip().startswith("sink-card:")).strip()

    def reader(self, work):
        config = work / f"reader-{self.name}/config.toml"
        shutil.rmtree(config.parent, ignore_errors=True)
        config.parent.mkdir()
        card = self.init("--reader", "--name", f"reader-{self.name}", "--recipient", work / "owner.pub", config=config)
        sink_card = self.enroll(card, "read")
        return config, sink_card


class Targets:
    """New directories to restore into."""

    def __init__(self, work):
        self.directory, self.count = work / "restored", 0
        self.directory.mkdir()

    def next(self):
        self.count += 1
        return self.directory / str(self.count)

    def last(self):
        return self.directory / str(self.count)

    def remove(self):
        shutil.rmtree(self.directory, ignore_errors=True)


def case(sink, work, data, runs, rows, targets):
    name = data.name
    source = Source(sink, work, name)
    reader, reader_sink = source.reader(work)
    (sink.home / ".ssh/authorized_keys").write_text("".join(sink.keys))
    run(source.agent, "-c", source.config, "remote", "add", "bench", source.sink_card, stdout=subprocess.DEVNULL)
    run(source.agent, "-c", reader, "remote", "add", "bench", reader_sink, stdout=subprocess.DEVNULL)
    run(source.agent, "-c", reader, "trust", "add", source.card, "-i", source.identity, stdout=subprocess.DEVNULL)
    vault = sink.vault / "sources" / name
    backup = [source.agent, "-c", source.config, "-q", "backup", data]
    pipe = " ".join(sink.ssh("x"))
    files = sum(len(names) for _, _, names in os.walk(data))
    rows.append((name, f"{files:,} files, {size_mib(data):,.0f} MiB", None))
    rows.append((name, "tar \\| zstd -3 -T2 \\| ssh cat", best(runs, f"tar -C {data} -cf - . | zstd -3 -T2 -q | {pipe}", True)))
    first = measure(backup)
    first["rest"] = size_mib(vault)
    rows.append((name, "first backup", first))
    unchanged = best(max(runs, 2), backup)
    unchanged["rss"] = client_rss(backup)
    rows.append((name, "unchanged", unchanged))
    archive = sink.home / f"{name}.tar.zst"
    run("bash", "-c", f"tar -C {data} -cf - . | zstd -3 -T2 -q > {archive}")
    archive.chmod(0o644)
    fetch = " ".join(sink.ssh(name))

    def untar():
        target = targets.next()
        return f"mkdir {target} && {fetch} | zstd -dcq | tar -C {target} -xpf -"

    rows.append((name, "ssh cat \\| zstd -d \\| tar x", best(runs, untar, True)))
    words = [source.agent, "-c", reader, "-q", "restore", f"latest:{data}", "-i", source.identity, "-H", name, "-t"]
    result = best(runs, lambda: [*words, targets.next()])
    result["rss"] = client_rss([*words, targets.next()])
    rows.append((name, "restore", result))
    compare = ["diff", "-r", "--no-dereference", data, targets.last()]
    differences = subprocess.run(compare, stdout=subprocess.PIPE, text=True).stdout
    if differences:
        sys.exit(f"{name}: what came back differs:\n{differences[:2000]}")
    # Peak memory of a first backup, with a source of its own.
    again = Source(sink, work, f"{name}-memory")
    (sink.home / ".ssh/authorized_keys").write_text("".join(sink.keys))
    run(again.agent, "-c", again.config, "remote", "add", "bench", again.sink_card, stdout=subprocess.DEVNULL)
    first["rss"] = client_rss([again.agent, "-c", again.config, "-q", "backup", data])


def table(rows):
    lines = ["| set | what | wall s | CPU s, both ends | peak MiB client / sink | MiB at rest |", "|---|---|---|---|---|---|"]
    for name, what, result in rows:
        if result is None:
            lines.append(f"| {name} | {what} | | | | |")
            continue
        memory = f"{result.get('rss', '–')} / {result['rss_sink'] or '–'}"
        rest = f"{result['rest']:.0f}" if "rest" in result else ""
        lines.append(f"| {name} | {what} | {result['wall']:.2f} | {result['cpu']:.1f} | {memory} | {rest} |")
    return "\n".join(lines) + "\n"


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--data", type=Path, default=Path("/var/tmp/pawl-bench-data"))
    arguments.add_argument("--work", type=Path, default=Path("/var/tmp/pawl-bench-work"))
    arguments.add_argument("--runs", type=int, default=2)
    arguments.add_argument("--tree-mib", type=int, default=1024)
    arguments.add_argument("--many", type=int, default=100_000)
    arguments.add_argument("--markdown", type=Path)
    options = arguments.parse_args()
    shutil.rmtree(options.work, ignore_errors=True)
    options.work.mkdir(parents=True)
    make_tree(options.data / "tree", options.tree_mib * MIB)
    make_many(options.data / "many", options.many)
    sink = Sink(options.work)
    sink.start()
    rows = []
    targets = Targets(options.work)
    try:
        run("runuser", "-u", SINK_USER, "--", sink.bin / "remote-sink", "init", "--root", sink.vault, stdout=subprocess.DEVNULL)
        for name in ("tree", "many"):
            case(sink, options.work, options.data / name, options.runs, rows, targets)
    finally:
        sink.stop()
        targets.remove()
    print(table(rows))
    if options.markdown:
        options.markdown.write_text(table(rows))


main()
