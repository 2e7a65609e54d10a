import getpass
import json
import platform
from datetime import datetime, timezone

import pytest

from nnunet_attn.benchmark.provenance import command_line, provenance, write_json


def test_provenance_is_json_and_complete():
    found = json.loads(json.dumps(provenance(7), allow_nan=False))
    assert found["seed"] == 7
    assert set(found["versions"]) == {"python", "torch", "nnunetv2", "nnunet_attn", "dynamic-network-architectures"}
    assert all(found["versions"].values())
    assert found["hardware"]["cpu_cores"] >= 1
    age = datetime.now(timezone.utc) - datetime.fromisoformat(found["date_utc"])
    assert 0 <= age.total_seconds() < 60


def test_provenance_tells_no_place():
    text = json.dumps(provenance(0))
    assert platform.node() not in text
    assert f'"{getpass.getuser()}"' not in text
    assert "/home" not in text


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


@pytest.mark.parametrize("content", [float("nan"), object()])
def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, content):
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})
    with pytest.raises((ValueError, TypeError)):
        write_json(path, {"new": content})
    assert json.loads(path.read_text()) == {"old": 1}
    assert list(tmp_path.iterdir()) == [path]
