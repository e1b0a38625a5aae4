"""A restore next to its source: what came back, and which attributes of it."""

import filecmp
import os
import stat

KINDS = ("missing", "extra", "kind", "content", "target", "mode", "owner", "mtime", "xattrs", "links")
# Without these nothing was restored.
CONTENT = ("missing", "extra", "kind", "content", "target")


class Differences(dict):
    def add(self, kind, path):
        self.setdefault(kind, []).append(path)

    def content(self):
        return {kind: paths for kind, paths in self.items() if kind in CONTENT}

    def text(self):
        """`mtime 3 (usr/share, …)`, one kind after the other."""
        return "; ".join(f"{kind} {len(self[kind])} ({', '.join(self[kind][:2])}{', …' if len(self[kind]) > 2 else ''})" for kind in KINDS if kind in self)


def entries(root):
    """Relative path → lstat, of everything below."""
    found, waiting = {}, [""]
    while waiting:
        folder = waiting.pop()
        with os.scandir(os.path.join(root, folder)) as scan:
            for entry in scan:
                path = os.path.join(folder, entry.name)
                found[path] = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(found[path].st_mode):
                    waiting.append(path)
    return found


def attributes(path):
    return {name: os.getxattr(path, name, follow_symlinks=False) for name in os.listxattr(path, follow_symlinks=False)}


def groups(found):
    """The names of each file that has several."""
    names = {}
    for path, is_ in found.items():
        if not stat.S_ISDIR(is_.st_mode) and is_.st_nlink > 1:
            names.setdefault((is_.st_dev, is_.st_ino), set()).add(path)
    return {frozenset(paths) for paths in names.values() if len(paths) > 1}


def trees(source, restored):
    found = Differences()
    before, after = entries(source), entries(restored)
    for path in sorted(before.keys() - after.keys()):
        found.add("missing", path)
    for path in sorted(after.keys() - before.keys()):
        found.add("extra", path)
    for path in sorted(before.keys() & after.keys()):
        one(found, path, (os.path.join(source, path), before[path]), (os.path.join(restored, path), after[path]))
    for names in groups(before) ^ groups(after):
        found.add("links", sorted(names)[0])
    return found


def one(found, path, source, restored):
    (old_path, old), (new_path, new) = source, restored
    if stat.S_IFMT(old.st_mode) != stat.S_IFMT(new.st_mode):
        found.add("kind", path)
        return
    if stat.S_ISREG(old.st_mode) and not filecmp.cmp(old_path, new_path, shallow=False):
        found.add("content", path)
    if stat.S_ISLNK(old.st_mode):
        if os.readlink(old_path) != os.readlink(new_path):
            found.add("target", path)
    elif stat.S_IMODE(old.st_mode) != stat.S_IMODE(new.st_mode):
        found.add("mode", path)
    if (old.st_uid, old.st_gid) != (new.st_uid, new.st_gid):
        found.add("owner", path)
    if old.st_mtime_ns != new.st_mtime_ns:
        found.add("mtime", path)
    if attributes(old_path) != attributes(new_path):
        found.add("xattrs", path)


def files(source, restored):
    found = Differences()
    if not filecmp.cmp(source, restored, shallow=False):
        found.add("content", str(source))
    return found
