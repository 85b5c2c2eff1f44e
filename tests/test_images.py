"""The kind for pictures: bad input, resume bit for bit, planted faults, and the command."""

import json
import struct
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from aimt import generate, train
from aimt.core.errors import DataError, ProblemError, RunError
from aimt.core.progress import Progress
from aimt.core.run import Run
from aimt.data.image.folder import pictures_from_arrays, read_folder, read_npz
from aimt.data.image.picture_split import split_pictures
from aimt.jobs.kinds.image import ImageOptions
from aimt.jobs.steps import image as steps
from aimt.jobs.shared.image_model import ImageSettings
from aimt.jobs.steps.image_score import Enlarged, _near_training, gates, reduced_bytes, score
from aimt.evaluate.generation.scores import Samples

QUICK = {"steps": 10, "width": 8, "quiet": True}


def draw(folder, n, *, side=8, value=60, mode="L", suffix=".png", seed=0):
    """Discs of several sizes on noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(n):
        a, b = rng.uniform(-0.5, 0.5, 2)
        pixels = np.where(np.hypot(x - a, y - b) < rng.uniform(0.3, 0.7), 240, value) + rng.integers(-15, 15, x.shape)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).convert(mode).save(folder / f"{i}{suffix}")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Two classes of 40 pictures."""
    folder = tmp_path_factory.mktemp("pictures")
    draw(folder / "discs" / "dark", 40, value=20)
    draw(folder / "discs" / "light", 40, value=120, seed=1)
    return folder


@pytest.fixture(scope="module")
def run(place):
    return train(place / "discs", out=place / "run", **QUICK)


# -- bad input ----------------------------------------------------------------------------------------------------------


def test_files_that_are_no_pictures_are_named_and_left_out(tmp_path):
    draw(tmp_path, 6)
    (tmp_path / "cut.png").write_bytes((tmp_path / "0.png").read_bytes()[:60])
    (tmp_path / "page.jpg").write_text("<html>not found</html>")
    (tmp_path / "empty.gif").write_bytes(b"")
    Image.new("L", (3, 300)).save(tmp_path / "thin.png")
    found = read_folder(tmp_path)
    assert [item.file for item in found.left_out] == ["cut.png", "empty.gif", "page.jpg", "thin.png"]
    assert len(found) == 6 and any("4 of 10 files" in note for note in found.notes)
    assert all(item.reason for item in found.left_out) and "web page" in found.left_out[2].reason


def test_a_decompression_bomb_is_not_decoded(tmp_path):
    draw(tmp_path, 4)
    head = struct.pack(">II5B", 30_000, 30_000, 8, 0, 0, 0, 0)
    parts = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in ((b"IHDR", head), (b"IDAT", b""))
    ]
    (tmp_path / "huge.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    found = read_folder(tmp_path)
    assert [item.file for item in found.left_out] == ["huge.png"] and "million pixels" in found.left_out[0].reason


def test_more_than_half_broken_is_refused(tmp_path):
    draw(tmp_path, 1)
    for name in ("a", "b"):
        (tmp_path / f"{name}.png").write_bytes(b"\x89PNG")
    with pytest.raises(DataError, match="2 of 3 pictures cannot be used; the first is a.png"):
        read_folder(tmp_path)


@pytest.mark.parametrize("mode, suffix", [("L", ".png"), ("RGBA", ".png"), ("P", ".gif"), ("RGB", ".jpg"), ("RGB", ".webp"), ("1", ".png")])
def test_modes_of_grey_pictures_give_one_channel(tmp_path, mode, suffix):
    draw(tmp_path, 4, mode=mode, suffix=suffix)
    assert read_folder(tmp_path).pixels.shape == (4, 8, 8, 1)


def test_mixed_sizes_and_animation_are_said(tmp_path):
    draw(tmp_path / "a", 3, side=40)
    draw(tmp_path / "b", 3, side=20)
    frames = [Image.new("L", (40, 30), v) for v in (0, 255)]
    frames[0].save(tmp_path / "a" / "moving.webp", save_all=True, append_images=frames[1:], lossless=True)
    found = read_folder(tmp_path)
    said = " ".join(found.notes)
    assert found.side == 28 and "middle was cut out" in said and "were enlarged" in said and "1 animated" in said
    assert found.pixels[found.names.index("a/moving.webp")].max() == 0, "the first frame"


def test_a_turned_photograph_is_upright(tmp_path):
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:2] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # Turn by 90 degrees clockwise
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    shown = read_folder(tmp_path).pixels[0, ..., 0]
    assert shown[:, -2:].min() == 255 and shown[:, 0].max() == 0


def test_an_empty_class_is_no_class(tmp_path):
    for name in "ab":
        draw(tmp_path / name, 3)
    (tmp_path / "c").mkdir()
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "x.png").write_bytes(b"?")
    found = read_folder(tmp_path)
    said = " ".join(found.notes)
    assert found.classes == ("a", "b") and "c without a picture" in said and "No picture of d can be used" in said


def test_three_pictures_are_too_few_and_it_is_said_how_many_help(tmp_path):
    draw(tmp_path / "few", 3)
    with pytest.raises(DataError, match="3 pictures are too few: at least 20 .* Some 200 .* 1,000"):
        train(tmp_path / "few", kind="image", out=tmp_path / "run", **QUICK)
    assert not (tmp_path / "run" / "report.html").exists()


def test_arrays_that_are_no_pictures(tmp_path):
    np.savez(tmp_path / "a.npz", table=np.zeros((5, 3)))
    (tmp_path / "b.npz").write_bytes(b"PK?")
    with pytest.raises(DataError, match="no array of pictures among table"):
        read_npz(tmp_path / "a.npz")
    with pytest.raises(DataError, match="cannot be read"):
        read_npz(tmp_path / "b.npz")
    np.savez(tmp_path / "c.npz", images=np.array([{}] * 3, object))
    with pytest.raises(DataError, match="cannot be read"):
        read_npz(tmp_path / "c.npz")
    np.savez(tmp_path / "d.npz", images=np.zeros((4, 3, 16, 16), np.uint8), labels=list("abab"))
    assert read_npz(tmp_path / "d.npz").classes == ("a", "b")


def test_near_duplicates_stand_in_one_part():
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (60, 8, 8))
    x = np.concatenate([x, (x[:30] + rng.integers(-2, 3, (30, 8, 8))).clip(0, 255)]).astype(np.uint8)
    split = split_pictures(pictures_from_arrays(x, np.tile([0, 1, 1], 30)), seed=3)
    part = {int(i): k for k, rows in enumerate((split.train, split.valid, split.test)) for i in rows}
    assert sorted(part) == list(range(90)) and all(part[i] == part[60 + i] for i in range(30))
    assert "30 of 90 pictures are near-duplicates" in split.notes[0]


# -- training -----------------------------------------------------------------------------------------------------------


def test_a_run_has_all_that_its_kind_promises(run):
    m = run.read("metrics.json")
    assert run.kind == "image" and run.status == "done" and m["verdict"]["verdict"] == "HOLD", "ten steps draw nothing"
    assert m["data"]["classes"] == {"dark": 28, "light": 28} and m["generation"]["n_generated"] == 16
    html = (run.path / "report.html").read_text(encoding="utf-8")
    assert "could not be" not in html and html.count("data:image/png") >= 20 and "asked for: dark" in html
    assert "trained by flow matching" in (run.path / "card.md").read_text(encoding="utf-8")


def test_a_run_that_was_interrupted_ends_with_the_same_bits(place, run, monkeypatch):
    class Stop:
        def on_step(self, trainer, row):
            if row["step"] == 7:
                raise KeyboardInterrupt

    trains = steps.train_generator
    monkeypatch.setattr(steps, "train_generator", lambda *a, hooks, **k: trains(*a, hooks=[*hooks, Stop()], **k))
    with pytest.raises(KeyboardInterrupt):
        train(place / "discs", out=place / "again", **QUICK)
    monkeypatch.undo()
    again = train(place / "discs", out=place / "again", resume=True, **QUICK)
    for name in ("model/model.safetensors", "model/judge/model.safetensors"):
        mine, other = (load_file(r.path / name) for r in (again, run))
        assert mine.keys() == other.keys() and all(torch.equal(mine[k], other[k]) for k in mine), name
    assert again.read("metrics.json")["generation"] == run.read("metrics.json")["generation"]


def test_an_earlier_run_is_fine_tuned(place, run, tmp_path):
    draw(tmp_path / "new" / "light", 15, value=120, seed=5)
    draw(tmp_path / "new" / "black", 15, value=0, seed=6)
    tuned = train(tmp_path / "new", out=tmp_path / "tuned", init_from=run.path, steps=2, quiet=True)
    assert tuned.read("metrics.json")["settings"]["lr"] == 5e-4
    assert tuned.read("metrics.json")["verdict"]["verdict"] == "NOT YET"  # six held-out pictures prove nothing
    assert "report.html" in {p.name for p in tuned.path.iterdir()}
    assert generate(tuned, label="black", n=2).samples.shape == (2, 8, 8, 1)
    for wrong in ({"image_size": 16}, {"colour": "rgb"}, {"width": 16}, {"one_step": True}):
        with pytest.raises(ProblemError, match="fine-tuned"):
            train(tmp_path / "new", out=tmp_path / "wrong", init_from=run.path, quiet=True, **wrong)


def test_a_source_without_classes_and_one_step(tmp_path):
    draw(tmp_path / "plain", 40)
    run = train(tmp_path / "plain", kind="image", out=tmp_path / "run", one_step=True, **QUICK)
    with pytest.raises(ProblemError, match="without classes"):
        generate(run, label="a")
    made = generate(run, n=3, seed=4)
    assert np.array_equal(made.samples, generate(run, n=5, seed=4).samples[:3]), "noise does not depend on the number"


# -- planted faults -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """scikit-learn's digits with a judge, without a generator."""
    options = ImageOptions(steps=120, quiet=True)
    work = steps.begin("digits", options, Progress(1, quiet=True))
    work.run = Run.create(tmp_path_factory.mktemp("digits") / "run", settings={"kind": "image"})
    work.stage = SimpleNamespace(update=lambda text: None)
    steps.read(work)
    steps.make_judge(work)
    work.results["findings"] = []
    return work


def verdicts(work, drawing):
    """The answers of the gates for a generator that is a function of (rng, classes)."""
    settings = ImageSettings(8, 1, work.pictures.classes)
    draws = lambda n, labels=None, *, seed=0: drawing(np.random.default_rng(seed), np.asarray(labels))
    work.model = SimpleNamespace(settings=settings, draw=draws)
    score(work)
    return {g.gate: g.status for g in gates(work)}


def some(rng, pixels, labels, asked):
    """A picture of each class that is asked for, at random."""
    return pixels[[rng.choice(np.flatnonzero(labels == c)) for c in asked]]


def test_retrieved_pictures_are_among_those_in_which_copies_are_looked_for():
    train = np.random.default_rng(0).integers(0, 256, (4_000, 4, 4, 1), dtype=np.uint8)
    judge = SimpleNamespace(features=lambda x: x.reshape(len(x), -1))
    work = SimpleNamespace(part=lambda name: (train, None), judge=judge, options=SimpleNamespace(seed=0))
    retrieved = np.arange(0, 4_000, 7)
    samples, rows = _near_training(work, train[[5, 3_001]], retrieved)
    assert set(rows) >= {5, 3_001, *retrieved} and len(samples) == len(rows) < 2_000


def test_real_pictures_pass_and_planted_faults_are_held(judged):
    known, valid = judged.part("train"), judged.part("valid")
    honest = verdicts(judged, lambda rng, asked: some(rng, *valid, asked))
    useful = {r["name"]: r["useful"]["value"] for r in judged.results["generation"]["rivals"]}
    assert useful["retrieval"] < 0.02 < useful["Gaussian per class"], "retrieved pictures are copies"
    assert "hold" not in (honest["condition"], honest["copies"], honest["fidelity"]), honest
    copies = verdicts(judged, lambda rng, asked: some(rng, *known, asked))
    assert copies["copies"] == "hold"
    three = [some(np.random.default_rng(c), *valid, [c])[0] for c in (0, 1, 2)]
    collapsed = verdicts(judged, lambda rng, asked: np.stack([three[i] for i in rng.integers(0, 3, len(asked))]))
    assert collapsed["coverage"] == "hold" and collapsed["condition"] == "hold"
    ignores = verdicts(judged, lambda rng, asked: some(rng, *valid, rng.permutation(asked)))
    assert ignores["condition"] == "hold" and ignores["copies"] != "hold"
    shuffled = verdicts(judged, lambda rng, asked: some(rng, *valid, (asked + 1) % 10))
    assert shuffled["condition"] == "hold"


# -- generating ---------------------------------------------------------------------------------------------------------


def test_the_command_writes_pictures_and_a_sheet(run, aimt_here, tmp_path):
    done = aimt_here("generate", run.path, "--label", "dark", "-n", 3, "-o", tmp_path / "out", "--json")
    assert done.returncode == 0, done.stderr
    files = [Path(f) for f in json.loads(done.stdout)["files"]]
    assert [f.name for f in files] == ["0000-dark.png", "0001-dark.png", "0002-dark.png", "sheet.png"]
    assert Image.open(files[0]).size == (8, 8) and Image.open(files[-1]).size == (22, 22)
    assert np.array_equal(np.asarray(Image.open(files[1])), generate(run, label="dark", n=3).samples[1, ..., 0])


@pytest.mark.parametrize(
    "options, message",
    [
        ({"label": "drak"}, "no class 'drak'"),
        ({"prompt": "a dark disc"}, "trained without captions"),
        ({"n": 0}, "at least 1"),
        ({"guidance": -1}, "at least 0"),
        ({"strength": 2}, "at most 1"),
        ({"strength": 0.5}, "Add --image"),
        ({"mask": "m.png"}, "Add --image"),
        ({"interpolate": True, "n": 1}, "at least -n 2"),
        ({"image": "nowhere.png"}, "no such file"),
    ],
)
def test_what_cannot_be_generated_is_refused(run, options, message):
    with pytest.raises((ProblemError, DataError), match=message):
        generate(run, **options)


def test_a_given_picture_is_kept_where_the_mask_is_black(run, place, tmp_path):
    mask = np.zeros((8, 8), np.uint8)
    mask[4:] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    picture = place / "discs" / "dark" / "0.png"
    made = generate(run, image=picture, mask=tmp_path / "mask.png", n=2).samples
    assert np.abs(made[:, :4, :, 0].astype(int) - np.asarray(Image.open(picture))[:4]).max() <= 1
    assert not np.array_equal(made[0, 4:], made[1, 4:])
    same = generate(run, image=picture, strength=0, n=1).samples[0, ..., 0]
    assert np.abs(same.astype(int) - np.asarray(Image.open(picture))).max() <= 1
    Image.new("L", (8, 8), 255).save(tmp_path / "white.png")
    with pytest.raises(DataError, match="nothing is kept"):
        generate(run, image=picture, mask=tmp_path / "white.png")


def test_a_run_of_another_kind_or_with_changed_weights(run, tmp_path, place):
    (tmp_path / "book.txt").write_text("so many words " * 400)
    book = train(tmp_path / "book.txt", out=tmp_path / "book", steps=2, size="nano", quiet=True)
    with pytest.raises(ProblemError, match="--label is an option of --kind .*image.*, and this is --kind text"):
        generate(book, label="dark")
    with pytest.raises(RunError, match="does not draw"):
        train(place / "discs", out=tmp_path / "run", init_from=book.path, **QUICK)
    file = run.path / "model" / "image.json"
    whole = file.read_text()
    file.write_text(whole.replace('"side": 8', '"side": 9'))
    with pytest.raises(RunError, match="changed after"):
        generate(run)
    file.write_text(whole)


# -- memory and numbers that run out ------------------------------------------------------------------------------------


def test_a_smaller_batch_is_proposed_when_memory_runs_out(place, tmp_path, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(steps.FlowMatching, "loss", full)
    with pytest.raises(RunError, match="not enough memory to train on 16 pictures .* --batch-size 8"):
        train(place / "discs", out=tmp_path / "run", batch_size=16, **QUICK)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "failed"


def test_a_training_whose_loss_is_never_finite_ends_with_its_reason(place, tmp_path, monkeypatch):
    lost = steps.FlowMatching.loss
    monkeypatch.setattr(steps.FlowMatching, "loss", lambda *a, **k: lost(*a, **k) * float("nan"))
    with pytest.raises(RunError, match="diverges after 3 roll-backs: loss nan"), pytest.warns(UserWarning, match="the loss is nan"):
        train(place / "discs", out=tmp_path / "run", **QUICK)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "failed"
    assert not (tmp_path / "run" / "model" / "model.safetensors").exists()


# -- enlarging ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Twelve pieces of scikit-learn's two photographs."""
    from sklearn.datasets import load_sample_images

    folder = tmp_path_factory.mktemp("photos")
    for k, photograph in enumerate(load_sample_images().images):
        for i in range(6):
            top, left = 130 * (i // 3), 180 * (i % 3)
            Image.fromarray(photograph[top : top + 64, left : left + 96]).save(folder / f"{k}{i}.png")
    return folder


@pytest.fixture(scope="module")
def enlarging(photos, tmp_path_factory):
    return train(photos, out=tmp_path_factory.mktemp("enlarging") / "run", enlarge=4, image_size=16, steps=4, width=8, quiet=True)


def test_enlarged_pictures_are_compared_with_bicubic_interpolation_and_retrieval(enlarging):
    m = enlarging.read("metrics.json")
    ways = {row["name"]: row for row in m["enlarging"]["ways"]}
    assert set(ways) == {"mean of the network", "sample of the network", "bicubic", "retrieval"} and m["enlarging"]["photographs"] == 2
    assert ways["bicubic"]["gain"]["value"] == 0 and ways["retrieval"]["gain"]["value"] < -1
    assert any("Split by photograph" in note for note in enlarging.info["notes"])
    html = (enlarging.path / "report.html").read_text(encoding="utf-8")
    assert "Gain over bicubic" in html and "could not be" not in html


def test_a_picture_is_enlarged_and_stays_what_was_given(enlarging, photos, tmp_path):
    picture = Image.open(photos / "00.png").crop((0, 0, 24, 17))
    picture.save(tmp_path / "small.png")
    made = generate(enlarging, enlarge=tmp_path / "small.png", n=2, out=tmp_path / "out", steps=2)
    assert made.samples.shape == (2, 68, 96, 3) and [f.name for f in made.files] == ["small-4x-0.png", "small-4x-1.png"]
    assert not np.array_equal(*made.samples) and "invented" in made.notes[0]
    mean = [generate(enlarging, enlarge=tmp_path / "small.png", steps=0, seed=s).samples for s in (1, 2)]
    assert mean[0].shape == (1, 68, 96, 3)
    again = np.asarray(Image.fromarray(mean[0][0]).resize((24, 17), Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(again - np.asarray(picture)).mean() < 6


@pytest.mark.parametrize(
    "options, message",
    [
        ({}, "Add --enlarge FILE"),
        ({"enlarge": "x.png", "label": "a"}, "--label cannot be combined"),
        ({"enlarge": "x.png"}, "no such file"),
    ],
)
def test_what_a_run_that_enlarges_refuses(enlarging, options, message):
    with pytest.raises((ProblemError, DataError), match=message):
        generate(enlarging, **options)


def test_options_that_do_not_go_with_enlarging(run, photos, place, tmp_path):
    with pytest.raises(ProblemError, match="was not trained to enlarge"):
        generate(run, enlarge=photos / "00.png")
    for options, message in (
        ({"one_step": True}, "exclude each other"),
        ({"image_size": 18}, "cannot be reduced by 4"),
        ({"init_from": run.path}, "must be as in the run"),
    ):
        with pytest.raises(ProblemError, match=message):
            train(photos, kind="image", enlarge=4, out=tmp_path / "run", quiet=True, **options)
    with pytest.raises(DataError, match="a folder of photographs is needed"):
        train("digits", enlarge=4, out=tmp_path / "run", quiet=True)


def test_whether_a_square_fits_what_was_given_does_not_depend_on_its_detail():
    rng = np.random.default_rng(0)
    truth = rng.integers(60, 190, (20, 16, 16, 3), dtype=np.uint8)
    small = reduced_bytes(truth, 4)
    found = Enlarged(truth, small, truth, truth, truth, np.arange(20), np.arange(20), 4)
    assert found._fits(small, small).all() and found.chance() < 0.2
    work = SimpleNamespace(pictures=SimpleNamespace(groups=np.arange(20)), split=SimpleNamespace(test=np.arange(20)))
    assert not found.compared(work, Samples(np.zeros((20, 2))), np.roll(truth, 1, axis=0)).match.any(), "retrieved ones do not fit"
