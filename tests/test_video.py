"""Video: files read by programs that did not write them, bad files, the split, and one small run from the folder to the clips."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aimt.core.errors import DataError, ProblemError, RunError
from aimt.core.run import Run
from aimt.data.video.bouncing import Bouncing, write_clips
from aimt.data.video.clips import read_clips, split_clips
from aimt.data.video.read import read_video
from aimt.data.video.write import write_gif, write_mp4
from aimt.jobs.shared.pipeline import train_source
from aimt.jobs.verbs.generate import generate
from aimt.train.networks.generator import GeneratorSettings
from aimt.train.networks.video_training import train_video

BOX = Bouncing(size=12, n_frames=4)
TINY = GeneratorSettings(batch_size=8, evaluations=1, n_draws=8)


@pytest.fixture(scope="module")
def disc() -> np.ndarray:
    y, x = np.mgrid[:32, :32]
    return np.stack(
        [np.where(((x - 6 - 2 * t) ** 2 + (y - 16) ** 2 < 40)[..., None], (250, 200, 40), (20, 60, 110)) for t in range(8)]
    ).astype(np.uint8)


# --- files ----------------------------------------------------------------------------------------------------------
def test_a_gif_is_the_same_to_ffmpeg(disc, tmp_path):
    av = pytest.importorskip("av")
    write_gif(tmp_path / "a.gif", disc, fps=10, scale=2)
    with av.open(str(tmp_path / "a.gif")) as file:
        frames = np.stack([f.to_ndarray(format="rgb24") for f in file.decode(video=0)])
    assert frames.shape == (8, 64, 64, 3)
    assert np.abs(frames[:, ::2, ::2].astype(int) - disc).max() <= 1


def test_an_mp4_is_the_same_to_another_ffmpeg(disc, tmp_path):
    pytest.importorskip("av")
    other = pytest.importorskip("imageio_ffmpeg")
    write_mp4(tmp_path / "a.mp4", disc, fps=8, scale=4)
    reader = other.read_frames(str(tmp_path / "a.mp4"))
    about = next(reader)
    frames = np.stack([np.frombuffer(f, np.uint8).reshape(128, 128, 3) for f in reader])
    assert about["codec"] == "h264" and about["fps"] == 8 and len(frames) == 8
    assert np.abs(frames[:, 2::4, 2::4].astype(float) - disc).mean() < 8


def test_an_mp4_of_another_ffmpeg_is_read(disc, tmp_path):
    pytest.importorskip("av")
    other = pytest.importorskip("imageio_ffmpeg")
    writer = other.write_frames(str(tmp_path / "b.mp4"), (32, 32), fps=12, quality=9)
    writer.send(None)
    for frame in disc:
        writer.send(np.ascontiguousarray(frame))
    writer.close()
    video = read_video(tmp_path / "b.mp4")
    assert video.frames.shape == disc.shape and round(video.fps) == 12
    assert np.abs(video.frames.astype(float) - disc).mean() < 10


def test_transparency_lies_on_white(tmp_path):
    hole = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
    full = Image.new("RGBA", (16, 16), (200, 10, 10, 255))
    hole.save(tmp_path / "a.webp", save_all=True, append_images=[full], duration=100, lossless=True)
    frames = read_video(tmp_path / "a.webp").frames
    assert frames[0].min() == 255 and frames[1, 0, 0].tolist() == [200, 10, 10]


# --- folders --------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("clips")
    clips = BOX.clips(40, seed=3)
    write_clips(root, replace(clips, labels=clips.labels % 2, classes=("even", "odd")))
    return root


def test_files_that_cannot_be_used_are_noted(tmp_path):
    clips = BOX.clips(5).frames
    for k, frames in enumerate(clips[:3]):
        write_gif(tmp_path / f"good{k}.gif", frames, scale=1 + k)  # three sizes
    write_gif(tmp_path / "one.gif", clips[3][:1])
    (tmp_path / "broken.gif").write_bytes((tmp_path / "good0.gif").read_bytes()[:40])
    (tmp_path / "frames").mkdir()
    for k in range(3):
        Image.new("RGB", (8 + k, 8)).save(tmp_path / "frames" / f"{k}.png")
    read = read_clips(tmp_path, n_frames=4, size=12)
    assert len(read) == 3 and read.frames.shape[1:] == (4, 12, 12, 1)
    notes = "\n".join(read.notes)
    for words in ("broken.gif was left out", "one.gif was left out: it has one frame", "frames was left out: this frame has 9 x 8 pixels"):
        assert words in notes
    np.testing.assert_array_equal(read.frames[0], clips[0])


def test_a_long_file_is_cut_and_said_to_be_long(tmp_path, monkeypatch):
    monkeypatch.setattr("aimt.data.video.clips.read_video", lambda file, size: read_video(file, size=size, max_frames=12))
    long = np.random.default_rng(0).integers(0, 255, (40, 8, 8, 1), dtype=np.uint8)
    write_gif(tmp_path / "long.gif", long)
    read = read_clips(tmp_path, n_frames=4, size=8)
    assert len(read) == 3 and "long.gif is long: only its first 12 frames were read" in read.notes
    assert len(set(read.groups)) == 1
    with pytest.raises(DataError, match="1 videos are too few"):
        split_clips(read)


def test_clips_of_a_file_stay_together(folder):
    clips = read_clips(folder, n_frames=4, size=12)
    parts = split_clips(clips)
    sides = [set(clips.groups[p]) for p in (parts.train, parts.valid, parts.test)]
    assert not (sides[0] & sides[1] or sides[0] & sides[2] or sides[1] & sides[2])
    assert clips.classes == ("even", "odd") and clips.value_names == ("vx", "vy")


# --- training -------------------------------------------------------------------------------------------------------
def test_an_interrupted_training_goes_on_bit_for_bit(tmp_path):
    clips = BOX.clips(30)
    parts = split_clips(clips)
    data = clips.select(parts.train), clips.select(parts.valid)

    class Stop:
        def on_step(self, trainer, row):
            if row["step"] == 3:
                trainer.stop("here")

    whole, _ = train_video(*data, width=8, settings=TINY, steps=6)
    train_video(*data, width=8, settings=TINY, steps=6, folder=tmp_path, hooks=[Stop()])
    resumed, _ = train_video(*data, width=8, settings=TINY, steps=6, folder=tmp_path, resume=True)
    for a, b in zip(whole.network.parameters(), resumed.network.parameters(), strict=True):
        assert (a == b).all()


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory) -> Run:
    out = tmp_path_factory.mktemp("run") / "clips"
    options = {"n_frames": 4, "frame_size": 12, "width": 8, "steps": 4, "samples": 40, "time_limit": 20}
    return train_source(folder, kind="video", out=out, quiet=True, **options)


def test_a_network_that_learned_nothing_is_held(run):
    metrics = run.read("metrics.json")
    gates = {g["gate"]: g["status"] for g in metrics["verdict"]["gates"]}
    assert metrics["verdict"]["verdict"] == "HOLD"
    assert gates["prediction"] == "hold" and gates["fidelity"] != "pass"
    assert metrics["data"]["classes"] == ["even", "odd"] and metrics["prediction"]["given"] == 2


def test_the_report_shows_samples_and_the_prediction(run):
    page = (run.path / "report.html").read_text(encoding="utf-8")
    for words in ("Linear motion", "data:image/gif;base64", "drawn with seed 0", "Clips of one file are all in one part"):
        assert words in page
    assert "generator of clips" in (run.path / "card.md").read_text(encoding="utf-8")


def test_clips_are_generated_by_class_and_from_a_picture(run, tmp_path):
    Image.new("L", (40, 30), 200).save(tmp_path / "first.png")
    made = generate(run, label="odd", value=["vx=1"], image=tmp_path / "first.png", n=2, steps=2, out=tmp_path / "out")
    assert made.samples.shape == (2, 4, 12, 12, 1)
    assert (made.samples[:, 0] == 200).all()
    gifs = [f for f in made.files if f.suffix == ".gif"]
    assert len(gifs) == 2 and len(read_video(gifs[0])) == 4
    again = generate(run, label="odd", value=["vx=1"], image=tmp_path / "first.png", n=2, steps=2)
    np.testing.assert_array_equal(made.samples, again.samples)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"label": "prime"}, "no class 'prime'"),
        ({"value": ["speed=1"]}, "no number 'speed'"),
        ({"value": ["vx"]}, "no number with a name"),
        ({"temperature": 0.5}, "--kind text"),
        ({"n": 0}, "at least 1"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(run, options, words):
    with pytest.raises(ProblemError, match=words):
        generate(run, **options)


def test_a_missing_picture_and_a_changed_model_are_refused(run, tmp_path):
    with pytest.raises(DataError, match="no such file"):
        generate(run, image=tmp_path / "nowhere.png")
    about = run.path / "model" / "clips.json"
    kept = about.read_text(encoding="utf-8")
    about.write_text(json.dumps(json.loads(kept) | {"fps": 99.0}), encoding="utf-8")
    with pytest.raises(RunError):
        generate(run, n=1)
    about.write_text(kept, encoding="utf-8")
