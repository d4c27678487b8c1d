"""Nouns, names and verbs with their forms, shared by the grammars."""

from __future__ import annotations

from .grammar import words

VOWELS = "aeiou"


def plural(noun: str) -> str:
    """Form a regular plural."""
    if noun.endswith(("s", "x", "ch", "sh")):
        return noun + "es"
    if noun.endswith("y") and noun[-2] not in VOWELS:
        return noun[:-1] + "ies"
    return noun + "s"


def nouns(text: str) -> list[str]:
    """Return entries `singular/plural`; `man men` gives an irregular plural."""
    pairs = [entry.split() for entry in words(text)]
    return ["/".join((p[0], p[1] if len(p) > 1 else plural(p[0]))) for p in pairs]


def verbs(text: str) -> list[str]:
    """Return entries `base/third person/past/participle/ing`; `see saw seen` is irregular."""
    return ["/".join(_conjugate(*entry.split())) for entry in words(text)]


def _conjugate(base: str, past: str = "", participle: str = "") -> tuple[str, ...]:
    third = plural(base)
    past = past or (third[:-2] + "ed" if third.endswith("ies") else base.removesuffix("e") + "ed")
    stem = base if base.endswith("ee") else base.removesuffix("e")
    double = past == base + base[-1] + "ed"
    return base, third, past, participle or past, (base + base[-1] if double else stem) + "ing"


MEN = nouns(
    "boy, king, uncle, waiter, father, brother, monk, actor, prince, man men, grandfather, "
    "nephew, gentleman gentlemen, landlord, wizard, son, policeman policemen, husband"
)
WOMEN = nouns(
    "girl, queen, aunt, waitress, mother, sister, nun, actress, princess, woman women, "
    "grandmother, niece, lady, landlady, witch, daughter, policewoman policewomen, wife wives"
)
PEOPLE = nouns(
    "teacher, student, doctor, lawyer, farmer, pilot, nurse, baker, singer, painter, judge, "
    "neighbour, guest, writer, driver, child children, clerk, dentist, editor, engineer, "
    "gardener, librarian, manager, plumber, tourist, visitor, sailor, soldier, thief thieves, "
    "banker, coach, cook, dancer, poet, guard, tailor, mayor, senator, porter, cousin"
)
THINGS = nouns(
    "book, letter, lamp, bicycle, cake, song, box, chair, picture, key, window, report, basket, "
    "bottle, clock, coat, door, drum, map, mirror, parcel, piano, plate, rope, shirt, table, "
    "ticket, umbrella, violin, wallet, hammer, kite, ladder, blanket, candle, pumpkin, sandwich"
)
ANIMALS = nouns(
    "dog, cat, horse, goat, parrot, rabbit, fox, hen, donkey, wolf wolves, mouse mice, duck, bear, "
    "monkey, turtle, pig, goose geese, squirrel"
)
PLACES = words(
    "garden, library, kitchen, station, museum, harbour, market, school, theatre, hospital, park, "
    "village, church, hotel, office, bakery, stadium, valley, castle, airport"
)
MALE = words(
    "Peter, Thomas, Daniel, Hugo, Oscar, Victor, Martin, Simon, Adam, Felix, Leo, Robert, Omar, "
    "Ivan, George, Paul, Henry, Arthur, Samuel, Walter"
)
FEMALE = words(
    "Anna, Clara, Julia, Nora, Emma, Sophie, Laura, Helen, Maria, Alice, Ruth, Irene, Diana, Eva, "
    "Lucy, Grace, Martha, Rosa, Hannah, Vera"
)
SURNAMES = words(
    "Alder, Brandt, Castell, Dorn, Ekberg, Farrow, Grant, Hollis, Ivers, Jansen, Keller, Lowell, "
    "Marsh, Novak, Orton, Pryce, Quint, Rowe, Sandoval, Tarrant, Ulman, Vance, Whitlock, Yates, "
    "Abara, Okoye, Tanaka, Moreau, Lindqvist, Petrov, Amari, Castellan, Delgado, Hartmann"
)
TOWNS = words(
    "Ashford Bay, Brenton, Calder, Dunmore, Eastwick, Fallow Hill, Garrick, Highmoor, "
    "Ilford Cross, "
    "Kestrel Point, Larkham, Milbrook, Northgate, Oakhaven, Pellworth, Quarry Bridge, Rosedale, "
    "Stonebury, Thornwick, Umber Falls, Westmere, Yarrow, Port Ellis, San Ovidio, Lake Verity"
)
FIRMS = words(
    "Arden Foods, Baltic Rail, Corwen Steel, Delphi Air, Ember Energy, Fenway Paper, Galley Books, "
    "Harrow Motors, Inverlock Bank, Juniper Stores, Kite Software, Lumen Glass, Meridian Shipping, "
    "Norrland Timber, Opal Media, Pinnacle Foods, Quayside Hotels, Redwood Telecom, "
    "Solent Insurance, "
    "Tamar Textiles, Vantage Chemicals, Wexford Mining, Yew Tree Toys, Zephyr Wind"
)
DAYS = words("Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday")
MONTHS = words(
    "January, February, March, April, May, June, July, August, September, October, November"
)
INTRANSITIVE = verbs(
    "sleep slept, laugh, arrive, sneeze, smile, cough, vanish, yawn, snore, faint, kneel knelt, "
    "tremble, wait, weep wept, hesitate, nap napped, blush"
)
TRANSITIVE = verbs(
    "find found, hide hid hidden, repair, admire, buy bought, carry, choose chose chosen, destroy, "
    "describe, discover, fetch, lift, mention, notice, borrow, steal stole stolen, "
    "take took taken, "
    "examine, bring brought, lose lost, polish, keep kept, measure"
)
TOWARDS = verbs(  # one person to another
    "admire, see saw seen, praise, thank, help, blame, greet, invite, follow, forgive forgave "
    "forgiven, hear heard, interview, know knew known, meet met, phone, recognise, trust, visit, "
    "warn, teach taught, mock, watch, photograph, tease, defend"
)
