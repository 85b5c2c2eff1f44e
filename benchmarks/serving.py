"""Serving: requests per CPU-second of the server, latencies, and rows per second, against FastAPI and Starlette in the same run.

    python benchmarks/serving.py            # about two minutes; prints a table and the ratios

One model of 100 trees and 20 columns behind three servers on loopback, one process each, asked by a generator in another process over
kept connections. The peers check shape and finite numbers (Starlette) or a pydantic model (FastAPI) and call LightGBM; neither checks
a schema, a token or a rate, counts or logs. aimt does all of it: schema, token, rate limit, metrics, log of every answer in SQLite.
CPU time is that of the whole server process, so that the figure does not depend on what else the machine does; wall times do.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import signal
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
        version.batcher._timed([dict.fromkeys(COLUMNS, 0.0)])
    return version, scorer


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


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def load(port: int, bodies: list[bytes], connections: int, seconds: float) -> list[float]:
    """Latencies in seconds of requests over kept connections."""
    head = f"POST /predict HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: application/json\r\nContent-Length: "
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


def wait_for(port: int) -> None:
    for _ in range(600):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise SystemExit("the server did not start")


def measure(kind: str, seconds: float) -> dict:
    X, _ = data()
    bodies = [json.dumps(dict(row) if kind == "aimt" else {"x": list(row.values())}).encode() for row in X.head(500).to_dict("records")]
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        process = multiprocessing.get_context("spawn").Process(target=run_server, args=(kind, port, folder))
        process.start()
        try:
            wait_for(port)
            asyncio.run(load(port, bodies, 4, 2))  # warm up
            out = {"server": kind}
            for connections in (1, 16):
                before = cpu_seconds(process.pid)
                times = np.array(asyncio.run(load(port, bodies, connections, seconds)))
                cpu = cpu_seconds(process.pid) - before
                p50, p99 = np.percentile(1e3 * times, [50, 99])
                out |= {f"c{connections} req/CPU-s": len(times) / cpu, f"c{connections} p50 ms": p50, f"c{connections} p99 ms": p99}
            if kind == "aimt":
                rows = json.dumps({"rows": (X.to_dict("records") * 2)[:10_000]}).encode()
                before = cpu_seconds(process.pid)
                n = len(asyncio.run(load(port, [rows], 1, 5)))
                out["rows/CPU-s of 10,000"] = 10_000 * n / (cpu_seconds(process.pid) - before)
        finally:
            process.terminate()
            process.join()
    return out


def in_process() -> None:
    """One row from a validated dictionary, without a server."""
    version, scorer = aimt_version()
    X, _ = data()
    rows = X.head(2000).to_dict("records")
    times = []
    for row in rows:
        start = time.perf_counter_ns()
        scorer.score([row])
        times.append(time.perf_counter_ns() - start)
    single = np.concatenate([scorer.score([row]) for row in rows])
    apart = np.abs(single - scorer.model.predict(X.head(2000))).max()
    print(f"one row in process: p50 {np.median(times) / 1e3:.1f} us; largest difference from the batch {apart:.1e}")
    times = []
    for row in rows:
        start = time.perf_counter_ns()
        version.model.contract.check([row])
        times.append(time.perf_counter_ns() - start)
    print(f"checking a row against the schema: p50 {np.median(times) / 1e3:.1f} us")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=8)
    options = parser.parse_args()
    in_process()
    table = pd.DataFrame([measure(kind, options.seconds) for kind in ("Starlette", "FastAPI", "aimt")]).set_index("server")
    print(table.T.round(3).to_string())
    for peer in ("Starlette", "FastAPI"):
        ratio = table.loc["aimt", "c16 req/CPU-s"] / table.loc[peer, "c16 req/CPU-s"]
        print(f"aimt / {peer}: {ratio:.2f} x the requests per CPU-second at 16 connections")
