"""Parameters of the HTML report."""

from pydantic import BaseModel, ConfigDict, Field


class ReportConfig(BaseModel):
    """How much a report shows. Every picture is part of the file, so these settings decide its size."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_items: int = Field(2000, ge=1, description="items in the gallery and the map, of more than that a sample")
    max_bytes: int = Field(
        4_900_000,
        ge=500_000,
        description="size of the file at most, bytes; pictures are made smaller until it fits, down to 48 pixels",
    )
    thumbnail: int = Field(160, ge=48, le=256, description="longest side of a picture, pixels")
    neighbors: int = Field(6, ge=1, le=24, description="neighbours shown per item and modality")
    captions: int = Field(18, ge=0, description="captions shown with their pictures")
    users: int = Field(6, ge=0, le=50, description="users shown with their history and recommendations")
    history: int = Field(12, ge=1, description="latest choices shown per user")
    recommendations: int = Field(10, ge=1, description="top recommendations shown per user")
    model: str = Field("cm3", description="the trained model's name in the metrics table")
    baseline: str = Field("popularity", description="the model that the trained one is compared with")
    cutoff: int = Field(20, ge=1, description="K of the metrics in the summary and of cold items")
    seed: int = Field(
        0, ge=0, description="selects the items, users and captions shown, and initialises the map's projection"
    )
