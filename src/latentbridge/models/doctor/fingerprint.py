"""Fingerprints of a release: numbers that it computes from a fixed text and picture, to compare copies and machines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from latentbridge.errors import UserError
from latentbridge.files import read_json
from latentbridge.models.backbones.loading import load_release
from latentbridge.models.checkpoint import as_trainable, fingerprint
from latentbridge.models.doctor.checks import Check

_TEXT = "a red circle left of a blue square"
_SIDE_PX = 64
_NUMBERS = 32
"""Numbers of a latent that are kept."""
_TOLERANCE = 0.02
"""Largest difference of copies in bfloat16 on other machines, relative to the largest number."""


def take_fingerprint(folder: Path) -> dict[str, Any]:
    """Load a release and return its fingerprint: a hash of its weights, and states of a fixed text and picture."""
    model = load_release(folder)
    if model is None:
        raise UserError(f"{folder} holds no release; give a folder that latentbridge doctor knows.")
    model = as_trainable(model)
    levels = np.arange(_SIDE_PX * _SIDE_PX * 3) * 7 % 256
    picture = levels.reshape(_SIDE_PX, _SIDE_PX, 3).astype(np.uint8)
    with torch.no_grad():
        states = {"text": model.und_latent([_TEXT]), "picture": model.und_latent([picture])}
    numbers = {name: [round(value, 5) for value in each[0, :_NUMBERS].tolist()] for name, each in states.items()}
    return {"weights": fingerprint(model), "states": numbers}


def compare_fingerprint(folder: Path, recorded: Path) -> list[Check]:
    """Return whether a folder has the weights and computes the states of a recorded fingerprint."""
    theirs, ours = read_json(recorded), take_fingerprint(folder)
    if not isinstance(theirs, dict) or theirs.keys() != ours.keys():
        raise UserError(f"{recorded} holds no fingerprint; write one with latentbridge doctor FOLDER --record.")
    same = theirs["weights"] == ours["weights"]
    checks = [
        Check("ok", "fingerprint", "the weights are the recorded ones, bit for bit")
        if same
        else Check("wrong", "fingerprint", "the weights are not the recorded ones")
    ]
    for name, states in ours["states"].items():
        expected = np.array(theirs["states"].get(name, ()))
        if expected.shape != np.shape(states):
            checks.append(Check("wrong", "fingerprint", f"the states of the {name} have another size"))
            continue
        difference = float(np.abs(np.array(states) - expected).max() / np.abs(expected).max())
        status = "ok" if difference <= _TOLERANCE else "wrong"
        checks.append(Check(status, "fingerprint", f"states of the {name} differ by {difference:.1e} of the largest"))
    return checks
