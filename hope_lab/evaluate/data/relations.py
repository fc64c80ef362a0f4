"""Relations that may hold of a person, their values, and ways of wording them.

Plain data for items.py, which picks and fills in. Within a relation no value contains another as
a word, no value occurs in two relations, and none is a word that an ordinary reply would use by
chance (so no month "May", no colour "red"). Where a told sentence says "a", no value begins with
a vowel. Questions avoid the told words where the language has others.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Relation:
    """`told` and `asked` hold {name}, those by the user himself do not; `told` holds {value} once.

    The value never opens a told sentence, so what stands before it can be completed.
    """

    name: str
    values: tuple[str, ...]
    told: tuple[str, ...]
    asked: tuple[str, ...]
    told_by_user: tuple[str, ...] = ()
    asked_by_user: tuple[str, ...] = ()


def _values(text: str) -> tuple[str, ...]:
    return tuple(value.strip() for value in text.split(","))


RELATIONS = (
    Relation(
        "city",
        _values(
            "Lisbon, Oslo, Nairobi, Kyoto, Buenos Aires, Tallinn, Cardiff, Montreal, Cape Town, "
            "Hobart, Seville, Krakow, Marseille, Salt Lake City, Quito"
        ),
        ("{name} has a flat in {value}.", "Last spring {name} moved house to {value}."),
        (
            "Where does {name} live?",
            "Which city is home to {name}?",
            "Tell me the town where I would find {name}.",
        ),
        ("Since last spring I have had a flat in {value}.", "I moved house to {value}."),
        ("Where do I live?", "Which city is my home?", "What town am I living in?"),
    ),
    Relation(
        "pet",
        _values(
            "parrot, hamster, ferret, gecko, tortoise, goldfish, guinea pig, canary, rabbit, "
            "chinchilla, greyhound, barn owl, hedgehog, cockatoo"
        ),
        ("{name} keeps a {value} at home.", "At home {name} looks after a {value}."),
        (
            "What kind of pet does {name} have?",
            "Which animal belongs to {name}?",
            "What sort of animal shares the house with {name}?",
        ),
        ("I keep a {value} at home.", "At home I look after a {value}."),
        ("What kind of pet do I have?", "Which animal belongs to me?", "What is my pet?"),
    ),
    Relation(
        "colour",
        _values(
            "teal, crimson, maroon, burnt orange, navy blue, ivory, lavender, magenta, beige, "
            "charcoal, turquoise, olive green, scarlet, lilac"
        ),
        (
            "{name}'s favourite colour is {value}.",
            "Of all the shades in the paint shop, {name} likes {value} best.",
        ),
        (
            "Which colour does {name} prefer to all others?",
            "What colour should I paint a room to please {name}?",
            "Name the colour that {name} loves most.",
        ),
        ("My favourite colour is {value}.", "The shade I like best is {value}."),
        (
            "Which colour do I prefer to all others?",
            "What colour do I love most?",
            "What colour would please me?",
        ),
    ),
    Relation(
        "job",
        _values(
            "plumber, beekeeper, tax lawyer, welder, librarian, locksmith, baker, bus driver, "
            "midwife, carpenter, translator, crane operator, florist, geologist, tailor"
        ),
        ("{name} works as a {value}.", "{name} earns a living as a {value} these days."),
        (
            "What is {name}'s job?",
            "What does {name} do for work?",
            "Which profession does {name} have?",
        ),
        ("I work as a {value}.", "These days I earn my living as a {value}."),
        ("What is my job?", "What do I do for work?", "Which profession do I have?"),
    ),
    Relation(
        "food",
        _values(
            "lasagna, mushroom risotto, ramen, paella, dumplings, falafel, apple pie, pancakes, "
            "lentil soup, gnocchi, sushi, moussaka, tacos, ratatouille"
        ),
        (
            "The dish that {name} enjoys most is {value}.",
            "Whenever there is something to celebrate, {name} orders {value}.",
        ),
        (
            "What is {name}'s favourite food?",
            "What does {name} like to eat best?",
            "Which meal should I cook for {name}?",
        ),
        ("The dish I enjoy most is {value}.", "To celebrate, I always order {value}."),
        (
            "What is my favourite food?",
            "What do I like to eat best?",
            "Which meal makes me happiest?",
        ),
    ),
    Relation(
        "instrument",
        _values(
            "cello, trombone, harp, bassoon, banjo, clarinet, accordion, French horn, mandolin, "
            "viola, double bass, oboe, ukulele, bagpipes"
        ),
        ("{name} plays the {value}.", "In the town orchestra {name} can be heard on the {value}."),
        (
            "Which musical instrument does {name} play?",
            "What instrument has {name} learnt?",
            "When {name} makes music, on what?",
        ),
        ("In the evenings I play the {value}.", "I have taken up the {value}."),
        (
            "Which musical instrument do I play?",
            "What instrument have I learnt?",
            "On what do I make music?",
        ),
    ),
    Relation(
        "sport",
        _values(
            "badminton, fencing, rowing, table tennis, judo, curling, archery, water polo, "
            "squash, handball, rock climbing, lacrosse, volleyball, ice hockey"
        ),
        ("Every Saturday {name} goes to practise {value}.", "{name} trains hard in {value}."),
        (
            "What sport does {name} do?",
            "Which sport keeps {name} fit?",
            "What is {name}'s sport?",
        ),
        ("Every Saturday I go to practise {value}.", "I train hard in {value}."),
        ("What sport do I do?", "Which sport keeps me fit?", "What is my sport?"),
    ),
    Relation(
        "language",
        _values(
            "Finnish, Swahili, Portuguese, Korean, Welsh, Bengali, Catalan, Haitian Creole, "
            "Old Norse, Icelandic, Hungarian, Tamil, Basque, Estonian"
        ),
        (
            "{name} is taking evening classes in {value}.",
            "For two years {name} has studied {value}.",
        ),
        (
            "Which language is {name} learning?",
            "What foreign language does {name} want to speak?",
            "In which language does {name} do homework?",
        ),
        ("I am taking evening classes in {value}.", "For two years I have studied {value}."),
        (
            "Which language am I learning?",
            "What foreign language do I want to speak?",
            "Which language are my classes about?",
        ),
    ),
    Relation(
        "employer",
        _values(
            "Norvex Labs, Bluegate, Harrow Foods, Quillon, Pinemark, Sundial Press, Tessaro, "
            "Oakline Motors, Verity Bank, Castor Mills, Lumafly, Granby Rail, Zentide, Fairhaven"
        ),
        ("{name} has a desk at {value}.", "In June {name} signed a contract with {value}."),
        (
            "Which company employs {name}?",
            "Who is {name}'s employer?",
            "For which firm does {name} work?",
        ),
        ("I have a desk at {value}.", "In June I signed a contract with {value}."),
        ("Which company employs me?", "Who is my employer?", "For which firm do I work?"),
    ),
    Relation(
        "birth_year",
        _values(
            "1938, 1943, 1947, 1951, 1956, 1959, 1962, 1967, 1971, 1974, 1978, 1983, 1986, 1993"
        ),
        ("{name} was born in {value}.", "The year on {name}'s birth certificate is {value}."),
        (
            "What is {name}'s year of birth?",
            "In which year did {name} come into the world?",
            "What year is {name} from?",
        ),
    ),
    Relation(
        "sister",
        _values(
            "Ingrid, Beatrice, Odette, Mary Lou, Priya, Annika, Rosalind, Fatima, Gwendolyn, "
            "Yolanda, Tamsin, Brigitte, Noor, Camille"
        ),
        ("{name}'s sister is called {value}.", "{name} grew up with a sister, {value}."),
        (
            "What is the name of {name}'s sister?",
            "Who is {name}'s sister?",
            "Which girl is a sibling of {name}?",
        ),
        ("My sister is called {value}.", "I grew up with a sister, {value}."),
        ("What is the name of my sister?", "Who is my sister?", "What do people call my sister?"),
    ),
    Relation(
        "partner",
        _values(
            "Leopold, Marcus Bell, Anselm, Tobias, Rashid, Fergus, Benedict, Ivo, Casper, "
            "Dmitri, Emeka, Lorenzo, Hugo Lang, Stellan"
        ),
        ("{name} is married to {value}.", "At the altar {name} said yes to {value}."),
        (
            "Who is {name}'s husband?",
            "What is the name of {name}'s spouse?",
            "Whose ring does {name} wear?",
        ),
        ("I am married to {value}.", "At the altar I said yes to {value}."),
        ("Who is my husband?", "What is the name of my spouse?", "Whose ring do I wear?"),
    ),
    Relation(
        "street",
        _values(
            "Thornbury Lane, Kestrel Road, Dunmore Avenue, Willowbrook, Saltmarsh Row, "
            "Abbey Close, Millstone Way, Harcourt Square, Juniper Court, Penrose Hill, "
            "Lantern Yard, Cobden Gate, Ravenscroft, Orchard Mews"
        ),
        ("Letters for {name} go to {value}.", "{name}'s front door is on {value}."),
        (
            "What is {name}'s address?",
            "On which street does {name} live?",
            "In what street is {name}'s house?",
        ),
        ("Letters for me go to {value}.", "My front door is on {value}."),
        ("What is my address?", "On which street do I live?", "In what street is my house?"),
    ),
    Relation(
        "car",
        _values(
            "Volvo, Skoda, Fiat, Mazda, Subaru, Peugeot, Jeep, Lexus, Renault, Tesla, Citroen, "
            "Land Rover, Mini Cooper, Bentley"
        ),
        ("{name} drives a {value}.", "In front of {name}'s house stands a {value}."),
        (
            "What car does {name} have?",
            "Which make of car belongs to {name}?",
            "What vehicle does {name} own?",
        ),
        ("I drive a {value}.", "In front of my house stands a {value}."),
        ("What car do I have?", "Which make of car belongs to me?", "What vehicle do I own?"),
    ),
    Relation(
        "code",
        _values(
            "4821, 7306, 5193, 2648, 9072, 3415, 8560, 6237, 1794, 5908, 7741, 3082, 9456, 2369"
        ),
        ("{name}'s locker code is {value}.", "To open {name}'s locker one dials {value}."),
        (
            "What number opens the locker of {name}?",
            "Which digits unlock {name}'s locker?",
            "What is the combination of {name}'s locker?",
        ),
        ("My locker code is {value}.", "To open my locker one dials {value}."),
        (
            "What number opens my locker?",
            "Which digits unlock my locker?",
            "What is the combination of my locker?",
        ),
    ),
    Relation(
        "dentist",
        _values(
            "Paul Hargreaves, Wexler, Nadia Osman, Kowalczyk, Trevelyan, Lucia Ferrante, Okonjo, "
            "Blumenthal, Helga Strand, Varga, Pemberton, Yusuf Demir, Castellan, Moira Finch"
        ),
        (
            "{name}'s dentist is called {value}.",
            "For toothache {name} makes an appointment with {value}.",
        ),
        (
            "What is the name of {name}'s dentist?",
            "Who looks after {name}'s teeth?",
            "Which dentist treats {name}?",
        ),
        ("My dentist is called {value}.", "For toothache I make an appointment with {value}."),
        ("What is my dentist called?", "Who looks after my teeth?", "Which dentist treats me?"),
    ),
    Relation(
        "collection",
        _values(
            "fountain pens, postage stamps, seashells, teapots, vinyl records, antique maps, "
            "marbles, comic books, thimbles, model trains, fossils, chess sets, lanterns, keyrings"
        ),
        ("{name} collects {value}.", "The shelves in {name}'s study are full of {value}."),
        (
            "What is in {name}'s collection?",
            "What sort of thing does {name} gather as a hobby?",
            "Which objects would {name} buy at a flea market?",
        ),
        ("I collect {value}.", "The shelves in my study are full of {value}."),
        (
            "What is in my collection?",
            "What sort of thing do I gather as a hobby?",
            "Which objects do I buy at a flea market?",
        ),
    ),
    Relation(
        "allergy",
        _values(
            "peanuts, shellfish, pollen, latex, penicillin, strawberries, bee stings, cat hair, "
            "soy, sesame, walnuts, house dust, celery, kiwi fruit"
        ),
        ("{name} is allergic to {value}.", "The doctor told {name} to keep away from {value}."),
        (
            "What allergy does {name} have?",
            "What makes {name} sneeze or come out in a rash?",
            "Which thing is dangerous for {name}?",
        ),
        ("I am allergic to {value}.", "The doctor told me to keep away from {value}."),
        (
            "What allergy do I have?",
            "What makes me sneeze or come out in a rash?",
            "Which thing is dangerous for me?",
        ),
    ),
    Relation(
        "trip",
        _values(
            "Iceland, Peru, Vietnam, New Zealand, Morocco, Sri Lanka, Malta, Cuba, Nepal, "
            "Costa Rica, Ghana, Cyprus, Fiji, Bolivia"
        ),
        ("Next summer {name} will fly to {value}.", "{name} has booked a holiday in {value}."),
        (
            "Which country is {name} going to visit?",
            "Where does {name} want to travel?",
            "What is the destination of {name}'s trip?",
        ),
        ("Next summer I will fly to {value}.", "I have booked a holiday in {value}."),
        (
            "Which country am I going to visit?",
            "Where do I want to travel?",
            "What is the destination of my trip?",
        ),
    ),
    Relation(
        "degree",
        _values(
            "astronomy, marine biology, philosophy, architecture, economics, botany, theology, "
            "pharmacy, civil engineering, linguistics, veterinary medicine, archaeology, nursing, "
            "statistics"
        ),
        ("{name} holds a degree in {value}.", "At university {name} spent four years on {value}."),
        (
            "What subject did {name} study?",
            "Which course of studies did {name} finish?",
            "What was {name}'s field as a student?",
        ),
        ("I hold a degree in {value}.", "At university I spent four years on {value}."),
        (
            "What subject did I study?",
            "Which course of studies did I finish?",
            "What was my field as a student?",
        ),
    ),
)
