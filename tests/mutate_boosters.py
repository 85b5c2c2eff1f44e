"""Read mutated booster texts and predict with those accepted: ``python mutate_boosters.py COUNT SEED``, a process that may crash."""

import json
import random
import sys

import lightgbm as lgb
import numpy as np

from aimt.core.errors import ModelFormatError
from aimt.models.trees.boosting import read_booster

rng = np.random.default_rng(0)
X = np.column_stack([rng.normal(size=(300, 3)), rng.integers(0, 80, 300)])
X[rng.random(X.shape) < 0.05] = np.nan
ODD = [
    "nan",
    "inf",
    "-1",
    "0",
    "1e400",
    "-1e308",
    "2147483648",
    "4294967296",
    "9" * 30,
    "9" * 5000,
    "-2147483649",
    "",
    "1.5",
    "x",
    "\x00",
    "\ud800",
]


def text_of(n_classes: int) -> str:
    """A small honest booster with missing numbers and sets of categories."""
    params = {
        "objective": "multiclass" if n_classes > 2 else "binary",
        "num_leaves": 6,
        "min_data_in_leaf": 5,
        "cat_smooth": 1,
        "verbosity": -1,
        "min_data_per_group": 5,
        "num_threads": 1,
        "deterministic": True,
    } | ({"num_class": n_classes} if n_classes > 2 else {})
    y = rng.integers(0, n_classes, len(X))
    return lgb.train(params, lgb.Dataset(X, y, categorical_feature=[3], params=params), 3).model_to_string()


def mutate(text: str, chance: random.Random) -> str:
    """One to three random changes of the part that is read."""
    end = text.index("end of trees") + 14
    for _ in range(chance.randint(1, 3)):
        lines = text[:end].split("\n")
        i, kind = chance.randrange(len(lines)), chance.randrange(9)
        words = lines[i].replace("=", "= ").split(" ")
        if kind == 0:  # one bit
            raw = bytearray(text[:end], "utf-8", "surrogatepass")
            raw[chance.randrange(len(raw))] ^= 1 << chance.randrange(8)
            text = raw.decode("utf-8", "replace") + text[end:]
            continue
        if kind == 1:
            lines.insert(chance.randrange(len(lines)), lines[i])
        elif kind == 2:
            del lines[i]
        elif kind == 3:  # another number
            words[chance.randrange(len(words))] = chance.choice([*ODD, str(chance.randint(-9, 99)), str(chance.uniform(-9, 9))])
        elif kind == 4:
            j = chance.randrange(len(lines))
            lines[i], lines[j] = lines[j], lines[i]
        elif kind == 5:
            lines = [
                (
                    f"tree_sizes={' '.join(str(chance.choice([0, -5, 7, 600, 10**9, 10**18])) for _ in range(chance.randint(0, 9)))}"
                    if line.startswith("tree_sizes")
                    else line
                )
                for line in lines
            ]
        elif kind == 6:
            lines.insert(
                i,
                chance.choice(["", "leaf_value=1 2 3", "num_leaves=9999", "Tree=7", "\nright_child=5 5 5", "is_linear=1", "end of trees"]),
            )
        elif kind == 7:
            words = words + words[1:] if chance.random() < 0.5 else words[: chance.randint(1, len(words))]
        else:  # a child or a boundary elsewhere
            at = [
                k
                for k, line in enumerate(lines)
                if line.startswith(("left_child", "right_child", "cat_boundaries", "split_feature", "num_"))
            ]
            i = chance.choice(at) if at else i
            words = lines[i].replace("=", "= ").split(" ")
            words[chance.randrange(len(words))] = str(chance.randint(-8, 8))
        if kind in (3, 7, 8):
            lines[i] = " ".join(words).replace("= ", "=")
        text = "\n".join(lines) + text[end:]
        if "end of trees" not in text:
            return text
        end = text.index("end of trees") + 14
    return text


def main(count: int, seed: int) -> None:
    texts, told = {1: text_of(2), 3: text_of(3)}, {"refused": 0, "accepted": 0}
    for i in range(count):
        outputs = 3 if i % 3 == 0 else 1
        bad = mutate(texts[outputs], random.Random(f"{seed} {i}"))
        try:
            booster = read_booster(bad, n_columns=4, n_outputs=outputs)
        except ModelFormatError:
            told["refused"] += 1
            continue
        told["accepted"] += 1
        for option in ({"raw_score": True}, {"pred_contrib": True}, {"pred_leaf": True}):
            booster.predict(X[:20], num_threads=1, **option)
        booster.model_to_string()
    print(json.dumps(told))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
