"""Lock libraries side by side: the part `peers` of run.py.

Lets all contenders take turns in short blocks, and prints what they did beside dlock.
"""

import os
import platform
import time
from collections import namedtuple
from statistics import median

from contenders import Unavailable, ours_beside, start, stop
from harness import Failed, line, spread


class Measurement:
    """Blocks of each contender that has not failed: one list a table."""

    def __init__(self, contenders):
        self.contenders = contenders

    def alive(self):
        return [contender for contender in self.contenders if contender.left_out is None]

    def block(self, contender, *request):
        """A block, or nothing where the contender fails: it is out from now on."""
        try:
            return contender.programs[0].block(contender.name, *request)
        except Unavailable as problem:
            contender.leave_out(problem)
            return None

    def rounds(self, mode, threads, milliseconds, rounds):
        """For each contender its blocks, in turns that begin with another contender each."""
        blocks = {contender: [] for contender in self.alive()}
        for contender in self.alive():
            self.block(contender, mode, threads, 150)
        for round_number in range(rounds):
            order = self.alive()
            first = round_number * len(order) // rounds
            for contender in order[first:] + order[:first]:
                if contender.left_out is None:
                    blocks[contender].append(self.block(contender, mode, threads, milliseconds))
        return {contender: list(found) for contender, found in blocks.items() if contender.left_out is None}


# --- the tables ---

# A table: what JSON calls it; its title; the requests, in so many rounds; aims: of which row's ratio, of what, the bound.
# Many short rounds, since the blocks of one round are compared. One lock takes longer blocks: some sleep for 250 ms.
Comparison = namedtuple("Comparison", "name title mode threads rounds milliseconds aims")
COMPARISONS = [
    Comparison("own-1", "One thread, a lock of its own", "own", 1, 9, 150,
               [("hiredis", "p50", "<=", 1.0), ("hiredis", "p99", "<=", 1.2)]),
    Comparison("own-8", "8 threads, each with a lock of its own", "own", 8, 9, 150,
               [("hiredis", "rate", ">=", 1.0)]),
    Comparison("own-64", "64 threads (goroutines, tasks), each with a lock of its own", "own", 64, 9, 150,
               [("hiredis", "rate", ">=", 1.8)]),
    Comparison("hot-16", "16 threads (goroutines, tasks) at one lock", "hot", 16, 5, 600, [("*", "rate", ">", 1.0)]),
]
MOST_APART = 1 / 10_000  # of all acquisitions: between the threads of dlock, and at least one


def figures(comparison, contender, blocks, ours):
    """A row: the medians of the rounds, and of the ratios of dlock's blocks `ours` to them."""
    row = {"contender": contender.name, "label": contender.label, "language": contender.language.name,
           "per_second": median(block.pairs for block in blocks) * 1000 / comparison.milliseconds}
    for field in ("p50_us", "p99_us", "longest_us", "least", "most"):
        row[field] = median(getattr(block, field) for block in blocks)
    row["apart"] = median(block.most - block.least for block in blocks)
    row["given_up"] = sum(block.given_up for block in blocks)
    row["rounds"] = [block._asdict() for block in blocks]
    if ours is not None:
        # Of the blocks of one round, since what else the machine does changes from round to round.
        by_round = {name: [getattr(mine, field) / max(getattr(block, field), 0.1) for mine, block in zip(ours, blocks)]
                    for name, field in (("rate", "pairs"), ("p50", "p50_us"), ("p99", "p99_us"), ("longest", "longest_us"))}
        row["ratio"] = {name: median(ratios) for name, ratios in by_round.items()}
        row["ratio"]["rates"] = by_round["rate"]
    row["aims"] = verdicts(comparison, row)
    return row


def verdicts(comparison, row):
    found = []
    for contender, what, sign, bound in comparison.aims:
        if "ratio" in row and (contender == row["contender"] or (contender == "*" and not row["contender"].startswith("dlock-"))):
            ratio = row["ratio"][what]
            met = ratio <= bound if sign == "<=" else ratio >= bound if sign == ">=" else ratio > bound
            found.append({"what": what, "sign": sign, "bound": bound, "met": met})
    if comparison.mode == "hot" and row["contender"] == "dlock":
        bound = max(1, round(sum(block["pairs"] for block in row["rounds"]) / len(row["rounds"]) * MOST_APART))
        found.append({"what": "most-least", "sign": "<=", "bound": bound, "met": row["apart"] <= bound})
    return found


def shown_aims(row):
    return ", ".join(f"{'' if aim['what'] == 'rate' else aim['what'] + ' '}{aim['sign']} "
                     f"{aim['bound']:{'.2f' if isinstance(aim['bound'], float) else 'd'}}{'' if aim['met'] else ' *'}"
                     for aim in row["aims"])


def show(comparison, rows):
    hot = comparison.mode == "hot"
    print(f"\n{comparison.title}: {len(rows[0]['rounds'])} rounds of blocks of {comparison.milliseconds} ms", flush=True)
    widths = (28, 10, 9, 9, 11, 18, 9, 9, 24) if not hot else (28, 10, 11, 13, 18, 13, 24)
    if hot:
        line(widths, "", "acquired/s", "longest ms", "least-most", "dlock / it", "longest", "aim")
    else:
        line(widths, "", "pairs/s", "p50 us", "p99 us", "longest ms", "dlock / it", "p50", "p99", "aim")
    for row in rows:
        ratio = row.get("ratio")
        low_high = spread(ratio["rates"]) if ratio else ""
        rate, longest = f"{row['per_second']:,.0f}", f"{row['longest_us'] / 1000:,.1f}"
        part = {name: f"{ratio[name]:.2f}" if ratio else "" for name in ("p50", "p99", "longest")}
        if hot:
            line(widths, row["label"], rate, longest, f"{row['least']:.0f}-{row['most']:.0f}", low_high, part["longest"],
                 shown_aims(row))
        else:
            line(widths, row["label"], rate, f"{row['p50_us']:,.1f}", f"{row['p99_us']:,.1f}", longest, low_high, part["p50"],
                 part["p99"], shown_aims(row))
    given_up = [f"{row['label']} {row['given_up']:.0f}" for row in rows if row["given_up"]]
    if given_up:
        print(f"waits of two seconds given up and begun again: {', '.join(given_up)}", flush=True)


def show_by_language(found):
    """What all tables together say of the peers that have a dlock in their own language."""
    print("\nPairs (acquisitions) a second: dlock's in the same language by the row's in the same round, median and middle half", flush=True)
    widths = (28, *[19] * len(found))
    line(widths, "", *[comparison.name for comparison, _ in found])
    for contender in found[-1][1]:
        ours = ours_beside(contender)
        if contender.name.startswith("dlock") or ours not in contender.language.contenders:
            continue
        cells = []
        for _, blocks in found:
            mine = next((theirs for other, theirs in blocks.items() if other.name == ours), ())
            cells.append(spread([own.pairs / max(its.pairs, 1) for own, its in zip(mine, blocks.get(contender, ()))]))
        line(widths, contender.label, *cells)


def measure(processes, port, server, setup, quick):
    """The part: prints the tables, and returns what peers.json is to have. Raises Failed where dlock itself cannot run."""
    print("\nLock libraries side by side: medians of the rounds; times of a pair (of a wait, where all want one lock). Ratios: "
          "dlock's\nfigure by the row's in the same round, their median, and in brackets their middle half (* = aim missed)", flush=True)
    load = os.getloadavg()[0]
    contenders, left_out = start(setup, processes, port)
    measurement = Measurement(contenders)
    if "dlock" not in [contender.name for contender in measurement.alive()]:
        raise Failed("dlock's own program does not run: " + left_out[0]["reason"])
    begun = time.monotonic()
    for contender in measurement.alive():
        measurement.block(contender, "own", 8, contender.language.warm_up_ms // (4 if quick else 1))
    tables, all_found = [], []
    for comparison in COMPARISONS:
        found = measurement.rounds(comparison.mode, comparison.threads, comparison.milliseconds, 3 if quick else comparison.rounds)
        rows = []
        ours = next((blocks for contender, blocks in found.items() if contender.name == "dlock"), None)
        if ours is None:
            raise Failed("dlock failed in a block")
        for contender, blocks in found.items():
            rows.append(figures(comparison, contender, blocks, None if blocks is ours else ours))
        show(comparison, rows)
        all_found.append((comparison, found))
        tables.append({"name": comparison.name, "title": comparison.title, "mode": comparison.mode,
                       "threads": comparison.threads, "block_ms": comparison.milliseconds, "rows": rows})
    show_by_language(all_found)
    left_out += [{"language": contender.language.name, "contenders": [contender.label], "reason": contender.left_out}
                 for contender in contenders if contender.left_out]
    report = {"server": server, "cores": os.cpu_count(), "machine": platform.machine(), "load_before": load,
              "seconds": round(time.monotonic() - begun, 1), "left_out": left_out, "tables": tables}
    stop(contenders)
    return report
