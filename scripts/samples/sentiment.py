"""Film reviews: phrases (sst2) and whole reviews (imdb).

Every polar table has two columns, negative and positive. A template is written once for both
labels: a plain slot takes the column of the label, a slot that begins with `x` the other one, so
that negations, contrasts and other people's opinions give no word away.
"""

from __future__ import annotations

import random
from collections.abc import Mapping

from .grammar import Grammar, Row, Splits, draw, phrases, sentence, shuffled, weighted, words

NEUTRAL = {
    "genre": words(
        "comedy, thriller, drama, romance, western, documentary, road movie, war film, musical, "
        "ghost story, heist film, fable, biopic, costume drama, crime story, farce, fairy tale, "
        "science-fiction film, mystery, coming-of-age story, courtroom drama, animated feature, "
        "satire, melodrama, sequel, remake, debut, chamber piece, sports film, monster movie"
    ),
    "part": words(
        "script, plot, dialogue, ending, soundtrack, camera work, editing, second half, first act, "
        "pacing, storytelling, cast, lead actor, supporting cast, direction, humour, score, "
        "premise, romance, voice-over, cinematography, finale, central performance, set design, "
        "opening hour, narration, banter, final twist, love story, child actor"
    ),
    "whole": words(
        "the film, the movie, this picture, the whole thing, it, this one, the result, the story, "
        "this little film, the director 's latest, the finished product, her third feature"
    ),
    "people": words(
        "two brothers on a farm, a retired detective, a village without a doctor, three sisters, "
        "a lighthouse keeper, a violinist, a taxi driver in winter, an island school, "
        "a bank clerk, "
        "a travelling circus, a widow and her tenant, a boxer past forty, a border town, "
        "a night nurse, a family of bakers, a spy without a country, a chess prodigy, "
        "a ferry crew, "
        "a lawyer and her father, an orphan in the desert, a country priest, a rock band, "
        "a submarine crew, a cook who cannot taste, rival florists, a town that has no children"
    ),
    "dark": words(
        "a murder, a bitter divorce, a cruel stepfather, a failed bank robbery, a lost war, "
        "a dying king, an ugly lawsuit, grief, poverty, a plague, a miserable marriage"
    ),
    "light": words(
        "a happy wedding, a brilliant inventor, a perfect summer, a beautiful singer, first love, "
        "a charming thief, the best team in the league, a lucky gambler, a kind teacher"
    ),
    "degree": words(
        "truly, thoroughly, often, quite, remarkably, rather, simply, deeply, so, very"
    ),
    "who": words(
        "the director, the writer, the leading lady, the newcomer, the veteran cast, "
        "the young lead, the camera, the screenwriter, this team"
    ),
    "theme": words("{dark}, {light}"),
    "time": words("ninety minutes, two hours, three hours, an evening, a rainy afternoon"),
    "rival": words("original, first film, novel, television series, stage version, trailer"),
    "judge": words("critics, friends, reviewers, fans, festival juries, neighbours"),
}

POLAR = {  # negative, positive
    "adj": (
        "dull, clumsy, tedious, shallow, lifeless, predictable, stale, boring, awful, ugly, weak, "
        "forgettable, muddled, pretentious, lazy, dreary, hollow, painful, ridiculous, annoying, "
        "sloppy, bland, flat, terrible, unfunny, tiresome, incoherent, pointless, cheap, silly, "
        "contrived, wooden, dreadful, confusing, overlong, bloated, trite, charmless, grating, "
        "unconvincing, amateurish, mediocre, sluggish, cynical, feeble, depressing, insipid, "
        "inept, soulless, artless, laboured, tasteless, stupid, laughable, disappointing, poor, "
        "messy, empty, disjointed, mindless, dismal, cloying, unbearable, tired, heavy-handed",
        "funny, clever, touching, graceful, fresh, gripping, witty, lovely, superb, moving, smart, "
        "memorable, lucid, honest, inventive, radiant, rich, delightful, wonderful, charming, "
        "elegant, vivid, sharp, terrific, hilarious, exciting, coherent, rewarding, splendid, "
        "original, natural, magnificent, fascinating, engaging, powerful, warm, thrilling, "
        "convincing, masterful, excellent, lively, generous, stirring, uplifting, enchanting, "
        "deft, soulful, artful, effortless, tasteful, intelligent, irresistible, satisfying, "
        "great, beautiful, haunting, tender, thoughtful, brilliant, captivating, inspired, "
        "spirited, refreshing, subtle, absorbing",
    ),
    "noun": (
        "mess, chore, disaster, waste of film, bore, failure, missed opportunity, embarrassment, "
        "shambles, letdown, dud, train wreck, misfire, slog, cash grab, disgrace, mistake, "
        "pile of cliches, snooze, headache, insult, flop, travesty, test of patience",
        "joy, treat, triumph, feast for the eyes, gem, success, pleasant surprise, revelation, "
        "wonder, delight, winner, knockout, masterpiece, pleasure, labour of love, marvel, "
        "tour de force, breath of fresh air, blast, gift, crowd-pleaser, hit, treasure, "
        "work of art",
    ),
    "verb": (
        "drags, falls apart, goes nowhere, falls flat, wears out its welcome, collapses, "
        "runs out of ideas, grates, misses the mark, never comes to life, insults its audience, "
        "stumbles, sinks, leaves you cold, bores, disappoints, wastes its cast, loses its way, "
        "squanders a good idea, put me to sleep, tries the patience, irritates",
        "soars, comes together, lingers in the mind, hits home, earns its welcome, sparkles, "
        "brims with ideas, enchants, hits the mark, bursts with life, respects its audience, "
        "shines, sings, leaves you glowing, delights, impresses, lifts its cast, finds its way, "
        "makes the most of a good idea, kept me awake all night, rewards patience, dazzles",
    ),
    "quality": (
        "boredom, clumsiness, bad taste, cliche, confusion, self-importance, laziness, dullness, "
        "cheap sentiment, empty noise",
        "charm, grace, good taste, wit, clarity, warmth, energy, imagination, honest feeling, "
        "quiet beauty",
    ),
    "act": (
        "ruins, botches, sabotages, bungles, spoils, drags down, mishandles, smothers",
        "lifts, enriches, saves, elevates, lights up, carries, redeems, perfects",
    ),
    "urge": (
        "avoid it, skip it, stay at home, save your money, ask for a refund, look elsewhere",
        "see it, go twice, take your friends, buy a ticket, see it on the largest screen, "
        "do not miss it",
    ),
}

PLAIN = phrases("""
    a {adj} {genre} about {people} .
    a {adj} and {adj} {genre} about {people} .
    a {degree} {adj} {genre}
    {adj} , {adj} and {degree} {adj} .
    {whole} is {degree} {adj} .
    {whole} {verb} .
    {whole} {verb} , and the {part} is {adj} .
    the {part#1} is {adj} and so is the {part#2} .
    a {noun} from start to finish .
    {whole} turns into a {noun} .
    this {genre} about {people} is a {noun} .
    {who} {act} the {part} .
    {who} {act} a {genre} about {people} with {quality} .
    there is {quality} in every frame .
    {time} of {quality} .
    full of {quality} and {adj} moments
    the {part} is {adj} ; {urge} .
    {urge} : the {genre} is {adj} .
    a {genre} about {theme} that {verb} .
    the story of {theme} becomes a {adj} {genre} .
    {theme} , told with {quality} .
    {adj} from the first scene to the last
    i found the {part} {degree} {adj} .
    as {adj} a {genre} as you will see this year
    with its {adj} {part} , {whole} {verb} .
    the most {adj} {genre} about {people} in years
    {whole} owes its {quality} to the {part} .
    its {adj} {part#1} and {adj} {part#2}
""")

NEGATED = phrases("""
    {whole} is not {xadj} .
    {whole} is not {xadj} at all , and neither is the {part} .
    {whole} is never {xadj} .
    there is nothing {xadj} about the {part} .
    {whole} is anything but {xadj} .
    the {part} is far from {xadj} .
    neither {xadj} nor {xadj}
    no one would call this {genre} {xadj} .
    not a {xnoun} by any means
    it would be wrong to call {whole} {xadj} .
    {whole} does n't have one {xadj} scene .
    a {genre} without any {xquality}
    the {part} is n't {xadj} , and the {part} is n't {xadj} either .
    a {genre} about {people} , and hardly a {xnoun}
    do not expect {xquality} from this {genre} .
    i did not find the {part} {xadj} .
    {whole} never becomes the {xnoun} i had been told to expect .
""")

CONTRAST = phrases("""
    although the {part} is {xadj} , {whole} is {adj} .
    although {whole} begins as a {xnoun} , it ends as a {noun} .
    the {part} may be {xadj} , but {whole} {verb} .
    {whole} is {adj} , even if the {part} is {xadj} .
    {whole} {verb} in spite of its {xadj} {part} .
    for all its {xquality} , {whole} is a {noun} .
    the {rival} was {xadj} ; this {genre} is {adj} .
    unlike the {xadj} {rival} , {whole} {verb} .
    more {adj} than {xadj}
    less {xadj} than {adj}
    i expected a {xnoun} and was given a {noun} .
    the {part} is {xadj} at first , yet {whole} {verb} .
    a {xadj} premise , but a {degree} {adj} {genre}
    a {adj} {genre} despite the {xadj} {part}
    the {part} had me worried with its {xquality} , but in the end {whole} is {adj} .
    what looks like a {xadj} {genre} turns out to be a {noun} .
    where the {rival} was a {xnoun} , {whole} {verb} .
    {who} {act} what could have been a {xadj} {genre} .
    {whole} is a {noun} , however {xadj} the {part} .
""")

TWICE = phrases("""
    no one can say that {whole} is not {adj} .
    it is impossible not to find {whole} {adj} .
    {whole} is never less than {adj} .
    {whole} never stops being {adj} .
    there is not one scene that is not {adj} .
    i cannot pretend that the {part} is not {adj} .
    nobody will deny that {whole} is {adj} .
    do not believe anyone who says it is not a {noun} .
    it is not true that {whole} is not {adj} .
""")

OTHERS = phrases("""
    the {judge} who call it {xadj} are wrong .
    the {judge} called it a {xnoun} ; do not believe them .
    people keep calling the {part} {xadj} , but it is {adj} .
    the {judge} praised or blamed the {part} ; i say {whole} {verb} .
    those who find {whole} {xadj} were not watching .
    the {judge} promised me {xquality} , and what i saw was {quality} .
    the poster says {xadj} ; the {genre} itself is {adj} .
""")

SST2_KINDS = {"plain": 66.0, "negated": 11.0, "contrast": 14.0, "twice": 5.0, "others": 4.0}
SST2_TEMPLATES = {
    "plain": PLAIN, "negated": NEGATED, "contrast": CONTRAST, "twice": TWICE, "others": OTHERS,
}  # fmt: skip


def tables(label: int) -> Mapping[str, list[str]]:
    """Return the tables seen from one label: plain slots agree with it, `x` slots do not."""
    same = {name: words(columns[label]) for name, columns in POLAR.items()}
    other = {f"x{name}": words(columns[1 - label]) for name, columns in POLAR.items()}
    return {**NEUTRAL, **same, **other}


def sst2(rng: random.Random) -> Splits:
    """Make lower-cased phrases with the blanks around punctuation that the real set has."""
    grammars = {label: Grammar(tables(label), rng) for label in (0, 1)}

    def make(label: int) -> Row:
        template = rng.choice(SST2_TEMPLATES[weighted(rng, SST2_KINDS)])
        return {"sentence": grammars[label].say(template), "label": label}

    counts = {"train": 1000, "validation": 300}
    return shuffled(draw(make, counts, lambda row: row["sentence"], 2), rng)


OPENING = phrases("""
    I saw this {genre} on a plane last month.
    My sister rented this {genre} about {people}.
    This is a {genre} about {people}.
    I had read the {rival} before I went.
    We watched it in a half-empty cinema.
    The story follows {people} over {time}.
    I usually avoid any {genre} that deals with {theme}.
    A friend told me to watch this for the {part}.
    The first thing you should know is that it is about {theme}.
    It was made on a small budget and runs for {time}.
    I have watched it three times by now.
""")

REMARKS = phrases("""
    The {part} is {degree} {adj}.
    The {part#1} is {adj}, and I would say the same of the {part#2}.
    I found the {part} {adj}.
    There are some {adj} moments.
    Some of the {judge} called it a {noun}.
    You can see {quality} here and there.
    I have to admit that {who} {act} the {part}.
    Yes, the {part} is {adj}.
    One scene with {people} is {adj}.
    Everyone talks about the {adj} {part}.
    The {rival} was {adj}, by the way.
    Parts of it are {degree} {adj}.
    The {part} is not {xadj}.
    Nobody could call the {part} {xadj}.
""")

VERDICTS = phrases("""
    All in all, this is a {noun}.
    In the end, though, it {verb}.
    Taken as a whole, it is a {adj} {genre}.
    Even so, my verdict is simple: {urge}.
    All things considered, the film as a whole is {degree} {adj}.
    Still, what stays with me is how {adj} the whole thing is.
    None of that matters, because the film {verb}.
    To sum up: a {adj}, {adj} {genre}.
    So is it a {xnoun}? No, it is a {noun}.
    Whatever else you read, it is not {xadj} but {adj}.
    I wanted to call it {xadj}, but I cannot: it is {adj}.
    For me the final judgement is clear, and it is a {noun}.
    If you ask me, {urge}.
""")


def imdb(rng: random.Random) -> Splits:
    """Make reviews: an opening, remarks of both kinds in equal number, and a verdict."""
    grammars = {label: Grammar(tables(label), rng) for label in (0, 1)}
    counts = {"train": 400, "test": 200}
    splits = draw(lambda label: _review(rng, grammars, label), counts, lambda r: r["text"], 2)
    return shuffled(splits, rng, numbered=False)


def _review(rng: random.Random, grammars: dict[int, Grammar], label: int) -> Row:
    own = grammars[label]
    sides = [0, 1] * rng.choice((1, 2)) + ([label] if rng.random() < 0.4 else [])
    rng.shuffle(sides)
    kinds = rng.sample(REMARKS, len(sides))
    remarks = [grammars[side].say(kind) for side, kind in zip(sides, kinds, strict=True)]
    opening = [own.say(text) for text in rng.sample(OPENING, rng.choice((1, 2)))]
    verdicts = [own.say(text) for text in rng.sample(VERDICTS, rng.choice((1, 2)))]
    blocks = [" ".join(map(sentence, block)) for block in (opening + remarks, verdicts)]
    text = rng.choice((" ", " ", "<br /><br />")).join(blocks)
    return {"text": text.replace(" 's", "'s"), "label": label}
