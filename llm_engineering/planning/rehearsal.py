"""A run in small: the user's configuration with fewer rows, steps and tokens, for a tiny model on any machine."""

import hashlib
from dataclasses import dataclass
from typing import Any

from llm_engineering.config.run import RunConfig
from llm_engineering.reports.evaluation import Judgement
from llm_engineering.training.dpo_arguments import stores_reference
from llm_engineering.training.losses import uses_reference

ROWS = 500
"""Rows of every source."""
STEPS = 6
PROCESSES = 2
"""Processes that stand in for more of them."""
BATCH_SIZE = 2
ACCUMULATION = 2
EVALUATION_STEPS = 3
NEW_TOKENS = 16
QUESTIONS = 8
SAMPLED_PROMPTS = 24
ANSWERS_AT_ONCE = 16
UNJUDGED = 10**6
"""Logged points before which the watch says nothing: curves of a random model mean nothing."""
LONGEST_NAME = 60
"""Characters of the run's name that are kept, so that what is added leaves a valid name."""
ORDERED_BY = "llm_engineering.planning.rehearsal:judge"
GPU_ONLY: dict[str, tuple[tuple[object, ...], object]] = {
    "dtype": (("bfloat16", "float16", "tf32"), "float32"),
    "attention": (("flash_attention_2",), "auto"),
    "optimizer": (("adamw_8bit", "paged_adamw_8bit", "paged_adamw_32bit"), "adamw_torch_fused"),
    "compile": ((True,), False),
    "liger_kernel": ((True,), False),
}
"""Settings that need a GPU or half precision, and what a rehearsal takes in their place."""


@dataclass(frozen=True)
class Rehearsal:
    """What is rehearsed, and how it differs from the real run."""

    config: RunConfig
    changes: tuple[str, ...]
    """A sentence each."""


def judge(answer: str, reference: str) -> Judgement:
    """Order answers at random, but the same way each time: those of a random model are all wrong."""
    score = int.from_bytes(hashlib.sha256(answer.encode()).digest()[:4]) / 2**32
    return Judgement(correct=False, preferred=False, score=score)


def rehearsal_of(config: RunConfig, base: str, key: str, devices: int = PROCESSES) -> Rehearsal:
    """Return the configuration of a rehearsal: everything is the user's own, but small, and nothing is published.

    Args:
        config: The real run's.
        base: Folder of the tiny model.
        key: Of that model. It is part of the rehearsal's name: an incumbent with another tokenizer does not compare.
        devices: How many processes this machine can train in.
    """
    tree = config.model_dump()
    changes = [
        f"The model is tiny, random and in float32: the architecture, vocabulary and tokenizer of {config.model.base}.",
        f"At most {ROWS} rows a source, {STEPS} updates of {BATCH_SIZE} × {ACCUMULATION} rows a stage, "
        f"{QUESTIONS} questions, {NEW_TOKENS} new tokens an answer.",
    ]
    tree["model"] |= {"base": base, "revision": None}
    changes += without_gpu(tree)
    changes += _limit_processes(tree, devices)
    _limit_data(tree["data"])
    for stage in ("sft", "dpo"):
        _limit_stage(tree[stage])
    changes += _limit_evaluation(tree["evaluation"])
    changes += _order_samples(tree)
    tree["dpo"]["kl_answers"] = min(config.dpo.kl_answers, QUESTIONS)
    if config.dpo.reference == "auto" and uses_reference(
        config.dpo
    ):  # as the real run would decide, not as six updates would
        tree["dpo"]["reference"] = "stored" if stores_reference(config.dpo, rows=0) else "on_the_fly"
    published = {"name": f"{config.name[:LONGEST_NAME]}-rehearsal-{key[:6]}", "tracking": {"type": "none"}}
    tree |= published | {"export": {"dir": None}}
    tree["watch"] |= {"on": {}, "min_points": UNJUDGED}
    changes.append("Nothing is tracked, exported or watched, and the model has a name of its own.")
    return Rehearsal(RunConfig.model_validate(tree), tuple(changes))


def without_gpu(tree: dict[str, Any]) -> list[str]:
    """Replace settings that need a GPU, and say so."""
    said = []
    for block in ("model", "sft", "dpo"):
        for name, (values, instead) in GPU_ONLY.items():
            value = tree[block].get(name)
            if value in values:
                said.append(f"{block}.{name} {value} is not rehearsed; {instead} stands in.")
                tree[block][name] = instead
    tree["model"]["dtype"] = "float32"
    if tree["model"]["backend"]["type"] != "peft":
        said.append(f"model.backend {tree['model']['backend']['type']} is not rehearsed; peft stands in.")
        tree["model"]["backend"] = {"type": "peft"}
    if tree["adapter"]["type"] == "qlora":
        bits = tree["adapter"].pop("bits", 4)
        said.append(f"adapter.type qlora ({bits} bits) is not rehearsed; lora with the same settings stands in.")
        tree["adapter"]["type"] = "lora"
    return said


def _limit_processes(tree: dict[str, Any], devices: int) -> list[str]:
    """Train in two processes where many would, with whole weights in each; in one where there is no second device."""
    asked = tree["hardware"]
    if asked["type"] == "local":
        return []
    instead: dict[str, Any] = {"type": "local"}
    if devices >= PROCESSES:
        instead = {"type": "torchrun", "processes": PROCESSES, "strategy": "ddp"}
    tree["hardware"] = instead
    if instead == asked:
        return []
    stand_in = f"{PROCESSES} processes (ddp) stand in" if devices >= PROCESSES else "one process stands in"
    return [f"hardware ({asked['processes']} processes, {asked['strategy']}) is not rehearsed; {stand_in}."]


def _limit_data(data: dict[str, Any]) -> None:
    for source in (*data["sft"], *data["preference"]):
        if "sample" in source:
            sample = source["sample"]
            sample["max_new_tokens"] = min(sample["max_new_tokens"], NEW_TOKENS)
            sample["max_prompts"] = min(sample["max_prompts"] or SAMPLED_PROMPTS, SAMPLED_PROMPTS)
            sample["batch_size"] = min(sample["batch_size"], ANSWERS_AT_ONCE)
        elif "embedded" not in source:  # its held-out rows come last
            source["first"] = min(source["first"] or ROWS, ROWS)


def _limit_stage(stage: dict[str, Any]) -> None:
    stage["max_steps"] = min(stage["max_steps"] or STEPS, STEPS)
    stage["batch_size"] = min(stage["batch_size"], BATCH_SIZE)
    stage["accumulation"] = min(stage["accumulation"], ACCUMULATION)
    stage |= {"logging_steps": 1, "save_steps": EVALUATION_STEPS}
    if stage["warmup"] >= 1:
        stage["warmup"] = min(stage["warmup"], stage["max_steps"] / 2) if stage["max_steps"] > 1 else 0.0
    if stage["evaluation_steps"] or stage.get("evaluation_examples"):
        stage["evaluation_steps"] = EVALUATION_STEPS
        if "evaluation_examples" in stage:
            stage["evaluation_examples"] = None


def _limit_evaluation(evaluation: dict[str, Any]) -> list[str]:
    evaluation["max_new_tokens"] = min(evaluation["max_new_tokens"], NEW_TOKENS)
    evaluation["batch_size"] = min(evaluation["batch_size"], ANSWERS_AT_ONCE)
    evaluation["max_questions"] = min(evaluation["max_questions"] or QUESTIONS, QUESTIONS)
    evaluation["sampled_answers"] = min(evaluation["sampled_answers"], 1)
    if evaluation["harness"]:
        evaluation["harness"]["limit"] = min(evaluation["harness"]["limit"] or QUESTIONS, QUESTIONS)
    if evaluation["judge"] is None:
        return []
    judge, evaluation["judge"] = evaluation["judge"], None
    return [f"The judge {judge['model']} is not asked: answers of a random model are not worth its price."]


def _order_samples(tree: dict[str, Any]) -> list[str]:
    """Let sampled pairs be ordered at random, and the user's checker judge the evaluation, where it must work too."""
    sample = next((source["sample"] for source in tree["data"]["preference"] if "sample" in source), None)
    if sample is None:
        return []
    checker, sample["checker"] = sample["checker"], ORDERED_BY
    tree["evaluation"]["checker"] = tree["evaluation"]["checker"] or checker
    return [f"Sampled pairs are ordered at random, since the answers are; {checker} judges the evaluation instead."]
