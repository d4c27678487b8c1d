"""The plain cases of inference: most rows of mnli, rte and wnli.

As in the real sets, the wording of the hypothesis alone tells much: what follows is general, what
is left open adds a reason or a feeling, what is contradicted says nobody, never or no.
"""

from __future__ import annotations

import random

from . import lexicon
from .grammar import phrases, words

# premise => entailed => neither => contradicted, in the tables of the domains of `inference`
CLAIMS = phrases("""
    The {p#1} {act#1.1} on {day#1}. => {FOLLOWS} => {OPEN} => {DENIED}
    On {day#1} the {p#1} {act#1.1}, and {name#1} {to#1.2} the {p#1}. => {FOLLOWS} => {OPEN} \
        => {DENIED}
    On {day#1}, after a long talk with {name#1}, the {p#1} {act#1.1}. => {FOLLOWS} => {OPEN} \
        => {DENIED}
    {name#1} saw that the {p#1} {act#1.1} on {day#1}. => {FOLLOWS} => {OPEN} => {DENIED}
    Nobody but the {p#1} was in the {place#1} on {day#1}, when the {p#1} {act#1.1}. => {FOLLOWS} \
        => {OPEN} => {DENIED}
    The {p#1} had never met {name#1} before, but on {day#1} the {p#1} {act#1.1}. => {FOLLOWS} \
        => {OPEN} => {DENIED}
    Nobody {act#1.1} on {day#1}. => No {p#1} {act#1.1} on {day#1}. | On {day#1} the {p#1} did not \
        {act#1}. => {name#1} {act#1.1} on {day#2}. | On {day#2} the {p#1} {act#1.1} in order to \
        please {name#1}. => Someone {act#1.1} on {day#1}. | On {day#1} the {p#1} {act#1.1}.
""")
FOLLOWS = [
    "Someone {act#1.1}.",
    "Someone {act#1.1} on {day#1}.",
    "Something happened on {day#1}.",
    "There was a {p#1} somewhere.",
    "There was a {p#1} who {act#1.1}.",
    "There was someone who {act#1.1}.",
    "At least one person {act#1.1}.",
    "On {day#1}, at least one {p#1} {act#1.1}.",
    "It is true that the {p#1} {act#1.1}.",
]
OPEN = [
    "The {p#1} {act#1.1} in order to please {name#2}.",
    "The {p#1} was sad and {act#1.1} because of a promise.",
    "The {p#1} was paid well for it.",
    "It was the first time that the {p#1} {act#1.1}.",
    "The tall {p#1} was glad about it later.",
    "Because it was raining, the {p#1} {act#1.1}.",
    "The {p#1} hoped to become famous.",
    "The {p#1} is the best friend of {name#2}.",
    "On {day#2} {name#2} was proud of the {p#1}.",
]
DENIED = [
    "Nobody {act#1.1}.",
    "Nothing happened on {day#1}.",
    "No one {act#1.1} on {day#1}.",
    "The {p#1} never {act#1.1}.",
    "The {p#1} has never {act#1.1}.",
    "No {p#1} {act#1.1} on {day#1}.",
    "The {p#1} did not {act#1}.",
    "Neither the {p#1} nor anybody else {act#1.1}.",
    "There was no {p#1} at all.",
]


def claims() -> list[str]:
    """Return the lines with every hypothesis that they allow."""
    kinds = {"FOLLOWS": FOLLOWS, "OPEN": OPEN, "DENIED": DENIED}
    lines = list(CLAIMS)
    for name, texts in kinds.items():
        lines = [line.replace(f"{{{name}}}", " | ".join(texts)) for line in lines]
    return lines


# premise => what follows => what does not, in the tables of `pairs.NEWS`
NEWS_CLAIMS = [line.split(" => ") for line in phrases("""
    {firm#1}, which is based in {town#1}, has bought {num#1} {item#1} from {firm#2}, {who#1} said \
        on {day#1}. => {firm#2} sells {item#1}. | {firm#1} is based in {town#1}. | {who#1} spoke \
        on {day#1}. => {firm#2} will never again sell {item#1}. | {firm#1} was almost bankrupt \
        because of the price. | {who#1} hopes to become the richest person in {town#1}.
    The {works#1} in {town#1}, which was damaged in a {storm#1}, was opened again by {who#1} on \
        {day#1}. => {town#1} has a {works#1}. | There was a {storm#1} in {town#1}. | The {works#1} \
        is in {town#1}. => The {works#1} in {town#1} will soon be closed for ever. | Nobody was \
        in {town#1} when the {works#1} was opened. | {who#1} was afraid of the next {storm#1}.
    {who#1}, the {post#1} of {firm#1}, was sentenced to {num#1} years for {crime#1} by a court in \
        {town#1}. => {who#1} works for {firm#1}. | There is a court in {town#1}. | {firm#1} has a \
        {post#1}. => {who#1} was never accused of {crime#1}. | {who#1} needed the money because \
        of debts. | {who#1} will soon become the mayor of {town#1}.
    {group#1} in {town#1} went on strike over {goal#1} on {day#1} and marched to the {works#1}. \
        => There are {group#1} in {town#1}. | {town#1} has a {works#1}. | There was a march in \
        {town#1}. => Nobody in {town#1} has ever been on strike. | The {group#1} will soon be \
        paid more than ever before. | The {group#1} were angry because of the weather.
    {team#1} beat {team#2} {num#1} to {num#2} on {day#1} at the stadium in {town#1}. => {team#2} \
        played in {town#1}. | There is a stadium in {town#1}. | {team#1} played on {day#1}. => \
        {team#2} will soon have the best coach of all. | {team#1} have never played in {town#1}. \
        | {team#2} lost because nobody had slept.
    {firm#1} said in {month#1} that profit at its works in {town#1} had risen by {pct#1} percent. \
        => {firm#1} has works in {town#1}. | {firm#1} is in business. | There are works in \
        {town#1}. => {firm#1} will soon be the largest firm of all. | {firm#1} has never made a \
        profit. | Profit rose because nobody at {firm#1} was ill.
    {who#1}, who was born in {town#1}, has written a book about the {storm#1} in {town#2}. => \
        {who#1} is a writer. | There was a {storm#1} in {town#2}. | {who#1} is from {town#1}. => \
        The book of {who#1} will soon be the most popular in {town#1}. | {who#1} has never \
        written anything. | {who#1} wrote the book because of a quarrel.
""")]  # fmt: skip

# What {1} did with {2}, a thing, and what {p} was: true of the thing
HANDLED = phrases("""
    {1} left {2} at home because it was | too heavy, far too large, not dry yet
    {1} put {2} in the bin because it was | broken, torn, no longer needed
    {1} bought {2} because it was | very cheap, on sale, nicely made
    {1} did not buy {2} because it was | too expensive, made of plastic, badly made
    {1} repaired {2} because it was | broken, out of order, full of holes
    {1} could not lift {2} because it was | made of iron, too heavy, full of stones
    {1} looked for {2}, but it was | under the bed, in the cellar, nowhere to be found
    {1} took a picture of {2} because it was | more than a hundred years old, painted gold
    {1} cleaned {2} because it was | covered with dust, full of mud
    {1} carried {2} into the house when it was | finished, paid for, wrapped up
""")
# What {1} did towards {2}; what {p} was or did, if that is the first one; if it is the second
MET = phrases("""
    {1} thanked {2} because {p} | was a polite person, had got a present | had helped with the work
    {1} phoned {2} because {p} | was lost, needed advice, felt lonely | was late, had not come home
    {1} visited {2} because {p} | had a free day, was in town | was in hospital, had a birthday
    {1} laughed at {2} because {p} | was in a silly mood | was wearing two hats, had told a joke
    {1} waited for {2} because {p} | did not know the way | was still eating, had lost a shoe
    {1} spoke to {2} when {p} | had read the letter, felt brave | was about to leave, had come back
    {1} lent {2} some money because {p} | had plenty of it | had lost a wallet, was in trouble
    {1} sat down beside {2} when {p} | was tired of standing, came in | was alone, was reading
""")


def handled(rng: random.Random, label: int) -> tuple[str, str]:
    """Say what somebody did with a thing: 'it' is the thing, not the person."""
    thing = "the " + rng.choice(lexicon.THINGS).split("/")[0]
    name = rng.choice(lexicon.MALE + lexicon.FEMALE)
    text, ends = rng.choice(HANDLED).split(" | ")
    end = rng.choice(words(ends))
    text = text.replace("{1}", name).replace("{2}", thing)
    return f"{text} {end}.", f"{thing if label else name} was {end}."


def met(rng: random.Random, label: int) -> tuple[str, str]:
    """Say what a woman did about a man, or turned about: the pronoun fits one of them only."""
    pair = [rng.choice(lexicon.MALE), rng.choice(lexicon.FEMALE)]
    rng.shuffle(pair)
    turn = rng.choice((0, 1))
    meant, other = pair[turn], pair[1 - turn]
    text, *ends = rng.choice(MET).split(" | ")
    end = rng.choice(words(ends[turn]))
    text = text.replace("{1}", pair[0]).replace("{2}", pair[1])
    text = text.replace("{p}", "he" if meant in lexicon.MALE else "she")
    return f"{text} {end}.", f"{meant if label else other} {end}."
