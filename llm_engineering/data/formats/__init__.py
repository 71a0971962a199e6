"""From the columns people have to conversations and preference pairs.

A format is one function in ``conversations`` or ``preferences`` and one line in ``registry``. The function gets a row
whose columns already have the format's names, and raises :class:`RowProblem` for a row that cannot be used.
"""

from llm_engineering.data.formats.choice import Reading, choose_format
from llm_engineering.data.formats.content import Conversation, Example, Message, Pair, RowProblem
from llm_engineering.data.formats.registry import EXTRA_COLUMNS, FORMATS, SYNONYMS, Format
from llm_engineering.data.formats.turns import check_messages

__all__ = [
    "EXTRA_COLUMNS",
    "FORMATS",
    "SYNONYMS",
    "Conversation",
    "Example",
    "Format",
    "Message",
    "Pair",
    "Reading",
    "RowProblem",
    "check_messages",
    "choose_format",
]
