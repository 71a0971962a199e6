import json
from math import inf, nan

from steps.runtime.context import as_metadata


def test_metadata_holds_no_number_that_json_has_none_for() -> None:
    facts = {"sft": {"perplexity": nan}, "checks": [{"value": inf, "passed": False}], "questions": 3, "loss": 0.5}
    assert as_metadata(facts) == {
        "sft": {"perplexity": "nan"},
        "checks": [{"value": "inf", "passed": False}],
        "questions": 3,
        "loss": 0.5,
    }
    json.dumps(as_metadata(facts), allow_nan=False)
