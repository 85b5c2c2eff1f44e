"""The command with texts, as a person uses it: train, be interrupted, resume, write, ask; and what can go wrong there.

AIMT_SLOW=1 pytest tests/test_text_command.py     also under torchrun, with two processes
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.numpy import load_file

ONES = "zero one two three four five six seven eight nine".split()


def counting(n: int) -> str:
    """A text with a rule that a small network finds quickly."""
    return "\n".join(" ".join(ONES[int(d)] for d in str(i)) for i in range(n))


@pytest.fixture(scope="module")
def trained(aimt, tmp_path_factory) -> Path:
    """A folder with counting.txt and a finished run of it."""
    folder = tmp_path_factory.mktemp("text")
    (folder / "counting.txt").write_text(counting(3000))
    done = aimt("train", "counting.txt", "--size", "nano", "--steps", 20, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_a_text_gives_a_run_with_everything(trained):
    run = trained / "runs" / "counting"
    for name in (
        "run.json",
        "metrics.json",
        "report.html",
        "report.json",
        "card.md",
        "model/config.json",
        "model/model.safetensors",
        "model/tokenizer.json",
    ):
        assert (run / name).is_file(), name
    metrics = json.loads((run / "metrics.json").read_text())
    assert 0 < metrics["bits_per_character"] < 3
    low, high = metrics["bits_per_character_interval"]
    assert low < metrics["bits_per_character"] < high
    assert metrics["baseline"]["bits_per_character"] > 0
    assert len(metrics["samples"]["final"]) == 3
    assert metrics["plan"]["error"], "the forecast is compared with what was measured"
    assert json.loads((run / "run.json").read_text())["problem"]["task"] == "text-generation"


def test_the_report_needs_no_network_and_shows_the_curve(trained):
    html = (trained / "runs" / "counting" / "report.html").read_text()
    assert 'http-equiv="Content-Security-Policy"' in html and "<script" not in html
    assert "could not be" not in html, "a section or figure failed"
    assert html.count("<figure>") >= 2
    assert "bits per character" in html


def test_generate_goes_on_and_repeats_with_the_same_seed(aimt, aimt_here, trained):
    words = ("generate", "runs/counting", "--prompt", "one two\n", "--max-new-tokens", 40)
    first, again = (run(*words, "--seed", 3, cwd=trained) for run in (aimt, aimt_here))
    assert first.returncode == 0, first.stderr
    assert first.stdout.startswith("one two\n") and len(first.stdout) > 20
    assert first.stdout == again.stdout
    as_json = json.loads(aimt_here(*words, "--seed", 3, "--json", cwd=trained).stdout)
    assert as_json["prompt"] + as_json["text"] == first.stdout.removesuffix("\n")


def test_generate_streams(trained):
    command = [sys.executable, "-m", "aimt", "generate", "runs/counting", "--prompt", "one", "--max-new-tokens", "2000"]
    with subprocess.Popen(command, cwd=trained, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        early = process.stdout.read(8)
        assert process.poll() is None, "the first letters come before the last"
        process.kill()
    assert early.startswith(b"one")


@pytest.mark.parametrize(
    "words, message",
    [
        (("generate", "runs/counting", "--prompt", "one ï"), "ï"),
        (("generate", "runs/counting", "--temperature", "0.5", "--top-p", "7"), "top_p"),
        (("generate", "runs/counting", "--precision", "int2"), "int2"),
        (("generate", "runs/nothing"), "not a run directory"),
        (("predict", "runs/counting", "rows.csv", "-o", "x.csv"), "generate"),
        (("train", "counting.txt", "--sensitive-features", "age"), "--sensitive-features is an option of --kind table"),
        (("train", "--size", "nano"), "--size is an option of --kind text"),
        (("train", "counting.txt", "--size", "enormous"), "enormous"),
        (("train", "counting.txt", "--tokenizer", "morse"), "morse"),
        (("train", "counting.txt", "--resume"), "no interrupted run"),
        (("train", "counting.txt", "--resume", "--out", "runs/counting"), "done"),
        (("train", "missing.txt"), "missing.txt"),
        (("plan",), "--size"),
    ],
)
def test_a_mistake_is_one_line(aimt_here, trained, words, message):
    done = aimt_here(*words, cwd=trained)
    assert done.returncode in (1, 2), done.stdout
    lines = done.stderr.strip().splitlines()
    assert lines[-1].startswith("error: ") and message in lines[-1], done.stderr
    assert "Traceback" not in done.stderr


def test_evaluate_scores_another_text(aimt_here, trained):
    (trained / "other.txt").write_text(counting(4000)[-3000:])
    done = aimt_here("evaluate", "runs/counting", "other.txt", cwd=trained)
    assert done.returncode == 0 and "bits per character" in done.stdout, done.stderr


def test_plan_and_doctor(aimt_here, trained):
    planned = aimt_here("plan", "--size", "gpt2", "--tokens", 1_000_000, "--json", cwd=trained)
    assert planned.returncode == 0, planned.stderr
    assert json.loads(planned.stdout)["parameters"]["total"] == 124_439_808
    shown = aimt_here("plan", "counting.txt", cwd=trained)
    assert shown.returncode == 0 and "million weights" in shown.stdout, shown.stderr
    asked = aimt_here("doctor", "runs/counting", cwd=trained)
    assert asked.returncode == 0 and asked.stdout.strip(), asked.stderr


def test_report_can_be_drawn_again(aimt_here, trained):
    report = trained / "runs" / "counting" / "report.html"
    before = report.read_text()
    report.unlink()
    assert aimt_here("report", "runs/counting", cwd=trained).returncode == 0
    assert report.read_text() == before


def _weights(run: Path) -> dict[str, bytes]:
    """The bits of every tensor. (The bytes of the file differ: the order of its header's remarks is left to chance.)"""
    return {name: x.tobytes() for name, x in load_file(run / "model" / "model.safetensors").items()}


def _kill_when(process: subprocess.Popen, place: Path, with_signal: int, limit: float = 120) -> None:
    """Send the signal as soon as a checkpoint is there."""
    end = time.monotonic() + limit
    while not any((place / "checkpoints").glob("step-*")) and process.poll() is None and time.monotonic() < end:
        time.sleep(0.05)
    process.send_signal(with_signal)
    process.wait(60)


@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.parametrize("with_signal", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)], ids=["killed", "Ctrl-C"])
def test_an_interrupted_run_goes_on_bit_for_bit(aimt, aimt_here, trained, tmp_path, with_signal):
    words = ("--size", "nano", "--steps", "20", "--quiet")
    command = [sys.executable, "-m", "aimt", "train", str(trained / "counting.txt"), *words, "--out", "run"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    _kill_when(process, tmp_path / "run", with_signal)
    state = json.loads((tmp_path / "run" / "run.json").read_text())
    assert state["status"] in {"running", "failed"}, "it was too fast to be interrupted"
    refused = aimt_here("generate", "run", cwd=tmp_path)
    assert refused.returncode == 1 and "--resume" in refused.stderr
    resumed = aimt("train", trained / "counting.txt", "--resume", "--out", "run", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert _weights(tmp_path / "run") == _weights(trained / "runs" / "counting")


def test_a_changed_text_is_not_resumed(aimt_here, trained, tmp_path):
    book = tmp_path / "book.txt"
    book.write_text(counting(2000))
    process = subprocess.Popen(
        [sys.executable, "-m", "aimt", "train", "book.txt", "--size", "nano", "--steps", "400"],
        cwd=tmp_path,
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    _kill_when(process, tmp_path / "runs" / "book", signal.SIGTERM if os.name == "nt" else signal.SIGKILL)
    book.write_text(counting(2001))
    done = aimt_here("train", "book.txt", "--resume", cwd=tmp_path)
    assert done.returncode == 1 and "the source has changed" in done.stderr


def test_two_runs_in_one_place_are_refused(aimt_here, trained):
    done = aimt_here("train", "counting.txt", "--out", "runs/counting", cwd=trained)
    assert done.returncode == 1 and "--overwrite" in done.stderr


@pytest.mark.slow(reason="two processes of torchrun")
def test_the_same_command_under_torchrun(trained, tmp_path):
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "aimt",
        "train",
        str(trained / "counting.txt"),
        "--size",
        "nano",
        "--steps",
        "30",
        "--out",
        "run",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "done"
    assert done.stderr.count("Tokens") == 1, "one process speaks"


def test_generate_has_the_options_of_the_kind_of_the_run(aimt, trained):
    short, own = (aimt("generate", *words, "--help", cwd=trained).stdout for words in ((), ("runs/counting",)))
    assert "--top-k" not in short and "--top-k" in own and "Default: 0.8" in own
    as_json = aimt("generate", "runs/counting", "-p", "one two\n", "--top-k", 3, "--json", cwd=trained)
    assert json.loads(as_json.stdout)["top_k"] == 3, as_json.stderr
