import getpass
import json
import os
import platform
import socket
from datetime import datetime, timezone
from pathlib import Path

import pytest

from nnunet_attn.benchmark.provenance import check_output, command_line, provenance, write_json
from nnunet_attn.errors import InputError


def test_provenance_is_json_and_complete():
    found = json.loads(json.dumps(provenance(7), allow_nan=False))
    assert found["seed"] == 7
    assert set(found["versions"]) == {"python", "torch", "nnunetv2", "nnunet_attn", "dynamic-network-architectures"}
    assert all(found["versions"].values())
    assert found["hardware"]["cpu_cores"] >= 1
    age = datetime.now(timezone.utc) - datetime.fromisoformat(found["date_utc"])
    assert 0 <= age.total_seconds() < 60


def test_provenance_tells_no_place(tmp_path, monkeypatch):
    folder = tmp_path / "unmistakable-folder"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(platform, "node", lambda: "unmistakable-node")
    monkeypatch.setattr(socket, "gethostname", lambda: "unmistakable-node")
    monkeypatch.setattr(getpass, "getuser", lambda: "unmistakable-user")
    monkeypatch.setattr(Path, "home", lambda: Path("/unmistakable-home"))
    for variable in ("USER", "LOGNAME", "USERNAME", "HOSTNAME", "HOME", "USERPROFILE"):
        monkeypatch.setenv(variable, "/unmistakable-variable")
    text = json.dumps(provenance(0))
    assert "unmistakable" not in text
    assert str(tmp_path) not in text and f'"{os.sep}' not in text


def test_command_line_cuts_paths_that_lead_out():
    arguments = [
        "--out",
        "/home/someone/a.json",
        "--reference=/x/slow.py",
        "--other",
        "../y/b.py",
        "--to",
        "docs/c.json",
    ]
    expected = "python -m some.module --out a.json --reference=slow.py --other b.py --to docs/c.json"
    assert command_line("some.module", arguments) == expected


def test_command_line_keeps_json_options():
    assert command_line("m", ["--options", '{"GASAUNet": {}}']) == "python -m m --options '{\"GASAUNet\": {}}'"


def test_lists_of_numbers_take_one_line_and_the_content_stays(tmp_path):
    content = {"numbers": [1, 2.5, None], "names": ["a [ 1 ]"], "nested": [[1, 2], [3, 4]], "empty": []}
    write_json(tmp_path / "a.json", content)
    assert json.loads((tmp_path / "a.json").read_text()) == content
    assert '"numbers": [1, 2.5, null]' in (tmp_path / "a.json").read_text()


def test_what_cannot_be_written_is_refused_beforehand(tmp_path):
    check_output(tmp_path / "a.json")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match="create it first"):
        check_output(tmp_path / "none" / "a.json")
    with pytest.raises(InputError, match="is a folder"):
        check_output(tmp_path)


@pytest.mark.parametrize("content", [float("nan"), object()])
def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, content):
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})
    with pytest.raises((ValueError, TypeError)):
        write_json(path, {"new": content})
    assert json.loads(path.read_text()) == {"old": 1}
    assert list(tmp_path.iterdir()) == [path]
