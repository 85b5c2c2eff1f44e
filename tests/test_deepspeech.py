"""DeepSpeech against TensorFlow 1.15, the original decoder and the original client, and against bad files and bad sound.

The golden numbers and the scripts that made them are in ``fixtures/deepspeech``.
"""

import json
import math
import os
import struct
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from aimt.core.errors import DataError, MissingExtraError, ModelFormatError, RunError  # noqa: E402
from aimt.data.audio.augment import AudioAugment  # noqa: E402
from aimt.data.audio.read import Resampler, check_audio, pcm_to_float, read_audio, stream_audio, write_wav  # noqa: E402
from aimt.generate.audio.ctc_decoding import LMScorer, beam_search, greedy, read_arpa, train_lm, tune_lm, word_times, write_arpa  # noqa: E402
from aimt.metrics.speech import align, char_error_rate, compare_transcripts, edit_distance, word_error_rate  # noqa: E402
from aimt.models.audio.deepspeech import LAYERS, DeepSpeech, ctc_loss, from_checkpoint, from_graph, speech_batch, speech_loss  # noqa: E402
from aimt.models.audio.mozilla_files import export_graph, from_tensorflow, to_tensorflow  # noqa: E402
from aimt.models.audio.speech_features import Alphabet, DeepSpeechConfig, mfcc  # noqa: E402
from aimt.models.audio.tf_checkpoints import read_checkpoint, write_checkpoint  # noqa: E402
from aimt.models.audio.tf_files import read_nodes, read_pb  # noqa: E402

FIXTURES = Path(__file__).parent / "fixtures" / "deepspeech"
sys.path.insert(0, str(FIXTURES))
from recipe import probabilities, sound, weights  # noqa: E402

sys.path.pop(0)
torch.set_num_threads(1)
CELL = "cudnn_lstm/rnn/multi_rnn_cell/cell_0/cudnn_compatible_lstm_cell"


def seeded(n_hidden: int) -> DeepSpeech:
    """The model whose numbers TensorFlow gave."""
    model = DeepSpeech(DeepSpeechConfig(n_hidden=n_hidden)).eval()
    model.load_state_dict(from_tensorflow(weights(n_hidden)))
    return model


@pytest.fixture(scope="module")
def small() -> DeepSpeech:
    return seeded(64)


# ---- the original graph


@pytest.fixture(scope="module")
def golden():
    with np.load(FIXTURES / "tensorflow.npz") as f:
        return dict(f)


def test_features_equal_tensorflow(golden):
    ours = mfcc(torch.from_numpy(sound()), DeepSpeechConfig()).numpy()
    assert np.abs(golden["mfcc"]).max() > 200  # there is exact silence in it
    np.testing.assert_allclose(ours, golden["mfcc"], atol=1e-5, rtol=1e-6)


@pytest.mark.parametrize("n_hidden", [64, 2048])
def test_waveform_to_logits_equals_tensorflow(golden, n_hidden):
    expected = golden[f"logits_{n_hidden}"]
    state = from_tensorflow(weights(n_hidden))
    with torch.device("meta"):
        model = DeepSpeech(DeepSpeechConfig(n_hidden=n_hidden)).eval()
    model.load_state_dict(state, assign=True)
    with torch.no_grad():
        frames = torch.nn.functional.pad(mfcc(torch.from_numpy(sound())[None], model.config), (0, 0, 9, 9))
        logits = model.step(frames)[0][0].numpy()
    assert logits.std() > 0.5  # large enough that a mistake shows
    assert np.abs(logits - expected).max() < 2e-5


def test_a_wrong_gate_order_would_show(golden, small):
    swapped = {**weights(64)}
    i, c, f, o = np.split(swapped[f"{CELL}/kernel"], 4, 1)
    swapped[f"{CELL}/kernel"] = np.concatenate([i, f, c, o], 1)
    model = DeepSpeech(DeepSpeechConfig(n_hidden=64)).eval()
    model.load_state_dict(from_tensorflow(swapped))
    with torch.no_grad():
        difference = model(torch.from_numpy(sound())) - small(torch.from_numpy(sound()))
    assert difference.abs().max() > 0.1


def test_lstm_equals_a_loop_in_tensorflows_order(small):
    """The cell as TensorFlow's BlockLSTM documents it: [x, h] W + b in the order i, c, f, o."""
    theirs, rng = weights(64), np.random.default_rng(0)
    kernel, bias = theirs[f"{CELL}/kernel"].astype(float), theirs[f"{CELL}/bias"].astype(float)
    x, h, c, out = rng.standard_normal((20, 64)), np.zeros(64), np.zeros(64), []
    sigmoid = lambda z: 1 / (1 + np.exp(-z))  # noqa: E731
    for row in x:
        i, new, f, o = np.split(np.concatenate([row, h]) @ kernel + bias, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(new)
        h = sigmoid(o) * np.tanh(c)
        out.append(h)
    with torch.no_grad():
        ours = small.lstm(torch.tensor(x, dtype=torch.float32)[None])[0][0].numpy()
    np.testing.assert_allclose(ours, np.array(out), atol=2e-6)


def test_reads_what_tensorflow_wrote():
    expected = weights(8)
    for model in (from_graph(FIXTURES / "tiny.pb"), from_checkpoint(FIXTURES / "tiny"), DeepSpeech.from_pretrained(FIXTURES / "tiny.pb")):
        assert model.config.n_hidden == 8 and model.alphabet == Alphabet() and model.config.window == 512
        for name, value in to_tensorflow(model.state_dict()).items():
            assert np.array_equal(value, expected[name]), name
    everything = read_checkpoint(FIXTURES / "tiny", skip="")
    assert sum("Adam" in n for n in everything) >= 24 and int(everything["global_step"]) == 0
    assert everything["learning_rate"] == np.float32(1e-3) and "beta1_power" in everything
    assert {"AudioSpectrogram", "Mfcc", "BlockLSTM"} <= {n.op for n in read_nodes(FIXTURES / "tiny.pb")}


def test_our_graph_has_the_names_and_shapes_of_theirs(tmp_path):
    model = from_graph(FIXTURES / "tiny.pb")
    export_graph(model, tmp_path / "ours.pb")
    ours, theirs = ({n.name: n for n in read_nodes(p)} for p in (tmp_path / "ours.pb", FIXTURES / "tiny.pb"))
    for name in ("input_samples", "input_node", "input_lengths", "previous_state_c", "previous_state_h"):
        assert ours[name].attrs["shape"] == theirs[name].attrs["shape"], name
    for name in ("mfccs", "logits", "new_state_c", "new_state_h"):
        assert ours[name].op == theirs[name].op
    mine, other = read_pb(tmp_path / "ours.pb"), read_pb(FIXTURES / "tiny.pb")
    for name in ("version", "sample_rate", "feature_win_len", "feature_win_step", "alphabet", "language"):
        assert np.array_equal(mine[f"metadata_{name}"], other[f"metadata_{name}"]), name
    for name in weights(8):
        assert np.array_equal(mine[name], other[name])


def test_the_original_client_decodes_our_export_as_we_do(small):
    """`client.json` is what deepspeech 0.9.3 said to our .pb and .pbmm."""
    golden = json.loads((FIXTURES / "client.json").read_text())
    assert golden["model.pb"] == golden["model.pbmm"]
    stream = small.new_stream()
    log_probs = torch.cat([stream.feed(sound()), stream.finish(partial=True)])
    found = beam_search(log_probs, small.alphabet, beam_size=golden["model.pb"]["beam_width"], n_best=3)
    for ours, (text, score, frames) in zip(found, golden["model.pb"]["beams"], strict=True):
        assert (ours.text, list(ours.frames)) == (text, frames)
        assert ours.score == pytest.approx(score, abs=1e-3)


# ---- the original decoder


CASES = json.loads((FIXTURES / "decoder.json").read_text())


@pytest.mark.parametrize("number", range(len(CASES)))
def test_beams_equal_the_original_decoders(number):
    case = CASES[number]
    scorer = None
    if case["setting"]:
        alpha, beta, hot = case["setting"]
        scorer = LMScorer(read_arpa(FIXTURES / "lm.arpa"), alpha, beta, hot)
    log_probs = np.log(probabilities(case["text"], case["seed"], case["noise"]))
    options = {k: case[k] for k in ("beam_size", "cutoff_prob", "cutoff_top_n")}
    found = beam_search(log_probs, Alphabet(), scorer=scorer, n_best=4, **options)
    for ours, (text, score, frames) in zip(found, case["beams"], strict=True):
        assert (ours.text, list(ours.frames)) == (text, frames)
        assert ours.score == pytest.approx(score, abs=1e-3)


def test_language_model_round_trip_and_unknown_words(tmp_path):
    lm = read_arpa(FIXTURES / "lm.arpa")
    write_arpa(tmp_path / "lm.arpa", lm)
    again = read_arpa(tmp_path / "lm.arpa")
    for text in ("the cat sat", "a zebra sat", "", "mat the on"):
        assert again.sentence(text.split()) == pytest.approx(lm.sentence(text.split()), abs=1e-4)
    assert "cat" in lm and "zebra" not in lm and "<s>" not in lm
    order_5 = train_lm(["a b c d e f", "a b c"], 5)
    total = sum(math.exp(order_5.log_prob(w, ("a", "b", "c", "d"))) for (w,) in order_5.grams[0] if w != "<s>")
    assert total == pytest.approx(1)
    with pytest.raises(ValueError, match="order"):
        train_lm(["a"], 0)


def test_open_vocabulary_writes_what_it_hears():
    log_probs = np.log(probabilities("zebra", 0, 0.2))
    lm = train_lm(["the cat"], 2)
    closed = beam_search(log_probs, Alphabet(), scorer=LMScorer(lm), beam_size=20)
    *whole, last = closed[0].text.split()
    assert set(whole) <= {"the", "cat"} and any(w.startswith(last) for w in ("the", "cat"))
    opened = beam_search(log_probs, Alphabet(), scorer=LMScorer(lm, block_unknown=False, unknown=-5.0), beam_size=20)
    assert opened[0].text == "zebra"


def test_a_dead_end_is_left_by_all_outputs():
    """A sure frame whose only likely output leads to no known word: the search goes on, and never ends without a text."""
    sure = np.log(probabilities("the cat", 0, 0.1))
    row = np.full((1, 29), -12.0)
    row[0, Alphabet().encode("x")] = np.log1p(-28 * np.exp(-12.0))
    scorer = LMScorer(train_lm(["the cat"], 2))
    found = beam_search(np.concatenate([sure[:6], row, sure[6:]]), Alphabet(), scorer=scorer, beam_size=4, cutoff_prob=0.99)
    assert found[0].text == "the cat" and len(found[0].frames) == 7
    rng = np.random.default_rng(0)
    for _ in range(10):  # noise: nothing but dead ends
        z = rng.standard_normal((20, 29)) * 9
        noise = z - np.log(np.exp(z).sum(1, keepdims=True))
        assert beam_search(noise, Alphabet(), scorer=scorer, beam_size=3, cutoff_prob=0.5)[0].score > -1e4


def test_word_times_follow_the_frames():
    found = beam_search(np.log(probabilities("a red door", 0, 0.2)), Alphabet(), beam_size=10)[0]
    words = word_times(found, 0.02)
    assert [w.text for w in words] == ["a", "red", "door"]
    assert [round(w.start / 0.02) for w in words] == [0, 6, 18]  # three frames a letter
    assert all(w.start < w.end for w in words) and words[0].end <= words[1].start
    assert word_times(greedy(np.log(probabilities("  a ", 0, 0.1)), Alphabet()))[0].text == "a"


def test_tuning_finds_the_better_weights():
    lm = read_arpa(FIXTURES / "lm.arpa")
    texts = ["the cat sat on the mat", "a small dog"]
    heard = [np.log(probabilities(t, i, 2.0)) for i, t in enumerate(texts)]
    best, table = tune_lm(heard, texts, Alphabet(), LMScorer(lm), alphas=(0.0, 1.0), betas=(0.0, 2.0), beam_size=8)
    assert table[0] == {"alpha": best.alpha, "beta": best.beta, "wer": min(t["wer"] for t in table)}
    assert best.lm is lm and len(table) > 4


# ---- the network


@pytest.mark.parametrize("sizes", [[1, 511, 1, 319, 40_000], [320] * 100, [46_720], [10, 0, 0, 46_710]])
def test_stream_equals_batch(small, sizes):
    x = torch.from_numpy(sound())[: sum(sizes)]
    with torch.no_grad():
        whole = small(x)[0]
    stream = small.new_stream()
    parts = [stream.feed(p) for p in x.split(sizes)] + [stream.finish()]
    assert torch.cat(parts).shape == whole.shape and (torch.cat(parts) - whole).abs().max() < 1e-5


def test_padding_and_neighbours_change_nothing(small):
    x, y = torch.from_numpy(sound()), torch.from_numpy(sound(1.0, 5))
    together = torch.zeros(2, len(x))
    together[0], together[1, : len(y)] = x, y
    together[1, len(y) :] = 0.5  # whatever comes after the end
    with torch.no_grad():
        both = small(together, torch.tensor([len(x), len(y)]))
        assert (both[0] - small(x)[0]).abs().max() < 1e-5
        alone = small(y)[0]
        assert (both[1, : len(alone)] - alone).abs().max() < 1e-5


def test_loss_is_the_sum_over_paths_and_its_gradient_is_finite():
    torch.manual_seed(0)
    model = DeepSpeech(DeepSpeechConfig(n_hidden=16, dropout=0.0))
    batch = speech_batch([sound(0.8, 1), sound(0.5, 2)], ["see", ""], model.config)
    loss = speech_loss(model, batch)
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
    assert model.lstm.bias_hh_l0.grad is None and not model.lstm.bias_hh_l0.any()
    log_probs = model(batch["frames"], batch["lengths"]).detach()
    nothing = -log_probs[1, : batch["lengths"][1], -1].sum()  # the empty text has one path: blanks
    first = ctc_loss(log_probs[:1], batch["targets"][:1], batch["lengths"][:1], batch["target_lengths"][:1])
    assert float(loss.detach()) == pytest.approx(float((first + nothing) / 2), abs=1e-3)


def test_save_and_load(small, tmp_path):
    small.save_pretrained(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["alphabet.txt", "config.json", "model.safetensors"]
    again = DeepSpeech.from_pretrained(tmp_path)
    assert again.config == small.config and not again.lstm.bias_hh_l0.requires_grad
    for name, value in small.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)
    other = DeepSpeech.from_pretrained(tmp_path, drop_layers=2, alphabet=" ab")
    assert other.config.n_classes == 4 and torch.equal(other.lstm.weight_hh_l0, small.lstm.weight_hh_l0)
    assert DeepSpeech.from_pretrained(tmp_path, alphabet=small.config.alphabet).config == small.config
    with pytest.raises(ValueError, match="another alphabet"):
        DeepSpeech.from_pretrained(tmp_path, alphabet=" ab")


@pytest.mark.parametrize("n", range(6))
def test_dropped_layers_are_the_last(small, n):
    torch.manual_seed(0)
    other = small.drop_layers(n, None if n == 0 else " xyz")
    for k, layer in enumerate(LAYERS):
        name = "weight_ih_l0" if layer == "lstm" else "weight"
        same = torch.equal(getattr(getattr(other, layer), name), getattr(getattr(small, layer), name)) if k < 5 or n == 0 else False
        assert same == (k < len(LAYERS) - n)


def test_checkpoint_and_graph_round_trip(small, tmp_path):
    write_checkpoint(tmp_path / "best_dev-5", to_tensorflow(small.state_dict()))
    export_graph(small, tmp_path / "g.pbmm")
    for path in (tmp_path / "best_dev-5", tmp_path / "best_dev-5.index", tmp_path, tmp_path / "g.pbmm"):
        again = DeepSpeech.from_pretrained(path)
        assert all(torch.equal(again.state_dict()[n], v) for n, v in small.state_dict().items()), path
    Alphabet(tuple(" abcdefghijklmnopqrstuvwxyzñ")).to_file(tmp_path / "alphabet.txt")
    assert DeepSpeech.from_pretrained(tmp_path).config.alphabet[-1] == "ñ"
    (tmp_path / "alphabet.txt").write_text("a\nb\n")
    with pytest.raises(ModelFormatError, match="28 characters and the alphabet 2"):
        DeepSpeech.from_pretrained(tmp_path)


# ---- faults


def test_damaged_models_are_refused(small, tmp_path):
    small.save_pretrained(tmp_path / "m")
    weights_file = tmp_path / "m" / "model.safetensors"
    whole = weights_file.read_bytes()
    weights_file.write_bytes(whole[:-100])
    with pytest.raises(ModelFormatError):
        DeepSpeech.from_pretrained(tmp_path / "m")
    weights_file.unlink()
    with pytest.raises(ModelFormatError, match="missing"):
        DeepSpeech.from_pretrained(tmp_path / "m")
    weights_file.write_bytes(whole)
    settings = json.loads((tmp_path / "m" / "config.json").read_text())
    for change, message in (
        ({"model_type": "gpt2"}, "'gpt2'"),
        ({"n_hidden": 32}, "layer_1"),
        ({"n_hidden": "many"}, "config.json"),
        ({"alphabet": ["a", "a"]}, "different"),
        ({"aimt_format": 99}, "Update"),
        ({"n_context": -1}, "n_context"),
    ):
        (tmp_path / "m" / "config.json").write_text(json.dumps(settings | change))
        with pytest.raises(ModelFormatError, match=message):
            DeepSpeech.from_pretrained(tmp_path / "m")
    with pytest.raises((ModelFormatError, RunError)):
        DeepSpeech.from_pretrained(tmp_path / "nowhere")


def test_damaged_tensorflow_files_are_refused(tmp_path):
    whole = (FIXTURES / "tiny.pb").read_bytes()
    bad = tmp_path / "bad.pb"
    for n in (0, 10, 1000, len(whole) // 2):
        bad.write_bytes(whole[:n])
        with pytest.raises(ModelFormatError):
            from_graph(bad)
    rng = np.random.default_rng(0)
    for _ in range(30):  # whatever a flipped byte does, it never ends in another kind of error
        damaged = bytearray(whole)
        damaged[rng.integers(3000)] ^= 1 << int(rng.integers(8))
        bad.write_bytes(damaged)
        try:
            from_graph(bad)
        except ModelFormatError:
            pass
    index, data = (tmp_path / n for n in ("train-7.index", "train-7.data-00000-of-00001"))
    original = (FIXTURES / "tiny" / "train-7.index").read_bytes()
    index.write_bytes(original)
    with pytest.raises(ModelFormatError, match="data-00000"):
        from_checkpoint(tmp_path)
    numbers = bytearray((FIXTURES / "tiny" / "train-7.data-00000-of-00001").read_bytes())
    for n in range(0, len(numbers), 40):
        numbers[n] ^= 4
    data.write_bytes(numbers)
    with pytest.raises(ModelFormatError, match="checksum"):
        from_checkpoint(tmp_path)
    for place in range(0, len(original) - 60, 97):
        damaged = bytearray(original)
        damaged[place] ^= 1
        index.write_bytes(damaged)
        with pytest.raises(ModelFormatError):
            from_checkpoint(tmp_path)


def test_foreign_graphs_and_alphabets(tmp_path):
    with pytest.raises(ModelFormatError, match="missing"):
        from_tensorflow({"dense/kernel": np.zeros((2, 2), np.float32)})
    with pytest.raises(ModelFormatError, match="serialised"):
        Alphabet.from_bytes(b"\x02\x00\x00\x00\xff\xff")
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ModelFormatError, match="alphabet"):
        Alphabet.from_file(tmp_path / "a.txt")
    (tmp_path / "a.txt").write_bytes(b"# comment\r\n \r\na\r\n\\#\r\n")
    assert Alphabet.from_file(tmp_path / "a.txt").characters == (" ", "a", "#")
    with pytest.raises(DataError, match="'1', '2'"):
        Alphabet().encode("room 12", "line 7")


def test_bad_sound(tmp_path, small):
    config = small.config
    with pytest.raises(DataError, match="too few"):
        speech_batch([np.zeros(400, np.float32)], ["a"], config)
    with pytest.raises(DataError, match="characters outside"):
        speech_batch([sound(1.0)], ["ÄÖ"], config)
    with pytest.raises(ValueError, match="2 recordings and 1"):
        speech_batch([sound(1.0)] * 2, ["a"], config)
    with pytest.raises(ValueError, match="frames of 13 numbers"):
        small(torch.zeros(1, 5, 13))
    with pytest.raises(DataError, match="one channel"):
        small.new_stream().feed(np.zeros((2, 100), np.float32))
    for x, message in (
        (np.zeros(0), "0 seconds"),
        (np.zeros(100), "silent"),
        (np.full(100, np.nan), "not numbers"),
        (np.zeros((2, 9)), "one channel"),
        (np.arange(100.0), "should be from -1 to 1"),
    ):
        with pytest.raises(DataError, match=message):
            check_audio(x)


def test_wav_files_of_every_width(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.uniform(-0.9, 0.9, (1600, 2))
    for width in (1, 2, 3, 4):
        whole = np.round(x * 2 ** (8 * width - 1)).astype(np.int64)
        if width == 1:
            raw = (whole + 128).clip(0, 255).astype(np.uint8).tobytes()
        else:
            raw = b"".join(int(v).to_bytes(width, "little", signed=True) for v in whole.reshape(-1))
        with wave.open(str(tmp_path / "w.wav"), "wb") as f:
            f.setparams((2, width, 16_000, 0, "NONE", ""))
            f.writeframes(raw)
        np.testing.assert_allclose(read_audio(tmp_path / "w.wav"), x.mean(1), atol=2.0 ** (2 - 8 * width) + 1e-6)
        np.testing.assert_allclose(read_audio(tmp_path / "w.wav", channel=1), x[:, 1], atol=2.0 ** (2 - 8 * width) + 1e-6)
    assert pcm_to_float(struct.pack("<h", 1), 2)[0] == 2**-15


def test_files_that_are_not_sound(tmp_path):
    write_wav(tmp_path / "good.wav", sound(0.2))
    whole = (tmp_path / "good.wav").read_bytes()
    cases = {
        "empty": b"",
        "text.wav": b"this is no sound at all, just some text",
        "half.wav": whole[: len(whole) // 2],
        "head.wav": whole[:20],
    }
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
    assert len(read_audio(tmp_path / "half.wav")) < 3200  # what is there is read
    for name in ("empty", "text.wav", "head.wav"):
        with pytest.raises((DataError, MissingExtraError)):
            read_audio(tmp_path / name)
    with pytest.raises(DataError, match="cannot be read"):
        read_audio(tmp_path)


def test_other_formats_by_soundfile(tmp_path):
    soundfile = pytest.importorskip("soundfile")
    x = np.stack([sound(0.5, 3), sound(0.5, 4)], 1)
    for name, tolerance in (("a.flac", 1e-3), ("a.ogg", 0.2), ("float.wav", 1e-6)):
        soundfile.write(str(tmp_path / name), x, 16_000, **({"subtype": "FLOAT"} if name == "float.wav" else {}))
        np.testing.assert_allclose(read_audio(tmp_path / name), x.mean(1), atol=tolerance)
    (tmp_path / "bad.flac").write_bytes((tmp_path / "a.flac").read_bytes()[:100])
    with pytest.raises(DataError):
        read_audio(tmp_path / "bad.flac")
    (tmp_path / "text.mp3").write_text("hello")
    with pytest.raises(DataError, match="not a recording"):
        read_audio(tmp_path / "text.mp3")


def test_resampling_in_pieces_of_any_size():
    rng = np.random.default_rng(0)
    x = rng.standard_normal(3000).astype(np.float32)
    for rate, to in ((44_100, 16_000), (8_000, 16_000), (16_000, 11_025)):
        whole = np.concatenate([(r := Resampler(rate, to)).feed(x), r.finish()])
        for size in (1, 7, 512):
            r = Resampler(rate, to)
            parts = [r.feed(x[i : i + size]) for i in range(0, 300 if size == 1 else 3000, size)]
            parts += [r.feed(x[300:])] if size == 1 else []
            joined = np.concatenate([*parts, r.finish()])
            assert len(joined) == math.ceil(len(x) * to / rate)
            np.testing.assert_allclose(joined, whole, atol=1e-5)
    with pytest.raises(DataError, match="0 Hz"):
        Resampler(0, 16_000)


def test_streaming_pieces_are_the_file(tmp_path):
    write_wav(tmp_path / "x.wav", sound(1.0), 22_050)
    pieces = list(stream_audio(tmp_path / "x.wav", seconds=0.1))
    assert {len(p) for p in pieces[:-1]} == {1600}
    assert np.array_equal(np.concatenate(pieces), read_audio(tmp_path / "x.wav"))


def test_changed_copies_stay_sound():
    noises = [np.ones(3, np.float32), sound(0.3, 9)]
    augment = AudioAugment(1.0, noise=1.0, speed=1.0, echo=1.0, telephone=1.0, noises=noises)
    x = sound(0.5)
    for seed in range(5):
        y = augment(x, np.random.default_rng(seed))
        assert y.dtype == np.float32 and np.isfinite(y).all() and np.abs(y).max() <= 1.001
        assert 0.85 < len(x) / len(y) < 1.15 and np.array_equal(y, augment(x, np.random.default_rng(seed)))
    short = augment(x[:3], np.random.default_rng(0))
    assert len(short) in (3, 4)


# ---- word errors


def test_word_error_rate_of_known_cases():
    cases = [("a b c", "a b c", 0), ("a b c", "", 3), ("", "a b", 2), ("a b c d", "b c d e", 2), ("a a a", "a b a", 1)]
    for said, heard, errors in cases:
        assert edit_distance(said.split(), heard.split()) == errors
        assert sum(op != "=" for op, *_ in align(said.split(), heard.split())) == errors
    rate = word_error_rate([c[0] for c in cases], [c[1] for c in cases])
    assert rate["value"] == pytest.approx(8 / 13) and rate["low"] < rate["value"] < rate["high"]
    assert char_error_rate(["abc  d"], ["abd"])["value"] == pytest.approx(2 / 5 + 0 / 5)
    assert math.isnan(word_error_rate([], [])["value"])
    systems = compare_transcripts(["a b", "c d"], {"x": ["a b", "c d"], "y": ["a", "d"]})
    assert systems["y - x"]["value"] == 0.5


def test_word_error_rate_equals_jiwer():
    jiwer = pytest.importorskip("jiwer")
    rng = np.random.default_rng(0)
    said = [" ".join(rng.choice(list("abcde"), rng.integers(1, 9))) for _ in range(40)]
    heard = [" ".join(rng.choice(list("abcde"), rng.integers(0, 9))) for _ in range(40)]
    assert word_error_rate(said, heard)["value"] == pytest.approx(jiwer.wer(said, heard))
    assert char_error_rate(said, heard)["value"] == pytest.approx(jiwer.cer(said, heard))


@pytest.mark.skipif("AIMT_DEEPSPEECH_PYTHON" not in os.environ, reason="needs a Python with deepspeech 0.9.3 in AIMT_DEEPSPEECH_PYTHON")
def test_the_original_client_now(small, tmp_path):
    """Export, run the original, compare with the stored answer."""
    for name in ("model.pb", "model.pbmm"):
        export_graph(small, tmp_path / name, beam_width=100)
    python = os.environ["AIMT_DEEPSPEECH_PYTHON"]
    subprocess.run([python, str(FIXTURES / "make_client.py"), str(tmp_path), str(tmp_path)], check=True, cwd=FIXTURES, capture_output=True)
    assert json.loads((tmp_path / "client.json").read_text()) == json.loads((FIXTURES / "client.json").read_text())
