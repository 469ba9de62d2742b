"""Signals that ask a job to stop: heard at the end of a step, or at once and by nobody who takes it for bad input."""

import contextlib
import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pydantic
import pytest

from forked import fork, wait
from vitlet.errors import StoppedError
from vitlet.signals import SIGNALS, listening, stopping_at_once


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


@pytest.mark.parametrize("is_rank", [True, False])
def test_a_rank_that_was_asked_to_stop_is_not_ended_by_being_asked_again(
    is_rank: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It still has to say so; the control is a process without an agent of torchrun."""
    if is_rank:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")

    def body() -> None:
        with listening():
            os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)

    assert wait(fork(body, error_file=tmp_path / "error.txt")) == (0 if is_rank else -signal.SIGTERM)


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


def test_outside_the_main_thread_nothing_is_caught() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]

    def body() -> int:
        with listening() as stop:
            assert [signal.getsignal(number) for number in SIGNALS] == before
            return stop.signal_number

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(body).result() == 0


class Asks(pydantic.BaseModel):
    """Takes a value that its validator accepts, unless that raises."""

    value: Callable[[], object]

    @pydantic.field_validator("value")
    @classmethod
    def accept(cls, value: Callable[[], object]) -> object:
        return value()


def test_a_stop_within_a_validator_is_no_wrong_value():
    """Control: an error of ours is one there, which pydantic raises as its own."""

    def stop() -> None:
        raise StoppedError(signal.SIGTERM, step=None, run="here")

    with pytest.raises(pydantic.ValidationError):
        Asks(value=stop)
    with pytest.raises(StoppedError, match=r"signal 15 \(here\)"), stopping_at_once("here"):
        Asks(value=lambda: signal.raise_signal(signal.SIGTERM))


def test_a_stop_is_no_damaged_image():
    def decode() -> None:
        with contextlib.suppress(Exception):  # as a decoder takes whatever is raised
            signal.raise_signal(signal.SIGUSR1)
        pytest.fail("it went on")

    with pytest.raises(StoppedError, match=r"signal 10 \(here\)"), stopping_at_once("here"):
        decode()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_stop_in_a_finalizer_is_raised_after_it():
    class Closes:
        def __del__(self):
            signal.raise_signal(signal.SIGTERM)

    def run(raise_if_stopped: Callable[[], None]) -> None:
        raise_if_stopped()
        Closes()
        raise_if_stopped()
        pytest.fail("it went on")

    with pytest.raises(StoppedError, match=r"signal 15 \(here\)"), stopping_at_once("here") as raise_if_stopped:
        run(raise_if_stopped)
