import pickle

import pytest

from vitlet import errors
from vitlet.errors import StoppedError, VitletError

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, VitletError)]


def test_a_message_has_what_where_why_and_fix() -> None:
    error = VitletError("no room", where="disk", why="It is full", fix="free some")
    assert str(error) == "no room (disk). It is full. Fix: free some"
    assert str(VitletError("no room")) == "no room."
    assert (error.what, error.where, error.why, error.fix) == ("no room", "disk", "It is full", "free some")


def test_every_kind_is_a_value_error_with_its_exit_code() -> None:
    codes = {kind.__name__: kind.exit_code for kind in KINDS}
    assert codes == {
        "VitletError": 2,
        "UsageError": 2,
        "DataError": 3,
        "CheckpointError": 4,
        "ResourceError": 5,
        "NonFiniteError": 6,
        "WorkerError": 7,
        "StoppedError": codes["StoppedError"],
    }
    assert all(issubclass(kind, ValueError) for kind in KINDS)


@pytest.mark.parametrize(("number", "status"), [(2, 130), (15, 143), (10, 138)])
def test_a_stop_has_the_status_of_its_signal(number: int, status: int) -> None:
    error = StoppedError(number, step=7, run="runs/one")
    assert error.exit_status == status
    assert "after step 7" in str(error)
    assert "vitlet resume runs/one" in str(error)


def test_pickling_keeps_the_parts() -> None:
    error = pickle.loads(pickle.dumps(errors.DataError("bad", where="a", why="b", fix="c")))
    assert (error.what, error.where, error.why, error.fix) == ("bad", "a", "b", "c")
    stop = pickle.loads(pickle.dumps(StoppedError(15, step=7, run="runs/one")))
    assert (stop.exit_status, str(stop)) == (143, str(StoppedError(15, step=7, run="runs/one")))
