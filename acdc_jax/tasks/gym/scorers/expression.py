"""Make a number out of others: `countdown`, `puzzle24`."""

import ast
import re
from fractions import Fraction
from typing import Any


def expression(submission: str, puzzle: dict[str, Any]) -> bool:
    """Return whether an expression of +, -, *, / uses every number once and has the value."""
    if re.fullmatch(r"[\d\s()+*/-]{1,300}", submission) is None:
        return False
    if sorted(map(int, re.findall(r"\d+", submission))) != sorted(puzzle["numbers"]):
        return False
    try:
        return value(ast.parse(submission.strip(), mode="eval").body) == int(puzzle["target"])
    except (SyntaxError, ValueError, RecursionError, MemoryError, ZeroDivisionError):
        return False


def value(node: ast.expr) -> Fraction:
    """Return the value of an expression, exactly."""
    match node:
        case ast.Constant(value=int(number)):
            return Fraction(number)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -value(operand)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return value(operand)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return value(left) + value(right)
        case ast.BinOp(left=left, op=ast.Sub(), right=right):
            return value(left) - value(right)
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            return value(left) * value(right)
        case ast.BinOp(left=left, op=ast.Div(), right=right):
            return value(left) / value(right)
        case _:
            raise ValueError("no arithmetic")
