"""`aimt predict RUN FOLDER -o OUT --cluster`: the predictions of the plain verb, each piece once, whatever is killed in between.

pytest tests/test_cluster_predict.py; with AIMT_SLOW=1 on Ray too. The test on Spark needs pyspark and Java.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

import aimt
from aimt.core.errors import DataError, ProblemError, RunError
from aimt.jobs.operate.cluster_predict import list_pieces, spark_predict

pytestmark = pytest.mark.usefixtures("no_drawing")


def rows(n, seed):
    """A table with numbers, words, dates, missing values and a class."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "id": np.arange(n) + 10_000 * seed,
            "age": np.where(rng.random(n) < 0.1, np.nan, rng.normal(40, 10, n)),
            "job": rng.choice(["clerk", "nurse", "cook", None], n),
            "since": pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 900, n), "D"),
            "remote": rng.random(n) < 0.3,
        }
    )
    score = np.nan_to_num(frame["age"].to_numpy(), nan=40) / 10 + (frame["job"] == "cook") + rng.normal(size=n)
    return frame.assign(left=np.where(score > 4.3, "yes", "no"))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return aimt.train(
        rows(800, 0).drop(columns="id"), target="left", time_limit=1, out=tmp_path_factory.mktemp("runs") / "left", quiet=True
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """24 files of 3,000 rows, some in folders of months, one of several row groups."""
    place = tmp_path_factory.mktemp("rows") / "in"
    for k in range(24):
        file = place / f"month={k % 2}" / f"part-{k}.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        rows(3000, k + 1).drop(columns="left").to_parquet(file, index=False, row_group_size=1000 if k == 5 else None)
    return place


@pytest.fixture(scope="module")
def plain(run, folder, tmp_path_factory):
    """File -> the table that `aimt predict` writes for it."""
    place, found = tmp_path_factory.mktemp("plain"), {}
    for file in sorted(folder.rglob("*.parquet")):
        aimt.predict(run, file, out=place / file.name, quiet=True)
        found[str(file.relative_to(folder))] = pq.read_table(place / file.name)
    return found


def check(out, plain):
    """Every file is there once, and is what the plain verb writes."""
    files = sorted(str(p.relative_to(out)) for p in out.rglob("*.parquet"))
    assert files == sorted(plain)
    for name in files:
        assert pq.read_table(out / name, partitioning=None).equals(plain[name])
    assert not [p for p in out.rglob("*") if p.name.endswith(".lock") or ".tmp" in p.name]


def records(out):
    return sorted(p for p in (out / "_done").rglob("*.parquet.json")) if (out / "_done").exists() else []


def stamps(out):
    return {str(p.relative_to(out)): p.stat().st_mtime_ns for p in out.rglob("*.parquet") if not p.name.startswith(".")}


def test_two_processes_write_what_the_plain_verb_writes(run, folder, plain, tmp_path):
    assert aimt.predict(run, folder, out=tmp_path / "out", cluster="local:2", quiet=True) == tmp_path / "out"
    check(tmp_path / "out", plain)


@pytest.mark.slow
def test_a_job_that_is_killed_goes_on_where_it_stopped(run, folder, plain, tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "aimt", "predict", str(run.path), str(folder), "-o", str(out), "--cluster", "local:2", "-q"]
    process = subprocess.Popen(command, start_new_session=True)
    begun = time.monotonic()
    while len(records(out)) < 3:
        time.sleep(0.005)
        assert process.poll() is None and time.monotonic() - begun < 120
    os.killpg(process.pid, signal.SIGKILL)  # the process and its workers, without any warning
    process.wait()
    done = {str(p.relative_to(out / "_done")).removesuffix(".json") for p in records(out)}
    assert 3 <= len(done) < 24, "it was too fast to be interrupted"
    torn = sorted(done)[0]
    (out / "_done" / f"{torn}.json").unlink()  # as if the machine had stopped before its record
    shutil.copy(folder / "month=0" / "part-0.parquet", out / "month=0" / ".part-0-0123456789abcdef.tmp.parquet")  # half-written
    before = stamps(out)
    assert subprocess.run(command, timeout=200).returncode == 0
    after = stamps(out)
    assert {name for name in done if before[name] != after[name]} == {torn}
    check(out, plain)


@pytest.mark.slow
def test_a_dask_worker_that_dies_costs_nothing_but_time(run, folder, plain, tmp_path):
    distributed = pytest.importorskip("distributed")
    out = tmp_path / "out"
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        address = cluster.scheduler_address.replace("tcp://", "dask://")

        def kill():
            while len(records(out)) < 2:
                time.sleep(0.005)
            os.kill(next(iter(cluster.workers.values())).pid, signal.SIGKILL)

        killer = threading.Thread(target=kill, daemon=True)
        killer.start()
        aimt.predict(run, folder, out=out, cluster=address, quiet=True)
        killer.join(1)
    check(out, plain)


@pytest.mark.slow(reason="starting Ray takes half a minute")
def test_ray_writes_what_the_plain_verb_writes(run, folder, plain, tmp_path):
    pytest.importorskip("ray")
    start = ["start", "--head", "--num-cpus=2", "--port=6399", "--ray-client-server-port=10001", "--include-dashboard=false", "--block"]
    with subprocess.Popen([sys.executable, "-m", "ray.scripts.scripts", *start]) as head:
        try:
            time.sleep(20)
            aimt.predict(run, folder, out=tmp_path / "out", cluster="ray://127.0.0.1:10001", quiet=True)
            check(tmp_path / "out", plain)
        finally:
            head.terminate()


def test_row_groups_are_pieces_where_a_file_is_large(run, folder, plain, tmp_path):
    pieces = list_pieces(folder, rows=1500)
    assert sum(p.rows for p in pieces) == 24 * 3000
    cut = [p.out for p in pieces if "part-5" in p.source]
    assert cut == [f"month=1/part-5-{k:05d}.parquet" for k in range(3)]
    aimt.predict(run, folder / "month=1" / "part-5.parquet", out=tmp_path / "out", cluster="local:1", chunk_rows=1500, quiet=True)
    found = pq.ParquetDataset(sorted((tmp_path / "out").glob("*.parquet"))).read()
    wanted = plain["month=1/part-5.parquet"]
    assert found.drop_columns("probability").equals(wanted.drop_columns("probability"))
    assert np.allclose(found["probability"], wanted["probability"], rtol=1e-14)  # chunks of another size differ in the last bit


def test_two_jobs_cannot_write_into_one_folder(run, folder, tmp_path):
    from aimt.core.lock import lock_directory

    lock = lock_directory(tmp_path / "out")
    try:
        with pytest.raises(RunError, match="under way"):
            aimt.predict(run, folder, out=tmp_path / "out", cluster="local:1", quiet=True)
    finally:
        lock.release()


@pytest.mark.parametrize(
    "wrong", ["inside", "foreign", "none", "missing column", "damaged", "empty", pytest.param("address", marks=pytest.mark.slow)]
)
def test_what_cannot_be_done_is_said_before_the_work(wrong, run, folder, tmp_path):
    out, source, cluster = tmp_path / "out", folder, "local:1"
    if wrong == "inside":
        out = folder / "out"
    elif wrong == "foreign":
        out.mkdir()
        (out / "letters.txt").write_text("dear")
    elif wrong == "none":
        out = None
    elif wrong == "empty":
        source = tmp_path / "nothing"
        source.mkdir()
    elif wrong == "address":
        cluster = "dask://127.0.0.1:1"
    else:
        source = tmp_path / "in"
        source.mkdir()
        rows(50, 3)[["age"]].to_parquet(source / "a.parquet")
        if wrong == "damaged":
            (source / "a.parquet").write_bytes(b"PAR1" + bytes(100) + b"PAR1")
    with pytest.raises((DataError, ProblemError)) as error:
        aimt.predict(run, source, out=out, cluster=cluster, quiet=True)
    assert error.value.hint
    assert not (tmp_path / "out" / "a.parquet").exists() and not (folder / "out").exists()
    if wrong == "foreign":
        assert (out / "letters.txt").read_text() == "dear"


def test_a_record_that_is_torn_counts_for_nothing(run, folder, tmp_path):
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    for k in (0, 2):
        shutil.copy(folder / "month=0" / f"part-{k}.parquet", source)
    options = {"out": out, "cluster": "local:1", "quiet": True}
    aimt.predict(run, source, **options)
    before = stamps(out)
    (out / "_done" / "part-0.parquet.json").write_text('{"run": ')
    aimt.predict(run, source, **options)
    assert [name for name, stamp in stamps(out).items() if before[name] != stamp] == ["part-0.parquet"]
    record = json.loads((out / "_done" / "part-0.parquet.json").read_text())
    assert record["rows"] == 3000 and record["run"] == run.id


@pytest.mark.slow
def test_a_fine_tuned_network_scores_a_folder_too(tmp_path):
    torch = pytest.importorskip("torch")
    from aimt.data.text.tokenizer import train_wordpiece
    from aimt.models.text.bert import BERT, BERTConfig

    torch.manual_seed(0)
    texts = [(f"the {x} {end}", label) for x in "abcdefgh" for end, label in (("is lost", "late"), ("came torn", "damaged"))]
    table = pd.DataFrame(texts * 3, columns=["text", "label"])
    words = train_wordpiece(list(table["text"]), 120)
    BERT.from_config(BERTConfig(words.vocab_size, 2, 2, 32, context=24, init_std=0.15), words, pooler=True).save_pretrained(
        tmp_path / "base"
    )
    tuned = aimt.finetune("bert", table, model=tmp_path / "base", out=tmp_path / "run", steps=10, lr=5e-3, quiet=True)
    (tmp_path / "in").mkdir()
    table[["text"]].to_parquet(tmp_path / "in" / "a.parquet", index=False)
    aimt.predict(tuned, tmp_path / "in", out=tmp_path / "out", cluster="local:1", quiet=True)
    aimt.predict(tuned, tmp_path / "in" / "a.parquet", out=tmp_path / "plain.parquet", quiet=True)
    assert pq.read_table(tmp_path / "out" / "a.parquet").equals(pq.read_table(tmp_path / "plain.parquet"))
    with pytest.raises(ProblemError):
        aimt.predict(tuned, tmp_path / "in", out=tmp_path / "more", cluster="local:1", coverage=0.9, quiet=True)


def test_spark_gets_the_predictions_of_predict(run, folder):
    """The function on an iterator of DataFrames, as Spark calls it."""
    frame = pd.read_parquet(folder / "month=0" / "part-0.parquet")
    parts = list(spark_predict(run)(iter([frame[:10], frame[:0], frame[10:100]])))
    pd.testing.assert_frame_equal(pd.concat(parts), aimt.predict(run, frame[:100], quiet=True), check_dtype=False)
    assert [len(p) for p in parts] == [10, 0, 90]


def test_a_local_spark_writes_what_predict_writes(run, folder, plain, monkeypatch):
    pyspark = pytest.importorskip("pyspark")
    if shutil.which("java") is None:
        pytest.skip("there is no Java")
    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)
    monkeypatch.setenv("SPARK_LOCAL_IP", "127.0.0.1")
    builder = pyspark.sql.SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false")
    spark = builder.config("spark.sql.execution.arrow.maxRecordsPerBatch", "700").getOrCreate()
    try:
        table = spark.read.parquet(str(folder / "month=0" / "part-0.parquet"), str(folder / "month=1" / "part-1.parquet"))
        predict = spark_predict(run, coverage=0.9)
        found = table.mapInPandas(predict, predict.schema(table.schema)).toPandas().sort_values("id", ignore_index=True)
    finally:
        spark.stop()
    wanted = pd.concat(plain[f"month={k}/part-{k}.parquet"].to_pandas() for k in (0, 1)).sort_values("id", ignore_index=True)
    assert len(found) == 6000 and found["prediction"].tolist() == wanted["prediction"].tolist()
    assert np.allclose(found["probability"], wanted["probability"], rtol=1e-14)  # Spark cuts the rows its own way
    assert set(found["set"]) <= {"no", "yes", "no | yes", "yes | no"}
