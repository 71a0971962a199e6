"""The trackers of transformers: named in the configuration, and run by its own callbacks."""

from collections.abc import Sequence

from llm_engineering.errors import ConfigError


def require_trackers(names: Sequence[str]) -> None:
    """Refuse a tracker that transformers does not know, or whose package it does not find.

    Raises:
        ConfigError: Says which.
    """
    from transformers.integrations import integration_utils

    known = sorted(integration_utils.INTEGRATION_TO_CALLBACK)
    found = integration_utils.get_available_reporting_integrations()
    for name in names:
        if name not in known:
            raise ConfigError(
                f"tracking.report_to names {name!r}, which transformers does not know. It knows: {', '.join(known)}."
            )
        if name not in found:
            raise ConfigError(
                f"tracking.report_to names {name!r}, whose package is not installed. Install it, or name one that is: "
                f"{', '.join(found) or 'there is none'}."
            )
