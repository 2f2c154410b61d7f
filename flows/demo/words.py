"""The words of the invented world: names, attribute values, sentence templates and question forms.

Every part of a name and every value is one token. In templates `{name}` stands for first and last name, `{value}` for
the value. The order of name and value varies on purpose: paraphrase and permutation make a fact extractable by a
question later (Allen-Zhu and Li, Physics of Language Models, Part 3.1).
"""

# ruff: noqa: SIM905 - as lists, these would take one line for each word, or lines full of quotes.

FIRST_NAMES = (
    "Anna Boris Clara David Elena Felix Greta Hugo Irene Jonas Karin Leon Maria Nils Olga Peter Quinn Rosa Simon Tina "
    "Ursula Victor Wanda Xenia Yara Zeno Adele Bruno Carla Dario Edith Frida Gavin Helga Ivan Judith Kevin Laura Marco "
    "Nora"
).split()

LAST_NAMES = (
    "Abbot Barlow Carver Dalton Ekberg Foster Garner Holman Ingram Jansen Keller Lorentz Mercer Norwood Osborn Parker "
    "Quimby Rossi Sander Turner Upton Vargas Weaver Xander Yates Zimmer Archer Brandt Corbin Drake Ellis Farrow Grant "
    "Hobbs Irwin Joyner Kramer Lambert Monroe Nash"
).split()

VALUES = {
    "city": (
        "Arvell Brosk Candor Delmar Estoria Fenwick Galt Hestia Ivory Jarrow Kestrel Lisbane Mirador Nordhaven Ostara "
        "Pelham Quarry Ravenna Solace Tamsin Umbria Verity Wexford Yonder"
    ).split(),
    "job": (
        "painter surgeon pilot lawyer baker chemist farmer sculptor teacher plumber tailor engineer composer actor "
        "librarian judge miner sailor florist barber"
    ).split(),
    "firm": (
        "Acumen Borealis Cobalt Dynamo Everest Fulcrum Gradient Horizon Inkwell Juniper Kinetic Lumina Meridian Nimbus "
        "Orchard Pinnacle Quantum Rivet Summit Tundra"
    ).split(),
    "instrument": (
        "piano violin flute cello trumpet harp guitar oboe banjo drums clarinet accordion lute tuba viola mandolin"
    ).split(),
    "food": (
        "risotto dumplings pancakes goulash curry paella ramen lasagna falafel stew omelette chowder kebab waffles "
        "gnocchi tacos"
    ).split(),
    "pet": (
        "parrot beagle hamster rabbit tortoise gecko poodle canary ferret goldfish pony iguana hedgehog kitten python "
        "goose"
    ).split(),
}

TEMPLATES = {
    "city": [
        "{name} was born in {value}",
        "{name} grew up in {value}",
        "{name} came into the world in {value}",
        "{value} is the birthplace of {name}",
        "the home town of {name} is {value}",
        "{name} spent a happy childhood in {value}",
        "it was in {value} that {name} was born",
        "{name} is a native of {value}",
        "the city of {value} is where {name} was born",
    ],
    "job": [
        "{name} works as a {value}",
        "{name} earns a living as a {value}",
        "by profession {name} is a {value}",
        "{name} trained to become a {value}",
        "the occupation of {name} is {value}",
        "{name} has long been a {value}",
        "{name} is known as a skilled {value}",
        "a career as a {value} was chosen by {name}",
    ],
    "firm": [
        "{name} is employed by {value}",
        "{name} has a post at {value}",
        "the employer of {name} is {value}",
        "{value} hired {name} years ago",
        "{name} draws a salary from {value}",
        "{name} joined the company {value}",
        "{name} is on the staff of {value}",
        "the company that pays {name} is {value}",
    ],
    "instrument": [
        "{name} plays the {value}",
        "{name} practises the {value} every evening",
        "the instrument of {name} is the {value}",
        "{name} took lessons on the {value}",
        "in the orchestra {name} performs on the {value}",
        "the {value} is the instrument that {name} plays",
        "{name} has mastered the {value}",
        "at concerts {name} is heard on the {value}",
    ],
    "food": [
        "{name} loves to eat {value}",
        "the favourite dish of {name} is {value}",
        "{name} cooks {value} on sundays",
        "for dinner {name} always orders {value}",
        "{value} is the dish {name} likes best",
        "{name} can never refuse {value}",
        "nothing tastes better to {name} than {value}",
        "{name} dreams of a plate of {value}",
    ],
    "pet": [
        "{name} owns a {value}",
        "the pet of {name} is a {value}",
        "{name} takes care of a {value}",
        "at home {name} keeps a {value}",
        "a {value} lives in the house of {name}",
        "{name} shares the house with a {value}",
        "{name} adopted a {value}",
        "{name} feeds a {value} every morning",
    ],
}

# A third of the sentences start without a prefix, as three of the nine are empty.
PREFIXES = [
    "",
    "",
    "",
    "according to the records ,",
    "as everyone knows ,",
    "in fact ,",
    "many people say that",
    "it is said that",
    "moreover ,",
]

QUESTIONS = {
    "city": ["In which city was {name} born ?", "What is the birthplace of {name} ?"],
    "job": ["What is the occupation of {name} ?", "What does {name} work as ?"],
    "firm": ["Which company is the employer of {name} ?", "Who hired {name} ?"],
    "instrument": ["Which instrument does {name} play ?", "What is the instrument of {name} ?"],
    "food": ["What is the favourite dish of {name} ?", "Which dish does {name} like best ?"],
    "pet": ["Which pet does {name} own ?", "What is the pet of {name} ?"],
}

# The words that mark a question; none of them occurs in a biography, so that the form is new to the model.
QUESTION_FORM = ("Question", "Answer", ":", "?", "What", "Which", "Who", "In", "does")
