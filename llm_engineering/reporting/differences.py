"""Why two runs or two archived experiments differ, from what was recorded of them; nothing is loaded here."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from pydantic import Field

from llm_engineering.config.metrics import METRICS, MODELS
from llm_engineering.evaluation.paired import paired_differences
from llm_engineering.reporting.words import counted, in_order
from llm_engineering.reports.data import DatasetReport, RowChange, SourceLedger
from llm_engineering.reports.evaluation import EvaluationReport, Metric, PairedDifference
from llm_engineering.reports.folders import Artifact
from llm_engineering.tracking.archives import ArchivedExperiment, last_values

Subject = Literal[
    "Configuration", "Data", "Template and tokens", "Code", "Packages", "Seeds", "Hardware", "Base weights"
]
SHAPES_NOTHING = ("name", "tracking", "watch", "promotion", "export", "comparison", "sweep")
"""Blocks of the configuration that change no model and no measurement; ``watch.on`` may, since it can stop a stage."""
NOTHING = "-"
"""Stands for what one of the runs has not."""
NAMED = 3
"""So many differences of one subject the first line names; more are counted."""


class RunRecord(Artifact):
    """What is recorded of one run."""

    name: str
    version: str | None = None
    """The model version that it made, as ``NAME@VERSION``."""
    config: dict[str, str]
    """The resolved configuration, leaf by leaf."""
    base_sha256: str | None = None
    """Weights hash of the model that training started from."""
    raw_sha256: str | None = None
    """Hash of all rows as they were read."""
    template_sha256: str | None = None
    special_tokens: dict[str, str] = Field(default_factory=dict)
    commit: str | None = None
    dirty: bool | None = None
    """Whether files differed from the commit."""
    modules: dict[str, str] = Field(default_factory=dict)
    """Hashes of the files that results depend on; empty where they were not recorded."""
    packages: dict[str, str] = Field(default_factory=dict)
    hardware: dict[str, str] = Field(default_factory=dict)
    """Where each stage was trained, such as ``hardware of SFT``."""
    dataset: DatasetReport | None = None
    evaluation: EvaluationReport | None = None


class Difference(Artifact):
    """One thing that is not the same."""

    what: str
    left: str
    right: str
    shapes_results: bool = True

    @property
    def words(self) -> str:
        """The difference in one line."""
        return f"{self.what} {self.left} → {self.right}"


class Section(Artifact):
    """All that differs of one subject; no difference: it is the same, as far as it was recorded."""

    subject: Subject
    differences: list[Difference] = Field(default_factory=list)
    unknown: str | None = None
    """What was not recorded."""


class MetricPair(Artifact):
    """One metric of one model in both runs."""

    model: str
    metric: str
    left: Metric | None
    right: Metric | None
    paired: PairedDifference | None = None
    """The second run's less the first's, on the same units; None where they were not measured alike."""


class AnswerPair(Artifact):
    """What one model answered to a prompt in both runs."""

    prompt: str
    reference: str | None
    model: str
    left: str | None
    right: str | None


class RunDifferences(Artifact):
    """Two runs side by side."""

    left: str
    right: str
    headline: str
    sections: list[Section]
    measured_alike: bool | None
    """Both evaluations have one fingerprint; None where a run has no evaluation."""
    metrics: list[MetricPair]
    answers: list[AnswerPair]


def compare_runs(left: RunRecord, right: RunRecord, rows: Sequence[RowChange] = ()) -> RunDifferences:
    """Return how two runs differ.

    Args:
        left: The first run.
        right: The second.
        rows: What changed in the rows of their sources.
    """
    settings = setting_differences(left.config, right.config)
    sections = [
        Section(subject="Configuration", differences=[each for each in settings if each.what != "seed"]),
        _data(left, right, rows),
        Section(subject="Template and tokens", differences=list(_template(left, right))),
        _code(left, right),
        _recorded("Packages", left.packages, right.packages, (left, right)),
        Section(subject="Seeds", differences=[each for each in settings if each.what == "seed"]),
        _recorded("Hardware", left.hardware, right.hardware, (left, right)),
        Section(subject="Base weights", differences=list(_one("base weights", left.base_sha256, right.base_sha256))),
    ]
    first, second = left.evaluation, right.evaluation
    return RunDifferences(
        left=left.name,
        right=right.name,
        headline=headline(sections),
        sections=sections,
        measured_alike=None if first is None or second is None else first.fingerprint == second.fingerprint,
        metrics=list(_metrics(first, second)),
        answers=list(_answers(first, second)),
    )


def headline(sections: Sequence[Section]) -> str:
    """Return the shortest true sentence about what differs."""
    shaping = {s.subject: [d for d in s.differences if d.shapes_results] for s in sections}
    shaping = {subject: found for subject, found in shaping.items() if found}
    others = [d for s in sections for d in s.differences if not d.shapes_results]
    known = "" if not any(s.unknown for s in sections) else ", as far as it was recorded"
    if not shaping:
        if not others:
            return f"Nothing differs{known}."
        return f"Nothing differs that shapes results{known}; {_named(others)}."
    parts = [_named(found, subject) for subject, found in shaping.items()]
    return f"{'; '.join(parts)}; nothing else differs that shapes results{known}."


def _named(found: Sequence[Difference], subject: Subject | None = None) -> str:
    if len(found) <= NAMED:
        return ", ".join(difference.words for difference in found)
    more = ", ".join(difference.what for difference in found[:NAMED])
    things = {"Configuration": "settings", None: "things"}.get(subject, f"things of {str(subject).lower()}")
    return f"{len(found)} {things} differ ({more} ...)"


def setting_differences(left: Mapping[str, str], right: Mapping[str, str]) -> list[Difference]:
    """Return the keys of two configurations, leaf by leaf, that differ, and whether they shape results."""
    return [each.model_copy(update={"shapes_results": _shapes(each.what)}) for each in mapping_differences(left, right)]


def _shapes(key: str) -> bool:
    return key.startswith("watch.on") or key.split(".")[0] not in SHAPES_NOTHING


def mapping_differences(left: Mapping[str, str], right: Mapping[str, str]) -> list[Difference]:
    """Return the names whose values differ, or that only one side has."""
    keys = dict.fromkeys([*left, *right])
    return [
        Difference(what=key, left=left.get(key, NOTHING), right=right.get(key, NOTHING))
        for key in keys
        if left.get(key) != right.get(key)
    ]


def _one(what: str, left: str | None, right: str | None) -> Iterator[Difference]:
    if left != right:
        yield Difference(what=what, left=_short(left), right=_short(right))


def _short(sha256: str | None) -> str:
    return NOTHING if sha256 is None else sha256[:12]


def _recorded(
    subject: Subject, left: Mapping[str, str], right: Mapping[str, str], runs: tuple[RunRecord, RunRecord]
) -> Section:
    """Return the differences of what older runs did not record; where one did not, nothing is compared."""
    lacking = [run.name for run, found in zip(runs, (left, right), strict=True) if not found]
    if lacking:
        return Section(subject=subject, unknown=f"Not recorded for {' and '.join(dict.fromkeys(lacking))}.")
    return Section(subject=subject, differences=mapping_differences(left, right))


def _code(left: RunRecord, right: RunRecord) -> Section:
    """Return which files that results depend on differ; another commit with the same files shapes nothing."""
    section = _recorded("Code", left.modules, right.modules, (left, right))
    commits = [*_one("commit", left.commit, right.commit)]
    states = {True: "changed files", False: "none", None: NOTHING}
    if left.dirty != right.dirty:
        commits.append(Difference(what="beside the commit", left=states[left.dirty], right=states[right.dirty]))
    told = [each.model_copy(update={"shapes_results": section.unknown is not None}) for each in commits]
    return section.model_copy(update={"differences": [*section.differences, *told]})


def _template(left: RunRecord, right: RunRecord) -> Iterator[Difference]:
    yield from _one("chat template", left.template_sha256, right.template_sha256)
    yield from mapping_differences(left.special_tokens, right.special_tokens)
    words = [run.dataset.template if run.dataset else NOTHING for run in (left, right)]
    if words[0] != words[1]:
        yield Difference(what="template", left=words[0], right=words[1])


def _data(left: RunRecord, right: RunRecord, rows: Sequence[RowChange]) -> Section:
    changed = [
        Difference(
            what=f"rows of {change.source}",
            left=f"{change.before:,}",
            right=f"{change.after:,} ({change.added:,} added, {change.removed:,} removed)",
        )
        for change in rows
    ]
    if not changed:
        changed = list(_one("rows as read", left.raw_sha256, right.raw_sha256))
    sets = left.dataset, right.dataset
    if sets[0] is None or sets[1] is None:
        lacking = " and ".join(run.name for run, found in zip((left, right), sets, strict=True) if found is None)
        return Section(subject="Data", differences=changed, unknown=f"No data report of {lacking}.")
    named = mapping_differences(_prepared(sets[0]), _prepared(sets[1]))
    return Section(subject="Data", differences=[*changed, *named, *_ledgers(sets[0], sets[1])])


def _prepared(dataset: DatasetReport) -> dict[str, str]:
    return {f"prepared rows, {kind}": _short(sha256) for kind, sha256 in dataset.fingerprints.items()}


def _ledgers(left: DatasetReport, right: DatasetReport) -> list[Difference]:
    """Return the numbers of the ledger that differ; they follow from what else differs, and shape nothing anew."""
    earlier, later = (dict(pair for s in each.sources for pair in _numbers(s)) for each in (left, right))
    found = mapping_differences(earlier, later)
    return [each.model_copy(update={"shapes_results": False}) for each in found]


def _numbers(source: SourceLedger) -> Iterator[tuple[str, str]]:
    for name in ("rows", "train", "eval", "test", "truncated"):
        yield f"{source.source}, {source.kind}: {name}", f"{getattr(source, name):,}"
    for reason, rows in source.dropped.items():
        yield f"{source.source}, {source.kind}: dropped, {reason}", counted(rows, "row")


def _metrics(left: EvaluationReport | None, right: EvaluationReport | None) -> Iterator[MetricPair]:
    """Yield every metric of every model of both runs, with a paired test where they were measured alike."""
    models = [each.models if each else {} for each in (left, right)]
    alike = left is not None and right is not None and left.fingerprint == right.fingerprint
    for model in in_order([*models[0], *models[1]], MODELS):
        scores = [each.get(model) for each in models]
        first, second = scores
        tests: dict[str, PairedDifference] = {}
        if alike and first and second and first.checkpoint_sha256 != second.checkpoint_sha256:
            shared = {m: v for m, v in first.outcomes.items() if len(v) == len(second.outcomes.get(m, []))}
            tests = {t.metric: t for t in paired_differences(model, model, (second, first), list(shared))}
        names = [name for each in scores if each for name in each.metrics]
        for metric in in_order(names, METRICS):
            values = [each.metrics.get(metric) if each else None for each in scores]
            yield MetricPair(model=model, metric=metric, left=values[0], right=values[1], paired=tests.get(metric))


def _answers(left: EvaluationReport | None, right: EvaluationReport | None) -> Iterator[AnswerPair]:
    """Yield the answers to the prompts that both runs show."""
    if left is None or right is None:
        return
    others = {sample.prompt: sample for sample in right.samples}
    for sample in left.samples:
        other = others.get(sample.prompt)
        if other is None:
            continue
        for model in in_order([*sample.answers, *other.answers], MODELS):
            yield AnswerPair(
                prompt=sample.prompt,
                reference=sample.reference,
                model=model,
                left=sample.answers.get(model),
                right=other.answers.get(model),
            )


OF_THE_MACHINE = "sys."
ROWS = ("held_out_fingerprint", "data_fingerprint")
"""What of an experiment tells which rows it saw."""


def compare_archives(left: ArchivedExperiment, right: ArchivedExperiment) -> RunDifferences:
    """Return how two archived experiments differ: settings, rows, code, and the last value of every series."""
    settings = setting_differences(*({k: str(v) for k, v in each.parameters.items()} for each in (left, right)))
    sections = [
        Section(subject="Configuration", differences=[each for each in settings if each.what.split(".")[-1] != "seed"]),
        Section(subject="Data", differences=_others(left, right, ROWS)),
        Section(subject="Code", differences=_others(left, right, ("git_commit",))),
        Section(subject="Seeds", differences=[each for each in settings if each.what.split(".")[-1] == "seed"]),
    ]
    held_out = [each.others.get(ROWS[0]) for each in (left, right)]
    return RunDifferences(
        left=left.name,
        right=right.name,
        headline=headline(sections),
        sections=sections,
        measured_alike=None if None in held_out else held_out[0] == held_out[1],
        metrics=list(_last_metrics(left, right)),
        answers=[],
    )


def _others(left: ArchivedExperiment, right: ArchivedExperiment, names: tuple[str, ...]) -> list[Difference]:
    told = [{name: str(each.others[name]) for name in names if name in each.others} for each in (left, right)]
    return mapping_differences(*told)


def _last_metrics(left: ArchivedExperiment, right: ArchivedExperiment) -> Iterator[MetricPair]:
    ends = [last_values(each) for each in (left, right)]
    for name in dict.fromkeys([*ends[0], *ends[1]]):
        if not name.startswith(OF_THE_MACHINE):
            values = [Metric(value=found[name], units=1) if name in found else None for found in ends]
            yield MetricPair(model="", metric=name, left=values[0], right=values[1])
