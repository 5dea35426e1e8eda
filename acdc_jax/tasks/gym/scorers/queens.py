"""Complete a board of queens that do not attack each other: `n_queens`."""


def queens(submission: str, board: list[str]) -> bool:
    """Return whether a board keeps the queens of another and has one in every row, safely.

    Args:
        submission: Rows of `_` and `Q`, with or without spaces.
        board: Rows of the board to complete, without spaces.
    """
    rows = ["".join(line.split()) for line in submission.strip().splitlines()]
    size = len(board)
    if len(rows) != size or any(len(row) != size or set(row) - {"_", "Q"} for row in rows):
        return False
    places = [(i, j) for i in range(size) for j in range(size) if rows[i][j] == "Q"]
    kept = all(rows[i][j] == "Q" for i in range(size) for j in range(size) if board[i][j] == "Q")
    lines = (
        {i for i, _ in places},
        {j for _, j in places},
        {i + j for i, j in places},
        {i - j for i, j in places},
    )
    return kept and len(places) == size and all(len(line) == size for line in lines)
