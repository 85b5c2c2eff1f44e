# Made by docs/stubs.py from the signatures of the verbs: do not edit.
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from aimt.core.run import Run as Run
from aimt.core.errors import AimtError as AimtError
from aimt.core.problem import Problem as Problem
from aimt.data.io.memory import TableSource as TableSource
from aimt.data.io.load import load_table as load_table
from aimt.data.sources.catalog import load_dataset as load_dataset
from aimt.data.sources.catalog import list_datasets as list_datasets
from aimt.models.table.estimators import TabularClassifier as TabularClassifier
from aimt.models.table.estimators import TabularRegressor as TabularRegressor
from aimt.data.text.tokenizer import Tokenizer as Tokenizer
from aimt.data.text.tokenizer import train_tokenizer as train_tokenizer
from aimt.models.text.gpt import GPT as GPT
from aimt.models.text.gpt import GPTConfig as GPTConfig
from aimt.models.text.text_classification import BERTForClassification as BERTForClassification
from aimt.models.text.sentence_embeddings import BERTForSentences as BERTForSentences
from aimt.models.text.t5 import T5 as T5
from aimt.models.text.t5_config import T5Config as T5Config
from aimt.models.image.clip import CLIP as CLIP
from aimt.models.audio.deepspeech import DeepSpeech as DeepSpeech
from aimt.train.loop.trainer import Trainer as Trainer
from aimt.train.loop.trainer import TrainConfig as TrainConfig
from aimt.core.contents import Audit
from aimt.core.contents import Finding
from aimt.core.hardware import Installation
from aimt.jobs.operate.bundle import Bundle
from aimt.jobs.operate.export import Export
from aimt.jobs.operate.policy import PolicyMade
from aimt.jobs.operate.retrain import Challenge
from aimt.jobs.operate.watch import Watched
from aimt.jobs.verbs.compare import RunComparison
from aimt.jobs.verbs.datasets import DatasetEntry
from aimt.jobs.verbs.datasets import DatasetList
from aimt.jobs.verbs.evaluate import Evaluation
from aimt.train.networks.resource_estimate import NetworkPlan

__version__: str
__all__ = [
    'train',
    'finetune',
    'judge',
    'audit',
    'predict',
    'evaluate',
    'compare',
    'explain',
    'compact',
    'monitor',
    'report',
    'generate',
    'plan',
    'doctor',
    'export',
    'bundle',
    'serve',
    'retrain',
    'rollback',
    'watch',
    'policy',
    'studio',
    'datasets',
    'env',
    'AimtError',
    'Problem',
    'Run',
    'TableSource',
    'load_table',
    'load_dataset',
    'list_datasets',
    'TabularClassifier',
    'TabularRegressor',
    'Tokenizer',
    'train_tokenizer',
    'GPT',
    'GPTConfig',
    'BERTForClassification',
    'BERTForSentences',
    'T5',
    'T5Config',
    'CLIP',
    'DeepSpeech',
    'Trainer',
    'TrainConfig',
]

def train(
    source: TableSource | None = None,
    *,
    kind: str | None = None,
    target: str | None = None,
    sensitive_features: str | list[str] | None = None,
    fairness: str | None = None,
    cost: str | dict[str, float] | None = None,
    time: str | None = None,
    entity: str | None = None,
    drop: str | list[str] | None = None,
    keep: str | list[str] | None = None,
    task: str | None = None,
    positive_label: str | None = None,
    metric: str | None = None,
    date_format: str | None = None,
    missing_labels: str | None = None,
    population: str | Path | dict[str, dict[str, float]] | None = None,
    max_latency_ms: float | None = None,
    sql: str | None = None,
    cluster: str | None = None,
    series_id: str | None = None,
    horizon: int | None = None,
    known_covariates: str | list[str] | None = None,
    freq: str | None = None,
    aggregate: str = 'sum',
    season: int | None = None,
    recursive: bool = False,
    n_origins: int | None = None,
    size: str | None = None,
    tokenizer: str | None = None,
    vocab_size: int | None = None,
    text_field: str | None = None,
    steps: int | None = None,
    text: str | None = None,
    attributes: str | None = None,
    name: str | None = None,
    tone: str | None = None,
    language: str | None = None,
    model: str | Path | None = None,
    image_size: int | None = None,
    colour: str | None = None,
    mirror: str | None = None,
    width: int | None = None,
    one_step: bool = False,
    enlarge: int | None = None,
    captions: str | None = None,
    init_from: str | Path | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    voices: int | None = None,
    steps_per_quarter: int = 2,
    rate: int | None = None,
    length: float | None = None,
    samples: int | None = None,
    n_frames: int = 8,
    frame_size: int = 16,
    frame_rate: float = 8.0,
    clips_per_file: int = 4,
    problem: str | None = None,
    judge: Any = None,
    parameters: str | Sequence[str] | None = None,
    group: str | None = None,
    minimise: str | Sequence[str] | None = None,
    at_least: str | Sequence[str] | None = None,
    at_most: str | Sequence[str] | None = None,
    limit: str | Sequence[str] | None = None,
    tolerance: str | Sequence[str] | None = None,
    setting: str | Sequence[str] | None = None,
    examples: int | None = None,
    guidance: float | None = None,
    polish: int = 5,
    per_wish: int = 4,
    family: str | None = None,
    revision: str | None = None,
    epochs: float | None = None,
    lora: int | None = None,
    nf4: bool = False,
    freeze: bool = False,
    unfreeze_every: float = 0,
    layerwise_lr_decay: float | None = None,
    weight_interpolation: float | None = None,
    balance: bool = False,
    gradient_checkpointing: bool = False,
    patience: int = 3,
    retention_data: TableSource | None = None,
    actual: str | None = None,
    prediction: str | None = None,
    probability: str | list[str] | None = None,
    baseline: str | list[str] | None = None,
    training: TableSource | None = None,
    threshold: float | None = None,
    origin: str | None = None,
    low: str | None = None,
    high: str | None = None,
    coverage: float | None = None,
    quantiles: str | list[str] | None = None,
    history: str | Path | pd.DataFrame | None = None,
    out: str | Path | None = None,
    time_limit: float | None = None,
    seed: int = 0,
    attest: dict[str, str] | list[str] | str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
) -> Run:
    """Train a model, judge it, and keep everything in a run directory.

    Returns the finished `Run`. Raises a kind of `AimtError` when the data, the question or the place cannot be used; a run that
    was started then says `failed`, with the reason.
    """

def finetune(
    family: str,
    source: TableSource,
    *,
    model: str | Path | None = None,
    revision: str | None = None,
    text: str | None = None,
    target: str | None = None,
    steps: int | None = None,
    epochs: float | None = None,
    lr: float | None = None,
    batch_size: int | None = None,
    lora: int | None = None,
    nf4: bool = False,
    freeze: bool = False,
    unfreeze_every: float = 0,
    layerwise_lr_decay: float | None = None,
    weight_interpolation: float | None = None,
    balance: bool = False,
    gradient_checkpointing: bool = False,
    patience: int = 3,
    retention_data: TableSource | None = None,
    out: str | Path | None = None,
    time_limit: float | None = None,
    seed: int = 0,
    attest: dict[str, str] | list[str] | str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
) -> Run:
    """Fine-tune a pretrained network on your examples, judge it, and keep everything in a run directory.

    Returns the finished `Run`. Raises a kind of `AimtError` when the examples, the model or the place cannot be used; the run then
    says `failed`.
    """

def judge(
    source: TableSource,
    *,
    actual: str | None = None,
    prediction: str | None = None,
    probability: str | list[str] | None = None,
    model: Any = None,
    baseline: str | list[str] | None = None,
    training: TableSource | None = None,
    threshold: float | None = None,
    sensitive_features: str | list[str] | None = None,
    fairness: str | None = None,
    cost: str | dict[str, float] | None = None,
    time: str | None = None,
    entity: str | None = None,
    drop: str | list[str] | None = None,
    task: str | None = None,
    positive_label: str | None = None,
    metric: str | None = None,
    date_format: str | None = None,
    sql: str | None = None,
    series_id: str | None = None,
    origin: str | None = None,
    horizon: int | None = None,
    low: str | None = None,
    high: str | None = None,
    coverage: float | None = None,
    quantiles: str | list[str] | None = None,
    history: str | Path | pd.DataFrame | None = None,
    season: int | None = None,
    n_origins: int | None = None,
    out: str | Path | None = None,
    time_limit: float | None = None,
    seed: int = 0,
    attest: dict[str, str] | list[str] | str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
) -> Run:
    """Judge a model or forecasts that you already have, by answers for rows whose outcome is known, and keep everything in a run directory.

    Forecasts are found by their options (such as `series_id`, `origin`, `horizon`, `history`), or by times an even step apart. Returns the
    finished `Run`. Raises a kind of `AimtError` when the table, the answers or the place cannot be used. The model is neither stored nor
    changed.
    """

def audit(
    source: TableSource | None = None,
    *,
    target: str | None = None,
    sensitive_features: str | list[str] | None = None,
    population: str | Path | dict[str, dict[str, float]] | None = None,
    sql: str | None = None,
    date_format: str | None = None,
    quiet: bool = False,
) -> Audit:
    """Look for what is wrong with a table. Raises `DataError` when it cannot be read, or the shares of the population make no sense."""

def predict(
    run: Run | str | Path,
    source: TableSource | None = None,
    *,
    out: str | Path | None = None,
    coverage: float | None = None,
    conditional_on: str | None = None,
    thresholds: str | None = None,
    horizon: int | None = None,
    series: str | Sequence[str] | None = None,
    chunk_rows: int | None = None,
    cluster: str | None = None,
    overwrite: bool = False,
    quiet: bool = False,
) -> pd.DataFrame | Path:
    """Add prediction, probability and decision to new rows, and with a coverage how sure they are.

    From a text file to a text file, whatever was there stays as it was written; see `extend_table`. Raises `DataError`
    when a column that the model needs is missing or the table itself would be written over, `RunError` when the run cannot be trusted,
    `ProblemError` for what the run cannot give.
    """

def evaluate(
    run: Run | str | Path,
    source: TableSource,
    *,
    coverage: float | None = None,
    conditional_on: str | None = None,
    population: str | Path | dict[str, dict[str, float]] | None = None,
    permutations: int = 0,
    time_limit: float | None = None,
    seed: int = 0,
) -> Evaluation:
    """Score a run's model on rows whose outcome is known.

    Raises `DataError` when the target or an input is missing. A run that writes is scored on a text instead.
    """

def compare(
    run: Run | str | Path,
    *others: Run | str | Path,
    metric: str | None = None,
    seed: int = 0,
) -> RunComparison:
    """How runs differ on the rows that test all of them, with intervals. Raises `DataError` when there are no such rows."""

def explain(
    run: Run | str | Path,
    source: Any,
    *,
    rows: str | list[int] | None = None,
    columns: str | list[str] | None = None,
    change: bool = False,
    desired: str | tuple[float, float] | None = None,
    immutable: str | list[str] | None = None,
    surrogate_rules: bool | int = False,
    stability: bool = False,
    time_limit: float | None = None,
    out: str | Path | None = None,
) -> list[dict[str, Any]]:
    """Which columns moved the predictions of some rows, and how far; or, by one of the other options, other reasons.

    For a fine-tuned network: which words, places or moments speak for its answer, or why that is not shown.

    Raises `ProblemError` for a row number that is not in the table, and for options that do not belong together; `DataError`
    for `stability` without rows whose answer is known.
    """

def compact(
    run: Run | str | Path,
    *,
    data: TableSource | None = None,
    sql: str | None = None,
    max_latency_ms: float | None = None,
    members: int | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    quiet: bool = False,
) -> Run:
    """A run with a model many times faster, measured against the old one on the test rows.

    Raises `DataError` when the table is not named, gone or changed, `ProblemError` when the model cannot be as fast as asked.
    """

def monitor(
    run: Run | str | Path,
    source: TableSource,
    *,
    data: TableSource | None = None,
    out: str | Path | None = None,
    webhook: str | None = None,
    alpha: float = 0.05,
    spend_over: int = 100,
    min_distance: float = 0.01,
    control: str = 'holm',
    seed: int = 0,
) -> dict[str, Any]:
    """Compare new rows with what a run was trained on: drift, and performance estimated without labels or measured with them.

    Adds a line to monitor.jsonl in the run. Raises `RunError` for a run without a reference, `DataError` when an input is missing.
    """

def report(
    run: Run | str | Path,
) -> Path:
    """Write a run's report.html, report.json and card.md again. Raises `RunError` when the run cannot be trusted."""

def generate(
    run: Run | str | Path,
    prompt: str | Sequence[str] | None = None,
    *,
    max_new_tokens: int | None = None,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float | None = None,
    stop: str | Sequence[str] | None = None,
    num_beams: int = 1,
    length_penalty: float | None = None,
    early_stopping: bool | str | None = None,
    precision: str = 'float32',
    stream: bool = False,
    seed: int = 0,
    n: int = 1,
    want: Any = None,
    polish: int | None = None,
    guidance: float | None = None,
    format: str | Sequence[str] | None = None,
    judge: Any = None,
    out: str | Path | None = None,
    label: str | Sequence[str] | None = None,
    value: list[str] | None = None,
    image: str | Path | None = None,
    steps: int | None = None,
    speed: float | None = None,
    melody: str | Path | None = None,
    voice: int = 1,
    key: str = 'G major',
    bars: int = 8,
    rules: float = 5.0,
    consonance: float = 4.0,
    candidates: int = 4,
    enlarge: str | Path | None = None,
    mask: str | Path | None = None,
    strength: float | None = None,
    interpolate: bool = False,
    products: str | Path | pd.DataFrame | None = None,
    length: str | None = None,
    tone: str | None = None,
    language: str | None = None,
    must_have: str | None = None,
) -> Any:
    """Let the model of a run generate: a text goes on or is answered, a picture is drawn.

    The options are those of the kind of the run, as `aimt generate RUN --help` lists them. Raises `RunError` when the run cannot
    be trusted, `ProblemError` for a run that generates nothing, for a value out of range and for an option of another kind,
    `DataError` for a character or a word that the model has never seen.
    """

def plan(
    source: str | Path | None = None,
    *,
    size: str | None = None,
    time_limit: float = 300.0,
    tokens: int | None = None,
    batch_size: int | None = None,
    seq_len: int | None = None,
    vocab_size: int | None = None,
) -> NetworkPlan:
    """Parameters, memory, arithmetic, time and cost of training a GPT, here and on common GPUs."""

def doctor(
    run: Run | str | Path,
) -> list[Finding]:
    """What is wrong with a run: the gates that did not pass, then what was seen in training, or what its figures say of its table."""

def export(
    run: Run | str | Path,
    *,
    to: str = 'onnx',
    out: str | Path | None = None,
    int8: bool = False,
    data: Any = None,
) -> Export:
    """Write a run in another format, and compare it with the run.

    Raises `ProblemError` for what cannot be exported, `MissingExtraError` without the extra `onnx`.
    """

def bundle(
    run: Run | str | Path,
    *,
    out: str | Path | None = None,
) -> Bundle:
    """Write a bundle. Raises `ProblemError` for a kind of run that cannot be served, `RunError` for one that is not done."""

def serve(
    run: Run | str | Path | None = None,
    *others: Run | str | Path,
    host: str = '127.0.0.1',
    port: int = 8000,
    workers: int = 1,
    token_file: str | Path | None = None,
    max_body_mb: float = 5.0,
    rate: float = 100.0,
    log: str | Path | None = None,
    canary: str | Sequence[str] = (),
    shadow: str | Sequence[str] = (),
    policy: str | Path | Sequence[str | Path] = (),
    watch: float = 0.0,
    webhook: str | None = None,
    quiet: bool = False,
) -> None:
    """Serve runs until the process is told to stop.

    Raises `ProblemError` for options that do not fit together, `RunError` for a run that cannot be opened.
    """

def retrain(
    run: Run | str | Path,
    source: TableSource,
    *,
    data: TableSource | None = None,
    out: str | Path | None = None,
    arena: float = 0.3,
    reason: str = 'asked for',
    time_limit: float | None = None,
    quiet: bool = False,
) -> Challenge:
    """Train a challenger, compare it with the champion, and promote it if it has won.

    Raises `DataError` when the new rows are too few or do not fit, `RunError` when the champion cannot be opened.
    """

def rollback(
    run: Run | str | Path,
) -> str:
    """Undo the last promotion. Raises `ProblemError` when there was none, `RunError` when the run before is gone."""

def watch(
    run: Run | str | Path,
    log: str | Path,
    *,
    every: float = 3600.0,
    once: bool = False,
    data: TableSource | None = None,
    on_decay: bool = True,
    on_drift: bool = True,
    after_labels: int | None = None,
    after_days: float | None = None,
    least_labels: int = 200,
    time_limit: float | None = None,
    journal: str = 'watch.jsonl',
    alpha: float = 0.05,
    spend_over: int = 100,
    webhook: str | None = None,
) -> Iterator[Watched]:
    """Look at the log again and again; yields what each look found. Raises `RunError` for a run or a log that is not there."""

def policy(
    folder: str | Path,
    source: TableSource,
    *,
    actions: str | Sequence[str],
    rule: str = 'linucb',
    baseline: str | None = None,
    baseline_share: float = 0.0,
    min_propensity: float = 0.0,
    max_exploration: float = 1.0,
    half_life: float | None = None,
    seed: int = 0,
) -> PolicyMade:
    """Make a policy that has learned nothing yet; `aimt serve --policy FOLDER` lets it decide.

    Raises `DataError` for a table without columns that can be used, `ProblemError` for options that do not fit, `RunError` when there
    is a policy in the folder already.
    """

def studio(
    folder: str | Path = 'runs',
    *,
    host: str = '127.0.0.1',
    port: int = 8500,
    token_file: str | Path | None = None,
    max_upload_mb: float = 200.0,
    browser: bool = True,
    quiet: bool = False,
) -> None:
    """Open the studio, until the process is told to stop; what it has started then ends too.

    Raises `ProblemError` for an address that others can reach without a token file, or a port that is taken.
    """

def datasets(
    name: str | None = None,
    *,
    task: str | None = None,
    refresh: bool = False,
    quiet: bool = False,
) -> DatasetList | DatasetEntry:
    """What data there are; or one of them, fetched and checked. Raises `DataError` for an unknown name."""

def env(
) -> Installation:
    """Machine, versions, and which extras are installed or missing."""
