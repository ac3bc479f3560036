import _thread
import copy
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from lcnumba.runtime import locks
from lcnumba.runtime.locks import SharedLock


def is_free(lock):
    """Whether nobody holds the lock, waits for it, or has left anything behind."""
    states = (lock._writer, lock._gate, lock._guard, lock._taken, lock._waiting)
    parts = [lock._alone, *(part for ref in list(lock._all) if (part := ref()) is not None)]
    return states == (None, None, None, [], {}) and not any(part._is_owned() or is_taken(part) for part in parts)


def is_taken(part):
    return not part.acquire(blocking=False) or part.release()


def started(target):
    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    return thread


def test_readers_share_and_a_writer_excludes():
    lock, inside = SharedLock(), threading.Barrier(2, timeout=10)
    events = []

    def read():
        with lock.shared():
            inside.wait()  # both readers are inside at once, or the barrier breaks

    threads = [started(read) for _ in range(2)]
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()

    def write():
        with lock.exclusive():
            events.append("write")

    with lock.shared():
        writer = started(write)
        time.sleep(0.05)
        assert events == []
    writer.join(10)
    assert events == ["write"]

    def read_alone():
        with lock.shared():
            events.append("read")

    with lock.exclusive():
        reader = started(read_alone)
        time.sleep(0.05)
        assert events == ["write"]
    reader.join(10)
    assert events == ["write", "read"]


def test_a_waiting_writer_goes_before_new_readers():
    lock, order = SharedLock(), []

    def write():
        with lock.exclusive():
            order.append("write")

    def read():
        with lock.shared():
            order.append("read")

    with lock.shared():
        writer = started(write)
        while lock._gate is None:
            time.sleep(0.001)
        reader = started(read)
        time.sleep(0.05)
        assert order == []
    writer.join(10)
    reader.join(10)
    assert order == ["write", "read"]


@pytest.mark.parametrize("kind", ["shared", "exclusive"])
def test_an_error_inside_frees_the_lock(kind):
    lock = SharedLock()
    with pytest.raises(KeyError), getattr(lock, kind)():
        raise KeyError
    with lock.exclusive():
        pass


def test_a_copy_is_free():
    lock = SharedLock()
    with lock.exclusive(), copy.deepcopy(lock).exclusive():
        pass


@pytest.mark.parametrize("kind", ["shared", "exclusive"])
def test_a_forked_child_knows_nothing_of_the_parents_threads(kind):
    lock = SharedLock()
    lock._writer = -1  # a thread of the parent
    started(lock._alone.acquire).join()
    lock._gate = threading.Lock()
    lock._gate.acquire()
    locks._free_all()

    def work():
        with getattr(lock, kind)():
            pass

    thread = started(work)
    thread.join(10)
    assert not thread.is_alive()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("kind", ["shared", "exclusive"])
def test_a_child_that_is_forked_during_a_change_does_not_wait_for_the_lock_that_was_taken_from_its_thread(kind):
    code = f"""
import faulthandler, os, threading, warnings
from lcnumba.runtime.locks import SharedLock
warnings.simplefilter("ignore")
lock, changing, done = SharedLock(), threading.Event(), threading.Event()
with lock.shared():  # this thread has read before
    pass
def change():
    with lock.exclusive():
        changing.set()
        done.wait()
thread = threading.Thread(target=change)
thread.start()
changing.wait()
child = os.fork()
if not child:
    faulthandler.dump_traceback_later(20, exit=True)
    with lock.{kind}():
        pass
    os._exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
done.set()
thread.join()
"""
    run = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout == "0\n"


def test_a_looping_writer_does_not_starve_readers():
    lock, done = SharedLock(), threading.Event()

    def write():
        while not done.is_set():
            with lock.exclusive():
                pass

    def read():
        for _ in range(50):
            with lock.shared():
                pass

    writers = [started(write) for _ in range(2)]
    reader = started(read)
    reader.join(60)
    done.set()
    assert not reader.is_alive()
    for writer in writers:
        writer.join(10)
    assert is_free(lock)


@pytest.mark.parametrize("again", ["shared", "exclusive"])
def test_asking_again_while_alone_is_an_error_and_no_deadlock(again):
    lock = SharedLock()
    with lock.exclusive(), pytest.raises(RuntimeError, match="while it is being built"), getattr(lock, again)():
        pass
    with lock.exclusive():
        pass


def test_many_readers_and_writers_end_with_a_free_lock():
    lock, inside, seen = SharedLock(), [0, 0], []

    def work(number):
        for _ in range(200):
            if number % 3:
                with lock.shared():
                    seen.append(inside[1])
            else:
                with lock.exclusive():
                    inside[1] += 1
                    inside[1] -= 1

    threads = [started(lambda n=n: work(n)) for n in range(9)]
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert set(seen) == {0}
    assert is_free(lock)


def test_readers_that_waited_for_a_writer_go_before_the_next_one():
    for _ in range(10):
        lock, order = SharedLock(), []

        def write(lock=lock, order=order):
            with lock.exclusive():
                order.append("write")

        def read(lock=lock, order=order):
            with lock.shared():
                order.append("read")

        with lock.exclusive():
            writer = started(write)
            time.sleep(0.01)
            reader = started(read)
            while not lock._waiting:
                time.sleep(0.001)
        writer.join(60)
        reader.join(60)
        assert order == ["read", "write"]


def test_a_reader_whose_thread_has_ended_is_forgotten(monkeypatch):
    monkeypatch.setattr("lcnumba.runtime.locks.POLL_SECONDS", 0.01)
    lock = SharedLock()
    thread = threading.Thread(target=lambda: lock.shared().__enter__())
    thread.start()
    thread.join()
    with lock.exclusive():
        pass


def test_an_interrupt_waits_for_the_end_of_an_exclusive_block():
    lock, done = SharedLock(), []

    def work():
        with lock.exclusive():
            signal.raise_signal(signal.SIGINT)
            done.append(1)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == [1]
    with lock.exclusive():
        pass


INTERRUPTS = """
import signal, threading
from lcnumba.runtime.locks import Mutex, SharedLock

def interrupt(*_):
    raise KeyboardInterrupt

lock, mutex, free, interrupted = SharedLock(), Mutex(), [], 0
signal.signal(signal.SIGINT, interrupt)
signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
for n in range(300):
    try:
        signal.setitimer(signal.ITIMER_REAL, 1e-4 + n * 1e-6)
        for _ in range(100_000):
            with lock.shared():
                pass
            with mutex.lock:
                pass
    except KeyboardInterrupt:
        interrupted += 1
    with lock.exclusive():
        pass
    thread = threading.Thread(target=lambda: free.append(mutex.lock.acquire(timeout=10)))
    thread.start()
    thread.join()
    assert free.pop()
    mutex.free()  # of a thread that has ended
assert lock._gate is None and not lock._waiting
assert interrupted > 290, interrupted
"""


# Threads that want the lock all the time, so that the main thread waits for it most of its own.
INTERRUPTED_WAITING = """
import os, signal, sys, threading, time
from lcnumba.runtime.locks import SharedLock

sys.setswitchinterval(1e-5)
lock, done, armed, interrupted = SharedLock(), threading.Event(), False, 0

def interrupt(*_):
    global armed, interrupted
    if armed:
        armed, interrupted = False, interrupted + 1
        raise KeyboardInterrupt

def compete(holding):
    while not done.is_set():
        with holding():
            pass

def shoot():
    while not done.wait(0.002):
        os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, interrupt)
others = [threading.Thread(target=compete, args=(holding,), daemon=True) for holding in (lock.shared, lock.exclusive)]
for thread in others:
    thread.start()
threading.Thread(target=shoot, daemon=True).start()
while interrupted < 300:
    try:
        armed = True
        while True:
            with lock.exclusive():
                pass
            with lock.shared():
                pass
    except KeyboardInterrupt:
        pass
done.set()
for thread in others:
    thread.join()
with lock.exclusive():
    pass
assert (lock._writer, lock._gate, lock._waiting) == (None, None, {})
"""

# The threads of a forked child all come at once to locks that their parent held.
CHILDREN = """
import os, signal, sys, threading, warnings
from lcnumba.runtime.locks import Mutex, SharedLock

warnings.simplefilter("ignore")  # Python's own, of forks beside threads
sys.setswitchinterval(1e-6)
lock, mutex, inside, go = SharedLock(), Mutex(), threading.Event(), threading.Event()

def hold():
    with lock.shared(), mutex.lock:
        inside.set()
        go.wait(60)

def work(alone, begin, wrong):
    begin.wait()
    try:
        for _ in range(30):
            with lock.exclusive() if alone else lock.shared():
                pass
            with mutex.lock:
                pass
    except BaseException as error:
        wrong.append(error)

def works():
    begin, wrong = threading.Barrier(6), []
    threads = [threading.Thread(target=work, args=(n % 2, begin, wrong), daemon=True) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return not wrong and not any(thread.is_alive() for thread in threads)

holder = threading.Thread(target=hold)
holder.start()
inside.wait()
for _ in range(60):
    child = os.fork()
    if not child:
        os._exit(0 if works() else 3)
    assert os.waitpid(child, 0)[1] == 0
go.set()
"""


@pytest.mark.parametrize(
    "code",
    [
        pytest.param(INTERRUPTED_WAITING, id="waiting"),
        pytest.param(CHILDREN, id="children", marks=pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")),
    ],
)
def test_a_lock_bears(code):
    """Interrupts while a thread waits for it; and the threads of a forked child, all at once."""
    subprocess.run([sys.executable, "-P", "-c", code], check=True, timeout=200)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs a timer of signals")
def test_interrupts_at_any_moment_leave_a_lock_that_works():
    """A timer's signal ends shared blocks wherever it comes; in a process without a tracer, whose locks bear less."""
    subprocess.run([sys.executable, "-P", "-c", INTERRUPTS], check=True, timeout=60)


def test_live_readers_are_waited_for_whoever_started_them(monkeypatch):
    """Threads that Python's threading does not know are no ended ones."""
    monkeypatch.setattr("lcnumba.runtime.locks.POLL_SECONDS", 0.01)
    lock, inside, done = SharedLock(), threading.Event(), []

    def read():
        with lock.shared():
            inside.set()
            time.sleep(0.2)
            done.append("read")

    _thread.start_new_thread(read, ())
    inside.wait()
    with lock.exclusive():
        done.append("alone")
    assert done == ["read", "alone"]


def test_waiting_for_the_lock_can_be_interrupted(monkeypatch):
    monkeypatch.setattr("lcnumba.runtime.locks.POLL_SECONDS", 0.01)
    lock, leave = SharedLock(), threading.Event()
    inside = threading.Event()

    def read():
        with lock.shared():
            inside.set()
            leave.wait()

    thread = started(read)
    inside.wait()

    def interrupt():
        while lock._gate is None:
            time.sleep(0.001)
        signal.raise_signal(signal.SIGINT)

    started(interrupt)
    try:
        with pytest.raises(KeyboardInterrupt), lock.exclusive():
            pytest.fail("it was not to be had")
    finally:
        leave.set()
    thread.join()
    assert is_free(lock)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_readers_that_waited_for_a_writer_that_gave_up_come_in(monkeypatch):
    """While another one still reads."""
    monkeypatch.setattr("lcnumba.runtime.locks.POLL_SECONDS", 0.01)
    lock, inside, entered, leave = SharedLock(), threading.Event(), threading.Event(), threading.Event()

    def read():
        with lock.shared():
            inside.set()
            leave.wait()

    def read_later():
        with lock.shared():
            entered.set()

    def interrupt():
        while lock._gate is None:
            time.sleep(0.001)
        threads.append(started(read_later))
        while not lock._waiting:
            time.sleep(0.001)
        signal.raise_signal(signal.SIGINT)

    threads = [started(read)]
    inside.wait()
    threads.append(started(interrupt))
    try:
        with pytest.raises(KeyboardInterrupt), lock.exclusive():
            pytest.fail("it was not to be had")
        assert entered.wait(10)
    finally:
        leave.set()
    for thread in threads:
        thread.join(10)
    assert is_free(lock)


@pytest.mark.parametrize("alone", [True, False])
def test_a_handler_of_interrupts_may_use_what_is_waited_for(alone):
    """As one does that saves a model on Ctrl-C, and lets the program go on; and at once, not when the waiting ends."""
    lock, inside, leave, seen = SharedLock(), threading.Event(), threading.Event(), []
    theirs, ours = (lock.shared, lock.exclusive) if alone else (lock.exclusive, lock.shared)

    def hold():
        with theirs():
            inside.set()
            seen.append("left" if leave.wait(20) else "waited in vain")

    def interrupt():
        while not (lock._gate is not None if alone else lock._waiting):
            time.sleep(0.001)
        signal.raise_signal(signal.SIGINT)

    def handle(*_):
        if not alone:
            leave.set()
        with lock.shared():
            seen.append("handled")
        leave.set()

    threads = [started(hold)]
    inside.wait()
    previous = signal.signal(signal.SIGINT, handle)
    try:
        threads.append(started(interrupt))
        with ours():
            seen.append("ours")
        assert signal.getsignal(signal.SIGINT) is handle
    finally:
        signal.signal(signal.SIGINT, previous)
        leave.set()
    assert seen == (["handled", "left", "ours"] if alone else ["left", "handled", "ours"])
    for thread in threads:
        thread.join(10)


# What comes in the middle, as Python lets handlers of signals and finalizers come: at each bytecode of the locks.
INTRUSION = """
import signal, sys, threading
from lcnumba.layers import naming
from lcnumba.runtime import locks, signals

FILES = {module.__file__ for module in (signals, locks)}
lock, mutex = locks.SharedLock(), locks.Mutex()
with lock.shared():
    pass
me = threading.get_ident()

def at_each_bytecode(work, intrude):
    "Do the work as often as it has bytecodes there, and intrude at another one each time; return how often that was."
    def trace(frame, event, _):
        nonlocal seen
        if frame.f_code.co_filename not in FILES:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            seen += 1
            if seen == turn:
                intrude()
        return trace

    turn, seen = 0, 1
    while turn <= seen:
        turn, seen = turn + 1, 0
        sys.settrace(trace)
        try:
            work()
        finally:
            sys.settrace(None)
        assert lock._gate is lock._writer is lock._guard is None, turn
        assert not lock._waiting and not lock._taken and not lock._mine.lock._is_owned() and not lock._alone._is_owned()
        assert signals._active is None
        others = threading.Thread(target=use_all)
        others.start()
        others.join(20)
        assert not others.is_alive(), turn
    return turn

def use_all():
    with lock.exclusive():
        pass
    with lock.shared(), mutex.lock:
        pass

def use(way):
    with mutex.lock if way == "mutex" else getattr(lock, way)():
        pass
"""


def intruded(code, *arguments):
    """What a process prints in which something comes in the middle."""
    result = subprocess.run(
        [sys.executable, "-P", "-c", INTRUSION + code, *arguments],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return result.stdout.split()


NESTED = """
def intrude():
    was = lock._writer == me, lock._alone._is_owned() or lock._mine.lock._is_owned()
    try:
        use(inner)
    except RuntimeError as error:
        refused.add("while it is being" in str(error))
        assert was[0] or (was[1] and inner == "exclusive"), was
    else:
        worked.append(1)
        assert not was[0] and not (was[1] and inner == "exclusive"), was

outer, inner = sys.argv[1:]
worked, refused = [], set()
turns = at_each_bytecode(lambda: use(outer), intrude)
assert turns > 10, turns
print(bool(worked), *sorted(refused))
"""


@pytest.mark.parametrize(
    ("outer", "inner", "expected"),
    [
        ("shared", "shared", ["True"]),
        ("shared", "exclusive", ["True"]),
        ("exclusive", "shared", ["True", "True"]),
        ("exclusive", "exclusive", ["True", "False", "True"]),
    ],
)
def test_what_comes_in_the_middle_is_served_or_refused_and_never_waits(outer, inner, expected):
    """Refused where its own thread has the lock alone, or waits for it and it wants it alone, too."""
    assert intruded(NESTED, outer, inner) == expected


RAISED = """
def interrupt(number, _):
    raise ValueError(number)

def intrude():
    signal.raise_signal(signal.SIGINT)

def work():
    try:
        with getattr(lock, way)():
            done.append("begun")
            done.append("ended")
    except ValueError:
        raised.append(1)
    assert signal.getsignal(signal.SIGINT) is signal.getsignal(signal.SIGTERM) is interrupt

way, done, raised = sys.argv[1], [], []
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, interrupt)
turns = at_each_bytecode(work, intrude)
assert done == ["begun", "ended"] * (len(done) // 2)
print(turns - len(raised))
"""


@pytest.mark.parametrize("way", ["shared", "exclusive"])
def test_a_handler_that_raises_at_any_moment_leaves_nothing_behind(way):
    """All but the last turn, in which nothing came, were interrupted; and no handler was left replaced."""
    assert intruded(RAISED, way) == ["1"]


NAMED = """
def come_between(frame, event, _):
    "Handlers of signals come where a function begins, or one of C's ends."
    global seen
    if frame.f_code.co_filename == naming.__file__ and event in ("call", "c_return"):
        seen += 1
        if seen == turn:
            names.append(naming.layer_name(None, "layer"))

names = []
for given in (None, "layer_99"):
    turn, seen = 0, 1
    while turn <= seen:
        turn, seen = turn + 1, 0
        sys.setprofile(come_between)
        name = naming.layer_name(given, "layer")
        sys.setprofile(None)
        if given is None:
            names.append(name)
names.append(naming.layer_name(None, "layer"))
print(len(names) > 6, len(names) - len(set(names)), names[-1])
"""


def test_names_that_are_given_in_the_middle_differ():
    duplicates = intruded(NAMED)
    assert duplicates[:2] == ["True", "0"]
    assert int(duplicates[2].removeprefix("layer_")) >= 100


def test_who_reads_may_read_again_and_not_write():
    """And reads on afterwards: a writer waits for the first of them."""
    lock, done = SharedLock(), []

    def write():
        with lock.exclusive():
            done.append("written")

    with lock.shared():
        writer = started(write)
        while lock._gate is None:
            time.sleep(0.001)
        with lock.shared():
            done.append("read again")
        with pytest.raises(RuntimeError, match="code that interrupts one of its calls"), lock.exclusive():
            pass
        time.sleep(0.05)
        assert done == ["read again"]
    writer.join(10)
    assert done == ["read again", "written"]
    assert is_free(lock)
