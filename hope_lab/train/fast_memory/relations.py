"""What the texts of `hope train memory` tell and ask: relations, their values and their wording.

Plain data for episodes.py. None of it stands in hope_runtime/evaluate, whose questions judge what
is learnt here (a test compares the two), so nothing is fitted to them. In `told` and `asked`, {n}
is somebody's name and {v} the value; forms in the first person have no name. `asked` are pairs of
a question and the answer that is trained, in which the value comes last.

The fifth of every five values, and the last form of every list of at least three, are held out:
training never sees them.
"""

from __future__ import annotations

from dataclasses import dataclass

Asked = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Relation:
    """`digits` instead of values: numbers of so many digits. Without values or digits: a name."""

    name: str
    told: tuple[str, ...]
    asked: tuple[Asked, ...]
    told_by_user: tuple[str, ...] = ()
    asked_by_user: tuple[Asked, ...] = ()
    values: tuple[str, ...] = ()
    digits: int = 0


def _values(text: str) -> tuple[str, ...]:
    return tuple(value.strip() for value in text.split(","))


def _attribute(noun: str, values: str = "", *, digits: int = 0, article: str = "") -> Relation:
    """A property that has a noun: "N's shoe size is 42."; `article` stands before the value."""
    v = f"{article}{{v}}"
    third = f"{{n}}'s {noun} is {v}."
    own = f"Your {noun} is {v}."
    return Relation(
        noun.replace(" ", "_"),
        (
            third,
            f"The {noun} of {{n}} is {v}.",
            f"If you ask about {{n}}'s {noun}, it is {v}.",
            f"Everybody knows that {{n}}'s {noun} is {v}.",
            f"Today I learned that {{n}}'s {noun} is {v}.",
            f"{{n}} told us that the {noun} is {v}.",
            f"As for {{n}}, the {noun} is {v}.",
        ),
        (
            (f"What is {{n}}'s {noun}?", third),
            (f"What is the {noun} of {{n}}?", f"The {noun} of {{n}} is {v}."),
            (f"Can you tell me {{n}}'s {noun}?", third),
            (f"Tell me {{n}}'s {noun}.", third),
            (f"Do you know the {noun} of {{n}}?", f"The {noun} of {{n}} is {v}."),
            (f"I forgot {{n}}'s {noun}. What was it?", third),
            (f"Somebody asks for {{n}}'s {noun}.", third),
            (f"What did they say {{n}}'s {noun} was?", third),
            (f"Do you remember {{n}}'s {noun}?", third),
        ),
        (
            f"My {noun} is {v}.",
            f"By the way, my {noun} is {v}.",
            f"I think I told you that my {noun} is {v}.",
            f"You should know that my {noun} is {v}.",
        ),
        (
            (f"What is my {noun}?", own),
            (f"Can you tell me my {noun}?", own),
            (f"Tell me my {noun}.", own),
            (f"Do you know my {noun}?", own),
            (f"I forgot my {noun}. What was it?", own),
            (f"What did I say my {noun} was?", own),
            (f"Do you remember my {noun}?", own),
        ),
        _values(values) if values else (),
        digits,
    )


ATTRIBUTES = (
    _attribute("favorite drink", "coffee, cocoa, lemonade, green tea, cider, milk, ginger ale, "
               "orange juice, wine, tonic water, espresso, mint tea, beer, tomato juice, whiskey"),
    _attribute("favorite flower", "tulip, daisy, orchid, sunflower, peony, rose, lily, poppy, "
               "iris, jasmine, violet, daffodil, marigold, hyacinth, carnation", article="the "),
    _attribute("favorite animal", "dolphin, elephant, penguin, wolf, otter, tiger, giraffe, bear, "
               "eagle, fox, kangaroo, panda, whale, zebra, owl", article="the "),
    _attribute("favorite fruit", "mango, pear, cherry, papaya, plum, banana, kiwi, peach, fig, "
               "pineapple, apricot, melon, strawberry, grape, lime", article="the "),
    _attribute("favorite season", "autumn, winter, spring, summer, monsoon"),
    _attribute("favorite subject", "algebra, biology, geography, poetry, chemistry, economics, "
               "physics, drawing, Latin, philosophy, grammar, astronomy, history, music, logic"),
    _attribute("favorite game", "chess, poker, checkers, dominoes, bridge, backgammon, charades, "
               "Scrabble, bingo, darts, Monopoly, solitaire, tag, hopscotch, marbles"),
    _attribute("favorite metal", "copper, silver, platinum, zinc, brass, tin, bronze, nickel, "
               "titanium, iron"),
    _attribute("favorite shape", "circle, triangle, hexagon, spiral, star, square, oval, cube, "
               "cone, crescent", article="the "),
    _attribute("lucky number", digits=2),
    _attribute("badge number", digits=4),
    _attribute("room number", digits=3),
    _attribute("phone extension", digits=4),
    _attribute("age", digits=2),
    _attribute("PIN", digits=4),
    _attribute("access code", digits=5),
    _attribute("middle name"),
    _attribute("best friend"),
    _attribute("neighbor"),
    _attribute("brother's name"),
    _attribute("boss"),
    _attribute("hometown", "Geneva, Naples, Boston, Cairo, Dublin, Seattle, Athens, Manila, "
               "Denver, Munich, Toronto, Delhi, Havana, Chicago, Warsaw, Venice, Dallas, Lyon, "
               "Sydney, Berlin"),
    _attribute("blood type", "A positive, B negative, O positive, AB negative, O negative"),
    _attribute("zodiac sign", "Leo, Virgo, Scorpio, Aries, Taurus, Gemini, Libra, Pisces, Cancer, "
               "Capricorn"),
    _attribute("nationality", "Spanish, Turkish, Irish, Greek, Dutch, Korean, Mexican, Polish, "
               "Indian, Danish, Egyptian, Swiss, Brazilian, Finnish, Italian"),
    _attribute("dream", "a farm, a sailboat, a bakery, a bookshop, a castle, a vineyard, a hotel, "
               "a garden, a lighthouse, a theater"),
    _attribute("hobby", "knitting, pottery, fishing, sailing, painting, gardening, juggling, "
               "woodwork, hiking, origami, baking, dancing, photography, fencing, singing"),
    _attribute("meeting day", "Monday, Tuesday, Thursday, Friday, Saturday, Sunday, Wednesday"),
)  # fmt: skip

SENTENCES = (
    Relation(
        "lives",
        ("{n} lives in {v}.", "{n} moved to {v} last year.", "{n} has a small house in {v}.",
         "You can find {n} in {v} these days.", "The home of {n} is in {v}."),
        (("In what place does {n} live?", "{n} lives in {v}."),
         ("Where is {n}'s home?", "{n}'s home is in {v}."),
         ("Which city does {n} live in?", "{n} lives in {v}."),
         ("Where can I find {n}?", "You can find {n} in {v}.")),
        ("I live in {v}.", "I moved to {v} last year.", "My home is in {v}."),
        (("In what place do I live?", "You live in {v}."),
         ("Which city do I live in?", "You live in {v}."),
         ("Where is my home?", "Your home is in {v}."),
         ("Do you know where I live?", "You live in {v}.")),
        _values("Madrid, London, Helsinki, Tokyo, Boston, Prague, Vienna, Lagos, Houston, Bergen, "
                "Rome, Paris, Mumbai, Phoenix, Zurich, Brussels, Austin, Bangkok, Porto, Lima"),
    ),
    Relation(
        "work",
        ("{n} is a {v} by profession.", "{n} has been a {v} for ten years.",
         "{n} found work as a {v}.", "People say {n} is a very good {v}.",
         "In the office of {n} sits a {v}."),
        (("Tell me the work of {n}.", "{n} is a {v}."),
         ("What is the profession of {n}?", "{n} is a {v}."),
         ("What kind of work does {n} do?", "{n} works as a {v}."),
         ("How does {n} make money?", "{n} makes money as a {v}.")),
        ("I am a {v} by profession.", "I have been a {v} for ten years.", "I found work as a {v}."),
        (("Tell me my profession.", "You are a {v}."),
         ("What is my profession?", "You are a {v}."),
         ("What kind of work do I do?", "You work as a {v}."),
         ("How do I make money?", "You make money as a {v}.")),
        _values("teacher, farmer, nurse, painter, pilot, dentist, judge, sailor, waiter, butcher, "
                "chemist, gardener, surgeon, singer, detective, barber, writer, miner, priest, "
                "banker, mechanic, soldier, lawyer, doctor, cook"),
    ),
    Relation(
        "pet",
        ("{n} has a pet {v}.", "{n} owns a {v}.", "{n} bought a {v} yesterday.",
         "A {v} lives with {n}.", "{n} walks around with a {v}."),
        (("What animal does {n} have?", "{n} has a {v}."),
         ("What pet does {n} own?", "{n} owns a {v}."),
         ("Which animal lives with {n}?", "{n} lives with a {v}."),
         ("What animal did {n} buy?", "{n} bought a {v}.")),
        ("I have a pet {v}.", "I own a {v}.", "I bought a {v} yesterday."),
        (("What animal do I have?", "You have a {v}."),
         ("What pet do I own?", "You own a {v}."),
         ("Which animal lives with me?", "You live with a {v}."),
         ("What animal did I buy?", "You bought a {v}.")),
        _values("cat, dog, snake, horse, donkey, frog, duck, sheep, mouse, spider, goat, lizard, "
                "monkey, turtle, pony, raven, pig, squirrel, crow, lamb"),
    ),
    Relation(
        "likes",
        ("{n} loves to eat {v}.", "{n} cooks {v} every weekend.", "{n} always asks for {v}.",
         "Nothing makes {n} happier than {v}.", "{n} cannot live without {v}."),
        (("Which food does {n} like best?", "{n} likes {v} best."),
         ("What does {n} love to eat?", "{n} loves to eat {v}."),
         ("What does {n} cook?", "{n} cooks {v}."),
         ("What should I serve {n}?", "You should serve {n} {v}.")),
        ("I love to eat {v}.", "I cook {v} every weekend.", "I always ask for {v}."),
        (("Which food do I like best?", "You like {v} best."),
         ("What do I love to eat?", "You love to eat {v}."),
         ("What do I cook?", "You cook {v}."),
         ("What should you serve me?", "I should serve you {v}.")),
        _values("pizza, spaghetti, rice, omelettes, curry, noodles, burgers, bread, steak, salad, "
                "cheese, beans, fried chicken, salmon, chocolate, waffles, potatoes, soup, "
                "popcorn, sausages"),
    ),
    Relation(
        "wears",
        ("{n} wears a {v} coat.", "{n} came in a {v} jacket.", "{n} painted the door {v}.",
         "The hat of {n} is {v}.", "{n} bought a {v} bicycle."),
        (("In which color does {n} dress?", "{n} dresses in {v}."),
         ("What color does {n} wear?", "{n} wears {v}."),
         ("Which color goes with {n}?", "The color of {n} is {v}."),
         ("What is the color of {n}?", "The color of {n} is {v}.")),
        ("I wear a {v} coat.", "I came in a {v} jacket.", "I painted the door {v}."),
        (("In which color do I dress?", "You dress in {v}."),
         ("What color do I wear?", "You wear {v}."),
         ("Which color goes with me?", "Your color is {v}."),
         ("What is my color?", "Your color is {v}.")),
        _values("red, blue, green, yellow, purple, orange, black, white, brown, pink, gray, gold, "
                "violet, tan, khaki"),
    ),
    Relation(
        "plays",
        ("{n} plays {v} on weekends.", "{n} is good at {v}.", "{n} has won prizes in {v}.",
         "{n} teaches children {v}.", "{n} dreams of being a star of {v}."),
        (("Which sport does {n} do?", "{n} plays {v}."),
         ("What does {n} play?", "{n} plays {v}."),
         ("What is {n} good at?", "{n} is good at {v}."),
         ("In what has {n} won prizes?", "{n} has won prizes in {v}.")),
        ("I play {v} on weekends.", "I am good at {v}.", "I have won prizes in {v}."),
        (("Which sport do I do?", "You play {v}."),
         ("What do I play?", "You play {v}."),
         ("What am I good at?", "You are good at {v}."),
         ("In what have I won prizes?", "You have won prizes in {v}.")),
        _values("tennis, football, golf, hockey, baseball, cricket, volleyball, basketball, "
                "rugby, badminton, squash, softball, ping pong, lacrosse, soccer"),
    ),
    Relation(
        "speaks",
        ("{n} speaks {v} at home.", "{n} writes letters in {v}.", "{n} learned {v} as a child.",
         "{n} reads books in {v}.", "At school {n} was taught {v}."),
        (("Which language does {n} know?", "{n} speaks {v}."),
         ("What language does {n} speak?", "{n} speaks {v}."),
         ("In what language does {n} write?", "{n} writes in {v}."),
         ("Which language did {n} learn?", "{n} learned {v}.")),
        ("I speak {v} at home.", "I write letters in {v}.", "I learned {v} as a child."),
        (("Which language do I know?", "You speak {v}."),
         ("What language do I speak?", "You speak {v}."),
         ("In what language do I write?", "You write in {v}."),
         ("Which language did I learn?", "You learned {v}.")),
        _values("French, German, Russian, Arabic, Hindi, Hebrew, Chinese, Czech, Swahili, "
                "Norwegian, Persian, Urdu, Thai, Bengali, Tamil"),
    ),
    Relation(
        "married",
        ("{n} married {v} in spring.", "{n} is in love with {v}.", "{n} shares a flat with {v}.",
         "{n} has a daughter named {v}.", "{n} was seen with {v}."),
        (("Who is the partner of {n}?", "The partner of {n} is {v}."),
         ("Whom did {n} marry?", "{n} married {v}."),
         ("Who shares a flat with {n}?", "{n} shares a flat with {v}."),
         ("Who is close to {n}?", "{n} is close to {v}.")),
        ("I married {v} in spring.", "I am in love with {v}.", "I share a flat with {v}."),
        (("Who is my partner?", "Your partner is {v}."),
         ("Whom did I marry?", "You married {v}."),
         ("Who shares a flat with me?", "You share a flat with {v}."),
         ("Who is close to me?", "You are close to {v}.")),
    ),
    Relation(
        "called",
        (),
        (),
        ("My name is {v}.", "I am {v}.", "People call me {v}.", "Hello, my name is {v}.",
         "Hi, this is {v}."),
        (("Tell me my name.", "Your name is {v}."),
         ("What is my name?", "Your name is {v}."),
         ("Who am I?", "You are {v}."),
         ("Do you know my name?", "Your name is {v}."),
         ("What am I called?", "You are called {v}.")),
    ),
    Relation(
        "hidden",
        ("{n} hid the key under the {v}.", "{n} left the letter under the {v}.",
         "{n} put the money under the {v}.", "{n} buried a box under the {v}.",
         "{n} was sleeping under the {v}."),
        (("Where did {n} hide the key?", "{n} hid the key under the {v}."),
         ("Where did {n} leave it?", "{n} left it under the {v}."),
         ("Where should I look for what {n} hid?", "You should look under the {v}.")),
        ("I hid the key under the {v}.", "I left the letter under the {v}.",
         "I put the money under the {v}."),
        (("Where did I hide the key?", "You hid the key under the {v}."),
         ("Where did I leave it?", "You left it under the {v}."),
         ("Where should I look for what I hid?", "You should look under the {v}.")),
        _values("table, stove, bridge, carpet, pillow, stairs, bench, bed, tree, sink, sofa, desk, "
                "lamp, blanket, rock"),
    ),
    Relation(
        "carries",
        ("{n} always carries a {v}.", "{n} lost a {v} on the train.", "{n} got a {v} as a gift.",
         "{n} repaired an old {v}.", "{n} sold a {v} to a friend."),
        (("Which thing does {n} have?", "{n} has a {v}."),
         ("What does {n} always carry?", "{n} always carries a {v}."),
         ("What did {n} lose?", "{n} lost a {v}."),
         ("What gift did {n} get?", "{n} got a {v}.")),
        ("I always carry a {v}.", "I lost a {v} on the train.", "I got a {v} as a gift."),
        (("Which thing do I have?", "You have a {v}."),
         ("What do I always carry?", "You always carry a {v}."),
         ("What did I lose?", "You lost a {v}."),
         ("What gift did I get?", "You got a {v}.")),
        _values("knife, camera, compass, wallet, ring, watch, book, map, phone, flute, lantern, "
                "mirror, notebook, radio, necklace, hammer, drum, clock, whistle, telescope"),
    ),
)  # fmt: skip

RELATIONS = (*ATTRIBUTES, *SENTENCES)

_TRAINED = frozenset(
    value for relation in RELATIONS for index, value in enumerate(relation.values) if index % 5 != 4
)


def trained_values(relation: Relation) -> list[str]:
    """What training tells of a relation."""
    return [value for index, value in enumerate(relation.values) if index % 5 != 4]


def held_out_values(relation: Relation) -> list[str]:
    """What only evaluation tells: no relation of training has it either."""
    return [value for value in relation.values[4::5] if value not in _TRAINED]
