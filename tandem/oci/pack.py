"""Put a model on an app image: one layer, and the statements about the result."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tandem.errors import RegistryError
from tandem.oci import Progress, Registry, Transfer
from tandem.oci.attest.materials import components_in
from tandem.oci.attest.provenance import Origin
from tandem.oci.attest.referrers import (
    Referrer,
    list_missing,
    list_referrers,
    put_contents,
    put_manifests,
    read_list,
)
from tandem.oci.attest.statements import attest, bill_of, provenance_of
from tandem.oci.image import Image
from tandem.oci.layer import BuiltLayer
from tandem.oci.pull import pull
from tandem.oci.push import BlobPush, ImagePush, Session


def pack(
    registry: Registry,
    app_image: str,
    make: Callable[[], BuiltLayer],
    change: Callable[[Image], Image],
    origin: Origin,
    *,
    tag: str | None = None,
    signer: Any | None = None,
    expect_new: bool = False,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> tuple[Image, list[Transfer]]:
    """Put one more layer on an app image of this registry, push and attest the result.

    `app_image` is a digest; `make` makes the layer, and `change` gives the app image the settings
    that go with it. Nothing waits for what it does not need: the layer goes up while the app image
    is still being read, and the statements while the layer goes up. An image that was not there
    before appears last, with its statements. For a layer that is expected to be new, uploads are
    opened while it is being made. `cache`: see `pull` and `components_in`. Returns the whole image
    and what happened to its blobs. Raises `RegistryError`.
    """
    with ThreadPoolExecutor(8) as pool:
        sessions: list[Session | None] = [None] * 4
        if expect_new:
            sessions = [pool.submit(registry.open_upload) for _ in sessions]
        layer_session, config_session, *statement_sessions = sessions
        reading = pool.submit(pull, registry, app_image, cache=cache)
        built = make()
        descriptor = built.layer.descriptor
        layer = BlobPush(
            pool, registry, descriptor, built.open, session=layer_session, progress=progress
        )
        below = reading.result()
        image = change(below).append(built.layer)
        pushed = ImagePush(
            pool,
            registry,
            image,
            based_on=below,
            under_way={descriptor.digest: layer},
            config_session=config_session,
            progress=progress,
        )

        def put_statements() -> list[Referrer]:
            key = signer.public_key if signer else None
            components = components_in(registry, app_image, key=key, cache=cache)
            statements = [
                bill_of(registry, image, origin, components, signer),
                provenance_of(registry, image, origin, signer),
            ]
            opened = [session.result() if session else None for session in statement_sessions]
            put_contents(registry, statements, absent=True, sessions=opened)
            if not pushed.is_new():
                return []
            listing = pool.submit(read_list, registry, image.digest)
            added = put_manifests(registry, image, statements)
            list_missing(registry, image.digest, added, listed=listing.result())
            return added

        # Their content is sent before it is known whether the image is new, where that is expected.
        stating = pool.submit(put_statements) if expect_new or pushed.is_new() else None
        transfers = pushed.transfers()
        added = stating.result() if stating else []
        checking = pool.submit(list_referrers, registry, image.digest, added) if added else None
        try:
            pushed.put_manifest(tag)
        except RegistryError:
            pull(registry, app_image)  # raises where it is the app image that is gone
            raise
        if checking is None:
            attest(registry, image, origin, app_image=app_image, signer=signer, cache=cache)
        else:
            checking.result()
    return image, transfers
