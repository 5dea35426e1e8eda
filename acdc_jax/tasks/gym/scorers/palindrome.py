"""Form a palindrome of letters: `palindrome_generation`."""


def palindrome(submission: str, letters: str) -> bool:
    """Return whether an answer reads the same backwards and has just these letters."""
    answer = submission.strip().lower()
    return answer == answer[::-1] and sorted(answer) == sorted(letters)
