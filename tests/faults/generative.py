"""Prompts, texts, images and recordings."""

from typing import Any

import numpy as np

from aimt.core.errors import DataError
from faults import inputs as bad
from faults.case import Group, Place, put, write

generative = Group("generative")

generative.recovered("an empty prompt", "generate", "A new text is begun.", lambda p: "", lambda text, p: isinstance(text, str))
generative.recovered("no prompts", "generate", "No texts.", lambda p: [[]], lambda texts, p: texts == [])
generative.recovered(
    "a prompt of a million tokens",
    "generate",
    "Cut to the context, with a warning that says how much is kept; the rest is never read by the model.",
    lambda p: "word " * 200_000,
    lambda text, p: text == write(p, ("word " * 200_000)[-32:]).value,
    "1,000,000 tokens",
)
generative.recovered(
    "control tokens in a prompt",
    "other",
    "Ordinary text: it ends nothing.",
    lambda p: lambda: p.shared.writer[1].encode("<|endoftext|> <unk>"),
    lambda ids, p: p.shared.writer[1].eot_id not in ids and p.shared.writer[1].decode(ids) == "<|endoftext|> <unk>",
)
generative.refused(
    "a character that the tokenizer does not know",
    "other",
    "The character is named before anything is written.",
    lambda p: lambda: unknown_character(p),
    DataError,
    "'ż'",
)
for name, content, told in (
    ("random bytes", np.random.default_rng(0).bytes(5000), "binary"),
    ("only white space", b" \n\t \n", "white space"),
    ("a PDF", b"%PDF-1.7\n" + b"words " * 100, "PDF"),
    ("a single character", b"x", "only one character"),
):
    generative.refused(
        f"{name} as training text", "read a text", "The error says so.", put(content, "book.txt"), DataError, "book.txt", told
    )
generative.recovered(
    "an image of one pixel", "read an image", "Read.", put(bad.picture(size=(1, 1)), "x.png"), lambda a, p: a.shape == (1, 1, 3)
)
for mode in ("CMYK", "RGBA", "LA", "L", "P", "I;16"):
    kind = "JPEG" if mode == "CMYK" else "PNG"
    generative.recovered(
        f"an image with colours {mode}",
        "read an image",
        "Converted to RGB, 8 bits.",
        put(bad.picture(kind, mode), "x.png"),
        lambda a, p: a.shape == (32, 48, 3) and a.dtype == np.uint8,
    )
for name, content, told in (
    ("SVG", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
    ("a web page", b"<!DOCTYPE html><p>404", "web page"),
    ("a pointer of Git LFS", b"version https://git-lfs.github.com/spec/v1\n", "LFS"),
    ("a video", b"\x00\x00\x00\x18ftypisom\x00\x00", "video"),
    ("PostScript", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 90 90\n%%EndComments\nshowpage\n%%EOF\n", "PostScript"),
):
    generative.refused(
        f"{name} called .png",
        "read an image",
        "The type is named; no program is started for it.",
        put(content, "x.png"),
        DataError,
        "x.png",
        told,
    )
generative.refused(
    "an array of an unknown range",
    "read an image",
    "The range is named.",
    lambda p: [np.full((2, 2), 300), np.full((2, 2), np.nan), np.full((2, 2), -0.5)],
    DataError,
)
generative.refused(
    "a recording of 0 seconds", "read a recording", "The error says so.", put(bad.recording(np.zeros(0)), "x.wav"), DataError, "0 seconds"
)
generative.refused(
    "a silent recording", "read a recording", "The error says so.", put(bad.recording(np.zeros(16_000)), "x.wav"), DataError, "silent"
)
generative.refused(
    "a recording of NaN",
    "read a recording",
    "The error says so.",
    put(bad.float_recording(np.full(16_000, np.nan)), "x.wav"),
    DataError,
    "NaN",
)
generative.refused(
    "text called .wav",
    "read a recording",
    "The file is named.",
    put(b"this is no sound at all, just some text", "x.wav"),
    DataError,
    "x.wav",
)
generative.refused(
    "a recording of twelve minutes",
    "read a recording",
    "The error names the option, and how to read it in pieces.",
    put(bad.recording(np.full(22_000, 0.5), rate=30), "x.wav"),
    DataError,
    "x.wav",
    "longer than 600 seconds",
    "stream_audio",
)


def unknown_character(place: Place) -> Any:
    from aimt.data.text.tokenizer import train_tokenizer
    from aimt.generate.text.sampling import generate

    (place.path / "a.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 3)
    return generate(place.shared.writer[0], train_tokenizer(place.path / "a.txt", "char"), "lazy \u017c", max_new_tokens=2)


def damaged_clips(place: Place) -> Any:
    """Three clips, and one whose frames end in the middle."""
    from aimt.data.video.clips import read_clips
    from aimt.data.video.write import write_gif

    frames = np.random.default_rng(0).integers(0, 255, (6, 8, 8, 3), dtype=np.uint8)
    for k in range(3):
        write_gif(place.path / f"good{k}.gif", frames)
    whole = (place.path / "good0.gif").read_bytes()
    (place.path / "cut.gif").write_bytes(whole[: len(whole) // 8])
    return read_clips(place.path, n_frames=4, size=8)


generative.recovered(
    "a video that is cut off in a frame",
    "other",
    "It is left out, with a note that names it.",
    lambda p: lambda: damaged_clips(p),
    lambda clips, p: len(clips) == 3 and any("cut.gif was left out" in note for note in clips.notes),
)
