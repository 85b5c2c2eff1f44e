"""Pictures: every way to store one, every way to damage one, and the same numbers as the preprocessing of transformers."""

import io
import json
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from aimt.core.errors import DataError, ModelFormatError
from aimt.data.image import read as module
from aimt.data.image.read import CLIP_MEAN, CLIP_STD, CLIPImages, read_image
from aimt.data.image.synthetic_shapes import COLOURS, PLACES, SHAPES, all_captions, draw_shapes, is_held_out


def picture(width=50, height=30, seed=0) -> Image.Image:
    """Smooth colours, so that a JPEG of it stays close."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(30, 226, (4, 5, 3), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


def stored(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def gap(a, b) -> float:
    return float(np.abs(np.asarray(a).astype(int) - np.asarray(b).astype(int)).max())


# ---- everything that can be read


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP", "PPM", "GIF", "JPEG"])
def test_formats(kind, tmp_path):
    path = tmp_path / "a.dat"  # the name says nothing
    options = {"quality": 95} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    path.write_bytes(stored(picture(), kind, **options))
    got = read_image(path)
    assert got.dtype == np.uint8 and got.shape == (30, 50, 3) and got.flags.writeable
    assert np.abs(got.astype(int) - np.asarray(picture())).mean() < {"GIF": 8, "JPEG": 3}.get(kind, 1e-9)
    assert np.array_equal(read_image(str(path)), got) and np.array_equal(read_image(path.read_bytes()), got)


@pytest.mark.parametrize("turn", range(1, 9))
def test_exif_rotation(turn):
    back = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    exif = Image.Exif()
    exif[0x0112] = turn
    lying = picture().transpose(back[turn]) if turn > 1 else picture()
    assert gap(read_image(stored(lying, "PNG", exif=exif)), picture()) == 0


def test_damaged_exif_is_no_reason_to_refuse():
    data = stored(picture(), "JPEG", quality=95, exif=b"Exif\x00\x00II*\x00\xff\xff\xff\x7fnonsense")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_image(data).shape == (30, 50, 3)


def test_grey_palette_and_inks():
    grey = picture().convert("L")
    for way in (stored(grey), stored(grey.convert("1")), stored(grey.quantize(16)), stored(grey.convert("CMYK"), "JPEG")):
        got = read_image(way)
        assert got.shape == (30, 50, 3)
    assert gap(read_image(stored(grey)), np.asarray(grey)[..., None].repeat(3, 2)) == 0
    assert gap(read_image(stored(picture().convert("CMYK"), "TIFF")), picture()) <= 1
    assert np.abs(read_image(stored(picture().convert("CMYK"), "JPEG", quality=95)).astype(int) - np.asarray(picture())).mean() < 6
    assert gap(read_image(stored(picture().convert("LAB"), "TIFF")), picture()) < 256  # read at all


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_transparency_is_white(mode):
    clear = Image.new("RGBA", (6, 4), (200, 30, 60, 0))
    clear.paste((0, 0, 0, 255), (0, 0, 3, 4))
    image = clear.convert("LA") if mode == "LA" else clear
    data = stored(image.quantize(4) if mode == "PA" else image)
    got = read_image(data)
    assert (got[:, :3] == 0).all() and (got[:, 3:] == 255).all()


def test_transparent_colour_of_a_palette():
    image = Image.new("P", (4, 4), 1)
    image.putpalette([255, 0, 0, 0, 255, 0])
    assert (read_image(stored(image, "PNG", transparency=1)) == 255).all()
    assert (read_image(stored(image, "GIF", transparency=1)) == 255).all()
    assert (read_image(stored(image)) == (0, 255, 0)).all()


def test_sixteen_bits_keep_their_shades():
    ramp = np.linspace(0, 65535, 256).astype(np.uint16)[None]
    for way in (stored(Image.fromarray(ramp)), stored(Image.fromarray(ramp), "TIFF"), ramp, Image.fromarray(ramp)):
        assert np.array_equal(read_image(way)[0, :, 0], np.arange(256))
    big_endian = stored(Image.fromarray(ramp.astype(np.int32)), "TIFF")  # mode I
    assert np.array_equal(read_image(big_endian)[0, :, 0], np.arange(256))


def test_colour_png_of_sixteen_bits():
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    row = b"\x00" + struct.pack(">6H", 65535, 0, 32768, 257, 514, 65535)
    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")
    assert read_image(data).tolist() == [[[255, 0, 128], [1, 2, 255]]]


def test_floats_of_a_tiff():
    ramp = np.linspace(0, 1, 256, dtype=np.float32)[None]
    assert np.array_equal(read_image(stored(Image.fromarray(ramp), "TIFF"))[0, :, 0], np.arange(256))
    assert np.array_equal(read_image(stored(Image.fromarray(ramp * 255), "TIFF"))[0, :, 0], np.arange(256))
    with pytest.raises(DataError, match="range is not known"):
        read_image(stored(Image.fromarray(ramp * 4000), "TIFF"))


def test_first_frame():
    frames = [Image.new("RGB", (4, 4), c) for c in ("red", "blue")]
    for kind in ("GIF", "TIFF", "WEBP"):
        data = stored(frames[0], kind, save_all=True, append_images=frames[1:])
        assert gap(read_image(data)[0, 0], (255, 0, 0)) <= 2


def test_arrays():
    a = np.asarray(picture())
    assert np.array_equal(read_image(a), a) and read_image(a) is not a
    assert np.array_equal(read_image(a / 255), a)
    assert np.array_equal(read_image(a.astype(np.int64)), a)
    assert np.array_equal(read_image(a.astype(np.uint16) * 257), a)
    assert read_image(a[..., 0]).shape == read_image(a[..., :1]).shape == a.shape
    half = np.dstack([a, np.full(a.shape[:2], 128, np.uint8)])
    assert gap(read_image(half), 255 - (255 - a.astype(int)) * 128 // 255) <= 1
    torch = pytest.importorskip("torch")
    assert np.array_equal(read_image(torch.from_numpy(a.copy())), a)


# ---- everything that cannot

SIGNATURES = [
    (b"", "empty"),
    (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
    (b'<?xml version="1.0"?>\n<!-- a --><svg/>', "SVG"),
    (b"<!DOCTYPE html><p>404", "web page"),
    (b"  <html>", "web page"),
    (b"version https://git-lfs.github.com/spec/v1\n", "LFS"),
    (b"\x00\x00\x00\x18ftypheic\x00\x00", "HEIC"),
    (b"\x00\x00\x00\x18ftypisom\x00\x00", "video"),
    (b"%PDF-1.7", "PDF"),
    (b"PK\x03\x04abc", "zip"),
    (b"just words", "not an image of a known format"),
    (b"\x00" * 500, "not an image"),
]


@pytest.mark.parametrize("data,words", SIGNATURES)
def test_no_picture(data, words, tmp_path):
    path = tmp_path / "cat.jpg"
    path.write_bytes(data)
    with pytest.raises(DataError, match=words) as error:
        read_image(path)
    assert str(error.value).startswith(str(path)) and error.value.hint
    with pytest.raises(DataError, match=words):
        read_image(data)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "TIFF", "WEBP"])
def test_flipped_bytes_never_raise_anything_else(kind):
    data = bytearray(stored(picture(), kind))
    rng = np.random.default_rng(1)
    for _ in range(60):
        hurt = bytearray(data)
        for at in rng.integers(0, len(hurt), 4):
            hurt[at] = int(rng.integers(256))
        try:
            assert read_image(bytes(hurt), max_pixels=10**6).ndim == 3
        except DataError:
            pass


def test_missing_and_folder(tmp_path):
    (tmp_path / "cat.png").write_bytes(stored(picture()))
    with pytest.raises(DataError, match="Did you mean 'cat.png'"):
        read_image(tmp_path / "cta.png")
    with pytest.raises(DataError, match="folder"):
        read_image(tmp_path)
    with pytest.raises(DataError, match="no such file"):
        read_image(tmp_path / "no" / "where.png")


@pytest.mark.parametrize(
    "bad,words",
    [
        (np.zeros((3, 20, 30), np.uint8), "transpose"),
        (np.zeros((5, 5, 2), np.uint8), "not \\(5, 5, 2\\)"),
        (np.zeros(5), "not \\(5,\\)"),
        (np.zeros((0, 5, 3), np.uint8), "not \\(0, 5, 3\\)"),
        (np.full((2, 2), np.nan), "not finite"),
        (np.full((2, 2), -0.5), "range"),
        (np.full((2, 2), 300), "range"),
        (np.full((2, 2), 128.0), "0..1"),
        (np.array([["a"]]), "range"),
        (None, "an image is an array"),
    ],
)
def test_wrong_arrays(bad, words):
    with pytest.raises(DataError, match=words):
        read_image(bad, name="seven.npy")


def test_names_in_errors():
    for bad in (b"words", np.zeros(3)):
        with pytest.raises(DataError, match="^seven: "):
            read_image(bad, name="seven")
    with pytest.raises(DataError, match="^b.png: "):
        CLIPImages()([np.zeros((2, 2)), b"words"], names=["a.png", "b.png"])


# ---- large ones


def test_large_jpegs_are_read_smaller():
    image = picture(400, 240)
    full = read_image(stored(image, "JPEG", quality=95))
    for limit, k in ((400 * 240, 1), (400 * 240 - 1, 2), (25_000, 2), (6_000, 4), (1_500, 8)):
        got = read_image(stored(image, "JPEG", quality=95), max_pixels=limit)
        assert got.shape == (240 // k, 400 // k, 3)
        small = np.asarray(Image.fromarray(full).resize((400 // k, 240 // k), Image.Resampling.BOX)).astype(int)
        assert np.abs(got - small).mean() < 2
    with pytest.raises(DataError, match="limit"):
        read_image(stored(image, "JPEG"), max_pixels=1_000)


def test_one_pixel_and_a_strip():
    assert CLIPImages().look(np.full((1, 1, 3), 9, np.uint8)).shape == (224, 224, 3)
    assert (CLIPImages().look(np.full((1, 1, 3), 9, np.uint8)) == 9).all()
    assert CLIPImages().look(np.full((1, 100_000, 3), 7, np.uint8)).shape == (224, 224, 3)


# ---- the same numbers as transformers


@pytest.fixture(scope="module")
def oracle():
    pytest.importorskip("transformers")
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    return CLIPImageProcessorPil


SIZES = [(224, 224), (640, 480), (333, 500), (100, 37), (1, 1), (223, 225), (500, 130), (31, 700)]


@pytest.mark.parametrize("size", SIZES)
def test_equal_to_transformers(oracle, size):
    image = Image.fromarray(np.random.default_rng(size[0]).integers(0, 256, (*size[::-1], 3), dtype=np.uint8))
    theirs = oracle()(image, return_tensors="np")["pixel_values"]
    ours = CLIPImages()([image])
    assert ours.dtype == np.float32 and ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() < 1e-5


def test_short_way_for_strips(monkeypatch):
    image = picture(900, 30)
    whole = CLIPImages(60, 60).look(image)
    monkeypatch.setattr(module, "_WHOLE", 0)
    assert gap(CLIPImages(60, 60).look(image), whole) <= 1
    assert gap(CLIPImages(40, 61).look(image), CLIPImages(40, 61).look(image)) == 0


@pytest.mark.parametrize("mode", ["L", "RGBA", "LA", "P", "CMYK", "1"])
def test_other_modes_equal_transformers(oracle, mode):
    image = picture(90, 70).convert("RGBA" if mode in ("LA", "RGBA") else "RGB")
    if mode in ("LA", "RGBA"):
        image.putalpha(Image.linear_gradient("L").resize(image.size))
    image = image.convert(mode)
    theirs = oracle(size={"shortest_edge": 40}, crop_size=40)(image, return_tensors="np")["pixel_values"]
    assert np.abs(CLIPImages(40, 40)([image]) - theirs).max() < 1e-5


@pytest.mark.parametrize(
    "changes",
    [
        {"size": {"shortest_edge": 50}, "crop_size": {"height": 40, "width": 40}},
        {"size": 30, "crop_size": 41},
        {"size": {"height": 33, "width": 33}, "do_center_crop": False},
        {"resample": 2},
        {"do_normalize": False},
        {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.2, 0.3, 0.4]},
    ],
)
def test_settings_both_ways(oracle, changes, tmp_path):
    theirs = oracle(**changes)
    theirs.save_pretrained(tmp_path / "a")
    ours = CLIPImages.load(tmp_path / "a")
    image = picture(91, 64)
    expected = theirs(image, return_tensors="np")["pixel_values"]
    assert np.abs(ours([image]) - expected).max() < 1e-5
    ours.save(tmp_path / "b")
    assert CLIPImages.load(tmp_path / "b") == ours
    back = oracle.from_pretrained(tmp_path / "b")
    assert np.abs(back(image, return_tensors="np")["pixel_values"] - expected).max() < 1e-5


def test_old_spelling_and_new_place(tmp_path):
    old = {"feature_extractor_type": "CLIPFeatureExtractor", "size": 336, "crop_size": 336, "resample": 3, "do_normalize": True}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(old | {"image_mean": CLIP_MEAN, "image_std": CLIP_STD}))
    assert CLIPImages.load(tmp_path) == CLIPImages(336, 336)
    (tmp_path / "preprocessor_config.json").unlink()
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": old, "processor_class": "CLIPProcessor"}))
    assert CLIPImages.load(tmp_path) == CLIPImages(336, 336)


@pytest.mark.parametrize(
    "text,words",
    [
        ("{", "damaged"),
        ("[]", "not an object"),
        ('{"do_resize": false}', "do_resize"),
        ('{"rescale_factor": 1}', "rescale_factor"),
        ('{"size": {"height": 2, "width": 3}}', "not a square"),
        ('{"size": {"longest_edge": 2}}', "height"),
        ('{"resample": 9}', "9"),
        ('{"image_std": [0, 1, 1]}', "deviations"),
        ('{"do_center_crop": false}', "centre crop"),
        ('{"size": "big"}', "not understood"),
        ('{"image_mean": 3}', "not understood"),
    ],
)
def test_bad_settings(text, words, tmp_path):
    (tmp_path / "preprocessor_config.json").write_text(text)
    with pytest.raises(ModelFormatError, match=words) as error:
        CLIPImages.load(tmp_path)
    assert "preprocessor_config.json" in str(error.value)


def test_shapes_are_balanced_and_held_out():
    d = draw_shapes(6000, held_out=None, size=8)
    assert len(d) == 6000 and len(np.unique(d.scene)) == 180 == len(all_captions())
    share = is_held_out(d.colour, d.shape).mean()
    assert abs(share - 1 / 6) < 0.02
    words = [list(x) for x in (COLOURS, SHAPES, PLACES)]
    for i in range(0, 6000, 500):
        assert all(w[n] in d.captions[i] for w, n in zip(words, (d.colour[i], d.shape[i], d.place[i]), strict=True))
