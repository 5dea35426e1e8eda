"""What experts are trained on: conversations as tokens, alone and packed into rows."""

from typing import NamedTuple

import numpy as np


class Example(NamedTuple):
    """One conversation.

    Attributes:
        tokens: Token ids of the whole conversation.
        answer: For every token, whether it belongs to an answer, which the loss counts.
    """

    tokens: list[int]
    answer: list[bool]


class PackedExamples(NamedTuple):
    """Rows of one length, each of several conversations that do not see each other.

    Attributes:
        tokens: [rows, length] int32.
        segments: [rows, length] int32; 1, 2, … number the conversations of a row; 0 is padding.
        positions: [rows, length] int32, from 0 within each conversation.
        answer: [rows, length] bool, True on the tokens that the loss counts.
    """

    tokens: np.ndarray
    segments: np.ndarray
    positions: np.ndarray
    answer: np.ndarray
