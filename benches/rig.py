"""What the measurements of links and growth share: a vault, an agent, and a command measured with its processes.

Times are for people; what is compared are ratios of one run on one machine.
"""

import contextlib
import fcntl
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MIB = 1 << 20


def run(*command, **options):
    options.setdefault("stdout", subprocess.PIPE)
    done = subprocess.run([str(word) for word in command], text=True, stderr=subprocess.PIPE, **options)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def line(text, start):
    return next(row.strip() for row in text.splitlines() if row.strip().startswith(start))


def tree_bytes(path, blocks=False):
    """Bytes of all files, or (`blocks`) what they take on the disk."""
    stats = (os.lstat(Path(folder, name)) for folder, _, names in os.walk(path) for name in names)
    return sum(one.st_blocks * 512 if blocks else one.st_size for one in stats)


@contextlib.contextmanager
def locked(path, kind=fcntl.LOCK_EX, patience=180):
    """Alone on a machine whose users respect a lock (LOCK_SH: beside others that make noise). Gives whether it is so:
    after `patience` seconds it goes on without."""
    if not path:
        yield True
        return
    with open(path) as file:
        until = time.monotonic() + patience
        got = False
        while not got and time.monotonic() < until:
            try:
                fcntl.flock(file, kind | fcntl.LOCK_NB)
                got = True
            except BlockingIOError:
                time.sleep(0.05)
        yield got


class Peak:
    """High-water marks (VmHWM) of all processes of the programs in one directory, by program. What a process adds in
    the last hundredth of a second of its life may be missed."""

    def __init__(self, bin_dir):
        self.bin_dir, self.peak, self.known = f"{bin_dir}/", {}, {}

    def sample(self):
        for name in os.listdir("/proc"):
            if not name.isdigit():
                continue
            try:
                program = self.known.get(name) or os.readlink(f"/proc/{name}/exe")
                if not program.startswith(self.bin_dir):
                    continue
                self.known[name] = program
                status = Path(f"/proc/{name}/status").read_text()
            except OSError:
                continue
            high = re.search(r"VmHWM:\s+(\d+)", status)
            if high:
                key = program[len(self.bin_dir):]
                self.peak[key] = max(self.peak.get(key, 0), int(high.group(1)) / 1024)


class Measured:
    """One command: seconds, processor seconds of it and its children, peak MiB by program, output."""

    def __init__(self, bin_dir, command, codes=(0,), env=None):
        peak = Peak(bin_dir)
        words = [str(word) for word in command]
        began = time.monotonic()
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=env)
        os.set_blocking(process.stdout.fileno(), False)
        out = b""
        while True:
            out += process.stdout.read() or b""
            pid, status, used = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            peak.sample()
            time.sleep(0.01)
        self.wall = time.monotonic() - began
        out += process.stdout.read() or b""
        process.returncode = os.waitstatus_to_exitcode(status)
        self.cpu = used.ru_utime + used.ru_stime
        self.peak, self.out, self.code = peak.peak, out.decode(errors="replace"), process.returncode
        if self.code not in codes:
            sys.exit(f"{' '.join(words)}: exit {self.code}\n{self.out}")

    def mib(self, program):
        return self.peak.get(program, 0)


class Rig:
    """Programs, a vault and one agent in a directory; the agent reaches the vault through pipes unless told otherwise."""

    def __init__(self, work, bin_dir=None, programs=("remote-sink", "source-agent"), keep=False):
        self.work = Path(work)
        if not keep:
            shutil.rmtree(self.work, ignore_errors=True)
        self.bin = self.work / "bin"
        self.bin.mkdir(parents=True, exist_ok=True)
        for name in programs:
            shutil.copy2(Path(bin_dir or ROOT / "target/release") / name, self.bin / name)
        self.vault = self.work / "vault"
        self.agent_dir = self.work / "agent"
        self.agent_dir.mkdir(exist_ok=True)
        self.identity = self.work / "owner.key"
        if not self.identity.exists():
            run(self.bin / "source-agent", "keygen", "-o", self.identity, "--no-passphrase")

    def sink(self, *words):
        return [self.bin / "remote-sink", "--root", self.vault, *words]

    def agent(self, *words, config=None):
        return [self.bin / "source-agent", "-c", config or self.agent_dir / "config.toml", *words]

    def measure(self, command, **options):
        return Measured(self.bin, command, **options)

    def make_vault(self, config=""):
        run(*self.sink("init"))
        path = self.vault / "vault.toml"
        lines = [row for row in path.read_text().splitlines() if not row.strip().startswith("min-free")]
        text = "\n".join(lines).replace("[store]", '[store]\nmin-free = "16MiB"')
        path.write_text(text + "\n" + config)

    def init_source(self, name="web1"):
        out = run(*self.agent("init", "--recipient", self.work / "owner.pub", "--name", name))
        self.card = line(out, "source-card:")
        return self.card

    def sink_key(self, card=None):
        """Enrolls the source; the sink's key."""
        out = run(*self.sink("enroll", card or self.card, "--address", "nobody@127.0.0.1:1"))
        return re.search(r",sink=([^,]+)", line(out, "sink-card:")).group(1)

    def add_path(self, name="web1", key=None, config=None):
        path = config or self.agent_dir / "config.toml"
        remote = f'\n[[remote]]\nname = "here"\npath = "{self.vault}"\nsource = "{name}"\nsink = "{key or self.sink_key()}"\n'
        path.write_text(path.read_text() + remote)

    def ready(self, config=""):
        """Vault, source and remote in one step."""
        self.make_vault(config)
        self.init_source()
        self.add_path()

    def reader(self):
        """A reader that trusts the source; its configuration file."""
        config = self.work / "reader/config.toml"
        if not config.exists():
            config.parent.mkdir()
            words = ["init", "--reader", "--name", "reader1", "--recipient", self.work / "owner.pub"]
            out = run(*self.agent(*words, config=config))
            words = ["--role", "read", "--address", "nobody@127.0.0.1:1"]
            out = run(*self.sink("enroll", line(out, "source-card:"), *words))
            self.add_path("reader1", re.search(r",sink=([^,]+)", line(out, "sink-card:")).group(1), config)
        card = (self.agent_dir / "state/source.card").read_text().strip()
        run(*self.agent("trust", "add", card, "-i", self.identity, config=config))
        return config


def markdown(head, rows):
    table = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(table + ["| " + " | ".join(map(str, row)) + " |" for row in rows]) + "\n"
