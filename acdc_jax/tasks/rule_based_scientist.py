"""A scientist without an LLM, whose drafts follow rules: one after the other, at once."""

import abc
from collections.abc import Sequence

import jax

from acdc_jax.tasks.llm import gather
from acdc_jax.tasks.scientist import Check, Scientist, TaskRequest
from acdc_jax.tasks.task import CheckedDraft, Draft, Kind, Rejection, Task


class RuleBasedScientist(Scientist):
    """Writes each draft of a call with all tasks and earlier drafts in view."""

    async def write(
        self,
        requests: Sequence[TaskRequest],
        all_tasks: Sequence[Task],
        active_tasks: Sequence[Task],
        check: Check,
        key: jax.Array,
    ) -> list[CheckedDraft | Rejection]:
        """See `Scientist.write`."""
        context, drafts = list(all_tasks), list[Draft]()
        for i, request in enumerate(requests):
            draft = self.propose(request.kind, request.parent, context, jax.random.fold_in(key, i))
            drafts.append(draft)
            context.append(Task(f"draft {i}", draft, 0, {}, {}))
        return await gather(check(draft) for draft in drafts)

    @abc.abstractmethod
    def propose(
        self, kind: Kind, parent: Task | None, context: Sequence[Task], key: jax.Array
    ) -> Draft:
        """Write one draft.

        Args:
            kind: Which kind of draft.
            parent: The task to start from. One that this scientist has not written counts as none.
            context: All tasks so far, which the draft should not repeat.
            key: PRNG key.

        Raises:
            AcdcError: A package that it needs is not installed, or there is nothing left to ask.
        """
