"""A deployment's contract with nothing configured, for a model of 512x512."""

import pytest

from sdworker.request import Contract
from sdworker.settings import Settings


@pytest.fixture
def contract(monkeypatch: pytest.MonkeyPatch) -> Contract:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    return Contract(Settings(), (512, 512))
