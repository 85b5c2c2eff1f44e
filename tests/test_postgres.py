"""The log of a service in a real PostgreSQL server, started by the test from the system's own binaries."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from aimt.core.errors import RunError
from aimt.deploy.serve.answer_log import Answer, AnswerLog, Outcome, read_log

pytest.importorskip("psycopg", reason="the extra 'postgres' is not installed")


def binaries() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb")) or [Path(p) for p in [shutil.which("initdb")] if p]
    return found[-1].parent if found else None


def user() -> list[str]:
    """PostgreSQL does not run as root: a command before which it runs as its own user."""
    return ["runuser", "-u", "postgres", "--"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []


@pytest.fixture(scope="module")
def server():
    place = binaries()
    if place is None:
        pytest.skip("there is no PostgreSQL on this machine (Debian: apt-get install postgresql)")
    folder = Path(tempfile.mkdtemp(prefix="aimt-postgres-"))
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    if user():
        shutil.chown(folder, "postgres", "postgres")
    (folder / "password").write_text("p@ss word") if not user() else subprocess.run(
        [*user(), "sh", "-c", f"printf 'p@ss word' > {folder}/password"], check=True, cwd=folder
    )
    options = ["-D", folder / "data", "-U", "aimt", "--auth=scram-sha-256", f"--pwfile={folder}/password", "-N"]
    made = subprocess.run([*user(), place / "initdb", *options], capture_output=True, text=True, cwd=folder)
    if made.returncode:
        pytest.skip(f"no PostgreSQL cluster can be made here: {made.stderr.strip().splitlines()[-1]}")
    start = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder}"
    control = [*user(), place / "pg_ctl", "-D", folder / "data", "-l", folder / "log", "-w"]
    subprocess.run([*control, "-o", start, "start"], check=True, capture_output=True, cwd=folder)
    yield f"postgresql+psycopg://aimt:p%40ss%20word@127.0.0.1:{port}/postgres", control, start, folder
    subprocess.run([*control, "-m", "immediate", "stop"], capture_output=True, cwd=folder)
    shutil.rmtree(folder, ignore_errors=True)


def answer(number: int) -> Answer:
    rows, said = [{"age": number, "name": "Ünsal 🏠"}] * 2, [{"prediction": "yes"}] * 2
    return Answer(f"{number:032x}", time.time(), "churn", "1", "predict", "champion", rows, said, 1.5)


def test_answers_and_outcomes_are_kept_and_read_back(server):
    url = server[0]
    log = AnswerLog(url)
    for i in range(100):
        log.answer(answer(i))
    log.outcomes([Outcome(f"{7:032x}", 0, "no"), Outcome(f"{7:032x}", 1, 2.5)]).result(20)
    log.outcomes([Outcome(f"{7:032x}", 0, "yes")]).result(20)  # sent again: the later one counts
    log.close()
    found = read_log(url)
    assert len(found) == 200 and found["input"][0]["name"] == "Ünsal 🏠"
    assert found.loc[found["id"] == f"{7:032x}", "outcome"].tolist() == ["yes", 2.5]
    assert log.dropped == 0 and log.written == 100


def test_a_server_that_goes_away_refuses_outcomes_and_comes_back(server):
    url, control, start, folder = server
    log = AnswerLog(url)
    log.outcomes([Outcome("a", 0, 1)]).result(20)
    subprocess.run([*control, "-m", "immediate", "stop"], check=True, capture_output=True, cwd=folder)
    with pytest.raises(RunError, match="not written") as told:
        log.outcomes([Outcome("a", 1, 1)]).result(30)
    assert "p@ss" not in str(told.value) and "word" not in str(told.value)
    log.answer(answer(1000))  # never fails
    subprocess.run([*control, "-o", start, "start"], check=True, capture_output=True, cwd=folder)
    for _ in range(20):
        try:
            log.outcomes([Outcome("a", 1, 1)]).result(30)
            break
        except RunError:
            time.sleep(0.5)
    else:
        raise AssertionError("the log did not find the server again")
    log.close()


def test_a_wrong_password_is_an_error_without_it(server):
    with pytest.raises(RunError) as told:
        AnswerLog(server[0].replace("p%40ss%20word", "hunter2secret"))
    assert "hunter2secret" not in str(told.value) and "cannot be written" in str(told.value)
