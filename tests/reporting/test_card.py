import re
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from markdown_it.token import Token

from llm_engineering.config.run import RunConfig
from llm_engineering.reporting.bundle import RunReports
from llm_engineering.reporting.card import CardFacts, base_license, code, escaped, fenced, render_card
from llm_engineering.reports.folders import Checkpoint
from llm_engineering.reports.promotion import Export, ExportParity
from llm_engineering.reports.training import MergeReport

HOSTILE = "](x) [a](https://bad.test) <script>x</script> `| **b** www.bad.test @you ![i](y) $x$ \x1b[31m\n# head\n---\n"


@pytest.fixture
def base(tmp_path: Path) -> Checkpoint:
    return Checkpoint(
        path=tmp_path, sha256="", kind="model", weights_sha256="ba5e" * 16, base="own/base", base_sha256=""
    )


@pytest.fixture
def facts(example_run: RunReports, base: Checkpoint) -> CardFacts:
    config = RunConfig.model_validate(
        {
            "name": "zoo",
            "model": {"base": "own/base", "revision": "v2"},
            "data": {"sft": [{"embedded": True}, {"path": "/home/ann/extra.jsonl"}, {"hub": "org/rows"}]},
            "export": {"dir": "/home/ann/out", "license": "mit"},
        }
    )
    run = example_run.model_copy(
        update={"run": example_run.run.model_copy(update={"code_commit": "c0ffee", "code_dirty": True})}
    )
    return CardFacts(config, base, run, positions=512, export=Export(format="merged"))


def with_(facts: CardFacts, **changes: object) -> CardFacts:
    values = {name: getattr(facts, name) for name in CardFacts.__dataclass_fields__}
    return CardFacts(**{**values, **changes})


def parsed(markdown: str) -> list[Token]:
    """Return all tokens of a card behind its front matter, those within lines too."""
    body = markdown.split("\n---\n", 1)[1]
    blocks = MarkdownIt("gfm-like", {"linkify": False}).parse(body)
    return [token for block in blocks for token in (block, *(block.children or []))]


def table(markdown: str, heading: str) -> list[list[str]]:
    section = markdown.split(f"## {heading}\n", 1)[1]
    lines = [line for line in section.split("\n## ")[0].splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def test_the_front_matter_is_what_the_hub_reads(facts: CardFacts, tmp_path: Path) -> None:
    (tmp_path / "card.md").write_text(render_card(facts))
    data = ModelCard.load(tmp_path / "card.md").data.to_dict()
    assert data == {
        "license": "mit",
        "base_model": "own/base",
        "datasets": ["org/rows"],
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["sft", "dpo", "trl", "zenml"],
    }


def test_what_is_not_known_is_called_unknown(facts: CardFacts, example_run: RunReports) -> None:
    config = RunConfig.model_validate({"model": {"base": "/home/ann/base"}})
    text = render_card(with_(facts, config=config, reports=example_run))
    assert "\nlicense: unknown\n" in text
    assert "base_model" not in text.split("\n---\n")[0]
    assert "| Licence of the base | unknown |" in text
    assert "| Code | unknown |" in text


def test_no_folder_of_the_machine_is_told(facts: CardFacts) -> None:
    config = facts.config.model_copy(update={"model": facts.config.model.model_copy(update={"base": "/home/ann/base"})})
    assert "/home/ann" not in render_card(facts)
    assert "/home/ann" not in render_card(with_(facts, config=config))


def test_data_counts_metrics_and_proofs_are_those_of_the_run(facts: CardFacts) -> None:
    text = render_card(facts)
    assert ["`embedded`", "sft", "messages", "", "apache-2.0", "2,184", "1,560", "192", "384", "48"] in [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| `emb")
    ]
    assert "| Right answers | 228 | 0.0 % (0.0 to 1.6 %) | 98.7 % (96.2 to 99.7 %) | 96.5 % (93.2 to 98.5 %) |" in text
    assert "On the test split: 684 questions, 40 preference pairs." in text
    assert "| weights kept | of step 150 |" in text
    assert "the loss before the first update was 0.693147, 0.693147 expected" in text
    assert "552 preference pairs were sampled from the SFT model" in text  # 512 + 40
    assert "commit `c0ffee`, with changes |" in text
    assert "The model was built for 512 tokens" in text


def test_a_promoted_sft_model_s_card_tells_nothing_of_dpo(facts: CardFacts) -> None:
    run = facts.reports
    assert run.decision is not None
    decision = run.decision.model_copy(update={"promoted": "sft"})
    merges: dict[str, MergeReport] = {"sft": run.merges["sft"]}
    sft = run.model_copy(update={"decision": decision, "merges": merges, "preferences": None})
    text = render_card(with_(facts, reports=sft))
    assert " by SFT → merge. " in text
    assert "### DPO" not in text
    assert "| Metric | Units | Base | SFT |" in text
    assert "- dpo\n" not in text.split("\n---\n")[0]


def test_an_export_tells_how_like_the_merged_model_it_is(facts: CardFacts) -> None:
    parity = ExportParity(
        prompts=16,
        positions=345,
        agreement=0.9913,
        kl_per_token=4.97e-5,
        max_logit_difference=0.2116,
        mean_logit_difference=0.032,
        least_agreement=0.95,
        most_kl=0.02,
    )
    export = Export(format="int8", megabytes=1.38, repository="me/zoo-int8", parity=parity)
    text = render_card(with_(facts, export=export))
    assert "| Same likeliest token | 99.1 % | at least 95.0 % |" in text
    assert "| KL from the merged model | 4.97e-05 nats a token | at most 0.02 |" in text
    assert 'place = "me/zoo-int8"' in text
    assert "Loading needs the package `bitsandbytes`." in text


def test_every_table_is_one(facts: CardFacts) -> None:
    tokens = parsed(render_card(facts))
    assert [token.type for token in tokens].count("table_open") == 6
    assert not [token for token in tokens if token.type == "inline" and token.content.startswith("|")]


def test_text_of_data_and_configuration_is_shown_as_it_is(facts: CardFacts) -> None:
    run = facts.reports
    assert run.dataset is not None
    assert run.decision is not None
    source = run.dataset.sources[0].model_copy(update={"source": HOSTILE, "format": HOSTILE})
    dataset = run.dataset.model_copy(
        update={"sources": [source], "template": HOSTILE, "mask_proof": HOSTILE, "eos_token": HOSTILE}
    )
    reports = run.model_copy(
        update={
            "dataset": dataset,
            "decision": run.decision.model_copy(update={"reason": HOSTILE}),
            "packages": {HOSTILE: HOSTILE},
        }
    )
    export = Export(format="merged", repository='x"\n```\n# head')
    plain, hostile = parsed(render_card(facts)), parsed(render_card(with_(facts, reports=reports, export=export)))
    kinds = ("link_open", "image", "html_inline", "strong_open", "s_open", "hr", "heading_open", "table_open", "fence")
    assert {kind: [t.type for t in hostile].count(kind) for kind in kinds} == {
        kind: [t.type for t in plain].count(kind) for kind in kinds
    }
    assert [t.content for t in hostile if t.type == "html_block"] == [
        t.content for t in plain if t.type == "html_block"
    ]
    assert "\x1b" not in render_card(with_(facts, reports=reports))


@pytest.mark.parametrize("text", ["a", "`", "``x`", "a`b``c", "", " pad "])
def test_code_in_a_line_is_shown_as_it_is(text: str) -> None:
    [paragraph] = [token for token in MarkdownIt().parse(f"x {code(text)} y") if token.type == "inline"]
    shown = [child.content for child in paragraph.children or [] if child.type == "code_inline"]
    assert shown == [text.strip() or " "]


def test_nothing_in_a_block_of_code_ends_it() -> None:
    [block] = MarkdownIt().parse(str(fenced("a\n```\n````\nb", "yaml")))
    assert (block.type, block.content) == ("fence", "a\n```\n````\nb\n")


def test_addresses_do_not_become_links() -> None:
    assert escaped("see https://x.test or WWW.x.test, me@x.test") == r"see https\://x.test or WWW\.x.test, me\@x.test"


@pytest.mark.parametrize(
    ("card", "license_"),
    [
        (None, "unknown"),
        ("---\nlicense: llama3.1\n---\n# x\n", "llama3.1"),
        ("# no front matter\n", "unknown"),
        ("---\nlicense: [broken\n---\n", "unknown"),
    ],
)
def test_the_base_s_licence_is_what_its_own_card_says(card: str | None, license_: str, base: Checkpoint) -> None:
    if card is not None:
        (base.path / "README.md").write_text(card)
    assert base_license(base) == license_


def test_sources_are_numbered_by_name(facts: CardFacts) -> None:
    rows = [row for row in table(render_card(facts), "Data") if row[0].startswith("`")]
    assert [re.sub("`", "", row[0]) for row in rows] == ["embedded", "extra.jsonl"]
