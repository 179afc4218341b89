"""Parameters of the images stage."""

import pytest

from schemas.images import ImagesConfig


@pytest.mark.parametrize("policy", ["max-1", "max-0", "max-", "all", "max-2.5", ""])
def test_other_policies_are_refused(policy: str) -> None:
    with pytest.raises(ValueError, match="pictures"):
        ImagesConfig(pictures=policy)
