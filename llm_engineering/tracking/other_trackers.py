"""The trackers of transformers: named in the configuration, and run by its own callbacks."""

from collections.abc import Sequence

from llm_engineering.errors import ConfigError


def require_trackers(names: Sequence[str]) -> None:
    """Refuse a tracker that transformers does not know, or does not find ready.

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
                f"tracking.report_to names {name!r}, which transformers cannot use here: its package is not installed, "
                f"or it has no key. Mend that, or name one that it can: {', '.join(found) or 'there is none'}."
            )
