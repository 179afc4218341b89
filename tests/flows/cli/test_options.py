"""What several commands share: the store that they open."""

from pathlib import Path

import pytest

from tests.support.command_line import cm3_process


@pytest.mark.slow
def test_a_remote_store_that_does_not_answer_is_said_in_one_paragraph(tmp_path: Path) -> None:
    answer = cm3_process(
        "show",
        "demo",
        "--store",
        "s3://nowhere/x",
        store=tmp_path,
        AWS_ENDPOINT_URL="http://127.0.0.1:9",
        AWS_ACCESS_KEY_ID="nobody",
        AWS_SECRET_ACCESS_KEY="nothing",
        AWS_MAX_ATTEMPTS="1",
    )
    assert answer.returncode == 1
    assert "s3://nowhere/x cannot be reached" in answer.stderr
    assert "Traceback" not in answer.stderr
