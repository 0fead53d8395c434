"""Every known cell gets the class that the literature's algorithm for it needs, by algebra alone."""

from __future__ import annotations

import pytest

from cdrmix.passes.classify import classify
from cdrmix.passes.notes import shown

from .cells import cell_of
from .known_cells import CELLS
from .odd_cells import MORE

ALL = {**CELLS, **MORE}


@pytest.mark.parametrize("name", ALL)
def test_classes(name, tmp_path):
    groups = classify(cell_of(ALL[name], tmp_path))
    assert " | ".join(str(g).split(" [")[0] for g in groups) == ALL[name].classes


@pytest.mark.parametrize(
    ("name", "why", "words"),
    [
        ("vanilla RNN", "is not affine in the state", "tanh(x[c] + sum[e](u[c,e]*s[e]))"),
        ("state-dependent gate", "is not affine in the state", "sigmoid(sum[m](S[h,i,m]*r[h,m]))"),
        ("quadratic", "multiplies the state by itself", "sum[m](S[h,i,m]*k[h,m])*S[h,i,j]"),
        ("linear RNN, dense", "is a dense transition: it takes every place of the state to every other", "u[c,e]"),
        ("two-sided", "is contracted along another axis than in the term before", "S[h,i,m"),
        ("transposed", "is read at another place along `i`", "S[j,i]"),
    ],
)
def test_the_culprit_is_named_in_the_words_of_the_text(name, why, words, tmp_path):
    (group,) = classify(cell_of(ALL[name], tmp_path))
    assert group.culprit is not None
    assert group.why == why
    assert words in shown(group.culprit.node)
    assert group.culprit.node.span.line > 0
