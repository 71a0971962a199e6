"""Where results come from: what a reader needs to make them again, or to tell two runs apart."""

import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from llm_engineering.reporting.bundle import RunFacts
from llm_engineering.reporting.scores import title_of
from llm_engineering.reporting.wording import duration, evaluated, model_label
from llm_engineering.reports.data import DatasetReport
from llm_engineering.reports.evaluation import EvaluationReport
from llm_engineering.reports.training import TrackerLink


@dataclass(frozen=True)
class Fact:
    """One line of the lineage."""

    name: str
    value: str
    is_code: bool = False
    """A hash, a path: nothing to read word by word."""


def lineage(
    run: RunFacts,
    dataset: DatasetReport | None = None,
    evaluation: EvaluationReport | None = None,
    titles: Mapping[str, str] | None = None,
) -> list[Fact]:
    """Return what is known of a run's origin: code, machine, seed, data, weights, and where things lie."""
    return [*_origin(run), *_data(dataset, evaluation), *_weights(evaluation, titles), *_artifacts(run)]


def _origin(run: RunFacts) -> Iterator[Fact]:
    if version := run.model:
        parts = (version.name, version.version and f"version {version.version}", version.stage)
        yield Fact("Model", ", ".join(part for part in parts if part))
    yield Fact("Code", code_words(run))
    if run.hardware:
        yield Fact("Started on", run.hardware)
    if run.seed is not None:
        yield Fact("Seed", str(run.seed))


def code_words(run: RunFacts) -> str:
    """Return which code ran: its commit, and whether the files were that commit's."""
    if not run.code_commit:
        return "no commit is known: the code lay in no git repository, or git is missing"
    words = {None: "", False: ", unchanged", True: ", with changes that are in no commit"}
    return f"commit {run.code_commit}{words[run.code_dirty]}"


def _data(dataset: DatasetReport | None, evaluation: EvaluationReport | None) -> Iterator[Fact]:
    if dataset:
        for kind, fingerprint in dataset.fingerprints.items():
            yield Fact(f"Rows, {model_label(kind)}", fingerprint, is_code=True)
    if evaluation:
        yield Fact("Evaluation", evaluation.fingerprint, is_code=True)


def _weights(evaluation: EvaluationReport | None, titles: Mapping[str, str] | None) -> Iterator[Fact]:
    for name in evaluated(evaluation)[0] if evaluation else []:
        assert evaluation is not None
        yield Fact(f"Weights, {title_of(name, titles)}", evaluation.models[name].checkpoint_sha256, is_code=True)


def _artifacts(run: RunFacts) -> Iterator[Fact]:
    for name, path in run.artifacts.items():
        yield Fact(name.replace("_", " "), path, is_code=True)


@dataclass(frozen=True)
class TrackerWords:
    """Where the experiment tracker keeps one stage."""

    stage: str
    url: str | None
    is_web: bool
    """The address may become a link."""
    archive: str | None
    upload: str | None
    failures: int


def tracker_words(links: Iterable[TrackerLink]) -> list[TrackerWords]:
    """Return links to the tracker as pages show them; an archive comes with the command that sends it."""
    return [
        TrackerWords(
            stage=model_label(link.stage),
            url=link.url,
            is_web=(link.url or "").startswith(("https://", "http://")),
            archive=link.offline_archive,
            upload=f"comet upload {shlex.quote(link.offline_archive)}" if link.offline_archive else None,
            failures=link.failures,
        )
        for link in links
    ]


def step_times(run: RunFacts) -> list[tuple[str, str, bool, float]]:
    """Return name, time, whether it was cached, and share of the longest step in percent."""
    longest = max(run.step_seconds.values(), default=0) or 1
    timed = [
        (name, duration(seconds), name in run.cached_steps, 100 * seconds / longest)
        for name, seconds in run.step_seconds.items()
    ]
    return timed + [(name, "-", True, 0.0) for name in run.cached_steps if name not in run.step_seconds]
