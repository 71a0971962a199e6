"""What a step runs on, held against what its run was submitted with."""

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

from zenml import get_step_context

from llm_engineering.errors import ImageError


def require_submitted_packages() -> None:
    """Refuse to compute where the packages are not those that this step's run was submitted with.

    Raises:
        ImageError: A version differs, or a package is missing here.
    """
    submitted: Mapping[str, str] = get_step_context().pipeline_run.config.extra.get("packages", {})
    installed = {name: _installed(name) for name in submitted}
    require_same_packages(submitted, {name: found for name, found in installed.items() if found is not None})


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def require_same_packages(submitted: Mapping[str, str], running: Mapping[str, str]) -> None:
    """Refuse to compute on other packages than those in the step's cache key.

    The key is made where the run is submitted: a result of other versions would be found under it and taken for theirs.
    Builds of one version, such as ``2.13.0+cpu`` and ``2.13.0+cu130``, count as the same.

    Args:
        submitted: Versions by package, from :func:`steps.runtime.caching.packages` where the run was submitted.
        running: The same, here.

    Raises:
        ImageError: A version differs, or a package is missing here.
    """
    differing = [
        f"{name} {running.get(name, 'missing')} (submitted: {version})"
        for name, version in submitted.items()
        if _public(running.get(name)) != _public(version)
    ]
    if differing:
        raise ImageError(
            f"The image of this step has other packages than the run was submitted with: {', '.join(differing)}. Build "
            "the image of this code (`make image`), or submit with the packages of the image."
        )


def _public(version: str | None) -> str | None:
    return version and version.partition("+")[0]
