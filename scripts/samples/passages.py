"""News with a summary (xsum), and tagged sentences with heads (ud_ewt)."""

from __future__ import annotations

import random
import re

from .grammar import Grammar, Row, Splits, draw, phrases, sentence, shuffled, words
from .pairs import NEWS

# The summaries, most of which only say what the report is about; then what it can say, in order.
EVENTS = {
    "fire": phrases("""
        This is about a fire at a {site#1} in {town#1}. \
            | A fire at a {site#1} in {town#1} has killed {num#1} people. \
            | {num#1} people have died in a fire at a {site#1} in {town#1}.
        Flames were seen at the {site#1} shortly after {hour#1} on {day#1}.
        About {crew#1} firefighters from {town#1} and {town#2} were sent to the scene.
        {num#1} people were found dead when the smoke cleared, police said.
        {num#2} others were treated for burns, but {they#1} to leave hospital by {day#2}.
        {who#1}, who lives across the road, said it was {feel#1}.
        The cause is not yet known, although {last#1} & Sons, which owns the {site#1}, had \
            {warned#1}.
    """),
    "match": phrases("""
        This is about a match of {team#1} in {town#1}. \
            | {last#1} scored {goals#1} times as {team#1} beat {team#2} in {town#1}. \
            | {team#2} lost to {team#1} in {town#1} after {goals#1} goals by {last#1}.
        It took {last#1} only {crew#1} minutes to score on {day#1} night.
        {team#2} came to {town#1} without having lost since {month#1}.
        But {team#1} were quicker to every ball and {last#1} had {goals#1} goals by the end.
        {last#2} hit the post for {team#2}, and {last#3} missed a penalty.
        "It was {feel#1}," said {who#1}, who trains {team#1}.
        {team#2} will play at home next, on {day#2}.
    """),
    "court": phrases("""
        This is about a trial for {crime#1} in {town#1}. \
            | {who#1} has been jailed for {num#1} years for {crime#1} in {town#1}. \
            | A court in {town#1} has sent {who#1} to prison for {num#1} years over {crime#1}.
        The trial lasted {crew#1} days and ended on {day#1}.
        {last#3}, for the prosecution, called {num#2} witnesses to {town#1}.
        {who#1} denied {crime#1}, but the jury did not believe the story.
        The judge, {who#2}, said it was {feel#1}, and set the term at {num#1} years.
        A second defendant from {town#2} was found not guilty.
        The lawyers said they had {warned#1} and would appeal in {month#1}.
    """),
    "deal": phrases("""
        This is about the sale of {firm#2} to {firm#1}. \
            | {firm#1} is to buy {firm#2} for ${sum#1}m. \
            | {firm#2} has agreed to a ${sum#1}m offer from {firm#1}.
        Talks in {town#1} went on until {hour#1} on {day#1}.
        {firm#2}, which makes {item#1}, has lost money since {month#1}.
        Its owners will now be paid ${sum#1}m by {firm#1}.
        {firm#3} had also been interested, but walked away.
        "It is {feel#1}," said {who#1}, who speaks for the workers in {town#2}.
        About {crew#1} jobs may go, although {firm#1} had {warned#1}.
    """),
    "strike": phrases("""
        This is about a strike over {goal#1} in {town#1}. \
            | {group#1} in {town#1} have ended a strike over {goal#1}. \
            | A strike over {goal#1} by {group#1} in {town#1} is over.
        Pickets were taken down at {hour#1} on {day#1}.
        The dispute about {goal#1} had gone on for {crew#1} days.
        {group#1} voted to accept an offer made by {who#1}, the mayor of {town#1}.
        {group#2} had supported them, and so had people in {town#2}.
        One of the strikers said it had been {feel#1}.
        A new agreement will be signed in {month#1}, and both sides {they#1} to keep it.
    """),
    "works": phrases("""
        This is about plans for a {works#1} in {town#1}. \
            | Plans for a new {works#1} in {town#1} have been dropped because of the cost. \
            | {town#1} will not get its {works#1}, as it would have cost too much.
        The council met until {hour#1} on {day#1}.
        Drawings for the {works#1} had been shown to people in {town#1} in {month#1}.
        The price had risen to ${sum#1}m, {who#1} told the meeting.
        By {num#1} votes to two, the members decided to stop the work.
        {who#2}, who leads a group of residents, called the result {feel#1}.
        {town#2} had {warned#1} when it built one of its own.
    """),
    "animal": phrases("""
        This is about a {beast#1} from a zoo in {town#1}. \
            | A {beast#1} that escaped from a zoo in {town#1} has been caught after {crew#1} days. \
            | After {crew#1} days of freedom, a {beast#1} from {town#1} zoo is back in its cage.
        The keepers in {town#1} noticed an open door at {hour#1} on {day#1}.
        The {beast#1} was seen in gardens, on a roof and once near the railway to {town#2}.
        For {crew#1} days nobody could get close to it.
        {who#1} from {town#2} finally found the animal asleep in a shed.
        "It was {feel#1}," {last#1} of the zoo said.
        The zoo had {warned#1}, and visitors {they#1} to see the animal again in {month#1}.
    """),
    "prize": phrases("""
        This is about a prize for a {craft#1} in {town#1}. \
            | {who#1} has won this year's {town#1} prize for a {craft#1}. \
            | This year's {town#1} prize has gone to {who#1} for a {craft#1}.
        The jury of the {town#1} prize met for {num#1} hours and was not of one mind.
        In the end it chose a {craft#1} that nobody had expected on the list.
        {who#1} grew up in {town#2} and worked there for {firm#1}.
        {who#2} and {who#3} had been thought more likely to win.
        The winner, who gets ${sum#1},000, called the news {feel#1}.
        The ceremony will be held on a {day#1} in {month#1}.
    """),
}
REPORT = {
    **NEWS,
    "num": words("three, four, five, six, seven, eight, nine, ten, eleven, twelve, fifteen"),
    "goals": words("two, three, four"),
    "site": words("warehouse, hotel, shoe factory, nightclub, paper mill, garage, school, barn"),
    "hour": words("06:30, 09:15, 11:00, 14:20, 17:45, 20:10, 22:05, 23:50"),
    "crew": words("20, 25, 30, 35, 40, 45, 50, 60, 70, 85"),
    "they": words("hope, expect, would like, intend, are sure"),
    "feel": words(
        "the worst thing in years, a day to remember, hard to believe, quite a shock, "
        "a great relief, "
        "no surprise at all, beyond words, a lesson for everyone, a matter of luck"
    ),
    "warned": words(
        "warned of trouble, promised the opposite, asked for more time, seen this coming, "
        "complained before, spoken of a mistake"
    ),
    "beast": words("wallaby, red panda, lynx, penguin, tortoise, vulture, capybara, monkey, otter"),
    "craft": words("novel, symphony, short film, book of poems, wooden chair, garden, photograph"),
}


def xsum(rng: random.Random) -> Splits:
    """Make reports of a few sentences, and one sentence that sums them up."""
    grammar = Grammar(REPORT, rng)

    def make(_: int) -> Row:
        summaries, *lines = rng.choice(list(EVENTS.values()))
        kept = [
            line for line in lines if rng.random() < 0.7 or "{num#1}" in line or "{goals#1}" in line
        ]
        about, *abstracts = summaries.split(" | ")
        summary = about if rng.random() < 0.75 else rng.choice(abstracts)
        summary, *texts = (sentence(text) for text in grammar.fill(summary, *kept))
        return {
            "document": "\n".join(texts),
            "summary": summary,
            "id": f"{rng.randrange(10**8):08d}",
        }

    return draw(make, {"train": 500, "validation": 150}, lambda row: row["document"], 1)


UPOS = words(
    "NOUN, PUNCT, ADP, NUM, SYM, SCONJ, ADJ, PART, DET, CCONJ, PROPN, PRON, X, _, ADV, INTJ, VERB, "
    "AUX"
)
PARTS = re.compile(r"[<>\[\]^]|[^<>\[\]^\s]+")
STRENGTH = {"VERB": 4, "NOUN": 3, "PROPN": 3, "PRON": 3, "SYM": 3, "ADJ": 2, "ADV": 2, "NUM": 2,
            "INTJ": 1, "X": 1}  # fmt: skip
MARKED = 5
# `word/TAG`; an entry of several words has a tag on each; many words bear two tags on purpose.
# The head of an entry is what `^` marks, else its strongest tag (STRENGTH), of equal ones the last;
# it is the head of all other parts. What stands between < and > is a part that is never the head.
TAGGED = {
    "det": words("the/DET, this/DET, that/DET, my/PRON, our/PRON, every/DET, another/DET, a/DET"),
    "adj": words(
        "small/ADJ, cheap/ADJ, light/ADJ, open/ADJ, fast/ADJ, last/ADJ, clean/ADJ, own/ADJ, "
        "kind/ADJ, cold/ADJ, back/ADJ, local/ADJ, right/ADJ, well/ADV known/ADJ, early/ADJ, "
        "present/ADJ, fine/ADJ, still/ADJ, hard/ADJ, very/ADV long/ADJ, two/NUM day/NOUN"
    ),
    "state": words(
        "small/ADJ, cheap/ADJ, light/ADJ, open/ADJ, fast/ADJ, clean/ADJ, kind/ADJ, cold/ADJ, "
        "right/ADJ, early/ADJ, fine/ADJ, still/ADJ, hard/ADJ, very/ADV long/ADJ, back/ADV"
    ),
    "noun": words(
        "book/NOUN, plan/NOUN, light/NOUN, record/NOUN, report/NOUN, call/NOUN, answer/NOUN, "
        "visit/NOUN, order/NOUN, letter/NOUN, dog/NOUN, city/NOUN, bus/NOUN stop/NOUN, "
        "question/NOUN, "
        "watch/NOUN, park/NOUN, drink/NOUN, cook/NOUN, show/NOUN, price/NOUN, "
        "phone/NOUN number/NOUN, garden/NOUN, present/NOUN, fish/NOUN, train/NOUN"
    ),
    "nouns": words(
        "books/NOUN, plans/NOUN, lights/NOUN, records/NOUN, reports/NOUN, calls/NOUN, "
        "answers/NOUN, "
        "visits/NOUN, orders/NOUN, photos/NOUN, people/NOUN, shows/NOUN, cooks/NOUN, prices/NOUN"
    ),
    "base": words(
        "book/VERB, plan/VERB, record/VERB, report/VERB, call/VERB, answer/VERB, visit/VERB, "
        "order/VERB, watch/VERB, show/VERB, back/VERB, face/VERB, light/VERB, open/VERB, "
        "clean/VERB, "
        "present/VERB, question/VERB, cook/VERB, fish/VERB for/ADP, look/VERB at/ADP, find/VERB"
    ),
    "past": words(
        "booked/VERB, planned/VERB, recorded/VERB, reported/VERB, called/VERB, answered/VERB, "
        "visited/VERB, ordered/VERB, watched/VERB, showed/VERB, backed/VERB, faced/VERB, "
        "left/VERB, "
        "found/VERB, looked/VERB for/ADP, waited/VERB for/ADP, paid/VERB for/ADP, had/VERB, "
        "did/VERB"
    ),
    "third": words(
        "books/VERB, plans/VERB, records/VERB, reports/VERB, calls/VERB, answers/VERB, "
        "visits/VERB, "
        "orders/VERB, shows/VERB, cooks/VERB, likes/VERB, has/VERB, does/VERB, works/VERB on/ADP"
    ),
    "ing": words(
        "booking/VERB, planning/VERB, calling/VERB, cooking/VERB, cleaning/VERB, doing/VERB"
    ),
    "name": words(
        "Peter/PROPN, Clara/PROPN <Novak/PROPN>, Mr./PROPN <Rowe/PROPN>, Emma/PROPN, Hugo/PROPN, "
        "Lumen/PROPN <Glass/PROPN>, May/PROPN, Will/PROPN, Dr./PROPN <Marsh/PROPN>, Mark/PROPN"
    ),
    "town": words(
        "Oslo/PROPN, Brenton/PROPN, Northgate/PROPN, Lake/PROPN <Verity/PROPN>, Lima/PROPN"
    ),
    "subject": words(
        "I/PRON, we/PRON, they/PRON, you/PRON, the/DET {nouns}, {name} <and/CCONJ {name}>, "
        "most/ADJ {nouns}"
    ),
    "he": words(
        "he/PRON, she/PRON, it/PRON, {name}, {det} {noun}, {det} {adj} {noun}, nobody/PRON"
    ),
    "him": words("him/PRON, them/PRON, it/PRON, us/PRON, me/PRON, {name}, her/PRON"),
    "object": words(
        "{det} {noun}, {det} {adj} {noun}, {him}, {nouns}, {num} {nouns}, "
        "{det} {noun} <of/ADP {name}>, "
        "{det} {noun} <that/PRON {he} {past}>"
    ),
    "num": words("two/NUM, three/NUM, 12/NUM, 40/NUM, seven/NUM, 1500/NUM"),
    "share": words("12/NUM, 40/NUM, 7.5/NUM, 90/NUM"),
    "in": words(
        "in/ADP, on/ADP, near/ADP, with/ADP, for/ADP, after/ADP, about/ADP, without/ADP, from/ADP"
    ),
    "adv": words(
        "really/ADV, never/ADV, still/ADV, often/ADV, just/ADV, always/ADV, hardly/ADV, also/ADV"
    ),
    "end": words(
        "today/NOUN, right/ADV away/ADV, again/ADV, early/ADV, too/ADV, in/ADP {town}, "
        "before/ADP lunch/NOUN, once/ADV more/ADV, {in} {det} {noun}"
    ),
    "then": words(
        "{end}, yesterday/NOUN, last/ADJ week/NOUN, on/ADP May/PROPN 12/NUM, late/ADV, "
        "<an/DET hour/NOUN> ago/ADV"
    ),
    "can": words("can/AUX, will/AUX, may/AUX, might/AUX, should/AUX, could/AUX, must/AUX"),
    "be": words("is/AUX, was/AUX"),
    "if": words(
        "if/SCONJ, because/SCONJ, although/SCONJ, while/SCONJ, before/SCONJ, after/SCONJ, "
        "since/SCONJ"
    ),
    "oh": words("well/INTJ, yes/INTJ, no/INTJ, please/INTJ, oh/INTJ, hi/INTJ"),
}  # fmt: skip
SHAPES = phrases("""
    {he} {past} {object} {then} ./PUNCT
    {he} {third} {object} <,/PUNCT but/CCONJ {subject} {can} not/PART {base} {object}> ./PUNCT
    {subject} {can} {base} {object} {end} ./PUNCT
    {subject} {adv} {past} {object} ./PUNCT
    {he} {be} ^{state} <,/PUNCT and/CCONJ {he} {be} ^{state} again/ADV> ./PUNCT
    {he} {be} {ing} {object} {end} ./PUNCT
    did/AUX {he} {base} {object} {then} ?/PUNCT
    {can} {he} {base} {object} ?/PUNCT
    {subject} do/AUX n't/PART {base} {object} {end} ./PUNCT
    {subject} want/VERB <to/PART {base} {object} {end}> ./PUNCT
    {subject} went/VERB <to/ADP {det} {noun}> <to/PART {base} {object}> ./PUNCT
    <{if} {he} {past} {object}> ,/PUNCT {subject} {past} {object} ./PUNCT
    {subject} think/VERB <that/SCONJ {he} {past} {object}> ./PUNCT
    {subject} know/VERB that/PRON ./PUNCT
    {oh} ,/PUNCT {he} {third} {object} {end} !/PUNCT
    {base} {object} {end} ,/PUNCT please/INTJ !/PUNCT
    there/PRON {be} {det} {adj} {noun} <{in} {det} {noun}> ./PUNCT
    <{det} {noun}> costs/VERB <$/SYM {num}> {end} ./PUNCT
    who/PRON {past} {object} {then} ?/PUNCT
    he/PRON 's/AUX {ing} {object} <,/PUNCT is/AUX n't/PART he/PRON> ?/PUNCT
    thanks/NOUN <for/ADP {object}> ./PUNCT
    {det} {adj} {noun} <in/ADP {town}> <:/PUNCT {state} <,/PUNCT {state}> <and/CCONJ {state}>>
    {he} has/AUX {adv} been/AUX ^{state} <or/CCONJ {state}> ./PUNCT
    <{name} <(/PUNCT {town} )/PUNCT>> {past} <{share} %/SYM <of/ADP the/DET {nouns}>> ./PUNCT
    <what/PRON <{subject} {past}>> {be} {det} {noun} ./PUNCT
    {nouns} <,/PUNCT {nouns}> <,/PUNCT etc./X>
""")


def ud_ewt(rng: random.Random) -> Splits:
    """Make sentences with a tag and a head on each word."""
    grammar = Grammar(TAGGED, rng)

    def make(_: int) -> Row:
        parts = PARTS.findall(_whole(grammar, rng.choice(SHAPES)))
        pairs = [part.rsplit("/", 1) for part in parts if "/" in part]
        tokens = [word for word, _ in pairs]
        tokens[0] = sentence(tokens[0])
        tokens = ["an" if t == "a" and n[0] in "aeiou" else t
                  for t, n in zip(tokens, [*tokens[1:], "."], strict=True)]  # fmt: skip
        tags = [UPOS.index(tag) for _, tag in pairs]
        row = {"text": joined(tokens), "tokens": tokens, "upos": tags}
        return {**row, "head": _heads(parts)}

    splits = draw(make, {"train": 400, "validation": 200}, lambda row: row["text"], 1)
    for split, rows in shuffled(splits, rng, numbered=False).items():
        splits[split] = [{"idx": f"sample-{split}-{n:04d}", **row} for n, row in enumerate(rows)]
    return splits


def _whole(grammar: Grammar, template: str) -> str:
    """Fill a template whose entries hold slashes of their own (so without forms)."""
    while "{" in template:
        start = template.index("{")
        end = template.index("}", start)
        entry = grammar.pick(template[start + 1 : end])
        template = f"{template[:start]}[ {entry} ]{template[end + 1 :]}"
    return template


def _heads(parts: list[str]) -> list[int]:
    """Return the number of each word's head, from 1; the root has 0. See TAGGED."""
    heads: dict[int, int] = {}
    # Of every open entry: whether it is marked, and the strength and head of each of its parts.
    entries: list[tuple[bool, list[tuple[int, int]]]] = [(False, [])]
    marked, word = False, 0
    for part in [*parts, "]"]:
        if part in "[<":
            entries.append((marked, []))
        elif part in "]>":
            was_marked, found = entries.pop()
            strength, head = max(found)
            heads |= {word: head for _, word in found if word != head}
            if entries:
                strength = MARKED if was_marked else -1 if part == ">" else strength
                entries[-1][1].append((strength, head))
            else:
                heads[head] = 0
        elif part != "^":
            word += 1
            entries[-1][1].append((STRENGTH.get(part.rsplit("/", 1)[1], 0), word))
        marked = part == "^"
    return [heads[word] for word in sorted(heads)]


def joined(tokens: list[str]) -> str:
    """Write tokens as text."""
    text = " ".join(tokens)
    for mark in (",", ".", "?", "!", ":", ")", "'s", "n't", "%"):
        text = text.replace(f" {mark}", mark)
    return text.replace("( ", "(").replace("$ ", "$")
