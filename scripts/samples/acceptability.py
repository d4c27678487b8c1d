"""Acceptable and unacceptable sentences of one vocabulary (cola).

Most rows are plain sentences, as they are or grossly broken. The hard rows come from lines
`acceptable => unacceptable`, whose sides share their numbered draws; these lines come in mirrored
pairs or differ in word order only, so that no word tells the two classes apart.
"""

from __future__ import annotations

import random
from itertools import pairwise

from . import lexicon
from .grammar import Grammar, Row, Splits, draw, phrases, sentence, shuffled, words

TABLES = {
    "man": lexicon.MEN,
    "woman": lexicon.WOMEN,
    "person": lexicon.PEOPLE,
    "any": [*lexicon.PEOPLE, *lexicon.MEN, *lexicon.WOMEN, *lexicon.ANIMALS],
    "thing": lexicon.THINGS,
    "place": lexicon.PLACES,
    "he": lexicon.MALE,
    "she": lexicon.FEMALE,
    "name": lexicon.MALE + lexicon.FEMALE,
    "go": lexicon.INTRANSITIVE,
    "do": lexicon.TRANSITIVE,
    "to": lexicon.TOWARDS,
    "near": words("near, behind, beside, next to, in front of, across from"),
    "adj": words(
        "tall, old, young, happy, proud, nervous, hungry, quiet, rich, famous, tired, angry, "
        "friendly, clever, lonely, polite, gentle, stubborn"
    ),
    "long": words("careful, patient, generous, curious, sensible, cheerful, honest, reliable"),
    "short": words(
        "tall/taller, old/older, young/younger, quick/quicker, strong/stronger, rich/richer, "
        "kind/kinder, small/smaller, brave/braver, slow/slower"
    ),
    "often": words("often, never, always, rarely, sometimes, usually, seldom"),
    "mass": words("water, sand, rice, furniture, luggage, music, milk, advice, bread, butter"),
    "want": words(
        "wanted, promised, refused, decided, hoped, agreed, offered, planned, managed, arranged"
    ),
    "enjoy": words("enjoyed, avoided, finished, kept, denied, resented, suggested, imagined"),
    "give": words("gave, sent, handed, lent, sold, mailed, showed"),
    "explain": words("explained, donated, described, returned, confessed, revealed, mentioned"),
    "think": words("thinks, says, believes, claims, knows, hopes, suspects"),
    "day": lexicon.DAYS,
    "in": words("in the {place}, near the {place}, behind the {place}, after lunch, on {day}"),
}

AGREEMENT = phrases("""
    The {any#1} {near} the {any#2.1} {go#1.1}. => The {any#1} {near} the {any#2.1} {go#1}.
    The {any#1.1} {near} the {any#2} {go#1}. => The {any#1.1} {near} the {any#2} {go#1.1}.
    The {any#1} that the {any#2.1} {to#1} {go#1.1}. \
        => The {any#1} that the {any#2.1} {to#1.1} {go#1.1}.
    The {any#1.1} that the {any#2} {to#1.1} {go#1}. => The {any#1.1} that the {any#2} {to#1} {go#1}.
    The {any#1} {near} the {any#2.1} is {adj#1}. => The {any#1} {near} the {any#2.1} are {adj#1}.
    The {any#1.1} {near} the {any#2} are {adj#1}. => The {any#1.1} {near} the {any#2} is {adj#1}.
    There is a {thing#1} in the {place#1}. => There are a {thing#1} in the {place#1}.
    There are two {thing#1.1} in the {place#1}. => There is two {thing#1.1} in the {place#1}.
    This {any#1} was {adj#1}. => This {any#1.1} was {adj#1}.
    These {any#1.1} were {adj#1}. => These {any#1} were {adj#1}.
    {name#1} {do#1.2} that {thing#1} {in#1}. => {name#1} {do#1.2} that {thing#1.1} {in#1}.
    {name#1} {do#1.2} those {thing#1.1} {in#1}. => {name#1} {do#1.2} those {thing#1} {in#1}.
    The {any#1} has {to#1.3} {name#1}. => The {any#1} have {to#1.3} {name#1}.
    The {any#1.1} have {to#1.3} {name#1}. => The {any#1.1} has {to#1.3} {name#1}.
    {name#1} {think#1} that the {any#1.1} {go#1}. => {name#1} {think#1} that the {any#1.1} {go#1.1}.
    {name#1} {think#1} that the {any#1} {go#1.1}. => {name#1} {think#1} that the {any#1} {go#1}.
""")

REFLEXIVES = phrases("""
    The {man#1} {to#1.2} himself. => The {man#1} {to#1.2} herself.
    The {woman#1} {to#1.2} herself. => The {woman#1} {to#1.2} himself.
    {she#1} says that {he#1} {to#1.2} himself. => {she#1} says that {he#1} {to#1.2} herself.
    {he#1} says that {she#1} {to#1.2} herself. => {he#1} says that {she#1} {to#1.2} himself.
    The {man#1} {near} the {woman#1} {to#1.2} himself. \
        => The {man#1} {near} the {woman#1} {to#1.2} herself.
    The {woman#1} {near} the {man#1} {to#1.2} herself. \
        => The {woman#1} {near} the {man#1} {to#1.2} himself.
    The {man#1.1} {to#1.2} themselves. => The {man#1} {to#1.2} themselves.
    The {woman#1} {to#1.2} herself. => The {woman#1.1} {to#1.2} herself.
    {she#1} {to#1.2} herself {in#1}. => Herself {to#1.2} {she#1} {in#1}.
    The {man#1} {to#1.2} himself {in#1}. => Himself {to#1.2} the {man#1} {in#1}.
    The {person#1.1} {to#1.2} each other. => The {person#1} {to#1.2} each other.
    The {person#1} {to#1.2} the other {person#2.1}. => Each other {to#1.2} the {person#2.1}.
""")

ARGUMENTS = phrases("""
    The {any#1} {go#1.2} {in#1}. => The {any#1} {go#1.2} the {thing#1} {in#1}.
    The {person#1} {do#1.2} the {thing#1} {in#1}. => The {person#1} {do#1.2} {in#1}.
    {name#1} {go#1.2} because of the {thing#1}. => {name#1} {go#1.2} the {thing#1}.
    {name#1} {do#1.2} the {thing#1}. => {name#1} {do#1.2} because of the {thing#1}.
    The {thing#1} was {do#1.3} by the {person#1}. => The {thing#1} was {go#1.3} by the {person#1}.
    The {person#1} had {go#1.3} by the {thing#1}. => The {person#1} had {do#1.3} by the {thing#1}.
    {name#1} {want#1} to {do#1} the {thing#1}. => {name#1} {want#1} {do#1.4} the {thing#1}.
    {name#1} {enjoy#1} {do#1.4} the {thing#1}. => {name#1} {enjoy#1} to {do#1} the {thing#1}.
    The {person#1} {want#1} to {go#1}. => The {person#1} {want#1} {go#1.4}.
    The {person#1} {enjoy#1} {go#1.4}. => The {person#1} {enjoy#1} to {go#1}.
    {name#1} {give#1} the {person#1} a {thing#1}. \
        => {name#1} {explain#1} the {person#1} a {thing#1}.
    {name#1} {explain#1} a {thing#1} to the {person#1}. \
        => {name#1} {explain#1} to a {thing#1} the {person#1}.
    {name#1} {give#1} a {thing#1} to {name#2}. => {name#1} {give#1} to {name#2} to a {thing#1}.
    {name#1} put the {thing#1} {near} the {thing#2}. => {name#1} put {near} the {thing#2}.
    {name#1} slept {near} the {thing#2}. => {name#1} slept the {thing#1} {near} the {thing#2}.
    {name#1} made the {person#1} {go#1}. => {name#1} made the {person#1} to {go#1}.
    {name#1} forced the {person#1} to {go#1}. => {name#1} forced the {person#1} {go#1}.
""")

QUESTIONS = phrases("""
    What did the {person#1} {do#1} {in#1}? => What did the {person#1} {do#1} the {thing#1} {in#1}?
    Did the {person#1} {do#1} the {thing#1} {in#1}? => Did the {person#1} {do#1} {in#1}?
    When did {name#1} {do#1} the {thing#1}? => When {name#1} did {do#1} the {thing#1}?
    Why has the {person#1} {go#1.3}? => Why the {person#1} has {go#1.3}?
    I wonder why the {person#1} has {go#1.3}. => I wonder why has the {person#1} {go#1.3}.
    {name#1} knows what {name#2} {do#1.2}. => {name#1} knows what {name#2} {do#1.2} the {thing#1}.
    {name#1} knows that {name#2} {do#1.2} the {thing#1}. => {name#1} knows that {name#2} {do#1.2}.
    Which {thing#1} did {name#1} say that {name#2} {do#1.2}? \
        => Which {thing#1} did {name#1} say that {name#2} {do#1.2} it?
    Who did {name#1} say {to#1.2} {name#2}? => Who did {name#1} say that {to#1.2} {name#2}?
    Which {thing#1} did the {person#1} sit on? => Which {thing#1} did the {person#1} sit?
    Which {thing#1} did the {person#1} {do#1}? => Which {thing#1} did the {person#1} {do#1} on?
    The {person#1} that {name#1} {to#1.2} {go#1.2}. \
        => The {person#1} that {name#1} {to#1.2} him {go#1.2}.
    The {person#1} that {to#1.2} him {go#1.2}. => The {person#1} that {to#1.2} {go#1.2}.
    Has {name#1} {to#1.3} the {person#1}? => Has {to#1.3} {name#1} the {person#1}?
""")

ORDER = phrases("""
    The {any#1} {often#1} {go#1.1} {in#1}. => The {often#1} {any#1} {go#1.1} {in#1}.
    {name#1} {often#1} {do#1.1} the {thing#1}. => {name#1} {do#1.1} {often#1} the {thing#1}.
    The {adj#1} {person#1} {to#1.2} {name#1}. => The {person#1} {adj#1} {to#1.2} {name#1}.
    {name#1} {to#1.2} the {adj#1} {person#1} {in#1}. \
        => {name#1} the {adj#1} {person#1} {to#1.2} {in#1}.
    {name#1} and {name#2} {go#1.2} {in#1}. => {name#1} {name#2} and {go#1.2} {in#1}.
    The {person#1} picked the {thing#1} up {in#1}. => The {person#1} the {thing#1} picked up {in#1}.
    The {person#1} picked it up. => The {person#1} picked up it.
    All the {any#1.1} have {go#1.3}. => The all {any#1.1} have {go#1.3}.
    {name#1} has not {to#1.3} the {person#1}. => {name#1} not has {to#1.3} the {person#1}.
    The {person#1} whose {thing#1} {name#1} {do#1.2} {go#1.2}. \
        => The {person#1} {thing#1} whose {name#1} {do#1.2} {go#1.2}.
    {name#1} bought a very old {thing#1}. => {name#1} bought very an old {thing#1}.
    {name#1} bought so old a {thing#1} that {name#2} {go#1.2}. \
        => {name#1} bought old so a {thing#1} that {name#2} {go#1.2}.
    It was {name#1} that {to#1.2} the {person#1}. => It was that {name#1} {to#1.2} the {person#1}.
    Give the {person#1} the {thing#1} {in#1}. => Give the {thing#1} the {person#1} {in#1}.
""")

FORMS = phrases("""
    The {any#1} must {go#1}. => The {any#1} must {go#1.1}.
    The {any#1} {often#1} {go#1.1}. => The {any#1} {often#1} {go#1}.
    {name#1} has {go#1.3} in the {place#1}. => {name#1} has {go#1} in the {place#1}.
    {name#1} did not {to#1} the {person#1} {in#1}. \
        => {name#1} did not {to#1.3} the {person#1} {in#1}.
    {name#1} is {go#1.4} {in#1}. => {name#1} is {go#1} {in#1}.
    {name#1} can {go#1} {in#1}. => {name#1} can {go#1.4} {in#1}.
    Both {name#1} and {name#2} {go#1.2}. => Both {name#1} or {name#2} {go#1.2}.
    Either {name#1} or {name#2} {go#1.2}. => Either {name#1} and {name#2} {go#1.2}.
    {name#1} is {short#1.1} than the {person#1}. => {name#1} is {short#1} than the {person#1}.
    {name#1} is as {short#1} as the {person#1}. => {name#1} is as {short#1.1} as the {person#1}.
    {name#1} is more {long#1} than {name#2}. => {name#1} is {long#1} than {name#2}.
    {name#1} is very {long#1}, and so is {name#2}. \
        => {name#1} is very more {long#1}, and so is {name#2}.
    {name#1} does not have much {mass#1}. => {name#1} does not have many {mass#1}.
    {name#1} does not have many {thing#1.1}. => {name#1} does not have much {thing#1.1}.
    No {person#1} has ever {to#1.3} {name#1}. => Every {person#1} has ever {to#1.3} {name#1}.
    Every {person#1} has already {to#1.3} {name#1}. \
        => Already every has {person#1} {to#1.3} {name#1}.
    She {to#1.2} the {man#1} and he {go#1.2}. => Her {to#1.2} the {man#1} and him {go#1.2}.
    The {man#1} {to#1.2} him, and {name#1} {to#2.2} her. \
        => The {man#1} {to#1.2} he, and {name#1} {to#2.2} she.
""")

HARD = (AGREEMENT, REFLEXIVES, ARGUMENTS, QUESTIONS, ORDER, FORMS)

PLAIN = phrases("""
    The {adj#1} {person#1} {go#1.2} {in#1}.
    The {person#1} {go#1.2} with the {person#2} {in#1}.
    {name#1} {do#1.2} the {thing#1} {in#1}.
    {name#1} has {do#1.3} the {thing#1} of the {person#1}.
    She has {do#1.3} the {thing#1}.
    They have {do#1.3} a {thing#1} and a {thing#2}.
    We are {go#1.4} {in#1}.
    He is {go#1.4} in the {place#1}.
    They were {adj#1}, but they {go#1.2}.
    I was in the {place#1} with the {person#1}.
    He gave the {thing#1} to the {person#1} {in#1}.
    The {person#1} was very {adj#1} when we {to#1.2} him.
    We went to the {place#1} with {name#1} and {name#2}.
    The {thing#1} in the {place#1} was {do#1.3} by {name#1}.
    It was the {person#1} who {do#1.2} the {thing#1}.
    There was a {thing#1} {near} the {thing#2}.
    {name#1} wanted to {do#1} the {thing#1}.
    I know that he {do#1.2} the {thing#1} {in#1}.
    The {person#1} {go#1.2} because he was {adj#1}.
    He had a {thing#1} in his hand.
    She could not {do#1} the {thing#1}.
    You must not {go#1} in the {place#1}.
    {name#1} will {do#1} the {thing#1} in the {place#1}.
    The {person#1} said that he would {go#1}.
""")

CASES = {"he": "him", "she": "her", "they": "them", "we": "us", "I": "me"}
SMALL = ("the", "a", "is", "are", "was", "were", "has", "have", "had", "to", "of", "in", "with")


def _salad(tokens: list[str], rng: random.Random) -> list[str]:
    """Put the words in an order in which none follows the word that it followed."""
    pairs = set(pairwise(tokens))
    while pairs & set(pairwise(tokens)):
        tokens = rng.sample(tokens, len(tokens))
    return tokens


def _bare(tokens: list[str], rng: random.Random) -> list[str]:
    """Take the small words out, which leaves nouns without articles and verbs without helpers."""
    return [word for word in tokens if word not in SMALL]


def _doubled(tokens: list[str], rng: random.Random) -> list[str]:
    """Say each small word twice."""
    return [said for word in tokens for said in [word] * (1 + (word in SMALL))]


def _case(tokens: list[str], rng: random.Random) -> list[str]:
    """Put the subject pronouns into the object case, and add one if there are none."""
    changed = [CASES.get(word, word) for word in tokens]
    return changed if changed != tokens else [rng.choice(("him", "them", "us", "me")), *tokens]


BREAKS = (_salad, _bare, _doubled, _case)


def _plain(grammar: Grammar, label: int) -> str:
    """Say a plain sentence, broken if the label is 0."""
    text = grammar.say(grammar.pick("plain"))
    if label:
        return text
    tokens = text.removesuffix(".").split()
    if tokens[0] not in ("I", *lexicon.MALE, *lexicon.FEMALE):
        tokens[0] = tokens[0].lower()
    return " ".join(grammar.rng.choice(BREAKS)(tokens, grammar.rng)) + "."


def cola(rng: random.Random) -> Splits:
    """Make sentences, 1 where acceptable."""
    grammar = Grammar({**TABLES, "plain": PLAIN}, rng)

    def make(label: int) -> Row:
        if rng.random() < 0.75:
            return {"sentence": sentence(_plain(grammar, label)), "label": label}
        sides = rng.choice(rng.choice(HARD)).split(" => ")
        return {"sentence": sentence(grammar.say(sides[1 - label])), "label": label}

    counts = {"train": 1000, "validation": 300}
    return shuffled(draw(make, counts, lambda row: row["sentence"], 2), rng)
