"""Zip archives of many small files, read in place."""

import os
import struct
import zipfile
import zlib
from pathlib import Path

# PKWARE's APPNOTE.TXT, 4.3.7: signature, 22 bytes, lengths of file name and extra field.
LOCAL_HEADER = struct.Struct("<26xHH")
LONGEST_EXTRA = 128
ENCRYPTED = 0x1


class Archive:
    """A zip file whose members are read with one system call each.

    zipfile's own set-up for a member takes longer than decoding a small photo. What cannot be
    opened or read raises OSError or zipfile.BadZipFile.
    """

    def __init__(self, path: Path) -> None:
        self._zip = zipfile.ZipFile(path)

    def sizes(self) -> dict[str, int]:
        """The files in it, and their declared sizes in bytes."""
        return {info.filename: info.file_size for info in self._zip.infolist() if not info.is_dir()}

    def read(self, member: str) -> bytes:
        """A file's bytes: no more than it says that it has."""
        try:
            return self._read(self._zip.getinfo(member))
        except (zlib.error, EOFError, KeyError, RuntimeError) as error:
            # Damaged, cut short, absent; encrypted or compressed in an unknown way.
            raise zipfile.BadZipFile(f"cannot be unpacked ({error})") from error

    def _read(self, info: zipfile.ZipInfo) -> bytes:
        if info.flag_bits & ENCRYPTED:
            raise zipfile.BadZipFile(f"{info.filename}: encrypted")
        file = self._zip.fp
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or file is None:
            return self._zip.read(info)
        # The local header repeats the name, with an extra field of its own length.
        longest = LOCAL_HEADER.size + len(info.orig_filename.encode()) + LONGEST_EXTRA
        content = os.pread(file.fileno(), longest + info.compress_size, info.header_offset)
        if len(content) < LOCAL_HEADER.size or content[:4] != b"PK\3\4":
            raise zipfile.BadZipFile(f"{info.filename}: not where the archive's directory says")
        name_length, extra_length = LOCAL_HEADER.unpack_from(content)
        if extra_length > LONGEST_EXTRA:
            return self._zip.read(info)
        start = LOCAL_HEADER.size + name_length + extra_length
        data = content[start : start + info.compress_size]
        if info.compress_type:
            data = zlib.decompressobj(-15).decompress(data, info.file_size + 1)
        if zlib.crc32(data) != info.CRC:
            raise zipfile.BadZipFile(f"{info.filename}: wrong checksum, the archive is damaged")
        return data
