"""The code that the jobs of a run are sent: this checkout without what only this machine uses."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePath

from zenml.utils import code_utils

LEFT_OUT = ("benchmarks", "docs", "tests", "tools/stack_rehearsal")


class SentCode(code_utils.CodeArchive):
    """ZenML's code archive, which holds every file that git does not ignore, without the folders left out."""

    def get_files(self) -> dict[str, str]:
        """Return the files by their place in the archive."""
        files = super().get_files()
        return {place: path for place, path in files.items() if not any(map(PurePath(place).is_relative_to, LEFT_OUT))}


@contextmanager
def sending_code() -> Iterator[None]:
    """Let ZenML upload this archive for the time of the block: it asks nobody which files belong into its own."""
    theirs = code_utils.CodeArchive
    vars(code_utils)["CodeArchive"] = SentCode
    try:
        yield
    finally:
        vars(code_utils)["CodeArchive"] = theirs
