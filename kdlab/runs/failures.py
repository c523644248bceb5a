"""How a run ends other than well: result.json says so, on every rank the same, and no rank is left behind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from kdlab.errors import UserError
from kdlab.runs.rank_supervision import OtherRanks
from kdlab.runtime.signals import Stopped
from kdlab.storage.files import atomic_write_json

DEATH = 20.0  # seconds that a rank whose connection is closed may take to end


@contextmanager
def told(folder: Path, about: dict[str, Any], launcher: Any, world: int, main_rank: bool) -> Iterator[None]:
    """Write how the block has ended into result.json (with `about`), unless it ended well; exceptions go on.

    status "preempted" with the signal and the step that was saved for it, or "failed" with the error. An error that
    comes from another rank's death becomes a `UserError` with what that rank said.
    """

    def write(status: str, **more: Any) -> None:
        if main_rank:
            with suppress(UserError):  # a full disk: the first error is what counts
                atomic_write_json(folder / "result.json", {"status": status, **more, **about})

    def last_words(sentence: str) -> None:
        write("failed", error=sentence)
        print(f"kdlab: {sentence}", flush=True)

    try:
        with OtherRanks(launcher, world, folder, last_words) as others:
            try:
                yield
            except UserError:
                raise
            except SystemExit:  # what Lightning makes of Ctrl-C
                raise KeyboardInterrupt from None
            except Exception as error:
                if world > 1 and (why := others.found(DEATH)):
                    raise UserError(why) from error
                raise
    except Stopped as stop:
        write("preempted", signal=stop.name, step=stop.saved_at)
        raise
    except KeyboardInterrupt:
        write("preempted", signal="Ctrl-C", step=None)
        raise
    except Exception as error:
        lines = (str(error) or type(error).__name__).splitlines()
        write("failed", error=str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {lines[0]}")
        raise
