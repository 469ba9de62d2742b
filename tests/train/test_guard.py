import math
import os
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from vitlet.errors import NonFiniteError, ResourceError
from vitlet.train.guard import SIGNALS, listening, memory_errors, require_finite


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_sets_the_flag_and_nothing_else(number: signal.Signals) -> None:
    before = [signal.getsignal(n) for n in SIGNALS]
    with listening() as stop:
        assert stop.signal_number == 0
        os.kill(os.getpid(), number)
        assert stop.signal_number == number
    assert [signal.getsignal(n) for n in SIGNALS] == before


def test_the_handlers_come_back_after_an_error() -> None:
    before = [signal.getsignal(n) for n in SIGNALS]
    with pytest.raises(KeyError), listening():
        raise KeyError
    assert [signal.getsignal(n) for n in SIGNALS] == before


@pytest.mark.parametrize("first", SIGNALS)
def test_control_c_after_another_signal_interrupts(first: signal.Signals) -> None:
    with listening():
        os.kill(os.getpid(), first)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_a_second_polite_signal_changes_nothing() -> None:
    with listening() as stop:
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.signal_number == signal.SIGTERM


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_named(bad: float) -> None:
    require_finite(step=1, loss=0.0, grad_norm=1e30, record="r.json")
    with pytest.raises(NonFiniteError, match=rf"loss {bad} at step 7 \(r\.json\).*not taken"):
        require_finite(step=7, loss=bad, grad_norm=1.0, record="r.json")
    with pytest.raises(NonFiniteError, match=f"gradient norm {bad} at step 7"):
        require_finite(step=7, loss=1.0, grad_norm=bad, record="r.json")


def test_memory_errors() -> None:
    with (
        pytest.raises(ResourceError, match=r"not enough memory.*--micro-batch 32") as caught,
        memory_errors(batch_size=64),
    ):
        raise MemoryError
    assert caught.value.exit_code == 5
    with pytest.raises(ResourceError, match="--micro-batch 1 "), memory_errors(batch_size=1):
        raise RuntimeError("CUDA out of memory")
    with pytest.raises(RuntimeError, match="shapes"), memory_errors(batch_size=1):
        raise RuntimeError("shapes do not match")


def test_outside_the_main_thread_nothing_is_caught() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]

    def body() -> int:
        with listening() as stop:
            assert [signal.getsignal(number) for number in SIGNALS] == before
            return stop.signal_number

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(body).result() == 0
