"""Wing sections: bad files and briefs with a message of their own, a judge that cannot judge, and a run from wishes to files."""

from pathlib import Path

import numpy as np
import pytest

from aimt.core.errors import AimtError, DataError, ProblemError
from aimt.data.design.airfoil_examples import load_catalogue, operating_points
from aimt.data.design.airfoil_files import normalise_outline, parse_foil, read_foil, read_foils, write_dat
from aimt.data.design.airfoil_judge import judge_foils, polar_faults
from aimt.data.design.cst import TAIL, cst_outline, fit_cst, foil_faults, naca4, with_thickness
from aimt.models.design.airfoil import AirfoilProblem, point_examples
from aimt.models.design.airfoil_brief import FoilBrief, from_coordinates, to_coordinates
from aimt.models.design.airfoil_search import METHODS, naca_0012, optimise_foil, polish_foils

NACA = normalise_outline(naca4("2412"))


def text(points: np.ndarray) -> str:
    return "name\n" + "\n".join(f"{x:.6f} {z:.6f}" for x, z in points)


def infinite() -> np.ndarray:
    points = NACA.copy()
    points[50, 0] = np.inf
    return points


def swapped() -> np.ndarray:
    points = NACA.copy()
    points[20:40, 1] *= -1
    return points


BAD_FILES = {
    "empty": ("", "0 points"),
    "words": ("a section\nthat is none\n", "0 points"),
    "few points": (text(NACA[::40]), "points, and"),
    "too many": (text(np.tile(NACA, (8, 1))), "points, and"),
    "twice around": (text(np.concatenate([NACA, NACA])), "go around once"),
    "crossing": (text(swapped()), "crosses itself"),
    "flat": (text(NACA * [1, 0]), "no thickness"),
    "one place": (text(np.ones((30, 2))), "one place"),
    "infinite": (text(infinite()), "not a number"),
    "random": (text(np.random.default_rng(0).uniform(size=(50, 2))), "go around once"),
    "binary": ("".join(map(chr, range(256))) * 4, "points, and"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_says_what_is_wrong(name: str) -> None:
    content, message = BAD_FILES[name]
    with pytest.raises(DataError, match=message) as caught:
        parse_foil(content, "foil.dat")
    assert "foil.dat" in str(caught.value)


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "good.dat").write_text(text(NACA))
    (tmp_path / "bad.dat").write_text("nothing")
    (tmp_path / "latin.dat").write_bytes("Göttingen\n".encode("latin-1") + text(NACA).encode())
    foils, refused = read_foils(tmp_path)
    assert [f.name for f in foils] == ["good", "latin"] and foils[1].title == "Göttingen"
    assert len(refused) == 1 and refused[0].startswith("bad.dat: it has 0 points")
    with pytest.raises(DataError, match="no wing section"):
        read_foils(tmp_path / "nowhere")


@pytest.mark.parametrize("scale, angle, shift, back", [(1, 0, 0, False), (153, 4, 10, True), (0.01, -7, -3, False), (1e6, 90, 1e6, True)])
def test_scale_place_angle_and_direction_do_not_matter(scale: float, angle: float, shift: float, back: bool, tmp_path: Path) -> None:
    a = np.radians(angle)
    moved = scale * NACA @ np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]]) + shift
    found = normalise_outline(moved[::-1] if back else moved)
    assert np.abs(found - NACA).max() < 1e-6
    again = read_foil(write_dat(found, tmp_path / "foil.dat", "a\nname\x1b"))
    assert np.abs(again.outline - NACA).max() < 1e-5


BAD_BRIEFS = {
    "nothing": ({}, "needs a wished lift"),
    "unknown": ({"lift": 1, "liftt": 1}, "Did you mean 'lift'"),
    "word": ({"lift": "high"}, "is no number"),
    "not a number": ({"lift": "nan"}, "is no number"),
    "infinite": ({"lift": 0.5, "reynolds": float("inf")}, "is no number"),
    "truth": ({"lift": True}, "is no number"),
    "list": ({"lift": [1]}, "is no number"),
    "unreachable lift": ({"lift": 5}, "out of reach"),
    "no lift": ({"lift": 0}, "out of reach"),
    "negative lift": ({"lift": -1}, "upside down"),
    "negative thickness": ({"lift": 0.5, "thickness": -0.1}, "thickness of -0.1"),
    "a ball": ({"lift": 0.5, "thickness": 1}, "thickness of 1"),
    "no drag": ({"lift": 0.5, "drag": 0}, "must be positive"),
    "less than a plate": ({"lift": 0.5, "drag": 0.002, "reynolds": 2e5}, "laminar plate"),
    "moment": ({"lift": 0.5, "moment": 3}, "out of reach"),
    "no speed": ({"lift": 0.5, "reynolds": 0}, "Reynolds number"),
}


@pytest.mark.parametrize("name", BAD_BRIEFS)
def test_a_bad_brief_says_what_is_wrong(name: str) -> None:
    given, message = BAD_BRIEFS[name]
    with pytest.raises(ProblemError, match=message):
        AirfoilProblem().brief(given)


@pytest.mark.parametrize("number", [np.nan, np.inf, 1e6, -1e6])
def test_the_judge_never_raises(number: float) -> None:
    problem, brief = AirfoilProblem(), FoilBrief(0.8, 0.01, -0.05, 0.12)
    good = np.append(fit_cst(NACA).numbers, 5.0)
    for place in range(19):
        bad = good.copy()
        bad[place] = number
        judged = problem.judge(np.stack([good, bad]), [brief] * 2)
        assert judged.faults[0] == () and judged.faults[1], place
        assert not judged.met[1] and np.isfinite(judged.cost[0])
    designs, calls = problem.polish(np.stack([good, bad]), [brief] * 2, 3)
    assert designs.shape == (2, 19) and calls >= 2


def test_rules_are_named() -> None:
    w = fit_cst(NACA).numbers
    crossing, tail = w.copy(), w.copy()
    crossing[4:8] = -0.3
    tail[TAIL] = -0.02
    found = foil_faults(np.stack([w, crossing, tail, with_thickness(w, np.array([0.004]))[0], with_thickness(w, np.array([0.9]))[0]]))
    for faults, part in zip(found, ("", "crosses itself", "trailing edge", "thinner", "thicker"), strict=True):
        assert part in " ".join(faults) and bool(faults) == bool(part)
    assert "does not know such a flow" in polar_faults(w[None], judge_foils(w, 40.0, 1e6))[0][-1]


@pytest.mark.parametrize("asked", [(), ("moment",), ("thickness", "drag"), ("drag", "moment", "thickness")])
def test_coordinates_lose_nothing(asked: tuple[str, ...]) -> None:
    points = operating_points(load_catalogue(every=40), 40, seed=1)
    briefs = point_examples(points).briefs
    briefs = [FoilBrief(b.lift, **{k: getattr(b, k) for k in asked}, reynolds=b.reynolds) for b in briefs]
    designs = np.c_[points.foils, points.angle]
    assert np.abs(from_coordinates(to_coordinates(designs, briefs), briefs) - designs).max() < 1e-9


@pytest.mark.parametrize("method", METHODS)
def test_searches_count_their_calls(method: str) -> None:
    easy = optimise_foil(FoilBrief(0.5, thickness=0.12), calls=2000, method=method, seed=1)
    assert easy.met_after is not None and easy.met_after <= easy.calls
    impossible = optimise_foil(FoilBrief(1.5, drag=0.005, thickness=0.3, reynolds=2e5), calls=200, method=method, seed=1)
    assert impossible.met_after is None and 200 <= impossible.calls < 260 and impossible.miss > 1


def test_corrections_never_make_it_worse_and_are_counted() -> None:
    briefs = [FoilBrief(c, 0.012, m) for c in (0.3, 0.8, 1.2) for m in (-0.1, -0.02)]
    start = np.concatenate([naca_0012(b) for b in briefs])
    before = AirfoilProblem().judge(start, briefs)
    one, many = (polish_foils(start, briefs, steps) for steps in (1, 10))
    assert (many.judged.worst_miss <= before.worst_miss).all() and (one.calls >= 1).all()
    assert many.judged.met.sum() >= 4 > before.met.sum()
    again = polish_foils(start, briefs, 10)
    assert (again.designs == many.designs).all() and (again.calls == many.calls).all()


@pytest.mark.parametrize("ending", AirfoilProblem.formats)
def test_other_programs_open_the_files(ending: str, tmp_path: Path) -> None:
    ezdxf, svg = pytest.importorskip("ezdxf"), pytest.importorskip("svgelements")
    design, path = np.append(fit_cst(NACA).numbers, 4.0), tmp_path / f"foil{ending}"
    AirfoilProblem().write(design, FoilBrief(0.7), path)
    outline = cst_outline(design[:18], 101)
    if ending == ".dat":
        aerosandbox = pytest.importorskip("aerosandbox")
        found = aerosandbox.Airfoil("foil", coordinates=str(path)).coordinates
    elif ending == ".dxf":
        document = ezdxf.readfile(path)
        assert not document.audit().errors
        found = np.array([p[:2] for p in document.modelspace().query("LWPOLYLINE")[0].get_points()]) / 100
    else:
        shape = next(e for e in svg.SVG.parse(path, ppi=25.4).elements() if isinstance(e, svg.Path))
        found = np.array([(p.end.x, -p.end.y) for p in shape if p.end is not None])[: len(outline)] / 100
        found += outline[0] - found[0]
    assert np.abs(found - outline).max() < 2e-5


def test_from_wishes_to_certified_files(tmp_path: Path) -> None:
    from aimt.jobs.verbs.generate import generate
    from aimt.jobs.verbs.train import train

    run = train("airfoils", steps=20, examples=300, size="tiny", out=tmp_path / "run", quiet=True)
    made = generate(run, want="lift=0.7,thickness=0.12", n=2, out=tmp_path / "foils")
    assert len(made.samples) == 2 and all(c.certified for c in made.samples.certificates)
    dats = sorted((tmp_path / "foils").rglob("*.dat"))
    assert len(dats) == 2 and max(read_foil(d).outline[:, 1].max() for d in dats) < 0.15
    with pytest.raises(AimtError, match="out of reach"):
        generate(run, want="lift=9", n=2)
