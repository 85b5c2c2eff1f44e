"""What goes wrong in the training of a generator, for every kind: memory that runs out, a loss that is not finite, a run of another kind, too little data."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import mido
import numpy as np
import pandas as pd
import pytest
import torch
from aimt.core.errors import AimtError, DataError, ProblemError, RunError
from aimt.core.run import Run
from aimt.data.audio.read import write_wav
from aimt.data.music.midi import read_midi, write_midi
from aimt.data.music.score import Note, make_score
from aimt.data.video.bouncing import Bouncing, write_clips
from aimt.data.video.clips import read_clips
from aimt.data.video.write import write_gif
from aimt.jobs.generators.copy_model import open_copy_model
from aimt.jobs.generators.design_model import open_design_model
from aimt.jobs.shared.image_model import open_image_model
from aimt.jobs.shared.music_model import open_music_model
from aimt.jobs.shared.sound_model import open_sounds
from aimt.jobs.shared.video_model import open_video_model
from aimt.jobs.verbs.generate import generate
from aimt.jobs.verbs.train import train
from aimt.train.loop.trainer import Trainer

RATE, SCALE = 8_000, [60, 62, 64, 65, 67, 69, 71, 72]
BOX = Bouncing(size=12, n_frames=4)


def sounds(place: Path, n: int = 16) -> Path:
    """Tones of two heights."""
    rng = np.random.default_rng(0)
    for name, pitch in (("high", 700), ("low", 300)):
        (place / name).mkdir(parents=True)
        for i in range(n // 2):
            write_wav(place / name / f"{i}.wav", 0.5 * np.sin(2 * np.pi * pitch * rng.uniform(0.9, 1.1) * np.arange(1_600) / RATE), RATE)
    return place


def pieces(place: Path, n: int = 50) -> Path:
    """Two voices that walk at random."""
    place.mkdir()
    for i in range(n):
        steps = np.random.default_rng(i).integers(8, size=(2, 24))
        voices = [[Note(t / 2, (t + 1) / 2, SCALE[p] - 12 * low) for t, p in enumerate(line)] for low, line in enumerate(steps)]
        write_midi(make_score(f"walk {i}", voices), place / f"{i}.mid")
    return place


def clips(place: Path, n: int = 16) -> Path:
    """Digits that bounce, in two classes."""
    made = BOX.clips(n, seed=3)
    write_clips(place, replace(made, labels=made.labels % 2, classes=("even", "odd")))
    return place


def springs(place: Path) -> str:
    """A judge of designs."""
    place.mkdir()
    (place / "springs.py").write_text(
        "def measure(d):\n    return {'mass': d['wire'] ** 2 * d['coil'], 'stiffness': d['wire'] / d['coil']}\n"
    )
    return f"{place / 'springs.py'}:measure"


def tents(_: Path) -> pd.DataFrame:
    rows = [{"name": f"Alto {i}", "persons": 2 + i % 4, "cover": ("mesh roof", "rain cover")[i % 2]} for i in range(200)]
    return pd.DataFrame([row | {"description": f"{row['name']} has a {row['cover']} for {row['persons']} persons."} for row in rows])


def pictures(place: Path) -> Path:
    np.savez(
        place.with_suffix(".npz"), images=np.random.default_rng(0).integers(0, 255, (60, 8, 8), dtype=np.uint8), labels=np.arange(60) % 2
    )
    return place.with_suffix(".npz")


KINDS: dict[str, tuple[Callable[[Path], object], dict[str, object], str]] = {  # Its data, options, and what needs less memory
    "image": (pictures, {"width": 8}, "--batch-size 21"),
    "audio": (sounds, {"width": 8, "length": 0.2, "time_limit": 2}, "--width, or a shorter --length"),
    "music": (pieces, {"size": "tiny"}, "--size, or fewer --steps-per-quarter"),
    "video": (clips, {"width": 8, "n_frames": 4, "frame_size": 12}, "--width, a smaller --frame-size"),
    "design": (springs, {"size": "tiny", "examples": 100, "parameters": "wire=1..4,coil=5..20"}, "--size"),
    "copy": (tents, {"size": "tiny"}, "--size"),
}
OPENERS = {
    "image": open_image_model,
    "audio": open_sounds,
    "music": open_music_model,
    "video": open_video_model,
    "design": open_design_model,
    "copy": open_copy_model,
}
FOREIGN = {"image": "melody", "audio": "melody", "music": "label", "video": "want", "design": "label", "copy": "image"}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Callable[[str], object]:
    """The data of a kind, made when they are first asked for."""
    place, made = tmp_path_factory.mktemp("data"), {}

    def find(kind: str) -> object:
        if kind not in made:
            made[kind] = KINDS[kind][0](place / kind)
        return made[kind]

    return find


@pytest.fixture
def plant(monkeypatch) -> Callable[[Callable[[torch.Tensor], torch.Tensor]], None]:
    """Changes the loss of the training that keeps checkpoints, which is the generator's and not its judge's."""

    def change(fault: Callable[[torch.Tensor], torch.Tensor]) -> None:
        start = Trainer.__init__

        def init(self, model, batches, loss_fn, *rest, folder=None, **more) -> None:
            start(self, model, batches, (lambda *of: fault(loss_fn(*of))) if folder else loss_fn, *rest, folder=folder, **more)

        monkeypatch.setattr(Trainer, "__init__", init)

    return change


def attempt(kind: str, source: object, out: Path) -> Run:
    options = KINDS[kind][1] | ({"judge": source} if kind == "design" else {})
    return train(None if kind == "design" else source, kind=kind, out=out, steps=4, quiet=True, **options)


def out_of_memory(_: torch.Tensor) -> torch.Tensor:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")


@pytest.mark.parametrize("kind", KINDS)
def test_memory_that_runs_out_is_told_with_the_options_of_the_kind(kind, data, plant, tmp_path):
    plant(out_of_memory)
    with pytest.raises(RunError, match="there is not enough memory to train on") as error:
        attempt(kind, data(kind), tmp_path / "run")
    assert KINDS[kind][2] in error.value.hint
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "failed"


@pytest.mark.parametrize("kind", KINDS)
def test_a_loss_that_is_never_finite_ends_the_run_with_its_reason(kind, data, plant, tmp_path):
    plant(lambda loss: loss * float("nan"))
    with (
        pytest.raises(RunError, match="diverges after 3 roll-backs: loss nan") as error,
        pytest.warns(UserWarning, match="the loss is nan"),
    ):
        attempt(kind, data(kind), tmp_path / "run")
    assert "--seed" in error.value.hint and ("--lr" in error.value.hint) == (kind == "image")
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["status"] == "failed" and "diverges" in run["reason"]
    assert not list((tmp_path / "run" / "model").glob("*.safetensors")), "nothing is kept that could be taken for a model"


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_of_another_kind_is_refused(kind, tmp_path):
    for other in [k for k in KINDS if k != kind][:2]:
        run = Run.create(tmp_path / other, settings={"kind": other})
        run.finish()
        with pytest.raises(RunError, match=f"this run is of --kind {other}"):
            OPENERS[kind](run.path)
    run = Run.create(tmp_path / kind, settings={"kind": kind})
    run.finish()
    option = FOREIGN[kind]
    with pytest.raises(ProblemError, match=f"--{option} is an option of --kind .*, and this is --kind {kind}"):
        generate(run.path, **{option: "x"})


# -- too little -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "kind", "told"), [(sounds, "audio", "200 would help"), (pieces, "music", "50 pieces"), (clips, "video", "200 would help")]
)
def test_three_examples_are_refused_and_it_is_said_how_many_help(make, kind, told, tmp_path):
    with pytest.raises(DataError, match=told):
        attempt(kind, make(tmp_path / "few", 3), tmp_path / "run")
    assert not (tmp_path / "run" / "report.html").exists()


def test_videos_of_one_frame_are_no_videos(tmp_path):
    (tmp_path / "stills").mkdir()
    for k in range(20):
        write_gif(tmp_path / "stills" / f"{k}.gif", BOX.clips(1, seed=k).frames[0][:1])
    with pytest.raises(AimtError, match=r"of 20 videos 0 can be used .*it has one frame, and a clip needs 4"):
        attempt("video", tmp_path / "stills", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_class_without_clips_is_named_and_left_out(tmp_path):
    folder = clips(tmp_path / "clips")
    (folder / "empty").mkdir()
    (folder / "stills").mkdir()
    write_gif(folder / "stills" / "one.gif", BOX.clips(1).frames[0][:1])
    read = read_clips(folder, n_frames=4, size=12)
    told = "\n".join(read.notes)
    assert read.classes == ("even", "odd") and "class 'empty' is left out" in told and "class 'stills' is left out" in told
    assert "stills/one.gif was left out: it has one frame" in told


def test_a_folder_whose_midi_files_all_fail_says_why(tmp_path):
    on, off = (lambda p: mido.Message("note_on", note=p)), (lambda p, t: mido.Message("note_off", note=p, time=t))
    place = tmp_path / "midi"
    place.mkdir()
    mido.MidiFile(tracks=[mido.MidiTrack([on(30 + i), off(30 + i, 960)]) for i in range(40)]).save(place / "crowd.mid")
    mido.MidiFile(tracks=[mido.MidiTrack([on(60), off(60, 3 * 60 * 120 * 480)])]).save(place / "opera.mid")
    with pytest.raises(DataError, match="none of 2 files can be used"):
        attempt("music", place, tmp_path / "run")
    for name, why in (("crowd", "40 voices sound"), ("opera", "3.0 hours long")):
        with pytest.raises(DataError, match=why):
            read_midi(place / f"{name}.mid")
