"""Judges the test vectors with `pawl_format`: python vectors.py DIRECTORY [-v]. Ends with 1 if any verdict differs."""

from __future__ import annotations

import argparse
import base64
import io
import json
import sys
from pathlib import Path
from typing import Any, Callable

import pawl_format as f
from pawl_format import need

Fields = dict[str, bytes]


def number(data: bytes) -> int:
    return int.from_bytes(data, "little")


def objects(kind: str, data: bytes, key: bytes) -> list[Any]:
    found = []
    while data:
        one, data = f.split(kind, data)
        found.append(f.open_object(kind, one, key))
    return found


def signed(kind: str) -> Callable[[Fields], Any]:
    return lambda v: f.open_object(kind, v["bytes"], v["key"])


def chain(v: Fields) -> None:
    f.check_chain(objects("H", v["bytes"], v["key"]))


def body(v: Fields) -> None:
    one, rest = f.split("B", v["bytes"])
    named = f.open_object("B", one).pages
    pages = {page.digest: page for page in objects("P", rest, b"")}
    need(all(page in pages for page in named), "F-28: page is missing")
    f.check_pages([pages[page] for page in named], v["source"], v["lineage"])


def session(v: Fields) -> bytes:
    envelope = f.open_object("E", v["bytes"], v["key"])
    later = [f.open_object("W", v["wrap"], v["owner"])] if "wrap" in v else []
    secrets = f.open_session(envelope, f.Identity(v["identity"]), later)
    return secrets.session + secrets.source


def region(v: Fields) -> None:
    _, _, end = f.open_region(v["bytes"], v["key"])
    need(end == len(v["bytes"]), "F-18: padding of the region")


def archive(v: Fields) -> None:
    f.Archive(io.BytesIO(v["bytes"]), v["key"]).check()


def part(v: Fields) -> bytes:
    need(f.digest(v["bytes"]) == v["hash"], "F-14: hash")
    if "session" in v:
        place: Any = f.RootPlace(v["source"], v["lineage"], v["session"])
    else:
        place = f.PartPlace(v["source"], v["lineage"], number(v["number"]), number(v["part"]))
    return f.open_part(place, v["bytes"], v["plain"], v["secret"], v["salt"])


def chunk(v: Fields) -> None:
    need(f.chunk_id(v["secret"], v["lineage"], v["bytes"]) == v["id"], "F-22: poisoned")


def receipt(v: Fields) -> None:
    head = f.open_object("H", v["head"], v["source"])
    need(head.sink == v["key"], "F-35: head of another sink")
    f.open_receipt(v["bytes"], head)


def identity(v: Fields) -> bytes:
    return f.identity_file(v["bytes"], v["passphrase"]).owner


def pack(v: Fields) -> None:
    data = v["bytes"]
    need(len(data) >= 96, "F-39: too short")
    end = len(data) - 96
    footer = data[end:]
    count, at = number(footer[16:24]), number(footer[24:32])
    need(footer[:16] == b"pawlpack" + b"\x01" + v["shelf"] + bytes(6), "F-39: not a pack of this kind")
    need(at + 52 * count == end, "F-39: of another length")
    index = data[at:end]
    need(footer[32:64] == f.blake3(index).digest(), "F-39: index changed")
    need(footer[64:] == f.blake3(footer[:64]).digest(), "F-39: footer changed")
    entries = [index[i : i + 52] for i in range(0, len(index), 52)]
    need(all(a[:32] < b[:32] for a, b in zip(entries, entries[1:])), "F-39: keys do not rise")
    need(all(number(e[32:40]) + number(e[40:44]) <= at for e in entries), "F-39: an object reaches into the index")


# The requests of docs/protocol.md. Those of the role push carry objects, which are checked by the sink.
CHAIN = ((0, "source", f.ID), (1, "lineage", f.LINEAGE))
LIMIT = f.number(8192, 1)
RANGE = f.fields(*CHAIN, (2, "start", f.UINT), (3, "limit", LIMIT))
ONE = f.fields((0, "source", f.ID), (1, "digest", f.ID))
ARCHIVE = f.fields(*CHAIN, (2, "number", f.ARCHIVE_NUMBER))
OWNER_RANGE = f.fields((0, "owner", f.ID), (1, "start", f.UINT), (2, "limit", LIMIT))
PARTS = f.fields(*CHAIN, (2, "number", f.ARCHIVE_NUMBER), (3, "parts", f.many(f.number(f.MAX_PARTS - 1), 1, f.MAX_PARTS)))
READS: dict[int, f.Check | None] = {
    2: None, 16: None, 17: RANGE, 18: ONE, 19: ONE, 20: ONE, 21: ARCHIVE, 22: ARCHIVE, 23: RANGE, 24: OWNER_RANGE,
    25: RANGE, 26: RANGE, 27: RANGE, 48: PARTS, 71: None,
}  # fmt: skip
PUTS = {*range(32, 36), *range(64, 71)}
REPLIES = set(range(129, 142))
LOST = f.row(f.ARCHIVE_NUMBER, f.ID, f.octets(0, f.MAX_PARTS // 8))
DAMAGED = f.fields((0, "checked", f.TIME), (1, "items", f.many(LOST, 0, 1024)))


def request(v: Fields) -> None:
    frame, role = v["bytes"], v["role"].decode()
    length = number(frame[:4])
    need(1 <= length <= 4_259_840, "P-1: length of the frame")
    need(len(frame) == 4 + length, "P-1: frame cut")
    tag, payload = frame[4], frame[5:]
    if role == "reply":
        need(tag in REPLIES, "P-2: not a reply")
        if tag == 141:
            items = DAMAGED(f.decode(payload)).items
            need(all(a[0] < b[0] for a, b in zip(items, items[1:])), "P-13: numbers do not ascend")
            need(all(blocks and blocks[-1] for _, _, blocks in items), "P-13: no block, or a byte of zeros behind")
        return
    need(tag in READS or tag in PUTS, "P-2: unknown request")
    need(tag < 48 or role == ("read" if tag == 48 else "push"), "P-6: not a request of this role")
    need(1 <= len(payload) <= 1_048_576 or tag != 66, "data of a wrong length")
    if tag in PUTS:
        return
    check = READS[tag]
    if tag == 2:
        need(len(payload) <= 65_536, "a ping with too much")
        return
    if check is None:
        need(not payload, "payload where none belongs")
        return
    record = check(f.decode(payload))
    if tag == 48:
        need(all(a < b for a, b in zip(record.parts, record.parts[1:])), "parts do not ascend")


JUDGES: dict[str, Callable[[Fields], Any]] = {
    "archive": archive,
    "body": body,
    "cbor": lambda v: f.INDEX_PART(f.decode(v["bytes"])),
    "chain": chain,
    "chunk": chunk,
    "gear": lambda v: f.gear_table(v["secret"], v["lineage"]),
    "head": signed("H"),
    "identity": identity,
    "list": lambda v: f.open_list(v["bytes"], number(v["level"]), number(v["file"])),
    "name": lambda v: f.check_name(v["bytes"].decode("utf-8", "replace")),
    "node": lambda v: f.open_node(v["bytes"], number(v["level"])),
    "owner-records": lambda v: f.check_owner_records(objects("O", v["bytes"], v["key"]), v["key"]),
    "pack": pack,
    "page": lambda v: f.open_object("P", v["bytes"]),
    "part": part,
    "receipt": receipt,
    "recipient": lambda v: f.recipient_line(v["bytes"]),
    "record": signed("L"),
    "region": region,
    "release": signed("X"),
    "request": request,
    "root": lambda v: f.open_root(v["bytes"]),
    "session": session,
    "sink-card": lambda v: f.sink_card(v["bytes"]),
    "source-card": lambda v: f.source_card(v["bytes"]),
    "substitute": signed("S"),
    "table": lambda v: f.open_table(v["bytes"], number(v["blocks"])),
    "voucher": signed("V"),
}


def main() -> int:
    parser = argparse.ArgumentParser(description="Judges test vectors.")
    parser.add_argument("directory", type=Path)
    parser.add_argument("-v", "--verbose", action="store_true")
    options = parser.parse_args()
    files = sorted(options.directory.glob("*.json"))
    wrong = 0
    for file in files:
        vector = json.loads(file.read_text())
        plain = {"must", "object", "expect"}
        v = {k: base64.urlsafe_b64decode(x + "=" * (-len(x) % 4)) for k, x in vector.items() if k not in plain}
        try:
            found = JUDGES[vector["object"]](v)
            verdict, why = "accept", ""
            if vector["expect"] == "accept" and v.get("content", found) != found:
                verdict, why = "refuse", "content is not the expected"
        except f.Refused as refusal:
            verdict, why = "refuse", str(refusal)
        if verdict != vector["expect"]:
            wrong += 1
        if options.verbose or verdict != vector["expect"]:
            print(f"{file.stem}: {verdict} (expected {vector['expect']}) {why}")
    print(f"{len(files)} vectors, {wrong} judged otherwise")
    return 1 if wrong or not files else 0


if __name__ == "__main__":
    sys.exit(main())
