"""Object stores behind one small protocol: a folder, Azure Blob storage, S3."""

from __future__ import annotations

import re
from pathlib import Path

from tandem.errors import SettingError
from tandem.storage.store import Progress, Stat, Store, check_key

__all__ = ["Progress", "Stat", "Store", "check_key", "open_store"]


def open_store(url: str) -> Store:
    """The store that `url` names.

    `file:PATH`, `az://ACCOUNT/CONTAINER[/PREFIX]` or `s3://BUCKET[/PREFIX]`.

    Raises `SettingError` for any other form. Nothing is contacted yet.
    """
    if url.startswith("file:") and url != "file:":
        from tandem.storage.folder import FolderStore

        # file:PATH and file:///PATH, as people write them.
        return FolderStore(Path(re.sub(r"^//(?=/)", "", url.removeprefix("file:"))))
    if parts := re.fullmatch(r"az://([a-z0-9]{3,24})/([a-z0-9$][a-z0-9-]{1,62})(?:/(.+?))?/?", url):
        from tandem.storage.azure import AzureStore

        return AzureStore(parts[1], parts[2], parts[3] or "")
    if parts := re.fullmatch(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(.+?))?/?", url):
        from tandem.storage.s3 import S3Store

        return S3Store(parts[1], parts[2] or "")
    raise SettingError(
        f"store {re.sub('//[^/@]*@', '//…@', url)!r}: expected file:FOLDER, "
        "az://ACCOUNT/CONTAINER[/PREFIX] or s3://BUCKET[/PREFIX]"
    )
