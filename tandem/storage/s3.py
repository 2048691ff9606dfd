"""S3 (and what speaks like it) as an object store, through boto3.

`s3://BUCKET[/PREFIX]`. Credentials and region are found as boto3 finds them: AWS_ACCESS_KEY_ID and
AWS_SECRET_ACCESS_KEY, AWS_PROFILE, a web identity, the machine's role; AWS_ENDPOINT_URL_S3 names
another server. Needed: s3:GetObject, s3:PutObject, s3:DeleteObject, s3:ListBucket,
s3:AbortMultipartUpload. Conditional writes need a server with If-None-Match and If-Match, as AWS
has since 2024.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, BinaryIO

from tandem.errors import Conflict, NotFound, StorageError
from tandem.storage.remote import AGAIN, CONNECT, PAGE, READ, RemoteStore, short
from tandem.storage.store import Progress, Stat
from tandem.storage.transfer import FailedAttempt, retry_after, upload


class S3Store(RemoteStore):
    """One bucket, or one prefix in it."""

    def __init__(self, bucket: str, prefix: str = "") -> None:
        super().__init__(f"s3://{bucket}", prefix)
        self.bucket = bucket

    def _head(self, key: str) -> Stat:
        answer = self._client.head_object(**self._where(key))
        modified = answer["LastModified"].timestamp()
        return Stat(key, answer["ContentLength"], answer["ETag"], modified)

    def _read(self, key: str) -> tuple[bytes, str]:
        answer = self._client.get_object(**self._where(key))
        return answer["Body"].read(), answer["ETag"]

    def _range(self, key: str, at: int, length: int, etag: str | None) -> tuple[bytes, str, str]:
        answer = self._client.get_object(
            **self._where(key),
            Range=f"bytes={at}-{at + length - 1}",
            **self._condition(False, etag),
        )
        return answer["Body"].read(), answer.get("ContentRange") or "", answer["ETag"]

    def _condition(self, if_absent: bool, if_match: str | None) -> dict[str, Any]:
        if if_match is not None:
            return {"IfMatch": if_match}
        return {"IfNoneMatch": "*"} if if_absent else {}

    def _put(self, key: str, content: bytes, condition: dict[str, Any]) -> str:
        answer = self._client.put_object(**self._where(key), Body=content, **condition)
        return str(answer["ETag"])

    def _put_in_blocks(
        self,
        key: str,
        data: BinaryIO,
        first: bytes,
        condition: dict[str, Any],
        progress: Progress | None,
    ) -> Stat:
        where = self._where(key)
        started = self._do(key, lambda: self._client.create_multipart_upload(**where))
        named = {**where, "UploadId": started["UploadId"]}
        parts: dict[int, str] = {}
        sizes = []

        def send(number: int, content: bytes) -> None:
            answer = self._do(
                key,
                lambda: self._client.upload_part(**named, PartNumber=number + 1, Body=content),
            )
            parts[number + 1] = answer["ETag"]
            sizes.append(len(content))

        try:
            upload(data, first, send, progress=progress)
            listed = [{"PartNumber": n, "ETag": parts[n]} for n in sorted(parts)]
            answer = self._do(
                key,
                lambda: self._client.complete_multipart_upload(
                    **named, MultipartUpload={"Parts": listed}, **condition
                ),
            )
        except BaseException:
            # Parts of an upload that is not completed are invisible, and cost storage until
            # aborted.
            self._abort(named)
            raise
        return Stat(key, sum(sizes), answer["ETag"])

    def list(self, prefix: str = "", *, after: str = "") -> Iterator[Stat]:
        more: dict[str, str] = {"StartAfter": self.prefix + after} if after else {}
        while True:
            page = self._do(
                prefix,
                functools.partial(
                    self._client.list_objects_v2,
                    Bucket=self.bucket,
                    Prefix=self.prefix + prefix,
                    MaxKeys=PAGE,
                    **more,
                ),
            )
            for item in page.get("Contents", ()):
                key, modified = item["Key"], item["LastModified"].timestamp()
                yield Stat(key.removeprefix(self.prefix), item["Size"], item["ETag"], modified)
            if not page.get("IsTruncated"):
                return
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def _delete(self, key: str) -> object:
        return self._client.delete_object(**self._where(key))

    def _abort(self, named: dict[str, str]) -> None:
        try:
            self._client.abort_multipart_upload(**named)
        except Exception:  # noqa: BLE001, S110 - the upload's own error is the one to tell
            pass

    def _where(self, key: str) -> dict[str, str]:
        return {"Bucket": self.bucket, "Key": self.prefix + key}

    def _open(self) -> Any:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError

        # Retries are ours (transfer.attempt). Checksums only where needed: files are named by
        # theirs.
        config = Config(
            connect_timeout=CONNECT,
            read_timeout=READ,
            retries={"total_max_attempts": 1},
            max_pool_connections=32,
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        try:
            return boto3.session.Session().client("s3", config=config)
        except (BotoCoreError, ValueError) as problem:
            raise StorageError(f"{self.url}: {short(problem)}") from None

    def _status(self, problem: Exception) -> int | None:
        return _reported(problem)[0]

    def _explain(self, key: str, problem: Exception) -> FailedAttempt:
        from botocore import exceptions as boto

        status, code, headers = _reported(problem)
        where = f"{self.url}: bucket {self.bucket}"
        if code == "NoSuchBucket":
            return FailedAttempt(
                StorageError(f"{where} does not exist: create it, or mend the name")
            )
        if code == "NoSuchUpload":
            return FailedAttempt(
                StorageError(f"{where}: the upload of {key} was aborted by another")
            )
        if status == 404:
            return FailedAttempt(NotFound(f"{self.url}: no object {key}"))
        if status == 412:
            return FailedAttempt(
                Conflict(f"{self.url}: {key} is there already, or was replaced meanwhile")
            )
        if status == 409:
            # Two conditional writes at one moment; AWS asks to try again, and then one is refused.
            return FailedAttempt(
                Conflict(f"{self.url}: {key} was written at the same moment"), True
            )
        if code in ("ExpiredToken", "TokenRefreshRequired"):
            return FailedAttempt(StorageError(f"{where}: the session token expired: log in again"))
        if code in ("InvalidAccessKeyId", "SignatureDoesNotMatch"):
            return FailedAttempt(
                StorageError(
                    f"{where}: the access key was refused ({code}): check AWS_ACCESS_KEY_ID"
                )
            )
        if status in (401, 403):
            return FailedAttempt(
                StorageError(
                    f"{where} refuses ({code or status}): the identity needs s3:GetObject, "
                    "s3:PutObject, s3:DeleteObject and s3:ListBucket on it"
                )
            )
        if status in AGAIN or code in ("SlowDown", "RequestTimeout"):
            wait = retry_after(headers.get("retry-after"))
            state = "is throttling" if status in (429, 503) else f"answers {status}"
            return FailedAttempt(StorageError(f"{where} {state}; try again later"), True, wait)
        if isinstance(problem, boto.NoCredentialsError | boto.PartialCredentialsError):
            return FailedAttempt(
                StorageError(
                    f"{where}: no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
                    "AWS_PROFILE, or give the machine a role"
                )
            )
        if isinstance(
            problem,
            boto.ConnectionError | boto.HTTPClientError | boto.IncompleteReadError | OSError,
        ):
            text = f"{where} cannot be reached, or broke off ({short(problem)})"
            return FailedAttempt(StorageError(text), True)
        if isinstance(problem, boto.BotoCoreError):
            return FailedAttempt(StorageError(f"{where}: {short(problem)}"))
        if isinstance(problem, boto.ClientError):
            return FailedAttempt(StorageError(f"{where} answers {status} {code} for {key}"))
        raise problem


def _reported(problem: Exception) -> tuple[int | None, str, dict[str, str]]:
    response = getattr(problem, "response", None)
    if not isinstance(response, dict):
        return None, "", {}
    answer = response.get("ResponseMetadata", {})
    code = str(response.get("Error", {}).get("Code", ""))
    return answer.get("HTTPStatusCode"), code, answer.get("HTTPHeaders", {})
