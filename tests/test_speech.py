"""Kind `audio` on recordings with transcripts: speech from text, by the command and from Python."""

import contextlib
import json
import shutil
import wave
from functools import partial

import numpy as np
import pytest
from aimt.cli.main import main
from aimt.core.errors import DataError, ProblemError
from aimt.core.progress import Progress
from aimt.data.audio.read import read_audio, write_wav
from aimt.jobs.kinds.audio import AudioOptions
from aimt.jobs.shared.pipeline import open_run, train_source
from aimt.jobs.steps import audio as steps
from aimt.jobs.verbs.generate import generate
from safetensors.numpy import load_file

RATE = 8_000
SMALL = {"kind": "audio", "steps": 18, "width": 8, "time_limit": 30, "quiet": True}
TONES = {"a": 400.0, "o": 1_000.0, "u": 2_200.0, " ": 0.0}
WORDS = ("ao", "ou", "ua", "oa")


def say(text, rng):
    "An invented language: a tone of 60 to 90 ms for each letter, silence for a space."
    parts = [0.3 * np.sin(2 * np.pi * TONES[c] * np.arange(int(rng.integers(480, 720))) / RATE) for c in text]
    return np.concatenate(parts) + 1e-3 * rng.standard_normal(sum(map(len, parts)))


@pytest.fixture(scope="module", autouse=True)
def small_recogniser():
    with pytest.MonkeyPatch.context() as m:
        m.setattr(steps, "RecogniserConfig", partial(steps.RecogniserConfig, n_hidden=48, copies=0, lr=5e-3))
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place, rng = tmp_path_factory.mktemp("speech") / "voice", np.random.default_rng(0)
    place.mkdir()
    texts = dict.fromkeys(" ".join(rng.choice(WORDS, 3)) for _ in range(60))
    for i, text in enumerate(list(texts)[:40]):
        write_wav(place / f"{i:02}.wav", say(text, rng), RATE)
        (place / f"{i:02}.txt").write_text(text.capitalize())
    return place


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    return train_source(str(folder), out=tmp_path_factory.mktemp("runs") / "voice", **SMALL)


def test_a_run_has_words_understood_samples_and_a_verdict(run):
    m = json.loads((run.path / "metrics.json").read_text())
    assert [g["gate"] for g in m["verdict"]["gates"]] == ["fidelity", "coverage", "condition", "copies", "worth", "training", "recogniser"]
    assert m["verdict"]["verdict"] != "SHIP"  # 18 steps are not a training
    assert m["data"]["n_train"] == 32 and m["data"]["n_test"] == 8 and m["data"]["words"] == 4 and m["data"]["new_words"] == 0
    names = [row["name"] for row in m["speech"]]
    assert names == ["generated", "recordings", "recordings after Griffin-Lim", "retrieval", "concatenation", "encoder alone"]
    share = {row["name"]: row["share"] for row in m["speech"]}
    assert share["recordings"]["value"] > 0.6 > share["generated"]["value"]
    assert share["recordings"]["low"] <= share["recordings"]["value"] <= share["recordings"]["high"] <= 1
    assert m["generation"]["condition"]["real"]["value"] == pytest.approx(share["recordings"]["value"])
    report = (run.path / "report.html").read_text()
    assert "<audio" in report and "Is this speech like" in report and "Recordings after Griffin-Lim" in report and "(heard:" in report
    assert "A voice belongs to somebody" in (run.path / "card.md").read_text()


def test_a_text_is_said_by_the_command_and_again_the_same(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["aimt", "generate", str(run.path), "--prompt", "Ao ua", "-o", str(tmp_path / "out")])
    with contextlib.suppress(SystemExit):
        main()
    files = sorted((tmp_path / "out").glob("*.wav"))
    assert [f.name for f in files] == ["000-Ao-ua.wav"] and "000-Ao-ua.wav" in capsys.readouterr().out
    with wave.open(str(files[0])) as w:
        assert w.getframerate() == RATE and w.getnframes() > 1_000
    assert np.abs(read_audio(files[0], rate=RATE)).max() > 0.3
    made = generate(run.path, prompt=["ao ua", "ou"], n=3, out=tmp_path / "again")
    assert made.files[0].read_bytes() == files[0].read_bytes() and len(made.samples) == 3
    assert not np.array_equal(made.samples[0][:500], made.samples[2][:500])  # the first text again, with another seed
    assert not made.notes and generate(run.path, prompt="ao uu").notes == (
        "words that the recordings do not contain, said as they are spelled: uu",
    )
    quick = generate(run.path, prompt="ao ua ou oa", speed=2.0).samples[0]
    assert len(quick) < 0.8 * len(generate(run.path, prompt="ao ua ou oa").samples[0])


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"prompt": "ao 7"}, "did not contain: '7'"),
        ({"prompt": "schön"}, "Spell out numbers and signs; it has heard aou"),
        ({"prompt": ""}, "nothing to say"),
        ({}, "not said what to say"),
        ({"prompt": "ao", "label": "ao"}, "this run speaks, and --label"),
        ({"prompt": "ao", "speed": 9.0}, "--speed must be"),
    ],
)
def test_what_cannot_be_said_is_refused(run, options, told):
    with pytest.raises((DataError, ProblemError)) as error:
        generate(run.path, **options)
    assert told in f"{error.value} {error.value.hint}"


def test_an_interrupted_training_goes_on_bit_for_bit(folder, run, tmp_path, monkeypatch):
    class Interrupted(steps.TrainingMonitor):
        def on_step(self, trainer, row):
            super().on_step(trainer, row)
            if row["step"] == 13:
                raise KeyboardInterrupt

    monkeypatch.setattr(steps, "train_recogniser", lambda *_: steps.Recogniser.load(run.path / "model" / "judge"))  # saves seconds
    with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt):
        m.setattr(steps, "TrainingMonitor", Interrupted)
        train_source(str(folder), out=tmp_path / "cut", **SMALL)
    resumed = train_source(str(folder), out=tmp_path / "cut", kind="audio", resume=True, quiet=True)
    for name in ("network/model.safetensors", "encoder.safetensors"):
        a, b = (load_file(r.path / "model" / name) for r in (run, resumed))
        assert a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a), name
    assert open_run(resumed).pace == open_run(run).pace


def read(place):
    work = steps.begin(str(place), AudioOptions(), Progress(1, quiet=True))
    return work, steps.read(work)


def test_odd_recordings_are_named_and_the_rest_is_used(folder, tmp_path):
    data, rng = tmp_path / "data", np.random.default_rng(1)
    shutil.copytree(folder, data)

    def add(name, x, text, rate=RATE):
        write_wav(data / f"{name}.wav", x, rate)
        if text is not None:
            (data / f"{name}.txt").write_text(text)

    add("silent", np.zeros(6_000), "ao ou")
    add("clipped", 9 * say("ua ua ua oa", rng), "ua ua ua oa")
    add("fast", np.repeat(say("oa oa oa ua", rng), 2), "oa oa oa ua", 2 * RATE)
    add("wrong", say("ao", rng), "ao " * 60)
    add("long", np.tile(say("ao ou ua", rng), 30), "ao " * 30)
    add("untold", say("ou ou", rng), None)
    (data / "broken.wav").write_bytes(b"RIFF\0\0\0\0WAVE")
    (data / "broken.txt").write_text("oa")
    work, _ = read(data)
    told = "\n".join(work.data.notes)
    for part in ("silent.wav: silent", "broken.wav", "clipped", "more characters than frames", "long.wav", "without a .txt beside"):
        assert part in told, (part, told)
    used = " ".join(work.data.files)
    assert (
        work.data.rate == RATE and len(work.data.sounds) == 42 and "fast.wav" in used and "clipped.wav" in used and "wrong.wav" not in used
    )


def test_a_held_out_character_that_was_never_heard_is_left_out(folder, tmp_path):
    rows = [(p, p.with_suffix(".txt").read_text()) for p in sorted(folder.glob("*.wav"))]
    parts = [f"{p},{'zz' if i == 0 else text},{'test' if i < 9 else 'train'}" for i, (p, text) in enumerate(rows)]
    (tmp_path / "metadata.csv").write_text("\n".join(["file,text,split", *parts]) + "\n")
    work, _ = read(tmp_path)
    assert "z" not in work.config.characters and len(work.data.part("test").sounds) == 8
    assert any("1 held-out recordings have characters" in note for note in work.data.notes)


@pytest.mark.parametrize(("keep", "told"), [(5, "at least 12 are needed; 200 would help"), (0, "without a class or a transcript")])
def test_too_few_transcripts_are_refused_before_anything_is_written(folder, tmp_path, keep, told):
    data = tmp_path / "data"
    shutil.copytree(folder, data)
    for file in sorted(data.glob("*.txt"))[keep:]:
        file.unlink()
    with pytest.raises(DataError, match=told):
        train_source(str(data), out=tmp_path / "run", **SMALL)
    assert not (tmp_path / "run").exists()
