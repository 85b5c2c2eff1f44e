"""The report as a file: one page, no network, verdict first, and nothing that comes from the data can act in it."""

import json
import re
import shlex
from dataclasses import replace
from html.parser import HTMLParser
from typing import get_type_hints

import numpy as np
import pandas as pd
import pytest

from aimt.core.contents import Settings
from aimt.core.errors import RunError
from aimt.core.problem import Problem
from aimt.core.run import Run
from aimt.core.typed import check_type
from aimt.data.checks.audit import audit
from aimt.data.table.infer_schema import infer_schema
from aimt.decide.threshold import decision_report
from aimt.decide.gate import Gate, judge
from aimt.decide.table_gates import verdict
from aimt.deploy.report.card import HEADINGS, model_card, write_card
from aimt.deploy.report import page
from aimt.deploy.report.page import PLOTS, docs_url, render_report
from aimt.deploy.report.table import REPORT, write_report
from aimt.evaluate.table.calibration import calibration_report
from aimt.evaluate.table.group_metrics import group_report
from aimt.evaluate.table.overfitting import overfitting
from aimt.evaluate.table.scores import score_models
from aimt.jobs.shared.options import stored_settings
from aimt.jobs.shared.pipeline import KINDS, get_kind, report_spec, write_reports
from aimt.jobs.verbs.doctor import doctor, finding_lines

SECTIONS = {section.name: section for section in REPORT.all_sections}


def report_data(run):
    return page.report_data(run, REPORT)


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
    problem = Problem(
        task,
        "target",
        [*names, "segment"],
        metric,
        list(labels),
        sensitive_features=["segment"] if groups else [],
        cost={"fn": 5, "fp": 1} if cost and task == "binary" else None,
    )
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
    info = {
        "problem": problem.to_dict(),
        "settings": {"target": "target", "seed": 0},
        "versions": {"aimt": "0.1.0"},
        "created": "2026-11-24T12:00:00+00:00",
        "source": "rows.csv",
    }
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
    for name, section in SECTIONS.items():
        assert name in page.ids and section.title in text
        assert all(docs_url() + link in page.addresses for link, _ in section.links)
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
    finding = {
        "check": "missing",
        "severity": "warning",
        "columns": [c["name"] for c in columns],
        "rows": [],
        "n_rows": 9,
        "evidence": "e" * 9000,
        "value": 1.0,
        "limit": 0.0,
        "advice": "a" * 9000,
        "action": "",
    }
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


# ---- what all kinds of models share --------------------------------------------------------------------------------


def failed_run(kind, path=None, **settings):
    """A run of a kind whose gates have answered, one with HOLD, one with NOT YET, one with a pass; nothing else was written."""
    hold = Gate("collapse", "Do its answers differ?", "scores", "fault").result(
        "hold", "They do not.", "Train again.", value=0.9, limit=0.5
    )
    wait = Gate("future", "Is it known?", "scores", "fault", essential=True).result(
        "not yet", "Nobody said.", "Say so.", needs_attestation=("my col",)
    )
    good = Gate("merit", "Is it better?", "scores", "merit").result("pass", "It is.", value=0.3, low=0.2, high=0.4, limit=0.1)
    metrics = {
        "verdict": judge([wait, good, hold], {}).to_dict(),
        "findings": [{"name": "dead units", "severity": "warning", "evidence": "31 % never fired", "advice": "Warm up longer"}],
    }
    info = {"kind": kind, "source": "my data.csv", "seed": 0, **settings}
    if path is None:
        return {"run.json": {"settings": info}, "metrics.json": metrics}
    run = Run.create(path, settings=info)
    run.write("metrics.json", metrics)
    run.write("audit.json", {"findings": []})
    run.finish()
    return run


def to_repeat(data: dict) -> dict:
    """The section of a report that says how to repeat the run."""
    return next(section for section in data["sections"] if section["id"] == "reproduce")


@pytest.mark.parametrize("kind", list(KINDS))
def test_every_kind_ends_with_how_to_repeat_it_what_it_takes_and_a_block_to_sign(kind):
    spec = report_spec(get_kind(kind))
    last = ["How often the test was used", "To repeat it", "What it takes", "Sign-off"]
    assert [s.title for s in spec.all_sections[-4:]] == last and [s.name for s in spec.all_sections].count("plan") == 1
    data = page.report_data({"run.json": {"settings": {"kind": kind}, "timings": {"Train": 3.0, "total": 3.5}}}, spec)
    assert data["verdict"]["verdict"] == "NOT YET" and assert_self_contained(render_report(data))


@pytest.mark.parametrize("kind", list(KINDS))
def test_every_kind_has_a_card_with_gates_findings_and_lines_to_sign(kind):
    spec = report_spec(get_kind(kind))
    card = model_card(failed_run(kind, target="y"), spec)
    assert set(spec.card) <= set(HEADINGS), "a heading that the card does not have is not shown"
    assert re.findall("^## (.*)$", card, flags=re.M) == list(HEADINGS)
    assert "| collapse | hold | They do not. |" in card and "Warning, dead units: 31 % never fired" in card
    signed = card[card.index("## Sign-off") :]
    assert "- Verdict: HOLD" in signed and signed.count("To be filled in") == 3 and "| signature |" in signed
    findings = card[card.index("## Findings") : card.index("## Sign-off")]
    assert "- Gate collapse, failed: They do not." in findings


AWKWARD = ["a b", "it's", "$(touch x)", "`id`", "a;b|c&d", 'say "x"', "*", "-- --", "Größe", "x\\y"]


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("word", AWKWARD)
def test_every_command_in_a_report_is_quoted(kind, word):
    settings = {"family": "bert", "target": word, "time": word, "attest": {word: word}, "cost": {"fn": 5.0, "fp": 1.0}}
    data = page.report_data(failed_run(kind, **settings), report_spec(get_kind(kind)))
    first = to_repeat(data)["code"].splitlines()[0]
    words = shlex.split(first)
    verb = {"finetune": "finetune", "judge": "judge", "judge-series": "judge"}.get(kind, "train")
    assert words[:2] == ["aimt", verb] and words[2 + (verb == "finetune")] == "my data.csv"
    assert words[words.index("--target") + 1] == word and words[words.index("--attest") + 1] == f"{word}={word}"
    assert words[words.index("--cost") + 1] == "fn=5,fp=1"
    gates = {g["gate"]: shlex.split(g["command"]) for g in data["verdict"]["gates"]}
    assert gates["future"][-2:] == ["--attest", "my col=REASON"] and gates["merit"] == [] and word in gates["future"]


def test_the_command_repeats_what_was_given_and_nothing_else():
    settings = {
        "kind": "series",
        "target": "n",
        "time": "day",
        "n_origins": 8,
        "seed": 0,
        "aggregate": "sum",
        "known_covariates": ["promo", "price"],
        "season": 12,
    }
    run = {"run.json": {"settings": settings, "given": ["target", "time", "known_covariates"], "source": "/home/ann lee/s.csv"}}
    code = to_repeat(page.report_data(run, report_spec(get_kind("series"))))["code"]
    assert code.splitlines()[0] == "aimt train s.csv --kind series --target n --time day --known-covariates promo,price"
    made = {"kind": "table", "target": "y", "compact": {"of": "my run", "members": 2, "max_latency_ms": None}}
    code = to_repeat(page.report_data({"run.json": {"settings": made}}, REPORT))["code"]
    assert code.splitlines()[0] == "aimt compact 'my run' --members 2"  # the bundled table
    wait = Gate("groups", "?", "groups", "fault").result("not yet", "?", "Choose.", command="aimt train DATA --fairness calibration")
    run = {"run.json": {"settings": made, "source": "a b.csv", "given": ["target"]}, "metrics.json": {"verdict": judge([wait]).to_dict()}}
    data = page.report_data(run, REPORT)
    assert to_repeat(data)["code"].splitlines()[0] == "aimt compact 'my run' --data 'a b.csv' --members 2"
    assert data["verdict"]["gates"][0]["command"] == "aimt train 'a b.csv' --target y --fairness calibration"


@pytest.mark.parametrize(("burden", "side"), [("merit", "left"), ("fault", "right")])
@pytest.mark.parametrize("name", ["baseline", "gain", "score", "groups", "anything"])
def test_the_strip_takes_the_good_side_from_the_gate(burden, side, name):
    answer = Gate(name, "?", "scores", burden).result("pass", "Yes.", value=0.3, low=0.2, high=0.4, limit=0.25)
    data = page.report_data({"metrics.json": {"verdict": judge([answer]).to_dict()}}, REPORT)
    x, width = map(float, re.search(r'class="strip".*?<rect x="([\d.]+)" y="0" width="([\d.]+)"', render_report(data)).groups())
    assert (x == 0) == (side == "left") and 0 < width < 160
    data["verdict"]["gates"][0]["better"] = ""  # one that does not say
    assert "<rect" not in re.search(r'<svg class="strip".*?</svg>', render_report(data))[0]


@pytest.mark.parametrize("kind", list(KINDS))
def test_doctor_leads_with_the_gates_that_did_not_pass_and_the_next_command(kind, tmp_path):
    run = failed_run(kind, tmp_path / "a run", family="bert", model="m", target="y")
    found = doctor(run)
    assert [(f["name"], f["severity"]) for f in found[:2]] == [("collapse", "hold"), ("future", "not yet")]
    assert all(shlex.split(f["command"])[0] == "aimt" for f in found[:2]) and not any("command" in f for f in found[2:])
    assert any(f["name"] == "dead units" for f in found[2:]) == (
        kind in ("text", "copy", "finetune", "image", "music", "audio", "video", "design")
    )
    lines = finding_lines(found)
    assert lines[0] == "hold: collapse" and lines[3].startswith("  $ aimt ")
    assert doctor(run.path) == found


def test_doctor_does_not_send_to_the_doctor(tmp_path):
    run = Run.create(tmp_path / "my run", settings={"kind": "text", "source": "b.txt"})
    gates = [
        Gate(name, "?", "scores", "fault").result("hold", "Bad.", "Look.", command=command)
        for name, command in (
            ("training", "aimt doctor RUN"),
            ("other", "aimt evaluate RUN NEW.csv"),
            ("more", "aimt train DATA --steps 9"),
        )
    ]
    run.write("metrics.json", {"verdict": judge(gates).to_dict()})
    run.finish()
    commands = [f["command"] for f in doctor(run)]
    assert commands == [
        "aimt train b.txt --kind text",
        f"aimt evaluate {shlex.quote(str(run.path))} NEW.csv",
        "aimt train b.txt --kind text --steps 9",
    ]


def test_figures_fill_the_column_and_wide_tables_scroll(html):
    figures = re.findall(r'<div class="scroll">(<svg[^>]*>)', html)
    assert len(figures) >= 5 and sum("max-width" not in f and 'class="full' in f for f in figures) >= len(figures) - 1
    assert re.search(r"figure svg\.full \{ width: 100%; \}", html) and re.search(r"\.wide \{ overflow-x: auto;", html)


def test_a_kind_may_write_files_of_its_own(run, tmp_path):
    made = Run.create(tmp_path / "run", settings={"seed": 0})
    made.write("metrics.json", run["metrics.json"])
    addresses = ("aimt.deploy.report.card:write_card", "aimt.deploy.report.table:write_report")
    assert write_reports(replace(get_kind("table"), report=addresses), made) == made.path / "report.html"
    assert (made.path / "card.md").is_file() and (made.path / "report.json").is_file()


@pytest.mark.parametrize("kind", list(KINDS))
def test_what_a_kind_stores_by_default_can_be_opened_again(kind):
    settings = stored_settings(get_kind(kind).options())
    allowed = get_type_hints(Settings)
    for name in set(settings) & set(allowed) - {"family"}:  # a fine-tuning always has one
        check_type(settings[name], allowed[name], where="run.json", field=name)


def test_options_are_not_broken_at_their_hyphens_and_code_still_never_acts(run):
    data = page.report_data({**run, "run.json": {**run["run.json"], "settings": {"target": "<b>", "time_limit": 9.0}}}, REPORT)
    html = render_report(data)
    assert "aimt train rows.csv <span>--target</span> &#39;&lt;b&gt;&#39; <span>--time-limit</span> 9" in html
    assert_self_contained(html)
    to_repeat(data)["code"] = "a sample <b> --of text"
    assert "<code>a sample &lt;b&gt; --of text</code>" in render_report(data)


@pytest.mark.parametrize(("known", "shown"), [("promo,price", "promo, price"), (["promo"], "promo"), (None, "nothing"), ("", "nothing")])
def test_columns_known_ahead_are_named_however_they_were_given(known, shown):
    spec = report_spec(get_kind("series"))
    metrics = {"data": {"n_series": 1, "step": "day", "season": 7, "n_values": 9, "notes": []}}
    data = page.report_data(
        {"run.json": {"settings": {"target": "n", "time": "day", "known_covariates": known}}, "metrics.json": metrics}, spec
    )
    rows = next(s for s in data["sections"] if s["id"] == "task")["tables"][0]["rows"]
    assert ["Known ahead", shown] in rows
