"""Verifies a vault (docs/format.md, section 16) and restores a snapshot, by the specification alone.

Ends with 0 (all restored), 1 (restored, but something was reported) or 2 (nothing restored).
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import stat
import sys
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace as Record
from typing import Iterator

import pawl_format as f
from pawl_format import Refused, need

Chunk = tuple[bytes, int, int, int]
Block = tuple[int, bytes, int]  # archive number, archive id, block number


class Log:
    def __init__(self) -> None:
        self.problems = 0

    def problem(self, what: str) -> None:
        self.problems += 1
        print(f"problem: {what}", file=sys.stderr)

    def note(self, what: str) -> None:
        print(f"note: {what}", file=sys.stderr)


def read(path: Path, limit: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise Refused(f"{path}: {error.strerror}") from error
    need(len(data) <= limit, f"{path}: larger than {limit} bytes")
    return data


def names(directory: Path, pattern: str, log: Log) -> Iterator[re.Match[str]]:
    """The names in a directory of the vault that fit; others are reported."""
    for name in sorted(os.listdir(directory)) if directory.is_dir() else ():
        match = re.fullmatch(pattern, name)
        if match:
            yield match
        else:
            log.problem(f"{directory / name}: not a name of the vault")


# --- Heads ------------------------------------------------------------------------------------------------------


def read_heads(home: Path, card: Record, sink: bytes, wanted: str | None, anyway: bool, log: Log) -> list[Record]:
    """The verified heads of one lineage (section 18, step 1)."""
    found: dict[str, list[str]] = {}
    for match in names(home / "heads", "([0-9a-f]{32})-[0-9a-f]{16}", log):
        found.setdefault(match[1], []).append(match[0])
    if wanted is None:
        need(len(found) == 1, f"choose one with --lineage: {', '.join(found) or 'there are no heads'}")
        wanted = next(iter(found))
    need(wanted in found, f"no heads of lineage {wanted}; there are: {', '.join(found)}")
    heads = []
    try:
        for name in found[wanted]:
            try:
                head = f.open_object("H", read(home / "heads" / name, f.LIMITS["H"]), card.sign)
                need(name == f"{head.lineage.hex()}-{head.sequence:016x}", "head under another name")
                need(head.source == card.source, "head of another source")
                need(head.sink == sink, "head for another sink")
            except Refused as refusal:
                log.problem(f"head {name}: {refusal}")
                need(anyway, "a head does not verify")
                continue
            heads.append(head)
        f.check_chain(heads)
    except Refused as refusal:
        log.problem(f"THE CHAIN OF HEADS IS NOT WHOLE: the sink lies or was damaged: {refusal}")
        need(anyway, "stopped; --anyway goes on with the heads that verify")
    for head in heads:
        name = f"{head.lineage.hex()}-{head.sequence:016x}"
        try:
            f.open_receipt(read(home / "receipts" / name, f.LIMITS["R"]), head)
        except Refused as refusal:
            log.problem(f"receipt {name}: {refusal}")
    return heads


def choose(heads: list[Record], wanted: str | None) -> Record:
    if wanted is None:
        heads = [h for h in heads if not h.flags & f.CHECKPOINT]
        need(bool(heads), "no head but checkpoints")
        return heads[-1]
    fitting = [h for h in heads if wanted == str(h.sequence) or (len(wanted) >= 8 and h.digest.hex().startswith(wanted))]
    need(len(fitting) == 1, f"snapshot {wanted}: {len(fitting)} heads fit (sequence number or 8 hex digits of the digest)")
    return fitting[0]


# --- Snapshot ---------------------------------------------------------------------------------------------------


class Snapshot:
    """Body, pages, root and chunks of one head (section 18, steps 2 to 5)."""

    def __init__(self, vault: Path, home: Path, card: Record, identity: f.Identity, head: Record, log: Log) -> None:
        self._home, self._card, self._identity, self._head, self._log = home, card, identity, head, log
        self._owners = {identity.owner, card.owner} - {None}
        self._secrets: dict[bytes, f.Secrets] = {}
        self._archives: OrderedDict[int, f.Archive] = OrderedDict()
        self._tables: dict[int, list[list[tuple[bytes, int]]]] = {}
        self._blocks: OrderedDict[Block, bytes] = OrderedDict()
        self._unusable: dict[Block, Refused] = {}
        self._where: dict[bytes, list[Block]] | None = None
        self._later = self._read_wraps(vault)
        body = self._named("bodies", "B", head.body)
        pages = [self._named("pages", "P", page) for page in body.pages]
        self._named_archives = f.check_pages(pages, head.source, head.lineage)
        self._ids = {number: archive for number, (archive, _) in self._named_archives.items()}
        self._substitutes = self._read_substitutes()
        envelope = f.open_object("E", read(home / "envelopes" / head.session.hex(), f.LIMITS["E"]), card.sign)
        need(envelope.digest == head.session, "envelope of another session")
        need((envelope.source, envelope.lineage) == (head.source, head.lineage), "envelope of another source or lineage")
        secret = self._open_session(envelope).session
        place = f.RootPlace(head.source, head.lineage, head.session)
        self.root = f.open_root(f.open_part(place, body.root.sealed, body.root.plain, secret, body.root.salt))

    def _named(self, directory: str, kind: str, digest: bytes) -> Record:
        name = digest.hex()
        found = f.open_object(kind, read(self._home / directory / name[:2] / name, f.LIMITS[kind]))
        need(found.digest == digest, f"{directory} {name}: digest does not fit")
        return found

    def _read_wraps(self, vault: Path) -> dict[bytes, list[Record]]:
        wraps: dict[bytes, list[Record]] = {}
        for owner in self._owners:
            directory = vault / "owners" / owner.hex() / "wraps"
            for match in names(directory, "[0-9a-f]{64}", self._log):
                try:
                    wrap = f.open_object("W", read(directory / match[0], f.LIMITS["W"]), owner)
                    wraps.setdefault(wrap.session, []).append(wrap)
                except Refused as refusal:
                    self._log.problem(f"wrap {match[0]}: {refusal}")
        return wraps

    def _read_substitutes(self) -> list[tuple[Block, list[Block]]]:
        """The pairs whose left block is of an archive that the pages name."""
        pairs: list[tuple[Block, list[Block]]] = []
        directory = self._home / "substitutes"
        for match in names(directory, "([0-9a-f]{32})-[0-9a-f]{64}", self._log):
            if match[1] != self._head.lineage.hex():
                continue
            try:
                record = f.open_object("S", read(directory / match[0], f.LIMITS["S"]), self._card.sign, *self._owners)
                need((record.source, record.lineage) == (self._head.source, self._head.lineage), "of another source or lineage")
                pairs += [(left, rights) for left, rights in record.pairs if self._ids.get(left[0]) == left[1]]
            except Refused as refusal:
                self._log.problem(f"substitutes {match[0]}: {refusal}")
        return pairs

    def _open_session(self, envelope: Record) -> f.Secrets:
        if envelope.digest not in self._secrets:
            later = self._later.get(envelope.digest, [])
            self._secrets[envelope.digest] = f.open_session(envelope, self._identity, later)
        return self._secrets[envelope.digest]

    def _archive(self, number: int, archive_id: bytes) -> f.Archive:
        if number in self._archives:
            archive = self._archives[number]
            self._archives.move_to_end(number)
        else:
            name = f"{self._head.lineage.hex()}-{number:012x}"
            try:
                file = (self._home / "archives" / f"{number & 255:02x}" / name).open("rb")
            except OSError as error:
                raise Refused(f"archive {number}: {error.strerror}") from error
            try:
                archive = f.Archive(file, self._card.sign)
            except BaseException:
                file.close()
                raise
            self._archives[number] = archive
            if len(self._archives) > 32:
                self._archives.popitem(last=False)[1].close()
        index = archive.index
        need(index.digest == archive_id, f"archive {number} is not the one that was named")
        need(
            (index.source, index.lineage, index.number) == (self._head.source, self._head.lineage, number),
            f"archive {number}: of another source, lineage or number",
        )
        return archive

    def _table(self, number: int, archive_id: bytes) -> list[list[tuple[bytes, int]]]:
        if number not in self._tables:
            archive = self._archive(number, archive_id)
            self._tables[number] = archive.table(self._open_session(archive.envelope).source)
        return self._tables[number]

    def _block(self, block: Block) -> bytes:
        if block in self._unusable:
            raise self._unusable[block]
        if block in self._blocks:
            self._blocks.move_to_end(block)
            return self._blocks[block]
        number, archive_id, part = block
        try:
            archive = self._archive(number, archive_id)
            need(part < archive.table_number, "no such block")
            content = archive.content(part, self._open_session(archive.envelope).session)
            need(len(content) == sum(n for _, n in self._table(number, archive_id)[part]), "F-21: lengths do not add up")
        except Refused as refusal:
            self._unusable[block] = refusal
            if not isinstance(refusal, f.Absent):  # that a sink let a block go is no damage
                self._log.problem(f"archive {number}, block {part}: {refusal}")
            raise
        self._blocks[block] = content
        if len(self._blocks) > 16:
            self._blocks.popitem(last=False)
        return content

    def _cut(self, block: Block, wanted: bytes, length: int) -> bytes:
        offset = 0
        table = self._table(block[0], block[1])
        for name, size in table[block[2]] if block[2] < len(table) else ():
            if (name, size) == (wanted, length):
                chunk = self._block(block)[offset : offset + size]
                secret = self._open_session(self._archive(block[0], block[1]).envelope).source
                if f.chunk_id(secret, self._head.lineage, chunk) == wanted:
                    return chunk
                self._log.problem(f"archive {block[0]}, block {block[2]}: poisoned chunk {wanted.hex()}")
            offset += size
        raise Refused("chunk is not in the block")

    def _search(self) -> dict[bytes, list[Block]]:
        """Where each chunk may be: in live blocks, then in dead ones, then in substitutes."""
        if self._where is None:
            where: list[dict[bytes, list[Block]]] = [{}, {}, {}]
            blocks: list[tuple[int, Block]] = []
            for number, (archive_id, live) in self._named_archives.items():
                try:
                    count = len(self._table(number, archive_id))
                except Refused as refusal:
                    self._log.problem(f"archive {number}: {refusal}")
                    continue
                blocks += [(0 if is_live(live, b) else 1, (number, archive_id, b)) for b in range(count)]
            blocks += [(2, right) for _, rights in self._substitutes for right in rights]
            for rank, block in blocks:
                try:
                    table = self._table(block[0], block[1])
                    need(block[2] < len(table), "no such block")
                except Refused as refusal:
                    self._log.problem(f"archive {block[0]}, block {block[2]}: {refusal}")
                    continue
                for name, _ in table[block[2]]:
                    where[rank].setdefault(name, []).append(block)
            self._where = where[0]
            for other in where[1:]:
                for name, found in other.items():
                    self._where.setdefault(name, []).extend(found)
        return self._where

    def chunk(self, reference: Chunk) -> bytes:
        wanted, length, number, part = reference
        tried: set[Block] = set()
        if number in self._named_archives and is_live(self._named_archives[number][1], part):
            hint = (number, self._ids[number], part)
            tried.add(hint)
            with suppress(Refused):  # a wrong hint is no error; a damaged block was reported
                return self._cut(hint, wanted, length)
        for block in self._search().get(wanted, ()):
            if block not in tried:
                tried.add(block)
                with suppress(Refused):
                    return self._cut(block, wanted, length)
        raise Refused(f"chunk {wanted.hex()} is nowhere")

    # --- Tree (step 6)

    def entries(self, node: tuple[Chunk, int]) -> Iterator[Record]:
        """The entries of a directory, in order; refuses what does not ascend from node to node."""
        last = b""
        for entry in self._entries(node[0], node[1], None):
            need(entry.name > last, "F-31: names do not ascend from node to node")
            last = entry.name
            yield entry

    def _entries(self, reference: Chunk, level: int, first: bytes | None) -> Iterator[Record]:
        node = f.open_node(self.chunk(reference), level)
        found = node.entries[0].name if node.entries else node.nodes[0][0] if node.nodes else None
        need(first is None or first == found, "F-31: first name of a node is not what its reference says")
        yield from node.entries or ()
        for name, below in node.nodes or ():
            yield from self._entries(below, level - 1, name)

    def extents(self, entry: Record) -> Iterator[Chunk | int]:
        if entry.list:
            yield from self._extents(*entry.list)
        else:
            yield from entry.extents or ()

    def _extents(self, reference: Chunk, level: int, size: int) -> Iterator[Chunk | int]:
        lists = f.open_list(self.chunk(reference), level, size)
        yield from lists.extents or ()
        for below, length in lists.lists or ():
            yield from self._extents(below, level - 1, length)


def is_live(live: bytes, block: int) -> bool:
    return block // 8 < len(live) and bool(live[block // 8] >> block % 8 & 1)


# --- Restore ----------------------------------------------------------------------------------------------------


@dataclass
class Level:
    descriptor: int
    path: bytes  # below the target
    entry: Record | None
    entries: Iterator[Record]


class Restore:
    def __init__(self, snapshot: Snapshot, target: Path, log: Log) -> None:
        self._snapshot, self._log = snapshot, log
        self._links: dict[tuple[int, int], tuple[bytes, Record]] = {}
        self._as_root = os.geteuid() == 0
        target.mkdir(mode=0o700, parents=True, exist_ok=True)
        need(not any(target.iterdir()), f"{target}: not empty")
        self._target = os.open(target, os.O_RDONLY | os.O_DIRECTORY)

    def run(self) -> None:
        root = self._snapshot.root
        stack = [Level(os.dup(self._target), b"", root.entry, self._snapshot.entries(root.top))]
        while stack:
            level = stack[-1]
            try:
                entry = next(level.entries, None)
            except Refused as refusal:
                self._log.problem(f"/{os.fsdecode(level.path)}: the rest of the directory is lost: {refusal}")
                entry = None
            if entry is None:
                if level.entry:
                    self._metadata(level.entry, level.path, level.descriptor)
                os.close(level.descriptor)
                stack.pop()
                continue
            path = level.path + b"/" * bool(level.path) + entry.name
            try:
                if entry.kind != f.DIRECTORY:
                    self._other(level.descriptor, path, entry)
                    continue
                need(len(stack) < f.MAX_DEPTH, "directories too deep")
                os.mkdir(entry.name, 0o700, dir_fd=level.descriptor)
                flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
                below = os.open(entry.name, flags, dir_fd=level.descriptor)
                if entry.node is None:
                    self._log.note(f"/{os.fsdecode(path)}: directory was not read by the source")
                entries = self._snapshot.entries(entry.node) if entry.node else iter(())
                stack.append(Level(below, path, entry, entries))
            except (Refused, OSError) as error:
                self._log.problem(f"/{os.fsdecode(path)}: {error}")

    def _other(self, parent: int, path: bytes, entry: Record) -> None:
        if entry.hard_link in self._links:
            first, like = self._links[entry.hard_link]
            need((like.kind, like.size) == (entry.kind, entry.size), "hard links differ")
            os.link(first, entry.name, src_dir_fd=self._target, dst_dir_fd=parent, follow_symlinks=False)
            return
        if entry.kind == f.FILE:
            self._file(parent, path, entry)
        else:
            if entry.kind == f.SYMLINK:
                os.symlink(entry.target, entry.name, dir_fd=parent)
            elif entry.kind == f.FIFO:
                os.mkfifo(entry.name, 0o600, dir_fd=parent)
            else:
                kind = stat.S_IFCHR if entry.kind == f.CHAR_DEVICE else stat.S_IFBLK
                os.mknod(entry.name, kind | 0o600, os.makedev(*entry.device), dir_fd=parent)
            self._metadata(entry, path, b"/proc/self/fd/%d/%b" % (parent, entry.name))
        if entry.hard_link:
            self._links[entry.hard_link] = (path, entry)

    def _file(self, parent: int, path: bytes, entry: Record) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        descriptor = os.open(entry.name, flags, 0o600, dir_fd=parent)
        try:
            with open(descriptor, "wb", closefd=False) as file:
                for extent in self._snapshot.extents(entry):
                    if isinstance(extent, int):
                        file.seek(extent, os.SEEK_CUR)
                    else:
                        file.write(self._snapshot.chunk(extent))
                need(file.tell() == entry.size, "F-33: content does not add up to the size")
                file.truncate(entry.size)
            self._metadata(entry, path, descriptor)
        except BaseException:  # a file is restored whole or not at all
            os.unlink(entry.name, dir_fd=parent)
            raise
        finally:
            os.close(descriptor)

    def _metadata(self, entry: Record, path: bytes, where: int | bytes) -> None:
        """Owner first (it clears bits and capabilities), then xattrs, mode and times."""
        follow = isinstance(where, int)
        mode = entry.mode
        try:
            if self._as_root:
                os.chown(where, entry.user[0], entry.group[0], follow_symlinks=follow)
            elif entry.kind != f.DIRECTORY:
                mode &= 0o1777  # set-id bits belong to the owner that was not restored
        except OSError as error:
            mode &= 0o1777
            self._log.problem(f"/{os.fsdecode(path)}: owner: {error}")
        for name, value in entry.xattrs or ():
            try:
                os.setxattr(where, name, value, follow_symlinks=follow)
            except OSError as error:
                self._log.problem(f"/{os.fsdecode(path)}: xattr {os.fsdecode(name)}: {error}")
        try:
            if entry.kind != f.SYMLINK:
                os.chmod(where, mode)
            os.utime(where, ns=(_ns(entry.modified), _ns(entry.modified)), follow_symlinks=follow)
        except (OSError, OverflowError) as error:
            self._log.problem(f"/{os.fsdecode(path)}: mode or times: {error}")


def _ns(moment: tuple[int, int]) -> int:
    return moment[0] * 10**9 + moment[1]


def main() -> int:
    parser = argparse.ArgumentParser(description="Restores a snapshot from a vault.")
    parser.add_argument("--vault", type=Path, required=True)
    parser.add_argument("--source", required=True, help="name under which the source is enrolled")
    parser.add_argument("--card", type=Path, required=True, help="file with the source card, known to be genuine")
    parser.add_argument("--sink-card", type=Path, required=True)
    parser.add_argument("--identity", type=Path, required=True)
    parser.add_argument("--passphrase-file", type=Path)
    parser.add_argument("--lineage", help="needed where the vault has several")
    parser.add_argument("--snapshot", help="sequence number, or 8 or more digits of the head's digest")
    parser.add_argument("--target", type=Path, required=True, help="new or empty directory")
    parser.add_argument("--anyway", action="store_true", help="go on although the chain of heads is not whole")
    options = parser.parse_args()
    sys.setrecursionlimit(10_000)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    log = Log()
    try:
        passphrase = read(options.passphrase_file, 4096).removesuffix(b"\n") if options.passphrase_file else b""
        identity = f.identity_file(read(options.identity, 4096), passphrase)
        card = f.source_card(read(options.card, 4097))
        sink = f.sink_card(read(options.sink_card, 4097)).sink
        home = options.vault / "sources" / f.check_name(options.source)
        heads = read_heads(home, card, sink, options.lineage, options.anyway, log)
        head = choose(heads, options.snapshot)
        log.note(f"snapshot {head.sequence}, head {head.digest.hex()}, created {head.created} by the source's clock")
        if head.flags & f.INCOMPLETE:
            log.note("the source calls this snapshot incomplete")
        if head.reason is not None:
            log.note(f"the source gave a reason for going on: {head.reason!r}")
        snapshot = Snapshot(options.vault, home, card, identity, head, log)
        Restore(snapshot, options.target, log).run()
    except (Refused, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"restored; {log.problems} problems")
    return 1 if log.problems else 0


if __name__ == "__main__":
    sys.exit(main())
