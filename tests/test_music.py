"""Music: bad files with a message of their own, a run from files to files, and generators with planted faults that must be held."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import mido
import numpy as np
import pytest

from aimt.core.errors import DataError, ProblemError, RunError
from aimt.core.run import Run
from aimt.data.music.midi import read_midi, write_midi
from aimt.data.music.read import read_scores
from aimt.data.music.score import Note, Score, make_score, split_by_tune, transpose
from aimt.data.music.score_tokens import ScoreCodec
from aimt.decide.generators.generator_gates import GeneratorLimits, copies_gate
from aimt.jobs.shared.pipeline import choose_kind
from aimt.jobs.steps import music as steps
from aimt.jobs.verbs.generate import generate
from aimt.jobs.verbs.train import train

SCALE = [48 + 12 * (i // 7) + (0, 2, 4, 5, 7, 9, 11)[i % 7] for i in range(24)]


def canon(seed: int, length: int = 32) -> Score:
    """Two voices a third apart that walk through a scale."""
    rng, at, upper, lower = np.random.default_rng(seed), 9, [], []
    for t in range(length):
        at = int(np.clip(at + rng.choice([-2, -1, 1, 2]), 2, 20))
        upper.append(Note(t / 2, (t + 1) / 2, SCALE[at + 2]))
        lower.append(Note(t / 2, (t + 1) / 2, SCALE[at]))
    return make_score(f"canon {seed}", [upper, lower])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("pieces")
    for i in range(60):
        write_midi(canon(i), place / f"canon{i:02d}.mid")
    bad = place / "bad"
    bad.mkdir()
    (bad / "broken.mid").write_bytes(b"MThd\0\0\0\6\0\1")
    silent = mido.MidiFile(tracks=[mido.MidiTrack([mido.MetaMessage("set_tempo", tempo=500_000)])])
    silent.save(bad / "silent.mid")
    on, off = (lambda p: mido.Message("note_on", note=p)), (lambda p, t: mido.Message("note_off", note=p, time=t))
    crowd = mido.MidiFile(tracks=[mido.MidiTrack([on(30 + i), off(30 + i, 960)]) for i in range(40)])
    crowd.save(bad / "crowd.mid")
    opera = mido.MidiFile(tracks=[mido.MidiTrack([on(60), off(60, 3 * 60 * 120 * 480)])])
    opera.save(bad / "opera.mid")
    return place


@pytest.fixture(scope="module")
def run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(folder, kind="music", steps=15, out=tmp_path_factory.mktemp("runs") / "run", quiet=True)


def test_a_folder_of_midi_files_is_music(folder: Path) -> None:
    assert choose_kind(folder, {}).name == "music"
    assert choose_kind(folder / "canon00.mid", {}).name == "music"


def test_bad_files_are_left_out_with_their_names(folder: Path, run: Run) -> None:
    scores, left_out = read_scores(folder)
    assert len(scores) == 60
    for name, reason in (("broken", "no MIDI file"), ("silent", "no notes"), ("crowd", "40 voices sound"), ("opera", "hours long")):
        line = next(text for text in left_out if f"{name}.mid" in text)
        assert reason in line and line.rstrip().endswith((".", "it", "each", "out", "notes", "instrument")), line
    assert run.read("metrics.json")["data"]["left_out"] == 4
    assert "crowd.mid" in (run.path / "report.html").read_text(encoding="utf-8")


def test_a_run_has_scores_samples_and_a_verdict(run: Run) -> None:
    m = run.read("metrics.json")
    assert m["verdict"]["verdict"] in ("SHIP", "NOT YET", "HOLD")
    assert {g["gate"] for g in m["verdict"]["gates"]} >= {"likelihood", "voice leading", "fidelity", "copies", "worth"}
    assert all((run.path / s["file"]).stat().st_size for s in m["samples"]["samples"])
    page = (run.path / "report.html").read_text(encoding="utf-8")
    assert "data:audio/wav;base64" in page and "data:image/png;base64" in page


def test_melodies_are_kept_note_for_note(run: Run, tmp_path: Path) -> None:
    whole = canon(77)
    write_midi(whole, tmp_path / "whole.mid")
    made = generate(run, melody=tmp_path / "whole.mid", candidates=3, out=tmp_path / "out")
    assert np.array_equal(made.samples[0].pitches[:, 0], whole.pitches[:, 0])
    assert np.array_equal(read_midi(tmp_path / "out/000.mid").onsets[:, 0], whole.onsets[:, 0])
    lower = generate(run, melody=tmp_path / "whole.mid", voice=2, candidates=3).samples[0]
    assert np.array_equal(lower.pitches[:, 1], whole.pitches[:, 1])


def test_the_same_seed_gives_the_same_music(run: Run) -> None:
    first, second, other = (generate(run, bars=2, candidates=2, seed=s).samples[0] for s in (5, 5, 6))
    assert np.array_equal(first.pitches, second.pitches) and not np.array_equal(first.pitches, other.pitches)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"key": "H dur"}, "not a key"),
        ({"bars": 0}, "--bars must be at least 1"),
        ({"max_new_tokens": 5}, "--max-new-tokens is an option of --kind"),
        ({"melody": "none.mid"}, "none.mid.*cannot be read"),
        ({"prompt": "song.mp3"}, "neither MIDI nor MusicXML"),
    ],
)
def test_what_cannot_be_asked_says_why(run: Run, options: dict[str, object], message: str) -> None:
    with pytest.raises((ProblemError, DataError), match=message):
        generate(run, **options)


def test_a_changed_model_is_refused(run: Run, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(run.path, tmp_path / "copy")
    weights = tmp_path / "copy/model/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\1\1")
    with pytest.raises(RunError):
        generate(tmp_path / "copy")


def test_settings_of_one_tune_stay_in_one_part() -> None:
    pieces = [canon(i, 48) for i in range(30)]
    pieces += [transpose(p, k) for k, p in enumerate(pieces[:10], -5)]
    parts = split_by_tune(pieces)
    for i in range(10):
        assert any({i, 30 + i} <= set(part) for part in parts)


def test_a_generator_that_memorises_is_held() -> None:
    pieces = [canon(i, 64) for i in range(60)]
    codec = ScoreCodec(2)
    parts = {"train": range(40), "test": range(40, 60)}
    work = SimpleNamespace(samples=pieces[:20], pieces=lambda name: [codec.encode(pieces[i]) for i in parts[name]], codec=codec)
    memorised = steps._run_copies(work)
    work.samples = [canon(100 + i, 64) for i in range(20)]
    honest = steps._run_copies(work)
    assert len(memorised.copied) == 20 and not honest.copied
    scores = SimpleNamespace(copies=(memorised,), n_generated=20)
    assert copies_gate(scores, GeneratorLimits()).status == "hold"
    assert copies_gate(replace_copies(scores, honest), GeneratorLimits()).status != "hold"


def replace_copies(scores: SimpleNamespace, copies: object) -> SimpleNamespace:
    return SimpleNamespace(**{**vars(scores), "copies": (copies,)})


def test_a_score_that_is_cut_keeps_its_grid(tmp_path: Path) -> None:
    score = canon(3)
    part = replace(score, pitches=score.pitches[5:], onsets=score.onsets[5:], beat=score.beat[5:])
    back = read_midi(write_midi(part, tmp_path / "part.mid"))
    assert np.array_equal(back.pitches, part.pitches) and np.array_equal(back.beat, part.beat)
