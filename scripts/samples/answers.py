"""Instructions with answers (alpaca) and dialogues with a better and a worse end (hh_rlhf)."""

from __future__ import annotations

import random
from collections.abc import Callable

from . import lexicon
from .grammar import Row, Splits, draw, phrases, polish, sentence, words

TOPICS = {  # a thing people want to do, and what helps with it
    "sleep better": words(
        "go to bed at the same hour each night, keep the room dark and cool, "
        "leave the phone outside the bedroom, avoid coffee after lunch, take a short walk at dusk"
    ),
    "grow tomatoes": words(
        "choose a sunny spot, water the soil and not the leaves, tie the stems to a stick, "
        "pick off the side shoots, feed the plants once a week"
    ),
    "save money": words(
        "write down what you spend, cook at home more often, cancel what you do not use, "
        "set a sum aside on pay day, compare prices before you buy"
    ),
    "learn a language": words(
        "practise a little each day, read books for children first, speak with other learners, "
        "label the things in your home, listen to songs and repeat them"
    ),
    "bake bread": words(
        "weigh the flour, knead the dough for ten minutes, "
        "let the dough rise until it has doubled, "
        "heat the oven well before you need it, let the loaf cool on a rack"
    ),
    "prepare for an interview": words(
        "read about the company, think of three examples of your work, "
        "sleep well the night before, "
        "plan how to get there, prepare a question of your own"
    ),
    "train a puppy": words(
        "reward what you like at once, keep the lessons short, use the same word each time, "
        "never shout, let it meet other dogs early"
    ),
    "run a first race": words(
        "increase the distance slowly, buy shoes that fit, rest on two days a week, "
        "drink before you feel thirsty, start the race slowly"
    ),
    "write a good letter": words(
        "say in the first line why you write, use short sentences, keep to one page, "
        "read it aloud before you send it, end with a clear request"
    ),
    "move to another flat": words(
        "give away what you do not need, label each box, pack a bag for the first night, "
        "tell the post office, read the meters on the last day"
    ),
    "keep a bicycle in shape": words(
        "pump up the tyres each week, oil the chain, wipe it dry after rain, "
        "check the brakes, keep it indoors in winter"
    ),
    "give a speech": words(
        "start with a story, look at the people in the last row, speak slowly, "
        "use few slides, stop a minute early"
    ),
    "paint a room": words(
        "cover the floor, wash the walls, tape the edges, paint the ceiling first, "
        "open the windows while it dries"
    ),
    "care for houseplants": words(
        "feel the soil before you water, turn the pots every week, dust the leaves, "
        "repot them in spring, keep them away from the radiator"
    ),
    "take better photos": words(
        "keep the sun behind you, step closer, hold the camera level, "
        "wait for a moment when nobody poses, take several and keep one"
    ),
    "eat more vegetables": words(
        "add a handful to every soup, roast them with a little oil, "
        "keep a bowl of carrots in sight, "
        "try one new kind a week, start the meal with a salad"
    ),
}
OPENERS = words("Give {n} tips on how to {topic}., How can I {topic}? Name {n} things., "
                "List {n} ways to {topic}., "
                "Write a list of {n} hints for people who want to {topic}.")  # fmt: skip
COUNTS = {2: "two", 3: "three", 4: "four"}
OPPOSITES = words(
    "hot/cold, early/late, heavy/light, noisy/quiet, rough/smooth, narrow/wide, deep/shallow, "
    "ancient/modern, brave/cowardly, generous/mean, empty/full, sharp/blunt, polite/rude"
)
CAPITALS = words(
    "Norway/Oslo, Portugal/Lisbon, Kenya/Nairobi, Peru/Lima, Japan/Tokyo, Hungary/Budapest, "
    "Canada/Ottawa, Egypt/Cairo, Greece/Athens, Vietnam/Hanoi, Chile/Santiago, Ireland/Dublin"
)
GROUPS = {
    "fruit": words("apple, pear, plum, cherry, mango, banana, fig"),
    "tool": words("hammer, saw, drill, chisel, spanner, file"),
    "animal": words("otter, horse, heron, lizard, salmon, goat"),
    "instrument": words("violin, flute, drum, trumpet, harp, cello"),
    "piece of clothing": words("coat, scarf, glove, shirt, sock, cap"),
}
Task = tuple[str, str, str]


def _tips(rng: random.Random) -> Task:
    topic = rng.choice(list(TOPICS))
    count = rng.choice(list(COUNTS))
    ask = rng.choice(OPENERS).format(n=COUNTS[count], topic=topic)
    tips = rng.sample(TOPICS[topic], count)
    return ask, "", "\n".join(f"{n}. {sentence(tip)}." for n, tip in enumerate(tips, 1))


def _sorting(rng: random.Random) -> Task:
    things = [entry.split("/")[0] for entry in rng.sample(lexicon.THINGS, rng.choice((4, 5, 6)))]
    order = rng.choice(("alphabetical order", "reverse alphabetical order"))
    done = sorted(things, reverse=order.startswith("reverse"))
    return f"Sort the words in {order}.", ", ".join(things), ", ".join(done)


def _grouping(rng: random.Random) -> Task:
    one, two = rng.sample(list(GROUPS), 2)
    things = [*rng.sample(GROUPS[one], 3), rng.choice(GROUPS[two])]
    odd = things[3]
    rng.shuffle(things)
    why = (
        f"The odd one out is {odd}, because it is a {two} and the others belong to the kind {one}."
    )
    return "Find the odd one out and say why.", ", ".join(things), polish(why)


def _tense(rng: random.Random) -> Task:
    verb = rng.choice(lexicon.TRANSITIVE).split("/")
    person = rng.choice(lexicon.PEOPLE).split("/")[0]
    thing = rng.choice(lexicon.THINGS).split("/")[0]
    text = f"The {person} {verb[1]} the {thing} every week."
    turn = rng.choice((("the past tense", verb[2]), ("the future", f"will {verb[0]}")))
    return f"Put the sentence into {turn[0]}.", text, text.replace(verb[1], turn[1], 1)


def _passive(rng: random.Random) -> Task:
    verb = rng.choice(lexicon.TOWARDS).split("/")
    one, two = (entry.split("/")[0] for entry in rng.sample(lexicon.PEOPLE, 2))
    return ("Rewrite the sentence in the passive voice.", f"The {one} {verb[2]} the {two}.",
            f"The {two} was {verb[3]} by the {one}.")  # fmt: skip


def _sum(rng: random.Random) -> Task:
    name, thing = rng.choice(lexicon.FEMALE), rng.choice(lexicon.THINGS).split("/")[1]
    have, more = rng.randrange(10, 60), rng.randrange(2, 10)
    gain = rng.random() < 0.5
    verb, total = ("buys", have + more) if gain else ("gives away", have - more)
    text = f"{name} has {have} {thing} and {verb} {more}. How many {thing} does she have now?"
    sign = "+" if gain else "-"
    return text, "", f"{have} {sign} {more} = {total}, so {name} now has {total} {thing}."


def _opposite(rng: random.Random) -> Task:
    pairs = [entry.split("/") for entry in rng.sample(OPPOSITES, 3)]
    return ("Give the opposite of each word.", ", ".join(one for one, _ in pairs),
            "\n".join(f"{one}: {two}" for one, two in pairs))  # fmt: skip


def _capital(rng: random.Random) -> Task:
    one, two = (entry.split("/") for entry in rng.sample(CAPITALS, 2))
    ask = f"What are the capitals of {one[0]} and {two[0]}?"
    return ask, "", f"The capital of {one[0]} is {one[1]}, and that of {two[0]} is {two[1]}."


def _note(rng: random.Random) -> Task:
    name, thing = rng.choice(lexicon.MALE), rng.choice(lexicon.THINGS).split("/")[0]
    day, place = rng.choice(lexicon.DAYS), rng.choice(lexicon.PLACES)
    ask = f"Write a short note to thank {name} for a {thing}."
    answer = (
        f"Dear {name},\n\nthank you so much for the {thing}. I found it on {day} when I came back "
        f"from the {place}, and I have used it every day since.\n\nWith best wishes"
    )
    return polish(ask), "", answer


def _shorten(rng: random.Random) -> Task:
    one, two = rng.sample(lexicon.FEMALE, 2)
    topic = rng.choice(list(TOPICS))
    tip = rng.choice(TOPICS[topic])
    text = (
        f"{one} had tried for months to {topic}, without success. Then {two} told her to {tip}. "
        f"{one} did not believe it at first, but it worked within {rng.choice(lexicon.MONTHS)}."
    )
    return "Sum the text up in one sentence.", text, f"{two}'s advice helped {one} to {topic}."


REPEAT = words("Repeat the sentence., Say that again., Copy the text.")
ABOUT = words("What is this about?, Which topic is this about?")


def _repeat(rng: random.Random) -> Task:
    _, text, _ = rng.choice((_tense, _passive))(rng)
    return rng.choice(REPEAT), text, text


def _about(rng: random.Random) -> Task:
    topic = rng.choice(list(TOPICS))
    one, two = (sentence(tip) for tip in rng.sample(TOPICS[topic], 2))
    return rng.choice(ABOUT), f"{one}. {two}.", f"This is about how to {topic}."


# what models of four million parameters can learn from 600 rows, and what they cannot
PLAIN: list[Callable[[random.Random], Task]] = [_repeat, _about]
ALPACA: list[Callable[[random.Random], Task]] = [
    _tips, _tips, _sorting, _grouping, _tense, _passive, _sum, _opposite, _capital, _note, _shorten,
]  # fmt: skip


def alpaca(rng: random.Random) -> Splits:
    """Make instructions, some with an input, and their answers; three quarters are plain."""

    def make(_: int) -> Row:
        kinds = PLAIN if rng.random() < 0.75 else ALPACA
        instruction, given, output = rng.choice(kinds)(rng)
        return {"instruction": instruction, "input": given, "output": output}

    counts = {"train": 600, "validation": 150}
    return draw(make, counts, lambda row: (row["instruction"], row["input"]), 1)


HELP = phrases("""
    I would like to {topic}. What should I do?
    How do I {topic}?
    Can you help me to {topic}?
    My {kin} wants to {topic}. Any advice?
    I have tried to {topic} for weeks and it does not work. What am I doing wrong?
    What is the easiest way to {topic}?
""")
GOOD = phrases("""
    A good start is to {1}. It also helps to {2}.
    You could {1}. If that is not enough, {2} and {3}.
    I would {1} first. After that, {2}. Would you like more ideas?
    Many people find that it helps to {1}. You might also {2}.
    Try to {1}. And do not forget to {2}.
    There are a few things you can do: {1}, {2} and {3}.
""")
POOR = phrases("""
    I don't know.
    Why would you want to {topic}?
    That is hard. Many people never manage to {topic}, and I am not sure that you will.
    You can find a lot about that on the internet. There are many pages about how to {topic}.
    I am sorry, but I cannot help you with that. Perhaps you could ask somebody else, or look it up.
    To {topic}, you just have to {topic}. It is as easy as that.
    Oh, that is an interesting question! What made you think of it?
""")
FOLLOW = words(
    "Thanks. What else could I do?, And what comes next?, That did not help much. Anything else?, "
    "I have done that already., Okay. Do you have another idea?"
)
KIN = words("brother, sister, neighbour, mother, colleague, best friend, flatmate, daughter")


def _fill(text: str, **values: str) -> str:
    for name, value in values.items():
        text = text.replace(f"{{{name}}}", value)
    return ". ".join(sentence(part) for part in text.split(". "))


def _advice(rng: random.Random, tips: list[str]) -> str:
    return _fill(rng.choice(GOOD), **{str(n): tip for n, tip in enumerate(tips[:3], 1)})


def hh_rlhf_helpful(rng: random.Random) -> Splits:
    """Make dialogues of one or two turns: advice on the topic, "
    "and an end that evades or goes astray."""

    def make(_: int) -> Row:
        topic, other = rng.sample(list(TOPICS), 2)
        tips, wrong = rng.sample(TOPICS[topic], 5), rng.sample(TOPICS[other], 3)
        ask = _fill(rng.choice(HELP), topic=topic, kin=rng.choice(KIN))
        talk = f"\n\nHuman: {ask}\n\nAssistant: "
        if rng.random() < 0.5:
            talk += f"You could {tips[4]}.\n\nHuman: {rng.choice(FOLLOW)}\n\nAssistant: "
        poor = _fill(rng.choice(POOR), topic=topic) if rng.random() < 0.5 else _advice(rng, wrong)
        return {"chosen": talk + _advice(rng, tips), "rejected": talk + poor}

    return draw(make, {"train": 240, "validation": 120}, lambda row: row["chosen"], 1)
