"""Tasks of EleutherAI's lm-evaluation-harness, measured on the models of a run; the extra ``harness`` installs it.

A metric that is the mean of its documents gets this project's interval (Wilson's for 0/1 values, else the bootstrap's),
any other one the harness's standard error.
"""

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import chdir, contextmanager, redirect_stderr
from importlib.metadata import version
from importlib.util import find_spec
from io import StringIO
from math import isclose
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from llm_engineering.config.evaluation import HarnessConfig
from llm_engineering.config.metrics import TASK
from llm_engineering.config.yaml.problems import nearest
from llm_engineering.errors import ConfigError
from llm_engineering.models.checkpoints import load_model
from llm_engineering.reports.evaluation import HarnessReport, Metric
from llm_engineering.reports.folders import Checkpoint, hash_files
from llm_engineering.scoring.intervals import rate

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

PACKAGE = "lm_eval"
NORMAL = 1.96
"""Standard errors on either side of a value that make its 95 % interval."""
BOOTSTRAP = 1000
"""Resamples for the standard error of metrics that are no mean."""


def require_tasks(config: HarnessConfig) -> None:
    """Refuse tasks that cannot be run, before anything is trained for them.

    Raises:
        ConfigError: The harness is not installed, there is no such task, or its data cannot be had.
    """
    if find_spec(PACKAGE) is None:
        raise ConfigError(
            "evaluation.harness needs the lm-evaluation-harness, which is not installed. Install it with "
            "`pip install -c constraints.txt '.[harness]'`, or remove the block."
        )
    with _offline(config):
        _load(config)


def tasks_hash(config: HarnessConfig) -> str:
    """Return the hash of what tasks are made of: the harness's version, and the files of ``include_path``."""
    files = hash_files(Path(config.include_path)) if config.include_path else ""
    return hashlib.sha256(f"{version(PACKAGE)} {files}".encode()).hexdigest()


def measure_tasks(
    checkpoints: Mapping[str, Checkpoint],
    tokenizer: "PreTrainedTokenizerBase",
    config: HarnessConfig,
    dtype: "torch.dtype",
    seed: int,
    others: "Mapping[str, PreTrainedTokenizerBase] | None" = None,
) -> HarnessReport:
    """Return what the harness says of full models; ``others`` are the tokenizers of those that have their own.

    Raises:
        ConfigError: A task cannot be loaded, or fails.
    """
    started = time.perf_counter()
    metrics: dict[str, dict[str, Metric]] = {}
    outcomes: dict[str, dict[str, list[float]]] = {}
    with _offline(config):
        for name, checkpoint in checkpoints.items():
            results = _run(load_model(checkpoint.path, dtype), (others or {}).get(name, tokenizer), config, seed)
            metrics[name] = dict(_metrics(results))
            outcomes[name] = {metric: found for metric in metrics[name] if (found := _outcomes(results, metric))}
            metrics[name] |= {metric: rate(values) for metric, values in outcomes[name].items()}
    settings = [config.model_dump(mode="json", exclude={"include_path", "hub", "batch_size"}), tasks_hash(config), seed]
    limited = f"The lm-evaluation-harness saw only the first {config.limit} documents of a task."
    return HarnessReport(
        settings_sha256=hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest(),
        version=version(PACKAGE),
        metrics=metrics,
        outcomes=_aligned(outcomes),
        notes=[limited] if config.limit else [],
        seconds=time.perf_counter() - started,
    )


def _load(config: HarnessConfig) -> dict[str, Any]:
    """Return tasks and groups with their data, as the harness's ``evaluate`` takes them."""
    manager = _manager(config)
    known = manager.all_tasks
    for name in config.tasks:
        if name not in known:
            meant = nearest(name, known)
            hint = f"; did you mean {meant}?" if meant else ". `lm-eval ls tasks` lists those of the harness."
            where = f" nor in {config.include_path}" if config.include_path else ""
            raise ConfigError(f"evaluation.harness.tasks: there is no task {name!r} in the harness{where}{hint}")
    try:
        loaded: dict[str, Any] = manager.load(config.tasks)
    except Exception as error:  # task files, their Python and the libraries that read data raise what they like
        raise ConfigError(_unusable(config, error)) from error
    unsafe = [name for name, task in loaded["tasks"].items() if getattr(task, "UNSAFE_CODE", False)]
    if unsafe:
        raise ConfigError(
            f"evaluation.harness.tasks: {', '.join(unsafe)} would run code that the models write, which is not done "
            "here. Leave it out."
        )
    return loaded


def _manager(config: HarnessConfig) -> Any:
    """Return the index of tasks; the harness's own thousands are read only where one of them is asked for."""
    from lm_eval.tasks import TaskManager

    folder = config.include_path
    if folder is None:
        return TaskManager()
    if not Path(folder).is_dir():
        raise ConfigError(f"evaluation.harness.include_path {folder} is no folder. Name one that holds task files.")
    own = TaskManager(include_path=folder, include_defaults=False)
    return own if set(config.tasks) <= set(own.all_tasks) else TaskManager(include_path=folder)


def _unusable(config: HarnessConfig, error: Exception) -> str:
    said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    hub = "" if config.hub else ", or set evaluation.harness.hub to true where its data is to come from the hub"
    return f"The tasks of evaluation.harness cannot be run ({said}). Check the task files and their data{hub}."


@contextmanager
def _offline(config: HarnessConfig) -> Iterator[None]:
    """Start data files' relative paths at the folder of the tasks, and keep data sets off the network."""
    import datasets
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    offline = not config.hub
    constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = offline or before[0], offline or before[1]
    try:
        with chdir(config.include_path if config.include_path and Path(config.include_path).is_dir() else "."):
            yield
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before


def _run(model: Any, tokenizer: "PreTrainedTokenizerBase", config: HarnessConfig, seed: int) -> dict[str, Any]:
    """Return the harness's results for one model.

    ``simple_evaluate`` would seed the whole process and describe the machine; what it sets up of the tasks stands here.
    """
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM

    loaded = _load(config)
    for task in loaded["tasks"].values():
        own = task.get_config("num_fewshot")
        if own is None or (config.num_fewshot is not None and own != 0):  # a task that says 0 has no examples
            task.set_config(key="num_fewshot", value=config.num_fewshot or 0)
        task.set_fewshot_seed(seed=seed)
    wrapped = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=config.batch_size, trust_remote_code=False)
    try:
        with redirect_stderr(StringIO()):  # progress bars that cannot be turned off
            results: dict[str, Any] = evaluate(
                wrapped,
                loaded,
                limit=config.limit,
                bootstrap_iters=BOOTSTRAP,
                apply_chat_template=config.apply_chat_template,
                fewshot_as_multiturn=config.apply_chat_template,
            )
    except Exception as error:  # as above; a task that runs code of models is refused by the harness itself
        raise ConfigError(_unusable(config, error)) from error
    return results


def _metrics(results: Mapping[str, Any]) -> Iterator[tuple[str, Metric]]:
    """Yield every number of every task and group, with the interval that the harness's standard error gives."""
    for task, numbers in results["results"].items():
        units = results["n-samples"].get(task, {}).get("effective") or numbers.get("sample_len") or 0
        for key, value in numbers.items():
            metric, _, kept = key.partition(",")
            if not kept or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            error = numbers.get(f"{metric}_stderr,{kept}")
            wide = NORMAL * error if isinstance(error, int | float) else None
            yield (
                _name(task, key),
                Metric(
                    value=float(value),
                    low=float(value - wide) if wide is not None else None,
                    high=float(value + wide) if wide is not None else None,
                    units=int(units),
                ),
            )


def _name(task: str, key: str) -> str:
    """Return the metric's name in reports; the filter that answers went through is named where there is one."""
    return f"{TASK}{task}/{key.removesuffix(',none')}"


def _outcomes(results: Mapping[str, Any], name: str) -> list[float]:
    """Return the values of a metric per document, where the metric is their mean; else nothing."""
    for task, samples in results.get("samples", {}).items():
        for key, value in results["results"][task].items():
            metric, _, kept = key.partition(",")
            if not kept or _name(task, key) != name:
                continue
            rows = sorted((row["doc_id"], row.get(metric)) for row in samples if row.get("filter", kept) == kept)
            found = [float(each) for _, each in rows if isinstance(each, int | float)]
            is_mean = len(found) == len(rows) > 0 and isclose(fmean(found), value, rel_tol=1e-6, abs_tol=1e-9)
            return found if is_mean else []
    return []


def _aligned(outcomes: dict[str, dict[str, list[float]]]) -> dict[str, dict[str, list[float]]]:
    """Return the outcomes that all models have for equally many documents."""
    lengths: dict[str, set[int]] = {}
    for each in outcomes.values():
        for name, values in each.items():
            lengths.setdefault(name, set()).add(len(values))
    return {
        model: {name: values for name, values in each.items() if len(lengths[name]) == 1}
        for model, each in outcomes.items()
    }
