"""Parameters of the demo's drawn catalogue."""

from pydantic import BaseModel, ConfigDict, Field


class DemoConfig(BaseModel):
    """Size of the drawn catalogue, and how much of it is missing. Equal configs give equal bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = Field(7, ge=0, description="seed of items, pictures, tastes and choices")
    items: int = Field(
        300, ge=40, le=400, description="different products; some have defects, others are repeated or have no id"
    )
    users: int = Field(600, ge=20, description="number of users")
    choices: int = Field(9, ge=5, description="mean number of choices per user, never fewer than 5")
    picture_size: int = Field(192, ge=64, le=1024, description="width and height of a picture, pixels")
    jpeg_quality: int = Field(88, ge=30, le=95, description="Pillow's JPEG quality, 30 to 95")
    colour_unsaid: float = Field(0.6, ge=0, le=1, description="share of titles that do not name the colour")
    pattern_unsaid: float = Field(0.5, ge=0, le=1, description="share of titles that do not name the pattern")
    kind_unsaid: float = Field(0.1, ge=0, le=1, description="share of titles that are a name alone, as 'Alma No. 4'")
    description_absent: float = Field(0.25, ge=0, le=1, description="share of items without a description")
    brand_absent: float = Field(0.08, ge=0, le=1, description="share of items without a brand")
    price_absent: float = Field(0.05, ge=0, le=1, description="share of items without a price")
    picture_absent: float = Field(0.05, ge=0, le=0.5, description="share of items without a picture")
