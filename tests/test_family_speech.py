"""`aimt finetune deepspeech`, from recordings to a verdict: the verbs, other alphabets, and sound as people have it.

The recordings are chords made by rule and the network is tiny, so that the whole file takes seconds.
"""

import json
import warnings

import numpy as np
import pandas as pd
import pytest

torch = pytest.importorskip("torch")

import aimt  # noqa: E402
from aimt.core.errors import AimtError, DataError, ModelFormatError, ProblemError  # noqa: E402
from aimt.data.audio.read import read_audio, write_wav  # noqa: E402
from aimt.generate.audio.ctc_decoding import LMScorer, greedy, train_lm  # noqa: E402
from aimt.jobs.families.base import find_family  # noqa: E402
from aimt.jobs.families.deepspeech import (  # noqa: E402
    DEEPSPEECH_FAMILY,
    SpeechBatches,
    choose_way,
    fit_alphabet,
    frames_of,
    hear,
    recordings_in,
)
from aimt.jobs.operate.bundle import bundle  # noqa: E402
from aimt.jobs.operate.bundle_files import open_bundle  # noqa: E402
from aimt.metrics.speech import char_error_rate, word_error_rate  # noqa: E402
from aimt.models.audio.deepspeech import DeepSpeech  # noqa: E402
from aimt.models.audio.speech_features import Alphabet, DeepSpeechConfig  # noqa: E402

from media_service import post_file, service_of  # noqa: E402


torch.set_num_threads(1)
pytestmark = pytest.mark.usefixtures("no_drawing", "brief")
CHARACTERS, WORDS = "abcdeghilmnorst", "the cat sat on red moon".split()


def say(text: str, rng: np.random.Generator, rate: int = 16_000) -> np.ndarray:
    """A chord of two tones for each character."""
    parts = [np.zeros(rate // 40)]
    for c in text:
        n = int(rng.integers(65, 90)) * rate // 1000
        t, i = np.arange(n) / rate, CHARACTERS.find(c)
        chord = sum(np.sin(2 * np.pi * f * t) for f in (250 + 90 * (i % 5), 900 + 450 * (i // 5)))
        parts.append(np.zeros(n) if c == " " else 0.2 * chord * np.sin(np.pi * np.arange(n) / n) ** 0.5)
    x = np.concatenate([*parts, np.zeros(rate // 40)])
    return (x + 0.003 * rng.standard_normal(len(x))).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with sixty recordings in a subfolder, and table.csv whose paths count from the folder."""
    where, rng, rows = tmp_path_factory.mktemp("sound"), np.random.default_rng(0), []
    (where / "wav").mkdir()
    for i in range(60):
        said = " ".join(rng.choice(WORDS, rng.integers(1, 3)))
        write_wav(where / "wav" / f"{i:02d}.wav", say(said, rng))
        rows.append((f"wav/{i:02d}.wav", said.capitalize() + ".", i))
    pd.DataFrame(rows, columns=["wav", "transcript", "number"]).to_csv(where / "table.csv", index=False)
    return where


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The folder of a tiny DeepSpeech that has heard nothing."""
    torch.manual_seed(0)
    where = tmp_path_factory.mktemp("base")
    DeepSpeech(DeepSpeechConfig(n_hidden=64, n_context=2, dropout=0.0)).save_pretrained(where)
    return where


def tune(base, folder, where, **options):
    usual = {"model": base, "out": where / "run", "steps": 120, "lr": 6e-3, "batch_size": 8, "patience": 0, "quiet": True}
    return aimt.finetune("deepspeech", folder / "table.csv", **usual | options)


@pytest.fixture(scope="module")
def run(base, folder, tmp_path_factory):
    """A run that is done."""
    return tune(base, folder, tmp_path_factory.mktemp("done"))


# ---- from recordings to a verdict


def test_a_run_has_everything(run):
    metrics, report = run.read("metrics.json"), run.read("report.json")
    rows = {row["model"]: row for row in metrics["scores"]["table"]}
    assert list(rows) == ["fine-tuned", "before", "the commonest transcript"]
    assert rows["fine-tuned"]["value"] < 0.6 < rows["before"]["value"]  # errors: less is better
    assert metrics["scores"]["metric"] == "wer" and metrics["scores"]["greater_is_better"] is False
    assert metrics["data"]["train"] + metrics["data"]["valid"] + metrics["data"]["test"] == 60
    gates = {g["gate"]: g["status"] for g in metrics["verdict"]["gates"]}
    assert gates["gain"] == "pass" and gates["baseline"] in {"pass", "not yet"}  # twelve recordings prove little
    assert report["verdict"]["verdict"] in {"SHIP", "NOT YET", "HOLD"}
    assert run.info["data"]["unit"] == "recordings" and run.problem.task == "speech-to-text"
    assert {"config.json", "model.safetensors", "alphabet.txt"} <= {p.name for p in (run.path / "model").iterdir()}
    assert "word error rate" in (run.path / "report.html").read_text(encoding="utf-8")


def test_means_are_word_error_rates(run, folder):
    """The figures of `evaluate` are those of the metrics module, computed from the predictions."""
    found = aimt.evaluate(run, folder / "table.csv")
    answers = aimt.predict(run, folder / "table.csv", quiet=True)
    said = [t.lower().rstrip(".") for t in answers["transcript"]]
    heard = list(answers["prediction"])
    values = {row["metric"]: row["value"] for row in found["table"]}
    assert found["table"][0]["metric"] == "wer" and found["n_rows"] == 60
    assert values["wer"] == pytest.approx(word_error_rate(said, heard)["value"], abs=0.02)  # `predict` hears the last bit too
    assert values["cer"] == pytest.approx(char_error_rate(said, heard)["value"], abs=0.02)


def test_predict_table_file_and_folder(run, folder, tmp_path):
    table = aimt.predict(run, folder / "table.csv", quiet=True)
    assert list(table.columns) == ["wav", "transcript", "number", "prediction", "times", "problem"]
    assert list(table["number"]) == list(range(60)) and set(table["problem"]) == {""}
    one = aimt.predict(run, folder / "wav" / "03.wav", quiet=True)
    assert len(one) == 1 and one["prediction"][0] == table["prediction"][3]
    many = aimt.predict(run, folder / "wav", out=tmp_path / "answers.csv", quiet=True)
    back = pd.read_csv(many, keep_default_na=False)
    assert list(back["prediction"]) == list(table["prediction"]) and list(back["times"]) == list(table["times"])
    for text, times, path in zip(table["prediction"], table["times"], table["wav"], strict=True):
        words = json.loads(times)
        assert " ".join(w for w, _, _ in words) == text
        ends = [t for _, start, end in words for t in (start, end)]
        assert ends == sorted(ends) and (not ends or ends[-1] <= len(read_audio(folder / path)) / 16_000 + 0.05)


def test_explain_names_stretches_of_time(run, folder):
    rows = aimt.explain(run, folder / "table.csv", rows=[0, 1])
    for row in rows:
        assert [p["part"] for p in row["parts"]] == [f"{i / 5:.1f} s" for i in range(len(row["parts"]))]
        assert np.isfinite([p["effect"] for p in row["parts"]]).all()
    assert max(p["effect"] for p in rows[0]["parts"]) > 1  # sound speaks for its text
    with pytest.raises(ProblemError, match="no row 60"):
        aimt.explain(run, folder / "table.csv", rows=[60])


def test_report_again(run):
    assert aimt.report(run).is_file()


def test_a_run_can_be_tuned_further(run, folder, tmp_path):
    further = tune(run.path, folder, tmp_path, steps=3, lr=1e-5)
    rows = {row["model"]: row["value"] for row in further.read("metrics.json")["scores"]["table"]}
    assert rows["before"] < 0.99  # it remembers


def test_head_only_and_lora(base, folder, tmp_path):
    frozen = tune(base, folder, tmp_path, steps=2, freeze=True)
    head = 64 * 29 + 29
    total = frozen.read("metrics.json")["trained"]["total"]
    assert frozen.read("metrics.json")["trained"]["trainable"] == head < total
    old, new = (DeepSpeech.from_pretrained(p) for p in (base, frozen.path / "model"))
    assert torch.equal(old.lstm.weight_hh_l0, new.lstm.weight_hh_l0) and not torch.equal(old.layer_6.weight, new.layer_6.weight)
    lora = tune(base, folder, tmp_path, steps=2, lora=2, overwrite=True)
    assert (lora.path / "adapters").is_dir() and DeepSpeech.from_pretrained(lora.path / "model").config == old.config


# ---- ways of reading


def test_the_language_model_is_kept_only_if_it_helps(tmp_path):
    alphabet, lm = Alphabet(), train_lm(["the cat sat", "the dog sat"])

    def frames(text, doubt=0.0):
        p = np.full((2 * len(text), 29), 1e-4)
        for t, c in enumerate(text):
            p[2 * t, alphabet.encode(c)[0]], p[2 * t + 1, 28] = 1, 1
        if doubt:  # the last character might as well be another
            p[2 * len(text) - 2, alphabet.encode("x")[0]] = 1 + doubt
        return torch.from_numpy(np.log(p / p.sum(1, keepdims=True))).float()

    scorer, table = choose_way([frames("the cat sat", 0.2)], ["the cat sat"], alphabet, LMScorer(lm))
    assert scorer is not None and table[0]["wer"] == pytest.approx(1 / 3) and min(r["wer"] for r in table) == 0
    scorer, table = choose_way([frames("a red moon")], ["a red moon"], alphabet, LMScorer(lm))
    assert scorer is None and table[0]["wer"] == 0  # every closed vocabulary is worse here


def test_the_way_of_reading_is_saved(base, folder, tmp_path):
    family, model = DEEPSPEECH_FAMILY, DEEPSPEECH_FAMILY.open(base)
    model.scorer = LMScorer(train_lm(["the cat"], 2), 0.7, 1.5, {"cat": 2.0}, block_unknown=False, unknown=-9.0)
    family.save(model, tmp_path)
    again = family.open(tmp_path)
    assert (again.scorer.alpha, again.scorer.beta, again.scorer.unknown) == (0.7, 1.5, -9.0)
    assert again.scorer.hot_words == {"cat": 2.0} and again.scorer.lm.words == ["cat", "the"]
    paths = recordings_in(folder / "wav")[:2]
    assert family.predict(model, paths) == family.predict(again, paths)
    (tmp_path / "decoder.json").write_text('{"gamma": 1}')
    with pytest.raises(ModelFormatError, match="gamma"):
        family.open(tmp_path)


# ---- alphabets


def test_another_alphabet_starts_the_last_layer_anew(base, folder, tmp_path):
    table = pd.read_csv(folder / "table.csv")
    table["wav"] = [str(folder / p) for p in table["wav"]]
    table["transcript"] = table["transcript"].str.replace("a", "á").str.replace("t", "ţ")
    run = aimt.finetune("deepspeech", table, model=base, out=tmp_path / "run", steps=2, quiet=True)
    assert any("the last layer is new, with" in note for note in run.info["notes"])
    new, old = DeepSpeech.from_pretrained(run.path / "model"), DeepSpeech.from_pretrained(base)
    assert {"á", "ţ", " ", "e"} <= set(new.config.alphabet) and "a" not in new.config.alphabet
    assert new.config.n_hidden == old.config.n_hidden
    assert aimt.predict(run, table[["wav"]], quiet=True)["problem"].eq("").all()


def test_a_few_foreign_transcripts_do_not_change_the_alphabet(base, folder):
    model = DEEPSPEECH_FAMILY.open(base)
    pairs = DEEPSPEECH_FAMILY.read(folder / "table.csv")
    pairs.loc[0, "target"] = "323"
    assert fit_alphabet(model, list(pairs["target"]))[0] is model
    with pytest.warns(UserWarning, match="1 of 60 transcripts cannot be learned .* such as '323'"):
        batches = DEEPSPEECH_FAMILY.batches(model, pairs, 8, 0)
    assert len(batches.examples) == 59
    scores = DEEPSPEECH_FAMILY.score(model, pairs)  # it cannot be written, and counts as an error
    assert len(scores["wer"]) == 60 and np.isfinite(scores["loss"]).all() and scores["loss"].argmax() == 0
    with warnings.catch_warnings(), pytest.raises(DataError, match="no transcript can be learned"):
        warnings.simplefilter("ignore")
        DEEPSPEECH_FAMILY.batches(model, pairs.assign(target="99"), 8, 0)


def test_transcripts_are_plain(folder):
    pairs = DEEPSPEECH_FAMILY.read(folder / "table.csv")
    assert set("".join(pairs["target"])) <= set(CHARACTERS + " ")


# ---- sound as people have it


def test_bad_sound_is_left_out_and_said(folder, tmp_path):
    rng = np.random.default_rng(1)
    write_wav(tmp_path / "silent.wav", np.zeros(16_000))
    write_wav(tmp_path / "none.wav", np.zeros(0))
    write_wav(tmp_path / "long.wav", 0.1 * rng.standard_normal(31 * 16_000))
    (tmp_path / "text.wav").write_text("this is no sound")
    (tmp_path / "empty.wav").write_bytes(b"")
    write_wav(tmp_path / "good.wav", say("me", rng))
    names = ["silent", "none", "long", "text", "empty", "nowhere", "good"]
    table = pd.DataFrame({"wav": [f"{n}.wav" for n in names], "transcript": "me"})
    table.loc[len(table)] = ["good.wav", "..."]
    table.to_csv(tmp_path / "t.csv", index=False)
    pairs = DEEPSPEECH_FAMILY.read(tmp_path / "t.csv")
    assert [p.rsplit("/", 1)[-1] for p in pairs["input"]] == ["good.wav"] and list(pairs["row"]) == [6]
    assert (
        "left out: 7 (silent.wav: the recording is silent; none.wav: a recording of 0 seconds; long.wav: longer than 30"
        in pairs.attrs["notes"][0]
    )
    with pytest.raises(DataError, match="no recording can be used"):
        DEEPSPEECH_FAMILY.read(table[:3].assign(wav="nowhere.wav"))


def test_bad_sound_gets_a_reason_and_no_text(run, folder, tmp_path):
    write_wav(tmp_path / "a_silent.wav", np.zeros(16_000))
    write_wav(tmp_path / "b_none.wav", np.zeros(0))
    (tmp_path / "c_text.wav").write_text("this is no sound")
    write_wav(tmp_path / "d_short.wav", 0.1 * np.ones(100))
    found = aimt.predict(run, tmp_path, quiet=True)
    assert list(found["prediction"]) == [""] * 4 and list(found["times"]) == ["[]"] * 4
    assert [bool(p) for p in found["problem"]] == [True, True, True, False]
    assert "silent" in found["problem"][0] and "0 seconds" in found["problem"][1]
    table = pd.DataFrame({"wav": [str(folder / "wav" / "00.wav"), None, "nowhere.wav"]})
    answers = aimt.predict(run, table, quiet=True)
    assert len(answers) == 3 and [bool(p) for p in answers["problem"]] == [False, True, True]


def test_other_rates_and_stereo_say_the_same(run, folder, tmp_path):
    rng = np.random.default_rng(2)
    for rate in (8_000, 16_000, 44_100):
        write_wav(tmp_path / f"{rate}.wav", say("hello moon"[2:], np.random.default_rng(3), rate), rate)
    import wave

    mono = read_audio(tmp_path / "16000.wav")
    with wave.open(str(tmp_path / "stereo.wav"), "wb") as f:
        f.setparams((2, 2, 16_000, 0, "NONE", ""))
        f.writeframes(np.repeat((mono * 32767).astype("<i2"), 2).tobytes())
    model = DEEPSPEECH_FAMILY.open(run.path / "model")
    texts = {n: greedy(hear(model, tmp_path / f"{n}.wav"), model.alphabet).text for n in ("8000", "16000", "44100", "stereo")}
    assert texts["stereo"] == texts["16000"] and texts["44100"] == texts["16000"]
    frames = {n: frames_of(tmp_path / f"{n}.wav", model.config) for n in ("16000", "44100")}
    assert abs(len(frames["16000"]) - len(frames["44100"])) <= 1 and rng is not None


def test_long_recordings_are_heard_in_pieces(run, folder, tmp_path):
    paths = recordings_in(folder / "wav")
    x = np.concatenate([read_audio(p) for p in paths])
    x = np.concatenate([x] * (1 + 700 * 16_000 // len(x) // 8))  # more than a minute
    write_wav(tmp_path / "long.wav", x)
    assert len(x) > 60 * 16_000
    model = DEEPSPEECH_FAMILY.open(run.path / "model")
    with torch.no_grad():
        whole = model(torch.from_numpy(read_audio(tmp_path / "long.wav"))[None])[0]
    pieces = hear(model, tmp_path / "long.wav")
    assert (pieces[: len(whole) - 5] - whole[:-5]).abs().max() < 1e-3
    with pytest.raises(DataError, match="longer than 60 seconds"):
        DEEPSPEECH_FAMILY.parts(tmp_path / "long.wav")


def test_sources_without_transcripts(folder, tmp_path):
    for source in (folder / "wav", folder / "wav" / "00.wav"):
        with pytest.raises(DataError, match="recordings without transcripts"):
            DEEPSPEECH_FAMILY.read(source)
    with pytest.raises(DataError, match="no recording in this folder"):
        DEEPSPEECH_FAMILY.read(tmp_path, targets=False)
    with pytest.raises(DataError, match="no column 'wav'"):
        DEEPSPEECH_FAMILY.read(pd.DataFrame({"sound": ["a.wav"], "transcript": ["a"]}))


# ---- pieces


def test_batches_go_on_from_a_position():
    rng = np.random.default_rng(0)
    frames, targets = [torch.zeros(int(n), 26) for n in rng.integers(5, 90, 30)], [torch.tensor([i]) for i in range(30)]
    first, second = SpeechBatches(frames, targets, 4, seed=3), SpeechBatches(frames, targets, 4, seed=3)
    seen = [tuple(next(first)["targets"][:, 0].tolist()) for _ in range(2 * len(first))]
    assert sorted(sum(seen[: len(first)], ())) == list(range(30)) and seen[: len(first)] != seen[len(first) :]
    for _ in range(5):
        next(second)
    third = SpeechBatches(frames, targets, 4, seed=3)
    third.load_state_dict(second.state_dict())
    assert [tuple(next(third)["targets"][:, 0].tolist()) for _ in range(6)] == seen[5:11]


def test_belief_is_the_log_probability_of_all_paths(base):
    """Over few frames every text can be listed, and their probabilities sum to one."""
    model = DEEPSPEECH_FAMILY.open(base).drop_layers(1, "ab")
    x = say("me", np.random.default_rng(0))[: 512 + 3 * 320]
    texts = [""] + [
        a + b + c + d for a in "ab" for b in ["", *"ab"] for c in (["", *"ab"] if b else [""]) for d in (["", *"ab"] if c else [""])
    ]
    total = sum(np.exp(DEEPSPEECH_FAMILY.belief(model, [x], t)[0]) for t in texts)
    assert total == pytest.approx(1, abs=1e-5)
    assert DEEPSPEECH_FAMILY.belief(model, [x, x], "zz").tolist() == [-1e4, -1e4]


def test_a_model_at_another_rate(tmp_path):
    """Samples of `parts` are at 16 kHz; a model at 8 kHz hears them at its own rate."""
    torch.manual_seed(0)
    DeepSpeech(DeepSpeechConfig(n_hidden=8, n_context=1, sample_rate=8_000)).save_pretrained(tmp_path)
    model, x = DEEPSPEECH_FAMILY.open(tmp_path), say("red moon", np.random.default_rng(0))
    write_wav(tmp_path / "x.wav", x)
    names, without = DEEPSPEECH_FAMILY.parts(tmp_path / "x.wav")
    a = DEEPSPEECH_FAMILY.belief(model, [without(np.ones(len(names)))], "red")
    b = DEEPSPEECH_FAMILY.belief(model, [str(tmp_path / "x.wav")], "red")
    assert a == pytest.approx(b, abs=1e-2)


def test_family_is_found():
    assert find_family("deepspeech") is DEEPSPEECH_FAMILY and issubclass(DataError, AimtError)
    assert DEEPSPEECH_FAMILY.columns == ("wav", "transcript") and not DEEPSPEECH_FAMILY.greater_is_better


# ---- served


def test_a_recording_is_answered_as_predict_answers_it(run, folder, tmp_path):
    service = service_of(open_bundle(bundle(run, out=tmp_path / "run.zip")["archive"], tmp_path / "opened"))
    files = sorted((folder / "wav").glob("*.wav"))[:3]
    wanted = aimt.predict(run, pd.DataFrame({"wav": list(map(str, files))}), quiet=True)
    for file, answer, times in zip(files, wanted["prediction"], wanted["times"], strict=True):
        status, reply = post_file(service, file.read_bytes(), "audio/wav")
        assert (status, reply["predictions"]) == (200, [{"prediction": answer, "times": times}])


def test_what_is_no_recording_is_refused(run, folder, tmp_path):
    service, good = service_of(run), sorted((folder / "wav").glob("*.wav"))[0].read_bytes()
    write_wav(tmp_path / "long.wav", np.random.default_rng(0).normal(0, 0.1, 8_000 * 125), rate=8_000)
    write_wav(tmp_path / "silent.wav", np.zeros(16_000))
    bad = [b"", b"no sound", good[:30], *((tmp_path / f"{name}.wav").read_bytes() for name in ("long", "silent"))]
    for body in bad:
        status, reply = post_file(service, body, "audio/wav")
        assert status == 422 and "recording" in reply["error"], reply
    assert post_file(service, b'{"rows": [{"wav": "/etc/passwd"}]}', "application/json")[0] == 415
    assert post_file(service, good, "audio/wav")[0] == 200
