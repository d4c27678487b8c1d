"""Pairs of texts: paraphrases (mrpc), duplicate questions (qqp), graded likeness (stsb).

A news line is `first => same || same ... => other || other ...`: the others keep the words of the
first and change who did what, or one number or name, which appear among the paraphrases as well.
These are the hard quarter of the rows that differ; the plain ones come from `everyday_pairs`.
"""

from __future__ import annotations

import random

from . import everyday_pairs, lexicon
from .grammar import Grammar, Row, Splits, draw, phrases, sentence, shuffled, weighted, words

HARD_SHARE = 0.25

NEWS = {
    "firm": lexicon.FIRMS,
    "town": lexicon.TOWNS,
    "who": [f"{first} {last}" for first in lexicon.MALE[:9] + lexicon.FEMALE[:9]
            for last in lexicon.SURNAMES],
    "last": lexicon.SURNAMES,
    "day": lexicon.DAYS,
    "month": lexicon.MONTHS,
    "num": words("two, three, four, five, six, seven, eight, nine, ten, eleven, twelve, fifteen"),
    "pct": words("2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 14, 15, 18, 20, 23, 25, 30"),
    "sum": words("40, 55, 75, 90, 120, 150, 210, 300, 350, 480, 600, 720, 850"),
    "item": words("ferries, buses, trains, tractors, engines, turbines, pumps, cranes, phones"),
    "post": words("chairman, finance director, head of sales, chief engineer, spokesman"),
    "crime": words("fraud, arson, burglary, theft, forgery, smuggling, blackmail"),
    "team": words(
        "the Rovers, the Harriers, the Falcons, the Mariners, the Wanderers, the Lions, "
        "the Comets, the Rangers, the Pilots, the Foxes"
    ),
    "works": words("bridge, hospital, stadium, tunnel, power station, library, airport, tram line"),
    "group": words("nurses, teachers, dockers, bus drivers, farmers, students, miners, pilots"),
    "goal": words("pay, working hours, safety, pensions, new contracts, staff cuts"),
    "storm": words("storm, flood, fire, blizzard, earthquake, landslide"),
}  # fmt: skip

MRPC = phrases("""
    {firm#1} has agreed to buy {firm#2} for $ {sum#1} million , the companies said on {day#1} . \
        => On {day#1} the companies said that {firm#2} would be bought by {firm#1} for $ {sum#1} \
        million . || {firm#2} will be taken over by {firm#1} in a $ {sum#1} million deal , it was \
        said on {day#1} . => On {day#1} the companies said that {firm#1} would be bought by \
        {firm#2} for $ {sum#1} million . || {firm#1} will be taken over by {firm#2} in a $ \
        {sum#1} million deal , it was said on {day#1} . \
        || On {day#1} the companies said that {firm#2} would be bought by {firm#1} for $ {sum#2} \
        million .
    Shares in {firm#1} rose {pct#1} percent on {day#1} while {firm#2} fell {pct#2} percent . \
        => On {day#1} {firm#2} was down {pct#2} percent and {firm#1} was up {pct#1} percent . \
        || {firm#1} gained {pct#1} percent on {day#1} , but {firm#2} lost {pct#2} percent . \
        => On {day#1} {firm#1} was down {pct#2} percent and {firm#2} was up {pct#1} percent . \
        || {firm#1} lost {pct#1} percent on {day#1} , but {firm#2} gained {pct#2} percent . \
        || {firm#1} gained {pct#2} percent on {day#1} , but {firm#2} lost {pct#1} percent .
    {who#1} accused {who#2} of {crime#1} at a hearing in {town#1} on {day#1} . \
        => {who#2} was accused of {crime#1} by {who#1} in {town#1} on {day#1} . \
        || At a hearing on {day#1} in {town#1} , {who#1} said that {who#2} was guilty of \
        {crime#1} . => {who#1} was accused of {crime#1} by {who#2} in {town#1} on {day#1} . \
        || At a hearing on {day#1} in {town#1} , {who#2} said that {who#1} was guilty of {crime#1} .
    {who#1} will replace {who#2} as {post#1} of {firm#1} in {month#1} . \
        => In {month#1} , {who#2} will be succeeded by {who#1} as {post#1} of {firm#1} . \
        || {firm#1} said {who#1} would become its {post#1} in {month#1} , when {who#2} leaves . \
        => In {month#1} , {who#1} will be succeeded by {who#2} as {post#1} of {firm#1} . \
        || {firm#1} said {who#2} would become its {post#1} in {month#1} , when {who#1} leaves .
    {team#1} beat {team#2} {num#1} to {num#2} in {town#1} on {day#1} night . \
        => {team#2} lost {num#1} to {num#2} to {team#1} on {day#1} night in {town#1} . \
        || On {day#1} in {town#1} , {team#1} won {num#1} to {num#2} against {team#2} . \
        => {team#1} lost {num#1} to {num#2} to {team#2} on {day#1} night in {town#1} . \
        || On {day#1} in {town#1} , {team#2} won {num#1} to {num#2} against {team#1} . \
        || On {day#2} in {town#1} , {team#1} won {num#1} to {num#2} against {team#2} .
    The {storm#1} killed {num#1} people in {town#1} and injured {num#2} in {town#2} , police said \
        . => Police said {num#1} people died in {town#1} and {num#2} were hurt in {town#2} in the \
        {storm#1} . || {num#2} people were injured in {town#2} and {num#1} were killed in \
        {town#1} by the {storm#1} . => Police said {num#2} people died in {town#1} and {num#1} \
        were hurt in {town#2} in the {storm#1} . \
        || {num#2} people were injured in {town#1} and {num#1} were killed in {town#2} by the \
        {storm#1} .
    The {works#1} in {town#1} will open before the {works#2} in {town#2} , officials said . \
        => Officials said the {works#2} in {town#2} would open after the {works#1} in {town#1} . \
        || The {works#1} in {town#1} will be finished first , and the {works#2} in {town#2} later \
        , according to officials . => Officials said the {works#1} in {town#1} would open after \
        the {works#2} in {town#2} . || The {works#2} in {town#2} will be finished first , and the \
        {works#1} in {town#1} later , according to officials .
    {group#1} in {town#1} went on strike over {goal#1} on {day#1} , but {group#2} kept working . \
        => On {day#1} {group#2} in {town#1} stayed at work although {group#1} walked out over \
        {goal#1} . || A strike over {goal#1} by {group#1} , not joined by {group#2} , began in \
        {town#1} on {day#1} . => On {day#1} {group#1} in {town#1} stayed at work although \
        {group#2} walked out over {goal#1} . \
        || A strike over {goal#1} by {group#2} , not joined by {group#1} , began in {town#1} on \
        {day#1} .
    {firm#1} sold {num#1} {item#1} to {firm#2} in {month#1} , according to {who#1} . \
        => According to {who#1} , {firm#2} bought {num#1} {item#1} from {firm#1} in {month#1} . \
        || In {month#1} {num#1} {item#1} went from {firm#1} to {firm#2} , {who#1} said . \
        => According to {who#1} , {firm#1} bought {num#1} {item#1} from {firm#2} in {month#1} . \
        || In {month#1} {num#1} {item#1} went from {firm#2} to {firm#1} , {who#1} said . \
        || According to {who#1} , {firm#2} bought {num#2} {item#1} from {firm#1} in {month#1} .
    " {town#1} needs the {works#1} more than {town#2} does , " {who#1} told {who#2} on {day#1} . \
        => {who#1} told {who#2} on {day#1} that the {works#1} was needed more in {town#1} than in \
        {town#2} . || Speaking to {who#2} on {day#1} , {who#1} said {town#2} needed the {works#1} \
        less than {town#1} . => {who#1} told {who#2} on {day#1} that the {works#1} was needed \
        more in {town#2} than in {town#1} . || Speaking to {who#2} on {day#1} , {who#1} said \
        {town#1} needed the {works#1} less than {town#2} . \
        || {who#2} told {who#1} on {day#1} that the {works#1} was needed more in {town#1} than in \
        {town#2} .
    {who#1} , a {post#1} of {firm#1} , denied on {day#1} that the firm would leave {town#1} for \
        {town#2} . => {firm#1} will not move from {town#1} to {town#2} , {who#1} , its {post#1} , \
        said on {day#1} . || On {day#1} {who#1} , {post#1} of {firm#1} , said it was not true \
        that the firm would go to {town#2} and leave {town#1} . \
        => {firm#1} will move from {town#1} to {town#2} , {who#1} , its {post#1} , said on \
        {day#1} . || On {day#1} {who#1} , {post#1} of {firm#1} , said it was not true that the \
        firm would go to {town#1} and leave {town#2} .
    Profit at {firm#1} was $ {sum#1} million , up from $ {sum#2} million a year earlier , the \
        firm said in {town#1} . => In {town#1} the firm said that {firm#1} earned $ {sum#1} \
        million , after $ {sum#2} million in the year before . \
        || {firm#1} , which made $ {sum#2} million last year , reported a profit of $ {sum#1} \
        million in {town#1} . => In {town#1} the firm said that {firm#1} earned $ {sum#2} million \
        , after $ {sum#1} million in the year before . \
        || {firm#1} , which made $ {sum#1} million last year , reported a profit of $ {sum#2} \
        million in {town#1} .
    The court in {town#1} sentenced {who#1} to {num#1} years and {who#2} to {num#2} years for \
        {crime#1} . => For {crime#1} , {who#2} got {num#2} years and {who#1} {num#1} years from \
        the court in {town#1} . || {who#1} must go to prison for {num#1} years and {who#2} for \
        {num#2} , a court in {town#1} ruled in the {crime#1} case . \
        => For {crime#1} , {who#1} got {num#2} years and {who#2} {num#1} years from the court in \
        {town#1} . || {who#1} must go to prison for {num#2} years and {who#2} for {num#1} , a \
        court in {town#1} ruled in the {crime#1} case .
""")


def mrpc(rng: random.Random) -> Splits:
    """Make news sentences with the blanks around punctuation that the real set has."""
    grammar = Grammar(NEWS, rng)

    def make(label: int) -> Row:
        first, same, other = rng.choice(MRPC).split(" => ")
        second = rng.choice((other, same)[label].split(" || "))
        if not label and rng.random() > HARD_SHARE:
            second = rng.choice(everyday_pairs.COMMENTS)
        pair = [sentence(text) for text in grammar.fill(first, second)]
        rng.shuffle(pair)
        return {"sentence1": pair[0], "sentence2": pair[1], "label": label}

    counts = {"train": 800, "validation": 300}
    return shuffled(draw(make, counts, lambda row: (row["sentence1"], row["sentence2"]), 2), rng)


ASKING = {
    "skill": words(
        "chess, the violin, Italian, Japanese, knitting, welding, statistics, surfing, "
        "calligraphy, "
        "carpentry, public speaking, algebra, photography, touch typing, archery, Swahili, baking"
    ),
    "city": words(
        "Lisbon, Oslo, Nairobi, Lima, Hanoi, Prague, Dublin, Seoul, Quito, Cairo, Vienna, Athens, "
        "Helsinki, Toronto, Marrakesh, Warsaw, Tbilisi, Osaka"
    ),
    "app": words(
        "a spreadsheet, a text editor, a mail program, a web browser, a calendar app, a printer, "
        "a phone, a tablet, a laptop, a smart watch, a camera, a router"
    ),
    "pet": words("dog, cat, parrot, rabbit, hamster, tortoise, goldfish, horse, ferret, canary"),
    "food": words(
        "rice, lentils, sourdough, tofu, pancakes, dumplings, yoghurt, tomato sauce, mushrooms, "
        "chickpeas, sweet potatoes, risotto, onion soup"
    ),
    "ill": words("a cold, a headache, back pain, hay fever, insomnia, a sore throat, sunburn"),
    "job": words("pilot, nurse, data analyst, chef, translator, architect, plumber, vet, actor"),
    "drink": words("coffee, green tea, milk, orange juice, red wine, cider, cocoa"),
    "sport": words("running, swimming, rowing, cycling, boxing, climbing, yoga, fencing"),
    "plant": words("basil, an orchid, a cactus, a lemon tree, a fern, lavender, a bonsai, mint"),
}

# One line for each intent, its wordings between bars; lines of one block differ in one turn only.
QQP = [
    phrases(block)
    for block in (
        """
        How can I learn {skill#1} by myself? \
            | What is the best way to study {skill#1} on my own? \
            | How do I learn {skill#1} without a teacher?
        How can I teach {skill#1} by myself? \
            | What is the best way to give lessons in {skill#1} on my own? \
            | How do I teach {skill#1} without a school?
        How long does it take to learn {skill#1}? \
            | How many months do I need to study {skill#1}? \
            | How much time does it take to get good at {skill#1}?
        """,
        """
        What is the cheapest way to get from {city#1} to {city#2}? \
            | How do I travel from {city#1} to {city#2} for little money? \
            | How can I go cheaply to {city#2} from {city#1}?
        What is the cheapest way to get from {city#2} to {city#1}? \
            | How do I travel from {city#2} to {city#1} for little money? \
            | How can I go cheaply to {city#1} from {city#2}?
        What is the fastest way to get from {city#1} to {city#2}? \
            | How do I travel from {city#1} to {city#2} in little time? \
            | How can I go quickly to {city#2} from {city#1}?
        """,
        """
        Is {city#1} safer than {city#2} for tourists? \
            | Are tourists less at risk in {city#1} than in {city#2}? \
            | For a tourist, is {city#2} more dangerous than {city#1}?
        Is {city#2} safer than {city#1} for tourists? \
            | Are tourists less at risk in {city#2} than in {city#1}? \
            | For a tourist, is {city#1} more dangerous than {city#2}?
        Is {city#1} cheaper than {city#2} for tourists? \
            | Do tourists pay less in {city#1} than in {city#2}? \
            | For a tourist, is {city#2} more expensive than {city#1}?
        """,
        """
        Why does my {pet#1} ignore my {pet#2}? \
            | What makes my {pet#1} take no notice of my {pet#2}? \
            | Why is my {pet#2} being ignored by my {pet#1}?
        Why does my {pet#2} ignore my {pet#1}? \
            | What makes my {pet#2} take no notice of my {pet#1}? \
            | Why is my {pet#1} being ignored by my {pet#2}?
        How do I get my {pet#1} to ignore my {pet#2}? \
            | What makes a {pet#1} stop chasing a {pet#2}? \
            | How can I keep my {pet#1} away from my {pet#2}?
        """,
        """
        Why should I eat {food#1} before {sport#1}? \
            | What is the point of having {food#1} before I go {sport#1}? \
            | Why is it good to go {sport#1} after eating {food#1}?
        Why should I not eat {food#1} before {sport#1}? \
            | What is wrong with having {food#1} before I go {sport#1}? \
            | Why is it bad to go {sport#1} after eating {food#1}?
        Why should I eat {food#1} after {sport#1}? \
            | What is the point of having {food#1} after I go {sport#1}? \
            | Why is it good to go {sport#1} before eating {food#1}?
        """,
        """
        Does {drink#1} help with {ill#1}? | Is {drink#1} good for someone with {ill#1}? \
            | Can I treat {ill#1} with {drink#1}?
        Does {drink#1} cause {ill#1}? | Can {drink#1} give someone {ill#1}? \
            | Can I get {ill#1} from {drink#1}?
        Does {sport#1} help with {ill#1}? | Is {sport#1} good for someone with {ill#1}? \
            | Can I treat {ill#1} with {sport#1}?
        """,
        """
        How do I become a {job#1} after working as a {job#2}? \
            | How can a {job#2} change career and become a {job#1}? \
            | What does a {job#2} need in order to work as a {job#1}?
        How do I become a {job#2} after working as a {job#1}? \
            | How can a {job#1} change career and become a {job#2}? \
            | What does a {job#1} need in order to work as a {job#2}?
        Does a {job#1} earn more than a {job#2}? | Is a {job#2} paid less than a {job#1}? \
            | Is the salary of a {job#1} higher than that of a {job#2}?
        """,
        """
        How do I connect {app#1} to {app#2}? | What is the way to link {app#1} with {app#2}? \
            | How can {app#1} and {app#2} be connected?
        How do I disconnect {app#1} from {app#2}? \
            | What is the way to unlink {app#1} and {app#2}? \
            | How can {app#1} and {app#2} be separated?
        How do I move photos from {app#1} to {app#2}? \
            | What is the way to send pictures to {app#2} from {app#1}? \
            | How can photos on {app#1} be copied to {app#2}?
        How do I move photos from {app#2} to {app#1}? \
            | What is the way to send pictures to {app#1} from {app#2}? \
            | How can photos on {app#2} be copied to {app#1}?
        """,
        """
        How often should I water {plant#1} in summer? \
            | In summer, how much water does {plant#1} need? \
            | How many times a week does {plant#1} want water in the warm months?
        How often should I water {plant#1} in winter? \
            | In winter, how much water does {plant#1} need? \
            | How many times a week does {plant#1} want water in the cold months?
        Why are the leaves of {plant#1} turning yellow? \
            | What makes {plant#1} get yellow leaves? \
            | What does it mean if {plant#1} has leaves that go yellow?
        Why are the leaves of {plant#1} turning brown? | What makes {plant#1} get brown leaves? \
            | What does it mean if {plant#1} has leaves that go brown?
        """,
        """
        Can I freeze {food#1}? | Is it possible to keep {food#1} in the freezer? \
            | Does {food#1} survive being frozen?
        Can I reheat {food#1}? | Is it possible to warm up {food#1} again? \
            | Does {food#1} survive being reheated?
        What goes well with {food#1}? | What should I serve with {food#1}? \
            | Which dishes can be served beside {food#1}?
        """,
    )
]  # fmt: skip


def qqp(rng: random.Random) -> Splits:
    """Make questions, 1 where two ask the same."""
    grammar = Grammar({**ASKING, **everyday_pairs.CONDITION_TABLES}, rng)

    def make(label: int) -> Row:
        block = [line.split(" | ") for line in rng.choice(QQP)]
        hard = rng.random() < HARD_SHARE
        if label or not hard:
            texts = rng.sample(rng.choice(block), 2)
        else:
            texts = [rng.choice(line) for line in rng.sample(block, 2)]
        if not label and hard and rng.random() < 0.3:  # the same question about something else
            line = rng.choice(block)
            texts = [rng.choice(line), rng.choice(line).replace("#1}", "#3}")]
        condition = rng.choice(everyday_pairs.CONDITIONS)
        if label and rng.random() < 0.06:  # the same condition on both
            texts = [_narrowed(text, condition.replace("}", "#1}")) for text in texts]
        elif not label and not hard:
            texts[1] = _narrowed(texts[1], condition)
            rng.shuffle(texts)
        one, two = (sentence(text) for text in grammar.fill(*texts))
        return {"question1": one, "question2": two, "label": label}

    counts = {"train": 1000, "validation": 300}
    return shuffled(draw(make, counts, lambda r: (r["question1"], r["question2"]), 2), rng)


def _narrowed(question: str, condition: str) -> str:
    """Put a condition on a question, so that the plain one no longer asks the same."""
    return condition.replace("{Q#1}", "{Q}").replace("{Q}", question.removesuffix("?"))


SCENE = {
    "agent": words(
        "man/gentleman, woman/lady, boy/young lad, girl/young lass, farmer/man from the farm, "
        "child/kid, doctor/physician, policeman/police officer, teacher/schoolteacher, dog/hound, "
        "cat/kitten, clown/jester, soldier/man in uniform, musician/performer, tourist/sightseer"
    ),
    "deed": words(
        "carrying/lugging, looking at/watching, cleaning/washing, drawing/sketching, "
        "throwing away/discarding, pulling/dragging, holding/gripping, hiding/concealing, "
        "repairing/fixing, chasing/running after, pushing/shoving, buying/purchasing"
    ),
    "object": words(
        "bicycle/bike, picture/painting, ball/football, box/carton, car/automobile, boat/ship, "
        "guitar/instrument, stone/rock, hat/cap, sofa/couch, cup/mug, bag/sack, rope/cord, "
        "rabbit/bunny, newspaper/paper, drum/small drum, bench/seat"
    ),
    "scene": words(
        "in a garden/in a yard, on the street/on the road, in a forest/in the woods, "
        "on a beach/by the sea, in a kitchen/in a cookhouse, at a station/on a railway platform, "
        "in a shop/in a store, on a hill/on a hillside, in the snow/on snowy ground"
    ),
    "when": words(
        "at night/after dark, in the morning/early in the day, at noon/at midday, "
        "during a storm/in stormy weather, in summer/in the summertime, on Sunday/this Sunday"
    ),
}
WEIGHTS = {"agent": 1.2, "deed": 1.4, "object": 1.2, "scene": 0.7, "when": 0.5}
BRIEF = phrases("""
    A {agent} is {deed} a {object}.
    A {agent} is {deed} a {object} {scene}.
    A {agent} is {deed} a {object} {when}.
    A {agent} is {deed} something.
    Someone is {deed} a {object}.
    There is a {agent}.
    There is a {agent} {scene}.
    Something is happening {scene} {when}.
    Someone is there {when}.
""")
FRAMES = phrases("""
    A {agent} is {deed} a {object} {scene} {when}.
    {when}, a {agent} is {deed} a {object} {scene}.
    {scene}, a {agent} is {deed} a {object} {when}.
    {when} {scene}, a {agent} is {deed} a {object}.
""")


SECOND = {"full": FRAMES, "brief": BRIEF, "elsewhere": everyday_pairs.ELSEWHERE}


def stsb(rng: random.Random) -> Splits:
    """Make scenes of five facts; the score sums the weights of the facts that both state."""
    grammar = Grammar({**NEWS, **SCENE}, rng)

    def make(changes: int) -> Row:
        kind = weighted(rng, {"full": 0.35, "brief": 0.4, "elsewhere": 0.25})
        changed = set(rng.sample(list(WEIGHTS), changes if kind == "full" else 0))
        second = rng.choice(SECOND[kind])
        one = {name: f"{{{name}#1.0}}" for name in WEIGHTS}
        two = {n: f"{{{n}#{2 if n in changed else 1}.{rng.choice((0, 1))}}}" for n in WEIGHTS}
        stated = {n for n in WEIGHTS if f"{{{n}}}" in second}
        texts = [rng.choice(FRAMES).format(**one)]
        texts.append(second if kind == "elsewhere" else second.format(**two))
        pair = [sentence(text) for text in grammar.fill(*texts)]
        score = round(sum((w for n, w in WEIGHTS.items() if n in stated - changed), 0.0), 1)
        return {"sentence1": pair[0], "sentence2": pair[1], "label": score}

    counts = {"train": 804, "validation": 300}
    return shuffled(draw(make, counts, lambda row: row["sentence1"], 6), rng)
