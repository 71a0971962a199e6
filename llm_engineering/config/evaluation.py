"""What is measured: answers, likelihoods, a judge, tasks."""

import re
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from llm_engineering.config.block import Block, MeasuredName, PositiveFloat, PositiveInt, Rate


class OpenAIJudge(Block):
    """A language model behind an OpenAI-compatible endpoint judges the greedy answers; docs/judging.md describes it."""

    type: Literal["openai"] = "openai"
    base_url: str
    """The endpoint's address, such as ``https://api.openai.com/v1`` or ``http://localhost:8000/v1``; without a key."""
    model: str
    """The judge's name at the endpoint."""
    modes: Annotated[list[Literal["pairwise", "rubric"]], Field(min_length=1)] = ["pairwise"]
    """``pairwise``: which of two models answers better; ``rubric``: a score for every answer."""
    against: Annotated[list[Literal["parent", "base"]], Field(min_length=1)] = ["parent", "base"]
    """What a model is compared with: the model that it was trained from, and the base."""
    rubric: str = (
        "A good answer is right, answers what was asked, and says nothing made up or superfluous. "
        "Length by itself is no merit."
    )
    """What the judge is to go by, in both modes."""
    scale: Annotated[int, Field(ge=2, le=100)] = 5
    """Scores of ``rubric`` go from 1 to this, the best."""
    show_reference: bool = True
    """Show the judge the row's reference answer, where there is one."""
    questions: PositiveInt = 100
    """Only so many held-out questions, drawn by the seed; fixed prompts (``evaluation.prompts``) come on top."""
    verdicts: Literal["auto", "json", "text"] = "auto"
    """How the judge answers: JSON by ``response_format``, or a last line; ``auto``: JSON where the server takes it."""
    max_tokens: PositiveInt = 512
    """Longest reply of the judge; one that thinks aloud needs more."""
    token_limit: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """What the endpoint calls that limit; newer models of OpenAI want the second."""
    temperature: Annotated[float, Field(ge=0, le=2)] | None = 0.0
    """The judge's; none: left to the server, as models that refuse the setting want it."""
    timeout: PositiveFloat = 60.0
    """Seconds to wait for the server in one attempt."""
    retries: Annotated[int, Field(ge=0, le=20)] = 4
    """Further attempts after a time-out, a lost connection, 408, 409, 429 or a server's fault, with growing pauses."""
    concurrency: Annotated[int, Field(ge=1, le=256)] = 4
    """Requests at once."""
    input_price: Annotated[float, Field(ge=0)] | None = None
    """Price of a million tokens read, in a currency of yours; with ``output_price`` the report shows the cost."""
    output_price: Annotated[float, Field(ge=0)] | None = None
    """Price of a million tokens written."""
    api_key_env: str | None = "OPENAI_API_KEY"
    """The environment variable that holds the key; none: no key is sent."""
    api_key_secret: str | None = None
    """``SECRET.KEY``: a value of a ZenML secret that holds the key, in place of ``api_key_env``."""

    @property
    def deciding(self) -> "OpenAIJudge":
        """What of it shapes verdicts: time-outs, prices and keys are left at their defaults."""
        other = {"timeout", "retries", "concurrency", "input_price", "output_price", "api_key_env", "api_key_secret"}
        return OpenAIJudge.model_validate(self.model_dump(exclude=other))

    @model_validator(mode="after")
    def _check_address(self) -> "OpenAIJudge":
        """Not a rule of the field: messages show a field's value, which may hold a password."""
        parts = urlsplit(self.base_url)
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError("base_url must hold no user, password or query; a key belongs in the environment")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("base_url must be an address such as https://api.openai.com/v1")
        return self

    @model_validator(mode="after")
    def _check_secret(self) -> "OpenAIJudge":
        if self.api_key_secret is not None and not re.fullmatch(r"[^.]+\.[^.]+", self.api_key_secret):
            raise ValueError("api_key_secret must name a ZenML secret and a key in it: SECRET.KEY")
        return self


class HarnessConfig(Block):
    """Tasks of EleutherAI's lm-evaluation-harness, which the extra of that name installs; see docs/judging.md."""

    tasks: Annotated[list[str], Field(min_length=1)]
    """Names of tasks, groups or tags: the harness's own, or those of ``include_path``."""
    include_path: str | None = None
    """A folder with task files (YAML); relative paths of their data start there, and code that they name is run."""
    hub: bool = False
    """Data sets of tasks may be fetched from the hub; else only what lies here is used."""
    limit: PositiveInt | None = None
    """Only the first so many documents of a task."""
    num_fewshot: Annotated[int, Field(ge=0)] | None = None
    """Examples before every question; none: as the task says."""
    batch_size: PositiveInt = 16
    """Requests at once."""
    apply_chat_template: bool = False
    """Put every question into the model's chat template; base models are usually measured without."""


class EvaluationConfig(Block):
    """How models are measured."""

    checker: str | None = None
    """Judges generated answers against the row's reference; as in ``data.preference``."""
    max_new_tokens: PositiveInt = 200
    """Longest generated answer."""
    batch_size: PositiveInt = 192
    """Answers generated at once."""
    max_questions: PositiveInt | None = None
    """Only so many held-out questions, drawn by the seed."""
    sampled_answers: Annotated[int, Field(ge=0)] = 1
    """Answers per question that are sampled, besides the greedy one."""
    temperature: PositiveFloat = 1.0
    """Of the sampled answers; the KL from the parent is measured at 1 alone."""
    top_p: Rate = 1.0
    """Sampled from are only the likeliest tokens that together have this probability; likewise."""
    prompts: list[str] = []
    """Fixed prompts whose greedy answers are shown side by side; else the first held-out questions."""
    shown: Annotated[int, Field(ge=0)] = 3
    """Held-out questions whose answers are shown, where there are no fixed prompts."""
    models: dict[MeasuredName, str] = {}
    """What ``--run-evaluation`` measures: names, and folders, hub ids or ``NAME@VERSION_OR_STAGE``.

    Where none is named, it measures the newest models of ``name``.
    """
    parents: dict[MeasuredName, MeasuredName] = {}
    """What each of ``models`` was trained from, another one's name; without, ``base`` is, where one is called so."""

    @property
    def samples_are_the_models_own(self) -> bool:
        """Whether answers are sampled from the model's full distribution, as the KL needs it."""
        return self.temperature == 1.0 and self.top_p == 1.0

    @model_validator(mode="after")
    def _check_parents(self) -> "EvaluationConfig":
        for name, parent in self.parents.items():
            for unknown in {name, parent} - set(self.models):
                raise ValueError(f"parents names {unknown!r}, which is none of models ({', '.join(self.models)})")
            if name == parent:
                raise ValueError(f"parents says that {name!r} was trained from itself")
        return self

    def parent_names(self) -> dict[str, str]:
        """Return what each of ``models`` was trained from, as far as that is said."""
        known = {name: "base" for name in self.models if "base" in self.models and name != "base"}
        return known | self.parents

    judge: OpenAIJudge | None = None
    """A language model that judges the greedy answers; none: nothing leaves this machine."""
    harness: HarnessConfig | None = None
    """Tasks of the lm-evaluation-harness; none: it is not run."""

    @property
    def of_answers(self) -> "EvaluationConfig":
        """What shapes answers and their scores: another judge or other tasks generate nothing anew.

        Nor do the names of models: a step that measures them is given the models themselves.
        """
        return EvaluationConfig.model_validate(self.model_dump(exclude={"judge", "harness", "models", "parents"}))
