"""One member as a model of lm-evaluation-harness.

The numbers agree with those of the harness's own `HFLM` on the same checkpoint: both read the same
tokens, score the same windows, and cut responses at the same stop strings. Thoughts are cut here
even without `think_end_token`, and a stop string in a thought does not end the response.
"""

import json
import logging
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from acdc_jax.errors import AcdcError
from acdc_jax.evaluation.best_of_n.methods import self_certainty
from acdc_jax.evaluation.truncation import truncated_shares, truncation_warning
from acdc_jax.inference.buckets import common_prefix
from acdc_jax.inference.continuous_batching import Batch, GenerateOptions, generate_tokens
from acdc_jax.inference.device_groups import DeviceGroup, DeviceGroups
from acdc_jax.inference.overflow import describe_overflow
from acdc_jax.inference.sampling import Sampling, stable_number
from acdc_jax.inference.score import log_likelihoods
from acdc_jax.inference.stop_strings import make_stop_strings
from acdc_jax.models.chat_template import render_chat
from acdc_jax.models.config import ModelConfig
from acdc_jax.models.thoughts import cut_thoughts, opened_thought
from acdc_jax.models.tokenizer import pad_token, with_rows
from acdc_jax.models.transformer import FusedParams
from acdc_jax.params import Params

_LOG = logging.getLogger(__name__)
CONFIDENCE = "confidence"  # kind of cache entries that hold how sure a model was of a response
_MAX_GEN_TOKS = 256  # unless a task specifies it; as in HFLM
_SAMPLING_ARGUMENTS = {"temperature", "top_p", "top_k", "min_p"}
_OTHER_ARGUMENTS = {"do_sample", "use_cache", "until", "max_gen_toks"}

Scored = tuple[Any, list[int], list[int]]  # (key in the cache, context, continuation)
Confidence = tuple[float, float]  # (mean log-probability of a response's tokens, self-certainty)


@dataclass(frozen=True)
class TextFormat:
    """How a model reads and writes text.

    Attributes:
        tokenizer: A `transformers.PreTrainedTokenizerBase`.
        stop_tokens: Tokens that end a response.
        thinking: Whether chat templates that have the choice ask for thoughts first.
        think_end_token: Text behind which the answer begins, besides the marks that `cut_thoughts`
            knows.
    """

    tokenizer: Any
    stop_tokens: tuple[int, ...]
    thinking: bool = False
    think_end_token: str | None = None


@dataclass(frozen=True)
class HarnessModel:
    """A model that the harness evaluates.

    Attributes:
        name: Its name in the harness's results.
        model: Architecture.
        groups: Device groups, among which requests are divided.
        params: Params on each group, as stored or from `fuse_weights`.
        text: How it reads and writes text.
        batch_size: Largest number of sequences that a group decodes at once.
        sampling: How every response is drawn; None: as each task specifies.
        key: Typed PRNG key of sampling, which no other model should have; None: that of seed 0.
    """

    name: str
    model: ModelConfig
    groups: DeviceGroups
    params: Sequence[Params | FusedParams]
    text: TextFormat
    batch_size: int
    sampling: Sampling | None = None
    key: jax.Array | None = None

    @property
    def pad_token(self) -> int:
        """Token that fills up rows of a batch."""
        return pad_token(self.text.tokenizer, self.text.stop_tokens, self.model.vocab_size)


class HarnessLM(TemplateLM):  # type: ignore[misc]  # the harness has no types
    """The harness's interface to a model; see `lm_eval.api.model.LM`."""

    def __init__(
        self, model: HarnessModel, advance: Callable[[int, int], None] = lambda done, total: None
    ) -> None:
        """Wrap a model.

        Args:
            model: The model.
            advance: Called with the number of answered requests and of all requests.
        """
        super().__init__()
        self._model = model
        self._advance = advance
        self.tokenizer = model.text.tokenizer

    # ------------------------------------------------------------------------------------- tokens

    @property
    def eot_token_id(self) -> int:
        """The end-of-text token."""
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """The token that the first token of a text is conditioned on."""
        begin = self.tokenizer.bos_token_id
        return self.eot_token_id if begin is None else int(begin)

    @property
    def max_length(self) -> int:
        """The context window, in tokens."""
        return self._model.model.max_positions

    @property
    def max_gen_toks(self) -> int:
        """Longest response, unless a task specifies it."""
        return _MAX_GEN_TOKS

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        """Return the tokens of a text. A begin-of-text token in the text is not added again."""
        begin = self.tokenizer.decode(self.prefix_token_id)
        if add_special_tokens is None and not string.startswith(begin):
            return list(self.tokenizer.encode(string))
        return list(self.tokenizer.encode(string, add_special_tokens=bool(add_special_tokens)))

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Encode as the harness does, but never leave the continuation without a token.

        The harness leaves it empty if one token spans the end of the context and all of the
        continuation.
        """
        before, after = super()._encode_pair(context, continuation)
        return before, after or self.tok_encode(continuation, add_special_tokens=False)

    def _with_rows(self, tokens: list[int]) -> list[int]:
        return with_rows(self.tokenizer, tokens, self._model.model.vocab_size)

    @property
    def tokenizer_name(self) -> str:
        """Name that keeps cached requests of different tokenizers apart."""
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Return a dialogue as text; see `render_chat`."""
        if not self.tokenizer.chat_template:
            raise AcdcError(
                f"{self.tokenizer.name_or_path}: the tokenizer has no chat template; ask without "
                "one (apply_chat_template=False)"
            )
        options = {
            "add_generation_prompt": add_generation_prompt,
            "continue_final_message": not add_generation_prompt,
            "enable_thinking": self._model.text.thinking,
        }
        return render_chat(self.tokenizer, chat_history, options)

    # ---------------------------------------------------------------------------------- responses

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """See `LM.generate_until`."""
        by_arguments: dict[str, list[int]] = {}
        for i, request in enumerate(requests):
            by_arguments.setdefault(json.dumps(request.args[1], sort_keys=True), []).append(i)
        responses: dict[int, str] = {}
        for indices in by_arguments.values():
            contexts = [requests[i].args[0] for i in indices]

            def collect(
                place: int, text: str, confidence: Confidence, indices: list[int] = indices
            ) -> None:
                i = indices[place]
                responses[i] = text
                # First, so that no response is on file without it.
                self.cache_hook.add_partial(CONFIDENCE, (*requests[i].args, text), confidence)
                self.cache_hook.add_partial("generate_until", requests[i].args, text)
                self._advance(len(responses), len(requests))

            self._respond(contexts, requests[indices[0]].args[1], collect)
        return [responses[i] for i in range(len(requests))]

    def _respond(
        self,
        contexts: Sequence[str],
        arguments: Mapping[str, Any],
        collect: Callable[[int, str, Confidence], None],
    ) -> None:
        """Respond to contexts with the same generation arguments.

        Args:
            contexts: The prompts.
            arguments: The harness's generation arguments.
            collect: Called with the index of a context, the response and its confidence, as
                responses end.
        """
        model = self._model
        options = normalize_gen_kwargs(dict(arguments), self.max_gen_toks)
        longest = int(options["max_gen_toks"])
        prompts = self._prompts(contexts, longest)
        numbers = draw_numbers(contexts, repeated=bool(arguments.get("do_sample")))
        until = handle_stop_sequences(
            options["until"], eos=self.tokenizer.decode(self.eot_token_id)
        )
        stop = make_stop_strings(self.tokenizer, until)
        openings = [opened_thought(context) for context in contexts]

        generate_options = GenerateOptions(
            stop_tokens=tuple(sorted({*model.text.stop_tokens, *stop.tokens})),
            pad_token=model.pad_token,
            batch_size=model.batch_size,
            sampling=model.sampling or sampling_of(options),
            prefix=common_prefix(prompts),
            stopped=lambda tokens: stop.cut(tokens)[1],
            log_probs=True,
        )

        truncated: list[tuple[str, bool]] = []

        def respond_on(group: DeviceGroup) -> None:
            indices = model.groups.share(group, range(len(prompts)))
            for batch in generate_tokens(
                model.model,
                model.params[group.index],
                [prompts[i] for i in indices],
                longest,
                jax.random.key(0) if model.key is None else model.key,
                replace(generate_options, numbers=[numbers[i] for i in indices]),
            ):
                if batch.non_finite:
                    raise self._overflow()
                confidences = _confidences(batch, model.model.vocab_size)
                for place, tokens, confidence in zip(
                    batch.indices, batch.tokens[0], confidences, strict=True
                ):
                    i = indices[place]
                    text, stopped = stop.cut(tokens, openings[i])
                    truncated.append((model.name, len(tokens) >= longest and not stopped))
                    collect(i, self._without_thoughts(text), confidence)

        model.groups.run(respond_on)
        shares = truncated_shares(truncated)
        if warning := truncation_warning(shares, longest, "max_gen_toks in --gen_kwargs"):
            _LOG.warning("%s", warning)

    def _overflow(self) -> AcdcError:
        overflow = describe_overflow(self._model.model.dtype, "convert it to bfloat16")
        return AcdcError(f"{self._model.name}: {overflow}")

    def _without_thoughts(self, text: str) -> str:
        """Return a response without its thoughts; see `TextFormat.think_end_token`."""
        end = self._model.text.think_end_token
        return cut_thoughts(text.split(end)[-1].lstrip() if end else text)

    def _prompts(self, contexts: Sequence[str], longest: int) -> list[list[int]]:
        """Return prompt tokens; a prompt that is too long loses its beginning.

        Raises:
            AcdcError: Responses of `longest` tokens leave no room for a prompt.
        """
        room = self.max_length - longest
        if room < 1:
            raise AcdcError(
                f"{self._model.name}: responses of {longest} tokens leave no room for a prompt in "
                f"the context window of {self.max_length}; lower max_gen_toks in the generation "
                "arguments"
            )
        return [
            self._with_rows((self.tok_encode(text) or [self.prefix_token_id])[-room:])
            for text in contexts
        ]

    # ----------------------------------------------------------------------------- log-likelihoods

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """See `LM.loglikelihood_rolling`."""
        windows: list[Scored] = []
        owners: list[int] = []
        for i, request in enumerate(requests):
            for window in get_rolling_token_windows(
                self.tok_encode(request.args[0]), self.prefix_token_id, self.max_length, 1
            ):
                windows.append((None, *make_disjoint_window(window)))
                owners.append(i)
        totals = [0.0] * len(requests)
        for i, (score, _) in zip(owners, self._loglikelihood_tokens(windows), strict=True):
            totals[i] += score
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    def _loglikelihood_tokens(
        self, requests: Sequence[Scored], disable_tqdm: bool = False, **_: Any
    ) -> list[tuple[float, bool]]:
        """Return, for each continuation, its log-probability and whether it is the greedy one."""
        model = self._model
        for _key, _context, continuation in requests:
            if len(continuation) > self.max_length:
                raise AcdcError(
                    f"{model.name}: a continuation of {len(continuation)} tokens does not fit the "
                    f"context window of {self.max_length}"
                )
        # A text that is too long loses its beginning.
        texts = [
            self._with_rows([*context, *continuation][-(self.max_length + 1) :])
            for _, context, continuation in requests
        ]
        results: dict[int, tuple[float, bool]] = {}

        def score_on(group: DeviceGroup) -> None:
            indices = model.groups.share(group, range(len(requests)))
            for place, score, greedy in log_likelihoods(
                model.model,
                model.params[group.index],
                [texts[i] for i in indices],
                [len(requests[i][2]) for i in indices],
                pad_token=model.pad_token,
                batch_size=model.batch_size,
            ):
                if math.isnan(score):
                    raise self._overflow()
                i = indices[place]
                results[i] = score, greedy
                if requests[i][0] is not None:
                    self.cache_hook.add_partial("loglikelihood", requests[i][0], (score, greedy))
                self._advance(len(results), len(requests))

        model.groups.run(score_on)
        return [results[i] for i in range(len(requests))]


def _confidences(batch: Batch, vocabulary: int) -> list[Confidence]:
    """Return the confidence in each response of one model, over the tokens that it sampled."""
    assert batch.log_probs is not None
    assert batch.mean_log_probs is not None
    return [
        (float(np.mean(of_tokens)), self_certainty(float(np.mean(means)), vocabulary))
        for of_tokens, means in zip(batch.log_probs[0], batch.mean_log_probs[0], strict=True)
    ]


def draw_numbers(contexts: Sequence[str], *, repeated: bool) -> list[int]:
    """Return a number for each context, from which its draws follow.

    The number is that of the text, not of its place: responses do not depend on which other
    contexts are still to be asked after a kill, nor on the number of devices.

    Args:
        contexts: The prompts.
        repeated: Whether equal contexts draw different responses. The harness repeats a request
            only if its task samples; such responses are not cached, so all repeats are here.
    """
    seen: Counter[str] = Counter()
    numbers = []
    for context in contexts:
        numbers.append(stable_number(f"{seen[context]} {context}"))
        seen[context] += repeated
    return numbers


def sampling_of(arguments: Mapping[str, Any]) -> Sampling:
    """Return the sampling that a task's generation arguments specify.

    Raises:
        AcdcError: An argument is not supported.
    """
    if unknown := sorted(set(arguments) - _SAMPLING_ARGUMENTS - _OTHER_ARGUMENTS):
        raise AcdcError(
            f"generation argument {unknown[0]}={arguments[unknown[0]]!r} is not known here; known "
            f"are until, max_gen_toks, do_sample, {', '.join(sorted(_SAMPLING_ARGUMENTS))}"
        )
    if not arguments.get("do_sample"):
        return Sampling()
    return Sampling(
        float(arguments.get("temperature", 1.0)),
        float(arguments.get("top_p", 1.0)),
        int(arguments.get("top_k", 0)) or None,
        float(arguments.get("min_p", 0.0)),
    )
