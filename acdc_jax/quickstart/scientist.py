"""A scientist without an LLM: it writes task families in the skill language.

It reads the spec of an earlier task from `Draft.metadata`, and so can write a harder, easier or
related one. It repeats no spec while there are new ones, and never uses one that is held out or
whose answers can be guessed.
"""

import dataclasses
from collections import Counter
from collections.abc import Sequence

import jax
import numpy as np

from acdc_jax.prng import host_rng
from acdc_jax.quickstart.gibberish import is_gibberish
from acdc_jax.quickstart.ideas import ideas
from acdc_jax.quickstart.language import Spec, Split, is_guessable, split
from acdc_jax.quickstart.source import spec_of, write_draft
from acdc_jax.tasks.rule_based_scientist import RuleBasedScientist
from acdc_jax.tasks.task import Draft, Kind, Task


@dataclasses.dataclass(frozen=True)
class ProceduralScientist(RuleBasedScientist):
    """Writes task families from a grammar.

    Attributes:
        split: The specs that it may use.
        instances: Number of instances of each family.
        max_steps: Operations that a harder task may compose. Once all single operations and pairs
            are used, tasks of every kind compose more.
    """

    split: Split
    instances: int = 2
    max_steps: int = 2

    def propose(
        self, kind: Kind, parent: Task | None, context: Sequence[Task], key: jax.Array
    ) -> Draft:
        """See `RuleBasedScientist.propose`."""
        rng = host_rng(key)
        earlier_specs = {spec_of(task.draft.metadata) for task in context}
        origin = None if parent is None else spec_of(parent.draft.metadata)
        spec = self._choose(kind, origin, earlier_specs | {origin}, rng)
        parent_id = None if parent is None else parent.id
        return write_draft(spec, kind, parent_id, self.instances, rng, guessable=False)

    async def is_new(self, draft: Draft, nearest: Sequence[Task]) -> bool:
        """See `Scientist.is_new`: a task is new if its spec is."""
        return all(spec_of(draft.metadata) != spec_of(task.draft.metadata) for task in nearest)

    async def is_gibberish(self, responses: Sequence[tuple[str, str]]) -> bool:
        """See `Scientist.is_gibberish`: decides by rule."""
        return is_gibberish(responses)

    def _choose(
        self,
        kind: Kind,
        origin: Spec | None,
        earlier_specs: set[Spec | None],
        rng: np.random.Generator,
    ) -> Spec:
        """Return a new spec of the first list that has one; failing that, repeat a pair."""
        times = Counter(
            spec.words for spec in earlier_specs if spec is not None and len(spec.words) > 1
        )
        for idea in ideas(kind, origin, self.split, self.max_steps, rng):
            fresh = [s for s in idea if s not in earlier_specs and self._may_use(s)]
            if fresh:
                # Pairs take turns: other words make a task newer than another length does.
                fewest = min(times[s.words] for s in fresh)
                return _pick([s for s in fresh if times[s.words] == fewest], rng)
        return _pick([spec for spec in self.split.pool_pair_specs if self._may_use(spec)], rng)

    def _may_use(self, spec: Spec) -> bool:
        return not self.split.is_held_out(spec) and not is_guessable(spec)


def procedural_scientist(
    options: object, prng_seed: int, tasks: object = None
) -> ProceduralScientist:
    """Return the scientist of a PRNG seed, which decides what is held out.

    Args:
        options: The scientist's flags; none matters here.
        prng_seed: The run's.
        tasks: The flags of the task pool; none matters here.
    """
    del options, tasks
    return ProceduralScientist(split(prng_seed))


def _pick(specs: Sequence[Spec], rng: np.random.Generator) -> Spec:
    return specs[int(rng.integers(len(specs)))]
