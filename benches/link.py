#!/usr/bin/env python3
"""Measures backups over a long line: two network namespaces joined by an emulated link.

    cargo build --release && benches/link.py [--work DIR] [--mib N] [--json FILE] [--markdown FILE] [--lock FILE]

Needs root: it makes two network namespaces, two tun devices and a user for the sink, and removes the namespaces again.
The agent lies in one namespace; in the other a real OpenSSH sshd with a forced command, and `remote-sink listen`.
Kernels need no `netem`: a process of this script carries the packets from one tun device to the other. Each direction
has the rate, half of the round trip's time, a queue of 100 ms, and drops packets by chance (always the same ones).

share         bytes of the files by seconds of the whole run, login and commit included, of the link's rate
round trips   how often the agent's end sent something after it had received something new: of packets with content
              where the whole connection is counted, of frames of our protocol behind a relay that delays each way
"""

import argparse
import collections
import contextlib
import fcntl
import json
import os
import pwd
import queue
import random
import re
import select
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import rig
from rig import MIB, Rig, line, locked, markdown, run

SINK_USER = "pawl-bench-sink"
SPACES = ("pawl-link-agent", "pawl-link-sink")
ADDRESSES = ("10.77.0.1", "10.77.0.2")
QUEUE_SECONDS = 0.1
MTU = 1500
# What is not yet content: greetings, key exchange, our envelope. An archive is more.
CONTENT_BYTES = 32 << 10
DATA_TAG = 66


# ---- the link


def tun(name):
    """A tun device of the namespace that we are in, as a file."""
    device = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(device, 0x400454CA, struct.pack("16sH22x", name.encode(), 0x0001 | 0x1000))
    os.set_blocking(device, False)
    return device


def tcp_content(packet):
    """Content bytes of a TCP packet and whether it begins a connection."""
    if packet[0] >> 4 != 4 or packet[9] != 6:
        return 0, False
    header = (packet[0] & 15) * 4
    offset, flags = packet[header + 12] >> 4, packet[header + 13]
    return len(packet) - header - offset * 4, flags & 0x12 == 0x02


class Flights:
    """Who spoke after whom at the agent's end, in the newest connection."""

    def __init__(self):
        self.flights, self.packets = [], [0, 0]

    def note(self, side, packet):
        self.packets[side] += len(packet)
        content, begins = tcp_content(packet)
        if begins:
            self.flights = []
        if content and len(self.flights) < 400:
            if self.flights and self.flights[-1][0] == side:
                self.flights[-1][1] += content
            else:
                self.flights.append([side, content])


def emulate(devices, options, report):
    """Carries packets until it is ended. USR1 writes what was counted, and begins to count again."""
    numbers, flights = random.Random(7), Flights()
    waiting, free_at = (collections.deque(), collections.deque()), [0.0, 0.0]
    seconds_each, delay, loss = 8 / (options["mbit"] * 1e6), options["rtt"] / 2, options["loss"]
    asked = []
    # A link does not wait for a processor: a late packet looks like a queue to TCP.
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10))
    signal.signal(signal.SIGUSR1, lambda *_: asked.append(True))
    Path(f"{report}.ready").touch()
    while True:
        if asked:
            asked.clear()
            text = json.dumps({"flights": flights.flights, "bytes": flights.packets})
            Path(f"{report}.new").write_text(text)
            os.rename(f"{report}.new", report)
            flights = Flights()
        now = time.monotonic()
        for side, packets in enumerate(waiting):
            while packets and packets[0][0] <= now:
                packet = packets.popleft()[1]
                if side == 1:
                    flights.note(1, packet)
                with contextlib.suppress(OSError):
                    os.write(devices[1 - side], packet)
        due = [packets[0][0] for packets in waiting if packets]
        try:
            ready = select.select(devices, [], [], max(0, min(due) - time.monotonic()) if due else 1)[0]
        except InterruptedError:
            continue
        now = time.monotonic()
        for device in ready:
            side = devices.index(device)
            for _ in range(32):
                try:
                    packet = os.read(device, MTU + 100)
                except OSError:
                    break
                if side == 0:
                    flights.note(0, packet)
                begin = max(now, free_at[side])
                if begin - now > QUEUE_SECONDS or numbers.random() < loss:
                    continue
                free_at[side] = begin + len(packet) * seconds_each
                waiting[side].append((free_at[side] + delay, packet))


class Link:
    """Two namespaces and the process between them."""

    def __init__(self, work, mbit, rtt):
        self.work, self.mbit, self.rtt, self.process = work, mbit, rtt, None
        self.remove()
        self.devices = []
        for at, space in enumerate(SPACES):
            run("ip", "netns", "add", space)
            self.devices.append(tun(f"pawl-tun{at}"))
            run("ip", "link", "set", f"pawl-tun{at}", "netns", space)
            ip = ["ip", "-n", space]
            run(*ip, "link", "set", "lo", "up")
            run(*ip, "addr", "add", ADDRESSES[at], "peer", ADDRESSES[1 - at], "dev", f"pawl-tun{at}")
            run(*ip, "link", "set", f"pawl-tun{at}", "up", "mtu", str(MTU), "txqueuelen", "4000")

    def remove(self):
        for space in SPACES:
            subprocess.run(["ip", "netns", "del", space], stderr=subprocess.DEVNULL)

    def set(self, loss=0.0, control="cubic"):
        """Starts the emulator, or starts it again with another loss; TCP's congestion control of both ends."""
        self.stop()
        for at, space in enumerate(SPACES):
            route = ["ip", "-n", space, "route", "replace", ADDRESSES[1 - at], "dev", f"pawl-tun{at}"]
            run(*route, "src", ADDRESSES[at], "congctl", control)
        options = json.dumps({"mbit": self.mbit, "rtt": self.rtt, "loss": loss})
        ready = self.work / "flights.ready"
        ready.unlink(missing_ok=True)
        words = [sys.executable, __file__, "--emulate", *map(str, self.devices), options, str(self.work / "flights")]
        self.process = subprocess.Popen(words, pass_fds=self.devices)
        while not ready.exists():
            time.sleep(0.05)

    def counted(self):
        """Flights of the newest connection and bytes of packets each way since the last call."""
        report = self.work / "flights"
        report.unlink(missing_ok=True)
        self.process.send_signal(signal.SIGUSR1)
        while not report.exists():
            if self.process.poll() is not None:
                sys.exit("the emulator has ended")
            time.sleep(0.02)
        return json.loads(report.read_text())

    def stop(self):
        if self.process:
            self.process.terminate()
            self.process.wait()
            self.process = None

    def close(self):
        self.stop()
        self.remove()
        for device in self.devices:
            os.close(device)


def inside(at, *words):
    return ["ip", "netns", "exec", SPACES[at], *words]


def trips_until_content(flights):
    """Round trips before the agent's end sends content: its flights before that."""
    sent, trips = 0, 0
    for side, content in flights:
        if side == 0:
            sent += content
            if sent > CONTENT_BYTES:
                return trips
            trips += 1
    return trips


# ---- our protocol alone, behind a relay that delays


class Frames:
    """Tags of the frames in a stream."""

    def __init__(self, skip):
        self.skip, self.rest, self.left = skip, b"", 0

    def feed(self, piece):
        tags = []
        cut = min(self.skip, len(piece))
        self.skip -= cut
        self.rest += piece[cut:]
        while True:
            cut = min(self.left, len(self.rest))
            self.left -= cut
            self.rest = self.rest[cut:]
            if self.left or len(self.rest) < 5:
                return tags
            tags.append(self.rest[4])
            self.left = int.from_bytes(self.rest[:4], "little") - 1
            self.rest = self.rest[5:]


def relay(log, delay, command):
    """Stands for `remote-sink`: runs the real one, delays each way, notes the tags at the agent's end."""
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    events = []

    def carry(source, target, side, frames):
        pieces = queue.SimpleQueue()

        def deliver():
            while True:
                due, piece = pieces.get()
                time.sleep(max(0, due - time.monotonic()))
                if not piece:
                    return os.close(target)
                if side == "sink":
                    events.extend(["sink", tag] for tag in frames.feed(piece))
                with contextlib.suppress(OSError):
                    while piece:
                        piece = piece[os.write(target, piece):]

        thread = threading.Thread(target=deliver)
        thread.start()
        while True:
            piece = os.read(source, 1 << 16)
            if side == "agent":
                events.extend(["agent", tag] for tag in frames.feed(piece))
            pieces.put((time.monotonic() + delay, piece))
            if not piece:
                return thread.join()

    ends = [(0, os.dup(child.stdin.fileno()), "agent", Frames(0)), (child.stdout.fileno(), os.dup(1), "sink", Frames(16))]
    child.stdin.close()
    threads = [threading.Thread(target=carry, args=end) for end in ends]
    for thread in threads:
        thread.start()
    threads[1].join()
    Path(log).write_text(json.dumps(events))
    os._exit(child.wait())


def protocol_trips(events):
    """Round trips of the protocol: before the first Data frame, and in all."""
    trips, before_data, last = 0, None, "sink"
    for side, tag in events:
        if side == "agent":
            trips += last == "sink"
            if tag == DATA_TAG and before_data is None:
                before_data = trips - 1
        last = side
    return before_data, trips


# ---- the sink's side


class Doors:
    """An sshd and a listener in the sink's namespace."""

    def __init__(self, rig):
        self.rig, self.keys, self.count = rig, [], 0
        try:
            pwd.getpwnam(SINK_USER)
        except KeyError:
            run("useradd", "--system", "--no-create-home", "--shell", "/bin/sh", "--password", "*", SINK_USER)
        self.home = rig.work / "sink-home"
        (self.home / ".ssh").mkdir(parents=True)
        for folder in [*rig.work.parents, rig.work, rig.bin]:
            folder.chmod(folder.stat().st_mode | 0o055)
        for name in ("host_key", "client_key"):
            run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", rig.work / name)
        self.keys.append(f'restrict,command="cat > /dev/null" {(rig.work / "client_key.pub").read_text()}')
        rig.vault = self.home / "vault"
        run("chown", "-R", f"{SINK_USER}:", self.home)
        self.as_sink("init")
        path = rig.vault / "vault.toml"
        kept = [row for row in path.read_text().splitlines() if not row.strip().startswith("min-free")]
        path.write_text("\n".join(kept).replace("[store]", '[store]\nmin-free = "16MiB"') + "\n")
        self.write_keys()
        config = rig.work / "sshd_config"
        config.write_text(
            f"Port 22\nListenAddress {ADDRESSES[1]}\nHostKey {rig.work}/host_key\nPidFile none\nUsePAM no\nStrictModes no\n"
            f"AuthorizedKeysFile {self.home}/.ssh/authorized_keys\nLogLevel ERROR\nMaxStartups 100\n"
        )
        Path("/run/sshd").mkdir(exist_ok=True)
        as_user = ["runuser", "-u", SINK_USER, "--", str(rig.bin / "remote-sink"), "--root", str(rig.vault), "-q"]
        self.servers = [
            subprocess.Popen(inside(1, "/usr/sbin/sshd", "-D", "-e", "-f", str(config))),
            subprocess.Popen(inside(1, *as_user, "listen", "--address", f"{ADDRESSES[1]}:2222"), stdout=subprocess.DEVNULL),
        ]
        time.sleep(1)

    def as_sink(self, *words):
        return run("runuser", "-u", SINK_USER, "--", self.rig.bin / "remote-sink", "--root", self.rig.vault, *words)

    def write_keys(self):
        (self.home / ".ssh/authorized_keys").write_text("".join(self.keys))

    def source(self, door, own=None):
        """A new source with this door as its only remote, `own` its congestion control; its configuration."""
        self.count += 1
        name = f"s{self.count}"
        config = self.rig.work / name / "config.toml"
        config.parent.mkdir()
        out = run(*self.rig.agent("init", "--recipient", self.rig.work / "owner.pub", "--name", name, config=config))
        port = 22 if door == "sshd" else 2222
        out = self.as_sink("enroll", line(out, "source-card:"), "--address", f"{SINK_USER}@{ADDRESSES[1]}:{port}",
                           "--host-key", self.rig.work / "host_key.pub")
        self.keys.append(line(out, "restrict,") + "\n")
        self.write_keys()
        run(*inside(0, *map(str, self.rig.agent("remote", "add", "far", line(out, "sink-card:"), config=config))))
        if own:
            config.write_text(config.read_text().replace('\nurl = "ssh:', f'\ntcp-congestion = "{own}"\nurl = "ssh:'))
        return config

    def ssh(self):
        """The system's ssh to a command that takes everything."""
        key = (self.rig.work / "host_key.pub").read_text().split()
        known = self.rig.work / "known_hosts"
        known.write_text(f"{ADDRESSES[1]} {key[0]} {key[1]}\n")
        return inside(0, "ssh", "-T", "-o", "BatchMode=yes", "-o", f"UserKnownHostsFile={known}", "-c", "aes256-gcm@openssh.com",
                      "-i", str(self.rig.work / "client_key"), f"{SINK_USER}@{ADDRESSES[1]}", "x")

    def stop(self):
        for server in self.servers:
            subprocess.run(["kill", "--", *child_ids(server.pid)], stderr=subprocess.DEVNULL)
            server.terminate()
            server.wait()


def child_ids(pid):
    """Children of a process, as words."""
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


# ---- the cases


class Bench:
    def __init__(self, options):
        self.options = options
        self.rig = Rig(options.work, options.bin)
        self.link = Link(options.work, options.mbit, options.rtt / 1000)
        self.doors = Doors(self.rig)
        self.rows, self.figures = [], {}

    def data(self, mib, name):
        path = self.rig.work / name
        path.mkdir()
        numbers = random.Random(name)
        for at in range(max(1, mib // 8)):
            (path / f"f{at}").write_bytes(numbers.randbytes(min(mib, 8) * MIB))
        return path

    def backup(self, config, data):
        self.link.counted()
        with locked(self.options.lock):
            done = self.rig.measure(inside(0, *map(str, self.rig.agent("-q", "backup", data, config=config))))
        return done, self.link.counted()

    def share(self, size, wall):
        return 100 * size * 8 / wall / (self.options.mbit * 1e6)

    def row(self, what, door, control, loss, size, wall, counted=None, connections=1):
        trips = trips_until_content(counted["flights"]) if counted else None
        figure = {"what": what, "door": door, "control": control, "loss": loss, "wall": wall, "connections": connections,
                  "share": self.share(size, wall) if size else None, "trips": trips,
                  "up": counted and counted["bytes"][0], "down": counted and counted["bytes"][1]}
        self.rows.append(figure)
        print(json.dumps(figure), file=sys.stderr, flush=True)

    def raw(self, connections, mib, control, loss):
        """The same bytes through so many ssh commands at once."""
        part = self.rig.work / "part"
        with open(part, "wb") as file:
            numbers = random.Random(3)
            for _ in range(mib * 4 // connections):
                file.write(numbers.randbytes(MIB // 4))
        words = f"for at in {' '.join(map(str, range(connections)))}; do {' '.join(self.doors.ssh())} < {part} & done; wait"
        with locked(self.options.lock):
            done = self.rig.measure(["bash", "-c", words])
        self.row("ssh cat > /dev/null", "sshd", control, loss, mib * MIB, done.wall, connections=connections)

    def tcp(self, mib, control, loss):
        """The same bytes over TCP alone: what the link carries."""
        address = (ADDRESSES[1], 5001)
        take = f"import socket; s = socket.create_server({address}); c = s.accept()[0]\nwhile c.recv(1 << 18): pass\nc.send(b'x')"
        give = (f"import socket; d = bytes(1 << 18); s = socket.create_connection({address})\n"
                f"for _ in range({mib * 4}): s.sendall(d)\ns.shutdown(1); s.recv(1)")
        taker = subprocess.Popen(inside(1, sys.executable, "-c", take))
        while ":5001" not in run(*inside(1, "ss", "-tln")):
            time.sleep(0.1)
        with locked(self.options.lock):
            done = self.rig.measure(inside(0, sys.executable, "-c", give))
        taker.wait()
        self.row("plain TCP", None, control, loss, mib * MIB, done.wall)

    def case(self, door, control, loss, mib, own=None):
        self.link.set(loss, control)
        config = self.doors.source(door, own)
        data = self.data(mib, f"data-{self.doors.count}")
        done, counted = self.backup(config, data)
        asked = f", tcp-congestion = {own}" if own else ""
        self.row(f"first backup{asked}", door, control, loss, mib * MIB, done.wall, counted)
        runs = [self.backup(config, data) for _ in range(3)]
        done, counted = min(runs, key=lambda pair: pair[0].wall)
        counted["flights"] = counted["flights"][:400]
        self.row("unchanged", door, control, loss, 0, done.wall, counted)
        self.rows[-1]["trips"] = sum(1 for side, _ in counted["flights"] if side == 0)
        shutil.rmtree(data)

    def login(self):
        """What an ssh command that does nothing costs."""
        self.link.set()
        words = [*self.doors.ssh()]
        self.link.counted()
        with locked(self.options.lock):
            done = self.rig.measure(["bash", "-c", " ".join(words) + " < /dev/null"])
        counted = self.link.counted()
        self.row("ssh true", "sshd", "cubic", 0, 0, done.wall, counted)
        self.rows[-1]["trips"] = sum(1 for side, _ in counted["flights"] if side == 0)

    def relayed(self, sink):
        """From now on this vault's sink is behind a relay; returns the file of frames."""
        log = sink.work / "frames"
        command = f'{sys.executable} {__file__} --relay {log} {self.options.rtt / 2000} {self.rig.bin}/remote-sink "$@"'
        (sink.bin / "remote-sink").unlink()
        (sink.bin / "remote-sink").write_text(f"#!/bin/sh\nexec {command}\n")
        (sink.bin / "remote-sink").chmod(0o755)
        return log

    def protocol(self):
        """Frames behind a relay: first backup, unchanged run, a run with one new file."""
        sink = Rig(self.rig.work / "relayed", self.options.bin)
        sink.ready()
        log = self.relayed(sink)
        data = self.data(32, "data-relayed")
        for what in ("first backup", "unchanged", "one new file"):
            if what == "one new file":
                (data / "new").write_bytes(b"new" * 1000)
            run(*sink.agent("-q", "backup", data))
            events = json.loads(log.read_text())
            before, trips = protocol_trips(events)
            self.figures[what] = {"before_data": before, "trips": trips}
            print(what, self.figures[what], file=sys.stderr)

    def history(self):
        """What reads behind a relay: a vault of many small runs, whose newest snapshot lies in all their archives."""
        sink = Rig(self.rig.work / "history", self.options.bin)
        sink.ready()
        data, numbers = self.rig.work / "data-history", random.Random(5)
        files = [data / f"d{at % 20}" / f"e{at}" / f"f{file}" for at in range(300) for file in range(10)]
        dump = data / "all.sql"

        def write(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(numbers.randbytes(numbers.randrange(2000, 60000)))

        for path in files:
            write(path)
        dump.write_bytes(numbers.randbytes(160 * MIB))
        for at in range(self.options.runs):
            run(*sink.agent("-q", "backup", data))
            for path in numbers.sample(files, 30):
                write(path)
            with open(dump, "r+b") as file:
                for _ in range(2):
                    file.seek(numbers.randrange(159 * MIB))
                    file.write(numbers.randbytes(200_000))
        run(*sink.agent("-q", "backup", data))
        config = sink.reader()
        log = self.relayed(sink)
        base = str(data)
        cases = {"restore of all": ["restore", "latest", "-i", sink.identity, "--target", sink.work / "back"],
                 "dump of one file": ["dump", "latest", f"{base}/all.sql", "-i", sink.identity],
                 "ls of all": ["ls", "--recursive", "latest", "-i", sink.identity],
                 "check": ["check", "-i", sink.identity]}
        for what, words in cases.items():
            command = shlex.join(map(str, sink.agent("-q", *words, config=config)))
            done = sink.measure(["bash", "-c", f"exec {command} > /dev/null"])
            _, trips = protocol_trips(json.loads(log.read_text()))
            self.figures[f"{what}, {self.options.runs} runs"] = {"before_data": None, "trips": trips, "wall": done.wall}
            print(what, trips, f"{done.wall:.2f} s", f"{done.mib('source-agent'):.0f} MiB", file=sys.stderr)


def tables(bench):
    named = {None: "–", "sshd": "OpenSSH sshd", "listen": "`listen`"}
    rows = [[one["what"], named[one["door"]], one["control"], f'{one["loss"] * 100:g} %', one["connections"], f'{one["wall"]:.2f}',
             f'{one["share"]:.0f} %' if one["share"] else "", "" if one["trips"] is None else one["trips"],
             f'{one["up"] / 1000:,.0f} / {one["down"] / 1000:,.0f}' if one["up"] else ""] for one in bench.rows]
    head = ["what", "door", "TCP", "loss", "connections", "wall s", "share of the link", "round trips", "kB sent / received"]
    protocol = [[what, one["before_data"] if one["before_data"] is not None else "–", one["trips"]] for what, one in bench.figures.items()]
    return markdown(head, rows) + "\n" + markdown(["run", "round trips before the first byte of data", "in all"], protocol)


def main():
    if sys.argv[1:2] == ["--emulate"]:
        return emulate([int(sys.argv[2]), int(sys.argv[3])], json.loads(sys.argv[4]), sys.argv[5])
    if sys.argv[1:2] == ["--relay"]:
        return relay(sys.argv[2], float(sys.argv[3]), sys.argv[4:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("/var/tmp/pawl-bench-link"))
    parser.add_argument("--bin", type=Path, default=rig.ROOT / "target/release")
    parser.add_argument("--mbit", type=float, default=100)
    parser.add_argument("--rtt", type=float, default=50, help="milliseconds")
    parser.add_argument("--mib", type=int, default=256, help="of incompressible data")
    parser.add_argument("--runs", type=int, default=100, help="small runs of the vault that is read behind a relay")
    parser.add_argument("--lossy-mib", type=int, default=16, help="the same on a line with loss")
    parser.add_argument("--loss", type=float, default=0.01)
    parser.add_argument("--controls", default="cubic,bbr", help="TCP's congestion controls to try with loss")
    parser.add_argument("--only", choices=["protocol", "history", "clean", "loss"])
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--lock", type=Path, help="a file to lock while something is measured")
    options = parser.parse_args()
    bench = Bench(options)
    try:
        if options.only in (None, "protocol"):
            bench.protocol()
        if options.only in (None, "history"):
            bench.history()
        if options.only in (None, "clean"):
            bench.login()
            bench.link.set(0, "cubic")
            bench.tcp(options.mib, "cubic", 0)
            bench.raw(1, options.mib, "cubic", 0)
            for door in ("sshd", "listen"):
                bench.case(door, "cubic", 0, options.mib)
            bench.case("sshd", "bbr", 0, options.mib)
        if options.only in (None, "loss"):
            for control in options.controls.split(","):
                bench.link.set(options.loss, control)
                bench.tcp(options.lossy_mib, control, options.loss)
                for connections in (1, 4, 8):
                    bench.raw(connections, options.lossy_mib, control, options.loss)
                bench.case("sshd", control, options.loss, options.lossy_mib)
                bench.case("listen", control, options.loss, options.lossy_mib)
                if control == "cubic":
                    bench.case("sshd", control, options.loss, options.lossy_mib, own="bbr")
    finally:
        bench.doors.stop()
        bench.link.close()
    print(tables(bench))
    if options.markdown:
        options.markdown.write_text(tables(bench))
    shutil.rmtree(options.work)


if __name__ == "__main__":
    main()
