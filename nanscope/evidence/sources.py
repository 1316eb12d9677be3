"""Where the operands of an operation come from, and the patterns of code that are known for it."""

from __future__ import annotations

from nanscope.evidence.facts import Operation, between, of_many
from nanscope.numbers import number


def sources(facts: Operation) -> tuple[str, ...]:
    """Where a zero or an extreme comes from: the nearest operations that can underflow or saturate."""
    for made in facts.before():
        operand = next(iter(made.operands), None)
        if operand is None:
            continue
        low, high = operand.number("min"), operand.number("max")
        if made.op.startswith("softmax"):
            return (f"they come from `softmax` of logits spread over {number(high - low)}",)
        if made.op.startswith(("sigmoid", "tanh", "exp", "relu", "erf", "threshold")):
            return (f"they come from `{made.op}` of {between(operand)}",)
        if made.op.startswith(("sum", "norm", "mean", "var", "std", "prod", "linalg", "count")):
            zeros = operand.number("zeros")
            note = f", {of_many(zeros, operand.number('numel'), 'zero')}" if zeros > 0 else ""
            return (f"they come from `{made.op}` of numbers from {between(operand)}{note}",)
        if made.op.startswith(("sub", "rsub")):
            return (f"they come from a difference (`{made.op}`) of numbers from {between(operand)}",)
    return ()


def pattern_of_log(facts: Operation) -> str:
    """The safe form of a logarithm, by what made its argument."""
    names = [made.op for made in facts.before()]
    if any(name.startswith("softmax") for name in names):
        return "F.log_softmax(x, dim)  # instead of log(softmax(x))"
    if any(name.startswith("sigmoid") for name in names):
        return "F.logsigmoid(x), F.logsigmoid(-x)  # instead of log(sigmoid(x)), log(1 - sigmoid(x))"
    if any(name.startswith("exp") for name in names):
        return "torch.logsumexp(x, dim)  # instead of log(sum(exp(x)))"
    return "torch.log(x.clamp_min(eps))"


def is_difference(facts: Operation) -> bool:
    """Whether an operand was made by a subtraction."""
    nearest = next(iter(facts.before(1)), None)
    return nearest is not None and nearest.op.startswith(("sub", "rsub"))
