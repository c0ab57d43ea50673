#!/usr/bin/env python3
"""Measures the library against hiredis and against what a socket and a server can do at all; what `make bench` runs.

    benches/run.py [--quick] [part ...]     the parts are the functions below with a name in PARTS; all of them if none is named

Compiles the programs beside it into target/bench/, starts a private server on a free port and stops it again, also on
Ctrl-C, and prints one table: each figure with the limit it is measured against. Contenders take turns in one run, since
on a machine that does other things too only their ratio means anything. A missed aim is shown and fails nothing; the
exit status is not 0 only where something does not run.

All rows are kept in target/bench/results.json, what `peers`, `passing` and `asyncio` found in peers.json, passing.json and
asyncio.json, and what the plots show in measurements.json, from which the part `plots` draws them into docs/performance/. --quick leaves out curves and plots.
"""

import argparse
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile

import contenders
import cost
import curves
import passing
import peers
from harness import (HERE, LIBRARY, PROGRAMS, ROOT, Bench, Failed, Processes, compile_programs, hiredis_flags, redispp_flags,
                     start_private_server, write_json)
from private_server import ask, certificates, default_server, free_port, start_cluster, start_server, until


def pair(bench):
    command = ("pair", bench.port, PROGRAMS / "release.lua")
    bench.part("One uncontended acquire + release, one thread, blocks in turn (* = aim missed; in brackets: the middle "
               "half of the rounds)", "pair", bench.port, "target/bench/release.lua")
    found = bench.record["pair"] = bench.measure(*command)
    rows = [("classic", f"{found['peer']}, SET NX PX + compare-and-delete", 1.0, 1.2),
            ("argv", "the same by redisCommandArgv" if found["peer"] == "hiredis" else "the same again", "", ""),
            ("pings", f"{found['peer']}, two PINGs", "", ""),
            ("bare", "bare socket, the same classic commands", "", ""),
            ("own", "bare socket, the commands that dlock sends", "", "")]
    for name, what, aim, _ in rows:
        spread = (found[f"ratio_low_{name}"], found[f"ratio_high_{name}"])
        bench.ratio(f"p50, {what}", found["p50_dlock"], found[f"p50_{name}"], "us", aim, spread)
    for name, what, _, aim in rows:
        bench.ratio(f"p99, {what}", found["p99_dlock"], found[f"p99_{name}"], "us", aim)


def deployments(bench):
    """The same pair wherever a URL leads; each kind that this server has."""
    path, places = default_server(), [("plain", f"redis://127.0.0.1:{bench.port}", "TCP")]
    directory = tempfile.mkdtemp(dir=bench.directory)

    def server(*arguments):
        return start_server(bench.processes, directory, path, *arguments)

    socket = f"{directory}/socket"
    server("--unixsocket", socket)
    places.append(("unix", f"redis+unix://{socket}", "a unix socket"))
    ca, arguments = certificates(directory)
    secured = free_port()
    try:
        server("--tls-port", secured, *arguments)
        places.append(("tls", f"rediss://127.0.0.1:{secured}?ca={ca}", "TLS 1.3"))
    except Failed:
        print("TLS is left out: the server was built without it", flush=True)
    primary, _ = server()
    server("--replicaof", "127.0.0.1", primary, "--repl-diskless-sync-delay", "0")
    until("a replica is there", lambda: b"state=online" in ask(primary, "INFO", "replication"))
    places.append(("replicas", f"redis://127.0.0.1:{primary}?replicas=1", "replicas=1: a replica has it"))
    nodes = start_cluster(bench.processes, directory, path)
    places.append(("cluster", f"redis-cluster://127.0.0.1:{nodes[0][0]}", "Redis Cluster, six nodes"))
    for count in (3, 5):
        hosts = ",".join(f"127.0.0.1:{server()[0]}" for _ in range(count))
        places.append((f"quorum{count}", f"redis-quorum://{hosts}", f"a quorum of {count}"))
    bench.part("One uncontended acquire + release on other deployments, blocks in turn; limit: the same by TCP on one server",
               "deployments", *(word for name, _, _ in places for word in (name, "URL")))
    found = bench.measure("deployments", *(word for name, url, _ in places for word in (name, url)))
    for name, _, what in places:
        bench.ratio(f"p50, {what}", found[f"p50_{name}"], found["p50_plain"], "us", spread=(found[f"ratio_low_{name}"], found[f"ratio_high_{name}"]))
        bench.ratio("  p99", found[f"p99_{name}"], found["p99_plain"], "us")


def handoff(bench):
    bench.part("Hand-off between two processes: from before the release to the other's return from acquire; limit: "
               "EVAL to socket readable", "handoff", bench.port, "target/bench/release.lua")
    found = bench.record["handoff"] = bench.measure("handoff", bench.port, PROGRAMS / "release.lua")
    bench.ratio("p50", found["p50_dlock"], found["p50_floor"], "us", 1.2)
    bench.ratio("  our release script to socket readable", found["p50_step"], found["p50_floor"], "us")
    bench.ratio("p99", found["p99_dlock"], found["p99_floor"], "us", 3.0)


def inflight(bench):
    bench.part("256 locks in flight from one thread through the completion queue, blocks in turn; limit: the classic lock "
               "pipelined on one connection by hiredis", "inflight", bench.port, 256)
    found = bench.measure("inflight", bench.port, 256)
    if not bench.hiredis:
        bench.figure("pairs a second", found["dlock_per_second"], "/s")
        return
    for name, what, aim in (("classic", "all SETs, then all scripts", 0.7), ("sliding", "each as soon as it is answered", "")):
        spread = (found[f"{name}_ratio_low"], found[f"{name}_ratio_high"])
        bench.ratio(f"pairs a second; {what}", found["dlock_per_second"], found[f"{name}_per_second"], "/s", aim, spread, ".0f",
                    at_least=True)
        bench.ratio("  CPU of the server a pair", found["dlock_server_us"], found[f"{name}_server_us"], "us", form=".2f")
        bench.ratio("  CPU of the client a pair", found["dlock_client_us"], found[f"{name}_client_us"], "us", form=".2f")


def waiters(bench):
    for count, seconds in [(1000, 5)] if bench.quick else [(10_000, 30), (100_000, 30)]:
        bench.part(f"{count:,} waiters for one lock in one process, through the completion queue, {seconds} s of quiet",
                   "waiters", bench.port, count, seconds)
        found = bench.record.setdefault("waiters", {})[count] = bench.measure("waiters", bench.port, count, seconds)
        bench.figure("threads of the process", max(found["threads"], found["threads_after"]), "", 3)
        bench.figure("memory a waiter, resident", found["rss_per_waiter"], "B", 1024)
        bench.figure("  of it allocated", found["allocated_per_waiter"], "B")
        bench.figure("  the handle alone", found["handle_allocated"], "B")
        bench.figure("commands a second, mean", found["requests_per_second"], "/s", 500)
        bench.figure("  busiest second", found["requests_busiest_second"], "/s")
        bench.figure("  calls within scripts included", found["executed_per_second"], "/s")
        bench.figure("CPU while nothing happens", found["cpu_percent"], "%", form=",.1f")
        bench.figure("all submitted after", found["submitting_seconds"], "s", form=",.2f")
        bench.figure("all queued after", found["queueing_seconds"], "s", form=",.2f")
        bench.figure("all served after", found["serving_seconds"], "s", form=",.2f")
        bench.figure("served out of order", found["out_of_order"], "", 0)


def held(bench):
    count, seconds = (1000, 12) if bench.quick else (100_000, 35)
    bench.part(f"{count:,} locks held by one process, leases of 30 s, for {seconds} s", "held", bench.port, count, seconds)
    found = bench.record.setdefault("held", {})[count] = bench.measure("held", bench.port, count, seconds)
    bench.figure("CPU of the client, of one core", found["cpu_percent"], "%", 2, form=",.2f")
    bench.figure("  of it for each renewal", found["cpu_us_per_renewal"], "us", form=",.2f")
    bench.figure("latest renewal, after the one before", 30_000 - found["shortest_life_ms"], "ms", 15_000)
    bench.figure("shortest validity by the holder's view", found["shortest_validity_ms"], "ms")
    bench.figure("renewals a second", found["renewals_per_second"], "/s")
    bench.figure("  in one read of the server", found["renewals_per_read"], "", form=",.1f")
    bench.figure("memory a lock, resident", found["rss_per_lock"], "B")
    bench.figure("all taken after", found["taking_seconds"], "s", form=",.2f")
    bench.figure("all released by freeing the locker after", found["closing_seconds"], "s", form=",.2f")


def distance(bench):
    bench.part("A server at a distance, through a process that delays either direction; p50; limit: the round trips of a PING "
               "on the same way", "distance", bench.port, "1000|10000", "150|60")
    for round_trip_ms, samples in ((1, 150),) if bench.quick else ((1, 150), (10, 60)):
        found = bench.measure("distance", bench.port, round_trip_ms * 1000, samples)
        trip = found["round_trip_us"]
        bench.figure(f"{round_trip_ms} ms away: a PING", trip, "us", form=",.0f")
        bench.ratio("  acquire + release; two round trips", found["pair_us"], 2 * trip, "us", 1.1, form=".0f")
        bench.ratio("  release to held by the other; 1.5", found["handoff_arrived_us"], 1.5 * trip, "us", 1.1, form=".0f")
        bench.ratio("  … and released to the one; 1.5", found["handoff_both_us"], 1.5 * trip, "us", 1.1, form=".0f")
        bench.figure("  a pair beyond its two round trips", found["pair_us"] - 2 * trip, "us", form=",.0f")


def start(bench):
    bench.part("The first lock in a fresh process: dlopen, connect, acquire; p50; limit: a bare connect and one PING", "start",
               bench.port, "target/bench/libdlock.so")
    found = bench.measure("start", bench.port, stripped_library() or LIBRARY / "libdlock.so")
    bench.ratio("until the lock is held", found["first_lock_us"], found["bare_connect_us"], "us", 3.0, form=".0f")
    bench.figure("  of it until the library is loaded", found["loaded_us"], "us")
    bench.figure("  … until the locker is made and connected", found["made_us"], "us")


def threads(bench):
    rounds, block_ms = (3, 300) if bench.quick else (5, 600)
    bench.part("Pairs a second, each thread with a lock of its own, one process; limit: the peer with a connection for "
               "each thread", "threads own", bench.port, "1|8|64", rounds, block_ms)
    for count, aim in ((1, ""), (8, 1.0), (64, 1.8)) if not bench.quick else ((8, 1.0),):
        curves.threads_row(bench, count, rounds, block_ms, aim)


def hot(bench):
    bench.part("16 threads of one process at one lock, 5 s", "threads hot", bench.port, 16)
    found = bench.measure("threads", "hot", bench.port, 16)
    bench.figure("acquisitions a second", found["per_second"], "/s")
    bench.figure("longest wait", found["longest_wait_ms"], "ms", form=",.1f")
    bench.figure("acquisitions of the threads: most - least", found["most"] - found["least"], "")
    if found["share_spread"] >= 0:
        bench.figure("  of 10,000, at worst", found["share_spread"], "", 1)


def go(bench):
    """The Go package beside its peers; limit: the best of them."""
    if shutil.which("go") is None:
        raise Failed("Go is not installed: its peers are not measured")
    flags = {"CGO_LDFLAGS": f"-L{LIBRARY} -Wl,-rpath,{LIBRARY}"}
    built = subprocess.run(["go", "build", "-o", PROGRAMS / "peers", "."], cwd=HERE / "go", env={**os.environ, **flags},
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if built.returncode != 0:
        raise Failed("benches/go does not build:\n" + built.stdout.decode(errors="replace"))
    seconds = 0.2 if bench.quick else 0.7
    bench.part("The Go package beside redsync, bsm/redislock and rueidislock; limit: the best of them", "peers", bench.port, seconds)
    waiters = 10_000 if bench.quick else 100_000
    program = bench.processes.start([PROGRAMS / "peers", bench.port, seconds, waiters], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE)
    output, errors = program.communicate(timeout=300)
    if program.returncode != 0:
        raise Failed(f"peers: {errors.decode(errors='replace').strip()[-400:]}")
    found = {}
    for line in output.decode().splitlines():
        name, key, value = line.split(" ")
        found.setdefault(key, {})[name] = float(value)
    rows = [("own_1", "pairs a second, 1 goroutine", "/s", 1.2, max), ("own_64", "pairs a second, 64 goroutines", "/s", 1.25, max),
            ("hot_rate", "16 goroutines, one lock: acquisitions", "/s", 1.0, max),
            ("hot_longest_ms", "  longest wait", "ms", 0.2, min), ("hot_handoff_us", "  hand-off p50", "us", 1.0, min),
            ("allocs", "allocations a pair", "", "", min)]
    stalled = ", ".join(f"{name} {count:.0f}" for name, count in found["stalls"].items() if count)
    for key, what, unit, aim, best in rows:
        ours = found[key].pop("dlock")
        peer = best(found[key], key=found[key].get)
        bench.ratio(f"{what} ({peer})", ours, found[key][peer], unit, aim, None, ".0f", at_least=best is max)
    costs = {key: values["dlock"] for key, values in found.items() if key.startswith(("crossing", "park", "waiting"))}
    bench.figure("one crossing into C", costs["crossing_ns"], "ns")
    bench.figure("one goroutine parked and woken", costs["park_ns"], "ns")
    bench.figure(f"{costs['waiting']:,.0f} goroutines waiting: threads", costs["waiting_threads"], "", 24)
    bench.figure("  memory of each beside its stack", costs["waiting_bytes"] / 1000, "KB", 4, form=",.1f")
    bench.figure("  stack of each", costs["waiting_stack_bytes"] / 1000, "KB", form=",.1f")
    bench.figure("  Close, until all have returned", costs["waiting_close_ms"] / 1000, "s", form=",.1f")
    if stalled:
        print(f"waits of two seconds given up and begun again: {stalled}")


def timeline(bench):
    bench.part("6 threads at one lock that each holds for 0.2 ms, over 60 ms; limit: the classic lock, asked for every 10 ms",
               "timeline", bench.port, "dlock|polling", 6, 60)
    found = bench.record["timeline"] = {}
    for name in ("dlock", "polling"):
        lines = bench.output_of("timeline", bench.port, name, 6, 60).splitlines()
        found[name] = sorted(([float(part) for part in line.split()] for line in lines), key=lambda hold: hold[1])
    bench.ratio("turns", len(found["dlock"]), len(found["polling"]), "", form="d")
    between = {name: sorted(b[1] - a[2] for a, b in zip(holds, holds[1:])) for name, holds in found.items()}
    median = {name: gaps[len(gaps) // 2] for name, gaps in between.items()}
    bench.ratio("  nobody holds it between two turns, p50", median["dlock"], median["polling"], "us")
    bench.ratio("  at most", between["dlock"][-1], between["polling"][-1], "us")


def stripped_library():
    """Its path; nothing where there is no strip."""
    stripped = PROGRAMS / "libdlock.so"
    done = subprocess.run(["strip", "-o", stripped, LIBRARY / "libdlock.so"], stderr=subprocess.DEVNULL)
    return stripped if done.returncode == 0 else None


def memory(bench):
    bench.part("The library itself", "pair", "memory")
    found = bench.measure("pair", "memory")
    bench.figure("acquire + release on memory://", found["memory_ns"] / 1000, "us", form=",.2f")
    stripped = stripped_library()
    if stripped:
        bench.figure("libdlock.so, stripped, as it was built", stripped.stat().st_size / 1e6, "MB", form=",.2f")


def setup_of_peers():
    target = PROGRAMS / "contenders"
    target.mkdir(parents=True, exist_ok=True)
    return contenders.Setup(LIBRARY, target, tuple(hiredis_flags()), tuple(redispp_flags()))


def libraries(bench):
    found = peers.measure(bench.processes, bench.port, bench.version, setup_of_peers(), bench.quick)
    write_json("peers.json", found)
    print(f"\n{found['seconds']:.0f} s of measurement; all rounds are in {os.path.relpath(PROGRAMS / 'peers.json', ROOT)}", flush=True)


PARTS = {"pair": pair, "cost": cost.measure, "handoff": handoff, "inflight": inflight, "waiters": waiters, "held": held,
         "distance": distance, "deployments": deployments, "threads": threads, "hot": hot, "timeline": timeline, "start": start,
         "memory": memory, "go": go, "peers": libraries,
         "passing": lambda bench: passing.between_processes(bench, setup_of_peers()),
         "asyncio": lambda bench: passing.among_many(bench, setup_of_peers()), "curves": curves.measure, "plots": curves.plot}
NOT_QUICK = {"curves", "plots"}


def run(arguments, processes, directory):
    if platform.system() != "Linux":
        raise Failed("The benchmark reads /proc and so runs on Linux only.")
    hiredis = compile_programs()
    port, version, _ = start_private_server(processes, directory)
    bench = Bench(processes, directory, port, version, hiredis, arguments.quick)
    load = bench.record["load_before"]
    print(f"{version}, {os.cpu_count()} cores, {platform.machine()}, load {load:.1f} before; times are wall-clock")
    if load > os.cpu_count() / 2:
        print("The machine is busy with other work: trust the ratios, and of them those of medians.")
    if not hiredis:
        print("hiredis is not installed (headers and library): a bare socket stands in for it.")
    bench.head()
    failed = 0
    for part in arguments.parts or [part for part in PARTS if not (arguments.quick and part in NOT_QUICK)]:
        try:
            PARTS[part](bench)
        except Failed as problem:
            failed += 1
            print(f"FAILED: {problem}", flush=True)
    write_json("results.json", {"server": version, "load_before": load, "rows": bench.rows})
    return 1 if failed else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer waiters, fewer threads, no curves")
    parser.add_argument("parts", nargs="*", help=" ".join(PARTS))
    arguments = parser.parse_args()
    unknown = set(arguments.parts) - set(PARTS)
    if unknown:
        parser.error(f"no such part: {' '.join(sorted(unknown))}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    processes, directory = Processes(), tempfile.mkdtemp(prefix="dlock-bench-")
    try:
        return run(arguments, processes, directory)
    finally:
        processes.stop()
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failed as problem:
        print(problem, file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
