"""The problems of `lcnumba.testing` as specs."""

from lcnumba.functional import Spec


def spec_of(problem, **rest):
    windows = {"dilation_rate": problem.dilation or 1, "padding_mode": problem.padding_mode, "groups": problem.groups}
    windows["weight_sharing"] = problem.weight_sharing
    size = (*problem.input_size, problem.channels)
    return Spec(size, problem.filters, problem.kernel_size, problem.strides, problem.padding, **windows, **rest)
