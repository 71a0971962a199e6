"""The model card: what a model is, from facts alone, as Markdown with the hub's front matter.

Everything that comes from data, models or configuration is escaped; a fact that is not known is called unknown.
"""

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path

from markupsafe import Markup

from llm_engineering.config.data import ArtifactSource, EmbeddedSource, FileSource, HubSource
from llm_engineering.config.metrics import MODELS, row_of
from llm_engineering.config.model import FullFineTuning
from llm_engineering.config.run import RunConfig
from llm_engineering.config.yaml.loader import dump_block
from llm_engineering.plain_text import harmless
from llm_engineering.reporting.bundle import RunReports
from llm_engineering.reporting.page import template_engine
from llm_engineering.reporting.words import count, evaluated, in_order, interval, model_label, percent, quantity
from llm_engineering.reports.evaluation import ModelScores
from llm_engineering.reports.folders import Checkpoint
from llm_engineering.reports.promotion import Export
from llm_engineering.reports.training import TrainingReport

STATED = {"seed", "adapter", "sft", "dpo"}
"""Blocks of the configuration that a card has in full; the others name files and folders of the run's machine."""
UNKNOWN = "unknown"
OWN_LICENSE = "apache-2.0"
"""Of the bundled base: this project's."""
_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
_METADATA = re.compile(r"\s*---\r?\n(.*?)\r?\n---", re.DOTALL)
_SPECIAL = re.compile(r"[\\`*_\[\]<>#|~$&@]")
_ADDRESS = re.compile(r"(https?:|www\.)", re.IGNORECASE)


@dataclass(frozen=True)
class CardFacts:
    """What a card says beside what the run reports."""

    config: RunConfig
    base: Checkpoint
    reports: RunReports
    positions: int | None
    """Longest sequence that the model was built for, in tokens."""
    export: Export
    """What the card lies beside."""


def render_card(facts: CardFacts) -> str:
    """Return the card of a promoted model in one of its formats."""
    decision = facts.reports.decision
    assert decision is not None, "no decision, no card"
    assert decision.promoted is not None, "no promoted model, no card"
    facts = replace(facts, reports=_up_to(facts.reports, decision.promoted))
    environment = template_engine(
        autoescape=False,  # the finalizer escapes, for Markdown
        finalize=escaped,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "code": code,
        "fenced": fenced,
        "thousands": count,
        "model": model_label,
        "percent": percent,
        "python": python,
    }
    text = environment.get_template("model_card.md.j2").render(
        facts=facts,
        reports=facts.reports,
        config=facts.config,
        decision=decision,
        front_matter=Markup(_front_matter(facts)),
        base_name=_public_name(facts.config.model.base),
        base_license=base_license(facts.base),
        how=_how(facts, decision.promoted),
        place=facts.export.repository or "PATH/OF/THIS/FOLDER",
        merge=facts.reports.merges.get(decision.promoted),
        sources=_sources(facts),
        recipe=_recipe(facts, decision.promoted),
        metrics=_metrics(facts.reports, decision.promoted),
        models=_shown_models(facts.reports, decision.promoted),
        limits=_limits(facts),
        settings=dump_block(facts.config, STATED),
    )
    return harmless(text)


def escaped(value: object) -> str:
    """Return text that Markdown shows as it is, on one line; what is marked as Markdown stays."""
    if isinstance(value, Markup):
        return str(value)
    line = " ".join(str(value).split())
    return _ADDRESS.sub(lambda found: f"{found[0][:-1]}\\{found[0][-1]}", _SPECIAL.sub(r"\\\g<0>", line))


def code(value: object) -> Markup:
    """Return text as code within a line, in a table too; it is shown as it is."""
    line = " ".join(str(value).split())
    fence = "`" * (max((len(run) for run in re.findall("`+", line)), default=0) + 1)
    padded = f" {line} " if line.startswith("`") or line.endswith("`") else line or " "
    return Markup(f"{fence}{padded.replace('|', chr(92) + '|')}{fence}")


def python(value: str) -> Markup:
    """Return text as a Python string."""
    return Markup(json.dumps(value))


def fenced(text: str, language: str) -> Markup:
    """Return text as a block of code that nothing in it can end."""
    fence = "`" * max(3, max((len(run) for run in re.findall("`+", text)), default=0) + 1)
    return Markup(f"{fence}{language}\n{text.rstrip()}\n{fence}")


def base_license(base: Checkpoint) -> str:
    """Return the licence that the base's own card names; ``unknown`` where there is none."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    if base.base == "embedded":
        return OWN_LICENSE
    card = base.path / "README.md"
    found = _METADATA.match(card.read_text(encoding="utf-8", errors="replace")) if card.is_file() else None
    try:
        metadata = YAML(typ="safe", pure=True).load(found[1]) if found else None
    except YAMLError:  # of others
        return UNKNOWN
    named = metadata.get("license") if isinstance(metadata, dict) else None
    return str(named) if named else UNKNOWN


def _front_matter(facts: CardFacts) -> str:
    from huggingface_hub import ModelCardData

    config = facts.config
    data = ModelCardData(
        license=config.export.license or UNKNOWN,
        library_name="gguf" if facts.export.format == "gguf" else "transformers",
        pipeline_tag="text-generation",
        base_model=config.model.base if _HUB_ID.fullmatch(config.model.base) else None,
        datasets=sorted({source.hub for _, source in config.data.row_sources if isinstance(source, HubSource)}) or None,
        tags=[*(training.stage for training in facts.reports.trainings()), "trl", "zenml"],
    )
    return data.to_yaml()


def _public_name(base: str) -> str:
    """Return what the base is called, without the folders of the run's machine above it."""
    return base if _HUB_ID.fullmatch(base) and not Path(base).exists() else Path(base).name


def _up_to(reports: RunReports, promoted: str) -> RunReports:
    """Return the reports without those of what was done after the promoted model was made."""
    if promoted == "dpo":
        return reports
    merges = {stage: merge for stage, merge in reports.merges.items() if stage == promoted}
    return reports.model_copy(update={"preferences": None, "dpo": None, "merges": merges})


def _how(facts: CardFacts, promoted: str) -> str:
    """Return how the model was made, in a phrase: ``SFT → merge → DPO → merge``."""
    stages = [model_label(training.stage) for training in facts.reports.trainings()]
    return " → ".join(f"{stage} → merge" for stage in stages) or model_label(promoted)


def _sources(facts: CardFacts) -> list[dict[str, object]]:
    """Return one row a source: the ledger, and the licence where it is known."""
    dataset = facts.reports.dataset
    if dataset is None:
        return []
    known = {
        name: source
        for name, (_, source) in zip(facts.config.data.source_names, facts.config.data.row_sources, strict=True)
    }
    return [
        {
            "ledger": ledger,
            "dropped": sum(ledger.dropped.values()),
            "license": OWN_LICENSE if isinstance(known.get(ledger.source), EmbeddedSource) else UNKNOWN,
            "revision": _revision(known.get(ledger.source)),
        }
        for ledger in dataset.sources
    ]


def _revision(source: FileSource | HubSource | ArtifactSource | EmbeddedSource | None) -> str:
    if isinstance(source, HubSource):
        return source.revision or "not pinned"
    return (source.version or "latest") if isinstance(source, ArtifactSource) else ""


def _recipe(facts: CardFacts, promoted: str) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return the settings of each stage that shaped the model, with what the training made of them."""
    config = facts.config
    adapter = config.adapter
    settings = [] if isinstance(adapter, FullFineTuning) else [("adapter alpha", f"{adapter.alpha:g}")]
    found = []
    for stage, report in (("sft", facts.reports.sft), ("dpo", facts.reports.dpo if promoted == "dpo" else None)):
        if report is not None:
            found.append((model_label(stage), [("trained", adapter.words), *settings, *_stage(config, stage, report)]))
    return found


def _stage(config: RunConfig, stage: str, report: TrainingReport) -> list[tuple[str, str]]:
    block = config.sft if stage == "sft" else config.dpo
    of_dpo = [
        ("loss", config.dpo.loss),
        ("beta", f"{config.dpo.beta:g}"),
        ("NLL weight", f"{report.restarted_with_nll or config.dpo.nll_weight:g}"),
        ("label smoothing", f"{config.dpo.label_smoothing:g}"),
    ]
    kept = [] if report.best_step is None else [("weights kept", f"of step {report.best_step}")]
    return [
        ("learning rate", f"{block.learning_rate:g}"),
        *(of_dpo if stage == "dpo" else []),
        ("rows", count(report.rows)),
        (
            "updates",
            f"{count(report.steps)} of {count(report.planned_steps)} planned, {report.effective_batch} rows each",
        ),
        ("epochs", f"{report.epochs:.2f}"),
        *kept,
        ("hardware", report.hardware),
        ("seed", str(config.seed)),
    ]


def _shown_models(reports: RunReports, promoted: str) -> list[str]:
    """Return the promoted model and those it comes from."""
    wanted = ("base", "sft", "dpo") if promoted == "dpo" else ("base", "sft")
    return [
        name for name in in_order(reports.evaluation.models if reports.evaluation else {}, MODELS) if name in wanted
    ]


def _metrics(reports: RunReports, promoted: str) -> list[dict[str, object]]:
    """Return one row a metric that the promoted model has."""
    evaluation = reports.evaluation
    if evaluation is None:
        return []
    own = evaluation.models[promoted]
    shown = _shown_models(reports, promoted)
    return [
        {
            "label": row_of(metric).label,
            "units": own.metrics[metric].units,
            "values": [_value(metric, evaluation.models[name]) for name in shown],
        }
        for metric in evaluated(evaluation)[1]
        if metric in own.metrics
    ]


def _value(metric: str, scores: ModelScores) -> str:
    measured = scores.metrics.get(metric)
    if measured is None:
        return "-"
    ends = interval(metric, measured)
    unit = row_of(metric).unit
    return quantity(metric, measured.value) + (f" ({ends}{f' {unit}' if unit else ''})" if ends else "")


def _limits(facts: CardFacts) -> list[str]:
    """Return what a reader should not expect, each from something that was measured or not done."""
    reports = facts.reports
    evaluation, dataset = reports.evaluation, reports.dataset
    said = ["No test of safety, bias or factual knowledge beyond the metrics above was made."]
    if evaluation is not None:
        said.append(
            f"Every number was measured on {count(evaluation.questions)} questions and {count(evaluation.pairs)} pairs "
            f"of the {evaluation.split} split of the data above, and says nothing about other questions."
        )
        said += [note for note in evaluation.notes if note != f"Measured on the {evaluation.split} split."]
    if facts.positions is not None:
        said.append(f"The model was built for {count(facts.positions)} tokens, prompt and answer together.")
    if dataset is not None and dataset.audit is not None:
        for kind, texts in dataset.audit.texts.items():
            languages = ", ".join(f"{name} {percent(n / texts.language_sample)}" for name, n in texts.languages.items())
            if languages:
                said.append(
                    f"Languages of the {kind} data, as guessed from {texts.language_sample} examples: {languages}."
                )
    for training in reports.trainings():
        told = [verdict for verdict in training.verdicts if verdict.name != "healthy"]
        said += [f"{model_label(training.stage)}: {verdict.name}. {verdict.evidence}" for verdict in told]
    return said
