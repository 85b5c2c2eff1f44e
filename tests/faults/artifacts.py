"""Model files and checkpoints that are damaged, newer, or made to do harm."""

import gzip
import json
import os
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aimt.core.errors import DataError, ModelFormatError, RunError
from faults import inputs as bad
from faults.case import Group, Place, put
from faults.files import LARGE, READ
from faults.run import trainer
from faults.values import same

artifacts = Group("artifacts")


def damaged_run(change: Callable[[Path], Any], sealed: bool = False) -> Callable[[Place], Path]:
    """A copy of the run on customers with a change; `sealed` has new checksums, as somebody writes them who means it."""

    def make(place: Place) -> Path:
        run = place.path / "run"
        shutil.copytree(place.shared.run.path, run)
        change(run)
        if sealed:
            bad.seal(run)
        return run

    return make


def each_file(change: Callable[[Path], Any]) -> Callable[[Place], list[Path]]:
    """As many copies of the run as its model has files, each with one of them changed."""

    def make(place: Place) -> list[Path]:
        copies = []
        for name in sorted(p.relative_to(place.shared.run.path) for p in (place.shared.run.path / "model").iterdir())[:4]:
            copies.append(place.path / f"{len(copies)}")
            shutil.copytree(place.shared.run.path, copies[-1])
            change(copies[-1] / name)
        return copies

    return make


def deciles(name: str) -> Callable[[Place], list[Path]]:
    def make(place: Place) -> list[Path]:
        copies = [place.path / f"{tenth}" for tenth in range(10)]
        for tenth, copy in enumerate(copies):
            shutil.copytree(place.shared.run.path, copy)
            os.truncate(copy / name, (copy / name).stat().st_size * tenth // 10)
        return copies

    return make


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def in_trees(key: str, value: str) -> Callable[[Path], None]:
    """A value of the first tree of a booster is another one."""

    def change(run: Path) -> None:
        path = min((run / "model").glob("member_*.txt*"))
        text = (gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()).decode()
        text = re.sub(rf"(\n{key}=)\S+", rf"\g<1>{value}", text, count=1)
        path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())

    return change


def network(change: Callable[[Path, Place], Any]) -> Callable[[Place], Path]:
    """A copy of the small classifier of texts with a change."""

    def make(place: Place) -> Path:
        shutil.copytree(place.shared.bert, place.path / "bert")
        change(place.path / "bert", place)
        return place.path / "bert"

    return make


def pickled(how: str) -> Callable[[Path, Place], None]:
    """Weights as a pickle that creates a file when it is opened."""

    def change(folder: Path, place: Place) -> None:
        import pickle

        import torch

        (folder / "model.safetensors").unlink()
        trap = bad.Canary(place.path / "sprung")
        if how == "pickle":
            (folder / "pytorch_model.bin").write_bytes(pickle.dumps(trap))
        else:
            torch.save({"w": torch.ones(2), "trap": trap}, folder / "pytorch_model.bin", _use_new_zipfile_serialization=how == "zip")

    return change


TAMPERED = "Refused before it is parsed."
artifacts.refused("model file with a flipped bit", "open a run", TAMPERED, each_file(flip), RunError, "was changed")
artifacts.refused("model file that is missing", "open a run", "The file is named.", each_file(Path.unlink), RunError, "has no model/")
artifacts.refused(
    "model.json cut off at each tenth", "open a run", TAMPERED, deciles("model/model.json"), RunError, "model.json", "was changed"
)
artifacts.refused("run.json cut off at each tenth", "open a run", "The file is named.", deciles("run.json"), RunError, "run.json")
artifacts.refused(
    "run.json with a changed word",
    "open a run",
    TAMPERED,
    damaged_run(lambda r: (r / "run.json").write_text((r / "run.json").read_text().replace("yes", "no"))),
    RunError,
    "changed after aimt wrote it",
)
artifacts.refused(
    "run of a newer version",
    "open a run",
    "The remedy is an update.",
    damaged_run(lambda r: bad.edit_json(r / "run.json", lambda s: s.update(format=99))),
    RunError,
    "newer version",
    "Upgrade aimt",
)
artifacts.refused(
    "run whose folder is missing its model",
    "open a run",
    "The file is named.",
    damaged_run(lambda r: shutil.rmtree(r / "model")),
    RunError,
    "model",
)
artifacts.refused(
    "run.json of 8 GB",
    "open a run",
    "Refused by its size.",
    damaged_run(lambda r: bad.sparse(r / "run.json", 1 << 33)),
    RunError,
    "run.json",
    "at most",
)
artifacts.refused(
    "run.json nested 100,000 deep",
    "open a run",
    "The file is named.",
    damaged_run(lambda r: (r / "run.json").write_text("[" * 100_000)),
    RunError,
    "run.json",
)
artifacts.recovered(
    "new checksums and no other change",
    "open a run",
    "Opened: the cases below are refused for what was changed, not for their checksums.",
    damaged_run(lambda r: None, sealed=True),
    same,
)
for fault, change in {
    "an unknown key": lambda s: s.update(on_load="import os"),
    "a path out of the folder": lambda s: s["parts"][0].update(file="../../etc/passwd"),
    "another number of classes": lambda s: s.update(n_classes=3),
    "weights that do not sum to one": lambda s: s["parts"][0].update(weight=5.0),
    "a newer format": lambda s: s.update(format=99),
}.items():
    artifacts.refused(
        f"model.json with {fault}, and valid checksums",
        "open a run",
        "Refused by its structure.",
        damaged_run(lambda r, change=change: bad.edit_json(r / "model/model.json", change), sealed=True),
        ModelFormatError,
        holds=lambda error, _: "changed" not in str(error),
    )
for fault, key, value in (
    ("a column that does not exist", "split_feature", "9999"),
    ("a threshold that is no number", "threshold", "x"),
    ("a child that does not exist", "left_child", "500"),
    ("a circle", "left_child", "0"),
    ("a negative leaf", "right_child", "-5000"),
    ("3 million leaves", "num_leaves", "3000000"),
):
    artifacts.refused(
        f"tree with {fault}, and valid checksums",
        "open a run",
        "Refused by its structure; LightGBM never reads it.",
        damaged_run(in_trees(key, value), sealed=True),
        ModelFormatError,
        holds=lambda error, _: "changed" not in str(error),
    )
artifacts.refused(
    "checkpoints that are all damaged",
    "other",
    "Each is skipped with a warning; then an error.",
    lambda p: spoilt(p, [20, 25]),
    ModelFormatError,
    "none of the checkpoints is good",
)
artifacts.recovered(
    "checkpoint cut off at each tenth",
    "other",
    "Skipped with a warning; the one before is used.",
    lambda p: [spoilt(p, [25], tenth) for tenth in range(10)],
    lambda h, p: next(e["step"] for e in h.events if e["kind"] == "resumed") == 20,
    "damaged",
)
artifacts.refused(
    "checkpoint of a newer version", "other", "The remedy is an update.", lambda p: newer(p), ModelFormatError, "format 99", "Update aimt"
)
CANARY = "Refused by the names in it; nothing is executed."
for kind in ("zip", "old", "pickle"):
    artifacts.refused(
        {
            "zip": "PyTorch file that runs code",
            "old": "PyTorch file of the old format that runs code",
            "pickle": "plain pickle that runs code",
        }[kind],
        "open a network",
        CANARY,
        network(pickled(kind)),
        ModelFormatError,
        "pickle",
        "pytorch_model.bin",
    )
artifacts.refused("joblib file in place of a table", READ, CANARY, lambda p: joblib_file(p), DataError, "x.csv")
artifacts.refused("npy file of objects in place of a table", READ, CANARY, lambda p: npy_file(p), DataError, "x.csv")
artifacts.refused(
    "skops file with crafted types in place of a table",
    READ,
    "It is an archive, and is not unpacked.",
    lambda p: skops_file(p),
    DataError,
    "zip archive",
)
artifacts.recovered(
    "YAML with tags in place of a table",
    READ,
    "Read as plain text; nothing is executed.",
    put("a: !!python/object/apply:os.system ['touch sprung']\nb: 1\n"),
    lambda t, p: len(t) == 1 and not Path("sprung").exists(),
)
artifacts.recovered(
    "notebook with hostile output in place of a table",
    READ,
    "Read as plain values; nothing is executed or drawn.",
    put(json.dumps({"cells": [{"outputs": [{"data": {"text/html": ["<script>alert(1)</script>"]}}]}], "nbformat": 4}), "n.ipynb"),
    lambda t, p: list(t) == ["cells", "nbformat"],
)
artifacts.refused(
    "ONNX with weights in a file outside of its folder",
    "other",
    "Refused before the file is read: a path that leads out, an absolute one, and a link.",
    lambda p: [lambda k=k: onnx_outside(sub(p, k), k) for k in range(3)],
    DataError,
    "cannot be opened",
)
artifacts.refused(
    "safetensors cut off at each tenth",
    "open a network",
    "The file is named.",
    lambda p: [
        network(lambda f, _, k=k: os.truncate(f / "model.safetensors", (f / "model.safetensors").stat().st_size * k // 10))(sub(p, k))
        for k in range(10)
    ],
    ModelFormatError,
    "safetensors",
)
artifacts.refused(
    "safetensors with a header that lies",
    "open a network",
    LARGE,
    lambda p: [
        network(lambda f, _, c=content: (f / "model.safetensors").write_bytes(c))(sub(p, i))
        for i, content in enumerate(
            [
                bad.safetensors([2**40]),
                bad.safetensors([4], head=2**63),
                bad.safetensors([4], head=10**9),
                bad.safetensors([4], head=0),
                bad.safetensors([2**40, 2**40]),
            ]
        )
    ],
    ModelFormatError,
    "safetensors",
)
artifacts.refused(
    "network that states a million layers",
    "open a network",
    LARGE,
    network(lambda f, _: bad.edit_json(f / "config.json", lambda s: s.update(num_hidden_layers=10**6))),
    ModelFormatError,
)
artifacts.refused(
    "network settings of another type",
    "open a network",
    "The file is named.",
    network(lambda f, _: bad.edit_json(f / "config.json", lambda s: s.update(hidden_size="768"))),
    ModelFormatError,
    "config.json",
)
artifacts.refused(
    "tokenizer with ids far apart",
    "open a network",
    "Refused before the room is taken.",
    network(lambda f, _: bad.edit_json(f / "tokenizer.json", lambda s: s["model"]["vocab"].update(z=2**32 - 1))),
    ModelFormatError,
)
artifacts.refused(
    "network without its weights",
    "open a network",
    "The file is named.",
    network(lambda f, _: (f / "model.safetensors").unlink()),
    ModelFormatError,
    "model.safetensors is missing",
)


def sub(place: Place, k: int) -> Place:
    (place.path / str(k)).mkdir()
    return Place(place.path / str(k), place.shared, place.patch)


def spoilt(place: Place, steps: list[int], tenth: int = 5) -> Callable[[], Any]:
    """Resume a run that was stopped at step 25, with damaged checkpoints."""
    folder = place.path / f"run{tenth}"
    t = trainer(folder, hook=lambda t: t.stop() if t.step == 25 else None)
    t.fit()
    for step in steps:
        file = folder / f"step-{step:09d}/tensors.safetensors"
        os.truncate(file, file.stat().st_size * tenth // 10)
    return lambda: trainer(folder, steps=30).fit(resume=True)


def newer(place: Place) -> Callable[[], Any]:
    act = spoilt(place, [])
    bad.edit_json(place.path / "run5/step-000000025/manifest.json", lambda s: s.update(aimt_format=99))
    return act


def joblib_file(place: Place) -> Path:
    import joblib

    joblib.dump(bad.Canary(place.path / "sprung"), place.path / "x.csv")
    return place.path / "x.csv"


def skops_file(place: Place) -> Path:
    """A model of skops is a zip archive whose schema names what is to be called."""
    with zipfile.ZipFile(place.path / "m.csv", "w") as archive:
        archive.writestr("schema.json", json.dumps({"__class__": "system", "__module__": "os", "__loader__": "FunctionNode"}))
    return place.path / "m.csv"


def onnx_outside(place: Place, kind: int) -> Any:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from aimt.jobs.shared.external_model import open_onnx

    inside, secret = place.path / "in", place.path / "secret.bin"
    inside.mkdir()
    np.array([3, 4], np.float32).tofile(secret)
    os.symlink(secret, inside / "link.bin")
    weights = onnx.TensorProto(name="w", data_type=onnx.TensorProto.FLOAT, dims=[2, 1], data_location=onnx.TensorProto.EXTERNAL)
    where = ("../secret.bin", str(secret), "link.bin")[kind]
    for key, value in {"location": where, "offset": "0", "length": "8"}.items():
        weights.external_data.add(key=key, value=value)
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [None, k]) for name, k in (("x", 2), ("y", 1))]
    graph = onnx.helper.make_graph([onnx.helper.make_node("MatMul", ["x", "w"], ["y"])], "g", ends[:1], ends[1:], [weights])
    made = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    (inside / "m.onnx").write_bytes(made.SerializeToString())
    return open_onnx(inside / "m.onnx")


def npy_file(place: Place) -> Path:
    with open(place.path / "x.csv", "wb") as f:
        np.save(f, np.array([bad.Canary(place.path / "sprung")]), allow_pickle=True)
    return place.path / "x.csv"
