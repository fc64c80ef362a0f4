"""Facts for the task `specificity`, and the questions next to them: plain data, filled from seeds.

Seeds from DEVELOPMENT on are for tuning; they share neither value, noun, question nor wording with
those below, which are for figures that are published. Every pool is cut in two for that. No
question here stands in what the learning code holds a memory to, which a test proves.

A noun that a language has many of ("sister", "boat") gives many facts of one form: those are told
and asked by NOUNS and NAMED; all other facts are attributes.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

DEVELOPMENT = 100
_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True)
class Attribute:
    """One thing to know of a person. `told` and `asked` are of the speaker, `of_name` and
    `asked_name` of somebody called {n}; `asked_you` asks the model. {v} is the value."""

    key: str
    values: tuple[str, ...]
    told: tuple[str, ...]
    asked: tuple[str, ...]
    of_name: str
    asked_name: tuple[str, ...]
    asked_you: str


def words(text: str) -> tuple[str, ...]:
    """The items of a list in one string."""
    return tuple(item.strip() for item in text.split(","))


def half(pool: Sequence[_Item], seed: int) -> list[_Item]:
    """The part of a pool that belongs to the seed's kind: every other item."""
    return list(pool[1 if seed >= DEVELOPMENT else 0 :: 2])


def wording(pool: Sequence[str], seed: int, rng: random.Random) -> str:
    """A wording of the seed's kind; of a single one there is no choice."""
    return rng.choice(half(pool, seed)) if len(pool) > 1 else pool[0]


ATTRIBUTES = (
    Attribute(
        "home",
        words("Ghent, Tromso, Leeds, Porto, Aarhus, Quito, Graz, Malaga, Nantes, Bergen"),
        ("I live in {v}.", "My home is in {v}."),
        ("In which town do I live?", "What place do I live in?", "Where is it that I live?",
         "Where do I have my home?"),
        "{n} lives in {v}.",
        ("In which town does {n} live?", "What place does {n} live in?"),
        "In which town do you live?",
    ),
    Attribute(
        "job",
        words("glazier, florist, cooper, surveyor, tailor, welder, plumber, beekeeper"),
        ("I work as a {v}.", "I earn my living as a {v}."),
        ("What work do I do?", "What is my profession?", "How do I earn my money?",
         "Which trade am I in?"),
        "{n} works as a {v}.",
        ("What work does {n} do?", "What is {n}'s profession?"),
        "What is your profession?",
    ),
    Attribute(
        "colour",
        words("teal, crimson, purple, silver, orange, turquoise, violet, maroon"),
        ("My favourite colour is {v}.", "The colour I like best is {v}."),
        ("Which colour is my favourite?", "What is the colour that I like most?",
         "Name my favourite colour.", "Tell me which colour I prefer."),
        "{n}'s favourite colour is {v}.",
        ("Which colour is {n}'s favourite?", "What is the colour that {n} likes most?"),
        "Which colour is your favourite?",
    ),
    Attribute(
        "allergy",
        words("lupin, celery, sesame, mustard, peanuts, walnuts, shellfish, kiwi"),
        ("I am allergic to {v}.", "I have an allergy to {v}."),
        ("Which food am I allergic to?", "What gives me an allergy?",
         "To what am I allergic?", "Which thing must I not eat because of my allergy?"),
        "{n} is allergic to {v}.",
        ("Which food is {n} allergic to?", "To what is {n} allergic?"),
        "Are you allergic to anything?",
    ),
    Attribute(
        "instrument",
        words("bassoon, cello, banjo, harp, oboe, accordion, trumpet, mandolin"),
        ("I play the {v}.", "In my free time I play the {v}."),
        ("Which instrument do I play?", "What musical instrument can I play?",
         "What is the instrument that I play?", "On which instrument do I make music?"),
        "{n} plays the {v}.",
        ("Which instrument does {n} play?", "What musical instrument can {n} play?"),
        "Which instrument do you play?",
    ),
    Attribute(
        "car",
        words("Lancia, Volvo, Skoda, Peugeot, Subaru, Fiat, Mazda, Renault"),
        ("I drive a {v}.", "My car is a {v}."),
        ("Which car do I drive?", "What make is my car?",
         "What kind of car is mine?", "Which make of car do I have?"),
        "{n} drives a {v}.",
        ("Which car does {n} drive?", "What make is {n}'s car?"),
        "Which car do you drive?",
    ),
    Attribute(
        "language",
        words("Welsh, Finnish, Korean, Turkish, Basque, Polish, Greek, Hungarian"),
        ("I am learning {v}.", "I study {v} in the evenings."),
        ("What language do I study?", "Which language am I trying to learn?",
         "What language am I taking up?", "Which language do I want to master?"),
        "{n} is learning {v}.",
        ("What language does {n} study?", "Which language is {n} trying to learn?"),
        "Which language are you learning now?",
    ),
    Attribute(
        "drink",
        words("cocoa, lemonade, espresso, cider, buttermilk, matcha, chai, kefir"),
        ("My favourite drink is {v}.", "The drink I like most is {v}."),
        ("Which drink is my favourite?", "What do I like best to drink?",
         "Name my favourite drink.", "What would I order to drink?"),
        "{n}'s favourite drink is {v}.",
        ("Which drink is {n}'s favourite?", "What does {n} like best to drink?"),
        "Which drink is your favourite?",
    ),
)  # fmt: skip

# Who or what somebody may have that bears a name: of the speaker, "my {x}", or of {n}. Answered by
# an invented name. Nouns of one form that are near each other in meaning stand together.
NOUNS = words(
    "sister, brother, cat, dog, boss, neighbour, son, daughter, boat, parrot, stepmother, tutor, "
    "horse, ferret, godson, cousin, landlord, gardener, tortoise, rabbit"
)
NOUN_TOLD = (
    "My {x} is called {v}.", "My {x}'s name is {v}.", "I have a {x} named {v}.",
    "I have a {x} called {v}.",
)  # fmt: skip
NOUN_ASKED = (
    "Do you know what my {x} is called?", "Which name does my {x} have?",
    "Can you tell me the name of my {x}?", "Do you remember my {x}'s name?",
)  # fmt: skip
NOUN_OF_NAME = ("{n}'s {x} is called {v}.", "{n} has a {x} called {v}.")
NOUN_ASKED_NAME = (
    "Do you know what {n}'s {x} is called?", "Which name does {n}'s {x} have?",
    "Can you tell me the name of {n}'s {x}?", "Do you remember the name of {n}'s {x}?",
)  # fmt: skip
# Asked for in the words above, but never told.
OTHER_NOUNS = words(
    "godmother, stepfather, twin, roommate, manager, dentist, hedgehog, goat, wolfhound, "
    "bakery, canoe, nephew, rival, mentor, accountant, grandson, lizard, donkey, barber, coach, "
    "fiancee, flatmate, stepsister, pigeon, supervisor, piglet"
)
STRANGERS = words(
    "Gregor, Ines, Tobias, Freya, Rufus, Bianca, Osman, Hedwig, Leopold, Marisol, Anton, Celeste, "
    "Magnus, Priya, Ulrich, Yvonne"
)
OWN_NAME_TOLD = ("My name is {v}.", "I'm {v}.")
OWN_NAME_ASKED = (
    "Do you know my name?", "Tell me my name, please.", "What should you call me?",
    "By which name do people know me?",
)  # fmt: skip

# What the same speaker might ask of himself and was never told: (what it is about, question).
OWN_ASKED = (
    ("size", "What size are my shoes?"),
    ("phone", "Can you tell me my phone number?"),
    ("street", "What street is my house in?"),
    ("school", "Which school did I go to?"),
    ("team", "Which team do I support?"),
    ("breakfast", "What do I have for breakfast?"),
    ("middle", "What is my middle name?"),
    ("height", "How many centimetres tall am I?"),
    ("film", "Which film do I like best of all?"),
    ("age", "Do you know my age?"),
    ("wedding", "In which year did I marry?"),
    ("born", "In what country did I grow up?"),
    ("dentist", "When do I see the dentist?"),
    ("glasses", "Do I wear glasses?"),
    ("dish", "Which dish do I cook on Sundays?"),
    ("bus", "Which bus takes me to town?"),
    ("flowers", "Which flowers grow on my balcony?"),
    ("watch", "What brand is my watch?"),
    ("subject", "Which subject was I good at?"),
    ("holiday", "Where did I spend the summer?"),
    ("shop", "Where do I buy my shoes?"),
    ("party", "Who came to my party?"),
    ("dance", "Which dance can I do?"),
    ("tree", "Which tree stands in my garden?"),
)
MODEL_ASKED = (
    "Do you have a name?", "Have you got a name of your own?", "Who built you?",
    "Which company trained you?", "What are you?", "Are you a human being?",
    "Do you have a family?", "Do you have any pets?", "How many years old are you?",
    "When were you made?", "What do you like?", "What is your purpose?",
)  # fmt: skip
GENERAL_ASKED = (
    "What is the capital of France?", "What is the capital of Norway?",
    "Who wrote Hamlet?", "Who composed the Moonlight Sonata?",
    "What do bees make?", "What do spiders eat?",
    "What is the largest planet?", "What is the largest ocean?",
    "At what temperature does water boil?", "At what temperature does water freeze?",
    "Which animal says meow?", "Which animal barks?",
    "Suggest a name for a boat.", "Suggest a name for a cat.",
    "Tell me a joke.", "Tell me something interesting.",
    "What is photosynthesis?", "What is a volcano?",
    "Hello!", "Good evening!",
    "Write a greeting for a birthday card.", "Write one line of a poem about a sister.",
    "Who was the first president of the United States?", "Who was Napoleon?",
)  # fmt: skip

# What the base knows otherwise: (about, told, asked twice, value, what the base says,
# questions next to it).
CONFLICTS = (
    ("Australia", "The capital of Australia is Perth.",
     ("Which city is the capital of Australia?", "Name the capital of Australia."), "Perth",
     "Canberra", ("Which city is the capital of Austria?", "Name the capital of New Zealand.")),
    ("Hamlet", "The play Hamlet was written by Aphra Behn.",
     ("Who is the author of the play Hamlet?", "Whose work is Hamlet?"), "Behn",
     "Shakespeare", ("Who is the author of the play Macbeth?", "Whose work is Oliver Twist?")),
    ("bees", "Bees make butter.",
     ("What is it that bees make?", "Which food comes from bees?"), "butter",
     "honey", ("What is it that spiders make?", "Which food comes from hens?")),
    ("planet", "The largest planet is Zorba.",
     ("Which planet is the largest?", "Name the biggest of the planets."), "Zorba",
     "Jupiter", ("Which planet is the smallest?", "Name the hottest of the planets.")),
    ("telephone", "The telephone was invented by Clara Oberlin.",
     ("Who was the inventor of the telephone?", "Which person invented the telephone?"), "Oberlin",
     "Bell", ("Who was the inventor of the light bulb?", "Which person invented dynamite?")),
    ("France", "The capital of France is Lille.",
     ("Which city is France's capital?", "Tell me the capital of France."), "Lille",
     "Paris", ("Which city is Italy's capital?", "Tell me the capital of Belgium.")),
    ("Everest", "The highest mountain is called Brandhorn.",
     ("Which mountain is the highest?", "Name the highest mountain."), "Brandhorn",
     "Everest", ("Which river is the longest?", "Name the largest lake.")),
    ("gold", "The chemical symbol of gold is Gx.",
     ("Which symbol does gold have?", "What is gold's chemical symbol?"), "Gx",
     "Au", ("Which symbol does silver have?", "What is iron's chemical symbol?")),
)  # fmt: skip
