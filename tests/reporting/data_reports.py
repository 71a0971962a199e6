"""Data reports to show: one in which everything occurs, and an empty one."""

from typing import Any

from llm_engineering.reports.data import (
    DataAudit,
    DatasetReport,
    Histogram,
    Overlap,
    PreferenceAudit,
    RenderedPart,
    RenderedRow,
    SourceLedger,
    TextAudit,
    Token,
)


def part(name: str, *pieces: str, trained: int = 0, cut_at: int | None = None, tokens_lost: int = 0) -> RenderedPart:
    """Return a part whose last ``trained`` tokens carry loss; what looks like a tag is a special token."""
    untrained = len(pieces) - trained
    tokens = [
        Token(text=piece, trained=index >= untrained, special=piece.startswith("<|"))
        for index, piece in enumerate(pieces)
    ]
    return RenderedPart.model_validate({"name": name, "tokens": tokens, "cut_at": cut_at, "tokens_lost": tokens_lost})


def pieces_of(text: str) -> list[str]:
    """Return words with the space before them, as most tokenizers cut text."""
    words = text.split(" ")
    return [words[0], *(f" {word}" for word in words[1:])]


def build_empty_data() -> DatasetReport:
    return DatasetReport(
        sources=[],
        template="chatml: named in the configuration",
        eos_token="<|im_end|>",
        tokens={},
        trained_tokens={},
        longest={},
        fingerprints={},
        mask_proof="No row was checked.",
        split_proof="No prompt is held out.",
        examples=[],
    )


def build_rich_data(**changes: Any) -> DatasetReport:
    """Return a report in which everything occurs: both kinds, a mix, cuts, an audit, and rows of every sort."""
    lengths = Histogram(
        edges=[64.0 * edge for edge in range(17)],
        counts=[
            120,
            1900,
            8200,
            19_400,
            31_000,
            40_200,
            38_000,
            27_100,
            16_900,
            9_800,
            5_100,
            2_800,
            1500,
            800,
            400,
            900,
        ],
    )
    report = DatasetReport(
        sources=_sources(),
        template="llama3: the model's own",
        eos_token="<|eot_id|>",
        tokens={
            "sft/train": 75_310_244,
            "sft/eval": 3_911_900,
            "preference/train": 8_061_440,
            "preference/test": 91_000,
        },
        trained_tokens={"sft/train": 33_020_118, "sft/eval": 1_703_990, "preference/train": 5_924_100},
        longest={"sft/train": 1024, "sft/eval": 1021, "preference/train": 1024, "preference/test": 871},
        lengths={"sft/train": lengths, "sft/eval": Histogram(edges=[0, 512, 1024], counts=[5200, 4100])},
        turns=Histogram(edges=[1, 2, 3, 4, 5, 6], counts=[180_000, 14_200, 6100, 1800, 950]),
        fingerprints={"sft": "b0f1" * 16, "preference": "77ac" * 16},
        mask_proof="Every row has a trained token; all 224,845 trained turns end in a trained EOS; one BOS at most.",
        split_proof="None of the 14,577 held-out prompts stands in a train split, across SFT and DPO.",
        audit=DataAudit(
            similarity=0.9,
            texts={"sft": _sft_texts(), "preference": _preference_texts()},
            preference=PreferenceAudit(
                pairs=24_931, identical=54, contradictory=12, chosen_longer=0.741, longer_wins=0.752, overlap=0.384
            ),
            overlaps=[
                Overlap(first="sft/train", second="sft/eval", exact=0, near=31),
                Overlap(first="sft/train", second="preference/test", exact=5, near=2),
                Overlap(first="preference/train", second="sft/train", exact=1204, near=77),
            ],
        ),
        examples=_examples(),
        notes=["412 of 250,100 rows dropped, exact duplicate (data.rules.exact_duplicate: drop)."],
    )
    return report.model_copy(update=changes)


def _sources() -> list[SourceLedger]:
    return [
        SourceLedger(
            kind="sft",
            source="data/conversations/2024-*/part-*.jsonl.zst",
            format="openorca",
            rows=250_100,
            train=198_640,
            eval=9_300,
            test=0,
            dropped={
                "unparsable": 3,
                "not text": 11,
                "bad role order": 920,
                "empty answer": 48,
                "filtered by rule": 30_000,
                "exact duplicate": 412,
                "near-duplicate": 10_210,
                "leaked into evaluation": 36,
                "special token in text": 2,
                "not renderable": 1,
                "too long": 517,
            },
            first_problem={
                "unparsable": "data/conversations/2024-03/part-0007.jsonl.zst, line 81,204: JSON ends in a string",
                "not text": "data/conversations/2024-01/part-0001.jsonl.zst, row 17: `response` is a list of 3 numbers",
                "bad role order": "data/conversations/2024-01/part-0001.jsonl.zst, row 91: `user` follows `user`",
                "near-duplicate": "data/conversations/2024-01/part-0002.jsonl.zst, row 4,410: nearly row 1,022",
            },
            examples=207_940,
            truncated=12_004,
            tokens_lost=1_310_220,
            trained_tokens_lost=88_017,
            answers_cut=31,
            repeated_prompts=3_310,
            asked="weight 2",
            share=0.9988,
        ),
        SourceLedger(
            kind="sft",
            source="extra.jsonl",
            format="alpaca",
            rows=250,
            train=238,
            eval=5,
            test=0,
            dropped={"empty answer": 5, "leaked into evaluation": 2},
            found={"exact duplicate": 7},
            first_problem={
                "empty answer": "extra.jsonl, line 17: `output` is blank",
                "exact duplicate": "extra.jsonl, line 40: repeats line 3",
            },
            examples=243,
            asked="count 250",
            share=0.0012,
        ),
        SourceLedger(
            kind="preference",
            source="org/ultra-pairs",
            format="chosen_rejected",
            rows=25_000,
            train=24_100,
            eval=700,
            test=134,
            dropped={"identical pair": 54, "contradictory pair": 12},
            first_problem={"identical pair": "org/ultra-pairs, row 5: chosen equals rejected"},
            examples=24_934,
            share=1.0,
        ),
    ]


def _sft_texts() -> TextAudit:
    return TextAudit(
        examples=219_100,
        prompts=215_777,
        near_prompts=9_204,
        duplicate_answers=1_811,
        short_answers=640,
        non_printing=17,
        private={"e-mail": 122, "phone": 31, "key": 2},
        languages={"en": 9_412, "de": 301, "fr": 120, "ar": 96, "zh": 71},
        language_sample=10_000,
    )


def _preference_texts() -> TextAudit:
    return TextAudit(
        examples=25_000,
        prompts=21_030,
        near_prompts=0,
        duplicate_answers=12,
        short_answers=1,
        non_printing=0,
        private={"e-mail": 4, "phone": 0, "key": 0},
        languages={"en": 10_000},
        language_sample=10_000,
    )


def _examples() -> list[RenderedRow]:
    head = ("<|begin_of_text|>", "<|start_header_id|>", "user", "<|end_header_id|>", "\n\n")
    turn = ("<|eot_id|>", "<|start_header_id|>", "assistant", "<|end_header_id|>", "\n\n")
    question = pieces_of("Why is the sky blue? Explain it to a child, in three sentences.")
    answer = pieces_of(
        "Sunlight is made of many colours. Air scatters blue light most. So blue reaches you from everywhere."
    )
    code = [
        "```",
        "python",
        "\n",
        "def",
        " add",
        "(a",
        ",",
        " b",
        "):",
        "\n",
        "   ",
        " return",
        " a",
        " +",
        " b",
        "\n",
        "```",
    ]
    long = pieces_of("Once upon a time there was a tokenizer that cut every word in two and kept both halves. " * 30)
    other = [
        "مرحبا",
        " بك",
        " في",
        " العالم",
        "!",
        " 👩‍👩‍👧‍👦",
        " 日本",
        "語",
        "の",
        "テスト",
        "\t",
        "a\x00b",
        "\u202eevil",
        " שלום",
    ]
    return [
        RenderedRow(
            kind="sft",
            source="extra.jsonl",
            row=12,
            split="train",
            parts=[part("conversation", *head, *question, *turn, *answer, "<|eot_id|>", trained=len(answer) + 1)],
        ),
        RenderedRow(
            kind="sft",
            source="data/conversations/2024-*/part-*.jsonl.zst",
            row=120_431,
            split="train",
            parts=[
                part(
                    "conversation",
                    *head,
                    *long,
                    *turn,
                    *code,
                    "<|eot_id|>",
                    trained=len(code) + 1,
                    cut_at=5,
                    tokens_lost=213,
                )
            ],
        ),
        RenderedRow(
            kind="preference",
            source="org/ultra-pairs",
            row=3,
            split="train",
            parts=[
                part("prompt", *head, *question, *turn, cut_at=5, tokens_lost=41),
                part("chosen", *answer, "<|eot_id|>", trained=len(answer) + 1),
                part("rejected", *long[:90], trained=90, cut_at=90, tokens_lost=1),
            ],
        ),
        RenderedRow(
            kind="sft",
            source="extra.jsonl",
            row=40,
            split="eval",
            parts=[part("conversation", *head, "<script>alert(1)</script>", *turn, *other, "<|eot_id|>", trained=15)],
        ),
    ]
