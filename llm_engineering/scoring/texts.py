"""What generated answers are like, whatever they say: loops, compression, variety, refusals."""

import re
import zlib
from collections.abc import Sequence

from llm_engineering.models.generation import Answer

LOOP_TIMES = 3
LOOP_TOKENS = 12
REFUSAL_WITHIN = 200
"""Characters at an answer's start in which a refusal is looked for."""
REFUSALS = (
    *(
        f"i {cannot} {verb}"
        for cannot in ("cannot", "can't", "can not")
        for verb in ("help", "assist", "provide", "answer", "fulfill", "comply", "do that", "engage", "support")
    ),
    *(
        f"{am} {unable}"
        for am in ("i'm", "i am")
        for unable in ("unable to", "not able to", "not comfortable", "sorry, but i", "afraid i can")
    ),
    "i won't be able to",
    "i must decline",
    "i have to decline",
    "i must refuse",
    "i apologize, but",
    "as an ai",
    "against my guidelines",
)
"""English phrases that refuse, in small letters."""
_WORD = re.compile(r"\w+")


def repetition(answer: Answer) -> float:
    """Return the share of an answer's token trigrams that stood in it before; 0 for a short answer."""
    ids = answer.token_ids
    grams = [tuple(ids[i : i + 3]) for i in range(len(ids) - 2)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def loops(answer: Answer) -> bool:
    """Return whether an answer ends in one block of tokens over and over, three times and twelve tokens at least."""
    token_ids = answer.own_token_ids
    length = len(token_ids)
    for period in range(1, length // LOOP_TIMES + 1):
        looped = max(LOOP_TIMES * period, LOOP_TOKENS)
        if looped > length:
            return False
        if all(token_ids[i] == token_ids[i - period] for i in range(length - looped + period, length)):
            return True
    return False


def compression_ratio(answer: Answer) -> float:
    """Return an answer's bytes in UTF-8 over those that zlib makes of them: the more it repeats itself, the more.

    Shaib et al. 2024 (arXiv:2403.00553) find it the best cheap measure of repetition. It grows with the length, and is
    below 1 for a few words.
    """
    raw = answer.text.encode("utf-8", "replace")
    return len(raw) / len(zlib.compress(raw, 9))


def unfinished(answer: Answer) -> bool:
    """Return whether an answer was cut off."""
    return not answer.finished


def token_count(answer: Answer) -> int:
    """Return an answer's length in tokens, EOS included."""
    return len(answer.token_ids)


def word_count(answer: Answer) -> int:
    """Return an answer's length in words."""
    return len(words(answer.text))


def words(text: str) -> list[str]:
    """Return a text's words in small letters."""
    return _WORD.findall(text.casefold())


def distinct_words(texts: Sequence[str]) -> float | None:
    """Return distinct-1."""
    return distinct(texts, 1)


def distinct_word_pairs(texts: Sequence[str]) -> float | None:
    """Return distinct-2."""
    return distinct(texts, 2)


def distinct(texts: Sequence[str], size: int) -> float | None:
    """Return how many of all word n-grams of the texts are different ones; None where there is none.

    Li et al. 2016 (arXiv:1510.03055), section 5: distinct-1 and distinct-2. It falls with the number of texts, so that
    only answers to the same questions compare.
    """
    split = [words(text) for text in texts]
    grams = [tuple(each[i : i + size]) for each in split for i in range(len(each) - size + 1)]
    return len(set(grams)) / len(grams) if grams else None


def refuses(answer: Answer) -> bool:
    """Return whether an answer begins with one of the phrases that refuse; English alone.

    A phrase may stand in an answer that helps, and a refusal may be worded otherwise: a rate of them compares models,
    and proves nothing about one answer.
    """
    start = " ".join(answer.text[:REFUSAL_WITHIN].casefold().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'").split())
    return any(phrase in start for phrase in REFUSALS)
