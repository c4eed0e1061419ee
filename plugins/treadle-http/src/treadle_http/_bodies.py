"""Bodies that are read from files while they are sent, so that their size costs no memory."""

from __future__ import annotations

import mimetypes
import os
import re
import secrets
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence

import anyio.to_thread
import attrs
import httpx2

from treadle_http._folder import OpenFile
from treadle_http._messages import HttpPermanentError, ParameterValue, Upload, parameter_text

_CHUNK = 262_144
_UNSAFE = re.compile(r'["\\\x00-\x1f\x7f]')

Segment = bytes | OpenFile


@attrs.frozen(eq=False)
class FileBody(httpx2.AsyncByteStream):
    """Texts and files, one after the other; can be sent again after a redirect.

    Attributes:
        segments: What is sent.
    """

    segments: tuple[Segment, ...]

    @property
    def size(self) -> int:
        """Bytes in all, which is what ``Content-Length`` says."""
        return sum(len(each) if isinstance(each, bytes) else each.size for each in self.segments)

    def __aiter__(self) -> AsyncIterator[bytes]:
        """From the beginning."""
        return _Reading(iter(self.segments))


@attrs.define
class _Reading(AsyncIterator[bytes]):
    """Not a generator: one that is left before its end would wait for the garbage collector."""

    _segments: Iterator[Segment]
    _file: OpenFile | None = None
    _offset: int = 0

    async def __anext__(self) -> bytes:
        while True:
            if self._file is not None:
                if chunk := await self._read(self._file):
                    return chunk
                self._file = None
            segment = next(self._segments, None)
            if segment is None:
                raise StopAsyncIteration
            if isinstance(segment, bytes):
                return segment
            self._file, self._offset = segment, 0

    async def _read(self, file: OpenFile) -> bytes:
        wanted = min(_CHUNK, file.size - self._offset)
        if not wanted:
            return b""
        chunk = await anyio.to_thread.run_sync(os.pread, file.descriptor, wanted, self._offset)
        if not chunk:
            raise HttpPermanentError(f"File {file.name!r} became shorter while it was sent.", "Let its writer finish first.")
        self._offset += len(chunk)
        return chunk


def multipart(
    fields: Mapping[str, ParameterValue | list[ParameterValue]], uploads: Sequence[tuple[Upload, OpenFile]]
) -> tuple[FileBody, str]:
    """A form with files, and its content type."""
    boundary = secrets.token_hex(16)
    segments: list[Segment] = []
    for name, value in fields.items():
        for each in value if isinstance(value, list) else [value]:
            head = f'--{boundary}\r\nContent-Disposition: form-data; name="{_quoted(name)}"\r\n\r\n{parameter_text(each)}\r\n'
            segments.append(head.encode())
    for upload, file in uploads:
        name = upload.filename or file.name
        kind = upload.content_type or mimetypes.guess_type(name)[0] or "application/octet-stream"
        disposition = f'form-data; name="{_quoted(upload.field)}"; filename="{_quoted(name)}"'
        head = f"--{boundary}\r\nContent-Disposition: {disposition}\r\nContent-Type: {kind}\r\n\r\n"
        segments += [head.encode(), file, b"\r\n"]
    segments.append(f"--{boundary}--\r\n".encode())
    return FileBody(tuple(segments)), f"multipart/form-data; boundary={boundary}"


def _quoted(text: str) -> str:
    """Within quotation marks, as browsers write it: nothing ends the marks or the line."""
    return _UNSAFE.sub(lambda found: f"%{ord(found.group()):02X}", text)
