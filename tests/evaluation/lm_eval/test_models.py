"""A model as the harness speaks to it: groups of devices, sampling, dialogues."""

import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from acdc_jax.errors import AcdcError, ConfigError
from acdc_jax.evaluation.lm_eval import models as harness_models
from acdc_jax.evaluation.lm_eval import run as harness_run
from acdc_jax.evaluation.lm_eval.lm import HarnessLM, HarnessModel, sampling_of
from acdc_jax.evaluation.lm_eval.models import check_folder_model, folder_model, member_models
from acdc_jax.evaluation.lm_eval.plan import Collective, Plan, Variant
from acdc_jax.evaluation.lm_eval.tasks import Benchmark, Prompting
from acdc_jax.inference import device_groups
from acdc_jax.inference.device_groups import DeviceGroups
from acdc_jax.inference.memory import weight_bytes
from acdc_jax.inference.sampling import Sampling
from acdc_jax.models import hf
from acdc_jax.models.config import ModelConfig
from acdc_jax.params import Params
from acdc_jax.sharding import default_mesh

pytestmark = [pytest.mark.xdist_group("evaluate"), pytest.mark.filterwarnings("ignore")]


@dataclasses.dataclass(frozen=True)
class Request:
    """As much of the harness's `Instance` as models look at."""

    args: tuple[Any, ...]


@pytest.fixture(scope="module")
def model(models: tuple[Path, Path, Path]) -> HarnessModel:
    """A random model, on two of the groups of one device that there are."""
    model = folder_model(models[1], batch_size=8)
    assert len(model.params) == 4
    return _on_groups(model, 2)


def _on_groups(model: HarnessModel, count: int) -> HarnessModel:
    groups = DeviceGroups(model.groups.local[:count], count)
    return dataclasses.replace(model, groups=groups, params=model.params[:count])


def _say(
    model: HarnessModel, asked: Sequence[str] = ("a", "bcd", "e", "fg"), **options: Any
) -> list[str]:
    requests = [Request((text, {"max_gen_toks": 6, **options})) for text in asked]
    return HarnessLM(model).generate_until(requests)


def test_requests_are_dealt_to_groups_of_devices(model: HarnessModel) -> None:
    alone = _on_groups(model, 1)
    assert _say(model) == _say(alone)
    pairs = [Request((f"ab{i}", text)) for i in range(3) for text in ("c", "defg", "h")]
    ours, one = (HarnessLM(v).loglikelihood(pairs, disable_tqdm=True) for v in (model, alone))
    assert [score for score, _ in ours] == pytest.approx([score for score, _ in one], abs=1e-4)


def test_sampling_is_what_the_task_or_the_model_says(model: HarnessModel) -> None:
    model = _on_groups(model, 1)
    greedy = _say(model)
    assert _say(model, do_sample=False, temperature=3.0) == greedy
    warm = _say(model, do_sample=True, temperature=3.0)
    assert warm != greedy
    assert _say(model, do_sample=True, temperature=3.0) == warm  # the key is the model's
    assert _say(model, do_sample=True, temperature=3.0, asked=["fg", "a"]) == [warm[3], warm[0]]
    drawn = dataclasses.replace(model, sampling=Sampling(3.0), key=jax.random.key(1))
    assert _say(drawn) not in (greedy, warm)
    assert sampling_of({"temperature": 0.5}) == Sampling()
    options = {"do_sample": True, "temperature": 0.5, "top_p": 0.9, "top_k": 3, "min_p": 0.1}
    assert sampling_of(options) == Sampling(0.5, 0.9, 3, 0.1)
    with pytest.raises(AcdcError, match="repetition_penalty=2 is not known here"):
        _say(model, repetition_penalty=2)


def test_samples_depend_on_the_question_alone(model: HarnessModel) -> None:
    """Not on its place among what is still to be asked, nor on the number of devices."""
    asked = ["qwerty", "zxcvbn", "asdfgh", "poiuyt", "qwerty"]
    drawn = dataclasses.replace(model, sampling=Sampling(2.0), key=jax.random.key(5))
    alone = _on_groups(drawn, 1)
    whole = _say(alone, asked)
    assert whole[0] == whole[4]  # from the cache, too, equal requests have one response
    for rest in (asked[1:], asked[:2], asked[::-1]):
        expected = [whole[asked.index(question)] for question in rest]
        assert _say(alone, rest) == expected
        assert _say(drawn, rest) == expected
    repeats = _say(alone, ["qwerty"] * 8, do_sample=True, temperature=2.0)
    assert len(set(repeats)) > 4  # a task that samples repeats its requests, without a cache
    assert repeats[0] == whole[0]


def test_models_share_no_draws(models: tuple[Path, Path, Path]) -> None:
    """Otherwise models that are alike would err alike, and cover less together."""
    one, other = (folder_model(folder, batch_size=8) for folder in models[1:])
    assert one.key is not None
    assert other.key is not None
    assert jax.random.key_data(one.key).tolist() != jax.random.key_data(other.key).tolist()


def test_responses_end_before_a_stop_string(model: HarnessModel) -> None:
    plain = _say(model)
    stop = next(text for text in plain if len(text) > 1)[1]
    for text, cut in zip(plain, _say(model, until=[stop]), strict=True):
        assert cut == text.split(stop)[0]


def test_a_template_that_refuses_system_messages(model: HarnessModel, monkeypatch: Any) -> None:
    """The user says both; nothing is left out."""
    template = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}"
        "{% endif %}[{{ m.role }}:{{ m.content }}]{% endfor %}"
    )
    monkeypatch.setattr(model.text.tokenizer, "chat_template", template)
    system, user = {"role": "system", "content": "s"}, {"role": "user", "content": "u"}
    lm = HarnessLM(model)
    assert lm.apply_chat_template([system, user]) == "[user:s\n\nu]"
    with pytest.raises(AcdcError, match="chat template"):
        lm.apply_chat_template([system])
    monkeypatch.setattr(model.text.tokenizer, "chat_template", None)
    with pytest.raises(AcdcError, match="apply_chat_template=False"):
        lm.apply_chat_template([user])


def test_a_template_that_writes_the_date(model: HarnessModel, monkeypatch: Any) -> None:
    """Another day, the same questions."""
    template = "{{ date_string or strftime_now('%d %b %Y') }}: {{ messages[0].content }}"
    monkeypatch.setattr(model.text.tokenizer, "chat_template", template)
    text = HarnessLM(model).apply_chat_template([{"role": "user", "content": "u"}])
    assert text == "26 Jul 2024: u"


def test_a_model_whose_activations_overflow_is_named(model: HarnessModel) -> None:
    params = jax.tree.map(lambda leaf: leaf * jnp.nan, list(model.params))
    broken = dataclasses.replace(model, params=params)
    named = f"{model.name}: activations overflow float32"
    with pytest.raises(AcdcError, match=named):
        _say(broken)
    with pytest.raises(AcdcError, match=named):
        HarnessLM(broken).loglikelihood([Request(("a", "e"))], disable_tqdm=True)


def test_a_token_without_a_row(model: HarnessModel, monkeypatch: Any) -> None:
    """In a text to answer or to score it is refused by name; as the pad token another fills up."""
    (row,) = model.text.tokenizer.encode("e", add_special_tokens=False)
    small = dataclasses.replace(model, model=dataclasses.replace(model.model, vocab_size=row))
    with pytest.raises(AcdcError, match=f"token 'e' with id {row}, .* has {row} rows"):
        _say(small)
    with pytest.raises(AcdcError, match="token 'e'"):
        HarnessLM(small).loglikelihood([Request(("a", "e"))], disable_tqdm=True)
    monkeypatch.setattr(model.text.tokenizer, "pad_token", "e")
    assert (model.pad_token, small.pad_token) == (row, model.text.stop_tokens[0])


def test_a_token_that_spans_context_and_continuation(model: HarnessModel) -> None:
    """` then ` is one token of the tiny language: something is scored all the same."""
    (one,) = HarnessLM(model).loglikelihood([Request(("ab the", "n "))], disable_tqdm=True)
    (two,) = HarnessLM(model).loglikelihood([Request(("ab then", " "))], disable_tqdm=True)
    assert one[0] < 0
    assert two[0] < 0


# ------------------------------------------------------------------------- own configurations


def test_a_seed_by_itself_is_the_model_in_its_folder(
    models: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    """The members' weights with the seed's own configuration, against what reads the folder."""
    common = hf.read_config(models[1])
    folder = Path(shutil.copytree(models[1], tmp_path / "seed"))
    path = folder / "config.json"
    config = json.loads(path.read_text()) | {"rope_theta": 3.0, "max_position_embeddings": 40}
    if "rope_parameters" in config:
        config["rope_parameters"] |= {"rope_theta": 3.0}
    path.write_text(json.dumps(config))
    (folder / "chat_template.jinja").write_text("{{ messages[-1].content }} then ")
    groups = DeviceGroups(harness_models.model_groups(common).local[:1], 1)
    text = harness_models.text_format(models[1])
    own = {"s": harness_models.own_configuration(folder, common, text)}
    variants = {
        "s-own": Variant("s", own=True),
        "s-own-sample-0-1": Variant("s", own=True, number=1),
    }
    plan = Plan((Collective("seeds", (("s", *variants),)),), variants, {})
    loads: list[str] = []

    def load(member: str) -> Params:
        loads.append(member)
        return hf.load_weights(models[1], common)

    key = jax.random.key(0)
    answers = {
        model.name: model
        for model in member_models(plan, common, groups, load, text, 8, key, own=own)
    }
    assert loads == ["s"]  # the weights are the same
    alone = dataclasses.replace(_on_groups(folder_model(folder, batch_size=8), 1), key=None)
    assert _say(answers["s-own"]) == _say(alone)
    as_member = _say(answers["s"])
    assert as_member == _say(_on_groups(folder_model(models[1], batch_size=8), 1))
    assert _say(answers["s-own"]) != as_member
    pairs = [Request((f"ab{i}", text)) for i in range(3) for text in ("c", "defg", "h")]
    ours, theirs = (
        HarnessLM(model).loglikelihood(pairs, disable_tqdm=True)
        for model in (answers["s-own"], alone)
    )
    assert [score for score, _ in ours] == pytest.approx([score for score, _ in theirs], abs=1e-4)
    one, other = HarnessLM(answers["s-own"]), HarnessLM(alone)
    chat = [{"role": "user", "content": "u"}]
    assert one.apply_chat_template(chat) == other.apply_chat_template(chat) == "u then "
    assert one.max_length == other.max_length == 40
    sample = answers["s-own-sample-0-1"]
    assert sample.sampling is not None
    assert sample.model == answers["s-own"].model


# ------------------------------------------------------------------------------------- memory

_DECODER = ModelConfig(
    architecture="Qwen2ForCausalLM",
    vocab_size=152_064,
    hidden_size=8192,
    intermediate_size=29_568,
    num_layers=80,
    num_heads=64,
    num_kv_heads=8,
    head_dim=128,
    rope_theta=1e6,
    rms_norm_eps=1e-6,
    max_positions=32_768,
    tie_embeddings=False,
    qkv_bias=True,
    dtype="bfloat16",
)
_LLAMA = {"vocab_size": 128_256, "intermediate_size": 28_672, "qkv_bias": False}
_DEEPSEEK = {"vocab_size": 102_400, "intermediate_size": 22_016, "num_layers": 95}


@pytest.mark.parametrize(
    ("fields", "billions", "gpus"),
    [({}, 72.7, 8), (_LLAMA, 70.6, 4), (_DEEPSEEK | {"qkv_bias": False}, 67, 4)],
)
def test_the_papers_larger_models_fit_on_eight_gpus(
    fields: dict[str, Any], billions: float, gpus: int
) -> None:
    """Of 80 GB each, of which XLA takes 92 %."""

    class Gpu:
        process_index = 0

    size = weight_bytes(dataclasses.replace(_DECODER, **fields))
    assert size / 2e9 == pytest.approx(billions, rel=0.01)
    room = 0.92 * 81_559 * 2**20
    devices: Any = [Gpu()] * 8
    mesh = default_mesh(devices, size, room, harness_models._MODELS_AT_ONCE)
    assert mesh == f"pop:-1,model:{gpus}"


def test_a_larger_model_that_does_not_fit_is_refused_at_once(
    models: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    check_folder_model(models[1], chat=True)
    monkeypatch.setattr(device_groups, "device_room", lambda: 1.0)
    with pytest.raises(
        ConfigError, match=f"{models[1]}: 2 models of .* use more or larger devices"
    ):
        check_folder_model(models[1], chat=True)


def test_a_larger_model_without_a_template_is_refused_at_once(
    models: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(models[1], tmp_path / "model"))
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(AcdcError, match="no chat template; ask without one"):
        check_folder_model(folder, chat=True)
    check_folder_model(folder, chat=False)


def test_one_model_at_a_time_is_in_memory(
    models: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model before is gone when the next one is loaded, and no weight is there twice."""
    config = hf.read_config(models[0])
    groups = DeviceGroups(harness_models.model_groups(config).local[:1], 1)
    embedding = (config.vocab_size, config.hidden_size)
    before = _count_arrays(embedding)
    held: list[int] = []

    def load(member: str) -> Params:
        held.append(_count_arrays(embedding) - before)
        return hf.load_weights(models[int(member)], config)

    def answer(lm: Any, *_: Any) -> dict[str, Any]:
        held.append(_count_arrays(embedding) - before)
        return {"results": {lm.lm._model.name: {}}, "samples": {}}

    monkeypatch.setattr(harness_run, "run_benchmark", answer)
    plan = Plan((Collective("evolved", (("0", "1", "2"),)),), {}, {})
    text = harness_models.text_format(models[1])
    key = jax.random.key(0)
    members = member_models(plan, config, groups, load, text, 8, key)
    benchmarks = [Benchmark("say", {"tasks": {}})]
    harness_run.benchmark_models(members, 3, benchmarks, Prompting(), tmp_path, lambda *_: None)
    assert held == [0, 1] * 3


def _count_arrays(shape: tuple[int, ...]) -> int:
    return sum(array.shape == shape for array in jax.live_arrays())
