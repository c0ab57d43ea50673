"""The plots of docs/performance.md, from what `make bench` measured. Run by curves.py with the Python of target/bench/venv.

    plots.py <measurements.json> <directory>

Knows names and units of what run.py keeps, and nothing of how it was measured. Prints the files that it wrote.
"""

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot
from matplotlib.ticker import FuncFormatter

matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "dlock", "font.family": "sans-serif", "font.size": 9,
                            "axes.grid": True, "grid.alpha": 0.3, "axes.spines.top": False, "axes.spines.right": False,
                            "figure.constrained_layout.use": True, "legend.frameon": False})
OURS, PEER, LIMIT = "#1f5fa8", "#c8641e", "#7a7a7a"
PLAIN = FuncFormatter(lambda value, _: f"{value:,.10g}")


def save(figure, directory, name):
    figure.savefig(directory / f"{name}.svg", metadata={"Date": None, "Creator": None})
    pyplot.close(figure)
    print(directory / f"{name}.svg")


def points_of(found, part):
    """What was measured for each number, in order; JSON has made texts of the numbers."""
    points = sorted((int(count), values) for count, values in found[part].items())
    return [count for count, _ in points], [values for _, values in points]


def logarithmic(axis, base=10):
    getattr(axis.axes, f"set_{axis.axis_name}scale")("log", base=base)
    axis.set_major_formatter(PLAIN)
    if base == 2:
        axis.set_minor_formatter(FuncFormatter(lambda *_: ""))


def distributions(panel, values, lines):
    for name, label, color in lines:
        times = values.get(f"distribution_{name}")
        if times:
            panel.plot(times, [i * 100 / (len(times) - 1) for i in range(len(times))], label=label, color=color)
    logarithmic(panel.xaxis)
    panel.set(xlabel="time (µs)", ylabel="share that took no longer (%)", ylim=(0, 100))
    panel.legend(loc="lower right")


def latency(found, directory):
    """How the times of a pair, and of a hand-off, are distributed."""
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.6))
    peer = found["pair"].get("peer", "peer")
    left.set_title("acquire + release, nobody contends")
    distributions(left, found["pair"], [("pings", f"limit: two PINGs by {peer}", LIMIT),
                                        ("classic", f"{peer}: SET NX PX, script", PEER), ("dlock", "dlock", OURS)])
    right.set_title("hand-off between two processes")
    distributions(right, found["handoff"], [("floor", "limit: EVAL to socket readable", LIMIT), ("dlock", "dlock", OURS)])
    save(figure, directory, "latency")


def threads(found, directory):
    """Pairs a second against the number of threads."""
    counts, values = points_of(found, "threads")
    figure, panel = pyplot.subplots(figsize=(6.4, 3.6))
    panel.plot(counts, [each["classic_per_second"] for each in values], marker="o", markersize=4, color=PEER,
               label=f"{values[0]['peer']}, a connection for each thread")
    panel.plot(counts, [each["dlock_per_second"] for each in values], marker="o", markersize=4, color=OURS, label="dlock, one locker")
    logarithmic(panel.xaxis, base=2)
    panel.yaxis.set_major_formatter(PLAIN)
    panel.set(xlabel="threads, each with a lock of its own", ylabel="acquire + release (pairs/s)", ylim=(0, None), xticks=counts)
    panel.legend()
    save(figure, directory, "threads")


def costs(found, directory, part, what, panels):
    """Some costs of one part against how many there are."""
    counts, values = points_of(found, part)
    figure, axes = pyplot.subplots(1, len(panels), figsize=(3.4 * len(panels), 3.2))
    for panel, (label, figures, aim, base) in zip(axes, panels):
        shown = [(count, figures(count, each)) for count, each in zip(counts, values)]
        panel.plot(*zip(*shown), marker="o", markersize=4, color=OURS, label="dlock")
        logarithmic(panel.xaxis)
        if base:
            logarithmic(panel.yaxis, base)
        else:
            panel.set_ylim(0, None)
            panel.yaxis.set_major_formatter(PLAIN)
        panel.set_xticks(counts)
        panel.tick_params(axis="x", labelrotation=45)
        if aim:
            text, limit = aim
            panel.plot(counts, [limit(count) for count in counts], color=LIMIT, linestyle="--", linewidth=1, label=f"aim: {text}")
            panel.legend()
        panel.set(xlabel=what, ylabel=label)
    save(figure, directory, part)


def waiters(found, directory):
    costs(found, directory, "waiters", "waiters for one lock, one process",
          [("commands of all together (1/s)", lambda _, each: each["requests_per_second"], ("at most 500", lambda _: 500), None),
           ("memory of all together, resident (MB)", lambda count, each: max(each["rss_per_waiter"] * count / 1e6, 0.01),
            ("1,024 bytes each", lambda count: count * 1024 / 1e6), 10),
           ("time until all are served (ms)", lambda _, each: max(each["serving_seconds"] * 1000, 0.01), None, 10)])


def held(found, directory):
    costs(found, directory, "held", "locks held, one process",
          [("CPU of the client (% of one core)", lambda _, each: max(each["cpu_percent"], 0.001), ("at most 2", lambda _: 2), 10),
           ("renewals of all together (1/s)", lambda _, each: max(each["renewals_per_second"], 0.01), None, 10),
           ("renewals in one read of the server", lambda _, each: each["renewals_per_read"], None, None)])


def timeline(found, directory):
    """Who holds a contended lock, over some milliseconds."""
    figure, panels = pyplot.subplots(2, 1, sharex=True, figsize=(9, 4))
    for panel, name, title, color in ((panels[0], "dlock", "dlock", OURS),
                                      (panels[1], "polling", "the classic lock, asked for every 10 ms", PEER)):
        holds = found["timeline"][name]
        for thread in sorted({int(thread) for thread, _, _ in holds}):
            bars = [(begin / 1000, (end - begin) / 1000) for holder, begin, end in holds if int(holder) == thread]
            panel.broken_barh(bars, (thread + 0.6, 0.8), color=color)
        count = 1 + max(int(thread) for both in found["timeline"].values() for thread, _, _ in both)
        panel.set(title=title, ylabel="thread that holds", yticks=range(1, count + 1), ylim=(count + 0.6, 0.4))
    panels[-1].set(xlabel="time (ms)", xlim=(0, None))
    save(figure, directory, "timeline")


def main():
    found, directory = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), Path(sys.argv[2])
    directory.mkdir(parents=True, exist_ok=True)
    for draw, needs in ((latency, ("pair", "handoff")), (threads, ("threads",)), (waiters, ("waiters",)), (held, ("held",)),
                        (timeline, ("timeline",))):
        if all(found.get(part) for part in needs):
            draw(found, directory)


if __name__ == "__main__":
    main()
