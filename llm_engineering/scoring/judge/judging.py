"""A language model judges the greedy answers: against another model's in both orders, and by a rubric.

A model of two beats the other at a question only where the judge says so in both orders (Zheng et al. 2023,
arXiv:2306.05685, section 3.4). What the judge leaves unsaid is counted and averaged into nothing.
"""

import hashlib
import json
import random
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from llm_engineering.config.evaluation import OpenAIJudge
from llm_engineering.config.metrics import WIN_RATE
from llm_engineering.reports.evaluation import (
    EvaluationReport,
    GreedyAnswers,
    JudgeCount,
    JudgeReport,
    JudgeVerdict,
    Metric,
    VerdictProblem,
)
from llm_engineering.reports.folders import Folder, hash_files
from llm_engineering.scoring.intervals import by_unit, mean, rate
from llm_engineering.scoring.judge.endpoint import Endpoint, JudgeReply, JudgeRequest
from llm_engineering.scoring.judge.prompts import pairwise_messages, read_choice, read_score, rubric_messages

ENOUGH = 0.5
"""Share of the questions that need a verdict for a metric to be made: what is missing is seldom missing by chance."""
SCORE = "judge_score"
REPLIES = "replies.jsonl"
VERDICTS = "verdicts.jsonl"
OUTCOMES = {"model": 1.0, "tie": 0.5, "against": 0.0}


@dataclass(frozen=True)
class _Ask:
    """One verdict that is wanted: one order of a comparison, or one score."""

    question: int
    model: str
    against: str | None
    shown_first: bool
    request: JudgeRequest | None
    """None where the answers are the same: that is a tie without asking."""


def judge_answers(
    report: EvaluationReport, config: OpenAIJudge, seed: int, folder: Path, api_key: str | None
) -> tuple[JudgeReport, list[JudgeVerdict]]:
    """Return what the judge says of a report's answers, and every verdict.

    Args:
        report: Holds the answers, and which model was trained from which.
        config: The judge.
        seed: Draws the questions.
        folder: Keeps the replies, so that an interrupted run goes on where it was.
        api_key: None where the endpoint wants none.
    """
    started = time.perf_counter()
    questions = chosen_questions(report, config.questions, seed)
    asks = list(_asks(report, questions, config))
    endpoint = Endpoint(config, api_key, folder / REPLIES)
    requests = [ask.request for ask in asks if ask.request is not None]
    replies = endpoint.ask(requests)
    verdicts = [_verdict(ask, questions[ask.question], replies, endpoint) for ask in asks]
    counts, values = _count(asks, verdicts, [question.unit for question in questions])
    metrics, outcomes = _metrics(values)
    used = [replies[key] for key in dict.fromkeys(map(endpoint.key, requests)) if key in replies]
    both = [count for count in counts if count.mode == "pairwise"]
    asked_twice = sum(count.judged - count.identical for count in both)
    settings = config.deciding.model_dump(mode="json", exclude={"base_url"})
    judged = JudgeReport(
        judge=config.model,
        endpoint=config.base_url,
        settings_sha256=hashlib.sha256(json.dumps([settings, seed], sort_keys=True).encode()).hexdigest(),
        questions=len(questions),
        counts=counts,
        metrics=metrics,
        outcomes=outcomes,
        disagreement=sum(count.disagreements for count in both) / asked_twice if asked_twice else None,
        requests=len(used),
        input_tokens=sum(reply.input_tokens or 0 for reply in used),
        output_tokens=sum(reply.output_tokens or 0 for reply in used),
        unreported=sum(reply.input_tokens is None or reply.output_tokens is None for reply in used),
        cost=_cost(config, used),
        failures=dict(endpoint.failures),
        error=endpoint.error,
        seconds=time.perf_counter() - started,
    )
    return judged.model_copy(update={"notes": list(_notes(judged, config))}), verdicts


def write_verdicts(verdicts: Iterable[JudgeVerdict], folder: Path) -> Folder:
    """Write every verdict as a line of JSON, and return the folder that holds the file."""
    target = folder / "verdicts"
    target.mkdir(exist_ok=True)
    lines = (verdict.model_dump_json() + "\n" for verdict in verdicts)
    (target / VERDICTS).write_text("".join(lines), encoding="utf-8")
    return Folder(path=target, sha256=hash_files(target))


def chosen_questions(report: EvaluationReport, most: int, seed: int) -> list[GreedyAnswers]:
    """Return the fixed prompts, and the held-out questions or ``most`` of them, drawn by the seed."""
    held_out = report.answers
    if len(held_out) > most:
        held_out = [held_out[i] for i in sorted(random.Random(seed).sample(range(len(held_out)), most))]
    prompts = {json.loads(each.prompt)[-1].get("content") for each in report.answers}
    fixed = [sample for sample in report.samples if sample.prompt not in prompts]
    return held_out + [
        GreedyAnswers(
            unit=f"prompt {sample.prompt}",
            prompt=json.dumps([{"role": "user", "content": sample.prompt}]),
            reference=sample.reference or "",
            answers=sample.answers,
        )
        for sample in fixed
    ]


def opponents(report: EvaluationReport, against: Sequence[Literal["parent", "base"]]) -> list[tuple[str, str]]:
    """Return which model is compared with which: each with its parent, and with the base."""
    pairs = []
    for name, scores in report.models.items():
        others = {"parent": scores.parent, "base": "base" if "base" in report.models else None}
        pairs += [(name, other) for kind in against if (other := others[kind]) is not None and other != name]
    return list(dict.fromkeys(pairs))


def _asks(report: EvaluationReport, questions: Sequence[GreedyAnswers], config: OpenAIJudge) -> Iterator[_Ask]:
    """Yield everything that the judge is wanted to say, question by question within a comparison.

    Models that gave no answers, since their numbers are none, are left out.
    """
    answered = [name for name in report.models if all(name in question.answers for question in questions)]
    if "pairwise" in config.modes:
        for model, against in opponents(report, config.against):
            if model not in answered or against not in answered:
                continue
            for i, question in enumerate(questions):
                yield from _both_orders(i, question, model, against, config)
    if "rubric" in config.modes:
        for model in answered:
            for i, question in enumerate(questions):
                yield _Ask(i, model, None, True, _rubric_request(question, question.answers[model], config))


def _both_orders(i: int, question: GreedyAnswers, model: str, against: str, config: OpenAIJudge) -> Iterator[_Ask]:
    own, other = question.answers[model], question.answers[against]
    for shown_first in (True, False):
        first, second = (own, other) if shown_first else (other, own)
        request = None if own == other else _pairwise_request(question, first, second, config)
        yield _Ask(i, model, against, shown_first, request)


def _pairwise_request(question: GreedyAnswers, first: str, second: str, config: OpenAIJudge) -> JudgeRequest:
    reference = question.reference if config.show_reference else ""
    prompt = json.loads(question.prompt)
    forms = [
        pairwise_messages(prompt, first, second, config.rubric, reference, in_json=in_json) for in_json in (True, False)
    ]
    return JudgeRequest("pairwise", *forms)


def _rubric_request(question: GreedyAnswers, answer: str, config: OpenAIJudge) -> JudgeRequest:
    reference = question.reference if config.show_reference else ""
    prompt = json.loads(question.prompt)
    forms = [
        rubric_messages(prompt, answer, config.rubric, reference, config.scale, in_json=in_json)
        for in_json in (True, False)
    ]
    return JudgeRequest("rubric", *forms)


def _verdict(ask: _Ask, question: GreedyAnswers, replies: Mapping[str, JudgeReply], endpoint: Endpoint) -> JudgeVerdict:
    reply = replies.get(endpoint.key(ask.request)) if ask.request else None
    winner: Literal["model", "against", "tie"] | None = None if ask.request else "tie"
    score = None
    if reply is not None and not reply.refused and ask.against is not None:
        choice = read_choice(reply.text)
        own = "A" if ask.shown_first else "B"
        winner = choice if choice in (None, "tie") else "model" if choice == own else "against"
    elif reply is not None and not reply.refused:
        score = read_score(reply.text, endpoint.config.scale)
    return JudgeVerdict(
        mode="pairwise" if ask.against is not None else "rubric",
        model=ask.model,
        against=ask.against,
        shown_first=ask.shown_first,
        unit=question.unit,
        question=str(json.loads(question.prompt)[-1].get("content") or ""),
        answer=question.answers[ask.model],
        other_answer=question.answers[ask.against] if ask.against is not None else None,
        winner=winner,
        score=score,
        asked=ask.request is not None,
        problem=None if winner is not None or score is not None else _problem(reply),
        reply=reply.text if reply else "",
    )


def _problem(reply: JudgeReply | None) -> VerdictProblem:
    """Return why a reply is no verdict."""
    if reply is None:
        return "failed"
    if reply.refused:
        return "refused"
    if reply.cut_off:
        return "cut off"
    return "unparsable" if reply.text.strip() else "empty"


Values = dict[tuple[str, str], list[tuple[str, float | None]]]
"""By metric and model: unit and value of every question, None where there is no verdict."""


def _count(
    asks: Sequence[_Ask], verdicts: Sequence[JudgeVerdict], units: Sequence[str]
) -> tuple[list[JudgeCount], Values]:
    """Return what became of every comparison and of every model's answers, and the values to be averaged."""
    groups: dict[tuple[str, str | None], dict[int, list[JudgeVerdict]]] = {}
    for ask, verdict in zip(asks, verdicts, strict=True):
        groups.setdefault((ask.model, ask.against), {}).setdefault(ask.question, []).append(verdict)
    counts, values = [], {}
    for (model, against), questions in groups.items():
        found = [_value(both) for both in questions.values()]
        values[WIN_RATE + against if against else SCORE, model] = list(zip(units, found, strict=True))
        counts.append(_count_one(model, against, list(questions.values()), found))
    return counts, values


def _value(verdicts: Sequence[JudgeVerdict]) -> float | None:
    """Return the value of one question: a score, or 1, 0.5 or 0 for a win, a tie and a loss; None: no verdict."""
    if any(verdict.problem for verdict in verdicts):
        return None
    if verdicts[0].mode == "rubric":
        assert verdicts[0].score is not None
        return float(verdicts[0].score)
    winners = {verdict.winner for verdict in verdicts}
    (winner,) = winners if len(winners) == 1 else {"tie"}
    assert winner is not None
    return OUTCOMES[winner]


def _count_one(
    model: str, against: str | None, questions: Sequence[Sequence[JudgeVerdict]], found: Sequence[float | None]
) -> JudgeCount:
    failed = sum(any(verdict.problem == "failed" for verdict in both) for both in questions)
    judged = sum(value is not None for value in found)
    facts = {"questions": len(questions), "judged": judged, "failed": failed}
    invalid = len(questions) - judged - failed
    if against is None:
        return JudgeCount(mode="rubric", model=model, invalid=invalid, **facts)
    split = [both for both, value in zip(questions, found, strict=True) if value is not None and _disagree(both)]
    return JudgeCount(
        mode="pairwise",
        model=model,
        against=against,
        invalid=invalid,
        wins=found.count(1.0),
        losses=found.count(0.0),
        ties=found.count(0.5),
        identical=sum(not both[0].asked for both in questions),
        disagreements=len(split),
        prefers_first=sum(_winners(both) == ["model", "against"] for both in split),
        prefers_second=sum(_winners(both) == ["against", "model"] for both in split),
        **facts,
    )


def _winners(both: Sequence[JudgeVerdict]) -> list[str | None]:
    return [verdict.winner for verdict in both]


def _disagree(both: Sequence[JudgeVerdict]) -> bool:
    return len(set(_winners(both))) > 1


def _metrics(values: Values) -> tuple[dict[str, dict[str, Metric]], dict[str, dict[str, list[float]]]]:
    """Return metrics and outcomes per model; a metric is averaged over the same questions for all models that have it.

    A model with too few verdicts has no metric, and does not thin out the others'.
    """
    metrics: dict[str, dict[str, Metric]] = {}
    outcomes: dict[str, dict[str, list[float]]] = {}
    for name in dict.fromkeys(metric for metric, _ in values):
        rows = {model: each for (metric, model), each in values.items() if metric == name}
        rows = {model: each for model, each in rows.items() if _enough(value for _, value in each)}
        shared = [i for i, _ in enumerate(next(iter(rows.values()), []))]
        shared = [i for i in shared if all(each[i][1] is not None for each in rows.values())]
        for model, each in rows.items():
            if not shared:
                continue
            kept = [(unit, value) for unit, value in (each[i] for i in shared) if value is not None]
            by = by_unit([value for _, value in kept], [unit for unit, _ in kept])
            outcomes.setdefault(model, {})[name] = by
            metrics.setdefault(model, {})[name] = mean(by) if name == SCORE else rate(by)
    return metrics, outcomes


def _enough(values: Iterable[float | None]) -> bool:
    found = list(values)
    return bool(found) and sum(value is not None for value in found) >= ENOUGH * len(found)


def _cost(config: OpenAIJudge, replies: Sequence[JudgeReply]) -> float | None:
    """Return what the replies cost by the configured prices; None where there are none, or tokens are not reported."""
    if config.input_price is None and config.output_price is None:
        return None
    if not any(reply.input_tokens for reply in replies):
        return None
    read, written = (sum(getattr(reply, f"{kind}_tokens") or 0 for reply in replies) for kind in ("input", "output"))
    return (read * (config.input_price or 0.0) + written * (config.output_price or 0.0)) / 1e6


def _notes(report: JudgeReport, config: OpenAIJudge) -> Iterator[str]:
    """Yield what a reader should know beside the numbers."""
    if not report.questions:
        yield "There are no answers to judge."
        return
    cost = f", cost {report.cost:.4g}" if report.cost is not None else ""
    orders = (
        "" if report.disagreement is None else f"; its two orders disagree in {report.disagreement:.0%} of the pairs"
    )
    yield (
        f"The judge {report.judge} replied to {report.requests:,} requests: {report.input_tokens:,} tokens read, "
        f"{report.output_tokens:,} written{cost}{orders}."
    )
    if report.error:
        yield report.error if report.metrics else f"{report.error} There are no metrics of it; the next run asks anew."
    if report.error and not report.metrics:
        return
    for said, times in report.failures.items():
        yield f"The judge gave no reply to {times} of the requests: {said}."
    for count in report.counts:
        missing = count.questions - count.judged
        if not missing:
            continue
        who = f"{count.model} against {count.against}" if count.against else f"the scores of {count.model}"
        none = ", too few for a metric" if count.judged < ENOUGH * count.questions else ""
        yield (
            f"The judge, {who}: {count.judged} of {count.questions} questions have a verdict ({count.invalid} invalid, "
            f"{count.failed} without a reply){none}."
        )
    if report.disagreement is not None and report.disagreement > 1 / 3:
        yield (
            "The judge changes its mind with the order of the answers in more than a third of the pairs: it is a weak "
            "judge of them."
        )
    if report.unreported:
        yield f"The judge's server reported no tokens for {report.unreported} of {report.requests} replies."
