"""Actions in forked processes."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable

from kdlab.errors import UserError


def forked(action: Callable[[], object], prepare: Callable[[], object] = lambda: None) -> int:
    """The id of a new process that runs `action` and exits with 0, after a `UserError` with 2, else with 1."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            prepare()
            action()
            code = 0
        except UserError:
            code = 2
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return child


def in_child(action: Callable[[], object], prepare: Callable[[], object] = lambda: None) -> int:
    """Run `action` in a forked process; its wait status."""
    return os.waitpid(forked(action, prepare), 0)[1]


def on_two_ranks(work: Callable[[int], object]) -> None:
    """Run `work` of rank 0 and of rank 1 in two forked processes, which both have to end well."""
    ranks = [forked(lambda number=number: work(number)) for number in range(2)]
    assert [os.waitstatus_to_exitcode(os.waitpid(rank, 0)[1]) for rank in ranks] == [0, 0]
