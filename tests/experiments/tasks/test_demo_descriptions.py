"""The demo's descriptions: each tells its facts and no others."""

import re

import pytest

from bilevel.errors import UserError
from experiments.tasks.made_up import descriptions
from experiments.tasks.made_up.descriptions import SLOTS, meaning, pairs, unlabelled
from experiments.tasks.made_up.lexicon import OUTCOMES

SYNONYMS = {
    "price": (descriptions.PRICES, descriptions.BILLS),
    "area": (descriptions.AREAS,),
    "rating": (descriptions.RATED, descriptions.OPINIONS),
    "children": (descriptions.CHILDREN,),
}


def facts_of(text):
    """A meaning representation read back."""
    return dict(re.findall(r"(\w+)\[([^]]*)\]", text))


def reader(text):
    """The language's rules, read from the other end: description to facts."""
    padded = f" {text.replace('.', ' ')} "
    found = {}
    for slot in ("name", "kind", "food"):
        found.update((slot, value) for value in SLOTS[slot] if f" {value} " in padded)
    for slot, tables in SYNONYMS.items():
        for table in tables:
            for value, forms in table.items():
                if any(f" {form} " in padded for form in forms):
                    found[slot] = value
    return found


def test_references_tell_the_facts_and_no_others():
    for text, references in pairs(300, seed=3):
        for reference in references:
            assert reader(reference) == facts_of(text), reference


def test_a_meaning_representation_has_three_to_six_facts_in_their_order():
    for text, _ in pairs(300, seed=3):
        facts = facts_of(text)
        assert 3 <= len(facts) <= 6
        assert next(iter(facts)) == "name"
        assert all(value in SLOTS[slot] for slot, value in facts.items())
        assert text == meaning(facts)


def test_meanings_differ_and_so_do_the_references_of_each():
    found = pairs(1000, seed=3)
    assert len({text for text, _ in found}) == 1000
    assert {len(references) for _, references in found} == {2, 3, 4, 5}
    assert all(len(set(references)) == len(references) for _, references in found)


def test_descriptions_depend_on_the_seed_alone():
    assert pairs(20, 1) == pairs(20, 1)
    assert pairs(20, 1) == pairs(30, 1)[:20]
    assert pairs(20, 1) != pairs(20, 2)
    assert unlabelled(50, 1) == unlabelled(50, 1)
    assert unlabelled(50, 1) != unlabelled(50, 2)


def test_few_meanings_recur_with_another_seed():
    known = {text for text, _ in pairs(500, 0)}
    assert sum(text in known for text, _ in pairs(500, 1)) < 25


def test_unlabelled_text_has_reviews_and_descriptions_but_no_meaning_representation():
    outcomes = {text.format(word) for text, *words in OUTCOMES for word in words}
    texts = unlabelled(400, 0)
    reviews = [text for text in texts if text.split(" , ")[-1] in outcomes]
    told = [text for text in texts if text not in reviews]
    assert 0.2 < len(reviews) / 400 < 0.4
    assert all(reader(text)["name"] for text in told)
    assert sum(any(link in text for link in descriptions.LINKS) for text in told) > 0.6 * len(told)
    assert not any(set("[]") & set(text) for text in texts)


def test_what_is_told_twice_is_the_same():
    for text in unlabelled(400, 0):
        halves = re.split("|".join(f" {link}, " for link in descriptions.LINKS), text)
        assert len(halves) <= 2
        assert reader(halves[0]) == reader(halves[-1])


def test_the_language_does_not_give_more_than_it_has():
    with pytest.raises(UserError, match="at most"):
        pairs(descriptions.LIMIT + 1, 0)
