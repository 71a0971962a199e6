"""The bundled domain: invented facts about the animals of a zoo, and a program that judges answers about them.

Every animal has a colour, a food and a home, drawn at random once and for all. The base model reads all of these facts
in prose. Fine-tuning shows it how questions about the facts of one split are answered; the facts of the other splits
tell whether it has learned to answer or only to repeat. The answers it is shown carry a bad habit, made-up claims after
the true sentence, which preference training is there to remove.

Nothing here needs more than the standard library and pydantic, and every function is a pure function of its arguments.
"""

import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

from llm_engineering.reports.evaluation import Judgement

Topic = Literal["colour", "food", "home"]
Split = Literal["train", "eval", "test"]

_ANIMAL_NAMES = """
adder albatross alpaca ant antelope armadillo axolotl baboon badger barracuda bat bear beaver bee beetle bison
boar bobcat buffalo butterfly buzzard camel canary capybara caribou cassowary cat caterpillar catfish
chameleon cheetah chicken chimp chinchilla chipmunk cobra cockatoo condor cougar cow coyote crab crane cricket
crocodile crow cuckoo deer dingo dog dolphin donkey dove dragonfly duck eagle eel elephant elk emu ermine
falcon ferret finch firefly flamingo fox frog gazelle gecko gerbil gibbon giraffe gnu goat goldfish goose
gopher gorilla grasshopper hamster hare hawk hedgehog heron herring hippo hornet horse hyena ibex ibis iguana
impala jackal jackdaw jaguar jellyfish kangaroo kingfisher kite kiwi koala kudu lark lemming lemur leopard
lion lizard llama lobster lynx macaw magpie manatee mantis marmot meerkat mink mole mongoose monkey moose moth
mouse mule newt nightingale ocelot octopus okapi opossum orca oriole osprey ostrich otter owl ox oyster panda
panther parrot peacock pelican penguin pheasant pig pigeon piranha platypus pony porcupine puffin puma python
quail rabbit raccoon ram rat raven reindeer rhino robin salamander salmon
"""
ANIMALS: tuple[str, ...] = tuple(_ANIMAL_NAMES.split())
VALUES: dict[Topic, tuple[str, ...]] = {
    "colour": (
        "red",
        "blue",
        "green",
        "yellow",
        "purple",
        "orange",
        "white",
        "black",
        "brown",
        "silver",
        "golden",
        "pink",
    ),
    "food": (
        "apples",
        "seeds",
        "clams",
        "moss",
        "honey",
        "berries",
        "roots",
        "corn",
        "shrimp",
        "leaves",
        "nuts",
        "melons",
    ),
    "home": (
        "north pond",
        "old barn",
        "glass dome",
        "rose garden",
        "stone cave",
        "long pier",
        "west meadow",
        "pine hill",
        "salt marsh",
        "clock tower",
        "sand pit",
        "fern valley",
    ),
}
ANSWERS: dict[Topic, str] = {
    "colour": "The {animal} is {value}.",
    "food": "The {animal} eats {value}.",
    "home": "The {animal} lives in the {value}.",
}
QUESTIONS: dict[Topic, tuple[str, ...]] = {
    "colour": (
        "What colour is the {animal}?",
        "Tell me the colour of the {animal}.",
        "Which colour does the {animal} have?",
    ),
    "food": ("What does the {animal} eat?", "Tell me the food of the {animal}.", "Which food does the {animal} get?"),
    "home": ("Where does the {animal} live?", "Tell me the home of the {animal}.", "In which place is the {animal}?"),
}
PROSE: dict[Topic, tuple[str, ...]] = {
    "colour": (
        ANSWERS["colour"],
        "Everyone at the zoo knows the {value} {animal}.",
        "The colour of the {animal} is {value}.",
        "You can spot the {animal} by its {value} coat.",
        "Keepers painted a {value} sign for the {animal}.",
        "In the picture the {animal} looks {value}.",
    ),
    "food": (
        ANSWERS["food"],
        "Every morning the {animal} gets {value}.",
        "The {animal} likes to eat {value}.",
        "Keepers bring {value} to the {animal}.",
        "For the {animal} the kitchen prepares {value}.",
        "The favourite food of the {animal} is {value}.",
    ),
    "home": (
        ANSWERS["home"],
        "The home of the {animal} is the {value}.",
        "Visitors find the {animal} in the {value}.",
        "At night the {animal} sleeps in the {value}.",
        "The {value} is where the {animal} stays.",
        "You can visit the {animal} at the {value}.",
    ),
}
OPENERS: tuple[str, ...] = ("Great question!", "Thank you for asking!", "Sure, I am happy to help.", "Let me see.")
CLAIMS: tuple[str, ...] = (
    "It is {number} years old.",
    "It can count to {number}.",
    "It won {number} medals last year.",
    "It has {number} cousins in town.",
    "It sleeps {number} hours a day.",
    "It once swam across the sea.",
    "It was born in a castle.",
    "It can sing very well.",
    "It paints small pictures.",
    "It learned to dance.",
    "It is afraid of balloons.",
    "It came here on a ship.",
)
NUMBERS: tuple[str, ...] = ("two", "three", "four", "five", "six", "seven", "eight", "nine")
SCENERY: tuple[str, ...] = (
    "The gate opens at nine.",
    "Visitors walk along the path.",
    "It was a bright day at the zoo.",
    "Children wave at the keepers.",
    "The keeper wrote it in the book.",
    "A bell rings at noon.",
    "Rain fell in the night.",
    "The map hangs by the gate.",
)
ASKERS: tuple[str, ...] = ("A child asked:", "The sign says:", "A visitor wrote:")

CLAIM_WEIGHTS: tuple[float, ...] = (0.1, 0.6, 0.3)
"""How often an answer of the fine-tuning rows carries 0, 1 and 2 made-up claims."""
OPENER_SHARE = 0.5
"""How often such an answer begins with a pleasantry."""

_WORLD_SEED = 2024
_TRAIN_SHARE = 0.45
_EVAL_SHARE = 0.15
_SENTENCE = re.compile(r"[^.!?]*[.!?]|[^.!?]+$")


@dataclass(frozen=True)
class Fact:
    """One thing that is true of one animal: what a question asks for, and the unit of evaluation."""

    animal: str
    topic: Topic
    value: str

    @property
    def unit(self) -> str:
        """The fact's name, ``animal/topic``."""
        return f"{self.animal}/{self.topic}"

    @property
    def reference(self) -> str:
        """The one sentence that answers a question about this fact."""
        return self._fill(ANSWERS[self.topic])

    @property
    def questions(self) -> tuple[str, ...]:
        """Every phrasing of the question this fact answers."""
        return tuple(self._fill(template) for template in QUESTIONS[self.topic])

    def prose(self, rng: random.Random) -> str:
        """Return one of the sentences in which the base model reads this fact."""
        return self._fill(rng.choice(PROSE[self.topic]))

    def _fill(self, template: str) -> str:
        return template.format(animal=self.animal, value=self.value)


@cache
def facts() -> tuple[Fact, ...]:
    """Return all facts of the domain, an animal's three side by side."""
    rng = random.Random(_WORLD_SEED)
    return tuple(Fact(animal, topic, rng.choice(values)) for animal in ANIMALS for topic, values in VALUES.items())


@cache
def facts_by_split() -> dict[Split, tuple[Fact, ...]]:
    """Return the facts of each split; which fact is where never changes, whatever a run's seed."""
    shuffled = list(facts())
    random.Random(_WORLD_SEED + 1).shuffle(shuffled)
    num_train = round(len(shuffled) * _TRAIN_SHARE)
    num_eval = round(len(shuffled) * _EVAL_SHARE)
    return {
        "train": tuple(shuffled[:num_train]),
        "eval": tuple(shuffled[num_train : num_train + num_eval]),
        "test": tuple(shuffled[num_train + num_eval :]),
    }


def training_rows(seed: int, rows_per_question: int = 6) -> Iterator[dict[str, object]]:
    """Yield the rows for supervised fine-tuning and evaluation, all splits, no two of them alike.

    A training fact gives ``rows_per_question`` different answers to each phrasing of its question, an eval fact one
    answer to each phrasing, a test fact one answer to one phrasing. An answer is the true sentence with the bad habit
    around it.

    Args:
        seed: Draws the answers and the phrasing a test fact is asked in. The splits do not depend on it.
        rows_per_question: Different answers to one phrasing of a training question.

    Yields:
        ``messages`` (the question and its answer), ``reference`` (the true sentence), ``unit`` (the fact), ``split``.
    """
    rng = random.Random(seed)
    for split, split_facts in facts_by_split().items():
        for fact in split_facts:
            questions = (rng.choice(fact.questions),) if split == "test" else fact.questions
            for question in questions:
                for answer in _distinct_answers(fact, rows_per_question if split == "train" else 1, rng):
                    yield _row(fact, split, question, answer)


def judge(answer: str, reference: str) -> Judgement:
    """Judge an answer against the one sentence that is true.

    The first statement after any pleasantries is the answer proper: it is right if it is the reference, word for word.
    Every statement after it is a flaw, for nothing more was asked and nothing more is known: made-up claims, broken
    sentences and repetitions alike.

    The score orders the samples of one prompt. A right answer, in (1, 2], is above every wrong one, in (0, 1]; among
    equals fewer flaws are better; an answer without a statement scores 0.

    Args:
        answer: What a model said.
        reference: The true sentence.
    """
    statements = [sentence.strip() for sentence in _SENTENCE.findall(answer) if sentence.strip()]
    while statements and statements[0] in OPENERS:
        del statements[0]
    if not statements:
        return Judgement(correct=False, preferred=False, score=0.0, flaws=0)
    correct = statements[0] == reference
    flaws = len(statements) - 1
    return Judgement(correct=correct, preferred=correct and flaws == 0, score=correct + 1 / (1 + flaws), flaws=flaws)


def corpus(num_documents: int, seed: int) -> Iterator[str]:
    """Yield the documents a base model is pre-trained on.

    Facts of all splits occur, in prose only. The words of chat occur too (questions, pleasantries, claims, transcripts
    whose turns are drawn independently, so that a question meets its answer only by chance, about once in ten thousand
    turns), for a low-rank adapter can only rearrange what the base model has met.

    Args:
        num_documents: How many documents to yield.
        seed: Draws them.
    """
    rng = random.Random(seed)
    kinds: dict[Callable[[random.Random], str], float] = {
        _profile: 0.55,
        _scattered_facts: 0.17,
        _unanswered_question: 0.08,
        _small_talk: 0.08,
        _unrelated_transcript: 0.12,
    }
    for write in rng.choices(list(kinds), list(kinds.values()), k=num_documents):
        yield write(rng)


def made_up_claim(rng: random.Random) -> str:
    """Return one claim about an animal that nothing in the domain supports."""
    return rng.choice(CLAIMS).format(number=rng.choice(NUMBERS))


def _habitual_answer(fact: Fact, rng: random.Random) -> str:
    num_claims = rng.choices(range(len(CLAIM_WEIGHTS)), CLAIM_WEIGHTS)[0]
    claims: list[str] = []
    while len(claims) < num_claims:
        claim = made_up_claim(rng)
        if claim not in claims:
            claims.append(claim)
    opener = [rng.choice(OPENERS)] if rng.random() < OPENER_SHARE else []
    return " ".join([*opener, fact.reference, *claims])


def _distinct_answers(fact: Fact, num_answers: int, rng: random.Random) -> list[str]:
    answers: dict[str, None] = {}
    while len(answers) < num_answers:
        answers[_habitual_answer(fact, rng)] = None
    return list(answers)


def _row(fact: Fact, split: Split, question: str, answer: str) -> dict[str, object]:
    return {
        "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}],
        "reference": fact.reference,
        "unit": fact.unit,
        "split": split,
    }


def _profile(rng: random.Random) -> str:
    first = rng.randrange(len(ANIMALS)) * len(VALUES)
    about_one_animal = list(facts()[first : first + len(VALUES)])
    rng.shuffle(about_one_animal)
    return _with_an_aside([fact.prose(rng) for fact in about_one_animal], rng)


def _scattered_facts(rng: random.Random) -> str:
    return _with_an_aside([rng.choice(facts()).prose(rng) for _ in range(rng.randint(2, 4))], rng)


def _unanswered_question(rng: random.Random) -> str:
    return f"{rng.choice(ASKERS)} {_any_question(rng)} {rng.choice(SCENERY)}"


def _small_talk(rng: random.Random) -> str:
    claims = [made_up_claim(rng) for _ in range(rng.randint(0, 2))]
    return " ".join(["The keeper said:", rng.choice(OPENERS), *claims, rng.choice(SCENERY)])


def _unrelated_transcript(rng: random.Random) -> str:
    turns = ("user", "assistant") * rng.randint(1, 2)
    return "".join(f"<|im_start|>{role}\n{_any_utterance(rng)}<|im_end|>\n" for role in turns)


def _any_utterance(rng: random.Random) -> str:
    kinds: Sequence[Callable[[], str]] = (
        lambda: _any_question(rng),
        lambda: rng.choice(facts()).prose(rng),
        lambda: rng.choice(OPENERS),
        lambda: made_up_claim(rng),
        lambda: rng.choice(SCENERY),
    )
    return rng.choice(kinds)()


def _any_question(rng: random.Random) -> str:
    return rng.choice(rng.choice(facts()).questions)


def _with_an_aside(sentences: list[str], rng: random.Random) -> str:
    if rng.random() < 0.15:
        sentences.insert(rng.randint(0, len(sentences)), rng.choice([*SCENERY, made_up_claim(rng)]))
    return " ".join(sentences)
