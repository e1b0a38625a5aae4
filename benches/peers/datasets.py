"""What is backed up. Made once from a seed and this machine's own files, and kept.

tree    copies of files below /usr; later: 1 % of them edited, 0.5 % renamed, deleted and added, two directories moved
many    text files of 100 bytes to 2 KiB
random  one incompressible file
image   an ext4 image, half of it allocated; later: 2 % of its 4 KiB blocks overwritten, in runs of 1 to 64
dump    a text like that of mysqldump; later: 300 small edits and 4 MiB more in the middle

`tree` and `image` become their later state in place: what does not change keeps its inode and its times, as on a real
machine. `first()` undoes it.
"""

import json
import os
import random
import shutil
import subprocess
from pathlib import Path

MIB = 1 << 20
BLOCK = 4096
WORDS = (
    "the of and to in is that for it as was with be by on not he his but at are this have from or had an they which one you "
    "were her all she there would their we him been has when who will more no if out so said what up its about into than them "
    "can only other new some could time these two may then do first backup snapshot error warning config value key server "
    "client request response timeout retry buffer"
).split()


def text(numbers, size):
    """Words, with a number at each line's end: compresses about as prose does."""
    lines, total = [], 0
    while total < size:
        line = " ".join(numbers.choices(WORDS, k=12)) + f" {numbers.getrandbits(32):08x}\n"
        lines.append(line)
        total += len(line)
    return "".join(lines).encode()[:size]


def regular(root):
    """Relative paths of all regular files, in an order that does not depend on the file system."""
    found = []
    for folder, folders, names in os.walk(root):
        folders.sort()
        found += [os.path.relpath(os.path.join(folder, name), root) for name in sorted(names)]
    return [path for path in found if not os.path.islink(os.path.join(root, path))]


class Set:
    """A data set in `data/NAME`. `data/NAME.state` says what lies there: first, later, or (after a crash) neither."""

    def __init__(self, data, name):
        self.data, self.name = data, name
        self.path = data / name
        self.state_file = data / f"{name}.state"

    @property
    def state(self):
        return self.state_file.read_text() if self.state_file.exists() else "none"

    def prepare(self):
        if self.state in ("first", "later"):
            return
        shutil.rmtree(self.path, ignore_errors=True)
        self.path.mkdir(parents=True)
        print(f"data set {self.name}: being made", flush=True)
        self.make()
        self.state_file.write_text("first")

    def become(self, wanted, change):
        if self.state == wanted:
            return
        self.state_file.write_text("neither")
        change()
        self.state_file.write_text(wanted)

    def first(self):
        self.become("first", self.undo)

    def later(self):
        self.become("later", self.change)

    def change(self):
        """From the first state to the later one, for sets that have one."""

    def undo(self):
        """And back."""

    def source(self):
        """What a program is told to back up."""
        return self.path

    def size(self):
        """Files and bytes of what is backed up, as it lies there now."""
        files = regular(self.path)
        return len(files), sum((self.path / path).stat().st_size for path in files)

    def describe(self):
        files, size = self.size()
        return f"{files:,} files, {size / MIB:,.0f} MiB"


class Tree(Set):
    SOURCES = ("/usr/share", "/usr/lib/python3", "/usr/lib/gcc", "/usr/lib/x86_64-linux-gnu", "/usr/bin", "/usr/lib")

    def __init__(self, data, mib):
        super().__init__(data, "tree")
        self.bytes_max = mib * MIB
        self.aside = data / "tree.aside"
        self.plan_file = data / "tree.plan.json"

    def make(self):
        total = 0
        for source in self.SOURCES:
            for folder, folders, names in os.walk(source):
                folders[:] = sorted(name for name in folders if name != "__pycache__")
                if total > self.bytes_max:
                    break
                copy = self.path / folder.lstrip("/")
                copy.mkdir(parents=True, exist_ok=True)
                for name in sorted(names):
                    total += self.copy(Path(folder, name), copy / name)
        self.plan()

    def copy(self, path, copy):
        if os.path.lexists(copy):
            return 0
        if path.is_symlink():
            copy.symlink_to(os.readlink(path))
        elif path.is_file():
            shutil.copy2(path, copy)
            return path.stat().st_size
        return 0

    def plan(self):
        """Chooses what will change, and puts the edited and the added files aside."""
        numbers = random.Random(20240607)
        files = regular(self.path)
        count = len(files)
        picked = numbers.sample(files, count * 25 // 1000)
        edited, renamed = picked[: count // 100], picked[count // 100 : count * 15 // 1000]
        deleted, like = picked[count * 15 // 1000 : count * 20 // 1000], picked[count * 20 // 1000 :]
        shutil.rmtree(self.aside, ignore_errors=True)
        self.aside.mkdir()
        for at, path in enumerate(edited):
            self.edit(numbers, path, self.aside / f"edited-{at}", at)
        for at, path in enumerate(like):
            size = min((self.path / path).stat().st_size, 4 * MIB)
            (self.aside / f"added-{at}").write_bytes(text(numbers, size))
        folders = []
        for folder, inner, _ in os.walk(self.path):
            inner.sort()
            if 200 <= sum(len(names) for _, _, names in os.walk(folder)) <= 2000:
                folders.append(os.path.relpath(folder, self.path))
                inner.clear()
        moved = numbers.sample(folders, min(2, len(folders)))
        times = {os.path.relpath(folder, self.path): os.stat(folder).st_mtime_ns for folder, _, _ in os.walk(self.path)}
        plan = {"edited": edited, "renamed": renamed, "deleted": deleted, "added": len(like), "moved": moved, "times": times}
        self.plan_file.write_text(json.dumps(plan))

    def edit(self, numbers, path, copy, at):
        """In the middle: every second file gets bytes inserted, the others have them overwritten."""
        old = (self.path / path).read_bytes()
        middle, new = len(old) // 2, numbers.randbytes(numbers.randint(10, 400))
        if at % 2 == 0:
            new = new[: max(1, len(old) - middle)]
        copy.write_bytes(old[:middle] + new + old[middle + (len(new) if at % 2 == 0 else 0) :])
        copy.chmod((self.path / path).stat().st_mode & 0o7777)

    def swap(self, plan):
        for at, path in enumerate(plan["edited"]):
            (self.path / path).rename(self.aside / "other")
            (self.aside / f"edited-{at}").rename(self.path / path)
            (self.aside / "other").rename(self.aside / f"edited-{at}")

    def moves(self, plan):
        """From and to, in the order in which they are done."""
        pairs = [(self.path / path, self.aside / f"deleted-{at}") for at, path in enumerate(plan["deleted"])]
        pairs += [(self.aside / f"added-{at}", self.path / "new-files" / f"n{at:05}.txt") for at in range(plan["added"])]
        pairs += [(self.path / path, self.path / f"{path}.renamed-{at}") for at, path in enumerate(plan["renamed"])]
        return pairs + [(self.path / path, self.path / f"moved-{at}") for at, path in enumerate(plan["moved"])]

    def change(self):
        plan = json.loads(self.plan_file.read_text())
        self.swap(plan)
        (self.path / "new-files").mkdir(exist_ok=True)
        for source, target in self.moves(plan):
            source.rename(target)

    def undo(self):
        plan = json.loads(self.plan_file.read_text())
        for source, target in reversed(self.moves(plan)):
            target.rename(source)
        (self.path / "new-files").rmdir()
        self.swap(plan)
        for folder, time in plan["times"].items():
            os.utime(self.path / folder, ns=(time, time))


class Many(Set):
    def __init__(self, data, count):
        super().__init__(data, "many")
        self.count = count

    def make(self):
        numbers = random.Random(99)
        for at in range(self.count):
            folder = self.path / f"{at // 3200:03}" / f"{at // 100:04}"
            if at % 100 == 0:
                folder.mkdir(parents=True)
            file = folder / f"f{at:06}.txt"
            file.write_bytes(text(numbers, numbers.randint(100, 2000)))
            os.utime(file, (1_700_000_000 + at, 1_700_000_000 + at))


class Random(Set):
    def __init__(self, data, mib):
        super().__init__(data, "random")
        self.mib = mib

    def make(self):
        numbers = random.Random(4711)
        with open(self.path / "random.bin", "wb") as out:
            for _ in range(self.mib):
                out.write(numbers.randbytes(MIB))


class Image(Set):
    def __init__(self, data, mib, tree):
        super().__init__(data, "image")
        self.mib, self.tree = mib, tree
        self.file, self.aside = self.path / "disk.img", data / "image.aside"

    def source(self):
        return self.file

    def make(self):
        content = self.data / "image.content"
        shutil.rmtree(content, ignore_errors=True)
        total = 0
        for path in reversed(regular(self.tree.path)):
            if total > self.mib * MIB // 2:
                break
            (content / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(self.tree.path / path, content / path)
            total += (content / path).stat().st_size
        uuid = "11111111-2222-3333-4444-555555555555"
        words = ["mke2fs", "-q", "-F", "-t", "ext4", "-b", str(BLOCK), "-U", uuid, "-E", f"hash_seed={uuid},nodiscard", "-d"]
        fixed = dict(os.environ, E2FSPROGS_FAKE_TIME="1700000000")
        subprocess.run([*words, content, self.file, f"{self.mib}M"], check=True, env=fixed, stdout=subprocess.DEVNULL)
        shutil.rmtree(content)
        subprocess.run(["cp", "--sparse=always", self.file, self.aside], check=True)
        self.overwrite()

    def overwrite(self):
        numbers = random.Random(777)
        blocks = self.aside.stat().st_size // BLOCK
        left = blocks // 50
        with open(self.aside, "r+b") as out:
            while left > 0:
                count = min(numbers.randint(1, 64), left)
                out.seek(numbers.randrange(blocks - count) * BLOCK)
                out.write(numbers.randbytes(count * BLOCK // 2) + text(numbers, count * BLOCK // 2))
                left -= count

    def swap(self):
        other = self.data / "image.other"
        self.file.rename(other)
        self.aside.rename(self.file)
        other.rename(self.aside)

    change = undo = swap

    def describe(self):
        stat = self.file.stat()
        return f"{stat.st_size / MIB:,.0f} MiB, {stat.st_blocks * 512 / MIB:,.0f} MiB allocated"


class Dump(Set):
    def __init__(self, data, mib):
        super().__init__(data, "dump")
        self.bytes = mib * MIB
        self.file, self.later_file = self.path / "dump.sql", self.path / "later.sql"

    def source(self):
        return self.later_file if self.state == "later" else self.file

    def size(self):
        return 1, self.source().stat().st_size

    def make(self):
        numbers = random.Random(4242)
        phrases = [" ".join(numbers.choices(WORDS, k=numbers.randint(3, 14))) for _ in range(5000)]
        at, table, total = 1, 0, 0
        with open(self.file, "wb", buffering=MIB) as out:
            while total < self.bytes:
                name, table = f"t{table % 12:02}_{table}", table + 1
                total += out.write(
                    f"--\n-- Table structure for table `{name}`\n--\nCREATE TABLE `{name}` (`id` int, `who` varchar(40), "
                    f"`amount` decimal(10,2), `note` text, `token` char(32));\n".encode()
                )
                for _ in range(40):
                    rows = []
                    for at in range(at, at + 500):
                        bits = numbers.getrandbits(128)
                        who, whole, cents, note = bits % 90000, (bits >> 20) % 100000, (bits >> 40) % 100, phrases[(bits >> 60) % 5000]
                        rows.append(f"({at},'user{who}@example.org',{whole}.{cents:02},'{note}','{bits:032x}')")
                    at += 1
                    total += out.write(f"INSERT INTO `{name}` VALUES {','.join(rows)};\n".encode())
            out.truncate(self.bytes)
        self.edit()

    def edit(self):
        """Text inserted, replaced and removed in turn at 300 places; 4 MiB more in the middle."""
        numbers = random.Random(4343)
        middle = self.bytes // 2
        places = sorted([numbers.randrange(self.bytes // 20, self.bytes - MIB) for _ in range(300)] + [middle])
        with open(self.file, "rb") as old, open(self.later_file, "wb", buffering=MIB) as new:
            for at, place in enumerate(places):
                while old.tell() < place:
                    new.write(old.read(min(MIB, place - old.tell())))
                if place == middle:
                    new.write(text(numbers, 4 * MIB))
                elif at % 3 == 0:
                    new.write(text(numbers, numbers.randint(50, 500)))
                elif at % 3 == 1:
                    new.write(text(numbers, len(old.read(100))))
                else:
                    old.read(numbers.randint(50, 500))
            shutil.copyfileobj(old, new, MIB)


def prepare(data, tree_mib=1700, many=100_000, random_mib=1024, image_mib=2048, dump_mib=1024):
    """All sets by name, each in its first state."""
    data.mkdir(parents=True, exist_ok=True)
    tree = Tree(data, tree_mib)
    sets = [tree, Many(data, many), Random(data, random_mib), Image(data, image_mib, tree), Dump(data, dump_mib)]
    for each in sets:
        each.prepare()
        each.first()
    return {each.name: each for each in sets}
