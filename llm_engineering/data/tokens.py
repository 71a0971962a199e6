"""Examples as training rows: rendered, cut to length, and proven to carry loss as they should."""

from collections.abc import Sequence
from dataclasses import dataclass

from llm_engineering.config.data import DataConfig, RowSource
from llm_engineering.data.formats import Example, RowProblem
from llm_engineering.data.rendering import ChatRenderer, Rendered
from llm_engineering.data.rowsets import IGNORED
from llm_engineering.errors import ConfigError, DataError, ProofError


@dataclass
class TrainingRow:
    """One example as the trainer gets it, and what it lost on the way."""

    prompt_ids: list[int]
    prompt_labels: list[int]
    answers: list[list[int]]
    prompt_cut: int | None = None
    """Position before which prompt tokens were cut out."""
    prompt_lost: int = 0
    answers_lost: tuple[int, ...] = ()
    """Tokens that each answer lost at its end."""
    trained_lost: int = 0

    @property
    def tokens_lost(self) -> int:
        """Tokens that were cut, of prompt and answers."""
        return self.prompt_lost + sum(self.answers_lost)

    @property
    def answers_cut(self) -> int:
        """Answers that lost their end."""
        return sum(lost > 0 for lost in self.answers_lost)

    @property
    def input_ids(self) -> list[int]:
        """A conversation's tokens."""
        return self.prompt_ids + self.answers[0]

    @property
    def labels(self) -> list[int]:
        """A conversation's labels."""
        return self.prompt_labels + self.answers[0]

    @property
    def turns(self) -> int:
        """Answers that carry loss: runs of labels."""
        if self.prompt_labels.count(IGNORED) == len(self.prompt_labels):
            return 1
        trained = [label != IGNORED for label in self.prompt_labels]
        return 1 + sum(now and not before for before, now in zip([False, *trained], trained, strict=False))

    @property
    def length(self) -> int:
        """Tokens that ``max_length`` counts: of the prompt and the longer answer."""
        return len(self.prompt_ids) + max(map(len, self.answers))

    @property
    def tokens(self) -> int:
        """Tokens that the trainer sees: for a pair the prompt counts twice, once with each answer."""
        return len(self.prompt_ids) * len(self.answers) + sum(map(len, self.answers))

    @property
    def trained_tokens(self) -> int:
        """Tokens that carry loss."""
        return len(self.prompt_ids) - self.prompt_labels.count(IGNORED) + sum(map(len, self.answers))


class RowMaker:
    """Turns examples into training rows."""

    def __init__(self, data: DataConfig, renderer: ChatRenderer) -> None:
        self.data = data
        self.renderer = renderer

    def make(
        self, examples: Sequence[Example], source: RowSource, places: Sequence[str]
    ) -> list[TrainingRow | RowProblem]:
        """Return the training row of every example, or why there is none.

        Args:
            examples: Of one source.
            source: Says which end of a prompt stays.
            places: Where each example stands, for messages.

        Raises:
            DataError: A row is too long and ``data.too_long`` is ``error``, or it begins with two BOS.
            ProofError: A row does not end with a trained EOS.
        """
        made: list[TrainingRow | RowProblem] = []
        for rendered, place in zip(self.renderer.render(examples), places, strict=True):
            if isinstance(rendered, RowProblem):
                made.append(rendered)
                continue
            row = self._fit(rendered, source, place)
            if isinstance(row, TrainingRow):
                self._prove(row, place)
            made.append(row)
        return made

    def _fit(self, rendered: Rendered, source: RowSource, where: str) -> TrainingRow | RowProblem:
        """Return a row that is short enough: the prompt is cut first, then the answers."""
        longest = max(map(len, rendered.answers))
        row = TrainingRow(rendered.prompt_ids, rendered.prompt_labels, rendered.answers)
        most = min(self.data.max_prompt_length or self.data.max_length, self.data.max_length)
        prompt = len(row.prompt_ids)
        if prompt <= most and prompt + longest <= self.data.max_length:
            return row
        if self.data.too_long != "truncate_prompt":
            return self._refuse(prompt, longest, where)
        room = self.data.max_length - longest
        self._cut_prompt(row, min(most, max(room, self.data.max_length // 2)), rendered.closing, source)
        left = self.data.max_length - len(row.prompt_ids)
        row.answers_lost = tuple(max(len(answer) - left, 0) for answer in row.answers)
        row.trained_lost += sum(row.answers_lost)
        row.answers = [answer[:left] for answer in row.answers]
        if len(row.answers) > 1 and row.answers[0] == row.answers[1]:
            return RowProblem("too long", f"its answers are the same within data.max_length {self.data.max_length}")
        return row

    def _refuse(self, prompt: int, longest: int, where: str) -> RowProblem:
        if self.data.max_prompt_length and prompt > self.data.max_prompt_length:
            long, limit = f"{prompt} tokens of prompt", f"data.max_prompt_length is {self.data.max_prompt_length}"
        else:
            long, limit = f"{prompt + longest} tokens", f"data.max_length is {self.data.max_length}"
        if self.data.too_long == "drop":
            return RowProblem("too long", f"{long}; {limit}")
        raise DataError(f"{where} has {long}; {limit}. Raise it, or set data.too_long to truncate_prompt or drop.")

    def _cut_prompt(self, row: TrainingRow, length: int, closing: int, source: RowSource) -> None:
        """Take tokens out of a prompt at its start, behind a BOS; or before the template's closing tokens.

        Where the template writes BOS in later turns too, no two of them come to stand side by side.
        """
        lost = len(row.prompt_ids) - length
        if lost <= 0:
            return
        bos = self.renderer.tokenizer.bos_token_id
        start = int(row.prompt_ids[0] == bos)
        if source.truncate == "keep_start":
            start = max(length - closing, start)
        if row.prompt_ids[max(start - 1, 0) : start] == row.prompt_ids[start + lost : start + lost + 1] == [bos]:
            lost += 1
        row.trained_lost += lost - row.prompt_labels[start : start + lost].count(IGNORED)
        row.prompt_ids = row.prompt_ids[:start] + row.prompt_ids[start + lost :]
        row.prompt_labels = row.prompt_labels[:start] + row.prompt_labels[start + lost :]
        row.prompt_cut, row.prompt_lost = start, lost

    def _prove(self, row: TrainingRow, where: str) -> None:
        """Check one row: a trained EOS at the end of every whole answer, no second BOS before the first.

        A BOS further on is the template's own, which may begin every turn with it.
        """
        eos, bos = self.renderer.eos_token_id, self.renderer.tokenizer.bos_token_id
        lost = row.answers_lost or (0,) * len(row.answers)
        if any(answer[-1:] != [eos] for answer, cut in zip(row.answers, lost, strict=True) if not cut):
            raise ProofError(
                f"{where} does not end with a trained EOS. Check model.special_tokens.eos and the template."
            )
        if bos is not None and row.prompt_ids[:2] == [bos, bos]:
            raise DataError(
                f"{where} begins with more than one BOS token {self.renderer.tokenizer.bos_token!r}. Take it once out "
                "of the chat template."
            )


def require_length(data: DataConfig, positions: int | None) -> None:
    """Refuse rows that are longer than the model's positions.

    Raises:
        ConfigError: ``data.max_length`` exceeds them.
    """
    if positions is not None and data.max_length > positions:
        raise ConfigError(
            f"data.max_length is {data.max_length}, but the model has {positions} positions. Lower it to {positions}."
        )
