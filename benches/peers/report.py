"""Tables of what was measured: medians, each with its ratio to Pawl's."""

import json
import statistics

from . import goals
from .machine import MIB


def read(path):
    with open(path) as lines:
        return [json.loads(line) for line in lines if line.strip()]


def flat(record):
    return {
        "wall": record["wall"], "cpu": record["cpu"], "cpu_client": record["cpu_client"], "cpu_sink": record["cpu_sink"],
        "client_largest": record["client"]["largest"], "client_sum": record["client"]["sum"],
        "sink_largest": record["sink"]["largest"], "sink_sum": record["sink"]["sum"],
        "sent": record["wire"]["sent"], "received": record["wire"]["received"],
        "rest": record.get("rest", {}).get("bytes", 0), "allocated": record.get("rest", {}).get("allocated", 0),
        "state": record.get("state", {}).get("allocated", 0), "data": record.get("data", 0),
    }


def medians(records):
    """(program, case) → its figures; `walls` are all wall seconds."""
    groups = {}
    for record in records:
        if "wall" in record:
            groups.setdefault((record["program"], record["case"]), []).append(flat(record))
    found = {}
    for key, runs in groups.items():
        found[key] = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
        found[key]["walls"] = [run["wall"] for run in runs]
    return found


def cell(name, value, own, text):
    """A figure and how many times Pawl's it is."""
    if name == "pawl" or not own:
        return text
    return f"{text} ({value / own:.2f})" if value / own < 9.995 else f"{text} ({value / own:.0f})"


def mib(value):
    return f"{value / MIB:.0f}" if value >= 100 * MIB else f"{value / MIB:.1f}" if value >= MIB else f"{value / MIB:.3f}"


def cases_table(results, names, cases):
    head = "| case | program | wall s | CPU s, both ends | of it client + sink | peak MiB, client: largest / sum | sink: largest / sum | sent MiB | received MiB | at rest MiB | allocated | state of the source MiB |"
    lines = [head, "|---" * head.count(" |") + "|"]
    for case in cases:
        own = results.get(("pawl", case), {})
        for name in names:
            figures = results.get((name, case))
            if figures is None:
                continue
            walls = figures["walls"]
            spread = f" [{min(walls):.2f}–{max(walls):.2f}]" if len(walls) > 1 else ""
            row = [
                case, name, cell(name, figures["wall"], own.get("wall"), f"{figures['wall']:.2f}") + spread,
                cell(name, figures["cpu"], own.get("cpu"), f"{figures['cpu']:.2f}"),
                f"{figures['cpu_client']:.1f} + {figures['cpu_sink']:.1f}",
                f"{mib(figures['client_largest'])} / {mib(figures['client_sum'])}",
                f"{mib(figures['sink_largest'])} / {mib(figures['sink_sum'])}",
                cell(name, figures["sent"], own.get("sent"), mib(figures["sent"])), mib(figures["received"]),
                cell(name, figures["rest"], own.get("rest"), mib(figures["rest"])), mib(figures["allocated"]), mib(figures["state"]),
            ]
            lines.append("| " + " | ".join(row) + " |")
    return lines


def limits_table(results):
    lines = ["| what | wall s | CPU s, both ends | sent MiB |", "|---|---|---|---|"]
    for (name, case), figures in results.items():
        if name == "limit":
            shown = case.replace("|", "\\|")
            lines.append(f"| {shown} | {figures['wall']:.2f} [{min(figures['walls']):.2f}–{max(figures['walls']):.2f}] | {figures['cpu']:.2f} | {mib(figures['sent'])} |")
    return lines


def goals_table(results):
    lines = ["| case | what | at most | is | figures | |", "|---|---|---|---|---|---|"]
    for row in goals.Goals(results).all():
        met = "met" if row["met"] else "**missed**"
        near = abs(row["value"] - row["limit"]) < 0.01 * row["limit"] or row["limit"] < 0.01
        value = f"{row['value']:.4f}" if near else f"{row['value']:.2f}"
        lines.append(f"| {row['case']} | {row['what']} | {row['limit']:g} | {value} | {row['against']} | {met} |")
    return lines


def notes(records):
    """Failures, and what restores did not bring back."""
    lines = {}
    for record in records:
        if "failed" in record:
            lines[f"- {record['program']}, {record['case']}: FAILED: {record['failed'].strip()[-600:]}"] = None
        elif record.get("same") == "content":
            lines[f"- {record['program']}, {record['case']}: content the same; not as in the source: {record['differences']}"] = None
        elif record.get("same") == "all":
            lines[f"- {record['program']}, {record['case']}: content and metadata the same"] = None
    return list(lines)


def markdown(records, order):
    results = medians(records)
    head = next((record["head"] for record in reversed(records) if "head" in record), [])
    cases = [case for (name, case) in results if name == "pawl"] or sorted({case for name, case in results if name != "limit"})
    parts = [head, cases_table(results, order, cases)]
    for title, lines in (("The machine without a backup program", limits_table(results)), ("Goals", goals_table(results)), ("Restores", notes(records))):
        parts.append([f"{title}:", "", *lines])
    return "\n\n".join("\n".join(part) for part in parts if part) + "\n"


def plain(text):
    """The same tables with aligned columns, for a terminal."""
    lines, table = [], []
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            table.append([word.strip().replace("\\", "") for word in line.replace("\\|", "\0").strip("|").split("|")])
            continue
        if table:
            widths = [max(len(row[at]) for row in table) for at in range(len(table[0]))]
            lines += ["  ".join(word.replace("\0", "|").ljust(width) for word, width in zip(row, widths)).rstrip() for row in table if not row[0].startswith("---")]
            table = []
        lines.append(line)
    return "\n".join(lines)
