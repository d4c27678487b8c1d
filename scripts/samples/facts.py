"""Invented bridges, schools, painters, ...: questions and sentences (qnli), passages (squad).

A fact is `table of its value | predicate | predicate | question | question`; `{v}` is the value,
`{N}` the thing's name. Every kind has two facts or more with values of one table, so that the
kind of the answer alone does not find it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from . import lexicon
from .grammar import Grammar, Row, Splits, draw, phrases, sentence, shuffled, weighted, words

TABLES = {
    "year_a": [str(year) for year in range(1790, 1900)],  # beginnings
    "year_b": [str(year) for year in range(1900, 2016)],  # what came later
    "who": [f"{first} {last}" for first in lexicon.MALE + lexicon.FEMALE
            for last in lexicon.SURNAMES],
    "town": lexicon.TOWNS,
    "last": lexicon.SURNAMES,
    "firm": lexicon.FIRMS,
    "month": lexicon.MONTHS,
    "few": words("three, four, five, six, seven, eight, nine, ten, eleven, twelve, fourteen"),
    "many": [f"{n},{m:03d}" for n in range(2, 30) for m in range(0, 1000, 150)],
    "metres": [f"{n} metres" for n in range(120, 900, 7)],
    "stuff": words("granite, steel, oak, limestone, iron, red brick, concrete, marble, pine"),
    "goods": words("lamps, bicycles, ink, clocks, boots, glass, tractors, violins, soap, paper"),
    "field": words("botany, law, medicine, music, geology, astronomy, history, chemistry"),
    "food": words("beetles, moss, small fish, berries, seaweed, snails, roots, moths, acorns"),
    "land": words("swamps, pine forests, sand dunes, caves, salt lakes, high meadows, reed beds"),
    "beast": words("fox, heron, toad, bat, otter, lizard, shrew, owl, hare, newt"),
    "hue": words("grey, spotted, crested, long-eared, striped, northern, golden, dwarf"),
}  # fmt: skip

KINDS = {
    "the {last} Bridge": """
        year_a | was opened in {v} | has carried traffic since {v} | When was {N} opened? \
            | In what year did {N} open?
        year_b | was rebuilt in {v} | was given its present form in {v} | When was {N} rebuilt? \
            | In what year did {N} get its present form?
        who | was designed by {v} | was built to the plans of {v} | Who designed {N}? \
            | Whose plans was {N} built to?
        who | is named after {v} | bears the name of {v} | Who is {N} named after? \
            | Whose name does {N} bear?
        metres | is {v} long | has a length of {v} | How long is {N}? | What is the length of {N}?
        stuff | is made of {v} | was built of {v} | What is {N} made of? \
            | What material was used for {N}?
        town | leads to {v} | links the coast road with {v} | Which town does {N} lead to? \
            | What place does {N} link with the coast road?
        many | carries {v} cars a day | is used by {v} cars a day \
            | How many cars use {N} each day? | How many cars does {N} carry a day?
    """,
    "{last} College": """
        year_a | was founded in {v} | has existed since {v} | When was {N} founded? \
            | Since when has {N} existed?
        year_b | admitted its first women in {v} | has been open to women since {v} \
            | When did {N} first admit women? | Since when has {N} been open to women?
        who | was founded by {v} | goes back to a gift of {v} | Who founded {N}? \
            | Whose gift does {N} go back to?
        who | is led by {v} | has {v} as its head | Who leads {N}? | Who is the head of {N}?
        town | lies in {v} | has its main building in {v} | Where is {N}? \
            | In which town is the main building of {N}?
        town | moved to its present site from {v} | had its first home in {v} \
            | Where did {N} have its first home? | From which town did {N} move?
        field | is best known for {v} | has a famous department of {v} \
            | What subject is {N} best known for? | What is the famous department of {N}?
        many | has {v} students | teaches {v} students | How many students does {N} have? \
            | How many students are taught at {N}?
        many | owns {v} rare books | keeps {v} rare books in its library \
            | How many rare books does {N} own? | How many rare books are kept at {N}?
    """,
    "{last} & Sons": """
        year_a | was set up in {v} | has been in business since {v} | When was {N} set up? \
            | Since when has {N} been in business?
        year_b | was sold in {v} | got a new owner in {v} | When was {N} sold? \
            | In what year did {N} get a new owner?
        who | was set up by {v} | was the idea of {v} | Who set up {N}? | Whose idea was {N}?
        firm | belongs to {v} | is owned by {v} | Which company owns {N}? \
            | To which company does {N} belong?
        firm | competes with {v} | has {v} as its main rival | Which company competes with {N}? \
            | Which company is the main rival of {N}?
        goods | makes {v} | earns its money with {v} | What does {N} make? \
            | What does {N} earn its money with?
        goods | once sold {v} | used to trade in {v} | What did {N} sell once? \
            | What did {N} use to trade in?
        town | has its head office in {v} | is run from {v} | Where is the head office of {N}? \
            | From which town is {N} run?
        many | employs {v} people | has a staff of {v} | How many people does {N} employ? \
            | How large is the staff of {N}?
    """,
    "the {hue} {beast}": """
        food | feeds on {v} | lives on a diet of {v} | What does {N} feed on? \
            | What is the diet of {N}?
        food | stores {v} for the winter | hides {v} before the cold months \
            | What does {N} store for the winter? | What does {N} hide before the cold months?
        land | lives in {v} | is found in {v} | Where does {N} live? \
            | In what surroundings is {N} found?
        land | breeds in {v} | raises its young in {v} | Where does {N} breed? \
            | Where does {N} raise its young?
        who | was first described by {v} | was discovered by {v} | Who discovered {N}? \
            | Who first described {N}?
        few | lives for {v} years | reaches an age of {v} years | How many years does {N} live? \
            | What age in years does {N} reach?
        few | has {v} young at a time | gives birth to {v} young \
            | How many young does {N} have? | To how many young does {N} give birth?
        month | mates in {v} | looks for a partner in {v} | In which month does {N} mate? \
            | When does {N} look for a partner?
        month | is hardest to see in {v} | hides from people in {v} \
            | In which month is {N} hardest to see? | When does {N} hide from people?
    """,
    "the {town} Festival": """
        month | takes place in {v} | is held each {v} | In which month does {N} take place? \
            | When is {N} held?
        month | sells its tickets in {v} | opens its ticket office in {v} \
            | In which month does {N} sell its tickets? | When does the ticket office of {N} open?
        year_a | was first held in {v} | began in {v} | When was {N} first held? \
            | In what year did {N} begin?
        year_b | was cancelled in {v} | did not take place in {v} | When was {N} cancelled? \
            | In what year did {N} not take place?
        few | lasts {v} days | goes on for {v} days | How many days does {N} last? \
            | For how many days does {N} go on?
        few | has {v} stages | is played on {v} stages | How many stages does {N} have? \
            | On how many stages is {N} played?
        many | draws {v} visitors | is visited by {v} people | How many visitors does {N} draw? \
            | How many people visit {N}?
        firm | is paid for by {v} | has {v} as its sponsor | Which company pays for {N}? \
            | Which company is the sponsor of {N}?
        who | was started by {v} | owes its start to {v} | Who started {N}? \
            | To whom does {N} owe its start?
        who | is directed by {v} | has {v} as its director | Who directs {N}? \
            | Who is the director of {N}?
    """,
    "Mount {last}": """
        who | was first climbed by {v} | saw its first ascent by {v} | Who first climbed {N}? \
            | Who made the first ascent of {N}?
        who | was mapped by {v} | was measured by {v} | Who mapped {N}? | Who measured {N}?
        year_a | was first climbed in {v} | had its first ascent in {v} \
            | When was {N} first climbed? | In what year was the first ascent of {N}?
        year_b | last erupted in {v} | threw out ash for the last time in {v} \
            | When did {N} last erupt? | In what year did {N} throw out ash for the last time?
        town | rises above {v} | can be seen from {v} | Above which town does {N} rise? \
            | From which town can {N} be seen?
        town | is climbed from {v} | is best reached from {v} | From which town is {N} climbed? \
            | From which town is {N} best reached?
        stuff | consists of {v} | is formed of {v} | What does {N} consist of? \
            | What is {N} formed of?
        few | has {v} huts | offers {v} huts to walkers | How many huts does {N} have? \
            | How many huts does {N} offer to walkers?
        few | has {v} glaciers | feeds {v} glaciers | How many glaciers does {N} have? \
            | How many glaciers does {N} feed?
    """,
}
JOINED = phrases("""
    {N}, which [0], [1].
    {N} [0] and [1].
    As is well known, {N} [0] and [1].
    {N} [0], [1] and [2].
    {N}, which [0] and [1], [2].
    Today {N} [0]; moreover, it [1].
""")
LINKS = [
    "It [0].",
    "In addition it [0].",
    "According to the town guide, it [0].",
    "We know that it [0].",
]

# What is said about a thing without a fact in it: it answers none of the questions.
TALK = phrases("""
    Much more could be said about {N}, and visitors often ask for stories about it.
    Many people love {N}, but some of them cannot say why.
    Like so many others, {N} has seen better times, and yet it is loved by young and old.
    There are people who think that {N} should be better known than it is.
    Opinions about {N} differ: some call it beautiful, and others call it ugly.
    {N} is, in the opinion of many, one of the most beautiful of its kind.
    Children often draw {N}, and poets have written about it.
    Nobody can tell what will become of {N} in the future.
    Although much has been written about {N}, little of it is worth reading.
    Some people have never heard of {N}, while others cannot stop talking about it.
    It is often said that {N} brings good luck, but few people believe that today.
    Those who know {N} well say that they would miss it very much.
    {N} can be seen on many postcards, and people like to take pictures of it.
    In the opinion of some visitors, {N} looks most beautiful in the evening.
    If one believes the stories that people tell, {N} is loved more than ever.
    {N} became more popular than anybody thought, although some people still do not like it.
""")


@dataclass(frozen=True)
class Fact:
    """One thing that can be said about a kind of thing, and asked for."""

    table: str
    predicates: tuple[str, str]
    questions: tuple[str, str]


def _fact(line: str) -> Fact:
    table, one, two, ask, again = line.split(" | ")
    return Fact(table, (one, two), (ask, again))


FACTS = {name: [_fact(line) for line in phrases(block)] for name, block in KINDS.items()}


def _claims(rng: random.Random, facts: list[Fact], key: str) -> list[str]:
    """Write predicates whose values are slots numbered by the fact's place."""
    return [
        rng.choice(fact.predicates).replace("{v}", f"{{{fact.table}#{key}{number}}}")
        for number, fact in enumerate(facts)
    ]


def _joined(template: str, claims: list[str]) -> str:
    for number, claim in enumerate(claims):
        template = template.replace(f"[{number}]", claim)
    return template


def qnli(rng: random.Random) -> Splits:
    """Make a question and a sentence: 0 where the sentence answers it."""
    grammar = Grammar(TABLES, rng)

    def make(label: int) -> Row:
        name = rng.choice(list(FACTS))
        kind = weighted(rng, {"talk": 0.6, "elsewhere": 0.15, "hard": 0.25}) if label else "answer"
        template = rng.choice(JOINED)
        said, asked = _said_and_asked(rng, name, template.count("["), label)
        text = _joined(template, _claims(rng, said, "a"))
        ask = rng.choice(asked.questions)
        own, other = grammar.fill(name, name)
        named = other if label and asked in said else own
        if kind == "talk":
            text, named = rng.choice(TALK), own
        elif kind == "elsewhere":  # a thing of another kind is asked about
            named = rng.choice([other for other in FACTS if other != name])
            ask = rng.choice(rng.choice(FACTS[named]).questions)
        answer, question = grammar.fill(text.replace("{N}", own), ask.replace("{N}", named))
        return {"question": sentence(question), "sentence": sentence(answer), "label": label}

    counts = {"train": 1000, "validation": 300}
    return shuffled(draw(make, counts, lambda row: (row["question"], row["sentence"]), 2), rng)


def _said_and_asked(
    rng: random.Random, name: str, count: int, label: int
) -> tuple[list[Fact], Fact]:
    """Draw the facts of a sentence, and one that is asked: among them, or (mostly) not."""
    facts = rng.sample(FACTS[name], len(FACTS[name]))
    said, others = facts[:count], facts[count:]
    if not label or rng.random() < 0.25:  # a good question, put about something else if label
        return said, rng.choice(said)
    tables = {fact.table.split("_")[0] for fact in said}
    alike = [fact for fact in others if fact.table.split("_")[0] in tables]
    return said, rng.choice(alike or others)


def squad(rng: random.Random) -> Splits:
    """Make passages about one thing, with a sentence or two about another, and questions."""
    grammar = Grammar(TABLES, rng)
    splits: Splits = {"train": [], "validation": []}
    for split, passages in {"train": 60, "validation": 30}.items():
        for number in range(passages):
            rows = _passage(grammar, rng.choice(list(FACTS)), asked=3)
            for turn, row in enumerate(rows):
                splits[split].append({"id": f"{split[:5]}{number:04d}{turn}", **row})
    return splits


def _passage(grammar: Grammar, name: str, asked: int = 4) -> list[Row]:
    """Make one passage whose answers each occur in it once, and its questions."""
    rng = grammar.rng
    while True:
        facts = rng.sample(FACTS[name], 6)
        own, other, *values = grammar.fill(
            f"{name.replace('}', '#1}')}", f"{name.replace('}', '#2}')}",
            *(f"{{{fact.table}#a{n}}}" for n, fact in enumerate(facts)),
            *(f"{{{fact.table}#b{n}}}" for n, fact in enumerate(facts[:3])),
        )  # fmt: skip
        context = _context(rng, facts, own, other, values)
        rows = [_question(rng, fact, own, value, context)
                for fact, value in list(zip(facts, values, strict=False))[:asked]]  # fmt: skip
        if all(context.count(value) == 1 for value in values[:asked]):
            return rows


def _context(rng: random.Random, facts: list[Fact], own: str, other: str, values: list[str]) -> str:
    claims = [rng.choice(f.predicates).replace("{v}", v)
              for f, v in zip([*facts, *facts[:3]], values, strict=True)]  # fmt: skip
    first = _joined(f"{own} [0] and [1].", claims[:2])
    rest = [rng.choice(LINKS).replace("[0]", claim) for claim in claims[2:6]]
    rng.shuffle(rest)
    contrast = _joined(f"{other} [0] and [1].", claims[6:8])
    last = f"Unlike {own}, {other} [0].".replace("[0]", claims[8])
    blocks = [[first, *rest], [contrast, last]]
    rng.shuffle(blocks)
    return " ".join(sentence(text) for block in blocks for text in block)


def _question(rng: random.Random, fact: Fact, own: str, value: str, context: str) -> Row:
    start = context.find(value)
    return {
        "title": sentence(own).replace(" ", "_"),
        "context": context,
        "question": rng.choice(fact.questions).replace("{N}", own),
        "answers": {"text": [value], "answer_start": [start]},
    }
