"""SFT, merge, DPO, merge on every supported architecture: on the fast path, with all proofs."""

import math
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from architectures import FAMILIES, write_family

from llm_engineering.config.dpo import DPOStageConfig
from llm_engineering.config.evaluation import EvaluationConfig
from llm_engineering.config.model import LoraAdapter, ModelConfig, SpecialTokens
from llm_engineering.config.sft import SFTStageConfig
from llm_engineering.config.tracking import NoTracking
from llm_engineering.data.formats import Conversation, Pair
from llm_engineering.data.rendering import ChatRenderer, Rendered
from llm_engineering.data.rowsets import PREFERENCE, QUESTIONS, SFT, write_rows
from llm_engineering.models.chat import load_chat_tokenizer
from llm_engineering.models.checkpoints import locate_base
from llm_engineering.models.merging import merge_adapter
from llm_engineering.reports.folders import Checkpoint, StageName
from llm_engineering.reports.training import TrainingReport
from llm_engineering.training.dpo import train_dpo
from llm_engineering.training.inputs import StageInputs
from llm_engineering.training.sft import train_sft

PROMPTS = [[{"role": "user", "content": f"Where does the otter of house {n} live?"}] for n in range(8)]
CHOSEN = "The otter lives in the river."
REJECTED = "Paris is a town."
SHORT = {"max_steps": 6, "batch_size": 4, "logging_steps": 1, "schedule": "constant", "warmup": 0.0}


@dataclass
class Trained:
    """One architecture's model and rows, in a folder of its own."""

    family: str
    folder: Path

    def __post_init__(self) -> None:
        self.model = ModelConfig(
            base=str(write_family(self.family, self.folder / "base")),
            special_tokens=SpecialTokens(eos=FAMILIES[self.family].eos),
        )
        self.base = locate_base(self.model)
        self.tokenizer = load_chat_tokenizer(self.base, self.model).tokenizer
        renderer = ChatRenderer(self.tokenizer)
        conversations = [Conversation([*prompt, {"role": "assistant", "content": CHOSEN}]) for prompt in PROMPTS]
        self.conversations = [
            {
                "source": 0,
                "row": i,
                "input_ids": row.prompt_ids + row.answers[0],
                "labels": row.prompt_labels + row.answers[0],
            }
            for i, row in enumerate(renderer.render(conversations))
            if isinstance(row, Rendered)
        ]
        self.pairs = [
            {"source": 0, "row": i, "prompt_ids": row.prompt_ids, "chosen_ids": row.answers[0]}
            | {"rejected_ids": row.answers[1]}
            for i, row in enumerate(renderer.render([Pair(prompt, CHOSEN, REJECTED) for prompt in PROMPTS]))
            if isinstance(row, Rendered)
        ]

    def inputs(self, stage: StageName, model: Checkpoint) -> StageInputs:
        rows, schema = (self.conversations, SFT) if stage == "sft" else (self.pairs, PREFERENCE)
        return StageInputs(
            base=model,
            rows=write_rows(self.folder / f"{stage}-rows", {"train": rows}, schema),
            questions=write_rows(self.folder / "questions", {"train": []}, QUESTIONS),
            model=self.model,
            adapter=LoraAdapter(r=4, alpha=8),
            evaluation=EvaluationConfig(),
            tracking=NoTracking(),
            seed=1,
            run="architectures",
            work_dir=self.folder / f"{stage}-work",
            archive_dir=self.folder / "comet",
        )

    def merge(self, stage: StageName, model: Checkpoint, adapter: Checkpoint) -> Checkpoint:
        """Merge, and require that adapter, merged and reloaded model agree."""
        merged, report = merge_adapter(
            model,
            adapter,
            self.tokenizer,
            [self.conversations[0]["input_ids"][:10], self.pairs[1]["prompt_ids"]],
            stage=stage,
            dtype=torch.float32,
            folder=self.folder / f"{stage}-model",
        )
        assert report.max_logit_difference < 1e-4
        assert report.reload_logit_difference == 0.0
        assert report.greedy_tokens > 0
        return merged


def losses(report: TrainingReport) -> tuple[float, float]:
    """Return the first and the last loss; all are finite."""
    logged = [loss for _, loss in report.series("loss")]
    assert len(logged) == 6
    assert all(math.isfinite(loss) for loss in logged)
    return logged[0], logged[-1]


@pytest.mark.parametrize("family", FAMILIES)
def test_an_architecture_is_trained_merged_and_aligned(family: str, tmp_path: Path) -> None:
    trained = Trained(family, tmp_path)
    adapter, sft = train_sft(SFTStageConfig(learning_rate=2e-2, **SHORT), trained.inputs("sft", trained.base))
    assert sft.path == FAMILIES[family].sft_path
    first, last = losses(sft)
    assert last < 0.9 * first
    sft_model = trained.merge("sft", trained.base, adapter)

    adapter, dpo = train_dpo(DPOStageConfig(learning_rate=1e-2, **SHORT), trained.inputs("dpo", sft_model))
    assert dpo.path == "fast"
    proof = dpo.reference
    assert proof is not None
    assert proof.step0_loss == pytest.approx(math.log(2), abs=1e-5)
    assert proof.max_logp_difference == 0.0
    assert proof.reference_sha256_after == sft_model.weights_sha256
    first, last = losses(dpo)
    assert first == pytest.approx(math.log(2), abs=1e-4)
    assert last < 0.9 * first
    assert trained.merge("dpo", sft_model, adapter).base_sha256 == sft_model.weights_sha256
