"""Error of aimt's model relative to LightGBM's and scikit-learn's default boosters, on a folder of real tables.

    python benchmarks/accuracy.py FOLDER [--time-limit 60] [--seeds 1] [--tables telco_churn,...]

FOLDER holds the tables and `datasets.json`, a list of {"name", "file", "target"}; "drop" may list columns to leave out.
A quarter of the rows is the test part, the same for all three. The error is 1 - AUC for two classes, the log loss for
more, the RMSE for numbers. Prints one JSON line per table and seed, and the geometric means of the ratios at the end.
Both references get what aimt's encoder makes of the raw table, categories marked, and stop early on a fifth of the rows.
"""

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from aimt.core.problem import Problem
from aimt.data.checks.audit import audit
from aimt.data.table.infer_problem import define_problem, encode_target
from aimt.data.table.features import FeatureEncoder
from aimt.data.io.load import load_table
from aimt.data.table.infer_schema import infer_schema
from aimt.data.table.schema import Schema
from aimt.data.split.split import Split, split_rows
from aimt.metrics.classification import log_loss, roc_auc
from aimt.metrics.regression import rmse
from aimt.train.table.fit import train_table


def error(task: str, y: np.ndarray, pred: np.ndarray) -> float:
    return float(
        {"binary": lambda: 1 - roc_auc(y, pred), "multiclass": lambda: log_loss(y, pred), "regression": lambda: rmse(y, pred)}[task]()
    )


def hist_gradient_boosting(frame: pd.DataFrame, y: np.ndarray, problem: Problem, schema: Schema, split: Split, seed: int) -> np.ndarray:
    """Test predictions of scikit-learn's booster as it comes, early stopping on."""
    train, test = frame.iloc[split.train], frame.iloc[split.test]
    encoder = FeatureEncoder(schema, problem.inputs, max_levels=250).fit(train)
    mask = np.isin(np.arange(len(encoder.names)), encoder.categorical)
    kind = HistGradientBoostingClassifier if problem.classification else HistGradientBoostingRegressor
    model = kind(early_stopping=True, categorical_features=mask, random_state=seed)
    model.fit(encoder.transform(train), y[split.train])
    X = encoder.transform(test)
    return model.predict_proba(X) if problem.classification else model.predict(X)


def run(folder: Path, entry: dict, seed: int, limit: float) -> dict:
    frame = load_table(folder / entry["file"]).frame
    schema = infer_schema(frame)
    problem, _ = define_problem(frame, schema, target=entry["target"], drop=entry.get("drop", []))
    y, kept = encode_target(frame, problem, schema)
    frame = frame[kept].reset_index(drop=True)
    aside = {a["column"] for a in audit(frame, schema, problem)["set_aside"]}
    problem = problem.replace(inputs=[c for c in problem.inputs if c not in aside])
    split = split_rows(frame, problem, y, seed=seed)
    start = time.perf_counter()
    trained = train_table(frame, y, problem, schema, split, time_limit=limit, seed=seed)
    seconds = time.perf_counter() - start
    test = {name: error(problem.task, y[split.test], made["test"]) for name, made in trained.predictions.items()}
    test["hist_gradient_boosting"] = error(problem.task, y[split.test], hist_gradient_boosting(frame, y, problem, schema, split, seed))
    return {
        "table": entry["name"],
        "seed": seed,
        "task": problem.task,
        "rows": len(y),
        "set_aside": sorted(aside),
        **{name: round(value, 5) for name, value in test.items()},
        "vs_lightgbm": round(test["model"] / test["lightgbm"], 4),
        "vs_hist": round(test["model"] / test["hist_gradient_boosting"], 4),
        "vs_linear": round(test["model"] / test["linear"], 4),
        "seconds": round(seconds, 1),
        "limit": limit,
        "cut": trained.stopped_by_time,
        "trees": trained.model.n_trees_,
    }


def results(folder: Path, tables: list[str], seeds: int, limit: float) -> Iterator[dict]:
    for entry in json.loads((folder / "datasets.json").read_text()):
        if not tables or entry["name"] in tables:
            for seed in range(seeds):
                yield run(folder, entry, seed, limit)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--time-limit", type=float, default=60.0)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--tables", default="")
    args = parser.parse_args()
    rows = []
    for row in results(args.folder, [t for t in args.tables.split(",") if t], args.seeds, args.time_limit):
        print(json.dumps(row), flush=True)
        rows.append(row)
    for key in ("vs_lightgbm", "vs_hist", "vs_linear"):
        by_table = pd.DataFrame(rows).groupby("table")[key].apply(lambda r: float(np.exp(np.log(r).mean())))
        mean = float(np.exp(np.log(by_table).mean()))
        print(json.dumps({"what": f"error {key}, geometric mean", "value": round(mean, 4), **by_table.round(4).to_dict()}))
    over = max(row["seconds"] / row["limit"] for row in rows)
    print(json.dumps({"what": "seconds over the limit, worst ratio", "value": round(over, 3), "limit": 1.1}))


if __name__ == "__main__":
    main()
