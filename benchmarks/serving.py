"""Serving: requests per CPU-second, latencies, one row in process, and a service under faults, with peers in the same run.

    python benchmarks/serving.py [--seconds 4] [--peers FOLDER]   # a table and the ratios
    python benchmarks/serving.py --latency                        # p99 at 16 connections; at most a minute, on idle cores
    python benchmarks/serving.py --soak 600                       # the service under faults, see soak.py

One model of 100 trees and 20 columns behind each server on loopback, asked by a generator in another process over kept connections. The
peers check shape and finite numbers (Starlette), a pydantic model (FastAPI) or what they check by themselves, and call LightGBM; none
checks a schema, a token or a rate, counts or logs. aimt does all of it: schema, token, rate limit, metrics, log of every answer in SQLite.
CPU time is that of the server's whole process tree, so that the figure does not depend on what else the machine does; wall times do.
MLflow, LitServe and BentoML need other versions of their dependencies: `--peers` names a folder with a virtual environment for each,
called mlflow, litserve and bentoml, with LightGBM in it. One that does not start is named with its error.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import lightgbm as lgb
import numpy as np
import pandas as pd
import psutil
from sklearn.datasets import make_classification

COLUMNS = [f"x{i}" for i in range(20)]
TOKEN = "a-token-for-the-benchmark"


def data() -> tuple[pd.DataFrame, np.ndarray]:
    X, y = make_classification(5000, 20, n_informative=8, random_state=0)
    return pd.DataFrame(X, columns=COLUMNS), y


def booster() -> lgb.Booster:
    X, y = data()
    return lgb.train({"objective": "binary", "num_threads": 1, "verbosity": -1, "seed": 0}, lgb.Dataset(X.to_numpy(), y), 100)


def aimt_model():
    """A run's model whose only member is the same booster."""
    from aimt.models.table.ensemble import WeightedMember
    from aimt.models.table.estimators import TabularClassifier
    from aimt.models.trees.boosting import Member

    X, y = data()
    model = TabularClassifier(time_limit=2, random_state=0, calibrate=False).fit(X, y)
    member = Member(booster(), "binary", 100)
    model.ensemble_ = replace(model.ensemble_, parts=[WeightedMember("trees", 1.0, member)], dense=None)
    return model


def aimt_version():
    from aimt.deploy.serve.batching import Batcher
    from aimt.deploy.serve.request_schema import RequestSchema
    from aimt.deploy.serve.row_scorer import RowScorer
    from aimt.deploy.serve.traffic import Version

    model = aimt_model()
    scorer = RowScorer(model.ensemble_)

    class Served:
        kind, contract = "table", RequestSchema(model.ensemble_.encoder.schema, COLUMNS)

        def score(self, rows):
            return [{"prediction": str(int(p > q)), "probability": p} for q, p in scorer.score(rows).tolist()]

        def about(self):
            return {"predicts": "y"}

    served = Served()
    version = Version("bench", "1", served, Batcher(served.score))
    for _ in range(3):
        version.batcher.measure([dict.fromkeys(COLUMNS, 0.0)])
    return version, scorer


PEERS = {
    "LitServe": (
        "litserve",
        """
import lightgbm as lgb, litserve as ls, numpy as np, sys
class Api(ls.LitAPI):
    def setup(self, device): self.model = lgb.Booster(model_file="model.txt")
    def decode_request(self, request): return np.array(request["x"])
    def predict(self, x): return self.model.predict(x)
    def encode_response(self, output): return {"probability": float(output)}
if __name__ == "__main__":
    api = Api(max_batch_size=16, batch_timeout=0.001)
    ls.LitServer(api, accelerator="cpu").run(port=int(sys.argv[1]), host="127.0.0.1", generate_client_file=False, log_level="error")
""",
        ["{python}", "server.py", "{port}"],
        "/predict",
    ),
    "MLflow": (
        "mlflow",
        """
import lightgbm as lgb, mlflow
mlflow.lightgbm.save_model(lgb.Booster(model_file="model.txt"), "saved")
""",
        ["sh", "-c", "{python} server.py && exec {python} -m mlflow models serve -m saved --env-manager local -h 127.0.0.1 -p {port} -w 1"],
        "/invocations",
    ),
    "BentoML": (
        "bentoml",
        """
import bentoml, lightgbm as lgb, numpy as np
@bentoml.service(workers=1, logging={"access": {"enabled": False}})
class Service:
    def __init__(self): self.model = lgb.Booster(model_file="model.txt")
    @bentoml.api(route="/predict")
    def predict(self, x: list[float]) -> dict: return {"probability": float(self.model.predict(np.array([x]))[0])}
""",
        ["{python}", "-m", "bentoml", "serve", "server:Service", "--host", "127.0.0.1", "--port", "{port}"],
        "/predict",
    ),
}


def start_peer(kind: str, port: int, folder: str, peers: Path) -> psutil.Process:
    """A server of another package, in its own virtual environment. Raises `SystemExit` with its error when it cannot be started."""
    name, script, command, _ = PEERS[kind]
    python = peers / name / "bin" / "python"
    if not python.exists():
        raise SystemExit(f"{python} is not there")
    booster().save_model(f"{folder}/model.txt")
    Path(folder, "server.py").write_text(script)
    home = {"HOME": folder, "BENTOML_HOME": folder, "BENTOML_DO_NOT_TRACK": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | home
    env["PATH"] = f"{python.parent}:{env['PATH']}"
    words = [w.format(python=python, port=port) for w in command]
    with Path(folder, "server.log").open("w") as log:
        return psutil.Popen(words, cwd=folder, env=env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)


def run_server(kind: str, port: int, folder: str) -> None:
    import uvicorn

    options = {"host": "127.0.0.1", "port": port, "access_log": False, "log_level": "error", "http": "httptools", "loop": "uvloop"}
    if kind == "aimt":
        from aimt.deploy.serve.answer_log import AnswerLog
        from aimt.deploy.serve.guards import Guard, RateLimit, read_tokens
        from aimt.deploy.serve.service import Service
        from aimt.deploy.serve.traffic import Route, Traffic

        tokens = Path(folder, "tokens.txt")
        tokens.write_text(TOKEN + "\n")
        service = Service(Traffic({"bench": Route(aimt_version()[0])}), AnswerLog(Path(folder, "log.db")))
        uvicorn.run(
            Guard(service, tokens=read_tokens(tokens), limit=RateLimit(1e6), max_body=50_000_000),
            **options,
            server_header=False,
            date_header=False,
        )
        return
    model = booster()
    if kind == "FastAPI":
        from fastapi import FastAPI
        from pydantic import BaseModel

        class Row(BaseModel):
            x: list[float]

        app = FastAPI()

        @app.post("/predict")
        async def predict(row: Row):
            return {"probability": float(model.predict(np.array([row.x]))[0])}

    else:
        from starlette.applications import Starlette
        from starlette.responses import JSONResponse
        from starlette.routing import Route as Path_

        async def predict(request):
            x = np.array([(await request.json())["x"]], dtype=float)
            if x.shape != (1, 20) or not np.isfinite(x).all():
                return JSONResponse({"error": "20 finite numbers"}, 422)
            return JSONResponse({"probability": float(model.predict(x)[0])})

        app = Starlette(routes=[Path_("/predict", predict, methods=["POST"])])
    uvicorn.run(app, **options)


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def tree(pid: int) -> list[psutil.Process]:
    first = psutil.Process(pid)
    return [first, *first.children(recursive=True)]


def cpu_seconds(pid: int) -> float:
    """Of a process and those that it started."""
    found = [p.cpu_times() for p in tree(pid)]
    return sum(t.user + t.system for t in found)


async def load(port: int, bodies: list[bytes], connections: int, seconds: float, path: str = "/predict") -> list[float]:
    """Latencies in seconds of requests over kept connections."""
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: application/json\r\nContent-Length: "
    messages = [head.encode() + str(len(b)).encode() + b"\r\n\r\n" + b for b in bodies]
    times: list[float] = []
    end = time.perf_counter() + seconds

    async def client(k: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        i = k
        while time.perf_counter() < end:
            start = time.perf_counter()
            writer.write(messages[i % len(messages)])
            reply = await reader.readuntil(b"\r\n\r\n")
            assert reply.startswith(b"HTTP/1.1 200"), reply
            length = int(next(line for line in reply.lower().split(b"\r\n") if line.startswith(b"content-length")).split(b":")[1])
            await reader.readexactly(length)
            times.append(time.perf_counter() - start)
            i += connections
        writer.close()

    await asyncio.gather(*(client(k) for k in range(connections)))
    return times


def wait_for(port: int, seconds: float = 600, path: str = "", body: bytes = b"") -> None:
    """Until a port is open, or with a path until a request to it is answered."""
    for _ in range(int(seconds * 10)):
        try:
            if path:
                asyncio.run(asyncio.wait_for(load(port, [body], 1, 0.01, path), 60))
            else:
                socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except (OSError, EOFError, AssertionError, TimeoutError, StopIteration, RuntimeError):
            time.sleep(0.1)
    raise SystemExit("the server did not start")


def bodies_for(kind: str, X: pd.DataFrame) -> list[bytes]:
    rows = X.head(500).to_dict("records")
    made = {"aimt": dict, "MLflow": lambda row: {"inputs": [list(row.values())]}}.get(kind, lambda row: {"x": list(row.values())})
    return [json.dumps(made(row)).encode() for row in rows]


def stop(pid: int) -> None:
    for process in tree(pid)[::-1]:
        process.terminate()
    _, alive = psutil.wait_procs(tree(pid) if psutil.pid_exists(pid) else [], timeout=10)
    for process in alive:
        process.kill()


def start(kind: str, folder: str, port: int, peers: Path | None) -> int:
    """Start a server; the id of its process."""
    if kind in PEERS:
        assert peers is not None
        return int(start_peer(kind, port, folder, peers).pid)
    process = multiprocessing.get_context("spawn").Process(target=run_server, args=(kind, port, folder))
    process.start()
    return int(process.pid or 0)


def drive(kind: str, pid: int, port: int, seconds: float, connections: tuple[int, ...]) -> dict:
    """Ask a server that was started, and stop it."""
    X, _ = data()
    bodies, path, out = bodies_for(kind, X), PEERS[kind][3] if kind in PEERS else "/predict", {"server": kind}
    try:
        wait_for(port, path=path, body=bodies[0])
        asyncio.run(load(port, bodies, 4, 1, path))  # warm up
        for n in connections:
            before = cpu_seconds(pid)
            times = np.array(asyncio.run(load(port, bodies, n, seconds, path)))
            cpu = cpu_seconds(pid) - before
            p50, p99 = np.percentile(1e3 * times, [50, 99])
            out |= {f"c{n} requests": len(times), f"c{n} req/CPU-s": len(times) / cpu, f"c{n} p50 ms": p50, f"c{n} p99 ms": p99}
        if kind == "aimt" and len(connections) > 1:
            rows = json.dumps({"rows": (X.to_dict("records") * 2)[:10_000]}).encode()
            before = cpu_seconds(pid)
            n = len(asyncio.run(load(port, [rows], 1, seconds)))
            out["rows/CPU-s of 10,000"] = 10_000 * n / (cpu_seconds(pid) - before)
    finally:
        stop(pid)
    return out


def measure(kinds: list[str], seconds: float, connections: tuple[int, ...], peers: Path | None = None) -> pd.DataFrame:
    """Start all servers, and ask one after another; one that does not run is named with its error."""
    found, started = [], []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        for kind in kinds:
            place, port = Path(folder, kind), free_port()
            place.mkdir()
            try:
                started.append((kind, start(kind, str(place), port, peers), port))
            except (SystemExit, OSError) as e:
                print(f"{kind} does not run: {e}", flush=True)
        for kind, pid, port in started:
            try:
                found.append(drive(kind, pid, port, seconds, connections))
            except (SystemExit, OSError, AssertionError, psutil.Error) as e:
                log = Path(folder, kind, "server.log")
                said = log.read_text().strip().splitlines()[-3:] if log.is_file() else []
                print(f"{kind} does not run: {e!r} {' | '.join(said)}", flush=True)
    return pd.DataFrame(found).set_index("server")


def row_times(score, rows: list[dict]) -> float:
    """Median microseconds for one row."""
    times = []
    for row in rows:
        start = time.perf_counter_ns()
        score([row])
        times.append(time.perf_counter_ns() - start)
    return float(np.median(times)) / 1e3


def linear_scorer():
    """A run's model whose only member is linear."""
    from aimt.data.table.features import DenseEncoder
    from aimt.deploy.serve.row_scorer import RowScorer
    from aimt.models.table.baselines import fit_linear
    from aimt.models.table.ensemble import WeightedMember

    X, y = data()
    model = aimt_model()
    encoded = model.ensemble_.encoder.transform(X)
    dense = DenseEncoder(COLUMNS, COLUMNS, {}).fit(encoded)
    weights = fit_linear(dense.transform(encoded), y, task="binary")
    return RowScorer(replace(model.ensemble_, parts=[WeightedMember("linear", 1.0, weights)], dense=dense))


def compact_scorer(folder: str):
    """The ensemble of the main job on the bundled table, compacted; and its rows."""
    import aimt
    from aimt.deploy.serve.row_scorer import RowScorer
    from aimt.jobs.shared.table_model import open_model
    from aimt.jobs.verbs.compact import compact_run

    run = aimt.train(out=f"{folder}/main", time_limit=30, quiet=True)
    small = open_model(compact_run(run, data=None, out=f"{folder}/small", quiet=True))
    rows = json.loads(aimt.load_dataset("german-credit").frame[small.problem.inputs].to_json(orient="records"))
    return RowScorer(small.model.ensemble_), rows


def in_process() -> None:
    """One row from a validated dictionary, without a server."""
    version, scorer = aimt_version()
    X, _ = data()
    rows = X.head(2000).to_dict("records")
    single = np.concatenate([scorer.score([row]) for row in rows])
    apart = np.abs(single - scorer.model.predict(X.head(2000))).max()
    print(f"one row in process, 100 trees: p50 {row_times(scorer.score, rows):.1f} us; largest difference from the batch {apart:.1e}")
    line = linear_scorer()
    apart = np.abs(np.concatenate([line.score([row]) for row in rows]) - line.model.predict(X.head(2000))).max()
    print(f"one row in process, linear: p50 {row_times(line.score, rows):.1f} us; largest difference from the batch {apart:.1e}")
    print(f"checking a row against the schema: p50 {row_times(version.model.contract.check, rows):.1f} us")
    with tempfile.TemporaryDirectory() as folder:
        ensemble, own = compact_scorer(folder)
        print(f"one row in process, compacted ensemble of the main job (30 s of training): p50 {row_times(ensemble.score, own):.1f} us")


def compared(table: pd.DataFrame) -> None:
    """Print the figures, and the ratios to each peer."""
    print(table.T.round(3).to_string(), flush=True)
    for peer in table.index.drop("aimt"):
        ratio = table.loc["aimt", "c16 req/CPU-s"] / table.loc[peer, "c16 req/CPU-s"]
        print(f"aimt / {peer}: {ratio:.2f} x the requests per CPU-second at 16 connections")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--peers", type=Path, help="folder with virtual environments of MLflow, LitServe and BentoML")
    parser.add_argument("--latency", action="store_true", help="p99 at 16 connections of aimt and FastAPI; at most a minute")
    parser.add_argument("--soak", type=float, metavar="SECONDS", help="the service under faults for so long")
    options = parser.parse_args()
    if options.soak:
        from soak import soak

        raise SystemExit(0 if soak(options.soak, 8, 2, 256) else 1)
    if options.latency:
        compared(measure(["FastAPI", "aimt"], 12, (16,)))
        return
    compared(measure(["aimt", "FastAPI", "Starlette", *(PEERS if options.peers else ())], options.seconds, (1, 16), options.peers))
    in_process()


if __name__ == "__main__":
    main()
