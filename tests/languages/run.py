#!/usr/bin/env python3
"""What behaviour.txt says, done by a program of each language, with one and the same outcome; then programs of all
languages take turns at one lock.

    tests/languages/run.py [language …]       all of them, if none is named; `--list` names them

A language is a program that speaks the lines of tests/c/agent.c: `LANGUAGES` says how it is built. The settings are
those of tests/c/run.py and tests/cpp/run.py. Python has the wheel that was built last (`make python`).
"""

import os
import re
import shlex
import sys
import threading
import time
from collections import namedtuple
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(ROOT / "tests" / "c"))

import harness  # noqa: E402 (it also knows the way to tools/)
import python as package  # noqa: E402
from harness import INCLUDE, LIBRARY, Agent, Report, Server, eventually, expect, fail_early, link_shared, run  # noqa: E402

# What a busy machine may add to any bound, in ms.
SLACK_MS = 1500
# Turns of each program in the mixed run.
TURNS = 150

Scenario = namedtuple("Scenario", "title agents steps")
Step = namedtuple("Step", "line agent call outcome")
Outcome = namedtuple("Outcome", "status value within after")

report = Report()


# --- what is to be done ---

def read_scenarios(path):
    scenarios = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        words = line.split()
        if not words or line.startswith("#"):
            continue
        if words[0] == "scenario":
            scenarios.append(Scenario(" ".join(words[1:]), {}, []))
        elif words[0] == "agent":
            scenarios[-1].agents[words[1]] = {key: int(value) for key, value in (word.split("=") for word in words[2:])}
        else:
            scenarios[-1].steps.append(read_step(f"{path.name}:{number}: {line}", words))
    return scenarios


def read_step(line, words):
    agent, words, outcome = words[0], words[1:], None
    if "->" in words:
        at = words.index("->")
        words, outcome = words[:at], read_outcome(words[at + 1:])
    elif words[-1] == "...":
        words = words[:-1]
    elif agent != "server":
        raise ValueError(f"{line}: neither an outcome nor `...`")
    return Step(line, agent, words, outcome)


def read_outcome(words):
    status, rest, bounds = words[0], words[1:], {}
    value = rest.pop(0) if rest and rest[0] not in ("within", "after") else None
    for word, number in zip(rest[::2], rest[1::2]):
        bounds[word] = int(number)
    return Outcome(status, value, bounds.get("within"), bounds.get("after"))


# --- doing it ---

def as_expected(step, answer, noted):
    outcome = step.outcome
    expect(answer.status == outcome.status, f"{step.line}\n  {answer}")
    if outcome.within is not None:
        expect(answer.elapsed_ms <= outcome.within + SLACK_MS, f"{step.line}\n  too late: {answer}")
    if outcome.after is not None:
        expect(answer.elapsed_ms >= outcome.after, f"{step.line}\n  too early: {answer}")
    value = outcome.value
    if value is None:
        return
    if value.startswith("=="):
        good = answer.value == noted[value[2:]]
    elif value.startswith("="):
        good, noted[value[1:]] = True, answer.value
    elif value.startswith(">"):
        good = int(answer.value) > int(noted.get(value[1:], value[1:]))
    else:
        good = answer.value == value
    expect(good, f"{step.line}\n  {answer}; noted: {noted}")


def do(scenario, command, server):
    """Answers the messages of the calls that failed, in their order."""
    agents, noted, messages = {}, {}, []
    try:
        for step in scenario.steps:
            if step.agent == "server":
                server.command(*step.call)
                continue
            if step.agent not in agents:
                agents[step.agent] = Agent(server.url, command=command, **scenario.agents.get(step.agent, {}))
                agents[step.agent].ok("new")
            agent, in_line = agents[step.agent], waiters(server)
            if step.call:
                agent.send(" ".join(step.call))
            if step.outcome is None:
                eventually(lambda: waiters(server) > in_line, 10, f"{step.line}\n  it does not wait: {list(agent.lines.queue)}")
                continue
            answer = agent.answer()
            as_expected(step, answer, noted)
            if answer.status != "OK":
                messages.append(answer.message)
        for agent in agents.values():
            agent.end()
        server.expect_only_counter()
    finally:
        for agent in agents.values():
            agent.kill()
    return messages


def waiters(server):
    """How many are in the queues."""
    return sum(server.command("ZCARD", key) for key in server.command("KEYS", ":dlock:wait:*"))


def same_words(messages, by_c):
    """Are C's messages in the other language's, ids, numbers and units of time apart? Where something is no error there, it has
    none."""
    def plain(text):
        return re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}|\d+(\.\d+)?( s\b)?", "#", re.sub(r"(\w)_ms: ", r"\1: ", text))

    expect(len(messages) == len(by_c), f"{messages}\n  by C: {by_c}")
    for message, word in zip(messages, by_c):
        expect(not message or plain(word) in plain(message), f"{message!r}\n  by C: {word!r}")


def behaviour(name, command, scenarios, by_c):
    """All scenarios by one language. Answers the messages of each."""
    spoken = {}

    def one(scenario):
        with Server() as server:
            spoken[scenario.title] = do(scenario, command, server)
        if scenario.title in by_c:
            same_words(spoken[scenario.title], by_c[scenario.title])

    for scenario in scenarios:
        report.check(f"{scenario.title} [{name}]", one, scenario)
    return spoken


# --- all of them at one lock ---

def now_us():
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000 if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic_ns() // 1000


def take_turns(agent, who, path):
    """What is noted is what is certain: held not before the acquire has answered, and not after the release is called."""
    with open(path, "w", encoding="utf-8") as history:
        history.write("history 1\n")

        def note(kind, rest="", at=None):
            history.write(f"{kind} at={at or now_us()} lock=lock by={who}{rest}\n")

        for _ in range(TURNS):
            note("asks")
            agent.ok("acquire", 60)
            token, at = agent.ok("token"), now_us()
            note("acquired", f" token={token} until={at + 1000 * int(agent.ok('remaining'))}", at)
            note("writes", f" token={token}")
            note("released")
            agent.ok("release")
        history.write(f"end at={now_us()}\n")


def mixed(commands, checker):
    directory = Path(harness.TEMPORARY)
    with Server() as server:
        agents, failures, threads = {}, [], []
        for name, command in commands.items():
            for number in range(2):
                agents[f"{name}{number}"] = Agent(server.url, command=command)
        for agent in agents.values():
            agent.ok("new")

        def turns(who, agent):
            try:
                take_turns(agent, who, directory / f"{who}.history")
            except (AssertionError, OSError) as problem:
                failures.append(f"{who}: {problem}")

        for who, agent in agents.items():
            threads.append(threading.Thread(target=turns, args=(who, agent)))
            threads[-1].start()
        for thread in threads:
            thread.join()
        expect(not failures, "\n".join(failures))
        for agent in agents.values():
            agent.end()
        server.expect_only_counter()
    status, output = run([checker, *sorted(directory.glob("*.history"))], 120)
    expect(status == 0, output)
    counted = re.search(r"(\d+) acquisitions", output)
    expect(counted and int(counted.group(1)) == TURNS * len(agents), f"not {TURNS * len(agents)} acquisitions: {output}")


# --- the languages ---

def built(*command, where=ROOT, environment=None):
    status, output = run(command, 300, cwd=where, env={**os.environ, **(environment or {})})
    if status != 0:
        raise RuntimeError(f"{shlex.join(str(word) for word in command)}:\n{output}")


def c():
    program = Path(harness.TEMPORARY) / "agent-c"
    built(*shlex.split(os.environ.get("CC", "cc")), "-std=c11", "-Wall", "-Wextra", "-Werror", "-O1", f"-I{INCLUDE}", "-o", program,
          harness.HERE / "agent.c", *link_shared())
    return [program]


def cpp():
    program = Path(harness.TEMPORARY) / "agent-cpp"
    built(*shlex.split(os.environ.get("CXX", "c++").split(":")[0]), "-std=c++17", "-Wall", "-Wextra", "-Werror", "-O1", f"-I{INCLUDE}",
          "-o", program, HERE / "agent.cpp", *link_shared())
    return [program]


def go():
    program = Path(harness.TEMPORARY) / "agent-go"
    built("go", "build", "-o", program, ".", where=HERE / "go",
          environment={"CGO_CFLAGS": f"-I{INCLUDE}", "CGO_LDFLAGS": f"-L{LIBRARY} -Wl,-rpath,{LIBRARY}"})
    return [program]


def python():
    try:
        return [package.tester(), HERE / "agent.py"]
    except package.Failed as failed:
        raise RuntimeError(str(failed))


# C is the first: the others' messages are compared with its.
LANGUAGES = {"C": c, "C++": cpp, "Go": go, "Python": python}


def main(arguments):
    wanted = arguments or list(LANGUAGES)
    unknown = set(wanted) - set(LANGUAGES)
    if unknown:
        fail_early(f"no such language: {' '.join(sorted(unknown))}")
    scenarios = read_scenarios(HERE / "behaviour.txt")
    commands, by_c = {}, {}
    for name in wanted:
        try:
            commands[name] = LANGUAGES[name]()
        except RuntimeError as problem:
            report.line(False, f"the program of {name} is built", str(problem))
            continue
        spoken = behaviour(name, commands[name], scenarios, by_c)
        by_c = by_c or (spoken if name == "C" else {})
    built("cargo", "build", "--locked", "--quiet", "--package", "dlock-history")
    target = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target")
    report.check(f"{', '.join(commands)} take turns at one lock", mixed, commands, target / "debug" / "check-history")
    return report.end()


if __name__ == "__main__":
    harness.run_main(main, LANGUAGES, (INCLUDE / "dlock.h", LIBRARY / "libdlock.so"))
