"""What the packages of an image were installed by, as one hash: ``python -m llm_engineering.checkup.requirements``."""

import hashlib
import json
import tomllib
from pathlib import Path

from llm_engineering.checkup.software import read_pins
from llm_engineering.errors import ImageError

SHOWN = 12
"""Characters of a hash in a message."""


def requirements_sha256(root: Path) -> str:
    """Return the hash over what a checkout requires and pins; comments and the order of lines do not count.

    Args:
        root: Has ``pyproject.toml`` and ``constraints.txt``.
    """
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {name: sorted(wanted) for name, wanted in project["optional-dependencies"].items()}
    pins = read_pins((root / "constraints.txt").read_text(encoding="utf-8"))
    content = [sorted(project["dependencies"]), extras, pins]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def require_current_image(image: str, built_of: str, checkout: str) -> None:
    """Refuse an image that was built of other requirements than the code has that is to run in it.

    Args:
        image: Its name.
        built_of: Its label ``llm-engineering.requirements``, which its variable LLM_ENGINEERING_REQUIREMENTS repeats.
        checkout: :func:`requirements_sha256` of the code.

    Raises:
        ImageError: They differ, or the image does not say.
    """
    if built_of == checkout:
        return
    of = f"of the requirements {built_of[:SHOWN]}" if len(built_of) == len(checkout) else "without saying of what"
    raise ImageError(
        f"The image {image} was built {of}, this code has {checkout[:SHOWN]}. Build it again with `make image`, and "
        "push it."
    )


if __name__ == "__main__":
    import sys

    sys.stdout.write(requirements_sha256(Path(__file__).parents[2]) + "\n")
