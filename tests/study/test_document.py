"""YAML files with their lines; what is no YAML, or no table, is refused with the line."""

from pathlib import Path

import pytest

from nnunet_attn.errors import InputError
from nnunet_attn.study.document import parsed_document, read_document

FILE = Path("study.yaml")


def test_places_have_lines() -> None:
    document = parsed_document("a: 1\nb:\n  - x\n  - c: {d: 2}\n", FILE)
    assert document.content == {"a": 1, "b": ["x", {"c": {"d": 2}}]}
    assert document.lines == {
        (): 1,
        ("a",): 1,
        ("b",): 2,
        ("b", 0): 3,
        ("b", 1): 4,
        ("b", 1, "c"): 4,
        ("b", 1, "c", "d"): 4,
    }


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("on", "on"),
        ("true", True),
        ("~", None),
        ("", None),
        ("010", "010"),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("1e-4", 0.0001),
        ("-2.5", -2.5),
        ("1.", 1.0),
        (".5", 0.5),
        (".nan", ".nan"),
        ("1_000", "1_000"),
        ("0", 0),
        ("'1'", "1"),
    ],
)
def test_plain_values_are_those_of_yaml_1_2(text: str, value: object) -> None:
    found = parsed_document(f"a: {text}\n", FILE).content["a"]
    assert found == value and type(found) is type(value)


def test_an_anchor_is_repeated() -> None:
    assert parsed_document("a: &x [1, 2]\nb: *x\n", FILE).content == {"a": [1, 2], "b": [1, 2]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb:\n\t- 1\n", "study.yaml, line 3: a tab; YAML is indented by spaces"),
        ("a: 1\n\tb: 2\n", "study.yaml, line 2: a tab; YAML is indented by spaces"),
        ("a: [1, 2\nb: 1\n", "study.yaml, line 2: not YAML: "),
        ("a: 1\n b: 2\n", "study.yaml, line 2: not YAML: mapping values are not allowed here"),
        ("a: *x\n", "study.yaml, line 1: not YAML: found undefined alias 'x'"),
        ("a: 1\n---\nb: 1\n", "study.yaml, line 2: a second document begins"),
        ("a: 1\nb: x\x00y\n", "study.yaml, line 2: a character that YAML does not allow; remove it"),
        ("a: &x [*x]\n", "study.yaml, line 1: an alias of what it stands in; write the values out"),
        ("- a\n", "study.yaml, line 1: must be fields and values, such as 'datasets: [4]'"),
        ("# nothing\n", "study.yaml is empty; fill it"),
        ("a: " + 3000 * "[" + "\n", "study.yaml has values in values too deep to be a study"),
        (
            "a: &a [1,1,1,1,1,1,1,1,1,1]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]\n"
            "c: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c]\n",
            "study.yaml, line 1: more than 10000 values; a study has far fewer",
        ),
    ],
)
def test_what_is_no_study_is_refused(text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        parsed_document(text, FILE)
    assert str(caught.value).startswith(message)


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    with pytest.raises(InputError, match=r"does not exist; write one with: nnunet-attn study init"):
        read_document(file)
    with pytest.raises(InputError, match=r"cannot be read \(Is a directory\)"):
        read_document(tmp_path)
    file.write_bytes(b"name: \xff\n")
    with pytest.raises(InputError, match="not text in UTF-8"):
        read_document(file)
    file.write_bytes(b"\xef\xbb\xbfname: x\r\n")  # as some editors save it
    assert read_document(file).content == {"name": "x"}
