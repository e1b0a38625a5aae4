"""Our own sshd on loopback, and one command measured: seconds, processors, memory, bytes on the wire.

wall   a clock around the client: its start to its exit. Setting a repository up, sshd's start and a sync(2) lie outside
cpu    user and system seconds that the kernel charged to the client with all its children, and to sshd with all of
       theirs, kept apart: wait4(2). Kernel threads that write to the disk later are in neither
peak   high-water marks (VmHWM) of each process, read 40 times a second: the largest, and the most that the marks of
       processes alive together add up to. Without sshd and shells; the client's sum counts its ssh
wire   bytes that TCP carried to the sink's port and back, as the kernel tells of each connection when it is gone
"""

import contextlib
import ctypes
import fcntl
import mmap
import os
import pwd
import re
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

SINK_USER = "pawl-bench-sink"
MIB = 1 << 20
SHELLS = ("sh", "dash", "bash", "sshd", "sshd-session", "timeout")
TIMEOUT = 1800
PR_SET_CHILD_SUBREAPER = 36


@dataclass
class Command:
    """What is run and measured. `words` is a list, or a line for bash."""

    words: list | str
    env: dict = field(default_factory=dict)
    stdin: Path | None = None
    stdout: Path | None = None
    cwd: Path | None = None
    good: tuple = (0,)

    def argv(self):
        return ["bash", "-o", "pipefail", "-c", self.words] if isinstance(self.words, str) else [str(word) for word in self.words]

    def shown(self):
        return self.words if isinstance(self.words, str) else shlex.join(self.argv())


class Failed(Exception):
    pass


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def run(*words, **options):
    """A command that is not measured."""
    done = subprocess.run([str(word) for word in words], text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, **options)
    if done.returncode:
        raise Failed(f"{shlex.join(map(str, words))}: exit {done.returncode}\n{done.stdout[-1500:]}{done.stderr[-1500:]}")
    return done.stdout


def own(path):
    run("chown", "-R", f"{SINK_USER}:", path)


def usage(path):
    """Files below a directory: how many, their sizes, what the file system allocated for them. Directories count nothing."""
    count = apparent = allocated = 0
    for folder, _, names in os.walk(path):
        for name in names:
            try:
                stat = os.lstat(os.path.join(folder, name))
            except OSError:
                continue
            count, apparent, allocated = count + 1, apparent + stat.st_size, allocated + stat.st_blocks * 512
    return {"files": count, "bytes": apparent, "allocated": allocated}


def busy_seconds():
    """Seconds that this machine's processors have worked for anybody: user, nice, system, interrupts."""
    fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    return sum(int(fields[at]) for at in (0, 1, 2, 5, 6)) / os.sysconf("SC_CLK_TCK")


def touch_memory(bytes_):
    """A virtual machine that lends free memory back to its host pays for each page's first use, which can cost more than
    what is measured. So the pages are used once before, in a process of its own."""
    code = f"import mmap; mmap.mmap(-1, {bytes_}, flags={mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE})"
    subprocess.run([sys.executable, "-c", code], check=False)


# ---- processes


def children(pid):
    found = []
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError):
                found += Path(f"/proc/{pid}/task/{task}/children").read_text().split()
    return found


def below(pid):
    waiting, found = [str(pid)], []
    while waiting:
        found.append(waiting.pop())
        waiting += children(found[-1])
    return found


class Peaks:
    """High-water marks of the processes below one process."""

    def __init__(self, pid, itself):
        self.pid, self.itself = pid, itself
        self.marks, self.sum, self.peak_sum = {}, 0, 0

    def sample(self):
        together = 0
        for pid in below(self.pid)[0 if self.itself else 1 :]:
            with contextlib.suppress(OSError):
                status = Path(f"/proc/{pid}/status").read_text()
                name = status[6 : status.index("\n")]
                mark = re.search(r"VmHWM:\s+(\d+) kB", status)
                if mark and name not in SHELLS:
                    together += int(mark[1]) << 10
                    self.marks[name] = max(self.marks.get(name, 0), int(mark[1]) << 10)
        self.peak_sum = max(self.peak_sum, together)

    def result(self):
        return {"largest": max(self.marks.values(), default=0), "sum": self.peak_sum, "each": self.marks}


class Sampler(threading.Thread):
    def __init__(self, *peaks):
        super().__init__(daemon=True)
        self.peaks, self.ending = peaks, threading.Event()

    def run(self):
        while not self.ending.wait(0.025):
            for peak in self.peaks:
                peak.sample()

    def stop(self):
        self.ending.set()
        self.join()


class Wire:
    """What the kernel says of connections to a port at their end: sock_diag(7), group of destroyed TCP sockets."""

    SOCK_DIAG, DESTROYED, INFO, ACKED_AT = 4, 1, 2, 120

    def __init__(self, port):
        self.port = port
        self.socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, self.SOCK_DIAG)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * MIB)
        self.socket.bind((0, self.DESTROYED))
        self.socket.settimeout(2)
        self.sent = self.received = self.connections = 0

    def finish(self, connections):
        """Waits for the news of so many connections."""
        with self.socket:
            while self.connections < connections:
                try:
                    self.take(self.socket.recv(1 << 16))
                except TimeoutError as error:
                    raise Failed("the kernel did not tell of every connection") from error
        return {"sent": self.sent, "received": self.received, "connections": self.connections}

    def take(self, message):
        """struct nlmsghdr, struct inet_diag_msg, then attributes, one of which is struct tcp_info."""
        end, at = struct.unpack_from("=I", message)[0], 16 + 72
        if struct.unpack_from("!H", message, 20)[0] != self.port:
            return
        while at < end:
            length, kind = struct.unpack_from("=HH", message, at)
            if kind == self.INFO:
                acked, received = struct.unpack_from("=QQ", message, at + 4 + self.ACKED_AT)
                # The sink's view; each end's last packet counts as one byte.
                self.sent += max(0, received - 1)
                self.received += max(0, acked - 1)
                self.connections += 1
            at += (length + 3) & ~3


def seconds(used):
    return used.ru_utime + used.ru_stime


def orphans(timeout=20):
    """What nobody waited for came to us (subreaper). Processor seconds of the client's and of the sink's side."""
    sink_uid = pwd.getpwnam(SINK_USER).pw_uid
    client = sink = 0
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        try:
            seen = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return client, sink
        if seen is None:
            time.sleep(0.02)
            continue
        status = Path(f"/proc/{seen.si_pid}/status").read_text()
        uid, name = int(re.search(r"Uid:\s+(\d+)", status)[1]), status[6 : status.index("\n")]
        _, _, used = os.wait4(seen.si_pid, 0)
        if uid == sink_uid or name.startswith("sshd"):
            sink += seconds(used)
        else:
            client += seconds(used)
    raise Failed("a process that was started does not end")


class Scratch:
    """An ext4 that is new and empty, to restore into: a sparse file behind a loop device. On a file system in use the
    numbers of files that were removed within the last minutes are in the way of each new one."""

    def __init__(self, folder, name, gib):
        self.image, self.folder = folder / f"{name}.ext4", folder / name
        self.folder.mkdir()
        with open(self.image, "wb") as out:
            out.truncate(gib << 30)
        run("mkfs.ext4", "-q", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard", self.image)
        run("mount", "-o", "loop,nodiscard", self.image, self.folder)
        self.target = self.folder / "restored"

    def remove(self):
        run("umount", self.folder)
        self.image.unlink()
        self.folder.rmdir()


# ---- the machine


class Bench:
    """Directories, the sink's user, keys, and an sshd that runs while something is measured."""

    def __init__(self, work, lock=None, cipher=None):
        self.work, self.lock_file, self.cipher = work, lock, cipher
        self.sink_home, self.clients, self.bin = work / "sink-home", work / "clients", work / "bin"
        self.authorized = {}  # lines of authorized_keys, by program
        self.hosts = {}  # blocks of ssh_config, by alias
        self.port = free_port()
        self.sshd = self.client = None
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        shutil.rmtree(work, ignore_errors=True)
        for folder in (self.sink_home, self.clients, self.bin):
            folder.mkdir(parents=True)
        for folder in [work, *work.parents]:
            folder.chmod(folder.stat().st_mode | 0o055)
        try:
            pwd.getpwnam(SINK_USER)
        except KeyError:
            run("useradd", "--system", "--no-create-home", "--shell", "/bin/sh", "--password", "*", SINK_USER)
        # Its home is not below the work directory: no start-up file, no configuration that a program could find there.
        own(self.sink_home)
        self.host_key = self.key("host_key")
        self.write_ssh()

    def key(self, name):
        path = self.work / name
        if not path.exists():
            run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", path)
        return path

    def write_ssh(self):
        kind, key = Path(f"{self.host_key}.pub").read_text().split()[:2]
        (self.work / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {kind} {key}\n")
        cipher = f"  Ciphers {self.cipher}\n" if self.cipher else ""
        common = f"Host *\n  BatchMode yes\n  IdentitiesOnly yes\n  IdentityAgent none\n  UserKnownHostsFile {self.work}/known_hosts\n{cipher}"
        (self.work / "ssh_config").write_text("".join(self.hosts.values()) + common)
        (self.work / "sshd_config").write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {self.host_key}\nPidFile none\nUsePAM no\nStrictModes no\n"
            f"PasswordAuthentication no\nAuthorizedKeysFile {self.work}/authorized_keys\nLogLevel VERBOSE\nMaxStartups 100\nMaxSessions 100\n"
        )
        ssh = self.bin / "ssh"
        ssh.write_text(f'#!/bin/sh\nexec /usr/bin/ssh -F {self.work}/ssh_config "$@"\n')
        ssh.chmod(0o755)

    def forced(self, program, alias, command, options=""):
        """A key that can only run this command, and the alias that ssh knows it by."""
        key = self.key(f"key_{alias}")
        quoted = command.replace("\\", "\\\\").replace('"', '\\"')
        line = f'restrict{options},command="{quoted}" {Path(f"{key}.pub").read_text().strip()}'
        self.authorized.setdefault(program, []).append(line)
        self.hosts[alias] = f"Host {alias}\n  HostName 127.0.0.1\n  Port {self.port}\n  User {SINK_USER}\n  IdentityFile {key}\n"
        self.write_ssh()

    def environment(self, more):
        return dict(os.environ, PATH=f"{self.bin}:{os.environ['PATH']}", **{name: str(value) for name, value in more.items()})

    @contextlib.contextmanager
    def quiet(self):
        """Nothing else that knows the lock runs meanwhile (`flock -s FILE COMMAND` is how others take it)."""
        if self.lock_file is None:
            yield
            return
        with open(self.lock_file, "a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def start(self):
        lines = [line.strip() for lines in self.authorized.values() for line in lines]
        keys = self.work / "authorized_keys"
        keys.write_text("\n".join(lines) + "\n")
        keys.chmod(0o644)
        log = self.work / "sshd.log"
        log.unlink(missing_ok=True)
        self.wire = Wire(self.port)
        Path("/run/sshd").mkdir(exist_ok=True)
        self.sshd = subprocess.Popen(["/usr/sbin/sshd", "-D", "-f", self.work / "sshd_config", "-E", log])
        for _ in range(500):
            if log.exists() and "Server listening" in log.read_text():
                return
            time.sleep(0.01)
        raise Failed("sshd does not start")

    def stop(self, timeout=30):
        """Waits for its sessions. Processor seconds of all of them, and what went over the wire."""
        end = time.monotonic() + timeout
        while children(self.sshd.pid) and time.monotonic() < end:
            time.sleep(0.02)
        self.sshd.send_signal(signal.SIGTERM)
        _, status, used = os.wait4(self.sshd.pid, 0)
        self.sshd.returncode = os.waitstatus_to_exitcode(status)
        text = (self.work / "sshd.log").read_text(errors="replace")
        return seconds(used), self.wire.finish(text.count("Connection from "))

    def end(self):
        """Whatever happened: nothing of ours goes on."""
        if self.client is not None and self.client.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.client.pid, signal.SIGKILL)
            self.client.wait()
        if self.sshd is not None and self.sshd.returncode is None:
            for pid in reversed(below(self.sshd.pid)):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            self.sshd.wait()

    @contextlib.contextmanager
    def serving(self):
        """For commands that are not measured."""
        self.start()
        try:
            yield
        finally:
            self.stop()
            orphans()

    def measure(self, command, memory=512 * MIB):
        os.sync()
        touch_memory(memory)
        self.start()
        errors = self.work / "client.err"
        sink_peaks = Peaks(self.sshd.pid, itself=False)
        busy = busy_seconds()
        with open(errors, "wb") as err, open(command.stdin or os.devnull, "rb") as stdin, open(command.stdout or os.devnull, "wb") as out:
            begun = time.monotonic()
            client = self.client = subprocess.Popen(command.argv(), stdin=stdin, stdout=out, stderr=err,
                                                    cwd=command.cwd or self.work, env=self.environment(command.env), start_new_session=True)
            client_peaks = Peaks(client.pid, itself=True)
            sampler = Sampler(client_peaks, sink_peaks)
            sampler.start()
            killer = threading.Timer(TIMEOUT, lambda: os.killpg(client.pid, signal.SIGKILL))
            killer.start()
            _, status, used = os.wait4(client.pid, 0)
            wall = time.monotonic() - begun
        killer.cancel()
        busy = busy_seconds() - busy
        client.returncode = os.waitstatus_to_exitcode(status)
        sink_cpu, wire = self.stop()
        sampler.stop()
        client_more, sink_more = orphans()
        if client.returncode not in command.good:
            raise Failed(f"{command.shown()}: exit {client.returncode}\n{errors.read_text(errors='replace')[-2000:]}")
        client_cpu, sink_cpu = seconds(used) + client_more, sink_cpu + sink_more
        return {
            "wall": wall, "cpu": client_cpu + sink_cpu, "cpu_client": client_cpu, "cpu_sink": sink_cpu, "cpu_machine": busy,
            "client": client_peaks.result(), "sink": sink_peaks.result(), "wire": wire, "command": command.shown(),
        }
