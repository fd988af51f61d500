"""Files of netCDF 4: put together in memory first, because HDF5 itself does not survive a disk that fills."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bayesprune.models.files.tensor_file import tensor_digest
from bayesprune.models.files.unwritable import naming

__all__ = ["write_netcdf"]


def write_netcdf(data: Any, file: Path) -> str:
    """Writes a data set or data tree of xarray.

    Args:
        data: It; anything with xarray's ``to_netcdf``.
        file: The file; one that is there is written over, so it should be a staged one.

    Returns:
        The digest of the file, as `bayesprune.models.files.tensor_file.write_tensors`.

    Raises:
        Unwritable: If it cannot be written.
    """
    file = file.absolute()  # xarray expands ~ where it stands at the front
    with naming(file):
        try:
            stored = bytes(data.to_netcdf(engine="h5netcdf"))
        except (TypeError, ValueError, NotImplementedError):  # earlier versions of xarray write to files only
            data.to_netcdf(file, engine="h5netcdf")
            return tensor_digest(file.read_bytes())
        file.write_bytes(stored)
        return tensor_digest(stored)
