"""The header blocks of SPDY/3: names and values with their lengths, in one zlib stream for each direction.

Source: SPDY Protocol, draft 3.1, 2.6.10 "Name/Value Header Block".
"""

from __future__ import annotations

import zlib
from typing import Final

HEADER_BYTES_MAX: Final = 16 << 10  # of one block, uncompressed
HEADERS_MAX: Final = 64

_WORDS: Final = (
    "options,head,post,put,delete,trace,accept,accept-charset,accept-encoding,accept-language,accept-ranges,age,allow,"
    "authorization,cache-control,connection,content-base,content-encoding,content-language,content-length,"
    "content-location,content-md5,content-range,content-type,date,etag,expect,expires,from,host,if-match,"
    "if-modified-since,if-none-match,if-range,if-unmodified-since,last-modified,location,max-forwards,pragma,"
    "proxy-authenticate,proxy-authorization,range,referer,retry-after,server,te,trailer,transfer-encoding,upgrade,"
    "user-agent,vary,via,warning,www-authenticate,method,get,status,200 OK,version,HTTP/1.1,url,public,set-cookie,"
    "keep-alive,origin"
)
_TAIL: Final = (
    "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505"
    "203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized"
    "403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable"
    "Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT"
    "chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,text/javascript,"
    "publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0."
)
DICTIONARY: Final = (
    b"".join(len(word).to_bytes(4, "big") + word.encode() for word in _WORDS.split(",")) + _TAIL.encode()
)


class BadBlock(Exception):
    """A block that cannot be read. The zlib stream of the connection is lost with it."""


class BadHeaders(Exception):
    """A block that was read, with headers that the protocol forbids."""


class Inflater:
    """Reads the header blocks of one connection, which must come in their order."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(zdict=DICTIONARY)

    def read(self, block: bytes) -> dict[str, str]:
        """Return the headers of a block, of several values of one header the first.

        Raises:
            BadBlock: it is not zlib, is cut, or holds more than ``HEADER_BYTES_MAX``.
            BadHeaders: a name comes twice, is empty, or has upper-case letters.
        """
        try:
            raw = self._zlib.decompress(block, HEADER_BYTES_MAX + 1)
        except zlib.error as error:
            raise BadBlock(f"header block is not zlib: {error}") from None
        if len(raw) > HEADER_BYTES_MAX:
            raise BadBlock(f"header block of more than {HEADER_BYTES_MAX} bytes")
        if self._zlib.eof:
            raise BadBlock("header compression ends before the connection does")
        return _parse(raw)


class Deflater:
    """Writes the header blocks of one connection, which must be sent in their order."""

    def __init__(self) -> None:
        # what a server sends are empty blocks: a window that just holds the dictionary spares 250 KiB a connection
        self._zlib = zlib.compressobj(level=6, wbits=11, memLevel=1, zdict=DICTIONARY)

    def write(self, headers: dict[str, str]) -> bytes:
        """Return the block for *headers*."""
        raw = len(headers).to_bytes(4, "big")
        for text in (part for pair in headers.items() for part in pair):
            raw += len(text).to_bytes(4, "big") + text.encode("latin-1")
        return self._zlib.compress(raw) + self._zlib.flush(zlib.Z_SYNC_FLUSH)


def _parse(raw: bytes) -> dict[str, str]:
    count = int.from_bytes(raw[:4], "big")
    if len(raw) < 4 or count > HEADERS_MAX:
        raise BadBlock(f"header block of {len(raw)} bytes with {count} headers: wanted at most {HEADERS_MAX}")
    texts = []
    at = 4
    for _ in range(2 * count):
        end = at + 4 + int.from_bytes(raw[at : at + 4], "big")
        if end > len(raw) or at + 4 > len(raw):
            raise BadBlock("header block is cut")
        texts.append(raw[at + 4 : end].decode("latin-1"))
        at = end
    if at != len(raw):
        raise BadBlock(f"header block has {len(raw) - at} bytes too many")
    names = texts[::2]
    if len(set(names)) != len(names) or any(not name or name != name.lower() for name in names):
        raise BadHeaders("a header name is empty, comes twice, or has upper-case letters")
    return {name: value.partition("\0")[0] for name, value in zip(names, texts[1::2], strict=True)}
