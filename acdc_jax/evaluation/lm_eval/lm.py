"""One member as a model of lm-evaluation-harness.

Numbers agree with those of the harness's own `HFLM` on the same checkpoint: the same tokens go in,
the same windows are scored, and responses are cut at the same stop strings.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import jax
from jinja2 import TemplateError
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import (
    handle_stop_sequences,
    normalize_gen_kwargs,
    postprocess_generated_text,
)
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from acdc_jax.errors import AcdcError, ConfigError
from acdc_jax.inference.buckets import common_prefix
from acdc_jax.inference.continuous_batching import generate
from acdc_jax.inference.sampling import Sampling
from acdc_jax.inference.score import log_likelihoods
from acdc_jax.models.config import ModelConfig
from acdc_jax.models.tokenizer import DATE_STRING, pad_token, with_rows
from acdc_jax.params import Params

_MAX_GEN_TOKS = 256  # where a task does not say, as in HFLM
_SAMPLED = {"temperature", "top_p", "top_k", "min_p"}
_IGNORED = {"do_sample", "use_cache", "until", "max_gen_toks"}

Scored = tuple[Any, list[int], list[int]]  # what the cache knows it by, context, continuation


@dataclass(frozen=True)
class Voice:
    """A model, and how it is spoken to.

    Attributes:
        name: what the harness calls it.
        model: architecture.
        weights: one copy on each group of devices, among which requests are dealt; as stored or
            from `decode_layout`.
        tokenizer: a `transformers.PreTrainedTokenizerBase`.
        stop_tokens: each of them ends a response.
        batch_size: most sequences at once, on each group.
        thinking: whether templates that know the choice ask for thoughts first.
        sampling: how every response is drawn, whatever tasks say; None: as they say.
        key: typed PRNG key of sampling.
    """

    name: str
    model: ModelConfig
    weights: Sequence[Params]
    tokenizer: Any
    stop_tokens: tuple[int, ...]
    batch_size: int
    thinking: bool = False
    sampling: Sampling | None = None
    key: jax.Array | None = None

    @property
    def pad_token(self) -> int:
        """Fills rows up; never looked at."""
        return pad_token(self.tokenizer, self.stop_tokens, self.model.vocab_size)


class HarnessLM(TemplateLM):  # type: ignore[misc]  # the harness has no types
    """What the harness asks of a model, answered by the decoder; see `lm_eval.api.model.LM`."""

    def __init__(
        self, voice: Voice, advance: Callable[[int, int], None] = lambda done, total: None
    ) -> None:
        """A model of the harness.

        Args:
            voice: who answers.
            advance: told how many requests of how many are answered.
        """
        super().__init__()
        self._voice = voice
        self._advance = advance
        self.tokenizer = voice.tokenizer

    # ------------------------------------------------------------------------------------- tokens

    @property
    def eot_token_id(self) -> int:
        """The end of text."""
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """What the first token of a text is conditioned on."""
        begin = self.tokenizer.bos_token_id
        return self.eot_token_id if begin is None else int(begin)

    @property
    def max_length(self) -> int:
        """The window, in tokens."""
        return self._voice.model.max_positions

    @property
    def max_gen_toks(self) -> int:
        """Longest response where a task does not say."""
        return _MAX_GEN_TOKS

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        """Tokens of a text; a begin-of-text token that it spells out is not put a second time."""
        begin = self.tokenizer.decode(self.prefix_token_id)
        if add_special_tokens is None and not string.startswith(begin):
            return list(self.tokenizer.encode(string))
        return list(self.tokenizer.encode(string, add_special_tokens=bool(add_special_tokens)))

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """The harness's, but where a token spans both, so that nothing is left to score."""
        before, after = super()._encode_pair(context, continuation)
        return before, after or self.tok_encode(continuation, add_special_tokens=False)

    def _with_rows(self, tokens: list[int]) -> list[int]:
        return with_rows(self.tokenizer, tokens, self._voice.model.vocab_size)

    @property
    def tokenizer_name(self) -> str:
        """Keeps requests of different tokenizers apart."""
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The dialogue as text; where a template refuses system messages, the user says both."""
        try:
            return self._rendered(chat_history, add_generation_prompt)
        except TemplateError as error:
            first, *rest = chat_history
            if first["role"] != "system" or not rest:
                raise AcdcError(f"{self.tokenizer.name_or_path}: chat template: {error}") from error
            user = {**rest[0], "content": f"{first['content']}\n\n{rest[0]['content']}"}
            return self._rendered([user, *rest[1:]], add_generation_prompt)

    def _rendered(self, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool) -> str:
        if not self.tokenizer.chat_template:
            raise ConfigError(
                f"{self.tokenizer.name_or_path}: the tokenizer has no chat template; give "
                "--noapply_chat_template"
            )
        text = self.tokenizer.apply_chat_template(
            messages,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
            enable_thinking=self._voice.thinking,
            date_string=DATE_STRING,
        )
        return str(text)

    # ------------------------------------------------------------------------------------ answers

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """See `LM.generate_until`."""
        alike: dict[str, list[int]] = {}
        for i, request in enumerate(requests):
            alike.setdefault(json.dumps(request.args[1], sort_keys=True), []).append(i)
        answers: dict[int, str] = {}
        for indices in alike.values():
            own = [requests[i].args for i in indices]

            def said(place: int, text: str, indices: list[int] = indices) -> None:
                i = indices[place]
                answers[i] = text
                self.cache_hook.add_partial("generate_until", requests[i].args, text)
                self._advance(len(answers), len(requests))

            self._respond([context for context, _ in own], own[0][1], said)
        return [answers[i] for i in range(len(requests))]

    def _respond(
        self, contexts: Sequence[str], wanted: Mapping[str, Any], said: Callable[[int, str], None]
    ) -> None:
        """Responds to contexts that are to be answered in the same way."""
        voice = self._voice
        options = normalize_gen_kwargs(dict(wanted), self.max_gen_toks)
        longest = int(options["max_gen_toks"])
        room = self.max_length - longest
        if room < 1:
            raise AcdcError(
                f"{voice.name}: responses of {longest} tokens leave no room for a prompt in its "
                f"window of {self.max_length}; give --gen_kwargs=max_gen_toks=…"
            )
        until = handle_stop_sequences(
            options["until"], eos=self.tokenizer.decode(self.eot_token_id)
        )
        strings = [stop for stop in until if stop]
        # As much of the end as fits.
        prompts = [
            self._with_rows((self.tok_encode(text) or [self.prefix_token_id])[-room:])
            for text in contexts
        ]

        def text(tokens: Sequence[int]) -> str:
            return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True))

        def stopped(tokens: tuple[int, ...]) -> bool:
            return any(stop in text(tokens) for stop in strings)

        def work(group: int, mine: Sequence[int]) -> None:
            for batch in generate(
                voice.model,
                voice.weights[group],
                [prompts[i] for i in mine],
                stop_tokens=voice.stop_tokens,
                pad_token=voice.pad_token,
                max_new_tokens=longest,
                sampling=voice.sampling or _sampling(options),
                key=_key(voice, group),
                batch_size=voice.batch_size,
                prefix=common_prefix(prompts),
                stopped=stopped,
            ):
                for place, tokens in zip(batch.indices, batch.tokens[0], strict=True):
                    said(mine[place], postprocess_generated_text(text(tokens), until, None))

        self._dealt(work, len(prompts))

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
        """Sums of log-probabilities of continuations, and whether greedy decoding says them."""
        voice = self._voice
        for _name, _context, continuation in requests:
            if len(continuation) > self.max_length:
                raise AcdcError(
                    f"{voice.name}: a continuation of {len(continuation)} tokens does not fit its "
                    f"window of {self.max_length}"
                )
        # Too long ones lose their beginning.
        texts = [
            self._with_rows([*context, *continuation][-(self.max_length + 1) :])
            for _, context, continuation in requests
        ]
        answers: dict[int, tuple[float, bool]] = {}

        def work(group: int, mine: Sequence[int]) -> None:
            for place, score, greedy in log_likelihoods(
                voice.model,
                voice.weights[group],
                [texts[i] for i in mine],
                [len(requests[i][2]) for i in mine],
                pad_token=voice.pad_token,
                batch_size=voice.batch_size,
            ):
                i = mine[place]
                answers[i] = score, greedy
                if requests[i][0] is not None:
                    self.cache_hook.add_partial("loglikelihood", requests[i][0], (score, greedy))
                self._advance(len(answers), len(requests))

        self._dealt(work, len(requests))
        return [answers[i] for i in range(len(requests))]

    def _dealt(self, work: Callable[[int, Sequence[int]], None], count: int) -> None:
        """Deals requests to the groups of devices; each works in a thread of its own."""
        groups = len(self._voice.weights)
        shares = [range(group, count, groups) for group in range(groups)]
        with ThreadPoolExecutor(groups, "harness") as pool:
            list(pool.map(work, range(groups), shares))


def _sampling(options: Mapping[str, Any]) -> Sampling:
    """What a task's generation arguments ask for; what they do not name cuts nothing off.

    Raises:
        AcdcError: they ask for what this decoder does not do.
    """
    if strange := sorted(set(options) - _SAMPLED - _IGNORED):
        raise AcdcError(
            f"generation argument {strange[0]}={options[strange[0]]!r} is not known here; known "
            f"are until, max_gen_toks, do_sample, {', '.join(sorted(_SAMPLED))}"
        )
    if not options.get("do_sample"):
        return Sampling()
    return Sampling(
        float(options.get("temperature", 1.0)),
        float(options.get("top_p", 1.0)),
        int(options.get("top_k", 0)),
        float(options.get("min_p", 0.0)),
    )


def _key(voice: Voice, group: int) -> jax.Array:
    """A group's own: prompts are numbered anew in each."""
    key = jax.random.key(0) if voice.key is None else voice.key
    return jax.random.fold_in(key, group) if group else key
