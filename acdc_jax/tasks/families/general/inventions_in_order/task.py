"""Put four inventions or discoveries in the order of their dates."""

# In the true order; the gaps are decades at least.
CHAINS = {
    "1": ["printing with movable metal type", "the telescope", "the steam locomotive", "the laser"],
    "2": ["paper", "the mechanical clock", "the telegraph", "the transistor"],
    "3": ["the microscope", "vaccination", "X-ray images", "the structure of DNA"],
}
SHOWN = {"1": [2, 0, 3, 1], "2": [3, 1, 0, 2], "3": [1, 3, 0, 2]}


class TaskFamily:
    @staticmethod
    def get_tasks() -> dict[str, dict]:
        return {key: {"chain": CHAINS[key], "shown": SHOWN[key]} for key in CHAINS}

    @staticmethod
    def get_instructions(t: dict) -> str:
        listed = "\n".join(f"{'ABCD'[i]}. {t['chain'][at]}" for i, at in enumerate(t["shown"]))
        return (
            "Put these in the order in which they first appeared, the earliest first:\n"
            f"{listed}\nAnswer with the four letters, for example DCBA."
        )

    @staticmethod
    def score(t: dict, submission: str) -> float:
        right = "".join("ABCD"[t["shown"].index(at)] for at in range(4))
        said = "".join(c for c in submission.upper() if c.isalpha())
        return float(said == right)
