"""Decide whether several submissions to a family may be scored in one process.

Each submission then meets a freshly executed module, so whatever a scorer keeps in its module is
gone. What is left is the process itself: imported modules, files, and code that a scorer makes of a
submission's text. So a source may use only names that are listed here, none of which executes text
or keeps state that changes a score. All others are scored one per process: slower, and as right.

This is no isolation; `jail` isolates. It looks at names, and an author who wants to hide something
can. The scores that are computed again alone (`Sandbox.score`) find that.
"""

import ast
import builtins
import functools
import importlib
import re
import types
from collections.abc import Iterable

from acdc_jax.sandbox.jail import task_helpers
from acdc_jax.sandbox.syntax import parse


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Modules of the standard library without lasting state. Their public names are allowed, except
# `_EXCLUDED`.
_PURE = _words(
    """
    __future__ abc array ast base64 binascii bisect calendar cmath collections collections.abc
    colorsys copy dataclasses datetime decimal difflib enum fractions functools graphlib hashlib
    heapq html itertools json keyword math numbers operator random re secrets statistics string
    struct textwrap time typing unicodedata urllib.parse uuid zlib zoneinfo
    """
)
_EXCLUDED = {
    "calendar": {"setfirstweekday"},
    "dataclasses": {"make_dataclass"},
    "decimal": {"getcontext", "setcontext", "BasicContext", "DefaultContext", "ExtendedContext"},
    "operator": {"attrgetter", "methodcaller"},
    "time": {"tzset"},
    "typing": {"ForwardRef", "clear_overloads", "get_overloads", "get_type_hints"},
}
# Of other modules, only these names.
_LISTED = {
    "contextlib": "contextmanager nullcontext suppress",
    "csv": "DictReader DictWriter QUOTE_ALL QUOTE_MINIMAL QUOTE_NONE reader writer",
    "io": "BytesIO StringIO",
    "pprint": "pformat",
    "shlex": "join quote split",
    "sys": "float_info maxsize version_info",
    "types": "MappingProxyType SimpleNamespace",
    "sympy": "",  # an unused import; most of sympy evaluates any text that it is given
    "urllib": "",
    "numpy": """
        abs absolute add all allclose amax amin any append arange arccos arcsin arctan arctan2
        argmax argmin argsort argwhere around array array_equal array_split asarray atleast_1d
        atleast_2d average bincount bitwise_and bitwise_or bitwise_xor bool_ broadcast_to ceil
        clip column_stack complex128 concatenate convolve copy corrcoef cos cosh count_nonzero cov
        cross cumprod cumsum deg2rad degrees delete diag diff divide dot dstack e einsum empty
        equal errstate exp expand_dims eye fabs fill_diagonal fix flip fliplr flipud float32
        float64 floor full full_like gcd gradient greater hypot identity imag in1d inf inner insert
        int32 int64 interp intersect1d isclose isfinite isin isinf isnan isreal kron lcm less
        linspace log log10 log1p log2 logical_and logical_not logical_or logical_xor logspace
        matmul max maximum mean median meshgrid min minimum mod moveaxis multiply nan nan_to_num
        nanmax nanmean nanmin ndarray ndim nonzero not_equal number ones ones_like outer pad
        percentile pi poly1d polyfit polyval power prod product ptp quantile rad2deg radians ravel
        real repeat reshape rint roll roots rot90 round searchsorted select setdiff1d shape sign
        sin sinh size sort split sqrt square squeeze stack std subtract sum swapaxes take tan tanh
        tensordot tile trace transpose trapz tri tril triu trunc uint8 union1d unique
        unravel_index vander var vdot vectorize vstack hstack where zeros zeros_like
    """,
    "numpy.linalg": """
        LinAlgError cholesky cond det eig eigh eigvals eigvalsh inv lstsq matrix_power matrix_rank
        norm pinv qr slogdet solve svd
    """,
    "numpy.random": "PCG64 RandomState choice default_rng normal permutation rand randint randn "
    "random seed shuffle uniform",
    "numpy.fft": "fft fftfreq ifft irfft rfft",
}
_BUILTINS = _words(
    """
    abs all any ascii bin bool bytearray bytes callable chr classmethod complex dict divmod
    enumerate filter float format frozenset hasattr hash hex id input int isinstance issubclass
    iter len list map max min next object oct ord pow print property range repr reversed round set
    slice sorted staticmethod str sum super tuple type zip
    Ellipsis False None NotImplemented True __name__
    """
) | {
    name
    for name, value in vars(builtins).items()
    if isinstance(value, type) and issubclass(value, BaseException)
}
_HELPERS = frozenset((*task_helpers.NAMES, "SubmissionError"))
_UNLISTED_BUILTINS = frozenset(dir(builtins)) - _BUILTINS
_SPECIAL_TEXT = re.compile("__(?!main__)[a-z]+__")  # a key of what a class is made from
_SPECIAL = frozenset(("__class__", "__doc__", "__init__", "__name__"))
_FRAMES = _words(
    """
    ag_frame ag_code cr_code cr_frame ctypes f_back f_builtins f_code f_globals f_locals gi_code
    gi_frame tb_frame
    """
)


@functools.lru_cache(maxsize=4096)
def is_batchable(source: str) -> bool:
    """Return whether submissions to a family may share a process.

    Args:
        source: Text of `task.py`. It is parsed, not executed.
    """
    try:
        nodes = list(ast.walk(parse(source)))
        return all(_imports(node) is not None for node in nodes) and _uses_listed_names(nodes)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False


@functools.cache
def _names(module: str) -> frozenset[str]:
    """Return the names of a module that a source may use."""
    if module not in _PURE:
        return _words(_LISTED.get(module, ""))
    loaded = importlib.import_module(module)
    public = getattr(loaded, "__all__", None) or [
        name
        for name, value in vars(loaded).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    ]
    return frozenset(public) - _EXCLUDED.get(module, set())


def _is_module(path: str) -> bool:
    return path in _PURE or path in _LISTED


def _imports(node: ast.AST) -> dict[str, str | None] | None:
    """Return what a statement imports: local name → path of a module, or None for another object.

    None instead of a mapping: it imports something that is not listed.
    """
    names: dict[str, str | None] = {}
    if isinstance(node, ast.Import):
        for alias in node.names:
            if not _is_module(alias.name):
                return None
            root = alias.name.partition(".")[0]
            names[alias.asname or root] = alias.name if alias.asname else root
    elif isinstance(node, ast.ImportFrom):
        for alias in node.names:
            path = f"{node.module}.{alias.name}"
            if node.level or not (_is_module(path) or alias.name in _names(node.module or "")):
                return None
            names[alias.asname or alias.name] = path if _is_module(path) else None
    return names


def _uses_listed_names(nodes: Iterable[ast.AST]) -> bool:
    """Return whether all names and attributes are listed, or the source's own."""
    imported: dict[str, str | None] = {}
    own: set[str] = set()
    bases: dict[ast.AST, ast.Attribute] = {}  # expression → the attribute that is taken from it
    for node in nodes:
        imported |= _imports(node) or {}
        own |= set(_bound_names(node))
        if isinstance(node, ast.Attribute):
            bases[node.value] = node
        text = node.value if isinstance(node, ast.Constant) else None
        if isinstance(text, str) and _SPECIAL_TEXT.fullmatch(text):
            return False
    if own & (imported.keys() | _UNLISTED_BUILTINS):
        return False
    of_modules: set[ast.AST] = set()  # attributes that are names of modules, checked
    for node in nodes:
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            module = imported.get(node.id)
            if module is not None:
                attributes = _module_attributes(node, module, bases)
                if attributes is None:
                    return False
                of_modules |= attributes
            elif node.id not in own | imported.keys() | _BUILTINS | _HELPERS:
                return False
    return all(
        node in of_modules or _is_plain_attribute(node, own)
        for node in nodes
        if isinstance(node, ast.Attribute)
    )


def _bound_names(node: ast.AST) -> list[str]:
    """Return the names that a node binds, other than by an import."""
    if isinstance(node, ast.Name):
        return [] if isinstance(node.ctx, ast.Load) else [node.id]
    if isinstance(node, ast.arg):
        return [node.arg]
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar):
        return [node.name] if node.name else []
    if isinstance(node, ast.MatchMapping):
        return [node.rest] if node.rest else []
    return []


def _module_attributes(
    name: ast.AST, module: str, bases: dict[ast.AST, ast.Attribute]
) -> set[ast.AST] | None:
    """Return the attributes that lead from a module's name to a listed name; None if it has none.

    Args:
        name: The expression that is the module.
        module: Its path.
        bases: Expression → the attribute that is taken from it.
    """
    attribute = bases.get(name)
    if attribute is None or not isinstance(attribute.ctx, ast.Load):
        return None
    path = f"{module}.{attribute.attr}"
    if _is_module(path):
        rest = _module_attributes(attribute, path, bases)
        return None if rest is None else {attribute, *rest}
    return {attribute} if attribute.attr in _names(module) else None


def _is_plain_attribute(node: ast.Attribute, own: set[str]) -> bool:
    """Return whether an attribute of a value is harmless; only the source's own may be assigned."""
    if node.attr in _FRAMES or (node.attr.startswith("__") and node.attr not in _SPECIAL):
        return False
    if isinstance(node.ctx, ast.Load):
        return True
    root = node.value
    while isinstance(root, ast.Attribute | ast.Subscript):
        root = root.value
    return isinstance(root, ast.Name) and root.id in own
