"""Kind `audio`: sounds by class, from a folder of recordings to judged samples, by the command and from Python."""

import contextlib
import json
import shutil
import wave

import numpy as np
import pytest
from aimt.cli.main import main
from aimt.core.errors import DataError, ProblemError, RunError
from aimt.core.progress import Progress
from aimt.core.run import Run
from aimt.data.audio.read import read_audio, write_wav
from aimt.jobs.kinds.audio import AudioOptions
from aimt.jobs.shared.pipeline import open_run, train_source
from aimt.jobs.steps import audio as steps
from aimt.jobs.verbs.generate import generate
from safetensors.numpy import load_file

RATE = 8_000
SMALL = {"kind": "audio", "steps": 24, "width": 8, "length": 0.3, "samples": 24, "time_limit": 20, "quiet": True}


def tone(rng):
    t = np.arange(rng.integers(1_000, 2_000)) / RATE
    return 0.5 * np.sin(2 * np.pi * rng.uniform(300, 500) * t)


def burst(rng):
    t = np.arange(rng.integers(800, 1_600)) / RATE
    return 0.2 * rng.standard_normal(len(t)) * np.exp(-12 * t)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place, rng = tmp_path_factory.mktemp("sounds") / "two", np.random.default_rng(0)
    for name, make in (("burst", burst), ("tone", tone)):
        (place / name).mkdir(parents=True)
        for i in range(20):
            write_wav(place / name / f"{i}.wav", make(rng), RATE)
    return place


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    return train_source(str(folder), out=tmp_path_factory.mktemp("runs") / "two", **SMALL)


def test_a_run_has_scores_samples_and_a_verdict(run, folder):
    m = json.loads((run.path / "metrics.json").read_text())
    assert {g["gate"] for g in m["verdict"]["gates"]} == {"fidelity", "coverage", "condition", "copies", "worth", "training"}
    assert m["data"]["n_train"] == 32 and m["data"]["n_test"] == 8 and m["data"]["classes"] == {"burst": 20, "tone": 20}
    assert m["generation"]["condition"]["real"]["value"] > 0.8  # the judge knows held-out tones from bursts
    assert [r["name"] for r in m["generation"]["rivals"]] == ["retrieval", "Gaussian"]
    report = (run.path / "report.html").read_text()
    assert "<audio" in report and "None was chosen" in report and "32 recordings were learned from" in report
    assert "seed 0" in report
    shown = m["samples"]["samples"]
    assert len(shown) == steps.N_SHOWN and all((run.path / s["file"]).is_file() for s in shown)
    Run.open(run.path).file(shown[0]["file"])  # sealed
    assert "sounds like" in (run.path / "card.md").read_text()


def test_sounds_are_written_by_class_and_seed(run, tmp_path, capsys, monkeypatch):
    words = ["generate", str(run.path), "--label", "tone", "-n", "3", "-o", str(tmp_path / "out")]
    monkeypatch.setattr("sys.argv", ["aimt", *words])
    with contextlib.suppress(SystemExit):
        main()
    files = sorted((tmp_path / "out").glob("*.wav"))
    assert [f.name for f in files] == ["000-tone.wav", "001-tone.wav", "002-tone.wav"]
    with wave.open(str(files[0])) as w:
        assert w.getframerate() == RATE and 0 < w.getnframes() <= open_run(run).config.n_samples
    assert np.abs(read_audio(files[0], rate=RATE)).max() > 0.3
    made = generate(run.path, label="tone", n=3, out=tmp_path / "again")
    assert [f.read_bytes() for f in made.files] == [f.read_bytes() for f in files]
    other = generate(run.path, label="tone,burst", n=3, seed=1)
    assert not other.files and other.asked["label"] == "tone,burst" and not np.array_equal(other.samples[0], made.samples[0])
    assert "3 files in" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"label": "tones"}, "no class 'tones'"),
        ({"prompt": "hello"}, "--prompt"),
        ({"n": 0}, "--n must be at least 1"),
        ({"guidance": -1.0}, "--guidance must be at least 0"),
    ],
)
def test_what_cannot_be_generated_is_refused(run, options, told):
    with pytest.raises((DataError, ProblemError), match=told):
        generate(run.path, **options)


def test_an_interrupted_training_goes_on_bit_for_bit(folder, run, tmp_path, monkeypatch):
    class Interrupted(steps.TrainingMonitor):
        def on_step(self, trainer, row):
            super().on_step(trainer, row)
            if row["step"] == 17:
                raise KeyboardInterrupt

    with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt):
        m.setattr(steps, "TrainingMonitor", Interrupted)
        train_source(str(folder), out=tmp_path / "cut", **SMALL)
    resumed = train_source(str(folder), out=tmp_path / "cut", kind="audio", resume=True, quiet=True)
    weights = [load_file(r.path / "model" / "network" / "model.safetensors") for r in (run, resumed)]
    assert weights[0].keys() == weights[1].keys() and all(np.array_equal(weights[0][k], weights[1][k]) for k in weights[0])


def test_a_changed_model_and_another_kind_are_refused(run, tmp_path):
    shutil.copytree(run.path, tmp_path / "changed")
    (tmp_path / "changed" / "model" / "sound.json").write_text("{}")
    with pytest.raises(RunError, match="changed"):
        generate(tmp_path / "changed", n=1)


def spoil(folder, how):
    """Make one thing wrong in a copy of a folder."""
    if how == "three":
        for file in sorted(folder.rglob("*.wav"))[3:]:
            file.unlink()
    elif how == "empty class":
        (folder / "gong").mkdir()
    elif how == "transcripts":
        for file in folder.rglob("*.wav"):
            file.with_suffix(".txt").write_text("hello")
    elif how == "flat":
        for file in folder.rglob("*.wav"):
            file.rename(folder / f"{file.parent.name}-{file.name}")
    elif how == "nothing":
        shutil.rmtree(folder)
        folder.mkdir()


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("three", "at least 12 are needed; 200 would help"),
        ("transcripts", "at least 12 are needed; 200 would help"),
        ("flat", "without a class or a transcript"),
        ("nothing", "no recordings in this folder"),
    ],
)
def test_a_folder_that_cannot_be_learned_is_refused_before_anything_is_written(folder, tmp_path, how, told):
    shutil.copytree(folder, tmp_path / "data")
    spoil(tmp_path / "data", how)
    with pytest.raises(DataError, match=told):
        train_source(str(tmp_path / "data"), out=tmp_path / "run", **SMALL)
    assert not (tmp_path / "run").exists()


def test_odd_files_are_named_and_the_rest_is_used(folder, tmp_path):
    data, rng = tmp_path / "data", np.random.default_rng(1)
    shutil.copytree(folder, data)
    spoil(data, "empty class")
    write_wav(data / "tone" / "silent.wav", np.zeros(4_000), RATE)
    write_wav(data / "tone" / "long.wav", np.tile(tone(rng), 40), RATE)
    write_wav(data / "tone" / "loud.wav", 5 * tone(rng), RATE)
    write_wav(data / "tone" / "fast.wav", np.repeat(tone(rng), 2), 2 * RATE)
    with wave.open(str(data / "tone" / "stereo.wav"), "wb") as w:
        w.setparams((2, 2, RATE, 2_000, "NONE", ""))
        w.writeframes((8_000 * rng.standard_normal((2_000, 2))).astype("<i2").tobytes())
    (data / "burst" / "broken.wav").write_bytes(b"RIFF\0\0\0\0WAVE")
    work = steps.begin(str(data), AudioOptions(length=0.3), Progress(1, quiet=True))
    steps.read(work)
    told = "\n".join(work.data.notes)
    for part in ("class 'gong'", "silent.wav: silent", "broken.wav", "cut to their first 0.3 seconds", "clipped"):
        assert part in told, told
    assert work.data.rate == RATE and len(work.data.sounds) == 44
    assert "silent.wav" not in " ".join(work.data.files) and any(f.endswith("stereo.wav") for f in work.data.files)
