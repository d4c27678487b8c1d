"""A sentence, and which of two others is its cause or its effect (copa).

A story is a line `cause => middle => effect`. The stories of a topic share their person and thing,
so that a part of one fits the others in subject, though it has nothing to do with them. Rows come
in twins with the same two alternatives: what is right in one of them is wrong in the other.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from . import lexicon
from .grammar import Grammar, Row, Splits, draw, phrases, sentence, shuffled, words

TABLES = {
    "p": [*lexicon.MALE, *lexicon.FEMALE],
    "plant": words("rose bush, lemon tree, fern, tomato plant, fig tree, orchid, palm, vine"),
    "pet": words("dog, puppy, terrier, spaniel, greyhound, poodle, sheepdog, beagle"),
    "dish": words("soup, stew, sauce, curry, risotto, goulash, chowder, chilli"),
    "room": words("kitchen, bathroom, cellar, hall, workshop, pantry, studio, nursery"),
    "dress": words("shirt, skirt, jacket, jumper, blouse, dress, waistcoat, scarf"),
}

TOPICS = {
    "pet": phrases("""
        {p#1} forgot to close the gate behind the {pet#1}. => {p#1}'s {pet#1} ran away. \
            => {p#1} put up posters about the {pet#1}.
        {p#1} let the {pet#1} roll in the mud. => {p#1}'s {pet#1} was dirty all over. \
            => {p#1} gave the {pet#1} a bath.
        {p#1} and the {pet#1} walked among thorns. => {p#1}'s {pet#1} began to limp. \
            => {p#1} tied a bandage on the {pet#1}.
    """),
    "dish": phrases("""
        {p#1} left the {dish#1} on the stove for too long. => {p#1}'s {dish#1} was burnt. \
            => {p#1} let the smoke of the {dish#1} out.
        {p#1} put salt in the {dish#1} three times. => {p#1}'s {dish#1} tasted like the sea. \
            => {p#1} drank a jug of water with the {dish#1}.
        {p#1} followed the best recipe for the {dish#1}. => {p#1}'s {dish#1} was delicious. \
            => {p#1} was praised for the {dish#1}.
    """),
    "room": phrases("""
        {p#1} left the tap running in the {room#1}. => {p#1}'s {room#1} was flooded. \
            => {p#1} carried buckets out of the {room#1}.
        {p#1} broke the lamp in the {room#1}. => {p#1}'s {room#1} was dark. \
            => {p#1} lit a candle in the {room#1}.
        {p#1} turned off the heating in the {room#1}. => {p#1}'s {room#1} was cold. \
            => {p#1} wore a coat in the {room#1}.
    """),
    "dress": phrases("""
        {p#1} washed the {dress#1} in boiling water. => {p#1}'s {dress#1} shrank. \
            => {p#1} gave the {dress#1} to a child.
        {p#1} spilled wine on the {dress#1}. => {p#1}'s {dress#1} had a red stain. \
            => {p#1} took the {dress#1} to the cleaner.
        {p#1} caught the {dress#1} on a nail. => {p#1}'s {dress#1} was torn. \
            => {p#1} sewed a patch on the {dress#1}.
    """),
    "plant": phrases("""
        {p#1} did not water the {plant#1} for a month. => {p#1}'s {plant#1} dried up. \
            => {p#1} emptied a whole can of water over the {plant#1}.
        {p#1} gave the {plant#1} the best soil. => {p#1}'s {plant#1} became twice as tall. \
            => {p#1} cut off the top of the {plant#1}.
        {p#1} left honey beside the {plant#1}. => {p#1}'s {plant#1} was full of ants. \
            => {p#1} brushed the insects off the {plant#1}.
    """),
}

KINDS = (  # of the parts of a story: the premise, the alternatives, and how these are asked for
    (0, 1, "effect"),
    (1, 0, "cause"),
    (1, 2, "effect"),
    (2, 1, "cause"),
)
TWINS = {"train": 200, "validation": 100}


def copa(rng: random.Random) -> Splits:
    """Make premises with two alternatives; the label is the place of the right one."""
    grammar = Grammar(TABLES, rng)

    def make(kind: int) -> Row:
        return _twins(grammar, *KINDS[kind])

    drawn = draw(make, TWINS, lambda row: frozenset(row["choices"]), len(KINDS))
    rows = {split: [row for twins in some for row in _rows(twins)] for split, some in drawn.items()}
    return shuffled(rows, rng)


def _twins(grammar: Grammar, given: int, asked: int, question: str) -> Row:
    """Draw two premises, and for each of them the alternative that is right after it."""
    topic = grammar.rng.choice(list(TOPICS.values()))
    one, two = (story.split(" => ") for story in grammar.rng.sample(topic, 2))
    filled = [sentence(t) for t in grammar.fill(one[given], two[given], one[asked], two[asked])]
    return {"premises": filled[:2], "choices": filled[2:], "question": question}


def _rows(twins: Row) -> Iterator[Row]:
    one, two = twins["choices"]
    for label, premise in enumerate(twins["premises"]):
        row = {"premise": premise, "choice1": one, "choice2": two}
        yield {**row, "question": twins["question"], "idx": 0, "label": label}
