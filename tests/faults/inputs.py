"""Makers of bad input for the fault matrix: files that are cut, damaged or lie about their size, and tables with a fault."""

import gzip
import io
import json
import struct
import wave
import zipfile
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

N = 240  # Rows of the tables


@cache
def customers() -> pd.DataFrame:
    """Customers of a phone company: numbers, dates, categories, a yes-or-no column, and who left."""
    rng = np.random.default_rng(0)
    charges, plan = rng.normal(60, 20, N).round(2), rng.choice(["basic", "pro", "team"], N)
    paperless = rng.integers(0, 2, N)
    joined = pd.Timestamp("2022-01-01") + pd.to_timedelta(rng.permutation(N), "D")
    left = charges / 20 + (plan == "basic") - paperless + rng.normal(0, 0.5, N) > 3
    return pd.DataFrame(
        {
            "charges": charges,
            "age": rng.integers(18, 90, N),
            "plan": plan,
            "paperless": paperless,
            "joined": joined.strftime("%Y-%m-%d"),
            "left": np.where(left, "yes", "no"),
        }
    )


def numbers(n: int = N, columns: int = 3) -> pd.DataFrame:
    """Columns of normal numbers, and a class that the first of them tells."""
    frame = pd.DataFrame(np.random.default_rng(1).normal(size=(n, columns)), columns=[f"x{i}" for i in range(columns)])
    return frame.assign(left=np.where(frame["x0"] + 0.3 * frame["x1"] > 0, "yes", "no"))


# -- files -----------------------------------------------------------------------------------------------------------


def cut(content: bytes, *shares: float) -> list[bytes]:
    """The first part of a file, for each of several shares of its length."""
    return [content[: int(len(content) * share)] for share in shares or (0.1, 0.5, 0.9)]


def flipped(content: bytes, places: int = 5) -> list[bytes]:
    """The same file with all bits of a byte turned round, once at each of several places of its second half."""
    half = len(content) // 2
    at = range(half, len(content), max(1, half // places))
    return [content[:i] + bytes([content[i] ^ 255]) + content[i + 1 :] for i in at]


def parquet(frame: pd.DataFrame | None = None) -> bytes:
    out = io.BytesIO()
    (customers() if frame is None else frame).to_parquet(out, index=False)
    return out.getvalue()


def lines(frame: pd.DataFrame | None = None) -> bytes:
    return (customers() if frame is None else frame).to_json(orient="records", lines=True).encode()


def npz() -> bytes:
    out = io.BytesIO()
    np.savez(out, x=np.arange(1000))
    return out.getvalue()


def archive(**members: bytes) -> bytes:
    """A zip archive."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as z:
        for name, content in members.items():
            z.writestr(name, content)
    return out.getvalue()


def gzip_bomb(path: Path, size: int) -> None:
    """A gzip file of one line of ``size`` letters, some thousandth of it on the disk."""
    with gzip.open(path, "wb", compresslevel=1) as f:
        f.write(b"a,b\n1,")
        for _ in range(size >> 24):
            f.write(b"x" * (1 << 24))
        f.write(b"\n")


def sparse(path: Path, size: int, start: bytes = b"") -> None:
    """A file of many zeros that takes no room on the disk."""
    with open(path, "wb") as f:
        f.write(start)
        f.truncate(size)


_OX = "http://schemas.openxmlformats.org"
_PARTS, _RELATIONS, _SHEETS = f"{_OX}/package/2006", f"{_OX}/officeDocument/2006/relationships", f"{_OX}/spreadsheetml/2006/main"
_KIND = "application/vnd.openxmlformats-officedocument.spreadsheetml"
_SHEET_PARTS = {
    "[Content_Types].xml": f'<Types xmlns="{_PARTS}/content-types"><Default Extension="rels" '
    'ContentType="application/vnd.openxmlformats-package.relationships+xml"/><Default Extension="xml" ContentType="application/xml"/>'
    f'<Override PartName="/xl/workbook.xml" ContentType="{_KIND}.sheet.main+xml"/>'
    f'<Override PartName="/xl/worksheets/sheet1.xml" ContentType="{_KIND}.worksheet+xml"/></Types>',
    "_rels/.rels": f'<Relationships xmlns="{_PARTS}/relationships"><Relationship Id="r1" Target="xl/workbook.xml" '
    f'Type="{_RELATIONS}/officeDocument"/></Relationships>',
    "xl/workbook.xml": f'<workbook xmlns="{_SHEETS}" xmlns:r="{_RELATIONS}"><sheets>'
    '<sheet name="S" sheetId="1" r:id="r1"/></sheets></workbook>',
    "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{_PARTS}/relationships"><Relationship Id="r1" Target="worksheets/sheet1.xml" '
    f'Type="{_RELATIONS}/worksheet"/></Relationships>',
}


def workbook(cells: dict[str, object], *, dimension: str = "A1:B3", padding_mb: int = 0) -> bytes:
    """A workbook of one sheet with these cells, the size that the sheet states, and zeros beside it."""
    rows = "".join(
        f'<row r="{place.lstrip("ABCDEFGHIJKLMNOPQRSTUVWXYZ")}"><c r="{place}"><v>{value}</v></c></row>' for place, value in cells.items()
    )
    sheet = f'<worksheet xmlns="{_SHEETS}"><dimension ref="{dimension}"/><sheetData>{rows}</sheetData></worksheet>'
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as z:
        for name, text in (_SHEET_PARTS | {"xl/worksheets/sheet1.xml": sheet}).items():
            z.writestr(name, text)
        if padding_mb:
            with z.open("xl/sharedStrings.xml", "w") as f:
                for _ in range(padding_mb):
                    f.write(bytes(1 << 20))
    return out.getvalue()


def column_of_cells(n: int) -> dict[str, object]:
    return {f"A{i}": i for i in range(1, n)}


# -- images and recordings -------------------------------------------------------------------------------------------


def picture(kind: str = "PNG", mode: str = "RGB", size: tuple[int, int] = (48, 32)) -> bytes:
    """A file of an image of noise."""
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    if mode == "I;16":
        image = Image.fromarray(noise[..., 0].astype(np.uint16) * 257)
    elif mode != "RGB":
        image = image.convert(mode)
    out = io.BytesIO()
    image.save(out, kind)
    return out.getvalue()


def png_header(width: int, height: int) -> bytes:
    """The first bytes of a PNG file of this size, without its pixels."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body)) + struct.pack(">I", 0) + b"IDAT"


def recording(samples: np.ndarray | None = None, rate: int = 16_000) -> bytes:
    """A WAV file; a tone of a second when no samples are given."""
    x = 0.3 * np.sin(np.arange(16_000) / 8) if samples is None else samples
    out = io.BytesIO()
    with wave.open(out, "wb") as f:
        f.setparams((1, 2, rate, 0, "NONE", ""))
        f.writeframes((x * 32767).astype("<i2").tobytes())
    return out.getvalue()


def wav_header(rate: int, channels: int = 1, stated: int | None = None) -> bytes:
    """A WAV file that states this rate, so many channels, and a number of bytes."""
    sound = struct.pack("<200h", *range(0, 20_000, 100)) * channels
    head = struct.pack("<HHIIHH", 1, channels, rate, rate * channels * 2 % 2**32, channels * 2 % 2**16, 16)
    size = len(sound) if stated is None else stated
    return (
        b"RIFF"
        + struct.pack("<I", min(36 + size, 2**32 - 1))
        + b"WAVEfmt "
        + struct.pack("<I", 16)
        + head
        + b"data"
        + struct.pack("<I", size)
        + sound
    )


def float_recording(samples: np.ndarray) -> bytes:
    """A WAV file of 32-bit floating-point samples, which can be NaN."""
    sound = samples.astype("<f4").tobytes()
    head = struct.pack("<HHIIHH", 3, 1, 16_000, 64_000, 4, 32)
    return (
        b"RIFF"
        + struct.pack("<I", 36 + len(sound))
        + b"WAVEfmt "
        + struct.pack("<I", 16)
        + head
        + b"data"
        + struct.pack("<I", len(sound))
        + sound
    )


# -- model files -----------------------------------------------------------------------------------------------------


class Canary:
    """A pickle of this creates a file when it is opened."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def safetensors(shape: list[int], *, head: int | None = None, size: int = 0) -> bytes:
    """A file of tensors whose header promises this shape."""
    end = 4 * int(np.prod(shape, dtype=object))
    header = json.dumps({"x": {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}}).encode()
    return struct.pack("<Q", len(header) if head is None else head) + header + bytes(size)


def seal(run: Path) -> None:
    """New checksums for the files of a run, as somebody writes them who changes the files on purpose."""
    from aimt.core.files import sha256
    from aimt.core.run import _digest

    model = run / "model" / "model.json"
    state = json.loads(model.read_text())
    state["files"] = {name: sha256(run / "model" / name) for name in state["files"]}
    model.write_text(json.dumps(state))
    info = json.loads((run / "run.json").read_text())
    info["files"] |= {name: sha256(run / name) for name in info["files"]}
    info["digest"] = _digest(info)
    (run / "run.json").write_text(json.dumps(info))


def edit_json(path: Path, change: Callable[[dict], object]) -> None:
    state = json.loads(path.read_text())
    change(state)
    path.write_text(json.dumps(state))
