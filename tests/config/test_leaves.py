from llm_engineering.config.leaves import leaves


def test_blocks_within_blocks_are_flattened_under_the_keys_on_the_way() -> None:
    block = {"dpo": {"beta": 0.1, "of": {"more": [1]}}, "seed": 1, "empty": {}}
    assert dict(leaves(block)) == {"dpo.beta": 0.1, "dpo.of.more": [1], "seed": 1}
    assert dict(leaves(block, between=": "))["dpo: of: more"] == [1]


def test_what_is_a_block_is_for_the_caller_to_say() -> None:
    block = {"sft": {"epochs": {"low": 1, "high": 3}}}
    found = leaves(block, lambda value: value if isinstance(value, dict) and "low" not in value else None)
    assert dict(found) == {"sft.epochs": {"low": 1, "high": 3}}
