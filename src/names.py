"""What FER2013's classes and splits are called: by the paper, by Kaggle, and by those who pass
copies of it on (REFERENCE.md section 2)."""

import re

CLASSES = ("Anger", "Disgust", "Fear", "Happiness", "Sadness", "Surprise", "Neutral")
VOTED_TOO = ("contempt", "unknown", "nf")  # columns of FERPlus, beside those of the classes
USAGES = {"train": "Training", "val": "PublicTest", "test": "PrivateTest"}  # Kaggle's names
SPLITS = tuple(USAGES)
SIZE = 48
PIXELS = SIZE * SIZE

_CLASS_WORDS = (
    ("anger", "angry"),
    ("disgust", "disgusted"),
    ("fear", "fearful", "afraid"),
    ("happiness", "happy"),
    ("sadness", "sad"),
    ("surprise", "surprised"),
    ("neutral", "neutrality"),
)
_SPLIT_WORDS = {
    "train": ("training", "train"),
    "val": ("publictest", "val", "valid", "validation"),
    "test": ("privatetest", "test", "testing"),
}
_LABELS = {word: label for label, words in enumerate(_CLASS_WORDS) for word in words}
_LABELS.update({str(label): label for label in range(len(CLASSES))})
_SPLITS = {word: split for split, words in _SPLIT_WORDS.items() for word in words}


def label_of(name):
    """Return the label 0...6 that a class's name or number stands for, or None.

    Capitals, blanks and marks do not count, and of a name with a number (`3_happy`) the name does:
    others may have numbered the classes in another order.
    """
    words = re.sub(r"[\W\d_]", "", name).lower()
    return _LABELS.get(words or name.strip())


def split_of(name):
    """Return the split that a name such as `Training`, `public_test` or `valid` stands for, or
    None."""
    return _SPLITS.get(re.sub(r"[\s_-]", "", name).lower())
