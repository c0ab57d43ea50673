"""What the C and C++ tests need around them: private servers, agents to be killed, named checks. Knows nothing
of the lock protocol but the name of its counter.

Everything started here is in a process group of its own and is killed by `stop_all`, whatever happens.
"""

import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import namedtuple
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(ROOT / "tools"))

from private_server import Resp, RespError, free_port  # noqa: E402

TEMPORARY = tempfile.mkdtemp(prefix="dlock-c-")
INCLUDE = Path(os.environ.get("DLOCK_INCLUDE_DIR") or ROOT / "include").resolve()
LIBRARY = Path(os.environ.get("DLOCK_LIB_DIR") or ROOT / "target" / "release").resolve()
SYSTEM_LIBRARIES = ["-lpthread", "-ldl", "-lm"]

_running = []
_running_lock = threading.Lock()
_stopping = False


def start(command, **options):
    """A child process in a group of its own, killed at the end if it is still there."""
    with _running_lock:
        if _stopping:
            raise RuntimeError("stopping")
        process = subprocess.Popen([str(part) for part in command], start_new_session=True, **options)
        _running.append(process)
        return process


def kill(process):
    """Kills a child and all in its group."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except OSError:
        pass
    process.wait()
    with _running_lock:
        if process in _running:
            _running.remove(process)


def stop_all():
    """Kills everything and removes the temporary directory."""
    global _stopping
    with _running_lock:
        _stopping = True
        left = list(_running)
    for process in left:
        kill(process)
    shutil.rmtree(TEMPORARY, ignore_errors=True)


def run(command, seconds, **options):
    """Exit status (None: it took too long and was killed) and output of a command."""
    process = start(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options)
    try:
        output = process.communicate(timeout=seconds)[0]
        status = process.returncode
    except subprocess.TimeoutExpired:
        kill(process)
        output, status = process.communicate()[0], None
    kill(process)
    return status, output.decode(errors="replace")


class Server:
    """A private Redis or Valkey server on a free port."""

    binary = None

    def __init__(self, *arguments, password=None, binary=None, environment=None, port=None):
        self.arguments = arguments
        self.binary = binary or self.binary
        self.environment = environment
        self.password = password
        self.directory = tempfile.mkdtemp(dir=TEMPORARY)
        self.port = port or free_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        self.process = None
        self.start()

    def start(self):
        command = [self.binary, "--port", self.port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
                   "--dir", self.directory, *self.arguments]
        if self.password:
            command += ["--requirepass", self.password]
        with open(os.path.join(self.directory, "log"), "ab") as log:
            self.process = start(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.environment)
        self.wait_ready()

    def wait_ready(self):
        end = time.monotonic() + 10
        while True:
            try:
                connection = self.connect()
                connection("PING")
                connection.close()
                return
            except (OSError, ConnectionError, RespError):
                if time.monotonic() > end or self.process.poll() is not None:
                    log = Path(self.directory, "log").read_text(errors="replace")
                    raise RuntimeError(f"the server does not start:\n{log}")
                time.sleep(0.02)

    def connect(self):
        return Resp(self.port, self.password)

    def command(self, *words):
        connection = self.connect()
        try:
            return connection(*words)
        finally:
            connection.close()

    def stop(self):
        kill(self.process)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    @staticmethod
    def is_counter(key):
        return key == b":dlock:fence"

    def expect_only_counter(self, seconds=5):
        """After everything is released no key but the counter remains."""
        end = time.monotonic() + seconds
        while True:
            keys = sorted(self.command("KEYS", "*"))
            if all(self.is_counter(key) for key in keys):
                return
            if time.monotonic() > end:
                raise AssertionError(f"keys left behind: {keys}")
            time.sleep(0.05)


class ClusterNode(Server):
    """A cluster of one node, which has all slots."""

    def __init__(self):
        # Its other port is 10,000 above.
        super().__init__("--cluster-enabled", "yes", port=next(port for port in iter(free_port, 0) if port < 55000))
        self.url = f"redis-cluster://127.0.0.1:{self.port}"
        self.command("CLUSTER", "ADDSLOTS", *range(16384))
        end = time.monotonic() + 10
        while b"cluster_state:ok" not in self.command("CLUSTER", "INFO"):
            if time.monotonic() > end:
                raise RuntimeError("the cluster does not come up")
            time.sleep(0.02)

    @staticmethod
    def is_counter(key):
        return key.startswith(b":dlock:fence:{")


Answer = namedtuple("Answer", "status elapsed_ms value message")


class Agent:
    """tests/c/agent.c, or what speaks its lines, in a process of its own: one locker, one lock handle, one call after the
    other."""

    program = None

    def __init__(self, url, name="lock", lease=30000, renew=True, connect_timeout=5000, response_timeout=5000,
                 group="test", command=None):
        self.process = start([*(command or [self.program]), url, lease, int(renew), connect_timeout, response_timeout, group,
                              name], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.lines = queue.Queue()
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.process.stdout:
            self.lines.put(line.decode(errors="replace").rstrip("\n"))
        self.lines.put(None)

    def send(self, command):
        """Starts a call; `answer` tells how it ended."""
        self.process.stdin.write(command.encode() + b"\n")
        self.process.stdin.flush()

    def answer(self, seconds=15):
        try:
            line = self.lines.get(timeout=seconds)
        except queue.Empty:
            raise AssertionError(f"no answer within {seconds} s")
        if line is None:
            raise AssertionError(f"the agent ended with {self.process.wait()}")
        status, elapsed, value, message = (line.split(" ", 3) + [""])[:4]
        return Answer(status.replace("DLOCK_ERR_", "").replace("DLOCK_", ""), int(elapsed), value, message)

    def call(self, command, seconds=15):
        self.send(command)
        return self.answer(seconds)

    def ok(self, command, seconds=15):
        answer = self.call(command, seconds)
        expect(answer.status == "OK", f"{command}: {answer}")
        return answer.value

    def has_not_answered(self, seconds=0.0):
        """Is the call still under way after that time?"""
        time.sleep(seconds)
        return self.lines.empty()

    def kill(self):
        kill(self.process)

    def signal(self, number):
        os.kill(self.process.pid, number)

    def end(self):
        """Frees the handles; fails if that does not end well."""
        self.process.stdin.close()
        try:
            status = self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError("freeing the handles took more than 15 s")
        kill(self.process)
        expect(status == 0, f"the agent ended with {status}")


def expect(condition, text):
    if not condition:
        raise AssertionError(text)


def eventually(condition, seconds, text):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(text)
        time.sleep(0.01)


class Report:
    """Counts `ok - name` and `not ok - name` lines and prints them, a failed one with its output."""

    def __init__(self):
        self.passed = 0
        self.failed = 0
        self.lock = threading.Lock()

    def line(self, passed, name, output=""):
        with self.lock:
            if passed:
                self.passed += 1
                print(f"ok - {name}", flush=True)
            else:
                self.failed += 1
                text = "".join(f"  {line}\n" for line in output.splitlines())
                print(f"{text}not ok - {name}", flush=True)

    def note(self, text):
        with self.lock:
            print(f"# {text}", flush=True)

    def program(self, what, status, output):
        """Passes on what a C program reported; one that ends badly without having said why has failed."""
        failed, pending = False, []
        counted = 0
        for line in output.splitlines():
            if line.startswith(("ok - ", "not ok - ")):
                passed = line.startswith("ok")
                self.line(passed, f"{line.split(' - ', 1)[1]} [{what}]", "\n".join(pending))
                failed = failed or not passed
                counted += 1
                pending = []
            elif line.startswith("# "):
                self.note(f"{what}: {line[2:]}")
            else:
                pending.append(line)
        if status is None or (status != 0 and not failed) or counted == 0:
            ended = "took too long" if status is None else f"ended with {status}"
            self.line(False, f"{what} {ended}", "\n".join(pending))

    def end(self):
        """Prints the count, and returns the exit status."""
        print(f"{self.passed} passed, {self.failed} failed", flush=True)
        return 0 if self.failed == 0 and self.passed > 0 else 1

    def check(self, name, function, *arguments):
        """Runs a check written in Python."""
        try:
            function(*arguments)
        except (AssertionError, RuntimeError, OSError, ConnectionError, RespError) as error:
            if _stopping:
                return
            self.line(False, name, f"{type(error).__name__}: {error}")
        else:
            self.line(True, name)


def fail_early(text):
    print(f"not ok - {text}\n0 passed, 1 failed", flush=True)
    sys.exit(1)


def link_shared(directory=LIBRARY):
    return [f"-L{directory}", f"-Wl,-rpath,{directory}", "-ldlock", *SYSTEM_LIBRARIES]


# Jobs: named functions that report checks, several at once.

def chosen(jobs, arguments):
    """The jobs whose name contains one of the arguments; all of them without any."""
    return {name: job for name, job in jobs.items() if not arguments or any(part in name for part in arguments)}


def run_jobs(jobs, arguments, report, workers):
    """Runs the chosen jobs, prints the count of their checks, and returns the exit status."""
    waiting = queue.Queue()
    for item in chosen(jobs, arguments).items():
        waiting.put(item)
    threads = [threading.Thread(target=_work, args=(waiting, report), daemon=True) for _ in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive():
            thread.join(0.2)  # In slices, so that a signal is heard.
    return report.end()


def _work(jobs, report):
    while True:
        try:
            name, job = jobs.get_nowait()
        except queue.Empty:
            return
        begun = time.monotonic()
        try:
            job()
        except BaseException as error:  # A defect here is a failure of the check, not of the others.
            report.line(False, f"job {name} ran to its end", f"{type(error).__name__}: {error}")
        report.note(f"job {name}: {time.monotonic() - begun:.1f} s")


def _interrupted(number, _frame):
    raise KeyboardInterrupt(signal.Signals(number).name)


def end_well(main, arguments):
    """Exits with what `main` returns. Whatever happens, a signal included, everything is stopped. Does not return."""
    for each in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, _interrupted)
    try:
        result = main(arguments)
    except KeyboardInterrupt:
        print("not ok - interrupted", flush=True)
        result = 130
    except SystemExit as early:
        result = early.code
    finally:
        stop_all()
    sys.stdout.flush()
    os._exit(result)


def run_main(main, jobs, needed):
    """What a program of tests does: `--list`, or `main` with the arguments, on a server that is there and with the files
    that are `needed`. Whatever happens, everything is stopped. Does not return."""
    arguments = sys.argv[1:]
    if arguments == ["--list"]:
        print("\n".join(jobs))
        sys.exit(0)

    def equipped(arguments):
        Server.binary = os.environ.get("DLOCK_TEST_SERVER") or shutil.which("redis-server") or shutil.which("valkey-server")
        if not Server.binary:
            fail_early("no redis-server on the PATH; set DLOCK_TEST_SERVER")
        for path in needed:
            if not path.exists():
                fail_early(f"{path} is missing: cargo build --release")
        return main(arguments)

    end_well(equipped, arguments)
