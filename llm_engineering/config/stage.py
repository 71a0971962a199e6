"""What both training stages can be told."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from llm_engineering.config.block import Block, PositiveFloat, PositiveInt, Rate, is_default

Optimizer = Literal[
    "adamw_torch_fused",
    "adamw_torch",
    "adamw_8bit",
    "paged_adamw_32bit",
    "paged_adamw_8bit",
    "rmsprop",
    "adafactor",
    "sgd",
]


class StageConfig(Block):
    """What SFT and DPO have in common."""

    epochs: PositiveFloat = 1.0
    """Passes over the training rows; ``max_steps`` overrides it."""
    max_steps: PositiveInt | None = None
    """Optimizer updates."""
    batch_size: PositiveInt = 8
    """Rows in one forward pass, all processes together: each of them takes its part (``hardware.processes``)."""
    accumulation: PositiveInt = 1
    """Forward passes per optimizer update: the effective batch is batch_size x accumulation."""
    optimizer: Optimizer = "adamw_torch_fused"
    """transformers' name; 8-bit and paged ones need a CUDA GPU and the extra ``cuda``.

    Where those are missing ``adamw_torch_fused`` steps in, and log and report say so.
    """
    learning_rate: Rate
    """Peak rate, after the warm-up."""
    adam_beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """AdamW's decay of the mean gradient."""
    adam_beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """AdamW's decay of the mean squared gradient."""
    adam_epsilon: PositiveFloat = 1e-8
    """AdamW's term against division by 0."""
    schedule: Literal["cosine", "linear", "constant", "inverse_sqrt"] = "cosine"
    """How the learning rate falls after the warm-up."""
    min_rate: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Where the cosine ends, as a share of ``learning_rate``."""
    warmup: Annotated[float, Field(ge=0)] = 0.05
    """Warm-up: a share of the steps below 1, a number of steps from 1 on."""
    weight_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """The optimizer's weight decay, decoupled in AdamW."""
    max_grad_norm: PositiveFloat = 1.0
    """Gradients are scaled down to this norm."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    compile: bool = False
    """Let torch compile the model, by TRL's own path; needs a C++ compiler, and pays off on long GPU trainings."""
    liger_kernel: bool = False
    """Liger's fused kernels, by TRL's own path; needs a CUDA GPU and the package ``liger-kernel``."""
    fast_path: Literal["auto", "off"] = "auto"
    """``auto`` trains without padding and computes shared prompts once, where the model allows it; ``off`` never.

    The numbers are TRL's either way, to its last digits; the report says which path ran, and why.
    """
    logging_steps: PositiveInt = 10
    """Updates between two entries of the log."""
    save_steps: PositiveInt = 50
    """Updates between two checkpoints, which a killed run resumes from."""
    save_total_limit: Annotated[int, Field(ge=2)] = 2
    """So many of the newest checkpoints are kept while training, the best besides; at least two, as one may be torn."""
    evaluation_steps: PositiveInt | None = None
    """Updates between two evaluations on the held-out rows; none: at the end only."""
    evaluation_examples: PositiveInt | None = None
    """Training rows between two evaluations, rounded to whole updates, in place of ``evaluation_steps``."""
    evaluate_first: bool = False
    """Evaluate before the first update too."""
    best_metric: Literal["loss", "answer_accuracy", "preferred_rate", "answer_score"] | None = None
    """Keep the weights of the evaluation with the best value of this metric; a checkpoint is then saved at each.

    All but ``loss`` are measured on generated answers to held-out prompts, and need ``evaluation.checker``.
    """
    patience: PositiveInt | None = None
    """Stop after so many evaluations without a better ``best_metric``."""
    samples: Annotated[int, Field(ge=0)] = 3
    """The first held-out questions whose greedy answers are kept at each of the ``evaluation_steps``."""

    @model_validator(mode="after")
    def _check_best(self) -> "StageConfig":
        if self.patience and not self.best_metric:
            raise ValueError("patience needs best_metric, the metric to be patient about")
        if self.evaluation_steps and self.evaluation_examples:
            raise ValueError("evaluation_steps and evaluation_examples say the same; name one")
        if self.best_metric and not self.evaluation_interval:
            raise ValueError("best_metric needs evaluation_steps or evaluation_examples")
        return self

    @model_validator(mode="after")
    def _check_schedule(self) -> "StageConfig":
        if self.min_rate and self.schedule != "cosine":
            raise ValueError(f"min_rate does nothing for the schedule {self.schedule}; use cosine, or 0")
        if self.max_steps and self.warmup >= self.max_steps:
            raise ValueError(f"warmup ({self.warmup:g}) is no shorter than the training (max_steps {self.max_steps})")
        adam = [name for name in ("adam_beta1", "adam_beta2", "adam_epsilon") if not is_default(self, name)]
        if adam and "adamw" not in self.optimizer:
            raise ValueError(
                f"{adam[0]} does nothing for the optimizer {self.optimizer}; use an adamw, or leave it out"
            )
        return self

    @property
    def effective_batch(self) -> int:
        """Rows per optimizer update."""
        return self.batch_size * self.accumulation

    @property
    def evaluation_interval(self) -> int | None:
        """Updates between two evaluations on the held-out rows."""
        if self.evaluation_examples:
            return max(round(self.evaluation_examples / self.effective_batch), 1)
        return self.evaluation_steps
