"""What the measurements share: servers, a Redis of their own, load, and who used the processors."""

import atexit
import contextlib
import dataclasses
import os
import pathlib
import random
import re
import resource
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
DIST = ROOT / "target/dist"
RIVALS = ROOT / "target/rivals/release"
VENV = ROOT / ".run/bench/bin"
QUICK = os.environ.get("QUICK", "") not in ("", "0")

CORES = len(os.sched_getaffinity(0))
TICK = os.sysconf("SC_CLK_TCK")
# More than this share of the machine used by others, or taken by the host, disturbs a measurement.
DISTURBED = 0.05
# Seconds for which one of several servers is loaded before it is the turn of the next.
TURN = 0.05
# Seconds after which a server is not going to answer any more.
PATIENCE = 30
REQUEST = b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n"
LAST_REQUEST = b"GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n"


# What has been started and is to end with this process, however that ends.
children = set()


@atexit.register
def end_children():
    for pid in children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)


for ending in (signal.SIGTERM, signal.SIGHUP):
    # nohup(1) has SIGHUP ignored.
    if signal.getsignal(ending) != signal.SIG_IGN:
        signal.signal(ending, lambda *_: sys.exit(1))


def allow_many_files():
    """Ten thousand connections need as many file descriptors, here and in the servers."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def tree(pid):
    """A process and all that descend from it."""
    pids = [pid]
    for parent in pids:
        with contextlib.suppress(FileNotFoundError):
            children = pathlib.Path(f"/proc/{parent}/task/{parent}/children").read_text()
            pids += map(int, children.split())
    return pids


def cpu_seconds(pid):
    """What a process tree has used of the processors, by their clocks (clock_getcpuclockid(3))."""
    seconds = 0
    for member in tree(pid):
        # It may have ended.
        with contextlib.suppress(OSError):
            seconds += time.clock_gettime(~member << 3 | 2)
    return seconds


def memory(pid):
    """RSS and PSS of a process tree, in KiB."""
    sums = {"Rss": 0, "Pss": 0}
    for member in tree(pid):
        rollup = pathlib.Path(f"/proc/{member}/smaps_rollup").read_text()
        for name in sums:
            sums[name] += int(re.search(rf"^{name}: +(\d+)", rollup, re.M)[1])
    return sums["Rss"], sums["Pss"]


def machine_seconds():
    """What all have used of the processors, and what the host has taken away."""
    fields = pathlib.Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields)
    return (user + nice + system + irq + softirq) / TICK, steal / TICK


class Redis:
    """A redis-server on a unix socket that keeps nothing on disk."""

    def __init__(self, folder):
        self.path = f"{folder}/redis.sock"
        self.url = f"unix://{self.path}"
        command = ["redis-server", "--port", "0", "--save", "", "--unixsocket", self.path, "--dir", folder]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        children.add(self.process.pid)
        self.stream = None
        while self.stream is None:
            with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
                connection = socket.socket(socket.AF_UNIX)
                connection.connect(self.path)
                self.stream = connection.makefile("rwb")

    def ask(self, *words):
        """Runs a command and returns its answer, an integer or text."""
        parts = [f"*{len(words)}"] + [f"${len(word)}\r\n{word}" for word in words]
        self.stream.write("\r\n".join([*parts, ""]).encode())
        self.stream.flush()
        head = self.stream.readline().decode().strip()
        if head.startswith("-"):
            raise RuntimeError(head)
        if not head.startswith("$"):
            return head[1:]
        length = int(head[1:])
        return None if length < 0 else self.stream.read(length + 2)[:-2].decode()

    def count(self):
        return int(self.ask("GET", "visitorCount") or 0)

    def settled_count(self):
        """The count, once no visit is under way any more whose client has gone."""
        count = None
        while count != (count := self.count()):
            time.sleep(0.05)
        return count

    def cpu_seconds(self):
        info = self.ask("INFO", "cpu")
        return sum(float(re.search(rf"used_cpu_{kind}:([\d.]+)", info)[1]) for kind in ("sys", "user"))

    def commands(self):
        """Commands that clients have sent to count; those that a script runs are not sent."""
        sent = re.findall(r"cmdstat_(eval|evalsha|incr|incrby|get):calls=(\d+)", self.ask("INFO", "commandstats"))
        calls = {name: int(number) for name, number in sent}
        scripts = calls.get("eval", 0) + calls.get("evalsha", 0)
        return scripts or sum(calls.values())

    def forget_commands(self):
        self.ask("CONFIG", "RESETSTAT")

    def stop(self):
        self.process.terminate()
        self.process.wait()
        children.remove(self.process.pid)


@dataclasses.dataclass
class Server:
    """How to start a server. @PORT@, @REDIS@ and @FOLDER@ in `command`, `settings` and the `template`
    of a configuration file, which becomes @CONFIG@, are filled in."""

    name: str
    command: list
    settings: dict = dataclasses.field(default_factory=dict)
    template: str = ""
    logs: bool = False
    counts: bool = True


class Running:
    """A server that answers."""

    def __init__(self, server, redis, notify=None, places=None):
        self.server = server
        self.port = free_port()
        self.folder = tempfile.mkdtemp(prefix="bench-")
        places = {"@PORT@": str(self.port), "@REDIS@": redis.path, "@FOLDER@": self.folder, **(places or {})}

        def fill(text):
            for place, value in places.items():
                text = text.replace(place, value)
            return text

        if server.template:
            config = pathlib.Path(self.folder) / "config"
            config.write_text(fill((ROOT / server.template).read_text()))
            places["@CONFIG@"] = str(config)
        command = [fill(word) for word in server.command]
        environment = {"PATH": os.environ["PATH"], **{name: fill(value) for name, value in server.settings.items()}}
        if notify:
            environment["NOTIFY_SOCKET"] = notify
        # What a log collector does at the least: read.
        self.reader = None
        if server.logs:
            self.reader = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        log = self.reader.stdin.fileno() if self.reader else os.open(os.devnull, os.O_WRONLY)
        errors = os.open(f"{self.folder}/stderr", os.O_WRONLY | os.O_CREAT)
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, log, 1),
            (os.POSIX_SPAWN_DUP2, errors, 2),
        ]
        self.begun = time.perf_counter()
        self.pid = os.posix_spawnp(command[0], command, environment, file_actions=actions)
        children.add(self.pid)
        if self.reader:
            self.reader.stdin.close()
        else:
            os.close(log)
        os.close(errors)

    def first_answer(self):
        """Asks until there is an answer, and returns how long that took from exec, in seconds."""
        while True:
            try:
                if self.visit() is not None:
                    return time.perf_counter() - self.begun
            except (ConnectionRefusedError, ConnectionResetError):
                # The server may have been put on this core, where asking again would keep it waiting.
                os.sched_yield()
            if os.waitpid(self.pid, os.WNOHANG)[0] or time.perf_counter() - self.begun > PATIENCE:
                raise RuntimeError(f"{self.server.name}: " + pathlib.Path(self.folder, "stderr").read_text())

    def connect(self):
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=30)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def visit(self):
        """The number that one visitor gets; None for an answer that is no greeting."""
        with self.connect() as connection:
            connection.sendall(LAST_REQUEST)
            return number_in(read_all(connection))

    def cpu_seconds(self):
        return cpu_seconds(self.pid)

    @contextlib.contextmanager
    def stopped(self):
        """Holds the server up for as long as this lasts."""
        os.kill(self.pid, signal.SIGSTOP)
        # proc_pid_stat(5): T is stopped, t stopped by a tracer.
        while pathlib.Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "Tt":
            os.sched_yield()
        yield
        os.kill(self.pid, signal.SIGCONT)

    def stop(self):
        """SIGTERM; each server ends by itself."""
        os.kill(self.pid, signal.SIGTERM)
        os.waitpid(self.pid, 0)
        children.remove(self.pid)
        if self.reader:
            self.reader.wait()
        shutil.rmtree(self.folder)


def read_all(connection):
    answer = b""
    while part := connection.recv(65536):
        answer += part
    return answer


def number_in(answer):
    found = re.search(rb"Visitor count: (\d+)", answer)
    return int(found[1]) if found and answer.startswith(b"HTTP/1.1 200") else None


def numbers_of_crowd(running, at_once, waves):
    """What visitors get who come together, `at_once` of them each time."""
    numbers = []
    for _ in range(waves):
        crowd = [running.connect() for _ in range(at_once)]
        for visitor in crowd:
            visitor.sendall(LAST_REQUEST)
        for visitor in crowd:
            numbers.append(number_in(read_all(visitor)))
            visitor.close()
    return numbers


@dataclasses.dataclass
class Load:
    """What wrk has seen, and what it took: times in microseconds."""

    requests: int
    rate: float
    p50: float
    p99: float
    # What went wrong, if anything.
    faults: list
    cpu: float
    redis_cpu: float
    redis_commands: float
    disturbance: float


def microseconds(text):
    number, unit = re.fullmatch(r"([\d.]+)(us|ms|s|m)", text).groups()
    return float(number) * {"us": 1, "ms": 1e3, "s": 1e6, "m": 6e7}[unit]


def start_wrk(server, connections, seconds, *options, arguments=()):
    """Loads a server with so many connections, each of which asks again at once."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout=10s", *options]
    entrance = f"http://127.0.0.1:{server.port}/"
    return subprocess.Popen([*command, entrance, *arguments], stdout=subprocess.PIPE, text=True)


def requests_in(report):
    return int(re.search(r"(\d+) requests in", report)[1])


def has_errors(report):
    return "Socket errors" in report or "Non-2xx" in report


def wrk(servers, redis, connections, seconds, entrances=None, pause_ms=None, kept=True):
    """Loads each of `entrances`, by default the first server, with so many connections, and accounts
    for all `servers` together. Each connection asks again at once, or after so long on average, unless
    it is not kept: then another takes its place."""
    pids = [server.pid for server in servers]
    readers = [server.reader.pid for server in servers if server.reader]
    count = redis.settled_count()
    redis.forget_commands()
    redis_cpu, cpu = redis.cpu_seconds(), sum(map(cpu_seconds, pids))
    known = sum(map(cpu_seconds, readers)) + time.process_time()
    busy, steal = machine_seconds()
    begun = time.perf_counter()
    options, arguments = ["--latency"], []
    if not kept:
        options += ["-H", "Connection: close"]
    if pause_ms is not None:
        options += ["-s", str(ROOT / "benches/paced.lua")]
        arguments = ["--", str(pause_ms)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    clients = [
        start_wrk(entrance, connections, seconds, *options, arguments=arguments)
        for entrance in entrances or servers[:1]
    ]
    reports = [client.communicate()[0] for client in clients]
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    elapsed = time.perf_counter() - begun
    busy, steal = (now - then for now, then in zip(machine_seconds(), (busy, steal)))
    cpu = sum(map(cpu_seconds, pids)) - cpu
    redis_cpu = redis.cpu_seconds() - redis_cpu
    known = sum(map(cpu_seconds, readers)) + time.process_time() - known
    known += after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    def each(pattern):
        return [re.search(pattern, report)[1] for report in reports]

    requests = sum(map(requests_in, reports))
    counted = redis.settled_count() - count
    expected = requests if servers[0].server.counts else 0
    faults = []
    if any(map(has_errors, reports)):
        faults.append("wrk met errors")
    # When wrk ends, each of its connections may have one visit on its way.
    if not expected <= counted <= expected + connections * len(clients):
        faults.append(f"{requests} answered, {counted} counted")
    return Load(
        requests=requests,
        rate=sum(map(float, each(r"Requests/sec: +([\d.]+)"))),
        p50=statistics.median(map(microseconds, each(r"50% +([\d.]+[a-z]+)"))),
        p99=max(map(microseconds, each(r"99% +([\d.]+[a-z]+)"))),
        faults=faults,
        cpu=cpu / requests * 1e6,
        redis_cpu=redis_cpu / requests * 1e6,
        redis_commands=redis.commands() / requests,
        disturbance=max(0, busy - cpu - redis_cpu - known + steal) / elapsed / CORES,
    )


@contextlib.contextmanager
def on_one_core(server, redis):
    """Keeps all that takes part in a request, wrk too, on one core. Elsewhere a lone request mostly waits for cores
    that have to be woken, and how many those are is the scheduler's choice."""
    cores = os.sched_getaffinity(0)
    members = [*tree(server.pid), redis.process.pid, *([server.reader.pid] if server.reader else [])]
    threads = [0, *(int(thread) for member in members for thread in os.listdir(f"/proc/{member}/task"))]
    for thread in threads:
        os.sched_setaffinity(thread, {min(cores)})
    yield
    for thread in threads:
        os.sched_setaffinity(thread, cores)


def cpu_in_turns(servers, connections, seconds):
    """Server CPU for each request, in microseconds, by the names of the servers. Each is loaded for so many
    seconds, a moment at a time and in random order: what slows the machine down slows all of them."""
    duration = seconds * len(servers) + 1
    clients, figures = {}, {}
    try:
        before = [server.cpu_seconds() for server in servers]
        for server in servers:
            clients[server] = start_wrk(server, connections, duration)
            clients[server].send_signal(signal.SIGSTOP)
        end = time.monotonic() + duration
        for _ in range(round(seconds / TURN)):
            for server in random.sample(servers, len(servers)):
                clients[server].send_signal(signal.SIGCONT)
                time.sleep(TURN)
                clients[server].send_signal(signal.SIGSTOP)
        # Then the time of each wrk is over, or nearly: it reports when it goes on.
        time.sleep(max(0, end - time.monotonic()))
        for server, cpu in zip(servers, before):
            clients[server].send_signal(signal.SIGCONT)
            report = clients[server].communicate()[0]
            if has_errors(report):
                raise RuntimeError(f"{server.server.name}: {report}")
            figures[server.server.name] = (server.cpu_seconds() - cpu) / requests_in(report) * 1e6
    finally:
        for client in clients.values():
            client.kill()
    return figures


class Patience:
    """Measures again what others have disturbed, so many times in all."""

    def __init__(self, repetitions):
        self.left, self.repeated = repetitions, 0

    def undisturbed(self, measure):
        """The least disturbed of at most three measurements."""
        loads = [measure()]
        while loads[-1].disturbance > DISTURBED and len(loads) < 3 and self.left > 0:
            self.left, self.repeated = self.left - 1, self.repeated + 1
            loads.append(measure())
        return min(loads, key=lambda load: load.disturbance)


def first_line(*command):
    output = subprocess.run(command, capture_output=True, text=True)
    return (output.stdout + output.stderr).strip().split("\n")[0]


def description():
    """The machine, in Markdown."""
    cpu = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
    memory_kib = int(re.search(r"MemTotal: +(\d+)", pathlib.Path("/proc/meminfo").read_text())[1])
    commit = first_line("git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*")
    return (
        f"{cpu[1] if cpu else os.uname().machine}, {CORES} cores, {memory_kib / 2**20:.0f} GiB, "
        f"Linux {os.uname().release}; {first_line('rustc', '--version')}; "
        f"{first_line('redis-server', '--version').split(' sha')[0]}; "
        f"{first_line('/usr/sbin/nginx', '-v')}; {first_line('wrk', '-v').split(' Copy')[0]}. "
        f"Commit {commit}, {time.strftime('%Y-%m-%d', time.gmtime())}."
    )


def table(columns, rows):
    """A table in Markdown. What a row lacks does not apply."""
    rows = [row + ["–"] * (len(columns) - len(row)) for row in rows]
    lines = [columns, ["---"] + ["--:"] * (len(columns) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def fill(page, name, text):
    """Puts `text` between the marks of this name on a page."""
    path = ROOT / page
    begin, end = f"<!-- {name}: made by `make bench` -->", f"<!-- end of {name} -->"
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.S)
    whole, found = pattern.subn(lambda _: f"{begin}\n{text.strip()}\n{end}", path.read_text())
    if found != 1:
        raise SystemExit(f"{page} has no place for {name}")
    path.write_text(whole)
