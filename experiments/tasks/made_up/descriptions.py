"""Make the demo's generation language: facts about a place to eat, and sentences that tell them.

A meaning representation lists facts, ``name[the copper kettle], food[french], price[cheap]``; a
reference tells all of them and nothing else. There are many right ways to tell: which facts
share a sentence, in which order they come, which words are used. Everything is a function of a
seed, and all in lower case, as in the demo's other language.
"""

import random
from collections.abc import Sequence
from typing import TypeVar

from bilevel.errors import UserError
from experiments.tasks.made_up import grammar
from experiments.tasks.made_up.lexicon import words

__all__ = ["SLOTS", "meaning", "pairs", "unlabelled"]

Facts = dict[str, str]
T = TypeVar("T")

COLOURS = words("copper silver golden scarlet ivory amber crimson blue green white")
THINGS = words(
    "kettle lantern anchor orchard heron fiddle cellar chimney barrel acorn otter compass"
)

# What a fact may be, in the order of a meaning representation.
SLOTS: dict[str, list[str]] = {
    "name": [f"the {colour} {thing}" for colour in COLOURS for thing in THINGS],
    "kind": words("bistro tavern canteen diner cafe"),
    "food": words("french thai greek mexican turkish polish korean vegan"),
    "price": words("cheap moderate expensive"),
    "area": words("riverside harbour hillside downtown suburb"),
    "rating": words("low average high"),
    "children": words("yes no"),
}
FEWEST, MOST = 3, 6  # facts of one meaning representation, the name among them
REFERENCES = (2, 5)  # fewest and most
TRIES = 20  # descriptions made to find that many different ones
LIMIT = 20_000  # meaning representations that can be asked for: there are about five times as many

# The words for a fact, the usual ones first; see `_usual`.
PRICES = {  # before a noun
    "cheap": ["cheap", "inexpensive"],
    "moderate": ["moderately priced", "reasonable"],
    "expensive": ["expensive", "costly"],
}
BILLS = {  # as a clause
    "cheap": ["the prices are low", "it costs little"],
    "moderate": ["the prices are fair", "it has average prices"],
    "expensive": ["the prices are high", "it costs a lot"],
}
AREAS = {
    "riverside": ["by the river", "on the river bank"],
    "harbour": ["at the harbour", "beside the docks"],
    "hillside": ["up on the hill", "on the hillside"],
    "downtown": ["in the city centre", "in the middle of town"],
    "suburb": ["in the suburbs", "outside the city"],
}
RATED = {  # before a noun
    "low": ["poorly rated"],
    "average": ["averagely rated"],
    "high": ["highly rated"],
}
OPINIONS = {
    "low": ["guests rate it poorly", "it has bad reviews"],
    "average": ["guests find it average", "it has mixed reviews"],
    "high": ["guests rate it highly", "it has excellent reviews"],
}
CHILDREN = {
    "yes": ["children are welcome", "it is good for families"],
    "no": ["children are not welcome", "it is for adults only"],
}
FOODS = ["it serves {} food", "the kitchen is {}"]
PLACES = ["place", "restaurant"]  # when the kind is not told
LINKS = ["in other words", "in short", "that is to say"]

# Shares of the unlabelled text.
REVIEWS = 0.3  # the demo's other language
TOLD_TWICE = 0.75  # of the descriptions: the same facts in other words


def pairs(count: int, seed: int) -> list[tuple[str, list[str]]]:
    """Return meaning representations, all different, each with two to five references.

    Raises:
        UserError: more are asked for than the language has to give.
    """
    if count > LIMIT:
        raise UserError(f"the demo's descriptions are at most {LIMIT:,}, not {count:,}")
    source = random.Random(f"pairs {seed}")
    found: dict[str, list[str]] = {}
    while len(found) < count:
        facts = _facts(source)
        text = meaning(facts)
        if text not in found:
            found[text] = _references(source, facts)
    return list(found.items())


def unlabelled(count: int, seed: int) -> list[str]:
    """Return descriptions, many told a second time in other words, and reviews.

    No text has a meaning representation; that what is said first decides what is said next can
    be learned here.
    """
    source = random.Random(f"descriptions {seed}")
    reviews = iter(grammar.unlabelled(count, seed))
    texts = []
    for _ in range(count):
        if source.random() < REVIEWS:
            texts.append(next(reviews))
            continue
        facts = _facts(source)
        text = _describe(source, facts)
        if source.random() < TOLD_TWICE:
            text = f"{text} {source.choice(LINKS)}, {_describe(source, facts)}"
        texts.append(text)
    return texts


def meaning(facts: Facts) -> str:
    """Write facts as a meaning representation."""
    return ", ".join(f"{slot}[{facts[slot]}]" for slot in SLOTS if slot in facts)


def _facts(source: random.Random) -> Facts:
    others = [slot for slot in SLOTS if slot != "name"]
    told = ["name", *source.sample(others, source.randint(FEWEST, MOST) - 1)]
    return {slot: source.choice(SLOTS[slot]) for slot in told}


def _references(source: random.Random, facts: Facts) -> list[str]:
    wanted = source.randint(*REFERENCES)
    # A dictionary, for it keeps the order. The plainest facts can be told in four ways only, so
    # that some meaning representations get fewer references than wanted.
    found = dict.fromkeys(_describe(source, facts) for _ in range(TRIES))
    return list(found)[:wanted]


def _describe(source: random.Random, facts: Facts) -> str:
    """Tell the facts: a sentence that names the place, and others about "it"."""
    left = dict(facts)
    name = left.pop("name")
    opening = _opening(source, name, left)
    sentences = [opening, *_join(source, _clauses(source, left))]
    return " ".join(f"{sentence}." for sentence in sentences)


def _opening(source: random.Random, name: str, left: Facts) -> str:
    """The first sentence; the facts that it tells are taken out of `left`."""
    before = []
    if "rating" in left and source.random() < 0.25:
        before.append(_usual(source, RATED[left.pop("rating")]))
    if "price" in left and source.random() < 0.75:
        before.append(_usual(source, PRICES[left.pop("price")]))
    if "food" in left and source.random() < 0.75:
        before.append(left.pop("food"))
    thing = " ".join([*before, left.pop("kind", "") or _usual(source, PLACES)])
    thing = f"{'an' if thing[0] in 'aeiou' else 'a'} {thing}"
    if "area" not in left or source.random() < 0.2:
        return _usual(source, [f"{name} is {thing}", f"there is {thing} called {name}"])
    where = _usual(source, AREAS[left.pop("area")])
    return _usual(source, [f"{name} is {thing} {where}", f"{where} there is {thing} called {name}"])


def _clauses(source: random.Random, left: Facts) -> list[str]:
    """A clause for each fact that the first sentence did not tell, mostly in the usual order."""
    choices = {
        "food": [form.format(left.get("food")) for form in FOODS],
        "price": BILLS.get(left.get("price", ""), []),
        "area": [f"you find it {where}" for where in AREAS.get(left.get("area", ""), [])],
        "rating": OPINIONS.get(left.get("rating", ""), []),
        "children": CHILDREN.get(left.get("children", ""), []),
    }
    clauses = [_usual(source, forms) for slot, forms in choices.items() if slot in left]
    if source.random() < 0.3:
        source.shuffle(clauses)
    return clauses


def _join(source: random.Random, clauses: list[str]) -> list[str]:
    """Sentences of one clause, or of two with "and" between them."""
    sentences = []
    while clauses:
        taken = 2 if len(clauses) > 1 and source.random() < 0.7 else 1
        sentences.append(" and ".join(clauses[:taken]))
        clauses = clauses[taken:]
    return sentences


def _usual(source: random.Random, forms: Sequence[T]) -> T:
    """One of the forms, the first of them more often: so that there is something to expect."""
    return forms[0] if source.random() < 0.5 else source.choice(forms)
