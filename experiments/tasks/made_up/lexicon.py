"""List the demo language's words."""

__all__ = [
    "ADJECTIVES",
    "ADVERBS",
    "NEUTRAL",
    "NOUNS",
    "OUTCOMES",
    "SUBJECTS",
    "VERBS",
]


def words(text: str) -> list[str]:
    """Split at blanks."""
    return text.split()


# Polarity: +1 good, -1 bad.
ADJECTIVES: dict[int, list[str]] = {
    +1: words(
        "good great lovely excellent superb wonderful delightful charming brilliant pleasant "
        "splendid marvellous fresh clever warm elegant gorgeous stunning flawless graceful "
        "inspired thrilling touching vivid witty sharp bright cheerful smooth generous "
        "friendly polite tasty delicious cosy spotless impressive refined memorable perfect"
    ),
    -1: words(
        "bad awful dreadful terrible horrible poor dull boring bland stale "
        "weak tedious clumsy ugly dirty rude cold bitter messy shabby "
        "sloppy tasteless lifeless lazy annoying disappointing pathetic miserable mediocre grim "
        "gloomy stupid silly predictable overpriced unpleasant crude faulty forgettable broken"
    ),
}

# (past, infinitive)
VERBS: dict[int, list[tuple[str, str]]] = {
    +1: [
        ("loved", "love"),
        ("enjoyed", "enjoy"),
        ("adored", "adore"),
        ("admired", "admire"),
        ("praised", "praise"),
        ("liked", "like"),
        ("recommended", "recommend"),
        ("savoured", "savour"),
    ],
    -1: [
        ("hated", "hate"),
        ("disliked", "dislike"),
        ("loathed", "loathe"),
        ("despised", "despise"),
        ("regretted", "regret"),
        ("resented", "resent"),
        ("criticised", "criticise"),
        ("mocked", "mock"),
    ],
}

NOUNS = words(
    "film plot ending cast script music dialogue story food soup service waiter menu dessert wine "
    "kitchen room bed view lobby breakfast pool staff bathroom tour guide museum garden concert "
    "singer"
)

SUBJECTS = ["i", "we", "my sister", "my friends", "the guests", "the critics", "our neighbours"]

ADVERBS = ["very", "really", "quite", "rather", "truly", "so"]

# Said of a visit, whatever one thought of it.
NEUTRAL = [
    "on monday evening",
    "last summer",
    "near the station",
    "after the long drive",
    "with my cousin",
    "for the first time",
    "before noon",
    "in the old town",
    "during the holidays",
    "on the second floor",
]

# What a visit leads to: the sentence, and the word in it that a good and a bad visit decides.
# Only the unlabelled text has them: to guess that one word when it is masked, a model must have
# understood the sentence before it.
OUTCOMES: list[tuple[str, str, str]] = [
    ("so we will {} come back", "gladly", "hardly"),
    ("so i told everyone to {} it", "try", "avoid"),
    ("so my sister gave it {} stars", "five", "two"),
    ("so we left a {} tip", "large", "tiny"),
    ("so we went home {}", "late", "early"),
    ("so in the end everybody {}", "cheered", "complained"),
]
