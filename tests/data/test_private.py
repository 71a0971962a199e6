"""Private data by pattern: what is found, what is not, and how long a search takes."""

import time

import pytest

from llm_engineering.data.private import mask_private, private_kinds

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9P"


@pytest.mark.parametrize(
    ("text", "private"),
    [
        ("Write to jane.doe+news@mail.example.co.uk, please.", "jane.doe+news@mail.example.co.uk"),
        ("<ann@example.org>", "ann@example.org"),
        ("mailto:ann@example.org", "ann@example.org"),
        ("müller@bücher.example", "müller@bücher.example"),
    ],
)
def test_mail_addresses_are_found(text: str, private: str) -> None:
    assert private_kinds(text) == ["e-mail"]
    assert mask_private(text) == text.replace(private, "•" * len(private))


@pytest.mark.parametrize(
    "number",
    [
        "+49 30 1234567",
        "+49 (0)30 123456",
        "+1 (555) 123-4567",
        "+14155550123",
        "+44 20 7946 0958",
        "555-123-4567",
        "555.123.4567",
        "(555) 123-4567",
        "1-800-555-1234",
        "030 12345678",
        "(030) 1234567",
        "0171-1234567",
        "0171/1234567",
        "01 23 45 67 89",
        "044 668 18 00",
    ],
)
@pytest.mark.parametrize("sentence", ["{}", "Call {}.", "tel:{}", "Her number, {}, is private.", "({})", "a,{},b"])
def test_telephone_numbers_are_found(number: str, sentence: str) -> None:
    text = sentence.format(number)
    assert private_kinds(text) == ["phone"]
    assert mask_private(text) == text.replace(number, "•" * len(number))


@pytest.mark.parametrize(
    "key",
    [
        "sk-proj-abcDEF1234567890abcDEF",
        "AKIAIOSFODNN7EXAMPLE",
        "ghp_0123456789abcdefghijABCDEFGHIJ012345",
        "xoxb-1234567890-abcdef",
        "hf_abcdefghijklmnopqrstuvwxyzABCDEF",
        "AIzaSyA-1234567890_abcdefghijklmnopqrst",
        JWT,
        "-----BEGIN RSA PRIVATE KEY-----\nMIIEabc+/=\n-----END RSA PRIVATE KEY-----",
        "-----BEGIN PRIVATE KEY-----",
    ],
)
@pytest.mark.parametrize("sentence", ["{}", "key={}", 'token: "{}"', "密钥{}。"])
def test_keys_are_found(key: str, sentence: str) -> None:
    text = sentence.format(key)
    assert private_kinds(text) == ["key"]
    assert mask_private(text) == text.replace(key, "•" * len(key))


@pytest.mark.parametrize(
    "text",
    [
        "2024-01-15",
        "15.01.2024 10:30",
        "01-15-2024 10:30:15",
        "2024-01-15T10:20:30.123456+01:00",
        "2024-01-15T10:20:30.123456Z",
        "20240115102030",
        "version 10.234.5678, python 3.11.7",
        "pi is 3.14159265, e is 2.718281828",
        "48.856613, 2.352222",
        "-12.345678 and +1.23456789",
        "10 100 1000",
        "2022 2023 2024",
        "12 345 678 inhabitants",
        "1,234,567,890",
        "192.168.100.200:8080 and 10.0.0.1",
        "255.255.255.0",
        "ISBN 978-3-16-148410-0",
        "ISBN 0-306-40615-2",
        "100\n200\n300\n4000",
        "0123456789",
        "x = 0x1F4 + 1000 - 2000",
        "for i in range(100, 1000, 10): a[i] += 200",
        "f3a1b2c4-1234-5678-9012-123456789012",
        "@property\ndef f(self): return self @ other.T",
        "npm install name@1.2.3",
        "task-oriented-dialogue-systems-of-today",
        "hf_hub and gh_pages and eyJ",
        "-----BEGIN CERTIFICATE-----",
        "",
    ],
)
def test_what_is_not_private_is_left_alone(text: str) -> None:
    assert private_kinds(text) == []
    assert mask_private(text) == text


def test_all_kinds_of_one_text_are_masked_and_its_length_stays() -> None:
    text = "😀 ann@example.org, +49 30 1234567, sk-0123456789abcdefghij 😀"
    assert private_kinds(text) == ["e-mail", "phone", "key"]
    assert mask_private(text) == f"😀 {'•' * 15}, {'•' * 14}, {'•' * 23} 😀"


LONG_TEXTS = {
    "signs": "@" * 100_000,
    "digits and dashes": "1-" * 50_000,
    "digits and spaces": "0 1" * 33_000,
    "digits": "1" * 100_000,
    "pluses": "+1" * 50_000,
    "open brackets": "+1 (" * 25_000,
    "dots, then a sign": "a.a.a." * 16_000 + "@",
    "letters, then a sign": "a" * 100_000 + " @",
    "sign, then dots": "a@" + "a." * 50_000,
    "sign, then dashes": "a@" + "-" * 100_000,
    "tokens": "eyJ" * 33_000,
    "tokens with dots": "eyJaaaaaaaaaa." * 7_000,
    "keys": "sk-" * 33_000,
    "beginnings": "-----BEGIN PRIVATE KEY-----" * 3_700,
    "capitals": "-----BEGIN " + "A" * 100_000,
}


@pytest.mark.parametrize("text", LONG_TEXTS.values(), ids=LONG_TEXTS)
def test_time_grows_with_the_text_and_not_with_its_square(text: str) -> None:
    started = time.process_time()
    assert len(mask_private(text)) == len(text)
    assert time.process_time() - started < 0.5  # quadratic, the quickest of them would take seconds
