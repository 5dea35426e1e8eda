"""The scientist that needs no LLM: it writes task families in the skill language.

It knows what its own tasks ask (`Draft.metadata`), so that it can make them harder, easier or
related. It offers no spec twice while there are others, and never a held-out one.
"""

import dataclasses
from collections import Counter
from collections.abc import Sequence

import jax
import numpy as np

from acdc_jax.prng import host_rng
from acdc_jax.quickstart.gibberish import is_gibberish
from acdc_jax.quickstart.ideas import ideas
from acdc_jax.quickstart.language import Spec, Split, split
from acdc_jax.quickstart.source import spec_of, write_draft
from acdc_jax.tasks.llm import gather
from acdc_jax.tasks.scientist import Check, Scientist, TaskRequest
from acdc_jax.tasks.task import CheckedDraft, Draft, Kind, Rejection, Task


@dataclasses.dataclass(frozen=True)
class ProceduralScientist(Scientist):
    """Writes task families from a grammar; a `Scientist`.

    Attributes:
        split: which specs it may offer.
        instances: instances of each family.
        max_steps: operations that a harder task may compose; when all single operations and pairs
            are used up, others go beyond.
    """

    split: Split
    instances: int = 2
    max_steps: int = 2

    async def write(
        self,
        requests: Sequence[TaskRequest],
        all_tasks: Sequence[Task],
        active_tasks: Sequence[Task],
        check: Check,
        key: jax.Array,
    ) -> list[CheckedDraft | Rejection]:
        """See `Scientist.write`. Drafts of one call know each other."""
        context, drafts = list(all_tasks), list[Draft]()
        for i, request in enumerate(requests):
            draft = self.propose(request.kind, request.parent, context, jax.random.fold_in(key, i))
            drafts.append(draft)
            context.append(Task(f"draft {i}", draft, 0, {}, {}))
        return await gather(check(draft) for draft in drafts)

    def propose(
        self, kind: Kind, parent: Task | None, context: Sequence[Task], key: jax.Array
    ) -> Draft:
        """One draft. A parent in no language of ours is as good as none."""
        rng = host_rng(key)
        used = {spec_of(task.draft.metadata) for task in context}
        origin = None if parent is None else spec_of(parent.draft.metadata)
        spec = self._choose(kind, origin, used | {origin}, rng)
        parent_id = None if parent is None else parent.id
        return write_draft(spec, kind, parent_id, self.instances, rng)

    async def is_new(self, draft: Draft, nearest: Sequence[Task]) -> bool:
        """See `Scientist.is_new`: another spec is another task."""
        return all(spec_of(draft.metadata) != spec_of(task.draft.metadata) for task in nearest)

    async def is_gibberish(self, responses: Sequence[tuple[str, str]]) -> bool:
        """See `Scientist.is_gibberish`."""
        return is_gibberish(responses)

    def _choose(
        self,
        kind: Kind,
        origin: Spec | None,
        used: set[Spec | None],
        rng: np.random.Generator,
    ) -> Spec:
        """The best idea of which something is unused; failing all, some pair once more."""
        times = Counter(spec.words for spec in used if spec is not None and len(spec.words) > 1)
        for idea in ideas(kind, origin, self.split, self.max_steps, rng):
            fresh = [s for s in idea if s not in used and not self.split.is_held_out(s)]
            if fresh:
                # Pairs take turns; a pair's parameters matter less than its words.
                fewest = min(times[s.words] for s in fresh)
                return _pick([s for s in fresh if times[s.words] == fewest], rng)
        return _pick(self.split.pool_pair_specs, rng)


def procedural_scientist(options: object, prng_seed: int) -> ProceduralScientist:
    """Return the scientist of a PRNG seed, which decides what is held out.

    Args:
        options: The scientist's flags; it has none of its own.
        prng_seed: The run's.
    """
    del options
    return ProceduralScientist(split(prng_seed))


def _pick(specs: Sequence[Spec], rng: np.random.Generator) -> Spec:
    return specs[int(rng.integers(len(specs)))]
