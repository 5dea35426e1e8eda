"""Which families of reasoning-gym are used, and what each asks for.

A family is here if it has levels, if a short function can tell right answers (see `puzzles.py`),
and if these are more than a word that anybody can guess, or become so as several questions are
asked at once. These are left out:

- puzzles without a stored solution: `boxnet`, `propositional_logic`, `rubiks_cube`, `rush_hour`
- formulas, whose comparison takes computer algebra, and ladders of words, which take a dictionary
- families whose questions are long (`rectangle_count`), slow to make (`figlet_font`, `sokoban`), or
  depend on Python's hash seed (`ransom_note`); and `bf`, of whose programs one in 300 never ends
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Family:
    """A family of reasoning-gym.

    Attributes:
        name: Its name there.
        category: The skill that it exercises.
        description: What it asks for, in one sentence.
    """

    name: str
    category: str
    description: str


_FAMILIES = {
    "algebra": {
        "simple_equations": "Solve a linear equation for its variable.",
    },
    "arithmetic": {
        "basic_arithmetic": "Compute an expression with brackets and all four operations.",
        "bitwise_arithmetic": "Compute an expression of hexadecimal numbers, shifts and sums.",
        "calendar_arithmetic": "Answer a question about dates, such as on which weekday one falls.",
        "chain_sum": "Add and subtract a row of whole numbers.",
        "coin_flip": "Compute the probability of a number of heads.",
        "countdown": "Make a number from others with +, -, * and /.",
        "count_bits": "Count the ones in the binary form of a number.",
        "decimal_arithmetic": "Compute an expression of decimal numbers to a given precision.",
        "decimal_chain_sum": "Add and subtract a row of decimal numbers.",
        "dice": "Compute the probability that dice of several sizes roll at least a total.",
        "fraction_simplification": "Bring a fraction to its lowest terms.",
        "gcd": "Find the greatest common divisor of numbers.",
        "lcm": "Find the least common multiple of numbers.",
        "leg_counting": "Count the legs of animals of several kinds.",
        "number_format": "Choose the largest of numbers in several notations.",
        "prime_factorization": "Write a number as a product of primes.",
        "products": "Multiply whole numbers.",
        "puzzle24": "Make 24 from four numbers.",
        "time_intervals": "Compute the time between two moments.",
    },
    "geometry": {
        "simple_geometry": "Find the last angle of a polygon.",
    },
    "graphs": {
        "family_relationships": "Say how two people of a family are related.",
        "graph_color": "Colour the vertices of a graph so that neighbours differ.",
        "largest_island": "Find the size of the largest connected region of a grid.",
    },
    "grids": {
        "arc_1d": "Find the rule that turns rows of numbers into others, and apply it.",
        "binary_matrix": "Find the distance of every cell of a grid to the nearest zero.",
        "color_cube_rotation": "Follow the colours of a cube's sides through rotations.",
        "game_of_life": "Compute a board of the Game of Life after some steps.",
        "kakurasu": "Mark cells of a grid so that rows and columns have weighted sums.",
        "manipulate_matrix": "Rotate, flip and filter a matrix, step by step.",
        "maze": "Count the steps of the shortest way through a maze.",
        "mini_sudoku": "Solve a sudoku of four rows.",
        "n_queens": "Place queens on a board so that none attacks another.",
        "pool_matrix": "Pool the blocks of a matrix by average or maximum.",
        "rotate_matrix": "Rotate a square matrix by quarter turns.",
        "rotten_oranges": "Count the minutes until a whole grid has rotted.",
        "spiral_matrix": "Read a matrix in a spiral.",
        "sudoku": "Solve a sudoku.",
    },
    "logic": {
        "aiw": "Count the siblings, friends or colleagues of a person in a small story.",
        "cryptarithm": "Find the digits that letters of a sum stand for.",
        "self_reference": "Count the solutions of statements about each other, four times.",
        "zebra_puzzles": "Find out who lives where from a list of clues.",
    },
    "numbers": {
        "base_conversion": "Convert a number from one base to another.",
        "count_primes": "Count the primes of an interval.",
        "number_filtering": "Keep or remove the numbers of a list on one side of a limit.",
        "number_sequence": "Continue a sequence of numbers.",
        "number_sorting": "Sort numbers.",
    },
    "planning": {
        "course_schedule": "Say whether courses can be taken in some order, four times.",
        "jugs": "Measure an amount of water by filling, emptying and pouring jugs.",
        "quantum_lock": "Press the fewest buttons that turn a number into another.",
        "shortest_path": "Find a shortest way through a grid with walls.",
        "tower_of_hanoi": "Move a tower of discs from one peg to another.",
    },
    "words": {
        "ab": "Rewrite a row of four symbols until no rule applies.",
        "binary_alternation": "Count the swaps that make binary texts alternate, four times.",
        "caesar_cipher": "Decrypt a text whose letters were shifted.",
        "group_anagrams": "Group words that have the same letters.",
        "letter_counting": "Count a letter in a text.",
        "letter_jumble": "Put the letters of jumbled words in order.",
        "needle_haystack": "Find the one statement of many that answers a question.",
        "palindrome_generation": "Form a palindrome of given letters.",
        "sentence_reordering": "Put the words of a sentence in order.",
        "spell_backward": "Spell a word backward.",
        "string_insertion": "Insert letters into a text where patterns occur.",
        "string_manipulation": "Apply rewriting rules to a text until none applies.",
        "string_splitting": "Count the machines and parts that are left after applying rules.",
        "string_synthesis": "Count the blocks that are left after applying rules.",
        "word_sequence_reversal": "Write a list of words in the opposite order.",
        "word_sorting": "Sort words by their characters.",
    },
}
FAMILIES: dict[str, Family] = {
    name: Family(name, category, description)
    for category, families in _FAMILIES.items()
    for name, description in families.items()
}
"""Name → family, in a fixed order."""

CATEGORIES = tuple(_FAMILIES)


def choose_families(names: tuple[str, ...]) -> tuple[Family, ...]:
    """Return the families that a flag names.

    Args:
        names: Families or categories; with a minus before them, they are left out. Without any that
            is not left out, all families are meant.

    Raises:
        ValueError: A name is unknown, or no family is left.
    """
    kept, dropped = set[str](), set[str]()
    for name in map(str.strip, names):
        bare = name.removeprefix("-")
        meant = {f.name for f in FAMILIES.values() if bare in (f.name, f.category)}
        if not meant:
            raise ValueError(
                f"{bare!r} is neither a category ({', '.join(CATEGORIES)}) nor a family "
                f"({', '.join(FAMILIES)})"
            )
        (dropped if name.startswith("-") else kept).update(meant)
    chosen = tuple(
        family
        for name, family in FAMILIES.items()
        if name not in dropped and (name in kept or not kept)
    )
    if not chosen:
        raise ValueError("leaves no family")
    return chosen
