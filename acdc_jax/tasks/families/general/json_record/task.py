"""Turn a sentence into a JSON object of a given form."""

import json

RECORDS = {
    "1": {
        "text": "Mina Okafor, 34, plays the cello and the oud and lives in Lagos.",
        "record": {"name": "Mina Okafor", "age": 34, "city": "Lagos", "skills": ["cello", "oud"]},
    },
    "2": {
        "text": "In Turin lives Paolo Reni. He is 51 and repairs nothing but clocks.",
        "record": {"name": "Paolo Reni", "age": 51, "city": "Turin", "skills": ["clocks"]},
    },
    "3": {
        "text": "Twenty-nine years old, Sun Li of Osaka is good at chess, go and tennis.",
        "record": {
            "name": "Sun Li",
            "age": 29,
            "city": "Osaka",
            "skills": ["chess", "go", "tennis"],
        },
    },
}


class TaskFamily:
    @staticmethod
    def get_tasks() -> dict[str, dict]:
        return RECORDS

    @staticmethod
    def get_instructions(t: dict) -> str:
        return (
            f"Turn this sentence into one JSON object: {t['text']}\nIts keys are, in this order, "
            "city (text), name (text), age (number) and skills (list of single lower-case words, "
            "in alphabetical order). Answer with the object alone, on one line."
        )

    @staticmethod
    def score(t: dict, submission: str) -> float:
        text = submission.strip().removeprefix("```json").strip("`").strip()
        try:
            found = json.loads(text)
        except ValueError:
            return 0.0
        in_order = isinstance(found, dict) and list(found) == ["city", "name", "age", "skills"]
        return float(in_order and found == t["record"] and "\n" not in text)
