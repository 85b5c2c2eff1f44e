"""A run as a service: real processes, real sockets, and what they must survive."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import aimt
from aimt.deploy.serve.answer_log import read_log
from aimt.deploy.serve.row_scorer import RowScorer
from aimt.jobs.operate.champion import champion_of
from aimt.jobs.operate.retrain import promote, read_challenges

pytest.importorskip("uvicorn", reason="the extra 'serve' is not installed")

pytestmark = pytest.mark.usefixtures("no_drawing")


def table(n: int, seed: int, turned: bool = False) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {"size": rng.normal(50, 12, n).round(1), "age": rng.integers(18, 80, n), "town": rng.choice(["Graz", "Wien", "Linz"], n)}
    )
    z = (frame["size"] - 50) / 8 * (-1 if turned else 1) + (frame["town"] == "Wien") - 0.4
    return frame.assign(bought=np.where(rng.random(n) < 1 / (1 + np.exp(-z)), "yes", "no"))


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop")
    table(700, 0).to_csv(folder / "old.csv", index=False)
    aimt.train(folder / "old.csv", target="bought", time_limit=1, out=folder / "runs" / "shop", quiet=True)
    return folder


class Service:
    """`aimt serve` in a process of its own."""

    def __init__(self, *words: str | Path, env: dict[str, str] | None = None):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        command = [sys.executable, "-m", "aimt", "serve", *map(str, words), "--port", str(self.port)]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, env=os.environ | (env or {}))
        for _ in range(600):
            try:
                if self.get("/ready")[0] == 200:
                    return
            except OSError:
                pass
            if self.process.poll() is not None:
                break
            time.sleep(0.1)
        raise AssertionError((self.process.stderr.read() if self.process.poll() is not None else b"not ready").decode())

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, dict]:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body, {k.replace("_", "-"): v for k, v in headers.items()})
            reply = connection.getresponse()
            text = reply.read()
            return reply.status, json.loads(text) if reply.getheader("content-type") == "application/json" else text.decode()
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> tuple[int, dict]:
        return self.ask("GET", path, **headers)

    def post(self, path: str, value: object, **headers: str) -> tuple[int, dict]:
        return self.ask("POST", path, value if isinstance(value, bytes) else json.dumps(value).encode(), **headers)

    def stop(self, how: int = signal.SIGTERM) -> str:
        self.process.send_signal(how)
        return self.process.communicate(timeout=40)[1].decode()

    def __enter__(self) -> "Service":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()


def rows_of(frame: pd.DataFrame) -> list[dict]:
    return json.loads(frame.drop(columns="bought").to_json(orient="records"))


# --- the same predictions everywhere --------------------------------------------------------------------------------


def test_row_by_row_in_a_batch_in_a_file_and_offline_the_predictions_are_the_same(shop, tmp_path):
    frame = table(120, 5)
    frame.loc[3, "size"], frame.loc[4, "town"], frame.loc[5, "age"] = None, None, 200
    frame.loc[6, "town"] = "Paris"
    offline = aimt.predict(shop / "runs/shop", frame.drop(columns="bought"), quiet=True)["probability"].to_numpy()
    rows = rows_of(frame)
    with Service(shop / "runs/shop", "--rate", "0", "--log", tmp_path / "log.db") as service:
        batch = [p["probability"] for p in service.post("/predict", {"rows": rows})[1]["predictions"]]
        single = [service.post("/predict", row)[1]["predictions"][0]["probability"] for row in rows]
        text = frame.drop(columns="bought").to_csv(index=False).encode()
        answer = service.post("/predict", text, content_type="text/csv")[1]
        file = [p["probability"] for p in answer["predictions"]]
        assert service.post("/feedback", {"answer": answer["id"], "row": 7, "outcome": "yes"})[0] == 200
        path = shop / "rows.parquet"
        frame.drop(columns="bought").to_parquet(path)
        parquet = service.post("/predict", path.read_bytes(), content_type="application/vnd.apache.parquet")[1]["predictions"]
        service.stop()
    log = read_log(tmp_path / "log.db").set_index(["id", "row_number"])
    assert len(log) == 4 * len(frame) and log.loc[(answer["id"], 7), "outcome"] == "yes"
    assert log.loc[(answer["id"], 7), "input"] == rows[7] and log.loc[(answer["id"], 7), "output"] == answer["predictions"][7]
    assert np.abs(np.array(batch) - offline).max() < 1e-7
    assert np.abs(np.array(single) - offline).max() < 1e-7  # networks reckon in 32 bits; trees alone: 0
    assert np.abs(np.array(file) - offline).max() == 0
    assert np.abs(np.array([p["probability"] for p in parquet]) - offline).max() == 0


def test_the_scorer_of_rows_equals_the_batch_for_every_task():
    frame = table(300, 1)
    X = frame[["size", "age", "town"]]
    rows = json.loads(X.to_json(orient="records"))
    for name, y in {
        "binary": frame["bought"],
        "classes": frame["town"] + frame["bought"],
        "number": frame["size"] * 2 + frame["age"],
    }.items():
        kind = aimt.TabularRegressor if name == "number" else aimt.TabularClassifier
        model = kind(time_limit=1, random_state=0).fit(X, y)
        whole = model.predict_raw(X)
        scorer = RowScorer(model.ensemble_)
        scale = 1 + np.abs(whole)
        assert (np.abs(np.concatenate([scorer.score([row]) for row in rows[:60]]) - whole[:60]) / scale[:60]).max() < 1e-6, name
        assert (np.abs(scorer.score(rows) - whole) / scale).max() == 0, name


# --- bad input --------------------------------------------------------------------------------------------------------

BAD = {
    "no json": (b"{", 400),
    "not utf-8": (b'{"size": "\xff"}', 400),
    "nan": (b'{"size": NaN, "age": 3, "town": "Graz"}', 422),
    "infinity": (b'{"size": -Infinity, "age": 3, "town": "Graz"}', 422),
    "too large a number": (b'{"size": 1e999, "age": 3, "town": "Graz"}', (400, 422)),
    "5,000 digits": (b'{"size": ' + b"9" * 5000 + b', "age": 3, "town": "Graz"}', (400, 422)),
    "100,000 deep": (b"[" * 100_000, 400),
    "deep object": (b'{"a":' * 5000 + b"1" + b"}" * 5000, (400, 422)),
    "a number": (b"3", 422),
    "null": (b"null", 422),
    "empty list": (b"[]", 422),
    "empty body": (b"", 400),
    "list of numbers": (b"[1, 2]", 422),
    "missing field": (b'{"size": 3, "age": 3}', 422),
    "text for a number": (b'{"size": "12,5", "age": 3, "town": "Graz"}', 422),
    "true for a number": (b'{"size": true, "age": 3, "town": "Graz"}', 422),
    "list for a category": (b'{"size": 1, "age": 3, "town": ["Graz"]}', 422),
    "lone surrogate": (b'{"size": 1, "age": 3, "town": "\\ud800"}', (200, 400)),
    "control characters": (b'{"size": 1, "age": 3, "town": "a\\u0000\\u001b[2J"}', 200),
    "emoji": ('{"size": 1, "age": 3, "town": "🏠"}'.encode(), 200),
    "a formula": (b'{"size": 1, "age": 3, "town": "=cmd|calc!A1"}', 200),
    "nothing known": (b'{"size": null, "age": null, "town": null}', 200),
    "another field": (b'{"size": 1, "age": 3, "town": "Graz", "__proto__": {"x": 1}, "": 2}', 200),
}


def test_bad_input_is_answered_and_never_breaks_the_service(shop):
    with Service(shop / "runs/shop", "--rate", "0", "--max-body-mb", "1") as service:
        for name, (body, wanted) in BAD.items():
            status, answer = service.post("/predict", body)
            assert status in (wanted if isinstance(wanted, tuple) else (wanted,)), (name, status, answer)
            assert status == 200 or (answer["error"] and len(json.dumps(answer)) < 100_000), name
        fault = service.post("/predict", {"size": "12,5", "age": [], "town": "Graz"})[1]["faults"]
        assert [(f["field"], f["got"]) for f in fault] == [("size", "'12,5'"), ("age", "a list")]
        assert "never met in training" in service.post("/predict", {"size": 1, "age": 30, "town": "Paris"})[1]["warnings"][0]
        assert service.post("/predict", b"x" * 1_000_001)[0] == 413
        for path in ("/../../etc/passwd", "/predict/..", "/%2e%2e/run.json", "/runs/shop/run.json", "/predict%00", "//predict"):
            assert service.get(path)[0] in (404, 405), path
        assert service.post("/predict?model=../../other", {"size": 1})[0] == 422
        assert service.ask("DELETE", "/predict")[0] == 405
        for kind in ("application/vnd.apache.parquet", "application/vnd.apache.arrow.stream", "text/csv"):
            status, answer = service.post("/predict", b"PAR1 no such thing", content_type=kind)
            assert status == 422, (kind, answer)
        with socket.create_connection(("127.0.0.1", service.port)) as raw:  # a request that is none
            raw.sendall(b"GET / HTTP/1.1\r\nX: \x00\r\n" + b"A" * 100_000 + b"\r\n\r\n")
            raw.settimeout(10)
            raw.recv(1000)
        assert service.post("/predict", {"size": 50, "age": 30, "town": "Wien"})[0] == 200
        assert "Traceback" not in service.stop()


def test_tokens_rates_and_addresses(shop, tmp_path):
    tokens = tmp_path / "tokens.txt"
    tokens.write_text("a-token-that-nobody-guesses\n")
    row = {"size": 50, "age": 30, "town": "Wien"}
    with Service(shop / "runs/shop", "--token-file", tokens, "--rate", "20") as service:
        assert service.post("/predict", row)[0] == 401
        assert service.post("/predict", row, authorization="Bearer wrong")[0] == 401
        assert service.get("/schema")[0] == 401 and service.get("/health")[0] == 200
        mine = {"authorization": "Bearer a-token-that-nobody-guesses"}
        found = [service.post("/predict", row, **mine)[0] for _ in range(80)]
        assert set(found) == {200, 429} and found[:20] == [200] * 20
    done = subprocess.run(
        [sys.executable, "-m", "aimt", "serve", str(shop / "runs/shop"), "--host", "0.0.0.0"], capture_output=True, text=True
    )
    assert done.returncode == 2 and "--token-file" in done.stderr, done


# --- nothing acknowledged is lost ---------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_outcomes_survive_kill_9_and_sigterm_lets_requests_end(shop, tmp_path):
    log = tmp_path / "log.db"
    acknowledged: dict[str, int] = {}
    with Service(shop / "runs/shop", "--rate", "0", "--log", log) as service:

        def client(k: int) -> None:
            for i in range(1000):
                answer = service.post("/predict", {"size": 50, "age": 30, "town": "Wien"})[1]["id"]
                assert service.post("/feedback", {"answer": answer, "outcome": k * 1000 + i})[0] == 200
                acknowledged[answer] = k * 1000 + i

        with ThreadPoolExecutor(4) as pool:
            clients = [pool.submit(client, k) for k in range(4)]
            while len(acknowledged) < 100:
                time.sleep(0.05)
            service.process.kill()
        assert all(isinstance(c.exception(), OSError | ValueError | Exception) for c in clients)
    import sqlite3

    kept = dict(sqlite3.connect(log).execute("SELECT answer, outcome FROM outcomes").fetchall())
    lost = [answer for answer, value in acknowledged.items() if kept.get(answer) != str(value)]
    assert len(acknowledged) >= 100 and not lost
    with Service(shop / "runs/shop", "--rate", "0", "--log", log) as service:  # the log is taken up again
        answer = service.post("/predict", {"size": 50, "age": 30, "town": "Wien"})[1]
        assert service.post("/feedback", {"answer": answer["id"], "outcome": "yes"})[0] == 200
        service.stop(signal.SIGTERM)
        assert service.process.returncode == 0 or service.process.returncode == -signal.SIGTERM
    found = read_log(log, model="shop").set_index("id")
    assert found.loc[answer["id"], "outcome"] == "yes" and found.loc[answer["id"], "input"]["town"] == "Wien"


def test_a_log_that_cannot_be_written_stops_feedback_and_not_predictions(shop, tmp_path):
    log = tmp_path / "log.db"
    with Service(shop / "runs/shop", "--rate", "0", "--log", log) as service:
        import sqlite3

        with sqlite3.connect(log) as other:
            other.execute("DROP TABLE outcomes")
        answer = service.post("/predict", {"size": 50, "age": 30, "town": "Wien"})
        assert answer[0] == 200
        status, told = service.post("/feedback", {"answer": answer[1]["id"], "outcome": "yes"})
        assert status == 503 and "not written" in told["error"]
        assert service.post("/predict", {"size": 50, "age": 30, "town": "Wien"})[0] == 200
        assert 'aimt_log_answers{state="failed transactions"} 1.0' in service.get("/metrics")[1]


# --- the whole round ------------------------------------------------------------------------------------------------------


def test_train_serve_feed_back_drift_retrain_promote_swap_roll_back(shop, tmp_path):
    run, log = shop / "runs/shop", tmp_path / "log.db"
    turned = table(900, 7, turned=True)
    with Service(run, "--rate", "0", "--log", log) as service:
        before = service.get("/schema")[1]["models"]["shop"]["version"]
        for start in range(0, 900, 100):
            part = turned.iloc[start : start + 100]
            made = service.post("/predict", {"rows": rows_of(part)})[1]
            told = [{"answer": made["id"], "row": i, "outcome": y} for i, y in enumerate(part["bought"])]
            assert service.post("/feedback", told)[1] == {"written": 100}
        done = subprocess.run(
            [sys.executable, "-m", "aimt", "watch", str(run), "--log", str(log), "--once", "--time-limit", "2", "--json"],
            capture_output=True,
            text=True,
        )
        found = json.loads(done.stdout)
        assert found["reason"] == "decay" and found["promoted"], (found, done.stderr)
        for _ in range(100):
            after = service.get("/schema")[1]["models"]["shop"]["version"]
            if after != before:
                break
            time.sleep(0.1)
        assert after != before
        answer = service.post("/predict", rows_of(turned)[0])[1]
        assert answer["version"] == after and answer["model"] == "shop"
        assert subprocess.run([sys.executable, "-m", "aimt", "rollback", str(run)], capture_output=True).returncode == 0
        for _ in range(100):
            if service.get("/schema")[1]["models"]["shop"]["version"] == before:
                break
            time.sleep(0.1)
        assert service.get("/schema")[1]["models"]["shop"]["version"] == before
        challenger = run.parent / read_challenges(run)[-1]["challenger"]
        (challenger / "model" / "model.json").write_text("{}")  # damaged: it must not answer
        (run / "champion.json").write_text(json.dumps({"run": challenger.name, "since": 0.0, "history": []}))
        time.sleep(2.5)
        assert service.get("/schema")[1]["models"]["shop"]["version"] == before
        (run / "champion.json").unlink()
        assert "cannot be opened" in service.stop()
    assert champion_of(run) == run


@pytest.mark.slow
def test_swaps_under_load_lose_no_request(shop, tmp_path):
    runs = tmp_path / "runs"
    import shutil

    for name in ("shop", "other"):
        shutil.copytree(shop / "runs/shop", runs / name)
    with Service(runs / "shop", "--rate", "0") as service:

        def client(_: int) -> list[int]:
            return [service.post("/predict", {"size": 50, "age": 30, "town": "Wien"})[0] for _ in range(150)]

        with ThreadPoolExecutor(4) as pool:
            clients = [pool.submit(client, k) for k in range(4)]
            for _ in range(3):
                promote(runs / "shop", runs / "other")
                time.sleep(1.2)
                (runs / "shop" / "champion.json").unlink()
                time.sleep(0.3)
        assert {status for c in clients for status in c.result()} == {200}


def test_a_canary_answers_its_share_and_a_shadow_is_only_logged(shop, tmp_path):
    log = tmp_path / "log.db"
    run = shop / "runs/shop"
    with Service(run, "--rate", "0", "--log", log, "--canary", f"{run}:30%", "--shadow", run) as service:
        for i in range(200):
            assert service.post("/predict", {"size": 50, "age": 30, "town": "Wien"}, x_client_key=f"customer {i}")[0] == 200
        service.stop()
    found = read_log(log, roles=("champion", "canary", "shadow"))["role"].value_counts()
    assert found["champion"] + found["canary"] == 200 and 30 <= found["canary"] <= 90 and found["shadow"] == 200


@pytest.mark.slow
def test_several_processes_share_a_port_and_a_log(shop, tmp_path):
    log = tmp_path / "log.db"
    with Service(shop / "runs/shop", "--rate", "0", "--log", log, "--workers", "2") as service:
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda _: service.post("/predict", {"size": 50, "age": 30, "town": "Wien"}), range(200)))
        assert {status for status, _ in found} == {200}
        told = [service.post("/feedback", {"answer": answer["id"], "outcome": 1})[0] for _, answer in found[:20]]
        assert told == [200] * 20
        time.sleep(1.5)
        counted = [float(line.split()[-1]) for line in service.get("/metrics")[1].splitlines() if line.startswith("aimt_rows_total")]
        assert sum(counted) == 200  # of all processes
        service.stop()
    assert len(read_log(log)) == 200


def test_a_policy_decides_learns_and_survives(tmp_path):
    contexts = table(100, 0).drop(columns="bought")
    contexts.to_csv(tmp_path / "contexts.csv", index=False)
    command = [sys.executable, "-m", "aimt", "policy", str(tmp_path / "offers"), str(tmp_path / "contexts.csv"), "--actions", "none,gift"]
    assert subprocess.run([*command, "--min-propensity", "0.1"], capture_output=True).returncode == 0
    row = rows_of(table(1, 0))[0]
    for killed in (True, False):
        with Service("--policy", tmp_path / "offers", "--rate", "0") as service:
            for _ in range(20):
                status, made = service.post("/decide", {"context": row})
                assert status == 200 and made["action"] in ("none", "gift") and 0.1 <= made["propensity"] <= 0.9
                assert service.post("/feedback", {"answer": made["id"], "outcome": float(made["action"] == "gift")})[1]["written"] == 1
            service.stop(signal.SIGKILL if killed and sys.platform != "win32" else signal.SIGTERM)
    from aimt.decide.decision_state import read_log as read_decisions

    assert len(read_decisions(tmp_path / "offers")[1].rewards) == 40


# --- many, slow and vanishing clients --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_thousand_clients_at_once_are_answered_or_told_to_come_again(shop):
    import asyncio

    body = json.dumps({"size": 50, "age": 30, "town": "Wien"}).encode()
    message = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)

    async def client(port: int) -> int:
        reader, writer = await asyncio.wait_for(asyncio.open_connection("127.0.0.1", port), 30)
        writer.write(message)
        status = int((await asyncio.wait_for(reader.readline(), 30)).split()[1])
        writer.close()
        return status

    async def all_of(port: int, n: int) -> list[int]:
        return await asyncio.gather(*(client(port) for _ in range(n)))

    with Service(shop / "runs/shop", "--rate", "0") as service:
        found = asyncio.run(all_of(service.port, 1000))
        assert set(found) <= {200, 503} and found.count(200) >= 500, {s: found.count(s) for s in set(found)}
        assert service.post("/predict", body)[0] == 200
        assert "Traceback" not in service.stop()


@pytest.mark.slow
def test_slow_and_vanishing_clients_do_not_stop_others(shop):
    with Service(shop / "runs/shop", "--rate", "0") as service:
        slow = [socket.create_connection(("127.0.0.1", service.port)) for _ in range(50)]
        for i, client in enumerate(slow):
            client.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{" if i % 2 else b"POST /pre")
        for client in slow[:25]:
            client.close()  # in the middle of a request
        for _ in range(20):
            assert service.post("/predict", {"size": 50, "age": 30, "town": "Wien"})[0] == 200
        for client in slow[25:]:
            client.close()
        assert "Traceback" not in service.stop()


def test_the_service_checks_what_it_is_asked(shop, tmp_path):
    mark = shop / "runs" / "shop" / "watch.jsonl"  # of the watch that retrains; there when another test has used it
    before = mark.read_bytes() if mark.exists() else None
    moved = table(120, 9).assign(size=lambda t: t["size"] + 30).drop(columns="bought")
    with Service(shop / "runs" / "shop", "--log", tmp_path / "log.db", "--watch", "1") as service:
        assert service.get("/status")[1]["checks"] == {"shop": None}
        assert service.ask("POST", "/predict", json.dumps({"rows": moved.to_dict("records")}).encode())[0] == 200
        end = time.monotonic() + 90
        while (found := service.get("/status")[1]["checks"]["shop"]) is None and time.monotonic() < end:
            time.sleep(0.2)
        assert found["rows"] == 120 and found["problem"] is None
        assert any(alert.startswith("inputs: 'size'") for alert in found["alerts"])
        assert f'aimt_check_alerts{{model="shop"}} {float(len(found["alerts"]))}' in service.get("/metrics")[1]
    assert (mark.read_bytes() if mark.exists() else None) == before
    (shop / "runs" / "shop" / "checks.jsonl").unlink()
