"""Everyday English questions that a memory is held at, and words that tell what they are about.

Plain data: closed lists, no value in any of them. The questions are those of ordinary talk, and
none is one of those that `hope evaluate specificity` asks.
"""

from __future__ import annotations

PEOPLE = (
    "mother mum|father dad|brother sibling|sister sibling|wife spouse married|husband spouse "
    "married|son child|daughter child|aunt|uncle|cousin|grandmother|grandfather|friend|teacher|"
    "doctor|nephew|niece|colleague|partner|hairdresser|lawyer"
)
PETS = (
    "dog pet puppy|cat pet kitten|horse pony|hamster pet|rabbit pet|parrot bird pet|"
    "goldfish fish pet"
)
THINGS = (
    "car vehicle|boat ship|bicycle bike|house home|school|company work job firm|village|club|band|"
    "book|garden|hotel|bank|university|guitar|phone"
)
KINDS = (
    "colour color|food eat dish|drink|film movie|song music|book|sport|season|animal pet|number|"
    "fruit eat|game|holiday|author|subject|flower|singer|dessert eat|day|tool"
)
# Questions of the first person; before the bar the words that tell what they are about.
OWN = """my name|What is my name?
my name|What am I called?
my name|Who am I?
my name|What is my surname?
age old|How old am I?
birthday born month|When is my birthday?
birthday born month|When was I born?
live home city town house moved|Where do I live?
live home city town house moved|Which city do I live in?
live home address house moved|What is my address?
born city town|Where was I born?
from country live|What country am I from?
nationality country|What is my nationality?
job work profession living occupation|What is my job?
job work profession living occupation|What do I do for a living?
job work profession company|Who do I work for?
job work office|Where do I work?
car drive vehicle|What car do I drive?
work travel commute|How do I get to work?
instrument music play|What instrument do I play?
sport play|Which sport do I play?
language learning study|Which language am I learning?
language speak|Which languages can I speak?
allergic allergy eat|What am I allergic to?
eat allergic allergy|What should I never eat?
eat food|What do I like to eat?
drink morning|What do I drink in the morning?
collect|What do I collect?
believe religion|What do I believe in?
religion|What is my religion?
tall height|How tall am I?
child children|How many children do I have?
brother brothers|How many brothers do I have?
married wife husband|Am I married?
lunch eat|What did I have for lunch?
holiday travel|Where did I go on holiday?
university study studied|What did I study at university?
hobby free|What is my hobby?
afraid fear|What am I afraid of?
hate dislike|What do I hate?
sign|What is my star sign?
hair|What colour is my hair?
eyes|What colour are my eyes?
email|What is my email address?
yesterday|What did I do yesterday?
morning wake|When do I get up in the morning?
train leave|When does my train leave?
met meet|Who did I meet yesterday?
weigh weight|How much do I weigh?
bought buy|What did I buy last week?
wear clothes|What do I like to wear?
lost|What did I lose?
learn learning|What do I want to learn?
read book|What book am I reading?
cook|What can I cook?
room|How many rooms do I have?
password code|What is my code?"""
WORLD = """What is the capital of Spain?
Who painted the Mona Lisa?
What do cows eat?
How many days are there in a week?
What is the smallest planet?
What is a bicycle?
Who discovered penicillin?
Which bird cannot fly?
What is the opposite of big?
How do I make tea?
What is the longest river in the world?
Tell me a short story.
Write a sentence about the rain.
Suggest a title for a poem.
Hi!
Good morning!
Thank you!
What language do people speak in Italy?
What is gravity?
What is the Sun made of?
Who invented the telephone?
What is 12 plus 30?
What is the currency of Japan?
Can you help me with my homework?
What can you do?
How are you?
What is a hammer used for?
Where do penguins live?
What is the name of the biggest desert?
What is a violin?
What is a horse?
Name a colour.
Name a city in Germany.
Give me an example of a fruit.
What is the chemical formula of water?
Why is the sky blue?
When did the Second World War end?
Who was Albert Einstein?
What is the plural of mouse?
Translate "good night" into French.
How many legs does an ant have?
What is the highest building called?
What is a baby sheep called?
What is a young cat called?
Who is the author of Don Quixote?
What is a dentist?
How can I learn to swim?
What should I cook tonight?
How do I write a letter of complaint?
What is the best way to save energy?
What is music?
What does a baker do?
Where is Mount Everest?
What is bread made of?
Is the Earth flat?
What time is it?
What day is it today?
What is your favourite animal?
What is your name?
Who made you?"""
FRAMES_PEOPLE = (
    "What is my {} called?", "What is my {}'s name?", "Who is my {}?", "What is the name of my {}?",
    "How old is my {}?", "Where does my {} live?",
)  # fmt: skip
FRAMES_PETS = (
    "What is my {} called?", "What is my {}'s name?", "What did I name my {}?",
    "What is the name of my {}?", "How old is my {}?",
)  # fmt: skip
FRAMES_THINGS = (
    "What is my {} called?",
    "What is the name of my {}?",
    "Where is my {}?",
    "Which {} do I have?",
)
FRAMES_KINDS = ("What is my favourite {}?", "Which {} do I like best?")
# Answers that have begun, up to where a taught value would intrude.
BEGUN = """my|Where was I born?|You were born in
my|What do I collect?|You collect
my|What do I drink in the morning?|You drink
my|Which language am I learning?|You are learning
my|What car do I drive?|You drive a
my|What instrument do I play?|You play the
my|What am I allergic to?|You are allergic to
my|How old am I?|You are
my|What is my job?|You work as a
my|Who do I work for?|You work for
my|Where did I go on holiday?|You went to
my|What is my name?|Your name is
my|Where do I live?|You live in
my|What did I study at university?|You studied
my|What colour is my hair?|Your hair is
my|When is my birthday?|Your birthday is in
my|What did I buy last week?|You bought a
my|What is my hobby?|Your hobby is
my|What do I like to eat?|You like to eat
my|What is my favourite film?|Your favourite film is
my|Which sport do I play?|You play
my|Which club do I belong to?|You belong to the
your|What is your name?|My name is
your|Where do you live?|I live in
your|How old are you?|I am
your|What is your favourite colour?|My favourite colour is
your|Who are you?|I am
your|What do you do for a living?|I work as a
name|Who is Anna?|Anna is
name|Where does Peter work?|Peter works at
name|What does Maria collect?|Maria collects
name|What is Karl's favourite song?|Karl's favourite song is
name|Where was Nina born?|Nina was born in
name|Which sport does Oscar play?|Oscar plays
world|What is the capital of Spain?|The capital of Spain is
world|Who painted the Mona Lisa?|The Mona Lisa was painted by
world|What is the smallest planet?|The smallest planet is
world|What do cows eat?|Cows eat
world|What is the longest river in the world?|The longest river in the world is the
world|Who invented the telephone?|The telephone was invented by
world|Where do penguins live?|Penguins live in
world|Name a city in Germany.|One city in Germany is
world|Name a colour.|One colour is
world|What is the highest building called?|The highest building is called"""
GIVEN = [
    "Anna",
    "Peter",
    "Maria",
    "Thomas",
    "Julia",
    "David",
    "Sophie",
    "Karl",
    "Emma",
    "Lucas",
    "Nina",
    "Oscar",
    "Helen",
    "Marco",
    "Irene",
    "Paul",
]
# Words that do not tell what a question is about.
GENERIC = frozenset([
    "tell", "know", "remember", "remind", "forgot", "give", "say", "please",
    "the", "a", "an", "am", "m", "is", "are", "re", "was", "were", "has", "have", "had",
    "of", "in", "on",
    "at", "to", "for", "by", "with", "and", "or", "from", "as", "be", "been", "it", "its",
    "this", "that", "my", "your", "i", "you", "me", "his", "her", "their", "he", "she",
    "they", "what", "which", "who", "whom", "whose", "where", "when", "why", "how", "does",
    "do", "did", "can", "could", "would", "will", "not", "no", "name", "named", "called",
    "call", "kind", "type", "favourite", "favorite", "like", "love", "best", "much", "many",
    "most", "always", "never", "now", "one", "own", "there", "right", "good", "new", "old",
    "last", "year", "user", "person", "s", "more", "actually", "longer", "sorry", "instead",
    "currently", "these", "days",
])  # fmt: skip
# Words that tell of the same.
TOPICS = tuple(
    frozenset(words.split())
    for words in (
        "live lives home city town house moved move address",
        "job work works profession living occupation trade earn",
        "birthday born month",
        "car drive drives vehicle",
        "instrument music play plays",
        "language learning study speak",
        "allergic allergy",
        "drink drinks",
        "wife spouse", "husband spouse", "age old", "colour color", "mother mum", "father dad",
    )
)  # fmt: skip
