"""img2dataset: `download_img2dataset.py OUTPUT URLS SIDE QUALITY` prints how many pictures arrived, in its own venv."""

import json
import os
import sys
from pathlib import Path

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"

from img2dataset import download  # type: ignore[import-not-found]  # installed for the peer alone

if __name__ == "__main__":
    output, urls, side, quality = sys.argv[1:]
    download(
        url_list=urls,
        input_format="txt",
        output_folder=output,
        output_format="parquet",
        processes_count=os.cpu_count() or 1,
        thread_count=32,
        image_size=int(side),
        resize_mode="keep_ratio_largest",
        resize_only_if_bigger=True,
        encode_format="jpg",
        encode_quality=int(quality),
        compute_hash="sha256",
        number_sample_per_shard=1000,
        enable_wandb=False,
    )
    reports = [json.loads(path.read_text()) for path in Path(output).glob("*_stats.json")]
    for report in reports:
        print(report, file=sys.stderr)
    print(sum(report["successes"] for report in reports))
