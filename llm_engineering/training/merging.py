"""Merge what a stage has trained, proven on prompts of the run."""

from pathlib import Path

from llm_engineering.config.model import ModelConfig
from llm_engineering.models.chat import load_chat_tokenizer
from llm_engineering.models.hardware import pick_dtype
from llm_engineering.models.merging import merge_adapter
from llm_engineering.reports.folders import Checkpoint, RowSet, StageName
from llm_engineering.reports.training import MergeReport
from llm_engineering.scoring.answers import read_probes


def merge_stage(
    stage: StageName, base: Checkpoint, trained: Checkpoint, questions: RowSet, model: ModelConfig, folder: Path
) -> tuple[Checkpoint, MergeReport]:
    """Merge what a stage has trained into the model it was trained on, tokenizer and chat template beside it.

    Args:
        stage: The stage.
        base: The model it was trained on.
        trained: Its adapter, or the model where all weights were trained.
        questions: The first prompts of a held-out split prove the merge.
        model: Gives template, special tokens and the precision of the saved weights.
        folder: Where the merged model is written.

    Raises:
        ModelError: The adapter belongs to another base.
        ProofError: Adapter, merged and reloaded model disagree.
    """
    return merge_adapter(
        base,
        trained,
        load_chat_tokenizer(base, model).tokenizer,
        read_probes(questions),
        stage=stage,
        dtype=pick_dtype(model.dtype),
        folder=folder,
    )
