"""The bytes of a trace file in pieces: plain or gzip by content, up to damage, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

from specfiles.errors import InputError

PIECE_BYTES = 4 << 20
GZIP = b"\x1f\x8b"
# deflate reaches at most 1032:1, real traces 15 to 60. A file beyond this limit is not a trace.
MOST_RATIO, FREE_BYTES = 300, 256 << 20


class ByteStream:
    """Iterate over a file's decompressed pieces; afterwards `broken` says how the file ended too early.

    One piece is decompressed ahead in a thread (decompression releases the GIL).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.broken = ""
        self.size_bytes = 0  # decompressed so far

    def __iter__(self) -> Iterator[bytes]:
        try:
            with self.path.open("rb") as file, ThreadPoolExecutor(1) as ahead:
                packed = file.read(2) == GZIP
                file.seek(0)
                pieces = self._unpacked(file) if packed else iter(lambda: file.read(PIECE_BYTES), b"")
                waiting = ahead.submit(next, pieces, b"")
                while piece := waiting.result():
                    waiting = ahead.submit(next, pieces, b"")
                    self.size_bytes += len(piece)
                    yield piece
        except FileNotFoundError:
            raise InputError(f"{self.path}: no such file.") from None
        except IsADirectoryError:
            raise InputError(f"{self.path}: is a folder; name its trace files.") from None
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read ({error.strerror or error}).") from None

    def _unpacked(self, file: IO[bytes]) -> Iterator[bytes]:
        from isal import isal_zlib

        read, unpacked = 0, 0
        unpacker = isal_zlib.decompressobj(wbits=31)
        while packed := file.read(PIECE_BYTES // 8):
            read += len(packed)
            while packed:
                if unpacker.eof:
                    if packed[:2] != GZIP:  # padding or garbage after the last member
                        self.broken = "" if not packed.strip(b"\0") else "bytes after the gzip data"
                        return
                    unpacker = isal_zlib.decompressobj(wbits=31)
                try:
                    piece = unpacker.decompress(packed, PIECE_BYTES)
                except Exception as error:  # the decompressor raises several kinds
                    self.broken = f"the gzip data are damaged ({error})"
                    return
                packed = unpacker.unused_data if unpacker.eof else unpacker.unconsumed_tail
                unpacked += len(piece)
                if unpacked > FREE_BYTES and unpacked > MOST_RATIO * read:
                    self.broken = f"the gzip data grow by more than {MOST_RATIO} times; reading stopped"
                    return
                if piece:
                    yield piece
        if not unpacker.eof:
            self.broken = "the gzip data end too early"
