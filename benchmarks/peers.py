"""Accuracy on raw tables against AutoGluon, CatBoost and LightGBM, each with the same seconds on one core.

    python benchmarks/peers.py FOLDER [--budget 60] [--seeds 3] [--tables a,b] [--tools aimt,autogluon-best,...]
                               [--python PATH] [--core 0] [--append FILE]

FOLDER holds tables and `datasets.json`, a list of {"name", "file", "target"}; "drop" may list columns to leave out. `--python`
is the Python of an environment with `autogluon.tabular[all]` (it brings CatBoost and LightGBM): the peers run there, aimt here.
A quarter of the rows is the test, the same for all. Every tool gets the raw training rows and runs in a process of its own
on one core with one thread. The error is 1 - AUC for two classes, the log loss for more, the RMSE for numbers; the two
boosters get categories as such and stop on a fifth of the rows. With `--append`, lines that FILE already has are not run again.
Seconds of the processor and memory are those of a tool's own process: AutoGluon's best preset works in others besides.
Prints one JSON line per table, seed and tool, and a summary at the end: wins against the better of the two AutoGluon presets.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

TOOLS = ("aimt", "aimt-half", "autogluon-best", "autogluon-medium", "catboost", "lightgbm")
ANCHOR = ("autogluon-best", "autogluon-medium")
ONE_THREAD = {n: "1" for n in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")}


# --- in the process of a tool: pandas and the tool alone ---------------------------------------------------------------


def by_aimt(X: pd.DataFrame, y: pd.Series, task: str, seconds: float, seed: int) -> tuple[Any, Any]:
    from aimt.models.table.estimators import TabularClassifier, TabularRegressor

    kind = TabularRegressor if task == "regression" else TabularClassifier
    model = kind(time_limit=seconds, random_state=seed, n_threads=1).fit(X, y)
    return model, lambda rows: model.predict(rows) if task == "regression" else model.predict_proba(rows)


def by_autogluon(X: pd.DataFrame, y: pd.Series, task: str, seconds: float, seed: int, preset: str) -> tuple[Any, Any]:
    from autogluon.tabular import TabularPredictor

    metric = {"binary": "roc_auc", "multiclass": "log_loss", "regression": "root_mean_squared_error"}[task]
    model = TabularPredictor(label="target", problem_type=task, eval_metric=metric, path=tempfile.mkdtemp(), verbosity=0)
    model.fit(X.assign(target=y), time_limit=seconds, presets=preset, num_cpus=1, num_gpus=0)
    return model, lambda rows: np.asarray(model.predict(rows) if task == "regression" else model.predict_proba(rows))


def by_booster(X: pd.DataFrame, y: pd.Series, task: str, seconds: float, seed: int, tool: str) -> tuple[Any, Any]:
    """CatBoost or LightGBM with default options, categories as such, stopped early on a fifth of the rows."""
    words = [c for c in X if not pd.api.types.is_numeric_dtype(X[c]) or pd.api.types.is_bool_dtype(X[c])]
    levels = {c: pd.CategoricalDtype(X[c].astype(str).unique()) for c in words}

    def ready(rows: pd.DataFrame) -> pd.DataFrame:
        rows = rows.copy()
        for c in words:
            rows[c] = rows[c].astype(str) if tool == "catboost" else rows[c].astype(str).astype(levels[c])
        return rows

    order = np.random.default_rng(seed).permutation(len(X))
    fit, stop = order[len(X) // 5 :], order[: len(X) // 5]
    rows = ready(X)
    if tool == "catboost":
        from catboost import CatBoostClassifier, CatBoostRegressor

        kind = CatBoostRegressor if task == "regression" else CatBoostClassifier
        model = kind(thread_count=1, random_seed=seed, verbose=0, allow_writing_files=False, early_stopping_rounds=50)
        model.fit(rows.iloc[fit], y.iloc[fit], cat_features=words, eval_set=(rows.iloc[stop], y.iloc[stop]))
    else:
        import lightgbm

        kind = lightgbm.LGBMRegressor if task == "regression" else lightgbm.LGBMClassifier
        model = kind(n_jobs=1, random_state=seed, verbosity=-1, n_estimators=2000)
        model.fit(
            rows.iloc[fit], y.iloc[fit], eval_set=[(rows.iloc[stop], y.iloc[stop])], callbacks=[lightgbm.early_stopping(50, verbose=False)]
        )
    return model, lambda new: model.predict(ready(new)) if task == "regression" else model.predict_proba(ready(new))


def work(folder: str, tool: str, task: str, seconds: float, seed: int) -> None:
    """Fit one tool on train.parquet, predict test.parquet, and leave what is measured."""
    train, test = (pd.read_parquet(f"{folder}/{part}.parquet") for part in ("train", "test"))
    y = train.pop("target")
    begin = time.perf_counter()
    if tool.startswith("aimt"):
        model, predict = by_aimt(train, y, task, seconds, seed)
    elif tool.startswith("autogluon"):
        _, predict = by_autogluon(train, y, task, seconds, seed, tool.split("-")[1] + "_quality")
    else:
        _, predict = by_booster(train, y, task, seconds, seed, tool)
    fit = time.perf_counter() - begin
    used = resource.getrusage(resource.RUSAGE_SELF)
    cpu = used.ru_utime + used.ru_stime + sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
    for_5000 = timed(predict, test)
    np.save(f"{folder}/predicted.npy", np.asarray(predict(test), dtype=float))
    peak = max(resource.getrusage(w).ru_maxrss for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 1024
    found = {"fit_s": round(fit, 2), "cpu_s": round(cpu, 1), "predict_5000_s": round(for_5000, 3), "peak_mb": round(peak)}
    if tool == "aimt":  # and once more, grown again on all rows
        from aimt.models.table.compact import compact

        small = compact(model, train, y)
        predict = small.predict if task == "regression" else small.predict_proba
        np.save(f"{folder}/compact.npy", np.asarray(predict(test), dtype=float))
        found |= {"compact_predict_5000_s": round(timed(predict, test), 3)}
    Path(folder, "found.json").write_text(json.dumps(found))


def timed(predict: Any, test: pd.DataFrame) -> float:
    """Seconds for 5,000 rows, once warm."""
    rows = test.sample(5000, replace=True, random_state=0)
    predict(rows.iloc[:50])
    begin = time.perf_counter()
    predict(rows)
    return time.perf_counter() - begin


# --- here --------------------------------------------------------------------------------------------------------------


def error(task: str, y: np.ndarray, pred: np.ndarray) -> float:
    from aimt.metrics.classification import log_loss, roc_auc
    from aimt.metrics.regression import rmse

    return float(rmse(y, pred) if task == "regression" else 1 - roc_auc(y, pred) if task == "binary" else log_loss(y, pred))


def read(folder: Path, entry: dict) -> tuple[pd.DataFrame, str]:
    """The table with its target as codes or numbers under the name "target", and the task."""
    from aimt.data.io.load import load_table

    frame = load_table(folder / entry["file"]).frame.drop(columns=entry.get("drop", []))
    frame = frame[frame[entry["target"]].notna()].reset_index(drop=True)
    y = frame.pop(entry["target"])
    task = entry.get("task") or ("regression" if pd.api.types.is_numeric_dtype(y) and y.nunique() > 20 else None)
    task = task or ("binary" if y.nunique() == 2 else "multiclass")
    return frame.assign(target=y if task == "regression" else pd.factorize(y, sort=True)[0]), task


def measure(frame: pd.DataFrame, task: str, tool: str, budget: float, seed: int, python: str, core: int) -> dict:
    from sklearn.model_selection import train_test_split

    train, test = train_test_split(frame, test_size=0.25, random_state=seed, stratify=None if task == "regression" else frame["target"])
    with tempfile.TemporaryDirectory() as folder:
        train.reset_index(drop=True).to_parquet(f"{folder}/train.parquet")
        test.drop(columns="target").reset_index(drop=True).to_parquet(f"{folder}/test.parquet")
        seconds = budget / 2 if tool == "aimt-half" else budget
        own = sys.executable if tool.startswith("aimt") else python
        command = [own, __file__, folder, "--work", tool, "--task", task, "--budget", str(seconds), "--seed", str(seed)]
        bound = ["taskset", "-c", str(core)] if sys.platform == "linux" else []
        done = subprocess.run([*bound, *command], env=os.environ | ONE_THREAD, capture_output=True, text=True)
        if done.returncode:
            return {"failed": (done.stderr.strip().splitlines() or ["no message"])[-1][:200]}
        truth = test["target"].to_numpy()
        found = {"error": round(error(task, truth, np.load(f"{folder}/predicted.npy")), 6)}
        if Path(folder, "compact.npy").exists():
            found["compact_error"] = round(error(task, truth, np.load(f"{folder}/compact.npy")), 6)
        return found | json.loads(Path(folder, "found.json").read_text())


def summary(lines: list[dict]) -> dict:
    """Wins and ratios of aimt against the better AutoGluon preset of each table and seed, and against the boosters."""
    by = defaultdict(dict)
    for line in lines:
        if "error" in line:
            by[line["table"], line["seed"]][line["tool"]] = line
    whole = {key: tools for key, tools in by.items() if "aimt" in tools and any(a in tools for a in ANCHOR)}
    best = {key: min(tools[a]["error"] for a in ANCHOR if a in tools) for key, tools in whole.items()}
    out: dict[str, Any] = {"tables x seeds": len(whole)}
    for tool in ("aimt", "aimt-half"):
        ratios = [tools[tool]["error"] / best[key] for key, tools in whole.items() if tool in tools]
        if ratios:
            out[tool] = {"wins": round(float(np.mean(np.array(ratios) < 1)), 3), "ratio": round(float(np.exp(np.mean(np.log(ratios)))), 4)}
    small = [t["aimt"]["compact_error"] / t["aimt"]["error"] for t in whole.values() if "compact_error" in t["aimt"]]
    if small:
        out["compact"] = {
            "ratio": round(float(np.exp(np.mean(np.log(small)))), 4),
            "worst": round(max(small), 4),
            "slowest 5,000 rows, s": max(t["aimt"]["compact_predict_5000_s"] for t in whole.values() if "compact_error" in t["aimt"]),
        }
    every = [tools["aimt"]["error"] / min(t["error"] for n, t in tools.items() if not n.startswith("aimt")) for tools in whole.values()]
    out["worst against the best of all"] = round(max(every), 4) if every else None
    for tool in ("catboost", "lightgbm"):
        beaten = [tools["aimt"]["error"] < tools[tool]["error"] for tools in by.values() if tool in tools and "aimt" in tools]
        out[f"{tool} beaten"] = round(float(np.mean(beaten)), 3) if beaten else None
    for name, field in (("slowest fit, s", "fit_s"), ("slowest 5,000 rows, s", "predict_5000_s"), ("highest peak, MB", "peak_mb")):
        out[name] = {tool: max((t[tool][field] for t in by.values() if tool in t), default=None) for tool in TOOLS}
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--budget", type=float, default=60)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tables", default="")
    parser.add_argument("--tools", default=",".join(TOOLS))
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--core", type=int, default=0)
    parser.add_argument("--append", type=Path)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    parser.add_argument("--task", help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.work:
        work(str(a.folder), a.work, a.task, a.budget, a.seed)
        return
    lines = [json.loads(line) for line in a.append.read_text().splitlines()] if a.append and a.append.exists() else []
    lines = [line for line in lines if "table" in line]
    done = {(line["table"], line["seed"], line["tool"]) for line in lines}
    entries = [e for e in json.loads((a.folder / "datasets.json").read_text()) if not a.tables or e["name"] in a.tables.split(",")]
    for seed in range(a.seeds):
        for entry in entries:
            frame, task = read(a.folder, entry)
            for tool in a.tools.split(","):
                if (entry["name"], seed, tool) in done:
                    continue
                found = measure(frame, task, tool, a.budget, seed, a.python, a.core)
                lines.append({"table": entry["name"], "seed": seed, "tool": tool, "task": task, "rows": len(frame)} | found)
                print(json.dumps(lines[-1]), flush=True)
                if a.append:
                    with a.append.open("a") as file:
                        file.write(json.dumps(lines[-1]) + "\n")
    print(json.dumps(summary(lines)))


if __name__ == "__main__":
    main()
