"""`aimt finetune clip`, from a folder of pictures to a verdict: classes, captions, verbs of the run, and pictures that are none.

The network is tiny and begins with random weights, so that the whole file takes seconds.
"""

import json
import os
import struct
import zlib

import numpy as np
import pandas as pd
import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
torch = pytest.importorskip("torch")
from PIL import Image  # noqa: E402
from safetensors.numpy import load_file  # noqa: E402

import aimt  # noqa: E402
from aimt.core.errors import AimtError, DataError, ModelFormatError, ProblemError, RunError  # noqa: E402
from aimt.data.image.read import CLIPImages, read_image  # noqa: E402
from aimt.deploy.report.finetune import plot_pictures, plot_reason  # noqa: E402
from aimt.explain.occlusion import plot_squares  # noqa: E402
from aimt.jobs.families import clip as family_clip  # noqa: E402
from aimt.jobs.families.base import split_pairs  # noqa: E402
from aimt.jobs.families.clip import CLIP_FAMILY, PictureCLIP, are_classes, colours, moved  # noqa: E402
from aimt.jobs.operate.bundle import bundle  # noqa: E402
from aimt.jobs.operate.bundle_files import open_bundle  # noqa: E402
from aimt.models.image.clip_towers import CLIPConfig, Tower  # noqa: E402
from media_service import post_file, service_of  # noqa: E402
from aimt.models.image.clip_tokenizer import CLIPTokenizer  # noqa: E402
from aimt.models.image.zero_shot import TEMPLATES, recall_at_k, zero_shot, zero_shot_head  # noqa: E402
from aimt.train.networks.contrastive import clip_loss, contrastive_loss, same_group  # noqa: E402

torch.set_num_threads(1)
pytestmark = pytest.mark.usefixtures("brief")
INKS = {"blood red": (200, 30, 40), "grass": (40, 160, 60), "night blue": (30, 40, 150)}
RNG = np.random.default_rng(0)


def paint(name: str, seed: int, size: int = 28) -> np.ndarray:
    """Noisy paper of a colour."""
    rng = np.random.default_rng([seed, len(name)])
    return np.clip(np.array(INKS[name]) + rng.normal(0, 25, (size, size + seed % 7, 3)), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The folder of a tiny CLIP with random weights, in the layout of Hugging Face."""
    torch.manual_seed(0)
    words = CLIPTokenizer.train([*TEMPLATES, *INKS, "one dark bright 0 1 2 3 4 5 6 7 8 9"], vocab_size=640, context=20)
    model = PictureCLIP(CLIPConfig(Tower(32, 1, 2), Tower(32, 1, 2), width=32, image_size=24, patch_size=8, vocab_size=640, context=20))
    model.tokenizer, model.images = words, CLIPImages(24, 24)
    folder = tmp_path_factory.mktemp("base")
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder with a sub-folder for each class, and in it what one finds in such folders."""
    folder = tmp_path_factory.mktemp("pictures")
    for name in INKS:
        (folder / name.replace(" ", "_")).mkdir()
        for i in range(24):
            Image.fromarray(paint(name, i)).save(folder / name.replace(" ", "_") / f"{i:02}.{('png', 'bmp', 'webp')[i % 3]}")
    (folder / "grass" / "Thumbs.db").write_bytes(b"no picture, and no picture's name")
    (folder / "grass" / ".hidden.png").write_bytes(b"not meant")
    (folder / "notes").mkdir()
    return folder


def tune(base, where, source, **options):
    """A fine-tuning in a second: many steps at a high rate, as so small a network wants it."""
    usual = {
        "model": base,
        "out": where / "run",
        "steps": 40,
        "lr": 4e-3,
        "weight_interpolation": 1.0,
        "batch_size": 24,
        "quiet": True,
        "overwrite": True,
    }
    return aimt.finetune("clip", source, **usual | options)


@pytest.fixture(scope="module")
def run(base, pictures, tmp_path_factory):
    """A run that is done, with other pictures as the original task."""
    where = tmp_path_factory.mktemp("done")
    table = pd.DataFrame([{"image": str(p), "caption": f"{p.stem} {p.parent.name}"} for p in sorted(pictures.rglob("0*.png"))])
    return tune(base, where, pictures, retention_data=table)


# ---- from a folder to a verdict


def test_a_run_has_everything(run, pictures):
    metrics = run.read("metrics.json")
    rows = {row["model"]: row for row in metrics["scores"]["table"]}
    assert list(rows) == ["fine-tuned", "before", "colour histogram and logistic regression", "frozen network and linear probe"]
    assert rows["fine-tuned"]["value"] > 0.8 > rows["before"]["value"] and metrics["scores"]["metric"] == "found"
    assert all(row["low"] <= row["value"] <= row["high"] for row in rows.values())
    assert metrics["data"]["train"] + metrics["data"]["valid"] + metrics["data"]["test"] == 72
    assert metrics["curve"]["train"]["loss"][-1] < metrics["curve"]["train"]["loss"][0]
    assert set(metrics["forgotten"]) == {"loss", "found", "among the first five"}  # the original task is one of captions
    assert run.problem.task == "image-to-text" and run.problem.inputs == ["image"] and run.problem.target == "caption"
    assert (run.path / "report.html").is_file() and (run.path / "card.md").is_file()
    known = json.loads((run.path / "model" / "answers.json").read_text())
    assert known["classes"] and known["answers"] == sorted(INKS)
    assert metrics["reasons"] and all(len(r["parts"]) == 49 for r in metrics["reasons"])


def test_average_is_half_way_by_default(base, pictures, tmp_path):
    whole = tune(base, tmp_path / "a", pictures, steps=4, patience=0)
    half = tune(base, tmp_path / "b", pictures, steps=4, patience=0, weight_interpolation=None)
    old, new, mean = (load_file(f / "model.safetensors") for f in (base, whole.path / "model", half.path / "model"))
    assert any(not np.array_equal(old[n], new[n]) for n in old)
    assert all(np.abs(mean[n] - (old[n] + new[n]) / 2).max() < 1e-6 for n in old)


def test_same_seed_same_result(base, pictures, tmp_path):
    a, b = (tune(base, tmp_path / name, pictures, steps=3, seed=3).read("metrics.json") for name in ("a", "b"))
    assert a["curve"]["train"] == b["curve"]["train"] and a["scores"] == b["scores"]


def test_lora(base, pictures, tmp_path):
    run = tune(base, tmp_path, pictures, lora=4, lr=2e-2)
    assert run.read("metrics.json")["trained"]["share"] < 0.5
    assert (run.path / "adapters" / "adapter_model.safetensors").is_file()
    assert set(run.predict(pictures, quiet=True)["prediction"]) <= set(INKS)


# ---- using the run


def test_predict_a_folder_a_file_and_a_table(run, pictures, tmp_path):
    found = run.predict(pictures, quiet=True)
    assert list(found.columns) == ["image", "prediction", "probability", "problem"] and len(found) == 72
    truth = [os.path.basename(os.path.dirname(p)).replace("_", " ") for p in found["image"]]
    assert (found["prediction"] == truth).mean() > 0.9 and found["probability"].between(1 / 3, 1).all() and not any(found["problem"])
    one = run.predict(pictures / "grass" / "00.png", quiet=True)
    assert one["prediction"].tolist() == ["grass"]
    Image.fromarray(paint("night blue", 99)).save(tmp_path / "x.png")
    pd.DataFrame({"image": ["x.png", "no.png", None], "id": [3, 2, 1]}).to_csv(tmp_path / "new.csv", index=False)
    scored = pd.read_csv(run.predict(tmp_path / "new.csv", out=tmp_path / "scored.csv", quiet=True))
    assert list(scored["id"]) == [3, 2, 1] and scored["prediction"][0] == "night blue" and scored["prediction"][1:].isna().all()
    assert "no such file" in scored["problem"][1] and "no picture is named" in scored["problem"][2]


def test_probabilities_are_those_of_a_zero_shot_head(run, pictures):
    model, files = CLIP_FAMILY.open(run.path / "model"), [str(p) for p in sorted(pictures.rglob("1*.png"))]
    head = zero_shot_head(model, model.tokenizer, sorted(INKS))
    expected = zero_shot(model, model.places_of_pictures(files), head)
    answers = CLIP_FAMILY.predict(model, files)
    assert np.allclose(answers["probability"], expected.max(1).values.numpy(), atol=1e-5)
    assert answers["prediction"] == [sorted(INKS)[i] for i in expected.argmax(1)]
    assert torch.equal(model.places, head)


def test_evaluate_and_unknown_classes(run, pictures, tmp_path):
    scores = run.evaluate(pictures)
    assert scores["n_rows"] == 72 and scores["table"][0]["metric"] == "found" and scores["table"][0]["value"] > 0.9
    files = sorted(str(p) for p in (pictures / "grass").glob("0*.png"))
    few = pd.DataFrame({"image": [*files[:2], str(pictures / "blood_red" / "00.png")], "caption": ["grass", "grass", "blood red"]})
    assert run.evaluate(few)["n_rows"] == 3 and {r["metric"] for r in run.evaluate(few)["table"]} == {"found", "loss"}
    with pytest.raises(DataError, match="does not know the class 'gras'"):
        run.evaluate(few.assign(caption=["grass", "gras", "blood red"]))


def test_explain_by_squares(run, pictures):
    found = run.explain(pictures / "grass", rows=[0, 3])
    assert [f["row"] for f in found] == [0, 3] and found[0]["prediction"] == "grass"
    assert [p["part"] for p in found[0]["parts"]][:8] == [f"row 1, column {c}" for c in range(1, 8)] + ["row 2, column 1"]
    assert len(found[0]["parts"]) == 49 and np.ptp([p["effect"] for p in found[0]["parts"]]) > 0
    assert plot_squares(read_image(pictures / "grass" / "00.png"), found[0]["parts"]).axes[0].images
    with pytest.raises(ProblemError, match="no row 50"):
        run.explain(pictures / "grass", rows=[50])


def test_squares_that_are_left_out_are_grey():
    picture = RNG.integers(0, 100, (300, 900, 3), dtype=np.uint8)
    names, without = CLIP_FAMILY.parts(picture)
    stay = np.ones(49, bool)
    stay[8] = False
    out = without(stay)
    assert names[8] == "row 2, column 2" and out.shape == (149, 448, 3)
    assert (out[21:42, 64:128] == 128).all() and (out == 128).all(2).sum() == 21 * 64
    assert (without(np.zeros(49, bool)) == 128).all()
    names, without = CLIP_FAMILY.parts(np.zeros((1, 3, 3), np.uint8))  # fewer pixels than squares
    assert names == ["row 1, column 1", "row 1, column 2", "row 1, column 3"] and (without(np.zeros(3, bool)) == 128).all()


def test_report_and_doctor(run):
    html = (run.path / "report.html").read_text(encoding="utf-8")
    assert "could not be" not in html and html.count("<figure>") >= 4 and "Below each picture" in html
    metrics = run.read("metrics.json")
    shown, reason = metrics["answers"]["examples"][:3], metrics["reasons"][0]
    assert len(plot_reason([reason]).axes) == 3 and [len(ax.images) for ax in plot_pictures(shown).axes] == [1, 1, 1, 0]
    gone = plot_pictures([shown[0] | {"input": "gone.png"}]).axes[0]
    assert not gone.images and gone.texts[0].get_text() == "not found" and len(plot_reason([reason | {"input": "gone.png"}]).axes) == 1
    assert run.report() is not None
    assert all({"name", "severity", "evidence", "advice"} <= set(f) for f in aimt.doctor(run))


def test_one_run_is_the_start_of_the_next(run, base, pictures, tmp_path):
    again = tune(run.path, tmp_path, pictures, steps=1, lr=1e-9)
    assert again.read("metrics.json")["scores"]["table"][1]["value"] > 0.8  # already good before


def test_transformers_reads_the_result(run, pictures):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.CLIPModel.from_pretrained(run.path / "model").eval()
    ours = CLIP_FAMILY.open(run.path / "model")
    pixels, ids = torch.from_numpy(ours.images([pictures / "grass" / "00.png"])), ours.tokenizer(["grass"])
    with torch.no_grad():
        assert (theirs(input_ids=ids, pixel_values=pixels).logits_per_image - ours(pixels, ids)).abs().max() < 1e-4


def test_a_changed_model_is_refused(base, pictures, tmp_path):
    run = tune(base, tmp_path, pictures, steps=1)
    (run.path / "model" / "answers.json").write_text('{"classes": true, "answers": ["a", "b", "c"]}')
    with pytest.raises(RunError, match="changed"):
        run.predict(pictures, quiet=True)


def test_the_command(base, pictures, tmp_path, monkeypatch):
    """In this process, since each start costs seconds."""
    from typer.testing import CliRunner

    from aimt.cli.main import app

    monkeypatch.chdir(tmp_path)
    call = lambda *words: CliRunner().invoke(app, [str(w) for w in words])
    done = call("finetune", "clip", pictures, "--model", base, "--steps", 2, "--json")
    assert done.exit_code == 0, done.output
    answers = call("predict", tmp_path / "runs" / pictures.name, pictures / "grass", "-o", "answers.csv")
    assert answers.exit_code == 0, answers.output
    assert len(pd.read_csv(tmp_path / "answers.csv")) == 24


# ---- captions


def captioned(folder, n=30):
    """Pictures with captions of their own in a table beside them; two pictures share each brightness."""
    (folder / "img").mkdir()
    rows = []
    for i in range(n):
        name = list(INKS)[i % 3]
        Image.fromarray(paint(name, i)).save(folder / "img" / f"{i}.png")
        rows.append({"image": f"img/{i}.png", "caption": f"{name} {i // 2}"})
    pd.DataFrame(rows).to_csv(folder / "captions.csv", index=False)
    return folder / "captions.csv"


def test_captions_from_a_table(base, tmp_path):
    table = captioned(tmp_path)
    run = tune(base, tmp_path, table, steps=20)
    metrics = run.read("metrics.json")
    assert [row["model"] for row in metrics["scores"]["table"]] == ["fine-tuned", "before", "colours mapped to words"]
    known = json.loads((run.path / "model" / "answers.json").read_text())
    assert not known["classes"] and set(known["answers"]) == set(pd.read_csv(table)["caption"])
    assert set(run.predict(tmp_path / "img", quiet=True)["prediction"]) <= set(known["answers"])
    assert {r["metric"] for r in run.evaluate(table)["table"]} == {"found", "among the first five", "loss"}
    folder = CLIP_FAMILY.read(tmp_path)  # one table in a folder is meant by the folder
    assert list(folder["target"]) == list(pd.read_csv(table)["caption"])


def test_found_is_recall_at_one(base, tmp_path):
    pairs = CLIP_FAMILY.read(captioned(tmp_path, 40))
    model = CLIP_FAMILY.open(base, pairs)
    ours = CLIP_FAMILY.score(model, pairs)
    images, known = model.places_of_pictures(list(pairs["input"])), sorted(set(pairs["target"]))
    match = torch.tensor([[t == k for k in known] for t in pairs["target"]])
    expected = recall_at_k(images, model.places_of(known), k=(1, 5), match=match)
    assert ours["found"].mean() == pytest.approx(expected["image_to_text@1"])
    assert ours["among the first five"].mean() == pytest.approx(expected["image_to_text@5"])
    group = torch.tensor([known.index(t) for t in pairs["target"]])
    with torch.no_grad():
        loss = contrastive_loss(images, model.places_of(list(pairs["target"])), model.logit_scale, same=same_group(group))
    assert ours["loss"].mean() == pytest.approx(float(loss - same_group(group).sum(1).log().mean()), abs=1e-4)


def test_several_captions_of_a_picture(base, tmp_path):
    captioned(tmp_path)
    table = pd.DataFrame(
        {"image": [str(tmp_path / "img" / f"{i // 2}.png") for i in range(40)], "caption": [f"number {i}" for i in range(40)]}
    )
    pairs = CLIP_FAMILY.read(table)
    group = family_clip._groups(pairs, False)
    assert len(set(group)) == 20 and (group[::2] == group[1::2]).all()
    found = CLIP_FAMILY.score(CLIP_FAMILY.open(base, pairs), pairs)["found"]
    assert (found[::2] == found[1::2]).all()  # either caption is right
    parts = split_pairs(pairs)
    assert not set(parts["train"]["input"]) & set(parts["test"]["input"])


def test_loss_is_zero_at_best_and_needs_no_memory(base, pictures):
    pairs = CLIP_FAMILY.read(pictures)
    model = CLIP_FAMILY.open(base, pairs)
    batches = CLIP_FAMILY.batches(model, pairs, 70, seed=1)
    batch = next(batches)
    assert len(batches) == 1 and set(batch) == {"pixels", "ids", "group"}
    least = same_group(batch["group"]).sum(1).double().log().mean()
    loss = CLIP_FAMILY.loss(model, batch)  # 70 pairs: two chunks
    assert loss.item() == pytest.approx(float(clip_loss(model, batch) - least), abs=1e-5) and loss > 0
    again = CLIP_FAMILY.batches(model, pairs, 70, seed=1)
    assert torch.equal(next(again)["pixels"], batch["pixels"])


# ---- pictures that are none, and tables that cannot be learned


def huge_png() -> bytes:
    """The head of a picture of a hundred million pixels."""
    body = b"IHDR" + struct.pack(">IIBBBBB", 10_000, 10_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body)) + struct.pack(">I", 0) + b"IDAT"


@pytest.fixture
def odd(tmp_path):
    """Two classes of ordinary pictures, and one of each strange kind."""
    for name in ("grass", "night_blue"):
        (tmp_path / name).mkdir()
        for i in range(8):
            Image.fromarray(paint(name.replace("_", " "), i)).save(tmp_path / name / f"{i}.png")
    grass, whole = tmp_path / "grass", (tmp_path / "grass" / "1.png").read_bytes()
    Image.fromarray(paint("grass", 50)).convert("L").save(grass / "grey.png")
    Image.fromarray(np.dstack([paint("grass", 51), np.full((28, 30), 90, np.uint8)])).save(grass / "rgba.png")
    Image.new("RGB", (1, 1), INKS["grass"]).save(grass / "pixel.png")
    for name, data in {
        "half.png": whole[:300],
        "empty.png": b"",
        "page.jpg": b"<html>404",
        "huge.png": huge_png(),
        "copy.png": whole,
    }.items():
        (grass / name).write_bytes(data)
    return tmp_path


def test_odd_pictures_are_left_out_and_said(base, odd, tmp_path):
    run = tune(base, tmp_path / "out", odd, steps=1)
    notes = " ".join(run.read("metrics.json")["data"]["notes"])
    assert "left out: 4" in notes and "half.png" in notes and "empty" in notes and "copies of others" in notes
    assert sum(run.read("metrics.json")["data"][p] for p in ("train", "valid", "test")) == 20  # 16, a copy, grey, rgba, one pixel
    answers = run.predict(odd / "grass", quiet=True)
    bad = answers[answers["problem"] != ""]
    assert sorted(os.path.basename(p) for p in bad["image"]) == ["empty.png", "half.png", "huge.png", "page.jpg"]
    assert bad["prediction"].isna().all() and answers["prediction"].notna().sum() == 12
    with pytest.raises(DataError, match="million pixels"):
        run.explain(odd / "grass" / "huge.png", rows=[0])


def test_copies_stay_together(odd):
    pairs = CLIP_FAMILY.read(odd)
    twice = pairs[pairs["input"].str.endswith("1.png") & (pairs["target"] == "grass")]
    assert len(twice) == 1 or twice["input"].nunique() == 1
    assert pairs["input"].duplicated().sum() == 1
    for seed in range(5):
        parts = split_pairs(pairs, seed=seed)
        assert not set(parts["train"]["input"]) & set(parts["test"]["input"])


def test_folders_for_training_and_test(odd):
    for part in ("train", "test"):
        (odd / part).mkdir()
    for name in ("grass", "night_blue"):
        (odd / name).rename(odd / "train" / name)
        (odd / "test" / name).mkdir()
        Image.fromarray(paint(name.replace("_", " "), 70)).save(odd / "test" / name / "t.png")
    pairs = CLIP_FAMILY.read(odd)
    assert pairs["split"].value_counts().to_dict() == {"train": 20, "test": 2}
    assert len(split_pairs(pairs)["test"]) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns="caption"), "no column 'caption'"),
        (lambda t: t.drop(columns="image"), "no column 'image'"),
        (lambda t: t.assign(caption="a"), "the same caption"),
        (lambda t: t.assign(image="nowhere/" + t["image"]), "no picture can be read"),
        (lambda t: t.assign(image=[np.zeros((3, 3))] * len(t)), "ndarray"),
        (lambda t: t.assign(caption=" "), "no row has an input"),
        (lambda t: t.head(3), "3 examples are too few"),
    ],
)
def test_tables_that_cannot_be_learned(base, tmp_path, change, message):
    table = pd.read_csv(captioned(tmp_path))
    table["image"] = [str(tmp_path / p) for p in table["image"]]
    with pytest.raises(AimtError, match=message):
        tune(base, tmp_path, change(table))


def test_empty_folder(base, run, tmp_path):
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="sub-folders with pictures"):
        tune(base, tmp_path, tmp_path / "none")
    with pytest.raises(DataError, match="no picture is in this folder"):
        run.predict(tmp_path / "none", quiet=True)


def test_models_that_cannot_be_used(base, pictures, tmp_path):
    copy = tmp_path / "copy"
    other = CLIPTokenizer.train(["a b c " * 3, *"defghijklmnopqrst"], vocab_size=700, context=20)
    words = CLIPTokenizer.from_merges([(a, b) for a in "abcdefghijklm" for b in "nopqrstuvwxyz"], context=20)
    assert words.vocab_size > 640 >= other.vocab_size
    for fault, message in (
        (lambda: (copy / "tokenizer.json").unlink(), "tokenizer.json"),
        (lambda: words.save(copy), "683 tokens and the network 640"),
        (lambda: CLIPImages(32, 32).save(copy), "cut to 32 pixels"),
        (lambda: (copy / "model.safetensors").unlink(), "missing|model.safetensors"),
    ):
        copy.mkdir(exist_ok=True)
        for file in base.iterdir():
            (copy / file.name).write_bytes(file.read_bytes())
        fault()
        with pytest.raises(ModelFormatError, match=message):
            CLIP_FAMILY.open(copy)
    (copy / "model.safetensors").write_bytes((base / "model.safetensors").read_bytes())
    (copy / "preprocessor_config.json").unlink()  # as in folders of open_clip
    model = CLIP_FAMILY.open(copy)
    assert model.images == CLIPImages(24, 24)
    with pytest.raises(ModelFormatError, match="no answers"):
        CLIP_FAMILY.predict(model, [str(pictures / "grass" / "00.png")])


# ---- small parts


def test_what_counts_as_classes():
    assert are_classes(["a"] * 5 + ["b"] * 5) and are_classes(["a"] * 5 + ["b"] * 4 + ["c"] * 20)
    assert not are_classes(["a"] * 4 + ["b"] * 4) and not are_classes([str(i) for i in range(50)]) and not are_classes([])


def test_moved_pictures_are_shifted_by_little():
    ramp = np.arange(32)[None, :, None, None] * 4 + np.arange(32)[None, None, :, None] + np.zeros((50, 1, 1, 3))
    ramp = ramp.astype(np.uint8)
    out = moved(ramp, np.random.default_rng(0))
    inner = out[:, 8:24, 8:24, 0].astype(int) - ramp[:, 8:24, 8:24, 0]
    assert out.shape == ramp.shape and len(np.unique(out, axis=0)) > 10
    assert all(len(np.unique(one)) == 1 for one in inner) and np.abs(inner).max() <= 2 * 4 + 2 and np.abs(inner).max() > 0


def test_colours_of_a_picture():
    half = np.zeros((1, 4, 4, 3), np.uint8)
    half[:, :2] = (255, 0, 130)
    found = colours(half)
    assert found.shape == (1, 64) and found[0, 0] == pytest.approx(0.5**0.5) and found[0, 3 * 16 + 2] == pytest.approx(0.5**0.5)
    assert found.sum() == pytest.approx(2 * 0.5**0.5)


def test_a_picture_that_changes_is_read_again(base, tmp_path):
    model, file = CLIP_FAMILY.open(base), tmp_path / "a.png"
    for value in (10, 200):
        Image.new("RGB", (24, 24), (value,) * 3).save(file)
        os.utime(file, ns=(value * 10**9, value * 10**9))
        assert (model.squares([str(file)]) == value).all()


# ---- served


def test_a_picture_is_answered_as_predict_answers_it(run, pictures, tmp_path):
    service = service_of(open_bundle(bundle(run, out=tmp_path / "run.zip")["archive"], tmp_path / "opened"))
    files = sorted((pictures / "grass").glob("0*.png"))[:2] + sorted((pictures / "night_blue").glob("*.webp"))[:1]
    wanted = aimt.predict(run, pd.DataFrame({"image": list(map(str, files))}), quiet=True)
    for file, answer, probability in zip(files, wanted["prediction"], wanted["probability"], strict=True):
        status, reply = post_file(service, file.read_bytes(), f"image/{file.suffix[1:]}")
        assert status == 200 and reply["predictions"] == [{"prediction": answer, "probability": pytest.approx(probability, abs=1e-6)}]
    assert "image/png" in post_file(service, b"", "", "/schema", "GET")[1]["models"][service.traffic.route(None).champion.name]["takes"]


def test_what_is_no_picture_is_refused(run, pictures):
    service, good = service_of(run), sorted((pictures / "grass").glob("0*.png"))[0].read_bytes()
    bomb = b"".join(  # a PNG that says it has 60,000 x 60,000 pixels
        [b"\x89PNG\r\n\x1a\n", struct.pack(">I", 13), (head := b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))]
        + [struct.pack(">I", zlib.crc32(head))]
    )
    for body in (b"", b"no picture", good[: len(good) // 2], bomb, b"/etc/passwd"):
        status, reply = post_file(service, body, "image/png")
        assert status == 422 and "picture" in reply["error"], reply
    assert post_file(service, b'{"rows": [{"image": "/etc/passwd"}]}', "application/json")[0] == 415
    assert post_file(service, b"a,b\n1,2\n", "text/csv")[0] in (400, 415, 422)
    status, reply = post_file(service, good, "image/png")  # and it goes on
    assert status == 200, reply
