import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nnunet_attn.errors import InputError
from nnunet_attn.registering.workers import processes_for, run_all


def test_processes_are_started_where_they_are_worth_it() -> None:
    assert processes_for(50, 10_000_000, 8) == 1
    assert processes_for(150, 10_000_000, 8) == 2
    assert processes_for(1000, 10_000_000_000, 8) == 8
    assert processes_for(3, 10_000_000_000, 8) == 3


def _double(number: int) -> int:
    if number == 13:
        raise InputError("13 is refused")
    if number == 14:
        os._exit(1)
    return 2 * number


def test_several_processes() -> None:
    done: list[int] = []
    assert run_all(_double, range(5), 2, done.append) == [0, 2, 4, 6, 8]
    assert done == [1, 2, 3, 4, 5]
    with pytest.raises(InputError, match="13 is refused"):
        run_all(_double, [1, 13], 2, done.append)
    with pytest.raises(InputError, match=r"a process was ended from outside, .* -np 1; .* below `if __name__ == "):
        run_all(_double, [1, 14], 2, done.append)


_UNGUARDED = """
import time
from nnunet_attn.errors import InputError
from nnunet_attn.registering.workers import run_all

try:
    run_all(time.sleep, [0.01] * 2, 2, lambda done: None)
except InputError as error:
    print(error)
"""


def test_a_script_without_a_guard_is_told_of_it(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(_UNGUARDED)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60)
    assert 'put the call below `if __name__ == "__main__":`' in done.stdout


_SLEEPERS = """
import time
from nnunet_attn.registering.workers import run_all

if __name__ == "__main__":
    print("started", flush=True)
    run_all(time.sleep, [0.01] * 2 + [600] * 4, 2, lambda done: print("done", done, flush=True))
"""


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_process_is_left_behind(tmp_path: Path, number: int) -> None:
    script = tmp_path / "sleepers.py"
    script.write_text(_SLEEPERS)
    process = subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line == b"done 2\n":
            break
    os.kill(process.pid, number)
    process.wait(timeout=30)
    process.stdout.close()
    deadline = time.monotonic() + 20
    while True:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            break
        assert time.monotonic() < deadline, "processes of the group still run"
        time.sleep(0.05)
