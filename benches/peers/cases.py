"""What each program does in turn, and the machine's limits beside it."""

import datetime
import json
import os
import shutil
import time

from . import compare
from .machine import MIB, Command, Failed, Scratch, run

GROUPS = ("limits", "tree", "many", "random", "image", "dump")
# Read, written or held by the larger cases; the others need little.
LARGE = 2560 * MIB
SMALL = 512 * MIB
# Repositories of earlier rounds stay while there is room: what is made right behind a removal is slow (machine.Scratch).
ROOM = 16 << 30
SETTLE_SECONDS = 330
SCRATCH_GIB = 6


class Runner:
    def __init__(self, bench, sets, out, unchanged):
        self.bench, self.sets, self.out, self.unchanged = bench, sets, out, unchanged
        self.restored = bench.work / "restored"
        self.restored.mkdir()
        self.scratches = []
        self.round = self.targets = 0
        self.sizes = {name: each.size()[1] for name, each in sets.items()}

    def target(self):
        self.targets += 1
        self.scratches.append(Scratch(self.restored, str(self.targets), SCRATCH_GIB))
        return self.scratches[-1].target

    def write(self, line):
        with open(self.out, "a") as out:
            out.write(json.dumps(line) + "\n")

    def record(self, program, case, result):
        now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        self.write({"program": program.name, "case": case, "round": self.round, "date": now, **result})
        if "wall" in result:
            sent, mark = result["wire"]["sent"] / MIB, result["client"]["largest"] / MIB
            print(f"{program.name:9} {case:40} {result['wall']:7.2f} s  cpu {result['cpu']:6.2f}  peak {mark:5.0f}  sent {sent:7.1f} MiB", flush=True)
        else:
            print(f"{program.name:9} {case:40} {result}", flush=True)

    def step(self, program, case, command, memory=SMALL):
        result = self.bench.measure(command, memory)
        if program.repository and program.repository.exists():
            result.update(rest=program.at_rest(), state=program.state(), data=self.sizes.get(case.split(",")[0], 0))
        self.record(program, case, result)

    def groups(self, program, wanted):
        for name in wanted:
            steps = getattr(self, name)
            if (name == "limits") != (program.name == "limit"):
                continue
            try:
                with self.bench.quiet():
                    program.fresh()
                    checks = steps(program) or []
                for check in checks:
                    check()
            except Failed as failed:
                self.record(program, name, {"failed": str(failed)})
            finally:
                while self.scratches:
                    self.scratches.pop().remove()

    def one_round(self, programs, wanted):
        self.round += 1
        self.room()
        turn = (self.round - 1) % len(programs)
        for name in wanted:
            for program in programs[turn:] + programs[:turn]:
                self.groups(program, [name])

    def room(self):
        """Removes what earlier rounds left, if the disk is too full for another one."""
        if shutil.disk_usage(self.bench.work).free > ROOM:
            return
        self.remove()
        time.sleep(SETTLE_SECONDS)

    def remove(self):
        while self.scratches:
            self.scratches.pop().remove()
        for folder in (self.bench.sink_home, self.bench.clients):
            for each in folder.iterdir():
                shutil.rmtree(each)

    def warm(self, path):
        run("bash", "-c", f"tar -cf - -C / '{str(path).lstrip('/')}' | cat > /dev/null")

    # ---- the groups: each begins with an empty repository

    def folder(self, program, name):
        """First backup, and some with nothing changed."""
        path = self.sets[name].source()
        self.warm(path)
        self.step(program, name, program.backup(path, 1), LARGE)
        for at in range(self.unchanged):
            program.last = 2 + at
            self.step(program, f"{name}, unchanged", program.backup(path, program.last))
        return path

    def back(self, program, name, path):
        """A restore, and what compares it once the machine need not be quiet."""
        target = self.target()
        self.step(program, f"{name}, restore", program.restore(path, target), LARGE)
        return lambda: self.compared(program, f"{name}, restore", compare.trees(path, program.restored(path, target)))

    def compared(self, program, case, differences):
        if differences.content():
            self.record(program, case, {"failed": f"what came back differs: {differences.text()}"})
        else:
            self.record(program, case, {"same": "content" if differences else "all", "differences": differences.text()})

    def tree(self, program):
        tree = self.sets["tree"]
        tree.first()
        path = self.folder(program, "tree")
        tree.later()
        self.warm(path)
        program.last += 1
        self.step(program, "tree, 1 % changed", program.backup(path, program.last))
        return [self.back(program, "tree", path)]

    def many(self, program):
        return [self.back(program, "many", self.folder(program, "many"))]

    def random(self, program):
        path = self.sets["random"].source()
        self.warm(path)
        self.step(program, "random", program.backup(path, 1), LARGE)

    def image(self, program):
        image = self.sets["image"]
        for number, state in enumerate(("first", "later"), 1):
            getattr(image, state)()
            self.warm(image.source())
            self.step(program, "image" if number == 1 else "image, 2 % changed", program.backup(image.source(), number), LARGE)
        image.first()

    def dump(self, program):
        dump = self.sets["dump"]
        for number, state in enumerate(("first", "later"), 1):
            getattr(dump, state)()
            self.warm(dump.source())
            program.last = number
            self.step(program, "dump" if number == 1 else "dump, later one", program.backup_stream(dump.source(), number), LARGE)
        source, target = dump.source(), self.target()
        dump.first()
        self.step(program, "dump, restore", program.stream(target), LARGE)
        return [lambda: self.compared(program, "dump, restore", compare.files(source, target))]

    # ---- what the machine can do without a backup program

    def limits(self, limit):
        ssh = "ssh -c aes256-gcm@openssh.com limit"
        self.archives(limit)

        def pipe(case, line, memory=SMALL):
            self.step(limit, case, Command(line), memory)

        for _ in range(5):
            pipe("empty ssh command", f"{ssh} nothing < /dev/null")
        for name in ("tree", "many"):
            self.sets[name].first()
            path = self.sets[name].source()
            self.warm(path)
            lists = self.halves(path)
            walks = " ".join(f"find -files0-from {half} -printf '%s' > /dev/null &" for half in lists)
            for _ in range(self.unchanged):
                pipe(f"{name}: lstat of all, two at a time", f"{walks} wait")
            pipe(f"{name}: tar", f"tar -C {path} -cf - . | cat > /dev/null")
            pipe(f"{name}: tar | ssh cat", f"tar -C {path} -cf - . | {ssh} nothing")
            pipe(f"{name}: tar | zstd -3 -T2 | ssh cat", f"tar -C {path} -cf - . | zstd -3 -T2 -q | {ssh} nothing", LARGE)
            target = self.target()
            pipe(f"{name}: ssh cat | zstd -d | tar x", f"mkdir {target} && {ssh} {name} | zstd -dcq | tar -C {target} -xpf -", LARGE)
        for name, path in (("random", self.sets["random"].path / "random.bin"), ("image", self.sets["image"].file), ("dump", self.sets["dump"].file)):
            self.warm(path)
            pipe(f"{name}: ssh cat", f"{ssh} nothing < {path}")
            pipe(f"{name}: zstd -3 -T2 | ssh cat", f"zstd -3 -T2 -q < {path} | {ssh} nothing", LARGE)
        pipe("dump: ssh cat | zstd -d", f"{ssh} dump | zstd -dcq > {self.target()}", LARGE)

    def archives(self, limit):
        """What `ssh limit NAME` sends."""
        for name in ("tree", "many", "dump"):
            kept = self.sets[name].data / f"{name}.zst"
            if not kept.exists():
                made = f"tar -C {self.sets[name].path} -cf - ." if name != "dump" else f"cat {self.sets[name].file}"
                run("bash", "-c", f"{made} | zstd -3 -T2 -q -f -o {kept}.new && mv {kept}.new {kept}")
            os.symlink(kept, limit.repository / name)

    def halves(self, path):
        """Two lists of starting points with as many entries below each. Large directories are split."""
        weights = {}

        def weigh(folder):
            with os.scandir(folder) as scan:
                entries = list(scan)
            weights[folder] = 1 + sum(weigh(entry.path) if entry.is_dir(follow_symlinks=False) else 1 for entry in entries)
            return weights[folder]

        largest = weigh(str(path)) // 32
        waiting, points = [str(path)], []
        while waiting:
            point = waiting.pop()
            if weights.get(point, 1) > largest:
                waiting += [entry.path for entry in os.scandir(point)]
            else:
                points.append(point)
        lists, sums = ([], []), [0, 0]
        for point in sorted(points, key=lambda point: -weights.get(point, 1)):
            half = sums.index(min(sums))
            lists[half].append(point)
            sums[half] += weights.get(point, 1)
        files = [self.bench.work / f"half-{half}" for half in (0, 1)]
        for file, half in zip(files, lists):
            file.write_bytes(b"".join(os.fsencode(point) + b"\0" for point in half))
        return files
