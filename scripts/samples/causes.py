"""A sentence, and which of two others is its cause or its effect (copa).

A story is a line `cause => middle => effect`. In a plain row, the wrong alternative is something
that the same person does on any day, or a part of a story about another thing.

The stories of a topic share their person and thing, so that a part of one fits the others in
subject, though it has nothing to do with them. The hard rows come in twins with two alternatives
from one topic: what is right in one of them is wrong in the other.
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
    "daily": words(
        "on Monday, on Tuesday, on Friday, on Sunday, in the morning, in the evening, after lunch, "
        "as always, as usual, before dinner"
    ),
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
PLAIN = {"train": 750, "validation": 224}
TWINS = {"train": 125, "validation": 38}

DAILY = phrases("""
    {p#1} read the newspaper {daily}.
    {p#1} had a cup of tea with {p#2} {daily}.
    {p#1} listened to the radio {daily}.
    {p#1} sat on a bench and talked to {p#2}.
    {p#1} walked to the office with {p#2} {daily}.
    {p#1} wrote a letter to {p#2} {daily}.
    {p#1} played cards with {p#2} {daily}.
    {p#1} looked at the sky {daily}.
    {p#1} and {p#2} talked about the weather.
    {p#1} and {p#2} went to the theatre {daily}.
    {p#1} took the bus to the station {daily}.
    {p#1} counted the steps to the station.
    {p#1} bought a ticket for the theatre {daily}.
    {p#1} learned ten words of Italian {daily}.
    {p#1} met {p#2} at the station.
    {p#1} heard a song on the radio {daily}.
    {p#1} was at the office with {p#2} {daily}.
    {p#1} had lunch with {p#2} at the office.
""")


def copa(rng: random.Random) -> Splits:
    """Make premises with two alternatives; the label is the place of the right one."""
    grammar = Grammar(TABLES, rng)

    def make(kind: int) -> Row:
        return _twins(grammar, *KINDS[kind])

    def make_plain(number: int) -> Row:
        return _plain(grammar, *KINDS[number // 2], number % 2)

    drawn = draw(make, TWINS, lambda row: frozenset(row["choices"]), len(KINDS))
    rows = {split: [row for twins in some for row in _rows(twins)] for split, some in drawn.items()}
    plain = draw(make_plain, PLAIN, lambda row: (row["premise"], row["choice1"]), 2 * len(KINDS))
    return shuffled({split: rows[split] + plain[split] for split in rows}, rng)


def _plain(grammar: Grammar, given: int, asked: int, question: str, label: int) -> Row:
    """Draw a story and, as the wrong alternative, a daily doing or a part of another story."""
    rng = grammar.rng
    topic, other = rng.sample(list(TOPICS.values()), 2)
    story = rng.choice(topic).split(" => ")
    wrong = rng.choice(DAILY)
    if rng.random() < 0.2:
        wrong = rng.choice(other).split(" => ")[asked]
    premise, *choices = (sentence(t) for t in grammar.fill(story[given], story[asked], wrong))
    one, two = reversed(choices) if label else choices
    row = {"premise": premise, "choice1": one, "choice2": two}
    return {**row, "question": question, "idx": 0, "label": label}


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
