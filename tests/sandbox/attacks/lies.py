"""What is returned instead of a score: bodies of a `score` method.

There is no control for a lie: without a sandbox nothing checks what `score` returns. That honest
numbers get through is tested beside them.
"""

LIES = {
    "NaN": "return float('nan')",
    "infinity": "return float('inf')",
    "two": "return 2.0",
    "just above one": "return 1.0000000001",
    "negative": "return -0.5",
    "huge int": "return 10 ** 400",
    "bool": "return True",
    "string": "return '1.0'",
    "None": "return None",
    "list": "return [1.0]",
    "complex": "return 1 + 0j",
    "Fraction": "from fractions import Fraction; return Fraction(1)",
    "subclass of float": "class F(float): pass\nreturn F(1.0)",
    "subclass of int that lies": """
class I(int):
    def __le__(self, other): return True
    __ge__ = __float__ = __le__
return I(7)""",
    "claims to be a float": """
class F:
    __class__ = float
    def __float__(self): return 1.0
return F()""",
    "metaclass that equals everything": """
class M(type):
    def __eq__(self, other): return True
    def __hash__(self): return hash(float)
class F(metaclass=M): pass
return F()""",
    "generator": "yield 1.0",
    "class": "return float",
    "a pickle that runs": """
class P:
    def __reduce__(self): return (float, ('1.0',))
return P()""",
    "bytes of a double": "import struct; return struct.pack('<d', 1.0)",
    "lone surrogate": "return '\\ud800'",
    "Decimal": "from decimal import Decimal; return Decimal(1)",
    "numpy array": "import numpy as np; return np.ones(1)",
    "numpy bool": "import numpy as np; return np.bool_(True)",
    "numpy NaN": "import numpy as np; return np.float64('nan')",
    "numpy of another width": "import numpy as np; return np.longdouble(1)",
    "coroutine": """
async def f(): return 1.0
return f()""",
    "property of the class": "return property(lambda self: 1.0)",
    "proxy": "import weakref\nclass A: pass\na = A(); return weakref.proxy(a)",
    "ctypes number": "import ctypes; return ctypes.c_double(1.0)",
    "exception as a value": "return ValueError(1.0)",
    "minus zero below zero": "return -5e-324",
    "Ellipsis": "return ...",
}
