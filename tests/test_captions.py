"""Pictures and clips by text: bad captions, bad prompts, one small run of each kind, and planted faults that must be held."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from aimt import generate, train
from aimt.core.errors import DataError, ModelFormatError, ProblemError
from aimt.data.image.synthetic_shapes import draw_shapes
from aimt.data.video.write import write_gif
from aimt.decide.generators.generator_gates import GeneratorLimits, condition_gate
from aimt.evaluate.generation.caption_judge import CaptionJudge, caption_chance, train_caption_judge
from aimt.evaluate.generation.judge import JudgeConfig
from aimt.evaluate.generation.scores import Samples, score_generation
from aimt.jobs.generators.caption_steps import CaptionedPart, as_floats, learn_encoder
from aimt.jobs.shared.image_model import open_image_model
from aimt.models.image.clip import CLIP
from aimt.models.image.clip_tokenizer import CLIPTokenizer
from aimt.models.image.clip_towers import CLIPConfig
from aimt.models.image.text_encoder import asked_texts, prompt_notes

QUICK = {"steps": 8, "width": 8, "quiet": True}


def write_pictures(folder: Path, n: int = 80, *, size: int = 12, table: bool = True) -> list[str]:
    """Drawings and their captions."""
    drawings = draw_shapes(n, size=size)
    folder.mkdir(parents=True, exist_ok=True)
    for i, pixels in enumerate(drawings.pixels):
        Image.fromarray(pixels).save(folder / f"{i:03d}.png")
    if table:
        write_table(folder, [(f"{i:03d}.png", text) for i, text in enumerate(drawings.captions)])
    return drawings.captions


def write_table(folder: Path, rows: list[tuple[str, str]]) -> None:
    with (folder / "captions.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("file", "caption"), *rows])


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("captions")
    write_pictures(folder / "shapes")
    return folder


@pytest.fixture(scope="module")
def run(place):
    return train(place / "shapes", kind="image", out=place / "run", **QUICK)


# --- captions -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "change, said",
    [
        (lambda rows: rows[:-2], "2 of 80 files have no caption: 078.png, 079.png"),
        (lambda rows: [*rows[:-1], ("079.png", " - ")], "1 of 80 files have an empty caption, or one without a word: 079.png"),
        (lambda rows: [*rows, ("003.png", "a second caption")], "1 of 80 files stand twice in the table: 003.png"),
        (lambda rows: [(name, "a picture") for name, _ in rows], "all 80 files have the same caption, 'a picture'"),
    ],
)
def test_captions_that_are_not_complete_are_refused_by_name(place, tmp_path, change, said):
    captions = write_pictures(tmp_path / "shapes")
    write_table(tmp_path / "shapes", change([(f"{i:03d}.png", text) for i, text in enumerate(captions)]))
    with pytest.raises(DataError, match=said):
        train(tmp_path / "shapes", kind="image", out=tmp_path / "run", **QUICK)
    assert not (tmp_path / "run").exists()


def test_text_files_and_a_table_are_not_mixed(tmp_path):
    write_pictures(tmp_path)
    (tmp_path / "005.txt").write_text("a cat")
    with pytest.raises(DataError, match="1 of 80 files have a text file beside them and a row in captions.csv: 005.png"):
        train(tmp_path, kind="image", out=tmp_path / "run", **QUICK)


def test_a_text_encoder_needs_captions(tmp_path):
    write_pictures(tmp_path / "bare", 30, table=False)
    with pytest.raises(ProblemError, match="the pictures have no captions"):
        train(tmp_path / "bare", kind="image", model="clip", out=tmp_path / "run", **QUICK)


# --- a run ----------------------------------------------------------------------------------------------------------
def test_a_run_is_asked_by_texts(run, tmp_path):
    m = run.read("metrics.json")
    assert run.info["problem"]["inputs"] == ["text"] and m["texts"]["words"] > 10 and m["captions"]["ways"] == 10
    assert m["generation"]["condition"]["chance"] == pytest.approx(0.1)
    assert {s["asked"] for s in m["samples"]["samples"]} <= {r[1] for r in csv.reader((run.path.parent / "shapes/captions.csv").open())}
    asked = ["a red circle", "blue square"]
    made = generate(run, prompt=asked, n=3, out=tmp_path / "out", steps=2)
    assert made.samples.shape == (3, 12, 12, 3) and not made.notes
    assert [p.name for p in made.files[:3]] == ["0000-a-red-circle.png", "0001-blue-square.png", "0002-a-red-circle.png"]
    again = generate(run, prompt=asked, n=3, steps=2)
    assert (again.samples == made.samples).all()
    other = generate(run, prompt=["green triangle"], n=3, steps=2, guidance=5)
    assert (other.samples != again.samples).any()


def test_a_report_shows_prompts_with_samples(run):
    page = (run.path / "report.html").read_text(encoding="utf-8")
    text = run.read("metrics.json")["samples"]["samples"][0]["asked"]
    assert f"asked for: {text}" in page and "The texts" in page


@pytest.mark.parametrize(
    "prompt, said",
    [
        ("", "has no word in it"),
        (" \n", "has no word in it"),
        ("🙂 !!", "has no word in it"),
        ("zeppelin", "no caption has a word of the prompt 'zeppelin'"),
        ("красный круг", "no caption has a word"),
        ("红色的圆", "no caption has a word"),
        ("دائرة حمراء", "no caption has a word"),
        ([], "no prompt in the list"),
    ],
)
def test_prompts_that_say_nothing_are_refused(run, prompt, said):
    with pytest.raises(ProblemError, match=said):
        generate(run, prompt=prompt, n=1)


def test_unknown_words_are_said_with_the_nearest(run):
    made = generate(run, prompt="a rde circle joy", n=1, steps=1)
    assert len(made.notes) == 2 and "'rde': left out. Did you mean 'red'" in made.notes[0] and "'joy'" in made.notes[1]
    same = generate(run, prompt="a circle", n=1, steps=1)
    assert (made.samples == same.samples).all()
    with pytest.raises(ProblemError, match="no caption has a word of the prompt 'cirle'") as e:
        generate(run, prompt="cirle", n=1)
    assert "'circle'" in str(e.value.hint)


def test_a_very_long_prompt_is_cut_and_said(run):
    made = generate(run, prompt="a red circle " * 5000, n=1, steps=1)
    assert "tokens, and the first 32 are read" in made.notes[0]


def test_texts_and_classes_are_not_mixed(run):
    with pytest.raises(ProblemError, match="without classes"):
        generate(run, label="circle", n=1)
    with pytest.raises(ProblemError, match="trained without captions"):
        asked_texts("a red circle", 1, None)


def test_an_encoder_with_other_vectors_is_refused(run, tmp_path):
    model = open_image_model(run)
    model.save(tmp_path)
    config = json.loads((tmp_path / "texts" / "config.json").read_text())
    (tmp_path / "texts" / "config.json").write_text(json.dumps(config | {"counts": [1]}))
    with pytest.raises(ModelFormatError, match="do not fit the tower"):
        type(model).load(tmp_path)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """The folder of a tiny CLIP."""
    folder = tmp_path_factory.mktemp("clip") / "clip"
    tokens = CLIPTokenizer.train(["a red circle in the middle"], vocab_size=560, context=16)
    torch.manual_seed(0)
    CLIP(CLIPConfig.preset("tiny", vocab_size=tokens.vocab_size)).save_pretrained(folder)
    tokens.save(folder)
    return folder


def test_weights_of_a_given_clip(clip, tmp_path):
    some = draw_shapes(20, size=12)
    part = CaptionedPart(some.pixels, tuple(some.captions))
    encoder, about = learn_encoder(part, part, tmp_path / "a", model=clip)
    assert about["how"] == "weights given: clip" and encoder.width == 64
    assert "kept, though no picture showed it" in prompt_notes(encoder, "a zeppelin")[0]
    assert encoder.vectors(["a zeppelin"]).abs().sum() > 0
    other = CaptionedPart(some.pixels, tuple(f"{text} today" for text in some.captions))
    again, about = learn_encoder(other, other, tmp_path / "b", earlier=encoder)
    assert about["how"] == "that of the earlier run" and {"today", "red"} <= set(again.vocabulary.words)


@pytest.mark.slow("two trainings")
def test_a_run_with_a_given_clip_is_fine_tuned(place, clip, tmp_path):
    run = train(place / "shapes", kind="image", model=clip, out=tmp_path / "run", **QUICK)
    assert run.read("metrics.json")["texts"]["how"] == "weights given: clip"
    again = {"init_from": run.path, "out": tmp_path / "again", "steps": 8, "quiet": True}
    with pytest.raises(ProblemError, match="a text encoder of its own"):
        train(place / "shapes", kind="image", model=clip, **again)
    tuned = train(place / "shapes", kind="image", **again)
    assert tuned.read("metrics.json")["texts"]["how"] == "that of the earlier run"


# --- clips ----------------------------------------------------------------------------------------------------------
def test_clips_by_text(tmp_path):
    drawings = draw_shapes(45, size=16)
    (tmp_path / "clips").mkdir()
    for i, pixels in enumerate(drawings.pixels):
        clip = np.stack([np.roll(pixels, k, 1) for k in range(4)])
        write_gif(tmp_path / "clips" / f"{i:02d}.gif", clip)
        (tmp_path / "clips" / f"{i:02d}.txt").write_text(drawings.captions[i])
    run = train(tmp_path / "clips", kind="video", n_frames=4, frame_size=12, clips_per_file=1, samples=8, out=tmp_path / "run", **QUICK)
    m = run.read("metrics.json")
    assert run.kind == "video" and m["texts"]["words"] > 8 and m["generation"]["condition"] is not None
    assert m["samples"]["samples"][0]["asked"] in drawings.captions
    made = generate(run, prompt="a red circle", n=2, steps=2, out=tmp_path / "out")
    assert made.samples.shape == (2, 4, 12, 12, 3) and made.files
    with pytest.raises(ProblemError, match="no caption has a word"):
        generate(run, prompt="zeppelin", n=1)
    (tmp_path / "clips" / "07.txt").unlink()
    with pytest.raises(DataError, match="1 of 45 files have no caption: 07.gif"):
        train(tmp_path / "clips", kind="video", n_frames=4, frame_size=12, out=tmp_path / "again", **QUICK)


# --- planted faults -------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def judged():
    """A judge of captions, and held-out drawings."""
    known, held, fresh = (draw_shapes(n, seed=s, size=12, held_out=None) for s, n in ((0, 500), (1, 250), (2, 250)))
    config = JudgeConfig(width=8, steps=100, batch_size=128)
    return train_caption_judge(as_floats(known.pixels), known.captions, config=config), known, held, fresh


def look(judge: CaptionJudge, pixels: np.ndarray, asked, pool) -> Samples:
    x = as_floats(pixels)
    return Samples(judge.features(x), x.reshape(len(x), -1), None, judge.match(x, list(asked), pool))


def answer(judge, made, held, asked=None):
    """The gate of the condition for pictures that were asked for by texts."""
    texts = asked or held.captions
    scores = score_generation(
        look(judge, made, texts, held.captions),
        look(judge, held.pixels, held.captions, held.captions),
        Samples(judge.features(as_floats(made))),
        chance=caption_chance(held.captions),
    )
    return scores, condition_gate(scores, GeneratorLimits())


def test_drawings_of_what_was_asked_for_pass(judged):
    judge, _, held, fresh = judged
    scores, gate = answer(judge, fresh.pixels, held, fresh.captions)
    assert scores.condition.real["low"] > 4 * scores.condition.chance and gate.status == "pass"


def test_a_generator_that_ignores_its_text_is_held(judged):
    judge, _, held, fresh = judged
    order = np.random.default_rng(0).permutation(len(fresh.captions))
    scores, gate = answer(judge, fresh.pixels, held, [fresh.captions[i] for i in order])
    assert gate.status == "hold" and scores.condition.generated["high"] < 2.5 * scores.condition.chance


def test_shuffled_captions_are_held(judged):
    """Of the generator alone, which draws what other captions say; and of the whole folder, from which the judge learns nothing."""
    judge, known, held, fresh = judged
    rng = np.random.default_rng(1)
    nearest = {text: known.pixels[i] for i, text in zip(rng.permutation(len(known.captions)), known.captions, strict=True)}
    drawn = [text for text in fresh.captions if text in nearest]
    _, gate = answer(judge, np.stack([nearest[text] for text in drawn]), held, drawn)
    assert gate.status == "hold"
    mixed = lambda d: replace(d, captions=[d.captions[i] for i in rng.permutation(len(d.captions))])
    known, held, fresh = mixed(known), mixed(held), mixed(fresh)
    blind = train_caption_judge(as_floats(known.pixels), known.captions, config=replace(judge.config, steps=40))
    scores, gate = answer(blind, fresh.pixels, held, fresh.captions)
    assert gate.status == "hold" and "hardly belong together" in gate.text and scores.condition.real["high"] < 0.2
