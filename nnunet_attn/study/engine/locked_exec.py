"""Becomes a command that holds locks: `python -m nnunet_attn.study.engine.locked_exec LOCK... -- COMMAND...`.

The locks have this process's number, which the command keeps, so that they are held just as long as it lives. Its
session is its own, in which no terminal interrupts it: it heeds the SIGINT by which it is told to end, also where a
shell has started all this in the background, and lets SIGINT be ignored there.
"""

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from nnunet_attn.study.engine.locks import claimed, read_lock, release

HELD = 75
"""Exit code: another process holds one of the locks; nothing was started. As EX_TEMPFAIL of sysexits.h."""

STALE = "--stale="
"""Before a holder's identity that counts as dead."""


def main(words: Sequence[str]) -> int:
    """Take all locks and become the command; returns only if that is impossible."""
    split = words.index("--")
    options, command = words[:split], words[split + 1 :]
    stale = next((word.removeprefix(STALE) for word in options if word.startswith(STALE)), None)
    locks = [Path(word) for word in options if not word.startswith(STALE)]
    if os.getsid(0) != os.getpid() and os.getpgrp() != os.getpid():
        os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the command has the default, then
    taken: list[Path] = []
    try:
        for lock in locks:
            lock.parent.mkdir(parents=True, exist_ok=True)
            if not claimed(lock, stale, from_parent=True):
                sys.stderr.write(f"nnunet-attn: {read_lock(lock) or 'another process'} holds {lock}\n")
                for each in taken:
                    release(each)
                return HELD
            taken.append(lock)
        os.execvp(command[0], list(command))
    except OSError as error:
        sys.stderr.write(f"nnunet-attn: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
