"""The configuration of a run. Every key is optional over its default; an unknown key is an error."""

from typing import Annotated

from pydantic import Field, model_validator

from llm_engineering.config.block import Block, ModelName
from llm_engineering.config.data import DataConfig
from llm_engineering.config.dpo import DPOStageConfig
from llm_engineering.config.evaluation import EvaluationConfig
from llm_engineering.config.export import ExportConfig
from llm_engineering.config.hardware import SHARDED_OPTIMIZERS, HardwareConfig, LocalHardware
from llm_engineering.config.model import (
    AdapterConfig,
    DoraAdapter,
    FullFineTuning,
    LoraAdapter,
    ModelConfig,
    QloraAdapter,
    UnslothBackend,
)
from llm_engineering.config.promotion import PromotionConfig
from llm_engineering.config.sft import SFTStageConfig
from llm_engineering.config.stage import StageConfig
from llm_engineering.config.sweep import ComparisonConfig, SweepConfig
from llm_engineering.config.tracking import CometTracking, TrackingConfig
from llm_engineering.config.watch import WatchConfig


class RunConfig(Block):
    """One run."""

    name: ModelName = "run"
    """Names the ZenML model and its runs."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 42
    """Seeds splits, shuffling, adapters, sampling."""
    model: ModelConfig = ModelConfig()
    adapter: AdapterConfig = LoraAdapter()
    data: DataConfig = DataConfig()
    sft: SFTStageConfig = SFTStageConfig()
    dpo: DPOStageConfig = DPOStageConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    promotion: PromotionConfig = PromotionConfig()
    watch: WatchConfig = WatchConfig()
    tracking: TrackingConfig = CometTracking()
    comparison: ComparisonConfig = ComparisonConfig()
    sweep: SweepConfig | None = None
    """``--run-sweep`` tries these: ``{dpo.beta: [0.05, 0.1]}`` is every combination; docs/sweeps.md has more."""
    export: ExportConfig = ExportConfig()
    hardware: HardwareConfig = LocalHardware()

    @model_validator(mode="after")
    def _check_hardware(self) -> "RunConfig":
        if isinstance(self.hardware, LocalHardware):
            return self
        if isinstance(self.model.backend, UnslothBackend):
            raise ValueError("hardware.type torchrun needs model.backend {type: peft}: Unsloth trains in one process")
        if self.dpo.loss_row.sorts_pairs:
            raise ValueError(
                f"dpo.loss {self.dpo.loss} sorts the pairs of a batch, which hardware.processes would tear apart; use "
                "another loss, or hardware {type: local}"
            )
        if self.hardware.is_sharded:
            self._check_sharded(self.hardware.strategy)
        return self

    def _check_sharded(self, strategy: str) -> None:
        named = f"hardware.strategy {strategy}"
        if isinstance(self.adapter, DoraAdapter):
            raise ValueError(f"adapter.type dora needs whole weights, which {named} shares out; use lora, or ddp")
        if isinstance(self.adapter, QloraAdapter) and (self.adapter.bits == 8 or strategy != "fsdp"):
            raise ValueError(
                f"adapter.type qlora with {self.adapter.bits} bits does not go with {named}; 4 bits go with fsdp, any "
                "with ddp"
            )
        in_memory = isinstance(self.adapter, FullFineTuning) and self.dpo.reference != "stored"
        in_memory &= self.dpo.loss_row.has_reference and not self.dpo.reference_free
        if strategy == "deepspeed_zero3" and self.data.preference and in_memory:
            raise ValueError(f"adapter.type full with {named} holds no reference besides; set dpo.reference to stored")
        for name, stage in (("sft", self.sft), ("dpo", self.dpo)):
            if stage.optimizer not in SHARDED_OPTIMIZERS:
                raise ValueError(
                    f"{name}.optimizer {stage.optimizer} needs whole weights, which {named} shares out; use one of "
                    f"{', '.join(SHARDED_OPTIMIZERS)}"
                )
            if stage.best_metric:
                raise ValueError(f"{name}.best_metric does not go with {named}; leave it out, or use ddp")
            if stage.compile:
                raise ValueError(f"{name}.compile does not go with {named}; set it to false, or use ddp")

    @model_validator(mode="after")
    def _check_best_metric(self) -> "RunConfig":
        for name, stage in (("sft", self.sft), ("dpo", self.dpo)):
            if stage.best_metric not in (None, "loss") and self.evaluation.checker is None:
                raise ValueError(
                    f"{name}.best_metric {stage.best_metric} needs evaluation.checker, which judges answers"
                )
        return self

    @property
    def warnings(self) -> list[str]:
        """What is allowed but seldom meant."""
        found = []
        if self.data.preference and self.data.sft and self.dpo.learning_rate >= self.sft.learning_rate:
            found.append(
                f"dpo.learning_rate {self.dpo.learning_rate:g} is not below sft.learning_rate "
                f"{self.sft.learning_rate:g}: DPO usually wants a tenth of it or less."
            )
        if self.hardware.processes > 1:
            noisy = [
                name
                for name, value in (
                    ("adapter.dropout", getattr(self.adapter, "dropout", 0)),
                    ("sft.neftune_alpha", self.sft.neftune_alpha),
                )
                if value
            ]
            found += [
                f"{name} is drawn by each process alone: another hardware.processes draws other noise, and only to "
                "that extent trains another model."
                for name in noisy
            ]
        return found

    @model_validator(mode="after")
    def _check_restart(self) -> "RunConfig":
        if self.watch.on.displaced == "restart_with_nll" and not self.dpo.loss_row.has_reference:
            raise ValueError(
                f"watch.on.displaced restart_with_nll does nothing for dpo.loss {self.dpo.loss}, which has no "
                "reference; use warn"
            )
        if self.watch.on.displaced == "restart_with_nll" and self.dpo.nll_weight >= self.watch.displaced.nll_weight:
            raise ValueError(
                f"watch.displaced.nll_weight ({self.watch.displaced.nll_weight:g}) must be above dpo.nll_weight "
                f"({self.dpo.nll_weight:g}): DPO would only be restarted as it was"
            )
        return self

    def policy_while_scoring(self) -> tuple[ModelConfig, AdapterConfig]:
        """Return what scoring the reference uses of ``model`` and ``adapter``: a change of the rest scores nothing."""
        used = {"dtype", "attention", "chat_template", "special_tokens", "backend"}
        model = ModelConfig.model_validate(self.model.model_dump(include=used))
        adapter: AdapterConfig = LoraAdapter(type="lora")  # the tags are named: ZenML hands on what is set alone
        if isinstance(self.adapter, QloraAdapter):
            adapter = QloraAdapter(type="qlora", bits=self.adapter.bits)
        if isinstance(self.adapter, FullFineTuning):
            adapter = FullFineTuning(type="full")
        return model, adapter

    def evaluation_while_training(self, stage: StageConfig) -> EvaluationConfig:
        """Return what a training stage uses of ``evaluation``, so that a change of the rest does not train anew."""
        if stage.evaluation_interval is None:
            return EvaluationConfig()
        used = {"checker", "max_new_tokens", "batch_size", "max_questions"}
        return EvaluationConfig.model_validate(self.evaluation.model_dump(include=used))
