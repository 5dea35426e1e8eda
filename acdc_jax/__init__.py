"""AC/DC in JAX: coevolve an archive of merged language models with a pool of tasks.

    import acdc_jax as acdc
    base, a, b = map(acdc.load_hf, ("base", "expert-a", "expert-b"))
    child = acdc.merge(base, [a, b], weights=[0.5, 0.5], method="ties", density=0.5)
    print(acdc.generate(child, ["Why is the sky blue?"], max_new_tokens=64)[0])

Names are imported on first use, so that `acdc --help` does not wait for JAX.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from acdc_jax.config import Config as Config
    from acdc_jax.evaluation.evaluate_models import evaluate as evaluate
    from acdc_jax.evolution.dns import SelectionOptions as SelectionOptions
    from acdc_jax.evolution.merge import MergeOptions as MergeOptions
    from acdc_jax.evolution.mutate import GaussianNoise as GaussianNoise
    from acdc_jax.evolution.mutate import SVDNoise as SVDNoise
    from acdc_jax.evolution.select import select as select
    from acdc_jax.experiment import coevolve as coevolve
    from acdc_jax.inference.generate import generate as generate
    from acdc_jax.inference.sampling import Sampling as Sampling
    from acdc_jax.models.model import Model as Model
    from acdc_jax.models.model import load_hf as load_hf
    from acdc_jax.models.model import save_hf as save_hf
    from acdc_jax.models.operators import merge as merge
    from acdc_jax.models.operators import mutate as mutate
    from acdc_jax.tasks.task_sets import load_tasks as load_tasks

_MODULES = {
    "config": "Config",
    "evaluation.evaluate_models": "evaluate",
    "evolution.dns": "SelectionOptions",
    "evolution.merge": "MergeOptions",
    "evolution.mutate": "GaussianNoise SVDNoise",
    "evolution.select": "select",
    "experiment": "coevolve",
    "inference.generate": "generate",
    "inference.sampling": "Sampling",
    "models.model": "Model load_hf save_hf",
    "models.operators": "merge mutate",
    "tasks.task_sets": "load_tasks",
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names.split()}
__all__ = ["__version__", *_MODULE_OF]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


class _Package(ModuleType):
    """Keeps `acdc_jax.coevolve` the function, even after an import of the module of that name."""

    coevolve = property(lambda self: __getattr__("coevolve"), lambda self, module: None)


sys.modules[__name__].__class__ = _Package
