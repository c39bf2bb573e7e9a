"""Images that lie in tar files, read one by one where they lie: nothing is unpacked.

`webdataset` lists them: columns `tar` (name of the tar file), `tar_offset` and `tar_size`
(bytes of the image in it) of the metadata, and in ``webdataset.json`` the folder of the tar files.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pandas as pd
from torch import Tensor

from bias_evaluation.datasets.image_loading import ImageRows
from bias_evaluation.datasets.rgb import Reading
from safe_io.documents import Section
from safe_io.files import read_json

SOURCE = "webdataset.json"
TAR_COLUMNS = ("tar", "tar_offset", "tar_size")


def in_tars(metadata: pd.DataFrame) -> bool:
    """Whether the images of a dataset lie in tar files."""
    return set(TAR_COLUMNS) <= set(metadata.columns)


class TarRows(ImageRows):
    """Preprocessed images by row, from tar files.

    Parameters
    ----------
    folder : pathlib.Path
        Dataset folder.
    metadata : pandas.DataFrame
        One row an image, with `file_path` and the columns `TAR_COLUMNS`.
    preprocess : callable
        PIL image → tensor.
    reading : Reading, optional
        As for `ImageRows`.

    Raises
    ------
    InputError
        The folder does not say where the tar files are.
    """

    def __init__(
        self,
        folder: Path,
        metadata: pd.DataFrame,
        preprocess: Callable[..., Tensor],
        reading: Reading | None = None,
    ) -> None:
        super().__init__(folder, metadata["file_path"].astype(str).tolist(), preprocess, reading)
        path = folder / SOURCE
        self._tar_folder = Path(Section(read_json(path, "list of tar files"), str(path)).take("folder", str))
        self._places = metadata[list(TAR_COLUMNS)].reset_index(drop=True)

    def select(self, rows: range) -> TarRows:
        """Copy what some rows need, under the same row numbers."""
        chosen = super().select(rows)
        chosen._places = self._places.loc[rows.start : rows.stop - 1]
        return chosen

    def source(self, row: int) -> BinaryIO:
        """Read the bytes of an image."""
        tar, offset, size = self._places.loc[row]
        with (self._tar_folder / tar).open("rb") as file:
            file.seek(offset)
            return io.BytesIO(file.read(size))
