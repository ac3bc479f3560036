"""Whoever waits for the compiler is told."""

import logging

import numpy as np
import pytest

import lcnumba as lc
from lcnumba.runtime import compilation


class WhileItCompiles(lc.callbacks.Callback):
    """Let a kernel be compiled, or seem so, within the first batch."""

    def before_step(self, run, logs):
        if not run.step:
            compilation.started("forward")
            compilation.finished("forward")


def fit(*callbacks):
    model = lc.Sequential([lc.Dense(1)])
    model.fit(np.ones((4, 2)), np.ones((4, 1)), loss="mse", epochs=2, batch_size=2, callbacks=callbacks)


def test_numbas_compiler_tells_of_our_kernels_alone(caplog):
    numba = pytest.importorskip("numba")
    if numba.config.DISABLE_JIT:
        pytest.skip("nothing is compiled")
    import lcnumba.kernels.jit  # noqa: F401 - which listens

    def made(module):
        def double(x):
            return x + x

        double.__module__ = module
        return numba.njit(double)

    heard = []
    with caplog.at_level(logging.DEBUG, "lcnumba"), compilation.listening(lambda: heard.append(1)):
        assert made("lcnumba.kernels.rules.nothing")(2) == 4
        assert made("elsewhere")(2) == 4
    assert heard == [1]
    began, ended = [record for record in caplog.records if record.name == "lcnumba"]
    assert (began.levelname, ended.levelname) == ("INFO", "DEBUG")
    assert began.getMessage() == "compiling kernel double: seconds, once; the code is kept on disk"
    assert ended.getMessage().startswith("compiled kernel double in ")


def test_what_a_kernel_compiles_in_turn_is_not_told():
    heard = []
    with compilation.listening(lambda: heard.append(1)):
        compilation.started("outer")
        compilation.started("inner")
        compilation.finished("inner")
        compilation.finished("outer")
    compilation.started("later")
    compilation.finished("later")
    assert heard == [1]
    compilation.finished("what an interrupt kept from beginning")


def test_the_bar_says_so_until_a_batch_is_done(monkeypatch):
    auto = pytest.importorskip("tqdm.auto")
    monkeypatch.setattr(auto, "tqdm", Bar)
    fit()  # compiles what is not in the cache
    Bar.titles.clear()
    fit(WhileItCompiles())
    assert Bar.titles == [
        "epoch 1/2", "epoch 1/2, compiling kernels (seconds, once; the code is kept on disk)", "epoch 1/2", "epoch 2/2",
    ]  # fmt: skip
    assert not compilation._listeners


class Bar:
    """What the callback asks of tqdm's."""

    titles: list[str] = []  # noqa: RUF012

    def __init__(self, total, initial, desc, unit):
        self.titles.append(desc)

    def set_description(self, desc, refresh=True):
        self.titles.append(desc)

    def set_postfix_str(self, text, refresh=True):
        pass

    def update(self):
        pass

    def close(self):
        pass


def test_a_line_says_so_without_tqdm(monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "tqdm.auto", None)
    fit(WhileItCompiles())
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "compiling kernels (seconds, once; the code is kept on disk)"
    assert [line[:9] for line in lines[1:]] == ["epoch 1/2", "epoch 2/2"]


def test_nobody_listens_after_an_error():
    class Fails(lc.callbacks.Callback):
        def before_step(self, run, logs):
            raise OSError("no")

    with pytest.raises(OSError, match="no"):
        fit(Fails(), lc.callbacks.Progress())
    assert not compilation._listeners
