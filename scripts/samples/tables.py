"""Restaurants as attributes, and texts that describe them (in the form of the E2E data)."""

from __future__ import annotations

import random

from .grammar import Row, Splits, draw, words

NAMES = words(
    "The Mill, The Punter, Aromi, Blue Spice, Cotto, Fitzbillies, Giraffe, Loch Fyne, Strada, "
    "The Vaults, Wildwood, Zizzi, The Cricketers, The Eagle, Green Man"
)
KINDS = words("pub, restaurant, coffee shop")
FOODS = words("Chinese, English, French, Indian, Italian, Japanese, fast")
AREAS = words("riverside, city centre")
PRICES = words("cheap, moderate, high")
OPENINGS = (
    "{name} is a {kind} that serves {food} food.",
    "{name} is a {kind}. It serves {food} food.",
    "There is a {kind} called {name} that serves {food} food.",
)


def e2e(rng: random.Random) -> Splits:
    """Make attributes of restaurants, and one or two sentences that say them."""

    def make(_: int) -> Row:
        name, near = rng.sample(NAMES, 2)
        kind, food = rng.choice(KINDS), rng.choice(FOODS)
        facts = [f"name[{name}]", f"eatType[{kind}]", f"food[{food}]"]
        opening = OPENINGS[0] if rng.random() < 0.7 else rng.choice(OPENINGS)
        said = [opening.format(name=name, kind=kind, food=food)]
        if rng.random() < 0.5:
            price = rng.choice(PRICES)
            facts.append(f"priceRange[{price}]")
            said.append(f"The prices are {price}.")
        if rng.random() < 0.5:
            area = rng.choice(AREAS)
            facts.append(f"area[{area}]")
            said.append(f"It is in the {area} area.")
        if rng.random() < 0.3:
            facts.append(f"near[{near}]")
            said.append(f"It is near {near}.")
        return {"meaning_representation": ", ".join(facts), "target": " ".join(said)}

    counts = {"train": 400, "validation": 100}
    return draw(make, counts, lambda row: row["meaning_representation"], 1)
