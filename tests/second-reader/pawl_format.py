"""The format of Pawl, version 1, read from its specification (docs/format.md) alone.

Every function refuses (`Refused`) what a reader must refuse. Tags such as F-12 are those of the specification.
Needs Python 3.11, cryptography (with ML-KEM and Argon2id), blake3 and zstandard.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import io
import re
from dataclasses import dataclass
from types import SimpleNamespace as Record
from typing import Any, BinaryIO, Callable, Sequence

import zstandard
from blake3 import blake3
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

PAGE = 4096
MAX_CHUNK = 4_194_304
MAX_BLOCK = 8_388_608
MAX_PART = 8_392_704
MAX_PARTS = 4_096
MAX_CHUNKS = 65_536
MAX_ARCHIVE = 83_886_080
MAX_REGION = 589_824
MAX_TABLE = 4_194_304
MAX_ROOT = 1_048_576
MAX_LEVEL = 4
MAX_DEPTH = 4_096
SUITE = b"\x01"
X_WING, X25519 = 1, 2
CHECKPOINT, INCOMPLETE = 1, 2
FILE, DIRECTORY, SYMLINK, FIFO, CHAR_DEVICE, BLOCK_DEVICE = range(6)


class Refused(Exception):
    """The input must not be used."""


class Absent(Refused):
    """A part that a generation does not hold."""


def need(condition: bool, why: str) -> None:
    if not condition:
        raise Refused(why)


def digest(data: bytes, key: bytes | None = None) -> bytes:
    return blake3(data, key=key).digest() if key else blake3(data).digest()


def aligned(length: int) -> int:
    return (length + PAGE - 1) // PAGE * PAGE


# --- 1. Encoding ------------------------------------------------------------------------------------------------

Check = Callable[[Any], Any]


def decode(data: bytes) -> Any:
    """Decodes CBOR; refuses all but the deterministic form of unsigned, negative, bytes, text, array and map (F-2)."""
    value, end = _item(data, 0, 0)
    need(end == len(data), "bytes behind the structure")
    return value


def _item(data: bytes, at: int, depth: int) -> tuple[Any, int]:
    need(depth < 16, "nested too deeply")
    need(at < len(data), "structure cut")
    major, short = data[at] >> 5, data[at] & 31
    need(major <= 5 and short < 28, "a type that the format does not use")
    extra = 0 if short < 24 else 1 << (short - 24)
    need(at + 1 + extra <= len(data), "structure cut")
    number = int.from_bytes(data[at + 1 : at + 1 + extra], "big") if extra else short
    need(extra == 0 or number >= (24 if extra == 1 else 1 << (4 * extra)), "number not in its shortest form")
    at += 1 + extra
    if major == 0:
        return number, at
    if major == 1:
        return -1 - number, at
    need(number <= len(data) - at, "length beyond the structure")  # F-4: an element has at least one byte
    if major == 2:
        return data[at : at + number], at + number
    if major == 3:
        try:
            return data[at : at + number].decode("utf-8"), at + number
        except UnicodeDecodeError as error:
            raise Refused("text is not UTF-8") from error
    if major == 4:
        items = []
        for _ in range(number):
            item, at = _item(data, at, depth + 1)
            items.append(item)
        return items, at
    entries: dict[int, Any] = {}
    last = -1
    for _ in range(number):
        key, at = _item(data, at, depth + 1)
        need(type(key) is int and key > last, "map keys are not ascending unsigned numbers")
        entries[key], at = _item(data, at, depth + 1)
        last = key
    return entries, at


def number(most: int = 2**64 - 1, least: int = 0) -> Check:
    def check(value: Any) -> int:
        need(type(value) is int and least <= value <= most, f"not a number from {least} to {most}")
        return value

    return check


def octets(least: int, most: int | None = None) -> Check:
    def check(value: Any) -> bytes:
        need(type(value) is bytes and least <= len(value) <= (most or least), "bytes of a wrong length")
        return value

    return check


def text(most: int) -> Check:
    def check(value: Any) -> str:
        need(type(value) is str and len(value.encode()) <= most, "text missing or too long")
        return value

    return check


def many(item: Check, least: int, most: int) -> Check:
    def check(value: Any) -> list[Any]:
        need(type(value) is list and least <= len(value) <= most, f"not a list of {least} to {most}")
        return [item(element) for element in value]

    return check


def row(*items: Check, optional: int = 0) -> Check:
    def check(value: Any) -> tuple[Any, ...]:
        need(type(value) is list and len(items) - optional <= len(value) <= len(items), "array of a wrong length")
        return tuple(i(v) for i, v in zip(items, value)) + (None,) * (len(items) - len(value))

    return check


def fields(*items: tuple[int, str, Check], optional: Sequence[str] = ()) -> Check:
    """A map (F-1, F-3); absent optional fields become None."""

    def check(value: Any) -> Record:
        need(type(value) is dict, "not a map")
        need(value.keys() <= {key for key, _, _ in items}, "unknown key")
        record = Record()
        for key, name, item in items:
            need(key in value or name in optional, f"{name} is missing")
            setattr(record, name, item(value[key]) if key in value else None)
        return record

    return check


UINT = number()
TIME = number(2**63 - 1, -(2**63))
ID = octets(32)
LINEAGE = octets(16)
ARCHIVE_NUMBER = number(2**48 - 1)
BLOCK_NUMBER = number(MAX_PARTS - 2)

# --- 3. Objects -------------------------------------------------------------------------------------------------

_P = 2**255 - 19
_Y8 = int.from_bytes(bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "little")
_SMALL_ORDER = {0, 1, _P - 1, _Y8, _P - _Y8}  # the y of all points whose order divides 8

LIMITS = {
    "I": 524_288, "E": 65_536, "H": 16_384, "B": 4_194_304, "P": 1_048_576, "R": 4_096, "L": 4_194_304,
    "S": 1_048_576, "O": 1_048_576, "V": 4_096, "X": 4_096, "W": 65_536, "G": 4_096, "g": 540,
}  # fmt: skip
UNSIGNED = "BPg"
HEADER = 12
SIGNATURE = 64


def verify(key: bytes, signature: bytes, message: bytes) -> None:
    """Ed25519, strict (F-6): no small order, only canonical encodings, equation without cofactor."""
    need(len(key) == 32 and len(signature) == SIGNATURE, "key or signature of a wrong length")
    for point in (key, signature[:32]):
        y = int.from_bytes(point, "little") % 2**255
        need(y < _P and y not in _SMALL_ORDER, "signature: point of small order or not canonical")
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except (InvalidSignature, ValueError) as error:
        raise Refused("signature does not verify") from error


def split(kind: str, data: bytes) -> tuple[bytes, bytes]:
    """The object that `data` begins with, and the rest. Checks the header (F-8) and the size (F-9)."""
    need(data[:8] == b"pawl" + kind.encode() + b"\x01\x01\x00", f"not an object of kind {kind}")
    need(len(data) >= HEADER, "object cut")
    end = HEADER + int.from_bytes(data[8:12], "little") + (0 if kind in UNSIGNED else SIGNATURE)
    need(end <= LIMITS[kind], "object larger than its kind may be")
    need(end <= len(data), "object cut")
    return data[:end], data[end:]


def object_digest(kind: str, data: bytes) -> bytes:
    return digest(data if kind in UNSIGNED else data[:-SIGNATURE])


def open_object(kind: str, data: bytes, *keys: bytes) -> Record:
    """Checks one whole object, signed by one of `keys`, and decodes its body; the record has a `digest`."""
    one, rest = split(kind, data)
    need(not rest, "bytes behind the object")
    if kind not in UNSIGNED:
        refusal = Refused("no key for the signature")
        for key in keys:
            try:
                verify(key, one[-SIGNATURE:], b"pawl.signed-object.v1\0" + one[:-SIGNATURE])
                break
            except Refused as error:
                refusal = error
        else:
            raise refusal
        one = one[:-SIGNATURE]
    record = BODIES[kind](decode(one[HEADER:]))
    record.digest = digest(one)
    if kind in RULES:
        RULES[kind](record)
    return record


# --- 4. Keys and labels -----------------------------------------------------------------------------------------


def extract(salt: bytes, secret: bytes) -> bytes:
    return hmac.digest(salt or bytes(32), secret, "sha256")


def expand(key: bytes, info: bytes, length: int) -> bytes:
    out, last = b"", b""
    while len(out) < length:
        last = hmac.digest(key, last + info + bytes([len(out) // 32 + 1]), "sha256")
        out += last
    return out[:length]


def derive(secret: bytes, salt: bytes, label: str, context: bytes = b"", length: int = 32) -> bytes:
    return expand(extract(salt, secret), label.encode() + b"\0" + context, length)


def open_gcm(key: bytes, sealed: bytes, aad: bytes, nonce: bytes = bytes(12)) -> bytes:
    try:
        return AESGCM(key).decrypt(nonce, sealed, aad)
    except (InvalidTag, ValueError) as error:
        raise Refused("seal does not open") from error


def chunk_id(source_secret: bytes, lineage: bytes, chunk: bytes) -> bytes:
    return digest(chunk, derive(source_secret, lineage, "pawl.v1 chunk-id"))


def gear_table(source_secret: bytes, lineage: bytes) -> bytes:
    return derive(source_secret, lineage, "pawl.v1 gear", length=2048)


def index_secret(source_secret: bytes, lineage: bytes) -> bytes:
    return derive(source_secret, lineage, "pawl.v1 chunk-table")


# --- 5, 6. Identity, envelope and wraps -------------------------------------------------------------------------


class Identity:
    """The owner's seed and what follows from it."""

    def __init__(self, seed: bytes) -> None:
        owner = Ed25519PrivateKey.from_private_bytes(derive(seed, b"", "pawl.v1 identity owner-sign"))
        self.owner = owner.public_key().public_bytes_raw()
        self._x25519 = X25519PrivateKey.from_private_bytes(derive(seed, b"", "pawl.v1 identity x25519"))
        expanded = hashlib.shake_256(derive(seed, b"", "pawl.v1 identity x-wing")).digest(96)
        self._ml_kem = MLKEM768PrivateKey.from_seed_bytes(expanded[:64])
        self._x_wing_x25519 = X25519PrivateKey.from_private_bytes(expanded[64:])
        self.public = {
            X25519: self._x25519.public_key().public_bytes_raw(),
            X_WING: self._ml_kem.public_key().public_bytes_raw()
            + self._x_wing_x25519.public_key().public_bytes_raw(),
        }
        self.recipients = {digest(key): kem for kem, key in self.public.items()}

    def decapsulate(self, kem: int, enc: bytes) -> bytes:
        try:
            if kem == X25519:
                dh = self._x25519.exchange(X25519PublicKey.from_public_bytes(enc))
                suite = b"KEM\x00\x20"
                prk = _labeled_extract(suite, b"", b"eae_prk", dh)
                return _labeled_expand(suite, prk, b"shared_secret", enc + self.public[X25519], 32)
            first, second = enc[:1088], enc[1088:]
            ss_m = self._ml_kem.decapsulate(first)
            ss_x = self._x_wing_x25519.exchange(X25519PublicKey.from_public_bytes(second))
            return hashlib.sha3_256(ss_m + ss_x + second + self.public[X_WING][1184:] + b"\\.//^\\").digest()
        except ValueError as error:
            raise Refused("encapsulated key is not valid") from error

    def open(self, kem: int, enc: bytes, sealed: bytes, info: bytes) -> bytes:
        """HPKE base mode, single shot, HKDF-SHA256 and AES-256-GCM; the AAD equals the info."""
        suite = b"HPKE" + {X_WING: b"\x64\x7a", X25519: b"\x00\x20"}[kem] + b"\x00\x01\x00\x02"
        context = b"\0" + _labeled_extract(suite, b"", b"psk_id_hash", b"")
        context += _labeled_extract(suite, b"", b"info_hash", info)
        secret = _labeled_extract(suite, self.decapsulate(kem, enc), b"secret", b"")
        key = _labeled_expand(suite, secret, b"key", context, 32)
        return open_gcm(key, sealed, info, _labeled_expand(suite, secret, b"base_nonce", context, 12))


def _labeled_extract(suite: bytes, salt: bytes, label: bytes, ikm: bytes) -> bytes:
    return extract(salt, b"HPKE-v1" + suite + label + ikm)


def _labeled_expand(suite: bytes, key: bytes, label: bytes, info: bytes, length: int) -> bytes:
    return expand(key, length.to_bytes(2, "big") + b"HPKE-v1" + suite + label + info, length)


ENC_LENGTH = {X_WING: 1120, X25519: 32}
WRAP = fields((0, "kem", number(2, 1)), (1, "recipient", ID), (2, "enc", octets(32, 1120)), (3, "sealed", octets(80)))
WRAPS = many(WRAP, 1, 16)
ENVELOPE = fields(
    (0, "source", ID), (1, "lineage", LINEAGE), (2, "salt", ID), (3, "commitment", ID), (4, "wraps", WRAPS)
)  # fmt: skip
LATER_WRAP = fields(
    (0, "source", ID), (1, "lineage", LINEAGE), (2, "session", ID), (3, "commitment", ID), (4, "wraps", WRAPS)
)


def _rule_wraps(record: Record) -> None:
    for wrap in record.wraps:
        need(len(wrap.enc) == ENC_LENGTH[wrap.kem], "F-10: enc of a wrong length")
    need(len({w.recipient for w in record.wraps}) == len(record.wraps), "F-10: recipient twice")


@dataclass(frozen=True)
class Secrets:
    session: bytes
    source: bytes


def open_session(envelope: Record, identity: Identity, later: Sequence[Record] = ()) -> Secrets:
    """Opens the wrap for this identity, in the envelope or in one of the wrap objects added later."""
    lists = [envelope.wraps]
    for wrap in later:
        same = (wrap.source, wrap.lineage, wrap.session, wrap.commitment)
        need(
            same == (envelope.source, envelope.lineage, envelope.digest, envelope.commitment),
            "F-12: wrap of another session",
        )
        lists.append(wrap.wraps)
    refusal = Refused("no wrap for this identity")
    for wrap in sum(lists, []):
        if identity.recipients.get(wrap.recipient) == wrap.kem:
            try:
                return _open_wrap(envelope, identity, wrap)
            except Refused as error:
                refusal = error
    raise refusal


def _open_wrap(envelope: Record, identity: Identity, wrap: Record) -> Secrets:
    bound = envelope.source + envelope.lineage
    info = b"pawl.v1 wrap\0" + SUITE + bound + wrap.recipient + envelope.commitment
    secrets = identity.open(wrap.kem, wrap.enc, wrap.sealed, info)
    need(len(secrets) == 64, "message of a wrong length")
    commitment = hashlib.sha256(b"pawl.v1 commitment\0" + bound + envelope.salt + secrets).digest()
    need(hmac.compare_digest(commitment, envelope.commitment), "F-11: commitment does not fit")
    return Secrets(secrets[:32], secrets[32:])


# --- 7. Part ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PartPlace:
    source: bytes
    lineage: bytes
    archive: int
    part: int

    def keys(self, secret: bytes, salt: bytes, plain: bytes) -> tuple[bytes, bytes, bytes]:
        where = self.archive.to_bytes(8, "little") + self.part.to_bytes(4, "little")
        return (
            derive(secret, salt, "pawl.v1 part-digest"),
            derive(secret, salt, "pawl.v1 part-key", where + plain),
            b"pawl.v1 part\0" + SUITE + self.source + self.lineage + where,
        )


@dataclass(frozen=True)
class RootPlace:
    source: bytes
    lineage: bytes
    session: bytes

    def keys(self, secret: bytes, salt: bytes, plain: bytes) -> tuple[bytes, bytes, bytes]:
        return (
            derive(secret, salt, "pawl.v1 root-digest"),
            derive(secret, salt, "pawl.v1 root-key", plain),
            b"pawl.v1 root\0" + SUITE + self.source + self.lineage + self.session,
        )


def check_sealed_length(length: int, most: int = MAX_PART) -> None:
    need(length % PAGE == 0, "F-13: sealed length not aligned")
    need(0 < length <= most, "F-13: sealed length")


def open_part(place: PartPlace | RootPlace, sealed: bytes, plain: bytes, secret: bytes, salt: bytes) -> bytes:
    """The content of a part whose sealed bytes are already checked against a signature (F-14)."""
    check_sealed_length(len(sealed))
    digest_key, key, aad = place.keys(secret, salt, plain)
    padded = open_gcm(key, sealed, aad)
    need(hmac.compare_digest(digest(padded, digest_key), plain), "F-15: plain digest does not fit")
    method, end = padded[0], 5 + int.from_bytes(padded[1:5], "little")
    need(end <= len(padded), "F-16: length beyond the part")
    need(aligned(end + 16) == len(sealed), "F-16: padding too long")
    need(not any(padded[end:]), "F-16: padding not zero")
    need(method in (0, 1), "F-16: unknown method")
    content = padded[5:end] if method == 0 else decompress(padded[5:end])
    need(len(content) <= MAX_BLOCK, "F-16: content too long")
    return content


def decompress(frame: bytes) -> bytes:
    """One zstd frame with content size, without dictionary, window at most 8 MiB (F-16)."""
    try:
        parameters = zstandard.get_frame_parameters(frame)
        size = parameters.content_size
        need(frame[:4] == b"\x28\xb5\x2f\xfd", "F-16: not a zstd frame")
        need(size != zstandard.CONTENTSIZE_UNKNOWN, "F-16: no content size")
        need(size <= MAX_BLOCK, "F-16: content too long")
        need(parameters.window_size <= MAX_BLOCK, "F-16: window too large")
        need(frame[4] & 3 == 0, "F-16: frame with a dictionary")
        content = zstandard.ZstdDecompressor().decompress(frame, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise Refused("F-16: zstd frame") from error
    need(len(content) == size, "F-16: content size")
    return content


# --- 8, 9, 10. Archive, chunk table, generations ----------------------------------------------------------------

INDEX_PART = row(number(), ID, ID)
INDEX = fields(
    (0, "source", ID), (1, "lineage", LINEAGE), (2, "session", ID), (3, "number", ARCHIVE_NUMBER),
    (4, "salt", ID), (5, "kind", number(1)), (6, "parts", many(INDEX_PART, 2, MAX_PARTS)),
)  # fmt: skip
GENERATION = fields((0, "present", octets(1, MAX_PARTS // 8)))
TABLE = many(many(row(ID, number(MAX_CHUNK, 1)), 1, MAX_CHUNKS), 1, MAX_PARTS - 1)


def _rule_index(index: Record) -> None:
    for length, _, _ in index.parts:
        check_sealed_length(length)
    need(sum(p[0] for p in index.parts) + MAX_REGION <= MAX_ARCHIVE, "F-20: archive too long")


def open_region(data: bytes, key: bytes) -> tuple[Record, Record, int]:
    """Index, envelope and length of the header region that `data` begins with."""
    one, rest = split("I", data)
    index = open_object("I", one, key)
    two, _ = split("E", rest)
    envelope = open_object("E", two, key)
    need(envelope.digest == index.session, "F-17: envelope of another session")
    same = (envelope.source, envelope.lineage) == (index.source, index.lineage)
    need(same, "F-17: envelope of another source or lineage")
    used = len(one) + len(two)
    end = aligned(used)
    need(len(data) >= end and not any(data[used:end]), "F-18: padding of the region")
    return index, envelope, end


class Archive:
    """A plain archive or a generation (F-23)."""

    def __init__(self, file: BinaryIO, key: bytes) -> None:
        self._file = file
        data = file.read(PAGE + MAX_REGION)
        start, present = 0, b""
        if data[:5] == b"pawlg":
            one, _ = split("g", data)
            present = open_object("g", one).present
            need(len(data) >= PAGE and not any(data[len(one) : PAGE]), "F-23: padding of the generation header")
            start = PAGE
        self.index, self.envelope, region = open_region(data[start:], key)
        count = len(self.index.parts)
        if start:
            need(len(present) == (count + 7) // 8, "F-23: bitmap of a wrong length")
            need(int.from_bytes(present, "little") >> count - 1 == 1, "F-23: bitmap beyond the parts, or no chunk table")
        self.offsets: dict[int, int] = {}
        self.end = start + region
        for part, (length, _, _) in enumerate(self.index.parts):
            if not start or present[part // 8] >> part % 8 & 1:
                self.offsets[part] = self.end
                self.end += length

    def close(self) -> None:
        self._file.close()

    @property
    def table_number(self) -> int:
        return len(self.index.parts) - 1

    def sealed(self, part: int) -> bytes:
        if part not in self.offsets:
            raise Absent("part is not there")
        length, stated, _ = self.index.parts[part]
        self._file.seek(self.offsets[part])
        data = self._file.read(length)
        need(len(data) == length, "archive cut")
        need(hmac.compare_digest(digest(data), stated), "F-14: hash of the part does not fit")
        return data

    def content(self, part: int, secret: bytes) -> bytes:
        place = PartPlace(self.index.source, self.index.lineage, self.index.number, part)
        return open_part(place, self.sealed(part), self.index.parts[part][2], secret, self.index.salt)

    def table(self, source_secret: bytes) -> list[list[tuple[bytes, int]]]:
        secret = index_secret(source_secret, self.index.lineage)
        return open_table(self.content(self.table_number, secret), self.table_number)

    def check(self) -> None:
        """Checks the hash of every part that is there, and that nothing follows."""
        for part in self.offsets:
            self.sealed(part)
        need(self._file.seek(0, io.SEEK_END) == self.end, "bytes behind the archive")


def open_table(data: bytes, blocks: int) -> list[list[tuple[bytes, int]]]:
    need(len(data) <= MAX_TABLE, "chunk table too long")
    table = TABLE(decode(data))
    need(len(table) == blocks, "F-21: as many items as blocks")
    need(all(sum(c[1] for c in block) <= MAX_BLOCK for block in table), "F-21: block too long")
    need(sum(map(len, table)) <= MAX_CHUNKS, "F-21: too many chunks")
    return table


# --- 11. Snapshot -----------------------------------------------------------------------------------------------

HEAD = fields(
    (0, "source", ID), (1, "lineage", LINEAGE), (2, "sink", ID), (3, "sequence", UINT), (4, "previous", ID),
    (5, "series", LINEAGE), (6, "flags", number(3)), (7, "created", TIME), (8, "session", ID), (9, "body", ID),
    (10, "remotes", many(row(ID, UINT, ID), 0, 32)), (11, "reason", text(1024)),
    optional=("previous", "reason"),
)  # fmt: skip
BODY = fields(
    (0, "pages", many(ID, 0, 65_536)),
    (1, "root", fields((0, "salt", ID), (1, "plain", ID), (2, "sealed", octets(0, MAX_ROOT)))),
)
REF_PAGE = fields(
    (0, "source", ID), (1, "lineage", LINEAGE), (2, "archives", many(row(ARCHIVE_NUMBER, ID, octets(1, 512)), 1, 1024))
)


def _rule_head(head: Record) -> None:
    need((head.previous is None) == (head.sequence == 0), "F-24: previous is absent for sequence 0 and no other")


def _rule_body(body: Record) -> None:
    check_sealed_length(len(body.root.sealed), MAX_ROOT)


def _rule_page(page: Record) -> None:
    numbers = [a[0] for a in page.archives]
    need(all(a < b for a, b in zip(numbers, numbers[1:])), "F-29: numbers do not ascend")
    need(numbers[0] // 1024 == numbers[-1] // 1024, "F-29: numbers of two spans")
    need(all(live[-1] for _, _, live in page.archives), "F-29: bitmap ends with zero")
    longest = max(int.from_bytes(live, "little").bit_length() for _, _, live in page.archives)
    need(longest < MAX_PARTS, "F-29: block beyond any archive")


def check_chain(heads: Sequence[Record]) -> None:
    """Heads of one chain in ascending order, complete from sequence 0 (F-24, F-26, F-27)."""
    for expected, head in enumerate(heads):
        first = heads[0]
        chain = (head.source, head.lineage, head.sink)
        need(chain == (first.source, first.lineage, first.sink), "F-24: head of another chain")
        need(head.sequence >= expected, "F-27: two heads with one sequence number")
        need(head.sequence == expected, f"F-26: head {expected} is missing")
        need(expected == 0 or head.previous == heads[expected - 1].digest, "F-24: predecessor does not fit")


def check_pages(pages: Sequence[Record], source: bytes, lineage: bytes) -> dict[int, tuple[bytes, bytes]]:
    """The archives that pages name: number -> id, live (F-28, F-29)."""
    last = -1
    archives: dict[int, tuple[bytes, bytes]] = {}
    for page in pages:
        need((page.source, page.lineage) == (source, lineage), "F-29: page of another source or lineage")
        need(page.archives[0][0] > last, "F-28: pages do not ascend")
        last = page.archives[-1][0]
        archives.update({n: (i, live) for n, i, live in page.archives})
    return archives


# --- 12. Tree ---------------------------------------------------------------------------------------------------

CHUNK = row(ID, number(MAX_CHUNK, 1), ARCHIVE_NUMBER, UINT)
LEVEL = number(MAX_LEVEL)


def _extent(value: Any) -> Any:
    return CHUNK(value) if type(value) is list else number(2**63 - 1, 1)(value)


def _name(value: Any) -> bytes:
    name = octets(1, 255)(value)
    need(name not in (b".", b"..") and b"/" not in name and b"\0" not in name, "F-31: name")
    return name


OWNER = row(number(2**32 - 1), text(256), optional=1)
MOMENT = row(TIME, number(999_999_999))
ENTRY_FIELDS = fields(
    (0, "name", _name), (1, "kind", number(5)), (2, "mode", number(0o7777)), (3, "user", OWNER), (4, "group", OWNER),
    (5, "modified", MOMENT), (6, "changed", MOMENT), (7, "inode", UINT), (8, "size", number(2**63 - 1)),
    (9, "hard_link", row(UINT, UINT)), (10, "extents", many(_extent, 0, 4096)), (11, "list", row(CHUNK, LEVEL, UINT)),
    (12, "node", row(CHUNK, LEVEL)), (13, "target", octets(1, 4096)),
    (14, "device", row(number(2**32 - 1), number(2**32 - 1))),
    (15, "xattrs", many(row(octets(1, 255), octets(0, 65_536)), 0, 256)),
    optional=("hard_link", "extents", "list", "node", "target", "device", "xattrs"),
)  # fmt: skip
FIELDS_OF = {
    FILE: {"hard_link", "extents", "list"}, DIRECTORY: {"node"}, SYMLINK: {"hard_link", "target"}, FIFO: {"hard_link"},
    CHAR_DEVICE: {"hard_link", "device"}, BLOCK_DEVICE: {"hard_link", "device"},
}  # fmt: skip


def extent_length(extent: Any) -> int:
    return extent if type(extent) is int else extent[1]


def ENTRY(value: Any) -> Record:
    entry = ENTRY_FIELDS(value)
    for name in ("hard_link", "extents", "list", "node", "target", "device"):
        need(getattr(entry, name) is None or name in FIELDS_OF[entry.kind], f"F-34: {name} at a wrong kind")
    need(entry.kind != SYMLINK or (entry.target is not None and b"\0" not in entry.target), "F-34: target")
    need(entry.kind not in (CHAR_DEVICE, BLOCK_DEVICE) or entry.device is not None, "F-34: device without number")
    need(entry.kind == FILE or entry.size == 0, "F-34: size of what is no file")
    need(entry.extents is None or entry.list is None, "F-33: extents and list")
    stated = entry.list[2] if entry.list else sum(map(extent_length, entry.extents or ()))
    need(stated == entry.size, "F-33: content does not add up to the size")
    if entry.xattrs:
        need(sum(len(n) + len(v) for n, v in entry.xattrs) <= 524_288, "xattrs too long")
        need(len({n for n, _ in entry.xattrs}) == len(entry.xattrs), "xattr twice")
        need(not any(b"\0" in n for n, _ in entry.xattrs), "xattr name with a zero byte")
    return entry


NODE = fields(
    (0, "level", LEVEL), (1, "entries", many(ENTRY, 0, 4096)), (2, "nodes", many(row(_name, CHUNK), 1, 4096)),
    optional=("entries", "nodes"),
)  # fmt: skip
LIST = fields(
    (0, "level", LEVEL), (1, "extents", many(_extent, 1, 4096)),
    (2, "lists", many(row(CHUNK, number(2**63 - 1, 1)), 1, 4096)),
    optional=("extents", "lists"),
)  # fmt: skip
_COUNTED = ("files", "directories", "others", "bytes", "unreadable", "changed")
COUNTS = fields(*((key, name, UINT) for key, name in enumerate(_COUNTED)))
ROOT = fields(
    (0, "top", row(CHUNK, LEVEL)), (1, "host", text(256)), (2, "set", text(256)),
    (3, "paths", many(octets(0, 4096), 0, 1024)), (4, "tags", many(text(4096), 0, 256)), (5, "counts", COUNTS),
    (6, "started", TIME), (7, "finished", TIME), (8, "program", text(128)), (9, "entry", ENTRY),
    optional=("entry",),
)  # fmt: skip


def open_node(data: bytes, level: int) -> Record:
    node = NODE(decode(data))
    need(node.level == level, "F-32: level is not what the reference says")
    need((node.entries is not None, node.nodes is not None) == (level == 0, level > 0), "F-32: entries and nodes")
    names = [e.name for e in node.entries] if level == 0 else [n for n, _ in node.nodes]
    need(all(a < b for a, b in zip(names, names[1:])), "F-31: names do not ascend")
    return node


def open_list(data: bytes, level: int, size: int) -> Record:
    lists = LIST(decode(data))
    need(lists.level == level, "F-32: level is not what the reference says")
    need((lists.extents is not None, lists.lists is not None) == (level == 0, level > 0), "F-32: extents and lists")
    total = sum(map(extent_length, lists.extents)) if level == 0 else sum(n for _, n in lists.lists)
    need(total == size, "F-33: list does not add up to the size")
    return lists


def open_root(data: bytes) -> Record:
    root = ROOT(decode(data))
    need(root.entry is None or root.entry.kind == DIRECTORY, "F-34: the entry of / is no directory")
    return root


# --- 13, 14. Receipt, session record, owner's objects, substitutes ----------------------------------------------

RECEIPT = fields(
    (0, "source", ID), (1, "lineage", LINEAGE), (2, "sink", ID), (3, "sequence", UINT), (4, "head", ID),
    (5, "received", TIME), (6, "previous", ID), (7, "journal", ID), (8, "archives", UINT), (9, "keep_until", TIME),
    optional=("previous", "journal", "keep_until"),
)  # fmt: skip
SESSION_RECORD = fields(
    (0, "source", ID), (1, "lineage", LINEAGE), (2, "started", TIME), (3, "ended", TIME),
    (4, "archives", many(row(ARCHIVE_NUMBER, ID, UINT), 0, 2**20)), (5, "heads", many(UINT, 0, 2**20)),
    (6, "objects", UINT), (7, "charged", UINT),
    optional=("lineage",),
)  # fmt: skip
OWNER_RECORD = fields(
    (0, "owner", ID), (1, "number", UINT), (2, "previous", ID), (3, "kem", number(2, 1)), (4, "enc", octets(32, 1120)),
    (5, "sealed", octets(16, 1_048_576)),
    optional=("previous",),
)  # fmt: skip
TRUSTED = fields(
    (0, "card", text(4096)), (1, "lineages", many(LINEAGE, 0, 64)), (2, "since", TIME),
    (3, "frozen", many(row(LINEAGE, ID, UINT, ID), 0, 8192)),
)  # fmt: skip
OWNER_NOTE = fields(
    (0, "trusted", many(TRUSTED, 0, 1024)), (1, "sinks", many(text(4096), 0, 256)),
    (2, "heads", many(row(ID, LINEAGE, ID, UINT, ID, TIME), 0, 8192)), (3, "written", TIME),
    (4, "removed", many(fields((0, "source", ID), (1, "time", TIME)), 0, 1024)),
)  # fmt: skip
_ABOUT_HEAD = (
    (0, "owner", ID), (1, "source", ID), (2, "lineage", LINEAGE), (3, "sink", ID), (4, "sequence", UINT), (5, "head", ID)
)  # fmt: skip
VOUCHER = fields(*_ABOUT_HEAD, (6, "checked", TIME))
RELEASE = fields(*_ABOUT_HEAD, (6, "reason", text(1024)))
BLOCK = row(ARCHIVE_NUMBER, ID, BLOCK_NUMBER)
PAIR = row(BLOCK, many(BLOCK, 1, 8192))
SUBSTITUTE = fields((0, "source", ID), (1, "lineage", LINEAGE), (2, "pairs", many(PAIR, 1, 8192)))


def open_receipt(data: bytes, head: Record) -> Record:
    """A receipt counts only beside its head, and verified with the key of the head's chain (F-35)."""
    receipt = open_object("R", data, head.sink)
    chain = (receipt.source, receipt.lineage, receipt.sink, receipt.sequence, receipt.head)
    need(chain == (head.source, head.lineage, head.sink, head.sequence, head.digest), "F-35: receipt of another head")
    return receipt


def _rule_owner_record(record: Record) -> None:
    need(len(record.enc) == ENC_LENGTH[record.kem], "F-10: enc of a wrong length")
    need((record.previous is None) == (record.number == 0), "F-36: previous is absent for number 0 and no other")


def check_owner_records(records: Sequence[Record], owner: bytes) -> None:
    for expected, record in enumerate(records):
        need(record.owner == owner, "record of another owner")
        need(record.number == expected, "F-36: numbers have a gap")
        need(expected == 0 or record.previous == records[expected - 1].digest, "F-36: predecessor does not fit")


def open_owner_record(record: Record, identity: Identity) -> Record:
    previous = record.previous or bytes(32)
    info = b"pawl.v1 owner-record\0" + SUITE + record.owner + record.number.to_bytes(8, "little") + previous
    return OWNER_NOTE(decode(identity.open(record.kem, record.enc, record.sealed, info)))


def _rule_substitute(record: Record) -> None:
    lefts = {left for left, _ in record.pairs}
    need(not any(right in lefts for _, rights in record.pairs for right in rights), "F-37: substitute of a substitute")


BODIES: dict[str, Check] = {
    "I": INDEX, "E": ENVELOPE, "H": HEAD, "B": BODY, "P": REF_PAGE, "R": RECEIPT, "L": SESSION_RECORD, "S": SUBSTITUTE,
    "O": OWNER_RECORD, "V": VOUCHER, "X": RELEASE, "W": LATER_WRAP, "g": GENERATION,
}  # fmt: skip
RULES: dict[str, Callable[[Record], None]] = {
    "I": _rule_index, "E": _rule_wraps, "W": _rule_wraps, "H": _rule_head, "B": _rule_body, "P": _rule_page,
    "O": _rule_owner_record, "S": _rule_substitute,
}  # fmt: skip

# --- 2, 15. Names, cards and key files --------------------------------------------------------------------------

_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
_B64 = r"[A-Za-z0-9_-]+"
_WORD = r"[!-+\--~]+"  # printable, no space, no comma
_SOURCE_CARD = re.compile(
    rf"(source-card:1,name=({_NAME}),ssh=({_B64}),sign=({_B64})(?:,owner=({_B64}))?),sig=({_B64})"
)
_SINK_CARD = re.compile(
    rf"(sink-card:1,name=({_NAME}),user=({_WORD}),host=({_WORD}),port=([1-9][0-9]{{0,4}})"
    rf"((?:,hostkey={_B64})*),sink=({_B64})),sum=([0-9a-f]{{8}})"
)
_RECIPIENT = re.compile(rf"(pawl-recipient:1,kem=(x-wing|x25519),key=({_B64}),owner=({_B64})),sig=({_B64})")
_IDENTITY_PLAIN = re.compile(rf"pawl-identity:1,kdf=none,seed=({_B64})")
_IDENTITY_SEALED = re.compile(
    rf"(pawl-identity:1,kdf=argon2id,m=([1-9][0-9]{{0,6}}),t=([1-9][0-9]?),p=([1-9][0-9]?),salt=({_B64}))"
    rf",sealed=({_B64})"
)
_SSH_ED25519 = b"\0\0\0\x0bssh-ed25519\0\0\0\x20"


def unbase64(value: str, length: int | None = None) -> bytes:
    try:
        data = base64.b64decode(value + "=" * (-len(value) % 4), b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise Refused("not base64") from error
    need(base64.urlsafe_b64encode(data).rstrip(b"=") == value.encode(), "base64 not canonical")
    need(length is None or len(data) == length, "base64 of a wrong length")
    return data


def check_name(name: str) -> str:
    need(re.fullmatch(_NAME, name) is not None, "F-5: name")
    return name


def _match(pattern: re.Pattern[str], line: bytes, what: str) -> re.Match[str]:
    need(len(line) <= 4096, f"{what} too long")
    match = pattern.fullmatch(line.decode("ascii", "replace").removesuffix("\n"))
    if match is None:
        raise Refused(f"F-38: not a {what}")
    return match


def source_card(line: bytes) -> Record:
    signed, name, ssh, sign, owner, signature = _match(_SOURCE_CARD, line, "source card").groups()
    card = Record(name=name, ssh=unbase64(ssh, 51), sign=unbase64(sign, 32))
    card.owner = unbase64(owner, 32) if owner else None
    need(card.ssh.startswith(_SSH_ED25519), "F-38: not an ed25519 key of SSH")
    verify(card.sign, unbase64(signature, 64), b"pawl.source-card.v1\0" + signed.encode())
    card.source = digest(signed.encode())
    return card


def sink_card(line: bytes) -> Record:
    summed, name, user, host, port, keys, sink, total = _match(_SINK_CARD, line, "sink card").groups()
    need(int(port) <= 65_535, "F-38: port")
    need(digest(summed.encode()).hex()[:8] == total, "F-38: sum does not fit")
    host_keys = [unbase64(key) for key in keys.split(",hostkey=")[1:]]
    return Record(name=name, user=user, host=host, port=int(port), host_keys=host_keys, sink=unbase64(sink, 32))


def recipient_line(line: bytes) -> Record:
    signed, kem, key, owner, signature = _match(_RECIPIENT, line, "recipient line").groups()
    recipient = Record(kem=X_WING if kem == "x-wing" else X25519, owner=unbase64(owner, 32))
    recipient.key = unbase64(key, 1216 if kem == "x-wing" else 32)
    verify(recipient.owner, unbase64(signature, 64), b"pawl.recipient.v1\0" + signed.encode())
    return recipient


def identity_file(line: bytes, passphrase: bytes = b"") -> Identity:
    if line.startswith(b"pawl-identity:1,kdf=none,"):
        return Identity(unbase64(_match(_IDENTITY_PLAIN, line, "identity").group(1), 32))
    aad, memory, passes, lanes, salt, sealed = _match(_IDENTITY_SEALED, line, "identity").groups()
    m, t, p = int(memory), int(passes), int(lanes)
    need(m <= 4_194_304 and t <= 64 and p <= 16 and m >= 8 * p, "identity: parameters of argon2id")
    kdf = Argon2id(salt=unbase64(salt, 16), length=32, iterations=t, lanes=p, memory_cost=m)
    return Identity(open_gcm(kdf.derive(passphrase), unbase64(sealed, 48), aad.encode()))
