"""Overrides of the second stage's settings: TOML values of the right type, or one clear error."""

import pytest

from segkit.errors import InputError
from segkit.zeroshot.settings import ZeroShotSettings


@pytest.mark.parametrize(
    "override",
    ["seed=2020-01-01", "mmd=inf", "mmd=nan", "bandwidths=[inf]", "bandwidths=[0.0]", "seed=-1"],
)
def test_values_that_are_no_setting_are_refused(override: str) -> None:
    with pytest.raises(InputError):
        ZeroShotSettings.from_overrides([override])


def test_values_are_toml() -> None:
    settings = ZeroShotSettings.from_overrides(["bandwidths=[0.5, 2.0]", "generator=mlp"])
    assert (settings.bandwidths, settings.generator) == ((0.5, 2.0), "mlp")
