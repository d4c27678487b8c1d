"""Inference between sentences: mnli, rte and pronouns (wnli).

An inference line is `premise => entailed => neither => contradicted`, each with any number of
texts between bars (none is possible). The premises come in families (all, some, none; managed,
failed, tried) whose hypotheses are the same, so that a hypothesis alone decides nothing. These are
the hard quarter of the rows; the plain ones come from `everyday_inference`.
"""

from __future__ import annotations

import random
from collections.abc import Mapping

from . import everyday_inference, lexicon
from .grammar import Grammar, Row, Splits, draw, phrases, sentence, shuffled, weighted, words
from .pairs import MRPC, NEWS

Domain = Mapping[str, list[str]]

MATCHED: dict[str, Domain] = {  # an act: base/past (also participle)
    "office": {
        "p": lexicon.nouns("clerk, manager, accountant, secretary, trainee, auditor, designer"),
        "act": words(
            "sign the contract/signed the contract, answer the call/answered the call, "
            "print the report/printed the report, move the desks/moved the desks, "
            "join the meeting/joined the meeting, cancel the order/cancelled the order, "
            "read the memo/read the memo, miss the deadline/missed the deadline, "
            "approve the budget/approved the budget, copy the files/copied the files"
        ),
        "source": words("the minutes, the report, a note from the office, the personnel file"),
    },
    "school": {
        "p": lexicon.nouns("pupil, teacher, tutor, student, librarian, prefect, caretaker"),
        "act": words(
            "pass the exam/passed the exam, finish the essay/finished the essay, "
            "open the window/opened the window, solve the puzzle/solved the puzzle, "
            "return the books/returned the books, paint the wall/painted the wall, "
            "learn the poem/learned the poem, clean the board/cleaned the board, "
            "leave the class/left the class, visit the museum/visited the museum"
        ),
        "source": words("the headmaster, the school paper, the class diary, a parent"),
    },
    "travel": {
        "p": lexicon.nouns("tourist, guide, driver, hotelier, pilgrim, backpacker, conductor"),
        "act": words(
            "catch the train/caught the train, pack the bags/packed the bags, "
            "book the room/booked the room, reach the summit/reached the summit, "
            "cross the border/crossed the border, buy the tickets/bought the tickets, "
            "board the ferry/boarded the ferry, photograph the temple/photographed the temple, "
            "lose the map/lost the map, rent the car/rented the car"
        ),
        "source": words("the guidebook, the travel agent, a letter home, the blog"),
    },
    "council": {
        "p": lexicon.nouns("senator, councillor, minister, voter, adviser, judge, official"),
        "act": words(
            "support the bill/supported the bill, attend the debate/attended the debate, "
            "reject the plan/rejected the plan, publish the figures/published the figures, "
            "change the law/changed the law, leave the party/left the party, "
            "read the proposal/read the proposal, question the witness/questioned the witness, "
            "delay the vote/delayed the vote, visit the border/visited the border"
        ),
        "source": words("the gazette, the committee, the evening news, the record"),
    },
}
MISMATCHED: dict[str, Domain] = {
    "harbour": {
        "p": lexicon.nouns("sailor, fisherman fishermen, captain, diver, docker, cook, pilot"),
        "act": words(
            "mend the nets/mended the nets, load the crates/loaded the crates, "
            "hoist the sail/hoisted the sail, spot the whale/spotted the whale, "
            "scrub the deck/scrubbed the deck, repair the engine/repaired the engine, "
            "leave the port/left the port, sell the catch/sold the catch"
        ),
        "source": words("the logbook, the harbour master, the radio, the first mate"),
    },
    "farm": {
        "p": lexicon.nouns("farmer, shepherd, vet, milkmaid, labourer, beekeeper, neighbour"),
        "act": words(
            "feed the hens/fed the hens, plough the field/ploughed the field, "
            "shear the sheep/sheared the sheep, pick the apples/picked the apples, "
            "milk the cows/milked the cows, fix the fence/fixed the fence, "
            "sell the hay/sold the hay, water the corn/watered the corn"
        ),
        "source": words("the almanac, the miller, the farm book, the dairy"),
    },
    "theatre": {
        "p": lexicon.nouns("actor, dancer, singer, director, musician, stagehand, critic"),
        "act": words(
            "rehearse the scene/rehearsed the scene, applaud the play/applauded the play, "
            "forget the line/forgot the line, tune the piano/tuned the piano, "
            "paint the set/painted the set, wear the mask/wore the mask, "
            "leave the stage/left the stage, learn the song/learned the song"
        ),
        "source": words("the programme, the prompter, the review, the stage manager"),
    },
}
COMMON = {
    "to": lexicon.TOWARDS,
    "name": lexicon.MALE + lexicon.FEMALE,
    "day": lexicon.DAYS,
    "place": lexicon.PLACES,
    "part": words(
        "two/five/three, three/seven/four, four/nine/five, two/six/four, five/eight/three"
    ),
    "than": words(
        "older/younger, taller/shorter, richer/poorer, faster/slower, stronger/weaker, "
        "happier/sadder, louder/quieter, thinner/fatter"
    ),
    "did": words(
        "managed to, remembered to, was forced to, did not fail to, did not forget to, "
        "took the time to, had the courage to"
    ),
    "undid": words(
        "failed to, forgot to, refused to, neglected to, did not manage to, was unable to, "
        "declined to, did not remember to"
    ),
    "open": ["{hope}", "{hope}", "{hope}", "{loath}"],  # which leaves it open
    "hope": words(
        "wanted to, tried to, hoped to, planned to, promised to, was asked to, was expected to, "
        "was advised to"
    ),
    "loath": words("did not want to, never promised to, saw no reason to, was not asked to"),
    "know": words("knows that, is aware that, regrets that, was right that, discovered that"),
    "think": words("believes that, hopes that, suspects that, claims that, told us that"),
    "err": words(
        "wrongly believes that, was mistaken in thinking that, falsely claims that, "
        "lied when saying that, only pretended that"
    ),
    "nearly": words("almost, nearly, very nearly"),
}

LINES = phrases("""
    All the {p#1.1} {act#1.1}. => Every {p#1} {act#1.1}. => Some of the {p#2.1} {act#1.1}. \
        | None of the {p#2.1} {act#1.1}. => Not all the {p#1.1} {act#1.1}. \
        | Some of the {p#1.1} did not {act#1}. | None of the {p#1.1} {act#1.1}.
    Some of the {p#1.1} {act#1.1}, but not all of them. => Not all the {p#1.1} {act#1.1}. \
        | Some of the {p#1.1} did not {act#1}. => Most of the {p#1.1} {act#1.1}. \
        | Some of the {p#2.1} {act#1.1}. => All the {p#1.1} {act#1.1}. | Every {p#1} {act#1.1}. \
        | None of the {p#1.1} {act#1.1}.
    None of the {p#1.1} {act#1.1}. => Not one {p#1} {act#1.1}. | No {p#1} {act#1.1}. \
        | Some of the {p#1.1} did not {act#1}. => None of the {p#2.1} {act#1.1}. \
        | All the {p#2.1} {act#1.1}. => Some of the {p#1.1} {act#1.1}. \
        | Most of the {p#1.1} {act#1.1}. | Every {p#1} {act#1.1}.
    Most of the {p#1.1} {act#1.1}. => Some of the {p#1.1} {act#1.1}. => Every {p#1} {act#1.1}. \
        | Most of the {p#2.1} {act#1.1}. | Some of the {p#2.1} did not {act#1}. \
        => None of the {p#1.1} {act#1.1}. | No {p#1} {act#1.1}.
    At least one of the {p#1.1} {act#1.1}. => Not every {p#1} failed to {act#1}. \
        => Some of the {p#2.1} {act#1.1}. | All the {p#1.1} {act#1.1}. \
        | Not all the {p#1.1} {act#1.1}. | Most of the {p#1.1} {act#1.1}. \
        => None of the {p#1.1} {act#1.1}.
    Exactly {part#1} of the {part#1.1} {p#1.1} {act#1.1}. \
        => Exactly {part#1.2} of the {p#1.1} did not {act#1}. | Not all the {p#1.1} {act#1.1}. \
        => Exactly {part#1} of the {p#2.1} {act#1.1}. \
        => Exactly {part#1.2} of the {p#1.1} {act#1.1}. | Every {p#1} {act#1.1}.
    {name#1} {to#1.2} {name#2}. => {name#2} was {to#1.3} by {name#1}. \
        => {name#2} {to#1.2} {name#1}. | {name#1} was {to#1.3} by {name#2}. \
        => {name#2} was not {to#1.3} by {name#1}. | {name#1} did not {to#1} {name#2}.
    {name#2} was {to#1.3} by {name#1}. => {name#1} {to#1.2} {name#2}. \
        => {name#2} {to#1.2} {name#1}. | {name#1} did not {to#2} {name#2}. \
        => {name#1} did not {to#1} {name#2}.
    {name#1} did not {to#1} {name#2}. => {name#2} was not {to#1.3} by {name#1}. \
        => {name#2} {to#1.2} {name#1}. | {name#1} {to#2.2} {name#2}. \
        => {name#1} {to#1.2} {name#2}. | {name#2} was {to#1.3} by {name#1}.
    {name#1} {did#1} {act#1}. => {name#1} {act#1.1}. => {name#2} {act#1.1}. \
        | {name#2} did not {act#1}. => {name#1} did not {act#1}.
    {name#1} {undid#1} {act#1}. => {name#1} did not {act#1}. => {name#2} did not {act#1}. \
        | {name#2} {act#1.1}. => {name#1} {act#1.1}.
    {name#1} {open#1} {act#1}. => => {name#1} {act#1.1}. | {name#1} did not {act#1}. =>
    The {p#1} {did#1} {act#1}. => The {p#1} {act#1.1}. => The {p#2} {act#1.1}. \
        => The {p#1} did not {act#1}.
    The {p#1} {undid#1} {act#1}. => The {p#1} did not {act#1}. => The {p#2} did not {act#1}. \
        => The {p#1} {act#1.1}.
    The {p#1} {open#1} {act#1}. => => The {p#1} {act#1.1}. | The {p#1} did not {act#1}. =>
    {name#1} {know#1} {name#2} {act#1.1}. => {name#2} {act#1.1}. => {name#1} {act#1.1}. \
        => {name#2} did not {act#1}.
    {name#1} {think#1} {name#2} {act#1.1}. => => {name#2} {act#1.1}. | {name#2} did not {act#1}. =>
    {name#1} {err#1} {name#2} {act#1.1}. => {name#2} did not {act#1}. => {name#1} {act#1.1}. \
        | {name#1} did not {act#1}. => {name#2} {act#1.1}.
    {name#1} {act#1.1} before {name#2} {act#2.1}. \
        => {name#2} {act#2.1} after {name#1} {act#1.1}. | {name#2} {act#2.1}. \
        => {name#1} {act#2.1}. | {name#2} {act#1.1} on {day#1}. \
        => {name#1} {act#1.1} after {name#2} {act#2.1}. | {name#2} did not {act#2}.
    {name#1} {act#1.1} after {name#2} {act#2.1}. => {name#1} {act#1.1}. \
        | {name#2} {act#2.1} before {name#1} {act#1.1}. => {name#1} {act#2.1}. \
        | {name#2} did not {act#1}. => {name#2} {act#2.1} after {name#1} {act#1.1}. \
        | {name#1} did not {act#1}.
    Either {name#1} or {name#2} {act#1.1}, but we do not know which of them. \
        => One of the two, {name#1} or {name#2}, {act#1.1}. => {name#1} {act#1.1}. \
        | {name#2} did not {act#1}. | Both {name#1} and {name#2} {act#1.1}. \
        => Neither {name#1} nor {name#2} {act#1.1}.
    Both {name#1} and {name#2} {act#1.1}. => Both {name#2} and {name#1} {act#1.1}. \
        | {name#2} {act#1.1}. => Both {name#1} and {name#3} {act#1.1}. \
        | Neither {name#3} nor {name#4} {act#1.1}. => Neither {name#1} nor {name#2} {act#1.1}. \
        | {name#2} did not {act#1}.
    Neither {name#1} nor {name#2} {act#1.1}. => Neither {name#2} nor {name#1} {act#1.1}. \
        | {name#1} did not {act#1}. => Neither {name#1} nor {name#3} {act#1.1}. \
        | Both {name#3} and {name#4} {act#1.1}. => {name#1} {act#1.1}. \
        | Both {name#1} and {name#2} {act#1.1}.
    {name#1} {act#1.1}, but {name#2} did not. => {name#2} did not {act#1}. \
        | {name#1} {act#1.1}. => {name#3} did not {act#1}. | {name#3} {act#1.1}. \
        => {name#2} {act#1.1}. | Both {name#1} and {name#2} {act#1.1}.
    Only {name#1} {act#1.1}. => {name#1} {act#1.1}. | {name#2} did not {act#1}. \
        => {name#1} {act#2.1}. | {name#2} {act#2.1}. => {name#2} {act#1.1}. \
        | {name#1} did not {act#1}.
    Everyone but {name#1} {act#1.1}. => {name#1} did not {act#1}. | {name#2} {act#1.1}. \
        => {name#1} {act#2.1}. | {name#2} did not {act#2}. => {name#1} {act#1.1}. \
        | {name#2} did not {act#1}.
    If {name#1} {act#1.1}, then so did {name#2}. \
        => It is not the case that {name#1} {act#1.1}, but {name#2} did not. \
        => {name#1} {act#1.1}. | {name#2} {act#1.1}. | {name#2} did not {act#1}. \
        => {name#1} {act#1.1}, but {name#2} did not.
    {name#1} would have {act#1.1} if {name#2} had offered help. => {name#1} did not {act#1}. \
        | {name#2} did not offer help. => {name#2} {act#1.1}. | {name#2} did not {act#1}. \
        => {name#1} {act#1.1}. | {name#2} offered help.
    {name#1} {nearly#1} {act#1.1}. => {name#1} did not {act#1}. => {name#2} {act#1.1}. \
        | {name#2} did not {act#1}. => {name#1} {act#1.1}.
    {name#1} is {than#1} than {name#2}, who is {than#1} than {name#3}. \
        => {name#3} is {than#1.1} than {name#1}. | {name#1} is {than#1} than {name#3}. \
        => {name#1} is {than#2} than {name#3}. | {name#3} is {than#2.1} than {name#2}. \
        => {name#3} is {than#1} than {name#1}. | {name#1} is {than#1.1} than {name#3}.
    {name#1} is {than#1.1} than {name#2}, who is {than#1.1} than {name#3}. \
        => {name#3} is {than#1} than {name#1}. | {name#1} is {than#1.1} than {name#3}. \
        => {name#1} is {than#2.1} than {name#3}. | {name#3} is {than#2} than {name#2}. \
        => {name#3} is {than#1.1} than {name#1}. | {name#1} is {than#1} than {name#3}.
    {name#1} {hope#1} {act#1}, and in the end did so. => {name#1} {act#1.1}. => {name#2} did not \
        {act#1}. | {name#2} {act#1.1}. => {name#1} did not {act#1}.
    {name#1} {hope#1} {act#1}, but in the end did not. => {name#1} did not {act#1}. => {name#2} \
        did not {act#1}. | {name#2} {act#1.1}. => {name#1} {act#1.1}.
    {name#1} {loath#1} {act#1}, but in the end did so. => {name#1} {act#1.1}. => {name#2} did not \
        {act#1}. => {name#1} did not {act#1}.
    {name#1} {loath#1} {act#1}, and in the end did not. => {name#1} did not {act#1}. => {name#2} \
        {act#1.1}. => {name#1} {act#1.1}.
    The {p#1} {hope#1} {act#1}, and in the end did so. => The {p#1} {act#1.1}. => The {p#2} \
        {act#1.1}. => The {p#1} did not {act#1}.
    The {p#1} {hope#1} {act#1}, but in the end did not. => The {p#1} did not {act#1}. => The \
        {p#2} did not {act#1}. => The {p#1} {act#1.1}.
    {name#1} {think#1} {name#2} {act#1.1}, and that is true. => {name#2} {act#1.1}. \
        => {name#1} {act#1.1}. => {name#2} did not {act#1}.
    {name#1} {think#1} {name#2} {act#1.1}, and that is not true. => {name#2} did not {act#1}. \
        => {name#1} did not {act#1}. => {name#2} {act#1.1}.
    {name#1} {did#1} {act#1}, or else {name#2} did. => => {name#1} {act#1.1}. \
        | {name#2} did not {act#1}. =>
    Perhaps to please {name#2}, {name#1} {did#1} {act#1}. => {name#1} {act#1.1}. => {name#2} \
        did not {act#1}. => {name#1} did not {act#1}.
    Perhaps to please {name#2}, {name#1} {undid#1} {act#1}. => {name#1} did not {act#1}. => \
        {name#2} {act#1.1}. => {name#1} {act#1.1}.
    Perhaps {name#1} {undid#1} {act#1}. => => {name#1} {act#1.1}. | {name#1} did not {act#1}. =>
    {name#1} has never been in the {place#1}. => {name#1} was never in the {place#1}. \
        | {name#1} was not in the {place#1} on {day#1}. \
        => {name#2} was in the {place#1} on {day#1}. \
        | {name#1} was in the {place#2} on {day#1}. => {name#1} was in the {place#1} on {day#1}.
    The {p#1} who {to#1.2} {name#1} {act#1.1}. => The {p#1} {act#1.1}. \
        | {name#1} was {to#1.3} by the {p#1}. => {name#1} {act#1.1}. \
        | {name#1} did not {act#1}. => The {p#1} did not {act#1}.
    The {p#1} who was {to#1.3} by {name#1} did not {act#1}. => The {p#1} did not {act#1}. \
        | {name#1} {to#1.2} the {p#1}. => {name#1} {act#1.1}. | {name#1} did not {act#1}. \
        => The {p#1} {act#1.1}. | {name#1} did not {to#1} the {p#1}.
    {name#1} spent the whole of {day#1} in the {place#1}. \
        => {name#1} was in the {place#1} on {day#1}. \
        => {name#1} was in the {place#1} on {day#2}. \
        | {name#1} was in the {place#2} on {day#2}. \
        => {name#1} was in the {place#2} at noon on {day#1}. | {name#1} was never in the {place#1}.
    On {day#1} {name#1} left the {place#1} for good, and has not been there since. \
        => {name#1} was in the {place#1} on {day#1}. | {name#1} is no longer in the {place#1}. \
        => {name#1} was in the {place#2} on {day#2}. | {name#2} is no longer in the {place#1}. \
        => {name#1} is still in the {place#1}. | {name#1} was never in the {place#1}.
""")

FRAMES = words(
    "{0}, {0}, {0}, According to [source]: {0}, It says here: {0}, As you may have heard: {0}, "
    "This is what [source] says: {0}, The facts are these: {0}"
)


def _hypotheses(line: str) -> list[list[str]]:
    """Split a line into its premise and the hypotheses of the three classes."""
    parts = [part.strip() for part in line.split("=>")]
    return [[text.strip() for text in part.split("|") if text.strip()] for part in parts]


INFERENCES = [_hypotheses(line) for line in LINES]
PLAIN = [_hypotheses(line) for line in everyday_inference.claims()]
HARD_SHARE = 0.25


def _infer(grammar: Grammar, label: int) -> tuple[str, str]:
    """Make a premise and a hypothesis of a class: 0 entailed, 1 neither, 2 contradicted."""
    lines = INFERENCES if grammar.rng.random() < HARD_SHARE else PLAIN
    able = [parts for parts in lines if parts[1 + label]]
    parts = grammar.rng.choice(able)
    premise, other = grammar.fill(parts[0][0], grammar.rng.choice(parts[1 + label]))
    return sentence(premise), sentence(other)


def _grammars(domains: Mapping[str, Domain], rng: random.Random) -> list[Grammar]:
    return [Grammar({**COMMON, **domain}, rng) for domain in domains.values()]


def mnli(rng: random.Random) -> Splits:
    """Make premises of four domains, and of three others for the mismatched part."""
    counts = {"train": 900, "validation_matched": 300}
    splits = draw(_mnli_maker(MATCHED, rng), counts, lambda r: (r["premise"], r["hypothesis"]), 3)
    far = _mnli_maker(MISMATCHED, rng)
    splits |= draw(far, {"validation_mismatched": 300}, lambda r: tuple(r.values()), 3)
    return shuffled(splits, rng)


def _mnli_maker(domains: Mapping[str, Domain], rng: random.Random):
    grammars = _grammars(domains, rng)

    def make(label: int) -> Row:
        grammar = rng.choice(grammars)
        premise, hypothesis = _infer(grammar, label)
        frame = rng.choice(FRAMES).replace("[source]", grammar.pick("source"))
        return {"premise": frame.format(premise), "hypothesis": hypothesis, "label": label}

    return make


RTE_NOISE = phrases("""
    The weather in {town} on {day} was mild.
    {firm} declined to comment.
    The news was first reported by a paper in {town}.
    {who} could not be reached on {day}.
    A second statement is expected in {month}.
    Officials in {town} have known of the matter since {month}.
""")


def rte(rng: random.Random) -> Splits:
    """Make short news texts and a claim: 0 where it follows, 1 where it does not."""
    news = Grammar(NEWS, rng)
    grammars = _grammars({**MATCHED, **MISMATCHED}, rng)

    def make(label: int) -> Row:
        kind = weighted(rng, {"domain": 0.4, "claim": 0.45, "pair": 0.15})
        if kind == "domain":
            text, claim = _infer(rng.choice(grammars), rng.choice((1, 2)) if label else 0)
        else:
            text, claim = (_news_pair if kind == "pair" else _news_claim)(news, 1 - label)
        noise = sentence(news.say(rng.choice(RTE_NOISE)))
        text = rng.choice((f"{text} {noise}", f"{noise} {text}"))
        return {"sentence1": text, "sentence2": claim, "label": label}

    counts = {"train": 800, "validation": 300}
    return shuffled(draw(make, counts, lambda row: row["sentence1"], 2), rng)


def _news_claim(news: Grammar, follows: int) -> tuple[str, str]:
    """Take a piece of news, and a claim that follows from it or goes beyond it."""
    text, *claims = news.rng.choice(everyday_inference.NEWS_CLAIMS)
    one, two = news.fill(text, news.rng.choice(claims[1 - follows].split(" | ")))
    return sentence(one), sentence(two)


def _news_pair(news: Grammar, same: int) -> tuple[str, str]:
    """Take a pair from the paraphrases, written without blanks before punctuation."""
    first, *others = news.rng.choice(MRPC).split(" => ")
    second = news.rng.choice(others[1 - same].split(" || "))
    texts = (sentence(text) for text in news.fill(first, second))
    one, two = (untokenised(text) for text in texts)
    return one, two


def untokenised(text: str) -> str:
    """Take the blanks out that the older sets have around punctuation."""
    for mark in (",", ".", "?", ";", ":"):
        text = text.replace(f" {mark}", mark)
    text = text.replace("$ ", "$")
    return text.replace('" ', '"', 1).replace(' "', '"', 1) if text.startswith('"') else text


# sentence with a gap at the end; what fills it for the first one; for the second one
WHO = phrases("""
    {1} lent {2} an umbrella because {p} | had brought two | had come without one
    {1} asked {2} for directions because {p} | was new in town | knew every street
    {1} could not see the screen behind {2} because {p} | was too short | was too tall
    {1} paid {2} back as soon as {p} | had earned enough | asked for the money
    {1} carried the suitcase for {2} because {p} | was much stronger | had a bad shoulder
    {1} taught {2} to swim, and soon {p} | was proud of such a pupil | could cross the lake alone
    {1} woke {2} in the night because {p} | had heard a noise | was talking in a dream
    {1} thanked {2} because {p} | had been given a lift | had stopped the car for a stranger
    {1} did not trust {2} because {p} | had been cheated before | had told many lies
    {1} beat {2} at tennis although {p} | had slept badly | had trained for months
    {1} hid from {2} because {p} | owed a lot of money | was walking around with a stick
    {1} gave {2} the last piece of cake because {p} | was already full | had eaten nothing all day
    {1} waited for {2} at the station because {p} | had arrived early | had missed the first train
    {1} read the letter aloud to {2} because {p} | had the better voice | had broken both lenses
    {1} hired {2} because {p} | needed a carpenter | was a good carpenter
    {1} sold the boat to {2} because {p} | was giving up sailing | was taking up sailing
    {1} envied {2} because {p} | had lost the election | had won the election
    {1} visited {2} in hospital after {p} | had heard the bad news | had fallen off a ladder
    {1} shouted at {2} because {p} | had run out of patience | had broken the vase
    {1} comforted {2} because {p} | was a kind person | was crying
    {1} followed {2} through the fog because {p} | did not know the path | knew the path well
    {1} apologised to {2} because {p} | had been rude | had been treated rudely
    {1} refused to sit beside {2} because {p} | hates perfume | wears too much perfume
    {1} borrowed a pen from {2} because {p} | had left the pencil case at home \
        | always carries a few
    {1} voted for {2} although {p} | usually supports nobody | had promised very little
    {1} passed the ball to {2} although {p} | was close to the goal | was surrounded by defenders
    {1} invited {2} to dinner because {p} | likes to cook for company | had just moved in next door
    {1} warned {2} about the ice because {p} | had slipped on it | was about to step on it
    {1} covered {2} with a blanket because {p} | noticed the shivering | was shivering
    {1} interrupted {2} because {p} | could not keep quiet any longer \
        | had been speaking for an hour
""")

WHAT = phrases("""
    the rug | the wardrobe | {1} would not lie under {2} because it was too | thick | low
    the sofa | the lift | {1} could not be put into {2} because it was too | wide | narrow
    the ladder | the window | we could not get from {1} to {2} because it was too | short | high
    the lorry | the bridge | {1} was not allowed on {2} because it was too | heavy | weak
    the knife | the bread | {1} would not cut {2} because it was too | blunt | hard
    the poster | the frame | {1} did not match {2} because it was too | faded | bright
    the boat | the canal | {1} got stuck in {2} because it was too | broad | shallow
    the candle | the lamp | we read by {1} instead of {2} because it was | still burning | broken
    the radio | the drill | nobody could hear {1} over {2} because it was too | quiet | noisy
    the key | the lock | {1} did not turn in {2} because it was | bent | full of rust
    the cup | the shelf | {1} fell off {2} because it was | badly placed | badly fixed
    the nail | the plank | {1} did not go into {2} because it was too | soft | solid
    the tent | the meadow | we did not pitch {1} on {2} because it was | torn | flooded
    the soup | the spoon | I could not eat {1} with {2} because it was too | thin | flat
    the coat | the hook | {1} pulled {2} off the wall because it was | soaking wet \
        | badly screwed in
    the map | the envelope | {1} did not go into {2} because it was too | large | small
    the cart | the gate | {1} damaged {2} because it was | out of control | left half open
    the rope | the branch | we did not hang {1} from {2} because it was too | frayed | rotten
""")


PRONOUNS = {"handled": everyday_inference.handled, "met": everyday_inference.met}


def wnli(rng: random.Random) -> Splits:
    """Make a sentence with a pronoun, and it again with one of two nouns: 1 where it is right."""

    def make(label: int) -> Row:
        kind = weighted(rng, {"handled": 0.5, "met": 0.25, "people": 0.17, "things": 0.08})
        if kind in PRONOUNS:
            one, two = PRONOUNS[kind](rng, label)
        else:
            turn = rng.choice((0, 1))  # which of the two the sentence is about
            about = _about_people if kind == "people" else _about_things
            one, two = about(rng, turn, turn if label else 1 - turn)
        return {"sentence1": sentence(one), "sentence2": sentence(two), "label": label}

    counts = {"train": 1000, "validation": 300}
    return shuffled(draw(make, counts, lambda r: (r["sentence1"], r["sentence2"]), 2), rng)


def _about_people(rng: random.Random, turn: int, named: int) -> tuple[str, str]:
    text, *ends = rng.choice(WHO).split(" | ")
    pronoun, names = rng.choice((("he", lexicon.MALE), ("she", lexicon.FEMALE)))
    pair = rng.sample(names, 2)
    text = text.replace("{1}", pair[0]).replace("{2}", pair[1]).replace("{p}", pronoun)
    return f"{text} {ends[turn]}.", f"{pair[named]} {ends[turn]}."


def _about_things(rng: random.Random, turn: int, named: int) -> tuple[str, str]:
    one, two, text, *ends = rng.choice(WHAT).split(" | ")
    if rng.random() < 0.7:
        owner = rng.choice(lexicon.MALE + lexicon.FEMALE)
        one = one.replace("the ", f"{owner}'s ")
    text = text.replace("{1}", one).replace("{2}", two)
    degree = "was too" if text.endswith("too") else "was"
    return f"{text} {ends[turn]}.", f"{(one, two)[named]} {degree} {ends[turn]}."
