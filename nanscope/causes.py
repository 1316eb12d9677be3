"""The catalogue of causes, as data: what each is, what proves it, what excludes it, what to do about it.

`diagnose` names a cause only where its required evidence was recorded. Causes that need the operands of an
operation stand here for the diagnosis of a step that was executed again under watch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Entry:
    """One cause.

    Attributes:
        explanation: one paragraph for a reader who has never met it.
        required: evidence without which it is not named.
        excluded_by: evidence that rules it out.
        remedies: ids of `REMEDIES`, best first.
        rewrite: a safe form of the code as one short line; empty where the code is not the cause.
    """

    id: str
    explanation: str
    required: tuple[str, ...]
    excluded_by: tuple[str, ...]
    remedies: tuple[str, ...]
    rewrite: str = ""


REMEDIES: Mapping[str, str] = {
    "lower-learning-rate": "lower the learning rate",
    "clip-gradients": "clip the gradients before the step: torch.nn.utils.clip_grad_norm_(parameters, 1.0)",
    "warm-up": "warm the learning rate up over the first few hundred steps",
    "larger-batch": "use a larger batch: the gradient of a few samples is noisy",
    "normalise-layers": "add a normalisation layer (LayerNorm, BatchNorm) between the layers that grow",
    "standardise-inputs": "standardise the inputs to mean 0 and variance 1",
    "check-inputs": "check the data before the model: assert torch.isfinite(x).all(), and find the rows "
    "that fail",
    "check-targets": "check the targets: range, dtype, and NaN in regression targets",
    "check-state": "check the checkpoint or the initialisation: all must be finite before step 0",
    "check-optimizer": "check the optimizer's settings (eps, betas, weight decay) and its loaded state",
    "check-schedule": "print the learning rate that the scheduler sets at each step",
    "wider-dtype": "compute this part in a wider dtype (float32 for float16, bfloat16 for its range)",
    "loss-scaling": "scale the loss with torch.amp.GradScaler when training in float16",
    "none-needed": "nothing to change: the scaler lowers the scale and skips the update on purpose",
    "safe-rewrite": "rewrite the operation in its numerically safe form",
    "add-epsilon": "keep the argument away from the singular point with a small epsilon inside the operation",
    "leaky-activation": "use an activation that does not die (LeakyReLU, GELU, SiLU)",
    "smaller-init": "initialise for the activation in use, with smaller weights in the last layer",
    "check-labels": "check that the labels belong to the samples and that they are shuffled",
    "weigh-classes": "weigh the classes in the loss, or sample them evenly",
    "check-mask": "leave at least one position of every row unmasked",
    "check-sizes": "skip empty batches and groups of one before the reduction",
    "check-custom-code": "check the custom function's backward with torch.autograd.gradcheck",
    "check-hooks": "remove the gradient hooks one by one",
    "skip-sample": "leave the sample out, or repair it",
    "larger-eps": "give the optimizer a larger eps",
    "check-hardware": "run on other hardware, and with torch.use_deterministic_algorithms(True)",
}
"""Changes to try, by id. None is promised to help before the steps were executed again with it."""

_LR = ("lower-learning-rate", "clip-gradients", "warm-up", "larger-batch", "standardise-inputs")
_FINITE_INPUTS = "the operation's inputs are finite"

_ENTRIES = (
    Entry(
        "learning-rate-divergence",
        "Each update overshoots the minimum along some direction by more than the last one did, so "
        "weights, outputs and "
        "gradients grow by about the same factor at every step until a product exceeds the largest number "
        "of the dtype. "
        "On a quadratic this happens exactly when the learning rate exceeds 2 / sharpness.",
        (
            "norms grow geometrically up to the first non-finite value, or one update replaced a parameter",
            "inputs and parameters were finite before it",
        ),
        (
            "a non-finite input",
            "a parameter that was non-finite before the growth",
            "weights that did not grow",
        ),
        _LR,
    ),
    Entry(
        "activation-explosion",
        "The outputs of some layer grow from layer to layer or from step to step although its weights do "
        "not: an unbounded "
        "activation, a recurrence, a sum over many terms, or inputs that grow.",
        ("output norms grow geometrically, or jump, while weight norms stay in their band",),
        ("weights that grow with them",),
        ("normalise-layers", "standardise-inputs", "clip-gradients", "lower-learning-rate"),
    ),
    Entry(
        "gradient-explosion",
        "The forward pass and the loss are finite, but the product of many Jacobians on the way back is "
        "too large to be "
        "represented: typical of deep or recurrent networks without normalisation.",
        ("outputs and loss are finite in the step", "a gradient is infinite"),
        ("a non-finite output or loss in the same step",),
        ("clip-gradients", "normalise-layers", "lower-learning-rate"),
    ),
    Entry(
        "dtype-overflow",
        "A finite result is larger than the largest number of the dtype (65504 in float16, 3.4e38 in "
        "float32 and bfloat16) "
        "and is stored as infinity.",
        (
            "the first non-finite elements are infinite",
            "the values just before were near the limit or grew towards it",
        ),
        ("the first non-finite elements are all NaN",),
        ("wider-dtype", "loss-scaling", "lower-learning-rate", "normalise-layers"),
    ),
    Entry(
        "exp-overflow",
        "exp of a number above 88.7 (float32) or 11.1 (float16) is infinite.",
        ("exp received an element above the logarithm of the dtype's largest number",),
        ("every element was below it",),
        ("safe-rewrite",),
        "torch.logsumexp(x, dim)  # or F.log_softmax, F.softplus",
    ),
    Entry(
        "log-of-zero",
        "The logarithm of an exact zero is -inf. The zero is often a probability that underflowed in a "
        "softmax or sigmoid.",
        ("log received an exact zero",),
        ("the smallest argument was above zero", "its input was already non-finite"),
        ("safe-rewrite", "add-epsilon"),
        "F.log_softmax(x, dim)  # instead of log(softmax(x))",
    ),
    Entry(
        "domain-error",
        "The operation is not defined for its argument: log, sqrt or a fractional power of a negative "
        "number, acos above 1.",
        ("an argument outside the operation's domain",),
        ("every argument was inside it",),
        ("safe-rewrite", "add-epsilon"),
        "torch.sqrt(x.clamp_min(0))",
    ),
    Entry(
        "division-by-zero",
        "A finite number was divided by an exact zero (infinite), or zero by zero (NaN).",
        ("a divisor that is exactly zero",),
        ("the smallest divisor was not zero",),
        ("add-epsilon", "safe-rewrite"),
        "x / y.clamp_min(eps)",
    ),
    Entry(
        "inf-minus-inf",
        "The difference of two infinities of the same sign is NaN; the infinities are the older trouble.",
        ("both operands are infinite with the same sign",),
        ("no operand was infinite",),
        ("safe-rewrite",),
        "subtract the finite maximum first, as F.log_softmax does",
    ),
    Entry(
        "zero-times-inf",
        "Zero times infinity is NaN: masking by multiplication does not remove an infinity.",
        ("one operand is zero where the other is infinite",),
        ("no operand was infinite",),
        ("safe-rewrite",),
        "torch.where(mask, x, 0.0)  # instead of x * mask",
    ),
    Entry(
        "sqrt-at-zero",
        "The value of sqrt(0) is 0, its slope is infinite: the backward gives inf, and NaN where zero is "
        "multiplied with it. "
        "torch.norm and torch.std hide such a square root.",
        ("a square root or norm of an exact zero", "a non-finite gradient of it"),
        ("every argument was above zero",),
        ("add-epsilon",),
        "torch.sqrt(x + eps)",
    ),
    Entry(
        "pow-at-zero",
        "x ** p with p below 1 has an infinite slope at zero, with p below 0 an infinite value.",
        ("a power below 1 of an exact zero",),
        ("every base was above zero",),
        ("add-epsilon",),
        "(x + eps) ** p",
    ),
    Entry(
        "domain-boundary-gradient",
        "At the edge of its domain an operation has a finite value and an infinite slope: acos and asin "
        "at 1, atanh, logit.",
        ("an argument at the edge of the domain", "a finite result with a non-finite gradient"),
        ("every argument was inside the domain",),
        ("add-epsilon", "safe-rewrite"),
        "torch.acos(x.clamp(-1 + eps, 1 - eps))",
    ),
    Entry(
        "masked-branch-gradient",
        "torch.where picks a finite value, but the backward of the branch that was not picked is computed "
        "too: "
        "zero times its infinite slope is NaN.",
        ("torch.where with a finite result", "a non-finite gradient in the branch that was not picked"),
        ("both branches had finite gradients",),
        ("safe-rewrite",),
        "torch.where(ok, f(torch.where(ok, x, 1.0)), 0.0)",
    ),
    Entry(
        "fully-masked-softmax",
        "The softmax of a row that is -inf throughout is NaN: every position of an attention row was masked.",
        ("a softmax row of -inf alone",),
        ("every row had a finite element",),
        ("check-mask",),
        "scores.masked_fill(mask & ~mask.all(-1, keepdim=True), -inf)",
    ),
    Entry(
        "empty-reduction",
        "The mean of no elements is NaN: an empty batch, or a loss over tokens that are all ignored. The "
        "maximum of a set that is masked throughout is -inf.",
        ("a mean over zero elements", "a maximum over masked elements alone"),
        ("every reduction had elements",),
        ("check-sizes",),
        "x.sum() / max(x.numel(), 1)",
    ),
    Entry(
        "degenerate-reduction",
        "The unbiased standard deviation of one sample divides by zero.",
        ("std or var over one element with correction 1",),
        ("every reduction had two elements or more",),
        ("check-sizes",),
        "x.std(correction=0)",
    ),
    Entry(
        "bad-input",
        "The batch that was given to the model already held NaN or infinity; every later non-finite value "
        "follows from it.",
        ("a non-finite model input", "parameters that were finite before"),
        ("finite inputs in the step",),
        ("check-inputs", "skip-sample"),
    ),
    Entry(
        "bad-target",
        "The targets held NaN, infinity or a class number outside the range.",
        ("a non-finite target or one out of range",),
        ("finite targets in range", "a non-finite output before the loss"),
        ("check-targets",),
    ),
    Entry(
        "bad-parameter",
        "A parameter was non-finite before the first step: a faulty checkpoint, or an initialisation that "
        "overflowed.",
        ("a parameter that was non-finite before the first recorded step",),
        ("parameters that were finite before the step",),
        ("check-state",),
    ),
    Entry(
        "bad-buffer",
        "A buffer, such as the running variance of a batch normalisation, was non-finite before it was used.",
        (
            "a non-finite buffer",
            "the first non-finite output is that of its module",
            "finite inputs and parameters",
        ),
        ("buffers that were finite before the step",),
        ("check-state",),
    ),
    Entry(
        "optimizer-update",
        "Weights and gradients were finite before the update, the weights are not after it: the step "
        "itself overflowed or "
        "divided by zero (eps of 0, a corrupt optimizer state).",
        ("finite gradients in the step", "finite weights before the update", "non-finite weights after it"),
        ("a non-finite gradient in the step",),
        ("check-optimizer", "larger-eps", "lower-learning-rate", "clip-gradients"),
    ),
    Entry(
        "bad-learning-rate",
        "The learning rate itself is NaN, infinite, below zero or absurdly large, mostly by a faulty "
        "schedule.",
        ("a learning rate that is not finite, below zero, or above 1000",),
        ("an ordinary learning rate",),
        ("check-schedule", "lower-learning-rate"),
    ),
    Entry(
        "custom-function",
        "A user's torch.autograd.Function or extension returned a non-finite value or gradient for finite "
        "inputs.",
        ("the operation is a custom function", _FINITE_INPUTS),
        ("an operation of torch itself",),
        ("check-custom-code",),
    ),
    Entry(
        "gradient-hook",
        "A hook changed a finite gradient into a non-finite one.",
        ("a gradient that was finite before a hook and not after it",),
        ("no gradient hook is registered",),
        ("check-hooks",),
    ),
    Entry(
        "loss-scale-overflow",
        "In float16 the loss is scaled up so that small gradients survive; when the scale is too high "
        "gradients overflow, the "
        "scaler skips the update and halves the scale. This is how it finds its level, not a failure.",
        ("float16 or a loss scale", "non-finite gradients in single steps", "weights that stayed finite"),
        ("weights that turned non-finite",),
        ("none-needed",),
    ),
    Entry(
        "not-reproducible",
        "The same step, executed again from the same state, did not fail: suspect nondeterministic "
        "kernels or hardware.",
        ("the step was executed again from the same state", "the result was finite"),
        ("the failure was reproduced",),
        ("check-hardware",),
    ),
)

CATALOGUE: Mapping[str, Entry] = {entry.id: entry for entry in _ENTRIES}
"""Every cause, by id."""

COLLAPSE_REMEDIES: Mapping[str, tuple[str, ...]] = {
    "NS202": ("lower-learning-rate", "leaky-activation", "clip-gradients", "larger-batch", "warm-up"),
    "NS203": ("lower-learning-rate", "check-labels", "smaller-init", "standardise-inputs"),
    "NS205": ("lower-learning-rate", "check-labels", "weigh-classes", "clip-gradients"),
}
"""What to try against a collapse, by rule: its mechanism is known there, its cause is not."""
