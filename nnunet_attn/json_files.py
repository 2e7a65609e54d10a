"""JSON files of nnU-Net, of data sets and our own, read with one clear message where that fails."""

import json
from pathlib import Path
from typing import Any

from nnunet_attn.errors import InputError


def read_json(file: Path, remedy: str) -> Any:
    """Return what a JSON file holds.

    Args:
        file: The file.
        remedy: What to do if it cannot be read, as the message's last words.
    Raises:
        InputError: If it is missing, may not be read, or is not JSON.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{file} does not exist; {remedy}") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{file} cannot be read as JSON ({error}); {remedy}") from error


def read_object(file: Path, remedy: str) -> dict[str, Any]:
    """Return what a JSON file holds that has to be one object.

    Raises:
        InputError: As `read_json`, or if it holds something else.
    """
    content = read_json(file, remedy)
    if not isinstance(content, dict):
        raise InputError(f"{file} holds no JSON object; {remedy}")
    return content
