"""How each program is set up and driven: encryption on, its own default settings, a forced command that only adds.

A program that is not installed is left out. `fresh()` begins with an empty repository and empty caches.
"""

import os
import shutil
import subprocess
from pathlib import Path

from .machine import SINK_USER, Command, free_port, own, run, usage

ROOT = Path(__file__).resolve().parent.parent.parent
SECRET = "only for measuring"


class Program:
    name = note = ""

    def __init__(self, bench, folders):
        self.bench, self.folders, self.round = bench, folders, 0
        self.repository = self.home = None

    def find(self, name):
        found = [folder / name for folder in self.folders if os.access(folder / name, os.X_OK)]
        return str(found[0]) if found else shutil.which(name)

    def installed(self):
        return self.exe is not None

    @property
    def exe(self):
        return self.find(self.name)

    def version(self):
        return subprocess.run([self.exe, "--version"], stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()[0]

    def fresh(self):
        """New directories each time: what has just been removed makes the next files slow (see `run.py`)."""
        self.round += 1
        self.repository = self.bench.sink_home / f"{self.name}-{self.round}"
        self.home = self.bench.clients / f"{self.name}-{self.round}"
        self.home.mkdir()
        self.bench.authorized[self.name] = []
        self.enter()

    def enter(self):
        """The forced commands, and the program's own `init`."""
        raise NotImplementedError

    def environment(self):
        return {"HOME": self.home}

    def admin(self, *words, **more):
        with self.bench.serving():
            return run(*words, env=self.bench.environment({**self.environment(), **more}))

    def command(self, *words, **more):
        return Command([str(word) for word in words], env=self.environment(), **more)

    def at_rest(self):
        return usage(self.repository)

    def state(self):
        """What the source keeps: index, caches, keys."""
        return usage(self.home)

    def restored(self, source, target):
        """Where a directory's content lies after `restore`."""
        inside = target / str(source).lstrip("/")
        return inside if inside.is_dir() else target


class Pawl(Program):
    name = "pawl"
    note = "one X-Wing recipient, `restrict,command=\"remote-sink serve … --role push\"`"

    @property
    def exe(self):
        path = ROOT / "target/release/source-agent"
        return str(path) if path.exists() else None

    def version(self):
        commit = subprocess.run(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        return f"pawl {commit.stdout.strip()}"

    def enter(self):
        # Copies: the sink's user may not be able to look into this checkout.
        for name in ("source-agent", "remote-sink"):
            if self.round == 1:
                shutil.copy2(ROOT / "target/release" / name, self.bench.bin / name)
        self.agent = self.bench.bin / "source-agent"
        self.sink("init")
        self.identity, self.config, self.reader = self.home / "owner.key", self.home / "config.toml", self.home / "reader/config.toml"
        run(self.agent, "keygen", "-o", self.identity, "--no-passphrase")
        card = self.introduce(self.config, "push", "source", "--recipient", self.home / "owner.pub")
        self.reader.parent.mkdir()
        self.introduce(self.reader, "read", "reader", "--reader", "--recipient", self.home / "owner.pub")
        with self.bench.serving():
            run(self.agent, "-c", self.reader, "trust", "add", card, "-i", self.identity)

    def sink(self, *words):
        return run("runuser", "-u", SINK_USER, "--", self.bench.bin / "remote-sink", "--root", self.repository, *words)

    def introduce(self, config, role, name, *words):
        """Cards are exchanged: the source's to the sink, the sink's back. Returns the first."""

        def line(text, begin):
            return next(line.strip() for line in text.splitlines() if line.strip().startswith(begin))

        card = line(run(self.agent, "-c", config, "init", "--name", name, *words), "source-card:")
        address = ["--address", f"{SINK_USER}@127.0.0.1:{self.bench.port}", "--host-key", f"{self.bench.host_key}.pub"]
        answer = self.sink("enroll", card, "--role", role, *address)
        self.bench.authorized[self.name].append(line(answer, "restrict,"))
        with self.bench.serving():
            run(self.agent, "-c", config, "remote", "add", "bench", line(answer, "sink-card:"))
        return card

    def backup(self, path, number):
        return self.command(self.agent, "-c", self.config, "-q", "backup", path)

    def backup_stream(self, file, number):
        return self.command(self.agent, "-c", self.config, "-q", "backup", "--stdin", "dump.sql", stdin=file)

    def restore(self, path, target):
        return self.command(self.agent, "-c", self.reader, "-q", "restore", f"latest:{path}", "-i", self.identity, "-H", "source", "-t", target)

    def stream(self, target):
        return self.command(self.agent, "-c", self.reader, "-q", "dump", "latest:/dump.sql", "-i", self.identity, "-H", "source", stdout=target)


class Bupstash(Program):
    name = "bupstash"
    note = "put-only key, `bupstash serve --allow-put`"

    def enter(self):
        self.bench.forced(self.name, "bupstash", f"{self.exe} serve --allow-put {self.repository}")
        self.bench.forced(self.name, "bupstash-admin", f"{self.exe} serve --allow-init --allow-get {self.repository}")
        run(self.exe, "new-key", "-o", self.home / "primary.key")
        run(self.exe, "new-sub-key", "-k", self.home / "primary.key", "--put", "-o", self.home / "put.key")
        self.admin(self.exe, "init", **self.owner())

    def environment(self):
        return {"HOME": self.home, "BUPSTASH_KEY": self.home / "put.key", "BUPSTASH_REPOSITORY_COMMAND": "ssh bupstash"}

    def owner(self):
        return {"HOME": self.home, "BUPSTASH_KEY": self.home / "primary.key", "BUPSTASH_REPOSITORY_COMMAND": "ssh bupstash-admin"}

    def backup(self, path, number):
        return self.command(self.exe, "put", f"n={number}", path)

    def backup_stream(self, file, number):
        return self.command(self.exe, "put", f"n={number}", "-", stdin=file)

    def restore(self, path, target):
        target.mkdir()
        return Command([self.exe, "restore", "--into", str(target), f"n={self.last}"], env=self.owner())

    def stream(self, target):
        return Command([self.exe, "get", f"n={self.last}"], env=self.owner(), stdout=target)

    def restored(self, source, target):
        return target


class Restic(Program):
    name = "restic"
    note = "`rclone serve restic --stdio --append-only`"

    @property
    def rclone(self):
        return self.find("rclone")

    def installed(self):
        return self.exe is not None and self.rclone is not None

    def version(self):
        versions = [subprocess.run([exe, "version"], stdout=subprocess.PIPE, text=True, check=True).stdout.split()[:2] for exe in (self.exe, self.rclone)]
        return ", ".join(" ".join(words) for words in versions)

    def enter(self):
        self.bench.forced(self.name, "restic", f"{self.rclone} serve restic --stdio --append-only {self.repository}")
        self.base = [self.exe, "-o", "rclone.program=ssh restic", "-r", "rclone:sink:repository"]
        self.admin(*self.base, "init")

    def environment(self):
        return {"HOME": self.home, "RESTIC_PASSWORD": SECRET, "RESTIC_CACHE_DIR": self.home / "cache"}

    def backup(self, path, number):
        return self.command(*self.base, "backup", path)

    def backup_stream(self, file, number):
        return self.command(*self.base, "backup", "--stdin", "--stdin-filename", "dump.sql", stdin=file)

    def restore(self, path, target):
        return self.command(*self.base, "restore", "latest", "--target", target)

    def stream(self, target):
        return self.command(*self.base, "dump", "latest", "dump.sql", stdout=target)


class Rustic(Program):
    """It has no way to talk to a program's standard input and output: its requests go through a forwarded port to the
    forced command, an HTTP server."""

    name = "rustic"
    note = "a forwarded port to `rclone serve restic --append-only`"

    @property
    def rclone(self):
        return self.find("rclone")

    def installed(self):
        return self.exe is not None and self.rclone is not None

    def enter(self):
        sink_port, client_port = free_port(), free_port()
        # Ends when its connection does: without a terminal nothing would tell it.
        self.bench.forced(self.name, "rustic", f"{self.rclone} serve restic -q --addr 127.0.0.1:{sink_port} --append-only {self.repository}",
                          f',pty,port-forwarding,permitopen="127.0.0.1:{sink_port}"')
        # With a standard input and output of its own: it would take rustic's.
        tunnel = self.home / "tunnel"
        tunnel.write_text(f"#!/bin/sh\nexec ssh -tt -L {client_port}:127.0.0.1:{sink_port} rustic </dev/null >/dev/null 2>&1\n")
        tunnel.chmod(0o755)
        profile = self.home / ".config/rustic/rustic.toml"
        profile.parent.mkdir(parents=True)
        profile.write_text(
            f'[repository]\nrepository = "rclone:sink"\npassword = "{SECRET}"\n[repository.options]\nrclone-command = "{tunnel}"\n'
            f'use-password = "false"\nrest-url = "http://127.0.0.1:{client_port}"\n'
        )
        self.admin(self.exe, "init")

    def environment(self):
        return {"HOME": self.home, "XDG_CONFIG_HOME": self.home / ".config", "XDG_CACHE_HOME": self.home / ".cache"}

    def backup(self, path, number):
        return self.command(self.exe, "backup", path)

    def backup_stream(self, file, number):
        # Without --force the second one counts as unchanged, and nothing is read.
        return self.command(self.exe, "backup", "--force", "--stdin-filename", "dump.sql", "-", stdin=file)

    def restore(self, path, target):
        return self.command(self.exe, "restore", f"latest:{path}", target)

    def stream(self, target):
        return self.command(self.exe, "dump", "latest:dump.sql", stdout=target)


class Borg(Program):
    name = "borg"
    note = "repokey-blake2, `borg serve --append-only`"

    def enter(self):
        self.bench.forced(self.name, "borg", f"{self.exe} serve --append-only --restrict-to-repository {self.repository}")
        self.admin(self.exe, "init", "--encryption", "repokey-blake2")

    def environment(self):
        return {"HOME": self.home, "BORG_BASE_DIR": self.home, "BORG_RSH": "ssh", "BORG_PASSPHRASE": SECRET,
                "BORG_REPO": f"ssh://borg{self.repository}"}

    # Exit 1 is a warning, such as a file that changed within the clock's resolution.
    def backup(self, path, number):
        return self.command(self.exe, "create", f"::n{number}", path, good=(0, 1))

    def backup_stream(self, file, number):
        return self.command(self.exe, "create", "--stdin-name", "dump.sql", f"::n{number}", "-", stdin=file)

    def restore(self, path, target):
        target.mkdir()
        return self.command(self.exe, "extract", f"::n{self.last}", cwd=target)

    def stream(self, target):
        return self.command(self.exe, "extract", "--stdout", f"::n{self.last}", stdout=target)


ALL = (Pawl, Bupstash, Restic, Rustic, Borg)


class Limits(Program):
    """No backup program: what pipes, ssh, zstd and the file system do here."""

    name = "limit"
    note = "no backup program"

    def installed(self):
        return True

    def version(self):
        return subprocess.run(["ssh", "-V"], stderr=subprocess.PIPE, text=True, check=True).stderr.strip()

    def enter(self):
        self.repository.mkdir()
        own(self.repository)
        asked = f"{self.repository}/$SSH_ORIGINAL_COMMAND"
        self.bench.forced(self.name, "limit", f"if [ -f {asked} ]; then exec cat {asked}; else exec cat > /dev/null; fi")
