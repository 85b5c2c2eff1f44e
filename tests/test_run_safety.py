"""A run is data: whatever stands in its files, and whatever happens to its writer, nothing is executed, lost or taken over."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from aimt.core import lock as locks
from aimt.core.errors import AimtError, RunError
from aimt.core.files import atomic_path, sha256, write_json, write_text
from aimt.core.lock import LOCK, is_locked, lock_directory
from aimt.core.run import Run, _digest
from aimt.core.commands import VERBS, resolve
from aimt.data.sources.catalog import load_dataset
from aimt.jobs.verbs.train import train

pytestmark = pytest.mark.usefixtures("no_drawing")

POSIX = pytest.mark.skipif(os.name != "posix", reason="of POSIX systems")
WRONG = {"null": None, "number": 7, "text": "x", "list": [], "list of lists": [[1]], "object": {}, "true": True}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A small run on a table, with decisions and groups."""
    folder = tmp_path_factory.mktemp("trained")
    load_dataset("german-credit").frame.head(150).to_csv(folder / "loans.csv", index=False)
    train(
        folder / "loans.csv",
        target="credit_risk",
        cost="fn=5,fp=1",
        sensitive_features="housing",
        out=folder / "run",
        time_limit=1,
        quiet=True,
    )
    return folder


def seal(run: Path) -> None:
    """What somebody does who changes the files of a run: new checksums."""
    info = json.loads((run / "run.json").read_bytes())
    if isinstance(info, dict):
        if isinstance(info.get("files"), dict):
            info["files"] |= {name: sha256(run / name) for name in info["files"] if (run / name).is_file()}
        info["digest"] = _digest(info)
        (run / "run.json").write_text(json.dumps(info), encoding="utf-8")


def paths(value, most: int, path: tuple = ()):
    """The fields of a JSON value, of lists the first item, down to some depth."""
    if path:
        yield path
    if len(path) < most:
        items = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
        for key, inner in items:
            yield from paths(inner, most, (*path, key))


def put(value, path: tuple, new):
    """The same value with another one at a path."""
    copy = json.loads(json.dumps(value))
    place = copy
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = new
    return copy


def verbs(folder: Path, run: Path):
    """Every verb that opens a run, as a call."""
    table = folder / "loans.csv"
    words = {
        "predict": (table,),
        "evaluate": (table,),
        "explain": (table,),
        "report": (),
        "doctor": (),
        "compare": (folder / "other",),
        "generate": ("It was",),
        "compact": (),
        "monitor": (table,),
    }
    options = {"predict": {"quiet": True, "thresholds": "housing"}, "compact": {"data": folder / "wrong.csv", "quiet": True}}
    for verb, rest in words.items():
        yield verb, lambda verb=verb, rest=rest: resolve(VERBS[verb])(run, *rest, **options.get(verb, {}))


@pytest.fixture
def doctored(trained, tmp_path) -> Path:
    shutil.copytree(trained, tmp_path / "all")
    shutil.copytree(trained / "run", tmp_path / "all/other")
    (tmp_path / "all/wrong.csv").write_text("a,b\n1,2\n")
    return tmp_path / "all"


READERS = {
    "run.json": ("predict", "evaluate", "explain", "report", "doctor", "compare", "generate", "compact"),
    "metrics.json": ("predict", "report", "doctor", "compare"),
    "audit.json": ("report", "doctor"),
    "schema.json": ("predict", "evaluate", "explain"),
    "model/model.json": ("predict", "explain"),
    "reference.json": ("monitor",),
}


@pytest.mark.parametrize("name", READERS)
def test_a_doctored_file_is_one_line_for_every_verb(doctored, name):
    """Fields get values of another type, with new checksums: every verb works, or says what is wrong. No traceback."""
    run = doctored / "run"
    kept = {n: (run / n).read_bytes() for n in {"run.json", name}}
    good = json.loads(kept[name])
    cases = [(path, kind, verb) for path in paths(good, 4) for kind in WRONG for verb in READERS[name]]
    if not os.environ.get("AIMT_SLOW"):  # AIMT_SLOW=1: every field with every value for every verb
        cases = [case for case in cases if len(case[0]) < 4]
        cases = random.Random(0).sample(cases, min(40, len(cases)))
    wrong = []
    for path, kind, verb in cases:
        (run / name).write_text(json.dumps(put(good, path, WRONG[kind])), encoding="utf-8")
        seal(run)
        try:
            dict(verbs(doctored, run))[verb]()
        except AimtError as e:
            assert "\n" not in str(e)
        except Exception as e:
            wrong.append(f"{verb}: {'.'.join(map(str, path))} = {kind}: {type(e).__name__}: {e}")
        for n, data in kept.items():
            (run / n).write_bytes(data)
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"a":' * 5000 + "1" + "}" * 5000,
        '{"format": ' + "1" * 5000 + "}",
        '{"format": "\\ud800"}',
        "",
        "null",
        "[]",
        "\xff",
        '{"format": 1e999, "status": "done", "settings": {}, "versions": {}, "created": ""}',
    ],
)
@pytest.mark.parametrize("name", ["run.json", "metrics.json", "model/model.json", "schema.json"])
def test_json_that_no_parser_likes(doctored, name, text):
    run = doctored / "run"
    (run / name).write_text(text, encoding="latin-1")
    if name != "run.json":
        seal(run)
    needs = {
        "run.json": {"predict", "report", "doctor"},
        "metrics.json": {"report", "doctor"},
        "model/model.json": {"predict"},
        "schema.json": {"predict"},
    }
    for verb in ("predict", "report", "doctor"):
        try:
            dict(verbs(doctored, run))[verb]()
            assert verb not in needs[name] or (name, text[:9]) == ("metrics.json", '{"format"')  # no figures: a report of NOT YET
        except AimtError as e:
            assert len(str(e)) < 1000


def test_a_door_names_the_field(doctored):
    run = doctored / "run"
    for path, wrong, said in (
        (("settings",), [], "settings"),
        (("status",), 1, "status"),
        (("problem", "labels"), "ab", "problem.labels"),
        (("problem", "inputs", 0), 3, "problem.inputs[0]"),
        (("data", "rows"), "many", "data.rows"),
    ):
        good = json.loads((run / "run.json").read_bytes())
        write_json(run / "run.json", put(good, path, wrong))
        seal(run)
        with pytest.raises(RunError, match="'" + said.replace("[", r"\[") + "' must be"):
            Run.open(run)
        write_json(run / "run.json", good)


# -- nothing stored is executed -----------------------------------------------------------------------------------


def test_compact_opens_only_what_is_named(doctored, monkeypatch):
    """A query, a path or an address in run.json is never executed, read or fetched."""
    run = doctored / "run"
    target = doctored / "written.csv"
    for source, sql in (
        (f"duckdb:// | COPY (SELECT 1) TO '{target}'", "duckdb://"),
        (str(doctored / "loans.csv"), None),
        ("SELECT 1", f"sqlite:///{doctored}/new.db"),
    ):
        info = json.loads((run / "run.json").read_bytes())
        write_json(run / "run.json", info | {"settings": info["settings"] | {"source": source, "sql": sql}})
        seal(run)
        monkeypatch.setattr("aimt.jobs.shared.run_rows.load_table", lambda *a, **k: pytest.fail("a stored source was opened"))
        with pytest.raises(AimtError, match="--data"):
            resolve(VERBS["compact"])(run, quiet=True)
    assert not target.exists() and not (doctored / "new.db").exists()


def test_a_stored_population_is_not_read_on_resume(doctored):
    run = doctored / "run"
    info = json.loads((run / "run.json").read_bytes())
    settings = info["settings"] | {"population": str(doctored / "elsewhere.csv")}
    write_json(run / "run.json", info | {"status": "failed", "settings": settings})
    seal(run)
    with pytest.raises(AimtError, match="--population"):
        train(doctored / "loans.csv", out=run, resume=True, quiet=True)


def test_a_stored_model_is_not_opened_on_resume(tmp_path):
    from aimt.jobs.verbs.finetune import finetune

    run = Run.create(tmp_path / "run", settings={"job": "finetune", "family": "bert", "model": "/elsewhere/theirs"})
    run.fail("stopped")
    with pytest.raises(AimtError, match="different --model"):
        finetune("bert", tmp_path / "x.csv", model=tmp_path / "mine", out=tmp_path / "run", resume=True, quiet=True)


@POSIX
def test_links_that_lead_out_of_a_run_are_not_written_through(doctored):
    secret = doctored / "secret"
    secret.write_text("mine")
    report = doctored / "run/report.html"
    report.unlink()
    report.symlink_to(secret)
    with pytest.raises(RunError, match="leads out of the run"):
        resolve(VERBS["report"])(doctored / "run")
    assert secret.read_text() == "mine"


@POSIX
def test_checkpoints_may_be_on_another_disk_and_a_model_may_not(tmp_path):
    (tmp_path / "disk").mkdir()
    for name in ("checkpoints", "model"):
        run = Run.create(tmp_path / name)
        (run.path / name).symlink_to(tmp_path / "disk")
        run.fail("stopped")
    assert Run.resume(tmp_path / "checkpoints").status == "running"
    with pytest.raises(RunError, match="leads out of the run"):
        Run.resume(tmp_path / "model")


# -- overwriting --------------------------------------------------------------------------------------------------


def test_overwrite_leaves_what_a_run_did_not_make(doctored):
    run = doctored / "run"
    mine = ["notes.txt", "model/thesis.docx", "old/photo.jpg", "model/member_99.txt.bak"]
    for name in mine:
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_text(name)
    new = Run.create(run, overwrite=True)
    assert sorted(p.relative_to(run).as_posix() for p in run.rglob("*") if p.is_file()) == sorted([*mine, "ledger.jsonl", "run.json", LOCK])
    new.finish()
    assert not set(mine) & set(Run.open(run).info["files"])


@pytest.mark.parametrize(
    "content",
    [
        '{"name": "my app", "scripts": {}}',
        "",
        "not json",
        '{"format": 1, "status": "done", "settings": {}, "versions": {}, "created": "today"}',
    ],
)
def test_a_foreign_folder_with_a_run_json_stays(tmp_path, content):
    place = tmp_path / "app"
    place.mkdir()
    (place / "run.json").write_text(content)
    (place / "metrics.json").write_text("theirs")
    with pytest.raises(RunError):
        Run.create(place, overwrite=True)
    assert sorted(p.name for p in place.iterdir()) == ["metrics.json", "run.json"] and (place / "run.json").read_text() == content


@POSIX
def test_overwrite_follows_no_link_out_of_the_run(tmp_path):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs/model.json").write_text("theirs")
    run = Run.create(tmp_path / "run")
    (run.path / "model").symlink_to(tmp_path / "theirs")
    run.fail("stopped")
    Run.create(tmp_path / "run", overwrite=True)
    assert (tmp_path / "theirs/model.json").read_text() == "theirs"


@POSIX
def test_a_run_directory_may_be_a_link(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "disk")
    for _ in range(2):
        Run.create(tmp_path / "run", overwrite=True).finish()
    assert (tmp_path / "run").is_symlink() and Run.open(tmp_path / "disk").status == "done"


# -- one writer ---------------------------------------------------------------------------------------------------

WRITER = """
import sys, time
from aimt.core.run import Run
run = Run.create(sys.argv[1])
run.enter("Train")
print("ready", flush=True)
time.sleep(60)
"""


@pytest.fixture
def writer(tmp_path):
    """A process that writes a run, until it is killed."""
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline().strip() == "ready"
    yield process
    process.kill()
    process.wait()


def test_a_run_under_way_is_neither_resumed_nor_replaced(writer, tmp_path):
    place = tmp_path / "run"
    assert Run.open(place, unfinished=True).status == "running"
    for attempt in (lambda: Run.resume(place), lambda: Run.create(place, overwrite=True), lambda: Run.open(place)):
        with pytest.raises(RunError, match="under way"):
            attempt()
    assert (place / "events.jsonl").exists()
    writer.kill()
    writer.wait()
    assert Run.open(place, unfinished=True).status == "interrupted"
    assert Run.resume(place).status == "running"


@pytest.mark.parametrize("step", [-1e9, -3600, 3600, 1e9])
def test_clock_steps_do_not_open_a_live_run(writer, tmp_path, monkeypatch, step):
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + step)
    for file in (tmp_path / "run").iterdir():
        os.utime(file, (now() + step, now() + step))
    assert Run.open(tmp_path / "run", unfinished=True).status == "running"
    with pytest.raises(RunError, match="under way"):
        Run.create(tmp_path / "run", overwrite=True)


def test_another_container_sees_the_writer_and_its_end(writer, tmp_path, monkeypatch):
    """Another host name, another process number space, the same kernel."""
    monkeypatch.setattr("socket.gethostname", lambda: "pod-2")
    monkeypatch.setattr("os.getpid", lambda: 1)
    assert Run.open(tmp_path / "run", unfinished=True).status == "running"
    writer.kill()
    writer.wait()
    assert Run.resume(tmp_path / "run").info["process"] == {"pid": 1, "host": "pod-2"}


def test_another_host_goes_by_the_heartbeat(tmp_path, monkeypatch):
    """Where a lock cannot be seen from elsewhere, a writer is alive as long as its number moves."""
    monkeypatch.setattr(locks, "BEAT", 0.1)
    lock = lock_directory(tmp_path)
    monkeypatch.setattr(locks, "_try_lock", lambda handle, shared=False: None)  # a file system without locks
    monkeypatch.setattr(locks, "_machine", lambda: "another kernel")
    assert is_locked(tmp_path, watch=5)
    with pytest.raises(RunError, match="under way"):
        lock_directory(tmp_path, watch=5)
    lock._held.over.set()  # it froze
    time.sleep(0.3)
    other = lock_directory(tmp_path, watch=0.6)
    with pytest.raises(RunError, match="has taken this run over"):
        lock.check()
    other.check()
    lock.release()
    assert (tmp_path / LOCK).exists(), "the first one must not remove what belongs to the second"
    other.release()


@POSIX
def test_a_forked_child_does_not_keep_the_lock(tmp_path):
    code = (
        "import os, sys, time\nfrom aimt.core.lock import lock_directory\nlock = lock_directory(sys.argv[1])\n"
        "if os.fork() == 0:\n    time.sleep(20)\n    os._exit(0)\nprint('forked', flush=True)\nos.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "run")], stdout=subprocess.DEVNULL, timeout=15)
    assert done.returncode == -9 and not is_locked(tmp_path / "run")


# -- files --------------------------------------------------------------------------------------------------------


@POSIX
@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077])
def test_written_files_honour_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        write_text(tmp_path / "new.txt", "x")
        (tmp_path / "plain.txt").write_text("x")
        (tmp_path / "old.txt").write_text("x")
        (tmp_path / "old.txt").chmod(0o604)
        write_text(tmp_path / "old.txt", "y")
    finally:
        os.umask(before)
    assert (tmp_path / "new.txt").stat().st_mode == (tmp_path / "plain.txt").stat().st_mode
    assert (tmp_path / "old.txt").stat().st_mode & 0o777 == 0o604


@POSIX
def test_links_stay_links_and_devices_are_refused(tmp_path):
    (tmp_path / "real.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to("real.txt")
    (tmp_path / "far.txt").symlink_to(tmp_path / "sub/new.txt")
    for name in ("link.txt", "far.txt"):
        write_text(tmp_path / name, "new")
        assert (tmp_path / name).is_symlink() and (tmp_path / name).read_text() == "new"
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path / "pipe", Path("/dev/null"), tmp_path):
        with pytest.raises(RunError, match="in the way"), atomic_path(place):
            pytest.fail("it was opened")


@POSIX
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_command_leaves_no_temporary_file(trained, tmp_path, how):
    """Predictions for many rows, stopped in the middle."""
    frame = load_dataset("german-credit").frame
    frame.loc[frame.index.repeat(60)].to_csv(tmp_path / "many.csv", index=False)
    process = subprocess.Popen(
        [sys.executable, "-m", "aimt", "predict", str(trained / "run"), "many.csv", "-o", "out.csv"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob(".out*")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(how)
    error = process.communicate(timeout=120)[1]
    assert process.returncode == (143 if how == signal.SIGTERM else 130), error
    assert "Traceback" not in error and sorted(p.name for p in tmp_path.iterdir()) == ["many.csv"]


@pytest.mark.parametrize(
    "torn", [b'{"time": "20', b'{"stage": "a", "name": "caf\xc3', b"\0" * 50, b"[1]\n", b'{"stage": 3}\n', b"[" * 100_000]
)
def test_torn_events_are_skipped(tmp_path, torn):
    run = Run.create(tmp_path / "run")
    run.event("one")
    with open(run.path / "events.jsonl", "ab") as f:
        f.write(torn)
    assert [e["stage"] for e in run.events()] == ["one"]
    run.event("two")
    assert [e["stage"] for e in run.events()] == ["one", "two"]


# -- secrets and the terminal ---------------------------------------------------------------------------------------

SECRETS = [
    "postgresql://ada:s3cretpw@host/shop",
    "postgresql://ada:a@s3cretpw/x@host/shop",
    "mysql://host/db?user=a&password=s3cretpw",
    "postgresql://host/db?sslpassword=s3cretpw",
    "https://s3cretpw@host/t.csv",
    "https://host/t.csv?token=s3cretpw&x=1",
    "s3://b/t.csv?X-Amz-Security-Token=s3cretpw",
    "mssql+pyodbc:///?odbc_connect=PWD%3Ds3cretpw",
    "host=db password=s3cretpw",
    "host=db password='a s3cretpw'",
    "AKIAS3CRETPWABCDEFGH",
]


@pytest.mark.parametrize("address", SECRETS)
def test_no_secret_is_written_or_shown(tmp_path, capsys, address):
    from aimt.core.progress import Progress

    run = Run.create(tmp_path / "run", settings={"source": address, "sql": address})
    run.update(data={"source": address}, notes=[f"read from {address}."], command=f"aimt train --sql '{address}'")
    run.event("Read", result=f"from {address}")
    Progress().say(f"from {address}")
    error = RunError(f"no answer from {address}", where=address, hint=f"Try {address}")
    run.fail(str(error))
    shown = str(error) + capsys.readouterr().err + "".join(p.read_text() for p in run.path.rglob("*") if p.is_file())
    assert "s3cretpw" not in shown.lower() and "host" in shown + "host"


TRICK = "\x1b[2Kprice\x9b31m\u202e\rgood\x07"


def test_nothing_printed_steers_the_terminal(aimt_here, tmp_path):
    """Names of columns and files, values and errors, as text and as JSON, to both streams."""
    frame = load_dataset("german-credit").frame.head(120).rename(columns={"age": TRICK})
    frame["housing"] = frame["housing"].replace("own", TRICK)
    frame.to_parquet(tmp_path / "t.parquet")
    name = tmp_path / f"{TRICK}.parquet"
    frame.to_parquet(name)
    for words in (
        ("audit", "t.parquet"),
        ("audit", "t.parquet", "--json"),
        ("audit", name, "--target", TRICK),
        ("audit", f"{TRICK}.csv"),
        ("predict", TRICK, "t.parquet", "-o", "x.csv"),
        ("doctor", TRICK),
    ):
        done = aimt_here(*words, cwd=tmp_path)
        for text in (done.stdout, done.stderr):
            assert not [c for c in text if c in "\x1b\x9b\u202e\r\x07"], words
        if "--json" in words:
            assert TRICK in {c["name"] for c in json.loads(done.stdout)["columns"]}
