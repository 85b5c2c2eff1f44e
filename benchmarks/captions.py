"""Pictures and clips by text on real captioned data: figures of a training, as one JSON line.

    python benchmarks/captions.py clip-art --out runs > captions.log     (two CPU-minutes)
    python benchmarks/captions.py emoji --out runs >> captions.log
    python benchmarks/captions.py clip-art-64 --out runs                 (for a GPU)

`clip-art`: drawings of the Open Clip Art Library, whose captions are the words of folder and file name: playing cards, flags,
clocks, fruit and the like, at 24 pixels. `clip-art-64`: the same at 64 pixels with a network of width 128. `emoji`: the animated
emoji of the catalog with their Unicode names. Trials were made with seed 0, so report others.
"""

import argparse
import csv
import json
import re
import tempfile
import time
from pathlib import Path

from PIL import Image

import aimt
from aimt.core.hardware import environment
from aimt.core.run import Run
from aimt.data.image.read import CLIPImages
from aimt.data.sources.catalog import load_dataset

KINDS = {"clip-art": "image", "clip-art-64": "image", "emoji": "video"}
SETTINGS: dict[str, dict[str, object]] = {  # Options of the training
    "clip-art": {"image_size": 24, "steps": 600, "width": 24},
    "clip-art-64": {"image_size": 64, "steps": 60_000, "width": 128, "batch_size": 256},
    "emoji": {"frame_size": 16, "n_frames": 6, "frame_rate": 6.0, "clips_per_file": 3, "steps": 300, "width": 24, "samples": 40},
}
FOLDERS = (
    "recreation/games/cards/",
    "signs_and_symbols/flags/",
    "signs_and_symbols/led/",
    "signs_and_symbols/clocks/",
    "shapes/jigsaw/",
    "shapes/arrows/",
    "food/fruit/",
    "people/smilies/",
)
SUITS = {"c": "clubs", "d": "diamonds", "h": "hearts", "s": "spades"}
RANKS = {"j": "jack", "q": "queen", "k": "king", "a": "ace"}
OUTER = frozenset("recreation games signs and symbols shapes food people".split())  # Words of outer folders, left out
MAX_BYTES = 60_000


def clip_art_caption(path: str) -> str:
    """The words of folder and file; of a playing card also its suit and rank, which the name gives as a letter and a number."""
    words = [w for w in re.split(r"[^a-z]+", re.sub(r"\.png$", "", path.lower())) if w]
    if "cards" in words:
        words = [SUITS.get(w, RANKS.get(w, w)) if len(w) == 1 else w for w in words]
        words += [n.lstrip("0") for n in re.findall(r"_(\d+)\.png$", path)]
    return " ".join(dict.fromkeys(w for w in words if w not in OUTER))


def write_clip_art(folder: Path, side: int) -> int:
    """Write the drawings and `captions.csv`; returns how many there are."""
    table, see, rows = load_dataset("openclipart-png", quiet=True), CLIPImages(side, side, square=True), []
    folder.mkdir(parents=True, exist_ok=True)
    for number, path in enumerate(map(Path, table["image"])):
        inside = path.as_posix().split("openclipart-png/")[-1]
        if inside.startswith(FOLDERS) and path.stat().st_size < MAX_BYTES:
            Image.fromarray(see.look(path)).save(folder / f"{number:04d}.png")
            rows.append((f"{number:04d}.png", clip_art_caption(inside)))
    with (folder / "captions.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("file", "caption"), *rows])
    return len(rows)


def write_emoji(folder: Path) -> int:
    """Link the animated emoji, each with its name in a text file beside it; returns how many there are.

    Of the skin tones of an emoji, which have one name and nearly one animation, the first is taken.
    """
    table = load_dataset("animated-emoji", quiet=True).drop_duplicates("name")
    folder.mkdir(parents=True, exist_ok=True)
    for row in table.itertuples():
        (folder / row.file).symlink_to(row.video)
        (folder / row.file).with_suffix(".txt").write_text(row.name.replace(",", ""), encoding="utf-8")
    return len(table)


def figures(name: str, seed: int, out: Path, place: Path) -> dict[str, object]:
    """Train, and collect what is measured."""
    folder, settings = place / name, SETTINGS[name]
    n = write_emoji(folder) if name == "emoji" else write_clip_art(folder, int(settings["image_size"]))  # type: ignore[call-overload]
    start = time.process_time()
    run = aimt.train(folder, kind=KINDS[name], seed=seed, out=out, quiet=True, overwrite=True, **settings)
    return {"data": name, "files": n, "seed": seed, "cpu_seconds": round(time.process_time() - start, 1)} | found_in(run)


def found_in(run: Run) -> dict[str, object]:
    """The figures of a run that is done."""
    m, verdict = run.read("metrics.json"), run.read("report.json")["verdict"]
    g, measured = m["generation"], m["measured"]
    return {
        "captions": m["captions"],
        "texts": m["texts"],
        "steps": measured["steps"],
        "parameters": measured["parameters"],
        "training_cpu_seconds": round(measured["cpu_seconds"], 1),
        "guidance": (m.get("guidance") or {}).get("chosen"),
        "match": g["condition"]["generated"],
        "match_real": g["condition"]["real"],
        "chance": g["condition"]["chance"],
        "excess_distance": g["distance"],
        "coverage": g["coverage"],
        "coverage_real": g["coverage_real"],
        "near_copies": g["copies"][0]["share"],
        "near_copies_usual": g["copies"][0]["usual"],
        "leaning": g["copies"][0]["leaning"],
        "useful": g["useful"],
        "rivals": {r["name"]: {"match": r["match"], "useful": r["useful"]} for r in g["rivals"]},
        "by_text": m.get("by_text"),
        "verdict": verdict["verdict"],
        "gates": {gate["gate"]: gate["status"] for gate in verdict["gates"]},
    }


def main() -> None:
    """Train on each and print its line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", choices=sorted(SETTINGS))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="Folder that keeps the runs")
    asked = parser.parse_args()
    machine = environment()["machine"]
    with tempfile.TemporaryDirectory() as place:
        for name in asked.data:
            line = figures(name, asked.seed, (asked.out or Path(place) / "runs") / name, Path(place))
            print(json.dumps(line | {"machine": machine}), flush=True)


if __name__ == "__main__":
    main()
