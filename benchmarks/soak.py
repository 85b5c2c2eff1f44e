"""A service under faults: workers killed, models swapped, the store slow, the disk full, while every reply is compared.

    python benchmarks/soak.py [--seconds 600] [--connections 8] [--workers 2]

`aimt serve` runs with several workers and a log on a disk of its own, a few hundred megabytes small (Linux, as root; elsewhere the disk is never
full). A load generator keeps connections open, sends one to three rows of a table, and compares each reply with the predictions that
`aimt predict` made beforehand for the version that the reply names. For every fourth reply it sends an outcome, and remembers those that
were acknowledged. Meanwhile a fault every few seconds, by turns: kill -9 of a worker while another is ready, a promotion or its rollback, a
lock on the store that is held for two seconds, a disk without a free byte for four. A request whose connection broke is sent again, as clients do; it is lost
when it has no reply after 30 seconds. At the end SIGTERM, and the store is compared with what was acknowledged.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import numpy as np
import psutil

import aimt
from aimt.jobs.operate.retrain import promote, rollback
from aimt.jobs.operate.served_run import served_version
from serving import free_port, wait_for

TARGET = "credit_risk"
TOLERANCE = 1e-6  # Networks reckon in 32 bits
PATIENCE = 30.0  # Seconds after which a request without a reply is lost
FAULTS = ("worker killed", "model swapped", "store slow", "disk full")


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[bool]:
    """A file system of its own at this folder; says whether it could be made."""
    folder.mkdir()
    made = not subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)], capture_output=True).returncode
    try:
        yield made
    finally:
        if made:
            subprocess.run(["umount", str(folder)], check=False)


class Load:
    """Requests and outcomes, and what came of them."""

    def __init__(self, port: int, rows: list[dict], expected: dict[str, np.ndarray]):
        self.port, self.rows, self.expected = port, rows, expected  # Probabilities of every row, by version
        self.count: Counter[str] = Counter()
        self.statuses: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.versions: Counter[str] = Counter()
        self.acknowledged: dict[tuple[str, int], str] = {}
        self.largest = 0.0
        self.slowest = 0.0

    async def ask(self, connection: list, path: str, value: object) -> tuple[int, dict] | None:
        """One reply; a broken connection is opened again. None when there is none in time."""
        body = json.dumps(value).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        begin = time.perf_counter()
        while time.perf_counter() - begin < PATIENCE:
            try:
                if not connection:
                    connection[:] = await asyncio.open_connection("127.0.0.1", self.port)
                connection[1].write(head + body)
                reply = await asyncio.wait_for(connection[0].readuntil(b"\r\n\r\n"), PATIENCE)
                length = int(next(line for line in reply.lower().split(b"\r\n") if line.startswith(b"content-length")).split(b":")[1])
                text = await asyncio.wait_for(connection[0].readexactly(length), PATIENCE)
                self.slowest = max(self.slowest, time.perf_counter() - begin)
                return int(reply.split(b" ", 2)[1]), json.loads(text)
            except (OSError, EOFError, TimeoutError):
                if connection:
                    self.count["broken connections"] += 1
                    connection[1].close()
                connection.clear()
                await asyncio.sleep(0.05)
        return None

    def compare(self, picked: list[int], reply: dict) -> None:
        self.versions[reply["version"]] += 1
        found = np.array([p["probability"] for p in reply["predictions"]])
        expected = self.expected[reply["version"]][picked]
        apart = float(np.abs(found - expected).max()) if found.shape == expected.shape else np.inf
        self.largest = max(self.largest, apart)
        if apart > TOLERANCE:
            self.wrong.append(f"rows {picked}, version {reply['version']}: {apart}")

    async def client(self, k: int, until: float) -> None:
        rng, connection, i = random.Random(k), [], 0
        while time.perf_counter() < until:
            i += 1
            picked = [rng.randrange(len(self.rows)) for _ in range(rng.randint(1, 3))]
            answer = await self.ask(connection, "/predict", {"rows": [self.rows[j] for j in picked]})
            self.count["requests"] += 1
            if answer is None:
                self.count["lost"] += 1
                continue
            self.statuses[f"predict {answer[0]}"] += 1
            if answer[0] != 200:
                continue
            self.compare(picked, answer[1])
            if i % 4 == 0:
                outcome = rng.choice(["good", "bad"])
                told = await self.ask(connection, "/feedback", {"answer": answer[1]["id"], "row": 0, "outcome": outcome})
                self.statuses[f"feedback {told[0] if told else 'none'}"] += 1
                if told and told[0] == 200:
                    self.acknowledged[answer[1]["id"], 0] = outcome
        if connection:
            connection[1].close()


class Faults:
    """Faults by turns, a few seconds apart."""

    def __init__(self, server: subprocess.Popen, log: Path, runs: Path, disk: bool, start: float):
        self.server, self.log, self.runs = server, log, runs
        self.start = start  # Seconds that a worker needs until it is ready
        self.kinds = FAULTS if disk else FAULTS[:3]
        self.count: Counter[str] = Counter()
        self.swapped = False

    async def go(self, until: float) -> None:
        for i in range(10**6):
            if time.perf_counter() > until - 6:
                return
            kind = self.kinds[i % len(self.kinds)]
            self.count[kind] += bool(await getattr(self, kind.replace(" ", "_"))())
            await asyncio.sleep(2)

    def workers(self) -> list[psutil.Process]:
        return [p for p in psutil.Process(self.server.pid).children() if "spawn_main" in " ".join(p.cmdline())]

    async def worker_killed(self) -> bool:
        """Unless it is the last one that is ready: no pool survives that."""
        ready = [p for p in self.workers() if time.time() - p.create_time() > self.start]
        if len(ready) >= 2:
            os.kill(random.Random(sum(self.count.values())).choice(ready).pid, signal.SIGKILL)
        return len(ready) >= 2

    async def model_swapped(self) -> bool:
        if self.swapped:
            rollback(self.runs / "a")
        else:
            promote(self.runs / "a", self.runs / "b", why="soak")
        self.swapped = not self.swapped
        return True

    async def store_slow(self) -> bool:
        with contextlib.closing(sqlite3.connect(self.log, timeout=20, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            await asyncio.sleep(2)
            other.execute("ROLLBACK")
        return True

    async def disk_full(self) -> bool:
        filler = self.log.parent / "filler"
        try:
            with filler.open("wb", buffering=0) as file:
                free = os.statvfs(filler.parent)
                with contextlib.suppress(OSError):  # the server writes too
                    os.posix_fallocate(file.fileno(), 0, max(int(0.98 * free.f_bavail) * free.f_bsize, 1))
                file.seek(0, os.SEEK_END)
                for size in (65_536, 1):
                    with contextlib.suppress(OSError):
                        while file.write(b"\0" * size):
                            pass
            await asyncio.sleep(4)
            return True
        finally:
            filler.unlink(missing_ok=True)


def kept(log: Path) -> tuple[dict[tuple[str, int], str], int]:
    """Outcomes of the store, and how many answers it has."""
    with contextlib.closing(sqlite3.connect(log)) as store:
        outcomes = {(a, n): json.loads(o) for a, n, o in store.execute("SELECT answer, row_number, outcome FROM outcomes")}
        return outcomes, store.execute("SELECT count(*) FROM answers").fetchone()[0]


async def storm(load: Load, faults: Faults, connections: int, seconds: float) -> None:
    until = time.perf_counter() + seconds
    await asyncio.gather(faults.go(until), *(load.client(k, until) for k in range(connections)))


def soak(seconds: float, connections: int, workers: int, disk_mb: int) -> bool:
    loans = aimt.load_dataset("german-credit").frame.sample(frac=1, random_state=0).reset_index(drop=True)
    X = loans.drop(columns=TARGET)
    with tempfile.TemporaryDirectory() as folder, small_disk(Path(folder) / "disk", disk_mb) as disk:
        runs, log = Path(folder) / "runs", Path(folder) / "disk" / "log.db"
        for name, part in (("a", loans.head(500)), ("b", loans.tail(500))):
            aimt.train(part, target=TARGET, time_limit=1, out=runs / name, quiet=True)
        expected = {served_version(runs / n).version: aimt.predict(runs / n, X, quiet=True)["probability"].to_numpy() for n in "ab"}
        command = [sys.executable, "-m", "aimt", "serve", runs / "a", "--log", log, "--rate", "0", "--workers", workers, "--quiet"]
        port = free_port()
        begin = time.perf_counter()
        server = subprocess.Popen([*map(str, command), "--port", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        try:
            wait_for(port)
            with urlopen(f"http://127.0.0.1:{port}/ready", timeout=120):
                start = time.perf_counter() - begin
            load, faults = Load(port, json.loads(X.to_json(orient="records")), expected), Faults(server, log, runs, disk, start)
            begin = time.perf_counter()
            asyncio.run(storm(load, faults, connections, seconds))
            lasted = time.perf_counter() - begin
            server.terminate()
            said = server.communicate(timeout=300)[1]
        finally:
            if server.poll() is None:
                server.kill()
        return report(load, faults, lasted, server.returncode, said, *kept(log))


def report(load: Load, faults: Faults, seconds: float, code: int, said: str, outcomes: dict, answers: int) -> bool:
    """Print what happened; whether nothing was lost."""
    gone = sum(outcomes.get(key) != outcome for key, outcome in load.acknowledged.items())
    print(f"{seconds:.0f} seconds; faults: {', '.join(f'{n} x {kind}' for kind, n in faults.count.items())}")
    print(f"{load.count['requests']:,} requests; {load.count['broken connections']:,} connections broke and were opened again")
    print(f"replies: {', '.join(f'{n:,} x {status}' for status, n in sorted(load.statuses.items()))}")
    print(f"versions that answered: {', '.join(f'{n:,} x {v}' for v, n in load.versions.items())}")
    print(
        f"lost requests: {load.count['lost']}; wrong replies: {len(load.wrong)}; largest difference from `aimt predict` {load.largest:.1e}"
    )
    print(f"outcomes acknowledged: {len(load.acknowledged):,}; of them missing or different in the store: {gone}")
    print(f"answers in the store: {answers:,}; slowest reply {load.slowest:.1f} s; the server ended with {code}")
    for line in (*load.wrong[:3], *said.strip().splitlines()[-3:]):
        print(f"  {line}")
    return not (load.count["lost"] or load.wrong or gone)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--disk-mb", type=int, default=256, help="size of the disk of the log")
    a = parser.parse_args()
    raise SystemExit(0 if soak(a.seconds, a.connections, a.workers, a.disk_mb) else 1)
