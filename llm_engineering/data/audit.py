"""What the texts are like: counted while rows are read, before any rule drops one."""

import heapq
import json
import re
from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Self

import numpy as np

from llm_engineering.data.examples import KINDS, SPLITS, Keys, Records, as_written, opening
from llm_engineering.data.formats import Conversation, Example, Pair
from llm_engineering.data.near_duplicates import Indices, NearIndex, SketchWriter
from llm_engineering.data.private import PrivateKind, private_kinds
from llm_engineering.data.rules import Fates
from llm_engineering.reports.data import DataAudit, Overlap, PreferenceAudit, TextAudit
from llm_engineering.reports.folders import RowKind

LANGUAGE_SAMPLE = 500
"""Examples whose language is looked at, those with the smallest keys: drawn like at random, whatever their order."""
SHORT = 3
"""Words; an answer of fewer is counted as short."""
_INVISIBLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200b\u202a-\u202e\u2060-\u2064\ufeff\ufffd]")


class TextCounts:
    """Counts over the texts of one kind of examples."""

    def __init__(self) -> None:
        self.short = self.invisible = 0
        self.private: Counter[PrivateKind] = Counter()
        self._sample: list[tuple[int, str]] = []

    def add(self, example: Example, key: int) -> None:
        """Count one example; ``key`` decides whether it is in the sample for languages."""
        answers = [example.answer] if isinstance(example, Conversation) else [example.chosen, example.rejected]
        text = "\n".join([message["content"] for message in example.prompt] + answers)
        self.short += any(len(answer.split(None, SHORT - 1)) < SHORT for answer in answers)
        self.invisible += _INVISIBLE.search(text) is not None
        self.private.update(private_kinds(text))
        if len(self._sample) < LANGUAGE_SAMPLE:
            heapq.heappush(self._sample, (-key, text[:1000]))
        elif -key > self._sample[0][0]:
            heapq.heapreplace(self._sample, (-key, text[:1000]))

    def languages(self) -> Counter[str]:
        """Return the languages of the sample."""
        import py3langid

        return Counter(py3langid.classify(text)[0] for _, text in sorted(self._sample))

    @property
    def language_sample(self) -> int:
        """Examples in the sample."""
        return len(self._sample)


class PairCounts:
    """Counts over the preference pairs."""

    def __init__(self) -> None:
        self.pairs = self.identical = self.longer = self.equal_length = 0
        self.overlap = 0.0

    def add(self, pair: Pair) -> None:
        """Count one pair."""
        self.pairs += 1
        if pair.chosen == pair.rejected:
            self.identical += 1
            return
        self.longer += len(pair.chosen) > len(pair.rejected)
        self.equal_length += len(pair.chosen) == len(pair.rejected)
        chosen, rejected = set(pair.chosen.split()), set(pair.rejected.split())
        self.overlap += len(chosen & rejected) / max(len(chosen | rejected), 1)


class Auditor:
    """Looks at every example once and keeps the sketches of its prompt and answers in a folder."""

    def __init__(self, folder: Path, similarity: float) -> None:
        folder.mkdir(parents=True)
        self.similarity = similarity
        self.texts: dict[RowKind, TextCounts] = {}
        self.pairs = PairCounts()
        # Apart: a long system prompt that many rows share would outweigh what they ask
        self._systems = SketchWriter(folder / "systems")
        self._questions = SketchWriter(folder / "questions")
        self._answers = SketchWriter(folder / "answers")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        for writer in (self._systems, self._questions, self._answers):
            writer.__exit__(*exception)

    def add(self, kind: RowKind, examples: Sequence[Example], keys: Keys) -> None:
        """Count a batch of examples and sketch their texts."""
        counts = self.texts.setdefault(kind, TextCounts())
        for example, key in zip(examples, keys.tolist(), strict=True):
            counts.add(example, key)
            if isinstance(example, Pair):
                self.pairs.add(example)
        if examples:
            self._systems.add([_said_first(example, ("system", "developer")) for example in examples])
            self._questions.add([_said_first(example, ("user",)) for example in examples])
            self._answers.add([_answers(example) for example in examples])

    def indices(self) -> tuple[NearIndex, NearIndex]:
        """Return what finds prompts that are alike, and examples that are alike in prompt and answers."""
        prompts = [self._systems.read(), self._questions.read()]
        return NearIndex(prompts, self.similarity), NearIndex([*prompts, self._answers.read()], self.similarity)

    def report(self, fates: Fates, prompts: NearIndex) -> DataAudit:
        """Return what was found; to be called when the splits are drawn and leaks are not yet removed."""
        return DataAudit(
            similarity=self.similarity,
            texts={
                kind: _text_audit(counts, _of(fates.table, kind), fates.table, prompts)
                for kind, counts in self.texts.items()
            },
            preference=_preference_audit(self.pairs, fates) if self.pairs.pairs else None,
            overlaps=_overlaps(fates, prompts),
        )


def _said_first(example: Example, roles: tuple[str, ...]) -> str:
    """Return what some roles say before the first answer."""
    return "\n".join(message["content"] for message in opening(example) if message["role"] in roles)


def _answers(example: Example) -> str:
    """Return all that comes after the opening, tools and calls of tools as JSON."""
    tools = [json.dumps(example.tools)] if example.tools else []
    if isinstance(example, Pair):
        later = [as_written(message) for message in example.prompt[len(opening(example)) :]]
        return "\n".join([*tools, *later, example.chosen, example.rejected])
    return "\n".join([*tools, *map(as_written, example.messages[len(opening(example)) :])])


def _of(table: Records, kind: RowKind) -> Indices:
    return np.flatnonzero(table["kind"] == KINDS.index(kind))


def _text_audit(counts: TextCounts, own: Indices, table: Records, prompts: NearIndex) -> TextAudit:
    distinct = own[np.sort(np.unique(table["prompt"][own], return_index=True)[1])]
    near = np.zeros(len(table), dtype=bool)
    for later, _ in prompts.links(distinct):
        near[later] = True
    return TextAudit(
        examples=len(own),
        prompts=len(distinct),
        near_prompts=int(near.sum()),
        duplicate_answers=len(own) - len(np.unique(table["answer"][own])),
        short_answers=counts.short,
        non_printing=counts.invisible,
        private={kind: counts.private[kind] for kind in ("e-mail", "phone", "key")},
        languages=dict(counts.languages().most_common()),
        language_sample=counts.language_sample,
    )


def _preference_audit(counts: PairCounts, fates: Fates) -> PreferenceAudit:
    different = max(counts.pairs - counts.identical, 1)
    return PreferenceAudit(
        pairs=counts.pairs,
        identical=counts.identical,
        contradictory=fates.count("contradictory pair"),
        chosen_longer=counts.longer / different,
        longer_wins=(counts.longer + counts.equal_length / 2) / different,
        overlap=counts.overlap / different,
    )


def _overlaps(fates: Fates, prompts: NearIndex) -> list[Overlap]:
    """Return what sets of examples have in common: training sets with held-out ones, and the kinds with each other."""
    sets = {
        f"{name}/{split}": items
        for kind, name in enumerate(KINDS)
        for number, split in enumerate(SPLITS)
        if len(items := fates.of(kind, number))
    }
    found = []
    for first, second in combinations(sets, 2):
        items, others = sets[first], sets[second]
        distinct = items[np.unique(fates.table["opening"][items], return_index=True)[1]]
        exact = np.isin(fates.table["opening"][distinct], fates.table["opening"][others])
        near = prompts.found_in(distinct[~exact], others)
        found.append(Overlap(first=first, second=second, exact=int(exact.sum()), near=int(near.sum())))
    return found
