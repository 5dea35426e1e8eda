"""Write a Python function to a specification; hidden calls test it."""

SPECIFICATIONS = {
    "1": {
        "name": "squeeze",
        "what": "`squeeze(text)` returns the text with every run of one repeated character "
        "replaced by that character and the length of the run, and single characters left alone: "
        "'aaabcc' gives 'a3bc2'",
        "calls": [["aaabcc"], [""], ["abc"], ["zzzzzzzzzzzz"], ["a11"]],
        "results": ["a3bc2", "", "abc", "z12", "a12"],
    },
    "2": {
        "name": "spiral",
        "what": "`spiral(rows)` takes a list of equally long lists and returns its items in one "
        "list, clockwise from the top left corner to the centre",
        "calls": [[[[1, 2, 3], [4, 5, 6], [7, 8, 9]]], [[[1, 2], [3, 4], [5, 6]]], [[[7]]], [[]]],
        "results": [[1, 2, 3, 6, 9, 8, 7, 4, 5], [1, 2, 4, 6, 5, 3], [7], []],
    },
}


class TaskFamily:
    @staticmethod
    def get_tasks() -> dict[str, dict]:
        return SPECIFICATIONS

    @staticmethod
    def get_instructions(t: dict) -> str:
        return (
            f"Write a Python function: {t['what']}. Use no imports. Put the code behind a line "
            "that says only `Answer:`."
        )

    @staticmethod
    def score(t: dict, submission: str) -> float:
        try:
            function = get_function_name_to_callable(submission)[t["name"]]
            results = [function(*arguments) for arguments in t["calls"]]
        except Exception:
            return 0.0
        return float(results == t["results"])
