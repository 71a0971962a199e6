import re

import pytest

from llm_engineering.embedded import zoo
from llm_engineering.errors import ConfigError
from llm_engineering.reports.evaluation import Judgement
from llm_engineering.scoring.checkers import exact, json_schema, load_checker, numeric, regex, require_references

RIGHT = Judgement(correct=True, preferred=True, score=1.0)
WRONG = Judgement(correct=False, preferred=False, score=0.0)
NO_FUNCTION = 3


def own_checker(answer: str, reference: str) -> Judgement:
    return Judgement(correct=answer == reference, preferred=False, score=0.5, flaws=2)


@pytest.mark.parametrize(
    ("answer", "reference", "judgement"),
    [
        ("Paris", "Paris", RIGHT),
        ("  paris\n", "PARIS", RIGHT),
        ("new \t york", "New York", RIGHT),
        ("STRASSE", "straße", RIGHT),
        ("Paris.", "Paris", WRONG),
        ("", "Paris", WRONG),
        ("newyork", "new york", WRONG),
    ],
)
def test_exact_looks_past_case_and_spacing(answer, reference, judgement):
    assert exact(answer, reference) == judgement


@pytest.mark.parametrize(
    ("answer", "reference", "judgement"),
    [
        ("The answer is 42.", "42", RIGHT),
        ("12 and 30 make 42", "42", RIGHT),
        ("42, or rather 43", "42", WRONG),
        ("1,234", "1234", RIGHT),
        ("It costs 1,234.50 euros, all in all", "= 1234.5", RIGHT),
        ("3.0", "3", RIGHT),
        ("-5", "-5", RIGHT),
        ("-5", "5", WRONG),
        ("4 - 9 = -5", "-5", RIGHT),
        ("between 3-5", "5", RIGHT),  # the hyphen of a range is no sign
        ("#### 7", "some steps #### 7", RIGHT),
        ("no number", "7", WRONG),
        ("7", "no number", WRONG),
        ("no number", "none either", WRONG),
    ],
)
def test_numeric_compares_the_last_numbers(answer, reference, judgement):
    assert numeric(answer, reference) == judgement


def test_checker_is_found_by_name_or_by_module_and_function():
    assert load_checker("exact") is exact
    assert load_checker("numeric") is numeric
    assert load_checker(f"{__name__}:own_checker")("a", "b") == own_checker("a", "b")
    told = "The fox is red."
    assert load_checker("llm_engineering.embedded.zoo:judge")(told, told) == zoo.judge(told, told)


@pytest.mark.parametrize(
    "name", ["exat", "no.such.module:judge", "json:no_such_function", "json", ":judge", "", "llm_engineering:"]
)
def test_unknown_checker_is_a_configuration_error(name):
    with pytest.raises(
        ConfigError, match=r"cannot be loaded .*Use exact, numeric, regex, json_schema or package\.module:function"
    ):
        load_checker(name)


def test_checker_that_cannot_be_called_is_a_configuration_error():
    with pytest.raises(ConfigError, match="is no function"):
        load_checker(f"{__name__}:NO_FUNCTION")


def leaving_checker(answer: str, reference: str) -> Judgement:
    raise SystemExit(0)


def talking_checker(answer: str, reference: str) -> str:
    return "yes"


def nan_checker(answer: str, reference: str) -> Judgement:
    return Judgement(correct=True, preferred=True, score=float("nan"))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("leaving_checker", "raised SystemExit .* on the answer 'forty-two'"),
        ("talking_checker", "returned str, not a Judgement, for the answer 'forty-two'"),
        ("nan_checker", "raised ValidationError .* on the answer 'forty-two'"),
    ],
)
def test_a_checker_that_fails_is_named_with_the_answer(function: str, message: str) -> None:
    checker = load_checker(f"{__name__}:{function}")
    with pytest.raises(ConfigError, match=re.compile(message, re.DOTALL)):
        checker("forty-two", "42")


@pytest.mark.parametrize(
    ("answer", "reference", "judgement"),
    [
        ("It is blue, I think.", r"\bblue\b", RIGHT),
        ("It is bluish.", r"\bblue\b", WRONG),
        ("Blue", "blue", WRONG),
        ("Blue", "(?i)blue", RIGHT),
        ("It is blue.", "^blue$", WRONG),
    ],
)
def test_regex_searches_the_pattern_in_the_answer(answer, reference, judgement):
    assert regex(answer, reference) == judgement


ANIMAL = '{"type": "object", "properties": {"legs": {"type": "integer"}}, "required": ["legs"]}'


@pytest.mark.parametrize(
    ("answer", "judgement"),
    [
        ('{"legs": 4}', RIGHT),
        (' {"legs": 4, "tail": true}\n', RIGHT),
        ('{"legs": "four"}', WRONG),
        ("{}", WRONG),
        ('Here it is: {"legs": 4}', WRONG),
        ('{"legs": NaN}', WRONG),
        ("", WRONG),
        ("[" * 100_000, WRONG),
    ],
)
def test_json_schema_wants_json_that_the_schema_allows_and_nothing_else(answer, judgement):
    assert json_schema(answer, ANIMAL) == judgement


def test_schemas_of_an_earlier_draft_are_read_as_such():
    earlier = '{"$schema": "http://json-schema.org/draft-07/schema#", "items": [{"type": "integer"}]}'
    assert json_schema("[1]", earlier) == RIGHT
    assert json_schema('["x"]', earlier) == WRONG


def test_nothing_is_fetched_for_a_schema():
    with pytest.raises(ConfigError, match=r"refers to 'http://example.com/x.json', which it does not hold"):
        json_schema("{}", '{"$ref": "http://example.com/x.json"}')


@pytest.mark.parametrize(
    ("checker", "reference", "message"),
    [
        (regex, "(", r"'\(' is no regular expression"),
        (json_schema, "no schema", "'no schema' is no JSON schema"),
        (json_schema, '{"type": "animal"}', "is no JSON schema"),
        (json_schema, '{"pattern": "("}', "is no JSON schema"),
    ],
)
def test_a_reference_that_a_checker_cannot_read_is_named_with_its_question(checker, reference, message):
    questions = [("Fine?", "{}"), ("What colour?", reference)]
    with pytest.raises(ConfigError, match=f"the question 'What colour\\?' does not fit the checker: .*{message}"):
        require_references(checker, questions)


def test_any_text_is_a_reference_for_the_other_checkers():
    require_references(exact, [("?", "(")])
