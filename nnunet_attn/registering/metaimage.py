"""Whether a MetaImage file is whole; ITK prints a riddle on the screen where it is not."""

import math
import re
from pathlib import Path

from nnunet_attn.errors import InputError

_MOST_HEADER = 1 << 16
_BYTES = {
    "MET_CHAR": 1,
    "MET_UCHAR": 1,
    "MET_SHORT": 2,
    "MET_USHORT": 2,
    "MET_INT": 4,
    "MET_UINT": 4,
    "MET_FLOAT": 4,
    "MET_DOUBLE": 8,
    "MET_LONG_LONG": 8,
    "MET_ULONG_LONG": 8,
}


def check_metaimage(path: Path) -> None:
    """Check that the voxels that a header tells of are there, as far as the header says so.

    Raises:
        InputError: If bytes are missing.
        OSError: If the file cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(_MOST_HEADER)
    end = re.search(rb"^ElementDataFile *= *(.+?) *\r?\n", head, re.MULTILINE)
    if end is None:
        return
    text = head[: end.end()].decode("latin-1")
    fields = dict(re.findall(r"^(\w+) *= *(.*?) *\r?$", text, re.MULTILINE))
    local = fields["ElementDataFile"].upper() == "LOCAL"
    voxels = path if local else path.parent / fields["ElementDataFile"]
    try:
        if fields.get("CompressedData", "False").lower() == "true":
            wanted = int(fields["CompressedDataSize"])
        else:
            count = math.prod(map(int, fields["DimSize"].split())) * int(fields.get("ElementNumberOfChannels", "1"))
            wanted = count * _BYTES[fields["ElementType"]]
    except (KeyError, ValueError):
        return
    if "HeaderSize" in fields or not voxels.is_file():
        return
    wanted += end.end() if local else 0
    length = voxels.stat().st_size
    if length < wanted:
        raise InputError(
            f"{voxels} is cut short: {length} bytes of the {wanted} in its header; replace it or leave out the case"
        )
