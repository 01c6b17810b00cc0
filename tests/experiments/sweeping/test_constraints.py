"""The files of constraints say the same but for what they are there for."""

from pathlib import Path

ROOT = Path(__file__).parents[3]


def pins(name: str) -> dict[str, str]:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    pairs = [line.partition("==") for line in lines if not line.startswith("#")]
    return {package: version for package, _, version in pairs}


def test_rays_differ_in_joblib_alone() -> None:
    ours, rays = pins("constraints.txt"), pins("constraints-ray.txt")
    assert {name for name, version in ours.items() if rays.get(name) != version} == {"joblib"}
    assert rays.keys() - ours.keys() == {"hydra-ray-launcher", "ray", "cloudpickle"}


def test_optunas_stand_beside_the_others() -> None:
    assert not pins("constraints.txt").keys() & pins("constraints-optuna.txt").keys()
