"""Two runs that are compared, written out."""

from llm_engineering.reporting.differences import RunDifferences, RunRecord, compare_runs
from llm_engineering.reports.data import DatasetReport, RowChange, SourceLedger
from llm_engineering.reports.evaluation import EvaluationReport, Metric, ModelScores, SampleAnswers


def dataset(rows: int = 100, fingerprint: str = "aaaa") -> DatasetReport:
    return DatasetReport(
        sources=[SourceLedger(kind="sft", source="rows.jsonl", format="messages", rows=rows, train=rows)],
        template="the model's own",
        eos_token="<|im_end|>",
        tokens={},
        trained_tokens={},
        longest={},
        fingerprints={"sft": fingerprint},
        mask_proof="",
        split_proof="",
        examples=[],
    )


def evaluation(hits: int, sha256: str, fingerprint: str = "same", answer: str = "Yes.") -> EvaluationReport:
    outcomes = [1.0] * hits + [0.0] * (40 - hits)
    metric = Metric(value=hits / 40, low=0.1, high=0.9, units=40)
    scores = ModelScores(
        checkpoint_sha256=sha256, metrics={"answer_accuracy": metric}, outcomes={"answer_accuracy": outcomes}
    )
    return EvaluationReport(
        fingerprint=fingerprint,
        split="test",
        questions=40,
        pairs=0,
        models={"dpo": scores},
        samples=[SampleAnswers(prompt="Is it?", reference="yes", answers={"dpo": answer})],
        seconds=1.0,
    )


FIRST = RunRecord(
    name="first-run",
    config={"name": "demo", "seed": "1", "dpo.beta": "0.1", "sft.epochs": "1", "tracking.type": "none"},
    base_sha256="base",
    raw_sha256="raw",
    commit="0123456789abcdef",
    dirty=False,
    modules={"steps/evaluate.py": "11", "steps/merge.py": "22"},
    packages={"torch": "2.13.0"},
    hardware={"hardware of SFT": "CPU, 2 threads"},
    dataset=dataset(),
    evaluation=evaluation(20, "a"),
)


def build_differences() -> RunDifferences:
    """Return two runs that differ in everything that the page has a place for."""
    other = {
        "name": "second-run",
        "config": FIRST.config | {"dpo.beta": "0.3", "seed": "2", "name": "other"},
        "raw_sha256": "other",
        "commit": "fedcba9876543210",
        "modules": {"steps/evaluate.py": "11", "steps/merge.py": "33"},
        "packages": {},
        "dataset": dataset(102, "bbbb"),
        "evaluation": evaluation(30, "b", answer="No."),
    }
    rows = [RowChange(source="rows.jsonl", before=100, after=102, added=3, removed=1)]
    return compare_runs(FIRST, FIRST.model_copy(update=other), rows)
