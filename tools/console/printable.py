"""Text that comes from files, models or errors, as a terminal may show it."""


def printable(text: str) -> str:
    """Return text without characters that could move the cursor or colour the terminal."""
    return "".join(char if char.isprintable() or char == "\n" else "\N{REPLACEMENT CHARACTER}" for char in text)
