"""The plots of docs/performance.md, from what `make bench` measured. Run by run.py with the Python of target/bench/venv.

    plots.py <measurements.json> <directory>

Knows names and units of what run.py writes, and nothing of how it was measured.
"""

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot

matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "dlock", "font.size": 9, "axes.grid": True,
                            "grid.alpha": 0.3, "figure.figsize": (6.4, 3.6), "figure.constrained_layout.use": True})


def save(figure, directory, name):
    figure.savefig(directory / f"{name}.svg", metadata={"Date": None})
    pyplot.close(figure)


def latency(found, directory):
    """How the times of a pair, and of a hand-off, are distributed."""
    figure, panels = pyplot.subplots(1, 2, figsize=(9, 3.6))
    shown = [("pair", panels[0], "acquire + release, nobody contends", [("dlock", "dlock"), ("classic", "hiredis, SET NX + script"),
                                                                        ("pings", "limit: two PINGs")]),
             ("handoff", panels[1], "hand-off between two processes", [("dlock", "dlock"), ("floor", "limit: EVAL to socket readable")])]
    for part, panel, title, lines in shown:
        for name, label in lines:
            values = found.get(part, {}).get(f"distribution_{name}")
            if values:
                panel.plot(values, [i / (len(values) - 1) * 100 for i in range(len(values))], label=label)
        panel.set(title=title, xlabel="time (µs)", ylabel="share that took no longer (%)", xscale="log")
        panel.legend(loc="lower right")
    save(figure, directory, "latency")


def threads(found, directory):
    """Pairs a second against the number of threads."""
    points = sorted((int(count), values) for count, values in found["threads"].items())
    figure, panel = pyplot.subplots()
    for name, label in (("dlock_per_second", "dlock, at most 4 connections"),
                        ("classic_per_second", "hiredis, a connection for each thread")):
        panel.plot([count for count, _ in points], [values[name] for _, values in points], marker="o", label=label)
    panel.set(xlabel="threads, each with a lock of its own", ylabel="pairs a second", xscale="log", ylim=(0, None))
    panel.set_xscale("log", base=2)
    panel.legend()
    save(figure, directory, "threads")


def waiters(found, directory):
    """What waiting costs, against the number of those who wait."""
    points = sorted((int(count), values) for count, values in found["waiters"].items())
    counts = [count for count, _ in points]
    figure, panels = pyplot.subplots(1, 3, figsize=(10, 3.4))
    for panel, name, label, scale in ((panels[0], "requests_per_second", "commands a second, in all", 1),
                                      (panels[1], "rss_per_waiter", "resident memory of each (bytes)", 1),
                                      (panels[2], "serving_seconds", "time until all were served, each (µs)", None)):
        values = [values[name] if scale else values[name] / count * 1e6 for count, values in points]
        panel.plot(counts, values, marker="o")
        panel.set(xlabel="waiters for one lock, one process", ylabel=label, xscale="log", ylim=(0, None))
    save(figure, directory, "waiters")


def timeline(found, directory):
    """Who holds a contended lock, over some milliseconds."""
    figure, panels = pyplot.subplots(2, 1, sharex=True, figsize=(8, 4))
    for panel, (name, title) in zip(panels, (("dlock", "dlock"), ("polling", "the classic lock, asked for every 10 ms"))):
        for thread, begin, end in found["timeline"][name]:
            panel.barh(thread, (end - begin) / 1000, left=begin / 1000, height=0.8, color=f"C{int(thread)}")
        panel.set(title=title, ylabel="thread holds")
    panels[-1].set(xlabel="time (ms)")
    save(figure, directory, "timeline")


def main():
    found, directory = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), Path(sys.argv[2])
    directory.mkdir(parents=True, exist_ok=True)
    for part, draw in (("pair", latency), ("threads", threads), ("waiters", waiters), ("timeline", timeline)):
        if found.get(part):
            draw(found, directory)


if __name__ == "__main__":
    main()
