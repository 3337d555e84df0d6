"""The guard: a step that fails on a bug is counted and named until it works, and logged once."""

from exporter.guard import Guard


def fail(guard: Guard, error: Exception, name: str = "a step") -> None:
    with guard.step(name):
        raise error


def test_a_step_that_fails_is_named_without_its_data_until_it_works(caplog):
    caplog.set_level("INFO")
    guard = Guard()
    fail(guard, KeyError("a secret"))
    fail(guard, KeyError("a secret"))
    fail(guard, ValueError("x"), "another")
    assert guard.errors == 3
    assert guard.failing == {
        "a step": "bug in the exporter (KeyError); the log has the traceback",
        "another": "bug in the exporter (ValueError); the log has the traceback",
    }
    with guard.step("a step"):
        pass
    assert list(guard.failing) == ["another"]
    assert guard.errors == 3
    assert caplog.text.count("a step works again") == 1


def test_it_is_logged_once_and_again_when_it_fails_in_another_way(caplog):
    guard = Guard()
    for error in (KeyError("1"), KeyError("2"), TypeError("3"), KeyError("4")):
        fail(guard, error)
    assert caplog.text.count("a step failed on a bug") == 3
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [KeyError, TypeError, KeyError]


def test_a_step_that_never_failed_works_in_silence(caplog):
    caplog.set_level("INFO")
    guard = Guard()
    guard.worked("a step")
    assert (guard.errors, guard.failing, caplog.text) == (0, {}, "")
