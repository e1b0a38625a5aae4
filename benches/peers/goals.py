"""What Pawl is held to on two cores, next to the fastest peer of each case in the same run."""

from .machine import MIB

# Wall seconds of Pawl over those of the fastest peer: at most.
WALL = {
    "tree": 0.65,
    "tree, unchanged": 0.6,
    "tree, 1 % changed": 0.5,
    "random": 0.5,
    "many": 0.6,
    "many, unchanged": 0.7,
    "image": 0.6,
    "image, 2 % changed": 0.6,
    "dump": 0.6,
    "dump, later one": 0.6,
    "tree, restore": 0.6,
    "dump, restore": 0.6,
}
# Bytes sent by Pawl over those of the peer that sends least: at most.
SENT = {"tree, 1 % changed": 1.0, "image, 2 % changed": 0.7, "dump, later one": 1.0}
# The last backup of each set: the repository is no larger than the smallest peer's.
REST = ("tree, 1 % changed", "many, unchanged", "random", "image, 2 % changed", "dump, later one")
AGENT_MIB, SINK_MIB, RESTORE_MIB = 150, 40, 500
STATE_SHARE = 0.001


class Goals:
    def __init__(self, results):
        """`results`: (program, case) → medians."""
        self.results, self.rows = results, []
        self.peers = sorted({program for program, _ in results} - {"pawl", "limit"})

    def smallest(self, case, key):
        found = [(self.results[peer, case][key], peer) for peer in self.peers if (peer, case) in self.results]
        return min(found, default=None)

    def row(self, case, what, value, limit, against):
        """At most `limit`."""
        self.rows.append({"case": case, "what": what, "value": value, "limit": limit, "against": against, "met": value <= limit})

    def ratio(self, case, what, key, limit):
        pawl, peer = self.results.get(("pawl", case)), self.smallest(case, key)
        if pawl and peer and peer[0]:
            self.row(case, f"{what} / {peer[1]}'s", pawl[key] / peer[0], limit, f"{shown(key, pawl[key])} / {shown(key, peer[0])}")

    def limit(self, case, what, factor, *names):
        """Wall seconds of Pawl over what the machine needs for the same without a backup program. Of several the first is
        taken once, the last `factor` times."""
        pawl, bounds = self.results.get(("pawl", case)), [self.results.get(("limit", name)) for name in names]
        if pawl and all(bounds):
            bound = sum(bound["wall"] for bound in bounds[:-1]) + factor * bounds[-1]["wall"]
            self.row(case, what, pawl["wall"] / bound, 1.0, f"{pawl['wall']:.2f} s / {bound:.2f} s")

    def all(self):
        for case, limit in WALL.items():
            self.ratio(case, "wall", "wall", limit)
        self.ratio("tree", "CPU of both ends", "cpu", 0.8)
        self.limit("tree", "wall / tar, zstd -3 -T2, ssh cat", 1.0, "tree: tar | zstd -3 -T2 | ssh cat")
        self.limit("tree, unchanged", "wall / (empty ssh command + 1.5 × lstat of all)", 1.5, "empty ssh command", "tree: lstat of all, two at a time")
        self.limit("random", "wall / (ssh cat / 60 %)", 1 / 0.6, "random: ssh cat")
        self.limit("tree, restore", "wall / (1.3 × ssh cat, zstd -d, tar x)", 1.3, "tree: ssh cat | zstd -d | tar x")
        self.limit("dump, restore", "wall / (1.3 × ssh cat, zstd -d)", 1.3, "dump: ssh cat | zstd -d")
        for case, limit in SENT.items():
            self.ratio(case, "bytes sent", "sent", limit)
        for case in REST:
            self.ratio(case, "bytes at rest", "rest", 1.0)
        self.memory()
        return self.rows

    def memory(self):
        mine = {case: result for (program, case), result in self.results.items() if program == "pawl"}
        backups = {case: result for case, result in mine.items() if not case.endswith("restore")}
        for name, cases, key, limit in (
            ("agent, MiB", backups, "client_largest", AGENT_MIB),
            ("sink, all processes of a session, MiB", mine, "sink_sum", SINK_MIB),
            ("restore, MiB", {case: result for case, result in mine.items() if case not in backups}, "client_largest", RESTORE_MIB),
        ):
            if cases:
                case = max(cases, key=lambda case: cases[case][key])
                self.row(case, name, cases[case][key] / MIB, limit, "the largest of all cases")
        if "tree, 1 % changed" in mine:
            # Of what the sink holds: the data's size is at least that.
            result = mine["tree, 1 % changed"]
            self.row("tree, 1 % changed", "state on the source / data", result["state"] / result["data"], STATE_SHARE, f"{result['state'] / MIB:.1f} MiB") if result.get("data") else None


def shown(key, value):
    return f"{value:.2f} s" if key in ("wall", "cpu") else f"{value / MIB:.1f} MiB"
