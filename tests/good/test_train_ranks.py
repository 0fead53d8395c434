"""Many processes train what one trains: equal but for rounding, dense, with experts, hybrid, however sharded."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from cdrmix.diagnose import UserError
from cdrmix.train.ranks import Ranks
from cdrmix.train.shard import Mesh
from tests.ranks import CASES


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, float]]]:
    """What `tests.ranks` said of each case."""
    command = [sys.executable, "-m", "tests.ranks", str(tmp_path_factory.mktemp("ranks"))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return {name: [line for line in lines if line["case"] == name] for name in CASES}


@pytest.mark.parametrize("name", CASES)
def test_many_processes_train_as_one(found: dict[str, list[dict[str, float]]], name: str) -> None:
    assert [line["ranks"] for line in found[name]] == list(CASES[name].sizes)
    for line in found[name]:
        assert line["losses"] <= CASES[name].within and line["weights"] <= CASES[name].within, line


def test_a_mesh_is_the_processes() -> None:
    assert Mesh.of(8, 2, None) == Mesh(2, 4) and Mesh.of(6, 1, 6) == Mesh(1, 6)
    for ranks, replicate, shard in ((8, 3, None), (8, 2, 2), (1, 1, 4)):
        with pytest.raises(UserError, match=f"there are {ranks} processes"):
            Mesh.of(ranks, replicate, shard)


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_each_row_of_a_part_is_of_one_rank(parts: int, size: int) -> None:
    rows = [[*range(24)[r]] for rank in range(size) for r in Ranks(rank, size).rows(24, parts)]
    assert sorted(sum(rows, [])) == [*range(24)]
    of_part = 24 // parts
    assert all(len({row // of_part for row in stretch}) == 1 and len(stretch) == of_part // size for stretch in rows)
