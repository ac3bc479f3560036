"""Memory that is not there is refused before it is asked for."""

import math
import os
import subprocess
import sys
import textwrap
import tracemalloc

import numpy as np
import pytest

import lcnumba as lc
from lcnumba.kernels import update
from lcnumba.runtime import memory

MEMINFO = "MemTotal: 8000 kB\nMemFree: 10 kB\nMemAvailable: 5000 kB\nSwapFree: 1000 kB\nHugePages_Total: 0\n"


def machine(root, files):
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        ({"proc/meminfo": "MemTotal: 8000 kB\n"}, None),
        ({"proc/meminfo": MEMINFO}, (6000 * 1024, "the memory of this machine")),
        ({"proc/meminfo": "MemAvailable: 5 kB\n"}, (5 * 1024, "the memory of this machine")),
        (
            {  # a name with colons
                "proc/self/cgroup": "0::/a:b\n",
                "sys/fs/cgroup/a:b/memory.max": "5000\n",
                "sys/fs/cgroup/a:b/memory.current": "3000\n",
            },
            (2000, "the limit of this control group"),
        ),
        (
            {
                "proc/meminfo": MEMINFO,
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/b/memory.max": "max\n",
                "sys/fs/cgroup/a/b/memory.current": "900\n",
                "sys/fs/cgroup/a/memory.max": "5000\n",
                "sys/fs/cgroup/a/memory.current": "3000\n",
                "sys/fs/cgroup/a/memory.stat": "anon 2000\ninactive_file 700\n",
            },
            (2700, "the limit of this control group"),
        ),
        (
            {
                "proc/meminfo": MEMINFO,
                "proc/self/cgroup": "5:cpu,cpuacct:/x\n4:memory:/y\n",
                "sys/fs/cgroup/memory/y/memory.limit_in_bytes": "4000\n",
                "sys/fs/cgroup/memory/y/memory.usage_in_bytes": "3000\n",
                "sys/fs/cgroup/memory/y/memory.stat": "total_inactive_file 100\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
                "sys/fs/cgroup/memory/memory.usage_in_bytes": "3000\n",
            },
            (1100, "the limit of this control group"),
        ),
        (
            {  # a container that sees its own group as the root
                "proc/meminfo": MEMINFO,
                "proc/self/cgroup": "0::/docker/abc\n",
                "sys/fs/cgroup/memory.max": "2000\n",
                "sys/fs/cgroup/memory.current": "1500\n",
            },
            (500, "the limit of this control group"),
        ),
        (
            {
                "proc/meminfo": MEMINFO,
                "proc/self/cgroup": "0::/\n",
                "sys/fs/cgroup/memory.max": "9000000000\n",
                "sys/fs/cgroup/memory.current": "1500\n",
            },
            (6000 * 1024, "the memory of this machine"),
        ),
    ],
)
def test_the_least_limit_counts(files, expected, tmp_path):
    assert memory.available(machine(tmp_path, files)) == expected


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        ({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/cpu.max": "max 100000\n"}, None),
        ({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/cpu.max": "150000 100000\n"}, 1.5),
        ({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/cpu.max": "150000 0\n"}, None),
        ({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/cpu.max": "400000 100000\n"}, 4),
        (
            {
                "proc/self/cgroup": "4:cpu,cpuacct:/y\n0::/\n",
                "sys/fs/cgroup/cpu/y/cpu.cfs_quota_us": "50000\n",
                "sys/fs/cgroup/cpu/y/cpu.cfs_period_us": "25000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
                "sys/fs/cgroup/cpu.max": "300000 100000\n",
            },
            2,
        ),
    ],
)
def test_the_least_quota_of_processors_counts(files, expected, tmp_path):
    assert memory.processors(machine(tmp_path, files)) == expected


def test_what_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: (10**9, "somebody"))
    memory.require(10**9, "it", "no")
    with pytest.raises(MemoryError, match="it needs 2 GB, and somebody leaves 1 GB; take less"):
        memory.require(2 * 10**9, "it", "take less")
    monkeypatch.setattr(memory, "available", lambda: (-5, "somebody"))
    memory.require(memory.SMALL - 1, "it", "no")
    with pytest.raises(MemoryError, match="leaves 0 GB"):
        memory.require(memory.SMALL, "it", "no")
    monkeypatch.setattr(memory, "available", lambda: None)
    memory.require(10**30, "it", "no")


def test_what_the_process_has_of_its_address_space_does_not_count_again(tmp_path, monkeypatch):
    resource = pytest.importorskip("resource")
    root = machine(tmp_path, {"proc/self/statm": "1000 500 100 1 0 400 0\n"})
    limit = {resource.RLIMIT_AS: (2**40, resource.RLIM_INFINITY)}
    monkeypatch.setattr(resource, "getrlimit", limit.__getitem__)
    expected = 2**40 - 1000 * os.sysconf("SC_PAGE_SIZE")
    assert memory.available(root) == (expected, "the limit of address space (RLIMIT_AS)")
    assert memory.available(tmp_path / "nothing") is None
    limit[resource.RLIMIT_AS] = (resource.RLIM_INFINITY, 2**40)
    assert memory.available(root) is None


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="RLIMIT_AS is not honoured elsewhere")
def test_the_limit_of_address_space_counts(tmp_path):
    """On a machine of which nothing else is known: what is free there changes from one look to the next."""
    root = machine(tmp_path, {"proc/self/statm": "1000 500 100 1 0 400 0\n"})
    code = """
        import os, pathlib, resource, sys
        from lcnumba.runtime import memory
        resource.setrlimit(resource.RLIMIT_AS, (2**40, resource.RLIM_INFINITY))
        expected = 2**40 - 1000 * os.sysconf("SC_PAGE_SIZE")
        found = memory.available(pathlib.Path(sys.argv[1]))
        assert found == (expected, "the limit of address space (RLIMIT_AS)"), found
        assert memory.available()[0] < 2**40
    """
    subprocess.run([sys.executable, "-P", "-c", textwrap.dedent(code), str(root)], check=True)


@pytest.fixture
def little(monkeypatch):
    """A machine of 100 MB, on which everything of more than 1 kB is looked at."""
    monkeypatch.setattr(memory, "SMALL", 1000)
    monkeypatch.setattr(memory, "available", lambda: (10**8, "the machine"))


def test_the_dense_form_is_refused_before_it_is_made(little, monkeypatch):
    """300 MB of zeros beside 0.9 MB of weights; in implementation 1 the same layer works."""
    x = np.ones((1, 60, 60, 1), np.float32)
    layer = lc.LocallyConnected2D(6, 3, implementation=2, input_shape=(60, 60, 1), rng=0)
    layer.build(x.shape)
    for call in (layer, lambda x: layer.forward(x)):
        with pytest.raises(
            MemoryError, match=r"dense matrix of implementation 2 needs 0\.291 GB, and the machine leaves 0"
        ):
            call(x)
    y = layer.with_implementation(1)(x)
    assert y.shape == (1, 58, 58, 6)
    monkeypatch.setattr(memory, "available", lambda: None)
    np.testing.assert_allclose(layer(x), y, rtol=1e-5, atol=1e-6)  # nothing was left half done


def test_the_sparse_form_is_refused_before_it_is_made(little):
    x = np.ones((1, 100, 100, 1), np.float32)
    layer = lc.LocallyConnected2D(40, 3, implementation=3, input_shape=(100, 100, 1), rng=0)
    layer.build(x.shape)
    with pytest.raises(MemoryError, match=r"building the sparse matrix of implementation 3 .* use implementation=1, "):
        layer(x)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("implementation", [1, 2, 3])
def test_a_step_without_a_workspace_changes_nothing(implementation, optimizer, rng, monkeypatch):
    """And its pullback is as good as before."""
    x = rng.standard_normal((8, 12, 12, 3), np.float32)
    layers = [lc.LocallyConnected2D(8, 3, input_shape=(12, 12, 3), optimizer=optimizer, implementation=implementation,
                                    rng=0) for _ in range(3)]  # fmt: skip
    (y, backward), (_, other), (_, first) = (layer.forward(x) for layer in layers)
    first.step(np.ones_like(y), lr=0.1)  # has code compiled, which takes memory too
    with monkeypatch.context() as context:
        context.setattr(memory, "SMALL", 1000)
        context.setattr(memory, "available", lambda: (1000, "the machine"))
        before = layers[0].get_weights()
        with pytest.raises(MemoryError, match=r"workspace of this call|the optimizer's state"):
            backward.step(np.ones_like(y), lr=0.1)
        for a, b in zip(layers[0].weights, before, strict=True):
            np.testing.assert_array_equal(a, b)
    backward.step(np.ones_like(y), lr=0.1)
    other.step(np.ones_like(y), lr=0.1)
    for a, b in zip(layers[0].weights, layers[1].weights, strict=True):
        np.testing.assert_array_equal(a, b)


def test_weights_and_workspaces_are_refused(little):
    layer = lc.LocallyConnected2D(64, 5, input_shape=(300, 300, 32), name="huge")
    with pytest.raises(MemoryError, match=r"building 'huge' needs 18 GB, .* every position has its own"):
        layer.build((None, 300, 300, 32))
    assert not layer.built
    small = lc.LocallyConnected2D(8, 1, input_shape=(20, 20, 1))
    with pytest.raises(MemoryError, match=r"an array or workspace of this call needs 0\.128 GB, .* fewer samples"):
        small(np.ones((10_000, 20, 20, 1), np.float32))
    before = small.get_weights()
    limits_seen = small(np.ones((100, 20, 20, 1), np.float32))
    assert limits_seen.shape == (100, 20, 20, 8)
    np.testing.assert_array_equal(small.get_weights()[0], before[0])


def channels_first(samples):
    layer = lc.LocallyConnected2D(1, 3, strides=3, data_format="channels_first", input_shape=(3, 30, 30))
    return layer(np.ones((samples, 3, 30, 30), np.float32))


def training(samples, fused=True, **settings):
    """A step of a layer of 100 kB of weights, or its gradients alone; made by the first call."""
    layer = lc.LocallyConnected2D(1, 5, input_shape=(36, 36, 1), use_bias=False, **settings)

    def work():
        y, backward = layer.forward(np.ones((samples, 36, 36, 1), np.float32))
        if fused:
            layer.optimizer = layer.optimizer  # with fresh state
            backward.step(y, 0.1)
        else:
            backward(y)

    return work


@pytest.mark.parametrize(
    ("work", "limit", "message"),
    [
        (lambda: channels_first(8), 60_000, "a copy with the channel axis moved needs .* fewer samples"),
        (training(1, optimizer="adam"), 150_000, "the optimizer's state needs .* without momentum has none"),
        (training(1, optimizer=lc.SGD(momentum=0.5)), 150_000, None),
        (training(1, fused=False), 101_000, "the gradient of the weights needs .* backward.step"),
        (training(99, implementation=3), 500_000, "workspace of this call needs .* fewer samples"),
        (lambda: lc.Dropout(0.5).forward(np.ones(1000)), 15_000, "the output with its temporary arrays needs .* fewer"),
        (lambda: lc.Activation("gelu")(np.ones(1000)), 15_000, "the output with its temporary arrays needs .* fewer"),
        (lambda: lc.Flatten()(np.ones((10, 10, 10))), 7000, "a copy of the output needs .* fewer samples"),
        (lambda: lc.Sequential([lc.Dense(9, input_shape=(1,))]).predict(np.ones((9000, 1))), 300_000,
         "the output for all samples needs .* call predict on fewer samples"),
        (lambda: lc.Dense(10**3).build((None, 10**3)), 10**6, "building 'dense.*' needs .* fewer units"),
    ],
    ids=["channels_first", "adam", "momentum", "gradient", "sparse", "dropout", "activation", "flatten", "predict",
         "dense"],
)  # fmt: skip
def test_what_else_needs_much_memory_is_refused(work, limit, message, monkeypatch):
    monkeypatch.setattr(memory, "SMALL", 1000)
    monkeypatch.setattr(memory, "available", lambda: (10**9, "the machine"))
    work()
    monkeypatch.setattr(memory, "available", lambda: (limit, "the machine"))
    if message is None:
        work()
        return
    with pytest.raises(MemoryError, match=message):
        work()


def layer_of(**settings):
    def make():
        layer = lc.LocallyConnected2D(4, 3, optimizer="adam", rng=0, **settings)
        layer.build((None, 6, 6, 6))
        return layer

    return make


def model():
    layers = [lc.LocallyConnected2D(4, 3, optimizer=optimizer, rng=0) for optimizer in ("adam", "rmsprop")]
    found = lc.Sequential(layers)
    found.build((None, 6, 6, 6))
    return found


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(
    "make",
    [
        layer_of(), layer_of(implementation=2), layer_of(implementation=3), layer_of(data_format="channels_first"),
        layer_of(activation="relu", padding="same", kernel_constraint="max_norm"),
        layer_of(kernel_mask=np.arange(16 * 54).reshape(16, 54) % 3 > 0), model,
    ],
    ids=["1", "2", "3", "channels_first", "regularized", "masked", "model"],
)  # fmt: skip
def test_whatever_is_refused_first_a_step_changes_nothing(make, fused, rng, monkeypatch):
    """Each request for memory in turn, and each for compiled code, is the one that fails."""
    if fused and make is model:
        pytest.skip("its layers step one after the other")
    x = rng.standard_normal((3, 6, 6, 6), np.float32)
    taught = make()
    y, backward = taught.forward(x)
    backward.step(np.ones_like(y), 0.1)
    real, left = update.prepare, [0]

    def request():
        left[0] -= 1
        return left[0] != -1

    def prepare(*arguments):
        if not request():
            raise MemoryError("no code")
        real(*arguments)

    monkeypatch.setattr(memory, "SMALL", 1)
    monkeypatch.setattr(memory, "available", lambda: (10**9 if request() else 0, "the machine"))
    monkeypatch.setattr(update, "prepare", prepare)
    for number in range(100):
        left[0] = 10**6
        mine = make()
        y, backward = mine.forward(x)
        dy = np.ones_like(y)
        grads = None if fused else backward(dy)[1]
        before = mine.get_weights()
        left[0] = number
        try:
            backward.step(dy, 0.1) if fused else mine.step(grads, 0.1)
        except MemoryError:
            assert all(map(np.array_equal, mine.get_weights(), before))
            left[0] = 10**6
            backward.step(dy, 0.1) if fused else mine.step(grads, 0.1)
        else:
            break
        assert all(map(np.array_equal, mine.get_weights(), taught.get_weights()))
    assert 3 < number < 99


def test_an_export_for_implementation_2_is_refused_before_it_is_made(little):
    layer = lc.LocallyConnected2D(6, 3, input_shape=(60, 60, 1))
    layer.build((None, 60, 60, 1))
    with pytest.raises(MemoryError, match=r"a kernel of implementation 2 needs 0\.291 GB, .* implementation=1 holds"):
        lc.export_weights(layer, 2)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="RLIMIT_AS is not honoured elsewhere")
def test_a_process_of_limited_size_is_refused_and_goes_on(tmp_path):
    """As under ``ulimit -v``: each thing that could ask for too much, and then one that fits."""
    code = """
        import resource
        import numpy as np
        import lcnumba as lc

        x = np.ones((4, 16, 16, 3), np.float32)
        layer = lc.LocallyConnected2D(8, 3, kernel_initializer="ones")
        layer(x)
        size = resource.getpagesize() * int(open("/proc/self/statm").read().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (size + 2**28, resource.RLIM_INFINITY))

        def refused(work, *words):
            try:
                work()
            except MemoryError as error:
                missing = [word for word in ("RLIMIT_AS", *words) if word not in str(error)]
                print("refused" if not missing else f"{missing} are not in: {error}")

        large = np.broadcast_to(np.float32(1), (1, 90, 90, 1))
        many = np.broadcast_to(np.float32(1), (100_000, 16, 16, 3))
        wide = lc.LocallyConnected2D(8, 3, implementation=2, kernel_initializer="ones")
        wide.build(large.shape)
        refused(lambda: wide(large), "implementation 2", "implementation=1")
        refused(lambda: lc.LocallyConnected2D(64, 9)(large[..., :1].repeat(64, axis=3)), "building", "strides")
        refused(lambda: layer(many), "a copy of x", "give it C-contiguous")
        few = np.ones((40_000, 16, 16, 3), np.float32)
        refused(lambda: layer(few), "workspace of this call", "fewer samples")
        del few
        # Norms of single weights, as many as there are weights: 32 MB each time that they are all in memory.
        single = lc.LocallyConnected2D(16, 1, use_bias=False, kernel_constraint=lc.constraints.MaxNorm(axis=1), rng=0)
        y, backward = single.forward(np.ones((1, 500, 500, 1), np.float32))
        backward.step(np.zeros_like(y), 0.0)
        _, backward = single.forward(np.ones((1, 500, 500, 1), np.float32))
        layer.with_implementation(1).forward(x)[1].step(np.ones((4, 14, 14, 8)), 1.0)  # loads what is compiled
        size = resource.getpagesize() * int(open("/proc/self/statm").read().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (size + 2**26, resource.RLIM_INFINITY))
        backward.step(np.zeros_like(y), 0.0)
        y, backward = layer.forward(x)
        assert (layer(x) == 27).all() and (wide.with_implementation(1)(large) == 9).all()
        backward.step(np.ones_like(y), 1.0)
        assert (layer.kernel == -3).all()
        print("goes on")
    """
    result = subprocess.run(
        [sys.executable, "-P", "-c", textwrap.dedent(code)], cwd=tmp_path, capture_output=True, text=True,
        timeout=240, check=False, env={**os.environ, "NUMBA_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == ["refused"] * 4 + ["goes on"]


def test_what_is_known_of_a_layer_needs_no_memory():
    """Not even of one that no machine holds."""
    layer = lc.LocallyConnected2D(3, 2, strides=(2, 3), padding="same", input_shape=(2**30, 2**31, 5))
    shapes = layer.weight_shapes((None, 2**30, 2**31, 5))
    assert layer._geometry_of(layer.input_shape).connections < math.prod(shapes["kernel"]) // 3
    tracemalloc.start()
    try:
        assert layer.costs(4)[0].flop_forward > 2**60
        layer.explain(print_fn=str)
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 10**7


def test_weights_that_do_not_fit_are_refused_before_tables_are_made(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: (10**8, "the machine"))
    layer = lc.LocallyConnected1D(2, 2**31, padding="same", weights=[np.ones(3), np.ones(2)])
    with pytest.raises(ValueError, match="kernel has shape"):
        layer(np.ones((1, 6, 1)))
