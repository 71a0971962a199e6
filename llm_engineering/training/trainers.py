"""TRL's trainers, fed with rows that are tokenised already, and evaluated on generated answers too."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerState
from transformers.trainer_pt_utils import LengthGroupedSampler
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from llm_engineering.errors import TrainingError
from llm_engineering.training.fast_path.trainers import FastDPO, FastSFT
from llm_engineering.training.recovery import seal, writing

if TYPE_CHECKING:
    from datasets import Dataset

GeneratedMetrics = Callable[[Any], dict[str, float]]
"""Generates answers with a model and returns what a checker says of them."""


class StageTrainer:
    """What both trainers have beside TRL's own: sealed checkpoints, and metrics of generated answers."""

    generated_metrics: GeneratedMetrics | None = None
    evaluation_seconds: float = 0.0

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """Return TRL's metrics on the held-out rows and, with a checker, those of generated answers.

        Early stopping and the choice of the best checkpoint can go by either. The random state is left as it was (a
        DataLoader draws from it too), so that how often a training is evaluated changes no weight.
        """
        started = time.perf_counter()
        with torch.random.fork_rng():
            output = super().evaluation_loop(*args, **kwargs)  # type: ignore[misc]  # TRL's
        if self.generated_metrics is not None:
            generated = self.generated_metrics(self.model)  # type: ignore[attr-defined]
            output.metrics.update({f"eval_{name}": value for name, value in generated.items()})
        self.evaluation_seconds += time.perf_counter() - started
        return output

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write none: a checkpoint in progress is not published."""

    def take_up(self, checkpoint: Path) -> None:
        """Take state and weights of a training that had ended, the best weights where a metric chooses them.

        Resuming it would make one update more: Trainer looks for the end only after an update.
        """
        self.state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        best = self.state.best_model_checkpoint if self.args.load_best_model_at_end else None  # type: ignore[attr-defined]
        self._load_from_checkpoint(best or str(checkpoint))  # type: ignore[attr-defined]

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Save and seal a checkpoint.

        Raises:
            TrainingError: The weights hold something that is no number; resuming from them would be of no use. Or the
                checkpoint cannot be written.
        """
        if not all(p.isfinite().all() for p in model.parameters() if p.requires_grad):
            raise TrainingError(
                f"The weights are not finite at step {self.state.global_step}. Lower the learning rate or "
                "max_grad_norm; the last good checkpoint is kept."
            )
        checkpoint = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"  # type: ignore[attr-defined]
        with writing(checkpoint):
            super()._save_checkpoint(model, trial)  # type: ignore[misc]
            seal(checkpoint)


class LengthGroupedRows(LengthGroupedSampler):  # type: ignore[misc]  # transformers is untyped here
    """Batches of rows of like length, shuffled by seed and epoch alone, so that a resumed training draws the same."""

    def __init__(self, batch_size: int, lengths: list[int], seed: int, epoch: Callable[[], int]) -> None:
        super().__init__(batch_size, lengths=lengths)
        self.seed, self.epoch = seed, epoch

    def __iter__(self) -> Iterator[int]:
        self.generator = torch.Generator().manual_seed(self.seed + self.epoch())
        return super().__iter__()  # type: ignore[no-any-return]


class PreparedSFTTrainer(StageTrainer, FastSFT, SFTTrainer):  # type: ignore[misc]  # TRL is untyped
    """TRL's SFTTrainer on rows with ``input_ids`` and ``labels``."""

    args: SFTConfig

    def _get_train_sampler(self, train_dataset: "Dataset | None" = None) -> LengthGroupedRows:
        lengths = [len(ids) for ids in (train_dataset or self.train_dataset)["input_ids"]]
        rows_per_update = self.args.train_batch_size * self.args.gradient_accumulation_steps
        return LengthGroupedRows(rows_per_update, lengths, self.args.seed, lambda: int(self.state.epoch or 0))

    def _get_eval_sampler(self, eval_dataset: "Dataset") -> LengthGroupedRows:
        lengths = [len(ids) for ids in eval_dataset["input_ids"]]
        return LengthGroupedRows(self.args.eval_batch_size, lengths, self.args.seed, lambda: 0)


class PreparedDPOTrainer(StageTrainer, FastDPO, DPOTrainer):  # type: ignore[misc]
    """TRL's DPOTrainer on rows with ``prompt_ids``, ``chosen_ids`` and ``rejected_ids``; it drops and cuts none."""

    args: DPOConfig

    def __init__(self, *args: Any, reference_free: bool = False, **kwargs: Any) -> None:
        self.reference_free = reference_free
        super().__init__(*args, **kwargs)

    def _prepare_dataset(self, dataset: "Dataset", *args: Any) -> "Dataset":
        return dataset

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log the mean log-ratios to the reference too, in nats an answer: TRL's rewards are beta times them."""
        metrics = self._metrics["train" if self.model.training else "eval"]
        for side in () if self.reference_free else ("chosen", "rejected"):
            if rewards := metrics.get(f"rewards/{side}"):
                metrics[f"log_ratio/{side}"] = [reward / self.beta for reward in rewards]
        super().log(logs, start_time)

    def _precompute_ref_logps(self, dataset: "Dataset", name: str, batch_size: int) -> "Dataset":
        """Add the reference's log-probabilities, computed in batches of like length and kept in memory.

        Without a reference they are 0.
        """
        self.choose_path()  # TRL computes them before its trainer is complete
        lengths = [len(row["prompt_ids"]) + len(row["chosen_ids"]) + len(row["rejected_ids"]) for row in dataset]
        order = [] if self.reference_free else sorted(range(len(lengths)), key=lengths.__getitem__)
        logps = torch.zeros(2, len(lengths))
        for start in range(0, len(order), batch_size):
            indices = order[start : start + batch_size]
            batch = self.data_collator([dataset[i] for i in indices])
            inputs = {key: value.to(self.accelerator.device) for key, value in batch.items()}
            with self.accelerator.autocast():
                chosen, rejected = self.compute_ref_log_probs(self.model, inputs)
            logps[0, indices], logps[1, indices] = chosen.float().cpu(), rejected.float().cpu()
        dataset = dataset.add_column("ref_chosen_logps", logps[0].tolist())
        return dataset.add_column("ref_rejected_logps", logps[1].tolist())
