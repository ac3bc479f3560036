"""The problems of `lcnumba.testing` as specs."""

from lcnumba.functional import Spec
from lcnumba.testing import PROBLEMS as ALL

# A bridge passes on the text of a spec. So of those that share weights or have groups there is one of each kind.
OF_EACH_KIND = {"tf_same", "groups", "conv", "regions"}
PROBLEMS = [
    problem
    for problem in ALL
    if problem.name in OF_EACH_KIND
    or (problem.groups == 1 and problem.weight_sharing is None and problem.padding != "tf_same")
]


def spec_of(problem, **rest):
    windows = {"dilation_rate": problem.dilation or 1, "padding_mode": problem.padding_mode, "groups": problem.groups}
    windows["weight_sharing"] = problem.weight_sharing
    size = (*problem.input_size, problem.channels)
    return Spec(size, problem.filters, problem.kernel_size, problem.strides, problem.padding, **windows, **rest)
