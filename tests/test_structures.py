"""Structures: briefs that cannot be answered, designs that are none, and files that other programs open."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from aimt.core.errors import DataError, ProblemError
from aimt.models.design.bracket import Box, enclosed, surface, wall_bracket
from aimt.data.design.design_files import crosses_itself, extrude, signed_area, trace, write_outlines, write_stl
from aimt.data.design.plane_stress import Grid, PlaneStress
from aimt.data.design.structure_check import certify, draw_shape, shape_region
from aimt.data.design.structure_examples import StructureSet, make_structures, random_brief
from aimt.data.design.topology_optimisation import Simp
from aimt.models.design.structure import StructureProblem

PROBLEM = StructureProblem(16, 8, settings=Simp(iterations=12))
GOOD = {"loads": "1,0.5,-90", "supports": "left", "volume": 0.45}
BAD = {  # What is wrong with a brief -> changes, and what is said
    "volume 0": ({"volume": 0}, "leaves nothing"),
    "volume 1": ({"volume": 1}, "no void"),
    "volume of text": ({"volume": "half"}, "must be numbers"),
    "volume not a number": ({"volume": "nan"}, "finite"),
    "too little volume": ({"volume": 0.04}, "cells from the nearest support"),
    "no loads": ({"loads": ""}, "no loads"),
    "no supports": ({"supports": []}, "no supports"),
    "a load on nothing": ({"void": "0.8,0.2,1,0.8"}, "acts on nothing"),
    "a load outside": ({"loads": "2,0.5,-90"}, "outside"),
    "a load on a support": ({"loads": "0,0.5,-90"}, "acts on a support"),
    "a load of no force": ({"loads": "1,0.5,-90,0"}, "pulls nowhere"),
    "a mechanism: one hinge": ({"supports": "bottom-left"}, "mechanism"),
    "a mechanism: rollers": ({"supports": "bottom,y"}, "mechanism"),
    "a void that cuts all paths": ({"void": "0.4,0,0.6,1"}, "cuts the load"),
    "void and solid": ({"void": "0.3,0.3,0.5,0.5", "solid": "0.4,0.4,0.6,0.6"}, "both void and solid"),
    "more solid than volume": ({"solid": "0.2,0,1,0.9"}, "contradicts the areas"),
    "less room than volume": ({"void": "0,0.55,1,1", "volume": 0.7}, "contradicts the areas"),
    "an empty area": ({"void": "0.6,0,0.4,1"}, "empty or outside"),
    "a stiffness above the full plate": ({"compliance": 0.5}, "cannot be reached"),
    "a negative stress": ({"stress": -5}, "positive"),
    "a negative thickness": ({"thickness_mm": -1}, "positive"),
    "an unknown wish": ({"weight": 3}, "unknown wish 'weight'"),
    "an unknown edge": ({"supports": "lefft"}, "Did you mean 'left'"),
    "HTML": ({"supports": "<script>alert(1)</script>"}, "unknown support"),
    "a field too many": ({"loads": [{"x": 1, "y": 0.5, "angle": -90, "mass": 1}]}, "unknown field 'mass'"),
    "a field too few": ({"loads": [{"x": 1}]}, "lacks a field"),
    "a number in place of loads": ({"loads": 7}, "neither a text nor an object"),
}


@pytest.mark.parametrize("case", BAD)
def test_briefs_that_no_structure_answers(case: str) -> None:
    changes, said = BAD[case]
    with pytest.raises(ProblemError, match="(?i)" + said.replace("(", r"\(")):
        PROBLEM.brief({**GOOD, **changes})


def test_a_brief_survives_json() -> None:
    brief = PROBLEM.brief({**GOOD, "void": "disc,0.5,0.5,0.2; 0,0.9,0.2,1", "stress": "80", "loads": "1,0.5,-90;0.5,1,-45,200,2"})
    assert PROBLEM.brief(json.loads(json.dumps(PROBLEM.to_dict(brief)))) == brief


@pytest.fixture(scope="module")
def answered() -> tuple[list, np.ndarray]:
    briefs, x = make_structures(StructureSet(10, 3, 16, 8, Simp(iterations=25)))
    sound = np.flatnonzero(PROBLEM.judge(x, briefs).sound)[:4]  # so coarse a grid draws some thin bars as broken
    assert len(sound) == 4
    return [briefs[k] for k in sound], x[sound]


def test_the_volume_is_exact_whatever_a_network_makes(answered: tuple[list, np.ndarray]) -> None:
    import torch

    briefs, _ = answered
    for made in (torch.randn(4, 1, 8, 16), torch.full((4, 1, 8, 16), 1e6), torch.full((4, 1, 8, 16), float("nan"))):
        volume = PROBLEM.densities(PROBLEM.decode(made, briefs), briefs).mean((1, 2))
        np.testing.assert_allclose(volume, [b.volume for b in briefs], rtol=1e-3)


@pytest.mark.parametrize("ruin", [lambda x: x * np.nan, lambda x: x * 0, lambda x: x[:, :3], lambda x: x + np.inf, lambda x: 0 * x + 1])
def test_the_judge_faults_what_is_no_design(ruin, answered: tuple[list, np.ndarray]) -> None:
    briefs, x = answered
    judged = PROBLEM.judge(ruin(x), briefs)
    assert not judged.met.any() and all(judged.faults) and len(judged) == 4


def test_the_mirror_image_is_judged_alike(answered: tuple[list, np.ndarray]) -> None:
    briefs, x = answered
    own = PROBLEM.judge(x, briefs)
    other = PROBLEM.judge(x[:, ::-1, ::-1], [b.mirrored(True, True) for b in briefs])
    for name in ("compliance", "drawn_compliance", "stress"):
        np.testing.assert_allclose(other.measures[name], own.measures[name], rtol=1e-5)


def test_polish_lowers_the_compliance_of_noise(answered: tuple[list, np.ndarray]) -> None:
    import torch

    briefs, _ = answered
    raw = PROBLEM.decode(torch.randn(4, 1, 8, 16, generator=torch.Generator().manual_seed(0)), briefs)
    polished, solves = PROBLEM.polish(raw, briefs, 4)
    assert (PROBLEM.judge(polished, briefs).cost < PROBLEM.judge(raw, briefs).cost).all() and solves == 20


def test_files_are_opened_by_other_programs(tmp_path: Path, answered: tuple[list, np.ndarray]) -> None:
    ezdxf, svgelements, trimesh = (pytest.importorskip(name) for name in ("ezdxf", "svgelements", "trimesh"))
    briefs, x = answered
    for brief, design in zip(briefs, x, strict=True):
        for ending in PROBLEM.formats:
            PROBLEM.write(design, brief, tmp_path / f"part{ending}")
        solid = trimesh.load_mesh(tmp_path / "part.stl")
        drawing = ezdxf.readfile(tmp_path / "part.dxf")
        assert solid.is_watertight and solid.is_winding_consistent and not drawing.audit().errors
        flat = [np.array([p[:2] for p in line.get_points("xy")]) for line in drawing.modelspace()]
        area = sum(map(signed_area, flat))
        assert solid.volume == pytest.approx(area * brief.thickness_mm, rel=1e-3)
        assert area == pytest.approx(brief.volume * brief.width_mm**2 / 2, rel=0.06)  # coarse: 16 x 8 cells
        assert not any(crosses_itself(o) for o in flat)
        outline = next(svgelements.SVG.parse(tmp_path / "part.svg", ppi=25.4).elements(lambda e: isinstance(e, svgelements.Path)))
        low, high = np.concatenate(flat).min(0), np.concatenate(flat).max(0)
        left, top, right, bottom = outline.bbox()
        np.testing.assert_allclose([right - left, bottom - top], high - low, rtol=1e-3)


def test_loose_pieces_are_not_written() -> None:
    brief = PROBLEM.brief(GOOD)
    solver, x = PROBLEM.solver(brief), PROBLEM.optimise(brief, calls=12)
    noise = gaussian_filter(np.random.default_rng(3).normal(size=x.shape[1:]), 0.7)
    density = solver.density(PROBLEM.decode(PROBLEM.encode(np.clip(x + 0.45 * noise, 0, 1), [brief]), [brief])[0])
    assert not certify(solver, brief, density).faults
    drawn = draw_shape(density)
    assert len(np.unique(trace(density, level=drawn.level).parts())) > 1, "there is a loose piece"
    region = shape_region(solver, brief, density)
    assert len(np.unique(region.parts())) == 1 and len(region.triangles)
    assert sum(map(signed_area, region.outlines())) == pytest.approx(certify(solver, brief, density).volume * 5000, rel=0.06)


def test_polish_connects_every_load() -> None:
    brief = PROBLEM.brief(GOOD)
    x = PROBLEM.optimise(brief, calls=12)
    x[0, :, 8:10] = 0  # a gap
    assert any("not connected" in f for f in PROBLEM.judge(x, [brief]).faults[0])
    polished, calls = PROBLEM.polish(x, [brief], 0)
    assert not any("load at" in f for f in PROBLEM.judge(polished, [brief]).faults[0]) and calls == 1


@pytest.mark.parametrize(
    ("outlines", "unit", "name", "said"),
    [
        ([np.zeros((1, 2))], "mm", "a.svg", "two finite points"),
        ([np.zeros((4, 3))], "mm", "a.svg", "two finite points"),
        ([np.array([[0, 0], [np.inf, 1]])], "mm", "a.dxf", "two finite points"),
        ([], "mm", "a.svg", "no outlines"),
        ([np.eye(2)], "furlong", "a.svg", "unknown unit"),
        ([np.eye(2)], "mm", "a.step", ".svg and .dxf"),
    ],
)
def test_outlines_that_cannot_be_written(tmp_path: Path, outlines, unit, name, said) -> None:
    with pytest.raises((DataError, ProblemError), match=said):
        write_outlines(tmp_path / name, outlines, unit)
    assert not list(tmp_path.iterdir())


def test_titles_and_layers_are_text(tmp_path: Path) -> None:
    svgelements, ezdxf = pytest.importorskip("svgelements"), pytest.importorskip("ezdxf")
    hostile = '"><script>alert(1)</script>\n0\nEOF'
    for name in ("a.svg", "a.dxf"):
        write_outlines(tmp_path / name, {hostile: [np.array([[0, 0], [1, 0], [0, 1.0]])]}, title=hostile)
    assert "<script" not in (tmp_path / "a.svg").read_text() and len(list(svgelements.SVG.parse(tmp_path / "a.svg").elements())) >= 2
    assert len(ezdxf.readfile(tmp_path / "a.dxf").modelspace()) == 1


@pytest.mark.parametrize("seed", range(5))
def test_solids_of_noise_are_watertight(seed: int, tmp_path: Path) -> None:
    trimesh = pytest.importorskip("trimesh")
    write_stl(tmp_path / "noise.stl", extrude(trace(np.random.default_rng(seed).uniform(size=(11, 14)), cell=2.0), 3.0))
    solid = trimesh.load_mesh(tmp_path / "noise.stl")
    assert solid.is_watertight and solid.volume > 0


def test_a_negative_modulus_is_refused() -> None:
    grid = Grid(4, 3)
    plate = PlaneStress(grid, np.r_[2 * grid.nodes[:, 0], 2 * grid.nodes[:, 0] + 1])
    with pytest.raises(ProblemError, match="not positive"):
        plate.solve(np.full((3, 4), -1.0), np.ones((grid.n_dofs, 1)))


def test_random_briefs_can_be_answered_and_repeat() -> None:
    first, again = (random_brief(np.random.default_rng(8), 16, 8) for _ in range(2))
    assert first == again and PROBLEM.brief(PROBLEM.to_dict(first)) == first


@pytest.mark.parametrize("seed", range(3))
def test_surfaces_of_noise_are_watertight(seed: int, tmp_path: Path) -> None:
    trimesh = pytest.importorskip("trimesh")
    density = np.random.default_rng(seed).uniform(size=(6, 5, 4))
    write_stl(tmp_path / "noise.stl", surface(density))
    solid = trimesh.load_mesh(tmp_path / "noise.stl")
    assert solid.is_watertight and solid.is_winding_consistent and solid.volume == pytest.approx(enclosed(surface(density)), rel=1e-4)


@pytest.mark.parametrize("volume", [0.0, 1.0, float("nan")])
def test_a_bracket_of_no_volume_is_refused(volume: float) -> None:
    with pytest.raises(ProblemError, match="between 0 and 1"):
        wall_bracket(Box(4, 3, 3), volume)
