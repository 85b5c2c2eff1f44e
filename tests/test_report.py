"""The report as a file: one page, no network, verdict first, and nothing that comes from the data can act in it."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from aimt.core.errors import RunError
from aimt.core.problem import Problem
from aimt.core.run import Run
from aimt.data.checks.audit import audit
from aimt.data.table.schema import infer_schema
from aimt.decide.threshold import decision_report
from aimt.decide.table_gates import verdict
from aimt.deploy.report.card import HEADINGS, model_card, write_card
from aimt.deploy.report.table import PLOTS, SECTIONS, docs_url, render_report, report_data, write_report
from aimt.evaluate.table.calibration import calibration_report
from aimt.evaluate.table.group_metrics import group_report
from aimt.evaluate.table.overfitting import overfitting
from aimt.evaluate.table.scores import score_models

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "javascript:alert(1)",
    "</title></style><b>",
    "{{ 7 * 7 }}{% raw %}",
    "=HYPERLINK(1)",
    "$x_{$ \\frac",
    "two\nlines\ttab\x00nul",
    "pdf\u202efdp.exe\u2066",
    "Größe 👩\u200d🔬 日本",
    "long" * 500,
    "<!-- --> ]]> &amp;",
]


def make_run(task="binary", names=("amount", "age"), labels=("good", "bad"), cost=True, groups=True):
    """What a run's files hold, computed on 400 rows drawn from a known rule; the names can be anything."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 2))
    wish = x @ [1.5, -0.5] + rng.logistic(size=400)
    frame = pd.DataFrame(x, columns=list(names))
    frame["segment"] = rng.choice([labels[0], labels[-1]], 400)
    metric = {"binary": "roc_auc", "multiclass": "log_loss", "regression": "rmse"}[task]
    if task == "regression":
        y, pred, prior, labels = wish, x @ [1.4, -0.4], np.full(400, wish.mean()), ()
    else:
        k = len(labels)
        y = np.digitize(wish, np.quantile(wish, np.arange(1, k) / k))
        centre = np.linspace(-2, 2, k)
        pred = np.exp(-0.5 * ((x @ [1.5, -0.5])[:, None] - centre) ** 2)
        pred /= pred.sum(1, keepdims=True)
        prior = np.tile(np.bincount(y) / 400, (400, 1))
    frame["target"] = [labels[i] for i in y] if task != "regression" else y
    problem = Problem(task, "target", [*names, "segment"], metric, list(labels), groups=["segment"] if groups else [],
                      cost={"fn": 5, "fp": 1} if cost and task == "binary" else None)  # fmt: skip
    found, test, train = audit(frame, infer_schema(frame), problem), slice(0, 200), slice(200, 400)
    decision = decision_report(problem, y[train], pred[train], y[test], pred[test], {"linear": (prior[train], prior[test])})
    scores = score_models(problem, y[test], {"prior": prior[test], "linear": prior[test], "model": pred[test]})
    metrics = {
        "split": {"strategy": "stratified", "notes": [], "rows": {"train": 200, "test": 200}},
        "scores": scores,
        "calibration": calibration_report(problem, y[test], pred[test]),
        "overfitting": overfitting(problem, y[train], pred[train], pred[train], y[test], pred[test]),
        "groups": group_report(problem, frame.iloc[test], y[test], pred[test], decision["threshold"]) if groups else None,
        "importance": {"metric": metric, "label": metric, "columns": [{"column": n, "value": 0.1, "sd": 0.01} for n in names]},
        "decision": decision,
    }
    metrics["verdict"] = verdict(problem, found, *(metrics[k] for k in ("scores", "calibration", "overfitting", "groups")), decision)
    info = {"problem": problem.to_dict(), "settings": {"target": "target", "seed": 0}, "versions": {"aimt": "0.1.0"},
            "created": "2026-11-24T12:00:00+00:00", "source": "rows.csv"}  # fmt: skip
    return json.loads(json.dumps({"run.json": info, "audit.json": found, "metrics.json": metrics}))


class Page(HTMLParser):
    """What a browser would see: tags with their attributes, text, headings."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.addresses, self.handlers, self.ids, self.text = [], [], [], [], ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for key, value in attrs:
            if key in {"src", "href", "xlink:href", "action", "data", "srcset", "poster"}:
                self.addresses.append(value)
            if key.startswith("on"):
                self.handlers.append((tag, key))
            if key == "id":
                self.ids.append(value)

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def run():
    return make_run()


@pytest.fixture(scope="module")
def html(run):
    return render_report(report_data(run))


FORBIDDEN = {"script", "link", "img", "iframe", "object", "embed", "form", "input", "base", "audio", "video", "source"}


def assert_self_contained(html):
    page = Page(html)
    assert not FORBIDDEN & set(page.tags)
    assert not page.handlers
    assert [a for a in page.addresses if not a.startswith(("#", docs_url()))] == []
    assert not re.search(r"url\((?!#)|@import|image-set|expression\(", html)
    assert "default-src 'none'" in html
    assert len(html.encode("utf-8", "strict")) < 1_500_000
    return page


def test_one_file_without_network(html):
    page = assert_self_contained(html)
    assert len(page.ids) == len(set(page.ids))
    targets = [a[1:] for a in page.addresses if a.startswith("#")]
    assert [t for t in targets if t not in page.ids] == []


def test_verdict_comes_first(run, html):
    result = run["metrics.json"]["verdict"]
    text = Page(html).text
    body = text[text.index("aimt report") :]
    places = [body.index(result["verdict"]), body.index(result["summary"]), body.index(result["gates"][0]["question"])]
    assert places == sorted(places)
    assert html.index('id="verdict"') < html.index('id="gates"') < min(html.index(f'<section class="part" id="{s}"') for s in SECTIONS)
    assert html.index("<title>" + result["verdict"]) > 0


def test_every_gate_and_section_is_there(run, html):
    page = Page(html)
    text = re.sub(r"\s+", " ", page.text)
    for gate in run["metrics.json"]["verdict"]["gates"]:
        assert gate["question"] in text and gate["text"] in text and gate["limit_text"] in text
    for name, (title, _, links) in SECTIONS.items():
        assert name in page.ids and title in text
        assert all(docs_url() + link in page.addresses for link, _ in links)
    assert "could not be" not in text


def test_figures_speak_to_screen_readers_and_follow_the_theme(html):
    svgs = re.findall(r"<svg[^>]*>", html)
    assert len(svgs) >= 12
    assert all('aria-hidden="true"' in s or ('role="img"' in s and "aria-label=" in s) for s in svgs)
    assert sum('role="img"' in s for s in svgs) >= 5
    assert "prefers-color-scheme: dark" in html and "@media print" in html and "var(--ink" in html
    assert html.count("<caption>") == html.count("<table") - 1  # all but the gates, which the verdict announces


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_and_values_are_shown_and_never_act(name):
    run = make_run(names=(name, "age"), labels=("good", name))
    run["run.json"]["problem"]["target"] = name
    run["run.json"]["source"] = name
    run["run.json"]["notes"] = [name]
    html = render_report(report_data(run))
    assert_self_contained(html)
    assert "could not be" not in html
    assert not re.search("[\u202a-\u202e\u2066-\u2069\x00]", html)
    card = model_card(run)
    assert re.findall("^## (.*)$", card, flags=re.M) == list(HEADINGS)
    assert "<script" not in card and "<img" not in card and "Could not be made" not in card


def test_a_lone_surrogate_does_not_break_the_file(tmp_path):
    run = make_run()
    run["run.json"]["source"] = "bad\ud800name"
    render_report(report_data(run)).encode("utf-8")


@pytest.mark.parametrize(("task", "labels"), [("regression", ("low", "high")), ("multiclass", ("a", "b", "c"))])
def test_other_tasks(task, labels):
    html = render_report(report_data(make_run(task, labels=labels)))
    assert_self_contained(html)
    assert "could not be" not in html


def test_without_costs_and_groups():
    html = render_report(report_data(make_run(cost=False, groups=False)))
    assert "Not checked" in html and "could not be" not in html


PARTS = ("split", "scores", "calibration", "overfitting", "groups", "importance", "decision", "verdict")


@pytest.mark.parametrize("value", [None, {}, [], "text", 7, {"columns": 3, "table": 3, "gates": 3, "threshold": "x"}])
def test_broken_parts_cost_only_themselves(run, value):
    broken = {**run, "metrics.json": dict.fromkeys(PARTS, value)}
    page = assert_self_contained(render_report(report_data(broken)))
    assert all(name in page.ids for name in SECTIONS)
    assert "NOT YET" in page.text
    assert model_card(broken)


@pytest.mark.parametrize("part", PARTS)
def test_a_missing_part_costs_only_itself(run, part):
    gap = {**run, "metrics.json": {k: v for k, v in run["metrics.json"].items() if k != part}}
    data = report_data(gap)
    assert [s["id"] for s in data["sections"]] == list(SECTIONS)
    assert not any("could not" in line for s in data["sections"] for line in s["text"])
    assert "Could not be made" not in model_card(gap)


def test_a_run_that_failed_says_not_yet():
    data = report_data({"run.json": {"stage": "Train", "reason": "out of memory", "settings": {}, "versions": {}}})
    assert data["verdict"]["verdict"] == "NOT YET" and "out of memory" in render_report(data)


def test_a_file_cannot_name_a_function_to_call(run):
    data = report_data(run)
    data["sections"][0]["figures"] = [{"kind": "os:getcwd", "index": None, "caption": "x"}]
    assert "could not be drawn" in render_report(data)
    assert all(address.startswith("aimt.") for address, _ in PLOTS.values())


def test_five_thousand_columns_stay_small(run):
    columns = [{"name": f"column {i}", "kind": "number", "missing": 0.0, "n_unique": 9, "example": "1"} for i in range(5000)]
    finding = {"check": "missing", "severity": "warning", "columns": [c["name"] for c in columns], "rows": [], "n_rows": 9,
               "evidence": "e" * 9000, "value": 1.0, "limit": 0.0, "advice": "a" * 9000, "action": ""}  # fmt: skip
    wide = {**run, "audit.json": {**run["audit.json"], "columns": columns, "findings": [finding] * 40}}
    wide["run.json"] = {**run["run.json"], "problem": {**run["run.json"]["problem"], "inputs": [c["name"] for c in columns]}}
    wide["run.json"]["notes"] = ["n" * 9000] * 3000
    assert_self_contained(render_report(report_data(wide)))


def test_written_whole_and_the_same_for_programs(run, tmp_path):
    made = Run.create(tmp_path / "run", settings={"seed": 0})
    for name in ("audit.json", "metrics.json"):
        made.write(name, run[name])
    made.update(problem=run["run.json"]["problem"])
    path = write_report(made)
    assert path.name == "report.html"
    data = json.loads((made.path / "report.json").read_text(encoding="utf-8"))
    assert data["verdict"]["verdict"] == run["metrics.json"]["verdict"]["verdict"]
    assert [s["id"] for s in data["sections"]] == list(SECTIONS)
    assert path.read_text(encoding="utf-8") == render_report(data)  # the page can be rebuilt from the data alone
    assert write_card(made).read_text(encoding="utf-8").startswith("# Model card")
    assert not [p for p in made.path.iterdir() if p.name.startswith(".")]


def test_a_run_that_was_tampered_with_is_refused(run, tmp_path):
    made = Run.create(tmp_path / "run", settings={})
    made.write("audit.json", run["audit.json"])
    made.write("metrics.json", run["metrics.json"])
    made.update(problem=run["run.json"]["problem"])
    made.finish()
    (made.path / "metrics.json").write_text('{"verdict": {"verdict": "SHIP", "gates": []}}')
    with pytest.raises(RunError):
        write_report(made)
    assert not (made.path / "report.html").exists()
