"""From raw rows to training rows, in batches: every row is read, held against the rules, tokenised and accounted for.

The rows are gone through twice. The first time leaves keys and sketches of all examples in arrays, by which the rules
decide. The second time makes training rows of the examples that are kept. What is held in memory are the arrays alone.
"""

import json
from array import array
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from llm_engineering.config.data import DataConfig
from llm_engineering.data.audit import Auditor
from llm_engineering.data.examples import (
    KEPT,
    KINDS,
    REASONS,
    RECORD,
    SPLITS,
    ReadRow,
    SourceRows,
    records,
)
from llm_engineering.data.formats import Conversation, Example, RowProblem
from llm_engineering.data.ledger import RULES, Quarantine, Tally, ledgers, notes, require_enough
from llm_engineering.data.lengths import Lengths
from llm_engineering.data.preview import Preview
from llm_engineering.data.rendering import ChatRenderer
from llm_engineering.data.rowsets import PREFERENCE, QUESTIONS, SFT, RowWriter
from llm_engineering.data.rules import (
    TRAIN,
    Fates,
    draw_splits,
    drop_duplicates,
    drop_leaks,
    leave_out,
    mix_sources,
    prove_splits,
    repeated_prompts,
)
from llm_engineering.data.tokens import RowMaker, TrainingRow
from llm_engineering.errors import DataError
from llm_engineering.models.chat import ChatTokenizer
from llm_engineering.progress import Work
from llm_engineering.reports.data import DataAudit, DatasetReport
from llm_engineering.reports.folders import Folder, RowKind, RowSet, Split, hash_files

MASK_PROOF = (
    "Every row has trained tokens, every trained turn that is whole ends with EOS and carries loss on it, no row "
    "begins with two BOS, and every prompt that is whole has the tokens that a server would feed the model."
)
SPLIT_PROOF = "No prompt of eval or test stands in a train split at any turn, SFT and preference rows taken together."
QUESTIONS_ASKED = 64
"""Training prompts that are kept as questions where none are sampled from."""


@dataclass
class PreparedRows:
    """What formatting hands on."""

    sft: RowSet
    preference: RowSet
    questions: RowSet
    quarantine: Folder
    report: DatasetReport


def prepare_rows(raw: RowSet, data: DataConfig, chat: ChatTokenizer, seed: int, folder: Path) -> PreparedRows:
    """Turn raw rows into tokenised training rows, pairs and questions, and account for every row.

    Rows are dropped for a reason from a closed list, splits are drawn by prompt over SFT and preference rows together,
    and nothing is dropped or cut after this function.

    Args:
        raw: From :func:`~llm_engineering.data.loading.load_raw_rows`.
        data: The rules.
        chat: Tokenizer with chat template.
        seed: Seeds splits, mix and preview.
        folder: Gets the folders ``sft``, ``preference``, ``questions`` and ``quarantine``.

    Raises:
        DataError: A rule says ``error``, too many rows are dropped, or none is left to train on.
        ProofError: The mask or the splits are not what they have to be.
    """
    sources = [SourceRows.open(raw, i, data.source_names[i], *source) for i, source in enumerate(data.row_sources)]
    rows = sum(raw.rows.values())
    with Work("checked", rows) as work:
        fates, audit = _decide(sources, data, seed, folder / "sketches", work)
    with _Preparation(sources, fates, data, chat, seed, folder) as preparation, Work("tokenised", rows) as work:
        for source in sources:
            for batch in source.batches():
                preparation.take(source, batch)
                work(len(batch))
        return preparation.finish(audit)


def _decide(
    sources: list[SourceRows], data: DataConfig, seed: int, folder: Path, work: Work
) -> tuple[Fates, DataAudit | None]:
    """Go through all rows once, and return what the rules make of every example."""
    tables = [np.zeros(0, dtype=RECORD)]
    turn_examples, turn_keys = array("q"), array("Q")
    with ExitStack() as stack:
        auditor = stack.enter_context(Auditor(folder, data.rules.similarity)) if data.audit else None
        done = 0
        for source in sources:
            for batch in source.batches():
                table, turns = records(batch, source)
                for position, key in turns:
                    turn_examples.append(done + position)
                    turn_keys.append(key)
                if auditor:
                    auditor.add(source.kind, [e for row in batch for e in row.examples], table["prompt"])
                tables.append(table)
                done += len(table)
                work(len(batch))
        fates = Fates(
            np.concatenate(tables),
            np.frombuffer(turn_examples, dtype=np.int64),
            np.frombuffer(turn_keys, dtype=np.uint64),
            [source.source for source in sources],
            lambda source, row: sources[source].place(row),
        )
        prompts, near = auditor.indices() if auditor else (None, None)
        leave_out(fates)
        drop_duplicates(fates, data, near)
        draw_splits(fates, data, prompts, seed)
        audit = auditor.report(fates, prompts) if auditor and prompts else None
    drop_leaks(fates, data, prompts)
    mix_sources(fates, seed)
    return fates, audit


class _Preparation:
    """Makes training rows of the examples that are kept, and keeps the books."""

    def __init__(
        self, sources: list[SourceRows], fates: Fates, data: DataConfig, chat: ChatTokenizer, seed: int, folder: Path
    ) -> None:
        self.fates, self.data, self.chat, self.folder = fates, data, chat, folder
        self.maker = RowMaker(data, ChatRenderer(chat.tokenizer, data.train_on))
        scored = np.unique(fates.table["source"][np.isfinite(fates.table["score_ratio"])]).tolist()
        self.tallies = [
            Tally(s.name, s.source, s.kind, s.reading.format.name, s.unused, scored=s.index in scored) for s in sources
        ]
        self.lengths = Lengths()
        self.preview = Preview(fates, seed)
        self.next = 0  # the next example's place in the arrays
        self.asked_of: RowKind = "sft" if len(fates.of(KINDS.index("sft"), TRAIN)) else "preference"
        self.asked: set[int] = set()
        self._open = ExitStack()

    def __enter__(self) -> "_Preparation":
        enter = self._open.enter_context
        self.rows = {"sft": enter(RowWriter(self.folder / "sft", SFT))}
        self.rows["preference"] = enter(RowWriter(self.folder / "preference", PREFERENCE))
        self.questions = enter(RowWriter(self.folder / "questions", QUESTIONS))
        self.quarantine = enter(Quarantine(self.folder / "quarantine"))
        return self

    def __exit__(self, *exception: object) -> None:
        self._open.close()

    def take(self, source: SourceRows, batch: list[ReadRow]) -> None:
        """Give every row of a batch its fate, and write the training rows that it gives."""
        first = self.next
        owners = [row for row in batch for _ in row.examples]
        examples = [example for row in batch for example in row.examples]
        self.next += len(examples)
        kept = [i for i in range(len(examples)) if self.fates.reason[first + i] == KEPT]
        places = [owners[i].raw["place"] for i in kept]
        made = iter(self.maker.make([examples[i] for i in kept], source.source, places))
        results = [
            next(made) if reason == KEPT else RowProblem(REASONS[reason], RULES[REASONS[reason]])
            for reason in self.fates.reason[first : self.next].tolist()
        ]
        for i in kept:
            if isinstance(problem := results[i], RowProblem):
                self.fates.reason[first + i] = REASONS.index(problem.reason)
        self._account(source, batch, results, first)
        self._write(source, owners, examples, results, first)

    def _account(
        self, source: SourceRows, batch: list[ReadRow], results: list[TrainingRow | RowProblem], first: int
    ) -> None:
        """Count the one fate of every row; a row is kept if one of its examples is."""
        tally, at = self.tallies[source.index], 0
        for row in batch:
            own = results[at : at + len(row.examples)]
            kept = [one for one in own if isinstance(one, TrainingRow)]
            tally.rows += 1
            if kept:
                split = next(i for i, one in enumerate(own) if isinstance(one, TrainingRow))
                tally.keep(SPLITS[self.fates.split[first + at + split]], kept)
                items = slice(first + at, first + at + len(own))
                tally.found.update(reason for reason, mask in self.fates.found.items() if mask[items].any())
            else:
                problem = row.problem or next(one for one in own if isinstance(one, RowProblem))
                if problem.reason == "too long" and self.data.too_long == "error":
                    raise DataError(f"{row.raw['place']} is too long: {problem}. Set data.too_long to drop.")
                tally.drop(problem.reason, row.raw["place"], str(problem))
                self.quarantine.add(tally, row.raw, problem.reason, str(problem))
            at += len(own)

    def _write(
        self,
        source: SourceRows,
        owners: list[ReadRow],
        examples: list[Example],
        results: list[TrainingRow | RowProblem],
        first: int,
    ) -> None:
        kind = source.kind
        for number, split in enumerate(SPLITS):
            chosen = [
                (i, row)
                for i, row in enumerate(results)
                if isinstance(row, TrainingRow) and self.fates.split[first + i] == number
            ]
            rows = [row for _, row in chosen]
            columns = {"source": [source.index] * len(rows), "row": [owners[i].raw["row"] for i, _ in chosen]}
            if kind == "sft":
                columns |= {"input_ids": [row.input_ids for row in rows], "labels": [row.labels for row in rows]}
            else:
                columns["prompt_ids"] = [row.prompt_ids for row in rows]
                columns["chosen_ids"] = [row.answers[0] for row in rows]
                columns["rejected_ids"] = [row.answers[1] for row in rows]
            self.rows[kind].write(split, columns)
            self.lengths.add(kind, split, rows)
            for i, row in chosen:
                self.preview.offer(
                    first + i,
                    kind,
                    row,
                    self.chat.tokenizer,
                    source=source.name,
                    number=owners[i].raw["row"],
                    split=split,
                )
            if kind == self.asked_of:
                self._ask(source, split, [(owners[i], examples[i], row, first + i) for i, row in chosen])

    def _ask(self, source: SourceRows, split: Split, chosen: list[tuple[ReadRow, Example, TrainingRow, int]]) -> None:
        """Write every distinct prompt once; of the training prompts only a few, where none are sampled from."""
        columns: dict[str, list[object]] = {name: [] for name in QUESTIONS}
        for owner, example, row, index in chosen:
            key = int(self.fates.table["prompt"][index])
            asked = self.questions.rows.get(split, 0) + len(columns["unit"])
            if key in self.asked or (split == "train" and not self.data.sampling and asked >= QUESTIONS_ASKED):
                continue
            self.asked.add(key)
            answer = example.answer if isinstance(example, Conversation) else example.chosen
            columns["unit"].append(source.extra(owner, "unit") or f"{key:016x}")
            columns["prompt"].append(json.dumps(example.prompt, ensure_ascii=False))
            columns["prompt_ids"].append(row.prompt_ids)
            columns["reference"].append(source.extra(owner, "reference") or answer)
        self.questions.write(split, columns)

    def finish(self, audit: DataAudit | None) -> PreparedRows:
        """Hold the books against the rules, prove the splits, and return everything."""
        self._open.close()
        repeated = self.fates.table["source"][repeated_prompts(self.fates)]
        for tally, number in zip(self.tallies, np.bincount(repeated, minlength=len(self.tallies)), strict=True):
            tally.repeated_prompts = int(number)
        require_enough(self.tallies, self.data)
        prove_splits(self.fates)
        sft, preference = self.rows["sft"].close(), self.rows["preference"].close()
        quarantine = self.folder / "quarantine"
        report = DatasetReport(
            sources=ledgers(self.tallies),
            template=self.chat.template,
            eos_token=self.maker.renderer.eos_token,
            tokens=self.lengths.tokens,
            trained_tokens=self.lengths.trained_tokens,
            longest=self.lengths.longest,
            lengths=self.lengths.histograms,
            turns=self.lengths.turns,
            fingerprints={"sft": sft.sha256, "preference": preference.sha256},
            mask_proof=MASK_PROOF,
            split_proof=SPLIT_PROOF,
            audit=audit,
            examples=self.preview.rows(),
            notes=[*self.chat.notes, *notes(self.tallies, self.data)],
        )
        return PreparedRows(
            sft, preference, self.questions.close(), Folder(path=quarantine, sha256=hash_files(quarantine)), report
        )
