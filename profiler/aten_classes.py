"""FLOP of aten operations by class, matrix products excluded; tensor traffic is counted separately."""

from __future__ import annotations

# Effectively views, and allocations.
FREE = {
    "_unsafe_view", "lift_fresh", "lift", "detach", "alias", "empty", "empty_like", "empty_strided",
    "new_empty", "new_empty_strided", "_local_scalar_dense",
}  # fmt: skip
# Data movement and initialisation without arithmetic.
MOVES = {
    "clone", "copy", "copy_", "_to_copy", "cat", "stack", "contiguous", "fill", "fill_", "zero_",
    "zeros", "zeros_like", "ones", "ones_like", "full", "full_like", "new_zeros", "new_ones", "new_full",
    "arange", "repeat", "index", "index_select", "gather", "scatter", "scatter_", "index_put",
    "index_put_", "slice_scatter", "select_scatter", "constant_pad_nd", "roll", "flip", "tril", "triu",
    "where", "masked_fill", "masked_fill_", "one_hot", "eye", "linspace", "scalar_tensor", "embedding",
    "masked_scatter", "resize_", "_reshape_copy", "unfold", "im2col",
}  # fmt: skip
# Of those in place, the ones that do not read the tensor that they write.
OVERWRITES = {
    "copy_", "fill_", "zero_", "normal_", "uniform_", "exponential_", "random_", "bernoulli_", "cauchy_",
    "geometric_", "log_normal_",
}  # fmt: skip
# One FLOP per result.
ONE_FLOP = {
    "add", "sub", "rsub", "mul", "div", "neg", "abs", "maximum", "minimum", "clamp", "clamp_min",
    "clamp_max", "relu", "threshold", "eq", "ne", "lt", "le", "gt", "ge", "logical_and", "logical_or",
    "logical_not", "bitwise_and", "bitwise_or", "bitwise_not", "floor", "ceil", "round", "sign",
    "addcmul", "addcdiv", "lerp", "square", "remainder", "floor_divide", "hardtanh", "leaky_relu",
    "dropout", "native_dropout", "fmod",
}  # fmt: skip
# One exponential, logarithm, root or trigonometric function per result.
SPECIAL = {
    "exp", "exp2", "expm1", "log", "log2", "log1p", "sqrt", "rsqrt", "sin", "cos", "tanh", "sigmoid",
    "silu", "gelu", "erf", "pow", "softplus", "reciprocal", "elu", "hardswish", "hardsigmoid", "mish",
    "log_sigmoid", "atan", "atan2",
}  # fmt: skip
# One FLOP per element of the first input.
PER_INPUT = {
    "sum", "mean", "amax", "amin", "max", "min", "argmax", "argmin", "var", "std", "prod", "cumsum",
    "cumprod", "any", "all", "topk", "sort", "norm", "logsumexp", "linalg_vector_norm", "var_mean",
    "avg_pool2d", "max_pool2d_with_indices", "_adaptive_avg_pool2d", "upsample_nearest2d",
    "upsample_bilinear2d", "upsample_bicubic2d", "logcumsumexp", "bincount", "histc",
}  # fmt: skip
PER_INPUT_FLOP = {  # FLOP and special operations of each input element
    "_softmax": (3, 1),  # subtract the largest, sum, divide; one exponential
    "_log_softmax": (3, 1),
    "_safe_softmax": (3, 1),
    "native_layer_norm": (7, 0),
    "native_group_norm": (7, 0),
    "native_batch_norm": (4, 0),
    "_native_batch_norm_legit_no_training": (4, 0),
    "_fused_rms_norm": (4, 0),
}
