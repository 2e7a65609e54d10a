from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_attn.errors import InputError
from nnunet_attn.registering.metaimage import check_metaimage
from nnunet_attn.registering.reading import read_picture
from tests.made.loose import volume


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("ending", [".mha", ".mhd"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64, np.uint64])
def test_one_missing_byte_is_noticed(
    tmp_path: Path, dtype: type, ending: str, compressed: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / f"a{ending}"
    array = volume().astype(dtype)
    sitk.WriteImage(sitk.GetImageFromArray(array), str(file), useCompression=compressed)
    assert np.array_equal(read_picture(file).array[0], array)
    (voxels,) = [path for path in tmp_path.iterdir() if path.suffix != ".mhd"]
    content = voxels.read_bytes()
    voxels.write_bytes(content[:-1])
    with pytest.raises(InputError) as raised:
        read_picture(file)
    assert str(raised.value) == (
        f"{voxels} is cut short: {len(content) - 1} bytes of the {len(content)} in its header; "
        "replace it or leave out the case"
    )
    assert capfd.readouterr().err == ""


def test_channels_count(tmp_path: Path) -> None:
    file = tmp_path / "a.mha"
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((4, 5, 6, 3), np.uint8), isVector=True), str(file))
    check_metaimage(file)
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(InputError, match="is cut short"):
        check_metaimage(file)


def test_what_a_header_does_not_say_is_left_to_itk(tmp_path: Path) -> None:
    file = tmp_path / "a.mhd"
    for text in (
        "no header",
        "DimSize = 5 5\nElementType = MET_LONG\nElementDataFile = LOCAL\n",
        "DimSize = 5 5\nElementType = MET_SHORT\nElementDataFile = gone.raw\n",
        "DimSize = 5 5\nHeaderSize = -1\nElementType = MET_SHORT\nElementDataFile = LOCAL\n",
        "DimSize = five\nElementType = MET_SHORT\nElementDataFile = LOCAL\n",
    ):
        file.write_text(text)
        check_metaimage(file)
