import pytest

from llm_engineering.errors import ImageError
from steps.runtime.caching import packages
from steps.runtime.context import require_same_packages


def test_the_packages_that_a_run_was_submitted_with_are_good_to_compute_on() -> None:
    require_same_packages(packages(), packages())


def test_builds_of_one_version_count_as_the_same() -> None:
    require_same_packages({"torch": "2.13.0+cpu"}, {"torch": "2.13.0+cu130", "unsloth": "1"})


def test_every_package_that_differs_or_is_missing_is_named() -> None:
    with pytest.raises(ImageError) as refused:
        require_same_packages(
            {"torch": "2.13.0+cpu", "trl": "1.14.2", "unsloth": "2026.10.7"}, {"torch": "2.13.0", "trl": "1.13.0"}
        )
    assert str(refused.value) == (
        "The image of this step has other packages than the run was submitted with: trl 1.13.0 (submitted: 1.14.2), "
        "unsloth missing (submitted: 2026.10.7). Build the image of this code (`make image`), or submit with the "
        "packages of the image."
    )
