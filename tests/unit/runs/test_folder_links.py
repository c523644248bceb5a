"""A run folder with links that lead out of it is neither continued nor replaced."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from kdlab.errors import UserError
from kdlab.runs import folders

RESOLVED = {"name": "x", "seed": 1}


def unfinished(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(RESOLVED))
    (folder / "result.json").write_text(json.dumps({"status": "running"}))
    return folder


def test_a_link_inside_the_folder_is_fine(tmp_path: Path) -> None:
    run = unfinished(tmp_path / "run")
    (run / "wandb").mkdir()
    (run / "wandb" / "latest-run").symlink_to("../wandb")
    assert folders.choose(RESOLVED, run, True, False, True) == (run, True)


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("what", ["student", "checkpoints/deep", "run itself"])
def test_a_link_that_leads_out_is_refused(what: str, overwrite: bool, tmp_path: Path) -> None:
    run = unfinished(tmp_path / "outputs" / "run")
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("do not lose")
    if what == "run itself":
        run = run.rename(mine / "run")
        (tmp_path / "outputs" / "run").symlink_to(run)
    else:
        (run / what).parent.mkdir(exist_ok=True)
        (run / what).symlink_to(mine)
    with pytest.raises(UserError, match="is a link"):
        folders.choose(RESOLVED, tmp_path / "outputs" / "run", True, overwrite, True)
    if what != "run itself":
        new = tmp_path / "outputs" / "new"
        assert folders.choose(RESOLVED, new, False, False, True) == (new, False)  # and it is not gone on with unasked
    assert (mine / "thesis.txt").read_text() == "do not lose"
